"""A run as a page for people: one file that needs no network, with what was lost before all other cases.

All text passes through `escape`, and the same run gives the same page to the byte. The frame is page.html.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from string import Template

from normlib.bench.cases import ITEMSIZE
from normlib.bench.figures import figures, geometric_mean
from normlib.bench.pictures import Lane, Picture, Point, across, amount, lanes, points, upward
from normlib.bench.report import _seconds, in_order, peer_names, summary
from normlib.bench.runner import Result

__all__ = ["page"]

NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "jax": "JAX", "numpy": "NumPy backend",
         "separate": "separate steps", "vllm": "vLLM"}  # fmt: skip
ALL = "All cases"
WORDS = {"case", "to", "clock", "promise", "of", "verdict", "worst case", "what", "which",
         "model", "pass", "shape", "layout", "dtype", "output"}  # fmt: skip


class Scales:
    """The axes of the pictures, the same for all groups of a run."""

    def __init__(self, results: list[Result]) -> None:
        self.bytes = across(r.case.bytes for r in results)
        self.share = upward([1, *(1 / r.over_limit for r in results)])
        self.speed = upward(r.case.bytes / seconds for r in results for seconds in (r.ours, r.limit))
        self.ratio = across([1, *(ratio for r in results for ratio in r.peers.values())])


def page(results: list[Result], about: dict) -> str:
    """Return the page.

    Parameters
    ----------
    results : list of Result
        What was measured, at least one case.
    about : dict
        What the run was made of, as `normlib.bench.report.as_json` is given it.
    """
    results, scales = in_order(results), Scales(results)
    rows = {id(result): f"case-{number}" for number, result in enumerate(results, 1)}
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.case.title, []).append(result)
    machine, cases = about.get("machine") or {}, _number(len(results), "case")
    links = [("lost", "Lost"), ("machine", "Machine"), *((_slug(name), name) for name in (ALL, *groups))]
    sections = [
        _section("lost", "What was lost", *_lost(results, rows), *_goals(results), *_doubts(results, about)),
        _section("machine", "Machine", _machine(results, about, machine)),
        *(_group(name, found, scales, rows, machine) for name, found in {ALL: results, **groups}.items()),
    ]
    return Template(_file("page.html")).substitute(
        title=escape(f"normlib {about['normlib']}: {cases} on {_number(about['threads'], 'thread')}"),
        machine=escape(", ".join(str(machine[name]) for name in ("cpu", "date") if machine.get(name))),
        links="".join(f'<li><a href="#{slug}">{escape(name)}</a></li>' for slug, name in links),
        tiles=_tiles(results),
        sections="\n".join(sections),
        style=_file("page.css"),
        script=_file("page.js"),
    )


def _file(name: str) -> str:
    return files("normlib.bench").joinpath(name).read_text("utf-8")


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())


def _section(name: str, title: str, *parts: str) -> str:
    head = f'<section id="{name}" aria-labelledby="{name}-head">\n<h2 id="{name}-head">{escape(title)}</h2>'
    return "\n".join((head, *parts, "</section>"))


def _table(caption: str, head: Sequence[str], rows: Iterable[str], *, kind: str) -> str:
    """A table in a box that scrolls, by keyboard too."""
    name = _slug(caption)
    cells = "".join(f'<th scope="col"{_word(text in WORDS)}>{escape(text)}</th>' for text in head)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}-caption">'
        f'<table class="{kind}"><caption id="{name}-caption"><span>{escape(caption)}</span></caption>'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )


def _word(is_word: bool) -> str:
    return ' class="word"' if is_word else ""


def _cell(text: str, *, word: bool = False, value: float | None = None, lost: bool = False) -> str:
    key = "" if value is None else f' data-v="{value:.6g}"'
    text = f"<strong>{escape(text)}</strong>" if lost else escape(text)
    return f"<td{_word(word)}{key}>{text}</td>"


def _head_of_row(text: str) -> str:
    return f'<th scope="row" class="word">{escape(text)}</th>'


def _peers(found: list[Result]) -> list[str]:
    """The peers of some cases, in the same order in every group."""
    return sorted(peer_names(found), key=lambda name: [*NAMES, name].index(name))


def _clock(result: Result) -> str:
    return ", ".join(["noisy"] * result.noisy + ["busy"] * result.shared)


def _tiles(results: list[Result]) -> str:
    tiles = []
    for line in summary(results):
        name, mean, worst = line["against"], f"{line['mean']:.3g}", f"{line['worst']:.3g}"
        cases = _number(line["cases"], "case")
        if line["lost"] is None:
            head, times, told = "A copy, the limit", "times its time", f"at most {worst}"
        else:
            head, times = NAMES.get(name, name), "times our time"
            told = f"{line['lost'] or 'none'} lost, at least {worst}"
        kind = ' class="losing"' if line["lost"] else ""
        tiles.append(
            f"<div{kind}><dt>{escape(head)}</dt><dd><b>{mean}</b> {times}, the mean of {cases}</dd>"
            f"<dd>{told}: {escape(line['case'])}</dd></div>"
        )
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _lost(results: list[Result], rows: dict[int, str]) -> Iterator[str]:
    """The cases that a peer computes faster, the worst first."""
    lost = sorted(
        ((ratio, name, result) for result in results for name, ratio in result.peers.items() if ratio < 1),
        key=lambda found: found[:2],
    )
    if not lost:
        yield "<p>No case was lost to a peer.</p>" if peer_names(results) else "<p>No peer took part.</p>"
        return
    lines = (
        f'<tr><th scope="row" class="word"><a href="#{rows[id(result)]}">{escape(result.case.name)}</a></th>'
        + _cell(NAMES.get(name, name), word=True)
        + _cell(f"{ratio:.3g}", lost=True)
        + _cell(_seconds(result.seconds[name]), value=result.seconds[name])
        + _cell(_seconds(result.ours), value=result.ours)
        + _cell(f"{result.over_limit:.2f}")
        + _cell(_clock(result), word=True)
        + "</tr>"
        for ratio, name, result in lost
    )
    caption = f"Lost: {len(lost)} of {sum(len(r.peers) for r in results)} comparisons; the ratio is its time over ours"
    head = ["case", "to", "ratio", "its time", "ours", "x limit", "clock"]
    yield _table(caption, head, lines, kind="sorts lost")


def _goals(results: list[Result]) -> Iterator[str]:
    """The project's own goals, those that are missed first."""
    found = sorted(figures(results), key=lambda line: line["met"])
    if not found:
        return
    lines = []
    for line in found:
        missed = f"{line['missed']} missed" if line["measure"] == "worst" else "missed"
        lines.append(
            f"<tr>{_head_of_row(line['figure'])}{_cell(line['measure'], word=True)}{_cell(str(line['cases']))}"
            + _cell(f"{'≥' if line['at_least'] else '≤'} {line['goal']:.2f}")
            + _cell(f"{line['value']:.2f}", lost=not line["met"])
            + _cell("met" if line["met"] else missed, word=True)
            + f"{_cell(line['case'], word=True)}</tr>"
        )
    caption = f"Goals of the project: {sum(not line['met'] for line in found)} of {len(found)} missed"
    head = ["promise", "of", "cases", "goal", "here", "verdict", "worst case"]
    yield _table(caption, head, lines, kind="goals")


