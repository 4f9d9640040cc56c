"""The backend ``cython``: canonical functions over the direct ones.

A layout that no loop family takes is copied here, explicitly: kept axes outside, reduced axes inside for feature
norms; samples, channels, space for channel norms. `copies` says when.
"""

import numpy as np

from ..description import FUNCTIONS
from . import from_python as calls

COPY_BYTES = 1 << 26  # copied at once
OUTPUTS = {"out"} | {role.name for function in FUNCTIONS.values() for role in function.fused_results}

direct = {name: getattr(calls, name) for name in FUNCTIONS}


def _memory_order(x, axis):
    """The kept axes as they lie in memory, then the reduced ones: a view that the rows family may take."""
    kept = [i for i in range(x.ndim) if i not in axis]
    return (*sorted(kept, key=lambda i: -abs(x.strides[i])), *axis)


def _in_c_order(a):
    return np.empty(a.shape, a.dtype)


def _orders(op, x, axis):
    """Other orders of axes to try, each with the memory for copies, or None for no copies. That with the axes in the
    order that they have in the memory of x comes first: it decides the last bits."""
    axes = range(x.ndim)
    if op.of_features:
        view = _memory_order(x, axis)
        views = [] if view == tuple(axes) else [(view, None)]
        return [*views, (view, np.empty_like), ((*sorted(view[: x.ndim - len(axis)]), *axis), _in_c_order)]
    order = [i for i in axes if i not in axis]
    order.insert(1, *axis)
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


def _arranged(op, run, arrays, statistics, axis, in_place):
    """What `run(arrays, statistics, axis)` returns beside the arrays that it fills, by name: those as they are, views
    of them, or copies, of which that of x becomes the output where it may be computed in place."""
    x = arrays["x"]
    kinds = _kinds(op, x.ndim, axis)
    if _takes(kinds, x) and (result := run(arrays, statistics, axis)) is not NotImplemented:
        return result
    for order, memory in _orders(op, x, axis):
        moved = {name: a.transpose(order) for name, a in arrays.items()}
        target = moved["x"] if memory is None else memory(moved["x"])
        if not _takes(bytes(map(kinds.__getitem__, order)), target):
            continue
        views = moved
        if memory is not None:
            moved = {name: np.empty_like(target) for name in views if not (in_place and name == "out")}
            for name in views.keys() - OUTPUTS:
                _copy(views[name], moved[name])
            if in_place:
                moved["out"] = moved["x"]
        kept = [i for i in order if i not in axis]  # the axes of the statistics of a feature norm
        turned = op.of_features and kept != sorted(kept)
        given = [s.transpose(np.argsort(np.argsort(kept))).copy() for s in statistics] if turned else statistics
        result = run(moved, given, tuple(map(order.index, axis)))
        if result is NotImplemented:
            continue
        for name in views.keys() & OUTPUTS if memory is not None else ():
            _copy(moved[name], views[name])
        if turned and not statistics:
            return [s.transpose(np.argsort(kept)) for s in result]
        return result
    raise NotImplementedError


def _canonical(function):
    """The canonical function over the direct one, of which it fills in what it knows better."""
    op, names, call = function.op, function.names, direct[function.name]
    data = {role.name for role in (*function.roles, *function.fused_roles) if role.kind == "data"}
    moved = op.statistics if op.of_features and function.backward else ()

    def compute(*args, **fused):
        values = dict(zip(function.canonical, args, strict=True), return_stats=calls.CANONICAL)
        mean = _statistics(op, values) if op.mode and not function.backward else None

        def run(arrays, statistics, axis):
            values.update(arrays, **dict(zip(moved, statistics, strict=True)))
            values[op.axis_name] = axis if op.of_features else axis[0]
            among = {name: arrays.get(name, value) for name, value in fused.items()} | {calls.CANONICAL: True}
            result = call(*[values[name] for name in names], among)
            return result if result is NotImplemented else result[1:]

        arrays = {name: a for name, a in (values | fused).items() if name in data}
        axis = values[op.axis_name]
        axis = axis if op.of_features else (axis,)
        found = _arranged(op, run, arrays, [values[name] for name in moved], axis, not fused)
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
    op = FUNCTIONS[op].op
    axis = tuple(sorted({i % x.ndim for i in (axis if isinstance(axis, tuple) else (axis,))}))
    kinds = _kinds(op, x.ndim, axis)
    views = [order for order, memory in _orders(op, x, axis) if memory is None]
    return not (
        calls.takes(kinds, 1, x)
        or any(calls.takes(bytes(map(kinds.__getitem__, order)), 1, x.transpose(order)) for order in views)
    )
