# LayerNorm and RMSNorm over neighbouring elements: a row is `length` elements, its parameters are vectors beside it.
#   LayerNorm (Ba, Kiros, Hinton 2016): y = (x - mean) / sqrt(var + eps) * weight + bias
#   RMSNorm (Zhang, Sennrich 2019):     y = x / sqrt(mean(x^2) + eps) * weight

cdef enum:
    SHORT = 256     # elements of a row whose statistics are computed ahead


cdef inline void row_sums(const storage* x, Py_ssize_t n, bint centered, work shift, double* s) noexcept nogil:
    cdef Py_ssize_t p = 0
    s[0] = s[1] = 0
    while p < n:
        if centered:
            add_moments(x + p, min(<Py_ssize_t>BLOCK, n - p), s, shift)
        else:
            add_squares(x + p, min(<Py_ssize_t>BLOCK, n - p), s, shift)
        p += BLOCK


cdef void row_again(const storage* x, Py_ssize_t n, bint centered, double eps, Statistics* to, work zero) noexcept nogil:
    """The rare row that the first sums do not settle: once more about the mean just found, else in wide arithmetic."""
    cdef Row row
    cdef double s[2]
    cdef work shift
    if centered and to.delta - to.delta == 0:
        shift = <work>(to.shift + to.delta)
        row_sums(x, n, True, shift, s)
        settle(s, n, eps, shift, to)
        if trusted(s, n, eps, shift):
            return
    row.channels = row.segments = row.position = 1
    row.channel = row.segment = 0
    row.length = n
    wide_statistics(x, &row, centered, eps, to, zero)


cdef inline void apply_lanes(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t m,
                             work shift, work delta, work scale, bint centered, bint weighted, bint biased, bint past) noexcept nogil:
    """y = ((x - shift) - delta) * scale * w + b for m <= LANES elements; past: past the caches"""
    cdef work t[LANES]
    cdef work v[LANES]
    cdef work c[LANES]
    cdef Py_ssize_t l
    load_some(x, m, t)
    if weighted:
        load_some(w, m, v)
    if biased:
        load_some(b, m, c)
    for l in range(LANES):
        if centered:
            t[l] = (t[l] - shift) - delta
        t[l] *= scale
        if weighted:
            t[l] *= v[l]
        if biased:
            t[l] += c[l]
    if past:
        stream(y, t)
    else:
        store_some(y, m, t)


