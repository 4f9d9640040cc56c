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
def test_bad_arguments_are_named(backend, op):
    for case in typical(op, fused={"activation": "relu"}):
        check_errors(case)


def separate(case, y, companions=None):
    """The steps after the norm one by one."""
    companions = case.companions() if companions is None else companions
    if "add" in companions:
        y = y + companions["add"]
    y = activated(y, companions["activation"]) if "activation" in companions else y
    y = y * opened(companions) if "gate" in companions and "gate_first" not in companions else y
    return np.where(companions["where"], y, y.dtype.type(0)) if "where" in companions else y


def normalized(case, x):
    """What is normalized, by separate steps."""
    x, companions = case.summed(x), case.companions()
    return LAYOUTS[case.layout]((wide(x) * opened(companions)).astype(x.dtype)) if "gate_first" in companions else x


def opened(companions):
    return activated(wide(companions["gate"]), companions.get("gate_activation", "silu"))


def wide(a):
    """In the dtype in which the kernels work."""
    return a.astype(np.float32) if a.dtype.itemsize == 2 else a


def activated(v, name, slope=False):
    """By the function that the kernels use; for those of one line in NumPy."""
    if name in ("relu", "leaky_relu"):
        return np.where(v <= 0, v * v.dtype.type(0 if name == "relu" else 0.01) + 0, v)
    result = np.array(v, v.dtype.newbyteorder("="), order="C")
    level = import_module(f"normlib._kernels.isa_{_kernels.info()['isa']}")
    level.activated(result, 1 + ACTIVATIONS.index(name), slope)
    return result


@pytest.mark.share(3)
@pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
@each_set
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_are_those_of_the_separate_steps(op, fused, dtype):
    for case in [*typical(op, dtype=dtype), *map(constant, typical(op, dtype=dtype) if OPS[op].mode else [])]:
        for layout in list(LAYOUTS)[len(str(fused)) % 3 :: 3]:
            first = {"where": True} if "where" in fused else {}
            plain, whole = (replace(case, layout=layout, fused=steps) for steps in (first, fused))
            x, weight, bias, _ = whole.inputs()
            y = checks.call_forward(plain, normalized(whole, x), weight, bias, **checks.running(plain))
            found = checks.call_forward(whole, x, weight, bias, **checks.running(whole))
            assert checks.same_bits(found, separate(whole, y)), whole


@pytest.mark.share(3)
@each_set
def test_the_bits_do_not_depend_on_threads_or_on_the_other_rows(op, fused):
    for shape, options in problems(op, "large")[:1]:
        checks.check_threads(Case(op, shape, options, fused=fused), threads=(1, 3))
    for case in typical(op, fused=fused):
        if independent(case):
            checks.check_row_position(case)


@pytest.mark.share(3)
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


FIRST = {"residual": True, "add": True, "activation": "silu", "gate": True, "gate_first": True}


@pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
@each_op
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight_grads", [False, True])
def test_gradients_through_a_gate_before_the_norm_have_the_bits_of_the_separate_steps(op, dtype, weight_grads):
    for case in [*typical(op, dtype=dtype), *map(constant, typical(op, dtype=dtype) if OPS[op].mode else [])]:
        for layout in LAYOUTS:
            whole = replace(case, layout=layout, fused={"gate": True, "gate_first": True})
            x, weight, _, dy = whole.inputs()
            gate, u = whole.companions()["gate"], normalized(whole, x)
            _, statistics = checks.with_statistics(replace(whole, fused={}), u)
            du, *sums = checks.call_backward(
                replace(whole, fused={}), dy, u, weight, **statistics, weight_grads=weight_grads
            )
            dx, *found, dgate = checks.call_backward(whole, dy, x, weight, **statistics, weight_grads=weight_grads)
            assert checks.same_bits(dx, du * activated(gate, "silu")), whole
            assert checks.same_bits(dgate, activated(gate, "silu", slope=True) * x * du), whole
            assert all(a is b is None or checks.same_bits(a, b) for a, b in zip(found, sums, strict=True)), whole


@each_op
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("alone", [False, True])
def test_dx_may_take_the_place_of_any_input(backend, op, dtype, alone):
    fused = {"residual": True, "gate": True, "gate_first": True} if alone else FIRST
    for case in typical(op, dtype=dtype, fused=fused):
        x, weight, bias, dy = case.inputs()
        _, statistics = checks.with_statistics(case, x, weight, bias)
        given = {"dy": dy, "x": case.summed(x), **case.companions(backward=True)}
        given.pop("gate_first")
        expected = checks.call_backward(case, weight=weight, **statistics, **given)
        for name in given.keys() & {"dy", "x", "dsum", "gate", "add"}:
            out = given[name].copy()
            found = checks.call_backward(case, weight=weight, **statistics, **{**given, name: out}, out=out)
            assert found[0] is out
            for a, b in zip(found, expected, strict=True):
                assert checks.same_bits(a, b), (case, name)


