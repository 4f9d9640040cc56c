# BatchNorm (Ioffe, Szegedy 2015), GroupNorm (Wu, He 2018) and InstanceNorm (Ulyanov, Vedaldi, Lempitsky 2016) in
# channels-first memory. A row is a group of channels; a channel is `segments` runs of `length` neighbouring elements with one
# weight and one bias. Batch norm: a group is one channel, its segments the samples. Group norm: one segment. Instance norm:
# groups of one channel.
#
# Backward, with z = (x - mean) * rstd: dbias = sum dy, dweight = sum dy * z, dx = rstd * (w dy - mean(w dy) - z mean(w dy z)); where
# the statistics were given (batch norm in evaluation), dx = rstd * w dy.

cdef enum:
    ADDED = 16              # channels of a group whose sums are added before they join the others: fixed, for it decides bits
    SEEN = 4096             # bytes of a run from which on the hardware sees a stream, in the LLC
    SEEN_FAR = 1 << 15      # and in memory


cdef inline bint scattered(const Plan* p) noexcept nogil:
    """Whether runs are too long for `next_lot`, and too short and too far from each other for the hardware to see a stream."""
    return p.level > 3 and p.segments > 1 and SEEN <= p.length * p.itemsize < SEEN_FAR


cdef inline Py_ssize_t while_written(const Plan* p, const Array* x) noexcept nogil:
    """How far ahead to prefetch while rows that L1 holds are written, as in `look_ahead_of`."""
    return AHEAD_BYTES if p.segments == 1 and written_from_l1(p, x, p.channels * p.length) else 0


cdef inline Py_ssize_t next_lot(const Array* x, const Plan* p, Py_ssize_t many) noexcept nogil:
    """How far ahead to prefetch: to the runs of the channels after these, where the hardware sees no stream; 0: not at all."""
    if p.level > 2 and p.segments > 1 and p.length * p.itemsize < SEEN and many * p.segments * p.length * p.itemsize <= p.lot_bytes:
        return many * x.channel
    return 0


