"""The five norms on labelled arrays: dimensions by name, for :class:`xarray.DataArray` and :class:`xarray.Dataset`.

What holds for all of them:

- Coordinates, names, attributes and the order of the dimensions are those of `x`. Attributes are dropped where
  ``xarray.set_options(keep_attrs=False)`` says so. Among those that stay is ``units``, of which a norm leaves nothing.
- In a Dataset each numeric variable that has the named dimensions is normalized; the others stay as they are.
  `weight`, `bias` and `where` may be Datasets too, with a variable for each.
- Parameters and `where` that are DataArrays find their dimensions by name. Their labels must be those of `x`, in its
  order: nothing is filled in or left out, as an arithmetic join would.
- Elements outside `where` take no part, and are NaN in the result, as in :meth:`xarray.DataArray.where`.
- Arrays of Dask stay lazy. What shares a mean must lie in one chunk; the other dimensions may be chunked at will. For
  ``x.data`` in other chunks there is :mod:`normlib.interop.dask`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterable, Mapping
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import xarray as xr

from .. import _arguments, ops

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]
    Operand = xr.DataArray | xr.Dataset | ArrayLike | None

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]

Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)
Dims = Hashable | Iterable[Hashable]


def layer_norm(
    x: Labelled,
    dim: Dims | EllipsisType,
    *,
    weight: Operand = None,
    bias: Operand = None,
    eps: float = 1e-5,
    where: Operand = None,
) -> Labelled:
    """Layer normalization along named dimensions, :func:`normlib.layer_norm`: mean 0 and variance 1.

    Parameters
    ----------
    x : xarray.DataArray or xarray.Dataset
        What to normalize: floats, or integers, which are taken as floats.
    dim : str or iterable of str
        The dimensions that are normalized over; ``...`` for all.
    weight, bias : xarray.DataArray or array_like, optional
        By what the result is multiplied, and what is then added. A DataArray has any dimensions of `x`, a plain array
        those of `dim`, in the order in which they are named there.
    eps : float, default 1e-5
        Added to the variance, in the units of `x` squared; 0 for data with units.
    where : xarray.DataArray or array_like of bool, optional
        What takes part: ``x.notnull()`` where values are missing. A plain array has the dimensions of `x`.

    Returns
    -------
    y : xarray.DataArray or xarray.Dataset
        The normalized array, labelled as `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    Examples
    --------
    >>> import xarray as xr
    >>> from normlib.interop.xarray import layer_norm
    >>> x = xr.DataArray([[1.0, 10.0], [3.0, 30.0]], dims=["time", "site"], coords={"site": ["a", "b"]}, name="level")
    >>> layer_norm(x, "time", eps=0)
    <xarray.DataArray 'level' (time: 2, site: 2)> Size: 32B
    array([[-1., -1.],
           [ 1.,  1.]])
    Coordinates:
      * site     (site) <U1 8B 'a' 'b'
    Dimensions without coordinates: time
    """
    operands = {"weight": weight, "bias": bias, "where": where}
    return _Norm("layer_norm", dim, (), {"eps": eps}).of(x, operands)


def rms_norm(
    x: Labelled, dim: Dims | EllipsisType, *, weight: Operand = None, eps: float = 1e-6, where: Operand = None
) -> Labelled:
    """Root mean square normalization along named dimensions, :func:`normlib.rms_norm`.

    See :func:`layer_norm` for the arguments; `eps` is added to the mean square.

    Examples
    --------
    >>> import xarray as xr
    >>> from normlib.interop.xarray import rms_norm
    >>> rms_norm(xr.DataArray([1.0, 7.0], dims="time"), "time", eps=0).values
    array([0.2, 1.4])
    """
    return _Norm("rms_norm", dim, (), {"eps": eps}).of(x, {"weight": weight, "where": where})


def batch_norm(
    x: Labelled,
    channel_dim: Hashable,
    *,
    weight: Operand = None,
    bias: Operand = None,
    eps: float = 1e-5,
    where: Operand = None,
) -> Labelled:
    """Batch normalization, :func:`normlib.batch_norm` with the statistics of `x`: a mean and variance for each channel.

    Parameters
    ----------
    x : xarray.DataArray or xarray.Dataset
        What to normalize, of two dimensions or more.
    channel_dim : str
        The dimension of the channels, such as the bands of a picture. Means are those over all the others.
    weight, bias : xarray.DataArray or array_like, optional
        One value a channel.
    eps, where
        As for :func:`layer_norm`.

    Returns
    -------
    y : xarray.DataArray or xarray.Dataset
        The normalized array, labelled as `x`.

    Examples
    --------
    >>> import xarray as xr
    >>> from normlib.interop.xarray import batch_norm
    >>> x = xr.DataArray([[1.0, 10.0], [3.0, 30.0]], dims=["time", "band"])
    >>> batch_norm(x, "band", eps=0, bias=[0.0, 5.0]).values
    array([[-1.,  4.],
           [ 1.,  6.]])
    """
    operands = {"weight": weight, "bias": bias, "where": where}
    return _Norm("batch_norm", channel_dim, (), {"eps": eps}).of(x, operands)


def group_norm(
    x: Labelled,
    num_groups: int,
    channel_dim: Hashable,
    *,
    sample_dim: Dims = (),
    weight: Operand = None,
    bias: Operand = None,
    eps: float = 1e-5,
    where: Operand = None,
) -> Labelled:
    """Group normalization, :func:`normlib.group_norm`: a mean and variance for each group of channels of a sample.

    Parameters
    ----------
    x : xarray.DataArray or xarray.Dataset
        What to normalize.
    num_groups : int
        Into how many groups of neighbours the channels are shared out.
    channel_dim : str
        The dimension of the channels.
    sample_dim : str or iterable of str, optional
        The dimensions of samples, which are normalized apart; without them `x` is one sample.
    weight, bias : xarray.DataArray or array_like, optional
        One value a channel.
    eps, where
        As for :func:`layer_norm`.

    Returns
    -------
    y : xarray.DataArray or xarray.Dataset
        The normalized array, labelled as `x`.

    Examples
    --------
    >>> import xarray as xr
    >>> from normlib.interop.xarray import group_norm
    >>> x = xr.DataArray([[1.0, 3.0, 10.0, 30.0]], dims=["time", "band"])
    >>> group_norm(x, 2, "band", sample_dim="time", eps=0).values
    array([[-1.,  1., -1.,  1.]])
    """
    operands = {"weight": weight, "bias": bias, "where": where}
    return _Norm("group_norm", channel_dim, sample_dim, {"eps": eps, "num_groups": num_groups}).of(x, operands)


def instance_norm(
    x: Labelled,
    channel_dim: Hashable,
    *,
    sample_dim: Dims = (),
    weight: Operand = None,
    bias: Operand = None,
    eps: float = 1e-5,
    where: Operand = None,
) -> Labelled:
    """Instance normalization, :func:`normlib.instance_norm`: a mean and variance for each channel of a sample.

    See :func:`group_norm` for the arguments.

    Examples
    --------
    >>> import xarray as xr
    >>> from normlib.interop.xarray import instance_norm
    >>> x = xr.DataArray([[[1.0, 10.0], [3.0, 30.0]]], dims=["time", "x", "band"])
    >>> instance_norm(x, "band", sample_dim="time", eps=0).values
    array([[[-1., -1.],
            [ 1.,  1.]]])
    """
    operands = {"weight": weight, "bias": bias, "where": where}
    return _Norm("instance_norm", channel_dim, sample_dim, {"eps": eps}).of(x, operands)


class _Norm(NamedTuple):
    """A norm, the dimensions of its rows or of its channels, and those of its samples."""

    name: str
    dim: Any
    sample_dim: Any
    options: Mapping[str, Any]

    def of(self, x: Any, operands: Mapping[str, Operand]) -> Any:
        operands = {name: value for name, value in operands.items() if value is not None}
        if isinstance(x, xr.DataArray):
            return self._array(x, operands)
        if not isinstance(x, xr.Dataset):
            raise TypeError(f"{self.name}: x is a {type(x).__name__}, expected a DataArray or a Dataset")
        named = {*self._dims(x, self.dim), *self._dims(x, self.sample_dim)}
        able = {k: v for k, v in x.data_vars.items() if named <= {*v.dims} and v.dtype.kind in "biufV"}
        chosen = [key for key, value in able.items() if self._over(value)]
        if not chosen:
            raise ValueError(f"{self.name}: no numeric variable of x has the dimensions {sorted(named, key=str)}")

        def part(value: Operand, key: Hashable) -> Any:
            return value[key] if isinstance(value, xr.Dataset) else value

        return x.assign({k: self._array(x[k], {n: part(v, k) for n, v in operands.items()}) for k in chosen})

    def _dims(self, x: Any, dim: Any) -> tuple[Hashable, ...]:
        """The named dimensions, in the order of their names."""
        if dim is ...:
            return () if isinstance(x, xr.Dataset) else x.dims
        dims = (dim,) if isinstance(dim, str) or not isinstance(dim, Iterable) else tuple(dim)
        for d in dims:
            if d not in x.dims:
                raise ValueError(f"{self.name}: x has the dimensions {tuple(x.dims)}, {d!r} is not among them")
        return dims

    @property
    def _of_rows(self) -> bool:
        return self.name in ("layer_norm", "rms_norm")

    def _over(self, x: xr.DataArray) -> list[Hashable]:
        """The dimensions that share a mean."""
        dims = self._dims(x, self.dim)
        if self._of_rows:
            return [*dims]
        apart = self._dims(x, self.sample_dim) + (() if self.name == "group_norm" else dims)
        return [d for d in x.dims if d not in apart]

    def _array(self, x: xr.DataArray, operands: Mapping[str, Any]) -> xr.DataArray:
        dtype = _arguments.array(self.name, np.empty(0, x.dtype)).dtype  # before Dask is asked to work
        dims, samples = self._dims(x, self.dim), self._dims(x, self.sample_dim)
        if twice := [d for i, d in enumerate(dims + samples) if d in (dims + samples)[:i]]:
            raise ValueError(f"{self.name}: the dimension {twice[0]!r} is named twice")
        of_rows, over = self._of_rows, self._over(x)
        if not over:
            raise ValueError(f"{self.name}: x has the dimensions {x.dims}, and none is left to normalize over")
        self._check_chunks(x.variable.chunksizes, over)
        values = {"x": x.variable}
        for name, value in operands.items():
            plain = x.dims if name == "where" else dims
            values[name] = self._operand(name, value, x, plain, of_rows or name == "where")
        axes, of_samples = (tuple(map(x.dims.index, named)) for named in (dims, samples))
        # Blocks match those of x, within which a norm takes no other shape: to Dask it works element by element.
        y = xr.apply_ufunc(
            functools.partial(_rows if of_rows else _channels, self, tuple(values), axes, of_samples),
            *_alike(values.values()),
            dask="parallelized",
            output_dtypes=[dtype],
        )
        y = x.copy(deep=False, data=y.data)
        y.encoding = {}  # of a packed file, whose scale fits the old values
        if xr.get_options()["keep_attrs"] is False:
            y.attrs = {}
        return y

    def _check_chunks(self, chunks: Mapping[Any, tuple[int, ...]], over: list[Hashable]) -> None:
        split = [d for d in over if len(chunks.get(d, ())) > 1]
        if split:
            words = ", ".join(f"{d!r} in {len(chunks[d])}" for d in split)
            fix = ", ".join(f"{d!r}: -1" for d in split)
            raise ValueError(
                f"{self.name}: x has chunks along what is normalized over, {words}, expected one: "
                f"x.chunk({{{fix}}}), with the other dimensions in more chunks if that is too much at once, "
                f"or normlib.interop.dask.{self.name}(x.data, ...), which takes any chunks"
            )

    def _operand(self, name: str, value: Any, x: xr.DataArray, plain: Iterable[Hashable], any_dim: bool) -> xr.Variable:
        """A parameter or mask, with its dimensions by name, after a look at whether they fit."""
        if not isinstance(value, xr.DataArray):
            if not hasattr(value, "__dask_graph__"):
                value = _arguments.convert(self.name, name, value)
            shape = tuple(x.sizes[d] for d in plain)
            if value.shape not in ((), shape):
                raise ValueError(f"{self.name}: {name} has shape {value.shape}, expected {shape}, of {tuple(plain)}")
            value = xr.DataArray(value, dims=plain if value.ndim else ())
        allowed = x.dims if any_dim else tuple(plain)
        if not {*value.dims} <= {*allowed}:
            raise ValueError(f"{self.name}: {name} has the dimensions {value.dims}, expected some of {allowed}")
        if name == "where" and value.dtype != bool:
            raise TypeError(f"{self.name}: where has dtype {value.dtype}, expected booleans")
        if name != "where":
            dtype = _arguments.array(self.name, np.empty(0, value.dtype), name).dtype
            value = value if value.dtype == dtype else value.astype(dtype)
        try:
            xr.align(x, value, join="exact", copy=False)
        except ValueError as error:
            raise ValueError(f"{self.name}: the labels of {name} are not those of x: {error}") from error
        return value.variable


def _alike(values: Iterable[xr.Variable]) -> list[xr.Variable]:
    """The variables in chunks like those of the first, where any has chunks."""
    x, *others = values
    if all(value.chunks is None for value in (x, *others)):
        return [x, *others]
    x = x if x.chunks else x.chunk()
    return [x, *(value.chunk({d: x.chunksizes[d] for d in value.dims}) for value in others)]


def _rows(norm: _Norm, names: tuple[str, ...], axes: tuple[int, ...], _: tuple[int, ...], *arrays: Array) -> Array:
    """The norm over `axes`."""
    given: dict[str, Any] = dict(zip(names, arrays, strict=True))
    x, last = given["x"], range(-len(axes), 0)
    for name in given.keys() & {"weight", "bias"}:
        value = given[name][(np.newaxis,) * (x.ndim - given[name].ndim)]
        value = np.moveaxis(value, sorted(axes), last)
        given[name] = np.broadcast_to(value, (*value.shape[: last.start], *(x.shape[i] for i in sorted(axes))))
    return _outside(getattr(ops, norm.name)(**given, axis=axes, **norm.options), given.get("where"))


def _channels(
    norm: _Norm, names: tuple[str, ...], axes: tuple[int, ...], of_samples: tuple[int, ...], *arrays: Array
) -> Array:
    """The norm of the channels along the one axis in `axes`."""
    given: dict[str, Any] = dict(zip(names, arrays, strict=True))
    x, where = given["x"], given.get("where")
    for name in given.keys() & {"weight", "bias"}:
        given[name] = np.broadcast_to(given[name].ravel(), x.shape[axes[0]])
    if norm.name == "batch_norm":
        return _outside(ops.batch_norm(**given, channel_axis=axes[0], **norm.options), where)
    source, to = (*of_samples, *axes), range(len(of_samples) + 1)
    shape, samples = np.moveaxis(x, source, to).shape, math.prod(x.shape[i] for i in of_samples)
    for name in given.keys() & {"x", "where"}:
        moved = np.moveaxis(np.broadcast_to(given[name], x.shape), source, to)
        given[name] = moved.reshape(samples, *shape[len(of_samples) :])
    y = getattr(ops, norm.name)(**given, **norm.options).reshape(shape)
    return _outside(np.moveaxis(y, to, source), where)


def _outside(y: Array, where: Array | None) -> Array:
    if where is not None:
        np.copyto(y, np.nan, where=~where)
    return y