def _doubts(results: list[Result], about: dict) -> Iterator[str]:
    """What was not measured, or not well."""
    told = [f"Without {name}: {why}." for name, why in about["missing"].items()]
    if about.get("interrupted"):
        told.append("The run was interrupted: cases are missing.")
    if about.get("left_out"):
        told.append(f"{_number(about['left_out'], 'case')} left out: too large for the free memory.")
    if noisy := sum(result.noisy for result in results):
        told.append(f"The clock was too noisy to tell in {noisy} of {_number(len(results), 'case')}.")
    if shared := sum(result.shared for result in results):
        told.append(f"Other programs wanted our cores in {shared} of {_number(len(results), 'case')}.")
    told += [f"Not timed: {name}, {r.case.name}: {why}." for r in results for name, why in r.refused.items()]
    if told:
        yield f"<h3>Doubts</h3>\n<ul>{''.join(f'<li>{escape(line)}</li>' for line in told)}</ul>"


def _machine(results: list[Result], about: dict, machine: dict) -> str:
    largest = max(results, key=lambda result: result.case.bytes)
    fastest = max(results, key=lambda result: result.case.bytes / result.limit)
    copies = [f"{r.case.bytes / r.limit / 1e9:.3g} GB/s for {amount(r.case.bytes)}" for r in (largest, fastest)]
    busy = [result.others for result in results if result.others is not None]
    caches = machine.get("caches") or {}
    ours = about["normlib"], about["backend"], machine.get("isa"), machine.get("openmp")
    told = {
        "Processor": machine.get("cpu"),
        "Cores": machine.get("cores"),
        "Busy with other programs": busy and f"{sum(busy) / len(busy):.1f} cores in the mean, at most {max(busy):.1f}",
        "Caches": ", ".join(f"{name} {size // 1024:,} KiB" for name, size in caches.items()),
        "Copy of memory": f"{copies[0]}, the largest; {copies[1]}, the fastest; {about['limit']}",
        "System": machine.get("system"),
        "Threads": about["threads"],
        "normlib": ", ".join(str(part) for part in ours if part),
        "Python": machine.get("python"),
        "NumPy": about.get("numpy"),
        **{NAMES.get(name, name): version for name, version in about["peers"].items()},
    }
    lines = (f"<tr>{_head_of_row(name)}{_cell(str(text), word=True)}</tr>" for name, text in told.items() if text)
    return _table("What ran where", ["what", "which"], lines, kind="machine")


