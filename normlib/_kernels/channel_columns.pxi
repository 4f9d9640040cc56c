# BatchNorm, GroupNorm and InstanceNorm in channels-last memory: `length` positions of `width` neighbouring channels, a
# statistic for each group of `channels` of them. The vectors run across the channels. A pass has steps, so that many
# threads can share one sample: sums of blocks of positions, then statistics, then the element-wise step.

cdef enum:
    SHIFT = 0
    DELTA = 1
    SCALE = 2
    OFFSET = 3      # bias forward, weight backward
    MEAN_G = 4
    MEAN_GZ = 5
    TABLE = 6
    SPREAD = PIECE  # columns whose tables stay in the first cache


cdef inline work* table_of(const Plan* p, Py_ssize_t sample, int entry, work zero) noexcept nogil:
    return <work*>p.table + (sample * TABLE + entry) * p.width


cdef inline double* sums_of(const Plan* p, Py_ssize_t sample, Py_ssize_t block) noexcept nogil:
    return p.sums + (sample * p.blocks + block) * 2 * p.width


cdef inline void channel_sum(const Plan* p, Py_ssize_t sample, Py_ssize_t c, double* s) noexcept nogil:
    cdef Py_ssize_t block
    s[0] = s[1] = 0
    for block in range(p.blocks):
        s[0] += sums_of(p, sample, block)[c]
        s[1] += sums_of(p, sample, block)[p.width + c]


