# Rows of which a mask lets some elements in. Their statistics are those of a row of the elements inside, side by side; sums of
# gradients run over the whole row, where dy is 0 outside, and x an element like the others.

cdef enum:
    WORDS = LINE // 8   # of 8 bytes

cdef struct Inside:
    const Plan* plan
    Array mask
    const Array* of         # the array whose elements it lets in
    const char* row         # of the mask, which is that at hand
    bint filled             # elements outside are taken too, as `fill`
    double fill
    Py_ssize_t passed, taken    # the row up to where it was last taken, and how many of those are inside


cdef inline bint open_inside(Inside* s, const Plan* p, const Array* of, bint filled, work zero) noexcept nogil:
    """Whether there is a mask that the statistics go by."""
    cdef const View* mask = &p.companion[OF_WHERE]
    s.plan, s.of, s.filled = p, of, filled
    if p.inside != NULL:
        open_array(&s.mask, p, mask.data, &mask.span, BOOL, zero)
    return p.inside != NULL


cdef inline void begin_row(Inside* s, const char* row) noexcept nogil:
    s.row, s.passed, s.taken = row, 0, 0


cdef inline const Array* by_mask(const Array* x, Inside* s, Py_ssize_t r, Py_ssize_t channel, double fill, Array* filled) noexcept nogil:
    """x, where a row has elements outside as it is to be taken from a channel on: with `fill` in their place."""
    if s.plan.inside == NULL or s.plan.inside[r] == x.channels * x.segments * x.length:
        return x
    begin_row(s, row_at(&s.mask, r) + channel * s.mask.channel)
    s.of, s.fill = x, fill
    filled[0] = x[0]
    filled.inside, filled.plain, filled.whole, filled.far = s, False, False, False
    return filled


cdef inline bint mixed(const char* m, Py_ssize_t words, bint first) noexcept nogil:
    """Whether one of so many times 8 neighbours is not as the first. A word has a zero byte where this takes a borrow from its top
    bit that was not there (Mycroft 1987)."""
    cdef uint64_t word[WORDS]
    cdef uint64_t ones = 0x0101010101010101, found = 0
    cdef Py_ssize_t i
    memcpy(word, m, 8 * words)
    for i in range(words):
        found |= (word[i] - ones) & ~word[i] & (ones << 7) if first else word[i]
    return found != 0


cdef Py_ssize_t alike(const char* m, Py_ssize_t step, Py_ssize_t n) noexcept nogil:
    """How many elements from the first on are inside as that is, or outside."""
    cdef Py_ssize_t i = 0
    cdef bint first = m[0] != 0
    if step == 0:
        return n
    if step == 1:
        while i + LINE <= n and not mixed(m + i, WORDS, first):
            i += LINE
        while i + 8 <= n and not mixed(m + i, 1, first):
            i += 8
    while i < n and (m[i * step] != 0) == first:
        i += 1
    return i


cdef inline Py_ssize_t front_of(const Array* mask, Py_ssize_t r, Py_ssize_t inside) noexcept nogil:
    """How many elements of each run of a row are inside, if they are the first ones of all, as in padded sequences; else 0."""
    cdef Py_ssize_t runs = mask.channels * mask.segments, m = inside // runs
    cdef const char* at = row_at(mask, r)
    if (mask.channel != 0 and mask.channels > 1) or (mask.segment != 0 and mask.segments > 1) or m == 0 or not at[0]:
        return 0
    return m if alike(at, mask.position, mask.length) == m else 0


cdef inline Py_ssize_t stretch(const Array* mask, const char* row, Py_ssize_t i, Py_ssize_t n, bint* inside) noexcept nogil:
    """How many of at most n elements of a row from i on, in one run, are alike, and whether they are inside."""
    cdef const char* at = row + place_in(mask, i)
    inside[0] = at[0] != 0
    return alike(at, mask.position, n if mask.whole else min(n, mask.length - i % mask.length))


cdef void gather_inside(const Array* a, const char* row, Py_ssize_t i, Py_ssize_t n, work* room) noexcept nogil:
    """`gather` of a row by its mask."""
    if a.inside.filled:
        gather_filled(a.inside, row, i, n, room)
    else:
        gather_packed(a.inside, row, i, n, room)


cdef void gather_filled(Inside* s, const char* row, Py_ssize_t i, Py_ssize_t n, work* room) noexcept nogil:
    cdef const Array* x = s.of
    cdef Py_ssize_t stop = i + n, m, k
    cdef const char* m_at
    while i < stop:
        m_at = s.row + place_in(&s.mask, i)
        m = alike(m_at, s.mask.position, min(stop - i, x.length - i % x.length))
        if m_at[0]:
            widen(x, row + place_in(x, i), m, room)
        else:
            for k in range(m):
                room[k] = <work>s.fill
        room += m
        i += m


cdef void gather_packed(Inside* s, const char* row, Py_ssize_t i, Py_ssize_t n, work* room) noexcept nogil:
    """Those that are elements i to i + n among the ones inside."""
    cdef const Array* x = s.of
    cdef Py_ssize_t m, skip
    cdef const char* m_at
    if i < s.taken:
        s.passed = s.taken = 0
    while n > 0:
        m_at = s.row + place_in(&s.mask, s.passed)
        m = alike(m_at, s.mask.position, x.length - s.passed % x.length)
        if m_at[0]:
            skip = min(m, i - s.taken)
            m = min(m, skip + n)
            widen(x, row + place_in(x, s.passed + skip), m - skip, room)
            room += m - skip
            i += m - skip
            n -= m - skip
            s.taken += m
        s.passed += m
