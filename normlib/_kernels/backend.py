"""The backend ``cython``: canonical functions over the direct ones.

A layout that no loop family takes is copied here, explicitly: kept axes outside, reduced axes inside for feature
norms; samples, channels, space for channel norms. `copies` says when.
"""

import numpy as np

from . import from_python as calls

COPY_BYTES = 1 << 26  # copied at once

direct = {
    name: getattr(calls, name)
    for norm in ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")
    for name in (norm, f"{norm}_backward")
}


def _memory_order(x, axis):
    """The kept axes as they lie in memory, then the reduced ones: a view that the rows family may take."""
    kept = [i for i in range(x.ndim) if i not in axis]
    return (*sorted(kept, key=lambda i: -abs(x.strides[i])), *axis)


def _copy(a, to):
    """to = a, in parts along its outermost axis in memory: between them Python looks for signals."""
    axis = max(range(a.ndim), key=lambda i: (a.shape[i] > 1, abs(to.strides[i])))
    source, target = np.moveaxis(a, axis, 0), np.moveaxis(to, axis, 0)
    part = max(1, len(source) * COPY_BYTES // a.nbytes)
    for first in range(0, len(source), part):
        target[first : first + part] = source[first : first + part]
    return to


def _dense(arrays):
    """Copies without gaps, with the axes in the order that they have in the memory of x: it decides the last bits."""
    return [_copy(a, np.empty_like(arrays[-1])) for a in arrays]


def _contiguous(arrays):
    return [a if a.flags.c_contiguous else _copy(a, np.empty(a.shape, a.dtype)) for a in arrays]


def _feature(function, arrays, statistics, axis, out):
    """Run `function(arrays, statistics, axis, out)` on the arrays, on a view of them in memory order, or on copies."""
    result = function(arrays, statistics, axis, out)
    kept = out.ndim - len(axis)
    last = tuple(range(kept, out.ndim))
    views = _memory_order(arrays[-1], axis)
    for order, arranged in ((views, None), (views, _dense), ((*sorted(views[:kept]), *axis), _contiguous)):
        if result is not NotImplemented:
            return result
        # Positions of the kept axes among themselves, for statistics
        ranks = [sorted(order[:kept]).index(i) for i in order[:kept]]
        moved = [a.transpose(order) for a in arrays]
        target = out.transpose(order)
        if arranged is not None:
            moved = arranged(moved)
            target = None
        result = function(moved, [s.transpose(ranks).copy() for s in statistics], last, target)
        if result is not NotImplemented:
            if arranged is not None:
                _copy(result[0], out.transpose(order))
            if not statistics:
                back = np.argsort(ranks)
                result = (result[0], *(s.transpose(back) for s in result[1:]))
    return _taken(result)


def _channel(function, arrays, channel_axis, out):
    """Run `function(arrays, channel_axis, out)` on the arrays, or on copies, at last with channels after samples."""
    result = function(arrays, channel_axis, out)
    for arranged in (_dense, _contiguous):
        if result is not NotImplemented:
            return result
        moved = arranged([np.moveaxis(a, channel_axis, 1) for a in arrays])
        result = function(moved, 1, None)
        if result is not NotImplemented:
            _copy(result[0], np.moveaxis(out, channel_axis, 1))
    return _taken(result)


def _taken(result):
    """The result, which is not to be looked into or left aside where there is none."""
    if result is NotImplemented:
        raise NotImplementedError
    return result


def _ones(weight, bias):
    return np.ones_like(bias) if weight is None and bias is not None else weight


def layer_norm(x, weight, bias, axis, eps, out):
    weight = _ones(weight, bias)
    return _feature(lambda a, s, axis, out: calls.layer_norm(a[0], weight, bias, axis, eps, out, calls.CANONICAL),
                    [x], [], axis, out)[1:]


def layer_norm_backward(dy, x, weight, mean, rstd, axis, weight_grads, out):
    return _feature(lambda a, s, axis, out: calls.layer_norm_backward(*a, weight, *s, axis, weight_grads, out),
                    [dy, x], [mean, rstd], axis, out)[1:]


def rms_norm(x, weight, axis, eps, out):
    return _feature(lambda a, s, axis, out: calls.rms_norm(a[0], weight, axis, eps, out, calls.CANONICAL),
                    [x], [], axis, out)[1:]


def rms_norm_backward(dy, x, weight, rstd, axis, weight_grads, out):
    return _feature(lambda a, s, axis, out: calls.rms_norm_backward(*a, weight, *s, axis, weight_grads, out),
                    [dy, x], [rstd], axis, out)[1:]


def batch_norm(x, weight, bias, mean, var, channel_axis, eps, out):
    result = _channel(lambda a, axis, out: calls.moving_statistics(True, a[0], weight, bias, mean, var, axis, eps, out),
                      [x], channel_axis, out)
    return (mean, result[2], var) if mean is not None else result[1:]


def batch_norm_backward(dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out):
    def run(a, axis, out):
        return calls.batch_norm_backward(*a, weight, mean, rstd, training, axis, weight_grads, out)

    return _channel(run, [dy, x], channel_axis, out)[1:]


def group_norm(x, num_groups, weight, bias, channel_axis, eps, out):
    return _channel(lambda a, axis, out: calls.group_norm(a[0], num_groups, weight, bias, eps, axis, out,
                                                          calls.CANONICAL),
                    [x], channel_axis, out)[1:]


def group_norm_backward(dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out):
    def run(a, axis, out):
        return calls.group_norm_backward(*a, num_groups, weight, mean, rstd, axis, weight_grads, out)

    return _channel(run, [dy, x], channel_axis, out)[1:]


def instance_norm(x, weight, bias, mean, var, channel_axis, eps, out):
    of_all = (None, None) if mean is None else (np.ascontiguousarray(mean[0]), np.ascontiguousarray(var[0]))
    result = _channel(lambda a, axis, out: calls.moving_statistics(False, a[0], weight, bias, *of_all, axis, eps, out),
                      [x], channel_axis, out)
    return (mean, result[2], var) if mean is not None else result[1:]


def instance_norm_backward(dy, x, weight, mean, rstd, use_input_stats, channel_axis, weight_grads, out):
    def run(a, axis, out):
        return calls.instance_norm_backward(*a, weight, mean, rstd, use_input_stats, axis, weight_grads, out)

    return _channel(run, [dy, x], channel_axis, out)[1:]


def copies(op, x, axis):
    """Whether an x of this layout is copied before `op` runs."""
    if op.startswith(("layer_norm", "rms_norm")):
        axes = {a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
        view = x.transpose(_memory_order(x, sorted(axes)))
        kinds = bytes(b"R"[0] if i in axes else b"K"[0] for i in range(x.ndim))
        return not (calls.takes(kinds, 1, x) or calls.takes(bytes(sorted(kinds)), 1, view))
    axis %= x.ndim
    kinds = bytearray(b"S" * x.ndim)
    kinds[axis] = b"C"[0]
    if not op.startswith("batch_norm"):
        kinds[0 if axis else 1] = b"N"[0]
    return not calls.takes(bytes(kinds), x.shape[axis] if op.startswith("batch_norm") else 1, x)