@each_op
@pytest.mark.parametrize("length", [37, 300, 891, 1500])
def test_dx_may_take_the_place_of_dy_however_many_rows_are_taken_at_once(backend, op, length):
    """What an activation makes of dy is made for more rows at a time than the norm takes, and once."""
    if OPS[op].kind == "feature":
        case = Case(op, (71, length), {"axis": -1}, fused={"activation": "silu"})
    else:
        groups = {"num_groups": 33} if op == "group_norm" else {}
        case = Case(op, (2, 33, length), {"channel_axis": 1, **groups}, fused={"activation": "silu"})
    x, weight, bias, dy = case.inputs()
    _, statistics = checks.with_statistics(case, x, weight, bias)
    expected = checks.call_backward(case, dy, x, weight, **statistics)
    found = checks.call_backward(case, dy, x, weight, **statistics, out=dy)
    assert found[0] is dy
    for a, b in zip(found, expected, strict=True):
        assert checks.same_bits(a, b)


def past_the_caches(op, dtype, **fused):
    """Passes that move more than 12 MB stream their outputs, in the loops of each family."""
    if OPS[op].kind == "feature":
        found = [((2200, 769), {"axis": -1}), ((2, 901, 900), {"axis": 1})]
    else:
        groups = {"num_groups": 6} if OPS[op].has_groups else {OPS[op].mode: True}
        found = [((6, 36, 95, 87), {"channel_axis": 1, **groups}), ((6, 95, 87, 36), {"channel_axis": -1, **groups})]
    return [Case(op, shape, options, dtype, fused=fused) for shape, options in found]


@pytest.mark.share(2)
@each_op
@pytest.mark.parametrize("turn", [0, 1])
def test_large_arrays(op, turn):
    """Each layout in one of two dtypes, by turns."""
    dtypes = ("float32", "float16") if OPS[op].has_groups or OPS[op].mode else ("float16", "float32")
    case = past_the_caches(op, dtypes[turn], add=True, activation="relu")[turn]
    checks.check_forward(case)
    checks.check_backward(case)


@pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
@each_op
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_arrays_gated_before_the_norm_have_the_bits_of_the_separate_steps(op, dtype):
    """Also rows that are longer than a panel."""
    for fused in ({"gate": True, "gate_first": True}, {"residual": True, "gate": True, "gate_first": True}):
        long = [Case(op, (400, 9001), {"axis": -1}, dtype, fused=fused)] if OPS[op].kind == "feature" else []
        for case in [*past_the_caches(op, dtype, **fused), *long]:
            x, weight, bias, dy = case.inputs()
            plain, u, gate = replace(case, fused={}), normalized(case, x), wide(case.companions()["gate"])
            y, statistics = checks.with_statistics(plain, u, weight, bias)
            assert checks.same_bits(checks.call_forward(case, x, weight, bias), y), case
            if dtype == "float16":
                continue  # the gradient that reaches the product is not rounded between the steps
            du, *sums = checks.call_backward(plain, dy, u, weight, **statistics)
            dx, *found, dgate = checks.call_backward(case, dy, case.summed(x), weight, **statistics, dsum=None)
            assert checks.same_bits(dx, du * activated(gate, "silu")), case
            assert checks.same_bits(dgate, activated(gate, "silu", slope=True) * case.summed(x) * du), case
            assert all(map(checks.same_bits, found, sums)), case


@each_op
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_large_sum_is_rounded_before_it_is_normalized(op, dtype):
    """Also where it goes past the caches, and is normalized from where it was computed."""
    for case in past_the_caches(op, dtype, residual=True):
        x, weight, bias, _ = case.inputs()
        y = checks.call_forward(case, x, weight, bias)
        assert checks.same_bits(y, checks.call_forward(replace(case, fused={}), case.normalized(x), weight, bias))


def test_a_gate_before_the_norm():
    x, gate = np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]])
    y = normlib.rms_norm(x, eps=0, gate=gate, gate_activation="relu", gate_first=True)
    assert np.allclose(y, [[0, np.sqrt(2)]])
    assert np.array_equal(normlib.rms_norm(x, gate=gate, gate_first=False), normlib.rms_norm(x, gate=gate))
    with pytest.raises(ValueError, match="rms_norm: gate_first is True without gate"):
        normlib.rms_norm(x, gate_first=True)
    with pytest.raises(TypeError, match="rms_norm: gate_first is 1"):
        normlib.rms_norm(x, gate=gate, gate_first=1)


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
