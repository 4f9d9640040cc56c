# A row, or a run of one, in pieces: taken, computed, followed by what is fused, given. Where elements are `straight`, from memory to memory.

cdef inline work* share_of(const Pass* s, int i, work zero) noexcept nogil:
    """Room for what the epilogue reads of an array; the first share is that of the elements themselves."""
    return <work*>(s.out + s.shares[i] * s.share)


cdef inline void prefetch_after(const Array* a, const work* t, Py_ssize_t n) noexcept nogil:
    """Prefetch what comes a while after n elements that are read where they lie."""
    if a.plain:
        prefetch_bytes(<const char*>t + AHEAD_BYTES, n * sizeof(work))


cdef void follow_piece(const Pass* s, const Spot* spot, Py_ssize_t i, Py_ssize_t n, work* v) noexcept nogil:
    """The epilogue of elements i to i + n of a row or run."""
    cdef const void* beside[OUTPUTS]
    cdef Writer writer
    cdef int k
    writer.streaming = False
    for k in range(BESIDE, OUTPUTS):
        beside[k] = NULL
        if spot.beside[k] != NULL and k < INPUTS:
            beside[k] = take(&s.beside[k], spot.beside[k], i, n, share_of(s, k, v[0]))
            if s.plan.level > 2:
                prefetch_after(&s.beside[k], <const work*>beside[k], n)
        elif spot.beside[k] != NULL:
            beside[k] = target(&s.beside[k], <char*>spot.beside[k], i, &writer, share_of(s, k, v[0]), n)
    follow(s.plan, v, beside, n)
    for k in range(INPUTS, OUTPUTS):
        if beside[k] != NULL:
            give(&s.beside[k], <char*>spot.beside[k], i, &writer, <const work*>beside[k], n)


cdef inline bint give_nothing(Pass* s, const Spot* spot, Py_ssize_t i, Py_ssize_t n, work zero) noexcept nogil:
    """Zeros for elements i to i + n, which are outside, and whether that is all; not where dx is dsum there."""
    cdef work* u = <work*>s.out
    cdef Writer writer
    cdef Py_ssize_t stop = i + n, m
    cdef int k
    if spot.beside[OF_DSUM] != NULL:
        return False
    writer.streaming = False
    memset(u, 0, min(n, out_of_panel(zero)) * sizeof(work))
    while i < stop:
        m = min(stop - i, out_of_panel(zero))
        give(&s.y, spot.y, i, &s.writer, u, m)
        for k in range(INPUTS, OUTPUTS):
            if spot.beside[k] != NULL:
                give(&s.beside[k], <char*>spot.beside[k], i, &writer, u, m)
        i += m
    return True


cdef struct Pieces:
    # What is the same for all elements of a row, or of a run.
    const Array* x
    const Array* dy         # NULL in a forward pass
    const char* drow
    const Affine* c
    double factor


cdef inline void compute_pieces(Pass* s, const Pieces* p, const Spot* spot, Py_ssize_t first, Py_ssize_t stop, work zero) noexcept nogil:
    if p.dy == NULL:
        normalize_from(s, p, spot, first, stop, zero)
    else:
        descend_from(s, p, spot, first, stop, zero)


cdef void masked_pieces(Pass* s, const Pieces* p, const Spot* spot, Py_ssize_t n, work zero) noexcept nogil:
    """n elements: long stretches that are inside without the mask, those outside not at all, the rest by the mask."""
    cdef Spot clear = spot[0]
    cdef Py_ssize_t i = 0, m
    cdef bint inside
    clear.beside[OF_WHERE] = NULL
    while i < n:
        m = stretch(&s.beside[OF_WHERE], spot.beside[OF_WHERE], i, n - i, &inside)
        if inside and m >= LINE:
            compute_pieces(s, p, &clear, i, i + m, zero)
        elif inside or m < LINE or not give_nothing(s, spot, i, m, zero):
            m = min(n - i, max(m, <Py_ssize_t>WIDE))
            compute_pieces(s, p, spot, i, i + m, zero)
        i += m


cdef void normalize_pieces(Pass* s, const Array* x, const Spot* spot, Py_ssize_t n, const Affine* c, work factor) noexcept nogil:
    """n elements of a row, or of a run, times a factor, in pieces: taken, normalised, followed by what is fused, given."""
    cdef Pieces p
    p.x, p.dy, p.c, p.factor = x, NULL, c, factor
    if s.plan.fused and spot.beside[OF_WHERE] != NULL:
        masked_pieces(s, &p, spot, n, factor)
    else:
        normalize_from(s, &p, spot, 0, n, factor)


cdef void descend_pieces(Pass* s, const Array* x, const Array* dy, const Spot* spot, const char* drow, Py_ssize_t n, const Affine* c,
                         work zero) noexcept nogil:
    """As normalize_pieces."""
    cdef Pieces p
    p.x, p.dy, p.drow, p.c = x, dy, drow, c
    if s.plan.fused and spot.beside[OF_WHERE] != NULL:
        masked_pieces(s, &p, spot, n, zero)
    else:
        descend_from(s, &p, spot, 0, n, zero)


cdef inline Affine from_element(const Affine* c, Py_ssize_t i, work zero) noexcept nogil:
    """The coefficients of a row from element i on."""
    cdef Affine k = c[0]
    if k.weight == MANY:
        k.of_weight = <const work*>k.of_weight + i
    if k.bias == MANY:
        k.of_bias = <const work*>k.of_bias + i
    return k


