# LayerNorm and RMSNorm over a strided axis (channels of a channels-first image): the neighbours in memory belong to
# other statistics, so the vectors run across STRIP columns. Position i of a column goes to lane i % LANES of its own
# accumulators, so that a column gets the bits that a row of the same elements gets.

cdef inline void strip_tree(const work* a, Py_ssize_t width, double* s) noexcept nogil:
    """s[j] += the tree over the lanes of column j; a: LANES x STRIP"""
    cdef double t[16][LANES]
    cdef Py_ssize_t j, k, l, m
    for j from 0 <= j < width by LANES:
        for l in range(16):
            for k in range(LANES):
                t[l][k] = <double>a[l * STRIP + j + k] + <double>a[(l + 16) * STRIP + j + k]
        for l in range(8):
            for k in range(LANES):
                t[l][k] += t[l + 8][k]
        for l in range(4):
            for k in range(LANES):
                t[l][k] += t[l + 4][k]
        m = min(<Py_ssize_t>LANES, width - j)
        for k in range(m):
            s[j + k] += (t[0][k] + t[2][k]) + (t[1][k] + t[3][k])


cdef inline void strip_first(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, double* total,
                             work zero) noexcept nogil:
    """total[j] += the sample of column j, as first_mean takes it"""
    cdef work a[LANES * STRIP]
    cdef Py_ssize_t step = (n - 1) // (32 * BLOCK) + 1, p = 0, l, m, j
    while p < n:
        m = min(<Py_ssize_t>LANES, n - p)
        for l in range(m):
            for j from 0 <= j < width by LANES:
                load_some(x + (p + l) * position + j, width - j, a + l * STRIP + j)
        for l in range(m * STRIP, LANES * STRIP):
            a[l] = 0
        strip_tree(a, width, total)
        p += step * BLOCK


cdef inline void moment_lanes(const storage* x, Py_ssize_t m, const work* shift, work* a, work* b, bint centered) noexcept nogil:
    cdef work t[LANES]
    cdef Py_ssize_t k
    load_some(x, m, t)
    for k in range(LANES):
        if centered:
            t[k] -= shift[k]
    if centered:
        for k in range(LANES):
            a[k] += t[k]
    for k in range(LANES):
        b[k] += t[k] * t[k]


cdef inline void strip_moments(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                               bint centered, double* s, double* q) noexcept nogil:
    """s[j] += sum (x - shift[j]), q[j] += sum (x - shift[j])^2 over a block of n positions"""
    cdef work a[LANES * STRIP]
    cdef work b[LANES * STRIP]
    cdef Py_ssize_t p, j, k
    for k in range(LANES * STRIP):
        a[k] = 0
        b[k] = 0
    for p in range(n):
        k = p % LANES * STRIP
        j = 0
        while j + LANES <= width:
            moment_lanes(x + p * position + j, LANES, shift + j, a + k + j, b + k + j, centered)
            j += LANES
        if j < width:
            moment_lanes(x + p * position + j, width - j, shift + j, a + k + j, b + k + j, centered)
    if centered:
        strip_tree(a, width, s)
    strip_tree(b, width, q)


cdef inline void strip_sums(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                            bint centered, double* s, double* q) noexcept nogil:
    cdef Py_ssize_t p
    for p in range(width):
        s[p] = q[p] = 0
    for p from 0 <= p < n by BLOCK:
        strip_moments(x + p * position, position, min(<Py_ssize_t>BLOCK, n - p), width, shift, centered, s, q)


cdef inline void position_lanes(const storage* x, storage* y, Py_ssize_t m, const work* shift, const work* delta,
                                const work* scale, work w, work b) noexcept nogil:
    cdef work t[LANES]
    cdef Py_ssize_t k
    load_some(x, m, t)
    for k in range(LANES):
        t[k] = ((t[k] - shift[k]) - delta[k]) * scale[k] * w + b
    store_some(y, m, t)


