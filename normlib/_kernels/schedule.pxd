from normlib._kernels.plan cimport Plan, Run

cdef int execute(Run run, Plan* p, int threads) noexcept nogil
cdef void free_gradients(Plan* p) noexcept nogil
