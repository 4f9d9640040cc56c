"""The direct functions of the compiled backend: the public arguments, in their order, from Python to the kernels."""

cimport numpy as cnp
from cpython.long cimport PyLong_AsLongAndOverflow
from libc.math cimport isinf
from libc.string cimport memset
from normlib._kernels.arguments cimport (
    Call, begin, clear_of, gradient, kernels_in_use, new_statistic, output, own, parameter, perform, release, shape_of,
    statistic, strides_of,
)
from normlib._kernels.convert cimport move, repeat
from normlib._kernels.layout cimport AXES, CHANNEL, KEPT, REDUCED, SAMPLE, SPACE, lay_out
from normlib._kernels.parallel cimport parallel_for
from normlib._kernels.plan cimport COPY, F32, F64, Plan
from normlib._arguments import zero_by_zero

cnp.import_array()

# A return_stats: statistics, the variance too where there is one, and no warning, which the general way gives.
cdef object _canonical = object()
CANONICAL = _canonical


# ---- what all calls share: arrays into the plan, None where they are not ordinary ----

cdef bint laid_out(Plan* p, const char* kinds, cnp.ndarray x, cnp.ndarray y, cnp.ndarray dy) noexcept:
    return lay_out(p, kinds, cnp.PyArray_NDIM(x), shape_of(x), strides_of(x), strides_of(y), strides_of(dy))


cdef cnp.ndarray forward_arrays(Call* call, const char* kinds, cnp.ndarray x, object weight, object bias, int ndim,
                                const cnp.npy_intp* shape, object out):
    """The output; ndim and shape are those of the parameters."""
    cdef cnp.ndarray y
    if not (parameter(call, weight, ndim, shape, &call.plan.weight) and parameter(call, bias, ndim, shape, &call.plan.bias)):
        return None
    y = output(call, x, out)
    if y is None or not laid_out(&call.plan, kinds, x, y, x):
        return None
    if out is not None and not (clear_of(y, x, x) and clear_of(y, x, weight) and clear_of(y, x, bias)):
        return None
    return y


cdef cnp.ndarray backward_arrays(Call* call, const char* kinds, cnp.ndarray dy, cnp.ndarray x, object weight, object mean,
                                 object rstd, int ndim, const cnp.npy_intp* shape, int kept, const cnp.npy_intp* rest, object out):
    """The gradient of x; ndim and shape are those of the parameters, kept and rest those of the statistics."""
    cdef cnp.ndarray dx
    call.plan.dy = <const char*>cnp.PyArray_DATA(dy)
    if not (parameter(call, weight, ndim, shape, &call.plan.weight) and statistic(call, rstd, kept, rest, &call.plan.rstd)):
        return None
    if call.plan.centered and not statistic(call, mean, kept, rest, &call.plan.mean):
        return None
    dx = output(call, x, out)
    if dx is None or not laid_out(&call.plan, kinds, x, dx, dy):
        return None
    if out is not None and not (clear_of(dx, x, x) and clear_of(dx, x, dy) and clear_of(dx, x, weight)
                                and clear_of(dx, x, mean) and clear_of(dx, x, rstd)):
        return None
    return dx


cdef inline bint is_bool(object a) noexcept:
    return a is True or a is False


cdef inline bint is_choice(object return_stats) noexcept:
    return is_bool(return_stats) or return_stats is _canonical


cdef int perform_forward(Call* call, Py_ssize_t rows, object return_stats) except -1:
    """With eps=0 NumPy's error state hears of a row that was constant."""
    cdef Py_ssize_t i
    if call.plan.eps != 0 or return_stats is _canonical:
        return perform(call)
    if call.plan.rstd == NULL:
        call.plan.rstd = <double*>own(call, rows * sizeof(double))
    perform(call)
    for i in range(rows):
        if isinf(call.plan.rstd[i]):
            zero_by_zero()
            break
    return 0


# ---- feature norms: statistics over `axis` ----

