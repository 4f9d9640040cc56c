"""The backend ``cython``: canonical functions over the direct ones.

A layout that no loop family takes is copied here, explicitly: kept axes outside, reduced axes inside for feature
norms; samples, space, channels for channel norms. `copies` says when.
"""

import numpy as np

from ..description import FUNCTIONS
from . import from_python as calls
from .functions import direct

COPY_BYTES = 1 << 26  # copied at once
OUTPUTS = {"out"} | {role.name for function in FUNCTIONS.values() for role in function.fused_results}


def _in_c_order(a):
    return np.empty(a.shape, a.dtype)


def _orders(op, x, axis):
    """Orders of axes to try, each with the memory for copies: that in which x lies comes first, for it decides the last
    bits."""
    order = [i for i in range(x.ndim) if i not in axis]
    at = len(order) if op.of_features else 1
    order[at:at] = axis
    return [(order, np.empty_like), (order, _in_c_order)]


def _kinds(op, ndim, axis):
    """What each axis is to `lay_out`: kept or reduced; or channel, sample, space."""
    if op.of_features:
        return bytes(b"KR"[i in axis] for i in range(ndim))
    kinds = bytearray(b"SC"[i in axis] for i in range(ndim))
    if op.per_sample:
        kinds[0 if axis[0] else 1] = ord("N")
    return bytes(kinds)


def _takes(kinds, x):
    """Whether the kernels take an array that lies like x."""
    return 0 in x.strides or calls.takes(kinds, 1, x)  # of a broadcast one they see it when they have the output


def _copy(a, to):
    """to = a, in parts along its outermost axis in memory: between them Python looks for signals."""
    axis = max(range(a.ndim), key=lambda i: (a.shape[i] > 1, abs(to.strides[i])))
    source, target = a.swapaxes(axis, 0), to.swapaxes(axis, 0)
    part = max(1, len(source) * COPY_BYTES // a.nbytes)
    for first in range(0, len(source), part):
        target[first : first + part] = source[first : first + part]
    return to


def _spread(mask, x, shared):
    """A mask in the order of x's memory, broadcast along `shared` axes at most: then axes that are one in x are one in
    the mask."""
    one = tuple(slice(1 if i in shared and mask.strides[i] == 0 else None) for i in range(x.ndim))
    spread = np.empty_like(x[one], bool)
    spread[...] = mask[one]
    return np.broadcast_to(spread, x.shape)


def _arranged(op, run, arrays, axis, in_place):
    """What `run(arrays, axis)` returns beside the arrays that it fills, by name: those as they are, or copies, of which
    that of x becomes the output where it may be computed in place."""
    x = arrays["x"]
    kinds = _kinds(op, x.ndim, axis)
    if _takes(kinds, x) and (result := run(arrays, axis)) is not NotImplemented:
        return result
    if "where" in arrays:
        arrays |= {"where": _spread(arrays["where"], x, axis if op.of_channels else ())}
        if _takes(kinds, x) and (result := run(arrays, axis)) is not NotImplemented:
            return result
    for order, memory in _orders(op, x, axis):
        views = {name: a.transpose(order) for name, a in arrays.items()}
        target = memory(views["x"])
        if not _takes(bytes(map(kinds.__getitem__, order)), target):
            continue
        moved = {
            name: np.empty_like(target, a.dtype)
            for name, a in views.items()
            if name != "where" and not (in_place and name == "out")
        }
        for name in moved.keys() - OUTPUTS:
            _copy(views[name], moved[name])
        if "where" in views:
            shared = [order.index(i) for i in axis] if op.of_channels else ()
            moved["where"] = _spread(views["where"], target, shared)
        if in_place:
            moved["out"] = moved["x"]
        result = run(moved, tuple(map(order.index, axis)))
        if result is not NotImplemented:
            for name in views.keys() & OUTPUTS:
                _copy(moved[name], views[name])
            return result
    raise NotImplementedError


def _canonical(function):
    """The canonical function over the direct one, of which it fills in what it knows better."""
    op, names, call = function.op, function.names, direct[function.name]
    data = {role.name for role in (*function.roles, *function.fused_roles) if role.kind in ("data", "mask")}

    def compute(*args, leading_axes=False, **fused):
        values = dict(zip(function.canonical, args, strict=True), return_stats=calls.CANONICAL)
        mean = _statistics(op, values) if op.mode and not function.backward else None

        def run(arrays, axis):
            values.update(arrays)
            values[op.axis_name] = axis if op.of_features else axis[0]
            among = {name: arrays.get(name, value) for name, value in fused.items()} | {calls.CANONICAL: True}
            result = call(*[values[name] for name in names], among)
            return result if result is NotImplemented else result[1:]

        arrays = {name: a for name, a in (values | fused).items() if name in data}
        axis = values[op.axis_name]
        axis = axis if op.of_features else (axis,)
        found = _arranged(op, run, arrays, axis, not fused and not leading_axes)
        return found if mean is None else (mean, found[1], values["var"])

    return compute


def _statistics(op, values):
    """Given statistics go in as running ones; returns the mean, or None where they are those of x."""
    mean, var = (s[0] if op.per_sample and s is not None else s for s in (values["mean"], values["var"]))
    values |= {"running_mean": mean, "running_var": var, "momentum": 0.0}
    values[op.mode] = mean is None and op.needs_running
    return values["mean"]


globals().update({function.name: _canonical(function) for function in FUNCTIONS.values()})


def copies(op, x, axis):
    """Whether an x of this layout is copied before `op` runs."""
    axis = tuple(sorted({i % x.ndim for i in (axis if isinstance(axis, tuple) else (axis,))}))
    return not calls.takes(_kinds(FUNCTIONS[op].op, x.ndim, axis), 1, x)
