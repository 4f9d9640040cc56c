# Rows: what shares a statistic lies in runs of neighbouring elements. At most TOGETHER rows are taken at once, a lot, whose
# statistics are computed together while they stay in L1.

cdef enum:
    SHIFT = 0           # entries of a table of coefficients, one value a row, channel or column
    DELTA = 1
    SCALE = 2
    OFFSET = 3          # bias forward, weight backward
    FACTOR = 4          # forward
    MEAN_G = 4          # backward
    SLOPE = 5
    TABLE = 6
    SHARES = 1 + OUTPUTS - BESIDE
    SHARE_BYTES = OUT_BYTES // SHARES // LINE * LINE    # of what a fused pass computes at once, and of each array that its epilogue reads
    ROOM_BYTES = PANEL_BYTES + 2 * TOGETHER * LINE  # of a lot, or of two half as large, each row from a line on

# What a task works with.
cdef struct Pass:
    const Plan* plan
    Array x, dy, y
    Array beside[OUTPUTS]   # what the epilogue reads, from BESIDE on, and from INPUTS on writes
    bint apart          # y is none of the arrays that are read after its elements were computed
    Writer writer
    char* room          # for the elements of a lot
    char* out
    char memory[ROOM_BYTES + OUT_BYTES + LINE]


# A place in each array of a pass: the beginning of a row or of a run.
cdef struct Spot:
    const char* x
    char* y
    const char* beside[OUTPUTS]  # NULL: there is none


cdef inline void in_cache(Array* a) noexcept nogil:
    """What has just been written there needs no prefetching."""
    a.level, a.ahead = 2, 0


cdef inline void open_pass(Pass* s, const Plan* p, work zero) noexcept nogil:
    cdef View view
    cdef int i
    s.plan = p
    open_array(&s.x, p, p.dtype, p.x, &p.xs, zero)
    open_array(&s.y, p, p.y_dtype, p.y, &p.ys, zero)
    if p.dy != NULL:
        open_array(&s.dy, p, p.dtype, p.dy, &p.ds, zero)
    if p.before != NULL and p.before.y == p.x:
        in_cache(&s.x)
    elif p.before != NULL:
        in_cache(&s.dy)
    for i in range(BESIDE, OUTPUTS if p.fused else 0):
        view = view_of(p, i)
        open_array(&s.beside[i], p, p.dtype, view.data, &view.span, zero)
    s.apart = apart(p)
    open_writer(&s.writer, p.streaming)
    s.room = line_of(s.memory)
    s.out = s.room + ROOM_BYTES


cdef inline bint apart(const Plan* p) noexcept nogil:
    cdef int i
    for i in range(BESIDE, INPUTS if p.fused else 0):
        if p.y == view_of(p, i).data:
            return False
    return True


cdef inline Spot row_spot(const Pass* s, const Array* x, Py_ssize_t r) noexcept nogil:
    cdef Spot spot
    cdef int i
    spot.x, spot.y = row_at(x, r), row_at(&s.y, r)
    for i in range(BESIDE, OUTPUTS if s.plan.fused else 0):
        spot.beside[i] = row_at(&s.beside[i], r) if s.beside[i].data != NULL else NULL
    return spot


cdef inline Spot moved(const Pass* s, const Array* x, const Spot* spot, Py_ssize_t channels, Py_ssize_t segments) noexcept nogil:
    """By so many channels and segments."""
    cdef Spot to
    cdef int i
    to.x = spot.x + channels * x.channel + segments * x.segment
    to.y = spot.y + channels * s.y.channel + segments * s.y.segment
    for i in range(BESIDE, OUTPUTS if s.plan.fused else 0):
        to.beside[i] = spot.beside[i]
        if spot.beside[i] != NULL:
            to.beside[i] += channels * s.beside[i].channel + segments * s.beside[i].segment
    return to


cdef inline void beside(Affine* c, const work* table, Py_ssize_t entry) noexcept nogil:
    """Coefficients from a table, its entries so many values apart."""
    c.shift, c.delta, c.scale = table + SHIFT * entry, table + DELTA * entry, table + SCALE * entry
    c.mean_g, c.slope = table + MEAN_G * entry, table + SLOPE * entry


