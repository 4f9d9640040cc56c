"""What is wrong with a call: found once, for Python, C and XLA. Which arrays an op takes is data: normlib/description.py."""

from libc.math cimport INFINITY
from libc.stdint cimport uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset
from normlib._kernels.call cimport (
    ACTIVATION, AXIS, CHANNEL_AXIS, EPS, GATE_ACTIVATION, GATE_FIRST, MOMENTUM, NEGATIVE_SLOPE, NUM_GROUPS, OP, ROUND_FIRST, THREADS, Call, Op,
    Region, Shape, is_dtype,
    rows_without_gaps, wrong,
)
from normlib._kernels.header cimport (
    NORMLIB_BAD_ALIGN, NORMLIB_BAD_DTYPE, NORMLIB_BAD_LAYOUT, NORMLIB_BAD_SHAPE, NORMLIB_BAD_VALUE, NORMLIB_NO_MEMORY, NORMLIB_NOT_TAKEN,
    NORMLIB_NULL,
    NORMLIB_ONE_VALUE, NORMLIB_OVERLAP, OPS, ROLES,
    ACTIVATIONS, ADD, BIAS, DADD, DBIAS, DGATE, DSUM, DWEIGHT, DX, DY, GATE, LEAKY_RELU, MEAN, NEW_SCALE, NOTHING, OF_DY, OF_WHERE, OF_X, OF_Y, RESIDUAL,
    RSTD, RUNNING_MEAN, RUNNING_VAR, SCALE, SUM, VIEWS, WEIGHT, WHERE, X, Y, normlib_array,
)
from normlib._kernels.layout cimport AXES, CHANNEL, KEPT, REDUCED, SAMPLE, SPACE, extent_of, kept_order, lay_out, magnitude, same_strides
from normlib._kernels.masks cimport count_inside
from normlib._kernels.plan cimport (
    ALL_VIEWS, BF16, BOOL, F16, F32, F64, FEATURE_ROWS, I8, OF_BIAS, OF_WEIGHT, Dtype, Plan, Span, size_of, working_size,
)
from normlib import description

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    WIDE = 1 << F64 | 1 << F32          # sets of dtypes: one bit each
    ANY = WIDE | 1 << F16 | 1 << BF16
    PARAMETERS = 1 << WEIGHT | 1 << BIAS    # sets of roles
    STATISTICS = 1 << MEAN | 1 << RSTD
    RUNNING = 1 << RUNNING_MEAN | 1 << RUNNING_VAR
    SCALES = 1 << SCALE | 1 << NEW_SCALE
    GRADIENTS = 1 << DWEIGHT | 1 << DBIAS

cdef Op ops[OPS]
cdef int roles[VIEWS]           # of the arrays of the shape of x; Y is DX in a backward pass
cdef int DATA = 1 << DX         # and their set


def _describe():
    """The table of ops."""
    global DATA
    cdef Op* op
    for view, name in enumerate(description.DATA):
        roles[view] = X + description.ROLES.index(name)
        DATA |= 1 << roles[view]
    for number, function in enumerate(description.FUNCTIONS.values()):
        op, norm = &ops[number], function.op
        op.feature, op.backward, op.centered = norm.of_features, function.backward, "mean" in norm.statistics
        op.per_sample, op.grouped, op.moving, op.required = norm.per_sample, norm.has_groups, bool(norm.mode), norm.needs_running
        for role in (*function.roles, *function.results, *function.fused_roles):
            if role.name == "out":      # which is y or dx
                continue
            place = X + description.ROLES.index(role.name)
            bit = 1 << place
            op.takes |= bit
            op.role[op.roles] = place
            op.roles += 1
            if not role.optional:
                op.needs |= bit
            if role.direction == "out":
                op.writes |= bit


_describe()


cdef const Op* op_of(const Call* call) noexcept nogil:
    return &ops[call.op]


cdef bint uses_running(const Call* call) noexcept nogil:
    """Whether a forward pass normalizes with the running statistics."""
    return call.at[RUNNING_MEAN] != NULL and not call.mode


cdef void clear(Call* call, int op) noexcept nogil:
    memset(call, 0, <char*>&call.memory[0] - <char*>call)
    call.op = op


# ---- x, the numbers, and the shapes that follow ----

