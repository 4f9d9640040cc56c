"""Batch norm over several processes, or ranks: each has a share of the batch, the statistics are those of all of it.

The bits are those of one process that has the whole batch: however many ranks there are, and however the samples are
shared out. For what the ranks exchange are sums that have no rounding to depend on (see ``normlib/_sums.py``): of each
channel a count and 10 integers, 12 for float64; nothing else, whatever the size of the batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _arguments, _general, _sums, ops
from ._arrays import numpy_of
from ._call import Call
from ._groups import Group, gathered
from ._layer import Fused
from ._pairs import Pair
from .description import FUNCTIONS
from .layers import BatchNorm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = ["Group", "SyncBatchNorm", "batch_norm", "batch_norm_backward"]

NOISE = 2.0**-98  # of the mean square: a variance below is the rounding of pairs


def batch_norm(
    x: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    channel_axis: int = 1,
    where: ArrayLike | None = None,
    out: Array | None = None,
    return_stats: bool = False,
    group: Group | None = None,
) -> Any:
    r"""Batch normalization in training, with mean and variance over the shares of all ranks.

    .. math:: y = (x - \mathrm{mean}) \cdot \mathrm{rstd} \cdot \mathrm{weight} + \mathrm{bias}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

    All ranks of the group call it together; shares may differ in size, and be empty. Where a rank cannot take part, for
    an argument that does not fit, or where ranks do not agree, all of them raise, and running statistics stay as they
    were. In evaluation there is nothing to share: :func:`normlib.batch_norm` does it.

    Parameters
    ----------
    x : array_like
        The share of this rank: floats, or integers, which are taken as floats; of two or more axes.
    weight, bias : array_like, optional
        One value a channel, in any of the float dtypes.
    running_mean, running_var : ndarray, optional
        One value a channel, updated in place: to the same values on all ranks, if they were the same before.
    momentum : float, default 0.1
        The weight of the batch in the update.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        The axis of the channels; -1 for channels-last.
    where : array_like of bool, optional
        Which elements take part; broadcast against `x`. The others come out as 0.
    out : ndarray, optional
        Where to put the result; `x` itself is allowed.
    return_stats : bool, default False
        Whether to return the statistics, for :func:`batch_norm_backward`.
    group : Group, optional
        An :class:`mpi4py.MPI.Comm`, a process group of ``torch.distributed``, or an object with a method ``allgather``
        for bytes. None: this process is alone.

    Returns
    -------
    y : ndarray
        The normalized share, of the shape, dtype and memory layout of `x`; `out` if that was given.
    mean, rstd : ndarray
        Only with `return_stats`; float64, one value a channel, the same on all ranks.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or ranks do not agree in dtype, channels, momentum or eps; the message says which,
        what was expected and what came. Also if all ranks together have one value a channel.
    RuntimeError
        If another rank has raised an error, which the message has.

    References
    ----------
    Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", 2013.

    Examples
    --------
    Two ranks, here as two threads of one process:

    >>> import threading
    >>> import numpy as np
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from normlib import sync
    >>> class Threads:
    ...     def __init__(self, ranks):
    ...         self.barrier, self.messages = threading.Barrier(ranks), {}
    ...     def of_rank(self, rank):
    ...         group = Threads.__new__(Threads)
    ...         group.barrier, group.messages, group.rank = self.barrier, self.messages, rank
    ...         return group
    ...     def allgather(self, message):
    ...         self.messages[self.rank] = message
    ...         self.barrier.wait()
    ...         return [self.messages[rank] for rank in sorted(self.messages)]
    >>> group, shares = Threads(2), np.array([[1.0], [3.0], [5.0], [7.0]])
    >>> def step(rank):
    ...     return sync.batch_norm(shares[2 * rank : 2 * rank + 2], eps=0, group=group.of_rank(rank))
    >>> with ThreadPoolExecutor() as threads:
    ...     [y.ravel().round(3).tolist() for y in threads.map(step, range(2))]
    [[-1.342, -0.447], [0.447, 1.342]]
    """
    place = "sync.batch_norm"
    options: dict[str, Any] = {"momentum": momentum, "eps": eps, "channel_axis": channel_axis}

    def checked() -> Call:
        given = {"weight": weight, "bias": bias, "out": out, "return_stats": return_stats, **options}
        return _checked("batch_norm", x, given, where)

    def agreed(call: Call) -> dict[str, Any]:
        _arguments.running(call.name, running_mean, running_var, call.parameter_shape, update=True)
        return {"momentum": call.values["momentum"], "eps": call.values["eps"]}

    call, n, total = _shared(place, group, checked, agreed)
    if n.max(initial=0) == 1:
        raise ValueError(f"{place}: all ranks together have one value a channel, expected more")
    mean, lost, var = _statistics(n, total)
    affine: dict[str, Any] = {"weight": weight, "bias": bias}
    with np.errstate(all="ignore"):
        rstd = 1 / np.sqrt(var + call.values["eps"])  # the same where a share is empty, which no backend sees
        if call.x.dtype == np.float64:  # whose mean has more digits, which come to the bias
            shift, own = -lost * rstd, (call.values["weight"], call.values["bias"])
            affine["bias"] = (shift if own[0] is None else shift * own[0]) + (0 if own[1] is None else own[1])
    y = ops.batch_norm(call.x, running_mean=mean, running_var=var, out=out, **affine, **options, **call.fused)
    if running_mean is not None and running_var is not None:
        batch = np.ma.array(mean, mask=n < 1), np.ma.array(var, mask=n < 2) * (n / np.maximum(n - 1, 1))
        _general.move((running_mean, running_var), call.values["momentum"], batch)
    return (y, mean, rstd) if return_stats else y


def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    mean: ArrayLike,
    rstd: ArrayLike,
    channel_axis: int = 1,
    where: ArrayLike | None = None,
    out: Array | None = None,
    group: Group | None = None,
) -> tuple[Array, Array, Array]:
    r"""Gradients of :func:`batch_norm`, with means and sums over the shares of all ranks.

    With z = (x - mean) * rstd and g = dy * weight:

    .. math:: dx = \mathrm{rstd} \cdot (g - \overline{g} - z \cdot \overline{g z}), \qquad
              d\mathrm{weight} = \sum dy \cdot z, \qquad d\mathrm{bias} = \sum dy

    Parameters
    ----------
    dy : array_like
        The gradient with respect to the share of the output, of the shape and dtype of `x`.
    x, weight, channel_axis, where, group : optional
        As given to :func:`batch_norm`.
    mean, rstd : array_like
        The statistics that it returned.
    out : ndarray, optional
        Where to put `dx`; `dy` or `x` itself is allowed.

    Returns
    -------
    dx : ndarray
        The gradient with respect to the share `x`, of its shape, dtype and memory layout; `out` if that was given.
    dweight, dbias : ndarray
        The gradients with respect to the parameters, over all ranks, the same on each: there is nothing to add up. In
        the dtype of `weight`, or of `x` without one.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As :func:`batch_norm` does.

    Examples
    --------
    >>> from normlib import sync
    >>> x, dy = [[1.0], [2.0], [3.0]], [[1.0], [0.0], [0.0]]
    >>> y, mean, rstd = sync.batch_norm(x, eps=0, return_stats=True)
    >>> dx, dweight, dbias = sync.batch_norm_backward(dy, x, [1.0], mean=mean, rstd=rstd)
    >>> dx.ravel().round(4), dweight.round(4), dbias
    (array([ 0.2041, -0.4082,  0.2041]), array([-1.2247]), array([1.]))
    """
    given = {"dy": dy, "weight": weight, "mean": mean, "rstd": rstd, "channel_axis": channel_axis, "out": out}

    def checked() -> Call:
        return _checked("batch_norm_backward", x, given, where)

    call, n, total = _shared("sync.batch_norm_backward", group, checked, lambda call: {})
    sums = np.where(n > 0, total.head, 0)  # where nothing is, the mean is NaN
    dx = _gradient(call, sums / np.maximum(n, 1), out)
    dbias, dweight = _general._narrow(list(sums), call.dtype)
    return dx, dweight, dbias


# -- this rank ----


def _checked(name: str, x: Any, given: dict[str, Any], where: Any) -> Call:
    """The arguments, checked as the function of one process checks them: in evaluation, which asks for no count."""
    place = f"sync.{name}"
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{place}: x is a masked array, expected its data, and where=~mask")
    arrays = {key: numpy_of(place, key, value) for key, value in {"x": x, **given}.items()}
    values = dict.fromkeys(FUNCTIONS[name].names) | arrays | {"training": False}
    call = Call(FUNCTIONS[name], values.values(), {} if where is None else {"where": numpy_of(place, "where", where)})
    for key in ("weight", "bias"):
        if (value := call.values.get(key)) is not None and value.ndim > 1:
            raise ValueError(f"{place}: {key} has shape {value.shape}, expected {call.parameter_shape}")
    if given["out"] is not None:
        call.outputs()
    return call


def _sums_of(call: Call) -> tuple[Array, _sums.Sums]:
    """How many elements of each channel take part, and their sums."""
    inside, names = call.fused.get("where"), ("x", "dy") if call.function.backward else ("x",)
    arrays = [call.values[name] for name in names]
    if inside is None:
        n = np.full(call.parameter_shape, call.x.size // max(1, *call.parameter_shape))
    else:
        inside = np.broadcast_to(inside, call.x.shape)
        n = inside.sum(axis=call.op.reduced_axes(call.x.ndim, call.axis))
        arrays = [np.where(inside, array, array.dtype.type(0)) for array in arrays]
    arrays = [np.moveaxis(array, call.axis, 1) for array in arrays]
    arrays = [array.reshape(*array.shape[:2], math.prod(array.shape[2:])) for array in arrays]
    statistics = (call.values["mean"], call.values["rstd"]) if call.function.backward else ()
    return n.astype(np.int64), _sums.sums(*arrays, *statistics)


def _statistics(n: Array, total: Pair) -> tuple[Array, Array, Array]:
    """Mean, what it has lost to rounding, and biased variance; NaN where nothing is."""
    with np.errstate(all="ignore"):
        count = np.maximum(n, 1).astype(np.float64)
        first, square = (Pair(*parts) for parts in zip(*total, strict=True))
        mean = first.over(count)
        var = (square + -(first * mean)).over(count).head
        var[~(var > NOISE * (square.head / count))] = 0
        strange = [~np.isfinite(part.head) for part in (first, square)]
        mean_head, lost = (np.where(strange[0], a, b) for a, b in ((first.head, mean.head), (0, mean.tail)))
        var = np.where(strange[0], np.nan, np.where(strange[1], square.head, var))
    mean_head[n == 0] = var[n == 0] = np.nan
    return mean_head, lost, var


def _gradient(call: Call, means: Array, out: Array | None) -> Array:
    """dx by two passes: dy - mean(dy) - z mean(dy z), which is dy added to a norm of x; and that times weight rstd."""
    mean_dy, mean_dyz = means
    mean, rstd, weight, x = (call.values[name] for name in ("mean", "rstd", "weight", "x"))
    shared: dict[str, Any] = {"channel_axis": call.axis, "eps": 0.0, **call.fused}
    wide: dict[str, Any] = {"out_dtype": "float32"} if x.dtype.itemsize == 2 else {}
    narrow: dict[str, Any] = {"out_dtype": x.dtype.name} if wide else {}
    with np.errstate(all="ignore"):
        var, factor = 1 / (rstd * rstd), rstd if weight is None else rstd * weight
    first: dict[str, Any] = {"weight": -mean_dyz, "bias": -mean_dy, "running_mean": mean, "running_var": var}
    dx = ops.batch_norm(x, add=call.values["dy"], **first, **shared, **wide)
    second: dict[str, Any] = {"running_mean": np.zeros(len(mean)), "running_var": np.ones(len(mean))}
    return ops.batch_norm(dx, weight=factor, out=dx if out is None and not wide else out, **second, **shared, **narrow)


# -- all ranks ----


def _shared(place: str, group: Any, checked: Callable[[], Call], agreed: Callable[[Call], dict[str, Any]]) -> Any:
    """The call as it was checked here; over all ranks the count of each channel, and the two sums."""
    failure = call = None
    try:
        call = checked()
        n, sums = _sums_of(call)
        header = {"function": place, "dtype": call.x.dtype.name, "channels": len(n), **agreed(call)}
        numbers = np.concatenate((n[None], sums.top, *sums.bins, sums.special.view(np.int64)))
    except Exception as error:
        failure, header, numbers = error, {"error": str(error)}, np.empty(0, np.int64)
    if group is None and failure is not None:
        raise failure
    messages = gathered(place, group, json.dumps(header).encode() + b"\n" + numbers.tobytes())
    if failure is not None:
        raise failure
    assert call is not None
    parts = [message.split(b"\n", 1) for message in messages]
    _agree(place, [json.loads(head) for head, _ in parts])
    every = np.stack([np.frombuffer(data, np.int64).reshape(numbers.shape) for _, data in parts])
    n = every[:, 0].sum(axis=0)
    if n.max(initial=0) > _sums.TERMS:
        raise ValueError(f"{place}: a channel has {n.max()} values, expected {_sums.TERMS} at most")
    top, bins, special = every[:, 1:3], every[:, 3:-2], every[:, -2:].view(np.float64)
    bins = bins.reshape(len(every), bins.shape[1] // 2, 2, n.size)
    return call, n, _sums.Sums.joined(top, bins, special).total()


def _agree(place: str, headers: list[dict[str, Any]]) -> None:
    """An error, the same on all ranks, where one has failed or they do not call for the same."""
    for rank, header in enumerate(headers):
        if "error" in header:
            raise RuntimeError(f"{place}: rank {rank} has failed: {header['error']}")
    first = headers[0]
    for key, value in first.items():
        for rank, header in enumerate(headers):
            if header.get(key) != value:
                other = f"{header.get(key)} on rank {rank}"
                raise ValueError(f"{place}: {key} is {value} on rank 0 and {other}, expected the same on all ranks")


class SyncBatchNorm(BatchNorm):
    """Batch normalization over several ranks: :class:`normlib.BatchNorm` by :func:`normlib.sync.batch_norm`.

    In training the statistics are those of the shares of all ranks, and so are the gradients of weight and bias: they
    are the same on all ranks, and there is nothing to add up. In evaluation it is a :class:`normlib.BatchNorm`.

    Parameters
    ----------
    num_features : int
        The number of channels.
    eps : float
        Added to the variance.
    momentum : float or None
        The weight of a batch in the running statistics; None is the plain average of all batches so far.
    affine, bias : bool
        Whether there is a weight, and a bias with it.
    track_running_stats : bool
        False: there are none, and evaluation too uses the batch's.
    channel_axis : int
        The axis of the channels; -1 for channels-last.
    dtype : dtype
        Of the parameters and their gradients, whatever `x` is in.
    group : normlib.sync.Group, optional
        The ranks: an :class:`mpi4py.MPI.Comm`, a process group of ``torch.distributed``, or an object with a method
        ``allgather`` for bytes. None: this process is alone.

    References
    ----------
    Peng et al., "MegDet: A Large Mini-Batch Object Detector", 2018, arXiv:1711.07240.

    Examples
    --------
    >>> import normlib
    >>> norm = normlib.SyncBatchNorm(1, eps=0)  # on one of two ranks: group=MPI.COMM_WORLD
    >>> norm([[1.0], [3.0]])
    array([[-1.],
           [ 1.]])
    """

    def __init__(self, num_features: int, *args: Any, group: Group | None = None, **options: Any) -> None:
        if fused := [name for name in Fused.__annotations__ if options.get(name) is not None]:
            raise TypeError(f"SyncBatchNorm: {fused[0]} is given, expected None: it comes after a SyncBatchNorm")
        super().__init__(num_features, *args, **options)
        self.group = group

    def _computed(self, x: Array, options: dict[str, Any]) -> Any:
        if not options["training"]:
            return super()._computed(x, options)
        return batch_norm(x, group=self.group, **self._own("SyncBatchNorm", options))

    def _backward(self, dy: ArrayLike, x: Array, **more: Any) -> tuple[Any, ...]:
        if not more["training"]:
            return super()._backward(dy, x, **more)
        gradients: tuple[Any, ...] = batch_norm_backward(
            dy, x, group=self.group, **self._own("SyncBatchNorm.backward", more)
        )
        return gradients

    def _counts(self, x: Array) -> bool:
        """The others may have a share: all ranks count alike."""
        return True

    def _own(self, place: str, options: dict[str, Any]) -> dict[str, Any]:
        """The options of the functions of this module, which share some of those of a batch norm."""
        own = {name: value for name, value in options.items() if name not in ("training", "weight_grads")}
        _arguments.keywords(place, own, {*batch_norm.__annotations__, *batch_norm_backward.__annotations__})
        return own
