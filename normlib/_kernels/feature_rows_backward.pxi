# LayerNorm and RMSNorm over neighbouring elements, backward (z = (x - mean) * rstd, g = dy * weight):
#   dx = rstd * (g - mean(g) - z * mean(g * z)), where RMSNorm drops mean(g); dweight = sum dy * z, dbias = sum dy
# A first pass over a row takes all sums, a second writes dx.

cdef inline void slope_lanes(const storage* x, const storage* dy, const work* w, work* a, work* q, work* dw, work* db, Py_ssize_t m,
                             work shift, work delta, work scale, work one, bint centered, bint weighted, bint gradients) noexcept nogil:
    """What m <= LANES elements add to the lanes of sum g (a), sum g * z (q), dweight and dbias"""
    cdef work z[LANES]
    cdef work g[LANES]
    cdef Py_ssize_t l
    load_some(x, m, z)
    load_some(dy, m, g)
    for l in range(LANES):
        if centered:
            z[l] = minus(z[l], shift, one) - delta
        z[l] *= scale
        if gradients:
            dw[l] += g[l] * z[l]
            if centered:
                db[l] += g[l]
        if weighted:
            g[l] *= w[l]
        a[l] += g[l]
        q[l] += g[l] * z[l] if m >= LANES or l < m else 0


cdef inline void slope_step(const storage** x, const storage** dy, const work* w, work* dw, work* db, Py_ssize_t i, Py_ssize_t m,
                            const Statistics* row, work* a, work* q, work* a1, work* q1, work one,
                            Py_ssize_t many, bint centered, bint weighted, bint gradients) noexcept nogil:
    cdef work v[LANES]
    cdef work tw[LANES]
    cdef work tb[LANES]
    if weighted:
        load_some(w + i, m, v)
    if gradients:
        load_some(dw + i, m, tw)
        if centered:
            load_some(db + i, m, tb)
    slope_lanes(x[0] + i, dy[0] + i, v, a, q, tw, tb, m, <work>row[0].shift, <work>row[0].delta, <work>row[0].scale, one,
                centered, weighted, gradients)
    if many == 2:
        slope_lanes(x[1] + i, dy[1] + i, v, a1, q1, tw, tb, m, <work>row[1].shift, <work>row[1].delta, <work>row[1].scale, one,
                    centered, weighted, gradients)
    if gradients:
        store_some(dw + i, m, tw)
        if centered:
            store_some(db + i, m, tb)


cdef inline void add_slopes(const storage** x, const storage** dy, const work* w, work* dw, work* db, Py_ssize_t n,
                            const Statistics* row, double* s, double* t,
                            Py_ssize_t many, bint centered, bint weighted, bint gradients) noexcept nogil:
    """s[k] = sum g, t[k] = sum g * z of one row or two: two share the reading and writing of dweight and dbias."""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work a1[LANES]
    cdef work q1[LANES]
    cdef work one = unit(<work>0)
    cdef Py_ssize_t i = 0, stop
    s[0] = t[0] = 0
    if many == 2:
        s[1] = t[1] = 0
    while i < n:
        stop = min(i + BLOCK, n)
        clear(a)
        clear(q)
        clear(a1)
        clear(q1)
        while i + LANES <= stop:
            slope_step(x, dy, w, dw, db, i, LANES, row, a, q, a1, q1, one, many, centered, weighted, gradients)
            i += LANES
        if i < stop:
            slope_step(x, dy, w, dw, db, i, stop - i, row, a, q, a1, q1, one, many, centered, weighted, gradients)
            i = stop
        s[0] += tree(a)
        t[0] += tree(q)
        if many == 2:
            s[1] += tree(a1)
            t[1] += tree(q1)


cdef inline void row_slopes(const storage** x, const storage** dy, const work* w, work* dw, Py_ssize_t n,
                            const Statistics* row, double* s, double* t, Py_ssize_t many, bint centered, bint gradients) noexcept nogil:
    cdef work* db = dw + n if gradients else dw
    if centered and w != NULL:
        add_slopes(x, dy, w, dw, db, n, row, s, t, many, True, True, gradients)
    elif centered:
        add_slopes(x, dy, w, dw, db, n, row, s, t, many, True, False, gradients)
    elif w != NULL:
        add_slopes(x, dy, w, dw, db, n, row, s, t, many, False, True, gradients)
    else:
        add_slopes(x, dy, w, dw, db, n, row, s, t, many, False, False, gradients)


cdef void rows_slopes(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage* x, const work* w, work* dw,
                      Statistics* found, double* c1, double* c2) noexcept nogil:
    """Statistics, mean(g) and mean(g * z) of m <= TOGETHER rows from r on, and their share of dweight and dbias."""
    cdef const storage* xs[2]
    cdef const storage* dys[2]
    cdef double mean
    cdef Py_ssize_t n = p.length, k, j
    for k in range(m):
        mean = p.mean[r + k] if p.centered else 0
        found[k].shift = <work>mean
        found[k].delta = mean - found[k].shift
        found[k].scale = p.rstd[r + k]
    k = 0
    while k < m:
        for j in range(min(<Py_ssize_t>2, m - k)):
            xs[j] = row_of(x, &p.xs, p, r + k + j)
            dys[j] = row_of(<const storage*>p.dy, &p.ds, p, r + k + j)
        if not p.weight_grads:
            row_slopes(xs, dys, w, dw, n, &found[k], &c1[k], &c2[k], 1, p.centered, False)
            k += 1
        elif k + 2 <= m:
            row_slopes(xs, dys, w, dw, n, &found[k], &c1[k], &c2[k], 2, p.centered, True)
            k += 2
        else:
            row_slopes(xs, dys, w, dw, n, &found[k], &c1[k], &c2[k], 1, p.centered, True)
            k += 1
    for k in range(TOGETHER):
        c1[k] /= n
        c2[k] /= n


