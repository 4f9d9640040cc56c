"""The command line of the benchmark."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import normlib
from normlib import backends
from normlib._progress import Progress
from normlib.bench import limit, peers, report, runner, tune
from normlib.bench.cases import DTYPES, FAMILIES, cases
from normlib.bench.machine import machine
from normlib.bench.peers import build

__all__ = ["main"]


def _list_of(allowed):
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(",") if name)
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
        return names

    return parse


def _threads(text: str) -> tuple[int, ...]:
    for number in text.split(","):
        if not number.isdecimal() or not 1 <= int(number) <= 4096:
            raise argparse.ArgumentTypeError(f"{number!r} is no whole number from 1 to 4096")
    return tuple(int(number) for number in text.split(","))


def _file(text: str) -> Path:
    """A file that can be written when the measurement is over."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder, expected a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r} to write {path.name!r} to")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} may not be written")
    return path


def _picture(text: str) -> Path:
    path = _file(text)
    try:
        from normlib.bench.plot import formats

        known = formats()
    except ImportError:
        raise argparse.ArgumentTypeError("a picture needs matplotlib: pip install matplotlib") from None
    if path.suffix.removeprefix(".").lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} ends in none of {', '.join(known)}")
    return path


def _stored(text: str) -> tuple[list[runner.Result], dict]:
    """What a run has written with --json."""
    try:
        with open(text, encoding="utf-8") as file:
            return report.from_json(json.load(file))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no run of normlib bench --json: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="normlib bench",
        description="Time every pass over shapes of real models, beside a copy of as many bytes (the limit) and "
        "beside the peers that are installed.",
    )
    parser.add_argument("--quick", action="store_true", help="a few small cases, under a minute")
    parser.add_argument(
        "--family",
        choices=FAMILIES,
        default="plain",
        help="bare norms, or fused with what stands around them in models (default: plain)",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="WORDS",
        help='cases whose names hold all these words, e.g. "batch_norm backward"; several sets separated by commas',
    )
    parser.add_argument(
        "--threads",
        type=_threads,
        default=(),
        metavar="N",
        help="for the limit, ours and the peers alike; with --model several, separated by commas (default: 1,2)",
    )
    parser.add_argument(
        "--dtype",
        type=_list_of(DTYPES),
        default=(),
        metavar="NAMES",
        help=f"all shapes in these dtypes ({', '.join(DTYPES)})",
    )
    parser.add_argument(
        "--peers",
        type=_list_of((*peers.PEERS, "none")),
        metavar="NAMES",
        help=f"which of {', '.join(peers.PEERS)}, or none; by default all that are installed but torch.compile",
    )
    parser.add_argument("--beside", metavar="DIRECTORY", help="a peer more: the build of normlib in this directory")
    _add_files(parser)
    parser.add_argument(
        "--tune", action="store_true", help="measure caches and threads instead: do the thresholds fit this machine?"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases, measure nothing")
    parser.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="measure a model in torch instead, with its norms and with ours: the function returns (model, inputs), "
        "where inputs are a tuple, or a dictionary by name",
    )
    parser.add_argument("--compile", action="store_true", help="the model of --model under torch.compile")
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=_file, metavar="FILE", help="write everything measured")
    parser.add_argument("--html", type=_file, metavar="FILE", help="write a page for people: tables and pictures")
    parser.add_argument(
        "--plot", type=_picture, metavar="FILE", help="draw bytes against the share of the limit (needs matplotlib)"
    )
    parser.add_argument(
        "--from",
        type=_stored,
        dest="stored",
        metavar="FILE",
        help="measure nothing: table, page and picture of a run that --json has written",
    )


