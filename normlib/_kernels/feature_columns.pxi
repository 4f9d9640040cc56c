# LayerNorm and RMSNorm over a strided axis (channels of a channels-first image): the neighbours in memory belong to
# other statistics, so the vectors run across STRIP columns. Position i of a column goes to lane i % LANES of its own
# accumulators, so that a column gets the bits that a row of the same elements gets.

cdef enum:
    ROUNDS = 4
    AHEAD = 16


cdef inline double quarter(const work* a) noexcept nogil:
    """A quarter of the tree over the lanes of one column: lanes 0, 4, 8 ... from a."""
    return (((<double>a[0] + <double>a[16 * STRIP]) + (<double>a[8 * STRIP] + <double>a[24 * STRIP]))
            + ((<double>a[4 * STRIP] + <double>a[20 * STRIP]) + (<double>a[12 * STRIP] + <double>a[28 * STRIP])))


cdef inline void strip_tree(const work* a, Py_ssize_t width, double* s) noexcept nogil:
    """s[j] += the tree over the lanes of column j; a: LANES x STRIP"""
    cdef double t[LANES]
    cdef Py_ssize_t j, k
    for j from 0 <= j < width by LANES:
        for k in range(LANES):
            t[k] = ((quarter(a + j + k) + quarter(a + j + k + 2 * STRIP))
                    + (quarter(a + j + k + STRIP) + quarter(a + j + k + 3 * STRIP)))
        for k in range(min(<Py_ssize_t>LANES, width - j)):
            s[j + k] += t[k]


cdef inline void strip_sample(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, double* total,
                              work zero) noexcept nogil:
    """total[j] += the sample of column j, as sample_sum takes it"""
    cdef work t[LANES]
    cdef double pairs[HALF][LANES]
    cdef double column[HALF]
    cdef Py_ssize_t step = sample_step(n), p, i, j, k
    for j from 0 <= j < width by LANES:
        for p from 0 <= p < n by step * BLOCK:
            memset(pairs, 0, sizeof(pairs))
            for i in range(min(<Py_ssize_t>SAMPLE, n - p)):
                load_some(x + (p + i) * position + j, width - j, t)
                for k in range(LANES):
                    pairs[i % HALF][k] += t[k]
            for k in range(min(<Py_ssize_t>LANES, width - j)):
                for i in range(HALF):
                    column[i] = pairs[i][k]
                total[j + k] += chunk_tree(column)


cdef inline void moment_rounds(const storage* x, Py_ssize_t stride, Py_ssize_t rounds, Py_ssize_t m, const work* shift,
                               work* a, work* b, bint fresh, bint centered) noexcept nogil:
    """A lane of LANES columns takes `rounds` positions, `stride` apart; fresh: it starts from zero."""
    cdef work t[LANES]
    cdef work u[LANES]
    cdef work v[LANES]
    cdef Py_ssize_t r, k
    for k in range(LANES):
        u[k] = 0 if fresh else a[k]
        v[k] = 0 if fresh else b[k]
    for r in range(rounds):
        load_some(x + r * stride, m, t)
        for k in range(LANES):
            if centered:
                t[k] -= shift[k]
                u[k] += t[k]
            v[k] += t[k] * t[k]
    for k in range(LANES):
        if centered:
            a[k] = u[k]
        b[k] = v[k]


