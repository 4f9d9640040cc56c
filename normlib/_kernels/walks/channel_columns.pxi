# BatchNorm, GroupNorm and InstanceNorm in channels-last memory: `length` positions of `width` neighbouring channels, a
# statistic for each group of `channels` of them. The vectors run across the channels. A pass has steps, so that many
# threads can share one sample: sums of blocks of positions, then statistics, then the element-wise step.

#
# The backward passes take sums of dy and dy * z of each channel, by blocks of positions, which are dbias and dweight and,
# weighted, the means that dx needs; then dx = rstd * (g - mean(g) - z * mean(g * z)).

cdef enum:
    PACKED = 2304   # elements of narrow positions that are summed side by side: ROUND rows of 16 x 16 channels and a lane's
    NEAR = 1024     # elements computed at once on their way past the caches, nearly in the order of memory
    WAY = 4096      # bytes from a line to the next in the same set of L1


cdef inline void pack(const Array* x, const char* at, Py_ssize_t n, Py_ssize_t many, work* packed, Py_ssize_t row) noexcept nogil:
    """The next n positions of each of `many` chunks: a row of those that come first in their chunk, then those that come second."""
    cdef work room[CHUNK * HALF]
    cdef work t[LANES]
    cdef Py_ssize_t i, k, apart
    cdef const work* c
    for k in range(many):
        c = take_positions(x, at + k * CHUNK * x.apart, n, x.length, room, &apart)
        for i in range(n):
            load_lanes(c + i * apart, x.length, t, True)
            store_lanes(packed + i * row + k * x.length, LANES, t, False)   # the next chunk overwrites what is too much


