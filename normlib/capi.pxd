"""What `from normlib.capi cimport ...` gives: the functions of normlib.h, without the GIL, and its types and constants."""

from normlib._kernels.capi cimport (
    NORMLIB_BAD_ALIGN, NORMLIB_BAD_DTYPE, NORMLIB_BAD_LAYOUT, NORMLIB_BAD_SHAPE, NORMLIB_BAD_VALUE, NORMLIB_BF16, NORMLIB_F16,
    NORMLIB_F32, NORMLIB_F64, NORMLIB_NO_MEMORY, NORMLIB_NULL, NORMLIB_OK, NORMLIB_ONE_VALUE, NORMLIB_OVERLAP,
    batch_norm, batch_norm_backward, error_text, group_norm, group_norm_backward, instance_norm, instance_norm_backward,
    layer_norm, layer_norm_backward, layer_norm_rows, normlib_array, normlib_kind, rms_norm, rms_norm_backward, rms_norm_rows,
)
