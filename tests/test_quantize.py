"""Results as int8, with a scale a row, and back."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

import normlib
from normlib import _kernels, numpy_backend
from normlib.testing import Case
from normlib.testing import _checks as checks
from normlib.testing._cases import quantized_cases

NORMS = {"layer_norm": normlib.layer_norm, "rms_norm": normlib.rms_norm}
each_norm = pytest.mark.parametrize("op", NORMS)
LONG = 40_000  # a row that is not kept between its maximum and its integers


def rows(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@each_norm
def test_accuracy_in_all_dtypes_layouts_and_sets(backend, op):
    for case in quantized_cases(op, quick=True):
        checks.check_quantized(case)


@pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
@each_norm
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (33, 97), (5, 1000), (3, 4097), (2, LONG)])
@pytest.mark.parametrize("more", [{}, {"add": True, "activation": "relu"}, {"scale": 0.03}])
def test_the_bits_are_those_of_the_separate_steps_in_numpy(op, dtype, shape, more):
    x = rows(shape, dtype)
    more = {name: rows(shape, dtype, 1) if value is True else value for name, value in more.items()}
    scale = more.pop("scale", None)
    y = NORMS[op](x, **more)
    given = None if scale is None else np.full(len(x), scale, dtype)
    with np.errstate(all="ignore"):
        q, expected = numpy_backend.to_int8(y, given)
    found, steps = NORMS[op](x, quantize="int8", scale=scale, **more)
    assert checks.same_bits(found, q.astype(np.int8))
    assert checks.same_bits(steps, expected.reshape(-1))


def test_ties_go_to_the_even_integer(backend):
    """The largest is 127, so that each scale is 1."""
    add = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 126.4]], np.float32)
    with normlib.backends.use(backend):
        q, scale = normlib.rms_norm(np.zeros_like(add), add=add, quantize="int8")
    assert scale == [1]
    assert q.tolist() == [[127, 0, 2, 2, 0, -2, -126, 126]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", bfloat16])
@pytest.mark.parametrize("width", [5, 6000, LONG])
def test_rows_that_are_no_numbers_and_rows_of_zeros(backend, dtype, width):
    x = np.ones((5, width), dtype)
    x[0], x[1, 2], x[2, 3], x[3] = 0, np.nan, np.inf, -1
    with normlib.backends.use(backend):
        q, scale = normlib.rms_norm(x, quantize="int8", eps=0.5)
        assert scale[0] == 0
        assert np.isnan(scale[1:3]).all()
        assert not q[:3].any()
        assert (q[3] == -127).all()
        assert (q[4] == 127).all()
        add = np.zeros_like(x)
        add[4, :3] = np.nan, np.inf, -np.inf
        q, scale = normlib.rms_norm(x, quantize="int8", eps=0.5, add=add, scale=0.25)
        assert scale.tolist() == [0.25] * 5
        assert q[4, :4].tolist() == [0, 127, -127, 3]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scales_at_the_ends_of_the_range(backend, dtype):
    info = np.finfo(dtype)
    add = np.array([[1, 2, -4], [1, 2, -4]], dtype) * np.array([[info.smallest_normal / 8], [info.max / 4]], dtype)
    with normlib.backends.use(backend):
        q, scale = normlib.rms_norm(np.zeros_like(add), add=add, quantize="int8")
        assert q.tolist() == [[32, 64, -127]] * 2
        assert np.isfinite(scale).all()
        for given, expected in ((0, 0), (np.inf, 0), (np.nan, 0), (info.smallest_subnormal, 127)):
            q, _ = normlib.rms_norm(np.ones((1, 3), dtype), quantize="int8", scale=given)
            assert (q == expected).all(), given


@each_norm
def test_the_scale_that_is_given_comes_back(op):
    x = rows((4, 6, 33))
    scale = np.linspace(0.01, 0.02, 24, dtype=np.float32).reshape(4, 6)
    q, same = NORMS[op](x, quantize="int8", scale=scale)
    assert checks.same_bits(same, scale)
    assert checks.same_bits(q, NORMS[op](x, quantize="int8", scale=scale.astype(np.float64))[0])
    one = NORMS[op](x, quantize="int8", scale=np.float32(0.01))
    assert checks.same_bits(one[1], np.full((4, 6), 0.01, np.float32))
    assert checks.same_bits(one[0], NORMS[op](x, quantize="int8", scale=0.01)[0])
    assert np.abs(NORMS[op](x, quantize="int8", scale=0.001)[0]).max() == 127


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_out(backend, dtype):
    x = rows((6, 40), dtype)
    with normlib.backends.use(backend):
        q, scale = normlib.layer_norm(x, quantize="int8")
        out = np.zeros((6, 80), np.int8)[:, ::2]
        assert normlib.layer_norm(x, quantize="int8", out=out)[0] is out
        assert np.array_equal(out, q)
        inside = x.view(np.int8)[:, :40]  # the memory of x
        _, again = normlib.layer_norm(x, quantize="int8", out=inside)
    assert np.array_equal(inside, q)
    assert checks.same_bits(again, scale)


@each_norm
@pytest.mark.parametrize(("shape", "axis"), [((1700, 2500), -1), ((300, 15000), -1), ((2, 901, 900), 1)])
def test_large_arrays_threads_and_places(op, shape, axis):
    """Also where results go past the caches."""
    x = rows(shape)
    q, scale = NORMS[op](x, axis=axis, quantize="int8")
    for threads in (1, 2, 5):
        with normlib.num_threads(threads):
            assert all(map(checks.same_bits, (q, scale), NORMS[op](x, axis=axis, quantize="int8")))
    part = NORMS[op](x[1:2], axis=axis, quantize="int8")
    assert checks.same_bits(part[0], q[1:2])
    assert checks.same_bits(part[1], scale[1:2])


@each_norm
def test_what_the_kernels_leave_to_numpy(op):
    """A mask, and a gate before the norm."""
    x, gate = rows((4, 33)), rows((4, 33), seed=1)
    inside = rows((4, 33), seed=2) > 0
    masked = np.where(inside, x, np.nan)
    for more in ({"where": inside}, {"gate": gate, "gate_first": True}):
        q, scale = NORMS[op](masked if "where" in more else x, quantize="int8", **more)
        y = NORMS[op](x, **more)
        assert np.allclose(normlib.dequantize(q, scale), y, atol=scale.max() * 0.501)
        assert not q[~inside].any() or "where" not in more
    y = NORMS[op](x, gate=gate, gate_first=True)
    typed = NORMS[op](x, gate=gate, gate_first=True, out_dtype="float64")
    assert typed.dtype == np.float64
    assert np.allclose(typed, y, atol=1e-6)


def test_the_order_of_the_results():
    x = rows((3, 8))
    q, scale, total, mean, rstd = normlib.layer_norm(x, residual=x, quantize="int8", return_stats=True)
    assert (q.dtype, scale.shape, mean.shape, rstd.shape) == (np.int8, (3,), (3,), (3,))
    assert checks.same_bits(total, x + x)


def test_channel_norms_have_no_such_argument():
    with pytest.raises(TypeError, match=r"batch_norm\(\) got an unexpected keyword argument 'quantize'"):
        normlib.batch_norm(rows((3, 4)), quantize="int8")
    with pytest.raises(TypeError, match=r"layer_norm_backward\(\) got an unexpected keyword argument 'quantize'"):
        normlib.layer_norm_backward(rows((3, 4)), rows((3, 4)), mean=[0] * 3, rstd=[1] * 3, quantize="int8")


# ---- in C ----


@pytest.mark.skipif(_kernels.backend is None, reason="calls the kernels")
@each_norm
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_the_struct_of_c(op, dtype):
    from test_capi import ensure, in_struct, text

    x = rows((4, 6, 33), dtype)
    working = np.float64 if dtype == "float64" else np.float32
    for axes, shape in ((1 << 2, (4, 6)), (1 << 1, (4, 33))):
        expected = NORMS[op](x, axis=axes // 2, eps=1e-5, quantize="int8")
        y, scale = np.zeros(x.shape, np.int8), np.zeros(shape, working)
        ensure(in_struct(op, x=x, y=y, new_scale=scale, eps=1e-5, axes=axes))
        assert all(map(checks.same_bits, (y, scale), expected))
        again = np.zeros(x.shape, np.int8)
        ensure(in_struct(op, x=x, y=again, scale=np.full(shape, 0.1, working), eps=1e-5, axes=axes))
        assert checks.same_bits(again, NORMS[op](x, axis=axes // 2, eps=1e-5, quantize="int8", scale=0.1)[0])
    given = {"x": x, "y": y, "eps": 1e-5, "axis": -1}
    scale = np.ones((4, 6), working)
    assert text(in_struct(op, **given)) == "new_scale: NULL, but it is needed here"
    refused = "new_scale: not an argument of this function in this version"
    assert text(in_struct(op, **given, scale=scale, new_scale=scale.copy())) == refused
    for role in ("scale", "new_scale"):
        wide = scale.astype(np.float32 if dtype == "float64" else np.float64)
        assert text(in_struct(op, **given, **{role: wide})) == f"{role}: not a dtype that is taken here"
        assert text(in_struct(op, **given, **{role: scale[:1]})) == f"{role}: the number of axes or a size does not fit"
        status = in_struct(op, **{**given, "y": np.empty_like(x)}, **{role: scale})
        assert text(status) == f"{role}: not an argument of this function in this version"
    status = in_struct("batch_norm", **{**given, "axis": 1, "mode": 1})
    assert text(status) == "y: not a dtype that is taken here"


# ---- and back ----


@each_norm
@pytest.mark.parametrize("axis", [-1, 1, (0, 2)])
def test_the_error_is_half_a_step(op, axis):
    x = rows((4, 6, 33))
    q, scale = NORMS[op](x, axis=axis, quantize="int8")
    back, y = normlib.dequantize(q, scale, axis=axis), NORMS[op](x, axis=axis)
    assert back.dtype == np.float32
    assert (np.abs(back - y) <= np.expand_dims(scale, axis) * 0.5001).all()


@pytest.mark.parametrize("dtype", ["float64", np.float32, np.dtype("float16"), "bfloat16", bfloat16])
def test_the_dtype_of_the_numbers(dtype):
    q = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    back = normlib.dequantize(q, [0.5, 0.25, 2], dtype=dtype)
    expected = q * np.array([[0.5], [0.25], [2]])
    assert back.dtype == (bfloat16 if dtype == "bfloat16" else dtype)
    assert np.array_equal(back.astype(float), expected)
    out = np.empty_like(back)
    assert normlib.dequantize(q, [0.5, 0.25, 2], dtype=dtype, out=out) is out
    assert checks.same_bits(out, back)
    assert np.array_equal(normlib.dequantize(q, 0.5), q * np.float32(0.5))


@pytest.mark.parametrize(
    ("error", "text", "change"),
    [
        (TypeError, "q has dtype float64, expected integers", {"q": np.ones((2, 3))}),
        (ValueError, r"scale has shape \(3,\), expected \(2,\)", {"scale": np.ones(3)}),
        (TypeError, "scale has dtype complex128", {"scale": 1j}),
        (ValueError, "axis is 2, expected -2 to 1", {"axis": 2}),
        (ValueError, "dtype is 'float8', expected float64, ", {"dtype": "float8"}),
        (TypeError, "dtype is int8, expected float64, ", {"dtype": np.int8}),
        (TypeError, "dtype is 4, expected float64, ", {"dtype": 4}),
        (TypeError, "out has dtype float32, expected float64", {"out": np.empty((2, 3), np.float32)}),
        (ValueError, r"out has shape \(3,\), expected \(2, 3\), the shape of q", {"out": np.empty(3)}),
        (TypeError, "out is a list, expected a NumPy array", {"out": [0]}),
    ],
)
def test_what_is_wrong_with_the_way_back(error, text, change):
    given = {"q": np.zeros((2, 3), np.int8), "scale": np.ones(2), **change}
    with pytest.raises(error, match=f"^dequantize: {text}"):
        normlib.dequantize(**given)


@pytest.mark.parametrize("make", ["torch", "jax.numpy"])
def test_arrays_of_other_libraries(make):
    library = pytest.importorskip(make)
    x = library.asarray(rows((3, 8)))
    q, scale = normlib.rms_norm(x, quantize="int8")
    back = normlib.dequantize(q, scale)
    assert {type(q), type(scale), type(back)} == {type(x)}
    expected = normlib.rms_norm(rows((3, 8)), quantize="int8")
    assert checks.same_bits(np.asarray(q), expected[0])
    assert checks.same_bits(np.asarray(back), normlib.dequantize(*expected))


def test_a_case_is_measured_by_the_bound_that_it_names():
    """The check of the kit sees an integer that is off by one."""
    case = Case("rms_norm", (3, 33), {"axis": -1})
    wrong = type("Wrong", (), {"rms_norm": staticmethod(_off_by_one)})
    normlib.backends.register("wrong", wrong)
    try:
        with normlib.backends.use("wrong"), pytest.raises(AssertionError, match="q is off by"):
            checks.check_quantized(case)
    finally:
        normlib.backends.unregister("wrong")


def _off_by_one(x, weight, axis, eps, out, **fused):
    result = numpy_backend.rms_norm(x, weight, axis, eps, out, **fused)
    out[0, 5] += 1 if out[0, 5] < 100 else -1
    return result
