# LayerNorm and RMSNorm over neighbouring elements, backward (z = (x - mean) * rstd, g = dy * weight):
#   dx = rstd * (g - mean(g) - z * mean(g * z)), where RMSNorm drops mean(g); dweight = sum dy * z, dbias = sum dy
# A first pass over a row takes all sums, a second writes dx.

cdef inline void slope_lanes(const storage* x, const storage* dy, const work* w, work* dw, work* db, Py_ssize_t m,
                             work shift, work delta, work scale, work one, work* a, work* q,
                             bint centered, bint weighted, bint gradients,
                             Py_ssize_t xahead, Py_ssize_t dahead, bint part) noexcept nogil:
    """What LANES elements, or the last m, add to the lanes of sum g (a) and sum g * z (q), to dweight and dbias"""
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef work tw[LANES]
    cdef work tb[LANES]
    cdef int l, many = <int>m
    prefetch_ahead(x, xahead)
    prefetch_ahead(dy, dahead)
    if weighted:
        load_lanes(w, m, v, part)
    if gradients:
        load_lanes(dw, m, tw, part)
        if centered:
            load_lanes(db, m, tb, part)
    load_lanes(x, m, z, part)
    load_lanes(dy, m, g, part)
    for l in range(LANES):
        if centered:
            z[l] = minus(z[l], shift, one) - delta
        z[l] *= scale
        if gradients:
            tw[l] += g[l] * z[l]
            if centered:
                tb[l] += g[l]
        if weighted:
            g[l] *= v[l]
        a[l] += g[l]
        z[l] *= g[l]
        if part:
            z[l] = z[l] if l < many else 0
        q[l] += z[l]
    if gradients:
        store_lanes(dw, m, tw, part)
        if centered:
            store_lanes(db, m, tb, part)


cdef inline void few_slopes(const storage* x, const storage* dy, const work* w, work* dw, work* db, Py_ssize_t n,
                            work shift, work delta, work scale, double* sums, double* products, bint more,
                            bint centered, bint weighted, bint gradients,
                            Py_ssize_t xahead, Py_ssize_t dahead) noexcept nogil:
    """sum g and sum g * z of fewer than ROUND * LANES elements. As add_moments."""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work one = unit(<work>0)
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    if n >= LANES:
        while True:
            slope_lanes(x + i, dy + i, at(w, i, weighted), at(dw, i, gradients), at(db, i, gradients), LANES, shift, delta, scale,
                        one, a, q, centered, weighted, gradients, xahead, dahead, False)
            i += LANES
            if i + LANES > n:
                break
        if i == n:
            fold_all(a, sums, more)
            fold_all(q, products, more)
            return
    slope_lanes(x + i, dy + i, at(w, i, weighted), at(dw, i, gradients), at(db, i, gradients), n - i, shift, delta, scale,
                one, a, q, centered, weighted, gradients, xahead, dahead, True)
    fold_all(a, sums, more)
    fold_all(q, products, more)


cdef inline void block_slopes(const storage* x, const storage* dy, const work* w, work* dw, work* db, Py_ssize_t n,
                              work shift, work delta, work scale, double* sums, double* products, bint more,
                              bint centered, bint weighted, bint gradients,
                              Py_ssize_t xahead, Py_ssize_t dahead) noexcept nogil:
    """sum g and sum g * z of rounds, at most a block. A round is added first: equal terms one after the other would be rounded alike."""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work ra[LANES]
    cdef work rq[LANES]
    cdef work one = unit(<work>0)
    cdef Py_ssize_t i = 0, k, l
    clear(a)
    clear(q)
    while i < n:
        clear(ra)
        clear(rq)
        for k in range(ROUND):
            slope_lanes(x + i, dy + i, at(w, i, weighted), at(dw, i, gradients), at(db, i, gradients), LANES, shift, delta, scale,
                        one, ra, rq, centered, weighted, gradients, xahead, dahead, False)
            i += LANES
        for l in range(LANES):
            a[l] += ra[l]
            q[l] += rq[l]
    fold_all(a, sums, more)
    fold_all(q, products, more)


cdef inline void add_slopes(const storage* x, const storage* dy, const work* w, work* dw, work* db, Py_ssize_t n,
                            work shift, work delta, work scale, double* sums, double* products,
                            bint centered, bint weighted, bint gradients,
                            Py_ssize_t xahead, Py_ssize_t dahead) noexcept nogil:
    """sum g and sum g * z of a row"""
    cdef double e[4][8]     # as in row_sums
    cdef double* s = sums
    cdef double* q = products
    cdef Py_ssize_t whole = n - n % (ROUND * LANES), i
    if work is double and whole > BLOCK:
        memset(e, 0, sizeof(e))
    for i from 0 <= i < whole by BLOCK:
        block_slopes(x + i, dy + i, at(w, i, weighted), at(dw, i, gradients), at(db, i, gradients), min(<Py_ssize_t>BLOCK, whole - i),
                     shift, delta, scale, s, q, i > 0 and work is float, centered, weighted, gradients, xahead, dahead)
        if work is double and i > 0:
            add_eight(sums, e[2], s)
            add_eight(products, e[3], q)
        elif work is double:
            s, q = e[0], e[1]
    if work is double and whole > BLOCK:
        regain_eight(sums, e[2])
        regain_eight(products, e[3])
    if whole < n:
        few_slopes(x + whole, dy + whole, at(w, whole, weighted), at(dw, whole, gradients), at(db, whole, gradients), n - whole,
                   shift, delta, scale, sums, products, whole > 0, centered, weighted, gradients, xahead, dahead)


cdef inline void row_slopes(const storage* x, const storage* dy, const work* w, work* dw, Py_ssize_t n,
                            work shift, work delta, work scale, double* sums, double* products,
                            bint centered, bint gradients,
                            Py_ssize_t xahead, Py_ssize_t dahead) noexcept nogil:
    cdef work* db = at(dw, n, gradients)
    if centered and w != NULL:
        add_slopes(x, dy, w, dw, db, n, shift, delta, scale, sums, products, True, True, gradients, xahead, dahead)
    elif centered:
        add_slopes(x, dy, w, dw, db, n, shift, delta, scale, sums, products, True, False, gradients, xahead, dahead)
    elif w != NULL:
        add_slopes(x, dy, w, dw, db, n, shift, delta, scale, sums, products, False, True, gradients, xahead, dahead)
    else:
        add_slopes(x, dy, w, dw, db, n, shift, delta, scale, sums, products, False, False, gradients, xahead, dahead)


