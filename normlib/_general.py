"""The general way of a call: check, bring to canonical form, let the backends compute, build the result.

It is taken by whatever the chosen backend's direct function does not take. One function for each of the
public ones in :mod:`normlib.ops`, with its arguments in its order.
"""

import math

import numpy as np

from . import _arguments as a
from . import backends
from ._arrays import in_kind

_FLOAT64 = ("float64",)


def _without(shape, axes):
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def _sample_axis(channel_axis):
    return 0 if channel_axis else 1


def _forward(op, args, x, filled, target, names, shape):
    """Statistics after filling the output; those of an empty array are NaN."""
    if x.size:
        statistics = backends.run(op, (*args, filled), [(name, shape, _FLOAT64) for name in names])
        if args[-1] == 0 and (statistics[names.index("rstd")] == np.inf).any():
            a.zero_by_zero()
        if filled is not target:
            target[...] = filled
        return statistics
    return [np.full(shape, np.nan) for _ in names]


def _backward(op, args, x, dtype, wanted, out, overlapping, names, shape):
    """dx and the gradients of the parameters, in `dtype`."""
    filled, target = a.output(op, out, x, *overlapping)
    if x.size:
        taken = tuple(dict.fromkeys(("float64", "float32", dtype.name)))
        results = [(name, shape if wanted else None, taken) for name in names]
        grads = backends.run(op, (*args, wanted, filled), results)
        if filled is not target:
            target[...] = filled
        grads = _narrow(grads, dtype)
    else:
        grads = [np.zeros(shape, dtype) if wanted else None for _ in names]
    return (target if out is None else out, *grads)


@a.quietly
def _narrow(grads, dtype):
    return [None if grad is None else grad.astype(dtype, copy=False) for grad in grads]


@a.quietly
def _rstd(var, eps):
    return 1 / np.sqrt(var + eps)


def _over_samples(statistic):
    """The mean over the samples, added in their order as the kernels do, for the same bits."""
    return np.add.accumulate(statistic, axis=0)[-1] / len(statistic)


@a.quietly
def _moved(old, momentum, new, dtype):
    return ((1 - momentum) * np.float64(old) + momentum * new).astype(dtype)


def _update(running, momentum, batch):
    """running = (1 - momentum) * running + momentum * batch, for all pairs or none."""
    before = [array.copy() for array in running]
    try:
        for array, old, new in zip(running, before, batch, strict=True):
            array[...] = _moved(old, momentum, new, array.dtype)
    except BaseException:  # an interrupt may come between the two
        for array, old in zip(running, before, strict=True):
            array[...] = old
        raise


def _features(op, x, axis):
    """Canonical axis, shape of parameters, shape of statistics, words on each."""
    axes = a.axes(op, axis, x.ndim)
    shape = tuple(x.shape[i] for i in axes)
    given = axis if isinstance(axis, (tuple, list)) else int(axis)
    return axes, shape, _without(x.shape, axes), f"the shape of x over axis={given}"


def _channels(op, x, channel_axis):
    axis = a.channel(op, channel_axis, x.ndim)
    shape = (x.shape[axis],)
    return axis, shape, f"the size of x along channel_axis={int(channel_axis)}"


_REST = "the shape of x without the reduced axes"


@in_kind
def layer_norm(x, weight, bias, axis, eps, out, return_stats):
    op = "layer_norm"
    x = a.array(op, x)
    axis, shape, stat_shape, words = _features(op, x, axis)
    a.not_sizes(op, weight, x)
    weight = a.parameter(op, "weight", weight, x, shape, words)
    bias = a.parameter(op, "bias", bias, x, shape, words)
    eps = a.epsilon(op, eps)
    return_stats = a.flag(op, "return_stats", return_stats)
    filled, target = a.output(op, out, x, [x], [weight, bias])
    args = (x, weight, bias, axis, eps)
    mean, rstd = _forward(op, args, x, filled, target, ("mean", "rstd"), stat_shape)
    y = target if out is None else out
    return (y, mean, rstd) if return_stats else y


@in_kind
def layer_norm_backward(dy, x, weight, mean, rstd, axis, weight_grads, out):
    op = "layer_norm_backward"
    x = a.array(op, x)
    dy = a.gradient(op, dy, x)
    axis, shape, stat_shape, words = _features(op, x, axis)
    weight, dtype = a.weight_and_dtype(op, "weight", weight, x, shape, words)
    mean = a.statistic(op, "mean", mean, stat_shape, _REST)
    rstd = a.statistic(op, "rstd", rstd, stat_shape, _REST)
    wanted = a.weight_grads(op, weight_grads, weight)
    args = (dy, x, weight, mean, rstd, axis)
    overlapping = [dy, x], [weight, mean, rstd]
    return _backward(op, args, x, dtype, wanted, out, overlapping, ("dweight", "dbias"), shape)


