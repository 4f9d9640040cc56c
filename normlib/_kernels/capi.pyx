"""The C interface, as include/normlib.h documents it: checks of the arguments, then the same layouts, schedule and kernels as calls
from Python. Nothing here touches a Python object once the module is imported.

A call runs through a chain `check(...) or check(...) or compute(...)`, in which each part returns 0 or the status that ends it."""

from cpython.bytes cimport PyBytes_AsString
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport INFINITY, NAN
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from normlib._kernels.arguments cimport kernels_in_use
from normlib._kernels.convert cimport move, narrow, repeat, widen
from normlib._kernels.layout cimport CHANNEL, KEPT, REDUCED, SAMPLE, SPACE, Extent, extent_of, lay_out, magnitude, same_strides
from normlib._kernels.parallel cimport default_threads
from normlib._kernels.plan cimport BF16, F16, F32, F64, FEATURE_ROWS, ROOTS, Dtype, Plan, Run
from normlib._kernels.schedule cimport execute, free_gradients

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "normlib.h":
    ctypedef struct normlib_api:
        int abi_version
        int size
        void* error_text
        void* layer_norm_rows
        void* rms_norm_rows
        void* layer_norm
        void* layer_norm_backward
        void* rms_norm
        void* rms_norm_backward
        void* batch_norm
        void* batch_norm_backward
        void* group_norm
        void* group_norm_backward
        void* instance_norm
        void* instance_norm_backward

cdef enum Argument:
    NOTHING, X, Y, DY, DX, WEIGHT, BIAS, MEAN, RSTD, RUNNING_MEAN, RUNNING_VAR, DWEIGHT, DBIAS
    AXIS, CHANNEL_AXIS, NUM_GROUPS, EPS, MOMENTUM, THREADS, ROWS, COLS, ARGUMENTS

cdef enum:
    KINDS = NORMLIB_NOT_IMPORTED + 1
    MOST_AXES = 32
    WIDE = 1 << F64 | 1 << F32          # sets of dtypes: one bit each
    ANY = WIDE | 1 << F16 | 1 << BF16

# An array of the call, and whether it is written to.
cdef struct Region:
    Extent extent
    const normlib_array* array
    Argument argument
    bint written

# One call: its plan, what the checks know of it, and the memory that it owns.
cdef struct Call:
    Plan plan
    int threads
    bint backward
    int ndim
    Py_ssize_t count                # elements of x
    const Py_ssize_t* shape         # of x
    bint has_dense
    Py_ssize_t dense[MOST_AXES]     # strides of x, did it lie in C order
    char kinds[MOST_AXES]
    int parameter_ndim
    const Py_ssize_t* parameter_shape
    Py_ssize_t parameters
    int statistic_ndim
    const Py_ssize_t* statistic_shape
    Py_ssize_t statistics
    Py_ssize_t samples_groups[2]
    int regions
    Region region[16]
    int owned
    void* memory[8]

cdef Run _run = kernels_in_use()
if _run == NULL:
    raise ImportError("normlib.capi: no compiled kernels are in use")


cdef inline int wrong(int kind, int argument) noexcept nogil:
    return kind + 256 * argument


