"""From Python objects to a plan, through NumPy's C API: a call of one row must not cost more than the row.

Whatever is not the ordinary case (another type, a wrong shape, overlapping memory) makes a function answer False or
None; the call then returns NotImplemented, and the general way, which knows how to convert and to complain, takes over."""

cimport numpy as cnp
from cpython.exc cimport PyErr_Occurred
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetPointer
from libc.math cimport INFINITY
from normlib._kernels.convert cimport narrow, widen
from normlib._kernels.layout cimport Extent, extent_of, same_strides
from normlib._kernels.outputs cimport new_like
from normlib._kernels.parallel cimport current_threads
from normlib._kernels.plan cimport BF16, F16, F32, F64, Dtype, Plan, Run
from normlib._kernels.schedule cimport execute, free_gradients


cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    int PyDataType_ISNOTSWAPPED "PyArray_ISNOTSWAPPED"(cnp.ndarray)

cdef extern from "Python.h":
    void* PyMem_RawMalloc(size_t) nogil
    void PyMem_RawFree(void*) nogil

cdef enum:
    USER_DEFINED = 256  # the first number of a dtype that another package registers
    KEEP_GIL = 1 << 15      # bytes of x up to which letting the lock go costs more than it gives

cdef Run _run = NULL
cdef int _bfloat16 = -1     # NumPy's number of the bfloat16 dtype, once an array of it has been seen


def choose(capsule):
    """Take the kernels of an ISA level, as its module's ``kernels()`` gives them."""
    global _run
    if <size_t>PyCapsule_GetContext(capsule) != sizeof(Plan):
        raise ImportError("the kernels were built from other sources than their callers; build them again")
    _run = <Run>PyCapsule_GetPointer(capsule, "normlib.kernels")


cdef Run kernels_in_use() noexcept nogil:
    return _run


cdef void* own(Call* call, Py_ssize_t bytes) except NULL:
    cdef void* memory = PyMem_RawMalloc(bytes)
    if memory == NULL:
        raise MemoryError(f"normlib: no memory for {bytes} bytes of scratch")
    call.memory[call.owned] = memory
    call.owned += 1
    return memory


cdef void release(Call* call) noexcept:
    cdef int i
    for i in range(call.owned):
        PyMem_RawFree(call.memory[i])
    free_gradients(&call.plan)


cdef inline bint ordinary(object a) noexcept:
    """An exact ndarray, aligned and in native byte order."""
    return (cnp.PyArray_CheckExact(a) and cnp.PyArray_ISALIGNED(<cnp.ndarray>a)
            and PyDataType_ISNOTSWAPPED(<cnp.ndarray>a))


cdef int dtype_of(cnp.ndarray x):
    """The Dtype of an array, -1 for others."""
    global _bfloat16
    cdef int number = cnp.PyArray_TYPE(x)
    if number == cnp.NPY_FLOAT32:
        return F32
    if number == cnp.NPY_FLOAT64:
        return F64
    if number == cnp.NPY_FLOAT16:
        return F16
    if number == _bfloat16:
        return BF16
    if _bfloat16 < 0 and number >= USER_DEFINED and x.dtype.name == "bfloat16":
        _bfloat16 = number
        return BF16
    return -1


cdef bint begin(Call* call, object x, object eps) except -1:
    """x and eps into an empty plan."""
    cdef int dtype
    if not ordinary(x) or cnp.PyArray_SIZE(<cnp.ndarray>x) == 0:
        return False
    dtype = dtype_of(<cnp.ndarray>x)
    if dtype < 0:
        return False
    if not isinstance(eps, float) and type(eps) is not int:
        return False
    try:
        call.plan.eps = eps
    except OverflowError:
        return False
    if not 0 <= call.plan.eps < INFINITY:
        return False
    call.type_number = cnp.PyArray_TYPE(<cnp.ndarray>x)
    call.plan.dtype = <Dtype>dtype
    call.plan.itemsize = cnp.PyArray_ITEMSIZE(<cnp.ndarray>x)
    call.plan.bytes = cnp.PyArray_NBYTES(<cnp.ndarray>x)
    call.plan.x = <const char*>cnp.PyArray_DATA(<cnp.ndarray>x)
    call.plan.groups = 1
    call.plan.centered = True
    return True


cdef cnp.ndarray output(Call* call, cnp.ndarray x, object out):
    """An array for the result: the given one where it fits, a new one in x's memory order for None; else None."""
    cdef cnp.ndarray y
    cdef int i
    if out is None:
        for i in range(cnp.PyArray_NDIM(x)):
            if cnp.PyArray_STRIDE(x, i) == 0 and cnp.PyArray_DIM(x, i) > 1:
                return None     # broadcast: no memory order to keep
        y = new_like(x)
        call.plan.fresh = <char*>cnp.PyArray_DATA(y)
    else:
        if not ordinary(out):
            return None
        y = out
        if (not cnp.PyArray_ISWRITEABLE(y) or cnp.PyArray_TYPE(y) != call.type_number or not cnp.PyArray_SAMESHAPE(x, y)):
            return None
    call.plan.y = <char*>cnp.PyArray_DATA(y)
    return y


