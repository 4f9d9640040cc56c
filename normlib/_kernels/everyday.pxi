# The everyday call: rows without gaps, of which nothing is asked but y, and the sum with a residual.

cdef bint dense(normlib_array* view, object given, int ndim, const Py_ssize_t* shape) except -1:
    """An exact ndarray without gaps, seen with that shape."""
    cdef cnp.ndarray a
    if not is_ordinary(given) or not cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>given):
        return False
    a = given
    view.data, view.dtype, view.ndim, view.shape, view.strides = cnp.PyArray_DATA(a), dtype_of(a), ndim, shape, NULL
    return True


cdef inline bint vector(normlib_array* view, object given, const Py_ssize_t* shape, const normlib_array** to) except -1:
    """A parameter, or None."""
    if given is None:
        return True
    to[0] = view
    return (dense(view, given, 1, shape) and cnp.PyArray_NDIM(<cnp.ndarray>given) == 1
            and cnp.PyArray_DIM(<cnp.ndarray>given, 0) == shape[0])


cdef inline bint result(normlib_array* view, object given, cnp.ndarray x, const Py_ssize_t* shape) except -1:
    """An array that may be written, of the shape of x."""
    return dense(view, given, 2, shape) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>given) and PyArray_SAMESHAPE(x, <cnp.ndarray>given)


cdef object everyday(int number, PyObject** a):
    """LayerNorm or RMSNorm of an array without gaps, over the last axis, which is asked for y alone, or y and a sum, and not so long that
    signals should end it. All else is NotImplemented, and goes the way of `check`, which takes longer than a row should wait."""
    cdef bint centered = number == NORMLIB_LAYER_NORM
    cdef PyObject** rest = a + 2 + centered     # axis, eps, out, return_stats, fused
    cdef normlib_call call
    cdef normlib_array views[6]
    cdef Py_ssize_t[2] shape
    cdef Py_ssize_t axis
    cdef int status
    cdef cnp.ndarray x
    residual = sum = None
    if <object>rest[3] is not False or type(<object>rest[1]) is not float or not dense(&views[0], <object>a[0], 2, shape):
        return NotImplemented
    x = <object>a[0]
    if not is_dtype(views[0].dtype) or cnp.PyArray_NDIM(x) == 0 or cnp.PyArray_SIZE(x) == 0 or cnp.PyArray_NBYTES(x) >= WATCH_BYTES:
        return NotImplemented
    if not integer(<object>rest[0], &axis) or (axis != -1 and axis != cnp.PyArray_NDIM(x) - 1):
        return NotImplemented
    shape[1] = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    shape[0] = cnp.PyArray_SIZE(x) // shape[1]
    begin_call(&call, number, -1, current_threads())
    call.x, call.y, call.eps = &views[0], &views[3], PyFloat_AS_DOUBLE(<object>rest[1])
    if not vector(&views[1], <object>a[1], shape + 1, &call.weight):
        return NotImplemented
    if centered and not vector(&views[2], <object>a[2], shape + 1, &call.bias):
        return NotImplemented
    if <object>rest[4]:
        for name, value in (<dict>rest[4]).items():
            if name == "residual":
                residual = value
            elif name == "residual_out":
                sum = value
            elif value is not None:
                return NotImplemented
        if not dense(&views[4], residual, 2, shape) or not PyArray_SAMESHAPE(x, <cnp.ndarray>residual):
            return NotImplemented
        sum = new_like(x, cnp.PyArray_TYPE(x)) if sum is None else sum
        if not result(&views[5], sum, x, shape):
            return NotImplemented
        call.residual, call.sum = &views[4], &views[5]
    y = new_like(x, cnp.PyArray_TYPE(x)) if <object>rest[2] is None else <object>rest[2]
    if not result(&views[3], y, x, shape):
        return NotImplemented
    if call.eps <= 0 or not plain(&call):
        return NotImplemented
    if cnp.PyArray_NBYTES(x) <= KEEP_GIL:
        status = one_pass(&call)
    else:
        with nogil:
            status = one_pass(&call)
    if status:
        return NotImplemented
    return y if sum is None else (y, sum)
