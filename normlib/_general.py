"""The general way of a call: check, bring to canonical form, let the backends compute, build the result.

It is taken by whatever the chosen backend's direct function does not take.
"""

import numpy as np

from . import _arguments as a
from . import _arrays, backends
from ._call import Call
from .description import FUNCTIONS


def call(name, *values, **fused):
    """The result of the public function `name`, whose arguments come in its order; `fused`: what else it computes in
    the same pass, by name, of which the direct function has not heard yet."""
    function = FUNCTIONS[name]
    fused = a.wanted(function, fused)
    arrays, kinds = _arrays.taken(function, values, not fused.keys() & {"quantize", "out_dtype"})
    if not kinds and not fused:
        return _compute(function, values)
    fused = {key: _arrays.numpy_of(name, key, value) for key, value in fused.items()}
    fused |= _arrays.mask(function, values, kinds, fused)
    result = getattr(backends.active(), f"{name}_direct")(*arrays, fused)
    if result is NotImplemented:
        result = _compute(function, arrays, fused)
    return _arrays.returned(function, values, kinds, result)


def _compute(function, values, fused=None):
    checked = Call(function, values, fused or {})
    filled, seen = checked.outputs()
    results = (_gradients if function.backward else _statistics)(checked, filled)
    for name, array in filled.items():
        if array is not seen[name]:
            seen[name][...] = array
    y, *more = seen.values()
    y = y if checked.given["out"] is None else checked.given["out"]
    if function.backward:
        return y, *results, *more
    # Before what is in place: from there on nothing fails
    result = (y, *more, *(results[: len(function.op.statistics)] if checked.values["return_stats"] else ()))
    result = result if len(result) > 1 else y
    if checked.moves:
        _move(checked, *results)
    return result


def _statistics(checked, filled):
    """What the backend returns after filling arrays; of an empty array NaN, or the statistics that were given."""
    names, values = checked.function.returned, checked.values
    if checked.x.size:
        found = backends.run(checked, filled)
        if values["eps"] == 0 and (found[names.index("rstd")] == np.inf).any():
            a.zero_by_zero()
        return found
    if values.get("mean") is not None:
        return values["mean"], _rstd(values["var"], values["eps"]), values["var"]
    return [np.full(checked.statistics_shape, np.nan) for _ in names]


def _gradients(checked, filled):
    """Those of the parameters, after filling arrays."""
    if checked.x.size:
        return _narrow(backends.run(checked, filled), checked.dtype)
    return [None if shape is None else np.zeros(shape, checked.dtype) for _, shape, _ in checked.expected]


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
    moved = (1 - momentum) * old.astype(np.float64) + momentum * new
    return (a.to_odd(moved) if dtype.itemsize == 2 else moved).astype(dtype)


def _inside(checked, statistic, least):
    """The mean over the samples that have at least so many values inside, of a variance the unbiased one; masked where
    none has."""
    count = checked.count.reshape(statistic.shape)
    known = np.ma.array(statistic, mask=count < least)
    if least == 2:
        known = known * (count / np.maximum(count - 1, 1))
    return known.sum(axis=0) / known.count(axis=0) if checked.op.per_sample else known


def _move(checked, mean, rstd, var):
    """Move the running statistics, the variance by the unbiased one."""
    if "where" in checked.fused:
        batch = _inside(checked, mean, 1), _inside(checked, var, 2)
    else:
        if checked.op.per_sample:
            mean, var = _over_samples(mean), _over_samples(var)
        batch = mean, var * (checked.count / (checked.count - 1))
    move((checked.given["running_mean"], checked.given["running_var"]), checked.values["momentum"], batch)


def move(running, momentum, batch):
    """running = (1 - momentum) * running + momentum * batch, where `batch` is not masked, for both or neither."""
    before = [array.copy() for array in running]
    try:
        for array, old, new in zip(running, before, batch, strict=True):
            moved = _moved(old, momentum, np.ma.getdata(new), array.dtype)
            array[...] = np.where(np.ma.getmaskarray(new), old, moved)
    except BaseException:  # an interrupt may come between the two
        for array, old in zip(running, before, strict=True):
            array[...] = old
        raise
