# LayerNorm and RMSNorm over a strided axis (channels of a channels-first image): the neighbours in memory belong to
# other statistics. A task takes a strip of columns through statistics and normalization, while it is in cache.

cdef enum:
    WINDOW = 8      # positions computed while the statistics of their columns stay in registers

# A strip of columns of one sample.
cdef struct Strip:
    Array x, dy, y
    char* at            # where it begins in x, dy and y
    char* dy_at
    char* y_at
    Beside beside
    Py_ssize_t n, width
    bint straight       # elements of 16 bits are read, and written, where they lie
    void* kept          # its elements in the working type, `taken` positions of them; NULL: taken anew each time
    Py_ssize_t taken
    Writer writer
    char* room
    char* dy_room
    char memory[2 * WINDOW * WIDE * 8 + LINE]


cdef inline void open_strip(Strip* s, const Plan* p, work zero) noexcept nogil:
    open_columns(&s.x, p, p.x, &p.xs, p.dtype, zero)
    open_columns(&s.y, p, p.y, &p.ys, p.y_dtype, zero)
    s.dy.data = NULL
    if p.dy != NULL:
        open_columns(&s.dy, p, p.dy, &p.ds, p.dtype, zero)
    s.straight = (CONVERTS and p.centered and s.x.itemsize == sizeof(half_t) and s.y.dtype == s.x.dtype and s.x.position == s.x.itemsize
                  and s.y.position == s.y.itemsize and (p.dy == NULL or s.dy.position == s.dy.itemsize) and not p.fused and not p.round_first)
    open_beside(&s.beside, p, zero)
    open_writer(&s.writer, p.streaming)
    s.n, s.kept, s.taken = p.length, NULL, 0
    s.room = line_of(s.memory)
    s.dy_room = s.room + WINDOW * WIDE * sizeof(work)


cdef inline void go_to(Strip* s, Py_ssize_t sample, Py_ssize_t column, Py_ssize_t width) noexcept nogil:
    s.at = s.x.data + sample * s.x.sample + column * s.x.position
    if s.dy.data != NULL:
        s.dy_at = s.dy.data + sample * s.dy.sample + column * s.dy.position
    go_beside(&s.beside, sample, 0, column)
    s.y_at = s.y.data + sample * s.y.sample + column * s.y.position
    s.width, s.taken = width, 0


cdef inline void keep_strip(Strip* s, const Plan* p, Py_ssize_t width, work zero) noexcept nogil:
    """Room for a strip of so many columns, where it is worth it; without memory for it they are taken anew each time."""
    if work is float and not s.straight and s.n * width * <Py_ssize_t>sizeof(work) <= p.strip_bytes:
        s.kept = malloc(s.n * width * sizeof(work))


cdef const work* positions_of(Strip* s, Py_ssize_t i, Py_ssize_t n, Py_ssize_t* apart, work zero) noexcept nogil:
    """n positions of x from i on, and how far they lie apart; n <= WINDOW where they are not kept."""
    cdef work* kept = <work*>s.kept
    cdef Py_ssize_t k
    if kept == NULL:
        return take_positions(&s.x, s.at + i * s.x.apart, n, s.width, <work*>s.room, apart)
    for k in range(s.taken, i + n):
        if s.x.level > 2:
            prefetch_bytes(s.at + (k + WINDOW) * s.x.apart, s.width * s.x.itemsize)
        widen(&s.x, s.at + k * s.x.apart, s.width, kept + k * s.width)
    s.taken = max(s.taken, i + n)
    apart[0] = s.width
    return kept + i * s.width


cdef void block_moments(Strip* s, Py_ssize_t first, Py_ssize_t stop, const work* shift, bint centered, double* sums, double* squares) noexcept nogil:
    """sums[j] = sum (x - shift[j]), squares[j] = sum (x - shift[j])^2 over a block of positions"""
    cdef work a[2 * WHOLE]
    cdef double lost[2 * WHOLE]
    cdef Columns c
    cdef Py_ssize_t i, k, last, step = CHUNK if s.kept != NULL or s.x.plain or s.straight else WINDOW
    cdef const work* t
    c.width, c.centered = s.width, centered
    begin_sums(sums, squares, lost, s.width, shift[0])
    for i from first <= i < stop by CHUNK:
        last = min(i + CHUNK, stop)
        for k from i <= k < last by step:
            c.n, c.begin = min(step, last - k), k == i
            if CONVERTS and s.straight:
                c.x, c.level = s.x.apart // s.x.itemsize, s.x.level
                narrow_chunk_moments(s.x.dtype, &c, s.at + k * s.x.apart, <const float*>shift, <float*>a)
                continue
            t = positions_of(s, k, c.n, &c.x, shift[0])
            c.level = s.x.level if s.kept == NULL and s.x.plain else 1
            chunk_moments(&c, t, shift, a)
        add_columns(a, a + WHOLE, s.width, sums, squares, lost, shift[0])
    end_sums(sums, squares, lost, s.width, shift[0])


