# What follows `normalize` while the panel is in L1:
#
#   forward     y  = f(v),  v = normalize(x) + add
#   backward    dy becomes dy * f'(v), the gradient that reaches the norm and is that of add;
#               dx = descend(dy, x) + dsum, where x was a sum that others have taken too
#
# f is an activation; relu(v) = v if v > 0 else 0 (Glorot, Bordes, Bengio 2011), leaky_relu(v) = v if v > 0 else a * v (Maas, Hannun, Ng 2013);
# their derivative at 0 is that from below.

from normlib._kernels.header cimport LEAKY_RELU, NO_ACTIVATION, OF_ADD, OF_DSUM, RELU


cdef inline void add_up_to(work* v, const work* add, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        v[i] += add[i]


cdef void relu(work* v, Py_ssize_t n) noexcept nogil:
    """NaN stays, -0 becomes 0."""
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = 0 if v[i] <= 0 else v[i]


cdef void leaky_relu(work* v, Py_ssize_t n, work slope) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = v[i] * slope if v[i] <= 0 else v[i]


cdef void leaky_relu_upstream(work* v, const work* dy, Py_ssize_t n, work slope) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = dy[i] * slope if v[i] <= 0 else dy[i]


cdef void upstream(work* slope, const work* dy, Py_ssize_t n) noexcept nogil:
    """In the place of the slope; 0 where that is 0, whatever dy."""
    cdef Py_ssize_t i
    for i in range(n):
        slope[i] = 0 if slope[i] == 0 else dy[i] * slope[i]


cdef void follow(const Plan* p, work* v, const void** beside, Py_ssize_t n) noexcept nogil:
    """n elements at v; what lies beside them, or NULL."""
    cdef const work* dy = <const work*>beside[OF_DY]
    if beside[OF_DSUM] != NULL:     # of a backward pass, which reads nothing else
        add_up_to(v, <const work*>beside[OF_DSUM], n)
        return
    if beside[OF_ADD] != NULL:
        add_up_to(v, <const work*>beside[OF_ADD], n)
    if p.activation == NO_ACTIVATION:
        if p.upstream:
            memcpy(v, dy, n * sizeof(work))
    elif p.activation == RELU and not p.upstream:
        relu(v, n)
    elif p.activation == RELU or p.activation == LEAKY_RELU:
        if p.upstream:
            leaky_relu_upstream(v, dy, n, <work>p.negative_slope)
        else:
            leaky_relu(v, n, <work>p.negative_slope)
    else:
        activate(p.activation, v, n, p.upstream)
        if p.upstream:
            upstream(v, dy, n)