cdef inline bint reduce_axis(Py_ssize_t a, int n, char* kinds) noexcept:
    """Whether `a` is an axis of n, and not yet reduced."""
    if a < 0:
        a += n
    if not 0 <= a < n or kinds[a] == REDUCED:
        return False
    kinds[a] = REDUCED
    return True


cdef bint feature_kinds(object axis, cnp.ndarray x, char* kinds, int* reduced, cnp.npy_intp* shape, int* kept,
                        cnp.npy_intp* rest) except -1:
    """The kind of each axis, the shape over the reduced axes and that over the others."""
    cdef int n = cnp.PyArray_NDIM(x), i
    cdef Py_ssize_t a
    if n > AXES:
        return False
    memset(kinds, KEPT, n)
    if type(axis) is not tuple:
        if not reduce_axis(axis, n, kinds):
            return False
    else:
        for a in axis:
            if not reduce_axis(a, n, kinds):
                return False
    reduced[0] = kept[0] = 0
    for i in range(n):
        if kinds[i] == REDUCED:
            shape[reduced[0]] = cnp.PyArray_DIM(x, i)
            reduced[0] += 1
        else:
            rest[kept[0]] = cnp.PyArray_DIM(x, i)
            kept[0] += 1
    return reduced[0] > 0


cdef inline bint is_int(object a) except -1:
    """An int of a size that an axis may have."""
    cdef int overflow = 0
    if type(a) is not int:
        return False
    PyLong_AsLongAndOverflow(a, &overflow)
    return overflow == 0


cdef bint is_axis(object axis) except -1:
    if type(axis) is not tuple:
        return is_int(axis)
    for a in axis:
        if not is_int(a):
            return False
    return True


cdef object feature_forward(bint centered, object x, object weight, object bias, object axis, object eps, object out,
                            object return_stats):
    cdef Call call
    cdef char kinds[AXES]
    cdef cnp.npy_intp shape[AXES]
    cdef cnp.npy_intp rest[AXES]
    cdef int reduced, kept
    cdef cnp.ndarray y
    cdef list made = None if return_stats is False else []
    memset(&call, 0, sizeof(call))
    if not is_axis(axis) or not is_choice(return_stats) or not begin(&call, x, eps):
        return NotImplemented
    if not feature_kinds(axis, x, kinds, &reduced, shape, &kept, rest):
        return NotImplemented
    call.plan.centered = centered
    try:
        y = forward_arrays(&call, kinds, x, weight, bias, reduced, shape, out)
        if y is None or (weight is None and bias is not None):
            return NotImplemented
        if made is not None:
            if centered:
                call.plan.mean = new_statistic(kept, rest, made)
            call.plan.rstd = new_statistic(kept, rest, made)
        perform_forward(&call, cnp.PyArray_MultiplyList(rest, kept), return_stats)
        return y if made is None else (y, *made)
    finally:
        release(&call)


cdef object feature_backward(bint centered, object dy, object x, object weight, object mean, object rstd, object axis,
                             object weight_grads, object out):
    cdef Call call
    cdef char kinds[AXES]
    cdef cnp.npy_intp shape[AXES]
    cdef cnp.npy_intp rest[AXES]
    cdef int reduced, kept
    cdef cnp.ndarray dx
    memset(&call, 0, sizeof(call))
    if not is_axis(axis) or not begin(&call, x, 0.0) or not gradient_like(dy, x):
        return NotImplemented
    if not feature_kinds(axis, x, kinds, &reduced, shape, &kept, rest) or not flag(weight_grads, weight, &call.plan):
        return NotImplemented
    call.plan.centered = centered
    try:
        dx = backward_arrays(&call, kinds, dy, x, weight, mean, rstd, reduced, shape, kept, rest, out)
        if dx is None:
            return NotImplemented
        perform(&call)
        if not centered:
            return dx, gradient(&call.plan, False, weight, x, reduced, shape)
        return (dx, gradient(&call.plan, False, weight, x, reduced, shape),
                gradient(&call.plan, True, weight, x, reduced, shape))
    finally:
        release(&call)


