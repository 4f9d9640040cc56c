"""Each op on each backend over dtypes, layouts, parameters, outputs, threads; and that the kit finds what is wrong."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import normlib
from normlib import numpy_backend
from normlib.ops import OPS
from normlib.testing import AFFINE, LAYOUTS, OUTPUTS, Case, ConformanceError, cases, check_backend, dtypes, problems
from normlib.testing import _checks as checks
from normlib.testing._cases import _possible, constant, independent
from normlib.testing._errors import check_errors
from normlib.testing._gradients import check_gradients, gradient_cases
from normlib.testing._layouts import ORDERS, in_order

DTYPES = [dtype.name for dtype in dtypes()]
each_op = pytest.mark.parametrize("op", OPS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def typical(op, dtype="float32"):
    return [Case(op, shape, options, dtype) for shape, options in problems(op, "typical")]


def with_modes(op, dtype):
    found = typical(op, dtype)
    return found + [constant(case) for case in found if OPS[op].mode is not None]


@each_op
@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("affine", AFFINE)
def test_layout(backend, op, dtype, layout, affine):
    found = [replace(case, layout=layout, affine=affine) for case in with_modes(op, dtype)]
    for case in filter(_possible, found):
        checks.check_forward(case)
        checks.check_backward(case)


@each_op
@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_in_parts(op, layout, monkeypatch):
    """What no kernel takes as it lies is copied, a large array in parts."""
    backend = pytest.importorskip("normlib._kernels.backend", exc_type=ImportError)
    monkeypatch.setattr(backend, "COPY_BYTES", 100)
    with normlib.backends.use("cython"):
        for case in (replace(case, layout=layout) for case in with_modes(op, "float32")):
            if _possible(case):
                checks.check_forward(case)
                checks.check_backward(case)


@each_op
@each_dtype
@pytest.mark.parametrize("out", OUTPUTS[1:])
def test_out(backend, op, dtype, out):
    for case in with_modes(op, dtype):
        for layout in ("contiguous", "channels_last", "transposed", "strided", "negative", "misaligned", "byteswapped"):
            if _possible(replace(case, layout=layout, out=out)):
                checks.check_forward(replace(case, layout=layout, out=out))
                checks.check_backward(replace(case, layout=layout, out=out))


@each_op
@pytest.mark.parametrize("dtype", DTYPES[2:])
@pytest.mark.parametrize("affine", AFFINE)
def test_float32_parameters_of_16_bit_input(backend, op, dtype, affine):
    for case in with_modes(op, dtype):
        case = replace(case, affine=affine, parameter_dtype="float32")
        if _possible(case):
            checks.check_forward(case)
            checks.check_backward(case)


@each_op
@each_dtype
def test_shape(backend, op, dtype):
    for shape, options in problems(op):
        for layout in ("contiguous", "strided", "transposed"):
            case = Case(op, shape, options, dtype, layout=layout)
            checks.check_forward(case)
            checks.check_backward(case)


@each_op
@each_dtype
@pytest.mark.parametrize("affine", ["both", "none"])
@pytest.mark.parametrize("wanted", [True, False])
def test_weight_grads(backend, op, dtype, affine, wanted):
    for case in with_modes(op, dtype):
        checks.check_backward(replace(case, affine=affine), weight_grads=wanted)


@pytest.mark.parametrize("case", [case for op in OPS for case in gradient_cases(op)], ids=str)
def test_finite_differences(backend, case):
    check_gradients(case)


@pytest.mark.parametrize("op", [name for name, op in OPS.items() if op.mode is not None])
@each_dtype
@pytest.mark.parametrize("kept", ["float32", "float64"])
def test_running_statistics(backend, op, dtype, kept):
    for case in typical(op, dtype):
        checks.check_running(case, dtype=kept)


@each_op
@pytest.mark.parametrize("check", [check_errors, checks.check_special, checks.check_empty])
def test_arguments_and_special_values(backend, op, check):
    for case in typical(op):
        if check is checks.check_empty:
            case = replace(case, shape=(0, *case.shape[1:]))
        check(case)


@each_op
@each_dtype
def test_same_bits_for_every_number_of_threads(backend, op, dtype):
    threads = (1, 7) if backend == "numpy" else (1, 2, 3, 7)
    for (shape, options), affine in zip(problems(op, "large"), ("both", "none"), strict=True):
        checks.check_threads(Case(op, shape, options, dtype, affine), threads=threads)


@each_op
@each_dtype
def test_same_bits_at_every_position_of_a_row(backend, op, dtype):
    found = [Case(op, *problem, dtype) for which in ("all", "typical") for problem in problems(op, which)]
    found = [case for case in found if independent(case) and case.shape[0] > 1]
    found += [constant(case) for case in typical(op, dtype) if OPS[op].mode is not None]
    assert found or op == "batch_norm"
    for case in found:
        checks.check_row_position(case)


@each_op
@each_dtype
@pytest.mark.parametrize("order", ORDERS)
def test_same_bits_in_every_layout_and_output(backend, op, dtype, order):
    """Strides, alignment, byte order, `out` and in place change nothing, in each order of the axes in memory."""
    for case in with_modes(op, dtype):
        x, weight, bias, dy = case.inputs()
        x, dy = in_order(order)(x), in_order(order)(dy)
        running = checks.running(case)
        y, *statistics = checks.call_forward(case, x, weight, bias, **running, return_stats=True)
        named = dict(zip(OPS[op].statistics, statistics, strict=True))
        dx = checks.call_backward(case, dy, x, weight, **named)[0]
        for layout in LAYOUTS:
            if layout in ORDERS or layout.startswith("broadcast") or not _possible(replace(case, layout=layout)):
                continue  # another order, or other values
            other, other_dy = in_order(order, layout)(x), in_order(order, layout)(dy)
            found = checks.call_forward(case, other, weight, bias, **running, return_stats=True)
            assert all(checks.same_bits(a, b) for a, b in zip(found, [y, *statistics], strict=True)), (case, layout)
            assert checks.same_bits(checks.call_backward(case, other_dy, other, weight, **named)[0], dx), (case, layout)
        for out in (np.empty_like(x), LAYOUTS["strided"](x), LAYOUTS["channels_last"](x)):
            assert checks.same_bits(checks.call_forward(case, x, weight, bias, **running, out=out), y), case
            assert checks.same_bits(checks.call_backward(case, dy, x, weight, **named, out=out)[0], dx), case
        same, same_x, same_dy = x.copy("K"), x.copy("K"), dy.copy("K")
        assert checks.same_bits(checks.call_forward(case, same, weight, bias, **running, out=same), y), case
        assert checks.same_bits(checks.call_backward(case, dy, same_x, weight, **named, out=same_x)[0], dx), case
        assert checks.same_bits(checks.call_backward(case, same_dy, x, weight, **named, out=same_dy)[0], dx), case


@each_op
def test_same_bits_at_every_alignment(backend, op):
    """Where in a cache line the arrays begin does not count."""
    case = typical(op)[0]
    x, weight, bias, dy = case.inputs()
    expected = checks.results(case)
    named = dict(zip(OPS[op].statistics, expected[1:], strict=False))
    for shift in range(0, 64, 4):
        moved = []
        for a in (x, dy, x):
            raw = np.empty(a.nbytes + 128, np.uint8)
            start = -raw.ctypes.data % 64 + shift
            moved.append(raw[start : start + a.nbytes].view(a.dtype).reshape(a.shape))
            moved[-1][...] = a
        y = checks.call_forward(case, moved[0], weight, bias, out=moved[2])
        assert checks.same_bits(y, expected[0]), shift
        dx = checks.call_backward(case, moved[1], moved[0], weight, **named, out=moved[2])[0]
        assert checks.same_bits(dx, expected[1 + len(named)]), shift


def test_float32_statistics_are_taken(backend):
    for op in OPS:
        case = typical(op)[0]
        x, weight, bias, dy = case.inputs()
        _, *statistics = checks.call_forward(case, x, weight, bias, return_stats=True)
        short = [s.astype(np.float32) for s in statistics]
        names = OPS[op].statistics
        found = [
            checks.call_backward(case, dy, x, weight, **dict(zip(names, s, strict=True)))
            for s in (short, [s.astype(np.float64) for s in short])
        ]
        assert all(checks.same_bits(a, b) for a, b in zip(*found, strict=True)), op


def test_check_backend_passes_and_reports(backend):
    steps = []
    report = check_backend(backend, strict=True, progress=lambda *step: steps.append(step))
    assert report.ok
    assert report.declined == 0
    assert sum(report.passed.values()) == len(steps) > 1000
    assert steps[-1][0] == steps[-1][1] == len(steps)
    assert set(report.worst) == set(normlib.backends.OPERATIONS)
    assert f"{backend}: {len(steps)} checks passed, 0 failed" in str(report)


def _sound(name):
    return getattr(numpy_backend, name)


def _naive_layer_norm(x, weight, bias, axis, eps, out):
    """The sum of squares minus the square of the sum, in float32."""
    a = x.astype(np.float32)
    mean = a.mean(axis=axis, keepdims=True)
    var = np.maximum((a * a).mean(axis=axis, keepdims=True) - mean * mean, 0)
    rstd = 1 / np.sqrt(var + np.float32(eps))
    shape = [n if i in axis else 1 for i, n in enumerate(x.shape)]
    y = (a - mean) * rstd
    out[...] = (y if weight is None else y * weight.reshape(shape)) + (0 if bias is None else bias.reshape(shape))
    kept = tuple(n for i, n in enumerate(x.shape) if i not in axis)
    return mean.reshape(kept).astype(np.float64), rstd.reshape(kept).astype(np.float64)


def _no_bias(x, weight, bias, axis, eps, out):
    return _sound("layer_norm")(x, weight, None, axis, eps, out)


def _wrong_eps(x, weight, axis, eps, out):
    return _sound("rms_norm")(x, weight, axis, eps * 1.01, out)


def _unbiased(x, weight, bias, mean, var, channel_axis, eps, out):
    n = x.size // x.shape[channel_axis]
    if mean is None:
        mean, var = _sound("batch_norm")(x, weight, bias, None, None, channel_axis, eps, np.empty_like(x))
        var = var * n / (n - 1)
    return _sound("batch_norm")(x, weight, bias, mean, var, channel_axis, eps, out)


def _writes_to_x(x, num_groups, weight, bias, channel_axis, eps, out):
    result = _sound("group_norm")(x, num_groups, weight, bias, channel_axis, eps, out)
    if x is not out and x.flags.writeable:
        x[(0,) * x.ndim] = 0
    return result


def _no_mean_of_gradient(dy, x, weight, mean, rstd, axis, weight_grads, out):
    _, dbias = _sound("layer_norm_backward")(dy, x, weight, mean, rstd, axis, weight_grads, out)
    (dweight,) = _sound("rms_norm_backward")(dy, x, weight, rstd, axis, weight_grads, out)
    return dweight, dbias


def _always_through(dy, x, weight, mean, rstd, use_input_stats, channel_axis, weight_grads, out):
    return _sound("instance_norm_backward")(dy, x, weight, mean, rstd, True, channel_axis, weight_grads, out)


def _swapped_sums(dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out):
    args = (dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out)
    return _sound("group_norm_backward")(*args)[::-1]


def _leaves_last_row(dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out):
    result = _sound("batch_norm_backward")(dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out)
    out[-1:] = 0
    return result


FAULTS = {
    "layer_norm": [_naive_layer_norm, _no_bias],
    "rms_norm": [_wrong_eps],
    "batch_norm": [_unbiased],
    "group_norm": [_writes_to_x],
    "layer_norm_backward": [_no_mean_of_gradient],
    "instance_norm_backward": [_always_through],
    "group_norm_backward": [_swapped_sums],
    "batch_norm_backward": [_leaves_last_row],
}


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, found in FAULTS.items() for fault in found])
def test_check_backend_finds_the_fault(name, fault):
    normlib.backends.register("faulty", SimpleNamespace(**{name: fault}))
    op = name.removesuffix("_backward")
    try:
        with pytest.raises(ConformanceError) as caught:
            check_backend("faulty", ops=[op])
    finally:
        normlib.backends.unregister("faulty")
    report = caught.value.report
    assert not report.ok
    assert report.declined > 0
    assert all(op in failure for failure in report.failures)
    assert report.failures[0] in str(caught.value)


def test_check_backend_strict_counts_a_declined_call_as_a_failure():
    normlib.backends.register("partial", SimpleNamespace(layer_norm=numpy_backend.layer_norm))
    try:
        assert check_backend("partial", ops=["layer_norm"]).declined > 0
        with pytest.raises(ConformanceError, match="does not take this call"):
            check_backend("partial", ops=["layer_norm"], strict=True)
    finally:
        normlib.backends.unregister("partial")


def _row_by_row(x, weight, bias, axis, eps, out):
    """Writes as it reads, and takes only what a backend is promised."""
    arrays = [a for a in (x, out, weight, bias) if a is not None]
    assert all(a.dtype.isnative and a.flags.aligned for a in arrays)
    rows = [_sound("layer_norm")(a[None], weight, bias, axis, eps, b[None]) for a, b in zip(x, out, strict=True)]
    return tuple(np.concatenate(s) for s in zip(*rows, strict=True))


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plugin_gets_sound_arrays(out, layout):
    case = Case("layer_norm", (5, 6, 37), {"axis": -1}, layout=layout, out=out)
    normlib.backends.register("row by row", SimpleNamespace(layer_norm=_row_by_row))
    try:
        with normlib.backends.use("row by row", strict=True):
            if _possible(case):
                checks.check_forward(case)
    finally:
        normlib.backends.unregister("row by row")


def test_a_plugin_never_writes_over_a_parameter():
    x, weight = np.random.default_rng(0).standard_normal((2, 5, 5))
    expected = normlib.layer_norm(x, weight[0])
    out = np.empty_like(x)
    out[1] = weight[0]
    normlib.backends.register("row by row", SimpleNamespace(layer_norm=_row_by_row))
    try:
        with normlib.backends.use("row by row", strict=True):
            normlib.layer_norm(x, out[1], out=out)
    finally:
        normlib.backends.unregister("row by row")
    np.testing.assert_allclose(out, expected, rtol=1e-13)


def _in_two_steps(x, weight, axis, eps, out):
    (rstd,) = _sound("rms_norm")(x, None, axis, eps, out)
    for row in out:
        row *= weight
    return (rstd,)


def test_a_plugin_gets_an_output_whose_elements_are_apart():
    x, weight = np.broadcast_to(np.arange(1.0, 5), (3, 4)), np.full(4, 2.0)
    out = np.lib.stride_tricks.as_strided(np.empty(4), (3, 4), (0, 8))
    normlib.backends.register("two steps", SimpleNamespace(rms_norm=_in_two_steps))
    try:
        with normlib.backends.use("two steps", strict=True):
            normlib.rms_norm(x, weight, out=out)
    finally:
        normlib.backends.unregister("two steps")
    np.testing.assert_allclose(out, normlib.rms_norm(x, weight), rtol=1e-13)


def test_cases_cover_what_they_should():
    for op in OPS:
        found = cases(op)
        assert {case.dtype for case in found} == set(DTYPES)
        assert {case.layout for case in found} == set(LAYOUTS)
        assert {case.out for case in found} == set(OUTPUTS)
        assert {len(case.shape) for case in found} >= ({3, 4, 5} if op == "instance_norm" else {2, 3, 4, 5})
        assert {case.row_length for case in found} & {1000, 1025, 3001}
        assert len({str(case) for case in found}) == len(found) or op == "rms_norm"


def test_check_backend_of_no_backend():
    with pytest.raises(ValueError, match="there is no backend 'nobody'"):
        check_backend("nobody")
