"""The computation of a call that has been checked. Nothing here needs the GIL.

    clear(&call, op)                                    and fill in what is asked for
    shapes(&call) or check(&call) or compute(&call)     each 0, or the status that ends the call
    learn(&call)                                        if all went well
    finish(&call)                                       in any case
"""

from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetPointer
from libc.math cimport NAN
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from normlib._kernels.check cimport arrange, by_slices, by_two_passes, check, kept_axes, op_of, open_shared, open_slice, shapes, step_along, take_part, untaken
from normlib._kernels.convert cimport move, narrow, repeat, widen
from normlib._kernels.header cimport (
    NORMLIB_NO_MEMORY, BIAS, DBIAS, DWEIGHT, MEAN, NEW_SCALE, NOTHING, ROLES, RSTD, RUNNING_MEAN, RUNNING_VAR, SCALE, WEIGHT, WHERE, X,
)
from normlib._kernels.layout cimport AXES, KEPT
from normlib._kernels.parallel cimport default_threads, stopped
from normlib._kernels.plan cimport F32, F64, NARROW, ROOTS, WATCH_BYTES, Dtype, Watch, size_of, working_size
from normlib._kernels.schedule cimport execute, free_gradients

cdef Run _run = NULL


def choose(capsule):
    """Take the kernels of an ISA level, as its module's ``kernels()`` gives them."""
    global _run
    if <size_t>PyCapsule_GetContext(capsule) != sizeof(Plan):
        raise ImportError("the kernels were built from other sources than their callers; build them again")
    _run = <Run>PyCapsule_GetPointer(capsule, "normlib.kernels")


cdef Run kernels_in_use() noexcept nogil:
    return _run


cdef void* own(Call* call, Py_ssize_t bytes) noexcept nogil:
    cdef void* memory = malloc(max(<Py_ssize_t>1, bytes))
    call.memory[call.owned] = memory
    call.owned += 1
    return memory


cdef int compute(Call* call) noexcept nogil:
    """The pass: outputs, statistics and gradients."""
    cdef const Op* op = op_of(call)
    cdef Plan* p = &call.plan
    if by_slices(call):
        return compute_slices(call)
    if call.count and not (parameter(call, WEIGHT, &p.weight) and parameter(call, BIAS, &p.bias)):
        return wrong(NORMLIB_NO_MEMORY, NOTHING)
    if not (given_statistics(call) if op.backward else new_statistics(call, op.moving) and scale_of(call)):
        return wrong(NORMLIB_NO_MEMORY, NOTHING)
    if call.count:
        if execute(_run, p, call.threads if call.threads else default_threads()):
            return wrong(NORMLIB_NO_MEMORY, NOTHING)
        if call.turned and not op.backward and call.at[MEAN] != NULL:
            turn(call, <char*>p.mean, <char*>call.at[MEAN].data, sizeof(double), True)
        if call.turned and not op.backward and call.at[RSTD] != NULL:
            turn(call, <char*>p.rstd, <char*>call.at[RSTD].data, sizeof(double), True)
        if call.turned and call.at[NEW_SCALE] != NULL:
            turn(call, p.scale, <char*>call.at[NEW_SCALE].data, size_of(call.at[NEW_SCALE].dtype), True)
    elif not op.backward:
        statistics_of_nothing(call)
    if call.at[DWEIGHT] != NULL:
        give(call, False, call.at[DWEIGHT])
    if call.at[DBIAS] != NULL:
        give(call, True, call.at[DBIAS])
    return 0


cdef bint parameter(Call* call, int role, const char** to) noexcept nogil:
    """A weight or bias in the working type; NULL stays NULL. False where memory is short."""
    cdef const normlib_array* a = call.at[role]
    cdef Py_ssize_t count
    cdef float* wide
    if a == NULL:
        return True
    count = size_in(a) if call.plan.own else call.parameter.count
    to[0] = <const char*>a.data
    if size_of(a.dtype) == 2:
        wide = <float*>own(call, count * sizeof(float))
        if wide == NULL:
            return False
        widen(_run, a.dtype, a.data, count, wide)
        to[0] = <const char*>wide
    if call.plan.own and not op_of(call).feature and count == call.parameter.count:
        return for_each_sample(call, to)
    return True