@in_kind
def rms_norm(x, weight, axis, eps, out, return_stats):
    op = "rms_norm"
    x = a.array(op, x)
    axis, shape, stat_shape, words = _features(op, x, axis)
    a.not_sizes(op, weight, x)
    weight = a.parameter(op, "weight", weight, x, shape, words)
    eps = a.epsilon(op, eps)
    return_stats = a.flag(op, "return_stats", return_stats)
    filled, target = a.output(op, out, x, [x], [weight])
    (rstd,) = _forward(op, (x, weight, axis, eps), x, filled, target, ("rstd",), stat_shape)
    y = target if out is None else out
    return (y, rstd) if return_stats else y


@in_kind
def rms_norm_backward(dy, x, weight, rstd, axis, weight_grads, out):
    op = "rms_norm_backward"
    x = a.array(op, x)
    dy = a.gradient(op, dy, x)
    axis, shape, stat_shape, words = _features(op, x, axis)
    weight, dtype = a.weight_and_dtype(op, "weight", weight, x, shape, words)
    rstd = a.statistic(op, "rstd", rstd, stat_shape, _REST)
    wanted = a.weight_grads(op, weight_grads, weight)
    args = (dy, x, weight, rstd, axis)
    return _backward(op, args, x, dtype, wanted, out, ([dy, x], [weight, rstd]), ("dweight",), shape)


@in_kind
def batch_norm(
    x, weight, bias, running_mean, running_var, training, momentum, eps, channel_axis, out, return_stats
):
    op = "batch_norm"
    x = a.array(op, x, ndim=2)
    axis, shape, words = _channels(op, x, channel_axis)
    weight = a.parameter(op, "weight", weight, x, shape, words)
    bias = a.parameter(op, "bias", bias, x, shape, words)
    training = a.flag(op, "training", training)
    momentum = a.fraction(op, momentum)
    eps = a.epsilon(op, eps)
    return_stats = a.flag(op, "return_stats", return_stats)
    tracked = a.running(op, running_mean, running_var, shape, update=training)
    values = x.size // max(shape[0], 1)
    mean = var = None
    if tracked and not training:
        mean, var = (a.constant(value) for value in (running_mean, running_var))
    elif training and values == 1 and x.size:
        raise ValueError(f"{op}: x has shape {x.shape}, expected more than one value a channel")
    filled, target = a.output(op, out, x, [x], [weight, bias, mean, var])
    args = (x, weight, bias, mean, var, axis, eps)
    if x.size or mean is None:
        mean, rstd, var = _forward(op, args, x, filled, target, ("mean", "rstd", "var"), shape)
    else:
        rstd = _rstd(var, eps)
    y = target if out is None else out
    result = (y, mean, rstd) if return_stats else y
    if tracked and training and x.size:
        _update((running_mean, running_var), momentum, (mean, var * (values / (values - 1))))
    return result


@in_kind
def batch_norm_backward(dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out):
    op = "batch_norm_backward"
    x = a.array(op, x, ndim=2)
    dy = a.gradient(op, dy, x)
    axis, shape, words = _channels(op, x, channel_axis)
    weight, dtype = a.weight_and_dtype(op, "weight", weight, x, shape, words)
    mean = a.statistic(op, "mean", mean, shape, "one value a channel")
    rstd = a.statistic(op, "rstd", rstd, shape, "one value a channel")
    training = a.flag(op, "training", training)
    wanted = a.weight_grads(op, weight_grads, weight)
    args = (dy, x, weight, mean, rstd, training, axis)
    overlapping = [dy, x], [weight, mean, rstd]
    return _backward(op, args, x, dtype, wanted, out, overlapping, ("dweight", "dbias"), shape)


