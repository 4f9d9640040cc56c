"""What is computed in the pass of a norm, in extended precision, by the names of its arguments."""

import math
from itertools import combinations, cycle

import numpy as np

from ..description import Role
from ._reference import extended

_SQRT_2 = np.sqrt(np.longdouble(2))
_PI = np.longdouble("3.14159265358979323846264338327950288")


def _logistic(z):
    return 1 / (1 + np.exp(-z))


def _normal(v):
    """Of a normal distribution the share below v, as good as a float64 has it."""
    return np.frompyfunc(math.erfc, 1, 1)(np.asarray(-v / _SQRT_2, np.float64)).astype(np.longdouble) / 2


def _of_tanh(v):
    return np.sqrt(8 / _PI) * (v + 0.044715 * v**3), np.sqrt(8 / _PI) * (1 + 3 * 0.044715 * v**2)


def _gelu_tanh_slope(v):
    z, dz = _of_tanh(v)
    return _logistic(z) + v * _logistic(z) * _logistic(-z) * dz


# Each activation and its derivative.
ACTIVATIONS = {
    "relu": (lambda v: np.where(v <= 0, 0, v), lambda v: np.where(v <= 0, 0, 1)),
    "leaky_relu": (lambda v: np.where(v <= 0, v * 0.01, v), lambda v: np.where(v <= 0, 0.01, 1)),
    "silu": (lambda v: v * _logistic(v), lambda v: _logistic(v) * (1 + v * _logistic(-v))),
    "gelu": (lambda v: v * _normal(v), lambda v: _normal(v) + v * np.exp(-v * v / 2) / np.sqrt(2 * _PI)),
    "gelu_tanh": (lambda v: v * _logistic(_of_tanh(v)[0]), _gelu_tanh_slope),
    "sigmoid": (_logistic, lambda v: _logistic(v) * _logistic(-v)),
}


TYPED = ("quantize", "scale", "out_dtype")  # which give a result of another type


def choices(function):
    """What each of the arguments for the same pass may be that leave the type of the result, by name: an array and a
    flag are True."""
    own = [a for a in function.fused.values() if not a.canonical and a.name not in TYPED]
    return {a.name: getattr(a, "choices", ()) or (True,) for a in own if isinstance(a, Role) or a.c == "int"}


def sensible(names):
    """Whether none of the arguments needs another that is not among them."""
    return "gate" in names or not {"gate_activation", "gate_first"}.intersection(names)


def together(function):
    """Sets of the arguments for the same pass of a forward function, as dicts, in which an array is True: each alone,
    with each of its choices, then each pair, and all, with choices by turns; of these those with a gate also with that
    first."""
    fused = {name: values for name, values in choices(function).items() if name not in ("gate_first", "round_first")}
    turns = {name: cycle(values) for name, values in fused.items()}
    for name, values in fused.items():
        first = {"gate": True} if name == "gate_activation" else {}
        yield from ({**first, name: value} for value in values)
    for names in (*combinations(fused, 2), tuple(fused)):
        if sensible(names):
            chosen = {name: next(turns[name]) for name in names}
            yield chosen
            if "gate" in names:
                yield {**chosen, "gate_first": True}


def arrays(function, fused):
    """The names of the arrays of the shape of x among them."""
    return [name for name in fused if isinstance(role := function.fused[name], Role) and role.kind == "data"]


def forward(geometry, truth, companions):
    """The results of a forward pass with what follows it: f(y + add) * h(gate)."""
    v, scale = _before_activation(geometry, truth, companions)
    f, slope = ACTIVATIONS[companions["activation"]] if "activation" in companions else (np.array, np.ones_like)
    scale = np.maximum(scale, _largest(geometry, v)) * _largest(geometry, slope(v))  # what the last digits of v come to
    h = 1 if "gate_first" in companions else opened(companions)
    y = np.where(companions.get("where", True), f(v) * h, 0)
    return truth._replace(y=y, scale=scale * _largest(geometry, h * np.ones_like(v)))


def upstream(geometry, truth, dy, companions):
    """The gradient that reaches the norm, which is that of add, and the gradient of the gate."""
    dy = extended(dy)
    v, _ = _before_activation(geometry, truth, companions)
    f, slope = ACTIVATIONS[companions["activation"]] if "activation" in companions else (np.array, np.ones_like)
    h, dh = (1, 0) if "gate_first" in companions else (opened(companions), opened(companions, True))
    return tuple(np.where(companions.get("where", True), dy * factor, 0) for factor in (slope(v) * h, f(v) * dh))


def opened(companions, slope=False):
    """h(gate) or its derivative."""
    if "gate" not in companions:
        return 0 if slope else 1
    return ACTIVATIONS[companions.get("gate_activation", "silu")][slope](extended(companions["gate"]))


def backward(geometry, gradients, x, companions):
    """The gradients of a backward pass, to dx what reaches the sum from elsewhere; the gradient of a gate that comes
    first, and its largest term in each row."""
    dgate = None
    if "gate_first" in companions:
        h, slope = opened(companions), extended(x) * opened(companions, True)
        slope = np.where(companions.get("where", True), slope, 0)
        dgate = gradients.dx * slope, gradients.scale * _largest(geometry, slope)
        gradients = gradients._replace(dx=gradients.dx * h, scale=gradients.scale * _largest(geometry, h))
    if "dsum" not in companions:
        return gradients, dgate
    dsum = extended(companions["dsum"])
    scale = np.maximum(gradients.scale, _largest(geometry, dsum))
    return gradients._replace(dx=gradients.dx + dsum, scale=scale), dgate


def _largest(geometry, a):
    return np.max(np.abs(geometry.rows(a)), axis=1, keepdims=True, initial=0)


def _before_activation(geometry, truth, companions):
    if "add" not in companions:
        return truth.y, truth.scale
    add = extended(companions["add"])
    return truth.y + add, np.maximum(truth.scale, _largest(geometry, add))
