# LayerNorm and RMSNorm over neighbouring elements: a row is `segments` runs of `length`, its parameters are vectors beside it.
#   LayerNorm (Ba, Kiros, Hinton 2016): y = (x - mean) / sqrt(var + eps) * weight + bias
#   RMSNorm (Zhang, Sennrich 2019):     y = x / sqrt(mean(x^2) + eps) * weight
# Backward: dx = rstd * (g - mean(g) - z * mean(g * z)), where RMSNorm drops mean(g); dweight = sum dy * z, dbias = sum dy.
# A first visit of a row takes all sums, a second writes dx.

cdef inline void feature_kinds(Affine* c, const Plan* p, const work* w, const work* table) noexcept nogil:
    beside(c, table, TOGETHER)
    c.of_weight, c.of_bias = w, p.bias
    c.statistics = c.through = ONE
    c.center = ONE if p.centered else ABSENT
    c.weight = MANY if w != NULL else ABSENT
    c.bias = MANY if p.bias != NULL else ABSENT


cdef enum:
    MANY_ROWS = 3       # of a sample, from which on a lot ends with the sample, for its rows are evenly apart


cdef inline Py_ssize_t in_a_sample(const Plan* p, Py_ssize_t r) noexcept nogil:
    """How many rows from r on a lot may have: not more than follow evenly."""
    return p.groups - r % p.groups if p.groups >= MANY_ROWS else p.samples * p.groups


cdef inline Py_ssize_t rows_apart(const Array* a) noexcept nogil:
    """Bytes from one row to the next of a sample."""
    return a.sample if a.groups == 1 else a.group


cdef inline bint even_rows(const Plan* p, Py_ssize_t r, Py_ssize_t m) noexcept nogil:
    """Whether m rows from r on are evenly apart in every array."""
    return p.groups == 1 or r % p.groups + m <= p.groups


cdef inline bint in_place(const Pass* s, const Array* x, Py_ssize_t r, Py_ssize_t m) noexcept nogil:
    """Whether m rows from r on are computed from memory to memory."""
    cdef Spot spot
    cdef int i
    if s.plan.fused:
        spot = row_spot(s, x, r)
    for i in range(BESIDE, OUTPUTS if s.plan.fused else 0):
        if spot.beside[i] != NULL and not (s.beside[i].plain and s.beside[i].whole):
            return False
    return straight(s.plan, x) and x.whole and s.y.whole and not s.writer.streaming and even_rows(s.plan, r, m)


cdef inline bint in_one_stretch(const Pass* s, const Array* x, Py_ssize_t r, Py_ssize_t m) noexcept nogil:
    """Whether m rows are computed side by side in L1, and leave for y together, past the caches."""
    cdef Py_ssize_t bytes = s.plan.parameters * x.itemsize
    return (s.writer.streaming and s.apart and not s.plan.fused and 1 < m and 2 * bytes <= OUT_BYTES and even_rows(s.plan, r, m)
            and straight(s.plan, x) and x.whole and s.y.whole and rows_apart(&s.y) == bytes)


cdef inline void follow_rows(const Pass* s, const Array* x, Py_ssize_t r, Py_ssize_t m, work zero) noexcept nogil:
    """The epilogue of rows that were computed in their place."""
    cdef Spot spot
    cdef Py_ssize_t k
    for k in range(m if s.plan.fused else 0):
        spot = row_spot(s, x, r + k)
        if not follows(s, &spot):
            return
        follow(s.plan, <work*>spot.y, <const void**>spot.beside, s.plan.parameters)


