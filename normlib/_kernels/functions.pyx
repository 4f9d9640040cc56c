"""The public functions without a frame of Python, and the direct ones of the compiled backend.

A `Function` stands in the place of the function in normlib/ops.py that it is made of: its name, docstring and signature are that one's. It
computes the ordinary call while the compiled backend is in use; any other call it hands on to that function."""

import functools
import inspect

cimport numpy as cnp
from cpython.contextvars cimport get_value
from cpython.object cimport PyObject
from libc.string cimport memcpy
from normlib._kernels.from_python cimport ARGUMENTS, compute_from
from normlib._kernels.vectorcall cimport (
    PyMethod_New, PyObject_Vectorcall, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyVectorcall_NARGS, call_by_member, vectorcallfunc,
)
from normlib.description import FUNCTIONS

cnp.import_array()


cdef class Direct:
    """The direct function of an operation: takes all arguments of the public one, and a dict of what is fused, or None."""

    cdef vectorcallfunc call
    cdef int number, count
    cdef readonly str name

    def __cinit__(self, str name="layer_norm"):
        self.call = <vectorcallfunc>call_direct
        self.name, self.number, self.count = name, list(FUNCTIONS).index(name), len(FUNCTIONS[name].names) + 1


cdef object call_direct(Direct self, PyObject** a, size_t flagged, PyObject* names):
    if names != NULL or PyVectorcall_NARGS(flagged) != self.count:
        raise TypeError(f"{self.name}: expected {self.count} arguments without names")
    return compute_from(self.number, a)


cdef class Function:
    """A public function."""

    cdef vectorcallfunc call
    cdef Direct direct              # what computes it, while it is in use
    cdef object function, active    # what it is made of; which table of functions is in use
    cdef str slot                   # where the table has `direct`
    cdef tuple names, defaults      # of its arguments; those of what is fused have none
    cdef set fused
    cdef PyObject* values[ARGUMENTS]     # the defaults once more; NULL where there is none
    cdef int count, positional
    cdef bint warns                 # of an x of three axes with another channel_axis than 1
    cdef int x, channel_axis        # where these come
    cdef object __weakref__
    cdef dict __dict__

    def __cinit__(self):
        self.call = <vectorcallfunc>call_function

    def __init__(self, function, active, Direct direct):
        cdef int i
        described = FUNCTIONS[function.__name__]
        given = list(inspect.signature(function).parameters.values())
        self.function, self.active, self.direct, self.slot = function, active, direct, f"{function.__name__}_direct"
        self.count = len(described.names)
        self.names = described.names
        self.defaults = tuple([p.default for p in given[:self.count]])
        self.fused = {p.name for p in given[self.count:]}
        self.positional = sum([p.kind is p.POSITIONAL_OR_KEYWORD for p in given])
        self.warns = described.op.per_sample and not described.backward
        self.x = self.names.index("x")
        self.channel_axis = self.names.index("channel_axis") if described.op.of_channels else 0
        for i in range(self.count):
            self.values[i] = NULL if self.defaults[i] is inspect.Parameter.empty else PyTuple_GET_ITEM(<PyObject*>self.defaults, i)
        functools.update_wrapper(self, function)

    def __call__(self, *arguments, **options):
        return self.function(*arguments, **options)

    def __get__(self, of, kind):
        return self if of is None else PyMethod_New(self, of)

    def __reduce__(self):
        return self.__qualname__

    def __repr__(self):
        return f"<function {self.__qualname__} at {id(self):#x}>"


cdef object put_in_order(Function self, PyObject** a, PyObject** args, Py_ssize_t given, PyObject* names):
    """The arguments of a call in their order; returns a dict of what is fused, None where nothing is, and False where it is for
    Python's own function to say what is wrong."""
    cdef dict fused = None
    cdef PyObject* name
    cdef Py_ssize_t i
    cdef int k
    if given > self.positional:
        return False
    memcpy(a, self.values, self.count * sizeof(PyObject*))
    memcpy(a, args, given * sizeof(PyObject*))
    for i in range(PyTuple_GET_SIZE(names) if names != NULL else 0):
        name = PyTuple_GET_ITEM(names, i)
        k = 0
        while k < self.count and PyTuple_GET_ITEM(<PyObject*>self.names, k) != name:
            k += 1
        if k < self.count and k >= given:
            a[k] = args[given + i]
        elif k == self.count and <object>name in self.fused:
            fused = {} if fused is None else fused
            fused[<object>name] = <object>args[given + i]
        else:
            return False
    for k in range(self.count):
        if a[k] == NULL:
            return False
    return fused


cdef object call_function(Function self, PyObject** args, size_t flagged, PyObject* names):
    cdef PyObject* a[ARGUMENTS]
    fused = put_in_order(self, a, args, PyVectorcall_NARGS(flagged), names)
    if fused is False or (self.warns and a[self.channel_axis] != self.values[self.channel_axis] and of_three_axes(<object>a[self.x])):
        return PyObject_Vectorcall(self.function, args, flagged, names)
    if getattr(get_value(self.active), self.slot) is self.direct:
        a[self.count] = <PyObject*>fused
        result = compute_from(self.direct.number, a)
        if result is not NotImplemented:
            return result
    return PyObject_Vectorcall(self.function, args, flagged, names)


cdef inline bint of_three_axes(object x) noexcept:
    return cnp.PyArray_Check(x) and cnp.PyArray_NDIM(<cnp.ndarray>x) == 3


cdef void call_by_members():
    cdef Direct direct = Direct.__new__(Direct)
    cdef Function function = Function.__new__(Function)
    call_by_member(Direct, <char*>&direct.call - <char*><void*>direct)
    call_by_member(Function, <char*>&function.call - <char*><void*>function)


call_by_members()
direct = {name: Direct(name) for name in FUNCTIONS}
