# Batch norm in training, channels-first, in memory: a channel is written piece by piece while the next one is summed, so that reads and
# writes go on at the same time. The sums are those of `row_moments` and `row_slopes`, in the same order. Forward there is no dy.

cdef enum:
    AT_ONCE = ROUND * LANES     # elements that are summed at once
    PIECE = 4 * AT_ONCE         # written before as many are summed; with half or twice as many it takes a tenth longer

# The sums of a channel that comes run by run. It begins on a line: a vector across two pages that is read back takes 80 ns more (Zen 4).
cdef struct Summing:
    float a[LANES]
    float q[LANES]
    float x[AT_ONCE]        # what is not enough for a round yet
    float dy[AT_ONCE]
    Rows rows               # the first of them
    float shift[8]          # and of these, which are computed as a vector
    float scale             # of dy * z
    Py_ssize_t kept         # elements in x and dy
    Py_ssize_t n            # elements in rounds
    char beyond[LINE]       # for what is moved to the next line


cdef inline bint in_turn(const Pass* s) noexcept nogil:
    """Whether channels are taken so: where the hardware sees no stream in a run, some blocks of `row_moments` lie across two runs, and
    channels are too large for lots in L2 (`next_lot`), or runs too long for these to be of use."""
    cdef const Plan* p = s.plan
    cdef Py_ssize_t run = p.length * p.itemsize, bytes = p.segments * run
    if not p.streaming or p.samples > 1 or p.segments == 1 or p.channels > 1 or p.length % BLOCK == 0:
        return False
    if not s.x.plain or not s.y.plain or (p.dy != NULL and not s.dy.plain):
        return False
    if p.given or p.fused or p.inside != NULL or p.before != NULL or p.y == NULL:
        return False
    return run * (1 + (p.dy != NULL)) < SEEN_FAR and (run >= SEEN or bytes > p.lot_bytes or (run >= SEEN // 2 and bytes > p.lot_bytes // 2))


cdef inline void slopes_about(Slopes* c, const Summing* s) noexcept nogil:
    c.shifted = True
    c.corrected = c.weighted = c.weight_grads = c.bias_grads = False
    c.shift, c.scale = s.shift[0], s.scale
    c.x_ahead = c.dy_ahead = 0


cdef inline void fold_rounds(Summing* s) noexcept nogil:
    fold_moments(s.a, s.q, s.rows.sums[0], s.rows.squares[0], True, s.n > BLOCK)


cdef inline void add_round(Summing* s, const float* x, const float* dy, Py_ssize_t ahead, Py_ssize_t dy_ahead) noexcept nogil:
    cdef Slopes c
    if s.n % BLOCK == 0:
        clear(s.a)
        clear(s.q)
    if dy == NULL:
        moments_round(x, s.a, s.q, s.shift[0], True, ahead)
    else:
        slopes_about(&c, s)
        c.x_ahead, c.dy_ahead = ahead, dy_ahead
        slopes_round(&c, x, dy, 0, s.a, s.q)
    s.n += AT_ONCE
    if s.n % BLOCK == 0:
        fold_rounds(s)


cdef inline void keep(const float* x, Py_ssize_t n, float* to, Py_ssize_t ahead) noexcept nogil:
    prefetch_bytes(<const char*>x + ahead, n * sizeof(float))
    copy_f32(to, x, n)


cdef inline void add_piece(Summing* s, const float* x, const float* dy, Py_ssize_t n, Py_ssize_t ahead, Py_ssize_t dy_ahead) noexcept nogil:
    """The next n elements; ahead: bytes to what is prefetched meanwhile."""
    cdef Py_ssize_t i = 0, m
    while i < n:
        if s.kept == 0 and i + AT_ONCE <= n:
            add_round(s, x + i, at(dy, i, dy != NULL), ahead, dy_ahead)
            i += AT_ONCE
            continue
        m = min(AT_ONCE - s.kept, n - i)
        keep(x + i, m, s.x + s.kept, ahead)
        if dy != NULL:
            keep(dy + i, m, s.dy + s.kept, dy_ahead)
        s.kept += m
        i += m
        if s.kept == AT_ONCE:
            add_round(s, s.x, s.dy if dy != NULL else NULL, 0, 0)
            s.kept = 0


cdef inline void write_piece(const float* of_channel, const float* x, const float* dy, Py_ssize_t n, float* y, Py_ssize_t ahead,
                             Py_ssize_t dy_ahead) noexcept nogil:
    cdef Affine c
    cdef Block b
    c.statistics = c.center = c.bias = c.through = ONE
    c.shift, c.delta, c.scale, c.mean_g, c.slope = of_channel + SHIFT, of_channel + DELTA, of_channel + SCALE, of_channel + MEAN_G, of_channel + SLOPE
    c.of_weight = c.of_bias = of_channel + OFFSET
    b.rows, b.width, b.ahead, b.dy_ahead = 1, n, ahead, dy_ahead
    if dy == NULL:
        c.weight = ABSENT
        normalize_columns(&c, &b, x, y, <float>0)
    else:
        c.weight = ONE
        descend_columns(&c, &b, x, dy, y, <float>0)


cdef inline const float* run_at(const Array* a, Py_ssize_t r, Py_ssize_t i) noexcept nogil:
    return <const float*>(row_at(a, r) + i * a.segment)


cdef inline Py_ssize_t to_next_run(const Array* a, Py_ssize_t i) noexcept nogil:
    """From run i, of this channel or the next."""
    return a.segment if i + 1 < a.segments else a.group - i * a.segment


cdef void take_turn(Pass* s, Py_ssize_t r, const float* of_written, Summing* sums) noexcept nogil:
    """Write channel r - 1, where there are coefficients, and sum channel r, where there are sums. Of both the next run is prefetched: of the
    former because L2 may not hold it, where runs lie so far from each other that they fall into the same few sets."""
    cdef bint back = s.plan.dy != NULL
    cdef Py_ssize_t before = max(<Py_ssize_t>0, r - 1), length = s.x.length, i, j, n, ahead, dy_ahead
    cdef const float* x
    cdef const float* dy
    cdef const float* x_before
    cdef const float* dy_before
    cdef char* y
    cdef float* out = <float*>s.out
    for i in range(s.x.segments):
        x, x_before, ahead = run_at(&s.x, r, i), run_at(&s.x, before, i), to_next_run(&s.x, i)
        dy, dy_before, dy_ahead = NULL, NULL, 0
        if back:
            dy, dy_before, dy_ahead = run_at(&s.dy, r, i), run_at(&s.dy, before, i), to_next_run(&s.dy, i)
        y = <char*>run_at(&s.y, before, i)
        j = 0
        while j < length:
            n = min(PIECE - (sums.kept if sums != NULL else 0), length - j)
            if of_written != NULL:
                write_piece(of_written, x_before + j, at(dy_before, j, back), n, out, ahead, dy_ahead)
                give(&s.y, y, j, &s.writer, out, n)
            if sums != NULL:
                add_piece(sums, x + j, at(dy, j, back), n, ahead, dy_ahead)
            j += n


# ---- forward ----

cdef inline void begin_channel(Summing* s, const Array* x, Py_ssize_t r) noexcept nogil:
    s.n = s.kept = 0
    row_sample(x, row_at(x, r), s.rows.sample[0], <float>0)
    shift_rows(&s.rows, 1, sampled(x.segments * x.length), s.shift)


cdef inline bint end_channel(Summing* s, const Plan* p, const Array* x, Py_ssize_t r, float* table) noexcept nogil:
    """As rows_statistics."""
    cdef Py_ssize_t i
    if s.n % BLOCK != 0:
        fold_rounds(s)
    for i from 0 <= i < s.kept by FEW:
        few_moments(s.x + i, min(<Py_ssize_t>FEW, s.kept - i), s.rows.sums[0], s.rows.squares[0], s.shift[0], True, s.n + i > 0, 0)
    memcpy(table + SHIFT * TOGETHER, s.shift, sizeof(s.shift))
    return settled(p, x, r, 1, &s.rows, table)


cdef void channels_in_turn(Pass* s, Py_ssize_t first, Py_ssize_t stop, const float* w) noexcept nogil:
    """Channels first to stop."""
    cdef const Plan* p = s.plan
    cdef float table[TABLE * TOGETHER]
    cdef float of_channel[TABLE]
    cdef Summing memory
    cdef Summing* sums = <Summing*>line_of(&memory)
    cdef Py_ssize_t r, k
    cdef bint written = False, scaled
    for r in range(first, stop):
        begin_channel(sums, &s.x, r)
        take_turn(s, r, of_channel if written else NULL, sums)
        scaled = end_channel(sums, p, &s.x, r, table)
        written = not scaled and products_normal(p, row_in(p, r), 1, table + SCALE * TOGETHER, w)
        if written:
            for k from SHIFT <= k <= SCALE:
                of_channel[k] = table[k * TOGETHER]
            parameters_of(w, <const float*>p.bias, row_in(p, r), 1, of_channel + SCALE, of_channel + OFFSET)
        else:
            groups_scaled(s, r, 1, table, w, scaled)
    if written:
        take_turn(s, stop, of_channel, NULL)


# ---- backward ----

cdef inline void end_slopes(Summing* s, const Plan* p, Py_ssize_t r, Py_ssize_t part, float* of_channel) noexcept nogil:
    """As groups_slopes."""
    cdef Slopes c
    cdef Py_ssize_t channel = r % p.groups
    cdef double g, gz
    slopes_about(&c, s)
    if s.n % BLOCK != 0:
        fold_rounds(s)
    if s.kept > 0:
        few_slopes(&c, s.x, s.dy, s.kept, s.rows.sums[0], s.rows.squares[0], s.n > 0, <float>0)
    g = sum_8(s.rows.sums[0])
    gz = about_mean(sum_8(s.rows.squares[0]), g, of_channel[DELTA], of_channel[SCALE])
    if p.weight_grads:
        add_gradients(p, part * p.parameters + channel, &gz, &g, 1, <float>0)
    of_channel[OFFSET] = (<const float*>p.weight)[channel] if p.weight != NULL else 1
    g = 0 + g * of_channel[OFFSET]      # -0 becomes 0, as in the sum over the channels of a group
    gz = 0 + gz * of_channel[OFFSET]
    descent(g, gz, p.segments * p.length, of_channel[DELTA], of_channel[SCALE], of_channel + MEAN_G, of_channel + SLOPE)


cdef void gradients_in_turn(Pass* s, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t part) noexcept nogil:
    """Channels first to stop."""
    cdef const Plan* p = s.plan
    cdef float of_channel[TABLE]    # that is written
    cdef float of_next[TABLE]
    cdef Summing memory
    cdef Summing* sums = <Summing*>line_of(&memory)
    cdef Py_ssize_t r
    for r in range(first, stop):
        split_given(p.mean + r, p.rstd + r, 1, of_next, 1, False)
        sums.n = sums.kept = 0
        sums.shift[0], sums.scale = of_next[SHIFT], of_next[SCALE]
        take_turn(s, r, of_channel if r > first else NULL, sums)
        end_slopes(sums, p, r, part, of_next)
        memcpy(of_channel, of_next, sizeof(of_channel))
    take_turn(s, stop, of_channel, NULL)
