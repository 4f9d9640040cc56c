# Rows: what shares a statistic lies in runs of neighbouring elements. At most TOGETHER rows are taken at once, a lot, whose
# statistics are computed together while they stay in L1.

cdef enum:
    SHIFT = 0           # entries of a table of coefficients, one value a row, channel or column
    DELTA = 1
    SCALE = 2
    OFFSET = 3          # bias forward, weight backward
    FACTOR = 4          # forward
    MEAN_G = 4          # backward
    SLOPE = 5
    TABLE = 6
    ROOM_BYTES = PANEL_BYTES + 2 * TOGETHER * LINE  # of a lot, or of two half as large, each row from a line on

# What a task works with.
cdef struct Pass:
    const Plan* plan
    Array x, dy, y
    Array beside[OUTPUTS]   # what the epilogue reads, from BESIDE on, and from INPUTS on writes
    bint bare           # a mask is all that follows `normalize`
    Py_ssize_t share    # bytes of what a fused pass computes at once, and of each array that its epilogue reads
    int shares[OUTPUTS]     # where theirs come in `out`
    bint apart          # y is none of the arrays that are read after its elements were computed
    Writer writer
    char* room          # for the elements of a lot
    char* out
    char memory[ROOM_BYTES + OUT_BYTES + LINE]


# A place in each array of a pass: the beginning of a row or of a run.
cdef struct Spot:
    const char* x
    char* y
    const char* beside[OUTPUTS]  # NULL: there is none


cdef inline void in_cache(Array* a) noexcept nogil:
    """What has just been written there needs no prefetching."""
    a.level, a.ahead = 2, 0


cdef inline void open_pass(Pass* s, const Plan* p, work zero) noexcept nogil:
    cdef View view
    cdef int i, many = 1    # with the elements themselves
    s.plan = p
    open_array(&s.x, p, p.x, &p.xs, p.dtype, zero)
    open_array(&s.y, p, p.y, &p.ys, p.y_dtype, zero)
    if p.dy != NULL:
        open_array(&s.dy, p, p.dy, &p.ds, p.dtype, zero)
    if p.before != NULL and p.before.upstream:
        in_cache(&s.dy)
    if p.before != NULL and (p.before.before != NULL or not p.before.upstream):
        in_cache(&s.x)
    for i in range(BESIDE, OUTPUTS if p.fused else 0):
        view = view_of(p, i)
        open_array(&s.beside[i], p, view.data, &view.span, view.dtype, zero)
        s.shares[i] = many
        many += view.data != NULL or (i == OF_DY and p.dy != NULL)
    s.share = OUT_BYTES // many // LINE * LINE
    s.apart, s.bare = apart(p), bare(p)
    open_writer(&s.writer, p.streaming)
    s.room = line_of(s.memory)
    s.out = s.room + ROOM_BYTES


cdef inline bint apart(const Plan* p) noexcept nogil:
    cdef int i
    for i in range(BESIDE, INPUTS if p.fused else 0):
        if p.y == view_of(p, i).data:
            return False
    return True


cdef inline bint bare(const Plan* p) noexcept nogil:
    cdef int i
    for i in range(BESIDE, OUTPUTS if p.fused else 0):
        if i != OF_WHERE and view_of(p, i).data != NULL:
            return False
    return p.fused and (p.activation == NO_ACTIVATION or p.dy != NULL)


cdef inline bint follows(const Pass* s, const Spot* spot) noexcept nogil:
    """Whether there is an epilogue."""
    return s.plan.fused and not (s.bare and spot.beside[OF_WHERE] == NULL)


cdef inline Spot row_spot(const Pass* s, const Array* x, Py_ssize_t r) noexcept nogil:
    cdef Spot spot
    cdef int i
    spot.x, spot.y = row_at(x, r), row_at(&s.y, r)
    for i in range(BESIDE, OUTPUTS if s.plan.fused else 0):
        spot.beside[i] = row_at(&s.beside[i], r) if s.beside[i].data != NULL else NULL
    if s.plan.inside != NULL and s.plan.inside[r] == x.channels * x.segments * x.length:
        spot.beside[OF_WHERE] = NULL    # the whole row is inside
    return spot


cdef inline Spot moved(const Pass* s, const Array* x, const Spot* spot, Py_ssize_t channels, Py_ssize_t segments) noexcept nogil:
    """By so many channels and segments."""
    cdef Spot to
    cdef int i
    to.x = spot.x + channels * x.channel + segments * x.segment
    to.y = spot.y + channels * s.y.channel + segments * s.y.segment
    for i in range(BESIDE, OUTPUTS if s.plan.fused else 0):
        to.beside[i] = spot.beside[i]
        if spot.beside[i] != NULL:
            to.beside[i] += channels * s.beside[i].channel + segments * s.beside[i].segment
    return to


