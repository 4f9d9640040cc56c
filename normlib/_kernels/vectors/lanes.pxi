# The vector lanes. A sum along a row runs in LANES accumulators: element i of a block goes to lane i % LANES; after a
# block of BLOCK elements the lanes are folded to 8 sums in float64, to which the blocks are added in order, and at the end a
# fixed tree adds these. So a sum depends on nothing but its elements: not on the ISA level, the alignment or the number of threads.

from libc.stdint cimport uint64_t
from libc.math cimport INFINITY, NAN, fma, frexp, ldexp, sqrt
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from "storage.h" nogil:
    ctypedef struct half_t:
        pass
    ctypedef struct bf16_t:
        pass
    float to_odd(double)
    float widen_half(half_t)
    float widen_bf16(bf16_t)
    half_t narrow_half(float)
    bf16_t narrow_bf16(float)
    const void* load_in_order(const void*, void*, size_t)
    enum:
        CONVERTS        # whether lanes of 16 bits are widened and narrowed by instructions
    void load_half(const half_t*, float*)
    void load_bf16(const bf16_t*, float*)
    void pack_half(half_t*, const float*)
    void store_bf16(bf16_t*, const float*)
    void copy_f32(float*, const float*, Py_ssize_t)
    void load_part_f64(const double*, Py_ssize_t, double*)
    void load_part_f32(const float*, Py_ssize_t, float*)
    void load_part_half(const half_t*, Py_ssize_t, float*)
    void load_part_bf16(const bf16_t*, Py_ssize_t, float*)
    void store_part_f64(double*, Py_ssize_t, const double*)
    void store_part_f32(float*, Py_ssize_t, const float*)
    void store_part_half(half_t*, Py_ssize_t, const float*)
    void store_part_bf16(bf16_t*, Py_ssize_t, const float*)
    void fold_f32(const float*, double*, bint)
    void fold_f64(const double*, double*, bint)
    void fold_all_f32(const float*, double*, bint)
    void fold_all_f64(const double*, double*, bint)
    double sum_8(const double*)
    void sums_of_8(const double*, double*)
    float one_f32()
    double one_f64()
    float minus_f32(float, float, float)
    double minus_f64(double, double, double)
    void stream_copy(void*, const void*, size_t)
    void stream_fence()
    void prefetch(const void*)

cdef extern from "short_rows.h" nogil:
    enum:
        SHORT_ROWS      # whether there are loops for them
    void short_samples_f32(const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, double (*)[8])
    void short_moments_f32(const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, double (*)[8], double (*)[8], bint)
    void short_slopes_f32(const float*, const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, const float*, double (*)[8], double (*)[8])
    void normalize_runs_f32(const float*, float*, Py_ssize_t, Py_ssize_t, const float**)
    void descend_runs_f32(const float*, const float*, float*, Py_ssize_t, Py_ssize_t, const float**)
    void scale_runs_f32(const float*, float*, Py_ssize_t, Py_ssize_t, const float**)

# The working type: float64 for float64, float32 for all others.
ctypedef fused work:
    double
    float

# What is added to a sum in float64.
ctypedef fused term:
    double
    float

# A 16-bit type, which is float32 while it is worked on.
ctypedef fused narrow:
    half_t
    bf16_t

# What lies in memory: the working type, or one of 16 bits.
ctypedef fused stored:
    double
    float
    half_t
    bf16_t

cdef enum:
    HALF = LANES // 2
    AHEAD_BYTES = 1 << 14   # from what is read to what is prefetched; 8 to 64 kB are as good


cdef double NOTHING = -0.0  # what a sum with leaves everything as it is, the sign of zero too


cdef inline void load_lanes(const stored* x, Py_ssize_t m, work* t, bint part) noexcept nogil:
    """All lanes, or the first m < LANES, the others zero; in the loops `part` is known to the compiler, so that no ways join."""
    cdef Py_ssize_t l
    if stored is work:
        if not part:
            for l in range(LANES):
                t[l] = x[l]
        elif work is double:
            load_part_f64(x, m, t)
        else:
            load_part_f32(x, m, t)
    elif work is float:
        if stored is half_t and part:
            load_part_half(x, m, t)
        elif stored is half_t:
            load_half(x, t)
        elif stored is bf16_t and part:
            load_part_bf16(x, m, t)
        elif stored is bf16_t:
            load_bf16(x, t)


cdef inline void store_lanes(stored* y, Py_ssize_t m, const work* t, bint part) noexcept nogil:
    cdef Py_ssize_t l
    if stored is work:
        if not part:
            for l in range(LANES):
                y[l] = t[l]
        elif work is double:
            store_part_f64(y, m, t)
        else:
            store_part_f32(y, m, t)
    elif work is float:
        if stored is half_t and part:
            store_part_half(y, m, t)
        elif stored is half_t:
            pack_half(y, t)
        elif stored is bf16_t and part:
            store_part_bf16(y, m, t)
        elif stored is bf16_t:
            store_bf16(y, t)


cdef inline void fold(const work* a, double* e, bint more) noexcept nogil:
    """The first 16 lanes as 8 sums in float64; more: add them to what is there."""
    if work is double:
        fold_f64(a, e, more)
    else:
        fold_f32(a, e, more)


cdef inline void fold_all(const work* a, double* e, bint more) noexcept nogil:
    if work is double:
        fold_all_f64(a, e, more)
    else:
        fold_all_f32(a, e, more)


cdef inline work* at(const work* w, Py_ssize_t i, bint there) noexcept nogil:
    """w + i, where there is a w."""
    return <work*>w + i if there else <work*>w


cdef inline double tree(const work* a) noexcept nogil:
    """The sum of all lanes."""
    cdef double e[8]
    fold_all(a, e, False)
    return sum_8(e)


cdef inline void sum_rows(const double (*e)[8], Py_ssize_t m, double* s) noexcept nogil:
    """The sums of m rows, in eights: what is beyond is of no meaning."""
    cdef Py_ssize_t k
    for k from 0 <= k < m by 8:
        sums_of_8(e[k], s + k)


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


cdef inline void prefetch_bytes(const char* x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i from 0 <= i < n by LINE:
        prefetch(x + i)


cdef inline void prefetch_ahead(const stored* x, Py_ssize_t ahead) noexcept nogil:
    """While LANES elements at x are read, what comes `ahead` bytes later; 0: nothing."""
    if ahead != 0:
        prefetch_bytes(<const char*>x + ahead, LANES * sizeof(stored))
