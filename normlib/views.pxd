# cython: boundscheck=False, wraparound=False, cdivision=True
# What follows the declarations below is written by .ci/generate.py from normlib/description.py.
"""The functions of normlib on typed memoryviews: no GIL, no exceptions, the status comes back.

    from normlib.views cimport layer_norm

    status = layer_norm[float](x, weight, None, 1e-5, y)        # nogil

The arguments are those of normlib.h, without the axis: x has rows and columns, or samples, channels and positions where the
norm is one of channels; other layouts are a matter of strides. Any view may be None that may be NULL there. The type in brackets,
float or double, may be left out where no argument is None and no view of x, dy, y and dx is declared contiguous.

Functions whose names end in 16 are for float16 and bfloat16: `dtype` is NORMLIB_F16 or NORMLIB_BF16, the elements are views
of uint16_t, the parameters float. Those that end in _prange share the rows among threads of this module, which has to
be compiled with OpenMP; `threads` is for the threads of normlib itself, which need no such flag. Both give the same bits.

NumPy's float16 arrays are viewed by `a.view("uint16")`.

What is computed in the same pass stands in a struct, whose address is the last argument:

    cdef Fused more = nothing()
    put2(&more.residual, tokens)                                # a view of two axes, by the name of its role
    put2(&more.sum, stream)
    more.activation = NORMLIB_SILU                              # of normlib.capi
    status = rms_norm[float](x, weight, 1e-6, y, None, 1, &more)

sum, dadd and dgate are written to; where, a mask, is viewed by `a.view("uint8")`. A backward function takes the sum as x,
and where there is an activation or a gate, `put1(&more.bias, bias)`. The struct may be used again, and copied, while the
memory of its views is there."""

from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memset
from normlib._kernels.capi cimport call as _call
from normlib._kernels.header cimport begin as _begin
from normlib._kernels.header cimport (
    NORMLIB_BF16, NORMLIB_BOOL, NORMLIB_F16, NORMLIB_F32, NORMLIB_F64, NORMLIB_LAYER_NORM, NORMLIB_LAYER_NORM_BACKWARD, NORMLIB_RMS_NORM,
    NORMLIB_RMS_NORM_BACKWARD, NORMLIB_BATCH_NORM, NORMLIB_BATCH_NORM_BACKWARD, NORMLIB_GROUP_NORM, NORMLIB_GROUP_NORM_BACKWARD, NORMLIB_INSTANCE_NORM,
    NORMLIB_INSTANCE_NORM_BACKWARD, normlib_array, normlib_call,
)


cdef inline void _array(normlib_array* a, const void* data, int dtype, int ndim, const Py_ssize_t* shape) noexcept nogil:
    a.data, a.dtype, a.ndim, a.shape, a.strides = <void*>data, dtype, ndim, shape, NULL


cdef inline const Py_ssize_t* _gaps(int ndim, const Py_ssize_t* axes, Py_ssize_t size) noexcept nogil:
    """The strides, which stand behind the shape; NULL where they say that nothing lies between the elements."""
    cdef int i
    for i in range(ndim - 1, -1, -1):
        if axes[ndim + i] != size:
            return axes + ndim
        size *= axes[i]
    return NULL


ctypedef fused element:
    float
    double
    uint16_t
    uint8_t


cdef struct View:
    normlib_array array
    Py_ssize_t size         # of an element
    Py_ssize_t[6] axes      # shape, then strides


cdef inline Fused nothing() noexcept nogil:
    cdef Fused fused
    memset(&fused, 0, sizeof(Fused))
    return fused


cdef inline void put1(View* to, const element[::1] a) noexcept nogil:
    if a is not None:
        _put(to, &a[0], sizeof(element), 1, &a.shape[0], &a.strides[0])


cdef inline void put2(View* to, const element[:, :] a) noexcept nogil:
    if a is not None:
        _put(to, &a[0, 0], sizeof(element), 2, &a.shape[0], &a.strides[0])


cdef inline void put3(View* to, const element[:, :, :] a) noexcept nogil:
    if a is not None:
        _put(to, &a[0, 0, 0], sizeof(element), 3, &a.shape[0], &a.strides[0])


cdef inline void _put(View* to, const void* data, Py_ssize_t size, int ndim, const Py_ssize_t* shape, const Py_ssize_t* strides) noexcept nogil:
    cdef int i
    to.array.data, to.size, to.array.ndim = <void*>data, size, ndim
    for i in range(ndim):
        to.axes[i] = shape[i]
        to.axes[ndim + i] = strides[i]


cdef inline const normlib_array* _found(View* view, int dtype) noexcept nogil:
    """The array in a call of this dtype, which says what elements of 16 bits are; NULL where there is none."""
    cdef normlib_array* a = &view.array
    if a.ndim == 0:
        return NULL
    a.dtype = NORMLIB_BOOL if view.size == 1 else NORMLIB_F32 if view.size == 4 else NORMLIB_F64 if view.size == 8 else dtype
    if view.size == 2 and dtype != NORMLIB_F16 and dtype != NORMLIB_BF16:
        a.dtype = -1
    a.shape, a.strides = view.axes, _gaps(a.ndim, view.axes, view.size)
    return a


# generated: functions


cdef struct Fused:
    View residual, add, gate, where, scale, new_scale, sum, dsum, bias, dadd, dgate
    Py_ssize_t activation
    double negative_slope
    Py_ssize_t gate_activation
    Py_ssize_t gate_first
    Py_ssize_t round_first


