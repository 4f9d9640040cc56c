"""What is computed in the pass of a norm: the cases follow from the description."""

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

import normlib
from normlib import _kernels, backends
from normlib.description import ACTIVATIONS, FUNCTIONS
from normlib.ops import OPS
from normlib.testing import LAYOUTS, Case, problems
from normlib.testing import _checks as checks
from normlib.testing._cases import constant, fused_cases, independent
from normlib.testing._errors import check_errors
from normlib.testing._fused import arrays, together
from normlib.testing._gradients import check_gradients, gradient_cases

each_op = pytest.mark.parametrize("op", OPS)
SETS = [(op, fused) for op in OPS for fused in together(FUNCTIONS[op])]
names = ["-".join([op, *(name if value is True else value for name, value in fused.items())]) for op, fused in SETS]
each_set = pytest.mark.parametrize(("op", "fused"), SETS, ids=names)


def typical(op, **changes):
    return [replace(Case(op, shape, options), **changes) for shape, options in problems(op, "typical")]


@each_op
def test_accuracy_in_all_dtypes_layouts_and_outputs(backend, op):
    for case in fused_cases(op, quick=True):
        checks.check_forward(case)
        checks.check_backward(case)


@each_op
def test_gradients_are_those_of_finite_differences(backend, op):
    for case in gradient_cases(op):
        if case.fused:
            check_gradients(case)


@each_op
def test_bad_arguments_are_named(backend, op):
    for case in typical(op, fused={"activation": "relu"}):
        check_errors(case)


def separate(case, y, companions=None):
    """The steps after the norm one by one."""
    companions = case.companions() if companions is None else companions
    if "add" in companions:
        y = y + companions["add"]
    y = activated(y, companions["activation"]) if "activation" in companions else y
    return y * activated(companions["gate"], companions.get("gate_activation", "silu")) if "gate" in companions else y


def activated(v, name):
    """By the function that the kernels use; for those of one line in NumPy."""
    if name in ("relu", "leaky_relu"):
        return np.where(v <= 0, v * v.dtype.type(0 if name == "relu" else 0.01) + 0, v)
    result = np.array(v, v.dtype.newbyteorder("="), order="C")
    level = import_module(f"normlib._kernels.isa_{_kernels.info()['isa']}")
    level.activated(result, 1 + ACTIVATIONS.index(name))
    return result


@pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
@each_set
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_are_those_of_the_separate_steps(op, fused, dtype):
    for case in [*typical(op, dtype=dtype), *map(constant, typical(op, dtype=dtype) if OPS[op].mode else [])]:
        for layout in list(LAYOUTS)[len(str(fused)) % 3 :: 3]:
            plain, whole = replace(case, layout=layout), replace(case, layout=layout, fused=fused)
            x, weight, bias, _ = whole.inputs()
            y = checks.call_forward(plain, whole.normalized(x), weight, bias, **checks.running(plain))
            found = checks.call_forward(whole, x, weight, bias, **checks.running(whole))
            assert checks.same_bits(found, separate(whole, y)), whole


@each_set
def test_the_bits_do_not_depend_on_threads_or_on_the_other_rows(op, fused):
    for shape, options in problems(op, "large")[:1]:
        checks.check_threads(Case(op, shape, options, fused=fused))
    for case in typical(op, fused=fused):
        if independent(case):
            checks.check_row_position(case)


@each_set
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_result_may_take_the_place_of_an_input_that_is_added(op, fused, dtype):
    for case in typical(op, dtype=dtype, fused=fused):
        x, weight, bias, _ = case.inputs()
        y = checks.call_forward(case, x, weight, bias)
        for name in arrays(FUNCTIONS[op], fused):
            out = case.companions()[name]
            assert checks.call_forward(case, x, weight, bias, **{name: out}, out=out) is out
            assert checks.same_bits(out, y), case


def past_the_caches(op, dtype, **fused):
    """Passes that move more than 12 MB stream their outputs, in the loops of each family."""
    if OPS[op].kind == "feature":
        found = [((2200, 769), {"axis": -1}), ((2, 901, 900), {"axis": 1})]
    else:
        groups = {"num_groups": 6} if OPS[op].has_groups else {OPS[op].mode: True}
        found = [((6, 36, 95, 87), {"channel_axis": 1, **groups}), ((6, 95, 87, 36), {"channel_axis": -1, **groups})]
    return [Case(op, shape, options, dtype, fused=fused) for shape, options in found]


@each_op
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_arrays(op, dtype):
    for case in past_the_caches(op, dtype, add=True, activation="relu"):
        checks.check_forward(case)
        checks.check_backward(case)


@each_op
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_large_sum_is_rounded_before_it_is_normalized(op, dtype):
    """Also where it goes past the caches, and is normalized from where it was computed."""
    for case in past_the_caches(op, dtype, residual=True):
        x, weight, bias, _ = case.inputs()
        y = checks.call_forward(case, x, weight, bias)
        assert checks.same_bits(y, checks.call_forward(replace(case, fused={}), case.normalized(x), weight, bias))


def test_relu_keeps_nan_and_gives_no_negative_zero():
    add = np.array([[np.nan, -0.0, -1.0, 1.0, np.inf, -np.inf]], np.float32)
    y = normlib.layer_norm(np.zeros_like(add), add=add, activation="relu")
    assert y.tobytes() == np.array([[np.nan, 0, 0, 1, np.inf, 0]], np.float32).tobytes()


def test_an_argument_that_no_function_has_is_named():
    with pytest.raises(TypeError, match=r"layer_norm\(\) got an unexpected keyword argument 'activate'"):
        normlib.layer_norm(np.ones((2, 3)), activate="relu")
    x, rstd = np.ones((2, 3)), np.ones(2)
    with pytest.raises(TypeError, match=r"rms_norm_backward\(\) got an unexpected keyword argument 'bias'"):
        normlib.rms_norm_backward(x, x, rstd=rstd, bias=np.ones(3), activation="relu")
    with pytest.raises(TypeError, match=r"layer_norm_backward\(\) got an unexpected keyword argument 'dadd'"):
        normlib.layer_norm_backward(x, x, mean=rstd, rstd=rstd, dadd=x.copy())


def test_none_is_nothing():
    x = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(normlib.layer_norm(x, add=None, activation=None), normlib.layer_norm(x))


def test_a_backend_that_has_not_heard_of_it_is_passed_over():
    def modest(x, weight, bias, axis, eps, out):
        raise AssertionError("called")

    def knowing(x, weight, bias, axis, eps, out, activation=None):
        out[...] = 7 if activation == "relu" else 0
        return np.zeros(x.shape[:-1]), np.zeros(x.shape[:-1])

    x = np.arange(6.0).reshape(2, 3)
    for function, expected in ((modest, normlib.layer_norm(x, activation="relu")), (knowing, 7)):
        direct = {"layer_norm": modest} if function is modest else {}
        backends.register("other", SimpleNamespace(layer_norm=function, direct=direct))
        with backends.use("other"):
            assert (normlib.layer_norm(x, activation="relu") == expected).all()
        backends.unregister("other")


@pytest.mark.parametrize("make", ["torch", "jax.numpy"])
def test_arrays_of_other_libraries(make):
    library = pytest.importorskip(make)
    x = np.arange(-3.0, 3.0, dtype=np.float32).reshape(2, 3)
    add = library.asarray(x[::-1].copy())
    y = normlib.layer_norm(library.asarray(x), add=add, activation="relu")
    assert type(y) is type(add)
    assert np.array_equal(np.asarray(y), normlib.layer_norm(x, add=x[::-1], activation="relu"))
