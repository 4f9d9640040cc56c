# Written by .ci/generate.py from normlib/description.py.

"""The functions of normlib.h under their names."""

from normlib._kernels cimport from_c
from normlib._kernels.header cimport (
    normlib_layer_norm_rows,
    normlib_rms_norm_rows,
    normlib_layer_norm,
    normlib_layer_norm_backward,
    normlib_rms_norm,
    normlib_rms_norm_backward,
    normlib_batch_norm,
    normlib_batch_norm_backward,
    normlib_group_norm,
    normlib_group_norm_backward,
    normlib_instance_norm,
    normlib_instance_norm_backward,
    normlib, normlib_array, normlib_call, normlib_use,
)

normlib_use(&from_c.api)


cdef const char* error_text(int status) noexcept nogil:
    return normlib.error_text(status)


cdef int call(const normlib_call* call) noexcept nogil:
    return normlib.call(call)


cdef int get_num_threads() noexcept nogil:
    return normlib.get_num_threads()


cdef int set_num_threads(int threads) noexcept nogil:
    return normlib.set_num_threads(threads)


cdef int layer_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, const void* bias, double eps, void* y,
                         int threads) noexcept nogil:
    return normlib_layer_norm_rows(dtype, rows, cols, x, weight, bias, eps, y, threads)


cdef int rms_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, double eps, void* y, int threads) noexcept nogil:
    return normlib_rms_norm_rows(dtype, rows, cols, x, weight, eps, y, threads)


cdef int layer_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, int axis, double eps,
                    const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil:
    return normlib_layer_norm(x, weight, bias, axis, eps, y, mean, rstd, threads)


cdef int layer_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                             const normlib_array* rstd, int axis, const normlib_array* dx, const normlib_array* dweight,
                             const normlib_array* dbias, int threads) noexcept nogil:
    return normlib_layer_norm_backward(dy, x, weight, mean, rstd, axis, dx, dweight, dbias, threads)


cdef int rms_norm(const normlib_array* x, const normlib_array* weight, int axis, double eps, const normlib_array* y,
                  const normlib_array* rstd, int threads) noexcept nogil:
    return normlib_rms_norm(x, weight, axis, eps, y, rstd, threads)


cdef int rms_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* rstd, int axis,
                           const normlib_array* dx, const normlib_array* dweight, int threads) noexcept nogil:
    return normlib_rms_norm_backward(dy, x, weight, rstd, axis, dx, dweight, threads)


cdef int batch_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, const normlib_array* running_mean,
                    const normlib_array* running_var, int training, double momentum, double eps, int channel_axis, const normlib_array* y,
                    const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil:
    return normlib_batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, channel_axis, y, mean, rstd, threads)


cdef int batch_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                             const normlib_array* rstd, int training, int channel_axis, const normlib_array* dx,
                             const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil:
    return normlib_batch_norm_backward(dy, x, weight, mean, rstd, training, channel_axis, dx, dweight, dbias, threads)


cdef int group_norm(const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight, const normlib_array* bias, double eps,
                    int channel_axis, const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil:
    return normlib_group_norm(x, num_groups, weight, bias, eps, channel_axis, y, mean, rstd, threads)


cdef int group_norm_backward(const normlib_array* dy, const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight,
                             const normlib_array* mean, const normlib_array* rstd, int channel_axis, const normlib_array* dx,
                             const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil:
    return normlib_group_norm_backward(dy, x, num_groups, weight, mean, rstd, channel_axis, dx, dweight, dbias, threads)


cdef int instance_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, const normlib_array* running_mean,
                       const normlib_array* running_var, int use_input_stats, double momentum, double eps, int channel_axis,
                       const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil:
    return normlib_instance_norm(x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, channel_axis, y, mean, rstd, threads)


cdef int instance_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                                const normlib_array* rstd, int use_input_stats, int channel_axis, const normlib_array* dx,
                                const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil:
    return normlib_instance_norm_backward(dy, x, weight, mean, rstd, use_input_stats, channel_axis, dx, dweight, dbias, threads)
