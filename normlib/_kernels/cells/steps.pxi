# A step of a recurrent layer; task: some rows, whose gradients of weights and biases are a part.

cdef void put_out(const Cell* c, Py_ssize_t r, const work* h) noexcept nogil:
    """The output, where it is not the state."""
    if c.at[OUTPUT] != NULL:
        memcpy(row_of_step(c, OUTPUT, r, h[0]), h, c.hidden * sizeof(work))


cdef void reach(const Cell* c, Py_ssize_t r, work* dh) noexcept nogil:
    """All that reaches h: past the next product, through it, and from the output."""
    add_elements(dh, row_of_step(c, PRODUCT, r, dh[0]), dh, c.hidden)
    add_elements(dh, row_of_step(c, DOUTPUT, r, dh[0]), dh, c.hidden)


cdef void stay(const Cell* c, Py_ssize_t r, work zero) noexcept nogil:
    """A row whose sequence has ended: its states stay, its output is 0."""
    cdef Py_ssize_t bytes = c.hidden * sizeof(work)
    memcpy(row_of_step(c, H_AFTER, r, zero), row_of_step(c, H_BEFORE, r, zero), bytes)
    memset(row_of_step(c, OUTPUT, r, zero), 0, bytes)
    memset(row_of_step(c, INNER, r, zero), 0, bytes)
    if c.lstm:
        memcpy(row_of_step(c, C_AFTER, r, zero), row_of_step(c, C_BEFORE, r, zero), bytes)


cdef void stay_back(const Cell* c, Py_ssize_t r, work zero) noexcept nogil:
    cdef work* dh = row_of_step(c, DH, r, zero)
    add_elements(dh, row_of_step(c, PRODUCT, r, zero), dh, c.hidden)
    memset(row_of_step(c, FROM_X, r, zero), 0, c.width * sizeof(work))
    memset(row_of_step(c, FROM_H, r, zero), 0, c.width * sizeof(work))


cdef void cell_forward(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    cdef const Cell* c = <const Cell*>p.cell
    cdef Py_ssize_t r = task * c.batch, stop = min(r + c.batch, c.rows), m
    cdef Py_ssize_t most = max(<Py_ssize_t>1, min(<Py_ssize_t>TOGETHER // 4, PANEL // c.width))
    while r < stop:
        m = min(most, stop - r)
        if c.lstm:
            lstm_rows(c, r, m, zero)
        else:
            gru_rows(c, r, m, zero)
        r += m


cdef void cell_backward(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    cdef const Cell* c = <const Cell*>p.cell
    cdef Py_ssize_t first = task * c.batch, r = first, stop = min(first + c.batch, c.rows)
    while r < stop:
        if not counts(c, r):
            stay_back(c, r, zero)
        elif c.lstm:
            lstm_row_back(c, r, task, zero)
        else:
            gru_row_back(c, r, task, zero)
        r += 1
        if (r - first) % LANES == 0:
            move_on(c, task, zero)
    if c.flush:
        move_on(c, task, zero)