cdef bint for_each_sample(Call* call, const char** to) noexcept nogil:
    """One value a channel, beside a parameter that has one a sample and channel."""
    cdef Py_ssize_t bytes = call.parameter.count * working_size(call.plan.dtype), samples = call.statistic.sizes[0], n
    cdef char* repeated = <char*>own(call, samples * bytes)
    if repeated == NULL:
        return False
    for n in range(samples):
        memcpy(repeated + n * bytes, to[0], bytes)
    to[0] = repeated
    return True


cdef bint given_statistics(Call* call) noexcept nogil:
    return given_statistic(call, MEAN, &call.plan.mean) and given_statistic(call, RSTD, &call.plan.rstd)


cdef void turn(const Call* call, const char* a, char* to, Py_ssize_t size, bint back) noexcept nogil:
    """A statistic whose values, of so many bytes, lie in the array's order, in the order of its memory; back: the other way."""
    cdef const Py_ssize_t* shape = call.at[X].shape
    cdef Py_ssize_t steps[AXES]
    cdef Py_ssize_t at[AXES]
    cdef Py_ssize_t step = 1, place = 0, r
    cdef int i, k
    memset(at, 0, sizeof(at))
    for i in range(call.ndim - 1, -1, -1):
        steps[i] = step
        if call.kinds[i] == KEPT:
            step *= shape[i]
    for r in range(call.statistic.count):
        memcpy(to + (place if back else r) * size, a + (r if back else place) * size, size)
        for k in range(call.kept - 1, -1, -1):
            i = call.order[k]
            at[i] += 1
            place += steps[i]
            if at[i] < shape[i]:
                break
            place -= at[i] * steps[i]
            at[i] = 0


cdef bint given_statistic(Call* call, int role, double** to) noexcept nogil:
    """A given mean or rstd as float64."""
    cdef const normlib_array* a = call.at[role]
    cdef double* wide
    if a == NULL:
        return True
    wide = to[0] = <double*>a.data
    if a.dtype != F64:
        wide = to[0] = <double*>own(call, call.statistic.count * sizeof(double))
        if wide == NULL:
            return False
        repeat(a.dtype, a.data, 1, call.statistic.count, wide)
    if call.turned:
        to[0] = <double*>own(call, call.statistic.count * sizeof(double))
        if to[0] == NULL:
            return False
        turn(call, <char*>wide, <char*>to[0], sizeof(double), False)
    return call.plan.inside == NULL or known_inside(call, to)


cdef bint known_inside(Call* call, double** statistic) noexcept nogil:
    """A statistic with 0 for the rows that have nothing inside, where it is NaN."""
    cdef double* known = <double*>own(call, call.statistic.count * sizeof(double))
    cdef Py_ssize_t r
    if known == NULL:
        return False
    for r in range(call.statistic.count):
        known[r] = statistic[0][r] if call.plan.inside[r] else 0
    statistic[0] = known
    return True


cdef bint scale_of(Call* call) noexcept nogil:
    """Where the scales of a quantized result are read from, or written to."""
    cdef Plan* p = &call.plan
    cdef const normlib_array* a = call.at[NEW_SCALE] if call.at[SCALE] == NULL else call.at[SCALE]
    if a == NULL:
        return True
    p.scale_given = a == call.at[SCALE]
    p.scale = <char*>a.data
    if call.turned:
        p.scale = <char*>own(call, call.statistic.count * size_of(a.dtype))
        if p.scale != NULL and p.scale_given:
            turn(call, <char*>a.data, p.scale, size_of(a.dtype), False)
    return p.scale != NULL or not call.turned


