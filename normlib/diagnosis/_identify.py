"""What a subject computes: a model of it, found stage by stage from its answers to chosen inputs.

1. Which elements share statistics: one element is moved, and what moves with it is a row.
2. How a row answers: y is affine in x within a row, with a gain and an intercept. How these follow the deviation s and
   the mean m of the row tells the power of s, whether the mean is subtracted, and whether it is in the variance.
3. eps: the gain, times s, is 1 where eps is negligible. How it falls (or grows) as s runs over many octaves gives eps
   and its place in closed form: ``eps = s^2 (1 / h^2 - 1)`` in the variance, ``s (1 / h - 1)`` beside the deviation,
   ``s^2 / h^2`` as a floor, ``(h - 1) / s`` beside the reciprocal, h the gain times s.
4. Parameters: of all that may be made of a weight and a bias, what fits. The factor that is left is
   ``sqrt((n - ddof) / n)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ._model import ADDS, FIRST, MULTIPLIES, Array, Norm, gather
from ._probe import Probe

MOVED = 1e-4  # of the largest output: what counts as another result
EXACT = 1e-12  # of the squares of an output: a misfit that is rounding in float32
LOOSE = 0.05  # the largest misfit of a model that is still taken for the subject's: statistics may have 8 bits


class Unexplained(Exception):
    """The subject answers as no model does; `name` is that of a finding."""

    def __init__(self, words: str, x: Array, y: Array, name: str = "unexplained") -> None:
        super().__init__(words)
        self.words, self.x, self.y, self.name = words, x, y, name


def identify(probe: Probe) -> tuple[Norm, float]:
    """The model of a subject, and its misfit relative to the output, on rows and parameters of no special kind.

    Raises
    ------
    Unexplained
        If no model fits.
    """
    norm = rows(probe)
    norm = statistics(probe, norm)
    norm = epsilon(probe, norm)
    norm = parameters(probe, norm)
    if "b" in norm.first:  # a bias of 1 before an RMS norm has looked like an eps
        probe.bias = 0.0
        norm = parameters(probe, epsilon(probe, replace(norm, ddof=0, scale=1.0)))
    x, given = probe.random(3, 2), probe.given()
    y = probe(x, given)
    misfit = distance(y, norm(x, **given))
    if not misfit < LOOSE:
        raise Unexplained("what it computes is no norm that could be made out", x, y)
    return norm, misfit


def distance(y: Array, expected: Array) -> float:
    """The difference of two outputs relative to their size; infinity where one is no number."""
    with np.errstate(all="ignore"):
        error = np.sqrt(np.mean(np.square(y - expected)) / np.mean(np.square(expected)))
    return float(error) if np.isfinite(error) else math.inf


# -- 1: what shares statistics ----


def rows(probe: Probe) -> Norm:
    """The axes, or groups along an axis, that one element moves."""
    shape = probe.shape
    places = [tuple(0 for _ in shape), tuple(n - 1 for n in shape), tuple(n // 2 for n in shape)]
    found = [_row_of(shape, place, *_moved_by(probe, place)) for place in places]
    if not (found[0].axes or found[0].groups):
        raise Unexplained("there are no statistics", *_moved_by(probe, places[0])[1:], "no_statistics")
    if any(norm != found[0] for norm in found):
        raise Unexplained("rows are not all of one kind", *_moved_by(probe, places[0])[1:])
    return replace(found[0], parameter_axes=probe.parameter_axes)


def _moved_by(probe: Probe, place: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Which outputs move with one element; of three arrays, for one may be at a turning point."""
    moved = np.zeros(probe.shape, dtype=bool)
    for _ in range(3):
        x = probe.random(0, 1)
        y, other = probe(x), x.copy()
        other[place] += 10 * math.sqrt(x.size)  # so that long rows move too
        y = y if np.isfinite(y).all() else np.nan_to_num(y)
        moved |= ~(np.abs(probe(other) - y) <= MOVED * np.abs(y).max())
    return moved, x, y


def _row_of(shape: tuple[int, ...], place: tuple[int, ...], moved: Array, x: Array, y: Array) -> Norm:
    axes, channel_axis, groups, interleaved = [], None, 0, False
    lines = []
    for axis, size in enumerate(shape):
        across: Any = (*place[:axis], slice(None), *place[axis + 1 :])
        line = np.flatnonzero(moved[across])
        lines.append(line)
        if len(line) == size and size > 1:
            axes.append(axis)
        elif len(line) > 1:
            if channel_axis is not None or size % len(line):
                raise Unexplained("what moves with one element is no row", x, y)
            channel_axis, groups = axis, size // len(line)
            interleaved = groups > 1 and bool((np.diff(line) == groups).all())
            if not interleaved and line[-1] - line[0] + 1 != len(line):
                raise Unexplained("what moves with one element is no row", x, y)
    box = np.zeros_like(moved)
    box[np.ix_(*lines)] = True
    if (box ^ moved).sum() > 0.05 * max(1, box.sum()):
        raise Unexplained("what moves with one element is no row", x, y)
    return Norm(tuple(axes), channel_axis, groups, interleaved)


