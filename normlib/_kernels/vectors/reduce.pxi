# Sums along a row, over blocks of at most BLOCK neighbouring elements of the working type; a sum in 8 parts, see `fold`.
#
# Lanes are added in rounds of ROUND, in pairs of pairs: terms that are added to a large one, or to equal ones, one after the
# other would all be rounded alike. What is left of a block is folded by FEW, which are added in turn. No ways join before the
# sums are folded: that would send the lanes through memory.

cdef enum:
    ROUND = 8           # vectors, or positions of columns, that are added in pairs of pairs
    FEW = ROUND // 2 * LANES    # elements that are too few for a round

# ---- sum (x - shift) and sum (x - shift)^2; about no shift, the squares alone ----

cdef inline void moment_lanes(const stored* x, Py_ssize_t m, work* a, work* q, work shift, bint centered, Py_ssize_t ahead, bint part) noexcept nogil:
    cdef work t[LANES]
    cdef work one = unit(shift)
    cdef int l, many = <int>m
    prefetch_ahead(x, ahead)
    load_lanes(x, m, t, part)
    for l in range(LANES):
        if centered:
            t[l] = minus(t[l], shift, one)
            if part:
                t[l] = t[l] if l < many else 0
            a[l] += t[l]
        q[l] += t[l] * t[l]


cdef inline void fold_moments(const work* a, const work* q, double* sums, double* squares, bint centered, bint more) noexcept nogil:
    if centered:
        fold_all(a, sums, more)
    fold_all(q, squares, more)


