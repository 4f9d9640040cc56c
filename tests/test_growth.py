"""A hundred thousand calls: the process does not grow, every reference that is taken is given back."""

import ctypes
import gc
import sys
from contextlib import suppress

import numpy as np
import pytest
from endurance_calls import variants
from support import LONG, effort

import normlib

CALLS = [v for v in variants() if LONG or "float32" in v[0]]


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """What there is before these tests need not be looked through after each of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def times_of(name, backend):
    """100,000 in the campaign; a call that takes the general way is long, and the variants of a function share them."""
    slow = backend == "numpy" or any(word in name for word in ("general", "list", "wrong"))
    return effort(150 if slow else 600, 20_000 if slow else 100_000)


def repeat(function, arguments, times):
    for _ in range(times):
        with suppress(ValueError, TypeError):
            function(**arguments)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class Heap(ctypes.Structure):
    NAMES = "arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split(", ")]


def heap():
    """Bytes that malloc has given out, those of NumPy's arrays and of the kernels among them."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Heap
    found = mallinfo()
    return found.uordblks + found.hblkhd


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and glibc's heap")
def test_the_process_does_not_grow(backend, record_property):
    tried = 0
    for name, function, arguments in CALLS:
        repeat(function, arguments, 100)
        few = times_of(name, backend)
        for times in (few, 4 * few, 16 * few):  # a leak grows with the calls, what Python keeps for later does not
            blocks, taken, grown = growth(function, arguments, times)
            tried += times
            if blocks < times // 4 and taken < 4 * times and grown < 1 << 20:
                break
        else:
            raise AssertionError(f"{name}: after {times} calls {blocks} objects, {taken} bytes of heap, {grown} more")
    record_property("tried", tried)


def growth(function, arguments, times):
    gc.collect()
    before = sys.getallocatedblocks(), heap(), resident()
    repeat(function, arguments, times)
    gc.collect()
    after = sys.getallocatedblocks(), heap(), resident()
    return [b - a for a, b in zip(before, after, strict=True)]


def counts(arguments):
    return {name: sys.getrefcount(value) for name, value in arguments.items() if isinstance(value, (np.ndarray, list))}


@pytest.mark.parametrize(("name", "function", "arguments"), CALLS, ids=[v[0] for v in CALLS])
def test_references(name, function, arguments, backend):
    """Those to the arguments, and to what the results are made from; a result is the caller's alone."""
    own = {n: [*value] if isinstance(value, list) else value for n, value in arguments.items()}
    repeat(function, own, 3)
    before, dtype = counts(own), sys.getrefcount(np.dtype(np.float64))
    repeat(function, own, 50)
    gc.collect()
    assert counts(own) == before
    assert abs(sys.getrefcount(np.dtype(np.float64)) - dtype) < 25
    if "wrong" not in name:
        own["return_stats"] = False
        with suppress(TypeError):  # a backward function has no such argument
            result = function(**own)
            assert sys.getrefcount(result) == 2, "something holds on to the result"


def test_a_layer_lets_its_input_go():
    x = np.ones((4, 6, 5), np.float32)
    before = sys.getrefcount(x)
    for layer in (normlib.BatchNorm(6), normlib.GroupNorm(2, 6), normlib.LayerNorm(5)):
        for _ in range(3):
            layer(x)
            layer.backward(x)
        del layer
    assert sys.getrefcount(x) == before
