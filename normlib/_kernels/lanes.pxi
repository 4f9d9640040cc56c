# The vector lanes. A sum runs in LANES accumulators: element i of a block goes to lane i % LANES; a block of BLOCK
# elements ends with a fixed tree over its lanes in float64, and the blocks are added up in order. So a sum depends
# on nothing but its elements: not on the ISA level, the alignment, the number of threads or the loop family.

from libc.math cimport INFINITY, fma, frexp, ldexp, sqrt
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from "storage.h" nogil:
    ctypedef struct half_t:
        pass
    ctypedef struct bf16_t:
        pass
    float widen_half(half_t)
    float widen_bf16(bf16_t)
    void load_half(const half_t*, float*)
    void load_bf16(const bf16_t*, float*)
    void store_half(half_t*, const float*)
    void store_bf16(bf16_t*, const float*)
    void load_part_f64(const double*, Py_ssize_t, double*)
    void load_part_f32(const float*, Py_ssize_t, float*)
    void load_part_half(const half_t*, Py_ssize_t, float*)
    void load_part_bf16(const bf16_t*, Py_ssize_t, float*)
    void store_part_f64(double*, Py_ssize_t, const double*)
    void store_part_f32(float*, Py_ssize_t, const float*)
    void store_part_half(half_t*, Py_ssize_t, const float*)
    void store_part_bf16(bf16_t*, Py_ssize_t, const float*)
    double tree_f64(const double*)
    double tree_f32(const float*)
    void stream_copy(void*, const void*, size_t)
    void stream_fence()
    void prefetch(const void*)
    void stream_lines(void*, const void*, size_t)

ctypedef fused storage:
    double
    float
    half_t
    bf16_t

# The working type: float64 for float64, float32 for all others.
ctypedef fused work:
    double
    float


cdef inline double widen(const storage* x) noexcept nogil:
    if storage is half_t:
        return widen_half(x[0])
    elif storage is bf16_t:
        return widen_bf16(x[0])
    else:
        return x[0]


cdef inline void load(const storage* x, work* t) noexcept nogil:
    cdef Py_ssize_t l
    if storage is half_t:
        load_half(x, <float*>t)
    elif storage is bf16_t:
        load_bf16(x, <float*>t)
    else:
        for l in range(LANES):
            t[l] = <work>x[l]


cdef inline void store(storage* y, const work* t) noexcept nogil:
    cdef Py_ssize_t l
    if storage is half_t:
        store_half(y, <const float*>t)
    elif storage is bf16_t:
        store_bf16(y, <const float*>t)
    else:
        for l in range(LANES):
            y[l] = <storage>t[l]


cdef inline void load_part(const storage* x, Py_ssize_t n, work* t) noexcept nogil:
    if storage is half_t:
        load_part_half(x, n, <float*>t)
    elif storage is bf16_t:
        load_part_bf16(x, n, <float*>t)
    elif storage is double:
        load_part_f64(x, n, <double*>t)
    else:
        load_part_f32(x, n, <float*>t)


cdef inline void store_part(storage* y, Py_ssize_t n, const work* t) noexcept nogil:
    if storage is half_t:
        store_part_half(y, n, <const float*>t)
    elif storage is bf16_t:
        store_part_bf16(y, n, <const float*>t)
    elif storage is double:
        store_part_f64(y, n, <const double*>t)
    else:
        store_part_f32(y, n, <const float*>t)


cdef inline void load_some(const storage* x, Py_ssize_t n, work* t) noexcept nogil:
    """n = LANES or fewer."""
    if n >= LANES:
        load(x, t)
    else:
        load_part(x, n, t)


cdef inline void store_some(storage* y, Py_ssize_t n, const work* t) noexcept nogil:
    if n >= LANES:
        store(y, t)
    else:
        store_part(y, n, t)


cdef inline double tree(const work* a) noexcept nogil:
    if work is double:
        return tree_f64(a)
    else:
        return tree_f32(a)


cdef inline void clear(work* a) noexcept nogil:
    cdef Py_ssize_t l
    for l in range(LANES):
        a[l] = 0


# ---- a block of at most BLOCK neighbouring elements ----

cdef inline void add_squares(const storage* x, Py_ssize_t n, double* s, work zero) noexcept nogil:
    """s[1] += sum x^2"""
    cdef work q[LANES]
    cdef work t[LANES]
    cdef Py_ssize_t i = 0, l
    clear(q)
    while i + LANES <= n:
        load(x + i, t)
        for l in range(LANES):
            q[l] += t[l] * t[l]
        i += LANES
    if i < n:
        load_part(x + i, n - i, t)
        for l in range(LANES):
            q[l] += t[l] * t[l]
    s[1] += tree(q)