cdef inline bint too_many(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """Whether a x b elements of float64 are more bytes than can be counted."""
    return (a | b) >> 30 != 0 and b > 0 and a > PY_SSIZE_T_MAX // 8 // b


# ---- arrays ----

cdef int register(Call* call, const normlib_array* a, Argument argument, bint written, Extent extent) noexcept nogil:
    cdef Region* region = &call.region[call.regions]
    region.extent, region.array, region.argument, region.written = extent, a, argument, written
    call.regions += 1
    return 0


cdef inline bint is_dtype(int dtype) noexcept nogil:
    return 0 <= dtype and dtype <= <int>BF16


cdef Py_ssize_t size_of(int dtype) noexcept nogil:
    return 8 if dtype == F64 else 4 if dtype == F32 else 2


cdef int begin(Call* call, const normlib_array* x, double eps, int threads) noexcept nogil:
    """x and the numbers that all functions take."""
    cdef Py_ssize_t sizes = 1       # of the axes that have elements
    cdef int i
    memset(&call.plan, 0, sizeof(Plan))
    call.owned = call.regions = 0
    call.has_dense = call.backward = False
    if x == NULL:
        return wrong(NORMLIB_NULL, X)
    if not is_dtype(x.dtype):
        return wrong(NORMLIB_BAD_DTYPE, X)
    if not 1 <= x.ndim <= MOST_AXES:
        return wrong(NORMLIB_BAD_SHAPE, X)
    if x.shape == NULL:
        return wrong(NORMLIB_NULL, X)
    if not 0 <= eps < INFINITY:
        return wrong(NORMLIB_BAD_VALUE, EPS)
    if threads < 0:
        return wrong(NORMLIB_BAD_VALUE, THREADS)
    call.threads = threads if threads else default_threads()
    call.ndim = x.ndim
    call.shape = x.shape
    call.count = 1
    for i in range(x.ndim):
        if x.shape[i] < 0 or too_many(sizes, x.shape[i]):
            return wrong(NORMLIB_BAD_SHAPE, X)
        sizes *= x.shape[i] if x.shape[i] else 1
        call.count *= x.shape[i]
    call.plan.dtype = <Dtype>x.dtype
    call.plan.itemsize = size_of(x.dtype)
    call.plan.bytes = call.count * call.plan.itemsize
    call.plan.x = <const char*>x.data
    call.plan.eps = eps
    call.plan.groups = 1
    call.plan.centered = True
    return memory_of(call, x, X, False)


cdef const Py_ssize_t* strides_of(Call* call, const normlib_array* a) noexcept nogil:
    """Strides of an array of x's shape and dtype."""
    cdef int i = call.ndim - 1
    cdef Py_ssize_t stride = call.plan.itemsize
    if a.strides != NULL:
        return a.strides
    if not call.has_dense:
        call.has_dense = True
        while i >= 0:
            call.dense[i] = stride
            stride *= call.shape[i]
            i -= 1
    return call.dense


cdef int memory_of(Call* call, const normlib_array* a, Argument argument, bint written) noexcept nogil:
    """Address and strides of an array of x's shape and dtype."""
    cdef Py_ssize_t mask = call.plan.itemsize - 1
    cdef Extent extent
    cdef int i
    if call.count == 0:
        return 0
    if a.data == NULL:
        return wrong(NORMLIB_NULL, argument)
    if <size_t>a.data & mask:
        return wrong(NORMLIB_BAD_ALIGN, argument)
    if a.strides == NULL:
        extent.low = <const char*>a.data
        extent.high = extent.low + call.plan.bytes
        return register(call, a, argument, written, extent)
    for i in range(call.ndim):
        if call.shape[i] > 1:
            if a.strides[i] & mask:
                return wrong(NORMLIB_BAD_ALIGN, argument)
    if written and not apart_from_itself(call, a.strides):
        return wrong(NORMLIB_OVERLAP, argument)
    return register(call, a, argument, written, extent_of(a.data, call.plan.itemsize, call.ndim, call.shape, a.strides))


cdef bint apart_from_itself(const Call* call, const Py_ssize_t* strides) noexcept nogil:
    """Whether no two elements share memory: each axis, by the size of its stride, steps over all that the smaller ones span."""
    cdef Py_ssize_t size, span = call.plan.itemsize
    cdef int order[MOST_AXES]
    cdef int i, j, n = 0
    for i in range(call.ndim):
        if call.shape[i] > 1:
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
        span += size * (call.shape[order[i]] - 1)
    return True


cdef bint has_shape(const normlib_array* a, int ndim, const Py_ssize_t* shape) noexcept nogil:
    cdef int i
    if a.ndim != ndim:
        return False
    if a.shape == shape:
        return True
    if a.shape == NULL:
        return ndim == 0
    for i in range(ndim):
        if a.shape[i] != shape[i]:
            return False
    return True


cdef int like_x(Call* call, const normlib_array* a, Argument argument, bint written) noexcept nogil:
    """An array of the shape and dtype of x: y, dy or dx."""
    if a == NULL:
        return wrong(NORMLIB_NULL, argument)
    if a.dtype != <int>call.plan.dtype:
        return wrong(NORMLIB_BAD_DTYPE, argument)
    if not has_shape(a, call.ndim, call.shape):
        return wrong(NORMLIB_BAD_SHAPE, argument)
    return memory_of(call, a, argument, written)


cdef int dense(Call* call, const normlib_array* a, Argument argument, bint written, int dtypes, int ndim, const Py_ssize_t* shape,
               Py_ssize_t count) noexcept nogil:
    """A parameter or statistic, without gaps."""
    cdef Py_ssize_t stride
    cdef Extent extent
    cdef int i
    if not is_dtype(a.dtype) or not dtypes >> a.dtype & 1:
        return wrong(NORMLIB_BAD_DTYPE, argument)
    if not has_shape(a, ndim, shape):
        return wrong(NORMLIB_BAD_SHAPE, argument)
    if count == 0:
        return 0
    if a.data == NULL:
        return wrong(NORMLIB_NULL, argument)
    stride = size_of(a.dtype)
    if <size_t>a.data & (stride - 1):
        return wrong(NORMLIB_BAD_ALIGN, argument)
    extent.low = <const char*>a.data
    extent.high = extent.low + count * stride
    if a.strides != NULL:
        for i in range(ndim - 1, -1, -1):
            if shape[i] > 1 and a.strides[i] != stride:
                return wrong(NORMLIB_BAD_LAYOUT, argument)
            stride *= shape[i]
    return register(call, a, argument, written, extent)


cdef void* own(Call* call, Py_ssize_t bytes) noexcept nogil:
    cdef void* memory = malloc(max(<Py_ssize_t>1, bytes))
    call.memory[call.owned] = memory
    call.owned += 1
    return memory


cdef int parameter(Call* call, const normlib_array* a, Argument argument, const char** to) noexcept nogil:
    """A weight or bias in the working type; NULL stays NULL."""
    cdef int status, dtype = call.plan.dtype
    cdef float* wide
    if a == NULL:
        return 0
    status = dense(call, a, argument, False, 1 << dtype | (1 << F32 if call.plan.itemsize == 2 else 0), call.parameter_ndim,
                   call.parameter_shape, call.parameters)
    if status:
        return status
    to[0] = <const char*>a.data
    if size_of(a.dtype) == 2:
        wide = <float*>own(call, call.parameters * sizeof(float))
        if wide == NULL:
            return wrong(NORMLIB_NO_MEMORY, NOTHING)
        widen(_run, a.dtype, a.data, call.parameters, wide)
        to[0] = <const char*>wide
    return 0


cdef int ones(Call* call) noexcept nogil:
    """The weight, where a kernel that takes no bias without one is given a bias alone."""
    cdef Py_ssize_t i
    cdef void* memory
    if call.plan.weight != NULL or call.plan.bias == NULL:
        return 0
    memory = own(call, call.parameters * (8 if call.plan.dtype == F64 else 4))
    if memory == NULL:
        return wrong(NORMLIB_NO_MEMORY, NOTHING)
    for i in range(call.parameters):
        if call.plan.dtype == F64:
            (<double*>memory)[i] = 1
        else:
            (<float*>memory)[i] = 1
    call.plan.weight = <const char*>memory
    return 0


cdef int new_statistic(Call* call, const normlib_array* a, Argument argument, double** to) noexcept nogil:
    """Where to write a statistic; NULL stays NULL."""
    if a == NULL:
        return 0
    to[0] = <double*>a.data
    return dense(call, a, argument, True, 1 << F64, call.statistic_ndim, call.statistic_shape, call.statistics)


cdef int statistic(Call* call, const normlib_array* a, Argument argument, double** to) noexcept nogil:
    """A given mean or rstd as float64."""
    cdef Py_ssize_t i
    cdef int status
    if a == NULL:
        return wrong(NORMLIB_NULL, argument)
    status = dense(call, a, argument, False, WIDE, call.statistic_ndim, call.statistic_shape, call.statistics)
    if status or a.dtype == F64:
        to[0] = <double*>a.data
        return status
    to[0] = <double*>own(call, call.statistics * sizeof(double))
    if to[0] == NULL:
        return wrong(NORMLIB_NO_MEMORY, NOTHING)
    for i in range(call.statistics):
        to[0][i] = (<const float*>a.data)[i]
    return 0


cdef int gradient(Call* call, const normlib_array* a, Argument argument) noexcept nogil:
    if a == NULL:
        return 0
    call.plan.weight_grads = True
    return dense(call, a, argument, True, ANY, call.parameter_ndim, call.parameter_shape, call.parameters)


cdef int apart(Call* call) noexcept nogil:
    """Whether no output shares memory with another array, y or dx with x or dy aside if they are the same elements."""
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
            if ((a.argument == Y or a.argument == DX) and (b.argument == X or b.argument == DY) and a.array.data == b.array.data
                    and same_strides(call.ndim, call.shape, strides_of(call, a.array), strides_of(call, b.array))):
                continue
            return wrong(NORMLIB_OVERLAP, a.argument)
    return 0


# ---- shapes ----

cdef int features(Call* call, int axis) noexcept nogil:
    """Layer and RMS norm: parameters have the shape of x from `axis` on, statistics that before it."""
    cdef int i
    if axis < 0:
        axis += call.ndim
    if not 0 <= axis < call.ndim:
        return wrong(NORMLIB_BAD_VALUE, AXIS)
    call.statistic_ndim = axis
    call.statistic_shape = call.shape
    call.parameter_ndim = call.ndim - axis
    call.parameter_shape = call.shape + axis
    call.statistics = call.parameters = 1
    for i in range(axis):
        call.kinds[i] = KEPT
        call.statistics *= call.shape[i]
    for i in range(axis, call.ndim):
        call.kinds[i] = REDUCED
        call.parameters *= call.shape[i]
    return 0


cdef int channels(Call* call, int axis, bint batch, Py_ssize_t groups) noexcept nogil:
    """Batch, group and instance norm: parameters a channel, statistics a channel or a sample and group; 0 groups: one a channel."""
    cdef int sample
    if call.ndim < 2:
        return wrong(NORMLIB_BAD_SHAPE, X)
    if axis < 0:
        axis += call.ndim
    if not 0 <= axis < call.ndim:
        return wrong(NORMLIB_BAD_VALUE, CHANNEL_AXIS)
    memset(call.kinds, SPACE, call.ndim)
    call.kinds[axis] = CHANNEL
    call.parameter_ndim = 1
    call.parameter_shape = call.shape + axis
    call.parameters = call.shape[axis]
    call.plan.groups = groups if groups else call.parameters
    if batch:
        call.statistic_ndim = 1
        call.statistic_shape = call.parameter_shape
        call.statistics = call.parameters
        return 0
    sample = 0 if axis else 1
    call.kinds[sample] = SAMPLE
    if too_many(call.shape[sample], call.plan.groups):
        return wrong(NORMLIB_BAD_VALUE, NUM_GROUPS)
    call.samples_groups = call.shape[sample], call.plan.groups
    call.statistic_ndim = 2
    call.statistic_shape = call.samples_groups
    call.statistics = call.shape[sample] * call.plan.groups
    return 0


cdef int grouped(Call* call, int axis, Py_ssize_t groups) noexcept nogil:
    cdef int status
    if groups < 1:
        return wrong(NORMLIB_BAD_VALUE, NUM_GROUPS)
    status = channels(call, axis, False, groups)
    if status == 0 and call.parameters % groups:
        return wrong(NORMLIB_BAD_VALUE, NUM_GROUPS)
    return status


# ---- the computation ----

cdef inline void lie_together(Plan* p, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """What `lay_out` says of rows without gaps."""
    p.form = FEATURE_ROWS
    p.samples, p.length = rows, cols
    p.xs.sample = p.ys.sample = p.ds.sample = cols


cdef int arrange(Call* call, const normlib_array* y, const normlib_array* dy) noexcept nogil:
    """Choose the loops, once all arrays are known; dy is x in a forward pass. The last of the checks."""
    cdef int status = apart(call)
    if status or call.count == 0:
        return status
    call.plan.y = <char*>y.data
    if call.kinds[0] == REDUCED or call.kinds[0] == KEPT:
        if call.region[0].array.strides == NULL and y.strides == NULL and dy.strides == NULL:
            lie_together(&call.plan, call.statistics, call.parameters)
            return 0
    if walks(call, y, dy):
        return 0
    if not walks(call, call.region[0].array, call.region[0].array):
        return wrong(NORMLIB_BAD_LAYOUT, X)
    if not walks(call, y, call.region[0].array):
        return wrong(NORMLIB_BAD_LAYOUT, DX if call.backward else Y)
    return wrong(NORMLIB_BAD_LAYOUT, DY)


cdef bint walks(Call* call, const normlib_array* y, const normlib_array* dy) noexcept nogil:
    """Whether a family of loops takes x, y and dy as they lie."""
    return lay_out(&call.plan, call.kinds, call.ndim, call.shape, strides_of(call, call.region[0].array), strides_of(call, y),
                   strides_of(call, dy))


cdef int compute(Call* call) noexcept nogil:
    cdef Plan* p = &call.plan
    if call.count:
        return wrong(NORMLIB_NO_MEMORY, NOTHING) if execute(_run, p, call.threads) else 0
    if call.backward:
        return 0
    if p.given:
        p.samples, p.groups = 1, call.statistics
        _run(ROOTS, p, 0)
    else:
        of_nothing(p.mean, call.statistics)
        of_nothing(p.rstd, call.statistics)
    return 0


cdef void of_nothing(double* statistic, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if statistic != NULL:
        for i in range(n):
            statistic[i] = NAN


cdef int finish(Call* call, int status) noexcept nogil:
    cdef int i
    for i in range(call.owned):
        free(call.memory[i])
    free_gradients(&call.plan)
    return status


cdef int gradients(Call* call, const normlib_array* dweight, const normlib_array* dbias) noexcept nogil:
    """Hand out the sums over the rows."""
    if dweight != NULL:
        give(call, False, dweight)
    if dbias != NULL:
        give(call, True, dbias)
    return 0


cdef void give(Call* call, bint bias, const normlib_array* a) noexcept nogil:
    if call.count:
        narrow(_run, &call.plan, bias, a.dtype, a.data)
    elif call.parameters:
        memset(a.data, 0, call.parameters * size_of(a.dtype))


cdef int centered(Call* call, bint yes) noexcept nogil:
    call.plan.centered = yes
    return 0


cdef int gradient_of(Call* call, const normlib_array* dy) noexcept nogil:
    cdef int status = like_x(call, dy, DY, False)
    if status == 0:
        call.backward = True
        call.plan.dy = <const char*>dy.data
    return status


# ---- layer norm and RMS norm ----

cdef int layer_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, int axis, double eps,
                    const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil:
    cdef Call call
    return finish(&call, begin(&call, x, eps, threads) or features(&call, axis)
                  or parameter(&call, weight, WEIGHT, &call.plan.weight) or parameter(&call, bias, BIAS, &call.plan.bias)
                  or ones(&call) or like_x(&call, y, Y, True)
                  or new_statistic(&call, mean, MEAN, &call.plan.mean) or new_statistic(&call, rstd, RSTD, &call.plan.rstd)
                  or arrange(&call, y, x) or compute(&call))


cdef int rms_norm(const normlib_array* x, const normlib_array* weight, int axis, double eps, const normlib_array* y,
                  const normlib_array* rstd, int threads) noexcept nogil:
    cdef Call call
    return finish(&call, begin(&call, x, eps, threads) or features(&call, axis) or centered(&call, False)
                  or parameter(&call, weight, WEIGHT, &call.plan.weight) or like_x(&call, y, Y, True)
                  or new_statistic(&call, rstd, RSTD, &call.plan.rstd) or arrange(&call, y, x) or compute(&call))


cdef int layer_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                             const normlib_array* rstd, int axis, const normlib_array* dx, const normlib_array* dweight,
                             const normlib_array* dbias, int threads) noexcept nogil:
    cdef Call call
    return finish(&call, begin(&call, x, 0, threads) or features(&call, axis) or gradient_of(&call, dy)
                  or backward(&call, dy, weight, mean, rstd, dx, dweight, dbias))


cdef int rms_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* rstd,
                           int axis, const normlib_array* dx, const normlib_array* dweight, int threads) noexcept nogil:
    cdef Call call
    return finish(&call, begin(&call, x, 0, threads) or features(&call, axis) or centered(&call, False) or gradient_of(&call, dy)
                  or backward(&call, dy, weight, NULL, rstd, dx, dweight, NULL))


cdef int backward(Call* call, const normlib_array* dy, const normlib_array* weight, const normlib_array* mean,
                  const normlib_array* rstd, const normlib_array* dx, const normlib_array* dweight,
                  const normlib_array* dbias) noexcept nogil:
    """What all backward passes share once the shapes are known."""
    return (parameter(call, weight, WEIGHT, &call.plan.weight)
            or (statistic(call, mean, MEAN, &call.plan.mean) if call.plan.centered else 0)
            or statistic(call, rstd, RSTD, &call.plan.rstd) or like_x(call, dx, DX, True)
            or gradient(call, dweight, DWEIGHT) or gradient(call, dbias, DBIAS)
            or arrange(call, dx, dy) or compute(call) or gradients(call, dweight, dbias))


# ---- batch norm, group norm, instance norm ----

cdef int moving(Call* call, const normlib_array* running_mean, const normlib_array* running_var, bint own_statistics,
                bint required, double momentum) noexcept nogil:
    """Statistics that a batch norm or instance norm keeps; given where they are used."""
    cdef int status
    cdef bint running = running_mean != NULL
    if not 0 <= momentum <= 1:
        return wrong(NORMLIB_BAD_VALUE, MOMENTUM)
    if running != (running_var != NULL):
        return wrong(NORMLIB_NULL, RUNNING_VAR if running else RUNNING_MEAN)
    if required and not running and not own_statistics:
        return wrong(NORMLIB_NULL, RUNNING_MEAN)
    if own_statistics and call.count and call.count == call.statistics:
        return wrong(NORMLIB_ONE_VALUE, X)
    call.plan.given = running and not own_statistics
    if not running:
        return 0
    status = dense(call, running_mean, RUNNING_MEAN, own_statistics, WIDE, 1, call.parameter_shape, call.parameters)
    return status or dense(call, running_var, RUNNING_VAR, own_statistics, WIDE, 1, call.parameter_shape, call.parameters)


cdef int kept(Call* call, const normlib_array* running_mean, const normlib_array* running_var) noexcept nogil:
    """Memory for the statistics that are not asked for; the values of those that are given."""
    cdef Plan* p = &call.plan
    cdef Py_ssize_t samples = call.statistics // max(<Py_ssize_t>1, call.parameters), bytes = call.statistics * sizeof(double)
    if p.mean == NULL:
        p.mean = <double*>own(call, bytes)
    if p.rstd == NULL:
        p.rstd = <double*>own(call, bytes)
    if not p.given:
        p.var = <double*>own(call, bytes)
    if p.mean == NULL or p.rstd == NULL or (p.var == NULL and not p.given):
        return wrong(NORMLIB_NO_MEMORY, NOTHING)
    if p.given:
        p.var = p.rstd
        repeat(running_mean.dtype, running_mean.data, samples, call.parameters, p.mean)
        repeat(running_var.dtype, running_var.data, samples, call.parameters, p.var)
    return 0


cdef int learn(Call* call, const normlib_array* running_mean, const normlib_array* running_var, double momentum) noexcept nogil:
    """Move the running statistics towards those of x."""
    cdef Py_ssize_t samples, n
    if running_mean == NULL or call.plan.given or call.count == 0:
        return 0
    samples = call.statistics // call.parameters
    n = call.count // call.statistics
    move(_run, running_mean.dtype, running_mean.data, call.plan.mean, samples, call.parameters, momentum, 1)
    move(_run, running_var.dtype, running_var.data, call.plan.var, samples, call.parameters, momentum, <double>n / (n - 1))
    return 0


cdef int moving_norm(bint batch, const normlib_array* x, const normlib_array* weight, const normlib_array* bias,
                     const normlib_array* running_mean, const normlib_array* running_var, bint own_statistics, double momentum,
                     double eps, int channel_axis, const normlib_array* y, const normlib_array* mean, const normlib_array* rstd,
                     int threads) noexcept nogil:
    cdef Call call
    return finish(&call, begin(&call, x, eps, threads) or channels(&call, channel_axis, batch, 0)
                  or parameter(&call, weight, WEIGHT, &call.plan.weight) or parameter(&call, bias, BIAS, &call.plan.bias)
                  or moving(&call, running_mean, running_var, own_statistics, not batch, momentum) or like_x(&call, y, Y, True)
                  or new_statistic(&call, mean, MEAN, &call.plan.mean) or new_statistic(&call, rstd, RSTD, &call.plan.rstd)
                  or arrange(&call, y, x) or kept(&call, running_mean, running_var)
                  or compute(&call) or learn(&call, running_mean, running_var, momentum))


cdef int channel_backward(bint batch, const normlib_array* dy, const normlib_array* x, const normlib_array* weight,
                          const normlib_array* mean, const normlib_array* rstd, bint own_statistics, int channel_axis,
                          const normlib_array* dx, const normlib_array* dweight, const normlib_array* dbias,
                          int threads) noexcept nogil:
    cdef Call call
    cdef int status = begin(&call, x, 0, threads) or channels(&call, channel_axis, batch, 0) or gradient_of(&call, dy)
    call.plan.given = not own_statistics
    return finish(&call, status or backward(&call, dy, weight, mean, rstd, dx, dweight, dbias))


cdef int batch_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, const normlib_array* running_mean,
                    const normlib_array* running_var, int training, double momentum, double eps, int channel_axis,
                    const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil:
    return moving_norm(True, x, weight, bias, running_mean, running_var, training, momentum, eps, channel_axis, y, mean, rstd, threads)


cdef int batch_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                             const normlib_array* rstd, int training, int channel_axis, const normlib_array* dx,
                             const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil:
    return channel_backward(True, dy, x, weight, mean, rstd, training, channel_axis, dx, dweight, dbias, threads)


cdef int instance_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, const normlib_array* running_mean,
                       const normlib_array* running_var, int use_input_stats, double momentum, double eps, int channel_axis,
                       const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil:
    return moving_norm(False, x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, channel_axis, y, mean, rstd,
                       threads)


cdef int instance_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                                const normlib_array* rstd, int use_input_stats, int channel_axis, const normlib_array* dx,
                                const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil:
    return channel_backward(False, dy, x, weight, mean, rstd, use_input_stats, channel_axis, dx, dweight, dbias, threads)


cdef int group_norm(const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight, const normlib_array* bias, double eps,
                    int channel_axis, const normlib_array* y, const normlib_array* mean, const normlib_array* rstd,
                    int threads) noexcept nogil:
    cdef Call call
    return finish(&call, begin(&call, x, eps, threads) or grouped(&call, channel_axis, num_groups)
                  or parameter(&call, weight, WEIGHT, &call.plan.weight) or parameter(&call, bias, BIAS, &call.plan.bias)
                  or like_x(&call, y, Y, True)
                  or new_statistic(&call, mean, MEAN, &call.plan.mean) or new_statistic(&call, rstd, RSTD, &call.plan.rstd)
                  or arrange(&call, y, x) or compute(&call))


cdef int group_norm_backward(const normlib_array* dy, const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight,
                             const normlib_array* mean, const normlib_array* rstd, int channel_axis, const normlib_array* dx,
                             const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil:
    cdef Call call
    return finish(&call, begin(&call, x, 0, threads) or grouped(&call, channel_axis, num_groups) or gradient_of(&call, dy)
                  or backward(&call, dy, weight, mean, rstd, dx, dweight, dbias))


# ---- contiguous rows ----

cdef inline bint touch(const void* a, const void* b, Py_ssize_t a_bytes, Py_ssize_t b_bytes) noexcept nogil:
    return b != NULL and <const char*>a < <const char*>b + b_bytes and <const char*>b < <const char*>a + a_bytes


cdef inline int rows_of(bint centered, int dtype, Py_ssize_t rows, Py_ssize_t cols, const void* x, const void* weight, const void* bias,
                        double eps, void* y, int threads) noexcept nogil:
    cdef Call call
    cdef Plan* p = &call.plan
    cdef Py_ssize_t size, bytes, working
    if not is_dtype(dtype):
        return wrong(NORMLIB_BAD_DTYPE, X)
    if rows < 0 or cols < 0 or too_many(rows, cols):
        return wrong(NORMLIB_BAD_VALUE, COLS if cols < 0 else ROWS)
    if not 0 <= eps < INFINITY:
        return wrong(NORMLIB_BAD_VALUE, EPS)
    if threads < 0:
        return wrong(NORMLIB_BAD_VALUE, THREADS)
    if rows == 0 or cols == 0:
        return 0
    if x == NULL or y == NULL:
        return wrong(NORMLIB_NULL, Y if x != NULL else X)
    size = size_of(dtype)
    working = 8 if dtype == F64 else 4
    if (<size_t>x | <size_t>y) & (size - 1):
        return wrong(NORMLIB_BAD_ALIGN, X if <size_t>x & (size - 1) else Y)
    if (<size_t>weight | <size_t>bias) & (working - 1):
        return wrong(NORMLIB_BAD_ALIGN, WEIGHT if <size_t>weight & (working - 1) else BIAS)
    bytes = rows * cols * size
    if (x != y and touch(y, x, bytes, bytes)) or touch(y, weight, bytes, cols * working) or touch(y, bias, bytes, cols * working):
        return wrong(NORMLIB_OVERLAP, Y)
    memset(p, 0, sizeof(Plan))
    call.owned = 0
    call.parameters = cols
    lie_together(p, rows, cols)
    p.dtype = <Dtype>dtype
    p.itemsize = size
    p.bytes = bytes
    p.centered = centered
    p.eps = eps
    p.groups = 1
    p.x = <const char*>x
    p.y = <char*>y
    p.weight = <const char*>weight
    p.bias = <const char*>bias
    if weight == NULL and bias != NULL:
        return finish(&call, ones(&call) or run_rows(p, threads))
    return run_rows(p, threads)


cdef inline int run_rows(Plan* p, int threads) noexcept nogil:
    return wrong(NORMLIB_NO_MEMORY, NOTHING) if execute(_run, p, threads if threads else default_threads()) else 0


cdef int layer_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, const void* bias, double eps,
                         void* y, int threads) noexcept nogil:
    return rows_of(True, dtype, rows, cols, x, weight, bias, eps, y, threads)


cdef int rms_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, double eps, void* y,
                       int threads) noexcept nogil:
    return rows_of(False, dtype, rows, cols, x, weight, NULL, eps, y, threads)