cdef void feature_columns_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    cdef Py_ssize_t strips = (p.width - 1) // STRIP + 1, sample = task // strips, column = task % strips * STRIP
    cdef Py_ssize_t width = min(<Py_ssize_t>STRIP, p.width - column), n = p.length, i, j
    cdef const work* b = <const work*>p.bias
    cdef storage* y = <storage*>p.y + sample * p.ys.sample + column
    cdef work shift[STRIP]
    cdef work delta[STRIP]
    cdef work scale[STRIP]
    cdef work wi, bi
    cdef double s[STRIP]
    cdef double q[STRIP]
    cdef double pair[2]
    cdef Statistics found
    cdef bint again = False
    cdef Row row
    x += sample * p.xs.sample + column
    memset(shift, 0, sizeof(shift))
    memset(delta, 0, sizeof(delta))
    memset(scale, 0, sizeof(scale))
    memset(s, 0, sizeof(s))
    if p.centered:
        strip_first(x, p.xs.position, n, width, s, <work>0)
        for j in range(width):
            shift[j] = <work>(s[j] / sampled(n))
    strip_sums(x, p.xs.position, n, width, shift, p.centered, s, q)
    if p.centered:
        for j in range(width):
            pair[0] = s[j]
            pair[1] = q[j]
            if not trusted(pair, n, p.eps, <work>0) and s[j] - s[j] == 0:
                shift[j] = <work>(shift[j] + s[j] / n)
                again = True
        if again:
            strip_sums(x, p.xs.position, n, width, shift, True, s, q)
    for j in range(width):
        pair[0] = s[j]
        pair[1] = q[j]
        settle(pair, n, p.eps, shift[j], &found)
        if not trusted(pair, n, p.eps, <work>0):
            row.channels = row.segments = 1
            row.channel = row.segment = 0
            row.length = n
            row.position = p.xs.position
            wide_statistics(x + j, &row, p.centered, p.eps, &found, <work>0)
        shift[j] = <work>found.shift
        delta[j] = <work>found.delta
        scale[j] = <work>found.rstd
        if p.mean != NULL:
            p.mean[sample * p.width + column + j] = found.shift + found.delta
        if p.rstd != NULL:
            p.rstd[sample * p.width + column + j] = found.rstd
    for i in range(n):
        wi = w[i] if w != NULL else 1
        bi = b[i] if b != NULL else 0
        j = 0
        while j + LANES <= width:
            position_lanes(x + i * p.xs.position + j, y + i * p.ys.position + j, LANES, shift + j, delta + j, scale + j, wi, bi)
            j += LANES
        if j < width:
            position_lanes(x + i * p.xs.position + j, y + i * p.ys.position + j, width - j, shift + j, delta + j, scale + j, wi, bi)


cdef inline void gradient_columns(const storage* x, const storage* dy, Py_ssize_t m, const work* shift, const work* delta,
                                  const work* scale, work w, work* a, work* b) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef Py_ssize_t k
    load_some(x, m, z)
    load_some(dy, m, g)
    for k in range(LANES):
        g[k] *= w
        z[k] = g[k] * (((z[k] - shift[k]) - delta[k]) * scale[k])
    for k in range(LANES):
        a[k] += g[k]
    for k in range(LANES):
        b[k] += z[k]


cdef inline void strip_gradients(const storage* x, const storage* dy, Py_ssize_t xp, Py_ssize_t dp, Py_ssize_t n,
                                 Py_ssize_t width, const work* w, const work* shift, const work* delta, const work* scale,
                                 double* s, double* q) noexcept nogil:
    """s[j] += sum g, q[j] += sum g * z over a block of n positions; w: a weight a position, or NULL"""
    cdef work a[LANES * STRIP]
    cdef work b[LANES * STRIP]
    cdef Py_ssize_t p, j, k
    cdef work wp
    for k in range(LANES * STRIP):
        a[k] = 0
        b[k] = 0
    for p in range(n):
        wp = w[p] if w != NULL else 1
        k = p % LANES * STRIP
        j = 0
        while j + LANES <= width:
            gradient_columns(x + p * xp + j, dy + p * dp + j, LANES, shift + j, delta + j, scale + j, wp, a + k + j, b + k + j)
            j += LANES
        if j < width:
            gradient_columns(x + p * xp + j, dy + p * dp + j, width - j, shift + j, delta + j, scale + j, wp, a + k + j, b + k + j)
    strip_tree(a, width, s)
    strip_tree(b, width, q)


