# BatchNorm (Ioffe, Szegedy 2015), GroupNorm (Wu, He 2018) and InstanceNorm (Ulyanov, Vedaldi, Lempitsky 2016) in
# channels-first memory. A statistic belongs to a group of channels; a channel is `segments` runs of `length`
# neighbouring elements with one weight and one bias. Batch norm: a group is one channel, its segments the samples.
# Group norm: one segment. Instance norm: groups of one channel.

cdef inline const storage* fetch(const storage* run, const Row* row, Py_ssize_t p, Py_ssize_t n, storage* buffer) noexcept nogil:
    """Elements p to p + n of a channel, side by side: where they lie, or gathered from several segments."""
    cdef Py_ssize_t segment, offset, m, taken = 0
    if row.segments == 1:
        return run + p
    segment = p // row.length
    offset = p % row.length
    if offset + n <= row.length:
        return run + segment * row.segment + offset
    while taken < n:
        m = min(row.length - offset, n - taken)
        memcpy(buffer + taken, run + segment * row.segment + offset, m * sizeof(storage))
        taken += m
        segment += 1
        offset = 0
    return buffer


cdef inline double group_sample(const storage* x, const Row* row) noexcept nogil:
    cdef storage buffer[SAMPLE]
    cdef Py_ssize_t n = row.segments * row.length, step = sample_step(n), c, p, m
    cdef double total = 0, channel
    for c in range(row.channels):
        channel = 0
        for p from 0 <= p < n by step * BLOCK:
            m = min(<Py_ssize_t>SAMPLE, n - p)
            channel += chunk_sum(fetch(x + c * row.channel, row, p, m, buffer), m)
        total += channel
    return total


cdef inline void group_sums(const storage* x, const Row* row, work shift, double* s) noexcept nogil:
    cdef storage buffer[BLOCK]
    cdef Py_ssize_t n = row.segments * row.length, c, p, m
    cdef double channel[2]
    s[0] = s[1] = 0
    for c in range(row.channels):
        channel[0] = channel[1] = 0
        for p from 0 <= p < n by BLOCK:
            m = min(<Py_ssize_t>BLOCK, n - p)
            add_moments(fetch(x + c * row.channel, row, p, m, buffer), m, channel, shift)
        s[0] += channel[0]
        s[1] += channel[1]


cdef inline void run_lanes(const storage* x, storage* y, Py_ssize_t m, work shift, work delta, work scale, work b, work one, bint past) noexcept nogil:
    cdef work t[LANES]
    cdef Py_ssize_t l
    load_some(x, m, t)
    for l in range(LANES):
        t[l] = (minus(t[l], shift, one) - delta) * scale + b
    if past:
        stream(y, t)
    else:
        store_some(y, m, t)