cdef void rows_slopes(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage* x, const work* w, work* dw,
                      work* shift, work* scale, work* c1, work* c2) noexcept nogil:
    """Statistics and coefficients (`descent`) of m <= TOGETHER rows from r on, and their share of dweight and dbias."""
    cdef const storage* row
    cdef const storage* drow
    cdef Rows rows
    cdef double s[TOGETHER]
    cdef double q[TOGETHER]
    cdef work delta[TOGETHER]
    cdef Py_ssize_t n = p.length, k, xahead, dahead
    memset(delta, 0, sizeof(delta))
    for k in range(m):
        split_mean(p.mean[r + k] if p.centered else 0, &shift[k], &delta[k])
        scale[k] = <work>p.rstd[r + k]
    for k in range(m):
        row = row_of(x, &p.xs, p, r + k)
        drow = row_of(<const storage*>p.dy, &p.ds, p, r + k)
        xahead, dahead = row_ahead(x, &p.xs, p, r + k), row_ahead(<const storage*>p.dy, &p.ds, p, r + k)
        if p.weight_grads:
            row_slopes(row, drow, w, dw, n, shift[k], delta[k], scale[k], rows.sums[k], rows.squares[k], p.centered, True, xahead, dahead)
        else:
            row_slopes(row, drow, w, dw, n, shift[k], delta[k], scale[k], rows.sums[k], rows.squares[k], p.centered, False, xahead, dahead)
    clear_rows(rows.sums, m, m)
    clear_rows(rows.squares, m, m)
    sum_rows(rows.sums, m, s)
    sum_rows(rows.squares, m, q)
    for k in range((m + 7) // 8 * 8):
        descent(s[k], q[k], n, delta[k], scale[k], &c1[k], &c2[k])


cdef inline void backward_lanes(const storage* x, const storage* dy, storage* dx, const work* w, Py_ssize_t m,
                                work shift, work scale, work c1, work c2,
                                bint centered, bint weighted, bint part, bint past) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef Py_ssize_t l
    load_lanes(x, m, z, part)
    load_lanes(dy, m, g, part)
    if weighted:
        load_lanes(w, m, v, part)
    for l in range(LANES):
        if weighted:
            g[l] *= v[l]
        if centered:
            g[l] -= c1
            z[l] -= shift
        g[l] = scale * (g[l] - z[l] * c2)
    if past:
        stream(dx, g)
    else:
        store_lanes(dx, m, g, part)


cdef void backward_part(const storage* x, const storage* dy, storage* dx, const work* w, Py_ssize_t m,
                        work shift, work scale, work c1, work c2, bint centered, bint weighted) noexcept nogil:
    """As apply_part."""
    backward_lanes(x, dy, dx, w, m, shift, scale, c1, c2, centered, weighted, True, False)


cdef inline void row_backward(const storage* x, const storage* dy, storage* dx, const work* w, Py_ssize_t n,
                              work shift, work scale, work c1, work c2, bint centered, bint weighted,
                              Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    if past != NULL:
        i = to_line(dx)
        backward_part(x, dy, place(past, dx), w, i, shift, scale, c1, c2, centered, weighted)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            backward_lanes(x + i, dy + i, dx + i, at(w, i, weighted), LANES, shift, scale, c1, c2, centered, weighted, False, True)
            i += LANES
        backward_part(x + i, dy + i, place(past, dx + i), at(w, i, weighted), n - i, shift, scale, c1, c2, centered, weighted)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            backward_lanes(x + i, dy + i, dx + i, at(w, i, weighted), LANES, shift, scale, c1, c2, centered, weighted, False, False)
            i += LANES
        if i < n:
            backward_lanes(x + i, dy + i, dx + i, at(w, i, weighted), n - i, shift, scale, c1, c2, centered, weighted, True, False)


cdef inline void rows_descend(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage* x, const work* w,
                              const work* shift, const work* scale, const work* c1, const work* c2,
                              bint centered, bint weighted, Writer* writer) noexcept nogil:
    cdef Writer* past = writer if lane_by_lane(p, x) else NULL
    cdef bint staged = p.streaming and past == NULL
    cdef storage* dx
    cdef Py_ssize_t n = p.length, k
    for k in range(m):
        dx = <storage*>row_of(<storage*>p.y, &p.ys, p, r + k)
        row_backward(row_of(x, &p.xs, p, r + k), row_of(<const storage*>p.dy, &p.ds, p, r + k), place(writer, dx) if staged else dx,
                     w, n, shift[k], scale[k], c1[k], c2[k], centered, weighted, past)
        if staged:
            wrote(writer, n * sizeof(storage))


cdef void add_accumulators(const Plan* p, Py_ssize_t part, work* a, Py_ssize_t n) noexcept nogil:
    """Move the sums of at most LANES rows to float64."""
    add_gradients(p, part * n, a, a + n, n, <work>0)
    memset(a, 0, 2 * n * sizeof(work))


cdef void feature_rows_parts(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """add_parts for parts of `few_rows`, whose sums are in the accumulators; task: a block of parameters."""
    cdef const work* a = <const work*>p.scratch
    cdef Py_ssize_t n = p.length, first = task * BLOCK, stop = min(first + BLOCK, n), part, i
    for part in range(p.parts):
        for i in range(first, stop):
            p.dweight[i] += a[i]
        if p.dbias != NULL:
            for i in range(first, stop):
                p.dbias[i] += a[n + i]
        a += 2 * n


cdef void feature_rows_backward(const Plan* p, Py_ssize_t part, const storage* x, const work* w) noexcept nogil:
    cdef work shift[TOGETHER]
    cdef work scale[TOGETHER]
    cdef work c1[TOGETHER]
    cdef work c2[TOGETHER]
    cdef Py_ssize_t n = p.length, r = part * p.batch, first = r, stop = min(r + p.batch, p.samples * p.groups), m
    cdef Py_ssize_t most = together(2 * n, p.streaming)
    cdef work* dw = at(<work*>p.scratch, 2 * n * part, p.weight_grads)
    cdef Writer writer
    open_writer(&writer, p.streaming)
    memset(scale, 0, sizeof(scale))
    while r < stop:
        m = min(most, stop - r, LANES - (r - first) % LANES)
        rows_slopes(p, r, m, x, w, dw, shift, scale, c1, c2)
        if p.centered and w != NULL:
            rows_descend(p, r, m, x, w, shift, scale, c1, c2, True, True, &writer)
        elif p.centered:
            rows_descend(p, r, m, x, w, shift, scale, c1, c2, True, False, &writer)
        elif w != NULL:
            rows_descend(p, r, m, x, w, shift, scale, c1, c2, False, True, &writer)
        else:
            rows_descend(p, r, m, x, w, shift, scale, c1, c2, False, False, &writer)
        r += m
        if p.weight_grads and not few_rows(p) and ((r - first) % LANES == 0 or r == stop):
            add_accumulators(p, part, dw, n)
    close_writer(&writer)
