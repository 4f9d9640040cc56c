"""Sums whose bits depend on their terms alone: not on their order, nor on how many have shared the work.

A term is cut at fixed places, the powers of two 2**(WIDTH * k), into integers: whichever terms come together, each is
cut at the same places, and integers are added without rounding. Of a sum, the bins are kept from that of the largest
term on, three of them, or four for float64: what is cut off is less than 2**-60, or 2**-90, of the largest term.

Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", 2013; Ahrens, Demmel and Nguyen, "Algorithms for
Efficient Reproducible Floating Point Summation", 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import backends
from ._pairs import Pair, quick_sum, two_product

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

WIDTH = 30  # bits of a bin
LOWEST = -31  # the top bin of a sum of nothing
LIMIT = 2.0**989  # what is larger counts as infinite
TERMS = 1 << 33  # of a sum, at most
LOT = 1 << 16  # elements that are widened at once


class Sums(NamedTuple):
    """Some sums. Terms lie below ``2**(WIDTH * top - 1)``; bin k counts ``2**(WIDTH * (top - 1 - k))``."""

    top: Array  # int64
    bins: Array  # int64, the folds along the first axis
    special: Array  # float64: the sum of the terms that are not finite

    @staticmethod
    def joined(top: Array, bins: Array, special: Array) -> Sums:
        """The sums of all parts along the first axis of these arrays."""
        if len(top) == 1:
            return Sums(top[0], bins[0], special[0])
        most = top.max(axis=0)
        lower, folds = (most - top)[:, None], bins.shape[1]  # by so many bins all that a part has lies lower
        bins = np.concatenate((np.zeros_like(bins), bins), axis=1)
        source = np.maximum(folds + np.arange(folds).reshape(1, -1, *[1] * most.ndim) - lower, 0)
        with np.errstate(invalid="ignore"):
            return Sums(most, np.take_along_axis(bins, source, axis=1).sum(axis=0), special.sum(axis=0))

    def total(self) -> Pair:
        """The sums in twice the precision of float64."""
        total = Pair(np.zeros(self.top.shape), np.zeros(self.top.shape))
        for k, bins in enumerate(self.bins):
            unit = WIDTH * (self.top - 1 - k)
            halves = (bins >> 32 << 32, bins & 0xFFFFFFFF)  # which a float64 holds
            total += Pair(*quick_sum(*(np.ldexp(half.astype(np.float64), unit) for half in halves)))
        return Pair(np.where(self.special == 0, total.head, self.special), total.tail)


def sums(x: Array, dy: Array | None = None, mean: Array | None = None, rstd: Array | None = None) -> Sums:
    """For each channel the sums of x and of x**2; with dy those of dy and of dy * z, where z = (x - mean) * rstd.

    Parameters
    ----------
    x, dy : ndarray of shape (samples, channels, positions)
        Both of one of the four dtypes.
    mean, rstd : ndarray of float64 of shape (channels,)
        For `dy`.

    Returns
    -------
    Sums
        Of shape (2, channels).
    """
    folds = 4 if x.dtype == np.float64 else 3
    if backends.active().name == "cython":
        from ._kernels.sums import sums as compiled

        top, bins, special = compiled(x, dy, mean, rstd)
        return Sums.joined(top, bins[:, :folds], special)
    samples, channels, positions = x.shape
    many = max(1, LOT // max(1, channels * positions))
    long = max(1, LOT // max(1, channels))
    found = [_sums_of(np.empty((2, channels, 0)), folds)]
    for i in range(0, samples, many):
        for j in range(0, positions, long):
            lot = slice(i, i + many), slice(None), slice(j, j + long)
            terms = _widened(x[lot])
            if dy is not None:
                assert mean is not None
                assert rstd is not None
                slope = _widened(dy[lot])
                with np.errstate(all="ignore"):
                    found.append(_sums_of(np.stack((slope, slope * ((terms - mean[:, None]) * rstd[:, None]))), folds))
                continue
            with np.errstate(all="ignore"):
                squares, lost = two_product(terms, terms)
                lost[~(squares <= LIMIT)] = 0
                if folds == 4:
                    found.append(_sums_of(np.stack((np.zeros_like(lost), lost)), folds))
                found.append(_sums_of(np.stack((terms, squares)), folds))
    return Sums.joined(*map(np.stack, zip(*found, strict=True)))


def _widened(a: Array) -> Array:
    """Channels, and their elements in float64."""
    return a.transpose(1, 0, 2).reshape(a.shape[1], a.shape[0] * a.shape[2]).astype(np.float64)


def _sums_of(terms: Array, folds: int) -> Sums:
    """The sums over the last axis, of which `terms` is written to."""
    strange = ~(np.abs(terms) <= LIMIT)
    special = np.where(np.isnan(terms), terms, np.copysign(np.inf, terms))
    with np.errstate(invalid="ignore"):
        special = special.sum(axis=-1, where=strange)
    terms[strange] = 0
    most = np.abs(terms).max(axis=-1, initial=0)
    exponent = np.frexp(most * (1 - 2.0**-53))[1]  # a power of two fits too where it is the bound
    top = np.where(most == 0, LOWEST, np.maximum(-(-(exponent + 1) // WIDTH), LOWEST)).astype(np.int64)
    bins = np.zeros((folds, *top.shape), np.int64)
    for k in range(folds):
        unit = WIDTH * (top - 1 - k)
        grid = np.ldexp(1.5, 52 + unit)[..., None]
        part = (terms + grid) - grid
        terms -= part
        bins[k] = np.ldexp(part.sum(axis=-1), -unit).astype(np.int64)
    return Sums(top, bins, special)