def _refuse(parser: argparse.ArgumentParser, options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    for name in names:
        if getattr(options, name) != parser.get_default(name):
            parser.error(f"--{name} {why}")


def _of_model(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Measure a model."""
    _refuse(parser, options, ("family", "dtype", "peers", "beside", "html", "plot"), "says nothing of a model")
    try:
        from normlib.bench import models
    except ImportError as error:
        print(f"--model: {error}; pip install 'normlib[torch]'", file=sys.stderr)
        return 2
    return models.command(
        options.model,
        only=options.only,
        threads=options.threads,
        compiled=options.compile,
        budget=models.QUICK if options.quick else models.BUDGET,
        listed=options.list,
        file=options.json,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : list of str, optional
        The arguments after ``python -m normlib bench``; those of the process by default.

    Returns
    -------
    int
        0; 2 if nothing could be measured, 130 if an interrupt ended it, after the report of what was.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.stored:
        names = ("quick", "family", "only", "threads", "dtype", "peers", "beside", "list", "model", "compile", "tune")
        _refuse(parser, options, names, "says nothing of a run that is over (--from)")
        results, about = options.stored
        print(_heading(about))
        _give(results, about, options)
        return 0
    if options.tune or options.model:
        return tune.command() if options.tune else _of_model(parser, options)
    if len(options.threads) > 1 or options.compile:
        parser.error("--compile, and --threads of several numbers, go with --model")
    chosen = cases(options.dtype, options.only, options.quick, options.family)
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        if any(case.dtype == "bfloat16" for case in chosen):
            print("bfloat16 is left out: it needs the package ml_dtypes", file=sys.stderr)
        chosen = [case for case in chosen if case.dtype != "bfloat16"]
    if options.list:
        print("\n".join(case.name for case in chosen))
        return 0
    if not chosen:
        print("no case has such a name; --list prints them all", file=sys.stderr)
        return 2
    if options.threads:
        normlib.set_num_threads(*options.threads)
    threads = normlib.get_num_threads()
    names = () if options.peers and "none" in options.peers else options.peers
    beside, missing = peers.load(names, threads)
    if options.beside:
        try:
            beside["other build"] = build.Peer(threads, options.beside)
        except Exception as error:  # whatever another build may raise as it is imported
            print(f"--beside: {error}", file=sys.stderr)
            return 2
    about = _about(threads, beside, missing)
    print(_heading(about))
    results, left_out, interrupted = _run(chosen, beside, threads, runner.QUICK if options.quick else runner.Budget())
    if interrupted and not results:
        raise KeyboardInterrupt
    if not results:
        print("no case fits into the free memory", file=sys.stderr)
        return 2
    about |= {"left_out": left_out, "interrupted": interrupted}
    _give(results, about, options)
    return 130 if interrupted else 0


def _about(threads: int, beside: dict[str, peers.Peer], missing: dict[str, str]) -> dict:
    """What a run is made of: versions, threads, peers, machine."""
    return {
        "normlib": normlib.__version__,
        "backend": str(backends.which("layer_norm")),
        "numpy": np.__version__,
        "threads": threads,
        "limit": "compiled copies" if limit.compiled() else "np.copyto, one thread",
        "peers": {name: peer.version for name, peer in beside.items()},
        "missing": missing,
        "machine": machine(),
    }


def _give(results: list[runner.Result], about: dict, options: argparse.Namespace) -> None:
    """Print the report, and write the files that are asked for."""
    print(report.table(results), report.summary_text(results), sep="\n\n")
    if about.get("left_out"):
        print(f"\n{about['left_out']} cases left out: they would not fit into the free memory")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report.as_json(results, about), file, indent=1)
        print(f"\nwritten: {options.json}")
    if options.html:
        from normlib.bench import page

        options.html.write_text(page.page(results, about), encoding="utf-8")
        print(f"\nwritten: {options.html}")
    if options.plot:
        from normlib.bench import plot

        threads = about["threads"]
        plot.save(results, options.plot, f"normlib {about['normlib']}, {threads} thread{'s' * (threads > 1)}")
        print(f"\nwritten: {options.plot}")


def _heading(about: dict) -> str:
    peers_named = ", ".join(f"{name} {version}" for name, version in about["peers"].items()) or "none"
    lines = [
        f"normlib {about['normlib']}, backend {about['backend']}, threads {about['threads']}; "
        f"limit: {about['limit']}; peers: {peers_named}",
    ]
    lines += [f"without {name}: {why}" for name, why in about["missing"].items()]
    return "\n".join(lines) + "\n"


def _run(chosen, beside, threads, budget):
    results, left_out = [], 0
    with Progress(len(chosen)) as progress:
        try:
            for index, case in enumerate(chosen):
                progress.show(index, case.name)
                if runner.fits(case):
                    results.append(runner.measure(case, beside, threads, budget))
                else:
                    left_out += 1
        except KeyboardInterrupt:  # what is measured is reported
            return results, left_out, True
    return results, left_out, False