cdef inline void row_sample(const Array* x, const char* row, double* e, work zero) noexcept nogil:
    """A sample of each channel, for the first mean."""
    cdef work room[SAMPLE]
    cdef Py_ssize_t n = x.segments * x.length, step = sample_step(n) * BLOCK, c, i, m
    for c in range(x.channels):
        for i from 0 <= i < n by step:
            m = min(<Py_ssize_t>SAMPLE, n - i)
            fold_sample(<const work*>take(x, row, c * n + i, m, room), m, e, c + i > 0)


cdef void row_again(const Array* x, const char* row, Py_ssize_t n, bint centered, double eps, double mean, Statistics* to, work zero) noexcept nogil:
    """The rare row that the first sums do not settle: once more about the mean just found, else in wide arithmetic."""
    cdef double e[2][8]
    cdef double s[2]
    cdef work shift
    if centered and mean - mean == 0:
        shift = <work>mean
        memset(e, 0, sizeof(e))
        row_moments(x, row, n, e[0], e[1], shift, True)
        s[0], s[1] = sum_8(e[0]), sum_8(e[1])
        settle(s, n, eps, shift, to)
        if trusted(s, n, eps, shift):
            return
    wide_statistics(x, row, n, centered, eps, to, zero)


cdef bint rows_statistics(const Plan* p, Array* x, Py_ssize_t r, Py_ssize_t m, work* table) noexcept nogil:
    """Statistics of m <= TOGETHER rows from r on, to a table; whether one of them has a factor: else there are none."""
    cdef Rows rows
    cdef Statistics found
    cdef Py_ssize_t n = x.channels * x.segments * x.length, taken = x.channels * sampled(x.segments * x.length), k
    cdef work* shift = table + SHIFT * TOGETHER
    cdef work* delta = table + DELTA * TOGETHER
    cdef work* scale = table + SCALE * TOGETHER
    cdef work* factor = table + FACTOR * TOGETHER
    cdef bint scaled = False
    if p.centered:
        for k in range(m):
            row_sample(x, row_at(x, r + k), rows.sample[k], <work>0)
        shift_rows(&rows, m, taken, shift)
        for k in range(m):
            look_ahead_of(x, p, r + k)
            row_moments(x, row_at(x, r + k), n, rows.sums[k], rows.squares[k], shift[k], True)
    else:
        memset(shift, 0, TOGETHER * sizeof(work))
        for k in range(m):
            look_ahead_of(x, p, r + k)
            row_moments(x, row_at(x, r + k), n, rows.sums[k], rows.squares[k], shift[k], False)
    if not settle_rows(&rows, m, n, taken, p.centered, p.eps, shift, delta, scale):
        for k in range(m):
            factor[k] = 1
            if not rows.good[k]:
                row_again(x, row_at(x, r + k), n, p.centered, p.eps, rows.mean[k], &found, <work>0)
                scaled |= put(&rows, k, &found, shift, delta, scale, factor)
    if p.mean != NULL:
        memcpy(p.mean + r, rows.mean, m * sizeof(double))
    if p.var != NULL:
        memcpy(p.var + r, rows.var, m * sizeof(double))
    if p.rstd != NULL:
        memcpy(p.rstd + r, rows.rstd, m * sizeof(double))
    return scaled


cdef bint given_statistics(const Plan* p, Py_ssize_t r, Py_ssize_t m, work* table, bint forward) noexcept nogil:
    """As rows_statistics, where they are known; those that samples share begin again with each."""
    cdef bint scaled = False
    cdef Py_ssize_t first = 0, stop, g = r % p.groups if p.shared else r
    while first < m:
        stop = min(m, first + p.groups - g) if p.shared else m
        scaled |= split_given(at(p.mean, g, p.centered), p.rstd + g, stop - first, table + first, TOGETHER, forward)
        first, g = stop, 0
    return scaled


cdef inline void look_ahead_of(Array* x, const Plan* p, Py_ssize_t r) noexcept nogil:
    """How far ahead to prefetch while row r of a feature norm is read: in the rows that follow, wherever they lie, or in long rows
    themselves."""
    cdef Py_ssize_t rows
    if x.level < 3 or p.form != FEATURE_ROWS:
        return
    rows = AHEAD_BYTES // (p.parameters * x.itemsize)
    x.ahead = AHEAD_BYTES
    if rows > 0:
        x.ahead = row_at(x, min(r + rows, p.samples * p.groups - 1)) - row_at(x, r)


cdef inline work* share_of(const Pass* s, int i, work zero) noexcept nogil:
    """Room for what the epilogue reads of an array; the first share is that of the elements themselves."""
    return <work*>(s.out + (1 + i - BESIDE) * SHARE_BYTES)


