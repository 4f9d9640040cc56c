# What the steps of channel columns share: a task's tile, and for each sample a table of coefficients, a value a channel, and sums.

cdef struct Tile:
    # One task: a block of positions of a sample, a strip of channels.
    Py_ssize_t sample, block, position, positions, column, width


cdef inline void tile_of(const Plan* p, Py_ssize_t task, Tile* tile) noexcept nogil:
    cdef Py_ssize_t strips = (p.width - 1) // p.strip + 1
    tile.column = task % strips * p.strip
    tile.width = min(p.strip, p.width - tile.column)
    tile.block = task // strips % p.blocks
    tile.position = tile.block * p.block
    tile.positions = min(p.block, p.length - tile.position)
    tile.sample = task // strips // p.blocks


cdef inline char* start_of(const Tile* tile, const Array* a) noexcept nogil:
    return a.data + tile.sample * a.sample + tile.position * a.apart + tile.column * a.position


cdef inline work* table_of(const Plan* p, Py_ssize_t sample, int entry, work zero) noexcept nogil:
    return <work*>p.table + (sample * TABLE + entry) * p.padded


cdef inline double* sums_of(const Plan* p, Py_ssize_t sample, Py_ssize_t block) noexcept nogil:
    return p.sums + (sample * p.blocks + block) * 2 * p.width


cdef inline void repeat_channels(const Plan* p, work* entry) noexcept nogil:
    """The table begins again behind its end, as often as there is room: twice as much each time."""
    cdef Py_ssize_t filled = p.width
    while filled < p.padded:
        memcpy(entry + filled, entry, min(filled, p.padded - filled) * sizeof(work))
        filled *= 2


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


cdef inline const work* of_sample(const Plan* p, const char* parameter, Py_ssize_t sample, work zero) noexcept nogil:
    """The parameters of a sample, its own or those of all."""
    return <const work*>parameter + (p.first + sample) * p.width if p.own and parameter != NULL else <const work*>parameter


cdef void complete_forward(const Plan* p, Py_ssize_t sample, const work* w, bint scaled) noexcept nogil:
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
    complete(p, sample, w, of_sample(p, p.bias, sample, <work>0), <work>NOTHING)
