# LayerNorm and RMSNorm over neighbouring elements: a row is `length` elements, its parameters are vectors beside it.
#   LayerNorm (Ba, Kiros, Hinton 2016): y = (x - mean) / sqrt(var + eps) * weight + bias
#   RMSNorm (Zhang, Sennrich 2019):     y = x / sqrt(mean(x^2) + eps) * weight

cdef inline void row_sample(const storage* x, Py_ssize_t n, double* e, work zero) noexcept nogil:
    cdef Py_ssize_t i
    for i from 0 <= i < n by sample_step(n) * BLOCK:
        fold_sample(x + i, n - i, e, i > 0, zero)


cdef inline void block_sums(const storage* x, Py_ssize_t n, bint centered, work shift, double* sums, double* squares, bint more,
                            Py_ssize_t ahead) noexcept nogil:
    if centered:
        add_moments(x, n, sums, squares, more, ahead, shift)
    else:
        add_squares(x, n, squares, more, ahead, shift)


cdef inline void row_sums(const storage* x, Py_ssize_t n, bint centered, work shift, double* sums, double* squares, Py_ssize_t ahead) noexcept nogil:
    cdef double e[4][8]     # sums and squares of a block, and what is rounded off as blocks are added up
    cdef Py_ssize_t step = BLOCK, i
    block_sums(x, min(n, step), centered, shift, sums, squares, False, ahead)
    if work is double and n > step:
        memset(e, 0, sizeof(e))
    for i from step <= i < n by step:
        if work is double:
            block_sums(x + i, min(step, n - i), centered, shift, e[0], e[1], False, ahead)
            if centered:
                add_eight(sums, e[2], e[0])
            add_eight(squares, e[3], e[1])
        else:
            block_sums(x + i, min(step, n - i), centered, shift, sums, squares, True, ahead)
    if work is double and n > step:
        if centered:
            regain_eight(sums, e[2])
        regain_eight(squares, e[3])


cdef void row_again(const storage* x, Py_ssize_t n, bint centered, double eps, double mean, Statistics* to, work zero) noexcept nogil:
    """The rare row that the first sums do not settle: once more about the mean just found, else in wide arithmetic."""
    cdef double e[2][8]
    cdef double s[2]
    cdef work shift
    if centered and mean - mean == 0:
        shift = <work>mean
        memset(e, 0, sizeof(e))
        row_sums(x, n, True, shift, e[0], e[1], 0)
        s[0], s[1] = sum_8(e[0]), sum_8(e[1])
        settle(s, n, eps, shift, to)
        if trusted(s, n, eps, shift):
            return
    wide_columns(x, 1, n, 1, centered, eps, to, zero)


cdef inline void apply_lanes(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t m,
                             work shift, work delta, work scale, work one, bint centered, bint weighted, bint biased,
                             bint part, bint past) noexcept nogil:
    """y = ((x - shift) - delta) * scale * w + b for m <= LANES elements; past: past the caches"""
    cdef work t[LANES]
    cdef work v[LANES]
    cdef work c[LANES]
    cdef Py_ssize_t l
    load_lanes(x, m, t, part)
    if weighted:
        load_lanes(w, m, v, part)
    if biased:
        load_lanes(b, m, c, part)
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
        store_lanes(y, m, t, part)


cdef void apply_part(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t m,
                     work shift, work delta, work scale, bint centered, bint weighted, bint biased) noexcept nogil:
    """The ends of a row that goes past the caches: they need no code of their own for each choice."""
    apply_lanes(x, y, w, b, m, shift, delta, scale, unit(shift), centered, weighted, biased, True, False)