cdef void rows_normalize(Pass* s, const Array* x, Py_ssize_t r, Py_ssize_t m, const work* table, const Affine* c, bint scaled) noexcept nogil:
    cdef Affine row
    cdef Block b
    cdef Spot spot
    cdef Py_ssize_t n = s.plan.parameters, k, step
    if s.y.dtype == I8:
        lot_quantized(s, x, r, m, table, c, scaled)
        return
    if in_place(s, x, r, m) and s.apart and not scaled:
        b.rows, b.width, b.ahead = m, n, x.later
        b.x, b.y = rows_apart(x) // x.itemsize, rows_apart(&s.y) // x.itemsize
        normalize_in(x.dtype, c, &b, row_at(x, r), row_at(&s.y, r), table[0])
        follow_rows(s, x, r, m, table[0])
        return
    if not scaled and in_one_stretch(s, x, r, m):
        b.width, b.ahead, b.x, b.y = n, x.later, rows_apart(x) // x.itemsize, n
        step = OUT_BYTES // (n * x.itemsize)
        for k from 0 <= k < m by step:
            row = row_of(c, k, table[0])
            b.rows = min(m - k, step)
            normalize_in(x.dtype, &row, &b, row_at(x, r + k), s.out, table[0])
            send(&s.writer, row_at(&s.y, r + k), s.out, b.rows * n * x.itemsize)
        return
    for k in range(m):
        row = row_of(c, k, table[0])
        spot = row_spot(s, x, r + k)
        normalize_pieces(s, x, &spot, n, &row, table[FACTOR * TOGETHER + k] if scaled else <work>1)


cdef inline const void* parameter_of(const Plan* p, const char* parameter, const Span* span, Py_ssize_t r, work zero) noexcept nogil:
    return <const work*>parameter + r // p.groups * span.sample + r % p.groups * span.channel if parameter != NULL else NULL


cdef void own_normalize(Pass* s, const Array* x, Py_ssize_t r, Py_ssize_t m, const work* table, const Affine* c, bint scaled) noexcept nogil:
    """rows_normalize of rows with parameters of their own: at once those that share them."""
    cdef const Plan* p = s.plan
    cdef bint shared = p.groups > 1 and p.ws.channel == 0 and p.bs.channel == 0
    cdef Py_ssize_t k = 0, n
    cdef Affine some
    while k < m:
        n = min(m - k, p.groups - (r + k) % p.groups) if shared else 1
        some = row_of(c, k, table[0])
        some.of_weight = parameter_of(p, p.weight, &p.ws, r + k, table[0])
        some.of_bias = parameter_of(p, p.bias, &p.bs, r + k, table[0])
        rows_normalize(s, x, r + k, n, table + k, &some, scaled)
        k += n


