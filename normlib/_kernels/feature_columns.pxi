# LayerNorm and RMSNorm over a strided axis (channels of a channels-first image): the neighbours in memory belong to
# other statistics, so the vectors run across STRIP columns. Position i of a column goes to lane i % LANES of its own
# accumulators, so that a column gets the bits that a row of the same elements gets.

cdef inline void strip_tree(const work* a, Py_ssize_t width, double* s, Py_ssize_t stride) noexcept nogil:
    """s[j * stride] += the tree over the lanes of column j; a: LANES x STRIP"""
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
            s[(j + k) * stride] += (t[0][k] + t[2][k]) + (t[1][k] + t[3][k])


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
        strip_tree(a, width, total, 1)
        p += step * BLOCK


cdef inline Py_ssize_t sampled(Py_ssize_t n) noexcept nogil:
    """How many elements of n the sample takes."""
    cdef Py_ssize_t step = (n - 1) // (32 * BLOCK) + 1, blocks = (n - 1) // (step * BLOCK)
    return blocks * LANES + min(<Py_ssize_t>LANES, n - blocks * step * BLOCK)


cdef inline void strip_moments(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                               bint centered, double* s, double* q) noexcept nogil:
    """s[j] += sum (x - shift[j]), q[j] += sum (x - shift[j])^2 over a block of n positions"""
    cdef work a[LANES * STRIP]
    cdef work b[LANES * STRIP]
    cdef work t[LANES]
    cdef work u
    cdef work* al
    cdef work* bl
    cdef Py_ssize_t p, j, k
    for k in range(LANES * STRIP):
        a[k] = 0
        b[k] = 0
    for p in range(n):
        for j from 0 <= j < width by LANES:
            load_some(x + p * position + j, width - j, t)
            al = a + p % LANES * STRIP + j
            bl = b + p % LANES * STRIP + j
            if centered:
                for k in range(LANES):
                    u = t[k] - shift[j + k]
                    al[k] += u
                    bl[k] += u * u
            else:
                for k in range(LANES):
                    bl[k] += t[k] * t[k]
    if centered:
        strip_tree(a, width, s, 1)
    strip_tree(b, width, q, 1)


cdef inline void strip_sums(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                            bint centered, double* s, double* q) noexcept nogil:
    cdef Py_ssize_t p
    for p in range(width):
        s[p] = q[p] = 0
    for p from 0 <= p < n by BLOCK:
        strip_moments(x + p * position, position, min(<Py_ssize_t>BLOCK, n - p), width, shift, centered, s, q)


