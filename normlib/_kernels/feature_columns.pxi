# LayerNorm and RMSNorm over a strided axis (channels of a channels-first image): the neighbours in memory belong to
# other statistics. A task takes a strip of columns through statistics and normalization, while it is in cache.

cdef inline void block_moments(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                               bint centered, int level, work* kept, double* s, double* q) noexcept nogil:
    """s[j] = sum (x - shift[j]), q[j] = sum (x - shift[j])^2 over a block of n positions of at most WIDE columns"""
    cdef work a[WIDE]
    cdef work b[WIDE]
    cdef double lost[2 * WHOLE]
    cdef Py_ssize_t i
    begin_sums(s, q, lost, width, shift[0])
    for i from 0 <= i < n by CHUNK:
        chunk_moments(x + i * position, position, min(<Py_ssize_t>CHUNK, n - i), width, shift, centered, level,
                      kept + i * width if kept != NULL else kept, width, a, b, True)
        add_chunk(a, b, width, s, q, lost)
    end_sums(s, q, lost, width, shift[0])


cdef inline void strip_sums(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                            bint centered, int level, work* kept, double* s, double* q) noexcept nogil:
    cdef double sb[WIDE]
    cdef double qb[WIDE]
    cdef double lost[2 * WHOLE]
    cdef Py_ssize_t p, j
    block_moments(x, position, min(<Py_ssize_t>BLOCK, n), width, shift, centered, level, kept, s, q)
    if n <= BLOCK:
        return
    memset(lost, 0, width * sizeof(double))
    memset(lost + WHOLE, 0, width * sizeof(double))
    for p from BLOCK <= p < n by BLOCK:
        block_moments(x + p * position, position, min(<Py_ssize_t>BLOCK, n - p), width, shift, centered, level,
                      kept + p * width if kept != NULL else NULL, sb, qb)
        for j in range(width):
            add_up(s + j, lost + j, sb[j], shift[0])
            add_up(q + j, lost + WHOLE + j, qb[j], shift[0])
    end_sums(s, q, lost, width, shift[0])


cdef inline void keep_shifted(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift,
                              work* kept, Py_ssize_t keep) noexcept nogil:
    cdef work t[LANES]
    cdef work v[LANES]
    cdef Py_ssize_t i, j, k
    for j from 0 <= j < width by LANES:
        load_some(shift + j, width - j, v)
        for i in range(n):
            load_some(x + i * position + j, width - j, t)
            for k in range(LANES):
                t[k] -= v[k]
            store_some(kept + i * keep + j, width - j, t)


cdef void keep_scaled(const storage* x, Py_ssize_t position, Py_ssize_t n, Py_ssize_t width, const work* shift, const work* factor,
                      work* kept, Py_ssize_t keep) noexcept nogil:
    """keep_shifted, where elements are times a factor."""
    cdef Py_ssize_t i, j
    for j in range(width):
        if factor[j] != 1:
            for i in range(n):
                kept[i * keep + j] = <work>widen(x + i * position + j) * factor[j] - shift[j]


cdef inline void normalize_window(const work* kept, Py_ssize_t keep, storage* y, Py_ssize_t position, Py_ssize_t rows,
                                  Py_ssize_t m, const work* delta, const work* scale, const work* w, const work* b,
                                  bint past) noexcept nogil:
    """y = (kept - delta) * scale * w + b for a few positions of m <= LANES columns; w, b: a value a position"""
    cdef work t[LANES]
    cdef work d[LANES]
    cdef work r[LANES]
    cdef work one = unit(delta[0])
    cdef Py_ssize_t i, k
    load_some(delta, m, d)
    load_some(scale, m, r)
    for i in range(rows):
        load_some(kept + i * keep, m, t)
        for k in range(LANES):
            t[k] = minus(t[k], d[k], one) * r[k] * w[i] + b[i]
        if past:
            stream(y + i * position, t)
        else:
            store_some(y + i * position, m, t)


