# The backward passes in channels-last memory: sums of dy and dy * z of each channel, by blocks of positions, which are dbias and
# dweight and, weighted, the means that dx needs; then dx = rstd * (g - mean(g) - z * mean(g * z)).

cdef void channel_columns_gradients(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """Sums of dy and dy * (x - shift) * scale; task: a tile."""
    cdef work a[WHOLE]
    cdef work b[WHOLE]
    cdef double lost[2 * WHOLE]
    cdef work packed[PACKED]
    cdef work dpacked[PACKED]
    cdef const storage* dy = <const storage*>p.dy
    cdef const work* table
    cdef const work* scale
    cdef Tile tile
    cdef double* s
    cdef double* q
    cdef Py_ssize_t xp = p.xs.position, dp = p.ds.position, i, j, k, m, many, row, n, step
    tile_of(p, task, &tile)
    table = table_of(p, tile.sample, SHIFT, <work>0) + tile.column
    scale = table + SCALE * p.padded
    x += start_of(&tile, &p.xs)
    dy += start_of(&tile, &p.ds)
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
                    pack(x + (i + k) * xp, xp, m, n, many, packed, row)
                    pack(dy + (i + k) * dp, dp, m, n, many, dpacked, row)
                    chunk_gradients(packed, dpacked, row, row, n, many * m, table, scale, w, False, 1,
                                    a, b, k == 0)
            else:
                chunk_gradients(x + i * xp + j, dy + i * dp + j, xp, dp, min(<Py_ssize_t>CHUNK, tile.positions - i), m,
                                table + j, scale + j, w, False, p.level, a, b, True)
            for k in range(many):
                add_chunk(a + k * m, b + k * m, m, s, q, lost)
            i += many * CHUNK
        end_sums(s, q, lost, m, <work>0)


cdef void channel_columns_means(const Plan* p, Py_ssize_t sample, const storage* x, const work* w) noexcept nogil:
    """The coefficients of each group (`descent`); the sums of a channel end up in the first block."""
    cdef const work* delta = table_of(p, sample, DELTA, <work>0)
    cdef const work* scale = table_of(p, sample, SCALE, <work>0)
    cdef work* c1 = table_of(p, sample, C1, <work>0)
    cdef work* c2 = table_of(p, sample, C2, <work>0)
    cdef double* sums = sums_of(p, sample, 0)
    cdef double* products = sums + p.width
    cdef double s[LANES]
    cdef double q[LANES]
    cdef Py_ssize_t n = p.channels * p.length, c, g, k, m
    add_blocks(p, sample, <work>0)
    for c in range(p.width):
        products[c] = about_mean(products[c], sums[c], delta[c], scale[c])
    for g from 0 <= g < p.groups by LANES:
        m = min(<Py_ssize_t>LANES, p.groups - g)
        group_sums_of(p, sample, g, m, w, s, q, <work>0)
        for k in range(m):
            c = (g + k) * p.channels
            descent(s[k], q[k], n, delta[c], scale[c], c1 + g + k, c2 + g + k)
    share_out(p, c1)
    share_out(p, c2)
    complete(p, sample, <const work*>NULL, w, <work>1)


cdef void channel_columns_parts(const Plan* p, Py_ssize_t block, const storage* x, const work* w) noexcept nogil:
    """Add the samples' sums to the weight gradients; task: a block of channels."""
    cdef Py_ssize_t sample, first = block * BLOCK, n = min(first + BLOCK, p.width) - first
    cdef const double* sums
    for sample in range(p.samples):
        sums = sums_of(p, sample, 0) + first
        add_gradients(p, (p.first + sample) // p.batch * p.width + first, sums + p.width, sums, n, <work>0)


cdef inline void column_backward_lanes(const storage* x, const storage* dy, storage* dx, Py_ssize_t xp, Py_ssize_t dp,
                                       Py_ssize_t yp, Py_ssize_t rows, Py_ssize_t m, const work* table, Py_ssize_t entry,
                                       bint given, bint past) noexcept nogil:
    """dx = scale * ((g - c1) - (x - shift) * c2) for a few positions of m <= LANES channels (`descent`)"""
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef work r[LANES]
    cdef work u[LANES]
    cdef work c1[LANES]
    cdef work c2[LANES]
    cdef Py_ssize_t i, k
    load(table + SCALE * entry, r)
    load(table + OFFSET * entry, u)
    if not given:
        load(table, v)
        load(table + C1 * entry, c1)
        load(table + C2 * entry, c2)
    for i in range(rows):
        if past:
            if not given:
                prefetch_ahead(x + i * xp, ahead_of(x))
            prefetch_ahead(dy + i * dp, ahead_of(dy))
        load_some(dy + i * dp, m, g)
        if given:
            for k in range(LANES):
                g[k] = r[k] * (g[k] * u[k])
        else:
            load_some(x + i * xp, m, z)
            for k in range(LANES):
                g[k] = r[k] * ((g[k] * u[k] - c1[k]) - (z[k] - v[k]) * c2[k])
        if past:
            stream(dx + i * yp, g)
        else:
            store_some(dx + i * yp, m, g)


cdef inline void backward_rows(const storage* x, const storage* dy, storage* dx, const Plan* p, const Cut* cut,
                               Py_ssize_t positions, Py_ssize_t width, const work* table, bint given, bint past) noexcept nogil:
    cdef Py_ssize_t window = window_of(x, cut.xp, width, past), i, j, rows
    for i from 0 <= i < positions by window:
        rows = min(window, positions - i)
        j = 0
        while j + LANES <= width:
            column_backward_lanes(x + i * cut.xp + j, dy + i * cut.dp + j, dx + i * cut.yp + j, cut.xp, cut.dp, cut.yp,
                                  rows, LANES, table + j, p.padded, given, past)
            j += LANES
        if j < width:
            column_backward_lanes(x + i * cut.xp + j, dy + i * cut.dp + j, dx + i * cut.yp + j, cut.xp, cut.dp, cut.yp,
                                  rows, width - j, table + j, p.padded, given, False)


cdef inline void backward_tile(const Plan* p, const Tile* tile, const storage* x, const storage* dy, storage* dx,
                               const work* table, bint given) noexcept nogil:
    cdef Writer writer
    cdef Cut cut
    cdef Py_ssize_t i, j, m, head
    cut_of(p, tile, &cut)
    if not p.streaming:
        backward_rows(x, dy, dx, p, &cut, cut.positions, cut.width, table, given, False)
        m = cut.positions * cut.width
        backward_rows(x + m, dy + m, dx + m, p, &cut, cut.rest > 0, cut.rest, table, given, False)
    elif flat(&cut):
        head = to_line(dx)
        backward_rows(x, dy, dx, p, &cut, 1, head, table, given, False)
        backward_rows(x + head, dy + head, dx + head, p, &cut, cut.positions - 1, cut.width, table + head, given, True)
        m = (cut.positions - 1) * cut.width + head
        backward_rows(x + m, dy + m, dx + m, p, &cut, 1, cut.width - head + cut.rest, table + head, given, False)
        stream_fence()
    else:
        open_writer(&writer, True)
        for i in range(tile.positions):
            for j from 0 <= j < tile.width by LANES:
                m = min(<Py_ssize_t>LANES, tile.width - j)
                column_backward_lanes(x + i * p.xs.position + j, dy + i * p.ds.position + j, place(&writer, dx + i * p.ys.position + j),
                                      0, 0, 0, 1, m, table + j, p.padded, given, False)
                wrote(&writer, m * sizeof(storage))
        close_writer(&writer)


cdef void channel_columns_backward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """dx from the sums; task: a tile."""
    cdef const storage* dy = <const storage*>p.dy
    cdef storage* dx = <storage*>p.y
    cdef const work* table
    cdef Tile tile
    tile_of(p, task, &tile)
    x += start_of(&tile, &p.xs)
    dy += start_of(&tile, &p.ds)
    dx += start_of(&tile, &p.ys)
    table = table_of(p, tile.sample, 0, <work>0) + tile.column
    if p.given:
        backward_tile(p, &tile, x, dy, dx, table, True)
    else:
        backward_tile(p, &tile, x, dy, dx, table, False)