cdef inline void strip_moments(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                               bint centered, double* s, double* q) noexcept nogil:
    """s[j] += sum (x - shift[j]), q[j] += sum (x - shift[j])^2 over a block of n positions"""
    # Several rounds through the lanes at once, for the accumulators are in memory.
    cdef work a[LANES * STRIP]
    cdef work b[LANES * STRIP]
    cdef Py_ssize_t r = 0, left, lane, j, stride = LANES * position
    cdef const storage* xl
    while r == 0 or r * LANES < n:
        for lane in range(LANES):
            left = (n - lane + LANES - 1) // LANES - r
            xl = x + (r * LANES + lane) * position
            j = 0
            while j + LANES <= width and left > 0:
                if left >= ROUNDS:
                    moment_rounds(xl + j, stride, ROUNDS, LANES, shift + j, a + lane * STRIP + j, b + lane * STRIP + j, r == 0, centered)
                elif left == 3:
                    moment_rounds(xl + j, stride, 3, LANES, shift + j, a + lane * STRIP + j, b + lane * STRIP + j, r == 0, centered)
                elif left == 2:
                    moment_rounds(xl + j, stride, 2, LANES, shift + j, a + lane * STRIP + j, b + lane * STRIP + j, r == 0, centered)
                else:
                    moment_rounds(xl + j, stride, 1, LANES, shift + j, a + lane * STRIP + j, b + lane * STRIP + j, r == 0, centered)
                j += LANES
            while j < width and (left > 0 or r == 0):
                moment_rounds(xl + j, stride, max(<Py_ssize_t>0, min(left, <Py_ssize_t>ROUNDS)), width - j, shift + j,
                              a + lane * STRIP + j, b + lane * STRIP + j, r == 0, centered)
                j += LANES
        r += ROUNDS
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
                                const work* scale, work w, work b, bint past) noexcept nogil:
    cdef work t[LANES]
    cdef Py_ssize_t k
    load_some(x, m, t)
    for k in range(LANES):
        t[k] = ((t[k] - shift[k]) - delta[k]) * scale[k] * w + b
    if past:
        stream(y, t)
    else:
        store_some(y, m, t)


