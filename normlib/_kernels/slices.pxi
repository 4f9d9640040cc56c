# Parameters that differ along kept axes of x: rows with different parameters share nothing, so there is an ordinary call for each index
# of these axes, on arrays with a stride of their own, and its bits are those of that call.
#
# Where samples share the statistics (batch norm in training), these are found first, and then each sample is normalized with them. Back
# through the statistics: each sample gives its dweight, dbias and u = rstd * w * dy; then over all samples, as ever with g = u / rstd,
#     dx = rstd * (g - mean(g) - z * mean(g * z))

cdef struct Slices:
    Call slice
    Py_ssize_t shape[AXES]      # of one
    int axes[AXES]              # the sliced ones
    Py_ssize_t at[AXES]         # which slice it is
    int count                   # of axes
    double* of[ROLES]           # gradients of parameters that slices share: all sums, and behind them those of one slice
    char* statistic[ROLES]      # of one slice


cdef int compute_slices(Call* call) noexcept nogil:
    cdef const Op* op = op_of(call)
    cdef Slices s
    cdef Watch watch
    cdef int status = 0
    cdef bint two = by_two_passes(call)
    if not op.backward and not new_statistics(call, op.moving):
        return wrong(NORMLIB_NO_MEMORY, NOTHING)
    if two and not op.backward:
        status = statistics_of_all(call)
    open_slice(call, &s.slice, s.shape)
    if status == 0:
        status = open_slices(call, &s)
    watch.due = watch.stopped = 0
    while status == 0:
        status = one_slice(call, &s)
        if call.plan.interruptible and call.plan.bytes >= WATCH_BYTES and stopped(&watch):
            status = wrong(NORMLIB_NO_MEMORY, NOTHING)
        if status or not next_slice(call, &s):
            break
    if status == 0 and two and op.backward:
        status = through_statistics(call)
    if status == 0:
        give_shared(call, &s, DWEIGHT)
        give_shared(call, &s, DBIAS)
    return status


cdef int statistics_of_all(Call* call) noexcept nogil:
    """mean, rstd and var, and x + residual."""
    cdef Call shared
    cdef int status
    open_shared(call, &shared)
    point(&shared, MEAN, <char*>call.plan.mean, F64)
    point(&shared, RSTD, <char*>call.plan.rstd, F64)
    shared.var = call.plan.var
    status = arrange(&shared) or compute(&shared)
    finish(&shared)
    return status


cdef int through_statistics(Call* call) noexcept nogil:
    """dx, where there is u."""
    cdef Call shared
    cdef Py_ssize_t i
    cdef int dtype = F64 if call.plan.dtype == F64 else F32, status
    cdef void* inverse = own(call, call.parameter.count * sizeof(double))
    if inverse == NULL or not given_statistics(call):
        return wrong(NORMLIB_NO_MEMORY, NOTHING)
    for i in range(call.parameter.count):
        if dtype == F64:
            (<double*>inverse)[i] = 1 / call.plan.rstd[i]
        else:
            (<float*>inverse)[i] = <float>(1 / call.plan.rstd[i])
    open_shared(call, &shared)
    point(&shared, WEIGHT, <char*>inverse, dtype)
    status = arrange(&shared) or compute(&shared)
    finish(&shared)
    return status


cdef void point(Call* call, int role, char* data, int dtype) noexcept nogil:
    call.view[role].data, call.view[role].dtype = data, dtype
    call.at[role] = &call.view[role]


cdef int open_slices(Call* call, Slices* s) noexcept nogil:
    """The first slice, and room for what comes from each."""
    cdef Py_ssize_t bytes = s.slice.statistic.count * sizeof(double)
    cdef char* room
    cdef int i, role
    s.count = 0
    for i in range(call.ndim):
        if call.sliced >> i & 1:
            s.axes[s.count], s.at[s.count] = i, 0
            s.count += 1
    memset(s.of, 0, sizeof(s.of))
    memset(s.statistic, 0, sizeof(s.statistic))
    room = <char*>own(call, 3 * bytes)
    if room == NULL or not (share(call, s, DWEIGHT) and share(call, s, DBIAS)):
        return wrong(NORMLIB_NO_MEMORY, NOTHING)
    if bytes == call.statistic.count * <Py_ssize_t>sizeof(double):      # shared by all slices
        if s.slice.known:
            point(&s.slice, MEAN, <char*>call.plan.mean, F64)
            point(&s.slice, RSTD, <char*>call.plan.rstd, F64)
        return 0
    for role in range(MEAN, RSTD + 1):
        if op_of(call).backward and call.at[role] != NULL:
            s.statistic[role] = room + (role - MEAN) * bytes
            point(&s.slice, role, s.statistic[role], call.at[role].dtype)
        elif not op_of(call).backward and statistic(call, role) != NULL:
            s.statistic[role] = room + (role - MEAN) * bytes
            point(&s.slice, role, s.statistic[role], F64)
    if call.plan.var != NULL and not call.plan.given:
        s.slice.var = <double*>(room + 2 * bytes)
    return 0


