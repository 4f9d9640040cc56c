# The formulas, forward and backward, over a block of `rows` x `width` elements:
#
#   normalize   y  = ((x - shift) - delta) * scale * weight + bias          shift + delta = mean, scale = rstd
#   descend     dx = scale * ((dy * weight - mean_g) - (x - shift) * slope)
#
# The latter is rstd * (g - mean(g) - z * mean(g * z)) with g = dy * weight and z = (x - mean) * rstd (`descent` gives mean_g and
# slope). To the vectors along the rows of a block each coefficient is ONE number a row, MANY (a vector beside all rows) or ABSENT:
#
#                           weight, bias MANY      weight, bias ONE
#   statistics ONE          feature rows           channel rows
#   statistics MANY         channel columns        feature columns
#
# A norm of channels has its weight in the scale.

cdef enum Kind:
    ABSENT, ONE, MANY

cdef struct Affine:
    Kind statistics, center, weight, bias   # center: of shift, delta and mean_g; ABSENT for RMSNorm
    Kind through                            # of mean_g and slope: ABSENT where the statistics are constants
    const void* shift
    const void* delta
    const void* scale
    const void* of_weight
    const void* of_bias
    const void* mean_g
    const void* slope

cdef struct Block:
    Py_ssize_t rows, width
    Py_ssize_t x, dy, y     # elements from a row to the next
    Py_ssize_t ahead, dy_ahead      # bytes from what is read to what is prefetched; 0: nothing is


cdef inline void coefficient(const void* c, Kind kind, Py_ssize_t j, Py_ssize_t m, work* t, bint part) noexcept nogil:
    """The lanes of one that is MANY."""
    if kind == MANY:
        load_lanes(<const work*>c + j, m, t, part)


cdef inline void of_row(const void* c, Kind kind, Py_ssize_t i, work* t) noexcept nogil:
    if kind == ONE:
        t[0] = (<const work*>c)[i]


cdef inline work lane(const work* t, Py_ssize_t l, Kind kind) noexcept nogil:
    return t[l] if kind == MANY else t[0]


cdef inline void normalize_lanes(const Affine* c, const Block* b, const stored* x, stored* y, Py_ssize_t j, Py_ssize_t m, bint part,
                                 work zero) noexcept nogil:
    """Columns j to j + m of all rows."""
    cdef work t[LANES]
    cdef work shift[LANES]
    cdef work delta[LANES]
    cdef work scale[LANES]
    cdef work weight[LANES]
    cdef work bias[LANES]
    cdef work one = unit(zero)
    cdef Py_ssize_t i, l
    coefficient(c.shift, c.center, j, m, shift, part)
    coefficient(c.delta, c.center, j, m, delta, part)
    coefficient(c.scale, c.statistics, j, m, scale, part)
    coefficient(c.of_weight, c.weight, j, m, weight, part)
    coefficient(c.of_bias, c.bias, j, m, bias, part)
    for i in range(b.rows):
        of_row(c.shift, c.center, i, shift)
        of_row(c.delta, c.center, i, delta)
        of_row(c.scale, c.statistics, i, scale)
        of_row(c.of_weight, c.weight, i, weight)
        of_row(c.of_bias, c.bias, i, bias)
        prefetch_ahead(x + i * b.x + j, b.ahead)
        load_lanes(x + i * b.x + j, m, t, part)
        for l in range(LANES):
            if c.center != ABSENT:
                t[l] = minus(t[l], lane(shift, l, c.center), one) - lane(delta, l, c.center)
            t[l] *= lane(scale, l, c.statistics)
            if c.weight != ABSENT:
                t[l] *= lane(weight, l, c.weight)
            if c.bias != ABSENT:
                t[l] += lane(bias, l, c.bias)
        store_lanes(y + i * b.y + j, m, t, part)


cdef inline void descend_lanes(const Affine* c, const Block* b, const stored* x, const stored* dy, stored* dx, Py_ssize_t j, Py_ssize_t m,
                               bint part, work zero) noexcept nogil:
    cdef work t[LANES]
    cdef work g[LANES]
    cdef work shift[LANES]
    cdef work scale[LANES]
    cdef work weight[LANES]
    cdef work mean_g[LANES]
    cdef work slope[LANES]
    cdef Py_ssize_t i, l
    coefficient(c.shift, c.center, j, m, shift, part)
    coefficient(c.scale, c.statistics, j, m, scale, part)
    coefficient(c.of_weight, c.weight, j, m, weight, part)
    coefficient(c.mean_g, c.center, j, m, mean_g, part)
    coefficient(c.slope, c.through, j, m, slope, part)
    for i in range(b.rows):
        of_row(c.shift, c.center, i, shift)
        of_row(c.scale, c.statistics, i, scale)
        of_row(c.of_weight, c.weight, i, weight)
        of_row(c.mean_g, c.center, i, mean_g)
        of_row(c.slope, c.through, i, slope)
        prefetch_ahead(dy + i * b.dy + j, b.dy_ahead)
        load_lanes(dy + i * b.dy + j, m, g, part)
        if c.through != ABSENT:
            prefetch_ahead(x + i * b.x + j, b.ahead)
            load_lanes(x + i * b.x + j, m, t, part)
        for l in range(LANES):
            if c.weight != ABSENT:
                g[l] *= lane(weight, l, c.weight)
            if c.through != ABSENT:
                if c.center != ABSENT:
                    g[l] -= lane(mean_g, l, c.center)
                    t[l] -= lane(shift, l, c.center)
                g[l] -= t[l] * lane(slope, l, c.through)
            g[l] *= lane(scale, l, c.statistics)
        store_lanes(dx + i * b.y + j, m, g, part)


