# What follows `normalize` while the panel is in L1:
#
#   forward     y  = f(v),  v = normalize(x)
#   backward    dy becomes dy * f'(v), the gradient that reaches the norm
#
# f is an activation: relu(v) = v if v > 0 else 0, of which the derivative at 0 is 0 (Glorot, Bordes, Bengio 2011).

from normlib._kernels.header cimport RELU


cdef void relu(work* v, Py_ssize_t n) noexcept nogil:
    """NaN stays, -0 becomes 0."""
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = 0 if v[i] <= 0 else v[i]


cdef void relu_upstream(work* v, const work* dy, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = 0 if v[i] <= 0 else dy[i]


cdef void follow(const Plan* p, work* v, const void** beside, Py_ssize_t n) noexcept nogil:
    """n elements at v; what lies beside them, or NULL."""
    cdef const work* dy = <const work*>beside[OF_DY]
    if not p.upstream:
        if p.activation == RELU:
            relu(v, n)
    elif p.activation == RELU:
        relu_upstream(v, dy, n)
    else:
        memcpy(v, dy, n * sizeof(work))
