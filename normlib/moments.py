"""Count, mean and variance of data that come in chunks, on one machine or many: merged exactly, in a fixed order."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from . import _arguments, _arrays, ops
from ._pairs import Pair, two_product, two_sum

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = ["Moments"]

LOT = 1 << 16  # elements that are widened at once, where rows are shorter


class _Node(NamedTuple):
    """The moments of some neighbouring chunks: counts, means, sums of squares about the means."""

    n: Array
    mean: Pair
    squares: Pair

    def joined(self, other: _Node) -> _Node:
        """Chan, Golub and LeVeque: with d the difference of the means, d^2 n m / (n + m) comes to the squares."""
        total = self.n + other.n
        n, m, whole = (np.asarray(count, np.float64) for count in (self.n, other.n, np.maximum(total, 1)))
        difference, zero = other.mean + -self.mean, np.zeros_like(whole)
        mean = self.mean + (difference * Pair(m, zero)).over(whole)
        squares = self.squares + other.squares + (difference * difference * Pair(n * m, zero)).over(whole)
        return _Node(total, mean, squares)

    def results(self) -> tuple[Array, Array, Array]:
        """Count, mean and variance; NaN where there is nothing."""
        with np.errstate(all="ignore"):
            var = self.squares.over(np.maximum(self.n, 1).astype(np.float64)).head
        there = self.n > 0
        return self.n.copy(), np.where(there, self.mean.head, np.nan), np.where(there, var, np.nan)


class Moments:
    """Count, mean and variance of data in chunks.

    Chunks have indices. They are merged two by two, as the leaves of one binary tree over all indices, whoever computed
    which, in whatever order: so the bits of the result depend on the chunks alone. A tree holds at most two nodes a
    level: that is all that is kept and pickled.

    Means and sums of squares are pairs of float64, and merged by the corrected formulas of Chan, Golub and LeVeque: the
    results are within 4 ulps of those of all data at once, also where means are a million standard deviations from
    zero, and where they drift from chunk to chunk.

    Parameters
    ----------
    axis : int or sequence of int, optional
        The axes over which moments are taken; by default all.
    channel_axis : int, optional
        The one axis that stays, as of the channels of a batch norm; in the place of `axis`.

    References
    ----------
    Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> x = np.arange(12.0).reshape(6, 2)
    >>> here, there = normlib.Moments(channel_axis=1), normlib.Moments(channel_axis=1)
    >>> here = here.update(x[:2], index=0).update(x[4:], index=2)
    >>> there = there.update(x[2:4], index=1)
    >>> total = here.merge(there)
    >>> total.count.tolist(), total.mean.tolist(), total.var.round(3).tolist()
    ([6, 6], [5.0, 6.0], [11.667, 11.667])
    """

    def __init__(self, axis: int | tuple[int, ...] | None = None, *, channel_axis: int | None = None) -> None:
        if axis is not None and channel_axis is not None:
            raise TypeError("Moments: axis and channel_axis are given, expected one of them")
        self.axis, self.channel_axis = axis, channel_axis
        self._nodes: dict[tuple[int, int], _Node] = {}  # (level, i): the chunks from i * 2**level on, 2**level of them
        self._next = 0
        self._indexed = False  # whether chunks were given indices

    def update(self, x: ArrayLike, *, where: ArrayLike | None = None, index: int | None = None) -> Self:
        """Take in a chunk; returns the moments.

        Parameters
        ----------
        x : array_like
            The chunk, of the same kept axes each time. What is masked in a masked array is left out.
        where : array_like of bool, optional
            Which elements count; broadcast against `x`.
        index : int, optional
            Which chunk it is, from 0 on; by default the one after all that are here.
        """
        place = "Moments.update"
        at = self._next if index is None else _arguments.integer(place, "index", index)
        if at < 0:
            raise ValueError(f"{place}: index is {at}, expected an int from 0 on")
        masked = ~np.ma.getmaskarray(x) if isinstance(x, np.ma.MaskedArray) else None
        array: Array = _arguments.array(place, _arrays.numpy_of(place, "x", x), ndim=0)
        inside = masked
        if where is not None:
            given = _arguments.mask(place, "where", _arrays.numpy_of(place, "where", where), array)
            inside = given if masked is None else given & masked
        self._put({(0, at): self._leaf(place, array, inside)}, place)
        self._indexed |= index is not None
        return self

    def merge(self, other: Moments) -> Self:
        """Take in the chunks of other moments, which have other indices; returns the moments, and leaves `other` as it
        is.

        Where neither was given indices, the chunks of `other` come after those that are here, as one.
        """
        place = "Moments.merge"
        if not isinstance(other, Moments):
            raise TypeError(f"{place}: other is a {type(other).__name__}, expected Moments")
        if self._nodes and other._nodes and not (self._indexed or other._indexed):
            self._put({(0, self._next): other._total()}, place)
        else:
            self._put(other._nodes, place)
            self._indexed |= other._indexed
        return self

    @property
    def count(self) -> Any:
        """How many elements were taken in, for each mean: an array of int64, of no axes if all are reduced."""
        return self._total().results()[0]

    @property
    def mean(self) -> Any:
        """The mean in float64; NaN where there is nothing."""
        return self._total().results()[1]

    @property
    def var(self) -> Any:
        """The biased variance in float64; NaN where there is nothing. Times count / (count - 1) it is the unbiased
        one."""
        return self._total().results()[2]

    def __repr__(self) -> str:
        over = f"channel_axis={self.channel_axis}" if self.channel_axis is not None else f"axis={self.axis}"
        return f"Moments({over}), {self._next} chunks"

    # -- the tree ----

    def _put(self, nodes: dict[tuple[int, int], _Node], place: str) -> None:
        """Insert nodes, all or none; two that are neighbours become one of the level above."""
        shapes = {node.n.shape for node in (*self._nodes.values(), *nodes.values())}
        if len(shapes) > 1:
            new, old = (next(iter(some.values())).n.shape for some in (nodes, self._nodes))
            raise ValueError(f"{place}: the axes that stay have shape {new}, expected {old} as before")
        spans = sorted((i << level, (i + 1) << level) for level, i in (*self._nodes, *nodes))
        for (_, stop), (start, _) in itertools.pairwise(spans):
            if start < stop:
                raise ValueError(f"{place}: chunk {start} is there already, expected another index")
        for (level, i), node in sorted(nodes.items()):
            while (pair := self._nodes.pop((level, i ^ 1), None)) is not None:
                node = pair.joined(node) if i % 2 else node.joined(pair)
                level, i = level + 1, i // 2
            self._nodes[level, i] = node
        self._next = max(self._next, *(stop for _, stop in spans), 0)

    def _total(self) -> _Node:
        if not self._nodes:
            raise ValueError("Moments: there is no chunk, expected update(x) before")
        first, *others = (node for _, node in sorted(self._nodes.items(), key=lambda item: item[0][1] << item[0][0]))
        for node in others:
            first = first.joined(node)
        return first

    # -- a chunk ----

    def _leaf(self, place: str, x: Array, inside: Array | None) -> _Node:
        x = x.reshape(1) if x.ndim == 0 else x
        if self.channel_axis is not None:
            stays = {_arguments.channel(place, self.channel_axis, x.ndim)}
        else:
            axes = range(x.ndim) if self.axis is None else _arguments.axes(place, self.axis, x.ndim)
            stays = set(range(x.ndim)) - set(axes)
        order = [*sorted(stays), *(i for i in range(x.ndim) if i not in stays)]
        kept = tuple(x.shape[i] for i in sorted(stays))
        count = math.prod(kept)
        rows = x.transpose(order).reshape(count, x.size // max(1, count))
        if inside is not None:
            inside = np.broadcast_to(inside, x.shape).transpose(order).reshape(rows.shape)
        n = np.full(count, rows.shape[1]) if inside is None else inside.sum(axis=1)
        found = np.empty((4, count))
        step = max(1, LOT // max(1, rows.shape[1]))
        for i in range(0, count, step):
            lot = slice(i, i + step)
            found[:, lot] = _about_mean(rows[lot].astype(np.float64), None if inside is None else inside[lot], n[lot])
        mean, mean_tail, squares, squares_tail = found.reshape(4, *kept)
        return _Node(n.astype(np.int64).reshape(kept), Pair(mean, mean_tail), Pair(squares, squares_tail))


def statistics(x: Array, channel_axis: int, more: dict[str, Any]) -> tuple[Array, Array, Array]:
    """The batch norm of `x`, and mean and unbiased variance of its channels: running ones, replaced by the batch's."""
    mean, var = np.zeros(x.shape[channel_axis]), np.zeros(x.shape[channel_axis])
    running: dict[str, Any] = {"running_mean": mean, "running_var": var, "training": True, "momentum": 1.0}
    return ops.batch_norm(x, **running, channel_axis=channel_axis, eps=1.0, **more), mean, var


def _about_mean(rows: Array, inside: Array | None, count: Array) -> tuple[Array, ...]:
    """The means of rows, and the sums of squares about them, as pairs; `rows` is written to. About a first mean a batch
    norm loses nothing.
    """
    there = True if inside is None else inside
    with np.errstate(all="ignore"):
        first = rows.sum(axis=1, where=there) / np.maximum(count, 1)
        first = np.where(np.isfinite(first), first, 0)
        rows -= first[:, None]
        mean, var = np.zeros(len(rows)), np.zeros(len(rows))
        if (count > 1).any():
            _, mean, var = statistics(rows, 0, {} if inside is None else {"where": inside})
        alone = count < 2
        mean[alone], var[alone] = rows.sum(axis=1, where=there)[alone], 0
        return *two_sum(first, mean), *two_product(var, np.maximum(count - 1, 0).astype(np.float64))
