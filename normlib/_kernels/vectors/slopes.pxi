# The sums that gradients need: sum g and sum g * z, where g = dy * weight and z = (x - shift - delta) * scale; and, element by element,
# those of dy * z and dy that are dweight and dbias. In blocks and lanes as in reduce.pxi.

cdef struct Slopes:
    # What is known of a row. The vectors beside it are of the working type; what is absent is told by constants.
    bint shifted, corrected, weighted, weight_grads, bias_grads
    bint narrow         # x and dy are of 16 bits
    bint apart          # the row may lie in several runs
    double shift, delta, scale
    const void* weight
    void* dweight
    void* dbias
    Py_ssize_t first, stop      # the elements of the row that are taken, by whole blocks
    Py_ssize_t rows             # short ones that lie evenly, whose statistics are in the table; else 1
    Py_ssize_t x_apart, dy_apart
    const void* table
    Py_ssize_t x_ahead, dy_ahead


cdef inline void slope_lanes(const Slopes* c, const stored* x, const stored* dy, Py_ssize_t i, Py_ssize_t m, work* a, work* q, bint part) noexcept nogil:
    """What elements i to i + LANES, or the last m, add to the lanes of sum g (a) and sum g * z (q), to dweight and dbias"""
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef work tw[LANES]
    cdef work tb[LANES]
    cdef work shift = <work>c.shift, delta = <work>c.delta, scale = <work>c.scale, one = unit(shift)
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


cdef inline void few_slopes(const Slopes* c, const stored* x, const stored* dy, Py_ssize_t n, double* sums, double* products, bint more,
                            work zero) noexcept nogil:
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


cdef inline void rows_few_slopes(const Slopes* given, const stored* x, const stored* dy, Py_ssize_t n, double* sums, double* products,
                                 work zero) noexcept nogil:
    """add_slopes of c.rows rows of n < ROUND * LANES elements"""
    cdef Slopes c = given[0]
    cdef const work* shift = <const work*>c.table + SHIFT * TOGETHER
    cdef const work* delta = <const work*>c.table + DELTA * TOGETHER
    cdef const work* scale = <const work*>c.table + SCALE * TOGETHER
    cdef Py_ssize_t k
    for k in range(c.rows):
        c.shift, c.delta, c.scale = shift[k], delta[k], scale[k]
        few_slopes(&c, x + k * c.x_apart, dy + k * c.dy_apart, n, sums + 8 * k, products + 8 * k, False, zero)


cdef inline void short_slopes(const work* x, const work* dy, Py_ssize_t n, Py_ssize_t x_apart, Py_ssize_t dy_apart, Py_ssize_t m,
                              const work* table, double (*sums)[8], double (*products)[8]) noexcept nogil:
    """add_slopes of m channels of n < ROUND * LANES elements, so many apart"""
    cdef Slopes c
    cdef const work* shift = table + SHIFT * TOGETHER
    cdef const work* scale = table + SCALE * TOGETHER
    if work is float and SHORT_ROWS:
        short_slopes_f32(<const float*>x, <const float*>dy, n, x_apart, dy_apart, m, <const float*>shift, <const float*>scale, sums, products)
        return
    c.shifted = True
    c.corrected = c.weighted = c.weight_grads = c.bias_grads = False
    c.x_ahead = c.dy_ahead = 0
    c.rows, c.x_apart, c.dy_apart, c.table = m, x_apart, dy_apart, table
    rows_few_slopes(&c, x, dy, n, sums[0], products[0], table[0])


cdef inline void slopes_round(const Slopes* c, const stored* x, const stored* dy, Py_ssize_t i, work* a, work* q) noexcept nogil:
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


cdef inline void block_slopes(const Slopes* c, const stored* x, const stored* dy, Py_ssize_t n, double* sums, double* products, bint more,
                              work zero) noexcept nogil:
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


cdef inline void some_slopes(const Slopes* c, const stored* x, const stored* dy, Py_ssize_t n, double* sums, double* products, bint more,
                             work zero) noexcept nogil:
    if n >= ROUND * LANES:
        block_slopes(c, x, dy, n, sums, products, more, zero)
    else:
        few_slopes(c, x, dy, n, sums, products, more, zero)


# ---- of a row ----

