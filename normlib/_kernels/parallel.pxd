from normlib._kernels.plan cimport Plan, Run, Step, Watch

cdef void parallel_for(Run run, Step step, const Plan* plan, Py_ssize_t tasks, int threads) noexcept nogil
cdef int current_threads() except -1
cdef int default_threads() noexcept nogil
cdef void set_default_threads(int n) noexcept nogil
cdef bint stopped(Watch* watch) noexcept nogil
