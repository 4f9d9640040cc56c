"""The table of normlib.h: calls that come as a normlib_call, and the words of a status."""

from cpython.bytes cimport PyBytes_AsString
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from normlib._kernels.call cimport ARGUMENTS, STRUCT, THREADS, Call, is_dtype, kernels_in_use, perform, rows_without_gaps, wrong
from normlib._kernels.check cimport clear
from normlib._kernels.convert cimport widen
from normlib._kernels.header cimport (
    NORMLIB_ABI_VERSION, NORMLIB_BAD_VALUE, NORMLIB_LAYER_NORM, NORMLIB_NO_MEMORY, NORMLIB_NOT_TAKEN, NORMLIB_NULL, NORMLIB_RMS_NORM,
    NOTHING, OF_RESIDUAL, OF_SUM, arrays_of, normlib_api, normlib_array, normlib_call,
)
from normlib._kernels.parallel cimport default_threads, set_default_threads
from normlib._kernels.plan cimport ALONE_BYTES, F32, F64, FEATURE_ROW, SUM_ROW, Dtype, Plan, Run, size_of
from normlib._kernels.schedule cimport execute
from normlib import description

cdef Run _run = kernels_in_use()
if _run == NULL:
    raise ImportError("normlib.capi: no compiled kernels are in use")

cdef enum:
    MOST_THREADS = 4096
    FEW_PARAMETERS = 4096   # of 16 bits, that are widened on the stack


cdef int call_of(const normlib_call* given) noexcept nogil:
    """A call of this version, or of another: 0 stands for what it does not have."""
    cdef normlib_call complete
    cdef size_t i
    if given == NULL:
        return wrong(NORMLIB_NULL, STRUCT)
    if given.size == sizeof(normlib_call):
        return one_pass(given) if plain(given) else answer(given)
    if given.size < sizeof(size_t) + sizeof(int):
        return wrong(NORMLIB_BAD_VALUE, STRUCT)
    for i in range(sizeof(normlib_call), given.size):
        if (<const char*>given)[i]:
            return wrong(NORMLIB_NOT_TAKEN, STRUCT)
    memset(&complete, 0, sizeof(normlib_call))
    memcpy(&complete, given, min(given.size, sizeof(normlib_call)))
    return answer(&complete)


cdef bint plain(const normlib_call* c) noexcept nogil:
    """Whether this is the everyday call: rows without gaps, nothing wrong, nothing asked for but y, the sum with a residual, and
    statistics. All others, and all that is wrong, go the way of `check`, which takes longer than a row should wait."""
    cdef const normlib_array* x = c.x
    cdef const normlib_array* y = c.y
    if c.op != NORMLIB_LAYER_NORM and (c.op != NORMLIB_RMS_NORM or c.bias != NULL or c.mean != NULL):
        return False
    if (<size_t>c.dy | <size_t>c.running_mean | <size_t>c.running_var | <size_t>c.dx | <size_t>c.dsum
            | <size_t>c.dweight | <size_t>c.dbias | <size_t>c.add | <size_t>c.dadd | <size_t>c.gate
            | <size_t>c.dgate | <size_t>c.where | <size_t>c.scale | <size_t>c.new_scale | c.axes | <size_t>c.activation | <size_t>c.gate_first
            | <size_t>c.round_first) or (c.axis != -1 and c.axis != 1) or not as_x(x, x) or not as_x(y, x):
        return False
    if x.shape[0] <= 0 or x.shape[1] <= 0 or (x.shape[0] | x.shape[1]) >> 29 or not is_dtype(x.dtype):
        return False
    if not 0 <= c.eps < INFINITY or c.threads < 0:
        return False
    return ((x.data == y.data or apart(y, x, x.shape[0] * x.shape[1] * size_of(x.dtype)))
            and plain_parameter(c.weight, x, y) and plain_parameter(c.bias, x, y)
            and plain_statistic(c.mean, c) and plain_statistic(c.rstd, c)
            and (c.mean == NULL or c.rstd == NULL or apart(c.mean, c.rstd, x.shape[0] * sizeof(double)))
            and ((c.residual == NULL and c.sum == NULL) or plain_sum(c)))


