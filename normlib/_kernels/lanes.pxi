# The vector lanes. A sum along a row runs in LANES accumulators: element i of a block goes to lane i % LANES; after a
# block of BLOCK elements the lanes are folded to 8 sums in float64, to which the blocks are added in order, and at the end a
# fixed tree adds these. So a sum depends on nothing but its elements: not on the ISA level, the alignment or the number of threads.

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
    const void* load_in_order(const void*, void*, size_t)
    void load_half(const half_t*, float*)
    void load_bf16(const bf16_t*, float*)
    void store_half(half_t*, const float*)
    void pack_half(half_t*, const float*)
    void store_bf16(bf16_t*, const float*)
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

# What is added to a sum in float64.
ctypedef fused term:
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


cdef inline void pack_lanes(storage* y, const work* t) noexcept nogil:
    """`store` for what takes the lanes back at once."""
    if storage is half_t:
        pack_half(y, <const float*>t)
    else:
        store(y, t)


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


cdef inline void load_lanes(const storage* x, Py_ssize_t m, work* t, bint part) noexcept nogil:
    """All lanes, or the first m < LANES; in the loops `part` is known to the compiler, so that no ways join."""
    if part:
        load_part(x, m, t)
    else:
        load(x, t)


cdef inline void store_lanes(storage* y, Py_ssize_t m, const work* t, bint part) noexcept nogil:
    if part:
        store_part(y, m, t)
    else:
        store(y, t)


cdef inline void load_some(const storage* x, Py_ssize_t n, work* t) noexcept nogil:
    """Where only the number at hand says whether there are LANES."""
    load_lanes(x, n, t, n < LANES)


cdef inline void store_some(storage* y, Py_ssize_t n, const work* t) noexcept nogil:
    store_lanes(y, n, t, n < LANES)


cdef inline void widen_run(const storage* x, Py_ssize_t n, work factor, work* t) noexcept nogil:
    """n elements times a power of two, in the working type"""
    cdef work u[LANES]
    cdef Py_ssize_t i, l
    for i from 0 <= i < n by LANES:
        load_some(x + i, min(<Py_ssize_t>LANES, n - i), u)
        for l in range(LANES):
            u[l] *= factor
        store_some(t + i, min(<Py_ssize_t>LANES, n - i), u)


cdef inline void narrow_run(const work* t, Py_ssize_t n, storage* y) noexcept nogil:
    cdef work u[LANES]
    cdef Py_ssize_t i
    for i from 0 <= i < n by LANES:
        load_some(t + i, min(<Py_ssize_t>LANES, n - i), u)
        store_some(y + i, min(<Py_ssize_t>LANES, n - i), u)


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


cdef enum:
    ROUND = 8           # vectors, or positions of columns, that are added in pairs of pairs
    HALF = LANES // 2
    FEW = ROUND // 2 * LANES    # elements that are too few for a round, and are added in turn
    AHEAD_BYTES = 1 << 14   # from what is read to what is prefetched; 8 to 64 kB are as good


cdef inline Py_ssize_t ahead_of(const storage* x) noexcept nogil:
    """How many elements ahead to prefetch."""
    return AHEAD_BYTES // <Py_ssize_t>sizeof(storage)


cdef inline void prefetch_lanes(const storage* x) noexcept nogil:
    cdef Py_ssize_t k
    for k from 0 <= k < LANES by LINE // <Py_ssize_t>sizeof(storage):
        prefetch(x + k)


cdef inline void prefetch_ahead(const storage* x, Py_ssize_t ahead) noexcept nogil:
    """While LANES elements at x are read, what comes soon; ahead 0: nothing."""
    if ahead != 0:
        prefetch_lanes(x + ahead)


# ---- a block of at most BLOCK neighbouring elements; a sum in 8 parts, see `fold` ----
# No ways join before the sums are folded: that would send the lanes through memory.

cdef inline void square_lanes(const storage* x, Py_ssize_t m, work* q, Py_ssize_t ahead, bint part) noexcept nogil:
    cdef work t[LANES]
    cdef Py_ssize_t l
    prefetch_ahead(x, ahead)
    load_lanes(x, m, t, part)
    for l in range(LANES):
        q[l] += t[l] * t[l]


cdef inline void few_squares(const storage* x, Py_ssize_t n, double* squares, bint more, Py_ssize_t ahead, work zero) noexcept nogil:
    """add_squares of at most FEW elements"""
    cdef work q[LANES]
    cdef Py_ssize_t i = 0
    clear(q)
    if n < LANES:
        square_lanes(x, n, q, ahead, True)
        fold_all(q, squares, more)
        return
    while True:
        square_lanes(x + i, LANES, q, ahead, False)
        i += LANES
        if i + LANES > n:
            break
    if i == n:
        fold_all(q, squares, more)
    else:
        square_lanes(x + i, n - i, q, ahead, True)
        fold_all(q, squares, more)


cdef inline void moment_lanes(const storage* x, Py_ssize_t m, work* a, work* q, work shift, work one, Py_ssize_t ahead, bint part) noexcept nogil:
    cdef work t[LANES]
    cdef work u
    cdef int l, many = <int>m
    prefetch_ahead(x, ahead)
    load_lanes(x, m, t, part)
    for l in range(LANES):
        u = minus(t[l], shift, one)
        if part:
            u = u if l < many else 0
        a[l] += u
        q[l] += u * u


