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


cdef inline bint adjacent(const Array* a) noexcept nogil:
    """Whether the runs of neighbouring channels are one stretch of memory."""
    return a.channel == a.length * a.position


cdef inline Py_ssize_t between(const Array* a, work zero) noexcept nogil:
    """How far apart to keep runs in a panel: short ones that are widened, on lines. What was just written and lies across two of them would
    be waited for when it is read (store forwarding); long ones are written well before, and the loops for short ones read whole lines."""
    cdef Py_ssize_t line = LINE // sizeof(float)
    if work is float and SHORT_ROWS:
        return a.length
    return (a.length + line - 1) // line * line if not a.plain and line < a.length < 4 * line else a.length


cdef inline const work* take_runs(const Array* a, const char* first, Py_ssize_t m, Py_ssize_t apart, work* room) noexcept nogil:
    """The runs of m channels, so many elements apart."""
    cdef Py_ssize_t k
    if adjacent(a) and apart == a.length:
        return take_run(a, first, m * a.length, room)
    for k in range(m):
        widen(a, first + k * a.channel, a.length, room + k * apart)
    return room


cdef inline work* out_of(const Array* y, char* to, Writer* writer, const work* room, Py_ssize_t n) noexcept nogil:
    """Where to compute n elements of runs that are one stretch of memory: there, in the stage, or in room."""
    if not y.plain or not adjacent(y) or (writer.streaming and n * <Py_ssize_t>sizeof(work) >= LONG):
        return <work*>room
    return <work*>place(writer, to)


cdef inline void give_runs(const Array* y, char* to, Writer* writer, const work* t, Py_ssize_t m, Py_ssize_t apart) noexcept nogil:
    """The runs of m channels, which were computed at `out_of`, so many elements apart."""
    cdef Py_ssize_t k
    if not adjacent(y) or apart != y.length:
        for k in range(m):
            give_room(y, to + k * y.channel, writer, t + k * apart, y.length)
    elif <const char*>t == place(writer, to):
        wrote(writer, m * y.length * y.itemsize)
    else:
        give_room(y, to, writer, t, m * y.length)


cdef void follow_runs(const Pass* s, const Array* x, const Spot* spot, Py_ssize_t many, Py_ssize_t apart, work* v) noexcept nogil:
    """The epilogue of the runs of many channels, so many elements apart: of all at once where they are one stretch of memory."""
    cdef const void* beside[OUTPUTS]
    cdef Spot run
    cdef Py_ssize_t n = x.length, k
    cdef bint one = apart == n
    cdef int i
    for i in range(BESIDE, OUTPUTS):
        beside[i] = NULL
        if spot.beside[i] != NULL and one:
            one = adjacent(&s.beside[i]) and (i < INPUTS or s.beside[i].plain)
            beside[i] = take_run(&s.beside[i], spot.beside[i], many * n if one else 0, share_of(s, i, v[0]))
    if one:
        follow(s.plan, v, beside, many * n)
        return
    for k in range(many):
        run = moved(s, x, spot, k, 0)
        follow_piece(s, &run, 0, n, v + k * apart)


cdef inline bint runs_in_place(const Pass* s, const Array* x, const Spot* spot) noexcept nogil:
    cdef int i
    for i in range(BESIDE, OUTPUTS if s.plan.fused else 0):
        if spot.beside[i] != NULL and not s.beside[i].plain:
            return False
    return x.plain and s.y.plain and s.apart and not s.writer.streaming


