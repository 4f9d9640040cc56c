# Written by .ci/generate.py from normlib/description.py.

"""What `from normlib.capi cimport ...` gives: the functions of normlib.h, types and constants."""

from normlib._kernels.capi cimport (
    batch_norm, batch_norm_backward, call, error_text, get_num_threads, group_norm, group_norm_backward, instance_norm,
    instance_norm_backward, layer_norm, layer_norm_backward, layer_norm_rows, rms_norm, rms_norm_backward, rms_norm_rows,
    set_num_threads,
)
from normlib._kernels.header cimport (
    NORMLIB_ABI_VERSION, NORMLIB_BAD_ALIGN, NORMLIB_BAD_DTYPE, NORMLIB_BAD_LAYOUT, NORMLIB_BAD_SHAPE, NORMLIB_BAD_VALUE,
    NORMLIB_BAD_VERSION, NORMLIB_BATCH_NORM, NORMLIB_BATCH_NORM_BACKWARD, NORMLIB_BF16, NORMLIB_BOOL, NORMLIB_F16,
    NORMLIB_F32, NORMLIB_F64, NORMLIB_GELU, NORMLIB_GELU_TANH, NORMLIB_GROUP_NORM, NORMLIB_GROUP_NORM_BACKWARD,
    NORMLIB_I8, NORMLIB_INSTANCE_NORM, NORMLIB_INSTANCE_NORM_BACKWARD, NORMLIB_LAYER_NORM, NORMLIB_LAYER_NORM_BACKWARD,
    NORMLIB_LEAKY_RELU, NORMLIB_NOT_IMPORTED, NORMLIB_NOT_TAKEN, NORMLIB_NO_ACTIVATION, NORMLIB_NO_MEMORY, NORMLIB_NULL,
    NORMLIB_OK, NORMLIB_ONE_VALUE, NORMLIB_OVERLAP, NORMLIB_RELU, NORMLIB_RMS_NORM, NORMLIB_RMS_NORM_BACKWARD,
    NORMLIB_SIGMOID, NORMLIB_SILU, normlib_array, normlib_call, normlib_kind,
)
