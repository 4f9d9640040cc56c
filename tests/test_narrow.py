"""16 bits: what comes out is what float32 gives for the same values, rounded once; by way of a panel or in registers,
with an instruction of the processor or without."""

import numpy as np
import pytest

import normlib
from normlib import _kernels
from normlib.ops import OPS
from normlib.testing import dtypes

pytestmark = pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
each_dtype = pytest.mark.parametrize("dtype", [dtype for dtype in dtypes() if dtype.itemsize == 2], ids=str)
SHAPES = {
    "feature": [(1, 300), (5, 33), (40, 1030), (2, 3, 9000)],
    "channel": [(3, 5, 7), (3, 40, 19, 17), (2, 3, 80, 80)],
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: np.ascontiguousarray(x[::-1, ..., ::-1])[::-1, ..., ::-1],
}


def values(shape, dtype, seed):
    """Of all sizes, so that results are subnormal, zero and infinite too; with what is not a number."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 8, shape)).astype(dtype)
    x.reshape(-1)[rng.integers(0, x.size, 2)] = np.nan, np.inf
    return x


def arguments(op, x):
    """Parameters in float32, from one end of the range to the other."""
    count = x.shape[-1] if OPS[op].kind == "feature" else x.shape[1]
    rng = np.random.default_rng(count)
    found = {"weight": 2.0 ** rng.integers(-140, 120, count), "bias": rng.choice([0, 1e-39, -1e-6, 1], count)}
    if op == "batch_norm":
        found |= {"running_mean": rng.standard_normal(count), "running_var": rng.random(count) + 0.5}
    if op == "rms_norm":
        del found["bias"]
    options = {"training": False} if op == "batch_norm" else {}
    return options | {name: value.astype(np.float32) for name, value in found.items()}


def groups(op):
    return (1,) if op == "group_norm" else ()


def require_same(found, expected):
    assert found.dtype == expected.dtype
    nan = np.isnan(expected.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(found.astype(np.float64)), nan)
    np.testing.assert_array_equal(found.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_results_are_those_of_float32_rounded_once(op, layout, dtype):
    function = getattr(normlib, op)
    for seed, shape in enumerate(SHAPES[OPS[op].kind]):
        x = LAYOUTS[layout](values(shape, dtype, seed))
        given = arguments(op, x)
        wide = function(LAYOUTS[layout](x.astype(np.float32)), *groups(op), **given).astype(dtype)
        require_same(np.array(function(x, *groups(op), **given)), np.array(wide))
        require_same(np.array(function(x, *groups(op), **given, out=x)), np.array(wide))


@each_dtype
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [1, 64, 5000])
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_parameters_of_16_bits_are_those_of_float32(op, length, rows, dtype):
    rng = np.random.default_rng(length)
    x = rng.standard_normal((rows, length)).astype(dtype)
    given = {"weight": rng.standard_normal(length).astype(dtype), "bias": rng.standard_normal(length).astype(dtype)}
    if op == "rms_norm":
        del given["bias"]
    wide = {name: value.astype(np.float32) for name, value in given.items()}
    for out in (None, np.empty_like(x)):
        require_same(getattr(normlib, op)(x, **given, out=out), getattr(normlib, op)(x, **wide))


@each_dtype
@pytest.mark.parametrize("heads", [2, 3, 8, 33])
def test_heads_of_a_slice_have_the_bits_of_a_copy(dtype, heads):
    """Rows that are evenly apart in a sample alone, as the queries in a product that holds keys and values, too."""
    for kind in (dtype, np.float32):
        x = np.random.default_rng(heads).standard_normal((21, 3 * heads, 64)).astype(kind)[:, heads : 2 * heads]
        dy, weight = x[::-1], np.linspace(-1, 2, 64, dtype=np.float32)
        y, rstd = normlib.rms_norm(x, weight=weight, return_stats=True)
        gradients = [
            normlib.rms_norm_backward(dy, x, weight=weight, rstd=rstd),
            normlib.rms_norm_backward(dy.copy(), x.copy(), weight=weight, rstd=rstd),
        ]
        assert y.tobytes() == normlib.rms_norm(x.copy(), weight=weight).tobytes()
        for a, b in zip(*gradients, strict=True):
            assert np.array(a).tobytes() == np.array(b).tobytes()