cdef void runs_normalize(Pass* s, const Array* x, const Spot* spot, Py_ssize_t many, const Affine* c, work zero) noexcept nogil:
    """The runs of many channels, each with coefficients of its own."""
    cdef Affine row
    cdef Block b
    cdef Spot run
    cdef Py_ssize_t n = x.length, apart = between(x, zero), per = max(<Py_ssize_t>1, portion(x, &s.y, &s.writer, many * apart, zero) // apart), k
    cdef const work* t
    cdef work* u
    b.width, b.ahead = n, x.later
    if runs_in_place(s, x, spot):
        b.rows, b.x, b.y = many, x.channel // <Py_ssize_t>sizeof(work), s.y.channel // <Py_ssize_t>sizeof(work)
        normalize_runs(c, &b, <const work*>spot.x, <work*>spot.y)
        if follows(s, spot):
            follow_runs(s, x, spot, many, b.y, <work*>spot.y)
        return
    b.x = apart
    if s.plan.fused:
        per = max(<Py_ssize_t>1, min(per, SHARE_BYTES // <Py_ssize_t>sizeof(work) // apart)) if spot.beside[OF_WHERE] == NULL else 1
    for k from 0 <= k < many by per:
        row = row_of(c, k, zero)
        run = moved(s, x, spot, k, 0)
        if per == 1:
            normalize_pieces(s, x, &run, n, &row, <work>1)
            continue
        b.rows = min(per, many - k)
        t = take_runs(x, run.x, b.rows, apart, <work*>s.out)
        u = out_of(&s.y, run.y, &s.writer, <work*>s.out, b.rows * n) if s.apart else <work*>s.out
        b.y = apart if u == <work*>s.out else n
        normalize_runs(&row, &b, t, u)
        if follows(s, spot):
            follow_runs(s, x, &run, b.rows, b.y, u)
        give_runs(&s.y, run.y, &s.writer, u, b.rows, b.y)


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
    cdef bint masked = open_inside(&inside, p, NULL, False, zero)
    open_pass(&s, p, zero)
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
            if not s.x.plain:
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

cdef void channel_slopes(const Array* x, Array* dy, const char* row, const char* drow, const work* table, Py_ssize_t k,
                         double* sums, double* products) noexcept nogil:
    """sum dy and sum dy * (x - shift) * scale of a channel"""
    cdef Slopes c
    c.shifted = True
    c.corrected = c.weighted = c.weight_grads = c.bias_grads = False
    c.shift, c.scale = table[SHIFT * TOGETHER + k], table[SCALE * TOGETHER + k]
    c.first, c.stop = 0, x.segments * x.length
    row_slopes(&c, x, dy, row, drow, c.stop, sums, products, table[0])


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


cdef void runs_descend(Pass* s, const Array* x, const Array* dy, const Spot* spot, const char* dfirst, Py_ssize_t many, const Affine* c,
                       work zero) noexcept nogil:
    """As runs_normalize."""
    cdef Affine row
    cdef Block b
    cdef Spot run
    cdef Py_ssize_t n = x.length, per = min(portion(x, &s.y, &s.writer, many * n, zero), portion(dy, &s.y, &s.writer, many * n, zero)), k
    cdef const work* t
    cdef const work* g
    cdef work* u
    b.width, b.ahead, b.dy_ahead = n, x.later, dy.later
    if runs_in_place(s, x, spot) and dy.plain:
        b.rows, b.x, b.dy, b.y = many, x.channel // <Py_ssize_t>sizeof(work), dy.channel // <Py_ssize_t>sizeof(work), s.y.channel // <Py_ssize_t>sizeof(work)
        descend_runs(c, &b, <const work*>spot.x, <const work*>dfirst, <work*>spot.y)
        if follows(s, spot):
            follow_runs(s, x, spot, many, b.y, <work*>spot.y)
        return
    b.x = b.dy = b.y = n
    per = max(<Py_ssize_t>1, min(per, SHARE_BYTES // <Py_ssize_t>sizeof(work) if s.plan.fused else out_of_panel(zero) // 2) // n)
    if s.plan.fused and spot.beside[OF_WHERE] != NULL:
        per = 1
    for k from 0 <= k < many by per:
        row = row_of(c, k, zero)
        run = moved(s, x, spot, k, 0)
        if per == 1:
            descend_pieces(s, x, dy, &run, dfirst + k * dy.channel, n, &row, zero)
            continue
        b.rows = min(per, many - k)
        t = take_runs(x, run.x, b.rows, n, <work*>s.out)
        g = take_runs(dy, dfirst + k * dy.channel, b.rows, n, share_of(s, OF_DY, zero) if s.plan.fused else <work*>(s.out + OUT_BYTES // 2))
        u = out_of(&s.y, run.y, &s.writer, <work*>s.out, b.rows * n) if s.apart else <work*>s.out
        descend_runs(&row, &b, t, g, u)
        if follows(s, spot):
            follow_runs(s, x, &run, b.rows, n, u)
        give_runs(&s.y, run.y, &s.writer, u, b.rows, n)


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
    cdef Py_ssize_t strips = (p.groups - 1) // p.strip + 1, part = task // strips, sample, g, m, r, e, ready
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
    open_pass(&s, p, zero)
    open_inside(&inside, p, NULL, True, zero)
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
                ready = min(last, g + (max(m, 2 * PANEL // n) if p.segments == 1 else m))
                if p.before.upstream:
                    channel_rows_from(p.before, r, sample * p.groups + ready, zero)
                else:
                    rows_before(p.before, r, sample * p.groups + ready, zero)
            if not s.x.plain:
                x = take_rows(x, r, m, n, &x_taken, <work*>s.room, panel_of(zero) // 2)
            if not s.dy.plain:
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
