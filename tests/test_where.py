"""Masks: what is outside takes no part and comes out as 0."""

import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import normlib
from normlib.ops import OPS
from normlib.testing import Case, problems
from normlib.testing import _checks as checks
from normlib.testing._cases import Draw

each_op = pytest.mark.parametrize("op", OPS)
LENGTHS = (33, 1030, 5000, 40_000)


def drawn(shape, dtype="float32"):
    return Draw(f"{shape}").bell(shape).astype(dtype)


def mask(shape, share=0.7):
    return Draw(f"mask {shape}").flat(shape) < share


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_row_is_normalized_as_the_row_of_the_elements_inside(backend, length, dtype):
    x, inside = drawn((3, length), dtype) + np.asarray(100, dtype), mask((3, length))
    y, mean, rstd = normlib.layer_norm(x, where=inside, return_stats=True)
    for row in range(3):
        alone = normlib.layer_norm(x[row, inside[row]], return_stats=True)
        for found, expected in zip((y[row, inside[row]], mean[row], rstd[row]), alone, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6 if backend == "numpy" else 0)


@pytest.mark.parametrize("axis", [1, -1], ids=["channels first", "channels last"])
def test_a_channel_is_normalized_as_the_channel_of_the_positions_inside(backend, axis):
    x, inside = drawn((4, 6, 50)), mask((4, 1, 50))
    given = (np.moveaxis(a, 1, axis) for a in (x, inside))
    y = np.moveaxis(normlib.batch_norm(next(given), training=True, channel_axis=axis, where=next(given)), axis, 1)
    packed = np.moveaxis(x, 1, 0)[:, inside[:, 0]].T  # (positions, channels)
    expected = normlib.batch_norm(packed, training=True)
    np.testing.assert_allclose(np.moveaxis(y, 1, 0)[:, inside[:, 0]].T, expected, atol=1e-6)


@each_op
def test_what_stands_outside_does_no_harm(backend, op):
    for shape, options in problems(op, "typical"):
        case = Case(op, shape, options, fused={"where": True})
        x, weight, bias, dy = case.inputs()
        first = None
        for value in (0, 1e38, np.inf, np.nan):
            filled = [np.where(case.inside, a, a.dtype.type(value)) for a in (x, dy)]
            y, statistics = checks.with_statistics(case, filled[0], weight, bias)
            gradients = checks.call_backward(case, filled[1], filled[0], weight, **statistics)
            assert not np.any(y[~np.broadcast_to(case.inside, shape)])
            assert not np.any(gradients[0][~np.broadcast_to(case.inside, shape)])
            found = [y, *statistics.values(), *gradients]
            first = first or found
            assert all(map(checks.same_bits, first, found)), value


@each_op
@pytest.mark.parametrize("more", [{}, {"activation": "silu", "add": True, "gate": True}], ids=["alone", "with more"])
def test_the_bits_do_not_depend_on_threads(op, more):
    for shape, options in problems(op, "typical") + problems(op, "large"):
        checks.check_threads(Case(op, shape, options, fused={"where": True, **more}), threads=(1, 2, 3))


@each_op
def test_a_mask_that_lets_all_in_changes_nothing(backend, op):
    for shape, options in problems(op, "typical"):
        for layout in ("contiguous", "strided"):
            case = Case(op, shape, options, layout=layout)
            x, weight, bias, _ = case.inputs()
            plain = checks.call_forward(case, x, weight, bias)
            for inside in (True, np.ones(shape[-1], bool), np.ones(shape, bool)):
                masked = checks.call_forward(case, x, weight, bias, where=inside)
                np.testing.assert_allclose(masked, plain, rtol=2e-6, atol=1e-6)


def test_rows_beside_those_outside_keep_their_bits(backend):
    x = drawn((40, 768))
    inside = mask((40, 1), 0.5)
    y = normlib.layer_norm(x, where=inside)
    assert np.array_equal(y, np.where(inside, normlib.layer_norm(x), 0))


