"""Pictures of a run in SVG, for its page: points over two logarithmic axes, and a lane of points for each peer.

Colours and fonts are those of the page (page.css). What a picture shows it also tells in words, for a screen reader.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Lane", "Picture", "Point", "Scale", "across", "amount", "lanes", "points", "upward"]

WIDTH, HEIGHT = 380, 280
LEFT, RIGHT, TOP, BOTTOM = 50, 368, 22, 236


class Point(NamedTuple):
    """A case in a picture; ``kind`` are classes of the style sheet: lost, half (16 bits), doubtful."""

    x: float
    y: float
    words: str
    kind: str = ""


class Lane(NamedTuple):
    """The cases that a peer computes: the points (y is not looked at), their geometric mean, how many are lost."""

    name: str
    found: list[Point]
    mean: float
    lost: int


class Picture(NamedTuple):
    """What stands around the points."""

    name: str  # of the element, unlike all others of the page
    title: str
    words: str
    horizontal: str = ""


class Scale:
    """A logarithmic axis.

    Examples
    --------
    >>> scale = Scale([1.0, 100.0], 0, 50)
    >>> scale(10.0), scale(1e9)
    (25.0, 50)
    >>> scale.ticks(most=5)
    [1.0, 3.0, 10.0, 30.0, 100.0]
    """

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        values = list(values)
        self.least, self.largest = min(values), max(values)
        if self.largest < 1.5 * self.least:  # a single value stands in the middle
            self.least, self.largest = self.least / 1.5, self.largest * 1.5
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        """Where a value lies in the picture; what lies outside is moved to the end."""
        share = math.log(value / self.least) / math.log(self.largest / self.least)
        return round(self.start + min(max(share, 0), 1) * (self.end - self.start), 1)

    def ticks(self, most: int = 8) -> list[float]:
        """Round values on the axis, as many of each power of ten as there is room for."""
        first, last = math.floor(math.log10(self.least)), math.ceil(math.log10(self.largest))
        for steps, stride in (((1, 1.5, 2, 3, 5, 7), 1), ((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
            found = [float(f"{step}e{power}") for power in range(first, last + 1, stride) for step in steps]
            found = [tick for tick in found if self.least <= tick * 1.001 and tick <= self.largest * 1.001]
            if len(found) <= most:
                break
        return found


def across(values: Iterable[float]) -> Scale:
    """Return a scale from left to right."""
    return Scale(values, LEFT + 4, RIGHT - 6)


def upward(values: Iterable[float]) -> Scale:
    """Return a scale from the bottom to the top."""
    return Scale(values, BOTTOM - 4, TOP + 4)


def amount(value: float) -> str:
    """Return bytes in words.

    Examples
    --------
    >>> amount(2e5), amount(3e9)
    ('200 kB', '3 GB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"


def points(
    picture: Picture,
    found: list[Point],
    x: Scale,
    y: Scale,
    label: Callable[[float], str],
    *,
    under: Sequence[tuple[float, float]] = (),
    levels: dict[str, float] | None = None,
) -> str:
    """Return a picture of points.

    Parameters
    ----------
    picture : Picture
        Title and words.
    found : list of Point
        What is shown.
    x, y : Scale
        The axes: bytes, and something else.
    label : callable
        Turns a value of y into words.
    under : sequence of (x, y)
        Short dashes behind the points: what the limit reaches.
    levels : dict, optional
        Sizes of caches, as lines.
    """
    parts = [_grid(y.ticks(), lambda tick: f'<path d="M{LEFT} {y(tick)}H{RIGHT}"/>')]
    parts += [_text(LEFT - 6, y(tick) + 4, label(tick), "end") for tick in y.ticks()]
    if y.least <= 1 <= y.largest and not under:
        parts.append(f'<path class="limit" d="M{LEFT} {y(1)}H{RIGHT}"/>')
    for name, size in (levels or {}).items():
        if x.least < size < x.largest:
            parts.append(f'<path class="level" d="M{x(size)} {TOP}V{BOTTOM}"/>{_text(x(size), TOP - 6, name)}')
    parts += [_text(x(tick), BOTTOM + 16, amount(tick)) for tick in x.ticks(6)]
    dashes = "".join(f"M{x(a) - 5:.4g} {y(b)}h10" for a, b in under)
    if dashes:
        parts.append(f'<path class="copy" d="{dashes}"/>')
    parts += _marks(((point, x(point.x), y(point.y)) for point in found), _radius(len(found)))
    return _svg(picture, parts)


def lanes(picture: Picture, found: list[Lane], x: Scale) -> str:
    """Return a picture of ratios, a lane for each peer: what is left of 1 is lost."""
    height = (BOTTOM - TOP) / len(found)
    parts, radius = [], _radius(max(len(lane.found) for lane in found))
    if x(1) > x.start:
        parts.append(f'<path class="loss" d="M{LEFT} {TOP}H{x(1)}V{BOTTOM}H{LEFT}Z"/>')
    parts.append(_grid(x.ticks(), lambda tick: f'<path d="M{x(tick)} {TOP}V{BOTTOM}"/>'))
    parts += [_text(x(tick), BOTTOM + 16, f"{tick:g}") for tick in x.ticks()]
    parts.append(f'<path class="limit" d="M{x(1)} {TOP}V{BOTTOM}"/>')
    for index, lane in enumerate(found):
        top = TOP + index * height
        middle, reach = top + 0.6 * height, 0.26 * height
        # Points of the same ratio would hide each other: they go up and down by a fixed pattern.
        spread = [middle + reach * ((7 * n % 11) / 5 - 1) for n in range(len(lane.found))]
        marks = ((point, x(point.x), round(y, 1)) for point, y in zip(lane.found, spread, strict=True))
        parts += _marks(marks, radius)
        parts.append(f'<path class="mean" d="M{x(lane.mean)} {middle - reach - 4:.4g}v{2 * reach + 8:.4g}"/>')
        words = f"{lane.name}: {lane.mean:.3g}" + (f", {lane.lost} lost" if lane.lost else "")
        parts.append(_text(RIGHT, top + 0.2 * height, words, "end", "lane"))
    return _svg(picture, parts)


def _radius(number: int) -> float:
    return 3.5 if number < 150 else 2.5


def _grid(ticks: list[float], line: Callable[[float], str]) -> str:
    return f'<g class="grid">{"".join(map(line, ticks))}</g>'


def _marks(found: Iterable[tuple[Point, float, float]], radius: float) -> Iterable[str]:
    """The points, those that are lost last and so on top."""
    for point, x, y in sorted(found, key=lambda mark: "lost" in mark[0].kind):
        lost = f'path d="M{x} {y}m0-5 5 5-5 5-5-5Z"'
        form = lost if "lost" in point.kind else f'circle cx="{x}" cy="{y}" r="{radius}"'
        kind = f"dot {point.kind}".rstrip()
        yield f'<{form} class="{kind}"><title>{escape(point.words)}</title></{form.partition(" ")[0]}>'


def _text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.4g}" y="{y:.4g}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(picture: Picture, parts: Iterable[str]) -> str:
    name = escape(picture.name)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{escape(picture.title)}</title>'
        f'<desc id="{name}-words">{escape(picture.words)}</desc>'
        f"{''.join(parts)}{_text((LEFT + RIGHT) / 2, HEIGHT - 8, picture.horizontal, kind='axis')}</svg>"
    )
