/* An extension module in C that normalizes inside a loop of its own, without the GIL:
   extension.residual(x, branch, weight, eps) does, for each row of float32, x += branch; branch = rms_norm(x) * weight. */

#include <Python.h>
#include <normlib.h>

static PyObject *residual(PyObject *self, PyObject *args)
{
    Py_buffer x, branch, weight;
    double eps;
    int status = NORMLIB_OK;
    if (!PyArg_ParseTuple(args, "w*w*y*d", &x, &branch, &weight, &eps))
        return NULL;
    ptrdiff_t cols = weight.len / (ptrdiff_t)sizeof(float);
    ptrdiff_t rows = cols ? x.len / weight.len : 0;
    if (x.len != branch.len || rows * weight.len != x.len) {
        PyErr_SetString(PyExc_ValueError, "residual: the sizes do not fit");
    } else {
        Py_BEGIN_ALLOW_THREADS
        for (ptrdiff_t r = 0; r < rows && status == NORMLIB_OK; r++) {
            float *stream = (float *)x.buf + r * cols, *next = (float *)branch.buf + r * cols;
            for (ptrdiff_t i = 0; i < cols; i++)
                stream[i] += next[i];
            status = normlib_rms_norm_rows(NORMLIB_F32, 1, cols, stream, weight.buf, eps, next, 1);
        }
        Py_END_ALLOW_THREADS
        if (status)
            PyErr_Format(PyExc_ValueError, "residual: %s", normlib->error_text(status));
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&branch);
    PyBuffer_Release(&weight);
    (void)self;
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {{"residual", residual, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "extension", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_extension(void)
{
    if (normlib_import() < 0)
        return NULL;
    return PyModule_Create(&module);
}