@each_op
def test_nothing_inside_gives_zeros_and_unknown_statistics(backend, op):
    for shape, options in problems(op, "typical"):
        case = Case(op, shape, options)
        x, weight, bias, dy = case.inputs()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            y, statistics = checks.with_statistics(case, np.full_like(x, np.nan), weight, bias, where=False)
            gradients = checks.call_backward(case, dy, x, weight, **statistics, where=np.False_)
        assert not np.any(y)
        assert all(np.isnan(s).all() and s.dtype == np.float64 for s in statistics.values())
        assert not any(np.any(g) for g in gradients)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_running_statistics_learn_from_what_is_inside(backend, dtype):
    x, inside = drawn((5, 3, 7), "float64"), mask((5, 3, 7))
    inside[:, 1] = False  # a channel with nothing inside
    inside[:, 2] = np.arange(35).reshape(5, 7) == 4  # and one with a single element
    mean, var = np.full(3, 0.5, dtype), np.full(3, 2.0, dtype)
    normlib.batch_norm(x, training=True, momentum=0.5, running_mean=mean, running_var=var, where=inside)
    first = x[:, 0][inside[:, 0]]
    ulp = np.finfo(dtype).eps
    np.testing.assert_allclose(mean, [0.25 + first.mean() / 2, 0.5, 0.25 + x[0, 2, 4] / 2], rtol=ulp)
    np.testing.assert_allclose(var, [1 + first.var(ddof=1) / 2, 2, 2], rtol=ulp)  # of one element there is no variance


def test_running_statistics_of_samples_are_averaged_over_those_with_something_inside(backend):
    x, inside = drawn((3, 2, 9), "float64"), np.ones((3, 1, 9), bool)
    inside[1] = False
    mean, var = np.zeros(2), np.zeros(2)
    normlib.instance_norm(x, momentum=1.0, running_mean=mean, running_var=var, where=inside)
    np.testing.assert_allclose(mean, x[[0, 2]].mean(axis=2).mean(axis=0))
    np.testing.assert_allclose(var, x[[0, 2]].var(axis=2, ddof=1).mean(axis=0))


def test_one_element_a_channel_has_no_variance(backend):
    x, inside = drawn((4, 3, 2)), np.zeros((4, 3, 2), bool)
    inside[0, :2, 0] = True
    mean, var = np.zeros(3), np.ones(3)
    with pytest.raises(ValueError, match=r"batch_norm: x has shape .* expected more than one value a channel"):
        normlib.batch_norm(x, training=True, running_mean=mean, running_var=var, where=inside)
    assert not mean.any()
    inside[1, 0, 0] = True  # one channel has two: the others may have less
    assert np.isfinite(normlib.batch_norm(x, training=True, where=inside)).all()


@each_op
def test_masked_arrays_come_back_masked(backend, op):
    shape, options = problems(op, "typical")[0]
    case = Case(op, shape, options)
    x, weight, bias, dy = case.inputs()
    outside = ~mask(shape)
    masked = np.ma.array(x, mask=outside)
    y, statistics = checks.with_statistics(case, masked, weight, bias)
    expected, plain = checks.with_statistics(case, x, weight, bias, where=~outside)
    assert isinstance(y, np.ma.MaskedArray)
    assert np.array_equal(y.mask, outside)
    assert checks.same_bits(y.data, expected)
    assert all(type(s) is np.ndarray and checks.same_bits(s, plain[name]) for name, s in statistics.items())
    dx, *_ = checks.call_backward(case, dy, masked, weight, **statistics)
    assert isinstance(dx, np.ma.MaskedArray)
    assert np.array_equal(dx.mask, outside)
    assert not dx.data[outside].any()
    more = mask(shape[-1:], 0.9)
    both = checks.call_forward(case, masked, weight, bias, where=more)
    assert checks.same_bits(both.data, checks.call_forward(case, x, weight, bias, where=more & ~outside))


