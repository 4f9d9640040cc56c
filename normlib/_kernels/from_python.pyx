"""The public arguments, in their order, from Python to a Call, and from there to the result.

A call of one row must not cost more than the row, so arrays are read through NumPy's C API. Whatever is not the ordinary case
(another type, a wrong shape, overlapping memory) gives NotImplemented; the general way, which knows how to convert and to complain,
then takes over."""

import numpy as np

cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.long cimport PyLong_AsLongAndOverflow
from cpython.object cimport PyObject
from libc.math cimport isinf
from libc.stdint cimport uint64_t
from libc.string cimport memset
from normlib._kernels.call cimport Call, Op, Shape, compute, finish, is_dtype, kernels_in_use, learn
from normlib._kernels.check cimport check, clear, op_of, shapes, uses_running
from normlib._kernels.from_c cimport one_pass, plain
from normlib._kernels.header cimport (
    NORMLIB_LAYER_NORM, NORMLIB_RMS_NORM, ADD, BIAS, DADD, DBIAS, DGATE, DWEIGHT, DX, DY, GATE, LEAKY_RELU, NEW_SCALE, OF_X, MEAN, RESIDUAL, RSTD,
    RUNNING_MEAN, RUNNING_VAR, SCALE, SILU, SUM, WEIGHT, WHERE, X, Y, normlib_array, normlib_call,
)
from normlib._kernels.header cimport begin as begin_call
from normlib._kernels.layout cimport AXES, lay_out
from normlib._kernels.outputs cimport new_like
from normlib._kernels.parallel cimport current_threads, parallel_for
from normlib._kernels.plan cimport ALL_VIEWS, BF16, BOOL, COPY, F16, F32, F64, I8, WATCH_BYTES, Plan
from normlib._arguments import zero_by_zero
from normlib.description import ACTIVATIONS, DTYPES, FUNCTIONS, FUSED_RESULTS, ROLES, Role

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    bint PyArray_SAMESHAPE(cnp.ndarray, cnp.ndarray)

cdef enum:
    USER_DEFINED = 256      # the first number of a dtype that another package registers

cdef int _bfloat16 = -1     # NumPy's number of the bfloat16 dtype, once an array of it has been seen

# A return_stats: statistics, the variance too where there is one, and no warning, which the general way gives.
cdef object _canonical = object()
CANONICAL = _canonical


cdef dict _ACTIVATIONS = {name: number for number, name in enumerate(ACTIVATIONS, start=1)}
cdef dict _DTYPES = {key: number for number, name in enumerate(DTYPES[:3]) for key in (name, np.dtype(name), np.dtype(name).type)}
cdef set _CANONICAL = {role.name for roles in FUSED_RESULTS for role in roles}     # names that users do not give
cdef dict _ROLES = {a.name: X + ROLES.index(a.canonical or a.name)
                    for f in FUNCTIONS.values() for a in (*f.fused.values(), *f.fused_results) if isinstance(a, Role)}


# ---- arguments into a call; False where they are not ordinary ----

cdef int dtype_of(cnp.ndarray a) except -2:
    """The dtype of an array, -1 for others."""
    global _bfloat16
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_FLOAT32:
        return F32
    if number == cnp.NPY_FLOAT64:
        return F64
    if number == cnp.NPY_FLOAT16:
        return F16
    if number == _bfloat16:
        return BF16
    if number == cnp.NPY_INT8:
        return I8
    if _bfloat16 < 0 and number >= USER_DEFINED and a.dtype.name == "bfloat16":
        _bfloat16 = number
        return BF16
    return -1


cdef int number_of(int dtype) noexcept:
    """NumPy's number of a dtype that has been seen."""
    if dtype == F32:
        return cnp.NPY_FLOAT32
    if dtype == F64:
        return cnp.NPY_FLOAT64
    if dtype == F16:
        return cnp.NPY_FLOAT16
    return cnp.NPY_INT8 if dtype == I8 else _bfloat16


cdef bint fill(Call* call, int role, object given) except -1:
    """What `is_ordinary`, or None."""
    cdef normlib_array* view = &call.view[role]
    cdef cnp.ndarray a
    if given is None:
        return True
    if not is_ordinary(given):
        return False
    a = given
    view.data = cnp.PyArray_DATA(a)
    view.dtype = dtype_of(a)
    view.ndim = cnp.PyArray_NDIM(a)
    view.shape = <const Py_ssize_t*>cnp.PyArray_DIMS(a)
    view.strides = NULL
    if not cnp.PyArray_IS_C_CONTIGUOUS(a):
        view.strides = <const Py_ssize_t*>cnp.PyArray_STRIDES(a)
    call.at[role] = view
    return True


