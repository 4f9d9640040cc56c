# The gradients of feature_columns.pxi: dx = rstd * (g - mean(g) - z * mean(g * z)) down each column, dweight and dbias across the columns.

cdef void strip_gradients(Strip* s, const Plan* p, const work* table, double* sums, double* products) noexcept nogil:
    """sums[j] = sum g, products[j] = sum g * (x - shift[j]) * scale[j] over the positions of a strip"""
    cdef work a[2 * WHOLE]
    cdef double more[2 * WIDE]
    cdef double lost[2 * WHOLE]
    cdef double block_lost[2 * WHOLE]
    cdef Columns c
    cdef Py_ssize_t block, i, k, last, stop, step = CHUNK if (s.x.plain and s.dy.plain) or s.straight else WINDOW
    cdef const work* w = <const work*>p.weight
    cdef const work* t
    cdef const work* g
    c.width, c.weighted = s.width, w != NULL
    c.level = s.x.level if (s.x.plain and s.dy.plain) or s.straight else 1
    begin_sums(sums, products, lost, s.width, table[0])
    for block from 0 <= block < s.n by BLOCK:
        stop = min(block + BLOCK, s.n)
        begin_sums(more, more + WIDE, block_lost, s.width, table[0])
        for i from block <= i < stop by CHUNK:
            last = min(i + CHUNK, stop)
            for k from i <= k < last by step:
                c.n, c.begin = min(step, last - k), k == i
                if CONVERTS and s.straight:
                    c.x, c.dy = s.x.apart // s.x.itemsize, s.dy.apart // s.dy.itemsize
                    narrow_chunk_gradients(s.x.dtype, &c, s.at + k * s.x.apart, s.dy_at + k * s.dy.apart, <const float*>table, WIDE,
                                           <const float*>at(w, k, w != NULL), <float*>a)
                    continue
                t = positions_of(s, k, c.n, &c.x, table[0])
                g = take_positions(&s.dy, s.dy_at + k * s.dy.apart, c.n, s.width, <work*>s.dy_room, &c.dy)
                chunk_gradients(&c, t, g, table, WIDE, at(w, k, w != NULL), a)
            add_columns(a, a + WHOLE, s.width, more, more + WIDE, block_lost, table[0])
        end_sums(more, more + WIDE, block_lost, s.width, table[0])
        add_columns(more, more + WIDE, s.width, sums, products, lost, table[0])
    end_sums(sums, products, lost, s.width, table[0])


cdef void strip_coefficients(Strip* s, const Plan* p, Py_ssize_t first, work* table) noexcept nogil:
    """Statistics of the columns, which lie from `first` on, and the coefficients that the sums give (`descent`)."""
    cdef work* shift = table + SHIFT * WIDE
    cdef work* delta = table + DELTA * WIDE
    cdef work* scale = table + SCALE * WIDE
    cdef double sums[WIDE]
    cdef double products[WIDE]
    cdef Py_ssize_t j
    memset(table, 0, TABLE * WIDE * sizeof(work))
    split_given(at(p.mean, first, p.centered), p.rstd + first, s.width, table, WIDE, False)
    strip_gradients(s, p, table, sums, products)
    for j in range(s.width):
        descent(sums[j] if p.centered else 0, about_mean(products[j], sums[j], delta[j], scale[j]), s.n, delta[j], scale[j],
                table + MEAN_G * WIDE + j, table + SLOPE * WIDE + j)


cdef inline void cross_lanes(const stored* x, const stored* dy, const work* table, Py_ssize_t m, work* sw, work* sb, bint part) noexcept nogil:
    """What columns add to dweight = sum dy * z and dbias = sum dy of their position"""
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef work d[LANES]
    cdef work r[LANES]
    cdef work one = unit(table[0])
    cdef Py_ssize_t l
    load_lanes(x, m, z, part)
    load_lanes(dy, m, g, part)
    load_lanes(table + SHIFT * WIDE, m, v, part)
    load_lanes(table + DELTA * WIDE, m, d, part)
    load_lanes(table + SCALE * WIDE, m, r, part)
    for l in range(LANES):
        sw[l] += g[l] * ((minus(z[l], v[l], one) - d[l]) * r[l])
        sb[l] += g[l]