cdef inline bint as_x(const normlib_array* a, const normlib_array* x) noexcept nogil:
    """Whether an array is of two axes without gaps, and has the shape and dtype of x."""
    return (a != NULL and a.dtype == x.dtype and a.ndim == 2 and a.strides == NULL and a.shape != NULL and a.shape[0] == x.shape[0]
            and a.shape[1] == x.shape[1] and a.data != NULL and not <size_t>a.data & (size_of(x.dtype) - 1))


cdef bint plain_sum(const normlib_call* c) noexcept nogil:
    """A residual, and a sum that may be the residual or x, and else is apart from all; y may be x where that is not the sum."""
    cdef Py_ssize_t bytes
    if not as_x(c.residual, c.x) or not as_x(c.sum, c.x):
        return False
    bytes = c.x.shape[0] * c.x.shape[1] * size_of(c.x.dtype)
    return (apart(c.y, c.residual, bytes) and apart(c.y, c.sum, bytes)
            and (c.sum.data == c.x.data or apart(c.sum, c.x, bytes))
            and (c.sum.data == c.residual.data or apart(c.sum, c.residual, bytes))
            and plain_parameter(c.weight, c.x, c.sum) and plain_parameter(c.bias, c.x, c.sum)
            and (c.mean == NULL or (apart(c.mean, c.sum, bytes) and apart(c.mean, c.residual, bytes)))
            and (c.rstd == NULL or (apart(c.rstd, c.sum, bytes) and apart(c.rstd, c.residual, bytes))))


cdef inline bint plain_parameter(const normlib_array* a, const normlib_array* x, const normlib_array* y) noexcept nogil:
    """Of the working type, or of that of x."""
    cdef int working = F64 if x.dtype == F64 else F32
    return a == NULL or ((a.dtype == working or a.dtype == x.dtype) and a.ndim == 1 and a.strides == NULL and a.shape != NULL
                         and a.shape[0] == x.shape[1] and a.data != NULL and not <size_t>a.data & (size_of(a.dtype) - 1)
                         and apart(y, a, x.shape[1] * size_of(a.dtype)))


cdef inline bint plain_statistic(const normlib_array* a, const normlib_call* c) noexcept nogil:
    """Where a statistic goes: apart from x and the parameters; where y is x, that is told from y."""
    cdef Py_ssize_t row = c.x.shape[1] * size_of(c.x.dtype)
    if a == NULL:
        return True
    if (a.dtype != F64 or a.ndim != 1 or a.strides != NULL or a.shape == NULL or a.shape[0] != c.x.shape[0]
            or a.data == NULL or <size_t>a.data & (sizeof(double) - 1)):
        return False
    return (apart(a, c.x, c.x.shape[0] * row) and apart(a, c.y, c.x.shape[0] * row)
            and (c.weight == NULL or apart(a, c.weight, c.x.shape[1] * sizeof(double)))
            and (c.bias == NULL or apart(a, c.bias, c.x.shape[1] * sizeof(double))))


cdef inline bint apart(const normlib_array* y, const normlib_array* a, Py_ssize_t bytes) noexcept nogil:
    """Whether an output, an array of rows or of a value a row, and so many bytes of another share nothing."""
    cdef const char* to = <const char*>y.data
    cdef Py_ssize_t own = y.shape[0] * (y.shape[1] if y.ndim == 2 else 1) * size_of(y.dtype)
    return <const char*>a.data + bytes <= to or to + own <= <const char*>a.data


cdef inline void* data_of(const normlib_array* a) noexcept nogil:
    return NULL if a == NULL else a.data


cdef inline bint narrow(const normlib_array* a) noexcept nogil:
    return a != NULL and size_of(a.dtype) == 2


cdef inline const char* wide(const normlib_array* a, float* room) noexcept nogil:
    """A parameter in the working type: where it is, or in room."""
    if narrow(a):
        widen(_run, a.dtype, a.data, a.shape[0], room)
    return <const char*>room if narrow(a) else <const char*>data_of(a)


cdef int one_pass(const normlib_call* c) noexcept nogil:
    """The computation of a `plain` call."""
    cdef float few[2 * FEW_PARAMETERS]
    cdef float* room = few
    cdef Py_ssize_t n = c.x.shape[1]
    cdef int status
    if n > FEW_PARAMETERS and (narrow(c.weight) or narrow(c.bias)):
        room = <float*>malloc(2 * n * sizeof(float))
        if room == NULL:
            return wrong(NORMLIB_NO_MEMORY, NOTHING)
    status = rows_pass(c, wide(c.weight, room), wide(c.bias, room + n))
    if room != few:
        free(room)
    return status


