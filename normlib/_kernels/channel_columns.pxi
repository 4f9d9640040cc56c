# BatchNorm, GroupNorm and InstanceNorm in channels-last memory: `length` positions of `width` neighbouring channels, a
# statistic for each group of `channels` of them. The vectors run across the channels. A pass has steps, so that many
# threads can share one sample: sums of blocks of positions, then statistics, then the element-wise step.

cdef enum:
    SHIFT = 0
    DELTA = 1
    SCALE = 2
    OFFSET = 3      # bias forward, weight backward
    C1 = 4
    FACTOR = 4      # forward
    C2 = 5
    TABLE = 6
    PACKED = 2304   # elements of narrow positions that are summed side by side: ROUND rows of 16 x 16 channels and a lane's
    NEAR = 256      # neighbouring elements that the hardware sees as one stream, whatever their order
    WAY = 4096      # bytes from a line to the next in the same set of the first cache


cdef struct Tile:
    # One task: a block of positions of a sample, a strip of channels.
    Py_ssize_t sample, block, position, positions, column, width


cdef struct Cut:
    # A tile as the element-wise steps see it: `positions` of `width` elements, as many apart as `xp`, `dp` and `yp` say, and the
    # `rest` of one more. Where positions lie side by side, p.abreast of them are one.
    Py_ssize_t positions, width, rest, xp, dp, yp


cdef inline void tile_of(const Plan* p, Py_ssize_t task, Tile* tile) noexcept nogil:
    cdef Py_ssize_t strips = (p.width - 1) // p.strip + 1
    tile.column = task % strips * p.strip
    tile.width = min(p.strip, p.width - tile.column)
    tile.block = task // strips % p.blocks
    tile.position = tile.block * p.block
    tile.positions = min(p.block, p.length - tile.position)
    tile.sample = task // strips // p.blocks


cdef inline Py_ssize_t start_of(const Tile* tile, const Span* span) noexcept nogil:
    return tile.sample * span.sample + tile.position * span.position + tile.column


cdef inline work* table_of(const Plan* p, Py_ssize_t sample, int entry, work zero) noexcept nogil:
    return <work*>p.table + (sample * TABLE + entry) * p.padded


cdef inline double* sums_of(const Plan* p, Py_ssize_t sample, Py_ssize_t block) noexcept nogil:
    return p.sums + (sample * p.blocks + block) * 2 * p.width


cdef inline void cut_of(const Plan* p, const Tile* tile, Cut* cut) noexcept nogil:
    cut.xp, cut.yp = p.xs.position, p.ys.position
    cut.dp = p.xs.position if p.dy == NULL else p.ds.position
    cut.positions, cut.width, cut.rest = tile.positions, tile.width, 0
    if p.abreast > 1 and cut.xp == p.width and cut.dp == p.width and cut.yp == p.width:
        cut.positions, cut.rest = tile.positions // p.abreast, tile.positions % p.abreast * p.width
        cut.width = cut.xp = cut.dp = cut.yp = p.abreast * p.width


cdef inline bint flat(const Cut* cut) noexcept nogil:
    """Whether a tile is one stretch of memory, in whole lanes but for the rest: then lanes may begin at any channel, on a line
    of the output, and go round from the last channel of a position to the first of the next."""
    return cut.positions > 0 and cut.width % LANES == 0 and cut.xp == cut.width and cut.dp == cut.width and cut.yp == cut.width


cdef inline void pack(const storage* x, Py_ssize_t position, Py_ssize_t width, Py_ssize_t n, Py_ssize_t many, work* packed,
                      Py_ssize_t row) noexcept nogil:
    """The next n positions of each of `many` chunks: a row of those that come first in their chunk, then those that come second."""
    cdef work t[LANES]
    cdef Py_ssize_t i, k
    for k in range(many):
        for i in range(n):
            load_part(x + (k * CHUNK + i) * position, width, t)
            store(packed + i * row + k * width, t)      # the next chunk overwrites what is too much


