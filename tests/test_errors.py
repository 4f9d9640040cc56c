"""Bad input of every kind, to each function: the type of the error and its whole text."""

import re

import ml_dtypes
import numpy as np
import pytest

import normlib
from normlib.ops import OPS

FUNCTIONS = [function.__name__ for op in OPS.values() for function in (op.forward, op.backward)]
SHAPE = (2, 4, 3)
MODE = OPS["instance_norm"].mode
TAKEN = "float64, float32, float16 or bfloat16"
OR_INTEGERS = f"{TAKEN}, or integers"


def readonly(array):
    array.flags.writeable = False
    return array


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def arguments(function):
    """A call that is right in every way, by keyword."""
    op = OPS[function.removesuffix("_backward")]
    found = {"x": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)}
    found[op.axis_name] = -1 if op.kind == "feature" else 1
    groups = {"num_groups": 2} if op.has_groups else {}
    found |= groups
    parameter_shape = op.parameter_shape(SHAPE, found[op.axis_name])
    if function == op.name:
        found |= {name: np.ones(parameter_shape, np.float32) for name in op.parameters}
        if op.mode:
            found |= {name: np.ones(parameter_shape) for name in ("running_mean", "running_var")}
            found[op.mode] = True
    else:
        statistics_shape = op.statistics_shape(SHAPE, found[op.axis_name], *groups.values())
        found |= {name: np.ones(statistics_shape) for name in op.statistics}
        found |= {"dy": found["x"].copy(), "weight": np.ones(parameter_shape, np.float32)}
    return found


def functions_with(name):
    """The functions that take the argument `name`."""
    def takes(function):
        known = {*arguments(function), "out"}
        backward = function.endswith("_backward")
        if name in ("eps", "return_stats"):
            return not backward
        if name == "weight_grads":
            return backward
        if name == "momentum":
            return function in ("batch_norm", "instance_norm")
        return name in known

    return [function for function in FUNCTIONS if takes(function)]