cdef inline void row_apply(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t n,
                           work shift, work delta, work scale, bint centered, bint weighted, bint biased, Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    if past != NULL:
        i = to_line(y)
        apply_lanes(x, place(past, y), w, b, i, shift, delta, scale, centered, weighted, biased, False)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            apply_lanes(x + i, y + i, w + i, b + i, LANES, shift, delta, scale, centered, weighted, biased, True)
            i += LANES
        apply_lanes(x + i, place(past, y + i), w + i, b + i, n - i, shift, delta, scale, centered, weighted, biased, False)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            apply_lanes(x + i, y + i, w + i, b + i, LANES, shift, delta, scale, centered, weighted, biased, False)
            i += LANES
        if i < n:
            apply_lanes(x + i, y + i, w + i, b + i, n - i, shift, delta, scale, centered, weighted, biased, False)


cdef void row_normalize(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t n,
                        const Statistics* found, bint centered, Writer* past) noexcept nogil:
    cdef work shift = <work>found.shift, delta = <work>found.delta, scale = <work>found.scale
    if not centered and w != NULL:
        row_apply(x, y, w, b, n, shift, delta, scale, False, True, False, past)
    elif not centered:
        row_apply(x, y, w, b, n, shift, delta, scale, False, False, False, past)
    elif b != NULL:
        row_apply(x, y, w, b, n, shift, delta, scale, True, True, True, past)
    elif w != NULL:
        row_apply(x, y, w, b, n, shift, delta, scale, True, True, False, past)
    else:
        row_apply(x, y, w, b, n, shift, delta, scale, True, False, False, past)


cdef inline const storage* row_of(const storage* x, const Span* span, const Plan* p, Py_ssize_t r) noexcept nogil:
    if p.groups == 1:
        return x + r * span.sample
    return x + r // p.groups * span.sample + r % p.groups * span.channel


cdef void rows_statistics(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage* x, const work* w, Statistics* found) noexcept nogil:
    """Statistics of m <= TOGETHER rows from r on."""
    cdef double s[TOGETHER]
    cdef double q[TOGETHER]
    cdef double total[TOGETHER]
    cdef double sums[2]
    cdef work shift[TOGETHER]
    cdef bint good[TOGETHER]
    cdef Py_ssize_t n = p.length, taken = sampled(n), k
    for k in range(TOGETHER):
        s[k] = q[k] = total[k] = shift[k] = 0
    if p.centered:
        for k in range(m):
            total[k] = sample_sum(row_of(x, &p.xs, p, r + k), n)
        for k in range(TOGETHER):
            shift[k] = <work>(total[k] / taken)
    for k in range(m):
        row_sums(row_of(x, &p.xs, p, r + k), n, p.centered, shift[k], sums)
        s[k], q[k] = sums[0], sums[1]
    settle_rows(s, q, shift, n, p.eps, found, good)
    for k in range(m):
        if not good[k]:
            row_again(row_of(x, &p.xs, p, r + k), n, p.centered, p.eps, &found[k], <work>0)
        if p.mean != NULL:
            p.mean[r + k] = found[k].shift + found[k].delta
        if p.rstd != NULL:
            p.rstd[r + k] = found[k].rstd


cdef void rows_normalize(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage* x, const work* w, const Statistics* found,
                         Writer* writer) noexcept nogil:
    cdef const work* b = <const work*>p.bias
    cdef const storage* row
    cdef storage* target
    cdef Py_ssize_t n = p.length, k, i
    cdef Writer* past = writer if p.streaming and n * sizeof(storage) >= LONG else NULL
    for k in range(m):
        row = row_of(x, &p.xs, p, r + k)
        target = <storage*>row_of(<storage*>p.y, &p.ys, p, r + k)
        if not p.streaming or past != NULL:
            row_normalize(row, target, w, b, n, &found[k], p.centered, past)
            continue
        for i from 0 <= i < n by PIECE:
            row_normalize(row + i, place(writer, target + i), w + i if w != NULL else NULL, b + i if b != NULL else NULL,
                          min(<Py_ssize_t>PIECE, n - i), &found[k], p.centered, NULL)
            wrote(writer, min(<Py_ssize_t>PIECE, n - i) * sizeof(storage))


cdef void feature_rows_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    cdef Statistics found[2][TOGETHER]
    cdef Writer writer
    cdef Py_ssize_t r = task * p.batch, stop = min(r + p.batch, p.samples * p.groups), most = together(p.length, p.streaming), m
    # The statistics of short rows wait for divisions and a square root while the rows before are normalised.
    cdef bint ahead = not p.streaming and p.length <= SHORT
    cdef int turn = 0
    open_writer(&writer, p.streaming)
    if ahead:
        rows_statistics(p, r, min(most, stop - r), x, w, found[0])
    while r < stop:
        m = min(most, stop - r)
        if not ahead:
            rows_statistics(p, r, m, x, w, found[0])
        elif r + m < stop:
            rows_statistics(p, r + m, min(most, stop - r - m), x, w, found[1 - turn])
        rows_normalize(p, r, m, x, w, found[turn], &writer)
        if ahead:
            turn = 1 - turn
        r += m
    close_writer(&writer)


# Backward (z = (x - mean) * rstd, g = dy * weight):
#   dx = rstd * (g - mean(g) - z * mean(g * z)), where RMSNorm drops mean(g); dweight = sum dy * z, dbias = sum dy

cdef inline void gradient_lanes(const storage* x, const storage* dy, const work* w, Py_ssize_t m, work* a, work* q,
                                work shift, work delta, work scale, bint centered, bint weighted) noexcept nogil:
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
            z[l] = (z[l] - shift) - delta
        z[l] *= scale
        if weighted:
            g[l] *= v[l]
        a[l] += g[l]
        q[l] += g[l] * z[l] if m >= LANES or l < m else 0


cdef inline void add_gradients(const storage* x, const storage* dy, const work* w, Py_ssize_t n, double* s,
                               work shift, work delta, work scale, bint centered, bint weighted) noexcept nogil:
    """s[0] += sum g, s[1] += sum g * z over a block"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    while i + LANES <= n:
        gradient_lanes(x + i, dy + i, w + i, LANES, a, q, shift, delta, scale, centered, weighted)
        i += LANES
    if i < n:
        gradient_lanes(x + i, dy + i, w + i, n - i, a, q, shift, delta, scale, centered, weighted)
    s[0] += tree(a)
    s[1] += tree(q)


cdef inline void backward_lanes(const storage* x, const storage* dy, storage* dx, const work* w, work* dw, work* db,
                                Py_ssize_t m, work shift, work delta, work scale, work c1, work c2,
                                bint centered, bint weighted, bint gradients) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef work t[LANES]
    cdef Py_ssize_t l
    load_some(x, m, z)
    load_some(dy, m, g)
    if weighted:
        load_some(w, m, v)
    for l in range(LANES):
        if centered:
            z[l] = (z[l] - shift) - delta
        z[l] *= scale
        t[l] = g[l] * v[l] if weighted else g[l]
        if centered:
            t[l] -= c1
        t[l] = scale * (t[l] - z[l] * c2)
    store_some(dx, m, t)
    if gradients:
        load_some(dw, m, t)
        for l in range(LANES):
            t[l] += g[l] * z[l]
        store_some(dw, m, t)
        if centered:
            load_some(db, m, t)
            for l in range(LANES):
                t[l] += g[l]
            store_some(db, m, t)


cdef inline void row_backward(const storage* x, const storage* dy, storage* dx, const work* w, work* dw, work* db, Py_ssize_t n,
                              work shift, work delta, work scale, work c1, work c2,
                              bint centered, bint weighted, bint gradients) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        backward_lanes(x + i, dy + i, dx + i, w + i, dw + i, db + i, LANES, shift, delta, scale, c1, c2, centered, weighted, gradients)
        i += LANES
    if i < n:
        backward_lanes(x + i, dy + i, dx + i, w + i, dw + i, db + i, n - i, shift, delta, scale, c1, c2, centered, weighted, gradients)


cdef inline void row_pass(const storage* x, const storage* dy, storage* dx, const work* w, work* dw, Py_ssize_t n,
                          Writer* writer, work shift, work delta, work scale, bint centered, bint weighted, bint gradients) noexcept nogil:
    cdef double s[2]
    cdef Py_ssize_t i, m, piece = PIECE if writer.streaming else n
    cdef work c1, c2
    s[0] = s[1] = 0
    for i from 0 <= i < n by BLOCK:
        add_gradients(x + i, dy + i, w + i, min(<Py_ssize_t>BLOCK, n - i), s, shift, delta, scale, centered, weighted)
    c1 = <work>(s[0] / n)
    c2 = <work>(s[1] / n)
    i = 0
    while i < n:
        m = min(piece, n - i)
        if gradients:
            row_backward(x + i, dy + i, place(writer, dx + i), w + i, dw + i, dw + n + i, m, shift, delta, scale, c1, c2, centered, weighted, True)
        else:
            row_backward(x + i, dy + i, place(writer, dx + i), w + i, dw, dw, m, shift, delta, scale, c1, c2, centered, weighted, False)
        wrote(writer, m * sizeof(storage))
        i += piece


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
    cdef const storage* dy = <const storage*>p.dy
    cdef storage* dx = <storage*>p.y
    cdef const storage* xr
    cdef const storage* gr
    cdef storage* yr
    cdef Py_ssize_t n = p.length, r = part * p.batch, first = r, stop = min(r + p.batch, p.samples * p.groups)
    cdef work* dw = <work*>p.scratch + 2 * n * part
    cdef Writer writer
    cdef work shift, delta, scale
    cdef double mean
    open_writer(&writer, p.streaming)
    while r < stop:
        xr = row_of(x, &p.xs, p, r)
        gr = row_of(dy, &p.ds, p, r)
        yr = <storage*>row_of(dx, &p.ys, p, r)
        mean = p.mean[r] if p.centered else 0
        shift = <work>mean
        delta = <work>(mean - shift)
        scale = <work>p.rstd[r]
        if p.centered and w != NULL:
            row_pass(xr, gr, yr, w, dw, n, &writer, shift, delta, scale, True, True, p.weight_grads)
        elif p.centered:
            row_pass(xr, gr, yr, w, dw, n, &writer, shift, delta, scale, True, False, p.weight_grads)
        elif w != NULL:
            row_pass(xr, gr, yr, w, dw, n, &writer, shift, delta, scale, False, True, p.weight_grads)
        else:
            row_pass(xr, gr, yr, w, dw, n, &writer, shift, delta, scale, False, False, p.weight_grads)
        r += 1
        if p.weight_grads and ((r - first) % LANES == 0 or r == stop):
            add_accumulators(p, part, dw, n)
    close_writer(&writer)
