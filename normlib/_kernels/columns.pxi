# What the two columns families share. The neighbours in memory belong to different statistics, so vectors run across
# LANES columns, down the positions. A column is summed four positions at a time, to sums of CHUNK positions that stay in
# registers; chunks are added up in float64 within a block, blocks in their order. Where float64 is the working type, what
# is rounded off is kept and added at the end.

cdef enum:
    CHUNK = 32      # positions summed in the working type
    WINDOW = 8      # positions normalized while the statistics of their columns stay in registers
    KEPT_BYTES = 1 << 19    # of shifted elements that are kept from statistics to normalization, in the second cache

cdef double NOTHING = -0.0  # what a sum with leaves everything as it is, the sign of zero too


cdef inline void add_sample(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, double* total,
                            work zero) noexcept nogil:
    """total[j] += the sample of column j that the first mean is taken from"""
    cdef work t[LANES]
    cdef work u[LANES]
    cdef Py_ssize_t step = sample_step(n), p, i, j, k
    for j from 0 <= j < width by LANES:
        clear(u)
        for p from 0 <= p < n by step * BLOCK:
            for i in range(p, min(p + SAMPLE, n)):
                load_some(x + i * position + j, width - j, t)
                for k in range(LANES):
                    u[k] += t[k]
        for k in range(min(<Py_ssize_t>LANES, width - j)):
            total[j + k] += u[k]


cdef inline void position_moments(const storage* x, Py_ssize_t m, const work* shift, bint centered, work* kept, Py_ssize_t ahead,
                                  work* a, work* b, bint first) noexcept nogil:
    """a += x - shift, b += (x - shift)^2, from zero if it is the first; kept: x - shift"""
    cdef work t[LANES]
    cdef work one = unit(shift[0])
    cdef Py_ssize_t k
    if ahead != 0:
        for k from 0 <= k < LANES by LINE // <Py_ssize_t>sizeof(storage):
            prefetch(x + ahead + k)
    load_some(x, m, t)
    for k in range(LANES):
        if centered:
            t[k] = minus(t[k], shift[k], one)
            a[k] = t[k] if first else a[k] + t[k]
        b[k] = t[k] * t[k] if first else b[k] + t[k] * t[k]
    if kept != NULL:
        store_some(kept, m, t)


cdef inline void chunk_moments(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t m, const work* shift, bint centered,
                               work* kept, Py_ssize_t keep, Py_ssize_t ahead, double* s, double* q, double* lost) noexcept nogil:
    """s += sum (x - shift), q += sum (x - shift)^2 over n <= CHUNK positions of m <= LANES columns"""
    cdef work v[LANES]
    cdef work a[LANES]
    cdef work b[LANES]
    cdef work a4[LANES]
    cdef work b4[LANES]
    cdef Py_ssize_t i = 0, k
    load_some(shift, m, v)
    clear(a)
    clear(b)
    clear(a4)
    while i + 4 <= n:
        position_moments(x + i * position, m, v, centered, kept + i * keep if kept != NULL else kept, ahead, a4, b4, True)
        for k in range(i + 1, i + 4):
            position_moments(x + k * position, m, v, centered, kept + k * keep if kept != NULL else kept, ahead, a4, b4, False)
        for k in range(LANES):
            a[k] += a4[k]
            b[k] += b4[k]
        i += 4
    for i in range(i, n):
        position_moments(x + i * position, m, v, centered, kept + i * keep if kept != NULL else kept, ahead, a, b, False)
    for k in range(m):
        add_up(s + k, lost + k, a[k], a[0])
        add_up(q + k, lost + WIDE + k, b[k], b[0])


cdef inline void begin_sums(double* s, double* q, double* lost, Py_ssize_t width, work zero) noexcept nogil:
    memset(s, 0, width * sizeof(double))
    memset(q, 0, width * sizeof(double))
    if work is double:
        memset(lost, 0, width * sizeof(double))
        memset(lost + WIDE, 0, width * sizeof(double))


cdef inline void end_sums(double* s, double* q, const double* lost, Py_ssize_t width, work zero) noexcept nogil:
    cdef Py_ssize_t j
    if work is double:
        for j in range(width):
            s[j] = regain(s[j], lost[j], zero)
            q[j] = regain(q[j], lost[WIDE + j], zero)


cdef inline void block_moments(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                               bint centered, bint far, work* kept, Py_ssize_t keep, double* s, double* q) noexcept nogil:
    """s[j] = sum (x - shift[j]), q[j] = sum (x - shift[j])^2 over a block of n positions; far: from memory, in pieces that
    hardware does not see as a stream; float64: at most WIDE columns"""
    cdef double lost[2 * WIDE]
    cdef Py_ssize_t i, j, m, ahead
    begin_sums(s, q, lost, width, shift[0])
    for i from 0 <= i < n by CHUNK:
        m = min(<Py_ssize_t>CHUNK, n - i)
        ahead = 0 if not far else CHUNK * position if i + CHUNK < n else width - i * position
        j = 0
        while j + LANES <= width:
            chunk_moments(x + i * position + j, position, m, LANES, shift + j, centered,
                          kept + i * keep + j if kept != NULL else NULL, keep, ahead, s + j, q + j, lost + j)
            j += LANES
        if j < width:
            chunk_moments(x + i * position + j, position, m, width - j, shift + j, centered,
                          kept + i * keep + j if kept != NULL else NULL, keep, ahead, s + j, q + j, lost + j)
    end_sums(s, q, lost, width, shift[0])


