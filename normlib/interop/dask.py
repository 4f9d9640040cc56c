"""The five norms on arrays of Dask, forward and lazily: :class:`dask.array.Array` to the same, in the same chunks.

What holds for all of them:

- Nothing is computed before it is asked for. Dtype, chunks and the names of keys follow from the arguments.
- Where the elements that share a mean lie in one chunk, a chunk goes through the function of NumPy: its bits are those
  of the whole array. (With channels last, one chunk must hold two channels or more for that: a single one is summed as
  channels-first are.)
- Where they span chunks, each chunk gives its :class:`normlib.Moments`, a tree of tasks merges them, and each chunk is
  normalized by the result: within 4 ulps of the formula. The bits follow from the values and from the chunks along what
  is normalized over; not from workers, their number, the order in which they end, or ``split_every`` of Dask's
  configuration.
- `x` is then computed twice, so that no worker has to keep its chunks until the statistics are there. Of what is long
  to compute, and fits in the memory of all workers, ``x.persist()`` saves the second time.
- `weight`, `bias`, running statistics and `where` are arrays of NumPy (what :func:`numpy.asarray` takes) or of Dask,
  these in chunks like those of `x`. Nothing is rechunked unasked: where chunks do not fit, the error says how.
- Elements outside `where` take no part, and are 0 in the result.
"""

from __future__ import annotations

import functools
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.graph_manipulation import clone

from .. import _arguments, ops
from ..description import DTYPES, OPS, Op
from ..moments import Moments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]
    Operand = da.Array | ArrayLike | None

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


