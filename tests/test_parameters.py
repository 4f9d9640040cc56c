"""Weights and biases with leading axes: a value a sample, a head, or any rows of x."""

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import normlib
from normlib import _kernels
from normlib.ops import OPS
from normlib.testing import Case, problems
from normlib.testing import _checks as checks
from normlib.testing._cases import LEADING, constant, leading_cases

each_op = pytest.mark.parametrize("op", OPS)
kernels = pytest.mark.skipif(_kernels.backend is None, reason="the kernels keep this promise")


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def close(a, b):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@each_op
def test_accuracy_in_all_dtypes_layouts_and_outputs(backend, op):
    for case in leading_cases(op, quick=True):
        checks.check_forward(case)
        checks.check_backward(case)


@each_op
@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("fused", [{"where": True}, {"gate": True, "gate_first": True, "activation": "silu"}], ids=str)
def test_masks_and_gates_before_the_norm(op, leading, fused):
    """Of a batch norm they go to NumPy, which has the same limits."""
    for shape, options in problems(op, "typical"):
        for layout in ("contiguous", "strided", "channels_last"):
            case = Case(op, shape, options, layout=layout, leading=leading, fused=fused)
            checks.check_forward(case)
            checks.check_backward(case)


@pytest.mark.parametrize("shape", [(4, 33), (3, 1, 1, 33), (5, 1, 33)])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (2, 0, 1, 3), (3, 0, 1, 2)])
def test_results_of_another_type(shape, axes):
    x = draw(3, 5, 4, 33).transpose(axes).copy().transpose(np.argsort(axes))
    weight = draw(*shape)
    y = normlib.rms_norm(x, weight)
    assert checks.same_bits(normlib.rms_norm(x, weight, out_dtype=np.float16), y.astype(np.float16))
    q, scale = normlib.rms_norm(x, weight, quantize="int8")
    close(scale, np.abs(y).max(-1) / 127)
    assert np.abs(normlib.dequantize(q, scale) - y).max() <= 0.51 * scale.max()
    narrow = x.astype(np.float16)
    found = normlib.rms_norm(narrow, weight, round_first=True)
    close(found.astype(np.float32), (normlib.rms_norm(narrow) * weight).astype(np.float16).astype(np.float32))


@kernels
@each_op
@pytest.mark.parametrize("leading", LEADING)
def test_the_bits_do_not_depend_on_threads(op, leading):
    shapes = {"feature": ((6, 40, 771), {"axis": -1}), "channel": ((6, 36, 47, 51), {"channel_axis": 1})}
    shape, options = shapes[OPS[op].kind]
    options |= {"num_groups": 6} if OPS[op].has_groups else {OPS[op].mode: True} if OPS[op].mode else {}
    checks.check_threads(Case(op, shape, options, leading=leading, fused={"activation": "silu"}), threads=(1, 2, 3))


def sliced(function, *arrays):
    """The results of a function for each index of the first axis, stacked."""
    return [np.stack(found) for found in zip(*(function(*some) for some in zip(*arrays, strict=True)), strict=True)]


@kernels
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_rows_with_the_same_parameters_have_the_bits_of_a_call_of_their_own(dtype):
    """adaLN: (N, T, D) with (N, 1, D)."""
    x, dy, weight, bias = (draw(*s, seed=i).astype(dtype) for i, s in enumerate([(3, 50, 65)] * 2 + [(3, 1, 65)] * 2))

    def both(x, dy, weight, bias):
        y, *statistics = normlib.layer_norm(x, weight, bias, return_stats=True)
        mean, rstd = statistics
        return y, mean, rstd, *normlib.layer_norm_backward(dy, x, weight, mean=mean, rstd=rstd)

    for a, b in zip(both(x, dy, weight, bias), sliced(both, x, dy, weight, bias), strict=True):
        assert checks.same_bits(a, b)


@kernels
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("op", ["group_norm", "instance_norm"])
def test_samples_have_the_bits_of_a_call_of_their_own(op, channel_axis, dtype):
    x = np.ascontiguousarray(np.moveaxis(draw(5, 12, 7, 9), 1, channel_axis)).astype(dtype)
    weight, bias = (draw(5, 12, seed=seed).astype(dtype) for seed in range(2))
    options = {"channel_axis": channel_axis, **({"num_groups": 3} if op == "group_norm" else {})}

    def alone(x, weight, bias):
        y = getattr(normlib, op)(x[None], weight=weight, bias=bias, activation="silu", **options)
        return (y[0],)

    y = getattr(normlib, op)(x, weight=weight, bias=bias, activation="silu", **options)
    assert checks.same_bits(y, sliced(alone, x, weight, bias)[0])
    y = getattr(normlib, op)(x, weight=weight, bias=bias[0], activation="silu", **options)
    assert checks.same_bits(y, sliced(alone, x, weight, np.broadcast_to(bias[0], bias.shape))[0])


