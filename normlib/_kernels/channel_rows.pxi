# BatchNorm (Ioffe, Szegedy 2015), GroupNorm (Wu, He 2018) and InstanceNorm (Ulyanov, Vedaldi, Lempitsky 2016) in
# channels-first memory. A statistic belongs to a group of channels; a channel is `segments` runs of `length`
# neighbouring elements with one weight and one bias. Batch norm: a group is one channel, its segments the samples.
# Group norm: one segment. Instance norm: groups of one channel.
#
# At most TOGETHER groups are summed, and at most TOGETHER channels are written at once: those of several groups, or of one in turn.

cdef enum:
    LOT_BYTES = 1 << 18     # of the groups of several segments that are taken at once
    SEEN = 4096             # bytes of a run from which on the hardware sees a stream, in the last cache
    SEEN_FAR = 1 << 15      # and in memory

cdef inline void group_sample(const storage* x, const Row* row, double* e, work zero) noexcept nogil:
    """A sample of each channel."""
    cdef storage buffer[SAMPLE]
    cdef Py_ssize_t n = row.segments * row.length, step = sample_step(n) * BLOCK, c, i
    for c in range(row.channels):
        for i from 0 <= i < n by step:
            fold_sample(fetch(x, row, c * n + i, min(<Py_ssize_t>SAMPLE, n - i), buffer), n - i, e, c + i > 0, zero)


cdef inline void group_sums(const storage* x, const Row* row, bint near, bint far, work shift, double* sums, double* squares) noexcept nogil:
    """Sums about the first mean, in 8 parts each; near: the elements lie side by side"""
    cdef storage buffer[BLOCK]
    cdef double e[4][8]     # as in row_sums
    cdef Py_ssize_t n = count(row), step = BLOCK, i, m, ahead = 0
    cdef const storage* block
    if work is double and n > step:
        memset(e, 0, sizeof(e))
    for i from 0 <= i < n by step:
        m = min(step, n - i)
        block = x + i
        if not near:
            block = fetch_ahead(x, row, i, m, buffer, far, &ahead)
        if work is double and i > 0:
            add_moments(block, m, e[0], e[1], False, ahead, shift)
            add_eight(sums, e[2], e[0])
            add_eight(squares, e[3], e[1])
        else:
            add_moments(block, m, sums, squares, i > 0, ahead, shift)
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


cdef inline bint scattered(const Plan* p) noexcept nogil:
    """Whether runs are too long for `next_lot`, and too short and too far from each other for the hardware to see a stream."""
    return p.level > 3 and p.segments > 1 and SEEN <= p.length * p.itemsize < SEEN_FAR


cdef void group_again(const storage* x, const Row* row, double eps, double mean, Statistics* to, work zero) noexcept nogil:
    """As row_again."""
    cdef double e[2][8]
    cdef double s[2]
    cdef work shift
    cdef Py_ssize_t n = count(row)
    if mean - mean == 0:
        shift = <work>mean
        memset(e, 0, sizeof(e))
        group_sums(x, row, False, False, shift, e[0], e[1])
        s[0], s[1] = sum_8(e[0]), sum_8(e[1])
        settle(s, n, eps, shift, to)
        if trusted(s, n, eps, shift):
            return
    wide_statistics(x, row, True, eps, to, zero)


cdef bint groups_statistics(const Plan* p, Py_ssize_t r, Py_ssize_t m, const storage* x,
                            work* shift, work* delta, work* scale, work* factor) noexcept nogil:
    """Statistics of m <= TOGETHER groups from r on, which begin at x; whether one has a factor, as rows_statistics."""
    cdef Rows rows
    cdef Statistics found
    cdef Row row
    cdef bint far = scattered(p), scaled = False
    cdef Py_ssize_t n = p.channels * p.segments * p.length, taken = p.channels * sampled(p.segments * p.length), step = p.channels * p.xs.channel, k
    plan_row(p, &p.xs, &row)
    for k in range(m):
        group_sample(x + k * step, &row, rows.sample[k], <work>0)
    shift_rows(&rows, m, taken, shift)
    if row.whole and not far:
        for k in range(m):
            group_sums(x + k * step, &row, True, False, shift[k], rows.sums[k], rows.squares[k])
    else:
        for k in range(m):
            group_sums(x + k * step, &row, False, far, shift[k], rows.sums[k], rows.squares[k])
    if not settle_rows(&rows, m, n, taken, True, p.eps, shift, delta, scale):
        for k in range(m):
            factor[k] = 1
            if not rows.good[k]:
                group_again(x + k * step, &row, p.eps, rows.mean[k], &found, <work>0)
                scaled |= put(&rows, k, &found, shift, delta, scale, factor)
    if p.mean != NULL:
        memcpy(p.mean + r, rows.mean, m * sizeof(double))
    if p.var != NULL:
        memcpy(p.var + r, rows.var, m * sizeof(double))
    if p.rstd != NULL:
        memcpy(p.rstd + r, rows.rstd, m * sizeof(double))
    return scaled