cdef inline void beside(Affine* c, const work* table, Py_ssize_t entry) noexcept nogil:
    """Coefficients from a table, its entries so many values apart."""
    c.shift, c.delta, c.scale = table + SHIFT * entry, table + DELTA * entry, table + SCALE * entry
    c.mean_g, c.slope = table + MEAN_G * entry, table + SLOPE * entry


cdef inline void row_sample(const Array* x, const char* row, double* e, work zero) noexcept nogil:
    """A sample of each channel, for the first mean."""
    cdef work room[SAMPLE]
    cdef Py_ssize_t n = x.segments * x.length, step = sample_step(n) * BLOCK, c, i, m
    for c in range(x.channels):
        for i from 0 <= i < n by step:
            m = min(<Py_ssize_t>SAMPLE, n - i)
            fold_sample(<const work*>take(x, row, c * n + i, m, room), m, e, c + i > 0)


cdef void row_again(const Array* x, const char* row, Py_ssize_t n, bint centered, double eps, double mean, Statistics* to, work zero) noexcept nogil:
    """The rare row that the first sums do not settle: once more about the mean just found, else in wide arithmetic."""
    cdef double e[2][8]
    cdef double s[2]
    cdef work shift
    if centered and mean - mean == 0:
        shift = <work>mean
        memset(e, 0, sizeof(e))
        row_moments(x, row, n, e[0], e[1], shift, True)
        s[0], s[1] = sum_8(e[0]), sum_8(e[1])
        settle(s, n, eps, shift, to)
        if trusted(s, n, eps, shift):
            return
    wide_statistics(x, row, n, centered, eps, to, zero)


cdef bint settled(const Plan* p, const Array* x, Py_ssize_t r, Py_ssize_t m, Rows* rows, work* table) noexcept nogil:
    """From the sums of m rows from r on to the rest of what rows_statistics gives."""
    cdef Statistics found
    cdef Py_ssize_t n = x.channels * x.segments * x.length, taken = x.channels * sampled(x.segments * x.length), k
    cdef work* shift = table + SHIFT * TOGETHER
    cdef work* delta = table + DELTA * TOGETHER
    cdef work* scale = table + SCALE * TOGETHER
    cdef work* factor = table + FACTOR * TOGETHER
    cdef bint scaled = False
    if not settle_rows(rows, m, n, taken, p.centered, p.eps, shift, delta, scale):
        for k in range(m):
            factor[k] = 1
            if not rows.good[k]:
                row_again(x, row_at(x, r + k), n, p.centered, p.eps, rows.mean[k], &found, <work>0)
                scaled |= put(rows, k, &found, shift, delta, scale, factor)
    if p.mean != NULL:
        memcpy(p.mean + r, rows.mean, m * sizeof(double))
    if p.var != NULL:
        memcpy(p.var + r, rows.var, m * sizeof(double))
    if p.rstd != NULL:
        memcpy(p.rstd + r, rows.rstd, m * sizeof(double))
    return scaled


