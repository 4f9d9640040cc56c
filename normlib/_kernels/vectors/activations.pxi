# Activation functions in place: v[:n] becomes f(v), or with "slope" f'(v).

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

cdef extern from "activations.h" nogil:
    void sigmoid_f32(float*, Py_ssize_t)
    void sigmoid_f64(double*, Py_ssize_t)
    void sigmoid_slope_f32(float*, Py_ssize_t)
    void sigmoid_slope_f64(double*, Py_ssize_t)
    void silu_f32(float*, Py_ssize_t)
    void silu_f64(double*, Py_ssize_t)
    void silu_slope_f32(float*, Py_ssize_t)
    void silu_slope_f64(double*, Py_ssize_t)
    void gelu_f32(float*, Py_ssize_t)
    void gelu_f64(double*, Py_ssize_t)
    void gelu_slope_f32(float*, Py_ssize_t)
    void gelu_slope_f64(double*, Py_ssize_t)
    void gelu_tanh_f32(float*, Py_ssize_t)
    void gelu_tanh_f64(double*, Py_ssize_t)
    void gelu_tanh_slope_f32(float*, Py_ssize_t)
    void gelu_tanh_slope_f64(double*, Py_ssize_t)

ctypedef void (*OnFloats)(float*, Py_ssize_t) noexcept nogil
ctypedef void (*OnDoubles)(double*, Py_ssize_t) noexcept nogil

ACTIVATIONS = ("sigmoid", "silu", "gelu", "gelu_tanh")
cdef OnFloats* on_floats = [sigmoid_f32, silu_f32, gelu_f32, gelu_tanh_f32]
cdef OnFloats* slopes_on_floats = [sigmoid_slope_f32, silu_slope_f32, gelu_slope_f32, gelu_tanh_slope_f32]
cdef OnDoubles* on_doubles = [sigmoid_f64, silu_f64, gelu_f64, gelu_tanh_f64]
cdef OnDoubles* slopes_on_doubles = [sigmoid_slope_f64, silu_slope_f64, gelu_slope_f64, gelu_tanh_slope_f64]


def activate(values, name, bint slope=False):
    """For tests: a contiguous array of float32 or float64 becomes that activation function of it, or its slope."""
    cdef Py_ssize_t i = ACTIVATIONS.index(name)
    cdef Py_buffer v
    PyObject_GetBuffer(values, &v, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
    if v.itemsize == sizeof(float):
        (slopes_on_floats[i] if slope else on_floats[i])(<float*>v.buf, v.len // v.itemsize)
    else:
        (slopes_on_doubles[i] if slope else on_doubles[i])(<double*>v.buf, v.len // v.itemsize)
    PyBuffer_Release(&v)