cdef void strip_moments(Strip* s, const work* shift, bint centered, double* sums, double* squares) noexcept nogil:
    cdef double more[2 * WIDE]
    cdef double lost[2 * WHOLE]
    cdef Py_ssize_t i
    block_moments(s, 0, min(<Py_ssize_t>BLOCK, s.n), shift, centered, sums, squares)
    if s.n <= BLOCK:
        return
    memset(lost, 0, s.width * sizeof(double))
    memset(lost + WHOLE, 0, s.width * sizeof(double))
    for i from BLOCK <= i < s.n by BLOCK:
        block_moments(s, i, min(i + BLOCK, s.n), shift, centered, more, more + WIDE)
        add_columns(more, more + WIDE, s.width, sums, squares, lost, shift[0])
    end_sums(sums, squares, lost, s.width, shift[0])


cdef void first_means(Strip* s, const Plan* p, work* shift, double* sums, double* squares) noexcept nogil:
    """The moments about means that settle the variance of all columns, but for the rarest."""
    cdef Settled found
    cdef Py_ssize_t j, k, m
    cdef bint again = False
    memset(sums, 0, s.width * sizeof(double))
    if p.centered:
        add_sample(&s.x, s.at, s.n, s.width, sums, shift[0])
        for j in range(s.width):
            shift[j] = <work>(sums[j] / sampled(s.n))
    strip_moments(s, shift, p.centered, sums, squares)
    if not p.centered:
        memset(sums, 0, s.width * sizeof(double))
        return
    for j from 0 <= j < s.width by LANES:
        m = min(<Py_ssize_t>LANES, s.width - j)
        if not settle_columns(sums + j, squares + j, m, s.n, sampled(s.n), p.eps, &found, shift[0]):
            for k in range(m):
                if not found.sound[k] and sums[j + k] - sums[j + k] == 0:
                    shift[j + k] = <work>(shift[j + k] + found.delta[k])
                    again = True
    if again:
        strip_moments(s, shift, True, sums, squares)


cdef bint strip_statistics(Strip* s, const Plan* p, Py_ssize_t first, work* table) noexcept nogil:
    """Statistics of the columns, to the table and, from `first` on, to the plan's; whether one has a factor."""
    cdef work* shift = table + SHIFT * WIDE
    cdef work* delta = table + DELTA * WIDE
    cdef work* scale = table + SCALE * WIDE
    cdef work* factor = table + FACTOR * WIDE
    cdef double sums[WIDE]
    cdef double squares[WIDE]
    cdef Settled found
    cdef Statistics alone
    cdef Py_ssize_t j, k, m
    cdef bint scaled = False
    memset(shift, 0, WIDE * sizeof(work))
    first_means(s, p, shift, sums, squares)
    for j from 0 <= j < s.width by LANES:
        m = min(<Py_ssize_t>LANES, s.width - j)
        for k in range(m):
            factor[j + k] = 1
        if not settle_columns(sums + j, squares + j, m, s.n, 0, p.eps, &found, shift[0]):
            for k in range(m):
                if not found.sound[k]:
                    wide_columns(&s.x, s.at + (j + k) * s.x.position, 1, s.n, p.centered, p.eps, &alone, shift[0])
                    found.delta[k], found.rstd[k], found.scale[k] = alone.delta, alone.rstd, alone.scale
                    shift[j + k], factor[j + k] = <work>alone.shift, <work>alone.factor
                    scaled |= alone.factor != 1
        for k in range(m):
            if work is double:
                recenter(&shift[j + k], &found.delta[k])
            delta[j + k] = <work>found.delta[k]
            scale[j + k] = <work>found.scale[k]
        if p.mean != NULL:
            for k in range(m):
                p.mean[first + j + k] = (shift[j + k] + found.delta[k]) / factor[j + k]
        if p.rstd != NULL:
            for k in range(m):
                p.rstd[first + j + k] = found.rstd[k]
    return scaled


cdef const work* times_factors(const work* t, Py_ssize_t* apart, Py_ssize_t n, Py_ssize_t width, const work* factor, work* room) noexcept nogil:
    """n positions, in room, elements times the factor of their column"""
    cdef Py_ssize_t i, j
    for i in range(n):
        for j in range(width):
            room[i * width + j] = t[i * apart[0] + j] * factor[j]
    apart[0] = width
    return room