cdef inline void few_moments(const storage* x, Py_ssize_t n, double* sums, double* squares, bint more, Py_ssize_t ahead, work shift) noexcept nogil:
    """add_moments of at most FEW elements"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work one = unit(shift)
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    if n < LANES:
        moment_lanes(x, n, a, q, shift, one, ahead, True)
        fold_all(a, sums, more)
        fold_all(q, squares, more)
        return
    while True:
        moment_lanes(x + i, LANES, a, q, shift, one, ahead, False)
        i += LANES
        if i + LANES > n:
            break
    if i == n:
        fold_all(a, sums, more)
        fold_all(q, squares, more)
    else:
        moment_lanes(x + i, n - i, a, q, shift, one, ahead, True)
        fold_all(a, sums, more)
        fold_all(q, squares, more)


# Lanes are added in rounds of ROUND, in pairs of pairs: terms that are added to a large one, or to equal ones, one after the
# other would all be rounded alike. What is left of a block is folded by FEW, which are added in turn.

cdef inline const work* load_half_round(const storage* x, work* room, Py_ssize_t ahead) noexcept nogil:
    """ROUND * HALF elements in the working type: where they lie, or in room."""
    cdef Py_ssize_t k
    for k from 0 <= k < ROUND * HALF by LANES:
        prefetch_ahead(x + k, ahead)
    if storage is double or storage is float:
        return <const work*>load_in_order(x, room, ROUND * HALF * sizeof(storage))
    else:
        for k from 0 <= k < ROUND * HALF by LANES:
            load(x + k, room + k)
        return room


cdef inline void squares_round(const storage* x, work* q, Py_ssize_t ahead) noexcept nogil:
    """q[l] += sum x^2 over x[l], x[l + HALF] .. x[l + 7 * HALF], for the upper lanes over as many more: in the order of memory"""
    cdef work room[ROUND * HALF]
    cdef const work* t
    cdef work t0, t1, t2, t3, t4, t5, t6, t7
    cdef Py_ssize_t l, k
    for k from 0 <= k < LANES by HALF:
        t = load_half_round(x + k * ROUND, room, ahead)
        for l in range(HALF):
            t0, t1, t2, t3 = t[l], t[l + HALF], t[l + 2 * HALF], t[l + 3 * HALF]
            t4, t5, t6, t7 = t[l + 4 * HALF], t[l + 5 * HALF], t[l + 6 * HALF], t[l + 7 * HALF]
            q[k + l] += ((t0 * t0 + t1 * t1) + (t2 * t2 + t3 * t3)) + ((t4 * t4 + t5 * t5) + (t6 * t6 + t7 * t7))


cdef inline void moments_round(const storage* x, work* a, work* q, work shift, work one, Py_ssize_t ahead) noexcept nogil:
    cdef work room[ROUND * HALF]
    cdef const work* t
    cdef work t0, t1, t2, t3, t4, t5, t6, t7
    cdef Py_ssize_t l, k
    for k from 0 <= k < LANES by HALF:
        t = load_half_round(x + k * ROUND, room, ahead)
        for l in range(HALF):
            t0, t1 = minus(t[l], shift, one), minus(t[l + HALF], shift, one)
            t2, t3 = minus(t[l + 2 * HALF], shift, one), minus(t[l + 3 * HALF], shift, one)
            t4, t5 = minus(t[l + 4 * HALF], shift, one), minus(t[l + 5 * HALF], shift, one)
            t6, t7 = minus(t[l + 6 * HALF], shift, one), minus(t[l + 7 * HALF], shift, one)
            a[k + l] += ((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7))
            q[k + l] += ((t0 * t0 + t1 * t1) + (t2 * t2 + t3 * t3)) + ((t4 * t4 + t5 * t5) + (t6 * t6 + t7 * t7))


cdef inline void add_squares(const storage* x, Py_ssize_t n, double* squares, bint more, Py_ssize_t ahead, work zero) noexcept nogil:
    """sum x^2; more: added to what is there; ahead: what to prefetch meanwhile, if not 0"""
    cdef work q[LANES]
    cdef Py_ssize_t i = 0
    if n >= ROUND * LANES:
        clear(q)
        while True:
            squares_round(x + i, q, ahead)
            i += ROUND * LANES
            if i + ROUND * LANES > n:
                break
        fold_all(q, squares, more)
    while i < n:
        few_squares(x + i, min(<Py_ssize_t>FEW, n - i), squares, more or i > 0, ahead, zero)
        i += FEW


cdef inline void add_moments(const storage* x, Py_ssize_t n, double* sums, double* squares, bint more, Py_ssize_t ahead, work shift) noexcept nogil:
    """sum (x - shift) and sum (x - shift)^2. As add_squares."""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef work one = unit(shift)
    cdef Py_ssize_t i = 0
    if n >= ROUND * LANES:
        clear(a)
        clear(q)
        while True:
            moments_round(x + i, a, q, shift, one, ahead)
            i += ROUND * LANES
            if i + ROUND * LANES > n:
                break
        fold_all(a, sums, more)
        fold_all(q, squares, more)
    while i < n:
        few_moments(x + i, min(<Py_ssize_t>FEW, n - i), sums, squares, more or i > 0, ahead, shift)
        i += FEW
