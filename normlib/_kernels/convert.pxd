"""Parameters, gradients and running statistics between the dtypes of their arrays and those that the kernels work in."""

from libc.string cimport memcpy
from normlib._kernels.plan cimport BF16, F16, F32, F64

cdef extern from "storage.h" nogil:
    ctypedef struct half_t:
        pass
    ctypedef struct bf16_t:
        pass
    float widen_half(half_t)
    float widen_bf16(bf16_t)
    half_t narrow_half(float)
    bf16_t narrow_bf16(float)


cdef inline void widen(int dtype, const void* narrow, Py_ssize_t n, float* wide) noexcept nogil:
    """16 bits to 32."""
    cdef Py_ssize_t i
    if dtype == F16:
        for i in range(n):
            wide[i] = widen_half((<const half_t*>narrow)[i])
    else:
        for i in range(n):
            wide[i] = widen_bf16((<const bf16_t*>narrow)[i])


cdef inline void narrow(int dtype, const double* sums, Py_ssize_t n, void* to) noexcept nogil:
    """Sums of float64 to any dtype; to 16 bits by way of 32."""
    cdef Py_ssize_t i
    if dtype == F64:
        memcpy(to, sums, n * sizeof(double))
    elif dtype == F32:
        for i in range(n):
            (<float*>to)[i] = <float>sums[i]
    elif dtype == F16:
        for i in range(n):
            (<half_t*>to)[i] = narrow_half(<float>sums[i])
    else:
        for i in range(n):
            (<bf16_t*>to)[i] = narrow_bf16(<float>sums[i])


cdef inline double value_at(int dtype, const void* a, Py_ssize_t i) noexcept nogil:
    return (<const double*>a)[i] if dtype == F64 else (<const float*>a)[i]


cdef inline void repeat(int dtype, const void* running, Py_ssize_t samples, Py_ssize_t channels, double* to) noexcept nogil:
    """to = a running statistic, once a sample"""
    cdef Py_ssize_t n, c
    for n in range(samples):
        if dtype == F64:
            memcpy(to + n * channels, running, channels * sizeof(double))
        else:
            for c in range(channels):
                to[n * channels + c] = (<const float*>running)[c]


cdef inline void move(int dtype, void* running, const double* batch, Py_ssize_t samples, Py_ssize_t channels, double momentum,
                      double factor) noexcept nogil:
    """running = (1 - momentum) * running + momentum * the mean over the samples of factor * batch"""
    cdef Py_ssize_t c, n
    cdef double total
    for c in range(channels):
        total = 0
        for n in range(samples):
            total += batch[n * channels + c]
        total = (1 - momentum) * value_at(dtype, running, c) + momentum * (factor * (total / samples))
        if dtype == F64:
            (<double*>running)[c] = total
        else:
            (<float*>running)[c] = <float>total