cdef bint gradient_like(object dy, object x) noexcept:
    cdef cnp.ndarray a
    if not cnp.PyArray_CheckExact(dy):
        return False
    a = dy
    return (cnp.PyArray_TYPE(a) == cnp.PyArray_TYPE(<cnp.ndarray>x) and cnp.PyArray_SAMESHAPE(a, <cnp.ndarray>x)
            and cnp.PyArray_ISBEHAVED_RO(a))


cdef bint flag(object weight_grads, object weight, Plan* p) noexcept:
    if weight_grads is None:
        p.weight_grads = weight is not None
    elif weight_grads is True or weight_grads is False:
        p.weight_grads = weight_grads is True
    else:
        return False
    return True


def layer_norm(x, weight, bias, axis, eps, out, return_stats):
    return feature_forward(True, x, weight, bias, axis, eps, out, return_stats)


def layer_norm_backward(dy, x, weight, mean, rstd, axis, weight_grads, out):
    return feature_backward(True, dy, x, weight, mean, rstd, axis, weight_grads, out)


def rms_norm(x, weight, axis, eps, out, return_stats):
    return feature_forward(False, x, weight, None, axis, eps, out, return_stats)


def rms_norm_backward(dy, x, weight, rstd, axis, weight_grads, out):
    return feature_backward(False, dy, x, weight, None, rstd, axis, weight_grads, out)


# ---- channel norms: statistics over samples or groups of channels ----

cdef bint channel_kinds(object channel_axis, cnp.ndarray x, bint batch, char* kinds, cnp.npy_intp* channels) except -1:
    """The kind of each axis; in batch norm the samples are reduced too."""
    cdef int n = cnp.PyArray_NDIM(x)
    cdef Py_ssize_t a
    if not is_int(channel_axis) or n < 2 or n > AXES:
        return False
    a = channel_axis
    if not -n <= a < n:
        return False
    a = a if a >= 0 else a + n
    memset(kinds, SPACE, n)
    kinds[a] = CHANNEL
    if not batch:
        kinds[0 if a else 1] = SAMPLE
    channels[0] = cnp.PyArray_DIM(x, <int>a)
    return True


cdef Py_ssize_t samples_of(cnp.ndarray x, const char* kinds) noexcept:
    return cnp.PyArray_DIM(x, 0 if kinds[0] == SAMPLE else 1)


cdef bint running_statistic(object a, Py_ssize_t channels, cnp.ndarray y) noexcept:
    cdef cnp.ndarray r
    if not cnp.PyArray_CheckExact(a):
        return False
    r = a
    return (cnp.PyArray_NDIM(r) == 1 and cnp.PyArray_DIM(r, 0) == channels and cnp.PyArray_IS_C_CONTIGUOUS(r)
            and cnp.PyArray_ISBEHAVED_RO(r) and not overlap_with(y, r)
            and (cnp.PyArray_TYPE(r) == cnp.NPY_FLOAT32 or cnp.PyArray_TYPE(r) == cnp.NPY_FLOAT64))


cdef bint overlap_with(cnp.ndarray y, cnp.ndarray r) noexcept:
    return not clear_of(y, y, r)


cdef inline int kind_of(cnp.ndarray running) noexcept:
    return F64 if cnp.PyArray_TYPE(running) == cnp.NPY_FLOAT64 else F32


cdef inline void update(cnp.ndarray running, const double* batch, Py_ssize_t samples, Py_ssize_t channels, double momentum,
                        double factor) noexcept:
    move(kernels_in_use(), kind_of(running), cnp.PyArray_DATA(running), batch, samples, channels, momentum, factor)