@each_op
def test_a_residual_passes_by_the_mask(backend, op):
    shape, options = problems(op, "typical")[0]
    case = Case(op, shape, options, fused={"where": True, "residual": True})
    x, weight, _, _ = case.inputs()
    residual = case.companions()["residual"]
    _, total = getattr(normlib, op)(x, weight=weight, **options, **case.companions())
    assert checks.same_bits(total, np.add(x, residual))


@each_op
def test_outputs_may_be_inputs_that_are_no_longer_read(backend, op):
    shape, options = problems(op, "typical")[0]
    case = replace(Case(op, shape, options), fused={"where": True})
    x, weight, bias, dy = case.inputs()
    y, statistics = checks.with_statistics(case, x, weight, bias)
    dx, *_ = checks.call_backward(case, dy, x, weight, **statistics)
    for name in ("dy", "x"):
        arrays = {"dy": dy.copy(), "x": x.copy()}
        found, *_ = checks.call_backward(case, **arrays, weight=weight, **statistics, out=arrays[name])
        assert checks.same_bits(found, dx), name
    place = x.copy()
    assert checks.same_bits(checks.call_forward(case, place, weight, bias, out=place), y)


@each_op
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_stands_outside_does_not_come_through_a_gate_before_the_norm(backend, op, dtype):
    for shape, options in problems(op, "typical"):
        case = Case(op, shape, options, dtype)
        x, weight, bias, dy = case.inputs()
        inside, gate, dsum = mask(shape), dy[::-1].copy(), np.ones_like(x)
        more = {"where": inside, "gate": gate, "gate_first": True}
        y, statistics = checks.with_statistics(case, x, weight, bias, **more)
        expected = [y, *checks.call_backward(case, dy, x, weight, **statistics, **more, dsum=dsum)]
        assert not y[~inside].any()
        assert not expected[-1][~inside].any()
        assert (expected[1][~inside] == 1).all()
        x, gate, dy = (np.where(inside, a, np.nan).astype(dtype) for a in (x, gate, dy))
        more["gate"] = gate
        y = checks.call_forward(case, x, weight, bias, **more)
        found = [y, *checks.call_backward(case, dy, x, weight, **statistics, **more, dsum=dsum)]
        assert all(map(checks.same_bits, found, expected)), case


@each_op
def test_layers_take_masks(backend, op):
    x, inside, dy = drawn((4, 6, 8)), mask((4, 1, 8)), drawn((8, 6, 4)).T.copy()
    layers = {"layer_norm": normlib.LayerNorm(8), "rms_norm": normlib.RMSNorm(8, num_groups=2),
              "group_norm": normlib.GroupNorm(3, 6),
              "batch_norm": normlib.BatchNorm(6), "instance_norm": normlib.InstanceNorm(6)}  # fmt: skip
    layer = layers[op]
    found = layer(np.where(inside, x, np.float32(np.nan)), where=inside)
    dx = layer.backward(np.where(inside, dy, np.float32(np.nan)))
    assert not np.any(found[~np.broadcast_to(inside, x.shape)])
    assert np.isfinite(dx).all()
    assert checks.same_bits(found, layer(x, where=inside))
    assert checks.same_bits(dx, layer.backward(dy))


@each_op
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_masks_broadcast_along_any_axes(backend, op, layout):
    for shape, options in problems(op, "typical"):
        case = Case(op, shape, options, layout=layout)
        x, weight, bias, _ = case.inputs()
        for axes in product((True, False), repeat=len(shape)):
            inside = mask([n if own else 1 for n, own in zip(shape, axes, strict=True)])
            found = checks.call_forward(case, x, weight, bias, where=inside)
            dense = checks.call_forward(case, x, weight, bias, where=np.broadcast_to(inside, shape).copy())
            np.testing.assert_allclose(found, dense, rtol=1e-5, atol=1e-6)
