# Parameters with leading axes, which broadcast against the kept axes of x: their shapes, and which calls they come to.

cdef int parameter(Call* call, const normlib_array* a, int role, bint written, int dtypes) noexcept nogil:
    """One of the usual shape, or with axes before it that broadcast against the kept axes of x."""
    cdef int axes[AXES]
    cdef int i, leading = a.ndim - call.parameter.ndim, kept
    cdef Py_ssize_t n
    cdef Shape shape
    if leading <= 0 or a.shape == NULL:
        return dense(call, a, role, written, dtypes, &call.parameter)
    kept = kept_axes(call, axes)
    if leading > kept:
        return wrong(NORMLIB_BAD_SHAPE, role)
    shape.ndim, shape.count = 0, 1
    for i in range(leading):
        n = a.shape[i]
        if n != 1:
            if n != call.at[X].shape[axes[kept - leading + i]]:
                return wrong(NORMLIB_BAD_SHAPE, role)
            call.sliced |= <uint64_t>1 << axes[kept - leading + i]
        extend(&shape, n)
    for i in range(call.parameter.ndim):
        extend(&shape, call.parameter.sizes[i])
    return dense(call, a, role, written, dtypes, &shape)


cdef bint by_slices(const Call* call) noexcept nogil:
    """Whether there are calls of their own for rows with parameters of their own."""
    return call.sliced != 0 and call.count != 0 and not call.plan.own


cdef bint by_two_passes(const Call* call) noexcept nogil:
    """Whether samples share statistics that follow from x, but not their parameters."""
    return call.sliced != 0 and not ops[call.op].feature and not ops[call.op].per_sample and not call.plan.given


cdef int kept_axes(const Call* call, int* axes) noexcept nogil:
    """The axes of x that leading axes of parameters stand for: those that are not normalized over, of channel norms that of the samples."""
    cdef int i, n = 0
    if not ops[call.op].feature:
        axes[0] = 1 if call.kinds[0] == CHANNEL else 0
        return 1
    for i in range(call.ndim):
        if call.kinds[i] == KEPT:
            axes[n] = i
            n += 1
    return n


cdef Py_ssize_t step_along(Call* call, int role, const normlib_array* a, int axis) noexcept nogil:
    """Bytes from what an array has for one index of a sliced axis to what it has for the next."""
    cdef int axes[AXES]
    cdef Py_ssize_t step
    cdef int place, i
    if DATA >> role & 1:
        return strides_of(call, a)[axis]
    if not (PARAMETERS | GRADIENTS) >> role & 1:
        return 0
    place = a.ndim - call.parameter.ndim - kept_axes(call, axes)    # in its shape, of the first kept axis of x
    i = 0
    while axes[i] != axis:
        i += 1
    place += i
    if place < 0 or a.shape[place] == 1:
        return 0
    step = size_of(a.dtype)
    for i in range(place + 1, a.ndim):
        step *= a.shape[i]
    return step


cdef const Py_ssize_t* steps_of(Call* call, int role, Py_ssize_t* steps) noexcept nogil:
    """The strides of a parameter along the axes of x, in bytes of the working type, did it lie without gaps."""
    cdef const normlib_array* a = call.at[role]
    cdef Py_ssize_t size = working_size(call.plan.dtype), step = size
    cdef int i
    if a == NULL:
        return NULL
    for i in range(call.ndim - 1, -1, -1):
        if call.kinds[i] == REDUCED:
            steps[i] = step
            step *= call.at[X].shape[i]
        else:
            steps[i] = step_along(call, role, a, i) // size_of(a.dtype) * size
    return steps


cdef inline bint side_by_side(const Plan* p, const Span* span) noexcept nogil:
    """Whether the parameters of a row are one run."""
    return (p.length == 1 or span.position == 1) and (p.segments == 1 or span.segment == p.length)


