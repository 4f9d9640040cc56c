# What follows `normalize` while the panel is in L1:
#
#   forward     y  = f(v) * h(gate),  v = normalize(x) + add
#   backward    dy becomes dy * h(gate) * f'(v), the gradient that reaches the norm and is that of add; dgate = dy * f(v) * h'(gate);
#               dx = descend(dy, x) + dsum, where x was a sum that others have taken too
#   gate first  u = x * h(gate) is normalized (residual.pxi); with du = descend(dy, u): dx = du * h(gate) + dsum, dgate = du * x * h'(gate)
#   a mask      lets nothing out but 0 where it is 0; dsum does not come through the norm
#
# f and h are activations; relu(v) = v if v > 0 else 0 (Glorot, Bordes, Bengio 2011), leaky_relu(v) = v if v > 0 else a * v (Maas, Hannun, Ng 2013);
# their derivative at 0 is that from below.

from normlib._kernels.header cimport LEAKY_RELU, NO_ACTIVATION, OF_ADD, OF_DGATE, OF_DSUM, RELU


cdef extern from "epilogues.h" nogil:
    void add_f32(const float*, const float*, float*, Py_ssize_t)
    void add_f64(const double*, const double*, double*, Py_ssize_t)
    void rectify_f32(float*, const float*, Py_ssize_t, float)
    void rectify_f64(double*, const double*, Py_ssize_t, double)
    void through_rectifier_f32(float*, const float*, const float*, Py_ssize_t, float)
    void through_rectifier_f64(double*, const double*, const double*, Py_ssize_t, double)


cdef inline void add_elements(const work* a, const work* b, work* to, Py_ssize_t n) noexcept nogil:
    if work is float:
        add_f32(a, b, to, n)
    else:
        add_f64(a, b, to, n)


cdef inline void add_lanes(const narrow* a, const narrow* b, narrow* to, Py_ssize_t m, bint part) noexcept nogil:
    cdef float t[LANES]
    cdef float u[LANES]
    cdef Py_ssize_t l
    load_lanes(a, m, t, part)
    load_lanes(b, m, u, part)
    for l in range(LANES):
        t[l] += u[l]
    store_lanes(to, m, t, part)


