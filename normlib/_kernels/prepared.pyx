"""Plans of normlib.prepare: a call that has been checked, from which a pass differs in the addresses of x and y alone.

What does not fit goes to the plan of Python that it is made of, which says what is wrong, or computes it."""

cimport numpy as cnp
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
from libc.string cimport memcmp
from normlib._kernels.call cimport Call, kernels_in_use
from normlib._kernels.check cimport check, op_of
from normlib._kernels.from_python cimport ARGUMENTS, KEEP_GIL, asked, fill, finished, is_ordinary
from normlib._kernels.header cimport BIAS, WEIGHT, WHERE, Y, normlib_array
from normlib._kernels.layout cimport AXES, Extent, extent_of
from normlib._kernels.outputs cimport new_like
from normlib._kernels.parallel cimport current_threads
from normlib._kernels.plan cimport ALONE_BYTES, FEATURE_ROW, Plan as Pass, Run, alone_row, working_size, size_of
from normlib._kernels.schedule cimport execute
from normlib._kernels.vectorcall cimport PyObject_Vectorcall, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyVectorcall_NARGS, call_by_member, vectorcallfunc
from normlib.description import FUNCTIONS

cnp.import_array()


cdef struct Form:
    # What an array must be like.
    int dtype           # by NumPy's number
    int ndim
    Py_ssize_t[AXES] shape, strides
    Py_ssize_t low, high    # where its memory begins and ends, from its address on


cdef bint has_form(const Form* form, PyObject* given) noexcept:
    cdef cnp.ndarray a
    cdef int i
    if not is_ordinary(<object>given):
        return False
    a = <cnp.ndarray>given
    if cnp.PyArray_TYPE(a) != form.dtype or cnp.PyArray_NDIM(a) != form.ndim:
        return False
    for i in range(form.ndim):
        if cnp.PyArray_DIM(a, i) != form.shape[i] or (cnp.PyArray_STRIDE(a, i) != form.strides[i] and form.shape[i] > 1):
            return False
    return True


cdef Form form_of(cnp.ndarray a) noexcept:
    cdef Form form
    cdef Extent extent
    cdef int i
    form.dtype, form.ndim = cnp.PyArray_TYPE(a), cnp.PyArray_NDIM(a)
    for i in range(form.ndim):
        form.shape[i], form.strides[i] = cnp.PyArray_DIM(a, i), cnp.PyArray_STRIDE(a, i)
    extent = extent_of(cnp.PyArray_DATA(a), cnp.PyArray_ITEMSIZE(a), form.ndim, form.shape, form.strides)
    form.low, form.high = extent.low - <char*>cnp.PyArray_DATA(a), extent.high - <char*>cnp.PyArray_DATA(a)
    return form


cdef class Plan:
    """A plan whose calls the kernels compute."""

    cdef vectorcallfunc call
    cdef object plain
    cdef Form x, y
    cdef bint alike             # y is of the form of x, so it may be x
    cdef bint alone
    cdef Pass ready             # but for the addresses of x and y
    cdef Extent[2] held         # weight and bias
    cdef int many               # of these
    cdef Run run                # NULL where none of it is known
    cdef object __weakref__

    def __cinit__(self):
        self.call = <vectorcallfunc>call_plan

    def __init__(self, plain, list arguments, dict fused, cnp.ndarray x not None, cnp.ndarray y not None):
        self.plain = plain
        self.x, self.y = form_of(x), form_of(y)
        self.alike = self.x.dtype == self.y.dtype and memcmp(self.x.strides, self.y.strides, self.x.ndim * sizeof(Py_ssize_t)) == 0
        if fill_in(self, list(FUNCTIONS).index(plain.op), [*arguments, fused], y):
            self.run = kernels_in_use()
            self.alone = alone_row(&self.ready) and self.ready.bytes <= ALONE_BYTES

    def __call__(self, x, out=None):
        return self.plain(x, out)

    @property
    def __class__(self):
        return type(self.plain)

    @property
    def op(self):
        return self.plain.op

    def __repr__(self):
        return repr(self.plain)

    def __reduce__(self):
        return self.plain.__reduce__()


