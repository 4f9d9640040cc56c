"""What test_allocation_failures.py runs, failing_malloc.c preloaded: prints the number of failures and what fell."""

import ctypes
import gc
import json
import os
import sys
from array import array

import numpy as np
from endurance_calls import variants

import normlib

library = ctypes.CDLL(None)
POOLED = os.environ.get("PYTHONMALLOC") != "malloc"  # small objects come from elsewhere
LEAST = 4096 if POOLED else 0  # bytes of an allocation that may fail: arrays and scratch, or all
REPEATS = 100
live = array("q", [0] * REPEATS)  # in use after each failure; itself it takes no block


def attempt(function, arguments, n, times):
    """Call while the n-th allocation fails, and `times` in all; whether the failure came, and what was raised."""
    raised = None
    library.fail_after(n, times, LEAST)
    try:
        function(**arguments)
    except BaseException as error:
        raised = type(error)
    while True:
        try:
            return bool(library.disarm()), raised
        except MemoryError:  # of ctypes
            continue


def in_use():
    return library.blocks() + sys.getallocatedblocks() if POOLED else library.blocks()


def snapshot(arguments):
    return [a.tobytes() for n, a in arguments.items() if isinstance(a, np.ndarray) and n != "out"]


def exhaust(name, function, arguments, times):
    """Fail at every allocation of a call in turn; yields what is wrong, then the number of failures."""
    expected = None
    for _ in range(3):  # fill the caches of Python and NumPy
        before = {n: a.copy() if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
        try:
            function(**before)
        except (ValueError, TypeError) as error:
            expected = type(error)
    before = snapshot(arguments)
    tried = 0
    for n in range(2000):
        raised = None
        for collected in (False, True):  # cycles are garbage, not leaks; to collect them takes long
            last = REPEATS if collected else 4
            for i in range(last):
                failed, raised = attempt(function, arguments, n, times)
                tried += 1
                if raised is not None and raised is not expected and not issubclass(raised, MemoryError):
                    yield f"{name}, allocation {n}: {raised.__name__}"
                if raised is not None and snapshot(arguments) != before:
                    yield f"{name}, allocation {n}: arguments changed"
                if raised is None:  # it did without, or went through; running statistics have moved
                    before = snapshot(arguments)
                if collected:
                    gc.collect()
                live[i] = in_use()
            growth = [live[i + 1] - live[i] for i in range(last - 1)]
            if min(growth) <= 0:
                break
        else:
            yield f"{name}, allocation {n}: a leak of {min(growth)} blocks"
        if not failed:
            break
    yield tried


def is_direct(name):
    """Whether a call goes straight to the compiled function: no frames, which Python itself can fail to make."""
    return not any(word in name for word in ("general", "list", "wrong"))


if __name__ == "__main__":
    library.blocks.restype = ctypes.c_long
    library.fail_after.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_size_t]
    normlib.backends.use("cython")
    tried, fell = 0, []
    chosen = [v for v in variants() if POOLED or is_direct(v[0])]
    if sys.argv[1] == "short":
        chosen = [v for v in chosen if "float32" in v[0]]
    gc.disable()
    gc.freeze()  # what there is by now need not be looked at again
    for times in (1,) if POOLED else (1, 50):  # one failure; or none succeeds until long after
        for name, function, arguments in chosen:
            for result in exhaust(name, function, arguments, times):
                if isinstance(result, int):
                    tried += result
                else:
                    fell.append(result)
    print(json.dumps([tried, fell[:20]]))