cdef void feature_columns_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    cdef Py_ssize_t strips = (p.width - 1) // STRIP + 1, sample = task // strips, column = task % strips * STRIP
    cdef Py_ssize_t width = min(<Py_ssize_t>STRIP, p.width - column), n = p.length, i, j, k
    cdef const work* b = <const work*>p.bias
    cdef storage* y = <storage*>p.y + sample * p.ys.sample + column
    cdef work shift[STRIP]
    cdef work delta[STRIP]
    cdef work scale[STRIP]
    cdef work t[LANES]
    cdef work u, wi, bi
    cdef double s[STRIP]
    cdef double q[STRIP]
    cdef double pair[2]
    cdef double mean, var, rstd
    cdef bint again = False
    cdef Row row
    x += sample * p.xs.sample + column
    for j in range(STRIP):
        s[j] = 0
        shift[j] = delta[j] = scale[j] = 0
    if p.centered:
        strip_first(x, p.xs.position, n, width, s, shift[0])
        for j in range(width):
            shift[j] = <work>(s[j] / sampled(n))
    strip_sums(x, p.xs.position, n, width, shift, p.centered, s, q)
    if p.centered:
        for j in range(width):
            pair[0] = s[j]
            pair[1] = q[j]
            if not trusted(pair, n, p.eps, shift[0]) and s[j] - s[j] == 0:
                shift[j] = <work>(shift[j] + s[j] / n)
                again = True
        if again:
            strip_sums(x, p.xs.position, n, width, shift, True, s, q)
    for j in range(width):
        pair[0] = s[j]
        pair[1] = q[j]
        mean = shift[j] + s[j] / n
        var = q[j] / n - (s[j] / n) * (s[j] / n)
        rstd = 1 / sqrt(var + p.eps)
        if not trusted(pair, n, p.eps, shift[0]):
            row.channels = row.segments = 1
            row.channel = row.segment = 0
            row.length = n
            row.position = p.xs.position
            wide_statistics(x + j, &row, p.centered, p.eps, &mean, &var, &rstd)
            shift[j] = <work>mean
        delta[j] = <work>(mean - shift[j])
        scale[j] = <work>rstd
        if p.mean != NULL:
            p.mean[sample * p.width + column + j] = mean
        if p.rstd != NULL:
            p.rstd[sample * p.width + column + j] = rstd
    for i in range(n):
        wi = w[i] if w != NULL else 1
        bi = b[i] if b != NULL else 0
        for j from 0 <= j < width by LANES:
            load_some(x + i * p.xs.position + j, width - j, t)
            for k in range(LANES):
                u = t[k]
                if p.centered:
                    u = (u - shift[j + k]) - delta[j + k]
                u *= scale[j + k]
                if w != NULL:
                    u *= wi
                if b != NULL:
                    u += bi
                t[k] = u
            store_some(y + i * p.ys.position + j, width - j, t)


cdef void feature_columns_backward(const Plan* p, Py_ssize_t part, const storage* x0, const work* w) noexcept nogil:
    cdef Py_ssize_t strips = (p.width - 1) // STRIP + 1, n = p.length, i, j, k, l, m, column, sample, width, task
    cdef const storage* x
    cdef const storage* dy
    cdef storage* dx
    cdef work a[LANES * STRIP]
    cdef work b[LANES * STRIP]
    cdef work shift[STRIP]
    cdef work delta[STRIP]
    cdef work scale[STRIP]
    cdef work c1[STRIP]
    cdef work c2[STRIP]
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work sw[LANES]
    cdef work sb[LANES]
    cdef work* al
    cdef work* bl
    cdef work u, wi
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
            for k in range(LANES * STRIP):
                a[k] = b[k] = 0
            for l in range(min(<Py_ssize_t>BLOCK, n - i)):
                wi = w[i + l] if w != NULL else 1
                for j from 0 <= j < width by LANES:
                    load_some(x + (i + l) * p.xs.position + j, width - j, z)
                    load_some(dy + (i + l) * p.ds.position + j, width - j, g)
                    al = a + l % LANES * STRIP + j
                    bl = b + l % LANES * STRIP + j
                    for k in range(LANES):
                        u = g[k] * wi
                        al[k] += u
                        bl[k] += u * (((z[k] - shift[j + k]) - delta[j + k]) * scale[j + k])
            strip_tree(a, width, s, 1)
            strip_tree(b, width, q, 1)
        for j in range(STRIP):
            c1[j] = <work>(s[j] / n) if p.centered else 0
            c2[j] = <work>(q[j] / n)
        for i in range(n):
            wi = w[i] if w != NULL else 1
            clear(sw)
            clear(sb)
            for j from 0 <= j < width by LANES:
                m = width - j
                load_some(x + i * p.xs.position + j, m, z)
                load_some(dy + i * p.ds.position + j, m, g)
                for k in range(LANES):
                    u = ((z[k] - shift[j + k]) - delta[j + k]) * scale[j + k]
                    sw[k] += g[k] * u
                    sb[k] += g[k]
                    z[k] = scale[j + k] * ((g[k] * wi - c1[j + k]) - u * c2[j + k])
                store_some(dx + i * p.ys.position + j, m, z)
            if p.weight_grads:
                p.dweight[part * n + i] += tree(sw)
                if p.dbias != NULL:
                    p.dbias[part * n + i] += tree(sb)