cdef inline double* statistic(Call* call, int role) noexcept nogil:
    return call.plan.mean if role == MEAN else call.plan.rstd


cdef bint share(Call* call, Slices* s, int role) noexcept nogil:
    """Room for the gradient of a parameter that is the same along a sliced axis; False where memory is short."""
    cdef Py_ssize_t all, one = call.parameter.count
    cdef bint shared = False
    cdef int i
    if call.at[role] == NULL:
        return True
    for i in range(s.count):
        shared |= step_along(call, role, call.at[role], s.axes[i]) == 0 and call.at[X].shape[s.axes[i]] > 1
    if not shared:
        return True
    all = size_in(call.at[role])
    s.of[role] = <double*>own(call, (all + one) * sizeof(double))
    if s.of[role] == NULL:
        return False
    memset(s.of[role], 0, all * sizeof(double))
    point(&s.slice, role, <char*>(s.of[role] + all), F64)
    return True


cdef Py_ssize_t offset(Call* call, const Slices* s, int role, const normlib_array* a) noexcept nogil:
    """Bytes from the first element of an array to that of the slice."""
    cdef Py_ssize_t bytes = 0
    cdef int i
    for i in range(s.count):
        bytes += s.at[i] * step_along(call, role, a, s.axes[i])
    return bytes


cdef int one_slice(Call* call, Slices* s) noexcept nogil:
    cdef Call now = s.slice
    cdef int role, status
    for role in range(ROLES):
        if now.at[role] == NULL:
            continue
        now.at[role] = &now.view[role]
        if s.of[role] == NULL and s.statistic[role] == NULL:
            now.view[role].data = <char*>now.view[role].data + offset(call, s, role, &s.slice.view[role])
        elif s.statistic[role] != NULL and op_of(call).backward:
            exchange(call, s, <char*>call.at[role].data, s.statistic[role], size_of(call.at[role].dtype), False)
    status = arrange(&now) or (take_part(&now, False) if now.at[WHERE] != NULL else 0) or compute(&now)
    if status == 0:
        for role in range(MEAN, RSTD + 1):
            if s.statistic[role] != NULL and not op_of(call).backward:
                exchange(call, s, <char*>statistic(call, role), s.statistic[role], sizeof(double), True)
        if now.var != NULL:
            exchange(call, s, <char*>call.plan.var, <char*>now.var, sizeof(double), True)
        add_shared(call, s, DWEIGHT)
        add_shared(call, s, DBIAS)
    finish(&now)
    return status


cdef void exchange(Call* call, const Slices* s, char* all, char* one, Py_ssize_t size, bint back) noexcept nogil:
    """one = the statistics of a slice among all; back: the other way."""
    cdef const Shape* whole = &call.statistic
    cdef const Shape* part = &s.slice.statistic
    cdef Py_ssize_t steps[AXES]
    cdef Py_ssize_t at[AXES]
    cdef Py_ssize_t step = size, r
    cdef int axes[AXES]
    cdef int i, k, kept = kept_axes(call, axes)
    for i in range(whole.ndim - 1, -1, -1):
        steps[i], at[i] = step, 0
        step *= whole.sizes[i]
        for k in range(s.count):
            if i < kept and s.axes[k] == axes[i]:
                all += s.at[k] * steps[i]
    for r in range(part.count):
        if back:
            memcpy(all, one + r * size, size)
        else:
            memcpy(one + r * size, all, size)
        for i in range(part.ndim - 1, -1, -1):
            at[i] += 1
            all += steps[i]
            if at[i] < part.sizes[i]:
                break
            all -= at[i] * steps[i]
            at[i] = 0


cdef void add_shared(Call* call, const Slices* s, int role) noexcept nogil:
    cdef Py_ssize_t n = call.parameter.count, i
    cdef double* sums = s.of[role]
    cdef const double* more
    if sums == NULL:
        return
    more = sums + size_in(call.at[role])
    sums += offset(call, s, role, call.at[role]) // size_of(call.at[role].dtype)
    for i in range(n):
        sums[i] += more[i]


cdef void give_shared(Call* call, const Slices* s, int role) noexcept nogil:
    cdef Plan p
    if s.of[role] == NULL:
        return
    p.dtype, p.y, p.length = <Dtype>call.at[role].dtype, <char*>call.at[role].data, size_in(call.at[role])
    p.dweight, p.x, p.weight = s.of[role], NULL, NULL
    _run(NARROW, &p, 0)


cdef bint next_slice(const Call* call, Slices* s) noexcept nogil:
    """Whether there is one."""
    cdef int i
    for i in range(s.count - 1, -1, -1):
        s.at[i] += 1
        if s.at[i] < call.at[X].shape[s.axes[i]]:
            return True
        s.at[i] = 0
    return False
