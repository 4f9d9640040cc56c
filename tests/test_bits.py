"""The same bits: whatever the threads, the ISA level, place of a row, alignment, layout, `out`; on every machine.

What is computed here is compared bit for bit with the plain way to compute it, and with the digests that are stored.
"""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import digests
import numpy as np
import pytest

import normlib
from normlib import _kernels
from normlib.ops import OPS
from normlib.testing import LAYOUTS, Case, dtypes, problems
from normlib.testing import _checks as checks
from normlib.testing._cases import _possible, independent
from normlib.testing._layouts import ORDERS, in_order

LEVELS = _kernels.info()["isa_available"]
DTYPES = [dtype.name for dtype in dtypes()]
pytestmark = pytest.mark.skipif(not LEVELS, reason="the promise is the compiled kernels'")
each_op = pytest.mark.parametrize("op", OPS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(autouse=True)
def _compiled():
    with normlib.backends.use("cython", strict=True):
        yield


def all_cases(op, dtype, *which):
    return [Case(op, *problem, dtype) for name in which for problem in problems(op, name)]


def run(case, x, weight, bias, dy, statistics=None, **out):
    """(y and statistics, dx, gradients of the parameters); backward goes by the statistics given, else by forward's."""
    forward = checks.call_forward(case, x, weight, bias, return_stats=True, **out)
    forward = [forward[0].copy(), *forward[1:]]  # the output of forward may be that of backward
    named = dict(zip(OPS[case.op].statistics, statistics or forward[1:], strict=True))
    dx, *sums = checks.call_backward(case, dy, x, weight, **named, weight_grads=True, **out)
    return forward, [dx], sums


def differences(case, found, expected):
    """How many of the arrays differ."""
    return sum(not checks.same_bits(a, b) for a, b in zip(found, expected, strict=True))


def require_same(what, case, found, expected):
    for part, others in zip(found, expected, strict=True):
        assert differences(case, part, others) == 0, f"{case}: {what}"


@pytest.mark.parametrize("level", LEVELS)
def test_stored_digests(level):
    env = os.environ | {"NORMLIB_ISA": level, "NORMLIB_BACKEND": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", str(Path(digests.__file__))]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr
    assert f"level {level}, 0 differ" in result.stdout
    assert int(result.stdout.split()[0]) >= 400 * len(DTYPES)


PLANES = """
import hashlib
import numpy as np
from normlib import (
    batch_norm, batch_norm_backward, group_norm, group_norm_backward, instance_norm, instance_norm_backward,
)

found = hashlib.sha256()
rng = np.random.default_rng(0)
for n in range(2, 300):
    x, dy = rng.standard_normal((2, 2, 19 if n % 2 else 32, n)).astype("float16" if n % 7 == 0 else "float32")
    w, b = rng.standard_normal((2, x.shape[1])).astype("float32")
    for forward, backward, more in (
        (instance_norm, instance_norm_backward, {}),
        (batch_norm, batch_norm_backward, {"training": True}),
        (group_norm, group_norm_backward, {"num_groups": 1 if n % 2 else 8}),
    ):
        y, mean, rstd = forward(x, weight=w, bias=b, return_stats=True, **more)
        for array in (y, mean, rstd, *backward(dy, x, weight=w, mean=mean, rstd=rstd, **more)):
            found.update(array.tobytes())
    found.update(batch_norm(x, weight=w, bias=b, running_mean=w, running_var=b * b).tobytes())
    found.update(batch_norm_backward(dy, x, weight=w, mean=w, rstd=b, training=False)[0].tobytes())
print(found.hexdigest())
"""


def test_planes_of_every_length_at_every_level():
    """Where a vector has 16 lanes, short ones have loops of their own, in which a vector may lie in two planes."""
    found = {}
    for level in LEVELS:
        env = os.environ | {"NORMLIB_ISA": level, "NORMLIB_BACKEND": "", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "ignore", "-c", PLANES]
        result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        found[level] = result.stdout
    assert len(set(found.values())) == 1, found


@each_op
@pytest.mark.parametrize("last", [0, 1], ids=["first problem", "second problem"])
def test_threads(op, last):
    """Of arrays that are worth 16 threads."""
    case = [case for case in digests.cases(op) if case.shape[0] > 1][-2:][last]
    checks.check_threads(case, threads=(1, 2, 3, 7, 16))


def lies_inside(case, axis, reduced):
    """Whether an axis of a C-ordered array lies inside the reduced ones. It must stay longer than one, or else the
    elements of a row are neighbors, and the order of the axes in memory is another."""
    return any(case.shape[r] > 1 for r in reduced if r < axis) and all(case.shape[r] == 1 for r in reduced if r > axis)


def parts_of(case, x, weight, bias, dy):
    """(what, smaller case, its arguments, index into x, index into statistics, index into sums or None)"""
    op, ndim = case.description, len(case.shape)
    axis = case.options[op.axis_name]
    reduced = [a % ndim for a in op.reduced_axes(ndim, axis)]
    channel = axis % ndim if op.kind == "channel" else None
    for a, size in enumerate(case.shape):
        if a in reduced or a == channel or size == 1:
            continue
        kept = [b for b in range(ndim) if b not in reduced and b != channel]
        for first, stop in {(0, 1), (size // 2, size // 2 + 1), (0, 2), (1, size), (size - 2, size)}:
            if stop - first == 1 and lies_inside(case, a, reduced):
                continue
            part = slice(first, stop)
            at = (slice(None),) * a + (part,)
            of_statistics = (slice(None),) * kept.index(a) + (part,)
            smaller = replace(case, shape=x[at].shape)
            yield f"axis {a}, {part}", smaller, (x[at], weight, bias, dy[at]), at, of_statistics, None
    if channel is not None:
        groups = case.options.get("num_groups", case.shape[channel])
        width = case.shape[channel] // groups
        for first, stop in {(0, 1), (groups // 2, groups // 2 + 1), (groups - 1, groups), (1, groups)}:
            if first == stop or ((stop - first) * width == 1 and lies_inside(case, channel, reduced)):
                continue
            part = slice(first * width, stop * width)
            at = (slice(None),) * channel + (part,)
            options = {n: stop - first if n == "num_groups" else v for n, v in case.options.items()}
            smaller = replace(case, shape=x[at].shape, options=options)
            parameters = [None if p is None else p[part] for p in (weight, bias)]
            yield f"channels {part}", smaller, (x[at], *parameters, dy[at]), at, (..., slice(first, stop)), part


def check_parts(case):
    arguments = case.inputs()
    forward, (dx,), sums = run(case, *arguments)
    tried = 0
    for what, smaller, given, at, of_statistics, of_sums in parts_of(case, *arguments):
        y, *statistics = forward
        expected = [y[at], *(s[of_statistics] for s in statistics)]
        own = None if of_sums is None else [s[of_sums] for s in sums]
        for copied in (False, True):
            arrays = [np.ascontiguousarray(a) if copied and a is not None else a for a in given]
            found = run(smaller, *arrays)
            require_same(what, case, found[:2], (expected, [dx[at]]))
            assert own is None or differences(case, found[2], own) == 0, f"{case}: sums of {what}"
            tried += 1
    return tried


@each_op
@each_dtype
def test_batch_size_and_position_of_a_row(op, dtype):
    """A row (a channel, a group) alone, first, last or among others; where it lies and as a copy."""
    assert sum(check_parts(case) for case in all_cases(op, dtype, "all", "typical")) >= 100


@each_op
def test_streamed_and_cached(op):
    """Outputs of many megabytes leave by streaming stores, their parts by plain ones."""
    for case in list(digests.cases(op))[-2:]:
        assert check_parts(case)


def at_byte(a, shift):
    """A copy of `a` that begins `shift` bytes behind a 64-byte line."""
    if a is None:
        return None
    raw = np.empty(a.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + shift
    moved = raw[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


@each_op
@each_dtype
def test_alignment(op, dtype):
    for case in all_cases(op, dtype, "typical"):
        x, weight, bias, dy = case.inputs()
        expected = run(case, x, weight, bias, dy)
        for shift in range(64):
            moved = [at_byte(a, shift * k % 64) for a, k in ((x, 1), (weight, 3), (bias, 5), (dy, 7))]
            require_same(f"{shift} bytes", case, run(case, *moved), expected)
            require_same(f"{shift} bytes", case, run(case, x, weight, bias, dy, out=at_byte(x, shift)), expected)


@each_op
@each_dtype
@pytest.mark.parametrize("order", ORDERS)
def test_layouts(op, dtype, order):
    """In each order of the axes in memory: gaps, strides, signs, alignment and byte order of it."""
    for case in all_cases(op, dtype, "typical") + all_cases(op, dtype, "all")[::3]:
        values = [None if a is None else in_order(order)(a) for a in case.inputs()]
        expected = run(case, *values)
        for layout in LAYOUTS:
            if layout in ORDERS or not _possible(replace(case, layout=layout)):
                continue
            given = [None if a is None else in_order(order, layout)(a) for a in values]
            if layout.startswith("broadcast"):  # other values
                dense = [None if a is None else a.copy("K") for a in given]
                require_same(layout, case, run(case, *given), run(case, *dense))
            else:
                require_same(layout, case, run(case, *given), expected)


@each_dtype
@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_whose_positions_lie_as_far_apart_as_there_are_channels(dtype, threads):
    """x and dx have two channels side by side; dy has a plane of every other element for each."""
    x = np.random.default_rng(0).normal(size=(3, 300, 2)).astype(dtype).transpose(0, 2, 1)
    dy = np.random.default_rng(1).normal(size=(3, 2, 600)).astype(dtype)[:, ::-1, ::2]
    _, mean, rstd = normlib.instance_norm(x, return_stats=True)
    with normlib.num_threads(threads):
        found = normlib.instance_norm_backward(dy, x, mean=mean, rstd=rstd, weight_grads=True)
    dense = np.empty_like(x)
    dense[...] = dy
    expected = normlib.instance_norm_backward(dense, x, mean=mean, rstd=rstd, weight_grads=True)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@each_dtype
@pytest.mark.parametrize("n", [17, 100, 146, 250, 300, 1030, 2049])
@pytest.mark.parametrize("step", [1, 2])
def test_rows_that_are_taken_together(dtype, n, step):
    """Each comes out as it does alone, from memory with gaps too."""
    x, dy = (np.random.default_rng(seed).normal(size=(40, step * n)).astype(dtype)[:, ::step] for seed in range(2))
    w = np.linspace(-1, 1, n).astype(dtype)
    y, mean, rstd = normlib.layer_norm(x, w, w, return_stats=True)
    dx, *_ = normlib.layer_norm_backward(dy, x, w, mean=mean, rstd=rstd, weight_grads=True, out=dy.copy("K"))
    for i in range(40):
        row = np.ascontiguousarray(x[i : i + 1])
        np.testing.assert_array_equal(y[i : i + 1], normlib.layer_norm(row, w, w))
        given = {"mean": mean[i : i + 1], "rstd": rstd[i : i + 1]}
        slope = np.ascontiguousarray(dy[i : i + 1])
        np.testing.assert_array_equal(dx[i : i + 1], normlib.layer_norm_backward(slope, row, w, **given)[0])


@each_dtype
@pytest.mark.parametrize("shape", [(58, 55), (3, 58, 55), (2, 400, 30)])
def test_rows_of_several_runs(dtype, shape):
    """Gaps within a row, which is longer than what is taken at once: as without them."""
    x, dy, w = (np.random.default_rng(seed).normal(size=shape).astype(dtype) for seed in range(3))
    w = w if len(shape) == 2 else w[0]
    room = np.empty((*shape[:-1], shape[-1] + 3), x.dtype)
    results = []
    for out in (np.empty_like(x), room[..., : shape[-1]]):
        given, slope = (np.empty_like(room)[..., : shape[-1]] for _ in range(2)) if results else (x, dy)
        given[...], slope[...] = x, dy
        y, rstd = normlib.rms_norm(given, w, axis=(-2, -1), out=out, return_stats=True)
        y = y.copy()
        dx, dweight = normlib.rms_norm_backward(slope, given, w, rstd=rstd, axis=(-2, -1), out=out)
        results.append([y, rstd, dx.copy(), dweight])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@each_op
@each_dtype
def test_outputs(op, dtype):
    """Into a given array, in place of either input, and over memory that an input shares."""
    for case in all_cases(op, dtype, "all", "typical"):
        x, weight, bias, dy = case.inputs()
        expected = run(case, x, weight, bias, dy)
        for layout in ("contiguous", "strided", "negative", "channels_last", "transposed", "misaligned", "byteswapped"):
            if _possible(replace(case, layout=layout)):
                found = run(case, x, weight, bias, dy, out=LAYOUTS[layout](np.zeros_like(x)))
                require_same(f"out {layout}", case, found, expected)
        statistics = expected[0][1:]
        named = dict(zip(OPS[op].statistics, statistics, strict=True))
        for layout in ("contiguous", "strided"):
            same = [LAYOUTS[layout](a) for a in (x, x, dy)]
            require_same(
                f"in place, {layout}",
                case,
                [
                    [checks.call_forward(case, same[0], weight, bias, out=same[0])],
                    checks.call_backward(case, dy, same[1], weight, **named, out=same[1], weight_grads=True),
                    checks.call_backward(case, same[2], x, weight, **named, out=same[2], weight_grads=True),
                ],
                [expected[0][:1], expected[1] + expected[2], expected[1] + expected[2]],
            )
            both = LAYOUTS[layout](np.concatenate([x, x[:1]]))
            y = checks.call_forward(case, both[:-1], weight, bias, out=both[1:])
            require_same(f"overlapping, {layout}", case, [[y]], [expected[0][:1]])


@each_op
def test_eight_threads_at_once_and_again(op):
    found = [case for dtype in DTYPES for case in all_cases(op, dtype, "typical", "large")]
    given = [case.inputs() for case in found]
    expected = [run(case, *arguments) for case, arguments in zip(found, given, strict=True)]

    def work(number):
        with normlib.backends.use("cython", strict=True), normlib.num_threads(1 + number % 3):
            for turn in range(2 * len(found)):
                i = (turn + 3 * number) % len(found)
                require_same(f"thread {number}, turn {turn}", found[i], run(found[i], *given[i]), expected[i])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_channels_or_samples_are_tried_apart():
    """The tests of parts reach every op, and the samples of all but BatchNorm."""
    for op in OPS:
        samples = [case for case in all_cases(op, "float32", "typical") if independent(case)]
        assert bool(samples) == (op != "batch_norm")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 49, 320), (2, 1500, 320), (1, 14001, 256), (1, 33007, 96), (1, 3111, 1056)], ids=str
)
def test_channels_beside_a_channel(dtype, shape):
    """In channels-last memory few channels are taken several positions at once, many are not, and from 24 MB on
    positions are read in the order of memory."""
    x = np.random.default_rng(3).standard_normal(shape, dtype=np.float32).astype(dtype)
    x[0, :, ::5] += np.asarray(40, dtype)
    x[0, 0, 3] = 3e4  # a first mean that an outlier puts off is taken again, for this channel alone
    dy = x[:, ::-1].copy()
    y, mean, rstd = normlib.instance_norm(x, channel_axis=-1, return_stats=True)
    weight = np.ones(shape[-1], np.float64 if dtype == "float64" else np.float32)
    gradients = normlib.batch_norm_backward(dy, x, weight, mean=mean[0], rstd=rstd[0], channel_axis=-1)
    for width in (2, 3, 7, 8, 11, 16, 17, 24, 33, 44, 88):
        for array, few in itertools.product((np.array, np.asarray), (slice(width), slice(-width, None))):
            part, dpart = array(x[..., few]), array(dy[..., few])
            found = normlib.instance_norm(part, channel_axis=-1, return_stats=True)
            for a, b in zip(found, (y, mean, rstd), strict=True):
                assert np.array_equal(a, b[..., few])
            own = {name: value[few] for name, value in {"weight": weight, "mean": mean[0], "rstd": rstd[0]}.items()}
            found = normlib.batch_norm_backward(dpart, part, **own, channel_axis=-1)
            for a, b in zip(found, gradients, strict=True):
                assert np.array_equal(a, b[..., few])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_rows_of_one_element(op, dtype):
    """Gaps between rows, in any of the arrays, do not change how a row is computed."""
    x, _, _, dy = (case := Case(op, (20, 50, 1), {"axis": -1}, dtype)).inputs()
    weight = np.full(1, 1.3, x.dtype)
    room = lambda a: np.concatenate([a, a[:, :3]], axis=1)[:, :50]  # noqa: E731
    expected = run(case, x, weight, None, dy)
    for given in ((room(x), dy), (x, room(dy)), (room(x), room(dy))):
        require_same("gaps between rows", case, run(case, given[0], weight, None, given[1]), expected)


@each_dtype
@pytest.mark.parametrize("shape", [(64, 1, 9), (41, 1, 3, 3), (7, 5, 9)], ids=str)
@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
def test_running_statistics(op, shape, dtype):
    """They move alike whichever way x takes."""
    case = Case(op, shape, {"channel_axis": 1}, dtype)
    x, *_ = case.inputs()

    def moved(x):
        running = [np.zeros(shape[1]), np.ones(shape[1])]
        checks.call_forward(case, x, None, None, running_mean=running[0], running_var=running[1])
        return running

    for layout in ("strided", "negative", "misaligned", "byteswapped"):
        if _possible(replace(case, layout=layout)):
            require_same(layout, case, [moved(LAYOUTS[layout](x))], [moved(x)])
