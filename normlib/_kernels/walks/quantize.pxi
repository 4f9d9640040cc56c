# The end of a pass whose result is int8, a scale a row, in the place of `give`:
#   scale = max |y| / 127, or a given one;  q = rint(y * factor), ties to even;  factor = 127 / max |y|, or 1 / scale, within [-127, 127]
# (symmetric quantization: Jacob et al. 2018). All in the working type. Where a factor would leave its range, y and what it is made from are
# taken times a power of two.

from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t

cdef extern from "quantize.h" nogil:
    ctypedef signed char int8_t
    int32_t top_f32(const float*, Py_ssize_t, int32_t)
    int64_t top_f64(const double*, Py_ssize_t, int64_t)
    void to_int8_f32(int8_t*, const float*, Py_ssize_t, float)
    void to_int8_f64(int8_t*, const double*, Py_ssize_t, double)
    void bound_int8_f32(int8_t*, const float*, Py_ssize_t, float)
    void bound_int8_f64(int8_t*, const double*, Py_ssize_t, double)

cdef enum:
    MOST = 127
    KEPT_ROW = 1 << 17      # bytes

cdef inline work largest(const work* v, Py_ssize_t n, work top) noexcept nogil:
    """max(top, |v|), infinity or NaN if there is one."""
    cdef int32_t narrow
    cdef int64_t wide
    if work is float:
        memcpy(&narrow, &top, sizeof(narrow))
        narrow = top_f32(v, n, narrow)
        memcpy(&top, &narrow, sizeof(narrow))
    else:
        memcpy(&wide, &top, sizeof(wide))
        wide = top_f64(v, n, wide)
        memcpy(&top, &wide, sizeof(wide))
    return top


cdef inline void factor_of(work whole, work units, work* factor, work* up) noexcept nogil:
    """What elements are multiplied by for `units` parts of a whole, 0 where that is 0 or no number; before, by `up`, which is 1 but for
    the rarest rows."""
    cdef work size = -whole if whole < 0 else whole, least = ldexp(1.0, -1016)     # 127 / (what is less) may overflow
    if work is float:
        least = ldexp(1.0, -120)
    factor[0], up[0] = 0, 1
    if size < least:
        up[0] = ldexp(1.0, 100)
    if size > 0 and size - size == 0:
        factor[0] = units / (whole * up[0])


cdef inline void to_int8(int8_t* q, const work* v, Py_ssize_t n, work factor, bint bounded) noexcept nogil:
    """bounded: by its own scale, which keeps v * factor in the range."""
    if work is float:
        if bounded:
            to_int8_f32(q, v, n, factor)
        else:
            bound_int8_f32(q, v, n, factor)
    else:
        if bounded:
            to_int8_f64(q, v, n, factor)
        else:
            bound_int8_f64(q, v, n, factor)


cdef void scatter_int8(const Array* y, char* row, Py_ssize_t i, Writer* writer, const int8_t* q, Py_ssize_t n) noexcept nogil:
    """Elements i to i + n <= STAGE_BYTES of a row."""
    cdef Py_ssize_t offset = i % y.length, given = 0, m, k
    cdef char* to
    while given < n:
        m = n if y.whole else min(y.length - offset, n - given)
        to = row + place_in(y, i + given)
        if y.position == 1:
            memcpy(place(writer, to), q + given, m)
            wrote(writer, m)
        else:
            for k in range(m):
                to[k * y.position] = q[given + k]
        given += m
        offset = 0


cdef void give_quantized(Pass* s, char* row, Py_ssize_t i, work* v, Py_ssize_t n, work factor, work up) noexcept nogil:
    """Elements i to i + n of a row."""
    cdef int8_t q[STAGE_BYTES]
    cdef const Array* y = &s.y
    cdef bint bounded = not s.plan.scale_given
    cdef Py_ssize_t k, m
    if up != 1:
        for k in range(n):
            v[k] *= up
    if factor == 0:     # for infinity and NaN too
        memset(v, 0, n * sizeof(work))
    if y.whole and y.position == 1 and not s.writer.streaming:
        to_int8(<int8_t*>row + i, v, n, factor, bounded)
        return
    for k from 0 <= k < n by STAGE_BYTES:
        m = min(<Py_ssize_t>STAGE_BYTES, n - k)
        to_int8(q, v + k, m, factor, bounded)
        scatter_int8(y, row, i + k, &s.writer, q, m)


