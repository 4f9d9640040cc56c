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
            h[j] = (1 - u[n + j]) * u[2 * n + j] + u[n + j] * before[j]
        put_out(c, r + k, h)


# ---- backward ----

cdef void gru_row_back(const Cell* c, Py_ssize_t r, Py_ssize_t part, work zero) noexcept nogil:
    cdef Py_ssize_t n = c.hidden, j
    cdef work* u = row_of_step(c, GATES, r, zero)
    cdef work* inner = row_of_step(c, INNER, r, zero)
    cdef work* dh = row_of_step(c, DH, r, zero)
    cdef work* x = row_of_step(c, FROM_X, r, zero)
    cdef work* h = row_of_step(c, FROM_H, r, zero)
    cdef const work* before = row_of_step(c, H_BEFORE, r, zero)
    cdef const work* of_x = parameter(c, NORM_X, zero)
    cdef const work* of_h = parameter(c, NORM_H, zero)
    cdef work opened, z, v, dn
    reach(c, r, dh)
    for j in range(n):
        opened, z, v = u[j], u[n + j], u[2 * n + j]
        dn = dh[j] * (1 - z) * (1 - v * v)
        u[n + j] = dh[j] * (before[j] - v) * z * (1 - z)
        u[2 * n + j] = dn
        dh[j] *= z
        if not c.per_gate:
            u[j] = dn * inner[j] * opened * (1 - opened)
            inner[j] = dn * opened
    if not c.per_gate:
        back_through(c, 0, r, u, of_x, part)
        back_through(c, 1, r, u + 2 * n, of_x + 2 * n, part)
        back_through(c, 2, r, u, of_h, part)
        back_through(c, 3, r, inner, of_h + 2 * n, part)
        return
    back_through(c, 1, r, u + 2 * n, parameter(c, NORM_INNER, zero), part)
    for j in range(n):
        opened, v = u[j], h[2 * n + j]
        u[j] = inner[j] * v * opened * (1 - opened)
        x[2 * n + j] = inner[j]
        h[2 * n + j] = inner[j] * opened
    back_through(c, 0, r, u, of_h, part)
    memcpy(x, h, 2 * n * sizeof(work))