cdef inline void few_moments(const stored* x, Py_ssize_t n, double* sums, double* squares, work shift, bint centered, bint more,
                             Py_ssize_t ahead) noexcept nogil:
    """add_moments of at most FEW elements"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef Py_ssize_t i = 0
    clear(a)
    clear(q)
    if n < LANES:
        moment_lanes(x, n, a, q, shift, centered, ahead, True)
        fold_moments(a, q, sums, squares, centered, more)
        return
    while True:
        moment_lanes(x + i, LANES, a, q, shift, centered, ahead, False)
        i += LANES
        if i + LANES > n:
            break
    if i == n:
        fold_moments(a, q, sums, squares, centered, more)
    else:
        moment_lanes(x + i, n - i, a, q, shift, centered, ahead, True)
        fold_moments(a, q, sums, squares, centered, more)


cdef inline void moments_round(const stored* x, work* a, work* q, work shift, bint centered, Py_ssize_t ahead) noexcept nogil:
    """a[l] += sum t, q[l] += sum t^2 over t = x[l], x[l + HALF] .. x[l + 7 * HALF], less the shift, for the upper lanes over as many
    more: in the order of memory"""
    cdef work room[ROUND * HALF]
    cdef const work* t
    cdef work t0, t1, t2, t3, t4, t5, t6, t7, one = unit(shift)
    cdef Py_ssize_t l, k
    for k from 0 <= k < LANES by HALF:
        if ahead != 0:
            prefetch_bytes(<const char*>(x + k * ROUND) + ahead, ROUND * HALF * sizeof(stored))
        if stored is work:
            t = <const work*>load_in_order(x + k * ROUND, room, ROUND * HALF * sizeof(work))
        else:
            for l from 0 <= l < ROUND * HALF by LANES:
                load_lanes(x + k * ROUND + l, LANES, room + l, False)
            t = room
        for l in range(HALF):
            t0, t1, t2, t3 = t[l], t[l + HALF], t[l + 2 * HALF], t[l + 3 * HALF]
            t4, t5, t6, t7 = t[l + 4 * HALF], t[l + 5 * HALF], t[l + 6 * HALF], t[l + 7 * HALF]
            if centered:
                t0, t1, t2, t3 = minus(t0, shift, one), minus(t1, shift, one), minus(t2, shift, one), minus(t3, shift, one)
                t4, t5, t6, t7 = minus(t4, shift, one), minus(t5, shift, one), minus(t6, shift, one), minus(t7, shift, one)
                a[k + l] += ((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7))
            q[k + l] += ((t0 * t0 + t1 * t1) + (t2 * t2 + t3 * t3)) + ((t4 * t4 + t5 * t5) + (t6 * t6 + t7 * t7))


cdef inline void add_moments(const stored* x, Py_ssize_t n, double* sums, double* squares, work shift, bint centered, bint more,
                             Py_ssize_t ahead) noexcept nogil:
    """sums = sum (x - shift), squares = sum (x - shift)^2; more: added to what is there; ahead: what to prefetch meanwhile, if not 0"""
    cdef work a[LANES]
    cdef work q[LANES]
    cdef Py_ssize_t i = 0
    if n >= ROUND * LANES:
        clear(a)
        clear(q)
        while True:
            moments_round(x + i, a, q, shift, centered, ahead)
            i += ROUND * LANES
            if i + ROUND * LANES > n:
                break
        fold_moments(a, q, sums, squares, centered, more)
    while i < n:
        few_moments(x + i, min(<Py_ssize_t>FEW, n - i), sums, squares, shift, centered, more or i > 0, ahead)
        i += FEW


cdef inline void short_samples(const work* x, Py_ssize_t n, Py_ssize_t channels, Py_ssize_t channel, Py_ssize_t apart, Py_ssize_t m,
                               double (*sums)[8]) noexcept nogil:
    """The sums of the first n <= SAMPLE elements of each channel of m rows."""
    cdef Py_ssize_t k, c
    if work is float and SHORT_ROWS:
        short_samples_f32(<const float*>x, n, channels, channel, apart, m, sums)
        return
    for k in range(m):
        for c in range(channels):
            fold_sample(x + k * apart + c * channel, n, sums[k], c > 0)


cdef inline void short_moments(const work* x, Py_ssize_t n, Py_ssize_t apart, Py_ssize_t m, const work* shift, double (*sums)[8],
                               double (*squares)[8], bint centered) noexcept nogil:
    """add_moments of m rows of n < ROUND * LANES elements, so many apart: the loop over rows that does nothing else"""
    cdef Py_ssize_t k
    if work is float and SHORT_ROWS:
        if centered:
            short_moments_f32(<const float*>x, n, apart, m, <const float*>shift, sums, squares, True)
        else:
            short_moments_f32(<const float*>x, n, apart, m, <const float*>shift, sums, squares, False)
        return
    for k in range(m):
        few_moments(x + k * apart, min(<Py_ssize_t>FEW, n), sums[k], squares[k], shift[k], centered, False, 0)
        if n > FEW:
            few_moments(x + k * apart + FEW, n - FEW, sums[k], squares[k], shift[k], centered, True, 0)


# ---- sums of a row from those of its blocks ----

cdef inline void add_block(double* sums, double* squares, double (*lost)[8], double (*block)[8], bint centered) noexcept nogil:
    if centered:
        add_eight(sums, lost[0], block[0])
    add_eight(squares, lost[1], block[1])


cdef inline void end_blocks(double* sums, double* squares, double (*lost)[8], bint centered) noexcept nogil:
    """What was rounded off, where the working type is float64."""
    if centered:
        regain_eight(sums, lost[0])
    regain_eight(squares, lost[1])


cdef inline Py_ssize_t ahead_of(const Array* x, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """How far ahead to prefetch from element i of a row of n on: where the row is far, in its runs."""
    return place_in(x, (i + AHEAD_BYTES // x.itemsize) % n) - place_in(x, i) if x.far else x.ahead


cdef inline const work* take_ahead(const Array* x, const char* row, Py_ssize_t i, Py_ssize_t m, Py_ssize_t n, Py_ssize_t* ahead, work* room) noexcept nogil:
    """`take` of a row of n elements, and how far ahead to prefetch meanwhile."""
    cdef const work* t = take(x, row, i, m, room)
    ahead[0] = ahead_of(x, i, n) if x.plain and t != room else 0
    if x.far and t == room:
        prefetch_bytes(row + place_in(x, i) + ahead_of(x, i, n), m * x.itemsize)
    return t


cdef void narrow_moments(Dtype dtype, const char* at, Py_ssize_t n, double* sums, double* squares, float shift, bint centered, bint more,
                         Py_ssize_t ahead) noexcept nogil:
    """add_moments of 16-bit elements where they lie"""
    if dtype == F16 and centered:
        add_moments(<const half_t*>at, n, sums, squares, shift, True, more, ahead)
    elif dtype == F16:
        add_moments(<const half_t*>at, n, sums, squares, shift, False, more, ahead)
    elif centered:
        add_moments(<const bf16_t*>at, n, sums, squares, shift, True, more, ahead)
    else:
        add_moments(<const bf16_t*>at, n, sums, squares, shift, False, more, ahead)


cdef void narrow_row_moments(const Array* x, const char* row, Py_ssize_t n, double* sums, double* squares, float shift, bint centered) noexcept nogil:
    cdef float room[BLOCK]
    cdef const char* t
    cdef Py_ssize_t i, m, ahead
    for i from 0 <= i < n by BLOCK:
        m = min(<Py_ssize_t>BLOCK, n - i)
        t = lying(x, row, i, m)
        if t != NULL:
            narrow_moments(x.dtype, t, m, sums, squares, shift, centered, i > 0, ahead_of(x, i, n))
        elif centered:
            add_moments(take_ahead(x, row, i, m, n, &ahead, room), m, sums, squares, shift, True, i > 0, ahead)
        else:
            add_moments(take_ahead(x, row, i, m, n, &ahead, room), m, sums, squares, shift, False, i > 0, ahead)


cdef inline void row_moments(const Array* x, const char* row, Py_ssize_t n, double* sums, double* squares, work shift, bint centered) noexcept nogil:
    """add_moments of a row of n elements"""
    cdef work room[BLOCK]
    cdef double block[2][8]     # sums and squares of a block, and what is rounded off as blocks are added up
    cdef double lost[2][8]
    cdef const work* t
    cdef Py_ssize_t i, m, ahead
    if work is float:
        if CONVERTS and x.itemsize == sizeof(half_t):
            narrow_row_moments(x, row, n, sums, squares, shift, centered)
            return
    if work is double and n > BLOCK:
        memset(lost, 0, sizeof(lost))
    for i from 0 <= i < n by BLOCK:
        m = min(<Py_ssize_t>BLOCK, n - i)
        t = take_ahead(x, row, i, m, n, &ahead, room)
        if work is double and i > 0:
            add_moments(t, m, block[0], block[1], shift, centered, False, ahead)
            add_block(sums, squares, lost, block, centered)
        else:
            add_moments(t, m, sums, squares, shift, centered, i > 0, ahead)
    if work is double and n > BLOCK:
        end_blocks(sums, squares, lost, centered)
