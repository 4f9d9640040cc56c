# What the two columns families share. The neighbours in memory belong to different statistics, so vectors run across
# LANES columns, down the positions. Positions are taken in the order of memory, ROUND at a time, to sums of CHUNK positions
# in the first cache; chunks are added up in float64 within a block, blocks in their order. Where float64 is the working
# type, what is rounded off is kept and added at the end.

cdef enum:
    WHOLE = 1024    # columns summed at once, at most
    WINDOW = 8      # positions normalized while the statistics of their columns stay in registers
    KEPT_BYTES = 1 << 19    # of shifted elements that are kept from statistics to normalization, in the second cache

cdef double NOTHING = -0.0  # what a sum with leaves everything as it is, the sign of zero too


cdef inline void sample_lanes(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t m, double* total, work zero,
                              bint part) noexcept nogil:
    """add_sample for m <= LANES columns"""
    cdef work t[LANES]
    cdef work u[LANES]
    cdef Py_ssize_t first, i, k
    clear(u)
    for first from 0 <= first < n by sample_step(n) * BLOCK:
        for i in range(first, min(first + SAMPLE, n)):
            load_lanes(x + i * position, m, t, part)
            for k in range(LANES):
                u[k] += t[k]
    for k in range(m):
        total[k] += u[k]


cdef inline void add_sample(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, double* total,
                            work zero) noexcept nogil:
    """total[j] += the sample of column j that the first mean is taken from"""
    cdef Py_ssize_t j = 0
    while j + LANES <= width:
        sample_lanes(x + j, position, n, LANES, total + j, zero, False)
        j += LANES
    if j < width:
        sample_lanes(x + j, position, n, width - j, total + j, zero, True)


cdef inline bint wide(Py_ssize_t width) noexcept nogil:
    """Whether rounds are too wide for the hardware to see a stream."""
    return width >= 3 * LANES


cdef struct Ahead:
    # Which elements to prefetch while a round of positions is summed, from the element at hand: `first`, and so many after it.
    Py_ssize_t first, column, position


cdef inline Ahead look_ahead(int level, Py_ssize_t position, Py_ssize_t width, const storage* x) noexcept nogil:
    """What comes soon, line after line where positions lie side by side, else the next positions. Side by side in the last cache
    only where rounds are `wide`. Level 1: the first cache."""
    cdef Ahead ahead
    ahead.first = 0
    if level > 3 or (level == 3 and (position != width or wide(width))):
        ahead.first = ahead_of(x) if position == width else ROUND * position
    ahead.column = ROUND - 1 if position == width else 0
    ahead.position = LANES if position == width else position
    return ahead


cdef inline void prefetch_round(const storage* x, const Ahead* ahead, Py_ssize_t j, work zero) noexcept nogil:
    cdef Py_ssize_t i
    if ahead.first != 0:
        for i in range(ROUND):
            prefetch_lanes(x + ahead.first + j * ahead.column + i * ahead.position)


cdef inline void position_moments(const storage* x, Py_ssize_t m, const work* shift, bint centered, work* kept,
                                  work* a, work* b, bint part, bint first) noexcept nogil:
    """a += x - shift, b += (x - shift)^2, from zero if it is the first; kept: x - shift"""
    cdef work t[LANES]
    cdef work one = unit(shift[0])
    cdef Py_ssize_t k
    load_lanes(x, m, t, part)
    for k in range(LANES):
        if centered:
            t[k] = minus(t[k], shift[k], one)
            a[k] = t[k] if first else a[k] + t[k]
        b[k] = t[k] * t[k] if first else b[k] + t[k] * t[k]
    if kept != NULL:
        store_lanes(kept, m, t, part)


