"""Many callers at once: Python threads, and the threads of a caller's own OpenMP region. In processes of their own,
since what fails here hangs."""

import shutil
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import effort, python

import normlib

OPS = normlib.ops.OPS
SHAPES = {"feature": [(3, 17), (64, 256), (600, 769)], "channel": [(3, 6, 5), (8, 12, 49), (9, 48, 1030)]}


def calls():
    """Functions without arguments that return the results of an op as bytes: small, large, first and last axis."""
    found = []
    for op in OPS.values():
        for shape in SHAPES[op.kind]:
            for axis in (-1, 1):
                found.append(call_of(op, shape, axis))
    return found


def call_of(op, shape, axis):
    rng = np.random.default_rng(len(shape) + shape[-1])
    x, dy = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    weight = rng.standard_normal(op.parameter_shape(shape, axis)).astype(np.float32)
    options = {op.axis_name: axis}
    groups = [op.parameter_shape(shape, axis)[0] // (2 if shape[axis] % 2 == 0 else 1)] if op.has_groups else []
    mode = {op.mode: True} if op.mode else {}
    running = [np.zeros(weight.shape), np.ones(weight.shape)]

    def call():
        moving = dict(zip(("running_mean", "running_var"), (r.copy() for r in running), strict=True)) if mode else {}
        y, *statistics = op.forward(x, *groups, weight=weight, **options, **mode, **moving, return_stats=True)
        options_back = {**options, **mode, **dict(zip(op.statistics, statistics, strict=True))}
        grads = op.backward(dy, x, *groups, weight, **options_back)
        return [a.tobytes() for a in (y, *statistics, *grads, *moving.values())]

    return call


def usable(call):
    try:
        call()
    except ValueError:  # one value a channel
        return False
    return True


def test_python_threads(record_property):
    """16 threads, each in its own order and on its own number of threads, get the bits that one alone gets."""
    work = [call for call in calls() if usable(call)]
    expected = [call() for call in work]
    times, start = effort(20, 1000), threading.Barrier(16)

    def run(seed):
        order = np.random.default_rng(seed).integers(len(work), size=times)
        start.wait()
        with normlib.num_threads(1 + seed % 4):
            return [int(i) for i in order if work[i]() != expected[i]]

    with ThreadPoolExecutor(16) as pool:
        assert not any(pool.map(run, range(16)))
    record_property("tried", 16 * times)


def test_layers_of_their_own(record_property):
    """Layers that threads do not share keep apart."""
    x = np.random.default_rng(0).standard_normal((8, 12, 49)).astype(np.float32)
    times = effort(50, 2000)

    def train(_):
        norm = normlib.BatchNorm(12, momentum=None)
        for _ in range(times):
            norm(x)
            norm.backward(x)
        return norm.running_mean.tobytes(), norm.grad_weight.tobytes(), int(norm.num_batches_tracked)

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(train, range(8)))
    assert len(found) == 1
    assert found.pop()[2] == times
    record_property("tried", 8 * times)


REGION = """
#include <omp.h>

/* The caller's own region: each of its threads calls back. */
void region(int threads, void (*call)(int))
{
    #pragma omp parallel num_threads(threads)
    call(omp_get_thread_num());
}
"""
NESTED = """
import ctypes, os, sys
import numpy as np
import normlib

x = np.random.default_rng(0).standard_normal((2048, 1024)).astype(np.float32)
normlib.set_num_threads(4)
expected = normlib.layer_norm(x).tobytes()
region = ctypes.CDLL(sys.argv[1]).region
Call = ctypes.CFUNCTYPE(None, ctypes.c_int)
seen = []

@Call
def call(thread):
    seen.append(normlib.layer_norm(x).tobytes() == expected)

for times in range(int(sys.argv[2])):
    region(4, call)
    if times == 1:
        threads = len(os.listdir("/proc/self/task"))
assert len(seen) == 4 * int(sys.argv[2]) and all(seen), seen
if sys.argv[3] == "same":  # a call inside a region of the runtime that the kernels use starts no team of its own
    assert len(os.listdir("/proc/self/task")) == threads <= 8, threads
assert normlib.layer_norm(x).tobytes() == expected
"""
COMPILERS = [name for name in ("gcc", "clang", "clang-19") if shutil.which(name)]


@pytest.mark.skipif(not COMPILERS, reason="needs a C compiler")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_inside_the_callers_own_region(compiler, tmp_path, record_property):
    source, library = tmp_path / "region.c", tmp_path / "region.so"
    source.write_text(REGION)
    command = [compiler, "-shared", "-fPIC", "-fopenmp", source, "-o", library]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"{compiler} has no OpenMP: {built.stderr.splitlines()[0]}")
    runtime = "libgomp" if "clang" not in compiler else "libomp"
    same = runtime in (normlib.show_config("dicts")["openmp"] or "")
    times = effort(20, 1000)
    python("-c", NESTED, str(library), str(times), "same" if same else "other")
    record_property("tried", 4 * times)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded Python")
def test_the_gil_stays_off():
    out = python("-c", "import sys, normlib; normlib.layer_norm([1.0, 2.0]); print(sys._is_gil_enabled())")
    assert out.strip() == "False"
