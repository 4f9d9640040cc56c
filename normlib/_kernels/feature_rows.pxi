# LayerNorm and RMSNorm over neighbouring elements: a row is `length` elements, its parameters are vectors beside it.
#   LayerNorm (Ba, Kiros, Hinton 2016): y = (x - mean) / sqrt(var + eps) * weight + bias
#   RMSNorm (Zhang, Sennrich 2019):     y = x / sqrt(mean(x^2) + eps) * weight

cdef inline work first_mean(const storage* x, Py_ssize_t n, work zero) noexcept nogil:
    """Mean of a sample: the first lanes of at most 32 blocks spread over the row."""
    cdef work t[LANES]
    cdef Py_ssize_t step = (n - 1) // (32 * BLOCK) + 1, p = 0, m, taken = 0
    cdef double total = 0
    while p < n:
        m = min(<Py_ssize_t>LANES, n - p)
        load_some(x + p, m, t)
        total += tree(t)
        taken += m
        p += step * BLOCK
    return <work>(total / taken)


cdef inline void row_sums(const storage* x, Py_ssize_t n, bint centered, work shift, double* s) noexcept nogil:
    cdef Py_ssize_t p = 0
    s[0] = s[1] = 0
    while p < n:
        if centered:
            add_moments(x + p, min(<Py_ssize_t>BLOCK, n - p), s, shift)
        else:
            add_squares(x + p, min(<Py_ssize_t>BLOCK, n - p), s, shift)
        p += BLOCK


cdef void row_again(const storage* x, Py_ssize_t n, bint centered, double eps, double* s, work* shift,
                    double* mean, double* var, double* rstd) noexcept nogil:
    """The rare row that the first sums do not settle: once more about the mean just found, else in wide arithmetic."""
    cdef Row row
    if centered and s[0] - s[0] == 0:
        shift[0] = <work>(shift[0] + s[0] / n)
        row_sums(x, n, True, shift[0], s)
        if trusted(s, n, eps, shift[0]):
            mean[0] = shift[0] + s[0] / n
            var[0] = s[1] / n - (s[0] / n) * (s[0] / n)
            rstd[0] = 1 / sqrt(var[0] + eps)
            return
    row.channels = row.segments = row.position = 1
    row.channel = row.segment = 0
    row.length = n
    wide_statistics(x, &row, centered, eps, mean, var, rstd)
    shift[0] = <work>mean[0]


