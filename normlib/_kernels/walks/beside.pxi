# What epilogues read beside columns, and what they write there.

cdef struct Beside:
    const Plan* plan
    Array arrays[OUTPUTS]   # from BESIDE on
    char* at[OUTPUTS]       # where the strip or tile begins; NULL: there is none


cdef inline void open_beside(Beside* b, const Plan* p, work zero) noexcept nogil:
    cdef View view
    cdef int i
    b.plan = p
    for i in range(BESIDE, OUTPUTS if p.fused else 0):
        view = view_of(p, i)
        open_columns(&b.arrays[i], p, view.data, &view.span, view.dtype, zero)


cdef inline void go_beside(Beside* b, Py_ssize_t sample, Py_ssize_t position, Py_ssize_t column) noexcept nogil:
    cdef const Array* a
    cdef int i
    for i in range(BESIDE, OUTPUTS if b.plan.fused else 0):
        a = &b.arrays[i]
        b.at[i] = a.data + sample * a.sample + position * a.apart + column * a.position if a.data != NULL else NULL


cdef inline bint all_abreast(const Beside* b) noexcept nogil:
    """Whether positions lie side by side in all arrays."""
    cdef const Array* a
    cdef int i
    for i in range(BESIDE, OUTPUTS if b.plan.fused else 0):
        a = &b.arrays[i]
        if a.data != NULL and (a.position != a.itemsize or a.apart != b.plan.width * a.itemsize):
            return False
    return True


cdef void follow_positions(const Beside* b, Py_ssize_t first, Py_ssize_t column, Py_ssize_t n, Py_ssize_t width, work* v) noexcept nogil:
    """The epilogue of n positions of at most WIDE columns, which lie side by side at v."""
    cdef work rooms[OUTPUTS - BESIDE][WIDE]
    cdef const void* beside[OUTPUTS]
    cdef const Array* a
    cdef Writer writer
    cdef Py_ssize_t apart, i
    cdef int k
    writer.streaming = False
    for k in range(BESIDE, OUTPUTS):
        beside[k] = rooms[k - BESIDE] if b.at[k] != NULL else NULL
    for i in range(n):
        for k in range(BESIDE, INPUTS):
            a = &b.arrays[k]
            if b.at[k] != NULL:
                beside[k] = take_positions(a, b.at[k] + (first + i) * a.apart + column * a.position, 1, width, rooms[k - BESIDE], &apart)
        follow(b.plan, v + i * width, beside, width)
        for k in range(INPUTS, OUTPUTS):
            a = &b.arrays[k]
            if b.at[k] != NULL:
                give_positions(a, b.at[k] + (first + i) * a.apart + column * a.position, &writer, rooms[k - BESIDE], 1, width)
