# Written by .ci/generate.py from normlib/description.py.

"""The functions of normlib.h for Cython, numba and SciPy; the header documents them."""

from normlib._kernels.header cimport normlib_array, normlib_call

cdef const char* error_text(int status) noexcept nogil
cdef int call(const normlib_call* call) noexcept nogil
cdef int get_num_threads() noexcept nogil
cdef int set_num_threads(int threads) noexcept nogil
cdef int layer_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, const void* bias, double eps, void* y,
                         int threads) noexcept nogil
cdef int rms_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, double eps, void* y, int threads) noexcept nogil
cdef int layer_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, int axis, double eps,
                    const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil
cdef int layer_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                             const normlib_array* rstd, int axis, const normlib_array* dx, const normlib_array* dweight,
                             const normlib_array* dbias, int threads) noexcept nogil
cdef int rms_norm(const normlib_array* x, const normlib_array* weight, int axis, double eps, const normlib_array* y,
                  const normlib_array* rstd, int threads) noexcept nogil
cdef int rms_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* rstd, int axis,
                           const normlib_array* dx, const normlib_array* dweight, int threads) noexcept nogil
cdef int batch_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, const normlib_array* running_mean,
                    const normlib_array* running_var, int training, double momentum, double eps, int channel_axis, const normlib_array* y,
                    const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil
cdef int batch_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                             const normlib_array* rstd, int training, int channel_axis, const normlib_array* dx,
                             const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil
cdef int group_norm(const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight, const normlib_array* bias, double eps,
                    int channel_axis, const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil
cdef int group_norm_backward(const normlib_array* dy, const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight,
                             const normlib_array* mean, const normlib_array* rstd, int channel_axis, const normlib_array* dx,
                             const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil
cdef int instance_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, const normlib_array* running_mean,
                       const normlib_array* running_var, int use_input_stats, double momentum, double eps, int channel_axis,
                       const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil
cdef int instance_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                                const normlib_array* rstd, int use_input_stats, int channel_axis, const normlib_array* dx,
                                const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil
