# Which arrays share memory, and which of them may.

cdef bint apart_from_itself(const Call* call, Py_ssize_t span, const Py_ssize_t* shape, const Py_ssize_t* strides) noexcept nogil:
    """Whether no two elements, each of `span` bytes, share memory: each axis, by the size of its stride, steps over all that the smaller ones span."""
    cdef Py_ssize_t size
    cdef int order[AXES]
    cdef int i, j, n = 0
    for i in range(call.ndim):
        if shape[i] > 1:
            j = n
            while j > 0 and magnitude(strides[order[j - 1]]) > magnitude(strides[i]):
                order[j] = order[j - 1]
                j -= 1
            order[j] = i
            n += 1
    for i in range(n):
        size = magnitude(strides[order[i]])
        if size < span:
            return False
        span += size * (shape[order[i]] - 1)
    return True


cdef int apart(Call* call) noexcept nogil:
    """Whether no output shares memory with another array, aside from an input of the shape of x if they are the same elements."""
    cdef int i, j
    cdef Region* a
    cdef Region* b
    for i in range(call.regions):
        a = &call.region[i]
        if not a.written:
            continue
        for j in range(call.regions):
            b = &call.region[j]
            if a.extent.low >= b.extent.high or b.extent.low >= a.extent.high or i == j:
                continue
            if (b.written or b.role == WHERE or not DATA >> a.role & DATA >> b.role & 1 or not same_elements(call, call.at[a.role], call.at[b.role])
                    or read_later(call, a.role, b.role)):
                return wrong(NORMLIB_OVERLAP, a.role)
    return 0


cdef bint read_later(const Call* call, int output, int role) noexcept nogil:
    """Whether elements of an array are still read after the same ones of an output are written: of x + residual, which is the x of
    what follows, or of the gradient that reaches the norm, which is in dadd or else in dx until x has been read. A product with the
    gate that comes first is in y, or in dgate, until it has been normalized."""
    cdef bint gate_last = call.at[GATE] != NULL and not call.gate_first
    if output == SUM:
        return role != X and role != RESIDUAL
    if output == Y:
        return call.gate_first and role == ADD
    if output == DGATE and call.gate_first:
        return True
    if role == X or role == DSUM or (role == GATE and call.gate_first):
        return output == DADD or output == DGATE or (output == DX and (
            by_two_passes(call) or ((call.activation or gate_last or call.at[WHERE] != NULL) and call.at[DADD] == NULL)))
    return False


cdef bint same_elements(Call* call, const normlib_array* a, const normlib_array* b) noexcept nogil:
    return a.data == b.data and a.dtype == b.dtype and same_strides(call.ndim, call.at[X].shape, strides_of(call, a), strides_of(call, b))