cdef inline void _fuse(normlib_call* c, Fused* fused, int dtype) noexcept nogil:
    if fused == NULL:
        return
    c.residual = _found(&fused.residual, dtype)
    c.add = _found(&fused.add, dtype)
    c.gate = _found(&fused.gate, dtype)
    c.where = _found(&fused.where, dtype)
    c.scale = _found(&fused.scale, dtype)
    c.new_scale = _found(&fused.new_scale, dtype)
    c.sum = _found(&fused.sum, dtype)
    c.dsum = _found(&fused.dsum, dtype)
    c.dadd = _found(&fused.dadd, dtype)
    c.dgate = _found(&fused.dgate, dtype)
    if fused.bias.array.ndim:
        c.bias = _found(&fused.bias, dtype)
    c.activation = fused.activation
    c.negative_slope = fused.negative_slope
    c.gate_activation = fused.gate_activation
    c.gate_first = fused.gate_first
    c.round_first = fused.round_first


cdef inline int layer_norm(const floating[:, :] x, const floating[::1] weight, const floating[::1] bias, double eps, floating[:, :] y,
                           double[::1] mean=None, double[::1] rstd=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, bias_, y_, mean_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[4] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] bias_axes
    cdef Py_ssize_t[4] y_axes
    cdef Py_ssize_t[2] mean_axes
    cdef Py_ssize_t[2] rstd_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_LAYER_NORM, -1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.strides[0]
        x_axes[3] = x.strides[1]
        _array(&x_, &x[0, 0], dtype, 2, x_axes)
        x_.strides = _gaps(2, x_axes, sizeof(floating))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    if bias is not None:
        bias_axes[0] = bias.shape[0]
        _array(&bias_, &bias[0], dtype, 1, bias_axes)
        c.bias = &bias_
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.strides[0]
        y_axes[3] = y.strides[1]
        _array(&y_, &y[0, 0], dtype, 2, y_axes)
        y_.strides = _gaps(2, y_axes, sizeof(floating))
        c.y = &y_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        _array(&mean_, &mean[0], NORMLIB_F64, 1, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int layer_norm_prange(const floating[:, :] x, const floating[::1] weight, const floating[::1] bias, double eps, floating[:, :] y,
                                  int num_threads) noexcept nogil:
    """The rows of x shared among `num_threads` threads."""
    cdef Py_ssize_t part, rows = x.shape[0]
    cdef int status = 0
    cdef int* found = &status
    if rows != y.shape[0] or num_threads < 1:
        return layer_norm[floating](x, weight, bias, eps, y, None, None, num_threads)
    for part in prange(num_threads, num_threads=num_threads, schedule="static", chunksize=1):
        _layer_norm_part(x, weight, bias, eps, y, rows * part // num_threads, rows * (part + 1) // num_threads, found)
    return status


cdef inline void _layer_norm_part(const floating[:, :] x, const floating[::1] weight, const floating[::1] bias, double eps, floating[:, :] y,
                                  Py_ssize_t first, Py_ssize_t stop, int* found) noexcept nogil:
    cdef int status = layer_norm(x[first:stop], weight, bias, eps, y[first:stop])
    if status:
        found[0] = status


cdef inline int layer_norm16(int dtype, const uint16_t[:, :] x, const float[::1] weight, const float[::1] bias, double eps, uint16_t[:, :] y,
                             double[::1] mean=None, double[::1] rstd=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, bias_, y_, mean_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[4] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] bias_axes
    cdef Py_ssize_t[4] y_axes
    cdef Py_ssize_t[2] mean_axes
    cdef Py_ssize_t[2] rstd_axes
    _begin(&c, NORMLIB_LAYER_NORM, -1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.strides[0]
        x_axes[3] = x.strides[1]
        _array(&x_, &x[0, 0], dtype, 2, x_axes)
        x_.strides = _gaps(2, x_axes, sizeof(uint16_t))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    if bias is not None:
        bias_axes[0] = bias.shape[0]
        _array(&bias_, &bias[0], NORMLIB_F32, 1, bias_axes)
        c.bias = &bias_
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.strides[0]
        y_axes[3] = y.strides[1]
        _array(&y_, &y[0, 0], dtype, 2, y_axes)
        y_.strides = _gaps(2, y_axes, sizeof(uint16_t))
        c.y = &y_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        _array(&mean_, &mean[0], NORMLIB_F64, 1, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int layer_norm16_prange(int dtype, const uint16_t[:, :] x, const float[::1] weight, const float[::1] bias, double eps,
                                    uint16_t[:, :] y, int num_threads) noexcept nogil:
    """The rows of x shared among `num_threads` threads."""
    cdef Py_ssize_t part, rows = x.shape[0]
    cdef int status = 0
    cdef int* found = &status
    if rows != y.shape[0] or num_threads < 1:
        return layer_norm16(dtype, x, weight, bias, eps, y, None, None, num_threads)
    for part in prange(num_threads, num_threads=num_threads, schedule="static", chunksize=1):
        _layer_norm16_part(dtype, x, weight, bias, eps, y, rows * part // num_threads, rows * (part + 1) // num_threads, found)
    return status


cdef inline void _layer_norm16_part(int dtype, const uint16_t[:, :] x, const float[::1] weight, const float[::1] bias, double eps,
                                    uint16_t[:, :] y, Py_ssize_t first, Py_ssize_t stop, int* found) noexcept nogil:
    cdef int status = layer_norm16(dtype, x[first:stop], weight, bias, eps, y[first:stop])
    if status:
        found[0] = status


cdef inline int layer_norm_backward(const floating[:, :] dy, const floating[:, :] x, const floating[::1] weight, const double[::1] mean,
                                    const double[::1] rstd, floating[:, :] dx, floating[::1] dweight=None, floating[::1] dbias=None,
                                    int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, mean_, rstd_, dx_, dweight_, dbias_
    cdef normlib_call c
    cdef Py_ssize_t[4] dy_axes
    cdef Py_ssize_t[4] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] mean_axes
    cdef Py_ssize_t[2] rstd_axes
    cdef Py_ssize_t[4] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    cdef Py_ssize_t[2] dbias_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_LAYER_NORM_BACKWARD, -1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.strides[0]
        dy_axes[3] = dy.strides[1]
        _array(&dy_, &dy[0, 0], dtype, 2, dy_axes)
        dy_.strides = _gaps(2, dy_axes, sizeof(floating))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.strides[0]
        x_axes[3] = x.strides[1]
        _array(&x_, &x[0, 0], dtype, 2, x_axes)
        x_.strides = _gaps(2, x_axes, sizeof(floating))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        _array(&mean_, &mean[0], NORMLIB_F64, 1, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.strides[0]
        dx_axes[3] = dx.strides[1]
        _array(&dx_, &dx[0, 0], dtype, 2, dx_axes)
        dx_.strides = _gaps(2, dx_axes, sizeof(floating))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], dtype, 1, dweight_axes)
        c.dweight = &dweight_
    if dbias is not None:
        dbias_axes[0] = dbias.shape[0]
        _array(&dbias_, &dbias[0], dtype, 1, dbias_axes)
        c.dbias = &dbias_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int layer_norm_backward16(int dtype, const uint16_t[:, :] dy, const uint16_t[:, :] x, const float[::1] weight,
                                      const double[::1] mean, const double[::1] rstd, uint16_t[:, :] dx, float[::1] dweight=None,
                                      float[::1] dbias=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, mean_, rstd_, dx_, dweight_, dbias_
    cdef normlib_call c
    cdef Py_ssize_t[4] dy_axes
    cdef Py_ssize_t[4] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] mean_axes
    cdef Py_ssize_t[2] rstd_axes
    cdef Py_ssize_t[4] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    cdef Py_ssize_t[2] dbias_axes
    _begin(&c, NORMLIB_LAYER_NORM_BACKWARD, -1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.strides[0]
        dy_axes[3] = dy.strides[1]
        _array(&dy_, &dy[0, 0], dtype, 2, dy_axes)
        dy_.strides = _gaps(2, dy_axes, sizeof(uint16_t))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.strides[0]
        x_axes[3] = x.strides[1]
        _array(&x_, &x[0, 0], dtype, 2, x_axes)
        x_.strides = _gaps(2, x_axes, sizeof(uint16_t))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        _array(&mean_, &mean[0], NORMLIB_F64, 1, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.strides[0]
        dx_axes[3] = dx.strides[1]
        _array(&dx_, &dx[0, 0], dtype, 2, dx_axes)
        dx_.strides = _gaps(2, dx_axes, sizeof(uint16_t))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], NORMLIB_F32, 1, dweight_axes)
        c.dweight = &dweight_
    if dbias is not None:
        dbias_axes[0] = dbias.shape[0]
        _array(&dbias_, &dbias[0], NORMLIB_F32, 1, dbias_axes)
        c.dbias = &dbias_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int rms_norm(const floating[:, :] x, const floating[::1] weight, double eps, floating[:, :] y, double[::1] rstd=None,
                         int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, y_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[4] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[4] y_axes
    cdef Py_ssize_t[2] rstd_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_RMS_NORM, -1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.strides[0]
        x_axes[3] = x.strides[1]
        _array(&x_, &x[0, 0], dtype, 2, x_axes)
        x_.strides = _gaps(2, x_axes, sizeof(floating))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.strides[0]
        y_axes[3] = y.strides[1]
        _array(&y_, &y[0, 0], dtype, 2, y_axes)
        y_.strides = _gaps(2, y_axes, sizeof(floating))
        c.y = &y_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int rms_norm_prange(const floating[:, :] x, const floating[::1] weight, double eps, floating[:, :] y, int num_threads) noexcept nogil:
    """The rows of x shared among `num_threads` threads."""
    cdef Py_ssize_t part, rows = x.shape[0]
    cdef int status = 0
    cdef int* found = &status
    if rows != y.shape[0] or num_threads < 1:
        return rms_norm[floating](x, weight, eps, y, None, num_threads)
    for part in prange(num_threads, num_threads=num_threads, schedule="static", chunksize=1):
        _rms_norm_part(x, weight, eps, y, rows * part // num_threads, rows * (part + 1) // num_threads, found)
    return status


cdef inline void _rms_norm_part(const floating[:, :] x, const floating[::1] weight, double eps, floating[:, :] y, Py_ssize_t first,
                                Py_ssize_t stop, int* found) noexcept nogil:
    cdef int status = rms_norm(x[first:stop], weight, eps, y[first:stop])
    if status:
        found[0] = status


cdef inline int rms_norm16(int dtype, const uint16_t[:, :] x, const float[::1] weight, double eps, uint16_t[:, :] y, double[::1] rstd=None,
                           int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, y_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[4] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[4] y_axes
    cdef Py_ssize_t[2] rstd_axes
    _begin(&c, NORMLIB_RMS_NORM, -1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.strides[0]
        x_axes[3] = x.strides[1]
        _array(&x_, &x[0, 0], dtype, 2, x_axes)
        x_.strides = _gaps(2, x_axes, sizeof(uint16_t))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.strides[0]
        y_axes[3] = y.strides[1]
        _array(&y_, &y[0, 0], dtype, 2, y_axes)
        y_.strides = _gaps(2, y_axes, sizeof(uint16_t))
        c.y = &y_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int rms_norm16_prange(int dtype, const uint16_t[:, :] x, const float[::1] weight, double eps, uint16_t[:, :] y, int num_threads) noexcept nogil:
    """The rows of x shared among `num_threads` threads."""
    cdef Py_ssize_t part, rows = x.shape[0]
    cdef int status = 0
    cdef int* found = &status
    if rows != y.shape[0] or num_threads < 1:
        return rms_norm16(dtype, x, weight, eps, y, None, num_threads)
    for part in prange(num_threads, num_threads=num_threads, schedule="static", chunksize=1):
        _rms_norm16_part(dtype, x, weight, eps, y, rows * part // num_threads, rows * (part + 1) // num_threads, found)
    return status


cdef inline void _rms_norm16_part(int dtype, const uint16_t[:, :] x, const float[::1] weight, double eps, uint16_t[:, :] y, Py_ssize_t first,
                                  Py_ssize_t stop, int* found) noexcept nogil:
    cdef int status = rms_norm16(dtype, x[first:stop], weight, eps, y[first:stop])
    if status:
        found[0] = status


cdef inline int rms_norm_backward(const floating[:, :] dy, const floating[:, :] x, const floating[::1] weight, const double[::1] rstd,
                                  floating[:, :] dx, floating[::1] dweight=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, rstd_, dx_, dweight_
    cdef normlib_call c
    cdef Py_ssize_t[4] dy_axes
    cdef Py_ssize_t[4] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] rstd_axes
    cdef Py_ssize_t[4] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_RMS_NORM_BACKWARD, -1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.strides[0]
        dy_axes[3] = dy.strides[1]
        _array(&dy_, &dy[0, 0], dtype, 2, dy_axes)
        dy_.strides = _gaps(2, dy_axes, sizeof(floating))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.strides[0]
        x_axes[3] = x.strides[1]
        _array(&x_, &x[0, 0], dtype, 2, x_axes)
        x_.strides = _gaps(2, x_axes, sizeof(floating))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.strides[0]
        dx_axes[3] = dx.strides[1]
        _array(&dx_, &dx[0, 0], dtype, 2, dx_axes)
        dx_.strides = _gaps(2, dx_axes, sizeof(floating))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], dtype, 1, dweight_axes)
        c.dweight = &dweight_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int rms_norm_backward16(int dtype, const uint16_t[:, :] dy, const uint16_t[:, :] x, const float[::1] weight,
                                    const double[::1] rstd, uint16_t[:, :] dx, float[::1] dweight=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, rstd_, dx_, dweight_
    cdef normlib_call c
    cdef Py_ssize_t[4] dy_axes
    cdef Py_ssize_t[4] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] rstd_axes
    cdef Py_ssize_t[4] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    _begin(&c, NORMLIB_RMS_NORM_BACKWARD, -1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.strides[0]
        dy_axes[3] = dy.strides[1]
        _array(&dy_, &dy[0, 0], dtype, 2, dy_axes)
        dy_.strides = _gaps(2, dy_axes, sizeof(uint16_t))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.strides[0]
        x_axes[3] = x.strides[1]
        _array(&x_, &x[0, 0], dtype, 2, x_axes)
        x_.strides = _gaps(2, x_axes, sizeof(uint16_t))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.strides[0]
        dx_axes[3] = dx.strides[1]
        _array(&dx_, &dx[0, 0], dtype, 2, dx_axes)
        dx_.strides = _gaps(2, dx_axes, sizeof(uint16_t))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], NORMLIB_F32, 1, dweight_axes)
        c.dweight = &dweight_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int batch_norm(const floating[:, :, :] x, const floating[::1] weight, const floating[::1] bias, floating[::1] running_mean,
                           floating[::1] running_var, int training, double momentum, double eps, floating[:, :, :] y, double[::1] mean=None,
                           double[::1] rstd=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, bias_, running_mean_, running_var_, y_, mean_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] bias_axes
    cdef Py_ssize_t[2] running_mean_axes
    cdef Py_ssize_t[2] running_var_axes
    cdef Py_ssize_t[6] y_axes
    cdef Py_ssize_t[2] mean_axes
    cdef Py_ssize_t[2] rstd_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_BATCH_NORM, 1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(floating))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    if bias is not None:
        bias_axes[0] = bias.shape[0]
        _array(&bias_, &bias[0], dtype, 1, bias_axes)
        c.bias = &bias_
    if running_mean is not None:
        running_mean_axes[0] = running_mean.shape[0]
        _array(&running_mean_, &running_mean[0], dtype, 1, running_mean_axes)
        c.running_mean = &running_mean_
    if running_var is not None:
        running_var_axes[0] = running_var.shape[0]
        _array(&running_var_, &running_var[0], dtype, 1, running_var_axes)
        c.running_var = &running_var_
    c.mode = training
    c.momentum = momentum
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.shape[2]
        y_axes[3] = y.strides[0]
        y_axes[4] = y.strides[1]
        y_axes[5] = y.strides[2]
        _array(&y_, &y[0, 0, 0], dtype, 3, y_axes)
        y_.strides = _gaps(3, y_axes, sizeof(floating))
        c.y = &y_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        _array(&mean_, &mean[0], NORMLIB_F64, 1, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int batch_norm16(int dtype, const uint16_t[:, :, :] x, const float[::1] weight, const float[::1] bias, float[::1] running_mean,
                             float[::1] running_var, int training, double momentum, double eps, uint16_t[:, :, :] y, double[::1] mean=None,
                             double[::1] rstd=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, bias_, running_mean_, running_var_, y_, mean_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] bias_axes
    cdef Py_ssize_t[2] running_mean_axes
    cdef Py_ssize_t[2] running_var_axes
    cdef Py_ssize_t[6] y_axes
    cdef Py_ssize_t[2] mean_axes
    cdef Py_ssize_t[2] rstd_axes
    _begin(&c, NORMLIB_BATCH_NORM, 1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(uint16_t))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    if bias is not None:
        bias_axes[0] = bias.shape[0]
        _array(&bias_, &bias[0], NORMLIB_F32, 1, bias_axes)
        c.bias = &bias_
    if running_mean is not None:
        running_mean_axes[0] = running_mean.shape[0]
        _array(&running_mean_, &running_mean[0], NORMLIB_F32, 1, running_mean_axes)
        c.running_mean = &running_mean_
    if running_var is not None:
        running_var_axes[0] = running_var.shape[0]
        _array(&running_var_, &running_var[0], NORMLIB_F32, 1, running_var_axes)
        c.running_var = &running_var_
    c.mode = training
    c.momentum = momentum
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.shape[2]
        y_axes[3] = y.strides[0]
        y_axes[4] = y.strides[1]
        y_axes[5] = y.strides[2]
        _array(&y_, &y[0, 0, 0], dtype, 3, y_axes)
        y_.strides = _gaps(3, y_axes, sizeof(uint16_t))
        c.y = &y_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        _array(&mean_, &mean[0], NORMLIB_F64, 1, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int batch_norm_backward(const floating[:, :, :] dy, const floating[:, :, :] x, const floating[::1] weight,
                                    const double[::1] mean, const double[::1] rstd, int training, floating[:, :, :] dx,
                                    floating[::1] dweight=None, floating[::1] dbias=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, mean_, rstd_, dx_, dweight_, dbias_
    cdef normlib_call c
    cdef Py_ssize_t[6] dy_axes
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] mean_axes
    cdef Py_ssize_t[2] rstd_axes
    cdef Py_ssize_t[6] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    cdef Py_ssize_t[2] dbias_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_BATCH_NORM_BACKWARD, 1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.shape[2]
        dy_axes[3] = dy.strides[0]
        dy_axes[4] = dy.strides[1]
        dy_axes[5] = dy.strides[2]
        _array(&dy_, &dy[0, 0, 0], dtype, 3, dy_axes)
        dy_.strides = _gaps(3, dy_axes, sizeof(floating))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(floating))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        _array(&mean_, &mean[0], NORMLIB_F64, 1, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    c.mode = training
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.shape[2]
        dx_axes[3] = dx.strides[0]
        dx_axes[4] = dx.strides[1]
        dx_axes[5] = dx.strides[2]
        _array(&dx_, &dx[0, 0, 0], dtype, 3, dx_axes)
        dx_.strides = _gaps(3, dx_axes, sizeof(floating))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], dtype, 1, dweight_axes)
        c.dweight = &dweight_
    if dbias is not None:
        dbias_axes[0] = dbias.shape[0]
        _array(&dbias_, &dbias[0], dtype, 1, dbias_axes)
        c.dbias = &dbias_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int batch_norm_backward16(int dtype, const uint16_t[:, :, :] dy, const uint16_t[:, :, :] x, const float[::1] weight,
                                      const double[::1] mean, const double[::1] rstd, int training, uint16_t[:, :, :] dx,
                                      float[::1] dweight=None, float[::1] dbias=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, mean_, rstd_, dx_, dweight_, dbias_
    cdef normlib_call c
    cdef Py_ssize_t[6] dy_axes
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] mean_axes
    cdef Py_ssize_t[2] rstd_axes
    cdef Py_ssize_t[6] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    cdef Py_ssize_t[2] dbias_axes
    _begin(&c, NORMLIB_BATCH_NORM_BACKWARD, 1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.shape[2]
        dy_axes[3] = dy.strides[0]
        dy_axes[4] = dy.strides[1]
        dy_axes[5] = dy.strides[2]
        _array(&dy_, &dy[0, 0, 0], dtype, 3, dy_axes)
        dy_.strides = _gaps(3, dy_axes, sizeof(uint16_t))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(uint16_t))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        _array(&mean_, &mean[0], NORMLIB_F64, 1, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        _array(&rstd_, &rstd[0], NORMLIB_F64, 1, rstd_axes)
        c.rstd = &rstd_
    c.mode = training
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.shape[2]
        dx_axes[3] = dx.strides[0]
        dx_axes[4] = dx.strides[1]
        dx_axes[5] = dx.strides[2]
        _array(&dx_, &dx[0, 0, 0], dtype, 3, dx_axes)
        dx_.strides = _gaps(3, dx_axes, sizeof(uint16_t))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], NORMLIB_F32, 1, dweight_axes)
        c.dweight = &dweight_
    if dbias is not None:
        dbias_axes[0] = dbias.shape[0]
        _array(&dbias_, &dbias[0], NORMLIB_F32, 1, dbias_axes)
        c.dbias = &dbias_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int group_norm(const floating[:, :, :] x, Py_ssize_t num_groups, const floating[::1] weight, const floating[::1] bias,
                           double eps, floating[:, :, :] y, double[:, ::1] mean=None, double[:, ::1] rstd=None, int threads=1,
                           Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, bias_, y_, mean_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] bias_axes
    cdef Py_ssize_t[6] y_axes
    cdef Py_ssize_t[4] mean_axes
    cdef Py_ssize_t[4] rstd_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_GROUP_NORM, 1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(floating))
        c.x = &x_
    c.num_groups = num_groups
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    if bias is not None:
        bias_axes[0] = bias.shape[0]
        _array(&bias_, &bias[0], dtype, 1, bias_axes)
        c.bias = &bias_
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.shape[2]
        y_axes[3] = y.strides[0]
        y_axes[4] = y.strides[1]
        y_axes[5] = y.strides[2]
        _array(&y_, &y[0, 0, 0], dtype, 3, y_axes)
        y_.strides = _gaps(3, y_axes, sizeof(floating))
        c.y = &y_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        mean_axes[1] = mean.shape[1]
        _array(&mean_, &mean[0, 0], NORMLIB_F64, 2, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        rstd_axes[1] = rstd.shape[1]
        _array(&rstd_, &rstd[0, 0], NORMLIB_F64, 2, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int group_norm16(int dtype, const uint16_t[:, :, :] x, Py_ssize_t num_groups, const float[::1] weight, const float[::1] bias,
                             double eps, uint16_t[:, :, :] y, double[:, ::1] mean=None, double[:, ::1] rstd=None, int threads=1,
                             Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, bias_, y_, mean_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] bias_axes
    cdef Py_ssize_t[6] y_axes
    cdef Py_ssize_t[4] mean_axes
    cdef Py_ssize_t[4] rstd_axes
    _begin(&c, NORMLIB_GROUP_NORM, 1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(uint16_t))
        c.x = &x_
    c.num_groups = num_groups
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    if bias is not None:
        bias_axes[0] = bias.shape[0]
        _array(&bias_, &bias[0], NORMLIB_F32, 1, bias_axes)
        c.bias = &bias_
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.shape[2]
        y_axes[3] = y.strides[0]
        y_axes[4] = y.strides[1]
        y_axes[5] = y.strides[2]
        _array(&y_, &y[0, 0, 0], dtype, 3, y_axes)
        y_.strides = _gaps(3, y_axes, sizeof(uint16_t))
        c.y = &y_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        mean_axes[1] = mean.shape[1]
        _array(&mean_, &mean[0, 0], NORMLIB_F64, 2, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        rstd_axes[1] = rstd.shape[1]
        _array(&rstd_, &rstd[0, 0], NORMLIB_F64, 2, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int group_norm_backward(const floating[:, :, :] dy, const floating[:, :, :] x, Py_ssize_t num_groups, const floating[::1] weight,
                                    const double[:, ::1] mean, const double[:, ::1] rstd, floating[:, :, :] dx, floating[::1] dweight=None,
                                    floating[::1] dbias=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, mean_, rstd_, dx_, dweight_, dbias_
    cdef normlib_call c
    cdef Py_ssize_t[6] dy_axes
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[4] mean_axes
    cdef Py_ssize_t[4] rstd_axes
    cdef Py_ssize_t[6] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    cdef Py_ssize_t[2] dbias_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_GROUP_NORM_BACKWARD, 1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.shape[2]
        dy_axes[3] = dy.strides[0]
        dy_axes[4] = dy.strides[1]
        dy_axes[5] = dy.strides[2]
        _array(&dy_, &dy[0, 0, 0], dtype, 3, dy_axes)
        dy_.strides = _gaps(3, dy_axes, sizeof(floating))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(floating))
        c.x = &x_
    c.num_groups = num_groups
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        mean_axes[1] = mean.shape[1]
        _array(&mean_, &mean[0, 0], NORMLIB_F64, 2, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        rstd_axes[1] = rstd.shape[1]
        _array(&rstd_, &rstd[0, 0], NORMLIB_F64, 2, rstd_axes)
        c.rstd = &rstd_
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.shape[2]
        dx_axes[3] = dx.strides[0]
        dx_axes[4] = dx.strides[1]
        dx_axes[5] = dx.strides[2]
        _array(&dx_, &dx[0, 0, 0], dtype, 3, dx_axes)
        dx_.strides = _gaps(3, dx_axes, sizeof(floating))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], dtype, 1, dweight_axes)
        c.dweight = &dweight_
    if dbias is not None:
        dbias_axes[0] = dbias.shape[0]
        _array(&dbias_, &dbias[0], dtype, 1, dbias_axes)
        c.dbias = &dbias_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int group_norm_backward16(int dtype, const uint16_t[:, :, :] dy, const uint16_t[:, :, :] x, Py_ssize_t num_groups,
                                      const float[::1] weight, const double[:, ::1] mean, const double[:, ::1] rstd, uint16_t[:, :, :] dx,
                                      float[::1] dweight=None, float[::1] dbias=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, mean_, rstd_, dx_, dweight_, dbias_
    cdef normlib_call c
    cdef Py_ssize_t[6] dy_axes
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[4] mean_axes
    cdef Py_ssize_t[4] rstd_axes
    cdef Py_ssize_t[6] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    cdef Py_ssize_t[2] dbias_axes
    _begin(&c, NORMLIB_GROUP_NORM_BACKWARD, 1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.shape[2]
        dy_axes[3] = dy.strides[0]
        dy_axes[4] = dy.strides[1]
        dy_axes[5] = dy.strides[2]
        _array(&dy_, &dy[0, 0, 0], dtype, 3, dy_axes)
        dy_.strides = _gaps(3, dy_axes, sizeof(uint16_t))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(uint16_t))
        c.x = &x_
    c.num_groups = num_groups
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        mean_axes[1] = mean.shape[1]
        _array(&mean_, &mean[0, 0], NORMLIB_F64, 2, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        rstd_axes[1] = rstd.shape[1]
        _array(&rstd_, &rstd[0, 0], NORMLIB_F64, 2, rstd_axes)
        c.rstd = &rstd_
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.shape[2]
        dx_axes[3] = dx.strides[0]
        dx_axes[4] = dx.strides[1]
        dx_axes[5] = dx.strides[2]
        _array(&dx_, &dx[0, 0, 0], dtype, 3, dx_axes)
        dx_.strides = _gaps(3, dx_axes, sizeof(uint16_t))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], NORMLIB_F32, 1, dweight_axes)
        c.dweight = &dweight_
    if dbias is not None:
        dbias_axes[0] = dbias.shape[0]
        _array(&dbias_, &dbias[0], NORMLIB_F32, 1, dbias_axes)
        c.dbias = &dbias_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int instance_norm(const floating[:, :, :] x, const floating[::1] weight, const floating[::1] bias, floating[::1] running_mean,
                              floating[::1] running_var, int use_input_stats, double momentum, double eps, floating[:, :, :] y, double[:,
                              ::1] mean=None, double[:, ::1] rstd=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, bias_, running_mean_, running_var_, y_, mean_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] bias_axes
    cdef Py_ssize_t[2] running_mean_axes
    cdef Py_ssize_t[2] running_var_axes
    cdef Py_ssize_t[6] y_axes
    cdef Py_ssize_t[4] mean_axes
    cdef Py_ssize_t[4] rstd_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_INSTANCE_NORM, 1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(floating))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    if bias is not None:
        bias_axes[0] = bias.shape[0]
        _array(&bias_, &bias[0], dtype, 1, bias_axes)
        c.bias = &bias_
    if running_mean is not None:
        running_mean_axes[0] = running_mean.shape[0]
        _array(&running_mean_, &running_mean[0], dtype, 1, running_mean_axes)
        c.running_mean = &running_mean_
    if running_var is not None:
        running_var_axes[0] = running_var.shape[0]
        _array(&running_var_, &running_var[0], dtype, 1, running_var_axes)
        c.running_var = &running_var_
    c.mode = use_input_stats
    c.momentum = momentum
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.shape[2]
        y_axes[3] = y.strides[0]
        y_axes[4] = y.strides[1]
        y_axes[5] = y.strides[2]
        _array(&y_, &y[0, 0, 0], dtype, 3, y_axes)
        y_.strides = _gaps(3, y_axes, sizeof(floating))
        c.y = &y_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        mean_axes[1] = mean.shape[1]
        _array(&mean_, &mean[0, 0], NORMLIB_F64, 2, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        rstd_axes[1] = rstd.shape[1]
        _array(&rstd_, &rstd[0, 0], NORMLIB_F64, 2, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int instance_norm16(int dtype, const uint16_t[:, :, :] x, const float[::1] weight, const float[::1] bias,
                                float[::1] running_mean, float[::1] running_var, int use_input_stats, double momentum, double eps,
                                uint16_t[:, :, :] y, double[:, ::1] mean=None, double[:, ::1] rstd=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array x_, weight_, bias_, running_mean_, running_var_, y_, mean_, rstd_
    cdef normlib_call c
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[2] bias_axes
    cdef Py_ssize_t[2] running_mean_axes
    cdef Py_ssize_t[2] running_var_axes
    cdef Py_ssize_t[6] y_axes
    cdef Py_ssize_t[4] mean_axes
    cdef Py_ssize_t[4] rstd_axes
    _begin(&c, NORMLIB_INSTANCE_NORM, 1, threads)
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(uint16_t))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    if bias is not None:
        bias_axes[0] = bias.shape[0]
        _array(&bias_, &bias[0], NORMLIB_F32, 1, bias_axes)
        c.bias = &bias_
    if running_mean is not None:
        running_mean_axes[0] = running_mean.shape[0]
        _array(&running_mean_, &running_mean[0], NORMLIB_F32, 1, running_mean_axes)
        c.running_mean = &running_mean_
    if running_var is not None:
        running_var_axes[0] = running_var.shape[0]
        _array(&running_var_, &running_var[0], NORMLIB_F32, 1, running_var_axes)
        c.running_var = &running_var_
    c.mode = use_input_stats
    c.momentum = momentum
    c.eps = eps
    if y is not None:
        y_axes[0] = y.shape[0]
        y_axes[1] = y.shape[1]
        y_axes[2] = y.shape[2]
        y_axes[3] = y.strides[0]
        y_axes[4] = y.strides[1]
        y_axes[5] = y.strides[2]
        _array(&y_, &y[0, 0, 0], dtype, 3, y_axes)
        y_.strides = _gaps(3, y_axes, sizeof(uint16_t))
        c.y = &y_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        mean_axes[1] = mean.shape[1]
        _array(&mean_, &mean[0, 0], NORMLIB_F64, 2, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        rstd_axes[1] = rstd.shape[1]
        _array(&rstd_, &rstd[0, 0], NORMLIB_F64, 2, rstd_axes)
        c.rstd = &rstd_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int instance_norm_backward(const floating[:, :, :] dy, const floating[:, :, :] x, const floating[::1] weight, const double[:,
                                       ::1] mean, const double[:, ::1] rstd, int use_input_stats, floating[:, :, :] dx,
                                       floating[::1] dweight=None, floating[::1] dbias=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, mean_, rstd_, dx_, dweight_, dbias_
    cdef normlib_call c
    cdef Py_ssize_t[6] dy_axes
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[4] mean_axes
    cdef Py_ssize_t[4] rstd_axes
    cdef Py_ssize_t[6] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    cdef Py_ssize_t[2] dbias_axes
    cdef int dtype = NORMLIB_F32 if floating is float else NORMLIB_F64
    _begin(&c, NORMLIB_INSTANCE_NORM_BACKWARD, 1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.shape[2]
        dy_axes[3] = dy.strides[0]
        dy_axes[4] = dy.strides[1]
        dy_axes[5] = dy.strides[2]
        _array(&dy_, &dy[0, 0, 0], dtype, 3, dy_axes)
        dy_.strides = _gaps(3, dy_axes, sizeof(floating))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(floating))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], dtype, 1, weight_axes)
        c.weight = &weight_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        mean_axes[1] = mean.shape[1]
        _array(&mean_, &mean[0, 0], NORMLIB_F64, 2, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        rstd_axes[1] = rstd.shape[1]
        _array(&rstd_, &rstd[0, 0], NORMLIB_F64, 2, rstd_axes)
        c.rstd = &rstd_
    c.mode = use_input_stats
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.shape[2]
        dx_axes[3] = dx.strides[0]
        dx_axes[4] = dx.strides[1]
        dx_axes[5] = dx.strides[2]
        _array(&dx_, &dx[0, 0, 0], dtype, 3, dx_axes)
        dx_.strides = _gaps(3, dx_axes, sizeof(floating))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], dtype, 1, dweight_axes)
        c.dweight = &dweight_
    if dbias is not None:
        dbias_axes[0] = dbias.shape[0]
        _array(&dbias_, &dbias[0], dtype, 1, dbias_axes)
        c.dbias = &dbias_
    _fuse(&c, fused, dtype)
    return _call(&c)


cdef inline int instance_norm_backward16(int dtype, const uint16_t[:, :, :] dy, const uint16_t[:, :, :] x, const float[::1] weight,
                                         const double[:, ::1] mean, const double[:, ::1] rstd, int use_input_stats, uint16_t[:, :, :] dx,
                                         float[::1] dweight=None, float[::1] dbias=None, int threads=1, Fused* fused=NULL) noexcept nogil:
    cdef normlib_array dy_, x_, weight_, mean_, rstd_, dx_, dweight_, dbias_
    cdef normlib_call c
    cdef Py_ssize_t[6] dy_axes
    cdef Py_ssize_t[6] x_axes
    cdef Py_ssize_t[2] weight_axes
    cdef Py_ssize_t[4] mean_axes
    cdef Py_ssize_t[4] rstd_axes
    cdef Py_ssize_t[6] dx_axes
    cdef Py_ssize_t[2] dweight_axes
    cdef Py_ssize_t[2] dbias_axes
    _begin(&c, NORMLIB_INSTANCE_NORM_BACKWARD, 1, threads)
    if dy is not None:
        dy_axes[0] = dy.shape[0]
        dy_axes[1] = dy.shape[1]
        dy_axes[2] = dy.shape[2]
        dy_axes[3] = dy.strides[0]
        dy_axes[4] = dy.strides[1]
        dy_axes[5] = dy.strides[2]
        _array(&dy_, &dy[0, 0, 0], dtype, 3, dy_axes)
        dy_.strides = _gaps(3, dy_axes, sizeof(uint16_t))
        c.dy = &dy_
    if x is not None:
        x_axes[0] = x.shape[0]
        x_axes[1] = x.shape[1]
        x_axes[2] = x.shape[2]
        x_axes[3] = x.strides[0]
        x_axes[4] = x.strides[1]
        x_axes[5] = x.strides[2]
        _array(&x_, &x[0, 0, 0], dtype, 3, x_axes)
        x_.strides = _gaps(3, x_axes, sizeof(uint16_t))
        c.x = &x_
    if weight is not None:
        weight_axes[0] = weight.shape[0]
        _array(&weight_, &weight[0], NORMLIB_F32, 1, weight_axes)
        c.weight = &weight_
    if mean is not None:
        mean_axes[0] = mean.shape[0]
        mean_axes[1] = mean.shape[1]
        _array(&mean_, &mean[0, 0], NORMLIB_F64, 2, mean_axes)
        c.mean = &mean_
    if rstd is not None:
        rstd_axes[0] = rstd.shape[0]
        rstd_axes[1] = rstd.shape[1]
        _array(&rstd_, &rstd[0, 0], NORMLIB_F64, 2, rstd_axes)
        c.rstd = &rstd_
    c.mode = use_input_stats
    if dx is not None:
        dx_axes[0] = dx.shape[0]
        dx_axes[1] = dx.shape[1]
        dx_axes[2] = dx.shape[2]
        dx_axes[3] = dx.strides[0]
        dx_axes[4] = dx.strides[1]
        dx_axes[5] = dx.strides[2]
        _array(&dx_, &dx[0, 0, 0], dtype, 3, dx_axes)
        dx_.strides = _gaps(3, dx_axes, sizeof(uint16_t))
        c.dx = &dx_
    if dweight is not None:
        dweight_axes[0] = dweight.shape[0]
        _array(&dweight_, &dweight[0], NORMLIB_F32, 1, dweight_axes)
        c.dweight = &dweight_
    if dbias is not None:
        dbias_axes[0] = dbias.shape[0]
        _array(&dbias_, &dbias[0], NORMLIB_F32, 1, dbias_axes)
        c.dbias = &dbias_
    _fuse(&c, fused, dtype)
    return _call(&c)