cdef void feature_columns_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    cdef Py_ssize_t n = p.length, strip = p.strip, strips = (p.width - 1) // strip + 1 + p.streaming
    cdef Py_ssize_t sample = task // strips, column = task % strips * strip, width, i, j, k, m
    cdef const work* b = <const work*>p.bias
    cdef storage* y = <storage*>p.y + sample * p.ys.sample
    cdef work* kept = NULL
    cdef work* window
    cdef bint past
    cdef work shift[WIDE]
    cdef work delta[WIDE]
    cdef work scale[WIDE]
    cdef work factor[WIDE]
    cdef work few[WINDOW * WIDE]
    cdef work ws[WINDOW]
    cdef work bs[WINDOW]
    cdef double s[WIDE]
    cdef double q[WIDE]
    cdef Settled found
    cdef Statistics alone
    cdef bint again = False, scaled = False
    width = strip
    if p.streaming:
        # The first strip ends on a line, so that the others begin on one.
        width = to_line(y) if column == 0 else strip
        column = 0 if column == 0 else column - strip + to_line(y)
    width = min(width, p.width - column)
    if width <= 0:
        return
    past = p.streaming and column > 0 and p.ys.position * sizeof(storage) % LINE == 0
    x += sample * p.xs.sample + column
    y += column
    if work is float and n * width * <Py_ssize_t>sizeof(work) <= KEPT_BYTES:
        kept = <work*>malloc(n * width * sizeof(work))
    memset(shift, 0, sizeof(shift))
    if p.centered:
        memset(s, 0, sizeof(s))
        add_sample(x, p.xs.position, n, width, s, <work>0)
        for j in range(width):
            shift[j] = <work>(s[j] / sampled(n))
        strip_sums(x, p.xs.position, n, width, shift, True, p.level, kept, s, q)
        for j from 0 <= j < width by LANES:
            if not settle_columns(s + j, q + j, min(<Py_ssize_t>LANES, width - j), n, sampled(n), p.eps, &found, <work>0):
                for k in range(min(<Py_ssize_t>LANES, width - j)):
                    if not found.sound[k] and s[j + k] - s[j + k] == 0:
                        shift[j + k] = <work>(shift[j + k] + found.delta[k])
                        again = True
        if again:
            strip_sums(x, p.xs.position, n, width, shift, True, p.level, kept, s, q)
    else:
        memset(s, 0, sizeof(s))
        strip_sums(x, p.xs.position, n, width, shift, False, p.level, kept, s, q)
    for j from 0 <= j < width by LANES:
        m = min(<Py_ssize_t>LANES, width - j)
        for k in range(m):
            factor[j + k] = 1
        if not settle_columns(s + j, q + j, m, n, 0, p.eps, &found, <work>0):
            for k in range(m):
                if not found.sound[k]:
                    wide_columns(x + j + k, 1, n, p.xs.position, p.centered, p.eps, &alone, <work>0)
                    found.delta[k], found.rstd[k], found.scale[k] = alone.delta, alone.rstd, alone.scale
                    shift[j + k], factor[j + k] = <work>alone.shift, <work>alone.factor
                    scaled |= alone.factor != 1
                    if kept != NULL:
                        keep_shifted(x + j + k, p.xs.position, n, 1, shift + j + k, kept + j + k, width)
        for k in range(m):
            if work is double:
                recenter(&shift[j + k], &found.delta[k])
            delta[j + k] = <work>found.delta[k]
            scale[j + k] = <work>found.scale[k]
        if p.mean != NULL:
            for k in range(m):
                p.mean[sample * p.width + column + j + k] = (shift[j + k] + found.delta[k]) / factor[j + k]
        if p.rstd != NULL:
            for k in range(m):
                p.rstd[sample * p.width + column + j + k] = found.rstd[k]
    if scaled and kept != NULL:
        keep_scaled(x, p.xs.position, n, width, shift, factor, kept, width)
    for i from 0 <= i < n by WINDOW:
        m = min(<Py_ssize_t>WINDOW, n - i)
        for k in range(m):
            ws[k] = w[i + k] if w != NULL else 1
            bs[k] = b[i + k] if b != NULL else NOTHING
        window = kept + i * width
        if kept == NULL:
            window = few
            keep_shifted(x + i * p.xs.position, p.xs.position, m, width, shift, few, width)
            if scaled:
                keep_scaled(x + i * p.xs.position, p.xs.position, m, width, shift, factor, few, width)
        j = 0
        while j + LANES <= width:
            if past:
                normalize_window(window + j, width, y + i * p.ys.position + j, p.ys.position, m, LANES, delta + j, scale + j, ws, bs, True)
            else:
                normalize_window(window + j, width, y + i * p.ys.position + j, p.ys.position, m, LANES, delta + j, scale + j, ws, bs, False)
            j += LANES
        if j < width:
            normalize_window(window + j, width, y + i * p.ys.position + j, p.ys.position, m, width - j, delta + j, scale + j, ws, bs, False)
    free(kept)
    if past:
        stream_fence()


cdef inline void block_gradients(const storage* x, const storage* dy, Py_ssize_t xp, Py_ssize_t dp, Py_ssize_t n,
                                 Py_ssize_t width, const work* shift, const work* scale, const work* w,
                                 bint weighted, int level, double* s, double* q) noexcept nogil:
    """s[j] = sum g, q[j] = sum g * (x - shift[j]) * scale[j] over a block of n positions of at most WIDE columns"""
    cdef work a[WIDE]
    cdef work b[WIDE]
    cdef double lost[2 * WHOLE]
    cdef Py_ssize_t i
    begin_sums(s, q, lost, width, shift[0])
    for i from 0 <= i < n by CHUNK:
        chunk_gradients(x + i * xp, dy + i * dp, xp, dp, min(<Py_ssize_t>CHUNK, n - i), width, shift, scale,
                        at(w, i, weighted), weighted, level, a, b, True)
        add_chunk(a, b, width, s, q, lost)
    end_sums(s, q, lost, width, shift[0])


