# cython: language_level=3, boundscheck=False, wraparound=False
"""Calls on typed memoryviews from a loop without the GIL, as code around a model makes them."""

from normlib.views cimport layer_norm, rms_norm


def calls(str norm, const float[:, ::1] x, const float[::1] weight, float[:, ::1] y, int times):
    cdef bint centered = norm == "layer_norm"
    cdef int status = 0, _call
    with nogil:
        for _call in range(times):
            if centered:
                status |= layer_norm[float](x, weight, weight, 1e-5, y)
            else:
                status |= rms_norm[float](x, weight, 1e-5, y)
    return status
