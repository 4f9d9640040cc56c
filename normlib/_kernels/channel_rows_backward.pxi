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


cdef inline void few_gradients(const storage* x, const storage* dy, Py_ssize_t n, double* sums, double* products, bint more,
                               work shift, work scale) noexcept nogil:
    """sum dy and sum dy * (x - shift) * scale of fewer than ROUND * LANES elements, in 8 parts each, as add_moments"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work one = unit(shift)
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    if n >= LANES:
        while True:
            run_gradient_lanes(x + i, dy + i, LANES, a, q, shift, scale, one, False)
            i += LANES
            if i + LANES > n:
                break
        if i == n:
            fold_all(a, sums, more)
            fold_all(q, products, more)
            return
    run_gradient_lanes(x + i, dy + i, n - i, a, q, shift, scale, one, True)
    fold_all(a, sums, more)
    fold_all(q, products, more)


cdef inline void block_gradient_sums(const storage* x, const storage* dy, Py_ssize_t n, double* sums, double* products, bint more,
                                     work shift, work scale, Py_ssize_t xahead, Py_ssize_t dahead) noexcept nogil:
    """The same of rounds, at most a block, as block_slopes"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work ra[LANES]
    cdef work rq[LANES]
    cdef work one = unit(shift)
    cdef Py_ssize_t i = 0, k, l
    clear(a)
    clear(q)
    while i < n:
        clear(ra)
        clear(rq)
        for k in range(ROUND):
            prefetch_ahead(x + i, xahead)
            prefetch_ahead(dy + i, dahead)
            run_gradient_lanes(x + i, dy + i, LANES, ra, rq, shift, scale, one, False)
            i += LANES
        for l in range(LANES):
            a[l] += ra[l]
            q[l] += rq[l]
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
    """sum dy and sum dy * (x - shift) * scale of n elements, in 8 parts each; near: they lie side by side"""
    cdef storage buffer[BLOCK]
    cdef storage other[BLOCK]
    cdef const storage* block
    cdef const storage* dblock
    cdef double e[4][8]     # as in row_sums
    cdef double* s = sums
    cdef double* q = products
    cdef Py_ssize_t whole = n - n % (ROUND * LANES), i, m, xahead = 0, dahead = 0
    if work is double and whole > BLOCK:
        memset(e, 0, sizeof(e))
    for i from 0 <= i < whole by BLOCK:
        m = min(<Py_ssize_t>BLOCK, whole - i)
        block, dblock = x + i, dy + i
        if not near:
            block = fetch_ahead(x, row, i, m, buffer, far, &xahead)
            dblock = fetch_ahead(dy, drow, i, m, other, far, &dahead)
        block_gradient_sums(block, dblock, m, s, q, i > 0 and work is float, shift, scale, xahead, dahead)
        if work is double and i > 0:
            add_eight(sums, e[2], s)
            add_eight(products, e[3], q)
        elif work is double:
            s, q = e[0], e[1]
    if work is double and whole > BLOCK:
        regain_eight(sums, e[2])
        regain_eight(products, e[3])
    if whole < n:
        block, dblock = x + whole, dy + whole
        if not near:
            block = fetch(x, row, whole, n - whole, buffer)
            dblock = fetch(dy, drow, whole, n - whole, other)
        few_gradients(block, dblock, n - whole, sums, products, whole > 0, shift, scale)


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


cdef inline void add_groups(Py_ssize_t m, Py_ssize_t many, const double* s, double* sums, double* lost, work zero) noexcept nogil:
    """Add what belongs to many channels to the sums of their m groups."""
    cdef Py_ssize_t channels, k, j
    cdef double total
    if many == m:
        for k in range(m):
            add_up(&sums[k], &lost[k], s[k], zero)
        return
    channels = many // m
    for k in range(m):
        total = 0
        for j in range(channels):
            total += s[k * channels + j]
        add_up(&sums[k], &lost[k], total, zero)


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
    cdef double n = p.channels * p.segments * p.length
    cdef const storage* xs
    cdef const storage* dys
    cdef storage* dxs
    cdef double s[TOGETHER]
    cdef double q[TOGETHER]
    cdef double sums[2][TOGETHER]
    cdef double lost[2][TOGETHER]
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
            given_statistics(p, sample * p.groups + g, m, of_groups[0], of_groups[1], of_groups[2], NULL)
            spread(p, m, of_groups[0], shift)
            spread(p, m, of_groups[1], delta)
            spread(p, m, of_groups[2], scale)
            memset(sums, 0, sizeof(sums))
            memset(lost, 0, sizeof(lost))
            if not p.given or p.weight_grads:
                for i from c <= i < stop by TOGETHER:
                    many = min(<Py_ssize_t>TOGETHER, stop - i)
                    channels_gradients(p, many, xs + (i - c) * p.xs.channel, dys + (i - c) * p.ds.channel, shift, delta, scale, s, q)
                    if p.weight_grads:
                        add_gradients(p, part * p.parameters + i, q, s, many, <work>0)
                    if w != NULL:
                        for k in range(many):
                            s[k] *= w[i + k]
                            q[k] *= w[i + k]
                    add_groups(m, many, s, sums[0], lost[0], <work>0)
                    add_groups(m, many, q, sums[1], lost[1], <work>0)
            for k in range(m):
                descent(regain(sums[0][k], lost[0][k], <work>0), regain(sums[1][k], lost[1][k], <work>0), n, of_groups[1][k], of_groups[2][k],
                        &of_groups[0][k], &of_groups[1][k])
            spread(p, m, of_groups[0], c1)
            spread(p, m, of_groups[1], c2)
            if p.given:
                groups_descend(p, c, stop, xs, dys, dxs, shift, scale, w, c1, c2, True, &writer)
            else:
                groups_descend(p, c, stop, xs, dys, dxs, shift, scale, w, c1, c2, False, &writer)
    close_writer(&writer)
