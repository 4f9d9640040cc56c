# Batch norm in training, channels-first, in memory: a channel is written piece by piece while the next one is summed, so that reads and
# writes go on at the same time. The sums are those of `row_moments`, in the same order.

cdef enum:
    AT_ONCE = ROUND * LANES     # elements that are summed at once
    PIECE = 4 * AT_ONCE         # written before as many are summed; with half or twice as many it takes a tenth longer

# The sums of a channel that comes run by run. It begins on a line: a vector across two pages that is read back takes 80 ns more (Zen 4).
cdef struct Summing:
    float a[LANES]
    float q[LANES]
    float room[AT_ONCE]     # what is not enough for a round yet
    Rows rows               # the first of them
    float shift[8]          # and of these, which are computed as a vector
    Py_ssize_t kept         # elements in room
    Py_ssize_t n            # elements in rounds
    char beyond[LINE]       # for what is moved to the next line


cdef inline bint in_turn(const Pass* s) noexcept nogil:
    """Whether channels are taken so: where the hardware sees no stream in a run, and channels are too large for lots in L2 (`next_lot`), or
    runs too long for these to be of use."""
    cdef const Plan* p = s.plan
    cdef Py_ssize_t run = p.length * p.itemsize, bytes = p.segments * run
    if not p.streaming or p.segments == 1 or p.channels > 1 or not s.x.plain or not s.y.plain:
        return False
    if p.given or p.fused or p.inside != NULL or p.before != NULL or p.y == NULL:
        return False
    return run < SEEN_FAR and (run >= SEEN or bytes > p.lot_bytes or (run >= SEEN // 2 and bytes > p.lot_bytes // 2))


cdef inline void begin_channel(Summing* s, const Array* x, Py_ssize_t r) noexcept nogil:
    s.n = s.kept = 0
    row_sample(x, row_at(x, r), s.rows.sample[0], <float>0)
    shift_rows(&s.rows, 1, sampled(x.segments * x.length), s.shift)


cdef inline void fold_rounds(Summing* s) noexcept nogil:
    fold_moments(s.a, s.q, s.rows.sums[0], s.rows.squares[0], True, s.n > BLOCK)


cdef inline void add_round(Summing* s, const float* x, Py_ssize_t ahead) noexcept nogil:
    if s.n % BLOCK == 0:
        clear(s.a)
        clear(s.q)
    moments_round(x, s.a, s.q, s.shift[0], True, ahead)
    s.n += AT_ONCE
    if s.n % BLOCK == 0:
        fold_rounds(s)


cdef inline void add_piece(Summing* s, const float* x, Py_ssize_t n, Py_ssize_t ahead) noexcept nogil:
    """The next n elements; ahead: bytes to what is prefetched meanwhile."""
    cdef Py_ssize_t i = 0, m
    while i < n:
        if s.kept == 0 and i + AT_ONCE <= n:
            add_round(s, x + i, ahead)
            i += AT_ONCE
            continue
        m = min(AT_ONCE - s.kept, n - i)
        prefetch_bytes(<const char*>(x + i) + ahead, m * sizeof(float))
        copy_f32(s.room + s.kept, x + i, m)
        s.kept += m
        i += m
        if s.kept == AT_ONCE:
            add_round(s, s.room, 0)
            s.kept = 0


cdef inline bint end_channel(Summing* s, const Plan* p, const Array* x, Py_ssize_t r, float* table) noexcept nogil:
    """As rows_statistics."""
    cdef Py_ssize_t i
    if s.n % BLOCK != 0:
        fold_rounds(s)
    for i from 0 <= i < s.kept by FEW:
        few_moments(s.room + i, min(<Py_ssize_t>FEW, s.kept - i), s.rows.sums[0], s.rows.squares[0], s.shift[0], True, s.n + i > 0, 0)
    table[SHIFT * TOGETHER] = s.shift[0]
    return settled(p, x, r, 1, &s.rows, table)


cdef inline void normalize_piece(const float* of_channel, const float* x, Py_ssize_t n, float* y, Py_ssize_t ahead) noexcept nogil:
    cdef Affine c
    cdef Block b
    c.statistics, c.center, c.weight, c.bias = ONE, ONE, ABSENT, ONE
    c.shift, c.delta, c.scale, c.of_bias = of_channel + SHIFT, of_channel + DELTA, of_channel + SCALE, of_channel + OFFSET
    b.rows, b.width, b.ahead = 1, n, ahead
    normalize_columns(&c, &b, x, y)


cdef void take_turn(Pass* s, Py_ssize_t r, const float* of_written, Summing* sums) noexcept nogil:
    """Write channel r - 1, where there are coefficients, and sum channel r, where there are sums. Of both the next run is prefetched: of the
    former because L2 may not hold it, where runs lie so far from each other that they fall into the same few sets."""
    cdef const Plan* p = s.plan
    cdef Py_ssize_t before = max(<Py_ssize_t>0, r - 1)
    cdef const char* x = row_at(&s.x, r)
    cdef const char* written = row_at(&s.x, before)
    cdef char* y = row_at(&s.y, before)
    cdef float* out = <float*>s.out
    cdef Py_ssize_t i, j, n, ahead
    for i in range(p.segments):
        ahead = s.x.segment if i + 1 < p.segments else s.x.group - i * s.x.segment
        j = 0
        while j < p.length:
            n = min(PIECE - (sums.kept if sums != NULL else 0), p.length - j)
            if of_written != NULL:
                normalize_piece(of_written, <const float*>written + j, n, out, ahead)
                give(&s.y, y, j, &s.writer, out, n)
            if sums != NULL:
                add_piece(sums, <const float*>x + j, n, ahead)
            j += n
        x += s.x.segment
        written += s.x.segment
        y += s.y.segment


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
