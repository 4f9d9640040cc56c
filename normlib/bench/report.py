"""What a run says: a table, a summary by peer, the project's own figures, JSON."""

import dataclasses
import math

from normlib.bench.cases import Case
from normlib.bench.figures import figures, geometric_mean
from normlib.bench.limit import COPIES
from normlib.bench.runner import OURS, Result

__all__ = ["as_json", "from_json", "in_order", "summary", "summary_text", "table"]


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e9:.0f} ns"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.3g}"


def _aligned(rows: list[list[str]], left: int) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def peer_names(results: list[Result]) -> list[str]:
    """Return the names of the peers that any case was measured beside."""
    return list(dict.fromkeys(name for result in results for name in result.peers))


def in_order(results: list[Result]) -> list[Result]:
    """Return the cases by norm, then pass, as reports list them."""
    titles = list(dict.fromkeys(result.case.title for result in results))
    return sorted(results, key=lambda r: (titles.index(r.case.title), r.case.backward, not r.case.training))


def table(results: list[Result]) -> str:
    """Return a line for each case, under a heading for each pass.

    Peers' columns hold their time over ours, ``1 thread`` our own on one thread over that on those of the run; a ``<``
    marks a lost case, a ``~`` one that was measured under noise.
    """
    names = peer_names(results)
    results = in_order(results)
    header = ["model", "shape", "layout", "dtype", "", "MB", "time", "GB/s", "x limit", *names]
    alone = any(result.speedup is not None for result in results)
    if alone:
        header.append("1 thread")
    rows, headings = [header], {}
    for result in results:
        case = result.case
        heading = f"{case.title} {case.pass_name}"
        if heading not in headings.values():
            headings[len(rows)] = heading
        ratios = [*(result.peers.get(name) for name in names), *([result.speedup] if alone else [])]
        rows.append(
            [
                case.model,
                "x".join(map(str, case.shape)),
                case.layout,
                case.dtype,
                "out=" if case.out else "fresh",
                _megabytes(case.bytes),
                _seconds(result.ours),
                f"{case.bytes / result.ours / 1e9:.2f}",
                f"{'!' if result.shared else ''}{'~' if result.noisy else ''}{result.over_limit:.2f}",
                *("-" if ratio is None else f"{'<' if ratio < 1 else ''}{ratio:.3g}" for ratio in ratios),
            ]
        )
    lines = _aligned(rows, 5)
    text = [lines[0]]
    for index, line in enumerate(lines[1:], 1):
        if index in headings:
            text += ["", headings[index]]
        text.append(line)
    return "\n".join(text)


def summary(results: list[Result]) -> list[dict]:
    """Return for the limit and each peer: cases, geometric mean, the worst case, cases lost.

    The limit's ratio is our time over its, a peer's is its time over ours.
    """
    if not results:
        return []
    worst = max(results, key=lambda result: result.over_limit)
    lines = [
        {
            "against": "limit",
            "cases": len(results),
            "mean": geometric_mean(result.over_limit for result in results),
            "worst": worst.over_limit,
            "case": worst.case.name,
            "lost": None,
        }
    ]
    for name in peer_names(results):
        met = [result for result in results if name in result.peers]
        worst = min(met, key=lambda result: result.peers[name])
        lines.append(
            {
                "against": name,
                "cases": len(met),
                "mean": geometric_mean(r.peers[name] for r in met),
                "worst": worst.peers[name],
                "case": worst.case.name,
                "lost": sum(result.peers[name] < 1 for result in met),
            }
        )
    return lines


