"""LayerNorm and RMSNorm over the last axes of contiguous float32 arrays, compiled by numba."""

import numba
import numpy as np


@numba.njit
def _rows(x, weight, bias, eps, centered, out, mean, rstd):
    for i in range(x.shape[0]):
        total = square = 0.0  # float64
        for value in x[i]:
            total += value
        mean[i] = total / x.shape[1] if centered else 0.0
        for value in x[i]:
            square += (value - mean[i]) ** 2
        rstd[i] = 1 / np.sqrt(square / x.shape[1] + eps)
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - mean[i]) * rstd[i] * weight[j] + bias[j]


def _normalize(x, weight, bias, axis, eps, centered, out):
    kept = x.ndim - len(axis)
    if axis[0] != kept or x.dtype != np.float32 or not (x.flags.c_contiguous and out.flags.c_contiguous):
        return NotImplemented
    mean, rstd = np.empty(x.shape[:kept]), np.empty(x.shape[:kept])
    weight = np.ones(x.shape[kept:], x.dtype) if weight is None else weight
    bias = np.zeros(x.shape[kept:], x.dtype) if bias is None else bias
    rows = mean.size, -1
    _rows(x.reshape(rows), weight.ravel(), bias.ravel(), eps, centered, out.reshape(rows), mean.ravel(), rstd.ravel())
    return mean, rstd


def layer_norm(x, weight, bias, axis, eps, out):
    return _normalize(x, weight, bias, axis, eps, True, out)


def rms_norm(x, weight, axis, eps, out):
    taken = _normalize(x, weight, None, axis, eps, False, out)
    return taken if taken is NotImplemented else taken[1:]