cdef object moving_norm(bint batch, object x, object weight, object bias, object running_mean, object running_var,
                        object own_stats, object momentum, object eps, object channel_axis, object out, object return_stats):
    """Batch norm and instance norm, with the statistics of x (updating the running ones) or with the running ones."""
    cdef Call call
    cdef char kinds[AXES]
    cdef cnp.npy_intp channels
    cdef cnp.npy_intp rest[2]
    cdef cnp.ndarray y
    cdef Py_ssize_t samples = 1, n
    cdef bint running = running_mean is not None
    cdef double weight_of_new
    cdef list made = None if return_stats is False else []
    memset(&call, 0, sizeof(call))
    if not is_bool(own_stats) or running != (running_var is not None) or not is_choice(return_stats):
        return NotImplemented
    if type(momentum) is not float or not 0 <= momentum <= 1:
        return NotImplemented
    weight_of_new = momentum
    if not begin(&call, x, eps) or not channel_kinds(channel_axis, x, batch, kinds, &channels):
        return NotImplemented
    call.plan.given = running and own_stats is False
    if not batch:
        samples = samples_of(x, kinds)
        if own_stats is False and not running:
            return NotImplemented
    n = cnp.PyArray_SIZE(x) // (samples * channels)
    if n == 1 and own_stats is True:
        return NotImplemented
    call.plan.groups = channels
    rest[0] = samples
    rest[1] = channels
    try:
        y = forward_arrays(&call, kinds, x, weight, bias, 1, &channels, out)
        if y is None:
            return NotImplemented
        if running and not (running_statistic(running_mean, channels, y) and running_statistic(running_var, channels, y)):
            return NotImplemented
        if running and not call.plan.given and not (cnp.PyArray_ISWRITEABLE(<cnp.ndarray>running_mean)
                                                    and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>running_var)):
            return NotImplemented
        if made is not None:
            call.plan.mean = new_statistic(1, &channels, made) if batch else new_statistic(2, rest, made)
            call.plan.rstd = new_statistic(1, &channels, made) if batch else new_statistic(2, rest, made)
        else:
            call.plan.mean = <double*>own(&call, samples * channels * sizeof(double))
            call.plan.rstd = <double*>own(&call, samples * channels * sizeof(double))
        if call.plan.given:
            call.plan.var = call.plan.rstd
            repeat(kind_of(running_mean), cnp.PyArray_DATA(running_mean), samples, channels, call.plan.mean)
            repeat(kind_of(running_var), cnp.PyArray_DATA(running_var), samples, channels, call.plan.var)
        elif return_stats is _canonical:
            call.plan.var = new_statistic(1, &channels, made) if batch else new_statistic(2, rest, made)
        else:
            call.plan.var = <double*>own(&call, samples * channels * sizeof(double))
        perform_forward(&call, samples * channels, return_stats)
        result = y if made is None else (y, *made)
        if running and not call.plan.given:     # last: from here on nothing fails
            update(running_mean, call.plan.mean, samples, channels, weight_of_new, 1)
            update(running_var, call.plan.var, samples, channels, weight_of_new, <double>n / (n - 1))
        return result
    finally:
        release(&call)


cdef object channel_backward(object groups, bint batch, object dy, object x, object weight, object mean, object rstd,
                             object own_stats, object channel_axis, object weight_grads, object out):
    """groups: None for a group a channel."""
    cdef Call call
    cdef char kinds[AXES]
    cdef cnp.npy_intp channels
    cdef cnp.npy_intp rest[2]
    cdef int kept = 1 if batch else 2
    cdef cnp.ndarray dx
    memset(&call, 0, sizeof(call))
    if not is_bool(own_stats):
        return NotImplemented
    if not begin(&call, x, 0.0) or not gradient_like(dy, x) or not flag(weight_grads, weight, &call.plan):
        return NotImplemented
    if not channel_kinds(channel_axis, x, batch, kinds, &channels):
        return NotImplemented
    call.plan.given = own_stats is False
    call.plan.groups = channels
    if groups is not None:
        if type(groups) is not int or not 1 <= groups <= channels or channels % <Py_ssize_t>groups:
            return NotImplemented
        call.plan.groups = groups
    rest[0] = channels if batch else samples_of(x, kinds)
    rest[1] = call.plan.groups
    try:
        dx = backward_arrays(&call, kinds, dy, x, weight, mean, rstd, 1, &channels, kept, rest, out)
        if dx is None:
            return NotImplemented
        perform(&call)
        return (dx, gradient(&call.plan, False, weight, x, 1, &channels),
                gradient(&call.plan, True, weight, x, 1, &channels))
    finally:
        release(&call)


def batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, channel_axis, out, return_stats):
    return moving_norm(True, x, weight, bias, running_mean, running_var, training, momentum, eps, channel_axis, out, return_stats)


def batch_norm_backward(dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out):
    return channel_backward(None, True, dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out)


def instance_norm(x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, channel_axis, out, return_stats):
    return moving_norm(False, x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, channel_axis, out, return_stats)


def instance_norm_backward(dy, x, weight, mean, rstd, use_input_stats, channel_axis, weight_grads, out):
    return channel_backward(None, False, dy, x, weight, mean, rstd, use_input_stats, channel_axis, weight_grads, out)


def group_norm(x, num_groups, weight, bias, eps, channel_axis, out, return_stats):
    cdef Call call
    cdef char kinds[AXES]
    cdef cnp.npy_intp channels
    cdef cnp.npy_intp rest[2]
    cdef cnp.ndarray y
    cdef list made = None if return_stats is False else []
    memset(&call, 0, sizeof(call))
    if type(num_groups) is not int or not is_choice(return_stats) or not begin(&call, x, eps) or not channel_kinds(channel_axis, x, False, kinds, &channels):
        return NotImplemented
    if not 1 <= num_groups <= channels or channels % num_groups:
        return NotImplemented
    call.plan.groups = num_groups
    rest[0] = samples_of(x, kinds)
    rest[1] = call.plan.groups
    try:
        y = forward_arrays(&call, kinds, x, weight, bias, 1, &channels, out)
        if y is None:
            return NotImplemented
        if made is not None:
            call.plan.mean = new_statistic(2, rest, made)
            call.plan.rstd = new_statistic(2, rest, made)
        perform_forward(&call, rest[0] * rest[1], return_stats)
        return y if made is None else (y, *made)
    finally:
        release(&call)


def group_norm_backward(dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out):
    return channel_backward(num_groups, False, dy, x, weight, mean, rstd, True, channel_axis, weight_grads, out)


# ---- what the canonical functions need beside these ----

def moving_statistics(batch, x, weight, bias, running_mean, running_var, channel_axis, eps, out):
    """Batch norm or instance norm that returns (y, mean, rstd) where the statistics are given, else with var appended."""
    own_stats = running_mean is None and not batch
    return moving_norm(batch, x, weight, bias, running_mean, running_var, own_stats, 0.0, eps, channel_axis, out, _canonical)


def takes(kinds, groups, cnp.ndarray x not None):
    """Whether an array of this layout is taken as it lies; kinds: a byte for each axis, see layout.pxd."""
    cdef Plan p
    memset(&p, 0, sizeof(p))
    p.groups = groups
    p.itemsize = cnp.PyArray_ITEMSIZE(x)
    return laid_out(&p, kinds, x, x, x)


def copy(cnp.ndarray dst not None, cnp.ndarray a not None, b, bint streaming, int threads):
    """dst = a, or a + b, on contiguous arrays of float32."""
    cdef Plan p
    memset(&p, 0, sizeof(p))
    if kernels_in_use() == NULL:
        raise RuntimeError("copy: no compiled kernels are in use")
    for array in (dst, a) if b is None else (dst, a, b):
        if array.dtype != "float32" or not array.flags.c_contiguous or array.size != dst.size:
            raise ValueError("copy: expected contiguous float32 arrays of one size")
    p.x = <const char*>cnp.PyArray_DATA(a)
    if b is not None:
        p.dy = <const char*>cnp.PyArray_DATA(<cnp.ndarray>b)
    p.y = <char*>cnp.PyArray_DATA(dst)
    p.length = cnp.PyArray_SIZE(dst)
    p.streaming = streaming
    p.batch = max(<Py_ssize_t>1, (p.length + threads - 1) // threads)
    with nogil:
        parallel_for(kernels_in_use(), COPY, &p, (p.length + p.batch - 1) // p.batch, threads)
