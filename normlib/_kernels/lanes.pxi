# The vector lanes. A sum along a row runs in LANES accumulators: element i of a block goes to lane i % LANES; a block of BLOCK
# elements ends with a fixed tree over its lanes in float64, and the blocks are added up in order. So a sum depends
# on nothing but its elements: not on the ISA level, the alignment or the number of threads.

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
    double chunk_f64(const double*)
    double chunk_f32(const float*)
    float one_f32()
    double one_f64()
    float minus_f32(float, float, float)
    double minus_f64(double, double, double)
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


cdef inline double chunk(const work* a) noexcept nogil:
    """As tree, over 16 lanes."""
    if work is double:
        return chunk_f64(a)
    else:
        return chunk_f32(a)


cdef inline work unit(work zero) noexcept nogil:
    """The 1 for `minus`."""
    if work is double:
        return one_f64()
    else:
        return one_f32()


cdef inline work minus(work x, work y, work one) noexcept nogil:
    """x - y, where the multipliers have more time than the adders."""
    if work is double:
        return minus_f64(x, y, one)
    else:
        return minus_f32(x, y, one)


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
    cdef work u, one = unit(shift)
    cdef Py_ssize_t i = 0, l
    clear(a)
    clear(q)
    while i + LANES <= n:
        load(x + i, t)
        for l in range(LANES):
            u = minus(t[l], shift, one)
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