cdef void cross_rounded(const Plan* p, const float* x, const float* dy, const float* table, Py_ssize_t width, float* sw, float* sb) noexcept nogil:
    """cross_lanes of a position, where the weight was multiplied by rounded values"""
    cdef float z[WIDE]
    cdef float one = 1, nothing = <float>NOTHING
    cdef Affine c
    cdef Block b
    cdef Py_ssize_t j
    beside(&c, table, WIDE)
    c.statistics, c.center, c.weight, c.bias, c.of_weight, c.of_bias = MANY, MANY, ONE, ONE, &one, &nothing
    b.rows, b.width, b.ahead, b.x, b.y = 1, width, 0, width, width
    normalize_by(p, &c, &b, x, z)
    for j in range(width):
        sw[j % LANES] += dy[j] * z[j]
        sb[j % LANES] += dy[j]


cdef void cross_position(const Plan* p, const work* x, const work* dy, const work* table, Py_ssize_t width, double* dw, double* db) noexcept nogil:
    cdef work sw[LANES]
    cdef work sb[LANES]
    cdef Py_ssize_t j = 0
    clear(sw)
    clear(sb)
    if work is float:
        if p.round_first:
            cross_rounded(p, x, dy, table, width, sw, sb)
            j = width
    while j + LANES <= width:
        cross_lanes(x + j, dy + j, table + j, LANES, sw, sb, False)
        j += LANES
    if j < width:
        cross_lanes(x + j, dy + j, table + j, width - j, sw, sb, True)
    dw[0], db[0] = tree(sw), tree(sb)


cdef inline void cross_columns(const narrow* x, const narrow* dy, const float* table, Py_ssize_t width, double* dw, double* db) noexcept nogil:
    cdef float sw[LANES]
    cdef float sb[LANES]
    cdef Py_ssize_t j = 0
    clear(sw)
    clear(sb)
    while j + LANES <= width:
        cross_lanes(x + j, dy + j, table + j, LANES, sw, sb, False)
        j += LANES
    if j < width:
        cross_lanes(x + j, dy + j, table + j, width - j, sw, sb, True)
    dw[0], db[0] = tree(sw), tree(sb)


cdef void narrow_cross_position(Dtype dtype, const char* x, const char* dy, const float* table, Py_ssize_t width, double* dw, double* db) noexcept nogil:
    if dtype == F16:
        cross_columns(<const half_t*>x, <const half_t*>dy, table, width, dw, db)
    else:
        cross_columns(<const bf16_t*>x, <const bf16_t*>dy, table, width, dw, db)


cdef void strip_descend(Strip* s, const Plan* p, Py_ssize_t part, const work* table) noexcept nogil:
    """dx, and dweight and dbias of each position"""
    cdef const work* w = <const work*>p.weight
    cdef work ws[WINDOW]
    cdef double dw[WINDOW]
    cdef double db[WINDOW]
    cdef Affine c
    cdef Block b
    cdef Py_ssize_t i, k
    cdef const work* t
    cdef const work* g
    cdef char* to
    cdef bint direct = s.y.plain and not s.writer.streaming and not p.fused
    beside(&c, table, WIDE)
    c.statistics, c.center, c.through, c.weight, c.of_weight = MANY, MANY, MANY, ONE, ws
    b.width, b.ahead, b.dy_ahead = s.width, 0, 0
    b.y = s.y.apart // <Py_ssize_t>sizeof(work) if direct else s.width
    for i from 0 <= i < s.n by WINDOW:
        b.rows = min(<Py_ssize_t>WINDOW, s.n - i)
        t = positions_of(s, i, b.rows, &b.x, table[0])
        g = take_positions(&s.dy, s.dy_at + i * s.dy.apart, b.rows, s.width, <work*>s.dy_room, &b.dy)
        for k in range(b.rows):
            ws[k] = w[i + k] if w != NULL else 1
            if p.weight_grads:
                cross_position(p, t + k * b.x, g + k * b.dy, table, s.width, &dw[k], &db[k])
        if p.weight_grads:
            add_gradients(p, part * s.n + i, dw, db, b.rows, table[0])
        to = s.y_at + i * s.y.apart
        descend(&c, &b, t, g, <work*>to if direct else <work*>s.dy_room)
        if p.fused:
            follow_positions(&s.beside, i, 0, b.rows, s.width, <work*>s.dy_room)
        if not direct:
            give_positions(&s.y, to, &s.writer, <work*>s.dy_room, b.rows, s.width)