cdef inline void row_apply(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t n, Py_ssize_t ahead,
                           work shift, work delta, work scale, bint centered, bint weighted, bint biased) noexcept nogil:
    """y = ((x - shift) - delta) * scale * w + b; `ahead`: how far in front to prefetch, 0 for not at all."""
    cdef work t[LANES]
    cdef work v[LANES]
    cdef work c[LANES]
    cdef work u
    cdef Py_ssize_t i = 0, l, m
    while i < n:
        m = n - i
        load_some(x + i, m, t)
        if weighted:
            load_some(w + i, m, v)
        if biased:
            load_some(b + i, m, c)
        if ahead:
            prefetch(x + i + ahead)
            prefetch(x + i + ahead + LANES // 2)
        for l in range(LANES):
            u = t[l]
            if centered:
                u = (u - shift) - delta
            u *= scale
            if weighted:
                u *= v[l]
            if biased:
                u += c[l]
            t[l] = u
        store_some(y + i, m, t)
        i += LANES


cdef void row_normalize(const storage* x, storage* y, const work* w, const work* b, Py_ssize_t n, Py_ssize_t ahead,
                        work shift, work delta, work scale, bint centered) noexcept nogil:
    if not centered and w != NULL:
        row_apply(x, y, w, b, n, ahead, shift, delta, scale, False, True, False)
    elif not centered:
        row_apply(x, y, w, b, n, ahead, shift, delta, scale, False, False, False)
    elif b != NULL:
        row_apply(x, y, w, b, n, ahead, shift, delta, scale, True, True, True)
    elif w != NULL:
        row_apply(x, y, w, b, n, ahead, shift, delta, scale, True, True, False)
    else:
        row_apply(x, y, w, b, n, ahead, shift, delta, scale, True, False, False)


cdef inline const storage* row_of(const storage* x, const Span* span, const Plan* p, Py_ssize_t r) noexcept nogil:
    if p.groups == 1:
        return x + r * span.sample
    return x + r // p.groups * span.sample + r % p.groups * span.channel


cdef void feature_rows_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    # Several rows at a time: the statistics of one wait for a divide and a square root while the next is summed.
    cdef work shift[8]
    cdef work delta[8]
    cdef work scale[8]
    cdef double s[8][2]
    cdef double mean[8]
    cdef double var[8]
    cdef double rstd[8]
    cdef storage stage[STAGE]
    cdef const work* b = <const work*>p.bias
    cdef storage* y = <storage*>p.y
    cdef storage* target
    cdef Py_ssize_t n = p.length, rows = p.samples * p.groups, r = task * p.batch, k, m, i, staged
    cdef Py_ssize_t stop = min(r + p.batch, rows), together = max(<Py_ssize_t>1, min(<Py_ssize_t>8, STAGE // n))
    cdef bint packed = p.groups == 1 and p.ys.sample == n
    cdef double d
    while r < stop:
        m = min(together, stop - r)
        for k in range(m):
            shift[k] = 0
            if p.centered:
                shift[k] = first_mean(row_of(x, &p.xs, p, r + k), n, shift[k])
            row_sums(row_of(x, &p.xs, p, r + k), n, p.centered, shift[k], s[k])
        for k in range(m):
            d = s[k][0] / n
            mean[k] = shift[k] + d
            var[k] = s[k][1] / n - d * d
            rstd[k] = 1 / sqrt(var[k] + p.eps)
        for k in range(m):
            if not trusted(s[k], n, p.eps, shift[k]):
                row_again(row_of(x, &p.xs, p, r + k), n, p.centered, p.eps, s[k], &shift[k], &mean[k], &var[k], &rstd[k])
            delta[k] = <work>(mean[k] - shift[k])
            scale[k] = <work>rstd[k]
            if p.mean != NULL:
                p.mean[r + k] = mean[k]
            if p.rstd != NULL:
                p.rstd[r + k] = rstd[k]
        staged = 0
        for k in range(m):
            target = <storage*>row_of(y, &p.ys, p, r + k)
            if not p.streaming:
                row_normalize(row_of(x, &p.xs, p, r + k), target, w, b, n, 0, shift[k], delta[k], scale[k], p.centered)
                continue
            for i from 0 <= i < n by STAGE:
                row_normalize(row_of(x, &p.xs, p, r + k) + i, stage + staged, w + i if w != NULL else NULL,
                              b + i if b != NULL else NULL, min(<Py_ssize_t>STAGE, n - i), together * n,
                              shift[k], delta[k], scale[k], p.centered)
                staged += min(<Py_ssize_t>STAGE, n - i)
                if packed and k + 1 < m:
                    continue
                stream_copy(target + i + min(<Py_ssize_t>STAGE, n - i) - staged, stage, staged * sizeof(storage))
                staged = 0
        r += m
    if p.streaming:
        stream_fence()


# Backward (z = (x - mean) * rstd, g = dy * weight):
#   dx = rstd * (g - mean(g) - z * mean(g * z)), where RMSNorm drops mean(g); dweight = sum dy * z, dbias = sum dy

cdef inline void add_gradients(const storage* x, const storage* dy, const work* w, Py_ssize_t n, double* s,
                               work shift, work delta, work scale, bint centered, bint weighted) noexcept nogil:
    """s[0] += sum g, s[1] += sum g * z over a block"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef work u
    cdef Py_ssize_t i = 0, l, m
    clear(a)
    clear(q)
    while i < n:
        m = n - i
        load_some(x + i, m, z)
        load_some(dy + i, m, g)
        if weighted:
            load_some(w + i, m, v)
        for l in range(LANES):
            if centered:
                z[l] = ((z[l] - shift) - delta) * scale
            else:
                z[l] = z[l] * scale
            u = g[l] * v[l] if weighted else g[l]
            if l >= m:
                u = 0
            a[l] += u
            q[l] += u * z[l] if l < m else 0
        i += LANES
    s[0] += tree(a)
    s[1] += tree(q)


cdef inline void row_backward(const storage* x, const storage* dy, storage* dx, const work* w, work* dw, work* db, Py_ssize_t n,
                              work shift, work delta, work scale, work c1, work c2,
                              bint centered, bint weighted, bint gradients) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef work v[LANES]
    cdef work t[LANES]
    cdef Py_ssize_t i = 0, l, m
    while i < n:
        m = n - i
        load_some(x + i, m, z)
        load_some(dy + i, m, g)
        if weighted:
            load_some(w + i, m, v)
        for l in range(LANES):
            if centered:
                z[l] = ((z[l] - shift) - delta) * scale
            else:
                z[l] = z[l] * scale
            t[l] = g[l] * v[l] if weighted else g[l]
            if centered:
                t[l] = t[l] - c1
            t[l] = scale * (t[l] - z[l] * c2)
        store_some(dx + i, m, t)
        if gradients:
            for l in range(LANES):
                z[l] = g[l] * z[l]
            load_some(dw + i, m, t)
            for l in range(LANES):
                t[l] += z[l]
            store_some(dw + i, m, t)
            if centered:
                load_some(db + i, m, t)
                for l in range(LANES):
                    t[l] += g[l]
                store_some(db + i, m, t)
        i += LANES


cdef void add_accumulators(const Plan* p, Py_ssize_t part, work* a, Py_ssize_t n) noexcept nogil:
    """Move the sums of at most LANES rows to float64."""
    cdef Py_ssize_t i
    for i in range(n):
        p.dweight[part * n + i] += a[i]
        a[i] = 0
    if p.dbias != NULL:
        for i in range(n):
            p.dbias[part * n + i] += a[n + i]
            a[n + i] = 0


cdef void feature_rows_backward(const Plan* p, Py_ssize_t part, const storage* x, const work* w) noexcept nogil:
    cdef const storage* dy = <const storage*>p.dy
    cdef storage* dx = <storage*>p.y
    cdef const storage* xr
    cdef const storage* gr
    cdef storage* yr
    cdef Py_ssize_t n = p.length, r = part * p.batch, first = r, stop = min(r + p.batch, p.samples * p.groups), i, m
    cdef work* dw = <work*>p.scratch + 2 * n * part
    cdef work shift, delta, scale, c1, c2
    cdef double s[2]
    cdef double mean
    while r < stop:
        xr = row_of(x, &p.xs, p, r)
        gr = row_of(dy, &p.ds, p, r)
        yr = <storage*>row_of(dx, &p.ys, p, r)
        mean = p.mean[r] if p.centered else 0
        shift = <work>mean
        delta = <work>(mean - shift)
        scale = <work>p.rstd[r]
        s[0] = s[1] = 0
        for i from 0 <= i < n by BLOCK:
            m = min(<Py_ssize_t>BLOCK, n - i)
            add_gradients(xr + i, gr + i, w + i if w != NULL else NULL, m, s, shift, delta, scale, p.centered, w != NULL)
        c1 = <work>(s[0] / n)
        c2 = <work>(s[1] / n)
        row_backward(xr, gr, yr, w, dw, dw + n, n, shift, delta, scale, c1, c2, p.centered, w != NULL, p.weight_grads)
        r += 1
        if p.weight_grads and ((r - first) % LANES == 0 or r == stop):
            add_accumulators(p, part, dw, n)
