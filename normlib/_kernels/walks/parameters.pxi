# Parameters, their gradients and running statistics, between the dtypes of their arrays and those that the kernels work in.

cdef inline void as_run(Array* a, Dtype dtype) noexcept nogil:
    a.dtype, a.ahead = dtype, 0
    a.itemsize = a.position = size_of(dtype)


cdef void widen_all(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    cdef Array a
    as_run(&a, p.dtype)
    widen(&a, p.x, p.length, <work*>p.y)


cdef void narrow_sums(const Array* a, const term* sums, char* y, Py_ssize_t n, work zero) noexcept nogil:
    cdef work t[BLOCK]
    cdef Py_ssize_t i, m, l
    for i from 0 <= i < n by BLOCK:
        m = min(<Py_ssize_t>BLOCK, n - i)
        for l in range(m):
            t[l] = <work>sums[i + l]
        narrow_to(a, t, m, y + i * a.itemsize)


cdef void narrow_all(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    cdef Array a
    as_run(&a, p.dtype)
    if p.dweight != NULL:
        narrow_sums(&a, p.dweight, p.y, p.length, zero)
    else:
        narrow_sums(&a, <const float*>p.scratch, p.y, p.length, zero)


cdef void move_running(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """running = (1 - momentum) * running + momentum * the mean over the samples of factor * statistic"""
    cdef double total[BLOCK]
    cdef double running[BLOCK]
    cdef Py_ssize_t samples[BLOCK]
    cdef Py_ssize_t size = size_of(p.dtype)
    cdef double momentum = p.momentum
    cdef Py_ssize_t first, m, c
    for first from 0 <= first < p.length by BLOCK:
        m = min(<Py_ssize_t>BLOCK, p.length - first)
        if p.inside == NULL:
            total_of_samples(p, first, m, total, samples)
        else:
            total_inside(p, first, m, total, samples)
        widen_strided(p.dtype, p.y + first * size, size, m, running)
        for c in range(m):
            if samples[c] == 0:
                continue
            running[c] = (1 - momentum) * running[c] + momentum * (total[c] / samples[c])
            if size == 2:
                running[c] = to_odd(running[c])
        narrow_strided(p.dtype, running, m, p.y + first * size, size)


cdef void total_of_samples(const Plan* p, Py_ssize_t first, Py_ssize_t m, double* total, Py_ssize_t* samples) noexcept nogil:
    cdef Py_ssize_t n, c
    memset(total, 0, m * sizeof(double))
    for n in range(p.samples):
        for c in range(m):
            total[c] += p.mean[n * p.length + first + c]
    for c in range(m):
        total[c], samples[c] = p.factor * (total[c] / p.samples), 1


cdef void total_inside(const Plan* p, Py_ssize_t first, Py_ssize_t m, double* total, Py_ssize_t* samples) noexcept nogil:
    """Of the samples that have at least p.least elements inside."""
    cdef Py_ssize_t n, c, many
    memset(total, 0, m * sizeof(double))
    memset(samples, 0, m * sizeof(Py_ssize_t))
    for n in range(p.samples):
        for c in range(m):
            many = p.inside[n * p.length + first + c]
            if many >= p.least:
                samples[c] += 1
                total[c] += p.mean[n * p.length + first + c] * (1 if p.least == 1 else many / (many - 1.))


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


cdef void add_parts(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """Sum the parts of the weight gradients in their order; task: a block of parameters."""
    cdef Py_ssize_t first = task * BLOCK, stop = min(first + BLOCK, p.parameters)
    add_parts_of(p, first, stop, p.dweight, p.lost, zero)
    if p.centered:
        add_parts_of(p, first, stop, p.dbias, at(p.lost, p.parts * p.parameters, p.lost != NULL), zero)


cdef void roots(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """rstd from the running variances."""
    cdef const double* var = p.var
    cdef double* rstd = p.rstd
    cdef double eps = p.eps
    cdef Py_ssize_t i
    for i in range(p.samples * p.groups):
        rstd[i] = 1 / sqrt(var[i] + eps)