cdef inline void position_gradients(const storage* x, const storage* dy, Py_ssize_t m, const work* shift, const work* delta,
                                    const work* scale, const work* w, bint weighted, Py_ssize_t x_ahead, Py_ssize_t d_ahead,
                                    work* a, work* b, bint first) noexcept nogil:
    """a += g, b += g * z, from zero if it is the first; w: the weight of the position"""
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work one = unit(shift[0])
    cdef Py_ssize_t k
    if x_ahead != 0:
        for k from 0 <= k < LANES by LINE // <Py_ssize_t>sizeof(storage):
            prefetch(x + x_ahead + k)
            prefetch(dy + d_ahead + k)
    load_some(x, m, z)
    load_some(dy, m, g)
    for k in range(LANES):
        if weighted:
            g[k] *= w[0]
        z[k] = g[k] * ((minus(z[k], shift[k], one) - delta[k]) * scale[k])
        a[k] = g[k] if first else a[k] + g[k]
        b[k] = z[k] if first else b[k] + z[k]


cdef inline void chunk_gradients(const storage* x, const storage* dy, Py_ssize_t xp, Py_ssize_t dp, Py_ssize_t n, Py_ssize_t m,
                                 const work* shift, const work* delta, const work* scale, const work* w, bint weighted,
                                 Py_ssize_t x_ahead, Py_ssize_t d_ahead, double* s, double* q, double* lost) noexcept nogil:
    """s += sum g, q += sum g * z over n <= CHUNK positions of m <= LANES columns; w: a weight a position"""
    cdef work v[LANES]
    cdef work d[LANES]
    cdef work r[LANES]
    cdef work a[LANES]
    cdef work b[LANES]
    cdef work a4[LANES]
    cdef work b4[LANES]
    cdef Py_ssize_t i = 0, k
    load_some(shift, m, v)
    load_some(delta, m, d)
    load_some(scale, m, r)
    clear(a)
    clear(b)
    while i + 4 <= n:
        position_gradients(x + i * xp, dy + i * dp, m, v, d, r, w + i if weighted else w, weighted, x_ahead, d_ahead, a4, b4, True)
        for k in range(i + 1, i + 4):
            position_gradients(x + k * xp, dy + k * dp, m, v, d, r, w + k if weighted else w, weighted, x_ahead, d_ahead, a4, b4, False)
        for k in range(LANES):
            a[k] += a4[k]
            b[k] += b4[k]
        i += 4
    for i in range(i, n):
        position_gradients(x + i * xp, dy + i * dp, m, v, d, r, w + i if weighted else w, weighted, x_ahead, d_ahead, a, b, False)
    for k in range(m):
        add_up(s + k, lost + k, a[k], a[0])
        add_up(q + k, lost + WIDE + k, b[k], b[0])


cdef inline void block_gradients(const storage* x, const storage* dy, Py_ssize_t xp, Py_ssize_t dp, Py_ssize_t n,
                                 Py_ssize_t width, const work* shift, const work* delta, const work* scale, const work* w,
                                 bint weighted, bint far, double* s, double* q) noexcept nogil:
    """s[j] = sum g, q[j] = sum g * z over a block of n positions; float64: at most WIDE columns"""
    cdef double lost[2 * WIDE]
    cdef Py_ssize_t i, j, m, x_ahead, d_ahead
    begin_sums(s, q, lost, width, shift[0])
    for i from 0 <= i < n by CHUNK:
        m = min(<Py_ssize_t>CHUNK, n - i)
        x_ahead = 0 if not far else CHUNK * xp if i + CHUNK < n else width - i * xp
        d_ahead = 0 if not far else CHUNK * dp if i + CHUNK < n else width - i * dp
        j = 0
        while j + LANES <= width:
            chunk_gradients(x + i * xp + j, dy + i * dp + j, xp, dp, m, LANES, shift + j, delta + j, scale + j,
                            w + i if weighted else NULL, weighted, x_ahead, d_ahead, s + j, q + j, lost + j)
            j += LANES
        if j < width:
            chunk_gradients(x + i * xp + j, dy + i * dp + j, xp, dp, m, width - j, shift + j, delta + j, scale + j,
                            w + i if weighted else NULL, weighted, x_ahead, d_ahead, s + j, q + j, lost + j)
    end_sums(s, q, lost, width, shift[0])


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
        to.scale[k] = refined(to.var[k] + eps, to.rstd[k], zero)
        to.sound[k] = sound(to.delta[k], square[k], eps, zero) & chance(to.delta[k], square[k], taken)
        all_sound &= to.sound[k]
    return all_sound