cdef inline void four_moments(const storage* x, Py_ssize_t position, Py_ssize_t m, const work* shift, bint centered, work* kept, Py_ssize_t keep,
                              work* a, work* b, bint part) noexcept nogil:
    """Sums over four positions, in pairs."""
    cdef work pa[LANES]
    cdef work pb[LANES]
    cdef bint keeps = kept != NULL
    cdef Py_ssize_t k
    position_moments(x, m, shift, centered, kept, a, b, part, True)
    position_moments(x + position, m, shift, centered, at(kept, keep, keeps), a, b, part, False)
    position_moments(x + 2 * position, m, shift, centered, at(kept, 2 * keep, keeps), pa, pb, part, True)
    position_moments(x + 3 * position, m, shift, centered, at(kept, 3 * keep, keeps), pa, pb, part, False)
    for k in range(LANES):
        if centered:
            a[k] += pa[k]
        b[k] += pb[k]


cdef inline void round_moments(const storage* x, Py_ssize_t position, Py_ssize_t m, const work* shift, bint centered,
                               work* kept, Py_ssize_t keep, const Ahead* ahead, Py_ssize_t j, work* a, work* b, bint part, bint first) noexcept nogil:
    """a += sum (x - shift), b += sum (x - shift)^2 over ROUND positions of m <= LANES columns, in pairs of pairs as in rows"""
    cdef work v[LANES]
    cdef work ra[LANES]
    cdef work rb[LANES]
    cdef work sa[LANES]
    cdef work sb[LANES]
    cdef Py_ssize_t k
    prefetch_round(x, ahead, j, shift[0])
    load_lanes(shift, m, v, part)
    clear(ra)
    clear(sa)
    four_moments(x, position, m, v, centered, kept, keep, ra, rb, part)
    four_moments(x + 4 * position, position, m, v, centered, at(kept, 4 * keep, kept != NULL), keep, sa, sb, part)
    for k in range(LANES):
        a[k] = ra[k] + sa[k] if first else a[k] + (ra[k] + sa[k])
        b[k] = rb[k] + sb[k] if first else b[k] + (rb[k] + sb[k])


cdef inline void last_moments(const storage* x, Py_ssize_t position, Py_ssize_t many, Py_ssize_t m, const work* shift, bint centered,
                              work* kept, Py_ssize_t keep, work* a, work* b, bint first) noexcept nogil:
    """round_moments over the last positions, fewer than ROUND"""
    cdef work v[LANES]
    cdef work ra[LANES]
    cdef work rb[LANES]
    cdef Py_ssize_t k, done = 0
    load_some(shift, m, v)
    clear(ra)
    clear(rb)
    if many >= ROUND // 2:
        four_moments(x, position, m, v, centered, kept, keep, ra, rb, m < LANES)
        done = ROUND // 2
    for k in range(done, many):
        position_moments(x + k * position, m, v, centered, at(kept, k * keep, kept != NULL), ra, rb, m < LANES, False)
    for k in range(LANES):
        a[k] = ra[k] if first else a[k] + ra[k]
        b[k] = rb[k] if first else b[k] + rb[k]


cdef inline void ordered_moments(const storage* x, Py_ssize_t width, const work* shift, work* a, work* b, bint first) noexcept nogil:
    """round_moments over positions side by side, in whole lanes: pair by pair in the order of memory, the sums of the round in the first
    cache."""
    cdef work ra[WHOLE]
    cdef work rb[WHOLE]
    cdef work sa[WHOLE]
    cdef work sb[WHOLE]
    cdef work pa[LANES]
    cdef work pb[LANES]
    cdef Py_ssize_t i, j, k
    for i from 0 <= i < ROUND by 2:
        for j from 0 <= j < width by LANES:
            prefetch_ahead(x + j, ahead_of(x))
            prefetch_ahead(x + width + j, ahead_of(x))
            position_moments(x + j, LANES, shift + j, True, <work*>NULL, pa, pb, False, True)
            position_moments(x + width + j, LANES, shift + j, True, <work*>NULL, pa, pb, False, False)
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


cdef inline bint in_order(const storage* x, Py_ssize_t position, Py_ssize_t width, int level) noexcept nogil:
    """Whether to sum positions in the order of memory: where they come from there, and the arithmetic is not the limit, as it is
    with 16 bits."""
    return level > 3 and sizeof(storage) > 2 and position == width and width % LANES == 0 and wide(width)


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