cdef void feature_rows_from(const Plan* p, Py_ssize_t r, Py_ssize_t stop, work zero) noexcept nogil:
    """Rows r to stop."""
    cdef Py_ssize_t n = p.parameters, most = together(n, p.streaming), step = round_up(n, LINE // sizeof(work)), m
    cdef work table[TABLE * TOGETHER]
    cdef bint scaled
    cdef Affine c
    cdef Residual residual
    cdef Inside inside
    cdef Pass s
    cdef Array taken
    cdef Array* x
    cdef bint masked = open_inside(&inside, p, NULL, False, zero) and not p.given, direct, at_once
    open_pass(&s, p, zero)
    open_residual(&residual, p.before, p.streaming, zero)
    direct = straight(p, &s.x) and (p.before == NULL or not residual.kept)
    feature_kinds(&c, p, <const work*>p.weight, table)
    at_once = p.before != NULL and summed_at_once(&residual, n) and not residual.kept and not masked and not p.given and direct
    if p.before != NULL and p.gate_first and residual.kept:
        most = min(most, panel_of(zero) // n)
    elif p.gate_first:
        s.writer.streaming = False      # y, where the product is, is in cache
    while r < stop:
        m = alike_rows(p, r, min(most, stop - r, in_a_sample(p, r)), n)
        if p.before != NULL and residual.kept and m * n <= panel_of(zero):
            x = residual_taken(&residual, r, m, step, &taken, <work*>s.room)
        else:
            if p.before != NULL:
                if not at_once:
                    residual_rows(&residual, r, r + m, zero)
                look_ahead_before(&residual, &s.x, p, r, m)
            if direct:
                look_ahead_of(&s.x, p, r, 0)
            x = &s.x if direct and n >= ROUND * LANES else take_rows(&s.x, r, m, step, &taken, <work*>s.room, panel_of(zero))
        if work is float and at_once:
            scaled = sums_statistics(p, x, &residual, r, m, table)
        elif masked:
            scaled = inside_statistics(p, x, &inside, r, m, table)
        else:
            scaled = given_statistics(p, r, m, table, True) if p.given else rows_statistics(p, x, r, m, table)
        if direct:
            x = &s.x
        if p.own:
            own_normalize(&s, x, r, m, table, &c, scaled)
        else:
            rows_normalize(&s, x, r, m, table, &c, scaled)
        r += m
    close_writer(&s.writer)
    if p.before != NULL:
        close_writer(&residual.writer)


cdef void feature_rows_forward(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    feature_rows_from(p, task * p.batch, min((task + 1) * p.batch, p.samples * p.groups), zero)


# ---- one row alone: what lots of rows share takes longer than its elements. The same operations in the same order, so the same bits. ----

cdef inline void row_statistics(const Plan* p, const Array* x, Statistics* found, work zero) noexcept nogil:
    cdef Py_ssize_t n = p.length, taken = min(<Py_ssize_t>SAMPLE, n) if n <= BLOCK else sampled(n)   # without its divisions
    cdef double sums[8]
    cdef double squares[8]
    cdef double s[2]
    cdef work shift = 0
    s[0] = 0
    if p.centered:
        row_sample(x, p.x, sums, zero)
        shift = <work>over(sum_8(sums), taken)
        row_moments(x, p.x, n, sums, squares, shift, True)
        s[0] = sum_8(sums)
    else:
        row_moments(x, p.x, n, sums, squares, shift, False)
    s[1] = sum_8(squares)
    settle(s, n, p.eps, shift, found)
    if not (trusted(s, n, p.eps, zero) and chance(over(s[0], n), over(s[1], n), taken)):
        row_again(x, p.x, n, p.centered, p.eps, shift + over(s[0], n), found, zero)


cdef void row_in_pieces(const Plan* p, const Array* x, const Affine* c, work factor) noexcept nogil:
    """A row of 16 bits, or one whose elements are taken times a factor."""
    cdef work room[BLOCK]
    cdef Array y = x[0]
    cdef Affine k
    cdef Block b
    cdef const work* t
    cdef Py_ssize_t i, l
    b.rows, b.ahead = 1, 0
    for i from 0 <= i < p.length by BLOCK:
        b.width = min(<Py_ssize_t>BLOCK, p.length - i)
        k = from_element(c, i, factor)
        t = take(x, p.x, i, b.width, room)
        for l in range(b.width):
            room[l] = t[l] * factor
        normalize(&k, &b, room, room)
        narrow_to(&y, room, b.width, p.y + i * y.itemsize)


cdef void feature_row(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """Of the plan it reads x, y, dtype, weight, bias, length, centered, eps, mean and rstd."""
    cdef work table[TABLE * TOGETHER]
    cdef Statistics found
    cdef Array row
    cdef Affine c
    cdef Block b
    open_run(&row, p.dtype, p.length, zero)
    row_statistics(p, &row, &found, zero)
    table[SHIFT * TOGETHER], table[DELTA * TOGETHER], table[SCALE * TOGETHER] = <work>found.shift, <work>found.delta, <work>found.scale
    if p.mean != NULL:
        p.mean[0] = (found.shift + found.delta) / found.factor
    if p.rstd != NULL:
        p.rstd[0] = found.rstd
    feature_kinds(&c, p, <const work*>p.weight, table)
    if found.factor != 1 or not loadable(&row):
        row_in_pieces(p, &row, &c, <work>found.factor)
        return
    b.rows, b.width, b.x, b.y, b.ahead = 1, p.length, p.length, p.length, 0
    normalize_in(row.dtype, &c, &b, p.x, p.y, zero)


cdef void sum_row(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """The sum with a residual that a row alone is taken from."""
    cdef work room[ABREAST]
    cdef work more[ABREAST]
    cdef Array row
    cdef const work* t
    cdef const work* a
    cdef Py_ssize_t i, m
    open_run(&row, p.dtype, p.length, zero)
    if loadable(&row):
        add_in(p.dtype, p.x, p.dy, p.y, p.length, zero)
        return
    for i from 0 <= i < p.length by ABREAST:
        m = min(<Py_ssize_t>ABREAST, p.length - i)
        t, a = take(&row, p.x, i, m, room), take(&row, p.dy, i, m, more)
        add_elements(t, a, room, m)
        narrow_to(&row, room, m, p.y + i * row.itemsize)


# ---- backward ----

cdef enum:
    WIDE_LOT_BYTES = 1 << 17    # of rows of x and dy that are taken block by block


cdef inline void slopes_of(const Slopes* c, const Array* x, const Array* dy, const char* row, const char* drow, Py_ssize_t n,
                           double* sums, double* products, work zero) noexcept nogil:
    """row_slopes with a weight, where what is absent is a constant"""
    cdef Slopes k = c[0]
    k.weighted = True
    if c.shifted and c.weight_grads:
        k.shifted = k.corrected = k.weight_grads = k.bias_grads = True
        row_slopes(&k, x, dy, row, drow, n, sums, products, zero)
    elif c.shifted:
        k.shifted = k.corrected = True
        k.weight_grads = k.bias_grads = False
        row_slopes(&k, x, dy, row, drow, n, sums, products, zero)
    elif c.weight_grads:
        k.weight_grads = True
        k.shifted = k.corrected = k.bias_grads = False
        row_slopes(&k, x, dy, row, drow, n, sums, products, zero)
    else:
        k.shifted = k.corrected = k.weight_grads = k.bias_grads = False
        row_slopes(&k, x, dy, row, drow, n, sums, products, zero)


cdef void feature_slopes(const Slopes* c, const Array* x, const Array* dy, const char* row, const char* drow, Py_ssize_t n, double* sums,
                         double* products, work zero) noexcept nogil:
    cdef Slopes k = c[0]
    k.narrow = False
    slopes_of(&k, x, dy, row, drow, n, sums, products, zero)


cdef void narrow_feature_slopes(const Slopes* c, const Array* x, const Array* dy, const char* row, const char* drow, Py_ssize_t n, double* sums,
                                double* products) noexcept nogil:
    """Of 16 bits that lie side by side."""
    cdef Slopes k = c[0]
    k.narrow, k.apart = True, False
    slopes_of(&k, x, dy, row, drow, n, sums, products, <float>0)


cdef void rounded_gradients(const Plan* p, const Array* x, const Array* dy, const char* row, const char* drow, const float* table, float* dw,
                            float* db) noexcept nogil:
    """What a row adds to dweight and dbias, where the weight was multiplied by rounded values; its entries of the table come first."""
    cdef float room[ABREAST]
    cdef float slopes[ABREAST]
    cdef float z[ABREAST]
    cdef Affine c
    cdef Block b
    cdef const float* t
    cdef const float* g
    cdef Py_ssize_t i, j
    feature_kinds(&c, p, NULL, table)
    c.bias = ABSENT
    b.rows, b.ahead = 1, 0
    for i from 0 <= i < p.parameters by ABREAST:
        b.width = min(<Py_ssize_t>ABREAST, p.parameters - i)
        t, g = take(x, row, i, b.width, room), take(dy, drow, i, b.width, slopes)
        normalize_by(p, &c, &b, t, z)
        for j in range(b.width):
            dw[i + j] += g[j] * z[j]
        if p.centered:
            for j in range(b.width):
                db[i + j] += g[j]


cdef inline Py_ssize_t rows_by_blocks(const Plan* p, work zero) noexcept nogil:
    """Of how many rows the blocks are taken in turn, so that those of dweight and dbias stay in L1, which does not hold a whole row
    of all four arrays; 0: row by row. What is rounded off the sums of float64 is kept for one row alone."""
    cdef Py_ssize_t bytes = 2 * p.parameters * p.itemsize
    if work is double or not p.weight_grads or p.inside != NULL or 4 * p.parameters * <Py_ssize_t>sizeof(work) <= p.l1_bytes:
        return 0
    return max(<Py_ssize_t>1, min(<Py_ssize_t>TOGETHER, WIDE_LOT_BYTES // bytes))


cdef inline bint narrow_rows(const Array* x, const Array* dy, const char* row, const char* drow, Py_ssize_t n) noexcept nogil:
    return narrow_both(x, dy) and lying(x, row, 0, n) != NULL and lying(dy, drow, 0, n) != NULL


cdef inline bint all_even(const Array* x, const Array* dy, Py_ssize_t r, Py_ssize_t m, Slopes* c) noexcept nogil:
    """Whether m rows from r on lie evenly in both, where they need not be taken to a panel; then how far apart."""
    cdef Py_ssize_t size = x.itemsize
    if not ((x.plain and dy.plain) or (narrow_both(x, dy) and loadable(x) and loadable(dy))):
        return False
    if not (evenly(x, r, m, &c.x_apart) and evenly(dy, r, m, &c.dy_apart)):
        return False
    c.x_apart, c.dy_apart = c.x_apart // size, c.dy_apart // size
    return True


cdef void rows_slopes(const Plan* p, Array* x, Array* dy, Inside* inside, Py_ssize_t r, Py_ssize_t m, const work* w, work* dw, work* table) noexcept nogil:
    """Statistics and coefficients (`descent`) of m <= TOGETHER rows from r on, and their share of dweight and dbias."""
    cdef Rows rows
    cdef Slopes c
    cdef Array filled
    cdef const Array* taken
    cdef double s[TOGETHER]
    cdef double q[TOGETHER]
    cdef work* shift = table + SHIFT * TOGETHER
    cdef work* delta = table + DELTA * TOGETHER
    cdef work* scale = table + SCALE * TOGETHER
    cdef Py_ssize_t n = p.parameters, together = rows_by_blocks(p, table[0]), step = BLOCK if together > 1 else n, first, k
    c.shifted, c.weight_grads = p.centered, p.weight_grads and not p.round_first
    c.rows, c.table = m if n < ROUND * LANES and p.inside == NULL and all_even(x, dy, r, m, &c) else 1, table
    memset(delta, 0, TOGETHER * sizeof(work))
    given_statistics(p, r, m, table, False)
    for first from 0 <= first < n by step:
        c.first, c.stop = first, min(first + step, n)
        for k from 0 <= k < m by c.rows:
            look_ahead_of(x, p, r + k, together)
            look_ahead_of(dy, p, r + k, together)
            c.shift, c.delta, c.scale = shift[k], delta[k], scale[k]
            c.weight, c.dweight, c.dbias = w + first, at(dw, first, dw != NULL), at(dw, n + first, dw != NULL)
            taken = by_mask(x, inside, r + k, 0, c.shift, &filled)
            if narrow_rows(taken, dy, row_at(x, r + k), row_at(dy, r + k), n):
                narrow_feature_slopes(&c, taken, dy, row_at(x, r + k), row_at(dy, r + k), n, rows.sums[k], rows.squares[k])
            else:
                feature_slopes(&c, taken, dy, row_at(x, r + k), row_at(dy, r + k), n, rows.sums[k], rows.squares[k], table[0])
    for k in range(m):
        if work is float:
            if p.round_first and dw != NULL:
                taken = by_mask(x, inside, r + k, 0, shift[k], &filled)
                rounded_gradients(p, taken, dy, row_at(x, r + k), row_at(dy, r + k), table + k, dw, at(dw, n, p.centered))
    clear_rows(rows.sums, m, m)
    clear_rows(rows.squares, m, m)
    sum_rows(rows.sums, m, s)
    sum_rows(rows.squares, m, q)
    for k in range((m + 7) // 8 * 8):
        descent(s[k], q[k], n if p.inside == NULL or k >= m else p.inside[r + k], delta[k], scale[k], table + MEAN_G * TOGETHER + k,
                table + SLOPE * TOGETHER + k)


cdef void rows_descend(Pass* s, const Array* x, const Array* dy, Py_ssize_t r, Py_ssize_t m, const Affine* c, work zero) noexcept nogil:
    cdef Affine row
    cdef Spot spot
    cdef Block b
    cdef Py_ssize_t k, step
    if straight(s.plan, dy) and dy.whole and in_place(s, x, r, m) and s.apart:
        b.rows, b.width, b.ahead, b.dy_ahead = m, s.plan.parameters, x.later, dy.later
        b.x, b.dy, b.y = rows_apart(x) // x.itemsize, rows_apart(dy) // x.itemsize, rows_apart(&s.y) // x.itemsize
        descend_in(x.dtype, c, &b, row_at(x, r), row_at(dy, r), row_at(&s.y, r), zero)
        follow_rows(s, x, r, m, zero)
        return
    if straight(s.plan, dy) and dy.whole and in_one_stretch(s, x, r, m):
        b.width, b.ahead, b.dy_ahead = s.plan.parameters, x.later, dy.later
        b.x, b.dy, b.y = rows_apart(x) // x.itemsize, rows_apart(dy) // x.itemsize, b.width
        step = OUT_BYTES // (b.width * x.itemsize)
        for k from 0 <= k < m by step:
            row = row_of(c, k, zero)
            b.rows = min(m - k, step)
            descend_in(x.dtype, &row, &b, row_at(x, r + k), row_at(dy, r + k), s.out, zero)
            send(&s.writer, row_at(&s.y, r + k), s.out, b.rows * b.width * x.itemsize)
        return
    for k in range(m):
        row = row_of(c, k, zero)
        spot = row_spot(s, x, r + k)
        descend_pieces(s, x, dy, &spot, row_at(dy, r + k), s.plan.parameters, &row, zero)


cdef void feature_rows_parts(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """add_parts for parts of `few_rows`, whose sums are in the accumulators; task: a block of parameters."""
    cdef const work* a = <const work*>p.scratch
    cdef Py_ssize_t n = p.parameters, first = task * BLOCK, stop = min(first + BLOCK, n), part, i
    for part in range(p.parts):
        for i in range(first, stop):
            p.dweight[i] += a[i]
        if p.dbias != NULL:
            for i in range(first, stop):
                p.dbias[i] += a[n + i]
        a += 2 * n


cdef void feature_rows_backward(const Plan* p, Py_ssize_t part, work zero) noexcept nogil:
    cdef Py_ssize_t n = p.parameters, r = part * p.batch, first = r, stop = min(r + p.batch, p.samples * p.groups), m
    cdef Py_ssize_t most = max(together(2 * n, p.streaming), rows_by_blocks(p, zero)), step = round_up(n, LINE // sizeof(work)), begin, ready = r
    cdef work table[TABLE * TOGETHER]
    cdef const work* w = <const work*>p.weight
    cdef work* dw = at(<work*>p.scratch, 2 * n * part, True) if p.weight_grads else NULL
    cdef Affine c
    cdef Pass s
    cdef Inside inside
    cdef Array x_taken, dy_taken
    cdef Array* x
    cdef Array* dy
    cdef bint direct
    open_pass(&s, p, zero)
    direct = not open_inside(&inside, p, NULL, True, zero) and p.before == NULL and straight(p, &s.x) and straight(p, &s.dy)
    feature_kinds(&c, p, w, table)
    memset(table, 0, sizeof(table))
    while r < stop:
        m = alike_rows(p, r, min(most, stop - r, LANES - (r - first) % LANES, in_a_sample(p, r)), n)
        if p.before != NULL and ready < r + m:
            begin = ready       # not r: what is ready may lie in dy
            ready = min(stop, r + max(m, 2 * PANEL // n))   # more than a lot: to begin takes as long as some hundred elements
            if p.before.upstream:
                feature_rows_from(p.before, begin, ready, zero)
            else:
                rows_before(p.before, begin, ready, zero)
        x, dy = &s.x, &s.dy
        if not direct:
            x = take_rows(x, r, m, step, &x_taken, <work*>s.room, panel_of(zero) // 2)
            dy = take_rows(dy, r, m, step, &dy_taken, <work*>(s.room + ROOM_BYTES // 2), panel_of(zero) // 2)
        rows_slopes(p, x, dy, &inside, r, m, w, dw, table)
        rows_descend(&s, x, dy, r, m, &c, zero)
        r += m
        if dw != NULL and not few_rows(p) and ((r - first) % LANES == 0 or r == stop):
            # the sums of at most LANES rows move to float64
            add_gradients(p, part * n, dw, dw + n, n, zero)
            memset(dw, 0, 2 * n * sizeof(work))
    close_writer(&s.writer)
