# Masks of channels-last arrays that are the same for all channels of a position.

cdef struct Mask:
    const char* data        # of a tile; NULL: there is none
    Py_ssize_t sample, apart


cdef inline Mask mask_of(const Plan* p, const Tile* tile) noexcept nogil:
    cdef const View* view = &p.companion[OF_WHERE]
    cdef Mask mask
    mask.data, mask.sample, mask.apart = NULL, view.span.sample, view.span.position
    if p.inside != NULL:
        mask.data = view.data + tile.sample * mask.sample + tile.position * mask.apart
    return mask


cdef inline Py_ssize_t takes_part(const Plan* p, Py_ssize_t sample) noexcept nogil:
    """How many elements a group of a sample has inside."""
    return p.channels * p.length if p.inside == NULL else p.inside[sample * p.groups]


cdef const work* take_inside(const Array* x, const char* at, const Mask* mask, Py_ssize_t first, Py_ssize_t n, Py_ssize_t width, work* room,
                             Py_ssize_t* apart, Py_ssize_t* taken) noexcept nogil:
    """As take_positions, of those inside; `first` is that at `at`."""
    cdef const char* m = mask.data + first * mask.apart
    cdef Py_ssize_t i
    taken[0] = n
    if mask.data == NULL or (m[0] and alike(m, mask.apart, n) == n):
        return take_positions(x, at, n, width, room, apart)
    apart[0], taken[0] = width, 0
    for i in range(n):
        if m[i * mask.apart]:
            widen(x, at + i * x.apart, width, room + taken[0] * width)
            taken[0] += 1
    return room


cdef inline Py_ssize_t sampled_inside(const Plan* p, Py_ssize_t sample) noexcept nogil:
    """Elements of a group that the first mean is taken from."""
    if p.inside == NULL:
        return p.channels * sampled(p.length)
    return min(p.inside[sample * p.groups], p.channels * SAMPLE)


cdef void add_inside(const Plan* p, const Array* x, Py_ssize_t sample, double* total, work zero) noexcept nogil:
    """add_sample of the first positions inside."""
    cdef const View* mask = &p.companion[OF_WHERE]
    cdef Py_ssize_t left = sampled_inside(p, sample) // p.channels, i = 0
    while left > 0:
        if mask.data[sample * mask.span.sample + i * mask.span.position]:
            add_sample(x, x.data + sample * x.sample + i * x.apart, 1, p.width, total, zero)
            left -= 1
        i += 1


cdef void wide_inside(const Plan* p, const Array* x, Py_ssize_t sample, Py_ssize_t column, Statistics* to, work zero) noexcept nogil:
    """`wide_statistics` of the group that begins with a column."""
    cdef const View* view = &p.companion[OF_WHERE]
    cdef const char* at = x.data + sample * x.sample + column * x.position
    cdef Array all = x[0], packed
    cdef Inside inside
    if p.inside == NULL:
        wide_columns(x, at, p.channels, p.length, True, p.eps, to, zero)
        return
    all.channels, all.channel, all.segments, all.segment, all.length, all.position = p.channels, x.position, 1, 0, p.length, x.apart
    all.plain = all.whole = False
    inside.mask, packed = all, all
    inside.mask.channel, inside.mask.position = 0, view.span.position
    inside.of, inside.filled = &all, False
    packed.inside, packed.channels, packed.length = &inside, 1, takes_part(p, sample)
    begin_row(&inside, view.data + sample * view.span.sample)
    wide_statistics(&packed, at, packed.length, True, p.eps, to, zero)


cdef void nothing_inside(const Plan* p, Py_ssize_t sample, work zero) noexcept nogil:
    """The table and the statistics, unknown, of a sample whose positions are all outside."""
    cdef Py_ssize_t g, c
    memset(table_of(p, sample, 0, zero), 0, TABLE * p.padded * sizeof(work))
    for c in range(p.padded):
        table_of(p, sample, FACTOR, zero)[c] = 1
    for g in range(p.groups):
        unknown(p, sample * p.groups + g)


cdef void cut_nothing(Cut* s, Py_ssize_t first, Py_ssize_t positions, work zero) noexcept nogil:
    """Zeros."""
    cdef Py_ssize_t step = min(s.width, out_of_panel(zero)), width, i, j
    cdef const Array* a
    cdef Writer writer
    cdef int k
    writer.streaming = False
    memset(s.room, 0, OUT_BYTES)
    for i in range(first, first + positions):
        for j from 0 <= j < s.width by step:
            width = min(step, s.width - j)
            give_positions(&s.y, s.y_at + i * s.y.apart + j * s.y.position, &s.writer, <work*>s.room, 1, width)
            for k in range(INPUTS, OUTPUTS):
                a = &s.beside.arrays[k]
                if s.beside.at[k] != NULL:
                    give_positions(a, s.beside.at[k] + i * a.apart + j * a.position, &writer, <work*>s.room, 1, width)


cdef void cut_inside(Cut* s, Affine* c, const Plan* p, const work* table, bint scaled) noexcept nogil:
    """A tile by its mask: the positions inside without it, those outside not at all, but where dx is dsum there."""
    cdef const char* mask = s.beside.at[OF_WHERE]
    cdef Py_ssize_t apart = s.beside.arrays[OF_WHERE].apart, i = 0, m
    cdef Plan rest = p[0]
    rest.fused = not bare(p)
    s.beside.plan = &rest
    while i < s.positions:
        m = alike(mask + i * apart, apart, s.positions - i)
        s.beside.at[OF_WHERE] = NULL if mask[i * apart] else <char*>mask
        if not mask[i * apart] and s.beside.at[OF_DSUM] == NULL:
            cut_nothing(s, i, m, table[0])
        elif p.dy == NULL or p.upstream:
            cut_normalize(s, c, &rest, table, scaled, i, m, s.width)
        else:
            cut_descend(s, c, &rest, table, i, m, s.width)
        i += m
    s.beside.plan = p
