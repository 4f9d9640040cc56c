# Parameters, their gradients and running statistics, between the dtypes of their arrays and those that the kernels work in.

cdef void widen_all(const Plan* p, const storage* x, const work* w) noexcept nogil:
    cdef work t[LANES]
    cdef work* y = <work*>p.y
    cdef Py_ssize_t n = p.length, i = 0
    while i + LANES <= n:
        load(x + i, t)
        store(y + i, t)
        i += LANES
    if i < n:
        load_part(x + i, n - i, t)
        store_part(y + i, n - i, t)


cdef void narrow_all(const Plan* p, const storage* x, const work* w) noexcept nogil:
    cdef work t[LANES]
    cdef storage* y = <storage*>p.y
    cdef Py_ssize_t n = p.length, i = 0, l
    while i + LANES <= n:
        for l in range(LANES):
            t[l] = <work>p.dweight[i + l]
        store(y + i, t)
        i += LANES
    if i < n:
        clear(t)
        for l in range(n - i):
            t[l] = <work>p.dweight[i + l]
        store_part(y + i, n - i, t)


cdef void move_running(const Plan* p, const storage* x) noexcept nogil:
    """running = (1 - momentum) * running + momentum * the mean over the samples of factor * statistic"""
    cdef double total[BLOCK]
    cdef const double* statistic = p.mean
    cdef storage* running
    cdef double momentum = p.momentum, factor = p.factor, samples = p.samples
    cdef Py_ssize_t first, m, c, n
    if storage is double or storage is float:
        running = <storage*>p.y
        for first from 0 <= first < p.length by BLOCK:
            m = min(<Py_ssize_t>BLOCK, p.length - first)
            memset(total, 0, m * sizeof(double))
            for n in range(p.samples):
                for c in range(m):
                    total[c] += statistic[n * p.length + first + c]
            for c in range(m):
                running[first + c] = <storage>((1 - momentum) * running[first + c] + momentum * (factor * (total[c] / samples)))


cdef void add_parts(const Plan* p, Py_ssize_t task) noexcept nogil:
    """Sum the parts of the weight gradients in their order; task: a block of parameters."""
    cdef Py_ssize_t part, i, stop = min((task + 1) * BLOCK, p.parameters)
    for part in range(1, p.parts):
        for i in range(task * BLOCK, stop):
            p.dweight[i] += p.dweight[part * p.parameters + i]
        if p.dbias != NULL:
            for i in range(task * BLOCK, stop):
                p.dbias[i] += p.dbias[part * p.parameters + i]


cdef void roots(const Plan* p) noexcept nogil:
    """rstd from the running variances."""
    cdef const double* var = p.var
    cdef double* rstd = p.rstd
    cdef double eps = p.eps
    cdef Py_ssize_t i
    for i in range(p.samples * p.groups):
        rstd[i] = 1 / sqrt(var[i] + eps)
