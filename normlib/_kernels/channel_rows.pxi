# BatchNorm (Ioffe, Szegedy 2015), GroupNorm (Wu, He 2018) and InstanceNorm (Ulyanov, Vedaldi, Lempitsky 2016) in
# channels-first memory. A statistic belongs to a group of channels; a channel is `segments` runs of `length`
# neighbouring elements with one weight and one bias. Batch norm: a group is one channel, its segments the samples.
# Group norm: one segment. Instance norm: groups of one channel.

cdef inline void group_sample(const storage* x, const Row* row, double* e, work zero) noexcept nogil:
    """A sample of each channel."""
    cdef storage buffer[SAMPLE]
    cdef Py_ssize_t n = row.segments * row.length, step = sample_step(n) * BLOCK, c, i
    for c in range(row.channels):
        for i from 0 <= i < n by step:
            fold_sample(fetch(x, row, c * n + i, min(<Py_ssize_t>SAMPLE, n - i), buffer), n - i, e, c + i > 0, zero)


cdef inline void group_sums(const storage* x, const Row* row, work shift, double* sums, double* squares) noexcept nogil:
    cdef storage buffer[BLOCK]
    cdef double e[4][8]     # as in row_sums
    cdef Py_ssize_t n = count(row), step = EXACT if work is double else BLOCK, i, m
    if work is double and n > step:
        memset(e, 0, sizeof(e))
    for i from 0 <= i < n by step:
        m = min(step, n - i)
        if work is double and i > 0:
            add_moments(fetch(x, row, i, m, buffer), m, e[0], e[1], False, shift)
            add_eight(sums, e[2], e[0])
            add_eight(squares, e[3], e[1])
        else:
            add_moments(fetch(x, row, i, m, buffer), m, sums, squares, i > 0, shift)
    if work is double and n > step:
        regain_eight(sums, e[2])
        regain_eight(squares, e[3])


cdef inline void run_lanes(const storage* x, storage* y, Py_ssize_t m, work shift, work delta, work scale, work b, work one,
                           bint part, bint past) noexcept nogil:
    cdef work t[LANES]
    cdef Py_ssize_t l
    load_lanes(x, m, t, part)
    for l in range(LANES):
        t[l] = (minus(t[l], shift, one) - delta) * scale + b
    if past:
        stream(y, t)
    else:
        store_lanes(y, m, t, part)


