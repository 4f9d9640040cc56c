"""`normlib.prepare`: a call that is checked once. The function's bits, and an error for what is not as prepared."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import normlib
from normlib.ops import OPS
from normlib.testing import LAYOUTS

DTYPES = ["float64", "float32", "float16", ml_dtypes.bfloat16]
compiled = pytest.mark.skipif("cython" not in normlib.backends.available(), reason="for the kernels")


def normal(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def arguments(op, x, **more):
    """Those of a function for an x whose channels come second."""
    norm = OPS[op]
    axis = {norm.axis_name: more.pop("axis", -1 if norm.of_features else 1)}
    shape = norm.parameter_shape(x.shape, *axis.values())
    found = axis | {name: normal(shape, x.dtype, seed) for seed, name in enumerate(norm.parameters, 1)}
    if norm.has_groups:
        found["num_groups"] = 2
    if norm.mode:
        found |= {norm.mode: False, "running_mean": normal(shape, seed=3), "running_var": normal(shape, seed=4) ** 2}
    return found | more


def same(a, b):
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 4), (2, 64), (1, 768), (3, 1030), (2, 6, 5), (40, 8, 96)])
def test_the_bits_of_the_function(backend, op, dtype, shape):
    x = normal(shape, dtype)
    options = arguments(op, x)
    expected = getattr(normlib, op)(x, **options)
    plan = normlib.prepare(op, like=np.empty_like(x), **options)
    assert same(plan(x), expected)
    out = np.empty_like(x)
    assert plan(x, out) is out
    assert same(out, expected)
    assert same(plan(x, out=x), expected)  # in place
    assert same(x, expected)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("layout", ["swapped", "strided", "broadcast", "backwards"])
def test_every_layout(backend, op, layout):
    x = normal((4, 6, 10))
    x = {
        "swapped": x.transpose(0, 2, 1), "strided": x[:, 2:, ::2], "backwards": x[:, :, ::-1],
        "broadcast": np.broadcast_to(x[:1], x.shape),
    }[layout]  # fmt: skip
    options = arguments(op, x)
    expected = getattr(normlib, op)(x, **options)
    plan = normlib.prepare(op, x, **options)
    for y in (plan(x), plan(x, np.empty_like(expected))):
        assert same(y, expected)
        assert y.strides == expected.strides


@pytest.mark.parametrize("more", [
    {"weight": None}, {"eps": 0.5}, {"eps": 0}, {"axis": (0, 1)}, {"activation": "relu"}, {"out_dtype": "float64"},
    {"bias": None}, {"activation": "leaky_relu", "negative_slope": 0.5}, {"out_dtype": np.float16, "activation": None},
])  # fmt: skip
def test_what_a_plan_takes(backend, more):
    x = normal((3, 40))
    options = arguments("layer_norm", x, **more)
    expected = normlib.layer_norm(x, **options)
    assert same(normlib.prepare("layer_norm", x, **options)(x), expected)


def test_rounding_before_the_weight(backend):
    x = normal((3, 40), "float16")
    options = {"weight": normal(40, "float16", 1), "round_first": True}
    assert same(normlib.prepare("rms_norm", x, **options)(x), normlib.rms_norm(x, **options))


def test_weights_with_leading_axes(backend):
    x, weight = normal((3, 2, 40)), normal((2, 40), seed=1)
    assert same(normlib.prepare("rms_norm", x, weight=weight)(x), normlib.rms_norm(x, weight))


@pytest.mark.parametrize("x", [
    [1e30, -1e30, 3e30], [1e-30, 2e-30, 4e-30], [np.nan, 1, 2], [1e6, 1e6 + 1, 1e6 - 1], [3, 3, 3], [1e9, *[0] * 20],
])  # fmt: skip
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_alone_has_the_bits_that_it_has_among_others(backend, op, dtype, x):
    """Also one that the first sums do not settle."""
    row = np.resize(np.array(x, dtype), 200)
    rows = np.stack([normal(200, dtype), row, normal(200, dtype)])
    expected = getattr(normlib, op)(rows)[1:2]
    assert same(getattr(normlib, op)(row[np.newaxis]), expected)
    assert same(normlib.prepare(op, row[np.newaxis])(row[np.newaxis]), expected)


def test_other_values_of_a_weight_count(backend):
    x, weight = normal((1, 64)), normal(64, seed=1)
    plan = normlib.prepare("rms_norm", x, weight=weight)
    weight *= 2
    assert same(plan(x), normlib.rms_norm(x, weight))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_weight_of_another_precision_is_converted_at_once(backend, dtype):
    x, weight = normal((1, 64)).astype("float16" if dtype == "float16" else "float32"), normal(64, dtype, 1)
    plan, expected = normlib.prepare("rms_norm", x, weight=weight), normlib.rms_norm(x, weight)
    weight *= 2
    assert same(plan(x), expected)


def test_other_running_statistics_count(backend):
    x = normal((2, 6, 5))
    options = arguments("batch_norm", x)
    plan = normlib.prepare("batch_norm", x, **options)
    options["running_mean"] += 1
    assert same(plan(x), normlib.batch_norm(x, **options))


def test_the_backend_is_that_of_the_preparation():
    x = normal((1, 64))
    with normlib.backends.use("numpy"):
        plan, expected = normlib.prepare("rms_norm", x), normlib.rms_norm(x)
    assert same(plan(x), expected)


def test_one_plan_in_many_threads(backend):
    xs = [normal((4, 300), seed=i) for i in range(40)]
    plan = normlib.prepare("layer_norm", xs[0], activation="silu")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda x: [plan(x) for _ in range(20)], xs))
    for x, results in zip(xs, found, strict=True):
        expected = normlib.layer_norm(x, activation="silu")
        assert all(same(y, expected) for y in results)


@compiled
def test_with_out_nothing_is_allocated():
    x, out = normal((1, 768)), normal((1, 768))
    plan = normlib.prepare("layer_norm", x, weight=x[0].copy(), bias=x[0].copy())
    tracemalloc.start()
    try:
        plan(x, out)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        plan(x, out)
        assert tracemalloc.get_traced_memory()[1] - before < 100
        y = plan(x)
        assert tracemalloc.get_traced_memory()[1] - before >= y.nbytes  # it is seen
    finally:
        tracemalloc.stop()


X = normal((2, 64))
BASE = normal((4, 64))
WEIGHT = normal(64)


@pytest.mark.parametrize(("x", "out", "kind", "text"), [
    (X.tolist(), None, TypeError, "x is a list, expected a NumPy array"),
    (np.ma.array(X), None, TypeError, "x is a MaskedArray, expected a NumPy array"),
    (X.astype("float64"), None, TypeError, "x has dtype float64, expected float32"),
    (X.astype(">f4"), None, TypeError, "x has dtype >f4, expected float32"),
    (X[:1], None, ValueError, "x has shape (1, 64), expected (2, 64)"),
    (X.ravel(), None, ValueError, "x has shape (128,), expected (2, 64)"),
    (BASE[::2], None, ValueError, "x has strides (512, 4), expected (256, 4) along the axes of more than one element"),
    (LAYOUTS["misaligned"](X), None, ValueError, "x is not aligned, expected an aligned array"),
    (X, X.tolist(), TypeError, "out is a list, expected a NumPy array"),
    (X, X.astype("float16"), TypeError, "out has dtype float16, expected float32"),
    (X, X[:1], ValueError, "out has shape (1, 64), expected (2, 64)"),
    (X, BASE[::2], ValueError, "out has strides (512, 4), expected (256, 4) along the axes of more than one element"),
    (X, LAYOUTS["readonly"](X), ValueError, "out is read-only, expected a writeable array"),
    (X, LAYOUTS["misaligned"](X), ValueError, "out is not aligned, expected an aligned array"),
    (BASE[:2], BASE[1:3], ValueError, "out shares memory with x, expected memory of its own, or x itself"),
    (X, np.lib.stride_tricks.as_strided(WEIGHT[:1], (2, 64), (256, 4)), ValueError,
     "out shares memory with weight, expected memory of its own"),
])  # fmt: skip
def test_what_is_not_as_prepared(backend, x, out, kind, text):
    plan = normlib.prepare("rms_norm", X, weight=WEIGHT)
    before = X.copy(), BASE.copy(), WEIGHT.copy()
    with pytest.raises(kind) as caught:
        plan(x, out)
    assert str(caught.value) == f"plan of rms_norm: {text}"
    assert all(map(np.array_equal, (X, BASE, WEIGHT), before))


@pytest.mark.parametrize(("op", "options", "kind", "text"), [
    ("norm", {}, ValueError, "prepare: op is 'norm', expected one of 'layer_norm', 'rms_norm', "
                             "'batch_norm', 'group_norm', 'instance_norm'"),
    ("rms_norm_backward", {}, ValueError, "prepare: op is 'rms_norm_backward', expected one of "),
    (normlib.rms_norm, {}, TypeError, "prepare: op is <function rms_norm at "),
    ("rms_norm", {"bias": WEIGHT}, TypeError, "prepare: a plan of rms_norm takes no bias, expected one of weight, "
                                              "axis, eps, activation, negative_slope, round_first, out_dtype"),
    ("rms_norm", {"residual": X}, TypeError, "prepare: a plan of rms_norm takes no residual, expected one of "),
    ("rms_norm", {"return_stats": True}, TypeError, "prepare: a plan of rms_norm takes no return_stats, expected "),
    ("group_norm", {}, TypeError, "prepare: a plan of group_norm needs num_groups"),
    ("rms_norm", {"eps": -1}, ValueError, "rms_norm: eps is -1.0, expected a finite number >= 0"),
    ("rms_norm", {"weight": X[0, :3]}, ValueError, "rms_norm: weight has shape (3,), expected (64,)"),
    ("batch_norm", {"training": True, "running_mean": WEIGHT, "running_var": WEIGHT}, ValueError,
     "prepare: a plan of batch_norm does not move running statistics, expected training=False"),
])  # fmt: skip
def test_what_cannot_be_prepared(op, options, kind, text):
    with pytest.raises(kind) as caught:
        normlib.prepare(op, X, **options)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(("like", "text"), [
    (X.tolist(), "prepare: like is a list, expected a NumPy array"),
    (np.ones((2, 3), int), "prepare: like has dtype int64, expected float64, float32, float16, bfloat16"),
    (X.astype(">f4"), "prepare: like has dtype >f4, expected "),
])  # fmt: skip
def test_what_it_cannot_be_like(like, text):
    with pytest.raises(TypeError) as caught:
        normlib.prepare("rms_norm", like)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("arguments", [[], [X, X, X]])
def test_a_call_with_other_arguments(backend, arguments):
    with pytest.raises(TypeError, match="argument"):
        normlib.prepare("rms_norm", X)(*arguments)


def test_a_call_with_another_keyword(backend):
    with pytest.raises(TypeError, match="unexpected keyword argument 'eps'"):
        normlib.prepare("rms_norm", X)(X, eps=1)
    assert same(normlib.prepare("rms_norm", X)(x=X, out=None), normlib.rms_norm(X))


def test_what_a_plan_says_of_itself(backend):
    plan = normlib.prepare("rms_norm", X)
    assert repr(plan) == "<plan of rms_norm for float32 of shape (2, 64)>"
    assert isinstance(plan, normlib.Plan)
    assert plan.op == "rms_norm"
    assert callable(plan)
    with pytest.raises(TypeError, match="expected a plan that is prepared where it is used"):
        pickle.dumps(plan)


def test_an_array_without_elements(backend):
    x = np.empty((0, 8), "float32")
    assert normlib.prepare("rms_norm", x)(x).shape == x.shape
