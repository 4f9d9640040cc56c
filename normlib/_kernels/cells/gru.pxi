# GRU with layer norm, see normlib/_cells.py: rows r to r + m of a step.

cdef void gru_gates(const Cell* c, Py_ssize_t r, Py_ssize_t k, const work* tables) noexcept nogil:
    """r and z of row r + k, `inner`, and what n is the tanh of but for `inner`."""
    cdef work zero = 0
    cdef Py_ssize_t n = c.hidden, g, j
    cdef work* u = row_of_step(c, GATES, r + k, zero)
    cdef work* inner = row_of_step(c, INNER, r + k, zero)
    cdef const work* x = row_of_step(c, FROM_X, r + k, zero)
    cdef const work* h = row_of_step(c, FROM_H, r + k, zero)
    cdef const work* bias = parameter(c, BIAS, zero)
    cdef const work* of_h = parameter(c, NORM_H, zero)
    cdef const work* of_x = parameter(c, NORM_X, zero)
    cdef Side a, b
    if c.per_gate:
        for g in range(2):
            a = side_of(h + g * n, of_h + g * n, tables, 2 * k + g)
            one_norm(&a, bias + g * n, u + g * n, n)
        sigmoid(u, 2 * n)
        for j in range(n):
            inner[j] = x[2 * n + j] + u[j] * h[2 * n + j]
        return
    a, b = side_of(x, of_x, tables, k), side_of(h, of_h, tables + 2 * ENTRIES, k)
    two_norms(&a, &b, bias, u, 2 * n)
    a = side_of(x + 2 * n, of_x + 2 * n, tables + ENTRIES, k)
    b = side_of(h + 2 * n, of_h + 2 * n, tables + 3 * ENTRIES, k)
    one_norm(&a, bias + 2 * n, u + 2 * n, n)
    one_norm(&b, parameter(c, BIAS_H, zero), inner, n)
    sigmoid(u, 2 * n)
    for j in range(n):
        u[2 * n + j] += u[j] * inner[j]


cdef void gru_rows(const Cell* c, Py_ssize_t r, Py_ssize_t m, work zero) noexcept nogil:
    cdef Py_ssize_t n = c.hidden, k, j
    cdef work tables[NORMS * ENTRIES]
    cdef Side of_inner
    cdef work one = 1
    cdef work* u
    cdef const work* before
    cdef work* h
    if c.per_gate:
        for k in range(m):
            h = row_of_step(c, FROM_H, r + k, zero)
            add_elements(h, row_of_step(c, FROM_X, r + k, zero), h, 2 * n)
    take_statistics(c, FROM_X, r, m, tables)
    take_statistics(c, FROM_H, r, m, tables)
    for k in range(m):
        if counts(c, r + k):
            gru_gates(c, r, k, tables)
        else:
            stay(c, r + k, zero)
    take_statistics(c, INNER, r, m, tables)
    for k in range(m):
        if not counts(c, r + k):
            continue
        u, before, h = row_of_step(c, GATES, r + k, zero), row_of_step(c, H_BEFORE, r + k, zero), row_of_step(c, H_AFTER, r + k, zero)
        if c.per_gate:
            of_inner = side_of(row_of_step(c, INNER, r + k, zero), parameter(c, NORM_INNER, zero), tables + ENTRIES, k)
            one_norm(&of_inner, parameter(c, BIAS_INNER, zero), u + 2 * n, n)
        squash(u + 2 * n, n)
        for j in range(n):
            h[j] = (one - u[n + j]) * u[2 * n + j] + u[n + j] * before[j]
        put_out(c, r + k, h)


# ---- backward ----

cdef inline void update_lanes(work* u, Py_ssize_t n, work* dh, const work* before, Py_ssize_t m, bint part) noexcept nogil:
    """From what reaches h to what reaches z and n, in their place, and h before, in its own; n elements apart."""
    cdef work z[LANES]
    cdef work v[LANES]
    cdef work d[LANES]
    cdef work h[LANES]
    cdef work one = 1, dz
    cdef Py_ssize_t l
    load_lanes(u + n, m, z, part)
    load_lanes(u + 2 * n, m, v, part)
    load_lanes(dh, m, d, part)
    load_lanes(before, m, h, part)
    for l in range(LANES):
        dz = d[l] * (h[l] - v[l]) * z[l] * (one - z[l])
        v[l] = d[l] * (one - z[l]) * (one - v[l] * v[l])
        d[l] *= z[l]
        z[l] = dz
    store_lanes(u + n, m, z, part)
    store_lanes(u + 2 * n, m, v, part)
    store_lanes(dh, m, d, part)


cdef inline void reset_lanes(work* u, const work* d, work* v, Py_ssize_t m, bint part) noexcept nogil:
    """Of d, which reaches r * v, what reaches r and v, in their places."""
    cdef work r[LANES]
    cdef work g[LANES]
    cdef work w[LANES]
    cdef work one = 1, dr
    cdef Py_ssize_t l
    load_lanes(u, m, r, part)
    load_lanes(d, m, g, part)
    load_lanes(v, m, w, part)
    for l in range(LANES):
        dr = g[l] * w[l] * r[l] * (one - r[l])
        w[l] = g[l] * r[l]
        r[l] = dr
    store_lanes(u, m, r, part)
    store_lanes(v, m, w, part)


cdef void reset_back(work* u, const work* d, work* v, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t whole = n - n % LANES, j
    for j from 0 <= j < whole by LANES:
        reset_lanes(u + j, d + j, v + j, LANES, False)
    if whole < n:
        reset_lanes(u + whole, d + whole, v + whole, n - whole, True)


cdef void gru_row_back(const Cell* c, Py_ssize_t r, Py_ssize_t part, work zero) noexcept nogil:
    cdef Py_ssize_t n = c.hidden, whole = n - n % LANES, j
    cdef work* u = row_of_step(c, GATES, r, zero)
    cdef work* inner = row_of_step(c, INNER, r, zero)
    cdef work* dh = row_of_step(c, DH, r, zero)
    cdef work* x = row_of_step(c, FROM_X, r, zero)
    cdef work* h = row_of_step(c, FROM_H, r, zero)
    cdef const work* before = row_of_step(c, H_BEFORE, r, zero)
    cdef const work* of_x = parameter(c, NORM_X, zero)
    cdef const work* of_h = parameter(c, NORM_H, zero)
    reach(c, r, dh)
    for j from 0 <= j < whole by LANES:
        update_lanes(u + j, n, dh + j, before + j, LANES, False)
    if whole < n:
        update_lanes(u + whole, n, dh + whole, before + whole, n - whole, True)
    if c.per_gate:
        back_through(c, 1, r, u + 2 * n, parameter(c, NORM_INNER, zero), part)
        memcpy(x + 2 * n, inner, n * sizeof(work))
        reset_back(u, inner, h + 2 * n, n)
        back_through(c, 0, r, u, of_h, part)
        memcpy(x, h, 2 * n * sizeof(work))
    else:
        reset_back(u, u + 2 * n, inner, n)
        back_through(c, 0, r, u, of_x, part)
        back_through(c, 1, r, u + 2 * n, of_x + 2 * n, part)
        back_through(c, 2, r, u, of_h, part)
        back_through(c, 3, r, inner, of_h + 2 * n, part)
