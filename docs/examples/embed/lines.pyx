# cython: language_level=3
"""Cython code that calls normlib without the GIL: on typed memoryviews, and in a callback for SciPy."""

from cython.parallel cimport prange
from libc.stdint cimport intptr_t
from normlib.capi cimport NORMLIB_F64, error_text, layer_norm_rows
from normlib.views cimport rms_norm


def rms_norm_heads(const float[:, :, :] x, const float[::1] weight, double eps, float[:, :, :] y):
    """y = rms_norm(x, weight) over the last axis, the first axis shared among threads; the views may have gaps."""
    cdef Py_ssize_t i
    cdef int status = 0
    if x.shape[0] != y.shape[0]:
        raise ValueError("x and y have different sizes")
    for i in prange(x.shape[0], nogil=True):
        status |= rms_norm[float](x[i], weight, eps, y[i])
    if status:
        raise ValueError(error_text(status).decode())


# A callback for scipy.ndimage.generic_filter1d; 1 tells SciPy that all is well.
cdef api int standardize(double* line, intptr_t n, double* out, intptr_t length, void* eps) noexcept nogil:
    return layer_norm_rows(NORMLIB_F64, 1, length, line, NULL, NULL, (<const double*>eps)[0], out, 1) == 0