cdef inline char* place_straight(Pass* s, const Spot* spot, Py_ssize_t i, Py_ssize_t n, Py_ssize_t size) noexcept nogil:
    """Where to compute n elements from i on as they are stored."""
    return s.out if s.writer.streaming and n * size >= LONG else place(&s.writer, spot.y + i * size)


cdef inline void give_straight(Pass* s, const Spot* spot, Py_ssize_t i, Py_ssize_t n, Py_ssize_t size, const char* t) noexcept nogil:
    if t == s.out:
        send(&s.writer, spot.y + i * size, t, n * size)
    else:
        wrote(&s.writer, n * size)


cdef inline bint lie_straight(const Pass* s, const Array* x, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Whether elements i to i + n of a row are `straight`, and lie side by side."""
    return straight(s.plan, x) and in_a_run(x, i, n) and in_a_run(&s.y, i, n)


cdef void normalize_straight(Pass* s, const Pieces* p, const Spot* spot, Py_ssize_t first, Py_ssize_t stop, work zero) noexcept nogil:
    """normalize_from where elements lie side by side, are `straight`, and nothing follows."""
    cdef Affine k
    cdef Block b
    cdef Py_ssize_t size = p.x.itemsize, step = OUT_BYTES // size if s.writer.streaming else stop - first, i
    cdef char* u
    b.rows, b.ahead = 1, p.x.later
    for i from first <= i < stop by step:
        b.width = min(step, stop - i)
        k = from_element(p.c, i, zero)
        u = place_straight(s, spot, i, b.width, size)
        normalize_in(p.x.dtype, &k, &b, spot.x + i * size, u, zero)
        give_straight(s, spot, i, b.width, size, u)


cdef void normalize_from(Pass* s, const Pieces* p, const Spot* spot, Py_ssize_t first, Py_ssize_t stop, work zero) noexcept nogil:
    cdef Affine k
    cdef Block b
    cdef bint fused = follows(s, spot)
    cdef work factor = <work>p.factor
    cdef Py_ssize_t step = portion(p.x, &s.y, &s.writer, stop - first, zero), i, l
    cdef const work* t
    cdef work* u
    if factor == 1 and not fused and lie_straight(s, p.x, first, stop - first):
        normalize_straight(s, p, spot, first, stop, zero)
        return
    if fused:
        step = min(step, s.share // <Py_ssize_t>sizeof(work))
    elif factor != 1:
        step = min(step, out_of_panel(zero))
    b.rows, b.ahead = 1, p.x.later
    for i from first <= i < stop by step:
        b.width = min(step, stop - i)
        k = from_element(p.c, i, zero)
        t = take(p.x, spot.x, i, b.width, <work*>s.out)
        if factor != 1:
            u = <work*>s.out
            for l in range(b.width):
                u[l] = t[l] * factor
            t = u
        u = target(&s.y, spot.y, i, &s.writer, <work*>s.out, b.width) if s.apart else <work*>s.out
        normalize_by(s.plan, &k, &b, t, u)
        if fused:
            follow_piece(s, spot, i, b.width, u)
        give(&s.y, spot.y, i, &s.writer, u, b.width)


cdef void descend_straight(Pass* s, const Pieces* p, const Spot* spot, Py_ssize_t first, Py_ssize_t stop, work zero) noexcept nogil:
    """As normalize_straight."""
    cdef Affine k
    cdef Block b
    cdef Py_ssize_t size = p.x.itemsize, step = OUT_BYTES // size if s.writer.streaming else stop - first, i
    cdef char* u
    b.rows, b.ahead, b.dy_ahead = 1, p.x.later, p.dy.later
    for i from first <= i < stop by step:
        b.width = min(step, stop - i)
        k = from_element(p.c, i, zero)
        u = place_straight(s, spot, i, b.width, size)
        descend_in(p.x.dtype, &k, &b, spot.x + i * size, p.drow + i * size, u, zero)
        give_straight(s, spot, i, b.width, size, u)


cdef void descend_from(Pass* s, const Pieces* p, const Spot* spot, Py_ssize_t first, Py_ssize_t stop, work zero) noexcept nogil:
    cdef Affine k
    cdef Block b
    cdef bint fused = follows(s, spot)
    cdef Py_ssize_t step = min(portion(p.x, &s.y, &s.writer, stop - first, zero), portion(p.dy, &s.y, &s.writer, stop - first, zero)), i
    cdef const work* t
    cdef const work* g
    cdef work* u
    cdef work* room = share_of(s, OF_DY, zero) if fused else <work*>(s.out + OUT_BYTES // 2)
    if not fused and lie_straight(s, p.x, first, stop - first) and lie_straight(s, p.dy, first, stop - first):
        descend_straight(s, p, spot, first, stop, zero)
        return
    if fused:
        step = min(step, s.share // <Py_ssize_t>sizeof(work))
    elif not (p.x.plain and p.x.whole and p.dy.plain and p.dy.whole):
        step = min(step, out_of_panel(zero) // 2)
    b.rows, b.ahead, b.dy_ahead = 1, p.x.later, p.dy.later
    for i from first <= i < stop by step:
        b.width = min(step, stop - i)
        k = from_element(p.c, i, zero)
        t = take(p.x, spot.x, i, b.width, <work*>s.out)
        g = take(p.dy, p.drow, i, b.width, room)
        u = target(&s.y, spot.y, i, &s.writer, <work*>s.out, b.width) if s.apart else <work*>s.out
        descend(&k, &b, t, g, u)
        if fused:
            follow_piece(s, spot, i, b.width, u)
        give(&s.y, spot.y, i, &s.writer, u, b.width)
