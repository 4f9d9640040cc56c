# Sums along a row, over blocks of at most BLOCK neighbouring elements of the working type; a sum in 8 parts, see `fold`.
#
# Lanes are added in rounds of ROUND, in pairs of pairs: terms that are added to a large one, or to equal ones, one after the
# other would all be rounded alike. What is left of a block is folded by FEW, which are added in turn. No ways join before the
# sums are folded: that would send the lanes through memory.

cdef enum:
    ROUND = 8           # vectors, or positions of columns, that are added in pairs of pairs
    FEW = ROUND // 2 * LANES    # elements that are too few for a round

# ---- sum (x - shift) and sum (x - shift)^2; about no shift, the squares alone ----

cdef inline void moment_lanes(const work* x, Py_ssize_t m, work* a, work* q, work shift, bint centered, Py_ssize_t ahead, bint part) noexcept nogil:
    cdef work t[LANES]
    cdef work one = unit(shift)
    cdef int l, many = <int>m
    prefetch_ahead(x, ahead)
    load_lanes(x, m, t, part)
    for l in range(LANES):
        if centered:
            t[l] = minus(t[l], shift, one)
            if part:
                t[l] = t[l] if l < many else 0
            a[l] += t[l]
        q[l] += t[l] * t[l]


cdef inline void fold_moments(const work* a, const work* q, double* sums, double* squares, bint centered, bint more) noexcept nogil:
    if centered:
        fold_all(a, sums, more)
    fold_all(q, squares, more)


cdef inline void few_moments(const work* x, Py_ssize_t n, double* sums, double* squares, work shift, bint centered, bint more, Py_ssize_t ahead) noexcept nogil:
    """add_moments of at most FEW elements"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    if n < LANES:
        moment_lanes(x, n, a, q, shift, centered, ahead, True)
        fold_moments(a, q, sums, squares, centered, more)
        return
    while True:
        moment_lanes(x + i, LANES, a, q, shift, centered, ahead, False)
        i += LANES
        if i + LANES > n:
            break
    if i == n:
        fold_moments(a, q, sums, squares, centered, more)
    else:
        moment_lanes(x + i, n - i, a, q, shift, centered, ahead, True)
        fold_moments(a, q, sums, squares, centered, more)


cdef inline void moments_round(const work* x, work* a, work* q, work shift, bint centered, Py_ssize_t ahead) noexcept nogil:
    """a[l] += sum t, q[l] += sum t^2 over t = x[l], x[l + HALF] .. x[l + 7 * HALF], less the shift, for the upper lanes over as many
    more: in the order of memory"""
    cdef work room[ROUND * HALF]
    cdef const work* t
    cdef work t0, t1, t2, t3, t4, t5, t6, t7, one = unit(shift)
    cdef Py_ssize_t l, k
    for k from 0 <= k < LANES by HALF:
        if ahead != 0:
            prefetch_bytes(<const char*>(x + k * ROUND) + ahead, ROUND * HALF * sizeof(work))
        t = <const work*>load_in_order(x + k * ROUND, room, ROUND * HALF * sizeof(work))
        for l in range(HALF):
            t0, t1, t2, t3 = t[l], t[l + HALF], t[l + 2 * HALF], t[l + 3 * HALF]
            t4, t5, t6, t7 = t[l + 4 * HALF], t[l + 5 * HALF], t[l + 6 * HALF], t[l + 7 * HALF]
            if centered:
                t0, t1, t2, t3 = minus(t0, shift, one), minus(t1, shift, one), minus(t2, shift, one), minus(t3, shift, one)
                t4, t5, t6, t7 = minus(t4, shift, one), minus(t5, shift, one), minus(t6, shift, one), minus(t7, shift, one)
                a[k + l] += ((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7))
            q[k + l] += ((t0 * t0 + t1 * t1) + (t2 * t2 + t3 * t3)) + ((t4 * t4 + t5 * t5) + (t6 * t6 + t7 * t7))


cdef inline void add_moments(const work* x, Py_ssize_t n, double* sums, double* squares, work shift, bint centered, bint more, Py_ssize_t ahead) noexcept nogil:
    """sums = sum (x - shift), squares = sum (x - shift)^2; more: added to what is there; ahead: what to prefetch meanwhile, if not 0"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef Py_ssize_t i = 0
    if n >= ROUND * LANES:
        clear(a)
        clear(q)
        while True:
            moments_round(x + i, a, q, shift, centered, ahead)
            i += ROUND * LANES
            if i + ROUND * LANES > n:
                break
        fold_moments(a, q, sums, squares, centered, more)
    while i < n:
        few_moments(x + i, min(<Py_ssize_t>FEW, n - i), sums, squares, shift, centered, more or i > 0, ahead)
        i += FEW


cdef inline void short_samples(const work* x, Py_ssize_t n, Py_ssize_t channels, Py_ssize_t channel, Py_ssize_t apart, Py_ssize_t m,
                               double (*sums)[8]) noexcept nogil:
    """The sums of the first n <= SAMPLE elements of each channel of m rows."""
    cdef Py_ssize_t k, c
    if work is float and SHORT_ROWS:
        short_samples_f32(<const float*>x, n, channels, channel, apart, m, sums)
        return
    for k in range(m):
        for c in range(channels):
            fold_sample(x + k * apart + c * channel, n, sums[k], c > 0)