def layer_norm(
    x: da.Array,
    weight: Operand = None,
    bias: Operand = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    where: Operand = None,
) -> da.Array:
    """Layer normalization, :func:`normlib.layer_norm`: ``y = (x - mean) / sqrt(var + eps) * weight + bias``.

    Parameters
    ----------
    x : dask.array.Array
        What to normalize: floats, or integers, which are taken as floats.
    weight, bias : array_like or dask.array.Array, optional
        Of the shape of `x` over `axis`.
    axis : int or tuple of int, default -1
        The axes that are normalized over; they may have several chunks.
    eps : float, default 1e-5
        Added to the variance, in the units of `x` squared; 0 for data with units.
    where : array_like or dask.array.Array of bool, optional
        What takes part; broadcast against `x`.

    Returns
    -------
    y : dask.array.Array
        The normalized array, of the shape, dtype and chunks of `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or its chunks; the message says which, what was expected and what came.

    References
    ----------
    Ba, Kiros, Hinton, "Layer Normalization", 2016, arXiv:1607.06450; of the statistics, those of
    :class:`normlib.Moments`.

    Examples
    --------
    >>> import dask.array as da
    >>> from normlib.interop.dask import layer_norm
    >>> x = da.from_array([[1.0, 3.0], [10.0, 30.0]], chunks=(2, 1))
    >>> y = layer_norm(x, eps=0)
    >>> y.chunks, y.dtype
    (((2,), (1, 1)), dtype('float64'))
    >>> y.compute()
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    return _lazy("layer_norm", x, axis, eps, {"weight": weight, "bias": bias, "where": where})


def rms_norm(
    x: da.Array,
    weight: Operand = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-6,
    where: Operand = None,
) -> da.Array:
    """Root mean square normalization, :func:`normlib.rms_norm`: ``y = x / sqrt(mean(x**2) + eps) * weight``.

    See :func:`layer_norm` for the arguments; `eps` is added to the mean square. Where that spans chunks, it is
    ``var + mean**2`` of the merged moments.

    References
    ----------
    Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import dask.array as da
    >>> from normlib.interop.dask import rms_norm
    >>> rms_norm(da.from_array([1.0, 7.0], chunks=1), eps=0).compute()
    array([0.2, 1.4])
    """
    return _lazy("rms_norm", x, axis, eps, {"weight": weight, "where": where})


def batch_norm(
    x: da.Array,
    *,
    weight: Operand = None,
    bias: Operand = None,
    running_mean: Operand = None,
    running_var: Operand = None,
    eps: float = 1e-5,
    channel_axis: int = 1,
    where: Operand = None,
) -> da.Array:
    """Batch normalization, :func:`normlib.batch_norm`: by the mean and variance of each channel of all of `x`, or by
    running ones.

    Parameters
    ----------
    x : dask.array.Array
        What to normalize, of two or more axes; all of them may have several chunks.
    weight, bias : array_like or dask.array.Array, optional
        One value a channel.
    running_mean, running_var : array_like or dask.array.Array, optional
        Statistics to normalize by, one value a channel; both or neither. With them no chunk waits for another. They
        are not updated: :class:`normlib.Moments` gives those of `x`.
    eps, where
        As for :func:`layer_norm`.
    channel_axis : int, default 1
        The axis of the channels; -1 for channels-last.

    Returns
    -------
    y : dask.array.Array
        The normalized array, of the shape, dtype and chunks of `x`.

    References
    ----------
    Ioffe, Szegedy, "Batch Normalization", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import dask.array as da
    >>> from normlib.interop.dask import batch_norm
    >>> x = da.from_array([[1.0, 10.0], [3.0, 30.0]], chunks=1)
    >>> batch_norm(x, eps=0, bias=[0.0, 5.0]).compute()
    array([[-1.,  4.],
           [ 1.,  6.]])
    """
    operands = {"weight": weight, "bias": bias, "where": where}
    running = {"running_mean": running_mean, "running_var": running_var}
    for name, value in running.items():
        if value is None and any(other is not None for other in running.values()):
            raise ValueError(f"batch_norm: {name} is None, expected both running_mean and running_var or neither")
    return _lazy("batch_norm", x, channel_axis, eps, operands | running)


def group_norm(
    x: da.Array,
    num_groups: int,
    weight: Operand = None,
    bias: Operand = None,
    *,
    eps: float = 1e-5,
    channel_axis: int = 1,
    where: Operand = None,
) -> da.Array:
    """Group normalization, :func:`normlib.group_norm`: a mean and variance for each group of channels of a sample.

    Parameters
    ----------
    x : dask.array.Array
        What to normalize, of two or more axes; all of them may have several chunks, which need not end where a group
        does. The samples lie along the first axis other than `channel_axis`.
    num_groups : int
        A divisor of the number of channels.
    weight, bias : array_like or dask.array.Array, optional
        One value a channel.
    eps, channel_axis, where
        As for :func:`batch_norm`.

    Returns
    -------
    y : dask.array.Array
        The normalized array, of the shape, dtype and chunks of `x`.

    References
    ----------
    Wu, He, "Group Normalization", 2018, arXiv:1803.08494.

    Examples
    --------
    >>> import dask.array as da
    >>> from normlib.interop.dask import group_norm
    >>> group_norm(da.from_array([[1.0, 3.0, 10.0, 30.0]], chunks=(1, 3)), 2, eps=0).compute()
    array([[-1.,  1., -1.,  1.]])
    """
    operands = {"weight": weight, "bias": bias, "where": where}
    return _lazy("group_norm", x, channel_axis, eps, operands, num_groups)


def instance_norm(
    x: da.Array,
    *,
    weight: Operand = None,
    bias: Operand = None,
    eps: float = 1e-5,
    channel_axis: int = 1,
    where: Operand = None,
) -> da.Array:
    """Instance normalization, :func:`normlib.instance_norm`: a mean and variance for each channel of a sample.

    See :func:`group_norm` for the arguments.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, "Instance Normalization", 2016, arXiv:1607.08022.

    Examples
    --------
    >>> import dask.array as da
    >>> from normlib.interop.dask import instance_norm
    >>> instance_norm(da.from_array([[[1.0, 3.0], [10.0, 30.0]]], chunks=1), eps=0).compute()
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return _lazy("instance_norm", x, channel_axis, eps, {"weight": weight, "bias": bias, "where": where})


