"""What test_allocation_failures.py runs on the C functions, failing_malloc.c preloaded: prints failures, what fell."""

import ctypes
import json
from ctypes import byref

import numpy as np

LEAST = 4096  # bytes of an allocation that may fail: scratch
library = ctypes.CDLL(None)


def calls():
    """(name, arguments): each scratch that there is is needed by one of them."""
    half = np.ones((600, 2048), np.float16)
    wide, floats = np.ones(2048, np.float16), np.ones(2048, np.float32)
    y, dx = np.empty_like(half), np.empty_like(half)
    stats, running = [np.ones(600), np.ones(600)], np.ones(2048)
    flat, images = np.ones((8, 2048, 6), np.float16), np.ones((8, 6, 2048), np.float16)
    groups = np.ones((8, 2048))
    long, short_stats = np.ones((1200, 1500)), [np.ones(1200, np.float32), np.ones(1200, np.float32)]
    return [
        ("layer_norm", (half, wide, wide, -1, 1e-5, y, None, None, 1)),
        ("layer_norm", (half, None, wide, -1, 1e-5, y, None, None, 1)),
        ("layer_norm_backward", (half, half, wide, *stats, -1, dx, floats, floats.copy(), 1)),
        ("layer_norm_backward", (long, long, None, *short_stats, -1, np.empty_like(long), np.empty(1500), None, 1)),
        ("rms_norm_backward", (half, half, None, stats[0], -1, dx, floats, 1)),
        ("batch_norm", (half, wide, wide, running, running.copy(), 1, 0.1, 1e-5, 1, y, None, None, 1)),
        ("batch_norm", (half, None, None, running, running.copy(), 0, 0.1, 1e-5, 1, y, None, None, 1)),
        ("batch_norm_backward", (half, half, wide, floats, floats.copy(), 1, 1, dx, floats.copy(), floats.copy(), 1)),
        ("instance_norm", (flat, wide, wide, running, running.copy(), 1, 0.1, 1e-5, 1, flat.copy(), None, None, 1)),
        ("instance_norm_backward", (flat, flat, wide, groups, groups, 1, 1, flat.copy(), floats, None, 1)),
        ("group_norm", (images, 4, wide, wide, 1e-5, -1, images.copy(), None, None, 1)),
        ("group_norm_backward", (images, images, 4, wide, groups[:, :4].copy(), groups[:, :4].copy(), -1, images.copy(),
                                 floats, None, 1)),
    ]  # fmt: skip


def exhaust(name, arguments):
    """Fail at every allocation in turn; yields what is wrong, then the number of failures."""
    from normlib.capi import Array, function  # not where the tests are collected: it is compiled

    call, text = function(name), function("error_text")
    given = [byref(Array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
    running = arguments[3:5] if name in ("batch_norm", "instance_norm") else []
    for n in range(100):
        before, blocks = [a.copy() for a in running], library.blocks()
        library.fail_after(n, 1, LEAST)
        status = call(*given)
        failed = library.disarm()
        if library.blocks() - blocks > len(before) + 8:  # those of ctypes and of this loop aside
            yield f"{name}, allocation {n}: {library.blocks() - blocks} blocks are left"
        if not failed:
            if status:
                yield f"{name}: {text(status).decode()}"
            break
        if text(status) != b"no memory for scratch space":
            yield f"{name}, allocation {n}: {text(status).decode()}"
        if not all(np.array_equal(a, b) for a, b in zip(before, running, strict=True)):
            yield f"{name}, allocation {n}: running statistics moved"
    yield n


if __name__ == "__main__":
    library.blocks.restype = ctypes.c_long
    library.fail_after.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_size_t]
    tried, fell = 0, []
    for case in calls():
        for result in exhaust(*case):
            if isinstance(result, int):
                tried += result
                if not result:
                    fell.append(f"{case[0]}: it needed no memory")
            else:
                fell.append(result)
    print(json.dumps([tried, fell]))
