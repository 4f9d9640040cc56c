"""The table of normlib.h: calls that come as a normlib_call, and the words of a status."""

from cpython.bytes cimport PyBytes_AsString
from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport memcpy, memset
from normlib._kernels.call cimport ARGUMENTS, STRUCT, THREADS, Call, clear, kernels_in_use, perform, wrong
from normlib._kernels.header cimport (
    NORMLIB_ABI_VERSION, NORMLIB_BAD_VALUE, NORMLIB_NOT_TAKEN, NORMLIB_NULL, arrays_of, normlib_api, normlib_call,
)
from normlib._kernels.parallel cimport default_threads, set_default_threads
from normlib.description import ROLES

if kernels_in_use() == NULL:
    raise ImportError("normlib.capi: no compiled kernels are in use")

cdef enum:
    MOST_THREADS = 4096


cdef int complete(const normlib_call* given, normlib_call* all_of_it) noexcept nogil:
    """A call of another version: 0 for what it does not have; a status if it has what this version does not know."""
    cdef size_t i
    if given == NULL:
        return wrong(NORMLIB_NULL, STRUCT)
    if given.size < sizeof(size_t) + sizeof(int):
        return wrong(NORMLIB_BAD_VALUE, STRUCT)
    for i in range(sizeof(normlib_call), given.size):
        if (<const char*>given)[i]:
            return wrong(NORMLIB_NOT_TAKEN, STRUCT)
    memset(all_of_it, 0, sizeof(normlib_call))
    memcpy(all_of_it, given, min(given.size, sizeof(normlib_call)))
    return 0


cdef int call_of(const normlib_call* given) noexcept nogil:
    cdef normlib_call c
    cdef Call call
    cdef int status = complete(given, &c)
    if status:
        return status
    clear(&call, c.op)
    call.threads, call.axis, call.mode, call.axes = c.threads, c.axis, c.mode, c.axes
    call.num_groups, call.momentum, call.eps = c.num_groups, c.momentum, c.eps
    arrays_of(&c, call.at)
    return perform(&call)


cdef int set_threads(int threads) noexcept nogil:
    if not 1 <= threads <= MOST_THREADS:
        return wrong(NORMLIB_BAD_VALUE, THREADS)
    set_default_threads(threads)
    return 0


# ---- the words of a status ----

_NAMES = ("", *ROLES, "op", "axis", "channel_axis", "num_groups", "eps", "momentum", "threads", "call")
_KINDS = (
    "no error",
    "NULL, but it is needed here",
    "not a dtype that is taken here",
    "the number of axes or a size does not fit",
    "an address or stride is no multiple of the size of an element",
    "these strides are not taken: make a copy without gaps",
    "an output shares memory with another argument or with itself",
    "outside its range",
    "one value a channel has no variance to learn from: more are needed",
    "no memory for scratch space",
    "the table is of another version than the header",
    "normlib_import() or normlib_use() has not been called",
    "not an argument of this function in this version",
)
cdef enum:
    KINDS = NORMLIB_NOT_TAKEN + 1
_TEXTS = [f"{name}: {kind}".removeprefix(": ").encode() for name in _NAMES for kind in _KINDS]
cdef const char* texts[ARGUMENTS * KINDS]   # into _TEXTS


cdef object point_at_texts():
    cdef int i
    for i in range(ARGUMENTS * KINDS):
        texts[i] = PyBytes_AsString(_TEXTS[i])


point_at_texts()


cdef const char* error_text(int status) noexcept nogil:
    cdef int argument = status // 256, kind = status % 256
    if status < 0 or argument >= ARGUMENTS or kind >= KINDS:
        return "not a status of normlib"
    return texts[argument * KINDS + kind]


api.abi_version = NORMLIB_ABI_VERSION
api.size = sizeof(normlib_api)
api.error_text = error_text
api.call = call_of
api.get_num_threads = default_threads
api.set_num_threads = set_threads

table = PyCapsule_New(&api, "normlib.capi.table", NULL)
