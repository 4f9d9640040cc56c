"""Parameters, gradients and running statistics between the dtypes of their arrays and those that the kernels work in."""

from libc.string cimport memcpy
from normlib._kernels.header cimport normlib_array
from normlib._kernels.plan cimport F64, MOVE, NARROW, WIDEN, Dtype, Plan, Run


cdef inline void widen(Run run, int dtype, const void* narrow, Py_ssize_t n, float* wide) noexcept nogil:
    """16 bits to 32, which is no small part of a call of one row: the kernels have the instructions for it."""
    cdef Plan p
    p.dtype, p.x, p.y, p.length = <Dtype>dtype, <const char*>narrow, <char*>wide, n
    p.weight = NULL
    run(WIDEN, &p, 0)


cdef inline void narrow(Run run, const Plan* done, bint bias, int dtype, void* to) noexcept nogil:
    """The gradient of the weight, or of the bias, that a pass left; to 16 bits by way of 32."""
    cdef Plan p
    p.dtype, p.y, p.length = <Dtype>dtype, <char*>to, done.parameters
    p.dweight = done.dbias if bias else done.dweight
    if p.dweight == NULL:
        p.scratch = done.scratch + (done.parameters * sizeof(float) if bias else 0)
    p.x = p.weight = NULL
    run(NARROW, &p, 0)


cdef inline void repeat(int dtype, const void* running, Py_ssize_t samples, Py_ssize_t channels, double* to) noexcept nogil:
    """to = a running statistic, once a sample"""
    cdef Py_ssize_t n, c
    for n in range(samples):
        if dtype == F64:
            memcpy(to + n * channels, running, channels * sizeof(double))
        else:
            for c in range(channels):
                to[n * channels + c] = (<const float*>running)[c]


cdef inline void move(Run run, const Plan* done, const normlib_array* running, const double* statistic, Py_ssize_t samples, Py_ssize_t channels,
                      double momentum, double factor, Py_ssize_t least) noexcept nogil:
    """running = (1 - momentum) * running + momentum * the mean over the samples of factor * statistic, of those that have at least so many
    elements inside; a variance, that of more than one, has the factor of its own count."""
    cdef Plan p
    p.inside, p.least = done.inside, least
    p.dtype, p.mean, p.y, p.samples, p.length = <Dtype>running.dtype, <double*>statistic, <char*>running.data, samples, channels
    p.momentum, p.factor = momentum, factor
    p.x = p.weight = NULL
    run(MOVE, &p, 0)
