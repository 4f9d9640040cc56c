"""normlib's C functions inside code that numba compiles: a loop over layers and tokens, without the GIL."""

import numba
import numpy as np

import normlib
from normlib.capi import function

F32 = 1
rms_norm_rows = function("rms_norm_rows")  # with its types, as numba needs them


@numba.njit(nogil=True)
def residual_stream(x, weights, eps):
    """x += rms_norm(x) * weight in each layer, token by token; the status of the first call that failed."""
    y = np.empty_like(x[0])
    for t in range(x.shape[0]):
        for layer in range(weights.shape[0]):
            status = rms_norm_rows(F32, 1, y.size, x[t].ctypes.data, weights[layer].ctypes.data, eps, y.ctypes.data, 1)
            if status:
                return status
            for i in range(y.size):
                x[t, i] += y[i]
    return 0


def main():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(16, 256)).astype(np.float32), rng.normal(size=(6, 256)).astype(np.float32)
    expected = x.copy()
    for weight in weights:
        expected += normlib.rms_norm(expected, weight)
    assert residual_stream(x, weights, 1e-6) == 0
    print("largest difference from the same in NumPy:", np.abs(x - expected).max())


if __name__ == "__main__":
    main()
