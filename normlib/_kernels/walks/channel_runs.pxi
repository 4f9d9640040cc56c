# The runs of several channels, each with coefficients of its own: from memory to memory, or by way of a panel.

cdef inline bint adjacent(const Array* a) noexcept nogil:
    """Whether the runs of neighbouring channels are one stretch of memory."""
    return a.channel == a.length * a.position


cdef inline Py_ssize_t between(const Array* a, work zero) noexcept nogil:
    """How far apart to keep runs in a panel: short ones that are widened, on lines. What was just written and lies across two of them would
    be waited for when it is read (store forwarding); long ones are written well before, and the loops for short ones read whole lines."""
    cdef Py_ssize_t line = LINE // sizeof(float)
    if work is float and SHORT_ROWS:
        return a.length
    return (a.length + line - 1) // line * line if not a.plain and line < a.length < 4 * line else a.length


cdef inline const work* take_runs(const Array* a, const char* first, Py_ssize_t m, Py_ssize_t apart, work* room) noexcept nogil:
    """The runs of m channels, so many elements apart."""
    cdef Py_ssize_t k
    if adjacent(a) and apart == a.length:
        return take_run(a, first, m * a.length, room)
    for k in range(m):
        widen(a, first + k * a.channel, a.length, room + k * apart)
    return room


cdef inline work* out_of(const Array* y, char* to, Writer* writer, const work* room, Py_ssize_t n) noexcept nogil:
    """Where to compute n elements of runs that are one stretch of memory: there, in the stage, or in room."""
    if not y.plain or not adjacent(y) or (writer.streaming and n * <Py_ssize_t>sizeof(work) >= LONG):
        return <work*>room
    return <work*>place(writer, to)


cdef inline void give_runs(const Array* y, char* to, Writer* writer, const work* t, Py_ssize_t m, Py_ssize_t apart) noexcept nogil:
    """The runs of m channels, which were computed at `out_of`, so many elements apart."""
    cdef Py_ssize_t k
    if not adjacent(y) or apart != y.length:
        for k in range(m):
            give_room(y, to + k * y.channel, writer, t + k * apart, y.length)
    elif <const char*>t == place(writer, to):
        wrote(writer, m * y.length * y.itemsize)
    else:
        give_room(y, to, writer, t, m * y.length)


cdef void follow_runs(const Pass* s, const Array* x, const Spot* spot, Py_ssize_t many, Py_ssize_t apart, work* v) noexcept nogil:
    """The epilogue of the runs of many channels, so many elements apart: of all at once where they are one stretch of memory."""
    cdef const void* beside[OUTPUTS]
    cdef Spot run
    cdef Py_ssize_t n = x.length, k
    cdef bint one = apart == n
    cdef int i
    for i in range(BESIDE, OUTPUTS):
        beside[i] = NULL
        if spot.beside[i] != NULL and one:
            one = adjacent(&s.beside[i]) and (i < INPUTS or s.beside[i].plain)
            beside[i] = take_run(&s.beside[i], spot.beside[i], many * n if one else 0, share_of(s, i, v[0]))
    if one:
        follow(s.plan, v, beside, many * n)
        return
    for k in range(many):
        run = moved(s, x, spot, k, 0)
        follow_piece(s, &run, 0, n, v + k * apart)


cdef inline bint direct_runs(const Plan* p, const Array* x) noexcept nogil:
    """Whether runs are computed as they are stored; the loops for short ones have float32 alone."""
    return straight(p, x) and (x.plain or p.length >= ROUND * LANES)


cdef inline bint runs_in_place(const Pass* s, const Array* x, const Spot* spot) noexcept nogil:
    cdef int i
    for i in range(BESIDE, OUTPUTS if s.plan.fused else 0):
        if spot.beside[i] != NULL and not s.beside[i].plain:
            return False
    return direct_runs(s.plan, x) and s.apart and not s.writer.streaming


