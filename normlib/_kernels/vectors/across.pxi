# Sums across: the neighbours in memory belong to different statistics, so vectors run across LANES columns, down the
# positions. Positions are taken in the order of memory, ROUND at a time, to sums of CHUNK positions in L1; chunks are added
# up in float64 within a block, blocks in their order. Where float64 is the working type, what is rounded off is kept and added
# at the end.

cdef enum:
    WHOLE = 512     # columns summed at once, at most

# A pair of sums a column: `sum` is followed by `square`, or `product`, WHOLE later.
cdef struct Ahead:
    # Which bytes to prefetch while a round of positions is summed, from the element at hand: `first`, and so many after it.
    Py_ssize_t first, column, position

cdef struct Columns:
    # n positions of `width` neighbouring columns, of x and dy; from zero where a chunk begins.
    Py_ssize_t n, width, x, dy      # elements from a position to the next
    int level                       # of the cache that holds them, 1 for L1
    bint centered, weighted, begin


cdef inline bint wide(Py_ssize_t width) noexcept nogil:
    """Whether rounds are too wide for the hardware to see a stream."""
    return width >= 3 * LANES


cdef inline Ahead look_ahead(int level, Py_ssize_t position, Py_ssize_t width, Py_ssize_t size) noexcept nogil:
    """What comes soon, line after line where positions lie side by side, else the next positions. Side by side in the LLC only
    where rounds are `wide`."""
    cdef Ahead ahead
    ahead.first = 0
    if level > 3 or (level == 3 and (position != width or wide(width))):
        ahead.first = AHEAD_BYTES if position == width else ROUND * position * size
    ahead.column = ROUND - 1 if position == width else 0
    ahead.position = (LANES if position == width else position) * size
    return ahead


cdef inline void prefetch_round(const stored* x, const Ahead* ahead, Py_ssize_t j) noexcept nogil:
    cdef Py_ssize_t i
    if ahead.first != 0:
        for i in range(ROUND):
            prefetch_bytes(<const char*>(x + j * ahead.column) + ahead.first + i * ahead.position, LANES * sizeof(stored))


# ---- moments ----

cdef inline void position_moments(const stored* x, Py_ssize_t m, const work* shift, bint centered, work* a, work* b, bint part, bint first) noexcept nogil:
    """a += x - shift, b += (x - shift)^2, from zero if it is the first"""
    cdef work t[LANES]
    cdef work one = unit(shift[0])
    cdef Py_ssize_t k
    load_lanes(x, m, t, part)
    for k in range(LANES):
        if centered:
            t[k] = minus(t[k], shift[k], one)
            a[k] = t[k] if first else a[k] + t[k]
        b[k] = t[k] * t[k] if first else b[k] + t[k] * t[k]


cdef inline void four_moments(const stored* x, Py_ssize_t position, Py_ssize_t m, const work* shift, bint centered, work* a, work* b, bint part) noexcept nogil:
    """Sums over four positions, in pairs."""
    cdef work pa[LANES]
    cdef work pb[LANES]
    cdef Py_ssize_t k
    position_moments(x, m, shift, centered, a, b, part, True)
    position_moments(x + position, m, shift, centered, a, b, part, False)
    position_moments(x + 2 * position, m, shift, centered, pa, pb, part, True)
    position_moments(x + 3 * position, m, shift, centered, pa, pb, part, False)
    for k in range(LANES):
        if centered:
            a[k] += pa[k]
        b[k] += pb[k]


cdef inline void round_moments(const Columns* c, const stored* x, Py_ssize_t m, const work* shift, work* a, bint part, bint first) noexcept nogil:
    """a += sum (x - shift), a + WHOLE += sum (x - shift)^2 over ROUND positions of m <= LANES columns, in pairs of pairs as in rows"""
    cdef work* b = a + WHOLE
    cdef work v[LANES]
    cdef work ra[LANES]
    cdef work rb[LANES]
    cdef work sa[LANES]
    cdef work sb[LANES]
    cdef Py_ssize_t k
    load_lanes(shift, m, v, part)
    clear(ra)
    clear(sa)
    four_moments(x, c.x, m, v, c.centered, ra, rb, part)
    four_moments(x + 4 * c.x, c.x, m, v, c.centered, sa, sb, part)
    for k in range(LANES):
        a[k] = ra[k] + sa[k] if first else a[k] + (ra[k] + sa[k])
        b[k] = rb[k] + sb[k] if first else b[k] + (rb[k] + sb[k])


