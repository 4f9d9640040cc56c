"""How objects of a class are called without a tuple and a dict of arguments."""

from cpython.object cimport PyObject

cdef extern from "vectorcall.h":
    void call_by_member(object of, Py_ssize_t offset)

cdef extern from "Python.h":
    ctypedef void* vectorcallfunc
    Py_ssize_t PyVectorcall_NARGS(size_t flagged)
    object PyObject_Vectorcall(object function, PyObject** args, size_t flagged, PyObject* names)
    object PyMethod_New(object function, object of)
    Py_ssize_t PyTuple_GET_SIZE(PyObject* names)
    PyObject* PyTuple_GET_ITEM(PyObject* names, Py_ssize_t i)
