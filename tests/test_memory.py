"""No pass makes a temporary of the size of x: output, statistics, and scratch of so many bytes a channel and a thread.

What is measured is the resident memory of the process: whatever is allocated and written to shows there, by NumPy, by
the kernels or by a plugin. Linux keeps its peak, and sets it back when asked to.
"""

import contextlib
import ctypes

import numpy as np
import pytest

import normlib
from normlib import backends
from normlib.bench.calls import arrays, call
from normlib.bench.cases import DTYPES, Case
from normlib.ops import OPS

pytestmark = pytest.mark.thread_unsafe(reason="measures the peak of the process")
THREADS = 2
CHANNELS = 128
SHAPES = {  # a million elements each
    "rows": (8192, CHANNELS),
    "strided": (4096, 2, CHANNELS),
    "channel_axis": (2, CHANNELS, 64, 64),
    "channels_first": (2, CHANNELS, 64, 64),
    "channels_last": (2, CHANNELS, 64, 64),
    "dense": (8192, CHANNELS),
}
# Weight gradients are summed over a fixed number of parts, so that their bits do not depend on the threads: 64 of two
# float64 sums and two accumulators. A thread packs strips, and keeps lanes, of less than 128 kB.
A_CHANNEL = 64 * 4 * 8
A_THREAD = 128 << 10
CLOSE = 128 << 10  # what the interpreter and the kernel's own counters may be off by


def resident(field):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))


@contextlib.contextmanager
def small_pages():
    """Without huge pages, of which one alone is as large as some of the arrays here."""
    disable = 41  # PR_SET_THP_DISABLE
    prctl = ctypes.CDLL(None).prctl
    prctl(disable, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(disable, 0, 0, 0, 0)


def allocated(function):
    """Return how many bytes more than before a call the process held at its peak."""
    function()  # starts threads, touches the pages of the arguments
    with contextlib.suppress(AttributeError):  # what is free but kept would hide what is allocated in its place
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


@pytest.fixture(scope="module")
def peak():
    """Skip where the peak cannot be set back, or is not seen."""
    try:
        with small_pages():
            seen = allocated(lambda: np.ones(8 << 20, np.uint8))
    except (OSError, AttributeError, StopIteration):
        pytest.skip("the platform does not tell the peak of resident memory")
    assert abs(seen - (8 << 20)) < CLOSE


@pytest.fixture(autouse=True)
def measured(peak):
    outputs = pytest.importorskip("normlib._kernels.outputs")
    outputs.keep(False)  # a result that takes the memory of the last one would not be seen
    with small_pages(), normlib.num_threads(THREADS):
        yield
    outputs.keep(True)


def transposed(case, given):
    """Return the arguments with the arrays seen the other way round: NHWC as NCHW, NCHW as NHWC, (C, N) as (N, C)."""
    if case.layout in ("rows", "dense"):
        move = lambda a: np.ascontiguousarray(a.T).T  # noqa: E731
    else:
        source, target = (-1, 1) if case.layout == "channels_last" else (1, -1)
        move = lambda a: np.moveaxis(a, source, target)  # noqa: E731
        given = {**given, "axis": target, "channel_axis": target}
    return given | {name: move(given[name]) for name in ("x", "dy", "out") if given.get(name) is not None}


def problems():
    for norm, op in OPS.items():
        layouts = ("rows", "strided", "channel_axis") if op.kind == "feature" else ("channels_first", "channels_last")
        for layout in (*layouts, *(["dense"] if norm == "batch_norm" else [])):
            for view in ("as it lies", "transposed"):
                if (layout, view) != ("strided", "transposed"):
                    yield pytest.param(norm, layout, view, id=f"{norm}-{layout}-{view}")


def prepared(norm, layout, view, dtype, backward, out):
    groups = 32 if OPS[norm].has_groups else 0
    case = Case("memory", norm, SHAPES[layout], layout, dtype, backward, out=out, groups=groups)
    given = arrays(case)
    if view == "transposed":
        given = transposed(case, given)
    return given["x"], call(case, given).call


def bound(x):
    """Return what a pass that is given its output may allocate: two statistics for each row, and scratch."""
    return x.size // CHANNELS * 2 * 8 + CHANNELS * A_CHANNEL + THREADS * A_THREAD + CLOSE


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("norm", "layout", "view"), list(problems()))
def test_no_temporary_of_the_size_of_x(norm, layout, view, dtype):
    if "cython" not in backends.available():
        pytest.skip("NumPy works by temporaries")
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    with backends.use("cython", strict=True):
        for backward in (False, True):
            x, function = prepared(norm, layout, view, dtype, backward, out=True)
            assert bound(x) < x.nbytes // 2
            assert allocated(function) < bound(x)
            if dtype == "float32":
                x, function = prepared(norm, layout, view, dtype, backward, out=False)
                assert abs(allocated(function) - x.nbytes) < bound(x)


def _copying(x, weight, bias, axis, eps, out):
    """Works on a copy."""
    out[...] = x.copy()
    return np.zeros(len(x)), np.ones(len(x))


def test_a_copy_in_numpy_is_seen(register):
    x, function = prepared("layer_norm", "rows", "as it lies", "float32", False, out=True)
    register("copying", layer_norm=_copying)
    with backends.use("copying"):
        assert abs(allocated(function) - x.nbytes) < bound(x)


def test_an_allocation_in_c_is_seen():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]

    def copy(size=4 << 20):
        memory = libc.malloc(size)
        ctypes.memset(memory, 1, size)
        libc.free(memory)

    assert abs(allocated(copy) - (4 << 20)) < CLOSE


def test_one_long_row_backward():
    """Beside its results, sums of the weight gradients in the working type alone."""
    if "cython" not in backends.available():
        pytest.skip("NumPy works by temporaries")
    x = np.random.default_rng(1).standard_normal((1, 1 << 20), np.float32)
    weight, out = np.ones(x.size, np.float32), np.empty_like(x)
    given = {"mean": np.zeros(1), "rstd": np.ones(1), "out": out}
    with backends.use("cython", strict=True):
        assert allocated(lambda: normlib.layer_norm_backward(x, x, weight, **given)) < 4 * x.nbytes + CLOSE


@pytest.mark.parametrize("backward", [False, True])
def test_a_copy_becomes_the_output(backward):
    """Every other element of rows is copied first, each array once."""
    pytest.importorskip("normlib._kernels.backend", exc_type=ImportError)
    x, dy = (np.ones((4096, 512), np.float16)[:, ::2] for _ in range(2))
    out, statistics = np.empty(x.shape, x.dtype), dict.fromkeys(("mean", "rstd"), np.ones(4096))
    with backends.use("cython", strict=True), small_pages():
        if backward:
            found = allocated(lambda: normlib.layer_norm_backward(dy, x, **statistics, out=out))
        else:
            found = allocated(lambda: normlib.layer_norm(x, out=out))
    assert found <= (1 + backward) * x.nbytes + bound(x)