cdef bint fill_in(Plan self, int number, list arguments, cnp.ndarray y) except -1:
    """The pass, where it has nothing but x, y and parameters of the working type."""
    cdef Call call
    cdef PyObject* a[ARGUMENTS]
    cdef const normlib_array* parameter
    cdef int i, role
    for i in range(len(arguments)):
        a[i] = PyList_GET_ITEM(arguments, i)
    self.many = 0
    if asked(&call, number, a) == NULL or op_of(&call).moving or call.eps == 0 or call.at[WHERE] != NULL or not fill(&call, Y, y):
        return False
    if check(&call) or call.sliced or call.plan.own:
        return False
    for i in range(self.x.ndim):
        if self.x.strides[i] == 0 and self.x.shape[i] > 1:      # broadcast: a new result has another order than `new_like` gives it
            return False
    for role in (WEIGHT, BIAS):
        parameter = call.at[role]
        if parameter != NULL:
            if size_of(parameter.dtype) != working_size(call.plan.dtype):
                return False
            self.held[self.many].low = <const char*>parameter.data
            self.held[self.many].high = self.held[self.many].low + call.parameter.count * size_of(parameter.dtype)
            self.many += 1
    self.ready = call.plan
    self.ready.weight = <const char*>call.at[WEIGHT].data if call.at[WEIGHT] != NULL else NULL
    self.ready.bias = <const char*>call.at[BIAS].data if call.at[BIAS] != NULL else NULL
    self.ready.interruptible = True
    return True


cdef bint may_write(Plan self, PyObject* x, PyObject* out) noexcept:
    """Whether it is of the form of the result, and shares memory with nothing but an x that is the same."""
    cdef const char* begin
    cdef const char* end
    cdef const char* of_x
    cdef int i
    if not has_form(&self.y, out) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out):
        return False
    of_x, begin = <const char*>cnp.PyArray_DATA(<cnp.ndarray>x), <const char*>cnp.PyArray_DATA(<cnp.ndarray>out)
    if of_x != begin or not self.alike:
        if begin + self.y.low < of_x + self.x.high and of_x + self.x.low < begin + self.y.high:
            return False
    begin, end = begin + self.y.low, begin + self.y.high
    for i in range(self.many):
        if begin < self.held[i].high and self.held[i].low < end:
            return False
    return True


cdef int compute(Plan self, const char* x, char* y, bint fresh) except -1:
    cdef Pass p
    cdef int threads, status
    if self.alone:      # what its kernel reads is all that is filled in
        p.dtype, p.length, p.centered, p.eps = self.ready.dtype, self.ready.length, self.ready.centered, self.ready.eps
        p.weight, p.bias, p.mean, p.rstd, p.x, p.y = self.ready.weight, self.ready.bias, NULL, NULL, x, y
        self.run(FEATURE_ROW, &p, 0)
        return 0
    threads = current_threads()
    p = self.ready
    p.x, p.y, p.fresh = x, y, y if fresh else NULL
    if p.bytes <= KEEP_GIL:
        status = execute(self.run, &p, threads)
    else:
        with nogil:
            status = execute(self.run, &p, threads)
    finished(status)
    return 0


cdef object call_plan(Plan self, PyObject** args, size_t flagged, PyObject* names):
    cdef Py_ssize_t given = PyVectorcall_NARGS(flagged), named = PyTuple_GET_SIZE(names) if names != NULL else 0
    cdef PyObject* out = args[1] if given + named == 2 else NULL
    cdef cnp.ndarray y
    if named and (given != 1 or named != 1 or <object>PyTuple_GET_ITEM(names, 0) != "out"):
        return PyObject_Vectorcall(self.plain, args, flagged, names)
    if self.run == NULL or not 1 <= given <= 2 or not has_form(&self.x, args[0]):
        return PyObject_Vectorcall(self.plain, args, flagged, names)
    if out == <PyObject*>None:
        out = NULL
    if out == NULL:
        y = new_like(<cnp.ndarray>args[0], self.y.dtype)
    elif may_write(self, args[0], out):
        y = <cnp.ndarray>out
    else:
        return PyObject_Vectorcall(self.plain, args, flagged, names)
    compute(self, <const char*>cnp.PyArray_DATA(<cnp.ndarray>args[0]), <char*>cnp.PyArray_DATA(y), out == NULL)
    return y


cdef void call_by_members():
    cdef Plan plan = Plan.__new__(Plan)
    call_by_member(Plan, <char*>&plan.call - <char*><void*>plan)


call_by_members()