cdef inline void companion(Plan* p, int view, const normlib_array* a) noexcept nogil:
    p.companion[view].data, p.companion[view].dtype, p.companion[view].span = <char*>a.data, p.dtype, p.xs


cdef inline int rows_pass(const normlib_call* c, const char* weight, const char* bias) noexcept nogil:
    """Of one row what its kernel reads is all that is filled in."""
    cdef Plan p
    cdef Py_ssize_t size = size_of(c.x.dtype)
    cdef bint alone = c.x.shape[0] == 1 and c.x.shape[1] * size <= ALONE_BYTES
    if not alone:
        memset(&p, 0, sizeof(Plan))
    p.dtype = <Dtype>c.x.dtype
    p.length, p.centered, p.eps = c.x.shape[1], c.op == NORMLIB_LAYER_NORM, c.eps
    p.x, p.y, p.mean, p.rstd = <const char*>c.x.data, <char*>c.y.data, <double*>data_of(c.mean), <double*>data_of(c.rstd)
    p.weight, p.bias = weight, bias
    if alone:
        if c.sum != NULL:
            p.dy, p.y = <const char*>c.residual.data, <char*>c.sum.data
            _run(SUM_ROW, &p, 0)
            p.x, p.y = p.y, <char*>c.y.data
        _run(FEATURE_ROW, &p, 0)
        return 0
    p.y_dtype, p.itemsize, p.groups = p.dtype, size, 1
    rows_without_gaps(&p, c.x.shape[0], c.x.shape[1])
    if c.sum != NULL:
        p.fused = True
        companion(&p, OF_RESIDUAL, c.residual)
        companion(&p, OF_SUM, c.sum)
    p.bytes = p.samples * p.length * p.itemsize
    return wrong(NORMLIB_NO_MEMORY, NOTHING) if execute(_run, &p, c.threads if c.threads else default_threads()) else 0


cdef int answer(const normlib_call* given) noexcept nogil:
    cdef Call call
    clear(&call, given.op)
    call.threads, call.axis, call.mode, call.axes = given.threads, given.axis, given.mode, given.axes
    call.num_groups, call.momentum, call.eps, call.activation = given.num_groups, given.momentum, given.eps, given.activation
    call.negative_slope, call.gate_activation, call.gate_first = given.negative_slope, given.gate_activation, given.gate_first
    call.round_first = given.round_first
    arrays_of(given, call.at)
    return perform(&call)


cdef int set_threads(int threads) noexcept nogil:
    if not 1 <= threads <= MOST_THREADS:
        return wrong(NORMLIB_BAD_VALUE, THREADS)
    set_default_threads(threads)
    return 0


# ---- the words of a status ----

_NAMES = ("", *description.ROLES, "op", "axis", "channel_axis", "num_groups", "eps", "momentum", "activation", "gate_activation", "negative_slope",
          "gate_first", "round_first", "threads", "call")
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
    "not an argument of this function in this version",
)
cdef enum:
    KINDS = NORMLIB_NOT_TAKEN + 1
_TEXTS = [f"{name}: {kind}".removeprefix(": ").encode() for name in _NAMES for kind in _KINDS]
cdef const char* texts[ARGUMENTS * KINDS]   # into _TEXTS


cdef object point_at_texts():
    cdef int i
    for i in range(ARGUMENTS * KINDS):
        texts[i] = PyBytes_AsString(_TEXTS[i])


point_at_texts()


cdef const char* error_text(int status) noexcept nogil:
    cdef int argument = status // 256, kind = status % 256
    if status < 0 or argument >= ARGUMENTS or kind >= KINDS:
        return "not a status of normlib"
    return texts[argument * KINDS + kind]


api.abi_version = NORMLIB_ABI_VERSION
api.size = sizeof(normlib_api)
api.error_text = error_text
api.call = call_of
api.get_num_threads = default_threads
api.set_num_threads = set_threads

table = PyCapsule_New(&api, "normlib.capi.table", NULL)
