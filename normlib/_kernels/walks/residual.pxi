# What is normalized instead of x: s = x + residual, or s * h(gate) where the gate comes first, each rounded to the dtype of x. Written
# lot by lot before the norm takes it from there, out of cache. In the plan of such a pass y is what is normalized.

cdef struct Residual:
    const Plan* plan
    Array x, more, sum, gate, y
    Py_ssize_t row, step    # elements of a row, and those to compute at once
    bint loadable           # a sum is taken where its elements lie
    bint dense              # and its rows lie one after the other in all three
    bint streaming          # sums go past the caches too
    bint kept               # what is normalized stays where it is computed
    Writer writer


cdef inline bint dense(const Array* a, Py_ssize_t row) noexcept nogil:
    return a.groups == 1 and a.sample == row * a.itemsize


cdef inline void open_residual(Residual* s, const Plan* p, bint streaming, work zero) noexcept nogil:
    if p == NULL:
        return
    cdef View more = p.companion[OF_RESIDUAL], sum = p.companion[OF_SUM], gate = p.companion[OF_GATE]
    s.plan, s.row = p, p.channels * p.segments * p.length
    open_array(&s.x, p, p.x, &p.xs, p.dtype, zero)
    open_array(&s.y, p, p.y, &p.ys, p.y_dtype, zero)
    s.more.data, s.gate.data, s.sum = NULL, NULL, s.y
    if more.data != NULL:
        open_array(&s.more, p, more.data, &more.span, more.dtype, zero)
        open_array(&s.sum, p, sum.data, &sum.span, sum.dtype, zero)
    if gate.data != NULL:
        open_array(&s.gate, p, gate.data, &gate.span, gate.dtype, zero)
    s.streaming = (streaming and s.more.data != NULL and s.sum.data != s.x.data and s.sum.data != s.more.data and s.sum.whole
                   and s.sum.position == s.sum.itemsize and s.row <= panel_of(zero))
    s.kept = s.streaming or (gate.data != NULL and p.dy == NULL and p.form == FEATURE_ROWS and s.row <= panel_of(zero))
    open_writer(&s.writer, s.streaming)
    s.loadable = (more.data != NULL and gate.data == NULL and loadable(&s.x) and s.x.whole and loadable(&s.more) and s.more.whole
                  and loadable(&s.sum) and s.sum.whole)
    s.dense = s.loadable and dense(&s.x, s.row) and dense(&s.more, s.row) and dense(&s.sum, s.row)
    s.step = ABREAST
    if gate.data == NULL and s.x.plain and s.x.whole and s.more.plain and s.more.whole and s.sum.plain and s.sum.whole:
        s.step = s.row


cdef void times_opened(int activation, const work* x, const work* gate, work* to, Py_ssize_t n) noexcept nogil:
    """to = x * h(gate); it may be either."""
    cdef work opened[WIDE]
    cdef Py_ssize_t i, m, k
    for i from 0 <= i < n by WIDE:
        m = min(<Py_ssize_t>WIDE, n - i)
        memcpy(opened, gate + i, m * sizeof(work))
        apply(activation, 0, opened, m)
        for k in range(m):
            to[i + k] = x[i + k] * opened[k]


cdef void residual_rows(const Residual* s, Py_ssize_t r, Py_ssize_t stop, work zero) noexcept nogil:
    """Rows r to stop."""
    cdef Writer writer
    cdef work room[ABREAST]
    cdef work more[ABREAST]
    cdef const work* t
    cdef const work* a
    cdef work* u
    cdef Py_ssize_t i, m
    if s.dense:
        add_in(s.x.dtype, row_at(&s.x, r), row_at(&s.more, r), row_at(&s.sum, r), (stop - r) * s.row, zero)
        return
    writer.streaming = False
    while r < stop:
        for i from 0 <= i < s.row by s.step:
            m = min(s.step, s.row - i)
            t = take(&s.x, row_at(&s.x, r), i, m, room)
            if s.more.data != NULL:
                a = take(&s.more, row_at(&s.more, r), i, m, more)
                u = target(&s.sum, row_at(&s.sum, r), i, &writer, room, m)
                add_elements(t, a, u, m)
                give(&s.sum, row_at(&s.sum, r), i, &writer, u, m)
            if s.gate.data != NULL:
                if s.more.data != NULL:
                    t = take(&s.sum, row_at(&s.sum, r), i, m, room)     # rounded
                a = take(&s.gate, row_at(&s.gate, r), i, m, more)
                u = target(&s.y, row_at(&s.y, r), i, &writer, room, m)
                times_opened(s.plan.gate_activation, t, a, u, m)
                give(&s.y, row_at(&s.y, r), i, &writer, u, m)
        r += 1


cdef inline void look_ahead_before(const Residual* s, Array* sum, const Plan* p, Py_ssize_t r, Py_ssize_t m) noexcept nogil:
    """While m rows of sums are summed, the residual of those that follow is prefetched, and their x while they are written."""
    cdef Py_ssize_t next = min(r + m, p.samples * p.groups - 1)
    if s.dense and p.level > 2:
        sum.ahead, sum.later = row_at(&s.more, next) - row_at(sum, r), row_at(&s.x, next) - row_at(sum, r)


