"""The norms as a handler of XLA's foreign function interface, through which JAX calls them without Python: interop/jax.py.

The structures are those of XLA's C interface, version 0.1 and later (xla/ffi/api/c_api.h, which comes with jaxlib and documents
them); only what is read or filled here is named. They are declared here so that no build needs JAX."""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy
from normlib._kernels cimport capi
from normlib._kernels.capi cimport NORMLIB_BF16, NORMLIB_F16, NORMLIB_F32, NORMLIB_F64, normlib_array

cdef enum:
    METADATA = 1                            # a type of extension
    EXECUTE = 3                             # a stage
    INVALID_ARGUMENT = 3                    # a code of errors
    XLA_U32 = 8                             # types of elements
    XLA_F16 = 10
    XLA_F32 = 11
    XLA_F64 = 12
    XLA_BF16 = 16

cdef struct Extension:
    size_t size
    int type
    Extension* next

cdef struct Version:
    size_t size
    Extension* extension
    int major
    int minor

cdef struct Buffer:
    size_t size
    Extension* extension
    int dtype
    void* data
    int64_t rank
    int64_t* dims

cdef struct Buffers:                        # arguments, or results
    size_t size
    Extension* extension
    int64_t count
    int* types
    Buffer** buffers

cdef struct Numbers:                        # an attribute that is an array
    int dtype
    size_t count
    int64_t* values

cdef struct Attributes:
    size_t size
    Extension* extension
    int64_t count
    int* types
    void** names
    void** values

cdef struct Message:
    size_t size
    Extension* extension
    const char* text
    int code

cdef struct Api:
    size_t size
    Extension* extension
    Version version
    void* internal
    void* (*new_error)(Message*) noexcept nogil

cdef struct Frame:
    size_t size
    Extension* extension
    Api* api
    void* context
    int stage
    Buffers arguments
    Buffers results
    Attributes attributes

cdef struct Metadata:
    size_t size
    Version version
    uint32_t traits

cdef struct MetadataExtension:
    Extension base
    Metadata* metadata

# What `spec`, the one attribute, holds; then the axes of x in the order in which the function is to see them, where `reordered`.
cdef struct Spec:
    int64_t op
    int64_t operands                        # a bit for each of those that are given, in the order of OPERANDS
    int64_t results                         # and in the order of RESULTS
    int64_t axis
    int64_t num_groups
    int64_t mode
    int64_t reordered
    double momentum
    double eps

OPS = tuple(f"{norm}_norm{way}" for norm in ("layer", "rms", "batch", "group", "instance") for way in ("", "_backward"))
OPERANDS = ("x", "dy", "weight", "bias", "running_mean", "running_var", "mean", "rstd")
RESULTS = ("y", "dx", "mean", "rstd", "dweight", "dbias", "running_mean", "running_var")

cdef enum:
    LAYER, LAYER_BACKWARD, RMS, RMS_BACKWARD, BATCH, BATCH_BACKWARD, GROUP, GROUP_BACKWARD, INSTANCE, INSTANCE_BACKWARD
    X = 0, DY, WEIGHT, BIAS, RUNNING_MEAN, RUNNING_VAR, MEAN, RSTD
    Y = 0, DX, NEW_MEAN, NEW_RSTD, DWEIGHT, DBIAS, MOVED_MEAN, MOVED_VAR
    SLOTS = 8
    MOST_AXES = 32

cdef struct Arrays:
    normlib_array array[SLOTS]
    normlib_array* at[SLOTS]                # NULL where there is none


cdef void describe(const Buffers* buffers, int64_t given, Arrays* arrays) noexcept nogil:
    cdef Buffer* buffer
    cdef normlib_array* a
    cdef int i, next = 0
    for i in range(SLOTS):
        arrays.at[i] = NULL
        if given >> i & 1:
            buffer = buffers.buffers[next]
            next += 1
            a = arrays.at[i] = &arrays.array[i]
            a.data = buffer.data
            a.ndim = <int>buffer.rank
            a.shape = <Py_ssize_t*>buffer.dims
            a.strides = NULL
            a.dtype = (NORMLIB_F32 if buffer.dtype == XLA_F32 else NORMLIB_BF16 if buffer.dtype == XLA_BF16
                       else NORMLIB_F16 if buffer.dtype == XLA_F16 else NORMLIB_F64)
            if buffer.dtype == XLA_U32:     # pairs that hold a float64 each
                a.ndim -= 1


cdef void seen(normlib_array* a, const Py_ssize_t* shape, const Py_ssize_t* strides) noexcept nogil:
    if a != NULL:
        a.shape = shape
        a.strides = strides