cdef void values_of(Pass* s, const Array* x, const Spot* spot, Py_ssize_t first, Py_ssize_t n, const Affine* c, work factor, work* to) noexcept nogil:
    """Elements first to first + n of a row, normalized and followed by what is fused."""
    cdef Affine k = c[0]
    cdef Block b
    cdef Py_ssize_t step = n if x.plain and x.whole and factor == 1 else out_of_panel(factor), i, l
    cdef const work* t
    cdef work* u = <work*>s.out
    if s.plan.fused:
        step = min(step, s.share // <Py_ssize_t>sizeof(work))
    b.rows, b.ahead = 1, 0
    for i from first <= i < first + n by step:
        b.width = min(step, first + n - i)
        t = take(x, spot.x, i, b.width, u)
        if factor != 1:
            for l in range(b.width):
                u[l] = t[l] * factor
            t = u
        if k.weight == MANY:
            k.of_weight = <const work*>c.of_weight + i
        if k.bias == MANY:
            k.of_bias = <const work*>c.of_bias + i
        normalize_by(s.plan, &k, &b, t, to + i - first)
        if s.plan.fused:
            follow_piece(s, spot, i, b.width, to + i - first)


cdef void row_quantized(Pass* s, const Array* x, Py_ssize_t r, const Affine* c, work factor) noexcept nogil:
    """A row that is longer than a panel: kept while its largest is found or, if it is too long for that, computed once more."""
    cdef Spot spot = row_spot(s, x, r)
    cdef Py_ssize_t n = s.plan.parameters, step = n, i
    cdef work* kept = <work*>(malloc(n * sizeof(work)) if n * <Py_ssize_t>sizeof(work) <= KEPT_ROW else NULL)
    cdef work* panel = kept
    cdef work* scale = <work*>s.plan.scale + r
    cdef work top = 0, by, up
    if kept == NULL:
        panel, step = <work*>s.room, panel_of(factor)
    if s.plan.scale_given:
        factor_of(scale[0], <work>1, &by, &up)
    else:
        for i from 0 <= i < n by step:
            values_of(s, x, &spot, i, min(step, n - i), c, factor, panel)
            top = largest(panel, min(step, n - i), top)
        scale[0] = scale_from(top)
        factor_of(top, <work>MOST, &by, &up)
    for i from 0 <= i < n by step:
        if kept == NULL or s.plan.scale_given:
            values_of(s, x, &spot, i, min(step, n - i), c, factor, panel)
        give_quantized(s, spot.y, i, panel, min(step, n - i), by, up)
    free(kept)


cdef inline work scale_from(work top) noexcept nogil:
    return top / MOST if top - top == 0 else <work>NAN


cdef void rows_values(Pass* s, const Array* x, Py_ssize_t r, Py_ssize_t m, const work* table, const Affine* c, bint scaled, Py_ssize_t step) noexcept nogil:
    """values_of m rows, `step` elements apart in the room, in one go where they lie like that."""
    cdef work* panel = <work*>s.room
    cdef Affine row
    cdef Block b
    cdef Spot spot
    cdef Py_ssize_t k
    if x.plain and x.whole and x.groups == 1 and not s.plan.fused and not scaled:
        b.rows, b.width, b.ahead = m, s.plan.parameters, x.later
        b.x, b.y = x.sample // <Py_ssize_t>sizeof(work), step
        normalize_by(s.plan, c, &b, <const work*>row_at(x, r), panel)
        return
    for k in range(m):
        row = row_of(c, k, table[0])
        spot = row_spot(s, x, r + k)
        values_of(s, x, &spot, 0, s.plan.parameters, &row, table[FACTOR * TOGETHER + k] if scaled else <work>1, panel + k * step)


cdef void rows_quantized(Pass* s, const Array* x, Py_ssize_t r, Py_ssize_t m, const work* table, const Affine* c, bint scaled) noexcept nogil:
    """m rows from r on by way of a panel, which may be where they were taken to. One thing after the other, each for all rows: what one
    row waits for, the next need not."""
    cdef work* panel = <work*>s.room
    cdef work* scale = <work*>s.plan.scale + r
    cdef work by[TOGETHER]
    cdef work up[TOGETHER]
    cdef Py_ssize_t n = s.plan.parameters, step = round_up(n, LINE // sizeof(work)), k
    rows_values(s, x, r, m, table, c, scaled, step)
    for k in range(m):
        by[k] = scale[k] if s.plan.scale_given else largest(panel + k * step, n, <work>0)
    for k in range(m):
        if s.plan.scale_given:
            factor_of(by[k], <work>1, &by[k], &up[k])
            continue
        scale[k] = scale_from(by[k])
        factor_of(by[k], <work>MOST, &by[k], &up[k])
    for k in range(m):
        give_quantized(s, row_at(&s.y, r + k), 0, panel + k * step, n, by[k], up[k])


cdef void lot_quantized(Pass* s, const Array* x, Py_ssize_t r, Py_ssize_t m, const work* table, const Affine* c, bint scaled) noexcept nogil:
    cdef Py_ssize_t n = s.plan.parameters, most = panel_of(table[0]) // n, k
    cdef Affine row
    for k from 0 <= k < m by max(<Py_ssize_t>1, most):
        row = row_of(c, k, table[0])
        if most > 0:
            rows_quantized(s, x, r + k, min(most, m - k), table + k, &row, scaled)
        else:
            row_quantized(s, x, r, &row, table[FACTOR * TOGETHER] if scaled else <work>1)
