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


cdef inline void narrow_sums(const term* sums, storage* y, Py_ssize_t n, work zero) noexcept nogil:
    cdef work t[LANES]
    cdef Py_ssize_t i = 0, l
    while i + LANES <= n:
        for l in range(LANES):
            t[l] = <work>sums[i + l]
        store(y + i, t)
        i += LANES
    if i < n:
        clear(t)
        for l in range(n - i):
            t[l] = <work>sums[i + l]
        store_part(y + i, n - i, t)


cdef void narrow_all(const Plan* p, const storage* x, const work* w) noexcept nogil:
    if p.dweight != NULL:
        narrow_sums(p.dweight, <storage*>p.y, p.length, <work>0)
    else:
        narrow_sums(<const float*>p.scratch, <storage*>p.y, p.length, <work>0)


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


cdef inline void add_parts_of(const Plan* p, Py_ssize_t first, Py_ssize_t stop, double* sums, const double* lost, work zero) noexcept nogil:
    cdef double rest[BLOCK]
    cdef Py_ssize_t part, i
    memset(rest, 0, sizeof(rest))
    for part in range(1, p.parts):
        for i in range(first, stop):
            add_up(sums + i, rest + i - first, sums[part * p.parameters + i], zero)
    for part in range(p.parts if lost != NULL else 0):
        for i in range(first, stop):
            rest[i - first] += lost[part * p.parameters + i]
    for i in range(first, stop):
        sums[i] = regain(sums[i], rest[i - first], zero)


cdef void add_parts(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """Sum the parts of the weight gradients in their order; task: a block of parameters."""
    cdef Py_ssize_t first = task * BLOCK, stop = min(first + BLOCK, p.parameters)
    add_parts_of(p, first, stop, p.dweight, p.lost, <work>0)
    if p.centered:
        add_parts_of(p, first, stop, p.dbias, at(p.lost, p.parts * p.parameters, p.lost != NULL), <work>0)


cdef void roots(const Plan* p) noexcept nogil:
    """rstd from the running variances."""
    cdef const double* var = p.var
    cdef double* rstd = p.rstd
    cdef double eps = p.eps
    cdef Py_ssize_t i
    for i in range(p.samples * p.groups):
        rstd[i] = 1 / sqrt(var[i] + eps)