cdef inline storage* pack(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    """A strip side by side in memory that stays in cache: positions far apart would displace each other. NULL if there
    is no memory for it."""
    cdef storage* packed = <storage*>malloc(n * STRIP * sizeof(storage))
    cdef Py_ssize_t i, j
    if packed != NULL:
        for i in range(n):
            # Hardware does not see a stream in pieces so far apart.
            for j from 0 <= j < width by LINE // <Py_ssize_t>sizeof(storage):
                prefetch(x + min(i + AHEAD, n - 1) * position + j)
            memcpy(packed + i * STRIP, x + i * position, width * sizeof(storage))
    return packed


cdef void feature_columns_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    cdef Py_ssize_t strips = (p.width - 1) // STRIP + 1 + p.streaming, sample = task // strips, column = task % strips * STRIP
    cdef Py_ssize_t width, n = p.length, position = p.xs.position, i, j
    cdef const work* b = <const work*>p.bias
    cdef storage* y = <storage*>p.y + sample * p.ys.sample
    cdef storage* packed = NULL
    cdef bint past
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
    width = STRIP
    if p.streaming:
        # The first strip ends on a line, so that the others begin on one.
        width = to_line(y) if column == 0 else STRIP
        column = 0 if column == 0 else column - STRIP + to_line(y)
    width = min(width, p.width - column)
    if width <= 0:
        return
    past = p.streaming and column > 0 and p.ys.position * sizeof(storage) % LINE == 0
    x += sample * p.xs.sample + column
    y += column
    if p.streaming:
        packed = pack(x, position, n, width)
    if packed != NULL:
        x = packed
        position = STRIP
    memset(shift, 0, sizeof(shift))
    memset(delta, 0, sizeof(delta))
    memset(scale, 0, sizeof(scale))
    memset(s, 0, sizeof(s))
    if p.centered:
        strip_sample(x, position, n, width, s, <work>0)
        for j in range(width):
            shift[j] = <work>(s[j] / sampled(n))
    strip_sums(x, position, n, width, shift, p.centered, s, q)
    if p.centered:
        for j in range(width):
            pair[0] = s[j]
            pair[1] = q[j]
            if not trusted(pair, n, p.eps, <work>0) and s[j] - s[j] == 0:
                shift[j] = <work>(shift[j] + s[j] / n)
                again = True
        if again:
            strip_sums(x, position, n, width, shift, True, s, q)
    for j in range(width):
        pair[0] = s[j]
        pair[1] = q[j]
        settle(pair, n, p.eps, shift[j], &found)
        if not trusted(pair, n, p.eps, <work>0):
            row.channels = row.segments = 1
            row.channel = row.segment = 0
            row.length = n
            row.position = position
            wide_statistics(x + j, &row, p.centered, p.eps, &found, <work>0)
        shift[j] = <work>found.shift
        delta[j] = <work>found.delta
        scale[j] = <work>found.scale
        if p.mean != NULL:
            p.mean[sample * p.width + column + j] = found.shift + found.delta
        if p.rstd != NULL:
            p.rstd[sample * p.width + column + j] = found.rstd
    for i in range(n):
        wi = w[i] if w != NULL else 1
        bi = b[i] if b != NULL else 0
        j = 0
        while j + LANES <= width:
            if past:
                position_lanes(x + i * position + j, y + i * p.ys.position + j, LANES, shift + j, delta + j, scale + j, wi, bi, True)
            else:
                position_lanes(x + i * position + j, y + i * p.ys.position + j, LANES, shift + j, delta + j, scale + j, wi, bi, False)
            j += LANES
        if j < width:
            position_lanes(x + i * position + j, y + i * p.ys.position + j, width - j, shift + j, delta + j, scale + j, wi, bi, False)
    free(packed)
    if past:
        stream_fence()


cdef inline void gradient_rounds(const storage* x, const storage* dy, Py_ssize_t xs, Py_ssize_t ds, Py_ssize_t rounds,
                                 Py_ssize_t m, const work* w, const work* shift, const work* delta, const work* scale,
                                 work* a, work* b, bint fresh) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work u[LANES]
    cdef work v[LANES]
    cdef work wr
    cdef Py_ssize_t r, k
    for k in range(LANES):
        u[k] = 0 if fresh else a[k]
        v[k] = 0 if fresh else b[k]
    for r in range(rounds):
        load_some(x + r * xs, m, z)
        load_some(dy + r * ds, m, g)
        wr = w[r * LANES] if w != NULL else 1
        for k in range(LANES):
            g[k] *= wr
            u[k] += g[k]
            v[k] += g[k] * (((z[k] - shift[k]) - delta[k]) * scale[k])
    for k in range(LANES):
        a[k] = u[k]
        b[k] = v[k]


cdef inline void strip_gradients(const storage* x, const storage* dy, Py_ssize_t xp, Py_ssize_t dp, Py_ssize_t n,
                                 Py_ssize_t width, const work* w, const work* shift, const work* delta, const work* scale,
                                 double* s, double* q) noexcept nogil:
    """s[j] += sum g, q[j] += sum g * z over a block of n positions; w: a weight a position, or NULL"""
    cdef work a[LANES * STRIP]
    cdef work b[LANES * STRIP]
    cdef Py_ssize_t r = 0, left, lane, j, k
    cdef const work* wl
    while r == 0 or r * LANES < n:
        for lane in range(LANES):
            left = (n - lane + LANES - 1) // LANES - r
            k = r * LANES + lane
            wl = w + k if w != NULL else NULL
            j = 0
            while j + LANES <= width and left > 0:
                if left >= ROUNDS:
                    gradient_rounds(x + k * xp + j, dy + k * dp + j, LANES * xp, LANES * dp, ROUNDS, LANES, wl, shift + j, delta + j, scale + j,
                                    a + lane * STRIP + j, b + lane * STRIP + j, r == 0)
                elif left == 3:
                    gradient_rounds(x + k * xp + j, dy + k * dp + j, LANES * xp, LANES * dp, 3, LANES, wl, shift + j, delta + j, scale + j,
                                    a + lane * STRIP + j, b + lane * STRIP + j, r == 0)
                elif left == 2:
                    gradient_rounds(x + k * xp + j, dy + k * dp + j, LANES * xp, LANES * dp, 2, LANES, wl, shift + j, delta + j, scale + j,
                                    a + lane * STRIP + j, b + lane * STRIP + j, r == 0)
                else:
                    gradient_rounds(x + k * xp + j, dy + k * dp + j, LANES * xp, LANES * dp, 1, LANES, wl, shift + j, delta + j, scale + j,
                                    a + lane * STRIP + j, b + lane * STRIP + j, r == 0)
                j += LANES
            while j < width and (left > 0 or r == 0):
                gradient_rounds(x + k * xp + j, dy + k * dp + j, LANES * xp, LANES * dp, max(<Py_ssize_t>0, min(left, <Py_ssize_t>ROUNDS)),
                                width - j, wl, shift + j, delta + j, scale + j, a + lane * STRIP + j, b + lane * STRIP + j, r == 0)
                j += LANES
        r += ROUNDS
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
