# BatchNorm, GroupNorm and InstanceNorm in channels-last memory: `length` positions of `width` neighbouring channels, a
# statistic for each group of `channels` of them. The vectors run across the channels. A pass has steps, so that many
# threads can share one sample: sums of blocks of positions, then statistics, then the element-wise step.
#
# The backward passes take sums of dy and dy * z of each channel, by blocks of positions, which are dbias and dweight and,
# weighted, the means that dx needs; then dx = rstd * (g - mean(g) - z * mean(g * z)).

cdef enum:
    PACKED = 2304   # elements of narrow positions that are summed side by side: ROUND rows of 16 x 16 channels and a lane's


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
    dense = mask.data == NULL and loadable(&x)
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
                    if CONVERTS and dense and not x.plain:
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
    dense = mask.data == NULL and loadable(&x) and loadable(&dy)
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
                    if CONVERTS and dense and not x.plain:
                        c.x, c.dy, c.n = x.apart // x.itemsize, dy.apart // x.itemsize, min(step, last - k)
                        narrow_chunk_gradients(x.dtype, &c, at + k * x.apart, dy_at + k * dy.apart, <const float*>(table + j), p.padded, NULL, <float*>a)
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
