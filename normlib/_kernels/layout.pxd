from normlib._kernels.plan cimport Plan

cdef enum:
    KEPT = 75       # "K": an axis of its own statistics (feature norms)
    REDUCED = 82    # "R": an axis that feature norms reduce
    SAMPLE = 78     # "N"
    CHANNEL = 67    # "C"
    SPACE = 83      # "S": an axis that channel norms reduce
    AXES = 64       # of an array, at most: as many as NumPy 2 takes

cdef struct Extent:
    const char* low
    const char* high

cdef inline Py_ssize_t magnitude(Py_ssize_t n) noexcept nogil:
    return n if n >= 0 else -n

cdef bint lay_out(Plan* p, const char* kinds, int ndim, const Py_ssize_t* shape, const Py_ssize_t** strides) noexcept nogil
cdef int kept_order(const char* kinds, int ndim, const Py_ssize_t* shape, const Py_ssize_t* strides, int* order) noexcept nogil
cdef Extent extent_of(const void* data, Py_ssize_t itemsize, int ndim, const Py_ssize_t* shape,
                      const Py_ssize_t* strides) noexcept nogil
cdef bint same_strides(int ndim, const Py_ssize_t* shape, const Py_ssize_t* a, const Py_ssize_t* b) noexcept nogil
