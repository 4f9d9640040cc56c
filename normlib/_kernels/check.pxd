from normlib._kernels.call cimport Call, Op

cdef const Op* op_of(const Call* call) noexcept nogil
cdef bint uses_running(const Call* call) noexcept nogil
cdef void clear(Call* call, int op) noexcept nogil
cdef int shapes(Call* call) noexcept nogil
cdef int check(Call* call) noexcept nogil
cdef int untaken(const Call* call) noexcept nogil