cdef inline void short_moments(const work* x, Py_ssize_t n, Py_ssize_t apart, Py_ssize_t m, const work* shift, double (*sums)[8],
                               double (*squares)[8], bint centered) noexcept nogil:
    """add_moments of m rows of n < ROUND * LANES elements, so many apart: the loop over rows that does nothing else"""
    cdef Py_ssize_t k
    if work is float and SHORT_ROWS:
        if centered:
            short_moments_f32(<const float*>x, n, apart, m, <const float*>shift, sums, squares, True)
        else:
            short_moments_f32(<const float*>x, n, apart, m, <const float*>shift, sums, squares, False)
        return
    for k in range(m):
        few_moments(x + k * apart, min(<Py_ssize_t>FEW, n), sums[k], squares[k], shift[k], centered, False, 0)
        if n > FEW:
            few_moments(x + k * apart + FEW, n - FEW, sums[k], squares[k], shift[k], centered, True, 0)


# ---- sum g and sum g * z, where g = dy * weight and z = (x - shift - delta) * scale; and the sums of dy * z and dy, element by
# element, that are dweight and dbias ----

cdef struct Slopes:
    # What is known of a row. The vectors beside it are of the working type; what is absent is told by constants.
    bint shifted, corrected, weighted, weight_grads, bias_grads
    double shift, delta, scale
    const void* weight
    void* dweight
    void* dbias
    Py_ssize_t first, stop      # the elements of the row that are taken, by whole blocks
    Py_ssize_t x_ahead, dy_ahead


cdef inline void slope_lanes(const Slopes* c, const work* x, const work* dy, Py_ssize_t i, Py_ssize_t m, work* a, work* q, bint part) noexcept nogil:
    """What elements i to i + LANES, or the last m, add to the lanes of sum g (a) and sum g * z (q), to dweight and dbias"""
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef work tw[LANES]
    cdef work tb[LANES]
    cdef work shift = <work>c.shift, delta = <work>c.delta, scale = <work>c.scale, one = unit(x[0])
    cdef int l, many = <int>m
    prefetch_ahead(x + i, c.x_ahead)
    prefetch_ahead(dy + i, c.dy_ahead)
    if c.weighted:
        load_lanes(<const work*>c.weight + i, m, v, part)
    if c.weight_grads:
        load_lanes(<work*>c.dweight + i, m, tw, part)
    if c.bias_grads:
        load_lanes(<work*>c.dbias + i, m, tb, part)
    load_lanes(x + i, m, z, part)
    load_lanes(dy + i, m, g, part)
    for l in range(LANES):
        if c.shifted:
            z[l] = minus(z[l], shift, one)
        if c.corrected:
            z[l] -= delta
        z[l] *= scale
        if c.weight_grads:
            tw[l] += g[l] * z[l]
        if c.bias_grads:
            tb[l] += g[l]
        if c.weighted:
            g[l] *= v[l]
        a[l] += g[l]
        z[l] *= g[l]
        if part:
            z[l] = z[l] if l < many else 0
        q[l] += z[l]
    if c.weight_grads:
        store_lanes(<work*>c.dweight + i, m, tw, part)
    if c.bias_grads:
        store_lanes(<work*>c.dbias + i, m, tb, part)


cdef inline void few_slopes(const Slopes* c, const work* x, const work* dy, Py_ssize_t n, double* sums, double* products, bint more) noexcept nogil:
    """add_slopes of fewer than ROUND * LANES elements"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    if n >= LANES:
        while True:
            slope_lanes(c, x, dy, i, LANES, a, q, False)
            i += LANES
            if i + LANES > n:
                break
        if i == n:
            fold_moments(a, q, sums, products, True, more)
            return
    slope_lanes(c, x, dy, i, n - i, a, q, True)
    fold_moments(a, q, sums, products, True, more)


cdef inline void short_slopes(const work* x, const work* dy, Py_ssize_t n, Py_ssize_t x_apart, Py_ssize_t dy_apart, Py_ssize_t m,
                              const work* table, double (*sums)[8], double (*products)[8]) noexcept nogil:
    """add_slopes of m channels of n < ROUND * LANES elements, so many apart"""
    cdef Slopes c
    cdef Py_ssize_t k
    cdef const work* shift = table + SHIFT * TOGETHER
    cdef const work* scale = table + SCALE * TOGETHER
    if work is float and SHORT_ROWS:
        short_slopes_f32(<const float*>x, <const float*>dy, n, x_apart, dy_apart, m, <const float*>shift, <const float*>scale, sums, products)
        return
    c.shifted = True
    c.corrected = c.weighted = c.weight_grads = c.bias_grads = False
    c.x_ahead = c.dy_ahead = 0
    for k in range(m):
        c.shift, c.scale = shift[k], scale[k]
        few_slopes(&c, x + k * x_apart, dy + k * dy_apart, n, sums[k], products[k], False)


cdef inline void slopes_round(const Slopes* c, const work* x, const work* dy, Py_ssize_t i, work* a, work* q) noexcept nogil:
    """A round is added first: equal terms one after the other would be rounded alike."""
    cdef work ra[LANES]
    cdef work rq[LANES]
    cdef Py_ssize_t k, l
    clear(ra)
    clear(rq)
    for k in range(ROUND):
        slope_lanes(c, x, dy, i, LANES, ra, rq, False)
        i += LANES
    for l in range(LANES):
        a[l] += ra[l]
        q[l] += rq[l]


cdef inline void block_slopes(const Slopes* c, const work* x, const work* dy, Py_ssize_t n, double* sums, double* products, bint more) noexcept nogil:
    """add_slopes of rounds, at most a block"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    while i < n:
        slopes_round(c, x, dy, i, a, q)
        i += ROUND * LANES
    fold_moments(a, q, sums, products, True, more)