cdef inline void prefetch_after(const Array* a, const work* t, Py_ssize_t n) noexcept nogil:
    """Prefetch what comes a while after n elements that are read where they lie."""
    if a.plain:
        prefetch_bytes(<const char*>t + AHEAD_BYTES, n * sizeof(work))


cdef void follow_piece(const Pass* s, const Spot* spot, Py_ssize_t i, Py_ssize_t n, work* v) noexcept nogil:
    """The epilogue of elements i to i + n of a row or run."""
    cdef const void* beside[OUTPUTS]
    cdef Writer writer
    cdef int k
    writer.streaming = False
    for k in range(BESIDE, OUTPUTS):
        beside[k] = NULL
        if spot.beside[k] != NULL and k < INPUTS:
            beside[k] = take(&s.beside[k], spot.beside[k], i, n, share_of(s, k, v[0]))
            if s.plan.level > 2:
                prefetch_after(&s.beside[k], <const work*>beside[k], n)
        elif spot.beside[k] != NULL:
            beside[k] = target(&s.beside[k], <char*>spot.beside[k], i, &writer, share_of(s, k, v[0]), n)
    follow(s.plan, v, beside, n)
    for k in range(INPUTS, OUTPUTS):
        if beside[k] != NULL:
            give(&s.beside[k], <char*>spot.beside[k], i, &writer, <const work*>beside[k], n)


cdef void normalize_pieces(Pass* s, const Array* x, const Spot* spot, Py_ssize_t n, const Affine* c, work factor) noexcept nogil:
    """n elements of a row, or of a run, times a factor, in pieces: taken, normalised, followed by what is fused, given."""
    cdef Affine k = c[0]
    cdef Block b
    cdef Py_ssize_t step = portion(x, &s.y, &s.writer, n, factor), i, l
    cdef const work* t
    cdef work* u
    if s.plan.fused:
        step = min(step, SHARE_BYTES // <Py_ssize_t>sizeof(work))
    elif factor != 1:
        step = min(step, out_of_panel(factor))
    b.rows, b.ahead = 1, 0
    for i from 0 <= i < n by step:
        b.width = min(step, n - i)
        t = take(x, spot.x, i, b.width, <work*>s.out)
        if factor != 1:
            u = <work*>s.out
            for l in range(b.width):
                u[l] = t[l] * factor
            t = u
        u = target(&s.y, spot.y, i, &s.writer, <work*>s.out, b.width) if s.apart else <work*>s.out
        normalize_by(s.plan, &k, &b, t, u)
        if s.plan.fused:
            follow_piece(s, spot, i, b.width, u)
        give(&s.y, spot.y, i, &s.writer, u, b.width)
        if k.weight == MANY:
            k.of_weight = <const work*>k.of_weight + b.width
        if k.bias == MANY:
            k.of_bias = <const work*>k.of_bias + b.width


cdef void descend_pieces(Pass* s, const Array* x, const Array* dy, const Spot* spot, const char* drow, Py_ssize_t n, const Affine* c,
                         work zero) noexcept nogil:
    """As normalize_pieces."""
    cdef Affine k = c[0]
    cdef Block b
    cdef Py_ssize_t step = min(portion(x, &s.y, &s.writer, n, zero), portion(dy, &s.y, &s.writer, n, zero)), i
    cdef const work* t
    cdef const work* g
    cdef work* u
    cdef work* room = share_of(s, OF_DY, zero) if s.plan.fused else <work*>(s.out + OUT_BYTES // 2)
    if s.plan.fused:
        step = min(step, SHARE_BYTES // <Py_ssize_t>sizeof(work))
    elif not (x.plain and x.whole and dy.plain and dy.whole):
        step = min(step, out_of_panel(zero) // 2)
    b.rows, b.ahead = 1, 0
    for i from 0 <= i < n by step:
        b.width = min(step, n - i)
        t = take(x, spot.x, i, b.width, <work*>s.out)
        g = take(dy, drow, i, b.width, room)
        u = target(&s.y, spot.y, i, &s.writer, <work*>s.out, b.width) if s.apart else <work*>s.out
        descend(&k, &b, t, g, u)
        if s.plan.fused:
            follow_piece(s, spot, i, b.width, u)
        give(&s.y, spot.y, i, &s.writer, u, b.width)
        if k.weight == MANY:
            k.of_weight = <const work*>k.of_weight + b.width