cdef inline void last_moments(const Columns* c, const stored* x, Py_ssize_t many, Py_ssize_t m, const work* shift, work* a, bint part,
                              bint first) noexcept nogil:
    """round_moments over the last positions, fewer than ROUND"""
    cdef work* b = a + WHOLE
    cdef work v[LANES]
    cdef work ra[LANES]
    cdef work rb[LANES]
    cdef Py_ssize_t k, done = 0
    load_lanes(shift, m, v, part)
    clear(ra)
    clear(rb)
    if many >= ROUND // 2:
        four_moments(x, c.x, m, v, c.centered, ra, rb, part)
        done = ROUND // 2
    for k in range(done, many):
        position_moments(x + k * c.x, m, v, c.centered, ra, rb, part, False)
    for k in range(LANES):
        a[k] = ra[k] if first else a[k] + ra[k]
        b[k] = rb[k] if first else b[k] + rb[k]


cdef inline void ordered_moments(const stored* x, Py_ssize_t width, const work* shift, work* a, bint first) noexcept nogil:
    """round_moments over positions side by side, in whole lanes: pair by pair in the order of memory, the sums of the round in L1"""
    cdef work* b = a + WHOLE
    cdef work ra[WHOLE]
    cdef work rb[WHOLE]
    cdef work sa[WHOLE]
    cdef work sb[WHOLE]
    cdef work pa[LANES]
    cdef work pb[LANES]
    cdef Py_ssize_t i, j, k
    for i from 0 <= i < ROUND by 2:
        for j from 0 <= j < width by LANES:
            prefetch_ahead(x + j, AHEAD_BYTES)
            prefetch_ahead(x + width + j, AHEAD_BYTES)
            position_moments(x + j, LANES, shift + j, True, pa, pb, False, True)
            position_moments(x + width + j, LANES, shift + j, True, pa, pb, False, False)
            if i == 0:
                for k in range(LANES):
                    ra[j + k], rb[j + k] = pa[k], pb[k]
            elif i == 2:
                for k in range(LANES):
                    ra[j + k], rb[j + k] = ra[j + k] + pa[k], rb[j + k] + pb[k]
            elif i == 4:
                for k in range(LANES):
                    sa[j + k], sb[j + k] = pa[k], pb[k]
            elif first:
                for k in range(LANES):
                    a[j + k], b[j + k] = ra[j + k] + (sa[j + k] + pa[k]), rb[j + k] + (sb[j + k] + pb[k])
            else:
                for k in range(LANES):
                    a[j + k] += ra[j + k] + (sa[j + k] + pa[k])
                    b[j + k] += rb[j + k] + (sb[j + k] + pb[k])
        x += 2 * width


cdef inline bint in_order(const Columns* c) noexcept nogil:
    """Whether to sum positions in the order of memory: where they come from there."""
    return c.level > 3 and c.x == c.width and c.width % LANES == 0 and wide(c.width)


cdef inline void chunk_moments_as(const Columns* given, const stored* x, const work* shift, work* a, bint centered) noexcept nogil:
    cdef Columns c = given[0]
    cdef Ahead ahead = look_ahead(c.level, c.x, c.width, sizeof(stored))
    cdef bint first
    cdef Py_ssize_t i, j, many
    c.centered = centered
    for i from 0 <= i < c.n by ROUND:
        many = min(<Py_ssize_t>ROUND, c.n - i)
        first = c.begin and i == 0
        j = 0
        if many == ROUND and centered and in_order(&c):
            ordered_moments(x + i * c.x, c.width, shift, a, first)
            continue
        while j + LANES <= c.width:
            if many < ROUND:
                last_moments(&c, x + i * c.x + j, many, LANES, shift + j, a + j, False, first)
            else:
                prefetch_round(x + i * c.x + j, &ahead, j)
                if first:
                    round_moments(&c, x + i * c.x + j, LANES, shift + j, a + j, False, True)
                else:
                    round_moments(&c, x + i * c.x + j, LANES, shift + j, a + j, False, False)
            j += LANES
        if j < c.width and many < ROUND:
            last_moments(&c, x + i * c.x + j, many, c.width - j, shift + j, a + j, True, first)
        elif j < c.width:
            prefetch_round(x + i * c.x + j, &ahead, j)
            round_moments(&c, x + i * c.x + j, c.width - j, shift + j, a + j, True, first)


cdef void chunk_moments(const Columns* c, const work* x, const work* shift, work* a) noexcept nogil:
    """a[j] += sum (x - shift[j]), a[WHOLE + j] += sum (x - shift[j])^2 over the positions"""
    if c.centered:
        chunk_moments_as(c, x, shift, a, True)
    else:
        chunk_moments_as(c, x, shift, a, False)


cdef void narrow_chunk_moments(Dtype dtype, const Columns* c, const char* x, const float* shift, float* a) noexcept nogil:
    """chunk_moments about means, of 16-bit elements where they lie"""
    if dtype == F16:
        chunk_moments_as(c, <const half_t*>x, shift, a, True)
    else:
        chunk_moments_as(c, <const bf16_t*>x, shift, a, True)


