"""The functions of normlib.h for Cython, numba and SciPy; the header documents them."""

cdef extern from "normlib.h" nogil:
    int NORMLIB_ABI_VERSION
    enum:
        NORMLIB_F64, NORMLIB_F32, NORMLIB_F16, NORMLIB_BF16
    enum:
        NORMLIB_OK, NORMLIB_NULL, NORMLIB_BAD_DTYPE, NORMLIB_BAD_SHAPE, NORMLIB_BAD_ALIGN, NORMLIB_BAD_LAYOUT
        NORMLIB_OVERLAP, NORMLIB_BAD_VALUE, NORMLIB_ONE_VALUE, NORMLIB_NO_MEMORY, NORMLIB_BAD_VERSION, NORMLIB_NOT_IMPORTED
    int normlib_kind(int status)

    ctypedef struct normlib_array:
        void* data
        int dtype
        int ndim
        const Py_ssize_t* shape     # ptrdiff_t, which is the same
        const Py_ssize_t* strides

cdef const char* error_text(int status) noexcept nogil
cdef int layer_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, const void* bias, double eps,
                         void* y, int threads) noexcept nogil
cdef int rms_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, double eps, void* y,
                       int threads) noexcept nogil
cdef int layer_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, int axis, double eps,
                    const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil
cdef int layer_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                             const normlib_array* rstd, int axis, const normlib_array* dx, const normlib_array* dweight,
                             const normlib_array* dbias, int threads) noexcept nogil
cdef int rms_norm(const normlib_array* x, const normlib_array* weight, int axis, double eps, const normlib_array* y,
                  const normlib_array* rstd, int threads) noexcept nogil
cdef int rms_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* rstd,
                           int axis, const normlib_array* dx, const normlib_array* dweight, int threads) noexcept nogil
cdef int batch_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, const normlib_array* running_mean,
                    const normlib_array* running_var, int training, double momentum, double eps, int channel_axis,
                    const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil
cdef int batch_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                             const normlib_array* rstd, int training, int channel_axis, const normlib_array* dx,
                             const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil
cdef int group_norm(const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight, const normlib_array* bias, double eps,
                    int channel_axis, const normlib_array* y, const normlib_array* mean, const normlib_array* rstd,
                    int threads) noexcept nogil
cdef int group_norm_backward(const normlib_array* dy, const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight,
                             const normlib_array* mean, const normlib_array* rstd, int channel_axis, const normlib_array* dx,
                             const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil
cdef int instance_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, const normlib_array* running_mean,
                       const normlib_array* running_var, int use_input_stats, double momentum, double eps, int channel_axis,
                       const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept nogil
cdef int instance_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                                const normlib_array* rstd, int use_input_stats, int channel_axis, const normlib_array* dx,
                                const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept nogil
