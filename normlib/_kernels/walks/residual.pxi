# x + residual, rounded to their dtype, which is what is normalized: written lot by lot before the norm takes it from there, out of cache.
# In a plan of such a pass dy is the residual, and y the sum.

cdef struct Residual:
    Array x, more, sum
    Py_ssize_t row, step    # elements of a row, and those to add at once
    bint dense              # rows lie one after the other in all three
    bint streaming          # sums go past the caches too, and are normalized from where they are computed
    Writer writer


cdef inline bint dense(const Array* a, Py_ssize_t row) noexcept nogil:
    return a.plain and a.whole and a.groups == 1 and a.sample == row * a.itemsize


cdef inline void open_residual(Residual* s, const Plan* p, bint streaming, work zero) noexcept nogil:
    if p == NULL:
        return
    s.row = p.channels * p.segments * p.length
    open_array(&s.x, p, p.dtype, p.x, &p.xs, zero)
    open_array(&s.more, p, p.dtype, p.dy, &p.ds, zero)
    open_array(&s.sum, p, p.y_dtype, p.y, &p.ys, zero)
    s.streaming = streaming and s.sum.whole and s.sum.position == s.sum.itemsize and s.row <= panel_of(zero)
    open_writer(&s.writer, s.streaming)
    s.dense = dense(&s.x, s.row) and dense(&s.more, s.row) and dense(&s.sum, s.row)
    s.step = ABREAST
    if s.x.plain and s.x.whole and s.more.plain and s.more.whole and s.sum.plain and s.sum.whole:
        s.step = s.row


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
        add_elements(<const work*>row_at(&s.x, r), <const work*>row_at(&s.more, r), <work*>row_at(&s.sum, r), (stop - r) * s.row)
        return
    writer.streaming = False
    while r < stop:
        for i from 0 <= i < s.row by s.step:
            m = min(s.step, s.row - i)
            t = take(&s.x, row_at(&s.x, r), i, m, room)
            a = take(&s.more, row_at(&s.more, r), i, m, more)
            u = target(&s.sum, row_at(&s.sum, r), i, &writer, room, m)
            add_elements(t, a, u, m)
            give(&s.sum, row_at(&s.sum, r), i, &writer, u, m)
        r += 1


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


cdef Array* residual_taken(Residual* s, Py_ssize_t r, Py_ssize_t m, Py_ssize_t step, Array* taken, work* room) noexcept nogil:
    """residual_rows past the caches: m rows from r on, in room."""
    cdef work more[ABREAST]
    cdef work* u
    cdef const work* a
    cdef const work* t
    cdef Py_ssize_t i, k, n
    for k in range(m):
        u = room + k * step
        for i from 0 <= i < s.row by ABREAST:
            n = min(<Py_ssize_t>ABREAST, s.row - i)
            t = take(&s.x, row_at(&s.x, r + k), i, n, u + i)
            a = take(&s.more, row_at(&s.more, r + k), i, n, more)
            add_elements(t, a, u + i, n)
        send_rounded(&s.writer, &s.sum, row_at(&s.sum, r + k), u, s.row)
    return in_room(&s.sum, r, step, taken, room)


cdef void residual_positions(const Plan* p, Tile* tile, work zero) noexcept nogil:
    cdef Array x, residual, y
    cdef Writer writer
    cdef work room[ABREAST]
    cdef work more[ABREAST]
    cdef const work* t
    cdef const work* a
    cdef Py_ssize_t i, j, m, apart
    open_columns(&x, p, p.dtype, p.x, &p.xs, zero)
    open_columns(&residual, p, p.dtype, p.dy, &p.ds, zero)
    open_columns(&y, p, p.y_dtype, p.y, &p.ys, zero)
    writer.streaming = False
    for i in range(tile.positions):
        for j from 0 <= j < tile.width by ABREAST:
            m = min(<Py_ssize_t>ABREAST, tile.width - j)
            t = take_positions(&x, start_of(tile, &x) + i * x.apart + j * x.position, 1, m, room, &apart)
            a = take_positions(&residual, start_of(tile, &residual) + i * residual.apart + j * residual.position, 1, m, more, &apart)
            add_elements(t, a, room, m)
            give_positions(&y, start_of(tile, &y) + i * y.apart + j * y.position, &writer, room, 1, m)


cdef void channel_columns_sum(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    cdef Tile tile
    tile_of(p, task, &tile)
    residual_positions(p, &tile, zero)