# ---- rows of sums, which are summed as they are written: meanwhile what comes next is fetched ----

cdef inline bint summed_at_once(const Residual* s, Py_ssize_t n) noexcept nogil:
    """Of float32: blocks of float64 are added otherwise."""
    return s.dense and s.x.dtype == F32 and n >= ROUND * LANES


cdef inline void sum_sample(const float* x, const float* more, Py_ssize_t n, double* e) noexcept nogil:
    """`row_sample` of x + more."""
    cdef float room[SAMPLE]
    cdef Py_ssize_t step = sample_step(n) * BLOCK, i, m
    for i from 0 <= i < n by step:
        m = min(<Py_ssize_t>SAMPLE, n - i)
        add_f32(x + i, more + i, room, m)
        fold_sample(room, m, e, i > 0)


cdef inline void sum_moments(const float* x, const float* more, float* sum, Py_ssize_t n, double* sums, double* squares, float shift,
                             bint centered, bint further) noexcept nogil:
    """add_moments of the sum of n <= BLOCK elements"""
    cdef float a[LANES]
    cdef float q[LANES]
    cdef Py_ssize_t i = 0
    if n >= ROUND * LANES:
        clear(a)
        clear(q)
        while True:
            add_f32(x + i, more + i, sum + i, ROUND * LANES)
            moments_round(sum + i, a, q, shift, centered, 0)
            i += ROUND * LANES
            if i + ROUND * LANES > n:
                break
        fold_moments(a, q, sums, squares, centered, further)
    add_f32(x + i, more + i, sum + i, n - i)
    while i < n:
        few_moments(sum + i, min(<Py_ssize_t>FEW, n - i), sums, squares, shift, centered, further or i > 0, 0)
        i += FEW


cdef void sum_row_moments(const float* x, const float* more, float* sum, Py_ssize_t n, double* sums, double* squares, float shift,
                          bint centered) noexcept nogil:
    cdef Py_ssize_t i, m
    for i from 0 <= i < n by BLOCK:
        m = min(<Py_ssize_t>BLOCK, n - i)
        if centered:
            sum_moments(x + i, more + i, sum + i, m, sums, squares, shift, True, i > 0)
        else:
            sum_moments(x + i, more + i, sum + i, m, sums, squares, shift, False, i > 0)


cdef bint sums_statistics(const Plan* p, const Array* x, const Residual* s, Py_ssize_t r, Py_ssize_t m, float* table) noexcept nogil:
    """rows_statistics of rows of sums, x, which are written meanwhile."""
    cdef Rows rows
    cdef float* shift = table + SHIFT * TOGETHER
    cdef Py_ssize_t k
    if not p.centered:
        memset(shift, 0, TOGETHER * sizeof(float))
    else:
        for k in range(m):
            sum_sample(<const float*>row_at(&s.x, r + k), <const float*>row_at(&s.more, r + k), s.row, rows.sample[k])
        shift_rows(&rows, m, sampled(s.row), shift)
    for k in range(m):
        sum_row_moments(<const float*>row_at(&s.x, r + k), <const float*>row_at(&s.more, r + k), <float*>row_at(&s.sum, r + k), s.row,
                        rows.sums[k], rows.squares[k], shift[k], p.centered)
    return settled(p, x, r, m, &rows, table)


cdef void rows_before(const Plan* p, Py_ssize_t r, Py_ssize_t stop, work zero) noexcept nogil:
    cdef Residual s
    open_residual(&s, p, False, zero)
    residual_rows(&s, r, stop, zero)


cdef void round_to(Dtype dtype, work* t, Py_ssize_t n) noexcept nogil:
    cdef Array a
    cdef char room[2 * WIDE]
    cdef Py_ssize_t i, m
    as_run(&a, dtype)
    for i from 0 <= i < (n if a.itemsize == 2 else 0) by WIDE:
        m = min(<Py_ssize_t>WIDE, n - i)
        narrow_to(&a, t + i, m, room)
        widen(&a, room, m, t + i)