cdef inline Py_ssize_t groups_together(const Plan* p, Py_ssize_t arrays) noexcept nogil:
    """How many groups to take at once; where they lie in several segments, so many as stay in L2, for the runs of several channels
    are one long run in each."""
    cdef Py_ssize_t n = arrays * p.channels * p.segments * p.length
    if p.segments > 1:
        return max(<Py_ssize_t>1, min(<Py_ssize_t>TOGETHER // 2, p.lot_bytes // (n * p.itemsize)))
    return together(n, p.streaming)


cdef inline bint side_by_side(const Plan* p, const Span* span) noexcept nogil:
    """Whether the groups of a sample begin where those of the last one end."""
    return p.samples == 1 or span.sample == p.groups * p.channels * span.channel


cdef inline bint all_side_by_side(const Plan* p) noexcept nogil:
    cdef View view
    cdef int i
    for i in range(BESIDE, OUTPUTS if p.fused else 0):
        view = view_of(p, i)
        if view.data != NULL and not side_by_side(p, &view.span):
            return False
    return side_by_side(p, &p.xs) and side_by_side(p, &p.ys)


cdef inline Py_ssize_t row_in(const Plan* p, Py_ssize_t r) noexcept nogil:
    """The place of a group among those that parameters are for: all of a sample, or of all samples."""
    return r if p.own else r % p.groups


cdef inline Py_ssize_t entries_of(const Plan* p) noexcept nogil:
    """How many values a parameter has."""
    return p.samples * p.parameters if p.own else p.parameters


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


cdef inline void parameters_of(const work* w, const work* b, Py_ssize_t channel, Py_ssize_t m, work* scale, work* offset) noexcept nogil:
    """The weights of m channels, times their scales, and their biases."""
    cdef Py_ssize_t k
    if w != NULL:
        for k in range(m):
            scale[k] *= w[channel + k]
    for k in range(m):
        offset[k] = b[channel + k] if b != NULL else <work>NOTHING


cdef void groups_normalize(Pass* s, const Array* x, Py_ssize_t r, Py_ssize_t m, const work* table, const work* w) noexcept nogil:
    """m groups from r on, in the order of memory: segment by segment."""
    cdef const Plan* p = s.plan
    cdef const work* b = <const work*>p.bias
    cdef work of_runs[TABLE * TOGETHER]
    cdef Affine c
    cdef Spot spot = row_spot(s, x, r), run
    cdef Py_ssize_t channel = row_in(p, r) * p.channels, last = entries_of(p), channels = m * p.channels, ahead = next_lot(&s.x, p, channels)
    cdef Py_ssize_t first, many, count, k, i
    beside(&c, of_runs, TOGETHER)
    c.of_bias = of_runs + OFFSET * TOGETHER
    c.statistics, c.center, c.weight, c.bias = ONE, ONE, ABSENT, ONE
    spread(p, m, table + SHIFT * TOGETHER, of_runs + SHIFT * TOGETHER)
    spread(p, m, table + DELTA * TOGETHER, of_runs + DELTA * TOGETHER)
    for first from 0 <= first < channels by TOGETHER:
        many = min(<Py_ssize_t>TOGETHER, channels - first)
        spread(p, m, table + SCALE * TOGETHER, of_runs + SCALE * TOGETHER)
        k = 0
        while k < many:
            count = min(many - k, last - channel)
            parameters_of(w, b, channel, count, of_runs + SCALE * TOGETHER + k, of_runs + OFFSET * TOGETHER + k)
            channel = channel + count if channel + count < last else 0
            k += count
        for i in range(p.segments):
            run = moved(s, x, &spot, first, i)
            for k in range(many if ahead > 0 else 0):
                prefetch_bytes(run.x + k * x.channel + ahead, p.length * p.itemsize)
            runs_normalize(s, x, &run, many, &c, of_runs[0])


cdef inline bint products_normal(const Plan* p, Py_ssize_t g, Py_ssize_t m, const work* scale, const work* w) noexcept nogil:
    """Whether scales times weights are numbers of the working type for m groups, from group g of those on that parameters are for."""
    cdef Py_ssize_t c = g * p.channels, last = entries_of(p), k, j
    cdef work least = 1, most = 1, product
    if w == NULL:
        return True
    for k in range(m):
        for j in range(p.channels):
            product = abs(scale[k] * w[c + j]) if w[c + j] != 0 else 1
            least, most = min(least, product), max(most, product)
        c = c + p.channels if c + p.channels < last else 0
    return normal(least, most)


cdef void groups_scaled(Pass* s, Py_ssize_t r, Py_ssize_t m, work* table, const work* w, bint factors) noexcept nogil:
    """groups_normalize where elements are taken times a factor, or should be, for a product of scale and weight that is out of range."""
    cdef const Plan* p = s.plan
    cdef const work* b = <const work*>p.bias
    cdef work of_run[TABLE]
    cdef work factor, weight
    cdef Affine c
    cdef Spot spot, run
    cdef Py_ssize_t channel = row_in(p, r) * p.channels, last = entries_of(p), k, j, i
    beside(&c, of_run, 1)
    c.of_bias = of_run + OFFSET
    c.statistics, c.center, c.weight, c.bias = ONE, ONE, ABSENT, ONE
    for k in range(m):
        spot = row_spot(s, &s.x, r + k)
        for j in range(p.channels):
            of_run[SHIFT], of_run[DELTA] = table[SHIFT * TOGETHER + k], table[DELTA * TOGETHER + k]
            of_run[SCALE], factor = table[SCALE * TOGETHER + k], table[FACTOR * TOGETHER + k] if factors else 1
            weight = w[channel] if w != NULL else 1
            if factor != 1 or beyond(of_run[SCALE], weight):
                balance(of_run + SHIFT, of_run + DELTA, of_run + SCALE, &factor)
            of_run[SCALE] *= weight
            of_run[OFFSET] = b[channel] if b != NULL else <work>NOTHING
            for i in range(p.segments):
                run = moved(s, &s.x, &spot, j, i)
                normalize_pieces(s, &s.x, &run, p.length, &c, factor)
            channel = channel + 1 if channel + 1 < last else 0


cdef void channel_rows_from(const Plan* p, Py_ssize_t r, Py_ssize_t stop, work zero) noexcept nogil:
    """Groups r to stop of all samples."""
    cdef Py_ssize_t most = groups_together(p, 1)
    cdef Py_ssize_t n = p.channels * p.segments * p.length, lot = max(<Py_ssize_t>1, TOGETHER // p.channels), m, k
    cdef bint whole = all_side_by_side(p)
    cdef const work* w = <const work*>p.weight
    cdef bint far = w != NULL and far_from_1(w, entries_of(p)), scaled
    cdef work table[TABLE * TOGETHER]
    cdef Residual residual
    cdef Inside inside
    cdef Pass s
    cdef Array taken
    cdef Array* x
    cdef bint masked = open_inside(&inside, p, NULL, False, zero), direct
    open_pass(&s, p, zero)
    direct = direct_runs(p, &s.x)
    open_residual(&residual, p.before, False, zero)
    s.x.far = scattered(p)
    s.x.later = while_written(p, &s.x)
    if work is float and in_turn(&s):
        channels_in_turn(&s, r, stop, w)
        r = stop
    while r < stop:
        m = alike_rows(p, r, min(most, stop - r, stop - r if whole else p.groups - r % p.groups), n)
        if p.before != NULL:
            residual_rows(&residual, r, r + m, zero)
        x = &s.x
        if p.given:
            scaled = given_statistics(p, r, m, table, True)
        else:
            if not s.x.plain and not direct:
                x = take_rows(&s.x, r, m, n, &taken, <work*>s.room, panel_of(zero))
            scaled = inside_statistics(p, x, &inside, r, m, table) if masked else rows_statistics(p, x, r, m, table)
        if p.y == NULL:     # the statistics are all that is wanted
            pass
        elif scaled or ((far or far_from_1(table + SCALE * TOGETHER, m))
                        and not products_normal(p, row_in(p, r), m, table + SCALE * TOGETHER, w)):
            groups_scaled(&s, r, m, table, w, scaled)
        else:
            for k from 0 <= k < m by lot:
                groups_normalize(&s, x, r + k, min(lot, m - k), table + k, w)
        r += m
    close_writer(&s.writer)


cdef void channel_rows_forward(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    channel_rows_from(p, task * p.batch, min((task + 1) * p.batch, p.samples * p.groups), zero)


# ---- backward ----

cdef inline void channel_slopes_as(bint narrow, const Array* x, Array* dy, const char* row, const char* drow, const work* table, Py_ssize_t k,
                                   double* sums, double* products) noexcept nogil:
    """sum dy and sum dy * (x - shift) * scale of a channel"""
    cdef Slopes c
    c.shifted, c.narrow, c.apart = True, narrow, True
    c.corrected = c.weighted = c.weight_grads = c.bias_grads = False
    c.shift, c.scale = table[SHIFT * TOGETHER + k], table[SCALE * TOGETHER + k]
    c.first, c.stop, c.rows = 0, x.segments * x.length, 1
    row_slopes(&c, x, dy, row, drow, c.stop, sums, products, table[0])


cdef void channel_slopes(const Array* x, Array* dy, const char* row, const char* drow, const work* table, Py_ssize_t k,
                         double* sums, double* products) noexcept nogil:
    channel_slopes_as(False, x, dy, row, drow, table, k, sums, products)


cdef void narrow_channel_slopes(const Array* x, Array* dy, const char* row, const char* drow, const float* table, Py_ssize_t k,
                                double* sums, double* products) noexcept nogil:
    channel_slopes_as(True, x, dy, row, drow, table, k, sums, products)


cdef void channels_slopes(Array* x, Array* dy, Inside* inside, Py_ssize_t r, Py_ssize_t first, Py_ssize_t m, const work* table, double* s,
                          double* q) noexcept nogil:
    """s = sum dy and q = sum dy * z of m <= TOGETHER channels, the first of which is `first` from that of group r."""
    cdef const char* row = row_at(x, r) + first * x.channel
    cdef const char* drow = row_at(dy, r) + first * dy.channel
    cdef Array filled
    cdef const Array* taken
    cdef Rows rows
    cdef Py_ssize_t size = sizeof(work), k, channel
    if x.plain and x.whole and dy.plain and dy.whole and inside.plan.inside == NULL and x.segments * x.length < ROUND * LANES:
        short_slopes(<const work*>row, <const work*>drow, x.segments * x.length, x.channel // size, dy.channel // size, m, table, rows.sums, rows.squares)
    else:
        for k in range(m):
            channel = first + k
            taken = by_mask(x, inside, r + channel // x.channels, channel % x.channels, table[SHIFT * TOGETHER + k], &filled)
            if narrow_both(taken, dy):
                narrow_channel_slopes(taken, dy, row + k * x.channel, drow + k * dy.channel, <const float*>table, k, rows.sums[k], rows.squares[k])
            else:
                channel_slopes(taken, dy, row + k * x.channel, drow + k * dy.channel, table, k, rows.sums[k], rows.squares[k])
    clear_rows(rows.sums, m, m)
    clear_rows(rows.squares, m, m)
    sum_rows(rows.sums, m, s)
    sum_rows(rows.squares, m, q)
    for k in range(m):
        q[k] = about_mean(q[k], s[k], table[DELTA * TOGETHER + k], table[SCALE * TOGETHER + k])


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


cdef void groups_descend(Pass* s, const Array* x, const Array* dy, Py_ssize_t r, Py_ssize_t m, work* of_runs, const work* w) noexcept nogil:
    """As groups_normalize; of_runs: the coefficients of the groups' channels, of TOGETHER if there are more."""
    cdef const Plan* p = s.plan
    cdef work ones[TOGETHER]
    cdef Affine c
    cdef Py_ssize_t channel = r % p.groups * p.channels, channels = m * p.channels, ahead = next_lot(&s.x, p, channels), first, many, k, i
    cdef Spot spot = row_spot(s, x, r), run
    cdef const char* drun
    beside(&c, of_runs, TOGETHER)
    c.statistics = c.center = c.weight = ONE
    c.through = ABSENT if p.given else ONE
    for k in range(TOGETHER):
        ones[k] = 1
    for first from 0 <= first < channels by TOGETHER:
        many = min(<Py_ssize_t>TOGETHER, channels - first)
        c.of_weight = w + channel + first if w != NULL else ones
        for i in range(p.segments):
            run = moved(s, x, &spot, first, i)
            drun = row_at(dy, r) + first * dy.channel + i * dy.segment
            for k in range(many if ahead > 0 else 0):
                prefetch_bytes(run.x + k * x.channel + ahead, p.length * p.itemsize)
                prefetch_bytes(drun + k * dy.channel + next_lot(&s.dy, p, channels), p.length * p.itemsize)
            runs_descend(s, x, dy, &run, drun, many, &c, of_runs[0])


cdef void groups_slopes(const Plan* p, Array* x, Array* dy, Inside* inside, Py_ssize_t r, Py_ssize_t m, Py_ssize_t part, work* of_groups,
                        const work* of_runs) noexcept nogil:
    """The coefficients (`descent`) of m groups from r on, and their share of dweight and dbias."""
    cdef double s[TOGETHER]
    cdef double q[TOGETHER]
    cdef double sums[2][TOGETHER]
    cdef double lost[2][TOGETHER]
    cdef const work* w = <const work*>p.weight
    cdef Py_ssize_t first = r % p.groups * p.channels, stop = first + m * p.channels, c, many, k
    cdef Py_ssize_t step = ADDED if p.channels > ADDED else TOGETHER
    cdef double n = p.channels * p.segments * p.length
    cdef work zero = 0
    memset(sums, 0, sizeof(sums))
    memset(lost, 0, sizeof(lost))
    if not p.given or p.weight_grads:
        for c from first <= c < stop by step:
            many = min(step, stop - c)
            channels_slopes(x, dy, inside, r, c - first, many, of_runs, s, q)
            if p.weight_grads:
                add_gradients(p, part * p.parameters + c, q, s, many, zero)
            if w != NULL:
                for k in range(many):
                    s[k] *= w[c + k]
                    q[k] *= w[c + k]
            add_groups(m, many, s, sums[0], lost[0], zero)
            add_groups(m, many, q, sums[1], lost[1], zero)
    for k in range(m):
        descent(regain(sums[0][k], lost[0][k], zero), regain(sums[1][k], lost[1][k], zero), n if p.inside == NULL else p.inside[r + k],
                of_groups[DELTA * TOGETHER + k], of_groups[SCALE * TOGETHER + k], of_groups + MEAN_G * TOGETHER + k, of_groups + SLOPE * TOGETHER + k)


cdef void channel_rows_backward(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    # A part of the samples and p.strip groups: dweight and dbias are the sums that dx needs.
    cdef Py_ssize_t strips = (p.groups - 1) // p.strip + 1, part = task // strips, sample, g, m, r, e, begin, ready
    cdef Py_ssize_t first = task % strips * p.strip, last = min(first + p.strip, p.groups), n = p.channels * p.segments * p.length
    cdef Py_ssize_t most = max(<Py_ssize_t>1, min(groups_together(p, 2), TOGETHER // p.channels))
    cdef const work* w = <const work*>p.weight
    cdef work of_groups[TABLE * TOGETHER]
    cdef work of_runs[TABLE * TOGETHER]
    cdef Pass s
    cdef Inside inside
    cdef Array x_taken, dy_taken
    cdef Array* x
    cdef Array* dy
    cdef bint direct
    open_pass(&s, p, zero)
    direct = not open_inside(&inside, p, NULL, True, zero) and direct_runs(p, &s.x) and direct_runs(p, &s.dy)
    s.x.far = s.dy.far = scattered(p)
    s.x.later, s.dy.later = while_written(p, &s.x), while_written(p, &s.dy)
    memset(of_groups, 0, sizeof(of_groups))
    for sample in range(part * p.batch, min((part + 1) * p.batch, p.samples)):
        g = ready = first
        if work is float and in_turn(&s):
            gradients_in_turn(&s, sample * p.groups + first, sample * p.groups + last, part)
            g = last
        while g < last:
            r = sample * p.groups + g
            m = alike_rows(p, r, min(most, last - g), n)
            x, dy = &s.x, &s.dy
            if p.before != NULL and ready < g + m:
                begin = sample * p.groups + ready   # not r: what is ready may lie in dy
                ready = min(last, g + (max(m, 2 * PANEL // n) if p.segments == 1 else m))
                if p.before.upstream:
                    channel_rows_from(p.before, begin, sample * p.groups + ready, zero)
                else:
                    rows_before(p.before, begin, sample * p.groups + ready, zero)
            if not s.x.plain and not direct:
                x = take_rows(x, r, m, n, &x_taken, <work*>s.room, panel_of(zero) // 2)
            if not s.dy.plain and not direct:
                dy = take_rows(dy, r, m, n, &dy_taken, <work*>(s.room + ROOM_BYTES // 2), panel_of(zero) // 2)
            given_statistics(p, r, m, of_groups, False)
            for e from SHIFT <= e <= SCALE:
                spread(p, m, of_groups + e * TOGETHER, of_runs + e * TOGETHER)
            groups_slopes(p, x, dy, &inside, r, m, part, of_groups, of_runs)
            spread(p, m, of_groups + MEAN_G * TOGETHER, of_runs + MEAN_G * TOGETHER)
            spread(p, m, of_groups + SLOPE * TOGETHER, of_runs + SLOPE * TOGETHER)
            groups_descend(&s, x, dy, r, m, of_runs, w)
            g += m
    close_writer(&s.writer)