cdef inline void narrow_slopes(Slopes* c, const Array* x, const Array* dy, const char* row, const char* drow, Py_ssize_t i, Py_ssize_t n,
                               double* sums, double* products) noexcept nogil:
    """add_slopes of a block of rounds from element i of n on, or of the last: where they lie, or widened"""
    cdef float room[BLOCK]
    cdef float droom[BLOCK]
    cdef Py_ssize_t whole = n - n % (ROUND * LANES), m = min(<Py_ssize_t>BLOCK, whole - i) if i < whole else n - whole
    cdef const char* t = lying(x, row, i, m)
    cdef const char* g = lying(dy, drow, i, m)
    c.x_ahead, c.dy_ahead = ahead_of(x, i, n), ahead_of(dy, i, n)
    if c.apart and (t == NULL or g == NULL):
        gather(x, row, i, m, room)
        gather(dy, drow, i, m, droom)
        c.x_ahead = c.dy_ahead = 0
        some_slopes(c, <const float*>room, <const float*>droom, m, sums, products, i > 0, <float>0)
    elif x.dtype == F16:
        some_slopes(c, <const half_t*>t, <const half_t*>g, m, sums, products, i > 0, <float>0)
    else:
        some_slopes(c, <const bf16_t*>t, <const bf16_t*>g, m, sums, products, i > 0, <float>0)
    advance(c, m, <float>0)


cdef inline void narrow_row_slopes(Slopes* c, const Array* x, const Array* dy, const char* row, const char* drow, Py_ssize_t n,
                                   double* sums, double* products) noexcept nogil:
    cdef Py_ssize_t whole = n - n % (ROUND * LANES), i
    if c.rows > 1:
        c.x_ahead, c.dy_ahead = x.ahead, dy.ahead
        if x.dtype == F16:
            rows_few_slopes(c, <const half_t*>row, <const half_t*>drow, n, sums, products, <float>0)
        else:
            rows_few_slopes(c, <const bf16_t*>row, <const bf16_t*>drow, n, sums, products, <float>0)
        return
    for i from c.first <= i < min(whole, c.stop) by BLOCK:
        narrow_slopes(c, x, dy, row, drow, i, n, sums, products)
    if whole < c.stop:
        narrow_slopes(c, x, dy, row, drow, whole, n, sums, products)


cdef inline bint narrow_both(const Array* x, const Array* dy) noexcept nogil:
    return CONVERTS and x.itemsize == sizeof(half_t) and dy.itemsize == sizeof(half_t)


cdef inline void working_row_slopes(Slopes* c, const Array* x, const Array* dy, const char* row, const char* drow, Py_ssize_t n,
                                    double* sums, double* products, work zero) noexcept nogil:
    cdef work room[BLOCK]
    cdef work droom[BLOCK]
    cdef double block[2][8]
    cdef double lost[2][8]
    cdef Py_ssize_t whole = n - n % (ROUND * LANES), i, m
    cdef const work* t
    cdef const work* g
    if c.rows > 1:
        c.x_ahead, c.dy_ahead = x.ahead, dy.ahead
        rows_few_slopes(c, <const work*>row, <const work*>drow, n, sums, products, zero)
        return
    if work is double and whole > BLOCK:
        memset(lost, 0, sizeof(lost))
    for i from c.first <= i < min(whole, c.stop) by BLOCK:
        m = min(<Py_ssize_t>BLOCK, whole - i)
        t, g = take_ahead(x, row, i, m, n, &c.x_ahead, room), take_ahead(dy, drow, i, m, n, &c.dy_ahead, droom)
        if work is double and i > 0:
            block_slopes(c, t, g, m, block[0], block[1], False, zero)
            add_block(sums, products, lost, block, True)
        else:
            block_slopes(c, t, g, m, sums, products, i > 0, zero)
        advance(c, m, zero)
    if work is double and whole > BLOCK:
        end_blocks(sums, products, lost, True)
    if whole < c.stop:
        m = n - whole
        t, g = take_ahead(x, row, whole, m, n, &c.x_ahead, room), take_ahead(dy, drow, whole, m, n, &c.dy_ahead, droom)
        few_slopes(c, t, g, m, sums, products, whole > 0, zero)


cdef inline void row_slopes(Slopes* c, const Array* x, const Array* dy, const char* row, const char* drow, Py_ssize_t n,
                            double* sums, double* products, work zero) noexcept nogil:
    """add_slopes of a row of n elements, or of some blocks of it; of float64 all at once"""
    if work is float:
        if CONVERTS and c.narrow:
            narrow_row_slopes(c, x, dy, row, drow, n, sums, products)
            return
    working_row_slopes(c, x, dy, row, drow, n, sums, products, zero)


cdef inline void advance(Slopes* c, Py_ssize_t n, work zero) noexcept nogil:
    """The vectors beside the row, to its next block."""
    if c.weighted:
        c.weight = <const work*>c.weight + n
    if c.weight_grads:
        c.dweight = <work*>c.dweight + n
    if c.bias_grads:
        c.dbias = <work*>c.dbias + n
