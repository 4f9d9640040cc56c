# What else is computed in the same pass, from Python to a Call.

cdef bint fill_mask(Call* call, object given) except -1:
    """Booleans that broadcast against x."""
    cdef normlib_array* view = &call.view[WHERE]
    cdef const normlib_array* x = call.at[X]
    cdef cnp.ndarray a
    cdef int i, extra
    if not cnp.PyArray_CheckExact(given) or cnp.PyArray_TYPE(<cnp.ndarray>given) != cnp.NPY_BOOL:
        return False
    a = given
    extra = x.ndim - cnp.PyArray_NDIM(a)
    if extra < 0 or x.ndim > AXES:
        return False
    for i in range(x.ndim):
        call.of_mask[i] = 0
        if i >= extra and cnp.PyArray_DIM(a, i - extra) == x.shape[i]:
            call.of_mask[i] = cnp.PyArray_STRIDE(a, i - extra)
        elif i >= extra and cnp.PyArray_DIM(a, i - extra) != 1:
            return False
    view.data, view.dtype, view.ndim, view.shape, view.strides = cnp.PyArray_DATA(a), BOOL, x.ndim, x.shape, call.of_mask
    call.at[WHERE] = view
    return True


cdef int dtype_from(object value) except -2:
    """One of the four by its name or as NumPy's; -1 for others."""
    global _bfloat16
    if not isinstance(value, (str, type, np.dtype)):
        return -1
    if type(value) is str and value == "bfloat16":
        if _bfloat16 < 0:
            try:
                _bfloat16 = np.dtype("bfloat16").num
            except TypeError:   # the general way imports what has it
                return -1
        return BF16
    return _DTYPES.get(value, -1)


cdef bint fuse(Call* call, dict fused) except -1:
    """What else is computed in the same pass, by name; arrays to fill among it where the backend asks."""
    cdef int role, dtype
    for name, value in fused.items():
        if value is None or name is _canonical:
            continue
        if name == "activation":
            call.activation = _ACTIVATIONS.get(value, 0) if type(value) is str else 0
            if call.activation == 0:
                return False
            if call.activation == LEAKY_RELU and fused.get("negative_slope") is None:
                call.negative_slope = 0.01
            continue
        if name == "gate_activation":
            call.gate_activation = _ACTIVATIONS.get(value, 0) if type(value) is str else 0
            if call.gate_activation == 0 or fused.get("gate") is None:
                return False
            continue
        if name == "gate_first":
            if not is_bool(value) or (value and fused.get("gate") is None):
                return False
            call.gate_first = value
            continue
        if name == "negative_slope":
            if fused.get("activation") != "leaky_relu" or not number(value, &call.negative_slope):
                return False
            continue
        if name == "where":
            if value is not True and not fill_mask(call, value):
                return False
            continue
        if name == "round_first":
            if not is_bool(value) or not op_of(call).feature:
                return False
            call.round_first = value
            continue
        if name == "out_dtype":
            dtype = dtype_from(value)
            if dtype < 0 or fused.get("quantize") is not None:
                return False
            call.wanted = 1 + dtype
            continue
        if name == "quantize":
            if value != "int8":
                return False
            call.wanted = 1 + I8
            continue
        if name == "scale" and _canonical not in fused:
            if fused.get("quantize") is None:
                return False
            continue    # see `scale_of`
        role = _ROLES.get(name, 0)
        if not op_of(call).takes >> role & 1 or not fill(call, role, value):
            return False
        if op_of(call).writes >> role & 1 and ((name in _CANONICAL and _canonical not in fused) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>value)):
            return False
    if call.at[GATE] != NULL and call.gate_activation == 0:
        call.gate_activation = SILU
    return True