cdef void channel_columns_first(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """Sums of the sample for the first mean; task: a sample and a strip of columns."""
    cdef Py_ssize_t strips = (p.width - 1) // STRIP + 1, sample = task // strips, column = task % strips * STRIP
    cdef Py_ssize_t width = min(<Py_ssize_t>STRIP, p.width - column), j
    cdef double total[STRIP]
    for j in range(STRIP):
        total[j] = 0
    strip_sample(x + sample * p.xs.sample + column, p.xs.position, p.length, width, total, <work>0)
    memcpy(sums_of(p, sample, 0) + column, total, width * sizeof(double))


cdef void channel_columns_shift(const Plan* p, Py_ssize_t sample, const storage* x, const work* w) noexcept nogil:
    cdef work* shift = table_of(p, sample, SHIFT, <work>0)
    cdef double* sums = sums_of(p, sample, 0)
    cdef double total
    cdef Py_ssize_t g, c
    for g in range(p.groups):
        total = 0
        for c in range(g * p.channels, (g + 1) * p.channels):
            total += sums[c]
        for c in range(g * p.channels, (g + 1) * p.channels):
            shift[c] = <work>(total / (p.channels * sampled(p.length)))
    p.state[sample] = AGAIN


cdef void channel_columns_moments(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """Sums about the first mean; task: a sample, a block of positions and a strip of columns."""
    cdef Py_ssize_t strips = (p.width - 1) // STRIP + 1, column = task % strips * STRIP
    cdef Py_ssize_t block = task // strips % p.blocks, sample = task // strips // p.blocks
    cdef Py_ssize_t width = min(<Py_ssize_t>STRIP, p.width - column)
    cdef work shift[STRIP]
    cdef double s[STRIP]
    cdef double q[STRIP]
    if p.state[sample] == SETTLED:
        return
    memset(shift, 0, sizeof(shift))
    memset(s, 0, sizeof(s))
    memset(q, 0, sizeof(q))
    memcpy(shift, table_of(p, sample, SHIFT, <work>0) + column, width * sizeof(work))
    strip_moments(x + sample * p.xs.sample + block * BLOCK * p.xs.position + column, p.xs.position,
                  min(<Py_ssize_t>BLOCK, p.length - block * BLOCK), width, shift, True, s, q)
    memcpy(sums_of(p, sample, block) + column, s, width * sizeof(double))
    memcpy(sums_of(p, sample, block) + p.width + column, q, width * sizeof(double))


cdef inline void fill_table(const Plan* p, Py_ssize_t sample, Py_ssize_t g, const Statistics* found, const work* w) noexcept nogil:
    cdef const work* b = <const work*>p.bias
    cdef Py_ssize_t c
    for c in range(g * p.channels, (g + 1) * p.channels):
        table_of(p, sample, SHIFT, <work>0)[c] = <work>found.shift
        table_of(p, sample, DELTA, <work>0)[c] = <work>found.delta
        table_of(p, sample, SCALE, <work>0)[c] = <work>found.scale * w[c] if w != NULL else <work>found.scale
        table_of(p, sample, OFFSET, <work>0)[c] = b[c] if b != NULL else 0


cdef void channel_columns_statistics(const Plan* p, Py_ssize_t sample, const storage* x, const work* w) noexcept nogil:
    cdef work* shift = table_of(p, sample, SHIFT, <work>0)
    cdef Py_ssize_t n = p.channels * p.length, g, c
    cdef int state = p.state[sample]
    cdef double channel[2]
    cdef double s[2]
    cdef Statistics found
    cdef Row row
    if state == SETTLED:
        return
    p.state[sample] = SETTLED
    for g in range(p.groups):
        s[0] = s[1] = 0
        for c in range(g * p.channels, (g + 1) * p.channels):
            channel_sum(p, sample, c, channel)
            s[0] += channel[0]
            s[1] += channel[1]
        c = g * p.channels
        settle(s, n, p.eps, shift[c], &found)
        if not trusted(s, n, p.eps, <work>0):
            if state == AGAIN and s[0] - s[0] == 0:
                for c in range(g * p.channels, (g + 1) * p.channels):
                    shift[c] = <work>(found.shift + found.delta)
                p.state[sample] = LAST
                continue
            row.channels = p.channels
            row.channel = row.segments = 1
            row.segment = 0
            row.length = p.length
            row.position = p.xs.position
            wide_statistics(x + sample * p.xs.sample + c, &row, True, p.eps, &found, <work>0)
        if p.mean != NULL:
            p.mean[sample * p.groups + g] = found.shift + found.delta
        if p.var != NULL:
            p.var[sample * p.groups + g] = found.var
        if p.rstd != NULL:
            p.rstd[sample * p.groups + g] = found.rstd
        fill_table(p, sample, g, &found, w)


cdef void channel_columns_given(const Plan* p, Py_ssize_t sample, const storage* x, const work* w) noexcept nogil:
    """The table from statistics that are known: forward in evaluation, and backward."""
    cdef Py_ssize_t g, c
    cdef Statistics found
    for g in range(p.groups):
        found.shift = <work>p.mean[sample * p.groups + g]
        found.delta = p.mean[sample * p.groups + g] - found.shift
        found.scale = p.rstd[sample * p.groups + g]
        if p.dy == NULL:
            fill_table(p, sample, g, &found, w)
            continue
        fill_table(p, sample, g, &found, <const work*>NULL)
        for c in range(g * p.channels, (g + 1) * p.channels):
            table_of(p, sample, OFFSET, <work>0)[c] = w[c] if w != NULL else 1


cdef inline void copy_tables(const Plan* p, Py_ssize_t sample, Py_ssize_t j0, Py_ssize_t n, work* tables) noexcept nogil:
    cdef int entry
    cdef Py_ssize_t end = (n + LANES - 1) // LANES * LANES
    for entry in range(TABLE if p.dy != NULL else MEAN_G):
        memcpy(tables + entry * SPREAD, table_of(p, sample, entry, tables[0]) + j0, n * sizeof(work))
        memset(tables + entry * SPREAD + n, 0, (end - n) * sizeof(work))


cdef inline void column_lanes(const storage* x, storage* y, Py_ssize_t m, const work* v) noexcept nogil:
    cdef work t[LANES]
    cdef Py_ssize_t k
    load_some(x, m, t)
    for k in range(LANES):
        t[k] = ((t[k] - v[k]) - v[DELTA * SPREAD + k]) * v[SCALE * SPREAD + k] + v[OFFSET * SPREAD + k]
    store_some(y, m, t)


cdef void channel_columns_forward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """y = ((x - shift) - delta) * scale + bias; task: a sample and a block of positions."""
    cdef Py_ssize_t sample = task // p.blocks, i0 = task % p.blocks * BLOCK, j0, n, i, j
    cdef Py_ssize_t stop = min(i0 + BLOCK, p.length)
    cdef storage* y = <storage*>p.y + sample * p.ys.sample
    cdef work tables[TABLE * SPREAD]
    cdef Writer writer
    cdef storage* to
    x += sample * p.xs.sample
    open_writer(&writer, p.streaming)
    for j0 from 0 <= j0 < p.width by SPREAD:
        n = min(<Py_ssize_t>SPREAD, p.width - j0)
        copy_tables(p, sample, j0, n, tables)
        for i in range(i0, stop):
            to = place(&writer, y + i * p.ys.position + j0)
            j = 0
            while j + LANES <= n:
                column_lanes(x + i * p.xs.position + j0 + j, to + j, LANES, tables + j)
                j += LANES
            if j < n:
                column_lanes(x + i * p.xs.position + j0 + j, to + j, n - j, tables + j)
            wrote(&writer, n * sizeof(storage))
    close_writer(&writer)


cdef void channel_columns_gradients(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """Sums of dy and dy * z; task: a sample, a block of positions and a strip of columns."""
    cdef Py_ssize_t strips = (p.width - 1) // STRIP + 1, column = task % strips * STRIP
    cdef Py_ssize_t block = task // strips % p.blocks, sample = task // strips // p.blocks
    cdef Py_ssize_t width = min(<Py_ssize_t>STRIP, p.width - column)
    cdef const storage* dy = <const storage*>p.dy + sample * p.ds.sample + block * BLOCK * p.ds.position + column
    cdef work shift[STRIP]
    cdef work delta[STRIP]
    cdef work scale[STRIP]
    cdef double s[STRIP]
    cdef double q[STRIP]
    x += sample * p.xs.sample + block * BLOCK * p.xs.position + column
    memset(s, 0, sizeof(s))
    memset(q, 0, sizeof(q))
    memset(shift, 0, sizeof(shift))
    memset(delta, 0, sizeof(delta))
    memset(scale, 0, sizeof(scale))
    memcpy(shift, table_of(p, sample, SHIFT, <work>0) + column, width * sizeof(work))
    memcpy(delta, table_of(p, sample, DELTA, <work>0) + column, width * sizeof(work))
    memcpy(scale, table_of(p, sample, SCALE, <work>0) + column, width * sizeof(work))
    strip_gradients(x, dy, p.xs.position, p.ds.position, min(<Py_ssize_t>BLOCK, p.length - block * BLOCK), width,
                    <const work*>NULL, shift, delta, scale, s, q)
    memcpy(sums_of(p, sample, block) + column, s, width * sizeof(double))
    memcpy(sums_of(p, sample, block) + p.width + column, q, width * sizeof(double))


cdef void channel_columns_means(const Plan* p, Py_ssize_t sample, const storage* x, const work* w) noexcept nogil:
    """mean(g) and mean(g * z) of each group; the sums of a channel end up in the first block."""
    cdef Py_ssize_t g, c
    cdef double s[2]
    cdef double total[2]
    for g in range(p.groups):
        total[0] = total[1] = 0
        for c in range(g * p.channels, (g + 1) * p.channels):
            channel_sum(p, sample, c, s)
            sums_of(p, sample, 0)[c] = s[0]
            sums_of(p, sample, 0)[p.width + c] = s[1]
            total[0] += (w[c] if w != NULL else 1) * s[0]
            total[1] += (w[c] if w != NULL else 1) * s[1]
        for c in range(g * p.channels, (g + 1) * p.channels):
            table_of(p, sample, MEAN_G, <work>0)[c] = <work>(total[0] / (p.channels * p.length))
            table_of(p, sample, MEAN_GZ, <work>0)[c] = <work>(total[1] / (p.channels * p.length))


cdef void channel_columns_parts(const Plan* p, Py_ssize_t strip, const storage* x, const work* w) noexcept nogil:
    """Add the samples' sums to the weight gradients; task: a strip of columns."""
    cdef Py_ssize_t sample, c, part
    for sample in range(p.samples):
        part = (p.first + sample) // p.batch * p.width
        for c in range(strip * STRIP, min((strip + 1) * STRIP, p.width)):
            p.dbias[part + c] += sums_of(p, sample, 0)[c]
            p.dweight[part + c] += sums_of(p, sample, 0)[p.width + c]


cdef inline void column_backward_lanes(const storage* x, const storage* dy, storage* dx, Py_ssize_t m, const work* v, bint given) noexcept nogil:
    cdef work z[LANES]
    cdef work g[LANES]
    cdef Py_ssize_t k
    load_some(dy, m, g)
    if given:
        for k in range(LANES):
            g[k] = v[SCALE * SPREAD + k] * (g[k] * v[OFFSET * SPREAD + k])
    else:
        load_some(x, m, z)
        for k in range(LANES):
            z[k] = ((z[k] - v[k]) - v[DELTA * SPREAD + k]) * v[SCALE * SPREAD + k]
            g[k] = v[SCALE * SPREAD + k] * ((g[k] * v[OFFSET * SPREAD + k] - v[MEAN_G * SPREAD + k]) - z[k] * v[MEAN_GZ * SPREAD + k])
    store_some(dx, m, g)


cdef void channel_columns_backward(const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    """dx = rstd * (g - mean(g) - z * mean(g * z)); task: a sample and a block of positions."""
    cdef Py_ssize_t sample = task // p.blocks, i0 = task % p.blocks * BLOCK, j0, n, i, j
    cdef Py_ssize_t stop = min(i0 + BLOCK, p.length)
    cdef storage* dx = <storage*>p.y + sample * p.ys.sample
    cdef const storage* dy = <const storage*>p.dy + sample * p.ds.sample
    cdef work tables[TABLE * SPREAD]
    cdef Writer writer
    cdef storage* to
    x += sample * p.xs.sample
    open_writer(&writer, p.streaming)
    for j0 from 0 <= j0 < p.width by SPREAD:
        n = min(<Py_ssize_t>SPREAD, p.width - j0)
        copy_tables(p, sample, j0, n, tables)
        for i in range(i0, stop):
            to = place(&writer, dx + i * p.ys.position + j0)
            j = 0
            while j + LANES <= n:
                column_backward_lanes(x + i * p.xs.position + j0 + j, dy + i * p.ds.position + j0 + j, to + j, LANES, tables + j, p.given)
                j += LANES
            if j < n:
                column_backward_lanes(x + i * p.xs.position + j0 + j, dy + i * p.ds.position + j0 + j, to + j, n - j, tables + j, p.given)
            wrote(&writer, n * sizeof(storage))
    close_writer(&writer)
