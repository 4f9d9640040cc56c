# Sums of the elements of channels, and of their squares or their products with normalized values, whose bits depend on the elements
# alone; task: a channel, or LANES neighbouring ones, of some samples.

cdef extern from "sums.h" nogil:
    enum:
        WIDTH
        FOLDS
        LOWEST
    ctypedef struct exact_t:
        int64_t bins[FOLDS][LANES]
        int64_t top[LANES]
        double special[LANES]
    double two_to(int64_t)
    void exact_begin(exact_t*)
    void exact_settle(exact_t*)
    void exact_lift(exact_t*, const double*)
    void exact_add(exact_t*, double*, Py_ssize_t, int)
    void lost_by_squares(const double*, double*, Py_ssize_t)

cdef enum:
    TERM_ROWS = 16                      # rows of LANES terms that are added at once
    TERMS = TERM_ROWS * LANES
    COLUMNS_AHEAD = 16                  # positions from what is read to what is prefetched

cdef struct Terms:
    # Elements that wait to be added, in rows of LANES: x, and dy or else room for what squares lose.
    exact_t first, second
    double x[TERMS]
    double more[TERMS]
    double products[TERMS]
    double mean[LANES]
    double rstd[LANES]


cdef inline void widen_run(const char* x, int dtype, Py_ssize_t n, double* t) noexcept nogil:
    """n neighbouring elements in float64."""
    cdef Py_ssize_t i
    if dtype == F64:
        memcpy(t, x, n * sizeof(double))
    elif dtype == F32:
        for i in range(n):
            t[i] = (<const float*>x)[i]
    elif dtype == F16:
        for i in range(n):
            t[i] = widen_half((<const half_t*>x)[i])
    else:
        for i in range(n):
            t[i] = widen_bf16((<const bf16_t*>x)[i])


cdef void add_panel(const Plan* p, Terms* t, Py_ssize_t rows) noexcept nogil:
    """Add so many rows of what waits."""
    cdef Py_ssize_t i, l, n = rows * LANES
    cdef int folds = 4 if p.dtype == F64 else 3
    if p.dy != NULL:
        for i in range(rows):
            for l in range(LANES):
                t.products[LANES * i + l] = t.more[LANES * i + l] * ((t.x[LANES * i + l] - t.mean[l]) * t.rstd[l])
        exact_add(&t.first, t.more, rows, folds)
    else:
        for i in range(n):
            t.products[i] = t.x[i] * t.x[i]
        if p.dtype == F64:
            lost_by_squares(t.x, t.more, n)
        exact_add(&t.first, t.x, rows, folds)
    exact_add(&t.second, t.products, rows, folds)
    if p.dtype == F64 and p.dy == NULL:
        exact_add(&t.second, t.more, rows, folds)


cdef void put_sums(const Plan* p, exact_t* s, Py_ssize_t at, Py_ssize_t lanes) noexcept nogil:
    """The sums of some lanes, as integers, to where those of a stream begin: tops, then bins of each fold, then what is special."""
    cdef Py_ssize_t l, k
    cdef Py_ssize_t size = 2 * p.channels
    cdef int64_t* to = <int64_t*>p.y + at
    exact_settle(s)
    for l in range(lanes):
        to[l] = s.top[l]
        for k in range(FOLDS):
            to[(1 + k) * size + l] = s.bins[k][l]
        (<double*>to)[(1 + FOLDS) * size + l] = s.special[l]


cdef void join_lanes(exact_t* s) noexcept nogil:
    """All lanes are those of one sum: the first takes it."""
    cdef double most[LANES]
    cdef Py_ssize_t l, k
    cdef int64_t top = s.top[0]
    for l in range(LANES):
        top = max(top, s.top[l])
    for l in range(LANES):      # the largest that fits there
        most[l] = 0 if s.top[l] == top else two_to(WIDTH * top - 2)
    exact_lift(s, most)
    for l in range(1, LANES):
        for k in range(FOLDS):
            s.bins[k][0] += s.bins[k][l]
        s.special[0] += s.special[l]


