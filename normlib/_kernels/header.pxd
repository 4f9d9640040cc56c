# Written by .ci/generate.py from normlib/description.py.

"""normlib.h for Cython; the roles of arrays."""

from libc.stdint cimport uint64_t

cdef extern from "normlib.h" nogil:
    int NORMLIB_ABI_VERSION
    enum:
        NORMLIB_F64, NORMLIB_F32, NORMLIB_F16, NORMLIB_BF16, NORMLIB_BOOL, NORMLIB_I8
    enum:
        NORMLIB_OK, NORMLIB_NULL, NORMLIB_BAD_DTYPE, NORMLIB_BAD_SHAPE, NORMLIB_BAD_ALIGN, NORMLIB_BAD_LAYOUT
        NORMLIB_OVERLAP, NORMLIB_BAD_VALUE, NORMLIB_ONE_VALUE, NORMLIB_NO_MEMORY, NORMLIB_BAD_VERSION
        NORMLIB_NOT_IMPORTED, NORMLIB_NOT_TAKEN
    enum:
        NORMLIB_LAYER_NORM, NORMLIB_LAYER_NORM_BACKWARD, NORMLIB_RMS_NORM, NORMLIB_RMS_NORM_BACKWARD, NORMLIB_BATCH_NORM
        NORMLIB_BATCH_NORM_BACKWARD, NORMLIB_GROUP_NORM, NORMLIB_GROUP_NORM_BACKWARD, NORMLIB_INSTANCE_NORM
        NORMLIB_INSTANCE_NORM_BACKWARD
    enum:
        NORMLIB_NO_ACTIVATION, NORMLIB_RELU, NORMLIB_LEAKY_RELU, NORMLIB_SILU, NORMLIB_GELU, NORMLIB_GELU_TANH
        NORMLIB_SIGMOID
    ctypedef struct normlib_array:
        void* data
        int dtype
        int ndim
        const Py_ssize_t* shape     # ptrdiff_t, which is the same
        const Py_ssize_t* strides
    ctypedef struct normlib_call:
        size_t size
        int op, threads, axis, mode
        uint64_t axes
        ptrdiff_t num_groups
        double momentum, eps
        const normlib_array* x
        const normlib_array* dy
        const normlib_array* weight
        const normlib_array* bias
        const normlib_array* running_mean
        const normlib_array* running_var
        const normlib_array* mean
        const normlib_array* rstd
        const normlib_array* y
        const normlib_array* dx
        const normlib_array* dweight
        const normlib_array* dbias
        const normlib_array* add
        const normlib_array* dadd
        ptrdiff_t activation
        const normlib_array* residual
        const normlib_array* sum
        const normlib_array* dsum
        double negative_slope
        const normlib_array* gate
        const normlib_array* dgate
        ptrdiff_t gate_activation
        const normlib_array* where
        ptrdiff_t gate_first
        const normlib_array* scale
        const normlib_array* new_scale
        ptrdiff_t round_first
    ctypedef struct normlib_api:
        int abi_version, size
        const char* (*error_text)(int status) noexcept nogil
        int (*call)(const normlib_call* call) noexcept nogil
        int (*get_num_threads)() noexcept nogil
        int (*set_num_threads)(int threads) noexcept nogil
    const normlib_api* normlib
    int normlib_use(const void* table)
    int normlib_kind(int status)
    int normlib_layer_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, const void* bias, double eps,
                                void* y, int threads) noexcept
    int normlib_rms_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void* x, const void* weight, double eps, void* y,
                              int threads) noexcept
    int normlib_layer_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias, int axis, double eps,
                           const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept
    int normlib_layer_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                                    const normlib_array* rstd, int axis, const normlib_array* dx, const normlib_array* dweight,
                                    const normlib_array* dbias, int threads) noexcept
    int normlib_rms_norm(const normlib_array* x, const normlib_array* weight, int axis, double eps, const normlib_array* y,
                         const normlib_array* rstd, int threads) noexcept
    int normlib_rms_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* rstd,
                                  int axis, const normlib_array* dx, const normlib_array* dweight, int threads) noexcept
    int normlib_batch_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias,
                           const normlib_array* running_mean, const normlib_array* running_var, int training, double momentum, double eps,
                           int channel_axis, const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept
    int normlib_batch_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight, const normlib_array* mean,
                                    const normlib_array* rstd, int training, int channel_axis, const normlib_array* dx,
                                    const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept
    int normlib_group_norm(const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight, const normlib_array* bias, double eps,
                           int channel_axis, const normlib_array* y, const normlib_array* mean, const normlib_array* rstd, int threads) noexcept
    int normlib_group_norm_backward(const normlib_array* dy, const normlib_array* x, ptrdiff_t num_groups, const normlib_array* weight,
                                    const normlib_array* mean, const normlib_array* rstd, int channel_axis, const normlib_array* dx,
                                    const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept
    int normlib_instance_norm(const normlib_array* x, const normlib_array* weight, const normlib_array* bias,
                              const normlib_array* running_mean, const normlib_array* running_var, int use_input_stats, double momentum,
                              double eps, int channel_axis, const normlib_array* y, const normlib_array* mean, const normlib_array* rstd,
                              int threads) noexcept
    int normlib_instance_norm_backward(const normlib_array* dy, const normlib_array* x, const normlib_array* weight,
                                       const normlib_array* mean, const normlib_array* rstd, int use_input_stats, int channel_axis,
                                       const normlib_array* dx, const normlib_array* dweight, const normlib_array* dbias, int threads) noexcept

cdef enum:
    OPS = 10
    NOTHING = 0, X, DY, WEIGHT, BIAS, RUNNING_MEAN, RUNNING_VAR, MEAN, RSTD, Y, DX, DWEIGHT, DBIAS, ADD, DADD, RESIDUAL, SUM, DSUM, GATE, DGATE, WHERE
    SCALE, NEW_SCALE, ROLES
    NO_ACTIVATION = 0, RELU, LEAKY_RELU, SILU, GELU, GELU_TANH, SIGMOID, ACTIVATIONS

cdef enum:  # arrays of x's shape: x, y or dx, what epilogues read, what they write, the others
    OF_X, OF_Y, OF_DY, OF_ADD, OF_DSUM, OF_GATE, OF_WHERE, OF_DGATE, OF_DADD, OF_RESIDUAL, OF_SUM, VIEWS
    BESIDE = OF_DY, INPUTS = OF_DGATE, OUTPUTS = OF_DADD


cdef inline void arrays_of(const normlib_call* call, const normlib_array** at) noexcept nogil:
    at[X] = call.x
    at[DY] = call.dy
    at[WEIGHT] = call.weight
    at[BIAS] = call.bias
    at[RUNNING_MEAN] = call.running_mean
    at[RUNNING_VAR] = call.running_var
    at[MEAN] = call.mean
    at[RSTD] = call.rstd
    at[Y] = call.y
    at[DX] = call.dx
    at[DWEIGHT] = call.dweight
    at[DBIAS] = call.dbias
    at[ADD] = call.add
    at[DADD] = call.dadd
    at[RESIDUAL] = call.residual
    at[SUM] = call.sum
    at[DSUM] = call.dsum
    at[GATE] = call.gate
    at[DGATE] = call.dgate
    at[WHERE] = call.where
    at[SCALE] = call.scale
    at[NEW_SCALE] = call.new_scale


cdef inline void begin(normlib_call* call, int op, int axis, int threads) noexcept nogil:
    """A call without arrays; member by member, which takes less time than memset."""
    call.size = sizeof(normlib_call)
    call.op = op
    call.threads = threads
    call.axis = axis
    call.mode = 0
    call.axes = 0
    call.num_groups = 0
    call.momentum = 0
    call.eps = 0
    call.x = NULL
    call.dy = NULL
    call.weight = NULL
    call.bias = NULL
    call.running_mean = NULL
    call.running_var = NULL
    call.mean = NULL
    call.rstd = NULL
    call.y = NULL
    call.dx = NULL
    call.dweight = NULL
    call.dbias = NULL
    call.add = NULL
    call.dadd = NULL
    call.activation = 0
    call.residual = NULL
    call.sum = NULL
    call.dsum = NULL
    call.negative_slope = 0
    call.gate = NULL
    call.dgate = NULL
    call.gate_activation = 0
    call.where = NULL
    call.gate_first = 0
    call.scale = NULL
    call.new_scale = NULL
    call.round_first = 0
