"""The memory of new results: that of large ones freed is ready for the next; nobody notices but the clock."""

import copy
import os
import pickle
import sys
import threading

import numpy as np
import pytest
from support import python

import normlib

pytestmark = [
    pytest.mark.skipif("cython" not in normlib.backends.available(), reason="needs the compiled kernels"),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is kept on Linux alone"),
    pytest.mark.thread_unsafe(reason="sets what the process keeps"),
]

ROWS = 1 << 12  # of 1024 float32: 16 MB
rng = np.random.default_rng(0)
x = rng.standard_normal((ROWS, 1024), dtype=np.float32)
expected = normlib.layer_norm(x, out=np.empty_like(x))


@pytest.fixture(autouse=True, scope="module")
def kept():
    """Also where the environment switches it off, as it does under AddressSanitizer."""
    from normlib._kernels import outputs

    outputs.keep(True)
    yield
    outputs.keep(os.environ.get("NORMLIB_KEEP_OUTPUT", "1") != "0")


def address(a):
    return a.__array_interface__["data"][0]


def new(a=x):
    with normlib.backends.use("cython", strict=True):
        return normlib.layer_norm(a)


def handler(a=None):
    names = np._core.multiarray.get_handler_name
    return names() if a is None else names(a)


def test_the_last_one_freed_is_taken_again():
    y = new()
    first = address(y)
    y[:] = np.nan
    del y
    y = new()
    assert address(y) == first
    assert np.array_equal(y, expected)


def test_so_are_two_that_were_alive_together():
    y, z = new(), new()
    pair = {address(y), address(z)}
    del y, z
    y, z = new(), new()
    assert {address(y), address(z)} == pair


def test_what_is_in_use_is_not():
    y, z = new(), new()
    assert not np.shares_memory(y, z)
    part = y[5:7, ::2]
    del y
    again = new()
    assert not np.shares_memory(again, part)
    assert np.array_equal(part, expected[5:7, ::2])
    assert np.array_equal(z, expected)


def test_another_size_is_taken_anew():
    del_me = new()
    del del_me
    half = new(x[: ROWS // 2])
    assert np.array_equal(half, expected[: ROWS // 2])


def test_a_gradient_and_another_memory_order():
    _, mean, rstd = normlib.layer_norm(x, return_stats=True)
    dx, _, _ = normlib.layer_norm_backward(x, x, mean=mean, rstd=rstd)
    assert handler(dx) == "normlib"
    turned = new(np.asfortranarray(x))
    assert turned.flags.f_contiguous
    assert address(turned) % 64 == 0


def test_other_arrays_are_left_alone():
    large, small = new(), new(x[:10])
    assert handler() == handler(np.empty(ROWS * 1024, np.float32)) == handler(small) == "default_allocator"
    assert handler(large) == "normlib"


def test_results_can_be_grown_copied_and_pickled():
    y = new()
    y.resize((ROWS + 1, 1024), refcheck=False)
    assert np.array_equal(y[:-1], expected)
    y.resize((3, 1024), refcheck=False)
    assert np.array_equal(y, expected[:3])
    y = new()
    assert np.array_equal(copy.deepcopy(y), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(y)), expected)


def test_threads_free_and_take_at_once():
    wrong = []

    def work():
        for _ in range(20):
            y = new()
            if not np.array_equal(y[::511], expected[::511]):
                wrong.append(y)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


KEPT = """
import numpy as np, normlib
def resident():
    with open("/proc/self/smaps_rollup") as file:
        lines = dict(line.split(":") for line in file if ":" in line)
    return (int(lines["Rss"].split()[0]) - int(lines["LazyFree"].split()[0])) >> 10
x = np.ones((1 << 14, 1024), np.float32)
normlib.layer_norm(x[:9])
before = resident()
for _ in range(3):
    y = normlib.layer_norm(x)
    del y
print(resident() - before)
"""


@pytest.mark.parametrize("keep", ["1", "0"])
def test_the_system_may_have_the_pages(keep):
    """What is kept is marked free: of 64 MB none are held."""
    assert int(python("-c", KEPT, NORMLIB_KEEP_OUTPUT=keep)) < 8


LIMITED = """
import resource
import numpy as np, normlib
x, twice = np.ones((1 << 15, 1024), np.float32), np.ones((1 << 16, 1024), np.float32)
pages = int(open("/proc/self/statm").read().split()[0])
if {before}:
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (700 << 20),) * 2)
results = [normlib.layer_norm(x) for _ in range(4)]
del results
if not {before}:
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (700 << 20),) * 2)
{then}
"""


@pytest.mark.parametrize("then", ["np.empty(600 << 20, np.uint8)", "normlib.layer_norm(twice)"])
def test_nothing_is_kept_that_others_may_miss(then):
    """Four results of 128 MB, freed, are no part of a limit of 700 MB."""
    python("-c", LIMITED.format(before=True, then=then))


def test_what_is_kept_is_given_back_for_a_result_that_finds_no_room():
    python("-c", LIMITED.format(before=False, then="normlib.layer_norm(twice)"))