cdef inline Py_ssize_t chunks_abreast(const Plan* p, Py_ssize_t positions) noexcept nogil:
    """Chunks to sum side by side, of so many positions: where half of the lanes would be idle in one."""
    return max(<Py_ssize_t>1, min(p.abreast, positions // CHUNK)) if 2 * p.width <= LANES else 1


cdef void channel_columns_first(const Plan* p, Py_ssize_t sample, work zero) noexcept nogil:
    """The first mean of each group, from a sample of its elements."""
    cdef work* shift = table_of(p, sample, SHIFT, zero)
    cdef double* sums = sums_of(p, sample, 0)
    cdef double total, share = 1. / max(<Py_ssize_t>1, sampled_inside(p, sample))
    cdef Py_ssize_t g, c
    cdef Array x
    open_columns(&x, p, p.x, &p.xs, p.dtype, zero)
    memset(sums, 0, p.width * sizeof(double))
    if p.inside != NULL:
        add_inside(p, &x, sample, sums, zero)
    else:
        add_sample(&x, x.data + sample * x.sample, p.length, p.width, sums, zero)
    if p.channels == 1:
        for c in range(p.width):
            shift[c] = <work>(sums[c] * share)
    else:
        for g in range(p.groups):
            total = 0
            for c in range(g * p.channels, (g + 1) * p.channels):
                total += sums[c]
            shift[g] = <work>(total * share)
        share_out(p, shift)
    repeat_channels(p, shift)
    p.state[sample] = AGAIN


cdef void packed_moments(const Plan* p, const Array* x, const char* at, Py_ssize_t many, const work* shift, work* a) noexcept nogil:
    """Moments of `many` chunks side by side, and their columns too."""
    cdef work packed[PACKED]
    cdef Columns c
    cdef Py_ssize_t row = many * p.width + LANES, step = min(<Py_ssize_t>CHUNK, PACKED // row // ROUND * ROUND), k
    c.width, c.x, c.level, c.centered = many * p.width, row, 1, True
    for k from 0 <= k < CHUNK by step:
        c.n, c.begin = min(step, CHUNK - k), k == 0
        pack(x, at + k * x.apart, c.n, many, packed, row)
        chunk_moments(&c, packed, shift, a)


cdef void channel_columns_moments(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """Sums about the first mean; task: a tile."""
    cdef work a[2 * WHOLE]
    cdef double lost[2 * WHOLE]
    cdef char memory[OUT_BYTES + LINE]
    cdef char* room = line_of(memory)
    cdef const work* shift
    cdef const work* t
    cdef const char* at
    cdef Array x
    cdef Columns c
    cdef Tile tile
    cdef Mask mask
    cdef bint dense
    cdef double* s
    cdef Py_ssize_t i, j, k, m, many, last, step, columns
    tile_of(p, task, &tile)
    if p.state[tile.sample] <= SETTLED:
        return
    shift = table_of(p, tile.sample, SHIFT, zero) + tile.column
    open_columns(&x, p, p.x, &p.xs, p.dtype, zero)
    mask = mask_of(p, &tile)
    dense = mask.data == NULL and x.position == x.itemsize and (x.plain or CONVERTS)
    columns, step = (<Py_ssize_t>WHOLE, <Py_ssize_t>CHUNK) if dense else (out_of_panel(zero) // ROUND, <Py_ssize_t>ROUND)
    c.centered, c.level = True, p.level if dense else 1
    for j from 0 <= j < tile.width by columns:
        m = c.width = min(columns, tile.width - j)
        s = sums_of(p, tile.sample, tile.block) + tile.column + j
        begin_sums(s, s + p.width, lost, m, zero)
        i = 0
        while i < tile.positions:
            at = start_of(&tile, &x) + i * x.apart + j * x.position
            many = chunks_abreast(p, tile.positions - i)
            last = min(<Py_ssize_t>CHUNK, tile.positions - i)
            if many > 1:
                packed_moments(p, &x, at, many, shift, a)
            else:
                c.begin = True
                for k from 0 <= k < last by step:
                    if dense and not x.plain:
                        c.x, c.n = x.apart // x.itemsize, min(step, last - k)
                        narrow_chunk_moments(x.dtype, &c, at + k * x.apart, <const float*>(shift + j), <float*>a)
                        c.begin = False
                        continue
                    t = take_inside(&x, at + k * x.apart, &mask, i + k, min(step, last - k), m, <work*>room, &c.x, &c.n)
                    if c.n > 0:
                        chunk_moments(&c, t, shift + j, a)
                        c.begin = False
                many = not c.begin      # else all are outside
            for k in range(many):
                add_columns(a + k * m, a + WHOLE + k * m, m, s, s + p.width, lost, zero)
            i += max(many, <Py_ssize_t>1) * CHUNK
        end_sums(s, s + p.width, lost, m, zero)


cdef void resettle(const Plan* p, Py_ssize_t sample, Py_ssize_t g, double s, Settled* found, Py_ssize_t k, int state, work* shift,
                   work* factor) noexcept nogil:
    """The rare group that its sums do not settle: they are to be taken once more, about the mean just found; else wide arithmetic."""
    cdef Statistics alone
    cdef Array x
    cdef Py_ssize_t first = g * p.channels, c
    if state == AGAIN and s - s == 0:
        alone.shift = shift[first] + found.delta[k]
        p.state[sample] = LAST
    else:
        open_columns(&x, p, p.x, &p.xs, p.dtype, shift[0])
        wide_inside(p, &x, sample, first, &alone, shift[0])
        found.delta[k], found.var[k], found.rstd[k], found.scale[k] = alone.delta, alone.var, alone.rstd, alone.scale
        factor[g] = <work>alone.factor
    for c in range(first, first + p.channels):
        shift[c] = <work>alone.shift


cdef void channel_columns_statistics(const Plan* p, Py_ssize_t sample, work zero) noexcept nogil:
    cdef work* shift = table_of(p, sample, SHIFT, <work>0)
    cdef work* delta = table_of(p, sample, DELTA, <work>0)
    cdef work* scale = table_of(p, sample, SCALE, <work>0)
    cdef work* factor = table_of(p, sample, FACTOR, <work>0)
    cdef bint scaled = False
    cdef Py_ssize_t n = takes_part(p, sample), i = sample * p.groups, g, k, m
    cdef int state = p.state[sample]
    cdef double s[LANES]
    cdef double q[LANES]
    cdef Settled found
    if state <= SETTLED:
        return
    p.state[sample] = SETTLED
    if n == 0:
        nothing_inside(p, sample, <work>0)
        return
    add_blocks(p, sample, <work>0)
    for g from 0 <= g < p.groups by LANES:
        m = min(<Py_ssize_t>LANES, p.groups - g)
        group_sums_of(p, sample, g, m, <const work*>NULL, s, q, <work>0)
        for k in range(m):
            factor[g + k] = 1
        if not settle_columns(s, q, m, n, sampled_inside(p, sample) if state == AGAIN else 0, p.eps, &found, <work>0):
            for k in range(m):
                if not found.sound[k]:
                    resettle(p, sample, g + k, s[k], &found, k, state, shift, factor)
                    scaled |= factor[g + k] != 1
        for k in range(m):
            delta[g + k] = <work>found.delta[k]
            scale[g + k] = <work>found.scale[k]
        if p.mean != NULL:
            for k in range(m):
                p.mean[i + g + k] = (shift[(g + k) * p.channels] + found.delta[k]) / factor[g + k]
        if p.var != NULL:
            memcpy(p.var + i + g, found.var, m * sizeof(double))
        if p.rstd != NULL:
            memcpy(p.rstd + i + g, found.rstd, m * sizeof(double))
    share_out(p, delta)
    share_out(p, scale)
    share_out(p, factor)
    if p.state[sample] != SETTLED:      # the sums that are taken again are about the first means
        repeat_channels(p, shift)
        return
    if work is double:
        for k in range(p.width):
            recenter(shift + k, delta + k)
    complete_forward(p, sample, of_sample(p, p.weight, sample, <work>0), scaled)


cdef void channel_columns_given(const Plan* p, Py_ssize_t sample, work zero) noexcept nogil:
    """The table from statistics that are known: forward in evaluation, and backward."""
    cdef work* shift = table_of(p, sample, SHIFT, <work>0)
    cdef work* delta = table_of(p, sample, DELTA, <work>0)
    cdef work* scale = table_of(p, sample, SCALE, <work>0)
    cdef work* factor = table_of(p, sample, FACTOR, <work>0)
    cdef Py_ssize_t first = sample * p.groups
    cdef bint forward = p.dy == NULL or p.upstream, scaled
    scaled = split_given(p.mean + first, p.rstd + first, p.groups, table_of(p, sample, 0, <work>0), p.padded, forward)
    share_out(p, shift)
    share_out(p, delta)
    share_out(p, scale)
    if forward:
        p.state[sample] = SETTLED
        share_out(p, factor)
        complete_forward(p, sample, of_sample(p, p.weight, sample, <work>0), scaled)
    else:
        complete(p, sample, <const work*>NULL, <const work*>p.weight, <work>1)


# ---- gradients ----

cdef void packed_gradients(const Plan* p, const Array* x, const Array* dy, const char* at, const char* dy_at, Py_ssize_t many, const work* table,
                           work* a) noexcept nogil:
    """As packed_moments."""
    cdef work packed[PACKED]
    cdef work dy_packed[PACKED]
    cdef Columns c
    cdef Py_ssize_t row = many * p.width + LANES, step = min(<Py_ssize_t>CHUNK, PACKED // row // ROUND * ROUND), k
    c.width, c.x, c.dy, c.level, c.weighted = many * p.width, row, row, 1, False
    for k from 0 <= k < CHUNK by step:
        c.n, c.begin = min(step, CHUNK - k), k == 0
        pack(x, at + k * x.apart, c.n, many, packed, row)
        pack(dy, dy_at + k * dy.apart, c.n, many, dy_packed, row)
        chunk_gradients(&c, packed, dy_packed, table, p.padded, <const work*>NULL, a)


cdef void channel_columns_gradients(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """Sums of dy and dy * (x - shift) * scale; task: a tile."""
    cdef work a[2 * WHOLE]
    cdef double lost[2 * WHOLE]
    cdef char memory[2 * OUT_BYTES + LINE]
    cdef char* room = line_of(memory)
    cdef const work* table
    cdef const work* t
    cdef const work* g
    cdef const char* at
    cdef const char* dy_at
    cdef Array x, dy
    cdef Columns c
    cdef Tile tile
    cdef Mask mask
    cdef bint dense
    cdef double* s
    cdef Py_ssize_t i, j, k, m, many, last, step, columns
    tile_of(p, task, &tile)
    table = table_of(p, tile.sample, SHIFT, zero) + tile.column
    open_columns(&x, p, p.x, &p.xs, p.dtype, zero)
    open_columns(&dy, p, p.dy, &p.ds, p.dtype, zero)
    mask = mask_of(p, &tile)
    dense = mask.data == NULL and x.position == x.itemsize and dy.position == dy.itemsize and (x.plain or CONVERTS)
    columns, step = (<Py_ssize_t>WHOLE, <Py_ssize_t>CHUNK) if dense else (out_of_panel(zero) // ROUND, <Py_ssize_t>ROUND)
    c.weighted, c.level = False, p.level if dense else 1
    for j from 0 <= j < tile.width by columns:
        m = c.width = min(columns, tile.width - j)
        s = sums_of(p, tile.sample, tile.block) + tile.column + j
        begin_sums(s, s + p.width, lost, m, zero)
        i = 0
        while i < tile.positions:
            at = start_of(&tile, &x) + i * x.apart + j * x.position
            dy_at = start_of(&tile, &dy) + i * dy.apart + j * dy.position
            many = chunks_abreast(p, tile.positions - i)
            last = min(<Py_ssize_t>CHUNK, tile.positions - i)
            if many > 1:
                packed_gradients(p, &x, &dy, at, dy_at, many, table, a)
            else:
                c.begin = True
                for k from 0 <= k < last by step:
                    if dense and not x.plain:
                        c.x, c.dy, c.n = x.apart // x.itemsize, dy.apart // x.itemsize, min(step, last - k)
                        narrow_chunk_gradients(x.dtype, &c, at + k * x.apart, dy_at + k * dy.apart, <const float*>(table + j), p.padded, <float*>a)
                        c.begin = False
                        continue
                    t = take_inside(&x, at + k * x.apart, &mask, i + k, min(step, last - k), m, <work*>room, &c.x, &c.n)
                    g = take_inside(&dy, dy_at + k * dy.apart, &mask, i + k, min(step, last - k), m, <work*>(room + OUT_BYTES), &c.dy, &c.n)
                    if c.n > 0:
                        chunk_gradients(&c, t, g, table + j, p.padded, <const work*>NULL, a)
                        c.begin = False
                many = not c.begin
            for k in range(many):
                add_columns(a + k * m, a + WHOLE + k * m, m, s, s + p.width, lost, zero)
            i += max(many, <Py_ssize_t>1) * CHUNK
        end_sums(s, s + p.width, lost, m, zero)


cdef void channel_columns_means(const Plan* p, Py_ssize_t sample, work zero) noexcept nogil:
    """The coefficients of each group (`descent`); the sums of a channel end up in the first block."""
    cdef const work* delta = table_of(p, sample, DELTA, zero)
    cdef const work* scale = table_of(p, sample, SCALE, zero)
    cdef work* mean_g = table_of(p, sample, MEAN_G, zero)
    cdef work* slope = table_of(p, sample, SLOPE, zero)
    cdef double* sums = sums_of(p, sample, 0)
    cdef double* products = sums + p.width
    cdef double s[LANES]
    cdef double q[LANES]
    cdef Py_ssize_t n = takes_part(p, sample), c, g, k, m
    add_blocks(p, sample, zero)
    for c in range(p.width):
        products[c] = about_mean(products[c], sums[c], delta[c], scale[c])
    for g from 0 <= g < p.groups by LANES:
        m = min(<Py_ssize_t>LANES, p.groups - g)
        group_sums_of(p, sample, g, m, <const work*>p.weight, s, q, zero)
        for k in range(m):
            c = (g + k) * p.channels
            descent(s[k], q[k], n, delta[c], scale[c], mean_g + g + k, slope + g + k)
    share_out(p, mean_g)
    share_out(p, slope)
    complete(p, sample, <const work*>NULL, <const work*>p.weight, <work>1)


cdef void channel_columns_parts(const Plan* p, Py_ssize_t block, work zero) noexcept nogil:
    """Add the samples' sums to the weight gradients; task: a block of channels."""
    cdef Py_ssize_t sample, first = block * BLOCK, n = min(first + BLOCK, p.width) - first
    cdef const double* sums
    for sample in range(p.samples):
        sums = sums_of(p, sample, 0) + first
        add_gradients(p, (p.first + sample) // p.batch * p.width + first, sums + p.width, sums, n, zero)


# ---- the element-wise steps ----

cdef struct Cut:
    # A tile as the element-wise steps see it: `positions` of `width` elements, and the `rest` of one more. Where positions lie side
    # by side, p.abreast of them are one.
    Array x, dy, y
    char* at
    char* dy_at
    char* y_at
    Beside beside
    Py_ssize_t positions, width, rest
    Writer writer
    char* room
    char memory[OUT_BYTES + LINE]


cdef void open_cut(Cut* c, const Plan* p, const Tile* tile, work zero) noexcept nogil:
    cdef int i
    cdef bint abreast = p.abreast > 1 and p.xs.position == p.width and p.ys.position == p.width
    open_columns(&c.x, p, p.x, &p.xs, p.dtype, zero)
    open_columns(&c.y, p, p.y, &p.ys, p.y_dtype, zero)
    c.dy_at = NULL
    if p.dy != NULL:
        open_columns(&c.dy, p, p.dy, &p.ds, p.dtype, zero)
        abreast = abreast and p.ds.position == p.width and c.dy.position == c.dy.itemsize
        c.dy_at = start_of(tile, &c.dy)
    open_beside(&c.beside, p, zero)
    go_beside(&c.beside, tile.sample, tile.position, tile.column)
    abreast = abreast and all_abreast(&c.beside)
    c.at, c.y_at = start_of(tile, &c.x), start_of(tile, &c.y)
    c.positions, c.width, c.rest = tile.positions, tile.width, 0
    if abreast and c.x.position == c.x.itemsize and c.y.position == c.y.itemsize:
        c.positions, c.rest, c.width = tile.positions // p.abreast, tile.positions % p.abreast * p.width, p.abreast * p.width
        c.x.apart = c.dy.apart = c.width * c.x.itemsize
        c.y.apart = c.width * c.y.itemsize
        for i in range(BESIDE, OUTPUTS if p.fused else 0):
            c.beside.arrays[i].apart = c.width * c.beside.arrays[i].itemsize
    open_writer(&c.writer, p.streaming)
    c.room = line_of(c.memory)


cdef inline bint cut_straight(const Cut* s, const Plan* p, const Array* x) noexcept nogil:
    """Whether elements go from x to y as they are stored, without a panel."""
    return x.dtype == s.y.dtype and x.position == x.itemsize and s.y.position == s.y.itemsize and not p.fused and (x.plain or CONVERTS)


cdef inline Py_ssize_t window_of(const Array* x, Py_ssize_t width, bint copied, bint near, work zero) noexcept nogil:
    """Positions to compute while the statistics of their columns stay in registers: two of each array in a set of L1; of what is copied
    so many as have room, and where it is read as it lies, nearly in the order of memory."""
    cdef Py_ssize_t apart = x.apart | WAY
    if copied:
        return max(<Py_ssize_t>1, min(out_of_panel(zero) // 2, <Py_ssize_t>NEAR if near else out_of_panel(zero)) // width)
    return min(<Py_ssize_t>WINDOW, 2 * WAY // (apart & -apart))


cdef inline void send_positions(Cut* s, char* to, Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    """n positions of `width` columns in room, as they are stored."""
    cdef Py_ssize_t bytes = width * s.y.itemsize, i
    if s.y.apart == bytes:
        send(&s.writer, to, s.room, n * bytes)
        return
    for i in range(n):
        send(&s.writer, to + i * s.y.apart, s.room + i * bytes, bytes)


cdef inline Py_ssize_t next_piece(const Array* x, Py_ssize_t step, Py_ssize_t width) noexcept nogil:
    """How far ahead to prefetch: in the order of memory, or of positions that are taken in pieces, in those of the positions that follow."""
    if step >= width:
        return AHEAD_BYTES
    return max(<Py_ssize_t>1, AHEAD_BYTES // (step * x.itemsize)) * x.apart


cdef void cut_normalize(Cut* s, Affine* c, const Plan* p, const work* table, bint scaled, Py_ssize_t first, Py_ssize_t positions,
                        Py_ssize_t width) noexcept nogil:
    """`width` columns of so many positions from the first on"""
    cdef bint straight = cut_straight(s, p, &s.x) and not scaled, copied = s.writer.streaming or not straight
    cdef Py_ssize_t most = WIDE if p.fused else out_of_panel(table[0]) // 2, step = min(width, most) if copied else width, window, i, j
    cdef Py_ssize_t size = s.x.itemsize
    cdef const work* t
    cdef const char* at
    cdef char* to
    cdef Block b
    b.ahead = next_piece(&s.x, step, width) if s.writer.streaming and straight else 0
    for j from 0 <= j < width by step:
        b.width = min(step, width - j)
        beside(c, table + j, p.padded)
        c.of_bias = table + OFFSET * p.padded + j
        window = window_of(&s.x, b.width, copied, straight, table[0])
        for i from first <= i < first + positions by window:
            b.rows = min(window, first + positions - i)
            at = s.at + i * s.x.apart + j * s.x.position
            to = s.y_at + i * s.y.apart + j * s.y.position
            if straight:
                b.x, b.y = s.x.apart // size, b.width if copied else s.y.apart // size
                normalize_in(s.x.dtype, c, &b, at, s.room if copied else to, table[0])
                if copied:
                    send_positions(s, to, b.rows, b.width)
                continue
            t = take_positions(&s.x, at, b.rows, b.width, <work*>s.room, &b.x)
            if scaled:
                t = times_factors(t, &b.x, b.rows, b.width, table + FACTOR * p.padded + j, <work*>s.room)
            b.y = b.width
            normalize(c, &b, t, <work*>s.room)
            if p.fused:
                follow_positions(&s.beside, i, j, b.rows, b.width, <work*>s.room)
            give_positions(&s.y, to, &s.writer, <work*>s.room, b.rows, b.width)


cdef void channel_columns_forward(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """y = ((x - shift) - delta) * scale + bias; task: a tile."""
    cdef const work* table
    cdef Affine c
    cdef Tile tile
    cdef Cut s
    cdef bint scaled
    tile_of(p, task, &tile)
    open_cut(&s, p, &tile, zero)
    scaled = p.state[tile.sample] == SCALED
    table = table_of(p, tile.sample, 0, zero) + tile.column
    c.statistics, c.center, c.weight, c.bias = MANY, MANY, ABSENT, MANY
    if p.companion[OF_WHERE].data != NULL and p.fused:
        cut_inside(&s, &c, p, table, scaled)
    else:
        cut_normalize(&s, &c, p, table, scaled, 0, s.positions, s.width)
        cut_normalize(&s, &c, p, table, scaled, s.positions, s.rest > 0, s.rest)
    close_writer(&s.writer)


cdef void cut_descend(Cut* s, Affine* c, const Plan* p, const work* table, Py_ssize_t first, Py_ssize_t positions, Py_ssize_t width) noexcept nogil:
    """As cut_normalize."""
    cdef bint straight = cut_straight(s, p, &s.x) and cut_straight(s, p, &s.dy), copied = s.writer.streaming or not straight
    cdef Py_ssize_t most = WIDE if p.fused else out_of_panel(table[0]) // 2, step = min(width, most) if copied else width, window, i, j
    cdef Py_ssize_t size = s.x.itemsize
    cdef work* room = <work*>s.room
    cdef const work* t
    cdef const work* g
    cdef const char* at
    cdef const char* dy_at
    cdef char* to
    cdef Block b
    b.ahead = b.dy_ahead = 0
    if s.writer.streaming and straight:
        b.ahead, b.dy_ahead = next_piece(&s.x, step, width), next_piece(&s.dy, step, width)
    for j from 0 <= j < width by step:
        b.width = min(step, width - j)
        beside(c, table + j, p.padded)
        c.of_weight = table + OFFSET * p.padded + j
        window = window_of(&s.x, b.width, copied, straight, table[0])
        for i from first <= i < first + positions by window:
            b.rows = min(window, first + positions - i)
            at, dy_at = s.at + i * s.x.apart + j * s.x.position, s.dy_at + i * s.dy.apart + j * s.dy.position
            to = s.y_at + i * s.y.apart + j * s.y.position
            if straight:
                b.x, b.dy, b.y = s.x.apart // size, s.dy.apart // size, b.width if copied else s.y.apart // size
                descend_in(s.x.dtype, c, &b, at, dy_at, s.room if copied else to, table[0])
                if copied:
                    send_positions(s, to, b.rows, b.width)
                continue
            g = take_positions(&s.dy, dy_at, b.rows, b.width, room, &b.dy)
            t, b.x = g, b.dy
            if c.through != ABSENT:
                t = take_positions(&s.x, at, b.rows, b.width, room + out_of_panel(table[0]) // 2, &b.x)
            b.y = b.width
            descend(c, &b, t, g, room)
            if p.fused:
                follow_positions(&s.beside, i, j, b.rows, b.width, room)
            give_positions(&s.y, to, &s.writer, room, b.rows, b.width)


cdef void channel_columns_backward(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """dx from the sums; task: a tile."""
    cdef const work* table
    cdef Affine c
    cdef Tile tile
    cdef Cut s
    tile_of(p, task, &tile)
    open_cut(&s, p, &tile, zero)
    table = table_of(p, tile.sample, 0, zero) + tile.column
    c.statistics = c.center = c.weight = MANY
    c.through = ABSENT if p.given else MANY
    if p.companion[OF_WHERE].data != NULL and p.fused:
        cut_inside(&s, &c, p, table, False)
    else:
        cut_descend(&s, &c, p, table, 0, s.positions, s.width)
        cut_descend(&s, &c, p, table, s.positions, s.rest > 0, s.rest)
    close_writer(&s.writer)