cdef inline void add_moments(const storage* x, Py_ssize_t n, double* s, work shift) noexcept nogil:
    """s[0] += sum (x - shift); s[1] += sum (x - shift)^2"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work t[LANES]
    cdef work u
    cdef Py_ssize_t i = 0, l
    clear(a)
    clear(q)
    while i + LANES <= n:
        load(x + i, t)
        for l in range(LANES):
            u = t[l] - shift
            a[l] += u
            q[l] += u * u
        i += LANES
    if i < n:
        load_part(x + i, n - i, t)
        for l in range(LANES):
            u = t[l] - shift if l < n - i else 0
            a[l] += u
            q[l] += u * u
    s[0] += tree(a)
    s[1] += tree(q)


# ---- from sums to statistics ----

cdef enum:
    TOGETHER = 8                # short rows whose statistics are computed together
    TOGETHER_ELEMENTS = 4096    # of at most so many elements, which stay in the first cache

cdef struct Row:
    # Where the elements of one statistic lie: `channels` runs of `segments` x `length` elements, strides in elements.
    Py_ssize_t channels, channel, segments, segment, length, position


cdef inline Py_ssize_t together(Py_ssize_t n, bint streaming) noexcept nogil:
    """Rows of n elements to take at once; a stream wants its reads and writes close to each other."""
    return max(<Py_ssize_t>1, min(<Py_ssize_t>TOGETHER, (TOGETHER_ELEMENTS // 4 if streaming else TOGETHER_ELEMENTS) // n))


cdef inline Py_ssize_t count(const Row* row) noexcept nogil:
    return row.channels * row.segments * row.length


cdef inline bint sound(double d, double q, double eps, work zero) noexcept nogil:
    """Whether mean and mean square of the shifted elements give the variance: no cancellation in var = q - d^2
    (d^2 <= var), no overflow, and no squares lost to underflow that would show beside eps. False for NaN."""
    cdef double lost = 1e-35 if work is float else 1e-290
    return (2 * d * d <= q) & (q < INFINITY) & (q + eps >= lost)


cdef inline bint trusted(const double* s, Py_ssize_t n, double eps, work zero) noexcept nogil:
    return sound(s[0] / n, s[1] / n, eps, zero)


cdef struct Statistics:
    # mean = shift + delta; shift is of the working type, and x - shift is as good as exact.
    double shift, delta, var, rstd, scale

cdef inline double refined(double v, double r, work zero) noexcept nogil:
    """r = 1 / sqrt(v) after a Newton step, its residual 1 - v r^2 taken exactly: where the working type is float64 the
    roundings of the square root and the division would show."""
    cdef double h
    if work is double:
        h = v * r
        return r + 0.5 * r * (fma(-h, r, 1) - fma(v, r, -h) * r) if 0 < h < INFINITY else r
    else:
        return r


cdef inline void settle_rows(const double* s, const double* q, const work* shift, Py_ssize_t n, double eps,
                             Statistics* found, bint* good) noexcept nogil:
    """`settle` and `trusted` for TOGETHER rows at once: divisions and square roots run in vectors."""
    cdef double delta[TOGETHER]
    cdef double square[TOGETHER]
    cdef double var[TOGETHER]
    cdef double rstd[TOGETHER]
    cdef Py_ssize_t k
    for k in range(TOGETHER):
        delta[k] = s[k] / n
        square[k] = q[k] / n
        var[k] = square[k] - delta[k] * delta[k]
        rstd[k] = 1 / sqrt(var[k] + eps)
    for k in range(TOGETHER):
        good[k] = sound(delta[k], square[k], eps, <work>0)
    for k in range(TOGETHER):
        found[k].shift, found[k].delta, found[k].var, found[k].rstd = shift[k], delta[k], var[k], rstd[k]
        found[k].scale = refined(var[k] + eps, rstd[k], <work>0)


cdef inline void settle(const double* s, Py_ssize_t n, double eps, work shift, Statistics* to) noexcept nogil:
    """From the sums about `shift` (0 for RMSNorm) to the statistics."""
    to.shift = shift
    to.delta = s[0] / n
    to.var = s[1] / n - to.delta * to.delta
    to.rstd = 1 / sqrt(to.var + eps)
    to.scale = refined(to.var + eps, to.rstd, shift)


cdef inline void add_exactly(double* s, double u) noexcept nogil:
    """s[0] + s[1] += u, where s[1] takes what s[0] would lose (Kahan 1965)."""
    cdef double v = u + s[1], t = s[0] + v
    s[1] = v - (t - s[0])
    s[0] = t


cdef void wide_statistics(const storage* x, const Row* row, bint centered, double eps, Statistics* to, work zero) noexcept nogil:
    """Statistics in float64, scaled by a power of two, for rows whose squares over- or underflow the working type."""
    cdef double top = 0, m = 0, d, q, u, scale = 1, back = 1
    cdef double total[2]
    cdef double first[2]
    cdef double second[2]
    cdef Py_ssize_t sweep, c, s, i, n = count(row)
    cdef const storage* run
    cdef int exponent = 0
    total[0] = total[1] = first[0] = first[1] = second[0] = second[1] = 0
    for sweep in range(3):
        for c in range(row.channels):
            for s in range(row.segments):
                run = x + c * row.channel + s * row.segment
                for i in range(row.length):
                    u = widen(run + i * row.position)
                    if sweep == 0:
                        top = max(top, abs(u))
                    elif sweep == 1:
                        add_exactly(total, u * scale)
                    else:
                        u = u * scale - m
                        add_exactly(first, u)
                        add_exactly(second, u * u)
        if sweep == 0 and 0 < top < INFINITY:
            frexp(top, &exponent)
            exponent = min(max(exponent, -1000), 1000)
            scale = ldexp(1, -exponent)
            back = ldexp(1, exponent)
        elif sweep == 1 and centered:
            m = total[0] / n
    d = first[0] / n if centered else 0
    q = second[0] / n - d * d
    to.shift = <work>((m + d) * back)
    to.delta = (m * back - to.shift) + d * back
    to.var = q * back * back
    to.rstd = scale / sqrt(q + eps * scale * scale)
    to.scale = to.rstd
