"""normlib's C functions through ctypes: no compiler, no copies, the GIL released during the call."""

from concurrent.futures import ThreadPoolExecutor
from ctypes import byref

import numpy as np

import normlib
from normlib.capi import Array, function

F32 = 1
rms_norm_rows, layer_norm, error_text = (function(name) for name in ("rms_norm_rows", "layer_norm", "error_text"))


def main():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(8, 768)).astype(np.float32), rng.normal(size=768).astype(np.float32)

    # Contiguous rows: addresses and sizes.
    y = np.empty_like(x)
    status = rms_norm_rows(F32, *x.shape, x.ctypes.data, weight.ctypes.data, 1e-6, y.ctypes.data, 1)
    assert status == 0, error_text(status)
    assert np.array_equal(y, normlib.rms_norm(x, weight))

    # Any strides: every other row, in place, and its statistics.
    some, rstd = x[::2], np.empty(4)
    expected = normlib.layer_norm(some, weight)
    array, scale, deviations = byref(Array(some)), byref(Array(weight)), byref(Array(rstd))
    status = layer_norm(array, scale, None, -1, 1e-5, array, None, deviations, 1)
    assert status == 0, error_text(status)
    assert np.array_equal(some, expected)

    # What is wrong comes back as a number, and the number as words.
    status = layer_norm(byref(Array(x)), byref(Array(weight[:5])), None, -1, 1e-5, byref(Array(y)), None, None, 1)
    print(error_text(status).decode())

    # From many threads at once, one thread each.
    def norm(i):
        return rms_norm_rows(F32, 1, 768, x[i].ctypes.data, weight.ctypes.data, 1e-6, y[i].ctypes.data, 1)

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(norm, range(8)))
    print("largest difference from normlib.rms_norm:", np.abs(y - normlib.rms_norm(x, weight)).max())


if __name__ == "__main__":
    main()