def summary_text(results: list[Result]) -> str:
    """Return the closing lines of a run."""
    rows = [["against", "cases", "mean", "worst", "lost", "worst case"]]
    for line in summary(results):
        lost = "-" if line["lost"] is None else str(line["lost"])
        mean, worst = f"{line['mean']:.2f}", f"{line['worst']:.2f}"
        rows.append([line["against"], str(line["cases"]), mean, worst, lost, line["case"]])
    text = [_with_last(rows), ""]
    rows = [["figure", "", "cases", "goal", "here", "", "worst case"]]
    for line in figures(results):
        goal = f"{'>=' if line['at_least'] else '<='} {line['goal']:.2f}"
        missed = f"{line['missed']} missed" if line["measure"] == "worst" else "missed"
        verdict, value = "met" if line["met"] else missed, f"{line['value']:.2f}"
        rows.append([line["figure"], line["measure"], str(line["cases"]), goal, value, verdict, line["case"]])
    text.append(_with_last(rows, left=2))
    noisy = sum(result.noisy for result in results)
    if noisy:
        text += [
            "",
            f"The clock was too noisy to tell in {noisy} of {len(results)} cases (marked ~): "
            "something else was running, or the frequency changed.",
        ]
    if shared := [result.others for result in results if result.shared]:
        text += [
            "",
            f"Other programs wanted our cores in {len(shared)} of {len(results)} cases (marked !; up to "
            f"{max(shared):.1f} cores busy): run again when the machine does nothing else.",
        ]
    refused = [(name, result.case.name, why) for result in results for name, why in result.refused.items()]
    if refused:
        text += ["", f"{len(refused)} not timed, since the peer failed or computed something else:"]
        text += [f"  {name}: {case}: {why}" for name, case, why in refused[:10]]
    return "\n".join(text)


def _with_last(rows: list[list[str]], left: int = 1) -> str:
    """Align all columns but the last, which is prose."""
    heads = _aligned([row[:-1] for row in rows], left)
    width = max(map(len, heads))
    return "\n".join(f"{head.ljust(width)}  {row[-1]}".rstrip() for head, row in zip(heads, rows, strict=True))


_MEASURED = ("seconds", "limit", "over_limit", "peers", "noise", "noisy", "rounds", "others", "shared", "refused")


_MADE_OF = {"normlib": str, "backend": str, "threads": int, "limit": str, "peers": dict, "missing": dict}


def as_json(results: list[Result], about: dict) -> dict:
    """Return everything measured, ready for `json.dump`."""
    return {
        **about,
        "results": [
            {
                "name": result.case.name,
                **dataclasses.asdict(result.case),
                "pass": result.case.pass_name,
                "bytes": result.case.bytes,
                **{name: getattr(result, name) for name in _MEASURED},
            }
            for result in results
        ],
        "summary": summary(results),
        "figures": figures(results),
    }


def from_json(data: dict) -> tuple[list[Result], dict]:
    """Return what `as_json` was made of: results, and what the run was made of.

    Raises
    ------
    ValueError
        If the data are not of that form, in words.
    """
    if not isinstance(data, dict) or not isinstance(data.get("results"), list) or not data["results"]:
        raise ValueError("expected an object with a list of results")
    about = {key: value for key, value in data.items() if key not in ("results", "summary", "figures")}
    for name, kind in (_MADE_OF | {"machine": dict} if "machine" in about else _MADE_OF).items():
        if not isinstance(about.get(name), kind):
            raise ValueError(f"{name} is {about.get(name)!r}, expected a value of type {kind.__name__}")
    try:
        results = [_result(entry) for entry in data["results"]]
    except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"a result is not of a case and its times ({type(error).__name__}: {error})") from None
    return results, about


def _result(entry: dict) -> Result:
    case = Case(**{field.name: entry[field.name] for field in dataclasses.fields(Case)})
    case = dataclasses.replace(case, shape=tuple(case.shape), fused=tuple(case.fused))
    seconds = {name: float(value) for name, value in entry["seconds"].items()}
    known = OURS in seconds and any(name in seconds for name in COPIES)
    if case.bytes <= 0 or not known or not all(0 < value < math.inf for value in seconds.values()):
        raise ValueError(f"{case.name}: expected bytes and times over 0, ours and that of a copy among them")
    noise, others = float(entry["noise"]), entry["others"]
    others = None if others is None else float(others)
    return Result(case, seconds, noise, int(entry["rounds"]), dict(entry["refused"]), others, bool(entry["shared"]))
