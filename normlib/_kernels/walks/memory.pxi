# Steps that compute nothing.

cdef void map_pages(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """Have the system map and clear the pages of a new result."""
    cdef Py_ssize_t i, first = task * WATCH_BYTES
    for i from first <= i < min(first + WATCH_BYTES, y_bytes(p)) by PAGE:
        p.fresh[i] = 0


cdef void copy(const Plan* p, Py_ssize_t task, work zero) noexcept nogil:
    """The least that a pass must move: y = x, or y = x + dy where two arrays are read; the limit that benchmarks use."""
    cdef Writer writer
    cdef float t[BLOCK]
    cdef Py_ssize_t i = task * p.batch, stop = min(i + p.batch, p.length), m
    cdef const float* x = <const float*>p.x
    cdef const float* dy = <const float*>p.dy
    cdef float* y = <float*>p.y
    cdef float* to
    open_writer(&writer, p.streaming and dy != NULL)
    if dy == NULL and p.streaming:
        stream_copy(y + i, x + i, (stop - i) * sizeof(float))
        stream_fence()
    elif dy == NULL:
        memcpy(y + i, x + i, (stop - i) * sizeof(float))
    else:
        while i < stop:
            m = min(<Py_ssize_t>BLOCK, stop - i)
            to = at(&t[0], 0, True) if p.streaming else y + i
            add_elements(x + i, dy + i, to, m)
            if p.streaming:
                send(&writer, <char*>(y + i), <char*>t, m * sizeof(float))
            i += m
    close_writer(&writer)
