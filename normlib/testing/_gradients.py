"""Gradients against finite differences."""

import numpy as np

from .. import ops
from ..description import FUNCTIONS
from ._cases import LEADING, Case, constant, problems
from ._checks import _without_companions, call_backward, call_forward, ensure, running, with_statistics
from ._fused import arrays, together

# Fourth order: the error falls with step**4, and rounding costs about 1e-16 / step.
_STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


def gradcheck(function, gradients, *arrays, step=1e-3, rtol=1e-8, seed=0):
    """Compare gradients with 4th-order central differences in float64.

    With a fixed random ``dy``, ``L = sum(dy * function(*arrays))`` is differentiated after every element of every
    array by ``dL/dv = (L(v - 2h) - 8 L(v - h) + 8 L(v + h) - L(v + 2h)) / 12h`` (Fornberg 1988).

    Parameters
    ----------
    function : callable
        ``function(*arrays) -> y``.
    gradients : callable
        ``gradients(dy, *arrays)``, one gradient for each array, or None where there is nothing to compare.
    *arrays : float64 arrays
        Where to differentiate.
    step : float
        h, absolute: the arrays should have values around 1.
    rtol : float
        Largest difference allowed, relative to the largest gradient of the array.
    seed : int
        Of ``dy``.

    Returns
    -------
    float
        The largest relative difference found.

    Raises
    ------
    AssertionError
        If it exceeds `rtol`, or a gradient's shape is not its array's.

    Examples
    --------
    >>> import numpy as np
    >>> from normlib.testing import gradcheck
    >>> gradcheck(np.sin, lambda dy, x: [dy * np.cos(x)], np.linspace(0, 1, 5)) < 1e-8
    True
    """
    arrays = [np.array(a, dtype=np.float64) for a in arrays]
    y = np.asarray(function(*arrays))
    dy = np.random.default_rng(seed).standard_normal(y.shape)
    found = gradients(dy, *arrays)
    if len(found) != len(arrays):
        raise AssertionError(f"{len(found)} gradients for {len(arrays)} arrays")
    worst = 0.0
    for index, (array, gradient) in enumerate(zip(arrays, found, strict=True)):
        if gradient is None:
            continue
        gradient = np.asarray(gradient)
        if gradient.shape != array.shape:
            raise AssertionError(f"gradient {index} has shape {gradient.shape}, expected {array.shape}")
        numeric = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            value = array[place]
            for offset, factor in _STENCIL:
                array[place] = value + offset * step
                numeric[place] += factor * np.sum(dy * function(*arrays)) / step
            array[place] = value
        difference = np.max(np.abs(gradient - numeric), initial=0) / max(np.max(np.abs(numeric), initial=0), 1.0)
        worst = max(worst, float(difference))
        if not difference <= rtol:
            raise AssertionError(f"gradient {index} is off by {difference:.3g} of its largest value, allowed {rtol:g}")
    return worst


def _inputs(case):
    """The arrays of a float64 case by name, where no activation has a kink nearby."""
    x, weight, bias, _ = case.inputs()
    x, fused = np.nan_to_num(x, nan=3.0), case.companions()
    given = {"weight": weight, "bias": bias} | {name: fused[name] for name in arrays(FUNCTIONS[case.op], fused)}
    given = {name: array for name, array in given.items() if array is not None}
    for phase in range(100):
        # Half a standard deviation from a constant row the fifth derivatives are too large for the stencil.
        given["x"] = x + 0.5 * np.cos(np.arange(x.size).reshape(x.shape) + phase)
        y = call_forward(case, **running(case), **{**given, "activation": None})
        if np.min(np.abs(y[np.broadcast_to(fused.get("where", True), y.shape)])) > 0.01:
            break
    return given


def check_gradients(case, limits=None):
    """All gradients of a float64 case against finite differences of its forward function."""
    given, parameters = _inputs(case), case.description.parameters

    summed = "residual" in given  # then the sum is a result too, and has a gradient

    def function(*values):
        now = dict(zip(given, values, strict=True))
        y = call_forward(case, **now, **running(case))
        return np.stack([y, now["x"] + now["residual"]]) if summed else y

    def gradients(dy, *values):
        now = dict(zip(given, values, strict=True))
        _, statistics = with_statistics(case, **now)
        fused = case.leading or case.fused.keys() & {"activation", "gate"}
        before = {"bias": now.pop("bias")} if fused and "bias" in now else {}
        now.pop("bias", None)
        if summed:
            now["x"] = now["x"] + now.pop("residual")
            dy, before["dsum"] = dy
        (dx, *rest), companions = _without_companions(case, call_backward(case, dy, **now, **statistics, **before))
        found = {"x": dx, "residual": dx, **dict(zip(parameters, rest, strict=True)), **companions}
        return [found[name] for name in given]

    try:
        # A gate may all but close a row, whose variance then is small.
        rtol = 1e-6 if "gate_first" in case.fused else 1e-7 if case.fused else 1e-8
        return gradcheck(function, gradients, *given.values(), rtol=rtol)
    except AssertionError as error:
        ensure(False, case, str(error))


def gradient_cases(name):
    """Small float64 cases with and without parameters, with given statistics where the op has such a mode, with what is
    computed in the same pass."""
    for shape, options in problems(name, "small"):
        for affine in ("both", "none"):
            yield Case(name, shape, options, "float64", affine=affine)
        if ops.OPS[name].mode is not None:
            yield constant(Case(name, shape, options, "float64"))
    for fused in together(FUNCTIONS[name]):
        yield Case(name, *problems(name, "small")[0], "float64", fused=fused)
    for leading in LEADING:
        for shape, options in problems(name, "small"):
            yield Case(name, shape, options, "float64", leading=leading)
            yield Case(name, shape, options, "float64", leading=leading, fused={"add": True, "activation": "sigmoid"})