include "fused.pxi"


cdef bint begin(Call* call, int op, object x) except -1:
    """An empty call on x."""
    clear(call, op)
    return fill(call, X, x) and call.at[X] != NULL


cdef inline bint is_bool(object a) noexcept:
    return a is True or a is False


cdef inline bint number(object a, double* to) except -1:
    if type(a) is float:
        to[0] = PyFloat_AS_DOUBLE(a)
        return True
    if not isinstance(a, float) and type(a) is not int:
        return False
    try:
        to[0] = a
    except OverflowError:
        return False
    return True


cdef inline bint integer(object a, Py_ssize_t* to) except -1:
    """An int of a size that an axis may have."""
    cdef int overflow = 0
    if type(a) is not int:
        return False
    to[0] = PyLong_AsLongAndOverflow(a, &overflow)
    return overflow == 0


cdef inline bint over(Call* call, object a) except -1:
    """Normalize over one more axis."""
    cdef Py_ssize_t axis
    cdef int n = call.view[X].ndim
    if not integer(a, &axis):
        return False
    if axis < 0:
        axis += n
    if not 0 <= axis < n or call.axes >> axis & 1:
        return False
    call.axes |= <uint64_t>1 << axis
    return True


cdef bint over_axes(Call* call, object axis) except -1:
    if type(axis) is not tuple:
        return over(call, axis)
    for a in axis:
        if not over(call, a):
            return False
    return call.axes != 0


cdef bint along(Call* call, object channel_axis) except -1:
    cdef Py_ssize_t axis
    if not integer(channel_axis, &axis) or not -call.view[X].ndim <= axis < call.view[X].ndim:
        return False
    call.axis = <int>axis
    return True


# ---- results ----

cdef cnp.ndarray output(Call* call, int role, cnp.ndarray x, object out):
    """The given array, a new one in x's memory order for None; None where it is not ordinary."""
    cdef cnp.ndarray y
    cdef int i, dtype = call.wanted - 1 if call.wanted else call.at[X].dtype
    if out is None:
        for i in range(cnp.PyArray_NDIM(x)):
            if cnp.PyArray_STRIDE(x, i) == 0 and cnp.PyArray_DIM(x, i) > 1:
                return None     # broadcast: no memory order to keep
        y = new_like(x, number_of(dtype))
        call.plan.fresh = <char*>cnp.PyArray_DATA(y)
        fill(call, role, y)
        return y
    if not fill(call, role, out) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out) or call.at[role].dtype != dtype:
        return None
    return out


cdef cnp.ndarray new_array(const Shape* shape, int type_number):
    return cnp.PyArray_EMPTY(shape.ndim, <cnp.npy_intp*>shape.sizes, type_number, 0)


cdef cnp.ndarray new_gradient(Call* call, int of, int type_number):
    """An array of the shape of a parameter, or the usual one where that is not given."""
    cdef const normlib_array* a = call.at[of]
    if a == NULL:
        return new_array(&call.parameter, type_number)
    return cnp.PyArray_EMPTY(a.ndim, <cnp.npy_intp*>a.shape, type_number, 0)


cdef cnp.ndarray new_statistic(Call* call, int role):
    cdef cnp.ndarray a = new_array(&call.statistic, cnp.NPY_FLOAT64)
    fill(call, role, a)
    return a


cdef cnp.ndarray new_companion(Call* call, int role, cnp.ndarray x):
    cdef cnp.ndarray a = new_like(x, cnp.PyArray_TYPE(x))
    fill(call, role, a)
    return a


cdef cnp.ndarray scale_of(Call* call, object given):
    """The array of the scales: as given, a new one for a number, or to be written; None where it is not ordinary."""
    cdef cnp.ndarray a = None
    if given is None or type(given) is float:
        a = new_array(&call.statistic, number_of(F64 if call.at[X].dtype == F64 else F32))
    if type(given) is float:
        a.fill(given)
    if a is None:
        return given if fill(call, SCALE, given) else None
    fill(call, NEW_SCALE if given is None else SCALE, a)
    return a