cdef inline Py_ssize_t chunks_abreast(const Plan* p, Py_ssize_t positions) noexcept nogil:
    """Chunks to sum side by side, of so many positions: where half of the lanes would be idle in one."""
    return max(<Py_ssize_t>1, min(p.abreast, positions // CHUNK)) if 2 * p.width <= LANES else 1


cdef inline void repeat_channels(const Plan* p, work* entry) noexcept nogil:
    """The table begins again behind its end, as often as there is room: twice as much each time."""
    cdef Py_ssize_t filled = p.width
    while filled < p.padded:
        memcpy(entry + filled, entry, min(filled, p.padded - filled) * sizeof(work))
        filled *= 2


cdef void channel_columns_first(const Plan* p, Py_ssize_t sample, const storage* x, const work* w) noexcept nogil:
    """The first mean of each group, from a sample of its elements."""
    cdef work* shift = table_of(p, sample, SHIFT, <work>0)
    cdef double* sums = sums_of(p, sample, 0)
    cdef double total, share = 1. / (p.channels * sampled(p.length))
    cdef Py_ssize_t g, c
    memset(sums, 0, p.width * sizeof(double))
    add_sample(x + sample * p.xs.sample, p.xs.position, p.length, p.width, sums, <work>0)
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


cdef void channel_columns_moments(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """Sums about the first mean; task: a tile."""
    cdef work a[WHOLE]
    cdef work b[WHOLE]
    cdef double lost[2 * WHOLE]
    cdef work packed[PACKED]
    cdef const work* shift
    cdef Tile tile
    cdef double* s
    cdef double* q
    cdef Py_ssize_t position = p.xs.position, i, j, k, m, many, row, n, step
    tile_of(p, task, &tile)
    if p.state[tile.sample] <= SETTLED:
        return
    shift = table_of(p, tile.sample, SHIFT, <work>0) + tile.column
    x += start_of(&tile, &p.xs)
    for j from 0 <= j < tile.width by WHOLE:
        m = min(<Py_ssize_t>WHOLE, tile.width - j)
        s = sums_of(p, tile.sample, tile.block) + tile.column + j
        q = s + p.width
        begin_sums(s, q, lost, m, <work>0)
        i = 0
        while i < tile.positions:
            many = chunks_abreast(p, tile.positions - i)
            if many > 1:
                row = many * m + LANES
                step = min(<Py_ssize_t>CHUNK, PACKED // row // ROUND * ROUND)
                for k from 0 <= k < CHUNK by step:
                    n = min(step, CHUNK - k)
                    pack(x + (i + k) * position, position, m, n, many, packed, row)
                    chunk_moments(packed, row, n, many * m, shift, True, 1, <work*>NULL, 0, a, b, k == 0)
            else:
                chunk_moments(x + i * position + j, position, min(<Py_ssize_t>CHUNK, tile.positions - i), m, shift + j, True,
                              p.level, <work*>NULL, 0, a, b, True)
            for k in range(many):
                add_chunk(a + k * m, b + k * m, m, s, q, lost)
            i += many * CHUNK
        end_sums(s, q, lost, m, <work>0)


cdef inline void share_out(const Plan* p, work* entry) noexcept nogil:
    """Values of the groups become those of their channels; the last first, for they lie in the same place."""
    cdef Py_ssize_t g, c
    if p.channels > 1:
        for g in range(p.groups - 1, -1, -1):
            for c in range((g + 1) * p.channels - 1, g * p.channels - 1, -1):
                entry[c] = entry[g]


cdef inline void complete(const Plan* p, Py_ssize_t sample, const work* factor, const work* offset, work default) noexcept nogil:
    """Parameters to the table: a factor of the scale, an offset."""
    cdef work* scale = table_of(p, sample, SCALE, default)
    cdef work* to = table_of(p, sample, OFFSET, default)
    cdef Py_ssize_t e, c
    if factor != NULL:
        for c in range(p.width):
            scale[c] *= factor[c]
    for c in range(p.width):
        to[c] = offset[c] if offset != NULL else default
    for e in range(TABLE):
        repeat_channels(p, table_of(p, sample, e, default))


cdef inline void group_sums_of(const Plan* p, Py_ssize_t sample, Py_ssize_t g, Py_ssize_t m, const work* w, double* s, double* q,
                               work zero) noexcept nogil:
    """The sums of m groups from g on, from those of their channels, which end up in the first block; weighted by w if it is given"""
    cdef const double* sums = sums_of(p, sample, 0)
    cdef const double* squares = sums + p.width
    cdef double lost[2]
    cdef double u
    cdef Py_ssize_t k, c
    if p.channels == 1:
        for k in range(m):
            u = w[g + k] if w != NULL else 1
            s[k], q[k] = 0 + u * sums[g + k], 0 + u * squares[g + k]    # -0 becomes 0, as where more are added
        return
    for k in range(m):
        s[k] = q[k] = lost[0] = lost[1] = 0
        for c in range((g + k) * p.channels, (g + k + 1) * p.channels):
            u = w[c] if w != NULL else 1
            add_up(&s[k], &lost[0], u * sums[c], zero)
            add_up(&q[k], &lost[1], u * squares[c], zero)
        s[k], q[k] = regain(s[k], lost[0], zero), regain(q[k], lost[1], zero)


cdef inline void add_blocks(const Plan* p, Py_ssize_t sample, work zero) noexcept nogil:
    """Add the sums of all blocks to those of the first."""
    cdef double* sums = sums_of(p, sample, 0)
    cdef double lost[WIDE]
    cdef Py_ssize_t block, c, first, stop
    if p.blocks == 1:
        return
    for first from 0 <= first < 2 * p.width by WIDE:
        stop = min(first + WIDE, 2 * p.width)
        memset(lost, 0, sizeof(lost))
        for block in range(1, p.blocks):
            for c in range(first, stop):
                add_up(sums + c, lost + c - first, sums_of(p, sample, block)[c], zero)
        for c in range(first, stop):
            sums[c] = regain(sums[c], lost[c - first], zero)


cdef inline void complete_forward(const Plan* p, Py_ssize_t sample, const work* w, bint scaled) noexcept nogil:
    """`complete`; the products of scales and weights may need factors of their own."""
    cdef work* scale = table_of(p, sample, SCALE, <work>0)
    cdef work* factor = table_of(p, sample, FACTOR, <work>0)
    cdef Py_ssize_t c
    if w != NULL:
        for c in range(p.width):
            scaled |= beyond(scale[c], w[c])
    if scaled:
        p.state[sample] = SCALED
        for c in range(p.width):
            if factor[c] != 1 or beyond(scale[c], w[c] if w != NULL else 1):
                balance(table_of(p, sample, SHIFT, <work>0) + c, table_of(p, sample, DELTA, <work>0) + c, scale + c, factor + c)
    complete(p, sample, w, <const work*>p.bias, <work>NOTHING)


cdef void resettle(const Plan* p, Py_ssize_t sample, Py_ssize_t g, const storage* x, double s, Settled* found, Py_ssize_t k,
                   int state, work* shift, work* factor) noexcept nogil:
    """The rare group that its sums do not settle: they are to be taken once more, about the mean just found; else wide arithmetic."""
    cdef Statistics alone
    cdef Py_ssize_t first = g * p.channels, c
    if state == AGAIN and s - s == 0:
        alone.shift = shift[first] + found.delta[k]
        p.state[sample] = LAST
    else:
        wide_columns(x + sample * p.xs.sample + first, p.channels, p.length, p.xs.position, True, p.eps, &alone, <work>0)
        found.delta[k], found.var[k], found.rstd[k], found.scale[k] = alone.delta, alone.var, alone.rstd, alone.scale
        factor[g] = <work>alone.factor
    for c in range(first, first + p.channels):
        shift[c] = <work>alone.shift


cdef void channel_columns_statistics(const Plan* p, Py_ssize_t sample, const storage* x, const work* w) noexcept nogil:
    cdef work* shift = table_of(p, sample, SHIFT, <work>0)
    cdef work* delta = table_of(p, sample, DELTA, <work>0)
    cdef work* scale = table_of(p, sample, SCALE, <work>0)
    cdef work* factor = table_of(p, sample, FACTOR, <work>0)
    cdef bint scaled = False
    cdef Py_ssize_t n = p.channels * p.length, i = sample * p.groups, g, k, m
    cdef int state = p.state[sample]
    cdef double s[LANES]
    cdef double q[LANES]
    cdef Settled found
    if state <= SETTLED:
        return
    p.state[sample] = SETTLED
    add_blocks(p, sample, <work>0)
    for g from 0 <= g < p.groups by LANES:
        m = min(<Py_ssize_t>LANES, p.groups - g)
        group_sums_of(p, sample, g, m, <const work*>NULL, s, q, <work>0)
        for k in range(m):
            factor[g + k] = 1
        if not settle_columns(s, q, m, n, p.channels * sampled(p.length) if state == AGAIN else 0, p.eps, &found, <work>0):
            for k in range(m):
                if not found.sound[k]:
                    resettle(p, sample, g + k, x, s[k], &found, k, state, shift, factor)
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
    complete_forward(p, sample, w, scaled)


cdef void channel_columns_given(const Plan* p, Py_ssize_t sample, const storage* x, const work* w) noexcept nogil:
    """The table from statistics that are known: forward in evaluation, and backward."""
    cdef work* shift = table_of(p, sample, SHIFT, <work>0)
    cdef work* delta = table_of(p, sample, DELTA, <work>0)
    cdef work* scale = table_of(p, sample, SCALE, <work>0)
    cdef work* factor = table_of(p, sample, FACTOR, <work>0)
    cdef bint scaled = False
    cdef const double* mean = p.mean + sample * p.groups
    cdef const double* rstd = p.rstd + sample * p.groups
    cdef Py_ssize_t g
    for g in range(p.groups):
        if p.dy == NULL:
            split_scaled(mean[g], rstd[g], &shift[g], &delta[g], &scale[g], &factor[g])
            scaled |= factor[g] != 1
        else:
            split_mean(mean[g], &shift[g], &delta[g])
            scale[g] = <work>rstd[g]
    share_out(p, shift)
    share_out(p, delta)
    share_out(p, scale)
    if p.dy == NULL:
        p.state[sample] = SETTLED
        share_out(p, factor)
        complete_forward(p, sample, w, scaled)
    else:
        complete(p, sample, <const work*>NULL, w, <work>1)


cdef inline void column_lanes(const storage* x, storage* y, Py_ssize_t xp, Py_ssize_t yp, Py_ssize_t rows, Py_ssize_t m,
                              const work* table, Py_ssize_t entry, bint past, bint scaled) noexcept nogil:
    """y = ((x - shift) - delta) * scale + offset for a few positions of m <= LANES channels; scaled: x times a factor"""
    cdef work t[LANES]
    cdef work v[LANES]
    cdef work d[LANES]
    cdef work r[LANES]
    cdef work b[LANES]
    cdef work one = unit(table[0])
    cdef Py_ssize_t i, k
    load(table, v)
    load(table + DELTA * entry, d)
    load(table + SCALE * entry, r)
    load(table + OFFSET * entry, b)
    for i in range(rows):
        if past:
            prefetch_ahead(x + i * xp, ahead_of(x))
        load_some(x + i * xp, m, t)
        if scaled:
            for k in range(LANES):
                t[k] *= table[FACTOR * entry + k]
        for k in range(LANES):
            t[k] = (minus(t[k], v[k], one) - d[k]) * r[k] + b[k]
        if past:
            stream(y + i * yp, t)
        else:
            store_some(y + i * yp, m, t)


cdef inline Py_ssize_t window_of(const storage* x, Py_ssize_t position, Py_ssize_t width, bint past) noexcept nogil:
    """Positions to normalize while the statistics of their columns stay in registers: two of each array in a set of the first
    cache. Past the caches in the order of memory, but for 16 bits, where the arithmetic is the limit and not the memory."""
    cdef Py_ssize_t apart = position * <Py_ssize_t>sizeof(storage) | WAY
    if past and sizeof(storage) > 2:
        return max(<Py_ssize_t>1, min(<Py_ssize_t>WINDOW, <Py_ssize_t>NEAR // width))
    return min(<Py_ssize_t>WINDOW, 2 * WAY // (apart & -apart))


cdef inline void forward_rows(const storage* x, storage* y, const Plan* p, const Cut* cut, Py_ssize_t positions, Py_ssize_t width,
                              const work* table, bint past) noexcept nogil:
    cdef Py_ssize_t window = window_of(x, cut.xp, width, past), i, j, rows
    for i from 0 <= i < positions by window:
        rows = min(window, positions - i)
        j = 0
        while j + LANES <= width:
            column_lanes(x + i * cut.xp + j, y + i * cut.yp + j, cut.xp, cut.yp, rows, LANES,
                         table + j, p.padded, past, False)
            j += LANES
        if j < width:
            column_lanes(x + i * cut.xp + j, y + i * cut.yp + j, cut.xp, cut.yp, rows, width - j,
                         table + j, p.padded, False, False)


cdef void channel_columns_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """y = ((x - shift) - delta) * scale + bias; task: a tile."""
    cdef storage* y = <storage*>p.y
    cdef const work* table
    cdef Tile tile
    cdef Cut cut
    cdef Writer writer
    cdef Py_ssize_t i, j, m, head
    cdef bint scaled
    tile_of(p, task, &tile)
    scaled = p.state[tile.sample] == SCALED
    x += start_of(&tile, &p.xs)
    y += start_of(&tile, &p.ys)
    table = table_of(p, tile.sample, 0, <work>0) + tile.column
    cut_of(p, &tile, &cut)
    if not p.streaming and not scaled:
        forward_rows(x, y, p, &cut, cut.positions, cut.width, table, False)
        m = cut.positions * cut.width
        forward_rows(x + m, y + m, p, &cut, cut.rest > 0, cut.rest, table, False)
    elif flat(&cut) and not scaled:
        head = to_line(y)
        forward_rows(x, y, p, &cut, 1, head, table, False)
        forward_rows(x + head, y + head, p, &cut, cut.positions - 1, cut.width, table + head, True)
        m = (cut.positions - 1) * cut.width + head
        forward_rows(x + m, y + m, p, &cut, 1, cut.width - head + cut.rest, table + head, False)
        stream_fence()
    else:
        open_writer(&writer, p.streaming)
        for i in range(tile.positions):
            for j from 0 <= j < tile.width by LANES:
                m = min(<Py_ssize_t>LANES, tile.width - j)
                column_lanes(x + i * p.xs.position + j, place(&writer, y + i * p.ys.position + j), 0, 0, 1, m, table + j, p.padded,
                             False, scaled)
                wrote(&writer, m * sizeof(storage))
        close_writer(&writer)