cdef inline void backward_lanes(const storage* x, const storage* dy, storage* dx, const work* w, Py_ssize_t m,
                                work shift, work delta, work scale, work c1, work c2, work one,
                                bint centered, bint weighted, bint past) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef Py_ssize_t l
    load_some(x, m, z)
    load_some(dy, m, g)
    if weighted:
        load_some(w, m, v)
    for l in range(LANES):
        if centered:
            z[l] = minus(z[l], shift, one) - delta
        z[l] *= scale
        if weighted:
            g[l] *= v[l]
        if centered:
            g[l] -= c1
        g[l] = scale * (g[l] - z[l] * c2)
    if past:
        stream(dx, g)
    else:
        store_some(dx, m, g)


cdef void backward_part(const storage* x, const storage* dy, storage* dx, const work* w, Py_ssize_t m,
                        work shift, work delta, work scale, work c1, work c2, bint centered, bint weighted) noexcept nogil:
    """As apply_part."""
    backward_lanes(x, dy, dx, w, m, shift, delta, scale, c1, c2, unit(shift), centered, weighted, False)


cdef inline void row_backward(const storage* x, const storage* dy, storage* dx, const work* w, Py_ssize_t n,
                              work shift, work delta, work scale, work c1, work c2, bint centered, bint weighted, Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef work one = unit(shift)
    if past != NULL:
        i = to_line(dx)
        backward_part(x, dy, place(past, dx), w, i, shift, delta, scale, c1, c2, centered, weighted)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            backward_lanes(x + i, dy + i, dx + i, w + i if weighted else w, LANES, shift, delta, scale, c1, c2, one, centered, weighted, True)
            i += LANES
        backward_part(x + i, dy + i, place(past, dx + i), w + i if weighted else w, n - i, shift, delta, scale, c1, c2, centered, weighted)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            backward_lanes(x + i, dy + i, dx + i, w + i if weighted else w, LANES, shift, delta, scale, c1, c2, one, centered, weighted, False)
            i += LANES
        if i < n:
            backward_lanes(x + i, dy + i, dx + i, w + i if weighted else w, n - i, shift, delta, scale, c1, c2, one, centered, weighted, False)


cdef void row_descend(const storage* x, const storage* dy, storage* dx, const work* w, Py_ssize_t n,
                      const Statistics* row, double m1, double m2, bint centered, Writer* past) noexcept nogil:
    cdef work shift = <work>row.shift, delta = <work>row.delta, scale = <work>row.scale, c1 = <work>m1, c2 = <work>m2
    if centered and w != NULL:
        row_backward(x, dy, dx, w, n, shift, delta, scale, c1, c2, True, True, past)
    elif centered:
        row_backward(x, dy, dx, w, n, shift, delta, scale, c1, c2, True, False, past)
    elif w != NULL:
        row_backward(x, dy, dx, w, n, shift, delta, scale, c1, c2, False, True, past)
    else:
        row_backward(x, dy, dx, w, n, shift, delta, scale, c1, c2, False, False, past)


cdef void add_accumulators(const Plan* p, Py_ssize_t part, work* a, Py_ssize_t n) noexcept nogil:
    """Move the sums of at most LANES rows to float64."""
    cdef Py_ssize_t i
    for i in range(n):
        p.dweight[part * n + i] += a[i]
        a[i] = 0
    if p.dbias != NULL:
        for i in range(n):
            p.dbias[part * n + i] += a[n + i]
            a[n + i] = 0


cdef void feature_rows_backward(const Plan* p, Py_ssize_t part, const storage* x, const work* w) noexcept nogil:
    cdef const storage* xr
    cdef const storage* gr
    cdef storage* yr
    cdef Statistics found[TOGETHER]
    cdef double c1[TOGETHER]
    cdef double c2[TOGETHER]
    cdef Py_ssize_t n = p.length, r = part * p.batch, first = r, stop = min(r + p.batch, p.samples * p.groups)
    cdef Py_ssize_t most = max(<Py_ssize_t>(1 if p.streaming else 2), together(2 * n, p.streaming)), m, k, i, j
    cdef work* dw = <work*>p.scratch + 2 * n * part
    cdef Writer writer
    cdef Writer* past = &writer if p.streaming and n * sizeof(storage) >= LONG else NULL
    open_writer(&writer, p.streaming)
    for k in range(TOGETHER):
        c1[k] = c2[k] = 0
    while r < stop:
        m = min(most, stop - r, LANES - (r - first) % LANES)
        rows_slopes(p, r, m, x, w, dw, found, c1, c2)
        for k in range(m):
            xr = row_of(x, &p.xs, p, r + k)
            gr = row_of(<const storage*>p.dy, &p.ds, p, r + k)
            yr = <storage*>row_of(<storage*>p.y, &p.ys, p, r + k)
            if not p.streaming or past != NULL:
                row_descend(xr, gr, yr, w, n, &found[k], c1[k], c2[k], p.centered, past)
                continue
            for i from 0 <= i < n by PIECE:
                j = min(<Py_ssize_t>PIECE, n - i)
                row_descend(xr + i, gr + i, place(&writer, yr + i), w + i if w != NULL else NULL, j, &found[k], c1[k], c2[k],
                            p.centered, NULL)
                wrote(&writer, j * sizeof(storage))
        r += m
        if p.weight_grads and ((r - first) % LANES == 0 or r == stop):
            add_accumulators(p, part, dw, n)
    close_writer(&writer)
