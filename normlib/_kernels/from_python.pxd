from cpython.object cimport PyObject
from normlib._kernels.call cimport Call

cimport numpy as cnp

cdef enum:
    KEEP_GIL = 1 << 15      # bytes of x up to which letting the lock go costs more than it gives

cdef int dtype_of(cnp.ndarray a) except -2
cdef bint fill(Call* call, int role, object given) except -1
cdef PyObject** asked(Call* call, int number, PyObject** a) except? NULL
cdef object compute_from(int number, PyObject** a)