cdef void reorder(Arrays* operands, Arrays* results, const int64_t* order, Py_ssize_t* shape, Py_ssize_t* strides) noexcept nogil:
    """Let the arrays with the shape of x be seen with their axes in another order."""
    cdef normlib_array* x = operands.at[X]
    cdef Py_ssize_t dense[MOST_AXES]
    cdef Py_ssize_t stride = 8 if x.dtype == NORMLIB_F64 else 4 if x.dtype == NORMLIB_F32 else 2
    cdef int i
    for i in range(x.ndim - 1, -1, -1):
        dense[i] = stride
        stride *= x.shape[i]
    for i in range(x.ndim):
        shape[i] = x.shape[order[i]]
        strides[i] = dense[order[i]]
    seen(x, shape, strides)
    seen(operands.at[DY], shape, strides)
    seen(results.at[Y], shape, strides)
    seen(results.at[DX], shape, strides)


cdef int run(Frame* frame) noexcept nogil:
    cdef const int64_t* numbers = (<Numbers*>frame.attributes.values[0]).values
    cdef Spec s
    cdef Arrays operands, results
    cdef normlib_array** i = operands.at
    cdef normlib_array** o = results.at
    cdef normlib_array* mean
    cdef normlib_array* var
    cdef Py_ssize_t shape[MOST_AXES]
    cdef Py_ssize_t strides[MOST_AXES]
    cdef int axis, mode
    memcpy(&s, numbers, sizeof(Spec))
    describe(&frame.arguments, s.operands, &operands)
    describe(&frame.results, s.results, &results)
    if s.reordered:
        reorder(&operands, &results, numbers + sizeof(Spec) // sizeof(int64_t), shape, strides)
    axis, mode = <int>s.axis, <int>s.mode
    # Running statistics that move lie where they are read: XLA has copied them there.
    mean = o[MOVED_MEAN] if o[MOVED_MEAN] != NULL else i[RUNNING_MEAN]
    var = o[MOVED_VAR] if o[MOVED_VAR] != NULL else i[RUNNING_VAR]
    if s.op == LAYER:
        return capi.layer_norm(i[X], i[WEIGHT], i[BIAS], axis, s.eps, o[Y], o[NEW_MEAN], o[NEW_RSTD], 0)
    if s.op == LAYER_BACKWARD:
        return capi.layer_norm_backward(i[DY], i[X], i[WEIGHT], i[MEAN], i[RSTD], axis, o[DX], o[DWEIGHT], o[DBIAS], 0)
    if s.op == RMS:
        return capi.rms_norm(i[X], i[WEIGHT], axis, s.eps, o[Y], o[NEW_RSTD], 0)
    if s.op == RMS_BACKWARD:
        return capi.rms_norm_backward(i[DY], i[X], i[WEIGHT], i[RSTD], axis, o[DX], o[DWEIGHT], 0)
    if s.op == BATCH:
        return capi.batch_norm(i[X], i[WEIGHT], i[BIAS], mean, var, mode, s.momentum, s.eps, axis, o[Y], o[NEW_MEAN], o[NEW_RSTD], 0)
    if s.op == BATCH_BACKWARD:
        return capi.batch_norm_backward(i[DY], i[X], i[WEIGHT], i[MEAN], i[RSTD], mode, axis, o[DX], o[DWEIGHT], o[DBIAS], 0)
    if s.op == GROUP:
        return capi.group_norm(i[X], s.num_groups, i[WEIGHT], i[BIAS], s.eps, axis, o[Y], o[NEW_MEAN], o[NEW_RSTD], 0)
    if s.op == GROUP_BACKWARD:
        return capi.group_norm_backward(i[DY], i[X], s.num_groups, i[WEIGHT], i[MEAN], i[RSTD], axis, o[DX], o[DWEIGHT], o[DBIAS], 0)
    if s.op == INSTANCE:
        return capi.instance_norm(i[X], i[WEIGHT], i[BIAS], mean, var, mode, s.momentum, s.eps, axis, o[Y], o[NEW_MEAN], o[NEW_RSTD],
                                  0)
    return capi.instance_norm_backward(i[DY], i[X], i[WEIGHT], i[MEAN], i[RSTD], mode, axis, o[DX], o[DWEIGHT], o[DBIAS], 0)


cdef void* handle(Frame* frame) noexcept nogil:
    """Called by XLA: once to ask for the version, then for each execution. NULL is success."""
    cdef Metadata* metadata
    cdef Message message
    cdef int status
    if frame.extension != NULL and frame.extension.type == METADATA:
        metadata = (<MetadataExtension*>frame.extension).metadata
        metadata.version.major = 0
        metadata.version.minor = declared
        metadata.traits = 0
        return NULL
    if frame.stage != EXECUTE:
        return NULL
    status = run(frame)
    if status == 0:
        return NULL
    message.size = sizeof(Message)
    message.extension = NULL
    message.text = capi.error_text(status)
    message.code = INVALID_ARGUMENT
    return frame.api.new_error(&message)


VERSIONS = 3, 2, 1                          # minor versions that have these structures
cdef int declared = 3


def declare(int version):
    """Let the handler say that it is of this minor version; XLA takes none that is newer than its own, nor all that are older."""
    global declared
    declared = version


handler = PyCapsule_New(<void*>handle, NULL, NULL)