# argument, bad value, error, text after "<function>: "
EVERYWHERE = [
    ("x", ones(*SHAPE, dtype=np.complex64), TypeError, f"x has dtype complex64, expected {OR_INTEGERS}"),
    ("x", ones(*SHAPE, dtype=object), TypeError, f"x has dtype object, expected {OR_INTEGERS}"),
    ("x", ones(*SHAPE, dtype=ml_dtypes.float8_e4m3), TypeError, f"x has dtype float8_e4m3, expected {OR_INTEGERS}"),
    ("x", [[1, 2], [3, 10**30]], TypeError, f"x has dtype object, expected {OR_INTEGERS}"),
    ("x", "text", TypeError, f"x has dtype <U4, expected {OR_INTEGERS}"),
    ("x", None, TypeError, f"x has dtype object, expected {OR_INTEGERS}"),
    ("x", [[1.0, 2.0], [3.0]], ValueError, "x cannot be made an array: setting an array element with a sequence"),
    ("dy", ones(2, 4, 2), ValueError, "dy has shape (2, 4, 2), expected (2, 4, 3), the shape of x"),
    ("dy", ones(*SHAPE, dtype=np.float64), TypeError, "dy has dtype float64, expected float32, the dtype of y"),
    ("dy", ones(*SHAPE, dtype=int), TypeError, "dy has dtype int64, expected float32, the dtype of y"),
    ("dy", [["a"]], ValueError, "dy cannot be made an array: could not convert string to float: 'a'"),
    ("out", ones(2, 4), ValueError, "out has shape (2, 4), expected (2, 4, 3), the shape of x"),
    ("out", ones(*SHAPE, dtype=np.float64), TypeError,
     "out has dtype float64, expected float32, the dtype of the result"),
    ("out", readonly(ones(*SHAPE)), ValueError, "out is read-only, expected a writeable array"),
    ("out", [0.0], TypeError, "out is a list, expected a NumPy array"),
    ("eps", -1e-5, ValueError, "eps is -1e-05, expected a finite number >= 0"),
    ("eps", float("nan"), ValueError, "eps is nan, expected a finite number >= 0"),
    ("eps", float("inf"), ValueError, "eps is inf, expected a finite number >= 0"),
    ("eps", "1e-5", TypeError, "eps is '1e-5', expected a number"),
    ("eps", None, TypeError, "eps is None, expected a number"),
    ("axis", 3, ValueError, "axis is 3, expected -3 to 2 for x with 3 axes"),
    ("axis", -4, ValueError, "axis is -4, expected -3 to 2 for x with 3 axes"),
    ("axis", (0, 3), ValueError, "axis is 3, expected -3 to 2 for x with 3 axes"),
    ("axis", (2, -1), ValueError, "axis is (2, -1), expected each axis once"),
    ("axis", (), ValueError, "axis is empty, expected at least one axis"),
    ("axis", 1.0, TypeError, "axis is 1.0, expected an integer or a tuple of integers"),
    ("axis", None, TypeError, "axis is None, expected an integer or a tuple of integers"),
    ("channel_axis", 3, ValueError, "channel_axis is 3, expected -3 to 2 for x with 3 axes"),
    ("channel_axis", -4, ValueError, "channel_axis is -4, expected -3 to 2 for x with 3 axes"),
    ("channel_axis", (1,), TypeError, "channel_axis is (1,), expected an integer"),
    ("channel_axis", "C", TypeError, "channel_axis is 'C', expected an integer"),
    ("num_groups", 3, ValueError, "num_groups is 3, expected a divisor of the 4 channels of x"),
    ("num_groups", 0, ValueError, "num_groups is 0, expected a divisor of the 4 channels of x"),
    ("num_groups", -2, ValueError, "num_groups is -2, expected a divisor of the 4 channels of x"),
    ("num_groups", 2.0, TypeError, "num_groups is 2.0, expected an integer"),
    ("return_stats", "no", TypeError, "return_stats is 'no', expected True or False"),
    ("return_stats", np.ones(2), TypeError, "return_stats is array([1., 1.]), expected True or False"),
    ("return_stats", None, TypeError, "return_stats is None, expected True or False"),
    ("weight_grads", "no", TypeError, "weight_grads is 'no', expected True, False or None"),
    ("training", "False", TypeError, "training is 'False', expected True or False"),
    (MODE, None, TypeError, f"{MODE} is None, expected True or False"),
    ("momentum", 1.5, ValueError, "momentum is 1.5, expected a number from 0 to 1"),
    ("momentum", -0.1, ValueError, "momentum is -0.1, expected a number from 0 to 1"),
    ("momentum", None, TypeError, "momentum is None, expected a number"),
    ("running_mean", None, ValueError, "running_mean is None, expected both running_mean and running_var or neither"),
    ("running_var", None, ValueError, "running_var is None, expected both running_mean and running_var or neither"),
    ("running_mean", ones(3), ValueError, "running_mean has shape (3,), expected (4,), one value a channel"),
    ("running_var", ones(4, 1), ValueError, "running_var has shape (4, 1), expected (4,), one value a channel"),
    ("running_mean", ones(4, dtype=bool), TypeError,
     "running_mean has dtype bool, expected float64, float32, float16 or bfloat16"),
    ("running_var", ones(4, dtype=int), TypeError,
     "running_var has dtype int64, expected float64, float32, float16 or bfloat16"),
    ("running_mean", [0.0] * 4, TypeError,
     "running_mean is a list, expected a NumPy array, to be updated in place"),
    ("running_var", readonly(ones(4)), ValueError,
     "running_var is read-only, expected a writeable array, to be updated in place"),
]  # fmt: skip
CALLS = [(function, *case) for case in EVERYWHERE for function in functions_with(case[0])]

# Parameters and statistics, whose shapes differ from norm to norm.
FEATURE, CHANNEL = "the shape of x over axis=-1", "the size of x along channel_axis=1"
REST = "the shape of x without the reduced axes"
for name, op in OPS.items():
    size, words = (3, FEATURE) if op.kind == "feature" else (4, CHANNEL)
    kept = SHAPE[:-1] if op.kind == "feature" else SHAPE[:1]
    before = f"or axes before it that broadcast to {kept}"
    for function, parameters in ((name, op.parameters), (f"{name}_backward", ("weight",))):
        for p in parameters:
            CALLS += [
                (function, p, ones(5), ValueError, f"{p} has shape (5,), expected ({size},), {words}"),
                (function, p, ones(5, size), ValueError,
                 f"{p} has shape (5, {size}), expected ({size},), {words}, {before}"),
                (function, p, ones(1, 1, 1, size), ValueError,
                 f"{p} has shape (1, 1, 1, {size}), expected ({size},), {words}, {before}"),
                (function, p, 1.0, ValueError, f"{p} has shape (), expected ({size},), {words}"),
                (function, p, ones(size, dtype=complex), TypeError, f"{p} has dtype complex128, expected {TAKEN}"),
                (function, p, ones(size, dtype=int), TypeError, f"{p} has dtype int64, expected {TAKEN}"),
                (function, p, ["a"] * size, ValueError,
                 f"{p} cannot be made an array: could not convert string to float: 'a'"),
            ]  # fmt: skip
