"""Bad arguments, for each op: the error's type, and that its text begins with the function and the argument."""

from functools import partial

import numpy as np

from ..description import FUNCTIONS, Option, Role
from ._checks import call_backward, call_forward, ensure, with_statistics
from ._layouts import LAYOUTS

_readonly = LAYOUTS["readonly"]


def _longer(a):
    return np.concatenate([a, a[:1]])


def _both_ways(x, options):
    """(argument, error, keywords for both directions)"""
    yield "out", ValueError, {"out": np.empty((*x.shape, 1), x.dtype)}
    yield "out", (TypeError, ValueError), {"out": np.empty(x.shape, np.float64)}
    yield "out", ValueError, {"out": _readonly(x)}
    yield "out", TypeError, {"out": x.tolist()}
    axis = "axis" if "axis" in options else "channel_axis"
    yield axis, ValueError, {axis: x.ndim}
    yield axis, ValueError, {axis: -x.ndim - 1}
    yield axis, TypeError, {axis: "last"}
    yield axis, TypeError, {axis: 0.5}
    if axis == "axis":
        yield axis, ValueError, {axis: (0, 0)}
        yield axis, ValueError, {axis: ()}
    if "num_groups" in options:
        yield "num_groups", ValueError, {"num_groups": 5}
        yield "num_groups", ValueError, {"num_groups": 0}
        yield "num_groups", TypeError, {"num_groups": 1.5}


def _bad_companions(x, function):
    """Of what is computed in the same pass."""
    for name, argument in function.fused.items():
        if argument.name == "negative_slope":
            yield name, TypeError, {"activation": "leaky_relu", name: "steep"}
            yield name, ValueError, {"activation": "leaky_relu", name: float("inf")}
            yield name, ValueError, {"activation": "silu", name: 0.5}
        elif name == "round_first":
            yield name, TypeError, {name: "yes"}
            yield name, TypeError, {name: 1}
        elif name == "out_dtype":
            yield name, ValueError, {name: "sideways"}
            yield name, TypeError, {name: 1}
        elif isinstance(argument, Role) and argument.kind == "mask":
            yield name, TypeError, {name: x}
            yield name, ValueError, {name: np.ones((2, *x.shape), bool)}
            yield name, ValueError, {name: np.ones(x.shape[-1] + 1, bool)}
        elif isinstance(argument, Option) and not argument.choices:
            yield name, TypeError, {name: "yes"}
            yield name, ValueError, {name: True}
        elif isinstance(argument, Option):
            yield name, ValueError, {name: "sideways"}
            yield name, TypeError, {name: 1}
        elif argument.kind == "data":
            more = {"residual": x} if argument.canonical else {}  # one for the output of it
            yield name, ValueError, {name: _longer(x), **more}
            yield name, TypeError, {name: x.astype(np.float64), **more}
            if more:
                yield name, ValueError, {name: x}
                yield name, ValueError, {name: _readonly(x), **more}
                yield name, ValueError, {name: (out := x.copy()), "out": out, **more}


def _bad_scales(x, statistics_shape):
    """Of a quantized result."""
    int8 = {"quantize": "int8"}
    yield "scale", ValueError, {"scale": 0.5}
    yield "scale", ValueError, {"scale": np.ones((*statistics_shape, 2)), **int8}
    yield "scale", TypeError, {"scale": "large", **int8}
    yield "out", TypeError, {"out": np.empty(x.shape, x.dtype), **int8}
    yield "out", ValueError, {"out": np.empty((*x.shape, 1), np.int8), **int8}


def _bad_forward(case, x, weight, bias):
    yield from _both_ways(x, case.options)
    if "quantize" in FUNCTIONS[case.op].fused:
        yield from _bad_scales(x, case.geometry.statistics_shape)
    yield from _bad_companions(x, FUNCTIONS[case.op])
    for eps in (-1e-5, float("nan"), float("inf")):
        yield "eps", ValueError, {"eps": eps}
    yield "eps", TypeError, {"eps": "small"}
    yield "return_stats", TypeError, {"return_stats": "yes"}
    for dtype in (np.complex64, np.longdouble, object):
        yield "x", TypeError, {"x": x.astype(dtype)}
    yield "x", (TypeError, ValueError), {"x": "words"}
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            yield name, ValueError, {name: _longer(value)}
            yield name, TypeError, {name: value.astype(np.int32)}
    if case.description.mode is None:
        return
    mean = np.zeros(case.geometry.parameter_shape, np.float32)
    yield "running_var", ValueError, {"running_mean": mean, "running_var": None}
    yield "running_mean", ValueError, {"running_mean": None, "running_var": mean}
    yield "running_mean", ValueError, {"running_mean": _longer(mean), "running_var": mean + 1}
    yield "running_mean", ValueError, {"running_mean": _readonly(mean), "running_var": mean + 1}
    yield "momentum", ValueError, {"running_mean": mean, "running_var": mean + 1, "momentum": 1.5}


def _bad_backward(case, dy, weight, statistics):
    yield from _both_ways(dy, case.options)
    yield from _bad_companions(dy, FUNCTIONS[f"{case.op}_backward"])
    yield "dy", ValueError, {"dy": _longer(dy)}
    yield "dy", TypeError, {"dy": dy.astype(np.float64)}
    yield "weight_grads", (TypeError, ValueError), {"weight_grads": "yes"}
    yield "weight", ValueError, {"weight": _longer(weight)}
    for name, value in statistics.items():
        yield name, ValueError, {name: _longer(value)}
        yield name, TypeError, {name: value.astype(np.float16)}


def _expect(case, function, name, error, call):
    try:
        call()
    except error as caught:
        expected = f"{function}: {name} "
        ensure(str(caught).startswith(expected), case, f"the error does not begin with '{expected}': {caught}")
    except Exception as caught:
        raise AssertionError(f"{case}: bad {name} raised {type(caught).__name__}: {caught}") from caught
    else:
        ensure(False, case, f"bad {name} raised nothing")


def check_errors(case, limits=None):
    """Every kind of bad argument, forward and backward; returns how many were tried."""
    x, weight, bias, dy = case.inputs()
    _, statistics = with_statistics(case, x, weight, bias)
    forward = {"x": x, "weight": weight, "bias": bias}
    backward = {"dy": dy, "x": x, "weight": weight, **statistics}
    tried = 0
    for function, call, given, bad in (
        (case.op, call_forward, forward, _bad_forward(case, x, weight, bias)),
        (f"{case.op}_backward", call_backward, backward, _bad_backward(case, dy, weight, statistics)),
    ):
        for name, error, change in bad:
            _expect(case, function, name, error, partial(call, case, **{**given, **change}))
            tried += 1
    return tried