cdef tuple more_results(Call* call, cnp.ndarray x, dict fused):
    """Arrays to fill beside the output, for what is given: the caller's, or new ones; None where one is not ordinary."""
    cdef cnp.ndarray one = None, other = None
    if not fused or _canonical in fused:
        return ()
    if not op_of(call).backward:
        if call.wanted == 1 + I8:
            one = scale_of(call, fused.get("scale"))
            if one is None:
                return None
        if call.at[RESIDUAL] != NULL:
            other = fused["residual_out"] if call.at[SUM] != NULL else new_companion(call, SUM, x)
        return both(one, other)
    if call.at[ADD] != NULL:
        one = new_companion(call, DADD, x)
    if call.at[GATE] != NULL:
        other = new_companion(call, DGATE, x)
    return both(one, other)


cdef inline tuple both(object one, object other):
    """Without what is None."""
    if one is None:
        return () if other is None else (other,)
    return (one,) if other is None else (one, other)


cdef bint run(Call* call) except -1:
    """Check and compute; False where something is wrong."""
    cdef int status
    call.threads = current_threads()
    if check(call):
        return False
    call.plan.interruptible = True
    if call.plan.bytes <= KEEP_GIL:
        status = compute(call)
    else:
        with nogil:
            status = compute(call)
    return finished(status)


cdef object results_of(object y, tuple more, object mean, object rstd, object var):
    """What a forward function returns."""
    if rstd is None:
        return (y, *more) if more else y
    if more:
        return (y, *more, rstd) if mean is None else (y, *more, mean, rstd)
    if mean is None:
        return y, rstd
    return (y, mean, rstd) if var is None else (y, mean, rstd, var)


cdef bint running(Call* call, object mean, object var, object mode) except -1:
    """Statistics that are used, or that move: then they are written to."""
    if not is_bool(mode) or not fill(call, RUNNING_MEAN, mean) or not fill(call, RUNNING_VAR, var):
        return False
    call.mode = mode
    return not mode or mean is None or var is None or (
        cnp.PyArray_ISWRITEABLE(<cnp.ndarray>mean) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>var))


cdef inline PyObject** past_groups(Call* call, PyObject** a) except? NULL:
    """What comes behind the number of groups, where there is one."""
    if not op_of(call).grouped:
        return a
    return a + 1 if integer(<object>a[0], &call.num_groups) else NULL


cdef inline PyObject** completed(Call* call, PyObject** rest) except? NULL:
    """The last arguments, of which what is fused is looked at."""
    if (<object>rest[2] and not fuse(call, <object>rest[2])) or shapes(call) or call.count == 0:
        return NULL
    return rest


cdef PyObject** asked(Call* call, int which, PyObject** a) except? NULL:
    """What a forward function is asked for, and where `out`, `return_stats` and what is fused come among its arguments; NULL where
    something is not ordinary."""
    cdef const Op* op
    if not begin(call, which, <object>a[0]):
        return NULL
    op, a = op_of(call), past_groups(call, a + 1)
    if a == NULL:
        return NULL
    if not fill(call, WEIGHT, <object>a[0]) or (op.takes >> BIAS & 1 and not fill(call, BIAS, <object>a[1])):
        return NULL
    a += 1 + (op.takes >> BIAS & 1)
    if op.moving:
        if not running(call, <object>a[0], <object>a[1], <object>a[2]) or type(<object>a[3]) is not float:
            return NULL
        call.momentum = <object>a[3]
        a += 4
    if op.feature and not (over_axes(call, <object>a[0]) and number(<object>a[1], &call.eps)):
        return NULL
    if not op.feature and not (number(<object>a[0], &call.eps) and along(call, <object>a[1])):
        return NULL
    return completed(call, a + 2)