cdef inline Extent extent(cnp.ndarray a) noexcept:
    return extent_of(cnp.PyArray_DATA(a), cnp.PyArray_ITEMSIZE(a), cnp.PyArray_NDIM(a), shape_of(a), strides_of(a))


cdef bint clear_of(cnp.ndarray y, cnp.ndarray x, object other) noexcept:
    """Whether y may be written while `other` is read: no common memory, or element by element the same as x's."""
    cdef cnp.ndarray a
    cdef Extent ours, theirs
    if not cnp.PyArray_Check(other):
        return True
    a = other
    ours, theirs = extent(y), extent(a)
    if theirs.high <= ours.low or ours.high <= theirs.low:
        return True
    return (cnp.PyArray_TYPE(y) == cnp.PyArray_TYPE(a) and cnp.PyArray_SAMESHAPE(x, a)
            and cnp.PyArray_DATA(y) == cnp.PyArray_DATA(a)
            and same_strides(cnp.PyArray_NDIM(y), shape_of(y), strides_of(y), strides_of(a)))


cdef bint has_shape(cnp.ndarray a, int ndim, const cnp.npy_intp* shape) noexcept:
    cdef int i
    if cnp.PyArray_NDIM(a) != ndim:
        return False
    for i in range(ndim):
        if cnp.PyArray_DIM(a, i) != shape[i]:
            return False
    return True


cdef bint parameter(Call* call, object given, int ndim, const cnp.npy_intp* shape, const char** to) except -1:
    """A weight or bias in the working type; None gives NULL."""
    cdef cnp.ndarray a
    cdef int dtype
    cdef Py_ssize_t n
    cdef float* wide
    if given is None:
        return True
    if not ordinary(given):
        return False
    a = given
    if not cnp.PyArray_IS_C_CONTIGUOUS(a) or not has_shape(a, ndim, shape):
        return False
    dtype = dtype_of(a)
    if dtype != <int>call.plan.dtype and not (dtype == F32 and call.plan.itemsize == 2):
        return False
    to[0] = <const char*>cnp.PyArray_DATA(a)
    if dtype == F16 or dtype == BF16:
        n = cnp.PyArray_SIZE(a)
        wide = <float*>own(call, n * sizeof(float))
        widen(_run, dtype, to[0], n, wide)
        to[0] = <const char*>wide
    return True


cdef bint statistic(Call* call, object given, int ndim, const cnp.npy_intp* shape, double** to) except -1:
    """A given mean, rstd or variance as float64."""
    cdef cnp.ndarray a
    cdef Py_ssize_t i, n
    if not ordinary(given):
        return False
    a = given
    if not cnp.PyArray_IS_C_CONTIGUOUS(a) or not has_shape(a, ndim, shape):
        return False
    if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT64:
        to[0] = <double*>cnp.PyArray_DATA(a)
        return True
    if cnp.PyArray_TYPE(a) != cnp.NPY_FLOAT32:
        return False
    n = cnp.PyArray_SIZE(a)
    to[0] = <double*>own(call, n * sizeof(double))
    for i in range(n):
        to[0][i] = (<const float*>cnp.PyArray_DATA(a))[i]
    return True


cdef double* new_statistic(int ndim, const cnp.npy_intp* shape, list made) except NULL:
    """A new float64 array, appended to `made`; its data."""
    cdef cnp.ndarray a = cnp.PyArray_EMPTY(ndim, <cnp.npy_intp*>shape, cnp.NPY_FLOAT64, 0)
    made.append(a)
    return <double*>cnp.PyArray_DATA(a)


cdef object gradient(const Plan* p, bint bias, object weight, cnp.ndarray x, int ndim, const cnp.npy_intp* shape):
    """A new array of a parameter's gradient, in the dtype of the weight, or of x where there is none."""
    cdef cnp.ndarray like = x if weight is None else weight
    cdef cnp.ndarray a
    if not p.weight_grads:
        return None
    a = cnp.PyArray_EMPTY(ndim, <cnp.npy_intp*>shape, cnp.PyArray_TYPE(like), 0)
    narrow(_run, p, bias, dtype_of(like), cnp.PyArray_DATA(a))
    return a


cdef int perform(Call* call) except -1:
    cdef int failed, threads = current_threads()
    cdef Plan* p = &call.plan
    p.interruptible = True
    if p.bytes <= KEEP_GIL:
        failed = execute(_run, p, threads)
    else:
        with nogil:
            failed = execute(_run, p, threads)
    if failed and PyErr_Occurred() == NULL:     # else a signal came
        raise MemoryError("normlib: no memory for the scratch space of a call")
    return -1 if failed else 0