cdef bint given_statistics(const Plan* p, Py_ssize_t r, Py_ssize_t m, work* shift, work* delta, work* scale, work* factor) noexcept nogil:
    """Of m groups of all samples from r on; statistics that samples share begin again with each. Whether one has a factor, which
    none has where `factor` is NULL."""
    cdef bint scaled = False
    cdef Py_ssize_t first = 0, stop, g = r % p.groups if p.shared else r, k
    cdef const double* mean
    cdef const double* rstd
    while first < m:
        stop = min(m, first + p.groups - g) if p.shared else m
        mean, rstd = p.mean + g - first, p.rstd + g - first
        for k in range(first, stop):
            if factor != NULL:
                split_scaled(mean[k], rstd[k], &shift[k], &delta[k], &scale[k], &factor[k])
                scaled |= factor[k] != 1
            else:
                split_mean(mean[k], &shift[k], &delta[k])
                scale[k] = <work>rstd[k]
        first, g = stop, 0
    return scaled


cdef inline Py_ssize_t groups_together(const Plan* p, Py_ssize_t arrays) noexcept nogil:
    """How many groups to take at once; where they lie in several segments, so many as stay in the second cache, for the runs of
    several channels are one long run in each."""
    cdef Py_ssize_t n = arrays * p.channels * p.segments * p.length
    if p.segments > 1:
        return max(<Py_ssize_t>1, min(<Py_ssize_t>TOGETHER, LOT_BYTES // (n * p.itemsize)))
    return together(n, p.streaming)


cdef inline bint side_by_side(const Plan* p, const Span* span) noexcept nogil:
    """Whether the groups of a sample begin where those of the last one end."""
    return p.samples == 1 or span.sample == p.groups * p.channels * span.channel


cdef inline void spread(const Plan* p, Py_ssize_t m, const work* a, work* to) noexcept nogil:
    """What belongs to m groups, to each of their channels; to TOGETHER, if the one group has more."""
    cdef Py_ssize_t many = min(p.channels, <Py_ssize_t>TOGETHER), k, j
    if many == 1:
        for k in range(TOGETHER):   # one vector
            to[k] = a[k]
        return
    for k in range(m):
        for j in range(many):
            to[k * many + j] = a[k]


cdef inline Py_ssize_t next_lot(const Plan* p, const Span* span, Py_ssize_t many) noexcept nogil:
    """How far ahead to prefetch: to the runs of the channels after these, where the hardware sees no stream; 0: not at all."""
    if p.level > 2 and p.segments > 1 and p.length * p.itemsize < SEEN and many * p.segments * p.length * p.itemsize <= LOT_BYTES:
        return many * span.channel
    return 0


cdef inline void runs_apply(const storage* x, Py_ssize_t xstep, storage* y, Py_ssize_t ystep, Py_ssize_t many, Py_ssize_t n,
                            const work* shift, const work* delta, const work* scale, const work* bias,
                            bint streaming, bint staged, Py_ssize_t ahead, Writer* writer) noexcept nogil:
    """Many runs, each with coefficients of its own."""
    cdef Py_ssize_t k
    for k in range(many):
        if ahead > 0:
            prefetch_run(x + k * xstep + ahead, n)
        if streaming and staged:
            run_apply(x + k * xstep, place(writer, y + k * ystep), n, shift[k], delta[k], scale[k], bias[k], NULL)
            wrote(writer, n * sizeof(storage))
        else:
            run_apply(x + k * xstep, y + k * ystep, n, shift[k], delta[k], scale[k], bias[k], writer if streaming else NULL)


cdef void run_scaled(const storage* x, storage* y, Py_ssize_t n, work shift, work delta, work scale, work factor, work b, Writer* writer) noexcept nogil:
    """run_apply to elements times a factor, piece by piece."""
    cdef work t[PIECE]
    cdef Py_ssize_t i, many
    for i from 0 <= i < n by PIECE:
        many = min(<Py_ssize_t>PIECE, n - i)
        widen_run(x + i, many, factor, t)
        run_apply(t, t, many, shift, delta, scale, b, NULL)
        narrow_run(t, many, place(writer, y + i))
        wrote(writer, many * sizeof(storage))


cdef void groups_normalize(const Plan* p, Py_ssize_t g, Py_ssize_t m, const storage* x, storage* y, const work* shift, const work* delta,
                           const work* rstd, const work* w, Writer* writer) noexcept nogil:
    """m groups, from group g of a sample on, which begin at x, in the order of memory: segment by segment."""
    cdef const work* b = <const work*>p.bias
    cdef work shifts[TOGETHER]
    cdef work deltas[TOGETHER]
    cdef work scales[TOGETHER]
    cdef work biases[TOGETHER]
    cdef work scale[TOGETHER]
    cdef Py_ssize_t c = g * p.channels, channels = m * p.channels, ahead = next_lot(p, &p.xs, channels), first, many, k, i
    cdef bint staged = not lane_by_lane(p, x)
    spread(p, m, shift, shifts)
    spread(p, m, delta, deltas)
    spread(p, m, rstd, scale)
    for first from 0 <= first < channels by TOGETHER:
        many = min(<Py_ssize_t>TOGETHER, channels - first)
        for k in range(many):
            scales[k] = scale[k] * w[c] if w != NULL else scale[k]
            biases[k] = b[c] if b != NULL else 0
            c += 1
            if c == p.parameters:
                c = 0
        for i in range(p.segments):
            if p.streaming:
                runs_apply(x + i * p.xs.segment, p.xs.channel, y + i * p.ys.segment, p.ys.channel, many, p.length,
                           shifts, deltas, scales, biases, True, staged, ahead, writer)
            else:
                runs_apply(x + i * p.xs.segment, p.xs.channel, y + i * p.ys.segment, p.ys.channel, many, p.length,
                           shifts, deltas, scales, biases, False, False, ahead, NULL)
        x += many * p.xs.channel
        y += many * p.ys.channel


cdef inline bint products_normal(const Plan* p, Py_ssize_t g, Py_ssize_t m, const work* scale, const work* w) noexcept nogil:
    """Whether scales times weights are numbers of the working type for m groups, from group g of a sample on."""
    cdef Py_ssize_t c = g * p.channels, k, j
    cdef work least = 1, most = 1, product
    if w == NULL:
        return True
    for k in range(m):
        for j in range(p.channels):
            product = abs(scale[k] * w[c + j]) if w[c + j] != 0 else 1
            least, most = min(least, product), max(most, product)
        c = c + p.channels if c + p.channels < p.parameters else 0
    return normal(least, most)


cdef void groups_scaled(const Plan* p, Py_ssize_t g, Py_ssize_t m, const storage* x, storage* y, const work* shifts, const work* deltas,
                        const work* scales, const work* factors, const work* w, Writer* writer) noexcept nogil:
    """groups_normalize where elements are taken times a factor, or should be, for a product of scale and weight that is out of range."""
    cdef const work* b = <const work*>p.bias
    cdef work shift, delta, scale, factor, weight
    cdef Py_ssize_t c = g * p.channels, k, j, i
    for k in range(m):
        for j in range(p.channels):
            shift, delta, scale, factor = shifts[k], deltas[k], scales[k], factors[k]
            weight = w[c] if w != NULL else 1
            if factor != 1 or beyond(scale, weight):
                balance(&shift, &delta, &scale, &factor)
            for i in range(p.segments):
                run_scaled(x + i * p.xs.segment, y + i * p.ys.segment, p.length, shift, delta, scale * weight, factor,
                           b[c] if b != NULL else 0, writer)
            x += p.xs.channel
            y += p.ys.channel
            c = c + 1 if c + 1 < p.parameters else 0


cdef void channel_rows_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    cdef Py_ssize_t r = task * p.batch, stop = min(r + p.batch, p.samples * p.groups), most = groups_together(p, 1)
    cdef Py_ssize_t lot = max(<Py_ssize_t>1, TOGETHER // p.channels), g, m, k
    cdef bint whole = side_by_side(p, &p.xs) and side_by_side(p, &p.ys)
    cdef const storage* xs
    cdef storage* ys
    cdef work shift[TOGETHER]
    cdef work delta[TOGETHER]
    cdef work scale[TOGETHER]
    cdef work factor[TOGETHER]
    cdef bint far = w != NULL and far_from_1(w, p.parameters), scaled
    cdef Writer writer
    open_writer(&writer, p.streaming)
    while r < stop:
        g = r % p.groups
        m = min(most, stop - r, stop - r if whole else p.groups - g)
        xs = x + r // p.groups * p.xs.sample + g * p.channels * p.xs.channel
        ys = <storage*>p.y + r // p.groups * p.ys.sample + g * p.channels * p.ys.channel
        if p.given:
            scaled = given_statistics(p, r, m, shift, delta, scale, factor)
        else:
            scaled = groups_statistics(p, r, m, xs, shift, delta, scale, factor)
        if (far or far_from_1(scale, m)) and not products_normal(p, g, m, scale, w):
            for k in range(0 if scaled else m):
                factor[k] = 1
            scaled = True
        if scaled:
            groups_scaled(p, g, m, xs, ys, shift, delta, scale, factor, w, &writer)
        for k from 0 <= k < (0 if scaled else m) by lot:
            groups_normalize(p, (g + k) % p.groups, min(lot, m - k), xs + k * p.channels * p.xs.channel, ys + k * p.channels * p.ys.channel,
                             shift + k, delta + k, scale + k, w, &writer)
        r += m
    close_writer(&writer)
