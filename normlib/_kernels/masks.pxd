from normlib._kernels.plan cimport Plan

cdef void count_inside(const Plan* p, Py_ssize_t* inside) noexcept nogil