cdef void runs_normalize(Pass* s, const Array* x, const Spot* spot, Py_ssize_t many, const Affine* c, work zero) noexcept nogil:
    """The runs of many channels, each with coefficients of its own."""
    cdef Affine row
    cdef Block b
    cdef Spot run
    cdef Py_ssize_t n = x.length, apart = between(x, zero), per = max(<Py_ssize_t>1, portion(x, &s.y, &s.writer, many * apart, zero) // apart), k
    cdef const work* t
    cdef work* u
    b.width, b.ahead = n, x.later
    if runs_in_place(s, x, spot):
        b.rows, b.x, b.y = many, x.channel // x.itemsize, s.y.channel // x.itemsize
        if x.plain:
            normalize_runs(c, &b, <const work*>spot.x, <work*>spot.y)
        else:
            normalize_in(x.dtype, c, &b, spot.x, spot.y, zero)
        if follows(s, spot):
            follow_runs(s, x, spot, many, b.y, <work*>spot.y)
        return
    b.x = apart
    if s.plan.fused:
        per = max(<Py_ssize_t>1, min(per, s.share // <Py_ssize_t>sizeof(work) // apart)) if spot.beside[OF_WHERE] == NULL else 1
    for k from 0 <= k < many by per:
        row = row_of(c, k, zero)
        run = moved(s, x, spot, k, 0)
        if per == 1:
            normalize_pieces(s, x, &run, n, &row, <work>1)
            continue
        b.rows = min(per, many - k)
        t = take_runs(x, run.x, b.rows, apart, <work*>s.out)
        u = out_of(&s.y, run.y, &s.writer, <work*>s.out, b.rows * n) if s.apart else <work*>s.out
        b.y = apart if u == <work*>s.out else n
        normalize_runs(&row, &b, t, u)
        if follows(s, spot):
            follow_runs(s, x, &run, b.rows, b.y, u)
        give_runs(&s.y, run.y, &s.writer, u, b.rows, b.y)


cdef void runs_descend(Pass* s, const Array* x, const Array* dy, const Spot* spot, const char* dfirst, Py_ssize_t many, const Affine* c,
                       work zero) noexcept nogil:
    """As runs_normalize."""
    cdef Affine row
    cdef Block b
    cdef Spot run
    cdef Py_ssize_t n = x.length, per = min(portion(x, &s.y, &s.writer, many * n, zero), portion(dy, &s.y, &s.writer, many * n, zero)), k
    cdef const work* t
    cdef const work* g
    cdef work* u
    b.width, b.ahead, b.dy_ahead = n, x.later, dy.later
    if direct_runs(s.plan, dy) and runs_in_place(s, x, spot):
        b.rows, b.x, b.dy, b.y = many, x.channel // x.itemsize, dy.channel // x.itemsize, s.y.channel // x.itemsize
        if x.plain:
            descend_runs(c, &b, <const work*>spot.x, <const work*>dfirst, <work*>spot.y)
        else:
            descend_in(x.dtype, c, &b, spot.x, dfirst, spot.y, zero)
        if follows(s, spot):
            follow_runs(s, x, spot, many, b.y, <work*>spot.y)
        return
    b.x = b.dy = b.y = n
    per = max(<Py_ssize_t>1, min(per, s.share // <Py_ssize_t>sizeof(work) if s.plan.fused else out_of_panel(zero) // 2) // n)
    if s.plan.fused and spot.beside[OF_WHERE] != NULL:
        per = 1
    for k from 0 <= k < many by per:
        row = row_of(c, k, zero)
        run = moved(s, x, spot, k, 0)
        if per == 1:
            descend_pieces(s, x, dy, &run, dfirst + k * dy.channel, n, &row, zero)
            continue
        b.rows = min(per, many - k)
        t = take_runs(x, run.x, b.rows, n, <work*>s.out)
        g = take_runs(dy, dfirst + k * dy.channel, b.rows, n, share_of(s, OF_DY, zero) if s.plan.fused else <work*>(s.out + OUT_BYTES // 2))
        u = out_of(&s.y, run.y, &s.writer, <work*>s.out, b.rows * n) if s.apart else <work*>s.out
        descend_runs(&row, &b, t, g, u)
        if follows(s, spot):
            follow_runs(s, x, &run, b.rows, n, u)
        give_runs(&s.y, run.y, &s.writer, u, b.rows, n)
