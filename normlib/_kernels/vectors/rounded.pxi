# `normalize` with the value before weight and bias rounded to the 16 bits of x, as in the reference code of Llama.

cdef inline void round_elements(Dtype dtype, float* v, Py_ssize_t n) noexcept nogil:
    cdef half_t half[LANES]
    cdef bf16_t brain[LANES]
    cdef Py_ssize_t i, m
    for i from 0 <= i < n by LANES:
        m = min(<Py_ssize_t>LANES, n - i)
        if dtype == F16:
            narrow_lanes(v + i, m, half)
            widen_lanes(half, m, v + i, 0)
        else:
            narrow_lanes(v + i, m, brain)
            widen_lanes(brain, m, v + i, 0)


cdef inline void times_and_plus(const Affine* c, Py_ssize_t i, float* v, Py_ssize_t n) noexcept nogil:
    """v * weight + bias, of row i."""
    cdef const float* weight = <const float*>c.of_weight
    cdef const float* bias = <const float*>c.of_bias
    cdef Py_ssize_t j
    if c.weight == ONE:
        for j in range(n):
            v[j] = v[j] * weight[i] + bias[i]
        return
    if c.weight == MANY:
        for j in range(n):
            v[j] *= weight[j]
    if c.bias == MANY:
        for j in range(n):
            v[j] += bias[j]


cdef void normalize_rounded(Dtype dtype, const Affine* c, const Block* b, const float* x, float* y) noexcept nogil:
    """At most LANES rows where each has a weight of its own."""
    cdef float ones[LANES]
    cdef float nothing[LANES]
    cdef Affine bare = c[0]
    cdef Py_ssize_t i
    if c.weight == ONE:
        for i in range(LANES):
            ones[i], nothing[i] = 1, <float>NOTHING
        bare.of_weight, bare.of_bias = ones, nothing
    else:
        bare.weight = bare.bias = ABSENT
    normalize(&bare, b, x, y)
    for i in range(b.rows):
        round_elements(dtype, y + i * b.y, b.width)
        times_and_plus(c, i, y + i * b.y, b.width)


cdef inline void normalize_by(const Plan* p, const Affine* c, const Block* b, const work* x, work* y) noexcept nogil:
    """In rows and columns of features, as the plan has it."""
    if work is float:
        if p.round_first:
            normalize_rounded(p.dtype, c, b, x, y)
            return
    normalize(c, b, x, y)