cdef object forward(int number, PyObject** a):
    cdef Call call
    cdef PyObject** rest = asked(&call, number, a)
    cdef Py_ssize_t i
    cdef cnp.ndarray x, y
    cdef cnp.ndarray mean = None, rstd = None, var = None
    cdef bint canonical, stats
    if rest == NULL:
        return NotImplemented
    return_stats = <object>rest[1]
    canonical, stats = return_stats is _canonical, return_stats is not False
    if not is_bool(return_stats) and not canonical:
        return NotImplemented
    x = <object>a[0]
    y = output(&call, Y, x, <object>rest[0])
    if y is None:
        return NotImplemented
    more = more_results(&call, x, <object>rest[2])
    if more is None:
        return NotImplemented
    if stats and call.plan.centered:
        mean = new_statistic(&call, MEAN)
    if stats or call.eps == 0:
        rstd = new_statistic(&call, RSTD)
    if canonical and op_of(&call).moving and not uses_running(&call):
        var = new_array(&call.statistic, cnp.NPY_FLOAT64)
        call.var = <double*>cnp.PyArray_DATA(var)
    results = results_of(y, more, mean, rstd if stats else None, var)
    try:
        if not run(&call):
            return NotImplemented
        if call.eps == 0 and not canonical:     # NumPy's error state hears of a row that was constant
            for i in range(call.statistic.count):
                if isinf((<const double*>cnp.PyArray_DATA(rstd))[i]):
                    zero_by_zero()
                    break
        if call.at[RUNNING_MEAN] != NULL:
            learn(&call)     # last: from here on nothing fails
    finally:
        finish(&call)
    return results


cdef PyObject** asked_back(Call* call, int number, PyObject** a) except? NULL:
    """As `asked`, of a backward function, which has `weight_grads` and `out` in the end."""
    cdef const Op* op
    if not begin(call, number, <object>a[1]) or not fill(call, DY, <object>a[0]):
        return NULL
    op, a = op_of(call), past_groups(call, a + 2)
    if a == NULL:
        return NULL
    if not fill(call, WEIGHT, <object>a[0]) or (op.centered and not fill(call, MEAN, <object>a[1])):
        return NULL
    a += 1 + op.centered
    if not fill(call, RSTD, <object>a[0]):
        return NULL
    a += 1
    if op.moving:
        if not is_bool(<object>a[0]):
            return NULL
        call.mode = <object>a[0]
        a += 1
    if not (over_axes(call, <object>a[0]) if op.feature else along(call, <object>a[0])):
        return NULL
    return completed(call, a + 1)


cdef object backward(int number, PyObject** a):
    cdef Call call
    cdef PyObject** rest = asked_back(&call, number, a)
    cdef cnp.ndarray x, dx, dweight = None, dbias = None
    cdef int type_number
    cdef bint wanted, given
    if rest == NULL:
        return NotImplemented
    weight_grads, x, given = <object>rest[0], <object>a[1], call.at[WEIGHT] != NULL
    if not is_bool(weight_grads) and weight_grads is not None:
        return NotImplemented
    wanted = given if weight_grads is None else weight_grads is True
    dx = output(&call, DX, x, <object>rest[1])
    if dx is None:
        return NotImplemented
    more = more_results(&call, x, <object>rest[2])
    if wanted:
        type_number = number_of(call.at[WEIGHT if given else X].dtype)
        dweight = new_gradient(&call, WEIGHT, type_number)
        fill(&call, DWEIGHT, dweight)
        if call.plan.centered:
            dbias = new_gradient(&call, BIAS if call.at[BIAS] != NULL else WEIGHT, type_number)
            fill(&call, DBIAS, dbias)
    try:
        if not run(&call):
            return NotImplemented
    finally:
        finish(&call)
    return (dx, dweight, dbias, *more) if call.plan.centered else (dx, dweight, *more)


include "everyday.pxi"


cdef object compute_from(int number, PyObject** a):
    """What the public function of an operation returns, or NotImplemented; a: its arguments in their order, and a dict of what is fused, or
    None."""
    if number & 1:
        return backward(number, a)
    if number == NORMLIB_LAYER_NORM or number == NORMLIB_RMS_NORM:
        result = everyday(number, a)
        if result is not NotImplemented:
            return result
    return forward(number, a)


# ---- what else is asked of the kernels ----

def takes(kinds, groups, cnp.ndarray x not None):
    """Whether an array of this layout is taken as it lies; kinds: a byte for each axis, see layout.pxd."""
    cdef Plan p
    cdef const Py_ssize_t* strides[ALL_VIEWS]
    memset(&p, 0, sizeof(p))
    memset(strides, 0, sizeof(strides))
    strides[OF_X] = <const Py_ssize_t*>cnp.PyArray_STRIDES(x)
    p.groups = groups
    p.itemsize = cnp.PyArray_ITEMSIZE(x)
    return lay_out(&p, kinds, cnp.PyArray_NDIM(x), <const Py_ssize_t*>cnp.PyArray_DIMS(x), strides)


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
