"""Results of another dtype than that of x."""

from dataclasses import replace
from itertools import product

import ml_dtypes
import numpy as np
import pytest
from test_fused import past_the_caches, typical

import normlib
from normlib import _kernels
from normlib._arguments import to_odd
from normlib.ops import OPS
from normlib.testing import LAYOUTS
from normlib.testing import _checks as checks
from normlib.testing._cases import constant, typed_cases

DTYPES = {name: np.dtype(name) for name in ("float64", "float32", "float16")} | {"bfloat16": np.dtype("bfloat16")}
PAIRS = [(x, y) for x, y in product(DTYPES, DTYPES) if x != y]
each_op = pytest.mark.parametrize("op", OPS)
each_pair = pytest.mark.parametrize(("dtype", "other"), PAIRS)


def rounded(y, name):
    """Once, from the working type."""
    once = to_odd(y) if y.dtype == np.float64 and DTYPES[name].itemsize == 2 else y
    return once.astype(DTYPES[name])


@each_op
def test_accuracy_in_all_dtypes_layouts_and_sets(backend, op):
    for case in typed_cases(op, quick=True):
        checks.check_forward(case)


def assert_rounded_once(case, other):
    """A result in the working type is rounded to the other one, and from 16 bits the way to it is that to float32."""
    x, weight, bias, _ = case.inputs()
    found = checks.call_forward(replace(case, out_dtype=other), x, weight, bias, **checks.running(case))
    working = "float64" if case.dtype == "float64" else "float32"
    whole = replace(case, out_dtype=None if working == case.dtype else working)
    y = checks.call_forward(whole, x, weight, bias, **checks.running(case))
    assert checks.same_bits(found, rounded(y, other)), (case, other)


@pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
@each_op
@each_pair
def test_the_result_is_rounded_once(op, dtype, other):
    cases = [c for fused in ({}, {"add": True, "activation": "silu"}) for c in typical(op, dtype=dtype, fused=fused)]
    for case in cases + [constant(case) for case in cases if OPS[op].mode]:
        for layout in list(LAYOUTS)[len(other) % 3 :: 3]:
            if layout != "byteswapped" or dtype != "bfloat16":
                assert_rounded_once(replace(case, layout=layout), other)


@pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
@each_op
@pytest.mark.parametrize(("dtype", "other"), [("float32", "float16"), ("bfloat16", "float32"), ("float64", "bfloat16")])
def test_large_arrays(op, dtype, other):
    """Also where results go past the caches."""
    for case in past_the_caches(op, dtype):
        assert_rounded_once(case, other)


@pytest.mark.parametrize("name", DTYPES)
def test_names_and_dtypes(name):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    dtype = DTYPES[name]
    for given in (name, dtype, dtype.type):
        assert normlib.layer_norm(x, out_dtype=given).dtype == dtype
    assert normlib.layer_norm([1, 2, 3], out_dtype=name).dtype == dtype
    assert normlib.layer_norm(x[:, :0], out_dtype=name).dtype == dtype
    assert checks.same_bits(normlib.layer_norm(x, out_dtype="float32"), normlib.layer_norm(x))


def test_out_has_that_dtype(backend):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    with normlib.backends.use(backend):
        expected = normlib.layer_norm(x, out_dtype="float16")
        out = np.empty((4, 3), np.float16)
        assert normlib.layer_norm(x, out=out, out_dtype="float16") is out
        assert checks.same_bits(out, expected)
        with pytest.raises(TypeError, match=r"^layer_norm: out has dtype float16, expected float32"):
            normlib.layer_norm(x, out=out)
        inside = x.view(np.float16)[:, :3]  # the memory of x
        normlib.layer_norm(x, out=inside, out_dtype="float16")
        assert checks.same_bits(inside, expected)
        x = np.arange(12, dtype=np.float16).reshape(4, 3)
        whole = x.view(ml_dtypes.bfloat16)  # of its size, and in its place
        expected = normlib.layer_norm(x, out_dtype="bfloat16")
        normlib.layer_norm(x, out=whole, out_dtype="bfloat16")
        assert checks.same_bits(whole, expected)


def test_the_sum_keeps_the_dtype_of_x():
    x = np.ones((2, 3), np.float16)
    y, total = normlib.layer_norm(x, residual=x, out_dtype="float32")
    assert (y.dtype, total.dtype) == (np.float32, np.float16)


@each_op
def test_what_is_wrong(op):
    x = np.ones((2, 4, 3), np.float32)
    given = {"num_groups": 2} if OPS[op].has_groups else {}
    for value, error in (("float8", ValueError), ("int8", ValueError), (np.int8, TypeError), (7, TypeError),
                         (">f4", ValueError), (np.dtype(">f8"), TypeError), (dict, TypeError)):  # fmt: skip
        with pytest.raises(error, match=f"^{op}: out_dtype is .*, expected float64, float32, float16 or bfloat16"):
            OPS[op].forward(x, **given, out_dtype=value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'out_dtype'"):
        OPS[op].backward(x, x, **given, **dict.fromkeys(OPS[op].statistics, x[0]), out_dtype="float16")


def test_one_dtype_is_asked_for():
    with pytest.raises(ValueError, match=r"^rms_norm: out_dtype is given with quantize"):
        normlib.rms_norm(np.ones((2, 3)), out_dtype="float32", quantize="int8")


def test_arrays_of_other_libraries():
    torch = pytest.importorskip("torch")
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert normlib.layer_norm(x, out_dtype=str(dtype).removeprefix("torch.")).dtype == dtype