# -- 2: mean and deviation ----


@dataclass(frozen=True)
class Response:
    """How rows of one mean and deviation come out: y = gain * x + intercept."""

    gain: float
    intercept: float
    bent: float  # what is not affine, relative to the rest


def pattern(probe: Probe, norm: Norm) -> tuple[Array, Callable[[Array], Array], float]:
    """Rows of small odd integers, whose mean is 0 exactly; what puts rows in their place; their deviation."""
    labels = norm.labels(probe.shape)
    template, back = gather(np.zeros(probe.shape), labels)
    n = template.shape[1]
    half = np.arange(1, n // 2 * 2, 2, dtype=np.float64)
    values = np.concatenate([half, -half, np.zeros(n % 2)])
    u = probe.rng.permuted(np.tile(values, (len(template), 1)), axis=1)
    return u, back, float(np.sqrt(np.square(values).mean()))


def respond(
    probe: Probe, norm: Norm, mean: float, deviation: float, dtype: str | None = None
) -> tuple[Response, float]:
    """The response of rows of that mean and deviation, both in round numbers, and the deviation that they have."""
    u, back, sigma = pattern(probe, norm)
    step = 2.0 ** round(math.log2(deviation / sigma))
    x = back(u * step + round(mean / step) * step)
    return line(x, probe(x, dtype=dtype), norm.labels(probe.shape)), sigma * step


def line(x: Array, y: Array, labels: Array) -> Response:
    """The straight lines that y of rows are of x: of all rows the median."""
    given, out = (gather(a, labels)[0] for a in (x, y))
    with np.errstate(all="ignore"):
        middle, level = given.mean(axis=1, keepdims=True), out.mean(axis=1, keepdims=True)
        given, out = given - middle, out - level
        gains = (given * out).sum(axis=1, keepdims=True) / np.square(given).sum(axis=1, keepdims=True)
        bent = np.abs(out - gains * given).mean(axis=1) / np.abs(gains * given).mean(axis=1)
        intercept = np.median(level - gains * middle)
    return Response(float(np.median(gains)), float(intercept), float(np.median(bent)))


def statistics(probe: Probe, norm: Norm) -> Norm:
    """The power of the deviation, whether the mean is subtracted, and whether it is in the variance."""
    low, s0 = respond(probe, norm, 0, 4)
    base, s1 = respond(probe, norm, 0, 16)
    high, s2 = respond(probe, norm, 0, 64)
    off, s3 = respond(probe, norm, 40, 16)
    if not (base.gain > 0 and base.bent < LOOSE and off.gain > 0):
        x = probe.random(0, 16)
        raise Unexplained("y is not affine in x within a row", x, probe(x))
    power = round(2 * math.log(low.gain / high.gain) / math.log(s2 / s0)) / 2 if low.gain > 0 < high.gain else 1.0
    mean = round(40 / s3 * s3)
    subtracts = (base.intercept - off.intercept) / (off.gain * mean)
    spread = (base.gain * s1**power) / (off.gain * s3**power)  # sqrt(1 + (m / s)^2) where the mean is in the variance
    wide = math.sqrt(1 + (mean / s3) ** 2) ** max(power, 1)
    return replace(
        norm, power=power, subtracts=subtracts > 0.5, centered=power == 0 or abs(spread - 1) < abs(spread - wide)
    )


# -- 3: eps ----


def epsilon(probe: Probe, norm: Norm, dtype: str | None = None) -> Norm:
    """eps and its place, for a deviation without a factor: `parameters` corrects it by that."""
    if norm.power == 0:
        return norm
    base, s0 = respond(probe, norm, 0, 16, dtype)
    found = [respond(probe, norm, 0, 2.0**k, dtype) for k in range(-44, 21)]
    s = np.array([deviation for _, deviation in found])
    with np.errstate(all="ignore"):
        h = np.array([response.gain for response, _ in found]) * s**norm.power / (base.gain * s0**norm.power)
        h = np.where(h > 0, h, np.nan) ** (1 / norm.power)
        estimates = {
            "variance": (np.square(s) * (1 / np.square(h) - 1), (h > 0.1) & (h < 0.97)),
            "deviation": (s * (1 / h - 1), (h > 0.1) & (h < 0.97)),
            "floor": (np.square(s / h), (h > 0.1) & (h < 0.97)),
            "reciprocal": ((h - 1) / s, (h > 1.03) & (h < 10)),
        }
        spreads = {
            place: (float(np.std(np.log(values[near]))), float(np.median(values[near])))
            for place, (values, near) in estimates.items()
            if near.sum() > 1
        }
    if not spreads:
        return norm
    place = min(spreads, key=lambda place: spreads[place][0])
    return replace(norm, place=place, eps=spreads[place][1])


def rounded(eps: float) -> float:
    """The power of ten that an estimate lies at, or its first two digits."""
    power = 10.0 ** round(math.log10(eps)) if eps > 0 else 0.0
    return float(f"{power if abs(eps - power) <= 0.03 * power else eps:.2g}")


# -- 4: weight and bias ----


def parameters(probe: Probe, norm: Norm) -> Norm:
    """What is made of weight and bias, and the divisor of the variance."""
    given = probe.given()
    inputs = [probe.random(3, 16), probe.random(-20, 8)]
    outputs = [probe(x, given) for x in inputs]
    total = sum(float(np.square(y).sum()) for y in outputs)
    best, scale, misfit = norm, 1.0, math.inf
    for candidate in _candidates(norm, given):
        fitted, error = _fit(candidate, given, inputs, outputs)
        if misfit > EXACT * total and error < misfit / 2:  # of several that fit, the first and simplest
            best, scale, misfit = candidate, fitted, error
    return divided(best, scale, probe, max(1e-6, 4 * math.sqrt(misfit / total)))


def _fit(norm: Norm, given: dict[str, Any], inputs: list[Array], outputs: list[Array]) -> tuple[float, float]:
    """The factor beside a model that fits best, by least squares, and the squares that it leaves."""
    along, across, squares = 0.0, 0.0, 0.0
    w, b = (norm.along(given.get(name), inputs[0].ndim) for name in ("weight", "bias"))
    w, b = np.ones(()) if w is None else w, np.zeros(()) if b is None else b
    factor = MULTIPLIES[norm.multiplies](w, b)
    with np.errstate(all="ignore"):
        for x, y in zip(inputs, outputs, strict=True):
            terms = replace(norm, multiplies="1", adds="0")(x, **given) * factor
            rest = y - ADDS[norm.adds](w, b, factor)
            along, across = along + float((rest * terms).sum()), across + float(np.square(terms).sum())
            squares += float(np.square(rest).sum())
        fitted = along / across if across else math.nan
        return fitted, max(0.0, squares - fitted * along)


def _candidates(norm: Norm, given: dict[str, Any]) -> list[Norm]:
    """All models that differ in what is made of the parameters."""
    no_weight, no_bias = "weight" not in given, "bias" not in given
    found = []
    for first in FIRST:
        if (no_weight and "w" in first) or (no_bias and "b" in first):
            continue
        for multiplies in MULTIPLIES:
            for adds in ADDS:
                used = multiplies + adds
                if (no_weight and "w" in used) or (no_bias and "b" in used):
                    continue
                if first == "x" or ("w" in first) + ("b" in first) + ("w" in used) + ("b" in used) <= 2:
                    found.append(replace(norm, first=first, multiplies=multiplies, adds=adds))
    return found


def divided(norm: Norm, scale: float, probe: Probe, noise: float) -> Norm:
    """The divisor of the variance that a constant factor stands for, and eps beside such a variance."""
    n = norm.row_length(probe.shape)
    factors = {ddof: ((n - ddof) / n) ** (norm.power / 2) for ddof in (0, 1, n - 1)[: 3 if norm.power else 1]}
    tolerance = max(0.2 * (1 - math.sqrt((n - 1) / n)), noise)
    rests = {ddof: scale / factor for ddof, factor in factors.items()}
    near = [(ddof, 1.0) for ddof, rest in rests.items() if abs(rest - 1) < tolerance]
    near += [(ddof, round(r, 1)) for ddof, r in rests.items() if abs(r - round(r, 1)) < tolerance * abs(r)]
    ddof, rest = next(iter(near), (0, scale))
    ratio = n / (n - ddof)
    eps = norm.eps * {"deviation": math.sqrt(ratio), "reciprocal": 1 / math.sqrt(ratio)}.get(norm.place, ratio)
    return replace(norm, ddof=ddof, scale=float(f"{rest:.6g}"), eps=rounded(eps))