cdef inline void backward_columns(const storage* x, const storage* dy, storage* dx, Py_ssize_t m, const work* shift,
                                  const work* delta, const work* scale, const work* c1, const work* c2, work w,
                                  work* sw, work* sb) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work t[LANES]
    cdef Py_ssize_t k
    load_some(x, m, z)
    load_some(dy, m, g)
    for k in range(LANES):
        z[k] = ((z[k] - shift[k]) - delta[k]) * scale[k]
        t[k] = scale[k] * ((g[k] * w - c1[k]) - z[k] * c2[k])
    store_some(dx, m, t)
    for k in range(LANES):
        sw[k] += g[k] * z[k]
        sb[k] += g[k]


cdef void feature_columns_backward(const Plan* p, Py_ssize_t part, const storage* x0, const work* w) noexcept nogil:
    cdef Py_ssize_t strips = (p.width - 1) // STRIP + 1, n = p.length, i, j, column, sample, width, task
    cdef const storage* x
    cdef const storage* dy
    cdef storage* dx
    cdef work shift[STRIP]
    cdef work delta[STRIP]
    cdef work scale[STRIP]
    cdef work c1[STRIP]
    cdef work c2[STRIP]
    cdef work sw[LANES]
    cdef work sb[LANES]
    cdef work wi
    cdef double s[STRIP]
    cdef double q[STRIP]
    cdef double mean
    for task in range(part * p.batch, min((part + 1) * p.batch, p.samples * strips)):
        sample = task // strips
        column = task % strips * STRIP
        width = min(<Py_ssize_t>STRIP, p.width - column)
        x = x0 + sample * p.xs.sample + column
        dy = <const storage*>p.dy + sample * p.ds.sample + column
        dx = <storage*>p.y + sample * p.ys.sample + column
        for j in range(STRIP):
            s[j] = q[j] = 0
            shift[j] = delta[j] = scale[j] = 0
        for j in range(width):
            mean = p.mean[sample * p.width + column + j] if p.centered else 0
            shift[j] = <work>mean
            delta[j] = <work>(mean - shift[j])
            scale[j] = <work>p.rstd[sample * p.width + column + j]
        for i from 0 <= i < n by BLOCK:
            strip_gradients(x + i * p.xs.position, dy + i * p.ds.position, p.xs.position, p.ds.position,
                            min(<Py_ssize_t>BLOCK, n - i), width, w + i if w != NULL else NULL, shift, delta, scale, s, q)
        for j in range(STRIP):
            c1[j] = <work>(s[j] / n) if p.centered else 0
            c2[j] = <work>(q[j] / n)
        for i in range(n):
            wi = w[i] if w != NULL else 1
            clear(sw)
            clear(sb)
            j = 0
            while j + LANES <= width:
                backward_columns(x + i * p.xs.position + j, dy + i * p.ds.position + j, dx + i * p.ys.position + j, LANES,
                                 shift + j, delta + j, scale + j, c1 + j, c2 + j, wi, sw, sb)
                j += LANES
            if j < width:
                backward_columns(x + i * p.xs.position + j, dy + i * p.ds.position + j, dx + i * p.ys.position + j, width - j,
                                 shift + j, delta + j, scale + j, c1 + j, c2 + j, wi, sw, sb)
            if p.weight_grads:
                p.dweight[part * n + i] += tree(sw)
                if p.dbias != NULL:
                    p.dbias[part * n + i] += tree(sb)
