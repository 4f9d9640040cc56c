"""The norms as a handler of XLA's foreign function interface, through which JAX calls them without Python: interop/jax.py.

The structures are those of XLA's C interface, version 0.1 and later (xla/ffi/api/c_api.h, which comes with jaxlib and documents
them); only what is read or filled here is named. They are declared here so that no build needs JAX."""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from normlib._kernels.call cimport Call, perform
from normlib._kernels.check cimport clear
from normlib._kernels.from_c cimport error_text
from normlib._kernels.header cimport NORMLIB_BF16, NORMLIB_BOOL, NORMLIB_F16, NORMLIB_F32, NORMLIB_F64, ROLES, X, normlib_array

cdef enum:
    METADATA = 1                            # a type of extension
    EXECUTE = 3                             # a stage
    INVALID_ARGUMENT = 3                    # a code of errors
    XLA_PRED = 1                            # types of elements
    XLA_U32 = 8
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

# What `spec`, the one attribute, holds.
cdef struct Spec:
    int64_t op                              # its place in description.FUNCTIONS
    int64_t operands                        # a bit for each of those that are given, by its place in description.ROLES
    int64_t results                         # and for each result; they come in this order
    int64_t axis                            # of the channels
    int64_t axes                            # a bit for each that is normalized over
    int64_t num_groups
    int64_t mode
    double momentum
    double eps
    int64_t activation                      # and then OPTIONS
    int64_t gate_activation
    double negative_slope
    int64_t gate_first
    int64_t round_first


cdef void fill(Call* call, const Buffers* buffers, int64_t given) noexcept nogil:
    cdef Buffer* buffer
    cdef normlib_array* a
    cdef int role, next = 0
    for role in range(X, ROLES):
        if given >> (role - X) & 1:
            buffer = buffers.buffers[next]
            next += 1
            a = &call.view[role]
            call.at[role] = a
            a.data = buffer.data
            a.ndim = <int>buffer.rank
            a.shape = <Py_ssize_t*>buffer.dims
            a.strides = NULL
            a.dtype = (NORMLIB_F32 if buffer.dtype == XLA_F32 else NORMLIB_BF16 if buffer.dtype == XLA_BF16
                       else NORMLIB_F16 if buffer.dtype == XLA_F16 else NORMLIB_BOOL if buffer.dtype == XLA_PRED else NORMLIB_F64)
            if buffer.dtype == XLA_U32:     # pairs that hold a float64 each
                a.ndim -= 1


cdef int run(Frame* frame) noexcept nogil:
    cdef Spec s
    cdef Call call
    memcpy(&s, (<Numbers*>frame.attributes.values[0]).values, sizeof(Spec))
    clear(&call, <int>s.op)
    fill(&call, &frame.arguments, s.operands)
    fill(&call, &frame.results, s.results)      # running statistics that move are both: XLA has copied them
    call.axis, call.axes, call.num_groups, call.mode = <int>s.axis, <uint64_t>s.axes, s.num_groups, <int>s.mode
    call.momentum, call.eps = s.momentum, s.eps
    call.activation, call.gate_activation, call.negative_slope = s.activation, s.gate_activation, s.negative_slope
    call.gate_first, call.round_first = s.gate_first, s.round_first
    return perform(&call)


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
    message.text = error_text(status)
    message.code = INVALID_ARGUMENT
    return frame.api.new_error(&message)


OPTIONS = "activation", "gate_activation", "negative_slope", "gate_first", "round_first"   # of the same pass: the last members of Spec
VERSIONS = 3, 2, 1                          # minor versions that have these structures
cdef int declared = 3


def declare(int version):
    """Let the handler say that it is of this minor version; XLA takes none that is newer than its own, nor all that are older."""
    global declared
    declared = version


handler = PyCapsule_New(<void*>handle, NULL, NULL)
