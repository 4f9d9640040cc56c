# LSTM with layer norm, see normlib/_cells.py: rows r to r + m of a step.

cdef void lstm_gates(const Cell* c, Py_ssize_t r, Py_ssize_t k, const work* tables) noexcept nogil:
    """u of row r + k, and its activations."""
    cdef work zero = 0
    cdef Py_ssize_t n = c.hidden, g
    cdef const work* bias = parameter(c, BIAS, zero)
    cdef const work* weight = parameter(c, NORM_H, zero)
    cdef const work* h = row_of_step(c, FROM_H, r + k, zero)
    cdef work* u = row_of_step(c, GATES, r + k, zero)
    cdef Side of_x, of_h
    if c.per_gate:
        for g in range(4):
            of_h = side_of(h + g * n, weight + g * n, tables, 4 * k + g)
            one_norm(&of_h, bias + g * n, u + g * n, n)
    else:
        of_x = side_of(row_of_step(c, FROM_X, r + k, zero), parameter(c, NORM_X, zero), tables, k)
        of_h = side_of(h, weight, tables + ENTRIES, k)
        two_norms(&of_x, &of_h, bias, u, 4 * n)
    sigmoid(u, 2 * n)
    squash(u + 2 * n, n)
    sigmoid(u + 3 * n, n)


cdef void lstm_rows(const Cell* c, Py_ssize_t r, Py_ssize_t m, work zero) noexcept nogil:
    cdef Py_ssize_t n = c.hidden, k, j
    cdef work tables[NORMS * ENTRIES]
    cdef const work* last = tables + (c.norms - 1) * ENTRIES
    cdef Side of_cell
    cdef const work* i
    cdef const work* before
    cdef work* inner
    cdef work* v
    cdef work* h
    if c.per_gate:
        h = row_of_step(c, FROM_H, r, zero)
        add_elements(h, row_of_step(c, FROM_X, r, zero), h, m * c.width)
    take_statistics(c, FROM_X, r, m, tables)
    take_statistics(c, FROM_H, r, m, tables)
    for k in range(m):
        if not counts(c, r + k):
            stay(c, r + k, zero)
            continue
        lstm_gates(c, r, k, tables)
        i, before, inner = row_of_step(c, GATES, r + k, zero), row_of_step(c, C_BEFORE, r + k, zero), row_of_step(c, INNER, r + k, zero)
        for j in range(n):
            inner[j] = i[n + j] * before[j] + i[j] * i[2 * n + j]
    take_statistics(c, INNER, r, m, tables)
    for k in range(m):
        if not counts(c, r + k):
            continue
        v = row_of_step(c, SQUASHED, r + k, zero)
        of_cell = side_of(row_of_step(c, INNER, r + k, zero), parameter(c, NORM_INNER, zero), last, k)
        if c.cell_norm:
            one_norm(&of_cell, parameter(c, BIAS_INNER, zero), v, n)
        else:
            memcpy(v, of_cell.v, n * sizeof(work))
        if c.carried:
            memcpy(row_of_step(c, C_AFTER, r + k, zero), v, n * sizeof(work))
        squash(v, n)
        i, h = row_of_step(c, GATES, r + k, zero), row_of_step(c, H_AFTER, r + k, zero)
        for j in range(n):
            h[j] = i[3 * n + j] * v[j]
        put_out(c, r + k, h)


# ---- backward ----

cdef inline void output_lanes(work* o, work* v, work* dh, Py_ssize_t m, bint part) noexcept nogil:
    """From what reaches h = o * v, v = tanh of the cell, to what reaches the output gate, in the place of o, and the cell, in that of v."""
    cdef work opened[LANES]
    cdef work squashed[LANES]
    cdef work g[LANES]
    cdef work one = 1
    cdef Py_ssize_t l
    load_lanes(o, m, opened, part)
    load_lanes(v, m, squashed, part)
    load_lanes(dh, m, g, part)
    for l in range(LANES):
        squashed[l], opened[l] = (g[l] * opened[l] * (one - squashed[l] * squashed[l]),
                                  g[l] * squashed[l] * opened[l] * (one - opened[l]))
    store_lanes(o, m, opened, part)
    store_lanes(v, m, squashed, part)


cdef inline void gate_lanes(work* u, Py_ssize_t n, const work* dcell, const work* before, work* dc, Py_ssize_t m, bint part) noexcept nogil:
    """From what reaches the cell to what reaches i, f and g, n elements apart, in their place, and the cell before."""
    cdef work i[LANES]
    cdef work f[LANES]
    cdef work g[LANES]
    cdef work d[LANES]
    cdef work c[LANES]
    cdef work one = 1, di, df
    cdef Py_ssize_t l
    load_lanes(u, m, i, part)
    load_lanes(u + n, m, f, part)
    load_lanes(u + 2 * n, m, g, part)
    load_lanes(dcell, m, d, part)
    load_lanes(before, m, c, part)
    for l in range(LANES):
        di, df = d[l] * g[l] * i[l] * (one - i[l]), d[l] * c[l] * f[l] * (one - f[l])
        g[l] = d[l] * i[l] * (one - g[l] * g[l])
        d[l] *= f[l]
        i[l], f[l] = di, df
    store_lanes(u, m, i, part)
    store_lanes(u + n, m, f, part)
    store_lanes(u + 2 * n, m, g, part)
    store_lanes(dc, m, d, part)


cdef void lstm_row_back(const Cell* c, Py_ssize_t r, Py_ssize_t part, work zero) noexcept nogil:
    cdef Py_ssize_t n = c.hidden, whole = n - n % LANES, j
    cdef work* u = row_of_step(c, GATES, r, zero)
    cdef work* v = row_of_step(c, SQUASHED, r, zero)
    cdef work* inner = row_of_step(c, INNER, r, zero)
    cdef const work* before = row_of_step(c, C_BEFORE, r, zero)
    cdef work* dh = row_of_step(c, DH, r, zero)
    cdef work* dc = row_of_step(c, DC, r, zero)
    reach(c, r, dh)
    for j from 0 <= j < whole by LANES:
        output_lanes(u + 3 * n + j, v + j, dh + j, LANES, False)
    if whole < n:
        output_lanes(u + 3 * n + whole, v + whole, dh + whole, n - whole, True)
    memset(dh, 0, n * sizeof(work))
    if c.carried:
        add_elements(v, dc, v, n)
    if c.cell_norm:
        back_through(c, c.norms - 1, r, v, parameter(c, NORM_INNER, zero), part)
    else:
        memcpy(inner, v, n * sizeof(work))
    if not c.carried:
        add_elements(inner, dc, inner, n)
    for j from 0 <= j < whole by LANES:
        gate_lanes(u + j, n, inner + j, before + j, dc + j, LANES, False)
    if whole < n:
        gate_lanes(u + whole, n, inner + whole, before + whole, dc + whole, n - whole, True)
    if c.per_gate:
        back_through(c, 0, r, u, parameter(c, NORM_H, zero), part)
    else:
        back_through(c, 0, r, u, parameter(c, NORM_X, zero), part)
        back_through(c, 1, r, u, parameter(c, NORM_H, zero), part)
