"""A fused pass as the steps that it replaces: the sum before the norm, the norm, what stands behind it.

Each step writes to memory that is there, and the backward pass finds saved what the activation was applied to.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from normlib.bench.calls import as_tuple, call
from normlib.bench.cases import Case

__all__ = ["chained"]


def chained(case: Case, given: dict, norm: Callable, steps: tuple, own: Callable = np.asarray) -> tuple:
    """Return the call that takes the steps, and what picks the outputs from its result.

    Parameters
    ----------
    case : Case
        The fused pass.
    given : dict
        Its arguments.
    norm : callable
        Makes a call of the bare norm, and what picks its outputs, of such arguments.
    steps : tuple of callable
        ``add(a, b, out)``, ``activation(v)`` in place, ``gradient(dy, v, out)``; without activation the first alone.
    own : callable
        Makes an array of NumPy one of the library, over the same memory.
    """
    add, *activation = steps
    given = {**given, "out": None if given["out"] is None else np.zeros_like(given["out"])}
    before, after, more = [], [], []
    if case.backward and activation:
        given["dy"], upstream = np.zeros_like(given["dy"]), given["dy"]
        saved = before_activation(case, given)
        before.append(functools.partial(activation[1], own(upstream), own(saved), own(given["dy"])))
        more = [own(given["dy"])] * ("add" in case.fused)
    if "residual" in given:
        x, given["x"] = given["x"], given["x"] + given["residual"]
        before.append(functools.partial(add, own(x), own(given["residual"]), own(given["x"])))
        more = [own(given["x"])]
    addend = "dsum" if case.backward else "add"
    if addend in given:
        addend = own(given[addend])
        after.append(lambda y: add(y, addend, y))
    if activation and not case.backward:
        after.append(activation[0])
    normalize, outputs = norm(given)

    def taken():
        for step in before:
            step()
        result = normalize()
        y = result[0] if type(result) is tuple else result
        for step in after:
            step(y)
        return result

    return taken, lambda result: [*outputs(as_tuple(result)), *more]


def before_activation(case: Case, given: dict) -> np.ndarray:
    """Return what the forward pass gives to the activation."""
    forward = replace(case, backward=False, out=False, fused=case.fused[:-1])
    return call(forward, {**given, "out": None}).call()