cdef void strip_straight(Strip* s, const Affine* c, const Block* b, Py_ssize_t i, work zero) noexcept nogil:
    """b.rows positions from i on, forward or backward, as they are stored."""
    cdef char* to = s.y_at + i * s.y.apart
    cdef char* u = s.room if s.writer.streaming else to
    if s.dy.data == NULL:
        normalize_in(s.x.dtype, c, b, s.at + i * s.x.apart, u, zero)
    else:
        descend_in(s.x.dtype, c, b, s.at + i * s.x.apart, s.dy_at + i * s.dy.apart, u, zero)
    if s.writer.streaming:
        send_positions(&s.y, to, &s.writer, u, b.rows, b.width)


cdef void strip_normalize(Strip* s, const Plan* p, const work* table, bint scaled) noexcept nogil:
    cdef const work* w = <const work*>p.weight
    cdef const work* bias = <const work*>p.bias
    cdef work ws[WINDOW]
    cdef work bs[WINDOW]
    cdef Affine c
    cdef Block b
    cdef Py_ssize_t i, k
    cdef const work* t
    cdef char* to
    cdef bint direct = s.y.plain and not s.writer.streaming and not p.fused
    beside(&c, table, WIDE)
    c.statistics, c.center, c.weight, c.bias, c.of_weight, c.of_bias = MANY, MANY, ONE, ONE, ws, bs
    b.width, b.ahead, b.x = s.width, 0, s.x.apart // s.x.itemsize
    b.y = s.y.apart // s.y.itemsize if not s.writer.streaming and (direct or (s.straight and not scaled)) else s.width
    for i from 0 <= i < s.n by WINDOW:
        b.rows = min(<Py_ssize_t>WINDOW, s.n - i)
        for k in range(b.rows):
            ws[k] = w[i + k] if w != NULL else 1
            bs[k] = bias[i + k] if bias != NULL else <work>NOTHING
        if CONVERTS and s.straight and not scaled:
            strip_straight(s, &c, &b, i, table[0])
            continue
        t = positions_of(s, i, b.rows, &b.x, table[0])
        if scaled:
            t = times_factors(t, &b.x, b.rows, s.width, table + FACTOR * WIDE, <work*>s.room)
        to = s.y_at + i * s.y.apart
        normalize_by(p, &c, &b, t, <work*>to if direct else <work*>s.room)
        if p.fused:
            follow_positions(&s.beside, i, 0, b.rows, s.width, <work*>s.room)
        if not direct:
            give_positions(&s.y, to, &s.writer, <work*>s.room, b.rows, s.width)


cdef void strip_before(const Plan* p, Py_ssize_t sample, Py_ssize_t column, Py_ssize_t width, work zero) noexcept nogil:
    cdef Tile tile
    tile.sample, tile.position, tile.positions, tile.column, tile.width = sample, 0, p.length, column, width
    residual_positions(p, &tile, zero)


cdef void strip_forward(const Plan* p, Py_ssize_t sample, Py_ssize_t column, Py_ssize_t width, work zero) noexcept nogil:
    cdef work table[TABLE * WIDE]
    cdef Py_ssize_t first = sample * p.width + column
    cdef bint scaled
    cdef Strip s
    if p.before != NULL:
        strip_before(p.before, sample, column, width, zero)
    open_strip(&s, p, zero)
    go_to(&s, sample, column, width)
    keep_strip(&s, p, width, zero)
    if p.given:
        scaled = split_given(at(p.mean, first, p.centered), p.rstd + first, width, table, WIDE, True)
    else:
        scaled = strip_statistics(&s, p, first, table)
    strip_normalize(&s, p, table, scaled)
    free(s.kept)
    close_writer(&s.writer)


cdef void feature_columns_forward(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    cdef Py_ssize_t strip = p.strip, strips = (p.width - 1) // strip + 1 + p.streaming, sample = task // strips, column = task % strips * strip
    cdef Py_ssize_t width = strip, head
    if p.streaming:
        # The first strip ends on a line, so that the others begin on one.
        head = <Py_ssize_t>(-<size_t>(p.y + sample * p.ys.sample * size_of(p.y_dtype)) % LINE) // size_of(p.y_dtype)
        width = head if column == 0 else strip
        column = 0 if column == 0 else column - strip + head
    width = min(width, p.width - column)
    if width > 0:
        strip_forward(p, sample, column, width, zero)
