cimport numpy as cnp
from normlib._kernels.plan cimport Dtype, Plan, Run

# One call: its plan, and the memory that it owns.
cdef struct Call:
    Plan plan
    int type_number             # NumPy's number of x's dtype
    int owned
    void* memory[8]

cdef inline const Py_ssize_t* shape_of(cnp.ndarray a) noexcept:
    return <const Py_ssize_t*>cnp.PyArray_DIMS(a)


cdef inline const Py_ssize_t* strides_of(cnp.ndarray a) noexcept:
    return <const Py_ssize_t*>cnp.PyArray_STRIDES(a)


cdef Run kernels_in_use() noexcept nogil
cdef void* own(Call* call, Py_ssize_t bytes) except NULL
cdef void release(Call* call) noexcept
cdef bint begin(Call* call, object x, object eps) except -1
cdef cnp.ndarray output(Call* call, cnp.ndarray x, object out)
cdef bint clear_of(cnp.ndarray y, cnp.ndarray x, object other) noexcept
cdef bint parameter(Call* call, object given, int ndim, const cnp.npy_intp* shape, const char** to) except -1
cdef bint statistic(Call* call, object given, int ndim, const cnp.npy_intp* shape, double** to) except -1
cdef double* new_statistic(int ndim, const cnp.npy_intp* shape, list made) except NULL
cdef object gradient(const Plan* p, bint bias, object weight, cnp.ndarray x, int ndim, const cnp.npy_intp* shape)
cdef int perform(Call* call) except -1