def _point(result: Result, x: float, y: float, ratio: float | None = None) -> Point:
    """A case in a picture, with its ratio to one peer or, without, to all."""
    worst = min(result.peers.values(), default=1.0) if ratio is None else ratio
    kinds = {
        "lost": worst < 1,
        "half": ITEMSIZE[result.case.dtype] == 2,
        "doubtful": result.noisy or result.shared,
    }
    words = f"{result.over_limit:.2f} times the limit" if ratio is None else f"{ratio:.3g}"
    return Point(x, y, f"{result.case.name}: {words}", " ".join(kind for kind, holds in kinds.items() if holds))


def _pictures(name: str, found: list[Result], scales: Scales, caches: dict) -> Iterator[tuple[str, str]]:
    """Captions and pictures of a group: each pass against the limit, then the peers."""
    for pass_name, backward in (("forward", False), ("backward", True)):
        chosen = [result for result in found if result.case.backward == backward]
        if not chosen:
            continue
        mean = geometric_mean(result.over_limit for result in chosen)
        title = f"{name}, {pass_name}"
        words = f"{_number(len(chosen), 'case')}, {mean:.2f} times the limit in the mean; tables give them all."
        around = Picture(f"{_slug(name)}-{pass_name}", title, words, "least bytes of the pass")
        if name == ALL:
            dots = [_point(r, r.case.bytes, r.case.bytes / r.ours) for r in chosen]
            copies = [(r.case.bytes, r.case.bytes / r.limit) for r in chosen]
            drawn = points(
                around, dots, scales.bytes, scales.speed, lambda v: f"{v / 1e9:g}", under=copies, levels=caches
            )
            yield f"{pass_name.title()}: GB/s, ours and the copy's", drawn
        else:
            dots = [_point(r, r.case.bytes, 1 / r.over_limit) for r in chosen]
            drawn = points(around, dots, scales.bytes, scales.share, lambda v: f"{100 * v:g} %", levels=caches)
            yield f"{pass_name.title()}: {100 / mean:.0f} % of the limit in the mean", drawn
    beside = []
    for peer in _peers(found):
        met = [result for result in found if peer in result.peers]
        ratios = [result.peers[peer] for result in met]
        dots = [_point(result, ratio, 0, ratio) for result, ratio in zip(met, ratios, strict=True)]
        lost = sum(ratio < 1 for ratio in ratios)
        beside.append(Lane(NAMES.get(peer, peer), dots, geometric_mean(ratios), lost))
    if beside:
        words = "; ".join(f"{lane.name} {lane.mean:.3g} in the mean, {lane.lost} lost" for lane in beside)
        around = Picture(f"{_slug(name)}-peers", f"{name}, peers", words, "its time over ours; left of 1 we lose")
        yield "Peers: their time over ours", lanes(around, beside, scales.ratio)


def _group(name: str, found: list[Result], scales: Scales, rows: dict[int, str], machine: dict) -> str:
    drawn = "".join(
        f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>\n"
        for caption, picture in _pictures(name, found, scales, machine.get("caches") or {})
    )
    parts = [f'<div class="pictures">\n{drawn}</div>']
    if name != ALL:
        head = f"<summary>Table of {_number(len(found), 'case')}</summary>"
        parts.append(f"<details>{head}\n{_cases(name, found, rows)}</details>")
    return _section(_slug(name), name, *parts)


def _cases(name: str, found: list[Result], rows: dict[int, str]) -> str:
    """The table of a group."""
    peers = _peers(found)
    alone = any(result.speedup is not None for result in found)
    head = ["model", "pass", "shape", "layout", "dtype", "output", "bytes", "time", "GB/s", "x limit", "clock"]
    head += [NAMES.get(peer, peer) for peer in peers] + ["1 thread"] * alone
    lines = []
    for result in found:
        case = result.case
        words = case.pass_name, "x".join(map(str, case.shape)), case.layout, case.dtype, "out=" if case.out else "fresh"
        ratios = [*(result.peers.get(peer) for peer in peers), *[result.speedup] * alone]
        lines.append(
            f'<tr id="{rows[id(result)]}">{_head_of_row(case.model)}{"".join(_cell(word, word=True) for word in words)}'
            + _cell(amount(case.bytes), value=case.bytes)
            + _cell(_seconds(result.ours), value=result.ours)
            + _cell(f"{case.bytes / result.ours / 1e9:.2f}")
            + _cell(f"{result.over_limit:.2f}")
            + _cell(_clock(result), word=True)
            + "".join(_cell("-") if ratio is None else _cell(f"{ratio:.3g}", lost=ratio < 1) for ratio in ratios)
            + "</tr>"
        )
    return _table(f"{name}: all cases", head, lines, kind="sorts cases")