cdef inline void add_chunk(const work* a, const work* b, Py_ssize_t width, double* s, double* q, double* lost) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(width):
        add_up(s + j, lost + j, a[j], a[0])
        add_up(q + j, lost + WHOLE + j, b[j], b[0])


cdef inline void chunk_moments(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                               bint centered, int level, work* kept, Py_ssize_t keep, work* a, work* b, bint begin) noexcept nogil:
    """a[j] += sum (x - shift[j]), b[j] += sum (x - shift[j])^2 over n positions, from zero where a chunk begins"""
    cdef Ahead ahead = look_ahead(level, position, width, x)
    cdef bint ordered = in_order(x, position, width, level) and centered and kept == NULL, first
    cdef Py_ssize_t i, j, m, many
    for i from 0 <= i < n by ROUND:
        many = min(<Py_ssize_t>ROUND, n - i)
        first = begin and i == 0
        j = 0
        if ordered and many == ROUND:
            ordered_moments(x + i * width, width, shift, a, b, first)
            j = width
        if many < ROUND:
            for j from 0 <= j < width by LANES:
                m = min(<Py_ssize_t>LANES, width - j)
                last_moments(x + i * position + j, position, many, m, shift + j, centered,
                             at(kept, i * keep + j, kept != NULL), keep, a + j, b + j, first)
            break
        while j + LANES <= width:
            if first:
                round_moments(x + i * position + j, position, LANES, shift + j, centered,
                              at(kept, i * keep + j, kept != NULL), keep, &ahead, j, a + j, b + j, False, True)
            else:
                round_moments(x + i * position + j, position, LANES, shift + j, centered,
                              at(kept, i * keep + j, kept != NULL), keep, &ahead, j, a + j, b + j, False, False)
            j += LANES
        if j < width and first:
            round_moments(x + i * position + j, position, width - j, shift + j, centered,
                          at(kept, i * keep + j, kept != NULL), keep, &ahead, j, a + j, b + j, True, True)
        elif j < width:
            round_moments(x + i * position + j, position, width - j, shift + j, centered,
                          at(kept, i * keep + j, kept != NULL), keep, &ahead, j, a + j, b + j, True, False)


cdef inline void position_gradients(const storage* x, const storage* dy, Py_ssize_t m, const work* shift, const work* scale,
                                    const work* w, bint weighted, work* a, work* b, bint part, bint first) noexcept nogil:
    """a += g, b += g * (x - shift) * scale, from zero if it is the first; w: the weight of the position"""
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work one = unit(shift[0])
    cdef Py_ssize_t k
    load_lanes(x, m, z, part)
    load_lanes(dy, m, g, part)
    for k in range(LANES):
        if weighted:
            g[k] *= w[0]
        z[k] = g[k] * (minus(z[k], shift[k], one) * scale[k])
        a[k] = g[k] if first else a[k] + g[k]
        b[k] = z[k] if first else b[k] + z[k]


cdef inline void round_gradients(const storage* x, const storage* dy, Py_ssize_t xp, Py_ssize_t dp, Py_ssize_t many, Py_ssize_t m,
                                 const work* shift, const work* scale, const work* w, bint weighted,
                                 const Ahead* x_ahead, const Ahead* d_ahead, Py_ssize_t j, work* a, work* b,
                                 bint part, bint first) noexcept nogil:
    """a += sum g, b += sum g * (x - shift) * scale over `many` positions of m <= LANES columns; w: a weight a position"""
    cdef work v[LANES]
    cdef work r[LANES]
    cdef work ra[LANES]
    cdef work rb[LANES]
    cdef Py_ssize_t k
    prefetch_round(x, x_ahead, j, shift[0])
    prefetch_round(dy, d_ahead, j, shift[0])
    load_lanes(shift, m, v, part)
    load_lanes(scale, m, r, part)
    position_gradients(x, dy, m, v, r, w, weighted, ra, rb, part, True)
    for k in range(1, many):
        position_gradients(x + k * xp, dy + k * dp, m, v, r, at(w, k, weighted), weighted, ra, rb, part, False)
    for k in range(LANES):
        a[k] = ra[k] if first else a[k] + ra[k]
        b[k] = rb[k] if first else b[k] + rb[k]