# ---- the order: row by row where the statistics are a row's, else column by column while they stay in registers ----

cdef inline Affine row_of(const Affine* c, Py_ssize_t i, work zero) noexcept nogil:
    """The coefficients of row i."""
    cdef Affine r = c[0]
    if c.center == ONE:
        r.shift, r.delta, r.mean_g = <const work*>c.shift + i, <const work*>c.delta + i, <const work*>c.mean_g + i
    if c.statistics == ONE:
        r.scale, r.slope = <const work*>c.scale + i, <const work*>c.slope + i
    if c.weight == ONE:
        r.of_weight = <const work*>c.of_weight + i
    if c.bias == ONE:
        r.of_bias = <const work*>c.of_bias + i
    return r


cdef inline const void* kept(const void* c, bint needed, work* own) noexcept nogil:
    if not needed:
        return c
    own[0] = (<const work*>c)[0]
    return own


cdef inline void in_registers(Affine* r, bint forward, work* own) noexcept nogil:
    """The coefficients of one row at `own`, a variable that no array overlaps: so they need not be read again after each store."""
    r.shift, r.scale = kept(r.shift, r.center == ONE, own), kept(r.scale, True, own + 1)
    r.of_weight = kept(r.of_weight, r.weight == ONE, own + 2)
    if forward:
        r.delta, r.of_bias = kept(r.delta, r.center == ONE, own + 3), kept(r.of_bias, r.bias == ONE, own + 4)
    else:
        r.mean_g, r.slope = kept(r.mean_g, r.center == ONE and r.through == ONE, own + 3), kept(r.slope, r.through == ONE, own + 4)