cdef void add_narrow(const narrow* a, const narrow* b, narrow* to, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        add_lanes(a + i, b + i, to + i, LANES, False)
        i += LANES
    if i < n:
        add_lanes(a + i, b + i, to + i, n - i, True)


cdef void add_in(Dtype dtype, const char* a, const char* b, char* to, Py_ssize_t n, work zero) noexcept nogil:
    """`add_elements` of elements as they lie in memory."""
    if CONVERTS and dtype == F16:
        add_narrow(<const half_t*>a, <const half_t*>b, <half_t*>to, n)
    elif CONVERTS and dtype == BF16:
        add_narrow(<const bf16_t*>a, <const bf16_t*>b, <bf16_t*>to, n)
    else:
        add_elements(<const work*>a, <const work*>b, <work*>to, n)


cdef inline void rectify(work* v, const work* add, Py_ssize_t n, work slope) noexcept nogil:
    """Of v, or of v + add."""
    if work is float:
        rectify_f32(v, add, n, slope)
    else:
        rectify_f64(v, add, n, slope)


cdef void rectify_slope(work* v, Py_ssize_t n, work slope) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = slope if v[i] <= 0 else 1


cdef inline void through_rectifier(work* v, const work* add, const work* dy, Py_ssize_t n, work slope) noexcept nogil:
    """v becomes dy times the slope at v, or at v + add."""
    if work is float:
        through_rectifier_f32(v, add, dy, n, slope)
    else:
        through_rectifier_f64(v, add, dy, n, slope)


cdef void ones(work* v, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = 1


cdef inline bint rectifies(int activation) noexcept nogil:
    return activation == RELU or activation == LEAKY_RELU


cdef inline double below_0(int activation, double negative_slope) noexcept nogil:
    """The slope of a rectifier there."""
    return negative_slope if activation == LEAKY_RELU else 0


cdef void apply(int activation, double negative_slope, work* v, Py_ssize_t n) noexcept nogil:
    if rectifies(activation):
        rectify(v, NULL, n, <work>below_0(activation, negative_slope))
    elif activation != NO_ACTIVATION:
        activate(activation, v, n, False)


cdef void apply_slope(int activation, double negative_slope, work* v, Py_ssize_t n) noexcept nogil:
    """v becomes f'(v)."""
    if activation == NO_ACTIVATION:
        ones(v, n)
    elif rectifies(activation):
        rectify_slope(v, n, <work>below_0(activation, negative_slope))
    else:
        activate(activation, v, n, True)


cdef void multiply(work* v, const work* by, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        v[i] *= by[i]


cdef void times(work* factor, const work* by, Py_ssize_t n) noexcept nogil:
    """In the place of the factor; 0 where that is 0, whatever it is multiplied by."""
    cdef Py_ssize_t i
    for i in range(n):
        factor[i] = 0 if factor[i] == 0 else factor[i] * by[i]


cdef void through_gate(const Plan* p, work* v, const work* dy, const work* gate, work* dgate, Py_ssize_t n) noexcept nogil:
    """f(v) * h(gate) of at most WIDE elements; upstream, dgate = dy * f(v) * h'(gate), and v becomes dy * h(gate) * f'(v)."""
    cdef work opened[WIDE]
    cdef work slope[WIDE]
    memcpy(opened, gate, n * sizeof(work))
    if not p.upstream:
        apply(p.activation, p.negative_slope, v, n)
        apply(p.gate_activation, 0, opened, n)
        multiply(v, opened, n)
        return
    apply_slope(p.gate_activation, 0, opened, n)
    memcpy(slope, v, n * sizeof(work))
    apply(p.activation, p.negative_slope, v, n)
    times(opened, v, n)
    times(opened, dy, n)
    memcpy(v, gate, n * sizeof(work))
    apply(p.gate_activation, 0, v, n)
    times(v, dy, n)
    apply_slope(p.activation, p.negative_slope, slope, n)
    times(v, slope, n)
    if dgate != NULL:
        memcpy(dgate, opened, n * sizeof(work))


cdef void keep_inside(work* v, const work* mask, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if mask != NULL:
        for i in range(n):
            v[i] = v[i] if mask[i] != 0 else 0


cdef void back_through_first_gate(const Plan* p, work* v, const work* x, const work* gate, work* dgate, Py_ssize_t n) noexcept nogil:
    """At most WIDE gradients v with respect to x * h(gate) become those with respect to x; dgate = v * x * h'(gate)."""
    cdef work factor[WIDE]
    memcpy(factor, gate, n * sizeof(work))
    apply(p.gate_activation, 0, factor, n)
    memcpy(dgate, gate, n * sizeof(work))
    apply_slope(p.gate_activation, 0, dgate, n)
    times(dgate, x, n)
    times(dgate, v, n)
    times(factor, v, n)
    memcpy(v, factor, n * sizeof(work))


cdef void follow(const Plan* p, work* v, const void** beside, Py_ssize_t n) noexcept nogil:
    """n elements at v; what lies beside them, or NULL."""
    cdef const work* dy = <const work*>beside[OF_DY]
    cdef const work* gate = <const work*>beside[OF_GATE]
    cdef work* dgate = <work*>beside[OF_DGATE]
    cdef Py_ssize_t i
    if p.dy != NULL and not p.upstream:
        keep_inside(v, <const work*>beside[OF_WHERE], n)
        if dgate != NULL:
            for i from 0 <= i < n by WIDE:
                back_through_first_gate(p, v + i, dy + i, gate + i, dgate + i, min(<Py_ssize_t>WIDE, n - i))
            keep_inside(v, <const work*>beside[OF_WHERE], n)
            keep_inside(dgate, <const work*>beside[OF_WHERE], n)
        if beside[OF_DSUM] != NULL:
            add_elements(v, <const work*>beside[OF_DSUM], v, n)
        return
    if rectifies(p.activation) and gate == NULL:
        if p.upstream:
            through_rectifier(v, <const work*>beside[OF_ADD], dy, n, <work>below_0(p.activation, p.negative_slope))
        else:
            rectify(v, <const work*>beside[OF_ADD], n, <work>below_0(p.activation, p.negative_slope))
        keep_inside(v, <const work*>beside[OF_WHERE], n)
        return
    if beside[OF_ADD] != NULL:
        add_elements(v, <const work*>beside[OF_ADD], v, n)
    if gate != NULL:
        for i from 0 <= i < n by WIDE:
            through_gate(p, v + i, at(dy, i, dy != NULL), gate + i, at(dgate, i, dgate != NULL), min(<Py_ssize_t>WIDE, n - i))
    elif not p.upstream:
        apply(p.activation, p.negative_slope, v, n)
    elif p.activation == NO_ACTIVATION:
        memcpy(v, dy, n * sizeof(work))
    else:
        apply_slope(p.activation, p.negative_slope, v, n)
        times(v, dy, n)
    keep_inside(v, <const work*>beside[OF_WHERE], n)
    if dgate != NULL:
        keep_inside(dgate, <const work*>beside[OF_WHERE], n)