cdef inline void backward_columns(const storage* x, const storage* dy, storage* dx, Py_ssize_t m, const work* shift,
                                  const work* delta, const work* scale, const work* c1, const work* c2, work w,
                                  work* sw, work* sb) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work t[LANES]
    cdef work one = unit(w)
    cdef Py_ssize_t k
    load_some(x, m, z)
    load_some(dy, m, g)
    for k in range(LANES):
        z[k] = (minus(z[k], shift[k], one) - delta[k]) * scale[k]
        t[k] = scale[k] * ((g[k] * w - c1[k]) - z[k] * c2[k])
    store_some(dx, m, t)
    for k in range(LANES):
        sw[k] += g[k] * z[k]
        sb[k] += g[k]


cdef void feature_columns_backward(const Plan* p, Py_ssize_t part, const storage* x0, const work* w) noexcept nogil:
    cdef Py_ssize_t n = p.length, strip = p.strip, strips = (p.width - 1) // strip + 1
    cdef Py_ssize_t i, j, column, sample, width, task
    cdef const storage* x
    cdef const storage* dy
    cdef storage* dx
    cdef work shift[WIDE]
    cdef work delta[WIDE]
    cdef work scale[WIDE]
    cdef work c1[WIDE]
    cdef work c2[WIDE]
    cdef work sw[LANES]
    cdef work sb[LANES]
    cdef work wi
    cdef double s[WIDE]
    cdef double q[WIDE]
    cdef double st[WIDE]
    cdef double qt[WIDE]
    cdef double lost[2 * WHOLE]
    cdef double dw, db
    cdef storage* target
    cdef Writer writer
    open_writer(&writer, p.streaming)
    for task in range(part * p.batch, min((part + 1) * p.batch, p.samples * strips)):
        sample = task // strips
        column = task % strips * strip
        width = min(strip, p.width - column)
        x = x0 + sample * p.xs.sample + column
        dy = <const storage*>p.dy + sample * p.ds.sample + column
        dx = <storage*>p.y + sample * p.ys.sample + column
        memset(shift, 0, sizeof(shift))
        memset(delta, 0, sizeof(delta))
        memset(scale, 0, sizeof(scale))
        memset(c1, 0, sizeof(c1))
        memset(c2, 0, sizeof(c2))
        for j in range(width):
            split_mean(p.mean[sample * p.width + column + j] if p.centered else 0, &shift[j], &delta[j])
            scale[j] = <work>p.rstd[sample * p.width + column + j]
        begin_sums(st, qt, lost, width, <work>0)
        for i from 0 <= i < n by BLOCK:
            if w != NULL:
                block_gradients(x + i * p.xs.position, dy + i * p.ds.position, p.xs.position, p.ds.position,
                                min(<Py_ssize_t>BLOCK, n - i), width, shift, scale, w + i, True, p.level, s, q)
            else:
                block_gradients(x + i * p.xs.position, dy + i * p.ds.position, p.xs.position, p.ds.position,
                                min(<Py_ssize_t>BLOCK, n - i), width, shift, scale, w, False, p.level, s, q)
            for j in range(width):
                add_up(st + j, lost + j, s[j], <work>0)
                add_up(qt + j, lost + WHOLE + j, q[j], <work>0)
        end_sums(st, qt, lost, width, <work>0)
        for j in range(width):
            c1[j] = <work>(st[j] / n) if p.centered else 0
            c2[j] = <work>(about_mean(qt[j], st[j], delta[j], scale[j]) / n)
        for i in range(n):
            wi = w[i] if w != NULL else 1
            clear(sw)
            clear(sb)
            target = place(&writer, dx + i * p.ys.position)
            j = 0
            while j + LANES <= width:
                backward_columns(x + i * p.xs.position + j, dy + i * p.ds.position + j, target + j, LANES,
                                 shift + j, delta + j, scale + j, c1 + j, c2 + j, wi, sw, sb)
                j += LANES
            if j < width:
                backward_columns(x + i * p.xs.position + j, dy + i * p.ds.position + j, target + j, width - j,
                                 shift + j, delta + j, scale + j, c1 + j, c2 + j, wi, sw, sb)
            if p.streaming:
                fill_line(&writer, width * sizeof(storage))
            if p.weight_grads:
                dw, db = tree(sw), tree(sb) if p.centered else 0
                add_gradients(p, part * n + i, &dw, &db, 1, <work>0)
    close_writer(&writer)
