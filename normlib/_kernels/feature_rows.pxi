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
                             work shift, work delta, work scale, work one, bint centered, bint weighted, bint biased,
                             bint past) noexcept nogil:
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
            t[l] = minus(t[l], shift, one) - delta
        t[l] *= scale
        if weighted:
            t[l] *= v[l]
        if biased:
            t[l] += c[l]
    if past:
        stream(y, t)
    else:
        store_some(y, m, t)


cdef void apply_part(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t m,
                     work shift, work delta, work scale, bint centered, bint weighted, bint biased) noexcept nogil:
    """The ends of a row that goes past the caches: they need no code of their own for each choice."""
    apply_lanes(x, y, w, b, m, shift, delta, scale, unit(shift), centered, weighted, biased, False)


cdef inline void row_apply(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t n,
                           work shift, work delta, work scale, bint centered, bint weighted, bint biased, Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef work one = unit(shift)
    if past != NULL:
        i = to_line(y)
        apply_part(x, place(past, y), w, b, i, shift, delta, scale, centered, weighted, biased)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            apply_lanes(x + i, y + i, w + i if weighted else w, b + i if biased else b, LANES, shift, delta, scale, one, centered, weighted, biased, True)
            i += LANES
        apply_part(x + i, place(past, y + i), w + i if weighted else w, b + i if biased else b, n - i, shift, delta, scale, centered, weighted, biased)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            apply_lanes(x + i, y + i, w + i if weighted else w, b + i if biased else b, LANES, shift, delta, scale, one, centered, weighted, biased, False)
            i += LANES
        if i < n:
            apply_lanes(x + i, y + i, w + i if weighted else w, b + i if biased else b, n - i, shift, delta, scale, one, centered, weighted, biased, False)


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


cdef inline bint apart(const Plan* p) noexcept nogil:
    """Whether there are gaps between the rows: then the hardware sees no stream."""
    return (p.xs.channel != p.length) if p.groups > 1 else (p.xs.sample != p.length)


cdef inline void prefetch_row(const storage* x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i from 0 <= i < min(n, <Py_ssize_t>SHORT) by LINE // <Py_ssize_t>sizeof(storage):
        prefetch(x + i)


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
    if apart(p):
        for k in range(m):
            prefetch_row(row_of(x, &p.xs, p, min(r + TOGETHER + k, p.samples * p.groups - 1)), n)
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
