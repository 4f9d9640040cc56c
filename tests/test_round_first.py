"""Normalized values that are rounded to 16 bits before the weight."""

from dataclasses import replace

import numpy as np
import pytest
from test_fused import separate, typical

import normlib
from normlib import _kernels
from normlib.description import FUNCTIONS
from normlib.testing import LAYOUTS
from normlib.testing import _checks as checks
from normlib.testing._fused import together

NORMS = ("layer_norm", "rms_norm")
each_norm = pytest.mark.parametrize("op", NORMS)
each_dtype = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
ROUNDED = {"round_first": True}


def by_hand(case, x, weight, bias):
    """Rounded values times the weight, in float32."""
    y = checks.call_forward(replace(case, fused={}), case.normalized(x))
    y = y.astype(np.float32)
    for operation, parameter in ((np.multiply, weight), (np.add, bias)):
        if parameter is not None:
            y = operation(y, case.geometry.per_element(parameter.astype(np.float32)), dtype=np.float32)
    return y


@pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
@each_norm
@each_dtype
@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
def test_the_bits_are_those_of_the_separate_steps(op, dtype, affine):
    if affine == "bias" and op == "rms_norm":
        affine = "weight"
    sets = [{}, {"residual": True}, {"add": True, "activation": "silu"}, {"gate": True}]
    for case in (c for fused in sets for c in typical(op, dtype=dtype, affine=affine, fused=fused)):
        for layout in LAYOUTS:
            if layout == "byteswapped" and dtype == "bfloat16":
                continue
            laid = replace(case, layout=layout)
            x, weight, bias, _ = laid.inputs()
            wide = {n: a.astype(np.float32) for n, a in laid.companions().items() if isinstance(a, np.ndarray)}
            y = separate(laid, by_hand(laid, x, weight, bias), laid.companions() | wide)
            found = checks.call_forward(laid, x, weight, bias, **ROUNDED)
            assert checks.same_bits(found, y.astype(x.dtype)), laid
            wide = checks.call_forward(laid, x, weight, bias, **ROUNDED, out_dtype="float32")
            assert checks.same_bits(wide, y), laid


@each_norm
@each_dtype
def test_what_is_multiplied_is_rounded(backend, op, dtype):
    """In NumPy too; the value before it may lie on the other side of a border between two numbers of 16 bits."""
    with normlib.backends.use(backend, strict=True):
        for case in typical(op, dtype=dtype):
            x, weight, *_ = case.inputs()
            weight = (weight.astype(np.float32) * np.float32(1.25)).astype(np.float32)
            expected = by_hand(case, x, weight, None)
            found = checks.call_forward(case, x, weight, None, **ROUNDED, out_dtype="float32")
            assert np.mean(found == expected) > 0.99
            assert np.allclose(found, expected, rtol=2.0**-7)
            assert np.mean(checks.call_forward(case, x, weight, None, out_dtype="float32") == expected) < 0.2


@each_norm
@each_dtype
@pytest.mark.parametrize(
    ("shape", "axis"), [((300, 33), -1), ((40, 1100), -1), ((9, 70, 65), 1), ((3, 40, 5, 6), (1, 3))]
)
def test_the_gradient_of_the_weight_sums_rounded_values(backend, op, dtype, shape, axis):
    case = replace(typical(op, dtype=dtype)[0], shape=shape, options={"axis": axis})
    x, weight, bias, dy = case.inputs()
    with normlib.backends.use(backend, strict=True):
        _, statistics = checks.with_statistics(case, x, weight, bias)
        given = {"weight": weight.astype(np.float32), **statistics}
        dx, *grads = checks.call_backward(case, dy, x, **given, **ROUNDED)
        plain_dx, *plain = checks.call_backward(case, dy, x, **given)
        z = by_hand(case, x, None, None).astype(np.float64)
    dy = dy.astype(np.float64)
    exact = case.geometry.parameter_sum(dy * z)
    size = np.sqrt(case.geometry.parameter_sum((dy * z) ** 2))
    # A few values, on the border of two numbers of 16 bits, may be the other one.
    assert np.median(np.abs(grads[0] - exact) / size) < 1e-6
    assert np.max(np.abs(grads[0] - exact) / size) < 2.0**-8
    assert np.median(np.abs(plain[0] - exact) / size) > 1e-5
    assert checks.same_bits(dx, plain_dx)
    assert all(map(checks.same_bits, grads[1:], plain[1:]))


@pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")
@each_norm
@each_dtype
def test_what_reaches_the_norm_is_computed_from_rounded_values(op, dtype):
    """The gate's gradient is dy * y * h'(gate)."""
    for case in typical(op, dtype=dtype, fused={"gate": True, "gate_activation": "relu"}):
        x, weight, bias, dy = case.inputs()
        bare = replace(case, fused={})
        _, statistics = checks.with_statistics(bare, x, weight, bias)
        dgate = checks.call_backward(case, dy, x, weight, **statistics, **ROUNDED)[-1]
        y = checks.call_forward(bare, x, weight, bias, **ROUNDED, out_dtype="float32")
        opened = case.companions()["gate"] > 0
        expected = (dy.astype(np.float32) * y * opened).astype(x.dtype)
        assert np.mean(dgate == expected) > 0.99


@each_norm
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_changes_nothing_in_32_bits_and_more(backend, op, dtype):
    with normlib.backends.use(backend):
        for case in typical(op, dtype=dtype):
            x, weight, bias, dy = case.inputs()
            y, statistics = checks.with_statistics(case, x, weight, bias)
            assert checks.same_bits(y, checks.call_forward(case, x, weight, bias, **ROUNDED))
            first, second = (checks.call_backward(case, dy, x, weight, **statistics, **more) for more in ({}, ROUNDED))
            assert all(map(checks.same_bits, first, second))


@each_norm
@each_dtype
def test_beside_everything_else_it_is_taken(backend, op, dtype):
    """Every set of what is computed in the same pass, in all dtypes of the result and as int8."""
    case = typical(op, dtype=dtype)[0]
    with normlib.backends.use(backend):
        for fused in together(FUNCTIONS[op]):
            whole = replace(case, fused=fused)
            x, weight, bias, dy = whole.inputs()
            y, statistics = checks.with_statistics(whole, x, weight, bias, **ROUNDED)
            plain = checks.call_forward(whole, x, weight, bias)
            assert np.allclose(y.astype(float), plain.astype(float), rtol=0.05, atol=0.1)
            q = getattr(normlib, op)(x, weight, axis=-1, quantize="int8", **ROUNDED, **whole.companions())[0]
            assert np.abs(q.astype(int)).max() == 127
            x = whole.normalized(x)
            dx = checks.call_backward(whole, dy, x, weight, **statistics, **ROUNDED)[0]
            plain = checks.call_backward(whole, dy, x, weight, **statistics)[0]
            assert np.allclose(dx.astype(float), plain.astype(float), rtol=0.05, atol=0.1)


@pytest.mark.skipif(_kernels.backend is None, reason="calls the kernels")
@each_norm
def test_the_struct_of_c(op):
    from test_capi import ensure, in_struct, text

    x = np.random.default_rng(0).normal(size=(4, 6, 33)).astype(np.float16)
    weight = np.random.default_rng(1).normal(size=33).astype(np.float32)
    y, rstd, mean = np.empty_like(x), np.empty((4, 6)), np.empty((4, 6))
    statistics = {"mean": mean, "rstd": rstd} if op == "layer_norm" else {"rstd": rstd}
    ensure(in_struct(op, x=x, weight=weight, y=y, eps=1e-5, axis=-1, round_first=1, **statistics))
    assert checks.same_bits(y, getattr(normlib, op)(x, weight, eps=1e-5, **ROUNDED))
    dx, dweight = np.empty_like(x), np.empty_like(weight)
    given = {"x": x, "weight": weight, "axis": -1, "round_first": 1, **statistics}
    ensure(in_struct(f"{op}_backward", dy=x, dx=dx, dweight=dweight, **given))
    expected = getattr(normlib, f"{op}_backward")(x, x, weight, **statistics, **ROUNDED)
    assert all(map(checks.same_bits, (dx, dweight), expected))
    status = in_struct("batch_norm", x=x, y=y, eps=1e-5, axis=1, mode=1, round_first=1)
    assert text(status) == "round_first: not an argument of this function in this version"


def test_channel_norms_have_no_such_argument():
    with pytest.raises(TypeError, match=r"batch_norm\(\) got an unexpected keyword argument 'round_first'"):
        normlib.batch_norm(np.ones((3, 4), np.float16), round_first=True)