@in_kind
def group_norm(x, num_groups, weight, bias, eps, channel_axis, out, return_stats):
    op = "group_norm"
    x = a.array(op, x, ndim=2)
    axis, shape, words = _channels(op, x, channel_axis)
    num_groups = a.groups(op, num_groups, shape[0])
    weight = a.parameter(op, "weight", weight, x, shape, words)
    bias = a.parameter(op, "bias", bias, x, shape, words)
    eps = a.epsilon(op, eps)
    return_stats = a.flag(op, "return_stats", return_stats)
    filled, target = a.output(op, out, x, [x], [weight, bias])
    args = (x, num_groups, weight, bias, axis, eps)
    stat_shape = (x.shape[_sample_axis(axis)], num_groups)
    mean, rstd = _forward(op, args, x, filled, target, ("mean", "rstd"), stat_shape)
    y = target if out is None else out
    return (y, mean, rstd) if return_stats else y


@in_kind
def group_norm_backward(dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out):
    op = "group_norm_backward"
    x = a.array(op, x, ndim=2)
    dy = a.gradient(op, dy, x)
    axis, shape, words = _channels(op, x, channel_axis)
    num_groups = a.groups(op, num_groups, shape[0])
    weight, dtype = a.weight_and_dtype(op, "weight", weight, x, shape, words)
    stat_shape = (x.shape[_sample_axis(axis)], num_groups)
    mean = a.statistic(op, "mean", mean, stat_shape, "one value for each sample and group")
    rstd = a.statistic(op, "rstd", rstd, stat_shape, "one value for each sample and group")
    wanted = a.weight_grads(op, weight_grads, weight)
    args = (dy, x, num_groups, weight, mean, rstd, axis)
    overlapping = [dy, x], [weight, mean, rstd]
    return _backward(op, args, x, dtype, wanted, out, overlapping, ("dweight", "dbias"), shape)


@in_kind
def instance_norm(
    x,
    weight,
    bias,
    running_mean,
    running_var,
    use_input_stats,
    momentum,
    eps,
    channel_axis,
    out,
    return_stats,
):
    op = "instance_norm"
    x = a.array(op, x, ndim=2)
    axis, shape, words = _channels(op, x, channel_axis)
    weight = a.parameter(op, "weight", weight, x, shape, words)
    bias = a.parameter(op, "bias", bias, x, shape, words)
    use_input_stats = a.flag(op, "use_input_stats", use_input_stats)
    momentum = a.fraction(op, momentum)
    eps = a.epsilon(op, eps)
    return_stats = a.flag(op, "return_stats", return_stats)
    tracked = a.running(op, running_mean, running_var, shape, update=use_input_stats)
    stat_shape = (x.shape[_sample_axis(axis)], *shape)
    values = x.size // max(math.prod(stat_shape), 1)
    mean = var = None
    if not use_input_stats:
        if not tracked:
            raise ValueError(
                f"{op}: use_input_stats is False, expected running_mean and running_var, which are None"
            )
        mean, var = (a.constant(value, stat_shape) for value in (running_mean, running_var))
    elif values == 1 and x.size:
        raise ValueError(f"{op}: x has shape {x.shape}, expected more than one value a sample and channel")
    filled, target = a.output(op, out, x, [x], [weight, bias, mean, var])
    args = (x, weight, bias, mean, var, axis, eps)
    if x.size or mean is None:
        mean, rstd, var = _forward(op, args, x, filled, target, ("mean", "rstd", "var"), stat_shape)
    else:
        rstd = _rstd(var, eps)
    y = target if out is None else out
    result = (y, mean, rstd) if return_stats else y
    if tracked and use_input_stats and x.size:
        unbiased = _over_samples(var) * (values / (values - 1))
        _update((running_mean, running_var), momentum, (_over_samples(mean), unbiased))
    return result


@in_kind
def instance_norm_backward(dy, x, weight, mean, rstd, use_input_stats, channel_axis, weight_grads, out):
    op = "instance_norm_backward"
    x = a.array(op, x, ndim=2)
    dy = a.gradient(op, dy, x)
    axis, shape, words = _channels(op, x, channel_axis)
    weight, dtype = a.weight_and_dtype(op, "weight", weight, x, shape, words)
    stat_shape = (x.shape[_sample_axis(axis)], *shape)
    mean = a.statistic(op, "mean", mean, stat_shape, "one value for each sample and channel")
    rstd = a.statistic(op, "rstd", rstd, stat_shape, "one value for each sample and channel")
    use_input_stats = a.flag(op, "use_input_stats", use_input_stats)
    wanted = a.weight_grads(op, weight_grads, weight)
    args = (dy, x, weight, mean, rstd, use_input_stats, axis)
    overlapping = [dy, x], [weight, mean, rstd]
    return _backward(op, args, x, dtype, wanted, out, overlapping, ("dweight", "dbias"), shape)