@kernels
@pytest.mark.parametrize("shape", [(4, 1), (5, 1, 1), (3, 1, 1, 1), (3, 5, 1, 1), (1, 4, 1), (3, 5, 4, 1)])
def test_rows_have_the_bits_of_multiplying_and_adding(shape):
    """In float32 the affine step rounds after each of its operations."""
    x = draw(3, 5, 4, 33)
    weight, bias = draw(*shape[:-1], 33), draw(4, 33)
    assert checks.same_bits(normlib.layer_norm(x, weight, bias), normlib.layer_norm(x) * weight + bias)


def test_a_weight_a_head(backend):
    x, weight = draw(2, 5, 4, 8), draw(4, 8)
    close(normlib.rms_norm(x, weight), normlib.rms_norm(x) * weight)
    _, rstd = normlib.rms_norm(x, return_stats=True)
    dy = draw(2, 5, 4, 8, seed=1)
    dx, dweight = normlib.rms_norm_backward(dy, x, weight, rstd=rstd)
    close(dx, normlib.rms_norm_backward(dy * weight, x, rstd=rstd)[0])
    close(dweight, (dy * normlib.rms_norm(x)).sum((0, 1)))


@pytest.mark.parametrize("channel_axis", [1, -1, 0])
@pytest.mark.parametrize("op", ["batch_norm", "group_norm", "instance_norm"])
def test_a_value_a_sample_and_channel(backend, op, channel_axis):
    """AdaIN and conditional batch norm: (N, C)."""
    more = {"num_groups": 2} if op == "group_norm" else {OPS[op].mode: True}
    options = {**more, "channel_axis": channel_axis}
    x, dy = (np.moveaxis(draw(3, 6, 4, 5, seed=seed), 1, channel_axis) for seed in range(2))
    weight, bias = draw(3, 6), draw(3, 6, seed=1)
    spread = [np.moveaxis(a[:, :, None, None], 1, channel_axis) for a in (weight, bias)]
    forward, backward = getattr(normlib, op), getattr(normlib, f"{op}_backward")
    z, mean, rstd = forward(x, **options, return_stats=True)
    close(forward(x, weight=weight, bias=bias, **options), z * spread[0] + spread[1])
    dx, dweight, dbias = backward(dy, x, weight=weight, mean=mean, rstd=rstd, **options)
    close(dx, backward(dy * spread[0], x, mean=mean, rstd=rstd, **options)[0])
    axes = (2, 3) if channel_axis == 1 else (1, 2) if channel_axis == -1 else (2, 3)
    turn = np.transpose if channel_axis == 0 else np.asarray
    close(dweight, turn((dy * z).sum(axes)))
    close(dbias, turn(dy.sum(axes)))


def test_gradients_have_the_shapes_of_their_parameters(backend):
    x, weight, bias = draw(2, 3, 5), draw(2, 1, 5), draw(3, 5)
    y, mean, rstd = normlib.layer_norm(x, weight, bias, return_stats=True)
    statistics = {"mean": mean, "rstd": rstd}
    _, dweight, dbias = normlib.layer_norm_backward(y, x, weight, **statistics, bias=bias)
    assert (dweight.shape, dbias.shape) == (weight.shape, bias.shape)
    close(dbias, y.sum(0))
    _, _, dbias = normlib.layer_norm_backward(y, x, weight, **statistics)
    close(dbias, y.sum(1, keepdims=True))


def test_running_statistics_are_those_of_the_batch(backend):
    x, weight = draw(4, 3, 6), draw(4, 3)
    plain, own = ([np.zeros(3), np.ones(3)] for _ in range(2))
    for (mean, var), w in ((plain, None), (own, weight)):
        normlib.batch_norm(x, weight=w, running_mean=mean, running_var=var, training=True)
    assert checks.same_bits(plain[0], own[0])
    assert checks.same_bits(plain[1], own[1])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_empty_arrays(backend, shape):
    x, weight = np.ones(shape), np.ones((shape[0], 1, 4))
    y, mean, rstd = normlib.layer_norm(x, weight, return_stats=True)
    _, dweight, dbias = normlib.layer_norm_backward(y, x, weight, mean=mean, rstd=rstd)
    assert y.shape == shape
    assert dweight.shape == dbias.shape == weight.shape
    assert not dweight.any()