cdef inline void run_apply(const storage* x, storage* y, Py_ssize_t n, work shift, work delta, work scale, work b, Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef work one = unit(shift)
    if past != NULL:
        i = to_line(y)
        run_lanes(x, place(past, y), i, shift, delta, scale, b, one, True, False)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            run_lanes(x + i, y + i, LANES, shift, delta, scale, b, one, False, True)
            i += LANES
        run_lanes(x + i, place(past, y + i), n - i, shift, delta, scale, b, one, True, False)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            run_lanes(x + i, y + i, LANES, shift, delta, scale, b, one, False, False)
            i += LANES
        if i < n:
            run_lanes(x + i, y + i, n - i, shift, delta, scale, b, one, True, False)


cdef inline void plan_row(const Plan* p, const Span* span, Row* row) noexcept nogil:
    row.channels = p.channels
    row.channel = span.channel
    row.segments = p.segments
    row.segment = span.segment
    row.length = p.length
    row.position = 1
    row.whole = (p.segments == 1 or span.segment == p.length) and (p.channels == 1 or span.channel == p.segments * p.length)


cdef void group_again(const storage* x, const Row* row, double eps, double mean, Statistics* to, work zero) noexcept nogil:
    """As row_again."""
    cdef double e[2][8]
    cdef double s[2]
    cdef work shift
    cdef Py_ssize_t n = count(row)
    if mean - mean == 0:
        shift = <work>mean
        memset(e, 0, sizeof(e))
        group_sums(x, row, shift, e[0], e[1])
        s[0], s[1] = sum_8(e[0]), sum_8(e[1])
        settle(s, n, eps, shift, to)
        if trusted(s, n, eps, shift):
            return
    wide_statistics(x, row, True, eps, to, zero)


cdef inline void find_groups(const storage* x, const Span* span, const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage** to) noexcept nogil:
    """Where m groups from r on begin."""
    cdef Py_ssize_t step = p.channels * span.channel, g = r % p.groups, k
    x += r // p.groups * span.sample + g * step
    for k in range(m):
        to[k] = x
        x += step
        g += 1
        if g == p.groups:
            g = 0
            x += span.sample - p.groups * step


cdef void groups_statistics(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage** xs, const Row* row,
                            work* shift, work* delta, work* scale) noexcept nogil:
    """Statistics of m <= TOGETHER groups from r on, which begin at `xs`."""
    cdef Rows rows
    cdef Statistics found
    cdef Py_ssize_t n = count(row), taken = row.channels * sampled(row.segments * row.length), k
    for k in range(m):
        group_sample(xs[k], row, rows.sample[k], <work>0)
    shift_rows(&rows, m, taken, shift)
    for k in range(m):
        group_sums(xs[k], row, shift[k], rows.sums[k], rows.squares[k])
    if not settle_rows(&rows, m, n, taken, True, p.eps, shift, delta, scale):
        for k in range(m):
            if not rows.good[k]:
                group_again(xs[k], row, p.eps, rows.mean[k], &found, <work>0)
                put(&rows, k, &found, &shift[k], &delta[k], &scale[k])
    if p.mean != NULL:
        memcpy(p.mean + r, rows.mean, m * sizeof(double))
    if p.var != NULL:
        memcpy(p.var + r, rows.var, m * sizeof(double))
    if p.rstd != NULL:
        memcpy(p.rstd + r, rows.rstd, m * sizeof(double))


cdef inline void given_statistics(const Plan* p, Py_ssize_t r, Py_ssize_t m, work* shift, work* delta, work* scale) noexcept nogil:
    """Of m groups of all samples from r on."""
    cdef Py_ssize_t g = r % p.groups if p.shared else r, k
    for k in range(m):
        shift[k] = <work>p.mean[g]
        delta[k] = <work>(p.mean[g] - shift[k])
        scale[k] = <work>p.rstd[g]
        g += 1
        if p.shared and g == p.groups:
            g = 0


cdef void groups_normalize(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage** xs, const storage** ys,
                           const work* shift, const work* delta, const work* rstd, const work* w, Writer* writer) noexcept nogil:
    cdef const work* b = <const work*>p.bias
    cdef const storage* run
    cdef storage* target
    cdef storage* to
    cdef Py_ssize_t channels = p.channels, segments = p.segments, length = p.length, c = r % p.groups * channels, k, j, i
    cdef Span xspan = p.xs, yspan = p.ys
    cdef Writer* past = writer if lane_by_lane(p, xs[0]) else NULL
    cdef bint staged = p.streaming and past == NULL
    cdef work scale, bias
    for k in range(m):
        run, target = xs[k], <storage*>ys[k]
        for j in range(channels):
            scale = rstd[k] * w[c] if w != NULL else rstd[k]
            bias = b[c] if b != NULL else 0
            for i in range(segments):
                to = target + i * yspan.segment
                run_apply(run + i * xspan.segment, place(writer, to) if staged else to, length, shift[k], delta[k], scale, bias, past)
                if staged:
                    wrote(writer, length * sizeof(storage))
            run += xspan.channel
            target += yspan.channel
            c += 1
        if c == p.parameters:
            c = 0


cdef void channel_rows_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    cdef Py_ssize_t r = task * p.batch, stop = min(r + p.batch, p.samples * p.groups), m, most
    cdef const storage* xs[TOGETHER]
    cdef const storage* ys[TOGETHER]
    cdef work shift[TOGETHER]
    cdef work delta[TOGETHER]
    cdef work scale[TOGETHER]
    cdef Writer writer
    cdef Row row
    plan_row(p, &p.xs, &row)
    most = together(count(&row), p.streaming)
    open_writer(&writer, p.streaming)
    while r < stop:
        m = min(most, stop - r)
        find_groups(x, &p.xs, p, r, m, xs)
        find_groups(<const storage*>p.y, &p.ys, p, r, m, ys)
        if p.given:
            given_statistics(p, r, m, shift, delta, scale)
        else:
            groups_statistics(p, r, m, xs, &row, shift, delta, scale)
        groups_normalize(p, r, m, xs, ys, shift, delta, scale, w, &writer)
        r += m
    close_writer(&writer)


cdef inline void run_gradient_lanes(const storage* x, const storage* dy, Py_ssize_t m, work* a, work* q,
                                    work shift, work delta, work scale, work one, bint part) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef int l, many = <int>m
    load_lanes(x, m, z, part)
    load_lanes(dy, m, g, part)
    for l in range(LANES):
        a[l] += g[l]
        z[l] = g[l] * ((minus(z[l], shift, one) - delta) * scale)
        if part:
            z[l] = z[l] if l < many else 0
        q[l] += z[l]


cdef inline void run_gradients(const storage* x, const storage* dy, Py_ssize_t n, double* sums, double* products, bint more,
                               work shift, work delta, work scale) noexcept nogil:
    """sum dy and sum dy * z over a block, in 8 parts each, as add_moments"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work one = unit(shift)
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    if n < LANES:
        run_gradient_lanes(x, dy, n, a, q, shift, delta, scale, one, True)
        fold_all(a, sums, more)
        fold_all(q, products, more)
        return
    while True:
        run_gradient_lanes(x + i, dy + i, LANES, a, q, shift, delta, scale, one, False)
        i += LANES
        if i + LANES > n:
            break
    if i == n:
        fold_all(a, sums, more)
        fold_all(q, products, more)
    else:
        run_gradient_lanes(x + i, dy + i, n - i, a, q, shift, delta, scale, one, True)
        fold_all(a, sums, more)
        fold_all(q, products, more)


cdef inline void run_backward_lanes(const storage* x, const storage* dy, storage* dx, Py_ssize_t m, work shift, work delta, work scale,
                                    work w, work c1, work c2, work one, bint given, bint part, bint past) noexcept nogil:
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
            g[l] = scale * ((g[l] * w - c1) - ((minus(z[l], shift, one) - delta) * scale) * c2)
    if past:
        stream(dx, g)
    else:
        store_lanes(dx, m, g, part)


cdef inline void run_descend(const storage* x, const storage* dy, storage* dx, Py_ssize_t n, work shift, work delta, work scale,
                             work w, work c1, work c2, bint given, Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef work one = unit(shift)
    if past != NULL:
        i = to_line(dx)
        run_backward_lanes(x, dy, place(past, dx), i, shift, delta, scale, w, c1, c2, one, given, True, False)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            run_backward_lanes(x + i, dy + i, dx + i, LANES, shift, delta, scale, w, c1, c2, one, given, False, True)
            i += LANES
        run_backward_lanes(x + i, dy + i, place(past, dx + i), n - i, shift, delta, scale, w, c1, c2, one, given, True, False)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            run_backward_lanes(x + i, dy + i, dx + i, LANES, shift, delta, scale, w, c1, c2, one, given, False, False)
            i += LANES
        if i < n:
            run_backward_lanes(x + i, dy + i, dx + i, n - i, shift, delta, scale, w, c1, c2, one, given, True, False)


cdef inline void run_backward(const storage* x, const storage* dy, storage* dx, Py_ssize_t n, work shift, work delta, work scale,
                              work w, work c1, work c2, bint given, Writer* past) noexcept nogil:
    if given:
        run_descend(x, dy, dx, n, shift, delta, scale, w, c1, c2, True, past)
    else:
        run_descend(x, dy, dx, n, shift, delta, scale, w, c1, c2, False, past)


cdef void channels_gradients(const Plan* p, Py_ssize_t sample, Py_ssize_t first, Py_ssize_t m, const storage* x, const storage* dy,
                             const work* shift, const work* delta, const work* scale, double* s, double* q) noexcept nogil:
    """s = sum dy and q = sum dy * z of m <= TOGETHER channels of a sample; shift, delta, scale: of the group of the first on."""
    cdef storage buffer[BLOCK]
    cdef storage other[BLOCK]
    cdef Row row, drow
    cdef Rows rows
    cdef Py_ssize_t n = p.segments * p.length, k, g, i, many
    cdef const storage* run
    cdef const storage* drun
    plan_row(p, &p.xs, &row)
    plan_row(p, &p.ds, &drow)
    row.whole = p.segments == 1 or p.xs.segment == p.length
    drow.whole = p.segments == 1 or p.ds.segment == p.length
    for k in range(m):
        g = (first + k) // p.channels - first // p.channels
        run = x + sample * p.xs.sample + (first + k) * p.xs.channel
        drun = dy + sample * p.ds.sample + (first + k) * p.ds.channel
        for i from 0 <= i < n by BLOCK:
            many = min(<Py_ssize_t>BLOCK, n - i)
            run_gradients(fetch(run, &row, i, many, buffer), fetch(drun, &drow, i, many, other), many,
                          rows.sums[k], rows.squares[k], i > 0, shift[g], delta[g], scale[g])
    clear_rows(rows.sums, m, m)
    clear_rows(rows.squares, m, m)
    sum_rows(rows.sums, m, s)
    sum_rows(rows.squares, m, q)


cdef void channel_descend(const Plan* p, const storage* x, const storage* dy, storage* dx, work shift, work delta, work scale,
                          work w, work c1, work c2, Writer* writer) noexcept nogil:
    cdef Writer* past = writer if lane_by_lane(p, x) else NULL
    cdef bint staged = p.streaming and past == NULL
    cdef storage* target
    cdef Py_ssize_t i
    for i in range(p.segments):
        target = dx + i * p.ys.segment
        run_backward(x + i * p.xs.segment, dy + i * p.ds.segment, place(writer, target) if staged else target, p.length,
                     shift, delta, scale, w, c1, c2, p.given, past)
        if staged:
            wrote(writer, p.length * sizeof(storage))


cdef void channel_rows_backward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    # A part of the samples and p.strip groups: dweight and dbias are the sums that dx needs.
    cdef Py_ssize_t strips = (p.groups - 1) // p.strip + 1, part = task // strips, sample, g, k, c, m, lot
    cdef Py_ssize_t first = task % strips * p.strip, stop = min(first + p.strip, p.groups), n = p.channels * p.segments * p.length
    cdef Py_ssize_t most = max(<Py_ssize_t>1, min(together(2 * n, p.streaming), TOGETHER // p.channels))
    cdef double* dbias = p.dbias + part * p.parameters if p.weight_grads else NULL
    cdef double* dweight = p.dweight + part * p.parameters if p.weight_grads else NULL
    cdef const storage* dy = <const storage*>p.dy
    cdef storage* dx = <storage*>p.y
    cdef double s[TOGETHER]
    cdef double q[TOGETHER]
    cdef double c1[TOGETHER]
    cdef double c2[TOGETHER]
    cdef work shift[TOGETHER]
    cdef work delta[TOGETHER]
    cdef work scale[TOGETHER]
    cdef work wk
    cdef Writer writer
    open_writer(&writer, p.streaming)
    for sample in range(part * p.batch, min((part + 1) * p.batch, p.samples)):
        for g from first <= g < stop by most:
            lot = min(most, stop - g)
            given_statistics(p, sample * p.groups + g, lot, shift, delta, scale)
            for k in range(lot):
                c1[k] = c2[k] = 0
            if not p.given or p.weight_grads:
                for c from g * p.channels <= c < (g + lot) * p.channels by TOGETHER:
                    m = min(<Py_ssize_t>TOGETHER, (g + lot) * p.channels - c)
                    channels_gradients(p, sample, c, m, x, dy, shift, delta, scale, s, q)
                    for k in range(m):
                        wk = w[c + k] if w != NULL else 1
                        c1[(c + k) // p.channels - g] += wk * s[k]
                        c2[(c + k) // p.channels - g] += wk * q[k]
                        if p.weight_grads:
                            dbias[c + k] += s[k]
                            dweight[c + k] += q[k]
            for k in range(lot):
                c1[k] = 0 if p.given else c1[k] / n
                c2[k] = 0 if p.given else c2[k] / n
            for c in range(g * p.channels, (g + lot) * p.channels):
                k = c // p.channels - g
                wk = w[c] if w != NULL else 1
                channel_descend(p, x + sample * p.xs.sample + c * p.xs.channel, dy + sample * p.ds.sample + c * p.ds.channel,
                                dx + sample * p.ys.sample + c * p.ys.channel, shift[k], delta[k], scale[k], wk,
                                <work>c1[k], <work>c2[k], &writer)
    close_writer(&writer)
