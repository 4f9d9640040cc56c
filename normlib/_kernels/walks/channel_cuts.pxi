# The element-wise steps of channels-last memory, forward and backward: positions of neighbouring channels, a vector of coefficients for
# all of them.

cdef enum:
    NEAR = 1024     # elements computed at once on their way past the caches, nearly in the order of memory
    WAY = 4096      # bytes from a line to the next in the same set of L1


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
    return x.dtype == s.y.dtype and loadable(x) and s.y.position == s.y.itemsize and not p.fused


cdef inline Py_ssize_t window_of(const Array* x, Py_ssize_t width, bint copied, bint near, work zero) noexcept nogil:
    """Positions to compute while the statistics of their columns stay in registers: two of each array in a set of L1; of what is copied
    so many as have room, and where it is read as it lies, nearly in the order of memory."""
    cdef Py_ssize_t apart = x.apart | WAY
    if copied:
        return max(<Py_ssize_t>1, min(out_of_panel(zero) // 2, <Py_ssize_t>NEAR if near else out_of_panel(zero)) // width)
    return min(<Py_ssize_t>WINDOW, 2 * WAY // (apart & -apart))


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
                    send_positions(&s.y, to, &s.writer, s.room, b.rows, b.width)
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
                    send_positions(&s.y, to, &s.writer, s.room, b.rows, b.width)
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