class _Norm(NamedTuple):
    """A norm of an array in chunks: what its tasks need to know."""

    name: str
    axis: Any
    eps: float
    numblocks: tuple[int, ...]
    num_groups: int = 0
    channels: tuple[int, ...] = ()  # the chunks along the channels, of a group norm

    @property
    def op(self) -> Op:
        return OPS[self.name]

    @property
    def over(self) -> tuple[int, ...]:
        """The axes that share a mean; in a group norm also some channels do."""
        return self.op.reduced_axes(len(self.numblocks), self.axis)

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes that moments are taken over."""
        return tuple(sorted({*self.over, self.axis})) if self.num_groups else self.over

    @property
    def group_size(self) -> int:
        return sum(self.channels) // self.num_groups

    @property
    def spanned(self) -> tuple[int, ...]:
        """The axes along which what shares a mean spans chunks."""
        whole = not self.num_groups or all(n == 0 or n % self.group_size == 0 for n in self.channels)
        return tuple(a for a in self.reduced if self.numblocks[a] > 1 and (a in self.over or not whole))

    def pieces(self, block: tuple[int, ...]) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
        """What a chunk has of each group: the group, which of its chunks this is, and where it stands in the chunk."""
        everything = [slice(None)] * len(self.numblocks)
        if not self.num_groups:
            yield 0, 0, tuple(everything)
            return
        at, size, bounds = block[self.axis], self.group_size, [0, *itertools.accumulate(self.channels)]
        start, stop = bounds[at], bounds[at + 1]
        for group in range(start // size, math.ceil(stop / size)):
            channels = slice(max(0, group * size - start), min(stop, (group + 1) * size) - start)
            here = (*everything[: self.axis], channels, *everything[self.axis + 1 :])
            yield group, at - (bisect_right(bounds, group * size) - 1), here


# -- the graph ----


def _lazy(
    name: str, x: da.Array, axis: Any, eps: float, operands: Mapping[str, Operand], num_groups: int | None = None
) -> da.Array:
    norm, dtype = _checked(name, x, axis, eps, num_groups)
    arrays = {"x": x}
    for key, value in operands.items():
        if value is not None:
            arrays[key] = _mask(name, value, x) if key == "where" else _parameter(norm, key, value, x, dtype)
    if not norm.spanned or "running_mean" in arrays or x.size == 0:
        return _map(_whole, name, norm, arrays, x.chunks, dtype)
    data = {key: arrays[key] for key in ("x", "where") if key in arrays}
    cells = _map(_moments, f"{name}_moments", norm, data, tuple((1,) * n for n in x.numblocks), np.dtype(object))
    cells = da.reduction(
        cells, chunk=_merged, aggregate=_merged, axis=norm.spanned, keepdims=True, dtype=object, name=f"{name}_moments",
        meta=cells._meta,
    )  # fmt: skip
    again = clone(data, seed=__name__)  # other keys: else Dask would keep x until all of its moments are there
    return _map(_by_moments, name, norm, {"x": x, "cells": cells} | arrays | again, x.chunks, dtype)


def _map(step: Any, prefix: str, norm: _Norm, arrays: Mapping[str, da.Array], chunks: Any, dtype: Any) -> da.Array:
    """`step` of each chunk and what lies beside it; axes of one chunk are broadcast."""
    function = functools.partial(step, norm, tuple(arrays))
    meta = np.empty((0,) * len(norm.numblocks), dtype)
    name = f"{prefix}-{tokenize(function, *arrays.values())}"
    return da.map_blocks(function, *arrays.values(), name=name, chunks=chunks, dtype=dtype, meta=meta)


def _checked(name: str, x: da.Array, axis: Any, eps: float, num_groups: int | None) -> tuple[_Norm, np.dtype[Any]]:
    """The norm, and the dtype of its result."""
    if not isinstance(x, da.Array):
        way = "dask.array.from_array(x, chunks=...)"
        raise TypeError(f"{name}: x is a {type(x).__name__}, expected an array of Dask: {way}")
    if type(x._meta) is not np.ndarray:
        words = f"x has chunks of {type(x._meta).__name__}, expected arrays of NumPy"
        raise TypeError(f"{name}: {words}; of masked ones da.ma.getdata(x), with where=~da.ma.getmaskarray(x)")
    op = OPS[name]
    dtype = _arguments.array(name, np.empty(0, x.dtype)).dtype
    if x.ndim < (1 if op.of_features else 2):
        words = "one axis" if op.of_features else "2 axes"
        raise ValueError(f"{name}: x has shape {x.shape}, expected at least {words}")
    axis = (_arguments.axes if op.of_features else _arguments.channel)(name, axis, x.ndim)
    norm = _Norm(name, axis, _arguments.epsilon(name, eps), x.numblocks)
    if op.has_groups:
        _check_known(name, "x", x, [axis])
        num_groups = _arguments.groups(name, num_groups, x.shape[axis])
        norm = norm._replace(num_groups=num_groups, channels=x.chunks[axis])
    if op.per_sample:
        _arguments.warn_of_rows(name, x, axis)
    return norm, dtype


def _check_known(name: str, key: str, value: da.Array, axes: Iterable[int]) -> None:
    unknown = [a for a in axes if math.isnan(value.shape[a])]
    if unknown:
        words = f"{key} has chunks of unknown sizes along its axes {unknown}, expected known ones"
        raise ValueError(f"{name}: {words}: {key}.compute_chunk_sizes()")


def _check_chunks(name: str, key: str, value: da.Array, x: da.Array, axes: Mapping[int, int]) -> None:
    """An error where the chunks of `value` along its axes are not those of `x` along the axes beside them."""
    wrong = [a for a, b in axes.items() if not np.array_equal(value.chunks[a], x.chunks[b], equal_nan=True)]
    if wrong:
        way = ", ".join(f"{a}: x.chunks[{axes[a]}]" for a in wrong)
        words = f"{key} has other chunks than x along its axes {wrong}, expected the same"
        raise ValueError(f"{name}: {words}: {key}.rechunk({{{way}}})")


def _parameter(norm: _Norm, key: str, value: Any, x: da.Array, dtype: np.dtype[Any]) -> da.Array:
    """A parameter with the axes of `x`, of size 1 but for its own."""
    op, name, axes = norm.op, norm.name, norm.over if norm.op.of_features else (norm.axis,)
    lazy = isinstance(value, da.Array)
    _check_known(name, "x", x, axes)
    if lazy:
        _check_known(name, key, value, range(value.ndim))
    shape = tuple(x.shape[a] for a in axes)
    words = f"the {'shape of x over' if op.of_features else 'size of x along'} {op.axis_name}={norm.axis}"
    like = np.zeros(value.shape, value.dtype) if lazy else value
    if key.startswith("running"):
        like = _arguments.statistic(name, key, like, shape, words, DTYPES)
    else:
        like, _ = _arguments.weight_and_dtype(name, key, like, np.empty(0, dtype), (shape, ()), words)
    if lazy:
        _check_chunks(name, key, value, x, dict(enumerate(axes)))
    else:
        value = da.from_array(like, chunks=tuple(x.chunks[a] for a in axes))
    return value[tuple(slice(None) if a in axes else np.newaxis for a in range(x.ndim))]


def _mask(name: str, value: Any, x: da.Array) -> da.Array:
    """`where` with the axes of `x`, of their size or 1."""
    lazy = isinstance(value, da.Array)
    value = value if lazy else _arguments.convert(name, "where", value)
    if value.dtype != bool:
        raise TypeError(f"{name}: where has dtype {value.dtype}, expected bool")
    missing = x.ndim - value.ndim
    beside = {a: missing + a for a, n in enumerate(value.shape) if n != 1}
    if not lazy and missing >= 0:
        _check_known(name, "x", x, beside.values())
    sizes = [value.shape[a] for a in beside], [x.shape[a] for a in beside.values() if a >= 0]
    if missing < 0 or not np.array_equal(*sizes, equal_nan=lazy):
        words = f"expected one that broadcasts to {x.shape}, the shape of x"
        raise ValueError(f"{name}: where has shape {value.shape}, {words}")
    if lazy:
        _check_chunks(name, "where", value, x, beside)
    else:
        chunks = tuple(x.chunks[missing + a] if a in beside else (1,) for a in range(value.ndim))
        value = da.from_array(value, chunks=chunks)
    return value[(np.newaxis,) * missing]


# -- what tasks do ----


def _whole(norm: _Norm, names: tuple[str, ...], *arrays: Array) -> Array:
    """The norm of a chunk with all that its means are of."""
    given: dict[str, Any] = dict(zip(names, arrays, strict=True))
    x = given["x"]
    shape = norm.op.parameter_shape(x.shape, norm.axis)
    for key in given.keys() - {"x", "where"}:
        given[key] = given[key].reshape(shape)
    if norm.num_groups:
        given["num_groups"] = x.shape[norm.axis] // norm.group_size if x.size else 1
    return getattr(ops, norm.name)(**given, **{norm.op.axis_name: norm.axis}, eps=norm.eps)


def _moments(norm: _Norm, names: tuple[str, ...], *arrays: Array, block_id: tuple[int, ...]) -> Array:
    """One cell: the moments of what a chunk has of each group."""
    given = dict(zip(names, arrays, strict=True))
    x, where = given["x"], given.get("where")
    kept = tuple(a for a in range(x.ndim) if a not in norm.reduced)
    order, axes = kept + norm.reduced, tuple(range(len(kept), x.ndim))
    cell = {}
    for group, index, here in norm.pieces(block_id):
        for a in norm.over:
            index = index * norm.numblocks[a] + block_id[a]
        inside = None if where is None else np.broadcast_to(where, x.shape)[here].transpose(order)
        rows = np.ascontiguousarray(x[here].transpose(order))  # bits follow from the order in memory
        cell[group] = Moments(axes).update(rows, where=inside, index=index)
    cells = np.empty((1,) * x.ndim, object)
    cells.fill(cell)
    return cells


def _joined(a: dict[int, Moments], b: dict[int, Moments]) -> dict[int, Moments]:
    total: dict[int, Moments] = {}
    for cell in (a, b):
        for group, moments in cell.items():
            total.setdefault(group, Moments(moments.axis)).merge(moments)
    return total


_join = np.frompyfunc(_joined, 2, 1)


def _merged(cells: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """Cells along `axis` as one: in any order, since their chunks have indices."""
    for a in axis:
        cells = _join.reduce(cells, axis=a, keepdims=keepdims)
    return cells


def _by_moments(norm: _Norm, names: tuple[str, ...], *arrays: Array, block_id: tuple[int, ...]) -> Array:
    """The norm of a chunk by moments of more than the chunk."""
    given: dict[str, Any] = dict(zip(names, arrays, strict=True))
    x, where, weight, bias = (given.get(key) for key in ("x", "where", "weight", "bias"))
    dtype = _arguments.computed(x.dtype)
    if not x.size:
        return x.astype(dtype)
    statistics = _statistics(norm, given["cells"].item(), block_id)
    if norm.op.of_channels:
        return _evaluated(norm, x, where, statistics, weight, bias, dtype)
    y = _evaluated(norm, x, where, statistics, None, None, np.result_type(dtype, np.float32))
    with np.errstate(all="ignore"):
        if weight is not None:
            y *= weight
        if bias is not None:
            y += bias if where is None else np.where(where, bias, 0)
        return y.astype(dtype, copy=False)


@_arguments.quietly
def _statistics(norm: _Norm, cell: dict[int, Moments], block: tuple[int, ...]) -> Array:
    """Mean, what its rounding has lost, and variance, with the axes of x, of size 1 where they are shared."""
    found = []
    for group, _, here in norm.pieces(block):
        node = cell[group]._total()
        _, mean, var = node.results()
        values = np.stack([mean, node.mean.tail, var])
        if "mean" not in norm.op.statistics:
            values = np.stack([mean * 0, mean * 0, var + mean * mean])
        values = np.expand_dims(values, [a + 1 for a in norm.reduced])
        if norm.num_groups:
            channels = here[norm.axis]
            values = np.repeat(values, channels.stop - channels.start, axis=norm.axis + 1)
        found.append(values)
    return np.concatenate(found, axis=norm.axis + 1) if norm.num_groups else found[0]


def _evaluated(
    norm: _Norm, x: Array, where: Array | None, statistics: Array, weight: Any, bias: Any, dtype: np.dtype[Any]
) -> Array:
    """The batch norm whose channels are all that has a mean of its own, by given statistics.

    Of a float64 far from zero, x - mean is exact where mean is rounded to float64; what that has lost goes with the
    bias.
    """
    mean, lost, var = statistics
    with np.errstate(all="ignore"):
        scale = (1 if weight is None else weight) / np.sqrt(var + norm.eps)
        bias = (0 if bias is None else bias) - lost * scale
    over = tuple(a for a in range(x.ndim) if a in norm.over)
    kept = tuple(a for a in range(x.ndim) if a not in norm.over)
    shape = [n if a in kept else 1 for a, n in enumerate(x.shape)]
    names = ("weight", "bias", "running_mean", "running_var")
    values = zip(names, (weight, bias, mean, var), strict=True)
    given = {name: np.broadcast_to(value, shape).ravel() for name, value in values if value is not None}
    if where is not None:
        given["where"] = np.broadcast_to(where, x.shape)
    if len(kept) == 1:
        return ops.batch_norm(x, **given, channel_axis=kept[0], eps=norm.eps, out_dtype=dtype)
    order, channels = kept + over, math.prod(shape)
    if where is not None:
        given["where"] = given["where"].transpose(order).reshape(channels, -1)
    moved = x.transpose(order)
    y = ops.batch_norm(moved.reshape(channels, -1), **given, channel_axis=0, eps=norm.eps, out_dtype=dtype)
    return y.reshape(moved.shape).transpose(np.argsort(order))