cdef void send_rounded(Writer* writer, const Array* a, char* at, work* t, Py_ssize_t n) noexcept nogil:
    """n elements past the caches, and t as they were rounded."""
    cdef Py_ssize_t i, m
    cdef char* to
    if a.plain:
        send(writer, at, <const char*>t, n * sizeof(work))
        return
    for i from 0 <= i < n by STAGE_BYTES // a.itemsize:
        m = min(STAGE_BYTES // a.itemsize, n - i)
        to = place(writer, at + i * a.itemsize)
        narrow_to(a, t + i, m, to)
        widen(a, to, m, t + i)
        wrote(writer, m * a.itemsize)


cdef Array* residual_loaded(Residual* s, Py_ssize_t r, Py_ssize_t m, Py_ssize_t step, Array* taken, char* room, work zero) noexcept nogil:
    """As `residual_taken`, in the dtype of x. While the sums leave for memory, the x of as many rows further on is prefetched, and the
    residual while y does."""
    cdef Py_ssize_t size = s.x.itemsize, bytes = s.row * size, last = s.plan.samples * s.plan.groups - 1, i, k, n
    cdef const char* ahead
    cdef char* u
    for k in range(m):
        u, ahead = room + k * step * size, row_at(&s.x, min(r + k + m, last))
        add_in(s.x.dtype, row_at(&s.x, r + k), row_at(&s.more, r + k), u, s.row, zero)
        for i from 0 <= i < bytes by ABREAST * size:
            n = min(ABREAST * size, bytes - i)
            prefetch_bytes(ahead + i, n)
            send(&s.writer, row_at(&s.sum, r + k) + i, u + i, n)
    in_room(&s.sum, r, step, taken, <work*>room)
    taken.dtype, taken.itemsize, taken.position, taken.sample = s.x.dtype, size, size, step * size
    taken.segment, taken.channel, taken.plain = s.sum.segment, s.sum.channel, s.x.plain
    taken.later = row_at(&s.more, min(r + m, last)) - room
    return taken


cdef Array* residual_taken(Residual* s, Py_ssize_t r, Py_ssize_t m, Py_ssize_t step, Array* taken, work* room) noexcept nogil:
    """residual_rows for m rows from r on, in room, with sums past the caches."""
    cdef work more[ABREAST]
    cdef Writer writer
    cdef work* u
    cdef const work* a
    cdef const work* t
    cdef Py_ssize_t i, k, n
    if s.streaming and s.loadable:
        return residual_loaded(s, r, m, step, taken, <char*>room, room[0])
    for k in range(m):
        u = room + k * step
        for i from 0 <= i < s.row by ABREAST:
            n = min(<Py_ssize_t>ABREAST, s.row - i)
            t = take(&s.x, row_at(&s.x, r + k), i, n, u + i)
            if s.more.data != NULL:
                a = take(&s.more, row_at(&s.more, r + k), i, n, more)
                add_elements(t, a, u + i, n)
            elif s.gate.data != NULL:
                a = take(&s.gate, row_at(&s.gate, r + k), i, n, more)
                times_opened(s.plan.gate_activation, t, a, u + i, n)
        if s.streaming:
            send_rounded(&s.writer, &s.sum, row_at(&s.sum, r + k), u, s.row)
        elif s.more.data != NULL:
            writer.streaming = False
            scatter(&s.sum, row_at(&s.sum, r + k), 0, &writer, u, s.row)
            round_to(s.sum.dtype, u, s.row)
        for i from 0 <= i < (s.row if s.more.data != NULL and s.gate.data != NULL else 0) by ABREAST:
            n = min(<Py_ssize_t>ABREAST, s.row - i)
            a = take(&s.gate, row_at(&s.gate, r + k), i, n, more)
            times_opened(s.plan.gate_activation, u + i, a, u + i, n)
        if s.gate.data != NULL:
            round_to(s.y.dtype, u, s.row)
    return in_room(&s.y, r, step, taken, room)


cdef void residual_positions(const Plan* p, Tile* tile, work zero) noexcept nogil:
    cdef Array x, residual, sum, gate, y
    cdef View of_residual = p.companion[OF_RESIDUAL], of_sum = p.companion[OF_SUM], of_gate = p.companion[OF_GATE]
    cdef Writer writer
    cdef work room[ABREAST]
    cdef work more[ABREAST]
    cdef const work* t
    cdef const work* a
    cdef Py_ssize_t i, j, m, apart
    open_columns(&x, p, p.x, &p.xs, p.dtype, zero)
    open_columns(&y, p, p.y, &p.ys, p.y_dtype, zero)
    if of_residual.data != NULL:
        open_columns(&residual, p, of_residual.data, &of_residual.span, of_residual.dtype, zero)
        open_columns(&sum, p, of_sum.data, &of_sum.span, of_sum.dtype, zero)
    if of_gate.data != NULL:
        open_columns(&gate, p, of_gate.data, &of_gate.span, of_gate.dtype, zero)
    writer.streaming = False
    for i in range(tile.positions):
        for j from 0 <= j < tile.width by ABREAST:
            m = min(<Py_ssize_t>ABREAST, tile.width - j)
            t = take_positions(&x, start_of(tile, &x) + i * x.apart + j * x.position, 1, m, room, &apart)
            if of_residual.data != NULL:
                a = take_positions(&residual, start_of(tile, &residual) + i * residual.apart + j * residual.position, 1, m, more, &apart)
                add_elements(t, a, room, m)
                give_positions(&sum, start_of(tile, &sum) + i * sum.apart + j * sum.position, &writer, room, 1, m)
                t = room
            if of_gate.data != NULL:
                if of_residual.data != NULL:
                    round_to(p.dtype, room, m)
                a = take_positions(&gate, start_of(tile, &gate) + i * gate.apart + j * gate.position, 1, m, more, &apart)
                times_opened(p.gate_activation, t, a, room, m)
                give_positions(&y, start_of(tile, &y) + i * y.apart + j * y.position, &writer, room, 1, m)


cdef void channel_columns_sum(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    cdef Tile tile
    tile_of(p, task, &tile)
    residual_positions(p, &tile, zero)
