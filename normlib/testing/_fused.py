"""What is computed in the pass of a norm, in extended precision, by the names of its arguments."""

from itertools import chain, combinations, product

import numpy as np

from ..description import Option, Role
from ._reference import extended

# Each activation and its derivative.
ACTIVATIONS = {"relu": (lambda v: np.where(v <= 0, 0, v), lambda v: np.where(v <= 0, 0, 1))}


def together(function):
    """Every set of the arguments for the same pass of a forward function that makes sense, each option with each of its
    choices, as a dict; an array is True."""
    fused = {name: argument for name, argument in function.fused.items() if not argument.canonical}
    for names in chain.from_iterable(combinations(fused, n) for n in range(1, len(fused) + 1)):
        choices = [fused[name].choices if isinstance(fused[name], Option) else (True,) for name in names]
        yield from (dict(zip(names, values, strict=True)) for values in product(*choices))


def arrays(function, fused):
    """The names of the arrays of the shape of x among them."""
    return [name for name in fused if isinstance(role := function.fused[name], Role) and role.kind == "data"]


def forward(geometry, truth, companions):
    """The results of a forward pass with what follows it: f(y + add)."""
    v, scale = _before_activation(geometry, truth, companions)
    f = ACTIVATIONS[companions["activation"]][0] if "activation" in companions else np.array
    return truth._replace(y=f(v), scale=scale)


def upstream(geometry, truth, dy, companions):
    """The gradient that reaches the norm, dy * f'(y + add), which is that of add."""
    dy = extended(dy)
    if "activation" not in companions:
        return dy
    v, _ = _before_activation(geometry, truth, companions)
    return dy * ACTIVATIONS[companions["activation"]][1](v)


def backward(geometry, gradients, companions):
    """The gradients of a backward pass, to dx what reaches the sum from elsewhere."""
    if "dsum" not in companions:
        return gradients
    dsum = extended(companions["dsum"])
    return gradients._replace(dx=gradients.dx + dsum, scale=np.maximum(gradients.scale, _largest(geometry, dsum)))


def _largest(geometry, a):
    return np.max(np.abs(geometry.rows(a)), axis=1, keepdims=True, initial=0)


def _before_activation(geometry, truth, companions):
    if "add" not in companions:
        return truth.y, truth.scale
    add = extended(companions["add"])
    return truth.y + add, np.maximum(truth.scale, _largest(geometry, add))