cdef inline bint too_many(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """Whether a x b elements of float64 are more bytes than can be counted."""
    return (a | b) >> 30 != 0 and b > 0 and a > PY_SSIZE_T_MAX // 8 // b


cdef int shapes(Call* call) noexcept nogil:
    """x, the numbers that are given, and which shapes parameters and statistics have."""
    cdef const normlib_array* x = call.at[X]
    cdef Py_ssize_t sizes = 1       # of the axes that have elements
    cdef const Op* op
    cdef int i
    if not 0 <= call.op < OPS:
        return wrong(NORMLIB_BAD_VALUE, OP)
    op = &ops[call.op]
    if x == NULL:
        return wrong(NORMLIB_NULL, X)
    if not is_dtype(x.dtype):
        return wrong(NORMLIB_BAD_DTYPE, X)
    if not 1 <= x.ndim <= AXES:
        return wrong(NORMLIB_BAD_SHAPE, X)
    if x.shape == NULL:
        return wrong(NORMLIB_NULL, X)
    if not op.backward and not 0 <= call.eps < INFINITY:
        return wrong(NORMLIB_BAD_VALUE, EPS)
    if op.moving and not op.backward and not 0 <= call.momentum <= 1:
        return wrong(NORMLIB_BAD_VALUE, MOMENTUM)
    if call.threads < 0:
        return wrong(NORMLIB_BAD_VALUE, THREADS)
    if not 0 <= call.activation < ACTIVATIONS:
        return wrong(NORMLIB_BAD_VALUE, ACTIVATION)
    if not 0 <= call.gate_activation < ACTIVATIONS or call.gate_activation == LEAKY_RELU:
        return wrong(NORMLIB_BAD_VALUE, GATE_ACTIVATION)
    if call.round_first and not op.feature:
        return wrong(NORMLIB_NOT_TAKEN, ROUND_FIRST)
    if not -INFINITY < call.negative_slope < INFINITY:
        return wrong(NORMLIB_BAD_VALUE, NEGATIVE_SLOPE)
    if not 0 <= call.gate_first <= 1:
        return wrong(NORMLIB_BAD_VALUE, GATE_FIRST)
    call.ndim = x.ndim
    call.count = 1
    for i in range(x.ndim):
        if x.shape[i] < 0 or too_many(sizes, x.shape[i]):
            return wrong(NORMLIB_BAD_SHAPE, X)
        sizes *= x.shape[i] if x.shape[i] else 1
        call.count *= x.shape[i]
    call.plan.dtype = call.plan.y_dtype = <Dtype>x.dtype
    call.plan.itemsize = size_of(x.dtype)
    call.plan.bytes = call.count * call.plan.itemsize
    call.plan.eps = call.eps
    call.plan.groups = 1
    call.plan.centered = op.centered
    call.plan.activation, call.plan.gate_activation = <int>call.activation, <int>call.gate_activation
    call.plan.negative_slope, call.plan.gate_first = call.negative_slope, call.gate_first != 0
    call.plan.round_first = call.round_first != 0 and call.plan.itemsize == 2
    return features(call) if op.feature else channels(call, op)


cdef inline void extend(Shape* shape, Py_ssize_t n) noexcept nogil:
    shape.sizes[shape.ndim] = n
    shape.ndim += 1
    shape.count *= n


cdef int features(Call* call) noexcept nogil:
    """Parameters extend over the axes that are normalized over, statistics over the others."""
    cdef const Py_ssize_t* shape = call.at[X].shape
    cdef int i, axis = call.axis
    cdef uint64_t axes = call.axes
    if axes == 0:
        if axis < 0:
            axis += call.ndim
        if not 0 <= axis < call.ndim:
            return wrong(NORMLIB_BAD_VALUE, AXIS)
        axes = <uint64_t>-1 << axis
    elif call.ndim < 64 and axes >> call.ndim:
        return wrong(NORMLIB_BAD_VALUE, AXIS)
    call.parameter.ndim = call.statistic.ndim = 0
    call.parameter.count = call.statistic.count = 1
    call.trailing = True
    for i in range(call.ndim):
        if axes >> i & 1:
            call.kinds[i] = REDUCED
            extend(&call.parameter, shape[i])
        else:
            call.kinds[i] = KEPT
            call.trailing &= call.parameter.ndim == 0
            extend(&call.statistic, shape[i])
    return 0


cdef int channels(Call* call, const Op* op) noexcept nogil:
    """Parameters a channel; statistics a channel, or a sample and a channel or group."""
    cdef const Py_ssize_t* shape = call.at[X].shape
    cdef Py_ssize_t groups
    cdef int sample, axis = call.axis
    if call.ndim < 2:
        return wrong(NORMLIB_BAD_SHAPE, X)
    if op.grouped and call.num_groups < 1:
        return wrong(NORMLIB_BAD_VALUE, NUM_GROUPS)
    if axis < 0:
        axis += call.ndim
    if not 0 <= axis < call.ndim:
        return wrong(NORMLIB_BAD_VALUE, CHANNEL_AXIS)
    groups = call.num_groups if op.grouped else shape[axis]
    memset(call.kinds, SPACE, call.ndim)
    call.kinds[axis] = CHANNEL
    call.plan.groups = groups
    call.parameter.ndim = call.statistic.ndim = 0
    call.parameter.count = call.statistic.count = 1
    extend(&call.parameter, shape[axis])
    if op.per_sample:
        sample = 0 if axis else 1
        call.kinds[sample] = SAMPLE
        if too_many(shape[sample], groups):
            return wrong(NORMLIB_BAD_VALUE, NUM_GROUPS)
        extend(&call.statistic, shape[sample])
    extend(&call.statistic, groups)
    if op.grouped and shape[axis] % groups:
        return wrong(NORMLIB_BAD_VALUE, NUM_GROUPS)
    return 0


# ---- the arrays ----

cdef int check(Call* call) noexcept nogil:
    """Each array by its role, then what they are together; afterwards the plan is complete."""
    cdef const Op* op = &ops[call.op]
    cdef const normlib_array* a
    cdef int i, role, status, writes = op.writes | (RUNNING if op.moving and call.mode else 0)
    cdef bint own = call.mode or not op.moving      # the statistics are those of x
    for i in range(op.roles):
        role = op.role[i]
        a = call.at[role]
        if a != NULL:
            status = check_array(call, a, role, writes >> role & 1)
            if status:
                return status
        elif op.needs >> role & 1:
            return wrong(NORMLIB_NULL, role)
    if op.moving and not op.backward:
        if (call.at[RUNNING_MEAN] == NULL) != (call.at[RUNNING_VAR] == NULL):
            return wrong(NORMLIB_NULL, RUNNING_MEAN if call.at[RUNNING_MEAN] == NULL else RUNNING_VAR)
        if op.required and not own and call.at[RUNNING_MEAN] == NULL:
            return wrong(NORMLIB_NULL, RUNNING_MEAN)
        if own and call.count and call.count == call.statistic.count and call.at[WHERE] == NULL:
            return wrong(NORMLIB_ONE_VALUE, X)
    call.plan.given = not own if op.backward else op.moving and uses_running(call)
    call.plan.weight_grads = call.at[DWEIGHT] != NULL or call.at[DBIAS] != NULL
    if call.at[RESIDUAL] != NULL and call.at[SUM] == NULL:
        return wrong(NORMLIB_NULL, SUM)
    if call.at[SUM] != NULL and call.at[RESIDUAL] == NULL:
        return wrong(NORMLIB_NULL, RESIDUAL)
    if call.gate_first and call.at[GATE] == NULL:
        return wrong(NORMLIB_NULL, GATE)
    if call.gate_first and op.backward and call.at[DGATE] == NULL:
        return wrong(NORMLIB_NULL, DGATE)
    if call.plan.y_dtype != call.plan.dtype and (call.gate_first or (call.plan.y_dtype == I8 and call.at[WHERE] != NULL)):
        return wrong(NORMLIB_BAD_DTYPE, Y)     # no room for the product; no integers outside a mask
    status = scales(call) or apart(call) or (arrange_slices(call) if call.sliced and call.count else arrange(call))
    if status or call.at[WHERE] == NULL or not call.count or by_slices(call):
        return status
    return take_part(call, op.moving and not op.backward and own)


cdef int scales(Call* call) noexcept nogil:
    """Of a quantized result: either they are given or they are wanted."""
    cdef bint given = call.at[SCALE] != NULL, wanted = call.at[NEW_SCALE] != NULL
    if call.plan.y_dtype == I8 and not given and not wanted:
        return wrong(NORMLIB_NULL, NEW_SCALE)
    if wanted and (given or call.plan.y_dtype != I8):
        return wrong(NORMLIB_NOT_TAKEN, NEW_SCALE)
    if given and call.plan.y_dtype != I8:
        return wrong(NORMLIB_NOT_TAKEN, SCALE)
    return 0


cdef int check_array(Call* call, const normlib_array* a, int role, bint written) noexcept nogil:
    cdef int dtypes, bit = 1 << role
    if bit & DATA:
        return like_x(call, a, role, written)
    if bit & PARAMETERS:
        dtypes = 1 << call.plan.dtype | (1 << F32 if call.plan.itemsize == 2 else 0)
        return parameter(call, a, role, written, dtypes)
    if bit & GRADIENTS:
        return parameter(call, a, role, written, ANY)
    if bit & STATISTICS:
        return dense(call, a, role, written, 1 << F64 if written else WIDE, &call.statistic)
    if bit & SCALES:
        return dense(call, a, role, written, 1 << (F64 if call.plan.dtype == F64 else F32), &call.statistic)
    return dense(call, a, role, written, ANY, &call.parameter)


cdef bint has_shape(const normlib_array* a, int ndim, const Py_ssize_t* shape) noexcept nogil:
    cdef int i
    if a.ndim != ndim:
        return False
    if a.shape == NULL:
        return ndim == 0
    for i in range(ndim):
        if a.shape[i] != shape[i]:
            return False
    return True


cdef int like_x(Call* call, const normlib_array* a, int role, bint written) noexcept nogil:
    """An array of the shape and dtype of x, but for masks and y: its address and strides."""
    cdef int dtype = BOOL if role == WHERE else <int>call.plan.dtype
    cdef Py_ssize_t size = size_of(a.dtype), mask = size - 1
    cdef const Py_ssize_t* shape = call.at[X].shape
    cdef Region* region
    cdef int i
    if role == Y and (is_dtype(a.dtype) or (a.dtype == I8 and ops[call.op].takes >> NEW_SCALE & 1)):
        call.plan.y_dtype = <Dtype>a.dtype
    elif a.dtype != dtype:
        return wrong(NORMLIB_BAD_DTYPE, role)
    if not has_shape(a, call.ndim, shape):
        return wrong(NORMLIB_BAD_SHAPE, role)
    if call.count == 0:
        return 0
    if a.data == NULL:
        return wrong(NORMLIB_NULL, role)
    if <size_t>a.data & mask:
        return wrong(NORMLIB_BAD_ALIGN, role)
    region = register(call, role, written)
    if a.strides == NULL:
        region.extent.low = <const char*>a.data
        region.extent.high = region.extent.low + call.count * size
        return 0
    for i in range(call.ndim):
        if shape[i] > 1 and a.strides[i] & mask:
            return wrong(NORMLIB_BAD_ALIGN, role)
    if written and not apart_from_itself(call, size_of(a.dtype), shape, a.strides):
        return wrong(NORMLIB_OVERLAP, role)
    region.extent = extent_of(a.data, size, call.ndim, shape, a.strides)
    return 0


cdef int dense(Call* call, const normlib_array* a, int role, bint written, int dtypes, const Shape* shape) noexcept nogil:
    """A parameter or statistic, without gaps."""
    cdef Py_ssize_t stride
    cdef Region* region
    cdef int i
    if not is_dtype(a.dtype) or not dtypes >> a.dtype & 1:
        return wrong(NORMLIB_BAD_DTYPE, role)
    if not has_shape(a, shape.ndim, shape.sizes):
        return wrong(NORMLIB_BAD_SHAPE, role)
    if shape.count == 0:
        return 0
    if a.data == NULL:
        return wrong(NORMLIB_NULL, role)
    stride = size_of(a.dtype)
    if <size_t>a.data & (stride - 1):
        return wrong(NORMLIB_BAD_ALIGN, role)
    region = register(call, role, written)
    region.extent.low = <const char*>a.data
    region.extent.high = region.extent.low + shape.count * stride
    if a.strides != NULL:
        for i in range(shape.ndim - 1, -1, -1):
            if shape.sizes[i] > 1 and a.strides[i] != stride:
                return wrong(NORMLIB_BAD_LAYOUT, role)
            stride *= shape.sizes[i]
    return 0


cdef inline Region* register(Call* call, int role, bint written) noexcept nogil:
    cdef Region* region = &call.region[call.regions]
    region.role, region.written = role, written
    call.regions += 1
    return region


include "overlap.pxi"


cdef const Py_ssize_t* strides_of(Call* call, const normlib_array* a) noexcept nogil:
    """Strides of an array of x's shape."""
    cdef int i, other = a.dtype != <int>call.plan.dtype
    cdef Py_ssize_t stride = size_of(a.dtype), mask = 1
    if a.strides != NULL:
        return a.strides
    if a.dtype == BOOL:
        for i in range(call.ndim - 1, -1, -1):
            call.of_mask[i] = mask
            mask *= call.at[X].shape[i]
        return call.of_mask
    if not call.has_dense[other]:
        call.has_dense[other] = True
        for i in range(call.ndim - 1, -1, -1):
            call.dense[other][i] = stride
            stride *= call.at[X].shape[i]
    return call.dense[other]


# ---- the loops ----

cdef inline int role_of(const Call* call, int view) noexcept nogil:
    return DX if view == OF_Y and ops[call.op].backward else roles[view]


cdef int arrange(Call* call) noexcept nogil:
    """Choose the loops."""
    cdef Plan* p = &call.plan
    cdef const normlib_array* a
    cdef bint gaps = False
    cdef int view
    call.turned = False
    if call.count == 0:
        return 0
    for view in range(VIEWS):
        a = call.at[role_of(call, view)]
        if a == NULL:
            continue
        gaps |= a.strides != NULL or view == OF_WHERE
        if view == OF_X:
            p.x = <const char*>a.data
        elif view == OF_Y:
            p.y = <char*>a.data
        elif view == OF_DY:
            p.dy = <const char*>a.data
        else:
            p.companion[view].data = <char*>a.data
            p.companion[view].dtype = <Dtype>a.dtype
            p.fused = True
    p.fused |= p.activation != 0
    if call.trailing and not gaps and not call.sliced:
        rows_without_gaps(p, call.statistic.count, call.parameter.count)
        for view in range(VIEWS):
            p.companion[view].span = p.xs
        return 0
    if not walks(call, VIEWS):
        return refused(call)
    call.kept = kept_order(call.kinds, call.ndim, call.at[X].shape, strides_of(call, call.at[X]), call.order)
    for view in range(1, call.kept):
        call.turned |= call.order[view] < call.order[view - 1]
    return 0


cdef int take_part(Call* call, bint learns) noexcept nogil:
    """Count the elements of each row that a mask lets in, where sums are taken over them."""
    cdef Py_ssize_t* inside
    cdef Py_ssize_t r, most = 0
    if call.plan.given and not call.plan.weight_grads:
        return 0
    inside = <Py_ssize_t*>malloc(call.statistic.count * sizeof(Py_ssize_t))
    if inside == NULL:
        return wrong(NORMLIB_NO_MEMORY, NOTHING)
    call.memory[call.owned] = inside
    call.owned += 1
    count_inside(&call.plan, inside)
    for r in range(call.statistic.count):
        most = max(most, inside[r])
    call.plan.inside = inside
    return wrong(NORMLIB_ONE_VALUE, X) if learns and most == 1 else 0


cdef bint walks(Call* call, int views) noexcept nogil:
    """Whether a family of loops takes the first of the arrays as they lie."""
    cdef const Py_ssize_t* strides[ALL_VIEWS]
    cdef Py_ssize_t of_weight[AXES]
    cdef Py_ssize_t of_bias[AXES]
    cdef int view
    strides[OF_WEIGHT] = strides[OF_BIAS] = NULL
    if call.sliced and ops[call.op].feature:
        strides[OF_WEIGHT] = steps_of(call, WEIGHT, of_weight)
        strides[OF_BIAS] = steps_of(call, BIAS, of_bias)
    for view in range(VIEWS):
        strides[view] = NULL
        if view < views and call.at[role_of(call, view)] != NULL:
            strides[view] = strides_of(call, call.at[role_of(call, view)])
    return lay_out(&call.plan, call.kinds, call.ndim, call.at[X].shape, strides)


cdef int refused(Call* call) noexcept nogil:
    """The first array whose strides no loop takes."""
    cdef int views = 1
    while walks(call, views):
        views += 1
    return wrong(NORMLIB_BAD_LAYOUT, role_of(call, views - 1))


include "leading.pxi"


cdef int untaken(const Call* call) noexcept nogil:
    """Whether an array is given that the op does not take: what else is checked is what it takes."""
    cdef int role
    for role in range(X, ROLES):
        if call.at[role] != NULL and not ops[call.op].takes >> role & 1:
            return wrong(NORMLIB_NOT_TAKEN, role)
    return 0