cdef inline void ordered_gradients(const storage* x, const storage* dy, Py_ssize_t width, const work* shift, const work* scale,
                                   const work* w, bint weighted, work* a, work* b, bint first) noexcept nogil:
    """round_gradients in the order of memory, as ordered_moments."""
    cdef work ra[WHOLE]
    cdef work rb[WHOLE]
    cdef Py_ssize_t i, j
    for j from 0 <= j < width by LANES:
        prefetch_ahead(x + j, ahead_of(x))
        prefetch_ahead(dy + j, ahead_of(dy))
        position_gradients(x + j, dy + j, LANES, shift + j, scale + j, w, weighted, ra + j, rb + j, False, True)
    for i in range(1, ROUND):
        for j from 0 <= j < width by LANES:
            prefetch_ahead(x + i * width + j, ahead_of(x))
            prefetch_ahead(dy + i * width + j, ahead_of(dy))
            position_gradients(x + i * width + j, dy + i * width + j, LANES, shift + j, scale + j, at(w, i, weighted), weighted,
                               ra + j, rb + j, False, False)
    for j in range(width):
        a[j] = ra[j] if first else a[j] + ra[j]
        b[j] = rb[j] if first else b[j] + rb[j]


cdef inline void chunk_gradients(const storage* x, const storage* dy, Py_ssize_t xp, Py_ssize_t dp, Py_ssize_t n, Py_ssize_t width,
                                 const work* shift, const work* scale, const work* w, bint weighted, int level,
                                 work* a, work* b, bint begin) noexcept nogil:
    """a[j] += sum g, b[j] += sum g * (x - shift[j]) * scale[j] over n positions, from zero where a chunk begins"""
    cdef Ahead x_ahead = look_ahead(level, xp, width, x), d_ahead = look_ahead(level, dp, width, x)
    cdef Py_ssize_t i, j, m, many
    cdef bint first, ordered = in_order(x, xp, width, level) and dp == width
    for i from 0 <= i < n by ROUND:
        many = min(<Py_ssize_t>ROUND, n - i)
        first = begin and i == 0
        j = 0
        if ordered and many == ROUND:
            ordered_gradients(x + i * width, dy + i * width, width, shift, scale, at(w, i, weighted), weighted, a, b, first)
            j = width
        if many < ROUND:
            for j from 0 <= j < width by LANES:
                m = min(<Py_ssize_t>LANES, width - j)
                round_gradients(x + i * xp + j, dy + i * dp + j, xp, dp, many, m, shift + j, scale + j,
                                at(w, i, weighted), weighted, &x_ahead, &d_ahead, j, a + j, b + j, m < LANES, first)
            break
        while j + LANES <= width:
            if first:
                round_gradients(x + i * xp + j, dy + i * dp + j, xp, dp, ROUND, LANES, shift + j, scale + j,
                                at(w, i, weighted), weighted, &x_ahead, &d_ahead, j, a + j, b + j, False, True)
            else:
                round_gradients(x + i * xp + j, dy + i * dp + j, xp, dp, ROUND, LANES, shift + j, scale + j,
                                at(w, i, weighted), weighted, &x_ahead, &d_ahead, j, a + j, b + j, False, False)
            j += LANES
        if j < width and first:
            round_gradients(x + i * xp + j, dy + i * dp + j, xp, dp, ROUND, width - j, shift + j, scale + j,
                            at(w, i, weighted), weighted, &x_ahead, &d_ahead, j, a + j, b + j, True, True)
        elif j < width:
            round_gradients(x + i * xp + j, dy + i * dp + j, xp, dp, ROUND, width - j, shift + j, scale + j,
                            at(w, i, weighted), weighted, &x_ahead, &d_ahead, j, a + j, b + j, True, False)


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