cdef void channel_sums(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """Of runs of neighbouring positions."""
    cdef Terms t
    cdef Py_ssize_t size = size_of(p.dtype), part = task // p.channels, c = task % p.channels, n = 0, i, j, m, l
    cdef Py_ssize_t stop = min((part + 1) * p.batch, p.samples)
    exact_begin(&t.first)
    exact_begin(&t.second)
    for l in range(LANES):
        t.mean[l], t.rstd[l] = p.mean[c] if p.dy != NULL else 0, p.rstd[c] if p.dy != NULL else 0
    for i in range(part * p.batch, stop):
        j = 0
        while j < p.length:
            m = min(p.length - j, TERMS - n)
            prefetch_bytes(p.x + (i * p.xs.sample + c * p.xs.channel + j + TERMS) * size, m * size)
            if p.dy != NULL:
                prefetch_bytes(p.dy + (i * p.ds.sample + c * p.ds.channel + j + TERMS) * size, m * size)
            widen_run(p.x + (i * p.xs.sample + c * p.xs.channel + j) * size, p.dtype, m, t.x + n)
            if p.dy != NULL:
                widen_run(p.dy + (i * p.ds.sample + c * p.ds.channel + j) * size, p.dtype, m, t.more + n)
            j, n = j + m, n + m
            if n == TERMS:
                add_panel(p, &t, TERM_ROWS)
                n = 0
    m = (n + LANES - 1) // LANES
    for i in range(n, m * LANES):       # which adds nothing
        t.x[i] = t.more[i] = 0
    add_panel(p, &t, m)
    exact_settle(&t.first)
    exact_settle(&t.second)
    join_lanes(&t.first)
    join_lanes(&t.second)
    i = part * (2 + FOLDS) * 2 * p.channels + c
    put_sums(p, &t.first, i, 1)
    put_sums(p, &t.second, i + p.channels, 1)


cdef void column_sums(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """Of neighbouring channels, position by position."""
    cdef Terms t
    cdef Py_ssize_t size = size_of(p.dtype), strips = (p.channels - 1) // LANES + 1, part = task // strips, c = task % strips * LANES
    cdef Py_ssize_t lanes = min(<Py_ssize_t>LANES, p.channels - c), stop = min((part + 1) * p.batch, p.samples * p.length), n = 0, i, l
    cdef const char* x
    exact_begin(&t.first)
    exact_begin(&t.second)
    memset(t.x, 0, sizeof(t.x))
    memset(t.more, 0, sizeof(t.more))
    memset(t.mean, 0, sizeof(t.mean))
    memset(t.rstd, 0, sizeof(t.rstd))
    if p.dy != NULL:
        memcpy(t.mean, p.mean + c, lanes * sizeof(double))
        memcpy(t.rstd, p.rstd + c, lanes * sizeof(double))
    for i in range(part * p.batch, stop):
        x = p.x + (i // p.length * p.xs.sample + i % p.length * p.xs.position + c) * size
        prefetch_bytes(x + COLUMNS_AHEAD * (p.xs.sample if p.length == 1 else p.xs.position) * size, lanes * size)
        widen_run(x, p.dtype, lanes, t.x + n * LANES)
        if p.dy != NULL:
            x = p.dy + (i // p.length * p.ds.sample + i % p.length * p.ds.position + c) * size
            prefetch_bytes(x + COLUMNS_AHEAD * (p.ds.sample if p.length == 1 else p.ds.position) * size, lanes * size)
            widen_run(x, p.dtype, lanes, t.more + n * LANES)
        n += 1
        if n == TERM_ROWS:
            add_panel(p, &t, n)
            n = 0
    add_panel(p, &t, n)
    i = part * (2 + FOLDS) * 2 * p.channels + c
    put_sums(p, &t.first, i, lanes)
    put_sums(p, &t.second, i + p.channels, lanes)


cdef void exact_sums(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    if p.form == CHANNEL_COLUMNS:
        column_sums(p, task, zero)
    else:
        channel_sums(p, task, zero)