# ---- gradients ----

cdef inline void position_gradients(const stored* x, const stored* dy, Py_ssize_t m, const work* shift, const work* scale,
                                    work w, work* a, work* b, bint part) noexcept nogil:
    """a += g, b += g * (x - shift) * scale; w: the weight of the position"""
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work one = unit(shift[0])
    cdef Py_ssize_t k
    load_lanes(x, m, z, part)
    load_lanes(dy, m, g, part)
    for k in range(LANES):
        g[k] *= w
        z[k] = g[k] * (minus(z[k], shift[k], one) * scale[k])
        a[k] += g[k]
        b[k] += z[k]


cdef inline void round_gradients(const Columns* c, const stored* x, const stored* dy, const work* table, Py_ssize_t entry, const work* w,
                                 work* a, Py_ssize_t m, bint part) noexcept nogil:
    """a += sum g, a + WHOLE += sum g * (x - shift) * scale over c.n positions of m <= LANES columns; w: a weight a position"""
    cdef work* b = a + WHOLE
    cdef work v[LANES]
    cdef work r[LANES]
    cdef work ra[LANES]
    cdef work rb[LANES]
    cdef Py_ssize_t k
    load_lanes(table, m, v, part)
    load_lanes(table + SCALE * entry, m, r, part)
    for k in range(LANES):
        ra[k] = rb[k] = <work>NOTHING
    for k in range(c.n):
        position_gradients(x + k * c.x, dy + k * c.dy, m, v, r, w[k] if c.weighted else 1, ra, rb, part)
    for k in range(LANES):
        a[k] = ra[k] if c.begin else a[k] + ra[k]
        b[k] = rb[k] if c.begin else b[k] + rb[k]


cdef inline void ordered_gradients(const Columns* c, const stored* x, const stored* dy, const work* table, Py_ssize_t entry, const work* w,
                                   work* a) noexcept nogil:
    """round_gradients over positions side by side, in the order of memory, as ordered_moments"""
    cdef work* b = a + WHOLE
    cdef work ra[WHOLE]
    cdef work rb[WHOLE]
    cdef Py_ssize_t i, j
    for j in range(c.width):
        ra[j] = rb[j] = <work>NOTHING
    for i in range(ROUND):
        for j from 0 <= j < c.width by LANES:
            prefetch_ahead(x + i * c.width + j, AHEAD_BYTES)
            prefetch_ahead(dy + i * c.width + j, AHEAD_BYTES)
            position_gradients(x + i * c.width + j, dy + i * c.width + j, LANES, table + j, table + SCALE * entry + j,
                               w[i] if c.weighted else 1, ra + j, rb + j, False)
    for j in range(c.width):
        a[j] = ra[j] if c.begin else a[j] + ra[j]
        b[j] = rb[j] if c.begin else b[j] + rb[j]


cdef inline void chunk_gradients_as(const Columns* given, const stored* x, const stored* dy, const work* table, Py_ssize_t entry,
                                    const work* w, work* a, bint weighted) noexcept nogil:
    cdef Columns c = given[0]
    cdef Ahead x_ahead = look_ahead(c.level, c.x, c.width, sizeof(stored)), dy_ahead = look_ahead(c.level, c.dy, c.width, sizeof(stored))
    cdef Py_ssize_t i, j
    cdef const stored* t
    cdef const stored* g
    c.weighted = weighted
    for i from 0 <= i < given.n by ROUND:
        c.n = min(<Py_ssize_t>ROUND, given.n - i)
        c.begin = given.begin and i == 0
        t, g = x + i * c.x, dy + i * c.dy
        j = 0
        if c.n == ROUND and in_order(&c) and c.dy == c.width:
            ordered_gradients(&c, t, g, table, entry, at(w, i, weighted), a)
            continue
        while j + LANES <= c.width:
            prefetch_round(t + j, &x_ahead, j)
            prefetch_round(g + j, &dy_ahead, j)
            round_gradients(&c, t + j, g + j, table + j, entry, at(w, i, weighted), a + j, LANES, False)
            j += LANES
        if j < c.width:
            round_gradients(&c, t + j, g + j, table + j, entry, at(w, i, weighted), a + j, c.width - j, True)


cdef void chunk_gradients(const Columns* c, const work* x, const work* dy, const work* table, Py_ssize_t entry, const work* w, work* a) noexcept nogil:
    """a[j] += sum g, a[WHOLE + j] += sum g * (x - shift[j]) * scale[j] over the positions; shift and scale from a table"""
    if c.weighted:
        chunk_gradients_as(c, x, dy, table, entry, w, a, True)
    else:
        chunk_gradients_as(c, x, dy, table, entry, w, a, False)