cdef bint new_statistics(Call* call, bint moving) noexcept nogil:
    """Where statistics are written to, and the values of those that are given."""
    cdef Plan* p = &call.plan
    cdef Py_ssize_t bytes = call.statistic.count * sizeof(double)
    if call.known:
        p.mean, p.rstd = <double*>call.at[MEAN].data, <double*>call.at[RSTD].data
        return True
    if call.at[MEAN] != NULL:
        p.mean = <double*>(own(call, bytes) if call.turned else call.at[MEAN].data)
        if p.mean == NULL:
            return False
    if call.at[RSTD] != NULL:
        p.rstd = <double*>(own(call, bytes) if call.turned else call.at[RSTD].data)
        if p.rstd == NULL:
            return False
    if not moving:
        return True
    if p.mean == NULL:
        p.mean = <double*>own(call, bytes)
    if p.rstd == NULL:
        p.rstd = <double*>own(call, bytes)
    p.var = p.rstd if p.given else call.var if call.var != NULL else <double*>own(call, bytes)
    if p.mean == NULL or p.rstd == NULL or p.var == NULL:
        return False
    return not p.given or (running_statistic(call, RUNNING_MEAN, p.mean) and running_statistic(call, RUNNING_VAR, p.var))


cdef bint running_statistic(Call* call, int role, double* to) noexcept nogil:
    """A running statistic in float64, once a sample; False where memory is short."""
    cdef const normlib_array* a = call.at[role]
    cdef Py_ssize_t samples = call.statistic.count // max(<Py_ssize_t>1, call.parameter.count)
    cdef float* wide
    if size_of(a.dtype) > 2:
        repeat(a.dtype, a.data, samples, call.parameter.count, to)
        return True
    wide = <float*>own(call, call.parameter.count * sizeof(float))
    if wide == NULL:
        return False
    widen(_run, a.dtype, a.data, call.parameter.count, wide)
    repeat(F32, wide, samples, call.parameter.count, to)
    return True


cdef void statistics_of_nothing(Call* call) noexcept nogil:
    cdef Plan* p = &call.plan
    cdef Py_ssize_t i
    if p.given:
        p.samples, p.groups = 1, call.statistic.count
        _run(ROOTS, p, 0)
        return
    for i in range(call.statistic.count):
        if p.mean != NULL:
            p.mean[i] = NAN
        if p.rstd != NULL:
            p.rstd[i] = NAN
    if p.scale != NULL and not p.scale_given:
        memset(p.scale, 0, call.statistic.count * size_of(call.at[NEW_SCALE].dtype))


cdef inline Py_ssize_t size_in(const normlib_array* a) noexcept nogil:
    """How many elements it has."""
    cdef Py_ssize_t count = 1
    cdef int i
    for i in range(a.ndim):
        count *= a.shape[i]
    return count


cdef void give(Call* call, bint bias, const normlib_array* a) noexcept nogil:
    """The gradient of a parameter in the dtype of its array."""
    if call.count:
        narrow(_run, &call.plan, bias, a.dtype, a.data)
    elif size_in(a):
        memset(a.data, 0, size_in(a) * size_of(a.dtype))


cdef void learn(Call* call) noexcept nogil:
    """Move the running statistics, if there are any, towards those of x."""
    cdef const normlib_array* mean = call.at[RUNNING_MEAN]
    cdef const normlib_array* var = call.at[RUNNING_VAR]
    cdef Py_ssize_t channels = call.parameter.count, samples, n
    if mean == NULL or not call.mode or call.count == 0:
        return
    samples = call.statistic.count // channels
    n = call.count // call.statistic.count
    move(_run, &call.plan, mean, call.plan.mean, samples, channels, call.momentum, 1, 1)
    move(_run, &call.plan, var, call.plan.var, samples, channels, call.momentum, <double>n / (n - 1), 2)


cdef void finish(Call* call) noexcept nogil:
    cdef int i
    for i in range(call.owned):
        free(call.memory[i])
    free_gradients(&call.plan)


include "slices.pxi"


cdef int perform(Call* call) noexcept nogil:
    """All of it."""
    cdef int status = shapes(call) or untaken(call) or check(call) or compute(call)
    if status == 0:
        learn(call)
    finish(call)
    return status
