from normlib._kernels.header cimport normlib_api, normlib_call

cdef normlib_api api
cdef const char* error_text(int status) noexcept nogil
cdef bint plain(const normlib_call* c) noexcept nogil
cdef int one_pass(const normlib_call* c) noexcept nogil
