"""What a norm that is right in exact arithmetic does in that of machines: 16 bits, rows far from zero, large values."""

from __future__ import annotations

import bisect
import math
from dataclasses import replace
from typing import Any

import numpy as np

from ._identify import LOOSE, line, pattern
from ._model import ADDS, MULTIPLIES, UNIT, Array, Norm, gather, round_to
from ._probe import NoAnswer, Probe
from ._report import Evidence, Finding, at_worst, finding

NARROW = 2e-5  # a misfit above that of float32
SAME = 0.97  # of the elements: what counts as the same bits, but for ties
WRONG = 0.01  # an error of a gain that no rounding of a mean makes
FAR = 2e4  # mean/std at which a centered float32 variance is exact to WRONG, and E[x^2] - E[x]^2 has nothing left


def precision(probe: Probe, norm: Norm, misfit: float) -> list[Finding]:
    """Whether a subject works in 16 bits on arrays of 32 and 64."""
    if misfit < NARROW:
        return []
    x, given = probe.random(3, 2), probe.given()
    y, expected = probe(x, given), norm(x, **given)
    return [_sixteen(x, y, expected, probe.dtype)]


def _sixteen(x: Array, y: Array, expected: Array, dtype: str) -> Finding:
    return finding("statistics_16", at_worst(f"{dtype} rows", x, expected, y), dtype=dtype)


def _gain_errors(norm: Norm, y: Array, expected: Array) -> Array:
    """The errors of the factors that rows have in common, which come from their statistics."""
    got, wanted = (gather(a, norm.labels(y.shape))[0] for a in (y, expected))
    with np.errstate(all="ignore"):
        return np.abs((got * wanted).sum(axis=1) / np.square(wanted).sum(axis=1) - 1)


def far_rows(probe: Probe, norm: Norm) -> list[Finding]:
    """Whether the variance is ``E[x^2] - E[x]^2``: the gain goes wrong with the square of mean / deviation."""
    if not norm.centered or norm.power == 0:
        return []
    given, (u, back, sigma) = probe.plain(norm), pattern(probe, norm)
    farthest = 5 if norm.subtracts else 4  # y with its mean in it is coarse itself
    for ratio in 10 ** np.arange(1, farthest + 0.1, 0.5):
        x = round_to(back(u + round(ratio * sigma)), "float32")
        got, expected = probe(x, given, "float32"), norm(x, **given)
        gain, right = (line(x, y, norm.labels(x.shape)).gain for y in (got, expected))
        if abs(gain / right - 1) < WRONG:
            continue
        evidence = at_worst(f"float32 rows at mean/std {ratio:.0f}", x, expected, got)
        return [finding("naive_variance" if ratio < FAR else "rounded_mean", evidence, ratio=ratio)]
    return []


def large_rows(probe: Probe, norm: Norm) -> list[Finding]:
    """At what size squares overflow in float32, where a power of two beside x would change nothing."""
    if norm.power != 1:
        return []
    given, (u, back, sigma) = probe.plain(norm), pattern(probe, norm)

    def answers(k: int) -> tuple[Array, Array, Array]:
        x = back(u * 2.0 ** (k - round(math.log2(sigma))))
        return x, norm(x, **given), probe(x, given, "float32")

    def wrong(k: int) -> bool:
        x, expected, got = answers(k)
        gain, right = (line(x, y, norm.labels(x.shape)).gain for y in (got, expected))
        return not abs(gain / right - 1) < WRONG

    size = bisect.bisect_left(range(20, 123), True, key=wrong) + 20
    return [] if size > 122 else [finding("overflow", at_worst("float32 rows", *answers(size)), size=2.0**size)]


def narrow(probe: Probe, norm: Norm, dtypes: tuple[str, ...]) -> list[Finding]:
    """How arrays of 16 bits are computed: in float32 and rounded once, or the normalized value too, or in 16 bits."""
    for dtype in dtypes:
        try:
            found = _in_dtype(probe, norm, dtype)
        except NoAnswer:  # there is no kernel for it
            continue
        if found:
            return found
    return []