cdef bint in_one_pass(Call* call) noexcept nogil:
    """Whether there are loops over rows whose parameters differ."""
    cdef const Op* op = &ops[call.op]
    cdef Plan* p = &call.plan
    if op.backward or not (op.feature or op.per_sample) or arrange(call):
        return False
    p.own = not op.feature or (p.form == FEATURE_ROWS and (call.at[WEIGHT] == NULL or side_by_side(p, &p.ws))
                               and (call.at[BIAS] == NULL or side_by_side(p, &p.bs)))
    return p.own


cdef void open_slice(Call* call, Call* slice, Py_ssize_t* shape) noexcept nogil:
    """An ordinary call on the first index of the sliced axes, in which they have one element. Where samples share the statistics, these
    are given."""
    cdef const normlib_array* a
    cdef bint known = by_two_passes(call)
    cdef int i, role
    clear(slice, call.op)
    memcpy(slice, call, <char*>&call.at[0] - <char*>call)
    for i in range(call.ndim):
        shape[i] = 1 if call.sliced >> i & 1 else call.at[X].shape[i]
    for role in range(X, ROLES):
        a = call.at[role]
        if a == NULL or (known and 1 << role & (RUNNING | 1 << RESIDUAL | 1 << SUM | 1 << DSUM)):
            continue
        slice.view[role] = call.at[SUM][0] if known and role == X and call.at[SUM] != NULL else a[0]
        slice.at[role] = &slice.view[role]
        if DATA >> role & 1:
            slice.view[role].strides = strides_of(call, slice.at[role])
            slice.view[role].shape = shape
    slice.known, slice.mode = known and not ops[call.op].backward, call.mode and not known
    shapes(slice)
    slice.plan.given = call.plan.given or known
    slice.plan.y_dtype = call.plan.y_dtype
    slice.plan.weight_grads = call.plan.weight_grads
    slice.plan.interruptible = call.plan.interruptible


cdef void open_shared(Call* call, Call* shared) noexcept nogil:
    """What comes before the slices where samples share the statistics: these; in a backward pass what comes after them, with the weight
    still to be filled in."""
    cdef bint backward = ops[call.op].backward
    cdef int keep = 1 << X | STATISTICS | (1 << DX | 1 << DSUM if backward else 1 << RESIDUAL | 1 << SUM), role
    clear(shared, call.op)
    memcpy(shared, call, <char*>&call.at[0] - <char*>call)
    shared.activation = shared.gate_activation = 0
    for role in range(X, ROLES):
        if keep >> role & 1:
            shared.at[role] = call.at[role]
    if backward:
        shared.at[DY] = call.at[DX]
    shapes(shared)
    shared.plan.interruptible = call.plan.interruptible


cdef int arrange_slices(Call* call) noexcept nogil:
    """Find out whether all passes have loops. What no loops take has more axes than they do: one more is sliced."""
    cdef Py_ssize_t shape[AXES]
    cdef int axes[AXES]
    cdef int kept = kept_axes(call, axes), status, i
    cdef Call part
    if in_one_pass(call):
        return 0
    if call.plan.y_dtype == I8:     # scales of rows lie where no slice has them
        return wrong(NORMLIB_BAD_LAYOUT, X)
    if ops[call.op].moving and (by_two_passes(call) or not ops[call.op].backward):
        # What is inside a mask would be counted over all slices, and a product with a gate kept for them.
        if call.at[WHERE] != NULL:
            return wrong(NORMLIB_NOT_TAKEN, WHERE)
        if call.gate_first:
            return wrong(NORMLIB_NOT_TAKEN, GATE_FIRST)
    call.turned = False     # only those of a slice may be
    if by_two_passes(call):
        open_shared(call, &part)
        status = arrange(&part)
        if status:
            return status
    open_slice(call, &part, shape)
    status = arrange(&part)
    for i in range(kept):
        if status and not call.sliced >> axes[i] & 1:
            call.sliced |= <uint64_t>1 << axes[i]
            open_slice(call, &part, shape)
            status = arrange(&part)
    return status
