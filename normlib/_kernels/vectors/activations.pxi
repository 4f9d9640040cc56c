# Activation functions in place: v[:n] becomes f(v), or with "slope" f'(v). Those of one line are in epilogues.pxi.

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from normlib._kernels.header cimport ACTIVATIONS, GELU, GELU_TANH, SIGMOID, SILU

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
    void tanh_f32(float*, Py_ssize_t)
    void tanh_f64(double*, Py_ssize_t)

cdef struct Activation:
    void (*on_floats)(float*, Py_ssize_t) noexcept nogil
    void (*slopes_of_floats)(float*, Py_ssize_t) noexcept nogil
    void (*on_doubles)(double*, Py_ssize_t) noexcept nogil
    void (*slopes_of_doubles)(double*, Py_ssize_t) noexcept nogil

cdef Activation activations[ACTIVATIONS]
activations[SIGMOID] = Activation(sigmoid_f32, sigmoid_slope_f32, sigmoid_f64, sigmoid_slope_f64)
activations[SILU] = Activation(silu_f32, silu_slope_f32, silu_f64, silu_slope_f64)
activations[GELU] = Activation(gelu_f32, gelu_slope_f32, gelu_f64, gelu_slope_f64)
activations[GELU_TANH] = Activation(gelu_tanh_f32, gelu_tanh_slope_f32, gelu_tanh_f64, gelu_tanh_slope_f64)


cdef inline void activate(int activation, work* v, Py_ssize_t n, bint slope) noexcept nogil:
    cdef const Activation* a = &activations[activation]
    if work is float:
        (a.slopes_of_floats if slope else a.on_floats)(v, n)
    else:
        (a.slopes_of_doubles if slope else a.on_doubles)(v, n)


cdef inline void sigmoid(work* v, Py_ssize_t n) noexcept nogil:
    if work is float:
        sigmoid_f32(v, n)
    else:
        sigmoid_f64(v, n)


cdef inline void squash(work* v, Py_ssize_t n) noexcept nogil:
    """v becomes tanh v."""
    if work is float:
        tanh_f32(v, n)
    else:
        tanh_f64(v, n)


def squashed(values):
    """For tests: a contiguous array of float32 or float64 becomes its tanh."""
    cdef Py_buffer v
    PyObject_GetBuffer(values, &v, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
    if v.itemsize == sizeof(float):
        squash(<float*>v.buf, v.len // v.itemsize)
    else:
        squash(<double*>v.buf, v.len // v.itemsize)
    PyBuffer_Release(&v)


def activated(values, int activation, bint slope=False):
    """For tests: a contiguous array of float32 or float64 becomes that activation function of it, or its slope."""
    cdef Py_buffer v
    PyObject_GetBuffer(values, &v, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
    if v.itemsize == sizeof(float):
        activate(activation, <float*>v.buf, v.len // v.itemsize, slope)
    else:
        activate(activation, <double*>v.buf, v.len // v.itemsize, slope)
    PyBuffer_Release(&v)
