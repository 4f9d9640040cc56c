"""The ten public functions: five norms, forward and backward."""

from . import _general
from .backends import active as _active


def layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5, out=None, return_stats=False):
    result = _active().layer_norm_direct(x, weight, bias, axis, eps, out, return_stats)
    if result is NotImplemented:
        return _general.layer_norm(x, weight, bias, axis, eps, out, return_stats)
    return result


def layer_norm_backward(dy, x, weight=None, *, mean, rstd, axis=-1, weight_grads=None, out=None):
    args = (dy, x, weight, mean, rstd, axis, weight_grads, out)
    result = _active().layer_norm_backward_direct(*args)
    return _general.layer_norm_backward(*args) if result is NotImplemented else result


def rms_norm(x, weight=None, *, axis=-1, eps=1e-6, out=None, return_stats=False):
    result = _active().rms_norm_direct(x, weight, axis, eps, out, return_stats)
    if result is NotImplemented:
        return _general.rms_norm(x, weight, axis, eps, out, return_stats)
    return result


def rms_norm_backward(dy, x, weight=None, *, rstd, axis=-1, weight_grads=None, out=None):
    args = (dy, x, weight, rstd, axis, weight_grads, out)
    result = _active().rms_norm_backward_direct(*args)
    return _general.rms_norm_backward(*args) if result is NotImplemented else result


def batch_norm(
    x,
    weight=None,
    bias=None,
    *,
    running_mean=None,
    running_var=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    channel_axis=1,
    out=None,
    return_stats=False,
):
    args = (
        x, weight, bias, running_mean, running_var, training, momentum, eps, channel_axis, out, return_stats,
    )  # fmt: skip
    result = _active().batch_norm_direct(*args)
    return _general.batch_norm(*args) if result is NotImplemented else result


def batch_norm_backward(
    dy, x, weight=None, *, mean, rstd, training=True, channel_axis=1, weight_grads=None, out=None
):
    args = (dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out)
    result = _active().batch_norm_backward_direct(*args)
    return _general.batch_norm_backward(*args) if result is NotImplemented else result


def group_norm(
    x, num_groups, weight=None, bias=None, *, eps=1e-5, channel_axis=1, out=None, return_stats=False
):
    args = (x, num_groups, weight, bias, eps, channel_axis, out, return_stats)
    result = _active().group_norm_direct(*args)
    return _general.group_norm(*args) if result is NotImplemented else result


def group_norm_backward(
    dy, x, num_groups, weight=None, *, mean, rstd, channel_axis=1, weight_grads=None, out=None
):
    args = (dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out)
    result = _active().group_norm_backward_direct(*args)
    return _general.group_norm_backward(*args) if result is NotImplemented else result


def instance_norm(
    x,
    weight=None,
    bias=None,
    *,
    running_mean=None,
    running_var=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
    channel_axis=1,
    out=None,
    return_stats=False,
):
    args = (
        x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, channel_axis, out, return_stats,
    )  # fmt: skip
    result = _active().instance_norm_direct(*args)
    return _general.instance_norm(*args) if result is NotImplemented else result


def instance_norm_backward(
    dy, x, weight=None, *, mean, rstd, use_input_stats=True, channel_axis=1, weight_grads=None, out=None
):
    args = (dy, x, weight, mean, rstd, use_input_stats, channel_axis, weight_grads, out)
    result = _active().instance_norm_backward_direct(*args)
    return _general.instance_norm_backward(*args) if result is NotImplemented else result