cdef inline Py_ssize_t to_line(const Affine* c, const Block* b, const stored* y, Py_ssize_t least) noexcept nogil:
    """Elements of a row to take first, so that what follows is stored in whole lines: a vector across two takes twice the time. It
    pays in rows of at least so many."""
    return <Py_ssize_t>(-<size_t>y % LINE // sizeof(stored)) if c.statistics == ONE and b.width >= least else 0


cdef inline void normalize_columns(const Affine* c, const Block* b, const stored* x, stored* y, work zero) noexcept nogil:
    cdef Py_ssize_t j = to_line(c, b, y, 4 * LANES)
    if j > 0:
        normalize_lanes(c, b, x, y, 0, j, True, zero)
    while j + LANES <= b.width:
        normalize_lanes(c, b, x, y, j, LANES, False, zero)
        j += LANES
    if j < b.width:
        normalize_lanes(c, b, x, y, j, b.width - j, True, zero)


cdef inline void descend_columns(const Affine* c, const Block* b, const stored* x, const stored* dy, stored* dx, work zero) noexcept nogil:
    cdef Py_ssize_t j = to_line(c, b, dx, BLOCK)
    if j > 0:
        descend_lanes(c, b, x, dy, dx, 0, j, True, zero)
    while j + LANES <= b.width:
        descend_lanes(c, b, x, dy, dx, j, LANES, False, zero)
        j += LANES
    if j < b.width:
        descend_lanes(c, b, x, dy, dx, j, b.width - j, True, zero)


cdef inline Affine forward_kinds(const Affine* c, Kind statistics, Kind center, Kind weight, Kind bias) noexcept nogil:
    """The kinds are constants where they are set, so that each case is a loop of its own."""
    cdef Affine k = c[0]
    k.statistics, k.center, k.weight, k.bias = statistics, center, weight, bias
    return k


cdef inline Affine backward_kinds(const Affine* c, Kind statistics, Kind center, Kind weight, Kind through) noexcept nogil:
    cdef Affine k = c[0]
    k.statistics, k.center, k.weight, k.through = statistics, center, weight, through
    return k


cdef inline void normalize_as(Affine k, const Block* b, const stored* x, stored* y, work zero) noexcept nogil:
    cdef Affine r
    cdef Block one = b[0]
    cdef work own[5]
    cdef Py_ssize_t i
    if k.statistics == MANY:
        normalize_columns(&k, b, x, y, zero)
        return
    one.rows = 1
    for i in range(b.rows):
        r = row_of(&k, i, zero)
        in_registers(&r, True, own)
        normalize_columns(&r, &one, x + i * b.x, y + i * b.y, zero)


cdef inline void descend_as(Affine k, const Block* b, const stored* x, const stored* dy, stored* dx, work zero) noexcept nogil:
    cdef Affine r
    cdef Block one = b[0]
    cdef work own[5]
    cdef Py_ssize_t i
    if k.statistics == MANY:
        descend_columns(&k, b, x, dy, dx, zero)
        return
    one.rows = 1
    for i in range(b.rows):
        r = row_of(&k, i, zero)
        in_registers(&r, False, own)
        descend_columns(&r, &one, x + i * b.x, dy + i * b.dy, dx + i * b.y, zero)


cdef void normalize_stored(const Affine* c, const Block* b, const stored* x, stored* y, work zero) noexcept nogil:
    """x and y lie in memory in one type."""
    if c.statistics == MANY and c.weight == ONE:
        normalize_as(forward_kinds(c, MANY, MANY, ONE, ONE), b, x, y, zero)
    elif c.statistics == MANY:
        normalize_as(forward_kinds(c, MANY, MANY, ABSENT, MANY), b, x, y, zero)
    elif c.bias == ONE:
        normalize_as(forward_kinds(c, ONE, ONE, ABSENT, ONE), b, x, y, zero)
    elif c.center == ABSENT and c.weight == MANY:
        normalize_as(forward_kinds(c, ONE, ABSENT, MANY, ABSENT), b, x, y, zero)
    elif c.center == ABSENT:
        normalize_as(forward_kinds(c, ONE, ABSENT, ABSENT, ABSENT), b, x, y, zero)
    elif c.bias == MANY and c.weight == MANY:
        normalize_as(forward_kinds(c, ONE, ONE, MANY, MANY), b, x, y, zero)
    elif c.bias == MANY:
        normalize_as(forward_kinds(c, ONE, ONE, ABSENT, MANY), b, x, y, zero)
    elif c.weight == MANY:
        normalize_as(forward_kinds(c, ONE, ONE, MANY, ABSENT), b, x, y, zero)
    else:
        normalize_as(forward_kinds(c, ONE, ONE, ABSENT, ABSENT), b, x, y, zero)


cdef inline void normalize(const Affine* c, const Block* b, const work* x, work* y) noexcept nogil:
    normalize_stored(c, b, x, y, <work>0)


cdef inline void normalize_in(Dtype dtype, const Affine* c, const Block* b, const char* x, char* y, work zero) noexcept nogil:
    """`normalize` of elements as they lie in memory; of 16 bits only where lanes are converted by instructions."""
    if work is float:
        if CONVERTS and dtype == F16:
            normalize_stored(c, b, <const half_t*>x, <half_t*>y, zero)
            return
        if CONVERTS and dtype == BF16:
            normalize_stored(c, b, <const bf16_t*>x, <bf16_t*>y, zero)
            return
    normalize_stored(c, b, <const work*>x, <work*>y, zero)


cdef void descend_stored(const Affine* c, const Block* b, const stored* x, const stored* dy, stored* dx, work zero) noexcept nogil:
    if c.statistics == MANY and c.weight == ONE:
        descend_as(backward_kinds(c, MANY, MANY, ONE, MANY), b, x, dy, dx, zero)
    elif c.statistics == MANY and c.through == MANY:
        descend_as(backward_kinds(c, MANY, MANY, MANY, MANY), b, x, dy, dx, zero)
    elif c.statistics == MANY:
        descend_as(backward_kinds(c, MANY, MANY, MANY, ABSENT), b, x, dy, dx, zero)
    elif c.weight == ONE and c.through == ONE:
        descend_as(backward_kinds(c, ONE, ONE, ONE, ONE), b, x, dy, dx, zero)
    elif c.weight == ONE:
        descend_as(backward_kinds(c, ONE, ONE, ONE, ABSENT), b, x, dy, dx, zero)
    elif c.center == ONE and c.weight == MANY:
        descend_as(backward_kinds(c, ONE, ONE, MANY, ONE), b, x, dy, dx, zero)
    elif c.center == ONE:
        descend_as(backward_kinds(c, ONE, ONE, ABSENT, ONE), b, x, dy, dx, zero)
    elif c.weight == MANY:
        descend_as(backward_kinds(c, ONE, ABSENT, MANY, ONE), b, x, dy, dx, zero)
    else:
        descend_as(backward_kinds(c, ONE, ABSENT, ABSENT, ONE), b, x, dy, dx, zero)


cdef inline void descend(const Affine* c, const Block* b, const work* x, const work* dy, work* dx) noexcept nogil:
    descend_stored(c, b, x, dy, dx, <work>0)


cdef inline void descend_in(Dtype dtype, const Affine* c, const Block* b, const char* x, const char* dy, char* dx, work zero) noexcept nogil:
    if work is float:
        if CONVERTS and dtype == F16:
            descend_stored(c, b, <const half_t*>x, <const half_t*>dy, <half_t*>dx, zero)
            return
        if CONVERTS and dtype == BF16:
            descend_stored(c, b, <const bf16_t*>x, <const bf16_t*>dy, <bf16_t*>dx, zero)
            return
    descend_stored(c, b, <const work*>x, <const work*>dy, <work*>dx, zero)
