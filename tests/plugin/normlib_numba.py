"""LayerNorm and RMSNorm over the last axes of float32 arrays, compiled by numba."""

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
    if axis[0] != kept or x.dtype != np.float32:
        return NotImplemented
    mean, rstd = np.empty(x.shape[:kept]), np.empty(x.shape[:kept])
    weight = np.ones(x.shape[kept:], x.dtype) if weight is None else weight
    bias = np.zeros(x.shape[kept:], x.dtype) if bias is None else bias
    x = np.array(x, order="C")
    rows = x.reshape(mean.size, -1)
    _rows(rows, weight.ravel(), bias.ravel(), eps, centered, rows, mean.ravel(), rstd.ravel())
    out[...] = x
    return mean, rstd


def layer_norm(x, weight, bias, axis, eps, out):
    return _normalize(x, weight, bias, axis, eps, True, out)


def rms_norm(x, weight, axis, eps, out):
    taken = _normalize(x, weight, None, axis, eps, False, out)
    return taken if taken is NotImplemented else taken[1:]
