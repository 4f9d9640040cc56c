# cython: language_level=3, boundscheck=False, wraparound=False
"""Cython code that calls normlib without the GIL, and a callback for SciPy made of it."""

from cython.parallel cimport prange
from libc.stdint cimport intptr_t
from normlib.capi cimport NORMLIB_F32, NORMLIB_F64, error_text, layer_norm_rows, normlib_array, rms_norm


def rms_norm_heads(float[:, :, :] x, float[::1] weight, double eps, float[:, :, :] y):
    """y = rms_norm(x, weight) over the last axis, the first axis shared among threads; strides are free."""
    cdef Py_ssize_t i
    cdef int status = 0
    if x.shape[0] != y.shape[0]:
        raise ValueError("x and y have different sizes")
    for i in prange(x.shape[0], nogil=True):
        status |= norm_one(x[i], weight, eps, y[i])
    if status:
        raise ValueError(error_text(status).decode())


cdef int norm_one(float[:, :] x, float[::1] weight, double eps, float[:, :] y) noexcept nogil:
    cdef normlib_array source, scale, target
    source.data, source.dtype, source.ndim, source.shape, source.strides = &x[0, 0], NORMLIB_F32, 2, &x.shape[0], &x.strides[0]
    target.data, target.dtype, target.ndim, target.shape, target.strides = &y[0, 0], NORMLIB_F32, 2, &y.shape[0], &y.strides[0]
    scale.data, scale.dtype, scale.ndim, scale.shape, scale.strides = &weight[0], NORMLIB_F32, 1, &weight.shape[0], NULL
    return rms_norm(&source, &scale, -1, eps, &target, NULL, 1)


# A callback for scipy.ndimage.generic_filter1d; 1 tells SciPy that all is well.
cdef api int standardize(double* line, intptr_t n, double* out, intptr_t length, void* eps) noexcept nogil:
    return layer_norm_rows(NORMLIB_F64, 1, length, line, NULL, NULL, (<const double*>eps)[0], out, 1) == 0
