from cpython.exc cimport PyErr_Occurred
from cpython.object cimport PyObject
from normlib._kernels.call cimport Call

cimport numpy as cnp

cdef extern from "numpy/arrayobject.h":
    int PyDataType_ISNOTSWAPPED "PyArray_ISNOTSWAPPED"(cnp.ndarray)

cdef enum:
    KEEP_GIL = 1 << 15      # bytes of x up to which letting the lock go costs more than it gives
    ARGUMENTS = 16          # of a function at most, and one more for what is fused

cdef int dtype_of(cnp.ndarray a) except -2
cdef bint fill(Call* call, int role, object given) except -1
cdef PyObject** asked(Call* call, int number, PyObject** a) except? NULL
cdef object compute_from(int number, PyObject** a)


cdef inline bint is_ordinary(object given) noexcept:
    """An exact ndarray, aligned and in native byte order."""
    return (cnp.PyArray_CheckExact(given) and cnp.PyArray_ISALIGNED(<cnp.ndarray>given)
            and PyDataType_ISNOTSWAPPED(<cnp.ndarray>given))


cdef inline bint finished(int status) except -1:
    """What a pass came to: True, or an error, which a signal's handler may have raised already."""
    if status and PyErr_Occurred() == NULL:
        raise MemoryError("normlib: no memory for the scratch space of a call")
    return -1 if status else True
