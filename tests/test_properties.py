"""hypothesis: shapes, axes, dtypes and strides at random against extended precision; and what any norm must satisfy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import normlib
from normlib.description import FUNCTIONS
from normlib.ops import OPS
from normlib.testing import LAYOUTS, Case, dtypes, ulp_error
from normlib.testing import _checks as checks
from normlib.testing import _reference as reference
from normlib.testing._cases import OUTPUTS, _possible, constant
from normlib.testing._fused import choices, sensible

DTYPES = [dtype.name for dtype in dtypes()]
# The backend's fixture holds for all examples of a test, and is meant to.
quick = settings(
    deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
sizes = st.one_of(st.integers(1, 7), st.sampled_from([31, 33, 64, 100]))
seeds = st.integers(0, 2**32 - 1)


@st.composite
def problems(draw, ops=tuple(OPS), names=tuple(DTYPES)):
    """A case of a random op, shape, axis and dtype."""
    name = draw(st.sampled_from(ops))
    op = OPS[name]
    ndim = draw(st.integers(1 if op.kind == "feature" else 2, 5))
    shape = tuple(draw(st.lists(sizes, min_size=ndim, max_size=ndim)))
    assume(np.prod(shape) <= 20_000)
    if op.kind == "feature":
        axes = draw(st.sets(st.integers(0, ndim - 1), min_size=1))
        axis = tuple(a - ndim if draw(st.booleans()) else a for a in axes)
        options = {"axis": axis[0] if len(axis) == 1 else axis}
    else:
        options = {"channel_axis": draw(st.integers(-ndim, ndim - 1))}
        if op.has_groups:
            channels = shape[options["channel_axis"]]
            options["num_groups"] = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        if op.mode is not None:
            options[op.mode] = True
    dtype = draw(st.sampled_from(names))
    case = Case(name, shape, options, dtype, draw(st.sampled_from(["both", "weight", "none"])))
    assume(op.mode is None or case.row_length > 1)
    return case


@st.composite
def strided(draw, a):
    """`a` on other strides: any order of the axes in memory, gaps, and axes that run backward."""
    order = draw(st.permutations(range(a.ndim)))
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in range(a.ndim)]
    room = np.zeros([abs(s) * n for s, n in zip(steps, a.shape, strict=True)], a.dtype)
    room = np.ascontiguousarray(room.transpose(order)).transpose(np.argsort(order))
    view = room[tuple(slice(None, None, s) for s in steps)]
    view[...] = a
    return view


def draw_arrays(case, seed, offset=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    x, weight, bias, dy = case.inputs()
    x = ((rng.standard_normal(case.shape) + offset) * scale).astype(x.dtype)
    dy = (rng.standard_normal(case.shape) + 0.25).astype(x.dtype)
    return x, weight, bias, dy


@quick
@given(st.data())
def test_any_strides_against_extended_precision(backend, data):
    case = data.draw(problems())
    offset = data.draw(st.sampled_from([0.0, -3.0, 1e2, 1e4]))
    x, weight, bias, dy = draw_arrays(case, data.draw(seeds), offset)
    x, dy = data.draw(strided(x)), data.draw(strided(dy))
    rows = case.geometry.rows

    y, *statistics = checks.call_forward(case, x, weight, bias, return_stats=True)
    truth = checks.expected_forward(case, x, weight, bias)
    scale = truth.scale if case.row_length < 8 else None
    assert y.dtype == x.dtype
    assert ulp_error(rows(y), rows(truth.y), scale=scale) <= 4

    named = dict(zip(OPS[case.op].statistics, statistics, strict=True))
    dx, *sums = checks.call_backward(case, dy, x, weight, **named, weight_grads=True)
    expected = reference.backward(case.geometry, dy, x, weight, mean=named.get("mean"), rstd=named["rstd"])
    scale = expected.scale if case.row_length < 8 else None
    assert ulp_error(rows(dx), rows(expected.dx), scale=scale) <= 16
    scales = (expected.dweight_scale, expected.dbias_scale)
    for found, total, scale in zip(sums, (expected.dweight, expected.dbias), scales, strict=False):
        assert ulp_error(found, total, axis=None, scale=scale) <= 32


@quick
@given(st.data())
def test_layout_and_place_of_the_result_never_change_a_bit(backend, data):
    case = data.draw(problems())
    x, weight, bias, _ = draw_arrays(case, data.draw(seeds))
    y = checks.call_forward(case, x, weight, bias)
    out = data.draw(strided(np.zeros_like(x)))
    assert checks.call_forward(case, x, weight, bias, out=out) is out
    assert checks.same_bits(out, y)
    same = x.copy()
    checks.call_forward(case, same, weight, bias, out=same)
    assert checks.same_bits(same, y)


@quick
@given(problems(names=("float32", "float64")), seeds, st.integers(-20, 20))
def test_a_power_of_two_cancels_to_the_bit(backend, case, seed, power):
    x, weight, bias, _ = draw_arrays(case, seed)
    with np.errstate(invalid="ignore"):  # rows may be constant
        y = checks.call_forward(case, x, weight, bias, eps=0)
        scaled = checks.call_forward(case, np.ldexp(x, power), weight, bias, eps=0)
    assert np.array_equal(y, scaled, equal_nan=True)


@quick
@given(problems(), seeds)
def test_a_change_of_sign_goes_through_to_the_bit(backend, case, seed):
    x, weight, _, dy = draw_arrays(case, seed)
    assert np.array_equal(checks.call_forward(case, -x, weight), -checks.call_forward(case, x, weight))
    _, *statistics = checks.call_forward(case, x, weight, return_stats=True)
    named = dict(zip(OPS[case.op].statistics, statistics, strict=True))
    plus = checks.call_backward(case, dy, x, weight, **named)[0]
    assert np.array_equal(checks.call_backward(case, -dy, x, weight, **named)[0], -plus)


@quick
@given(problems(ops=tuple(n for n, op in OPS.items() if "mean" in op.statistics), names=("float64",)), seeds)
def test_a_shift_cancels(backend, case, seed):
    x, weight, bias, _ = draw_arrays(case, seed)
    x = np.round(x * 2**20) / 2**20  # so that the shift itself rounds nothing
    y = checks.call_forward(case, x, weight, bias)
    shifted = checks.call_forward(case, x + 2.0**24, weight, bias)
    rows = case.geometry.rows
    scale = checks.expected_forward(case, x, weight, bias).scale
    assert ulp_error(rows(shifted), rows(y), scale=scale) <= 8


@st.composite
def fused_problems(draw):
    """A case with any of the arguments for the same pass that go together, in some layout and output."""
    case = draw(problems())
    offered = choices(FUNCTIONS[case.op])
    offered.pop("round_first", None)  # which has tests and a reference of its own
    names = draw(st.sets(st.sampled_from(list(offered)), min_size=1).filter(sensible))
    fused = {name: draw(st.sampled_from(offered[name])) for name in offered if name in names}
    case = replace(case, fused=fused, layout=draw(st.sampled_from(list(LAYOUTS))), out=draw(st.sampled_from(OUTPUTS)))
    if case.description.mode and draw(st.booleans()):
        case = constant(case)
    assume(_possible(case))
    return case


@quick
@given(fused_problems())
def test_what_is_computed_in_the_same_pass_against_extended_precision(backend, case):
    with normlib.backends.use(backend):  # what the compiled one declines goes the general way, as a user has it
        checks.check_forward(case)
        if case.row_length >= 8 or "gate" not in case.fused:  # its gradient hangs on y, of which few values tell little
            checks.check_backward(case)


@quick
@given(fused_problems(), fused_problems())
def test_a_pass_is_the_same_whatever_was_computed_before_it(backend, case, other):
    """Nothing of a call stays behind for the next one."""
    x, weight, bias, _ = case.inputs()
    with normlib.backends.use(backend):
        y = checks.call_forward(case, x, weight, bias, **checks.running(case)).copy()
        checks.check_forward(other)
        assert checks.same_bits(checks.call_forward(case, x, weight, bias, **checks.running(case)), y)


@quick
@given(problems(names=("float64",)), seeds)
def test_a_row_of_dx_is_orthogonal_to_what_the_norm_removes(backend, case, seed):
    """Moving x along itself, or by a constant, changes no output (eps=0), so dx has no part along them."""
    assume(case.row_length > 3)
    x, weight, _, dy = draw_arrays(case, seed)
    y, *statistics = checks.call_forward(case, x, None, None, eps=0, return_stats=True)
    named = dict(zip(OPS[case.op].statistics, statistics, strict=True))
    dx = checks.call_backward(case, dy, x, weight, **named)[0]
    rows = case.geometry.rows
    size = np.sum(np.abs(rows(dx)), axis=1) + np.max(np.abs(rows(dy)), axis=1) * named["rstd"].reshape(-1)
    assert np.all(np.abs(np.sum(rows(dx * y), axis=1)) <= 1e-12 * size)
    if "mean" in named:
        assert np.all(np.abs(np.sum(rows(dx), axis=1)) <= 1e-12 * size)


@quick
@given(problems(ops=("group_norm",), names=("float32", "float64")), seeds)
def test_norms_that_are_each_other(backend, case, seed):
    """A group a channel is an instance norm; one group is a layer norm; one sample is a batch norm."""
    x, *_ = draw_arrays(case, seed)
    axis = case.options["channel_axis"] % x.ndim
    sample = 0 if axis else 1
    channels, space = x.shape[axis], x.size // (x.shape[axis] * x.shape[sample])

    def same(found, expected, axes):
        # Two results of at most 4 ulps each.
        scale = np.ones((1,) * x.ndim)
        assert ulp_error(found, expected, axis=axes, scale=scale) <= 8

    rest = tuple(a for a in range(x.ndim) if a != sample)
    one_group = normlib.group_norm(x, 1, channel_axis=axis)
    same(one_group, normlib.layer_norm(x, axis=rest), rest)
    if space > 1:
        rest = tuple(a for a in rest if a != axis)
        each = normlib.group_norm(x, channels, channel_axis=axis)
        same(each, normlib.instance_norm(x, channel_axis=axis), rest)
        first = np.take(x, [0], axis=sample)
        single = normlib.batch_norm(first, training=True, channel_axis=axis)
        same(single, normlib.instance_norm(first, channel_axis=axis), rest)


@pytest.mark.parametrize("op", OPS)
def test_normalizing_twice_changes_nothing(backend, op):
    case = Case(op, (4, 6, 50), {**({"axis": -1} if OPS[op].kind == "feature" else {"channel_axis": 1})}, "float64")
    if OPS[op].has_groups:
        case.options["num_groups"] = 3
    if OPS[op].mode:
        case.options[OPS[op].mode] = True
    x, *_ = case.inputs()
    once = checks.call_forward(case, x, eps=0)
    np.testing.assert_allclose(checks.call_forward(case, once, eps=0), once, rtol=0, atol=1e-14)