@pytest.mark.parametrize("shape", [(2, 4), (3, 2, 4), (1, 1, 1, 4), (3, 3, 4)])
def test_what_does_not_broadcast_is_named(backend, shape):
    expected = "expected (4,), the shape of x over axis=-1, or axes before it that broadcast to (2, 3)"
    with pytest.raises(ValueError, match=f"^{re.escape(f'layer_norm: bias has shape {shape}, {expected}')}$"):
        normlib.layer_norm(np.ones((2, 3, 4)), bias=np.ones(shape))


def test_a_backend_that_has_not_heard_of_leading_axes_is_passed_over():
    def modest(x, weight, axis, eps, out):
        raise AssertionError("called")

    x, weight = draw(2, 3), draw(2, 3)
    expected = normlib.rms_norm(x, weight)
    normlib.backends.register("modest", SimpleNamespace(rms_norm=modest))
    try:
        with normlib.backends.use("modest"):
            close(normlib.rms_norm(x, weight), expected)
    finally:
        normlib.backends.unregister("modest")


# ---- layers ----

LAYERS = {
    "layer_norm": (lambda **o: normlib.LayerNorm(8, **o), (2, 5, 8), (2, 1, 8)),
    "rms_norm": (lambda **o: normlib.RMSNorm(8, **o), (2, 5, 8), (2, 1, 8)),
    "batch_norm": (lambda **o: normlib.BatchNorm(6, **o), (3, 6, 4), (3, 6)),
    "group_norm": (lambda **o: normlib.GroupNorm(2, 6, **o), (3, 6, 4), (3, 6)),
    "instance_norm": (lambda **o: normlib.InstanceNorm(6, **{"affine": True} | o), (3, 6, 4), (3, 6)),
}


@each_op
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_modulated_layers_and_their_gradients(op, affine, activation):
    make, shape, own = LAYERS[op]
    name = "elementwise_affine" if OPS[op].kind == "feature" else "affine"
    layer = make(**{name: affine}, dtype=np.float64, activation=activation)
    names = [n for n in OPS[op].parameters if affine]
    for seed, n in enumerate(names):
        getattr(layer, n)[...] = 1 + 0.1 * draw(*getattr(layer, n).shape, seed=seed)
    shift = {} if op == "rms_norm" else {"shift": draw(*own, seed=3).astype(np.float64)}
    given = {"x": draw(*shape).astype(np.float64), "scale": draw(*own).astype(np.float64), **shift}
    dy = draw(*shape, seed=4).astype(np.float64)

    def loss():
        return float((layer.modulated(**given) * dy).sum())

    loss()
    found = dict(zip(given, layer.backward(dy), strict=True))
    found |= {n: getattr(layer, f"grad_{n}") for n in names}
    for n, array in itertools.chain(given.items(), ((n, getattr(layer, n)) for n in names)):
        place = (0,) * array.ndim
        value, h = array[place], 1e-5
        ends = []
        for array[place] in (value - h, value + h):
            ends.append(loss())
        array[place] = value
        assert found[n].shape == array.shape
        assert abs((ends[1] - ends[0]) / (2 * h) - found[n][place]) < 1e-6 * max(1, np.abs(found[n]).max()), n


def test_modulated_is_the_norm_times_one_plus_scale_plus_shift():
    layer = normlib.LayerNorm(8)
    x, scale, shift, add = draw(2, 5, 8), draw(2, 1, 8), draw(5, 8), draw(2, 5, 8, seed=1)
    y, total = layer.modulated(x, scale, shift, residual=add, add=add)
    close(total, x + add)
    close(y, layer(x + add) * (1 + scale) + shift + add)


def test_gradients_of_the_layer_accumulate_over_modulated_calls():
    layer, x = normlib.LayerNorm(8, dtype=np.float32), draw(2, 5, 8)
    found = []
    for _ in range(2):
        y = layer.modulated(x, draw(2, 1, 8))
        dx, dscale = layer.backward(y)
        assert (dx.dtype, dscale.dtype, dscale.shape) == (np.float32, np.float32, (2, 1, 8))
        found.append(layer.grad_weight.copy())
    close(found[1], 2 * found[0])


def test_an_rms_norm_takes_no_shift():
    with pytest.raises(ValueError, match=r"RMSNorm.modulated: shift is given, expected None"):
        normlib.RMSNorm(8).modulated(draw(2, 8), draw(2, 8), draw(2, 8))


# ---- C ----


@kernels
@each_op
@pytest.mark.parametrize("leading", LEADING)
def test_the_c_interface_gives_the_same_bits(op, leading):
    from test_capi import assert_same

    cases = [Case(op, shape, options, leading=leading) for shape, options in problems(op, "typical")]
    for case in cases + [constant(case) for case in cases if OPS[op].mode]:
        assert assert_same(case)
        assert assert_same(replace(case, dtype="float16", parameter_dtype="float32"))
