# The norms of a recurrent cell, on rows in L1: their statistics and gradients are those of feature rows, to the bit.
# With z = (v - mean) * rstd the cells need z * weight + bias, and z * weight + z' * weight' + bias of two arrays.

cdef enum:
    ENTRIES = TABLE * TOGETHER  # of the table of a norm


cdef inline work* row_of_step(const Cell* c, int array, Py_ssize_t r, work zero) noexcept nogil:
    cdef Py_ssize_t n = c.width if array == FROM_X or array == FROM_H or array == GATES else c.hidden
    return <work*>c.at[array] + r * n


cdef inline work* parameter(const Cell* c, int array, work zero) noexcept nogil:
    return <work*>c.at[array]


cdef inline bint counts(const Cell* c, Py_ssize_t r) noexcept nogil:
    """Whether a row's sequence has not ended before this step."""
    return c.lengths == NULL or c.t < c.lengths[r]


cdef void take_statistics(const Cell* c, int source, Py_ssize_t r, Py_ssize_t m, work* tables) noexcept nogil:
    """Statistics of all norms of an array, of m rows from r on, to the norms' tables."""
    cdef Array a
    cdef const CellNorm* norm
    cdef const Plan* p
    cdef work* table
    cdef Py_ssize_t k, i
    for k in range(c.norms):
        norm = &c.norm[k]
        p, table = &norm.plan, tables + k * ENTRIES
        if norm.source == source:
            open_array(&a, p, c.at[source] + norm.first * sizeof(work), &p.xs, p.dtype, table[0])
            for i in range(TOGETHER):
                table[FACTOR * TOGETHER + i] = 1
            rows_statistics(p, &a, r * p.groups, m * p.groups, table)


cdef struct Side:
    # What is normalized, and its coefficients: z = ((v * factor - shift) - delta) * scale.
    const void* v
    const void* weight
    double shift, delta, scale, factor


cdef inline Side side_of(const work* v, const work* weight, const work* table, Py_ssize_t k) noexcept nogil:
    """By row k of a norm's table."""
    return Side(v, weight, table[SHIFT * TOGETHER + k], table[DELTA * TOGETHER + k], table[SCALE * TOGETHER + k], table[FACTOR * TOGETHER + k])


cdef void one_norm(const Side* a, const work* bias, work* u, Py_ssize_t n) noexcept nogil:
    cdef const work* v = <const work*>a.v
    cdef const work* weight = <const work*>a.weight
    cdef work shift = <work>a.shift, delta = <work>a.delta, scale = <work>a.scale, factor = <work>a.factor
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = ((v[j] * factor - shift) - delta) * scale * weight[j] + bias[j]


cdef void two_norms(const Side* a, const Side* b, const work* bias, work* u, Py_ssize_t n) noexcept nogil:
    cdef const work* v = <const work*>a.v
    cdef const work* weight = <const work*>a.weight
    cdef work shift = <work>a.shift, delta = <work>a.delta, scale = <work>a.scale, factor = <work>a.factor
    cdef const work* w = <const work*>b.v
    cdef const work* of_w = <const work*>b.weight
    cdef work shift_w = <work>b.shift, delta_w = <work>b.delta, scale_w = <work>b.scale, factor_w = <work>b.factor
    cdef Py_ssize_t j
    for j in range(n):
        u[j] = (((v[j] * factor - shift) - delta) * scale * weight[j]
                + ((w[j] * factor_w - shift_w) - delta_w) * scale_w * of_w[j]) + bias[j]


# ---- backward ----

cdef struct Gradients:
    # Where those of a norm's weight and bias are added up.
    void* weight
    void* bias


cdef inline Gradients gradients_of(const Cell* c, Py_ssize_t part, int source, work zero) noexcept nogil:
    cdef work* room = <work*>c.room + part * part_size(c)
    if source == INNER:
        return Gradients(room + 4 * c.width, room + 4 * c.width + c.hidden)
    if source == FROM_H:
        room += 2 * c.width
    return Gradients(room, room + c.width)


cdef void back_through(const Cell* c, Py_ssize_t k, Py_ssize_t r, const work* dz, const work* weight, Py_ssize_t part) noexcept nogil:
    """Norm k in row r: of the gradient that reaches z * weight + bias that of the array, in its place. dz and weight begin with the
    columns of the norm."""
    cdef const Plan* p = &c.norm[k].plan
    cdef Py_ssize_t n = p.parameters, first = c.norm[k].first, g
    cdef int source = c.norm[k].source
    cdef work* v = row_of_step(c, source, r, dz[0]) + first
    cdef Gradients of = gradients_of(c, part, source, dz[0])
    cdef work table[TABLE * TOGETHER]
    cdef double sums[8]
    cdef double products[8]
    cdef Array a
    cdef Slopes s
    cdef Affine row, of_group
    cdef Block b
    open_array(&a, p, NULL, &p.xs, p.dtype, dz[0])
    given_statistics(p, r * p.groups, p.groups, table, False)
    s.shifted = s.weighted = s.weight_grads = True
    s.first, s.stop, s.rows = 0, n, 1
    beside(&row, table, TOGETHER)
    row.statistics = row.center = row.through = ONE
    row.weight, row.bias = MANY, ABSENT
    b.rows, b.width, b.ahead, b.dy_ahead, b.x, b.dy, b.y = 1, n, 0, 0, n, n, n
    for g in range(p.groups):
        s.shift, s.delta, s.scale = table[SHIFT * TOGETHER + g], table[DELTA * TOGETHER + g], table[SCALE * TOGETHER + g]
        s.weight, s.dweight, s.dbias = weight + g * n, <work*>of.weight + first + g * n, <work*>of.bias + first + g * n
        feature_slopes(&s, &a, &a, <char*>(v + g * n), <const char*>(dz + g * n), n, sums, products, dz[0])
        descent(sum_8(sums), sum_8(products), n, table[DELTA * TOGETHER + g], table[SCALE * TOGETHER + g],
                table + MEAN_G * TOGETHER + g, table + SLOPE * TOGETHER + g)
        row.of_weight = weight + g * n
        of_group = row_of(&row, g, dz[0])
        descend(&of_group, &b, v + g * n, dz + g * n, v + g * n)


cdef void move_on(const Cell* c, Py_ssize_t part, work zero) noexcept nogil:
    """The gradients of a part's weights and biases to float64."""
    cdef Py_ssize_t n = part_size(c)
    cdef work* room = <work*>c.room + part * n
    add_terms(c.sums + part * n, NULL, room, n, zero)
    memset(room, 0, n * sizeof(work))