for name, shape, words in (
    ("layer_norm_backward", (2, 4), REST),
    ("rms_norm_backward", (2, 4), REST),
    ("batch_norm_backward", (4,), "one value a channel"),
    ("group_norm_backward", (2, 2), "one value for each sample and group"),
    ("instance_norm_backward", (2, 4), "one value for each sample and channel"),
):
    for s in OPS[name.removesuffix("_backward")].statistics:
        CALLS += [
            (name, s, ones(7), ValueError, f"{s} has shape (7,), expected {shape}, {words}"),
            (name, s, ones(*shape, 1), ValueError, f"{s} has shape {(*shape, 1)}, expected {shape}, {words}"),
            (name, s, ones(*shape, dtype=np.float16), TypeError, f"{s} has dtype float16, expected float64 or float32"),
            (name, s, ones(*shape, dtype=int), TypeError, f"{s} has dtype int64, expected float64 or float32"),
            (name, s, None, TypeError, f"{s} has dtype object, expected float64 or float32"),
        ]


def unchanged(given):
    return {name: value.copy() for name, value in given.items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize(("function", "argument", "value", "error", "text"), CALLS)
def test_bad_argument(backend, function, argument, value, error, text):
    given = arguments(function)
    getattr(normlib, function)(**given)
    given[argument] = value
    before = unchanged(given)
    with pytest.raises(error, match=re.escape(f"{function}: {text}")) as caught:
        getattr(normlib, function)(**given)
    if "cannot be made" not in text:
        assert str(caught.value) == f"{function}: {text}"
    for name, array in before.items():
        np.testing.assert_array_equal(given[name], array)  # running statistics and out among them


@pytest.mark.parametrize("function", FUNCTIONS)
def test_too_few_axes(backend, function):
    given = arguments(function)
    few = 1 if "axis" in given else 2
    given["x"] = np.ones(SHAPE[: few - 1], np.float32)
    words = f"x has shape {given['x'].shape}, expected at least {'one axis' if few == 1 else '2 axes'}"
    with pytest.raises(ValueError, match=re.escape(f"{function}: {words}")):
        getattr(normlib, function)(**given)


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1), (1, 4, 1, 1)])
def test_batch_norm_of_one_value(backend, shape):
    x = np.full(shape, 3, np.float32)
    running = {"running_mean": np.ones(4), "running_var": np.ones(4)}
    text = f"batch_norm: x has shape {shape}, expected more than one value a channel"
    for options in ({}, running):
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            normlib.batch_norm(x, **options, training=True)
    assert (running["running_mean"] == 1).all()
    assert (normlib.batch_norm(x, **running, eps=0) == 2).all()
    assert (normlib.batch_norm(x) == 0).all()


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (1, 4, 1, 1)])
def test_instance_norm_of_one_value(backend, shape):
    text = f"instance_norm: x has shape {shape}, expected more than one value a sample and channel"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        normlib.instance_norm(np.ones(shape, np.float32))
    running = {"running_mean": np.ones(4), "running_var": np.ones(4)}
    normlib.instance_norm(np.ones(shape, np.float32), **{MODE: False}, **running)


def test_instance_norm_without_any_statistics(backend):
    text = f"instance_norm: {MODE} is False, expected running_mean and running_var, which are None"
    with pytest.raises(ValueError, match=f"^{text}$"):
        normlib.instance_norm(np.ones(SHAPE, np.float32), **{MODE: False})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_unknown_keyword(function):
    with pytest.raises(TypeError, match="dim"):
        getattr(normlib, function)(**arguments(function), dim=1)


def test_words_of_a_tuple_of_axes(backend):
    text = "layer_norm: weight has shape (3, 4), expected (4, 3), the shape of x over axis=(2, 1)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        normlib.layer_norm(np.ones(SHAPE), np.ones((3, 4)), axis=(2, 1))


def test_an_array_that_cannot_be_converted():
    class Refuses:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("it is on another device")

    with pytest.raises(TypeError, match=r"^rms_norm: x cannot be made an array: it is on another device$"):
        normlib.rms_norm(Refuses())


def test_integers_beyond_the_machine(backend):
    """An int of any size is refused in the same words."""
    x, huge = ones(*SHAPE), 10**400
    with pytest.raises(ValueError, match=r"^layer_norm: eps is inf, expected a finite number >= 0"):
        normlib.layer_norm(x, eps=huge)
    with pytest.raises(ValueError, match=r"^layer_norm: axis is 1000.* expected -3 to 2 for x with 3 axes"):
        normlib.layer_norm(x, axis=huge)
    with pytest.raises(ValueError, match=r"^instance_norm: channel_axis is 1000.* expected -3 to 2 for x with 3 axes"):
        normlib.instance_norm(x, channel_axis=huge)
    with pytest.raises(ValueError, match=r"^group_norm: num_groups is 1000.* expected a divisor of the 4 channels"):
        normlib.group_norm(x, huge)
