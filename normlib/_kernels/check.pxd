from normlib._kernels.call cimport Call, Op
from normlib._kernels.header cimport normlib_array

cdef const Op* op_of(const Call* call) noexcept nogil
cdef bint uses_running(const Call* call) noexcept nogil
cdef void clear(Call* call, int op) noexcept nogil
cdef int shapes(Call* call) noexcept nogil
cdef int check(Call* call) noexcept nogil
cdef int untaken(const Call* call) noexcept nogil
cdef int arrange(Call* call) noexcept nogil
cdef bint by_slices(const Call* call) noexcept nogil
cdef int take_part(Call* call, bint learns) noexcept nogil
cdef bint by_two_passes(const Call* call) noexcept nogil
cdef int kept_axes(const Call* call, int* axes) noexcept nogil
cdef Py_ssize_t step_along(Call* call, int role, const normlib_array* a, int axis) noexcept nogil
cdef void open_slice(Call* call, Call* slice, Py_ssize_t* shape) noexcept nogil
cdef void open_shared(Call* call, Call* shared) noexcept nogil