cdef inline void run_apply(const storage* x, storage* y, Py_ssize_t n, work shift, work delta, work scale, work b, Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef work one = unit(shift)
    if past != NULL:
        i = to_line(y)
        run_lanes(x, place(past, y), i, shift, delta, scale, b, one, False)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            run_lanes(x + i, y + i, LANES, shift, delta, scale, b, one, True)
            i += LANES
        run_lanes(x + i, place(past, y + i), n - i, shift, delta, scale, b, one, False)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            run_lanes(x + i, y + i, LANES, shift, delta, scale, b, one, False)
            i += LANES
        if i < n:
            run_lanes(x + i, y + i, n - i, shift, delta, scale, b, one, False)


cdef inline void plan_row(const Plan* p, Row* row) noexcept nogil:
    row.channels = p.channels
    row.channel = p.xs.channel
    row.segments = p.segments
    row.segment = p.xs.segment
    row.length = p.length
    row.position = 1


cdef void group_again(const storage* x, const Row* row, double eps, Statistics* to, work zero) noexcept nogil:
    """As row_again."""
    cdef double s[2]
    cdef work shift
    cdef Py_ssize_t n = count(row)
    if to.delta - to.delta == 0:
        shift = <work>(to.shift + to.delta)
        group_sums(x, row, shift, s)
        settle(s, n, eps, shift, to)
        if trusted(s, n, eps, shift):
            return
    wide_statistics(x, row, True, eps, to, zero)


cdef inline storage* group_of(const storage* x, const Span* span, const Plan* p, Py_ssize_t r) noexcept nogil:
    return <storage*>x + r // p.groups * span.sample + r % p.groups * p.channels * span.channel


cdef void group_normalize(const Plan* p, const storage* x, storage* y, Py_ssize_t group, const Statistics* found, const work* w,
                          Writer* writer) noexcept nogil:
    cdef const work* b = <const work*>p.bias
    cdef const storage* run
    cdef storage* target
    cdef Py_ssize_t piece = PIECE if p.streaming else p.length, k, i, m
    cdef Writer* past = writer if p.streaming and p.length * sizeof(storage) >= LONG else NULL
    cdef work shift = <work>found.shift, delta = <work>found.delta, scale
    for k in range(group * p.channels, (group + 1) * p.channels):
        scale = <work>found.scale
        if w != NULL:
            scale *= w[k]
        for i in range(p.segments):
            run = x + (k - group * p.channels) * p.xs.channel + i * p.xs.segment
            target = y + (k - group * p.channels) * p.ys.channel + i * p.ys.segment
            if not p.streaming or past != NULL:
                run_apply(run, target, p.length, shift, delta, scale, b[k] if b != NULL else 0, past)
                continue
            m = 0
            while m < p.length:
                run_apply(run + m, place(writer, target + m), min(piece, p.length - m), shift, delta, scale, b[k] if b != NULL else 0, NULL)
                wrote(writer, min(piece, p.length - m) * sizeof(storage))
                m += piece


cdef void channel_rows_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    cdef Py_ssize_t r = task * p.batch, stop = min(r + p.batch, p.samples * p.groups), k, m, n, most
    cdef double s[TOGETHER]
    cdef double q[TOGETHER]
    cdef double total[TOGETHER]
    cdef double sums[2]
    cdef bint good[TOGETHER]
    cdef work shift[TOGETHER]
    cdef Statistics found[TOGETHER]
    cdef Writer writer
    cdef Row row
    plan_row(p, &row)
    n = count(&row)
    most = together(n, p.streaming)
    open_writer(&writer, p.streaming)
    for k in range(TOGETHER):
        s[k] = q[k] = total[k] = shift[k] = 0
    while r < stop:
        m = min(most, stop - r)
        if p.given:
            for k in range(m):
                found[k].shift = <work>p.mean[(r + k) % p.groups if p.shared else r + k]
                found[k].delta = p.mean[(r + k) % p.groups if p.shared else r + k] - found[k].shift
                found[k].scale = p.rstd[(r + k) % p.groups if p.shared else r + k]
        else:
            for k in range(m):
                total[k] = group_sample(group_of(x, &p.xs, p, r + k), &row)
            for k in range(TOGETHER):
                shift[k] = <work>(total[k] / (row.channels * sampled(row.segments * row.length)))
            for k in range(m):
                group_sums(group_of(x, &p.xs, p, r + k), &row, shift[k], sums)
                s[k], q[k] = sums[0], sums[1]
            settle_rows(s, q, shift, n, p.eps, found, good)
            for k in range(m):
                if not good[k]:
                    group_again(group_of(x, &p.xs, p, r + k), &row, p.eps, &found[k], <work>0)
                if p.mean != NULL:
                    p.mean[r + k] = found[k].shift + found[k].delta
                if p.var != NULL:
                    p.var[r + k] = found[k].var
                if p.rstd != NULL:
                    p.rstd[r + k] = found[k].rstd
        for k in range(m):
            group_normalize(p, group_of(x, &p.xs, p, r + k), group_of(<storage*>p.y, &p.ys, p, r + k), (r + k) % p.groups,
                            &found[k], w, &writer)
        r += m
    close_writer(&writer)


cdef inline void run_gradient_lanes(const storage* x, const storage* dy, Py_ssize_t m, work* a, work* q,
                                    work shift, work delta, work scale, work one) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef Py_ssize_t l
    load_some(x, m, z)
    load_some(dy, m, g)
    for l in range(LANES):
        a[l] += g[l]
        z[l] = g[l] * ((minus(z[l], shift, one) - delta) * scale)
        q[l] += z[l] if m >= LANES or l < m else 0


cdef inline void run_gradients(const storage* x, const storage* dy, Py_ssize_t n, double* s, work shift, work delta, work scale) noexcept nogil:
    """s[0] += sum dy, s[1] += sum dy * z over a block"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work one = unit(shift)
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    while i + LANES <= n:
        run_gradient_lanes(x + i, dy + i, LANES, a, q, shift, delta, scale, one)
        i += LANES
    if i < n:
        run_gradient_lanes(x + i, dy + i, n - i, a, q, shift, delta, scale, one)
    s[0] += tree(a)
    s[1] += tree(q)


cdef inline void run_backward_lanes(const storage* x, const storage* dy, storage* dx, Py_ssize_t m, work shift, work delta, work scale,
                                    work w, work c1, work c2, work one, bint given, bint past) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef Py_ssize_t l
    load_some(dy, m, g)
    if given:
        for l in range(LANES):
            g[l] = scale * (g[l] * w)
    else:
        load_some(x, m, z)
        for l in range(LANES):
            g[l] = scale * ((g[l] * w - c1) - ((minus(z[l], shift, one) - delta) * scale) * c2)
    if past:
        stream(dx, g)
    else:
        store_some(dx, m, g)


cdef inline void run_descend(const storage* x, const storage* dy, storage* dx, Py_ssize_t n, work shift, work delta, work scale,
                             work w, work c1, work c2, bint given, Writer* past) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef work one = unit(shift)
    if past != NULL:
        i = to_line(dx)
        run_backward_lanes(x, dy, place(past, dx), i, shift, delta, scale, w, c1, c2, one, given, False)
        fill_line(past, i * sizeof(storage))
        while i + LANES <= n:
            run_backward_lanes(x + i, dy + i, dx + i, LANES, shift, delta, scale, w, c1, c2, one, given, True)
            i += LANES
        run_backward_lanes(x + i, dy + i, place(past, dx + i), n - i, shift, delta, scale, w, c1, c2, one, given, False)
        wrote(past, (n - i) * sizeof(storage))
    else:
        while i + LANES <= n:
            run_backward_lanes(x + i, dy + i, dx + i, LANES, shift, delta, scale, w, c1, c2, one, given, False)
            i += LANES
        if i < n:
            run_backward_lanes(x + i, dy + i, dx + i, n - i, shift, delta, scale, w, c1, c2, one, given, False)


cdef inline void run_backward(const storage* x, const storage* dy, storage* dx, Py_ssize_t n, work shift, work delta, work scale,
                              work w, work c1, work c2, bint given, Writer* past) noexcept nogil:
    if given:
        run_descend(x, dy, dx, n, shift, delta, scale, w, c1, c2, True, past)
    else:
        run_descend(x, dy, dx, n, shift, delta, scale, w, c1, c2, False, past)


cdef void channel_rows_backward(const Plan* p, Py_ssize_t task, const storage* x0, const work* w) noexcept nogil:
    # A part of the samples and one group: dweight and dbias are the sums that dx needs.
    cdef Py_ssize_t part = task // p.groups, group = task % p.groups, sample, c, k, i, m
    cdef Py_ssize_t n = p.segments * p.length, parameters = p.groups * p.channels
    cdef Py_ssize_t piece
    cdef Writer writer
    cdef Writer* past = &writer if p.streaming and p.length * sizeof(storage) >= LONG else NULL
    cdef bint pieces = p.streaming and past == NULL
    cdef storage buffer[BLOCK]
    cdef storage other[BLOCK]
    cdef const storage* x
    cdef const storage* dy
    cdef storage* dx
    cdef storage* target
    cdef Row row, drow
    cdef double s[2]
    cdef double total[2]
    cdef double mean
    cdef work shift, delta, scale, c1, c2, wk
    plan_row(p, &row)
    plan_row(p, &drow)
    drow.segment = p.ds.segment
    open_writer(&writer, p.streaming)
    for sample in range(part * p.batch, min((part + 1) * p.batch, p.samples)):
        x = x0 + sample * p.xs.sample + group * p.channels * p.xs.channel
        dy = <const storage*>p.dy + sample * p.ds.sample + group * p.channels * p.ds.channel
        dx = <storage*>p.y + sample * p.ys.sample + group * p.channels * p.ys.channel
        k = group if p.shared else sample * p.groups + group
        mean = p.mean[k]
        shift = <work>mean
        delta = <work>(mean - shift)
        scale = <work>p.rstd[k]
        total[0] = total[1] = 0
        if not p.given or p.weight_grads:
            for c in range(p.channels):
                k = group * p.channels + c
                s[0] = s[1] = 0
                for i from 0 <= i < n by BLOCK:
                    m = min(<Py_ssize_t>BLOCK, n - i)
                    run_gradients(fetch(x + c * p.xs.channel, &row, i, m, buffer),
                                  fetch(dy + c * p.ds.channel, &drow, i, m, other), m, s, shift, delta, scale)
                wk = w[k] if w != NULL else 1
                total[0] += wk * s[0]
                total[1] += wk * s[1]
                if p.weight_grads:
                    p.dbias[part * parameters + k] += s[0]
                    p.dweight[part * parameters + k] += s[1]
        c1 = c2 = 0
        if not p.given:
            c1 = <work>(total[0] / (p.channels * n))
            c2 = <work>(total[1] / (p.channels * n))
        for c in range(p.channels):
            wk = w[group * p.channels + c] if w != NULL else 1
            for i in range(p.segments):
                m = 0
                while m < p.length:
                    piece = min(<Py_ssize_t>PIECE, p.length - m) if pieces else p.length
                    target = dx + c * p.ys.channel + i * p.ys.segment + m
                    run_backward(x + c * p.xs.channel + i * p.xs.segment + m, dy + c * p.ds.channel + i * p.ds.segment + m,
                                 place(&writer, target) if pieces else target, piece, shift, delta, scale, wk, c1, c2, p.given, past)
                    if pieces:
                        wrote(&writer, piece * sizeof(storage))
                    m += piece
    close_writer(&writer)
