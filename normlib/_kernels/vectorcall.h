/* What Cython cannot say: that objects of a class are called without a tuple and a dict of arguments. */
#ifndef NORMLIB_VECTORCALL_H
#define NORMLIB_VECTORCALL_H
#include <Python.h>

/* The address of the function is a member of the object, so many bytes from its beginning. */
static inline void call_by_member(PyObject *of, Py_ssize_t offset)
{
    PyTypeObject *type = (PyTypeObject *)of;
    type->tp_vectorcall_offset = offset;
    type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
    if (type->tp_call == NULL)
        type->tp_call = PyVectorcall_Call;
    PyType_Modified(type);
}
#endif