cdef void narrow_chunk_gradients(Dtype dtype, const Columns* c, const char* x, const char* dy, const float* table, Py_ssize_t entry,
                                 const float* w, float* a) noexcept nogil:
    if dtype == F16 and c.weighted:
        chunk_gradients_as(c, <const half_t*>x, <const half_t*>dy, table, entry, w, a, True)
    elif dtype == F16:
        chunk_gradients_as(c, <const half_t*>x, <const half_t*>dy, table, entry, w, a, False)
    elif c.weighted:
        chunk_gradients_as(c, <const bf16_t*>x, <const bf16_t*>dy, table, entry, w, a, True)
    else:
        chunk_gradients_as(c, <const bf16_t*>x, <const bf16_t*>dy, table, entry, w, a, False)


# ---- chunks and blocks ----

cdef inline void begin_sums(double* s, double* q, double* lost, Py_ssize_t width, work zero) noexcept nogil:
    memset(s, 0, width * sizeof(double))
    memset(q, 0, width * sizeof(double))
    if work is double:
        memset(lost, 0, width * sizeof(double))
        memset(lost + WHOLE, 0, width * sizeof(double))


cdef inline void end_sums(double* s, double* q, const double* lost, Py_ssize_t width, work zero) noexcept nogil:
    cdef Py_ssize_t j
    if work is double:
        for j in range(width):
            s[j] = regain(s[j], lost[j], zero)
            q[j] = regain(q[j], lost[WHOLE + j], zero)


cdef inline void add_columns(const term* a, const term* b, Py_ssize_t width, double* s, double* q, double* lost, work zero) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(width):
        add_up(s + j, lost + j, a[j], zero)
        add_up(q + j, lost + WHOLE + j, b[j], zero)


# ---- first means, and statistics from sums ----

cdef inline void sample_lanes(const Array* x, const char* at, Py_ssize_t n, Py_ssize_t m, double* total, work zero) noexcept nogil:
    """add_sample for m <= LANES columns"""
    cdef work room[LANES]
    cdef work u[LANES]
    cdef const work* t
    cdef Py_ssize_t first, i, k
    clear(u)
    for first from 0 <= first < n by sample_step(n) * BLOCK:
        for i in range(first, min(first + SAMPLE, n)):
            t = take_run(x, at + i * x.apart, m, room)
            for k in range(m):
                u[k] += t[k]
    for k in range(m):
        total[k] += u[k]


cdef inline void add_sample(const Array* x, const char* at, Py_ssize_t n, Py_ssize_t width, double* total, work zero) noexcept nogil:
    """total[j] += the sample of column j that the first mean is taken from"""
    cdef Py_ssize_t j
    for j from 0 <= j < width by LANES:
        sample_lanes(x, at + j * x.position, n, min(<Py_ssize_t>LANES, width - j), total + j, zero)


cdef struct Settled:
    # Statistics of LANES columns or groups, as `Statistics`.
    double delta[LANES]
    double var[LANES]
    double rstd[LANES]
    double scale[LANES]
    bint sound[LANES]


cdef inline bint settle_columns(const double* s, const double* q, Py_ssize_t m, Py_ssize_t n, Py_ssize_t taken, double eps, Settled* to,
                                work zero) noexcept nogil:
    """`settle` for m <= LANES columns: divisions and square roots run in vectors; whether all are `sound`."""
    cdef double square[LANES]
    cdef bint all_sound = True
    cdef Py_ssize_t k
    for k in range(LANES):
        to.delta[k] = s[k] / n if k < m else 0
        square[k] = q[k] / n if k < m else 1
    for k in range(LANES):
        to.var[k] = square[k] - to.delta[k] * to.delta[k]
        to.rstd[k] = 1 / sqrt(to.var[k] + eps)
    for k in range(LANES):
        to.scale[k] = refined(q[k] if k < m else 1, n, to.delta[k], eps, to.rstd[k], zero)
        to.sound[k] = sound(s[k] if k < m else 0, to.delta[k], square[k], eps, zero) & chance(to.delta[k], square[k], taken)
        all_sound &= to.sound[k]
    return all_sound


cdef inline void wide_columns(const Array* x, const char* at, Py_ssize_t columns, Py_ssize_t n, bint centered, double eps, Statistics* to,
                              work zero) noexcept nogil:
    """`wide_statistics` of n positions of so many neighbouring columns."""
    cdef Array a = x[0]
    a.channels, a.channel, a.segments, a.segment, a.length, a.position = columns, x.position, 1, 0, n, x.apart
    a.plain = a.whole = False
    wide_statistics(&a, at, columns * n, centered, eps, to, zero)
