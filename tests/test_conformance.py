"""Each op on each backend over dtypes, layouts, parameters, outputs, threads."""

from dataclasses import replace

import numpy as np
import pytest

import normlib
from normlib.ops import OPS
from normlib.testing import AFFINE, LAYOUTS, OUTPUTS, Case, cases, check_backend, dtypes, problems
from normlib.testing import _checks as checks
from normlib.testing._cases import _possible, constant, dtype_named, independent
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


@pytest.mark.share(3)
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


@pytest.mark.share(2)
@pytest.mark.parametrize("case", [case for op in OPS for case in gradient_cases(op)], ids=str)
def test_finite_differences(backend, case):
    check_gradients(case)


@pytest.mark.parametrize("op", [name for name, op in OPS.items() if op.mode is not None])
@each_dtype
@pytest.mark.parametrize("kept", ["float32", "float64"])
def test_running_statistics(backend, op, dtype, kept):
    many = Case(op, (3, 1057, 4), {"channel_axis": 1, OPS[op].mode: True}, dtype)
    for case in [*typical(op, dtype), many]:
        checks.check_running(case, dtype=kept)


@pytest.mark.parametrize("op", [name for name, op in OPS.items() if op.mode is not None])
@pytest.mark.parametrize("kept", DTYPES[2:])
def test_running_statistics_of_16_bits_are_those_of_float64_rounded_once(backend, op, kept):
    case = Case(op, (3, 1057, 4), {"channel_axis": 1, OPS[op].mode: True})
    x, weight, bias, _ = case.inputs()
    kept = dtype_named(kept)
    found, exact = ([s.astype(kept).astype(dtype) for s in case.given_statistics()] for dtype in (kept, np.float64))
    for mean, var in (found, exact):
        checks.call_forward(case, x, weight, bias, running_mean=mean, running_var=var, momentum=0.3)
    for a, b in zip(found, exact, strict=True):
        error = np.abs(a.astype(np.float64) - b)
        for neighbor in (np.nextafter(a, kept.type(9)), np.nextafter(a, kept.type(-9))):
            assert np.all(error <= np.abs(neighbor.astype(np.float64) - b))
    y = checks.call_forward(constant(case), x, running_mean=found[0], running_var=found[1])
    wide = [s.astype(np.float64) for s in found]
    assert checks.same_bits(y, checks.call_forward(constant(case), x, running_mean=wide[0], running_var=wide[1]))


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
    steps, ops = [], ["layer_norm", "instance_norm"]  # `normlib check` goes through all
    report = check_backend(backend, ops=ops, strict=True, progress=lambda *step: steps.append(step))
    assert report.ok
    assert report.declined == 0
    assert sum(report.passed.values()) == len(steps) > 1000
    assert steps[-1][0] == steps[-1][1] == len(steps)
    assert set(report.worst) == {name for op in ops for name in (op, f"{op}_backward")}
    assert f"{backend}: {len(steps)} checks passed, 0 failed" in str(report)

def test_cases_cover_what_they_should():
    for op in OPS:
        found = cases(op)
        assert {case.dtype for case in found} == set(DTYPES)
        assert {case.layout for case in found} == set(LAYOUTS)
        assert {case.out for case in found} == set(OUTPUTS)
        assert {len(case.shape) for case in found} >= ({3, 4, 5} if op == "instance_norm" else {2, 3, 4, 5})
        assert {case.row_length for case in found} & {1000, 1025, 3001}
        assert len({str(case) for case in found}) == len(found) or op == "rms_norm"
