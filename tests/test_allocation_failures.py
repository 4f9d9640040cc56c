"""Memory runs out at each allocation in turn: a MemoryError, no leak, inputs and running statistics untouched."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import LONG, python

import normlib

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """malloc that fails on demand."""
    if not sys.platform.startswith("linux") or not shutil.which("cc"):
        pytest.skip("needs glibc and a C compiler")
    path = tmp_path_factory.mktemp("malloc") / "failing_malloc.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-fno-builtin", SCRIPTS / "failing_malloc.c", "-o", path]
    subprocess.run(command, check=True)
    return str(path)


@pytest.mark.skipif("cython" not in normlib.backends.available(), reason="without kernels NumPy alone allocates")
@pytest.mark.parametrize("pool", ["malloc", "default"])
def test_every_allocation(pool, library, record_property):
    """Without Python's pool of small objects each allocation of a direct call fails in turn, whosever it is. With it
    all calls, the general way included, are tried at the allocations of arrays and scratch alone, since Python and
    NumPy themselves do not survive the failure of every small one. (Nor does NumPy that of its own buffers, so that
    its backend is tried below only.)"""
    if pool == "malloc" and sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("a free-threaded Python has its own allocator alone")
    out = python(str(SCRIPTS / "allocation_failures.py"), "long" if LONG else "short",
                 timeout=1500, LD_PRELOAD=library, PYTHONMALLOC=pool, NORMLIB_NUM_THREADS="1")  # fmt: skip
    tried, fell = json.loads(out.splitlines()[-1])
    record_property("tried", tried)
    assert tried > 500
    assert not fell


@pytest.mark.skipif("cython" not in normlib.backends.available(), reason="the C functions are compiled")
def test_every_allocation_of_the_c_functions(library, record_property):
    """A status, no leak, and running statistics that have not moved."""
    out = python(str(SCRIPTS / "allocation_failures_in_c.py"), LD_PRELOAD=library, NORMLIB_NUM_THREADS="1")
    tried, fell = json.loads(out.splitlines()[-1])
    record_property("tried", tried)
    assert not fell
    assert tried > 30


NO_ROOM = """
import resource, sys
import numpy as np
import normlib

normlib.backends.use(sys.argv[1])
normlib.set_num_threads(1)
x = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)  # 64 MB
small = x[:4, :64].copy()
running = {"running_mean": np.zeros(4096), "running_var": np.ones(4096)}
before, stats = x[::512].copy(), {"mean": np.zeros(4096), "rstd": np.ones(4096)}
calls = [
    lambda: normlib.layer_norm(x), lambda: normlib.rms_norm(x, axis=0), lambda: normlib.group_norm(x, 64),
    lambda: normlib.batch_norm(x, training=True, **running), lambda: normlib.batch_norm(x.T, training=True, **running),
    lambda: normlib.layer_norm_backward(x, x, np.ones(4096, np.float32), **stats),
    lambda: normlib.batch_norm_backward(x.T, x.T, **stats, weight_grads=True),
]
expected = normlib.layer_norm(small).tobytes()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), -1))
for call in 3 * calls:
    try:
        call()
    except MemoryError:
        assert normlib.layer_norm(small).tobytes() == expected
    else:
        raise AssertionError("there was memory")
assert np.array_equal(x[::512], before)
assert not running["running_mean"].any() and (running["running_var"] == 1).all()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")
def test_no_room_for_the_output(record_property):
    for name in normlib.backends.available():
        python("-c", NO_ROOM, name)
        record_property("tried", 21)