cdef bint rows_statistics(const Plan* p, Array* x, Py_ssize_t r, Py_ssize_t m, work* table) noexcept nogil:
    """Statistics of m <= TOGETHER rows from r on, to a table; whether one of them has a factor: else there are none."""
    cdef Rows rows
    cdef Py_ssize_t n = x.channels * x.segments * x.length, taken = x.channels * sampled(x.segments * x.length), k
    cdef work* shift = table + SHIFT * TOGETHER
    cdef Py_ssize_t size = sizeof(work), apart
    cdef bint even = x.plain and evenly(x, r, m, &apart), short
    look_ahead_of(x, p, r, 0)
    short = even and n < ROUND * LANES
    if short and x.ahead != 0:
        prefetch_bytes(row_at(x, r) + x.ahead, m * apart)
    if not p.centered:
        memset(shift, 0, TOGETHER * sizeof(work))
    else:
        if even and x.segments * x.length <= BLOCK:
            short_samples(<const work*>row_at(x, r), taken // x.channels, x.channels, x.segments * x.length, apart // size, m, rows.sample)
        else:
            for k in range(m):
                row_sample(x, row_at(x, r + k), rows.sample[k], <work>0)
        shift_rows(&rows, m, taken, shift)
    if short:
        short_moments(<const work*>row_at(x, r), n, apart // size, m, shift, rows.sums, rows.squares, p.centered)
    else:
        for k in range(m):
            look_ahead_of(x, p, r + k, 0)
            if p.centered:
                row_moments(x, row_at(x, r + k), n, rows.sums[k], rows.squares[k], shift[k], True)
            else:
                row_moments(x, row_at(x, r + k), n, rows.sums[k], rows.squares[k], shift[k], False)
    return settled(p, x, r, m, &rows, table)


cdef bint given_statistics(const Plan* p, Py_ssize_t r, Py_ssize_t m, work* table, bint forward) noexcept nogil:
    """As rows_statistics, where they are known; those that samples share begin again with each."""
    cdef bint scaled = False
    cdef Py_ssize_t first = 0, stop, g = r % p.groups if p.shared else r
    while first < m:
        stop = min(m, first + p.groups - g) if p.shared else m
        scaled |= split_given(at(p.mean, g, p.centered), p.rstd + g, stop - first, table + first, TOGETHER, forward)
        first, g = stop, 0
    return scaled


cdef inline Py_ssize_t alike_rows(const Plan* p, Py_ssize_t r, Py_ssize_t m, Py_ssize_t n) noexcept nogil:
    """How many of m rows of n elements from r on are wholly inside as the first is, or not."""
    cdef Py_ssize_t k = 1
    if p.inside == NULL:
        return m
    while k < m and (p.inside[r + k] == n) == (p.inside[r] == n):
        k += 1
    return k


cdef void unknown(const Plan* p, Py_ssize_t r) noexcept nogil:
    """The statistics of a row with nothing inside."""
    if p.mean != NULL:
        p.mean[r] = NAN
    if p.var != NULL:
        p.var[r] = NAN
    if p.rstd != NULL:
        p.rstd[r] = NAN


cdef bint inside_statistics(const Plan* p, Array* x, Inside* inside, Py_ssize_t r, Py_ssize_t m, work* table) noexcept nogil:
    """As rows_statistics, of the elements inside; of rows that are `alike_rows`."""
    cdef work found[TABLE * TOGETHER]
    cdef Array packed = x[0]
    cdef Array shorter = x[0]
    cdef Py_ssize_t k = 0, many, e
    cdef bint scaled = False
    if p.inside[r] == x.channels * x.segments * x.length:
        return rows_statistics(p, x, r, m, table)
    packed.inside, packed.channels, packed.segments = inside, 1, 1
    packed.plain = packed.whole = packed.far = shorter.whole = shorter.far = False
    inside.of = x
    while k < m:
        for e in range(TOGETHER):
            found[FACTOR * TOGETHER + e] = 1
        many = 1
        shorter.length = front_of(&inside.mask, r + k, p.inside[r + k])
        if p.inside[r + k] == 0:
            found[SHIFT * TOGETHER] = found[DELTA * TOGETHER] = found[SCALE * TOGETHER] = 0
            unknown(p, r + k)
        elif shorter.length > 0:
            many = min(m - k, p.groups - (r + k) % p.groups) if inside.mask.group == 0 else 1
            scaled |= rows_statistics(p, &shorter, r + k, many, found)
        else:
            packed.length = p.inside[r + k]
            begin_row(inside, row_at(&inside.mask, r + k))
            scaled |= rows_statistics(p, &packed, r + k, 1, found)
        for e from SHIFT <= e <= FACTOR:
            memcpy(table + e * TOGETHER + k, found + e * TOGETHER, many * sizeof(work))
        k += many
    return scaled


cdef inline bint straight(const Plan* p, const Array* x) noexcept nogil:
    """Whether elements go from x to y as they are stored, without a panel."""
    return (x.dtype == p.y_dtype and loadable(x) and (p.ys.position == 1 or p.length == 1)
            and not p.round_first and (x.plain or not p.fused))


cdef inline bint written_from_l1(const Plan* p, const Array* x, Py_ssize_t n) noexcept nogil:
    """Whether a row of n elements is in L1 with all beside it from its sums until it is written past the caches. Then the next is
    prefetched meanwhile, so that reads and writes go on at the same time."""
    cdef Py_ssize_t arrays = 1 + (p.dy != NULL)
    if p.form == FEATURE_ROWS:
        arrays += (p.weight != NULL) + (p.bias != NULL) + p.weight_grads * (1 + p.centered)
    if p.dy != NULL:
        arrays += arrays // 2       # measured: from two thirds of L1 on it takes longer
    return p.streaming and (straight(p, x) or (x.plain and p.y_dtype == I8)) and arrays * n * x.itemsize <= p.l1_bytes


cdef inline void look_ahead_of(Array* x, const Plan* p, Py_ssize_t r, Py_ssize_t together) noexcept nogil:
    """How far ahead to prefetch while row r of a feature norm is read: in the rows that follow, wherever they lie, at least so many
    further, or in long rows themselves."""
    cdef Py_ssize_t rows, ahead
    cdef bint late
    if x.level < 3 or p.form != FEATURE_ROWS:
        return
    rows = max(AHEAD_BYTES // (p.parameters * x.itemsize), together)
    ahead = AHEAD_BYTES
    if rows > 0:
        ahead = row_at(x, min(r + rows, p.samples * p.groups - 1)) - row_at(x, r)
    late = x.whole and written_from_l1(p, x, p.parameters)
    x.ahead, x.later = 0 if late else ahead, ahead if late else 0