def _in_dtype(probe: Probe, norm: Norm, dtype: str) -> list[Finding]:
    given, once, twice = probe.given(), [], []
    worst: tuple[float, Array, Array, Array] | None = None
    for _ in range(8):
        x = probe.random(0.5, 1.5, dtype)
        answer, expected = probe.ask(x, given, dtype), norm(x, **given)
        y = answer.values
        if answer.dtype != dtype:
            return []
        once.append(y == round_to(expected, dtype))
        twice.append(y == _rounded_first(norm, x, given, dtype))
        error = float(np.max(np.abs(y - expected)))
        if worst is None or not error <= worst[0]:
            worst = error, x, expected, y
    assert worst is not None
    large = _squares_of_half(probe, norm, given) if dtype == "float16" else []
    if np.mean(once) > SAME:
        return large
    if np.mean(twice) > SAME:
        return [*large, finding("double_rounding", at_worst(f"{dtype} rows", *worst[1:]), dtype=dtype)]
    if _coarse_statistics(probe, norm, dtype):
        return [_sixteen(worst[1], worst[3], worst[2], dtype)]
    if large:
        return large
    units = worst[0] / (2 * UNIT[dtype] * np.abs(worst[2]).max())
    return [finding("several_roundings", at_worst(f"{dtype} rows", *worst[1:]), dtype=dtype, ulps=units)]


def _coarse_statistics(probe: Probe, norm: Norm, dtype: str) -> bool:
    """Whether rows are off as a whole, more than the rounding of their elements makes them; weight and bias are left
    out of it, which may be rounded themselves."""
    given, same, errors, clean = probe.plain(norm), [], [], []
    for _ in range(8):
        x = probe.random(0.5, 1.5, dtype)
        y, expected = probe(x, given, dtype), norm(x, **given)
        rounded = round_to(expected, dtype)
        same.append(y == rounded)
        errors.append(_gain_errors(norm, y, expected))
        clean.append(_gain_errors(norm, rounded, expected))
    return bool(np.mean(same) < SAME and not np.median(errors) < 1.4 * np.median(clean))


def _rounded_first(norm: Norm, x: Array, given: dict[str, Any], dtype: str) -> Array:
    """As in the reference code of Llama: the normalized value is rounded before the weight."""
    z = round_to(replace(norm, multiplies="1", adds="0")(x, **given), dtype)
    w, b = (norm.along(given[name], x.ndim) if name in given else None for name in ("weight", "bias"))
    w, b = np.ones(()) if w is None else w, np.zeros(()) if b is None else b
    factor = MULTIPLIES[norm.multiplies](w, b)
    product = round_to(z * factor, dtype) if norm.adds != "0" else z * factor
    return round_to(product + ADDS[norm.adds](w, b, factor), dtype)


def _squares_of_half(probe: Probe, norm: Norm, given: dict[str, Any]) -> list[Finding]:
    """Squares of 256 are beyond float16, whatever type their sum is taken in."""
    x = probe.random(0, 512, "float16")
    y, expected = probe(x, given, "float16"), norm(x, **given)
    if np.isfinite(y).all() and np.abs(y - expected).max() < LOOSE * np.abs(expected).max():
        return []
    return [finding("overflow_16", at_worst("float16 rows", x, expected, y))]


def bits(probe: Probe, norm: Norm) -> list[Finding]:
    """Whether the last bits of a result depend on the examples beside it, or on the number of threads."""
    labels, given = norm.labels(probe.shape), probe.given()
    apart = len(labels) > 1 and not np.isin(labels[0], labels[1:]).any()
    try:
        return [*(_of_batch(probe, given) if apart else []), *_of_threads(probe, given)]
    except NoAnswer:  # it takes one number of examples alone
        return []


def _of_batch(probe: Probe, given: dict[str, Any]) -> list[Finding]:
    rest = probe.shape[1:]
    x = probe.of_shape((33, *rest)).random(0.3, 1.7)
    together = probe(x, given, "float32")
    for count in (1, 5):
        y = probe(x[:count], given, "float32")
        if not np.array_equal(y, together[:count], equal_nan=True):
            evidence = _bits(y, together[:count])
            return [finding("batch_dependent_bits", evidence, count=count, all=len(together))]
    return []


def _of_threads(probe: Probe, given: dict[str, Any]) -> list[Finding]:
    threads = probe.subject.threads()
    if threads is None:
        return []
    get, put = threads
    x = probe.of_shape((2 + (1 << 16) // math.prod(probe.shape[1:]), *probe.shape[1:])).random(0.3, 1.7)
    before, found = get(), []
    try:
        for count in (1, 2):
            put(count)
            found.append(probe(x, given, "float32"))
    finally:
        put(before)
    for y in found[1:]:
        if not np.array_equal(y, found[0], equal_nan=True):
            return [finding("thread_dependent_bits", _bits(y, found[0]))]
    return []


def _bits(y: Array, other: Array) -> Evidence:
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(y != other)), y.shape))
    return Evidence(f"y{list(place)} of the same row", repr(float(other[place])), repr(float(y[place])))