cdef inline void row_apply(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t n,
                           work shift, work delta, work scale, bint centered, bint weighted, bint biased, Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef work one = unit(shift)
    if past != NULL:
        i = to_line(y)
        apply_part(x, place(past, y), w, b, i, shift, delta, scale, centered, weighted, biased)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            apply_lanes(x + i, y + i, at(w, i, weighted), at(b, i, biased), LANES, shift, delta, scale, one, centered, weighted, biased, False, True)
            i += LANES
        apply_part(x + i, place(past, y + i), at(w, i, weighted), at(b, i, biased), n - i, shift, delta, scale, centered, weighted, biased)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            apply_lanes(x + i, y + i, at(w, i, weighted), at(b, i, biased), LANES, shift, delta, scale, one, centered, weighted, biased, False, False)
            i += LANES
        if i < n:
            apply_lanes(x + i, y + i, at(w, i, weighted), at(b, i, biased), n - i, shift, delta, scale, one, centered, weighted, biased, True, False)


cdef inline const storage* row_of(const storage* x, const Span* span, const Plan* p, Py_ssize_t r) noexcept nogil:
    if p.groups == 1:
        return x + r * span.sample
    return x + r // p.groups * span.sample + r % p.groups * span.channel


cdef inline Py_ssize_t row_ahead(const storage* x, const Span* span, const Plan* p, Py_ssize_t r) noexcept nogil:
    """How far ahead to prefetch while row r is read: in the rows that follow, wherever they lie, or in long rows themselves; 0: not
    at all."""
    cdef Py_ssize_t rows
    if p.level < 3:
        return 0
    rows = ahead_of(x) // p.length
    if rows == 0:
        return ahead_of(x)
    return row_of(x, span, p, min(r + rows, p.samples * p.groups - 1)) - row_of(x, span, p, r)


cdef bint rows_statistics(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage* x,
                          work* shift, work* delta, work* scale, work* factor) noexcept nogil:
    """Statistics of m <= TOGETHER rows from r on; whether one of them has a factor: else there are none."""
    cdef Rows rows
    cdef Statistics found
    cdef Py_ssize_t n = p.length, k
    cdef bint scaled = False
    if p.centered:
        for k in range(m):
            row_sample(row_of(x, &p.xs, p, r + k), n, rows.sample[k], <work>0)
        shift_rows(&rows, m, sampled(n), shift)
    else:
        memset(shift, 0, TOGETHER * sizeof(work))
    for k in range(m):
        row_sums(row_of(x, &p.xs, p, r + k), n, p.centered, shift[k], rows.sums[k], rows.squares[k], row_ahead(x, &p.xs, p, r + k))
    if not settle_rows(&rows, m, n, sampled(n), p.centered, p.eps, shift, delta, scale):
        for k in range(m):
            factor[k] = 1
            if not rows.good[k]:
                row_again(row_of(x, &p.xs, p, r + k), n, p.centered, p.eps, rows.mean[k], &found, <work>0)
                scaled |= put(&rows, k, &found, shift, delta, scale, factor)
    if p.mean != NULL:
        memcpy(p.mean + r, rows.mean, m * sizeof(double))
    if p.rstd != NULL:
        memcpy(p.rstd + r, rows.rstd, m * sizeof(double))
    return scaled


cdef void rows_scaled(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage* x, const work* w, const work* b, const work* shift,
                      const work* delta, const work* scale, const work* factor, Writer* writer) noexcept nogil:
    """rows_apply to elements times a factor, piece by piece."""
    cdef work t[PIECE]
    cdef const storage* row
    cdef storage* target
    cdef Py_ssize_t n = p.length, k, i, many
    for k in range(m):
        row = row_of(x, &p.xs, p, r + k)
        target = <storage*>row_of(<storage*>p.y, &p.ys, p, r + k)
        for i from 0 <= i < n by PIECE:
            many = min(<Py_ssize_t>PIECE, n - i)
            widen_run(row + i, many, factor[k], t)
            row_apply(t, t, at(w, i, w != NULL), at(b, i, b != NULL), many, shift[k], delta[k], scale[k],
                      p.centered, w != NULL, b != NULL, NULL)
            narrow_run(t, many, place(writer, target + i))
            wrote(writer, many * sizeof(storage))


cdef inline void rows_apply(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage* x, const work* w, const work* b,
                            const work* shift, const work* delta, const work* scale,
                            bint centered, bint weighted, bint biased, Writer* writer) noexcept nogil:
    cdef const storage* row
    cdef storage* target
    cdef Py_ssize_t n = p.length, k
    cdef Writer* past = writer if lane_by_lane(p, x) else NULL
    cdef bint staged = p.streaming and past == NULL
    for k in range(m):
        row = row_of(x, &p.xs, p, r + k)
        target = <storage*>row_of(<storage*>p.y, &p.ys, p, r + k)
        row_apply(row, place(writer, target) if staged else target, w, b, n, shift[k], delta[k], scale[k],
                  centered, weighted, biased, past)
        if staged:
            wrote(writer, n * sizeof(storage))


cdef void feature_rows_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    cdef const work* b = <const work*>p.bias
    cdef work shift[TOGETHER]
    cdef work delta[TOGETHER]
    cdef work scale[TOGETHER]
    cdef work factor[TOGETHER]
    cdef Writer writer
    cdef Py_ssize_t r = task * p.batch, stop = min(r + p.batch, p.samples * p.groups), most = together(p.length, p.streaming), m
    open_writer(&writer, p.streaming)
    while r < stop:
        m = min(most, stop - r)
        if rows_statistics(p, r, m, x, shift, delta, scale, factor):
            rows_scaled(p, r, m, x, w, b, shift, delta, scale, factor, &writer)
        elif not p.centered and w != NULL:
            rows_apply(p, r, m, x, w, b, shift, delta, scale, False, True, False, &writer)
        elif not p.centered:
            rows_apply(p, r, m, x, w, b, shift, delta, scale, False, False, False, &writer)
        elif b != NULL:
            rows_apply(p, r, m, x, w, b, shift, delta, scale, True, True, True, &writer)
        elif w != NULL:
            rows_apply(p, r, m, x, w, b, shift, delta, scale, True, True, False, &writer)
        else:
            rows_apply(p, r, m, x, w, b, shift, delta, scale, True, False, False, &writer)
        r += m
    close_writer(&writer)
