from normlib._kernels.header cimport normlib_api

cdef normlib_api api
cdef const char* error_text(int status) noexcept nogil
