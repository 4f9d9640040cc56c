# What follows `normalize` while the panel is in L1:
#
#   forward     y  = f(v),  v = normalize(x)
#   backward    dy becomes dy * f'(v), the gradient that reaches the norm

cdef void follow(const Plan* p, work* v, const void** beside, Py_ssize_t n) noexcept nogil:
    """n elements at v; what lies beside them, or NULL."""
    cdef const work* dy = <const work*>beside[OF_DY]
    if p.upstream:
        memcpy(v, dy, n * sizeof(work))