# ---- the words of a status, and the table ----

_NAMES = (
    "", "x", "y", "dy", "dx", "weight", "bias", "mean", "rstd", "running_mean", "running_var", "dweight", "dbias",
    "axis", "channel_axis", "num_groups", "eps", "momentum", "threads", "rows", "cols",
)
_KINDS = (
    "no error",
    "NULL, but it is needed here",
    "not a dtype that is taken here",
    "the number of axes or a size does not fit",
    "an address or stride is no multiple of the size of an element",
    "these strides are not taken: make a copy without gaps",
    "an output shares memory with another argument or with itself",
    "outside its range",
    "one value a channel has no variance to learn from: more are needed",
    "no memory for scratch space",
    "the table is of another version than the header",
    "normlib_import() or normlib_use() has not been called",
)
_TEXTS = [f"{name}: {kind}".removeprefix(": ").encode() for name in _NAMES for kind in _KINDS]
cdef const char* texts[ARGUMENTS * KINDS]   # into _TEXTS


cdef object point_at_texts():
    cdef int i
    for i in range(ARGUMENTS * KINDS):
        texts[i] = PyBytes_AsString(_TEXTS[i])


point_at_texts()

cdef normlib_api api


cdef const char* error_text(int status) noexcept nogil:
    cdef int argument = status // 256, kind = status % 256
    if status < 0 or argument >= ARGUMENTS or kind >= KINDS:
        return "not a status of normlib"
    return texts[argument * KINDS + kind]


api.abi_version = NORMLIB_ABI_VERSION
api.size = sizeof(normlib_api)
api.error_text = <void*>error_text
api.layer_norm_rows = <void*>layer_norm_rows
api.rms_norm_rows = <void*>rms_norm_rows
api.layer_norm = <void*>layer_norm
api.layer_norm_backward = <void*>layer_norm_backward
api.rms_norm = <void*>rms_norm
api.rms_norm_backward = <void*>rms_norm_backward
api.batch_norm = <void*>batch_norm
api.batch_norm_backward = <void*>batch_norm_backward
api.group_norm = <void*>group_norm
api.group_norm_backward = <void*>group_norm_backward
api.instance_norm = <void*>instance_norm
api.instance_norm_backward = <void*>instance_norm_backward

table = PyCapsule_New(&api, "normlib.capi.table", NULL)
