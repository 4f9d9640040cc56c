# The gradients of norms in channels-first memory (channel_rows.pxi), with z = (x - mean) * rstd:
#   dbias = sum dy, dweight = sum dy * z, dx = rstd * (w dy - mean(w dy) - z mean(w dy z)); where the statistics
#   were given (batch norm in evaluation), dx = rstd * w dy.

cdef inline void run_gradient_lanes(const storage* x, const storage* dy, Py_ssize_t m, work* a, work* q,
                                    work shift, work scale, work one, bint part) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef int l, many = <int>m
    load_lanes(x, m, z, part)
    load_lanes(dy, m, g, part)
    for l in range(LANES):
        a[l] += g[l]
        z[l] = g[l] * (minus(z[l], shift, one) * scale)
        if part:
            z[l] = z[l] if l < many else 0
        q[l] += z[l]


cdef inline void run_gradients(const storage* x, const storage* dy, Py_ssize_t n, double* sums, double* products, bint more,
                               work shift, work scale, Py_ssize_t xahead, Py_ssize_t dahead) noexcept nogil:
    """sum dy and sum dy * (x - shift) * scale over a block, in 8 parts each, as add_moments"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work one = unit(shift)
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    if n < LANES:
        run_gradient_lanes(x, dy, n, a, q, shift, scale, one, True)
        fold_all(a, sums, more)
        fold_all(q, products, more)
        return
    while True:
        prefetch_ahead(x + i, xahead)
        prefetch_ahead(dy + i, dahead)
        run_gradient_lanes(x + i, dy + i, LANES, a, q, shift, scale, one, False)
        i += LANES
        if i + LANES > n:
            break
    if i == n:
        fold_all(a, sums, more)
        fold_all(q, products, more)
    else:
        run_gradient_lanes(x + i, dy + i, n - i, a, q, shift, scale, one, True)
        fold_all(a, sums, more)
        fold_all(q, products, more)


cdef inline void run_backward_lanes(const storage* x, const storage* dy, storage* dx, Py_ssize_t m, work shift, work scale,
                                    work w, work c1, work c2, bint given, bint part, bint past) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef Py_ssize_t l
    load_lanes(dy, m, g, part)
    if given:
        for l in range(LANES):
            g[l] = scale * (g[l] * w)
    else:
        load_lanes(x, m, z, part)
        for l in range(LANES):
            g[l] = scale * ((g[l] * w - c1) - (z[l] - shift) * c2)
    if past:
        stream(dx, g)
    else:
        store_lanes(dx, m, g, part)


cdef inline void run_descend(const storage* x, const storage* dy, storage* dx, Py_ssize_t n, work shift, work scale,
                             work w, work c1, work c2, bint given, Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    if past != NULL:
        i = to_line(dx)
        run_backward_lanes(x, dy, place(past, dx), i, shift, scale, w, c1, c2, given, True, False)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            run_backward_lanes(x + i, dy + i, dx + i, LANES, shift, scale, w, c1, c2, given, False, True)
            i += LANES
        run_backward_lanes(x + i, dy + i, place(past, dx + i), n - i, shift, scale, w, c1, c2, given, True, False)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            run_backward_lanes(x + i, dy + i, dx + i, LANES, shift, scale, w, c1, c2, given, False, False)
            i += LANES
        if i < n:
            run_backward_lanes(x + i, dy + i, dx + i, n - i, shift, scale, w, c1, c2, given, True, False)


cdef inline void gradient_sums(const storage* x, const storage* dy, const Row* row, const Row* drow, Py_ssize_t n,
                               double* sums, double* products, work shift, work scale, bint near, bint far) noexcept nogil:
    """`run_gradients` of n elements; near: they lie side by side"""
    cdef storage buffer[BLOCK]
    cdef storage other[BLOCK]
    cdef const storage* block
    cdef const storage* dblock
    cdef Py_ssize_t i, m, xahead = 0, dahead = 0
    for i from 0 <= i < n by BLOCK:
        m = min(<Py_ssize_t>BLOCK, n - i)
        block, dblock = x + i, dy + i
        if not near:
            block = fetch_ahead(x, row, i, m, buffer, far, &xahead)
            dblock = fetch_ahead(dy, drow, i, m, other, far, &dahead)
        run_gradients(block, dblock, m, sums, products, i > 0, shift, scale, xahead, dahead)


cdef void channels_gradients(const Plan* p, Py_ssize_t m, const storage* x, const storage* dy,
                             const work* shift, const work* delta, const work* scale, double* s, double* q) noexcept nogil:
    """s = sum dy and q = sum dy * z of m <= TOGETHER channels, which begin at x."""
    cdef bint far = scattered(p)
    cdef Row row, drow
    cdef Rows rows
    cdef Py_ssize_t n = p.segments * p.length, k
    plan_row(p, &p.xs, &row)
    plan_row(p, &p.ds, &drow)
    row.whole = p.segments == 1 or p.xs.segment == p.length
    drow.whole = p.segments == 1 or p.ds.segment == p.length
    if row.whole and drow.whole and not far:
        for k in range(m):
            gradient_sums(x + k * p.xs.channel, dy + k * p.ds.channel, &row, &drow, n, rows.sums[k], rows.squares[k],
                          shift[k], scale[k], True, False)
    else:
        for k in range(m):
            gradient_sums(x + k * p.xs.channel, dy + k * p.ds.channel, &row, &drow, n, rows.sums[k], rows.squares[k],
                          shift[k], scale[k], False, far)
    clear_rows(rows.sums, m, m)
    clear_rows(rows.squares, m, m)
    sum_rows(rows.sums, m, s)
    sum_rows(rows.squares, m, q)
    for k in range(m):
        q[k] = about_mean(q[k], s[k], delta[k], scale[k])


cdef inline void runs_descend(const storage* x, Py_ssize_t xstep, const storage* dy, Py_ssize_t dstep, storage* dx, Py_ssize_t step,
                              Py_ssize_t many, Py_ssize_t n, const work* shift, const work* scale,
                              const work* w, const work* c1, const work* c2, bint given,
                              bint streaming, bint staged, Py_ssize_t xahead, Py_ssize_t dahead, Writer* writer) noexcept nogil:
    """As runs_apply."""
    cdef Py_ssize_t k
    for k in range(many):
        if xahead > 0:
            prefetch_run(x + k * xstep + xahead, n)
            prefetch_run(dy + k * dstep + dahead, n)
        if streaming and staged:
            run_descend(x + k * xstep, dy + k * dstep, place(writer, dx + k * step), n, shift[k], scale[k], w[k], c1[k], c2[k],
                        given, NULL)
            wrote(writer, n * sizeof(storage))
        else:
            run_descend(x + k * xstep, dy + k * dstep, dx + k * step, n, shift[k], scale[k], w[k], c1[k], c2[k],
                        given, writer if streaming else NULL)


cdef inline void add_groups(Py_ssize_t m, Py_ssize_t many, const double* s, double* sums) noexcept nogil:
    """Add what belongs to many channels to the sums of their m groups."""
    cdef Py_ssize_t channels, k, j
    if many == m:
        for k in range(m):
            sums[k] += s[k]
        return
    channels = many // m
    for k in range(m):
        for j in range(channels):
            sums[k] += s[k * channels + j]


cdef void groups_descend(const Plan* p, Py_ssize_t c, Py_ssize_t stop, const storage* x, const storage* dy, storage* dx,
                         const work* shift, const work* scale, const work* w, const work* c1, const work* c2,
                         bint given, Writer* writer) noexcept nogil:
    """As groups_normalize."""
    cdef work weight[TOGETHER]
    cdef Py_ssize_t xahead = next_lot(p, &p.xs, stop - c), dahead = next_lot(p, &p.ds, stop - c), many, k, i
    cdef bint staged = not lane_by_lane(p, x)
    while c < stop:
        many = min(<Py_ssize_t>TOGETHER, stop - c)
        for k in range(many):
            weight[k] = w[c + k] if w != NULL else 1
        for i in range(p.segments):
            if p.streaming:
                runs_descend(x + i * p.xs.segment, p.xs.channel, dy + i * p.ds.segment, p.ds.channel, dx + i * p.ys.segment, p.ys.channel,
                             many, p.length, shift, scale, weight, c1, c2, given, True, staged, xahead, dahead, writer)
            else:
                runs_descend(x + i * p.xs.segment, p.xs.channel, dy + i * p.ds.segment, p.ds.channel, dx + i * p.ys.segment, p.ys.channel,
                             many, p.length, shift, scale, weight, c1, c2, given, False, False, xahead, dahead, NULL)
        c += many
        x += many * p.xs.channel
        dy += many * p.ds.channel
        dx += many * p.ys.channel


cdef void channel_rows_backward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    # A part of the samples and p.strip groups: dweight and dbias are the sums that dx needs.
    cdef Py_ssize_t strips = (p.groups - 1) // p.strip + 1, part = task // strips, sample, g, k, c, i, m, stop, many
    cdef Py_ssize_t first = task % strips * p.strip, last = min(first + p.strip, p.groups), most
    cdef double* dbias = p.dbias + part * p.parameters if p.weight_grads else NULL
    cdef double* dweight = p.dweight + part * p.parameters if p.weight_grads else NULL
    cdef double n = p.channels * p.segments * p.length
    cdef const storage* xs
    cdef const storage* dys
    cdef storage* dxs
    cdef double s[TOGETHER]
    cdef double q[TOGETHER]
    cdef double sums[2][TOGETHER]
    cdef work shift[TOGETHER]
    cdef work delta[TOGETHER]
    cdef work scale[TOGETHER]
    cdef work c1[TOGETHER]
    cdef work c2[TOGETHER]
    cdef work of_groups[3][TOGETHER]
    cdef Writer writer
    most = max(<Py_ssize_t>1, min(groups_together(p, 2), TOGETHER // p.channels))
    open_writer(&writer, p.streaming)
    for sample in range(part * p.batch, min((part + 1) * p.batch, p.samples)):
        for g from first <= g < last by most:
            m = min(most, last - g)
            c, stop = g * p.channels, (g + m) * p.channels
            xs = x + sample * p.xs.sample + c * p.xs.channel
            dys = <const storage*>p.dy + sample * p.ds.sample + c * p.ds.channel
            dxs = <storage*>p.y + sample * p.ys.sample + c * p.ys.channel
            given_statistics(p, sample * p.groups + g, m, of_groups[0], of_groups[1], of_groups[2])
            spread(p, m, of_groups[0], shift)
            spread(p, m, of_groups[1], delta)
            spread(p, m, of_groups[2], scale)
            memset(sums, 0, sizeof(sums))
            if not p.given or p.weight_grads:
                for i from c <= i < stop by TOGETHER:
                    many = min(<Py_ssize_t>TOGETHER, stop - i)
                    channels_gradients(p, many, xs + (i - c) * p.xs.channel, dys + (i - c) * p.ds.channel, shift, delta, scale, s, q)
                    if p.weight_grads:
                        for k in range(many):
                            dbias[i + k] += s[k]
                            dweight[i + k] += q[k]
                    if w != NULL:
                        for k in range(many):
                            s[k] *= w[i + k]
                            q[k] *= w[i + k]
                    add_groups(m, many, s, sums[0])
                    add_groups(m, many, q, sums[1])
            for k in range(m):
                descent(sums[0][k], sums[1][k], n, of_groups[1][k], of_groups[2][k], &of_groups[0][k], &of_groups[1][k])
            spread(p, m, of_groups[0], c1)
            spread(p, m, of_groups[1], c2)
            if p.given:
                groups_descend(p, c, stop, xs, dys, dxs, shift, scale, w, c1, c2, True, &writer)
            else:
                groups_descend(p, c, stop, xs, dys, dxs, shift, scale, w, c1, c2, False, &writer)
    close_writer(&writer)