# ---- sums of a row from those of its blocks ----

cdef inline void add_block(double* sums, double* squares, double (*lost)[8], double (*block)[8], bint centered) noexcept nogil:
    if centered:
        add_eight(sums, lost[0], block[0])
    add_eight(squares, lost[1], block[1])


cdef inline void end_blocks(double* sums, double* squares, double (*lost)[8], bint centered) noexcept nogil:
    """What was rounded off, where the working type is float64."""
    if centered:
        regain_eight(sums, lost[0])
    regain_eight(squares, lost[1])


cdef inline const work* take_ahead(const Array* x, const char* row, Py_ssize_t i, Py_ssize_t m, Py_ssize_t n, Py_ssize_t* ahead, work* room) noexcept nogil:
    """`take` of a row of n elements, and how far ahead to prefetch meanwhile: where the row is far, in its runs."""
    cdef const work* t = take(x, row, i, m, room)
    cdef Py_ssize_t next
    ahead[0] = x.ahead if x.plain else 0
    if x.far:
        next = place_in(x, (i + AHEAD_BYTES // x.itemsize) % n)
        ahead[0] = next - place_in(x, i)
        if t == room:
            prefetch_bytes(row + next, m * x.itemsize)
            ahead[0] = 0
    return t


cdef inline void row_moments(const Array* x, const char* row, Py_ssize_t n, double* sums, double* squares, work shift, bint centered) noexcept nogil:
    """add_moments of a row of n elements"""
    cdef work room[BLOCK]
    cdef double block[2][8]     # sums and squares of a block, and what is rounded off as blocks are added up
    cdef double lost[2][8]
    cdef const work* t
    cdef Py_ssize_t i, m, ahead
    if work is double and n > BLOCK:
        memset(lost, 0, sizeof(lost))
    for i from 0 <= i < n by BLOCK:
        m = min(<Py_ssize_t>BLOCK, n - i)
        t = take_ahead(x, row, i, m, n, &ahead, room)
        if work is double and i > 0:
            add_moments(t, m, block[0], block[1], shift, centered, False, ahead)
            add_block(sums, squares, lost, block, centered)
        else:
            add_moments(t, m, sums, squares, shift, centered, i > 0, ahead)
    if work is double and n > BLOCK:
        end_blocks(sums, squares, lost, centered)


cdef inline void row_slopes(Slopes* c, const Array* x, const Array* dy, const char* row, const char* drow, Py_ssize_t n,
                            double* sums, double* products, work zero) noexcept nogil:
    """add_slopes of a row of n elements, or of some blocks of it; of float64 all at once"""
    cdef work room[BLOCK]
    cdef work droom[BLOCK]
    cdef double block[2][8]
    cdef double lost[2][8]
    cdef Py_ssize_t whole = n - n % (ROUND * LANES), i, m
    cdef const work* t
    cdef const work* g
    if work is double and whole > BLOCK:
        memset(lost, 0, sizeof(lost))
    for i from c.first <= i < min(whole, c.stop) by BLOCK:
        m = min(<Py_ssize_t>BLOCK, whole - i)
        t, g = take_ahead(x, row, i, m, n, &c.x_ahead, room), take_ahead(dy, drow, i, m, n, &c.dy_ahead, droom)
        if work is double and i > 0:
            block_slopes(c, t, g, m, block[0], block[1], False)
            add_block(sums, products, lost, block, True)
        else:
            block_slopes(c, t, g, m, sums, products, i > 0)
        advance(c, m, zero)
    if work is double and whole > BLOCK:
        end_blocks(sums, products, lost, True)
    if whole < c.stop:
        m = n - whole
        t, g = take_ahead(x, row, whole, m, n, &c.x_ahead, room), take_ahead(dy, drow, whole, m, n, &c.dy_ahead, droom)
        few_slopes(c, t, g, m, sums, products, whole > 0)


cdef inline void advance(Slopes* c, Py_ssize_t n, work zero) noexcept nogil:
    """The vectors beside the row, to its next block."""
    if c.weighted:
        c.weight = <const work*>c.weight + n
    if c.weight_grads:
        c.dweight = <work*>c.dweight + n
    if c.bias_grads:
        c.dbias = <work*>c.dbias + n