cdef void strip_descend_straight(Strip* s, const Plan* p, Py_ssize_t part, const float* table) noexcept nogil:
    """strip_descend where elements are read and written as they are stored."""
    cdef const float* w = <const float*>p.weight
    cdef float ws[WINDOW]
    cdef double dw[WINDOW]
    cdef double db[WINDOW]
    cdef Affine c
    cdef Block b
    cdef Py_ssize_t i, k
    beside(&c, table, WIDE)
    c.statistics, c.center, c.through, c.weight, c.of_weight = MANY, MANY, MANY, ONE, ws
    b.width, b.ahead, b.dy_ahead, b.x, b.dy = s.width, 0, 0, s.x.apart // s.x.itemsize, s.dy.apart // s.x.itemsize
    b.y = s.width if s.writer.streaming else s.y.apart // s.x.itemsize
    for i from 0 <= i < s.n by WINDOW:
        b.rows = min(<Py_ssize_t>WINDOW, s.n - i)
        for k in range(b.rows):
            ws[k] = w[i + k] if w != NULL else 1
            if p.weight_grads:
                narrow_cross_position(s.x.dtype, s.at + (i + k) * s.x.apart, s.dy_at + (i + k) * s.dy.apart, table, s.width, &dw[k], &db[k])
        if p.weight_grads:
            add_gradients(p, part * s.n + i, dw, db, b.rows, table[0])
        strip_straight(s, &c, &b, i, table[0])


cdef void feature_columns_strips(const Plan* p, Py_ssize_t part, work zero) noexcept nogil:
    cdef Py_ssize_t strip = p.strip, strips = (p.width - 1) // strip + 1, column, sample, task
    cdef work table[TABLE * WIDE]
    cdef Strip s
    open_strip(&s, p, zero)
    if not s.x.plain:
        keep_strip(&s, p, strip, zero)
    for task in range(part * p.batch, min((part + 1) * p.batch, p.samples * strips)):
        sample, column = task // strips, task % strips * strip
        go_to(&s, sample, column, min(strip, p.width - column))
        strip_coefficients(&s, p, sample * p.width + column, table)
        if CONVERTS and s.straight:
            strip_descend_straight(&s, p, part, <const float*>table)
        else:
            strip_descend(&s, p, part, table)
    free(s.kept)
    close_writer(&s.writer)


cdef void feature_columns_backward(const Plan* p, Py_ssize_t part, work zero) noexcept nogil:
    """The strips go by way of the table of steps: their frame and that of `strip_forward` are never on the stack at once."""
    cdef Py_ssize_t strip = p.strip, strips = (p.width - 1) // strip + 1, column, task
    if p.before != NULL:
        for task in range(part * p.batch, min((part + 1) * p.batch, p.samples * strips)):
            column = task % strips * strip
            if p.before.upstream:
                strip_forward(p.before, task // strips, column, min(strip, p.width - column), zero)
            else:
                strip_before(p.before, task // strips, column, min(strip, p.width - column), zero)
    run(FEATURE_COLUMNS_STRIPS, p, part)
