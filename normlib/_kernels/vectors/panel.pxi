# The panel: PANEL_BYTES of elements in the working type, in L1 (vectorised execution: Boncz, Zukowski, Nes 2005). `take` reads
# elements of any dtype and strides into it, `give` writes them to any. Where elements of the working type lie side by side, the
# panel is where they are.
#
# An output that will not stay in cache is written past the caches, which saves reading the lines that it overwrites. Results
# are staged in L1 and leave in whole lines, while the next loads are under way.

cdef enum:
    PANEL = 4096        # elements of rows that are taken together
    PANEL_BYTES = 1 << 14
    OUT_BYTES = PANEL_BYTES // 2    # of what is computed at once that does not lie in y as it is
    LONG = 512          # bytes from which on results are not computed in the stage, but sent past the caches from a panel
    STAGE_BYTES = 1024  # bytes staged before they leave
    STAGE = 2 * STAGE_BYTES + 2 * LINE  # STAGE_BYTES and as many more, from any place in a line on
    PAGE = 4096

cdef struct Inside

cdef struct Array:
    # x, dy or y as a task sees it; strides in bytes. A run is `length` elements that are neighbours in memory. In rows, what shares a
    # statistic is `channels` x `segments` runs, row r is that of sample r // groups. In columns, a run is a position: it has an
    # element of each column, and the next position is `apart`.
    char* data
    Dtype dtype
    Py_ssize_t itemsize
    Py_ssize_t groups, sample, group
    Py_ssize_t channels, channel, segments, segment, length, position, apart
    Py_ssize_t first        # the row that begins at data
    int level               # of the cache that holds it, as in Plan
    Py_ssize_t ahead        # bytes from what is read to what is prefetched; 0: nothing is
    Py_ssize_t later        # the same when a row is read again, to be written
    bint far                # whether blocks are prefetched, of runs too far from each other for the hardware to see a stream
    bint plain              # the elements of a run are of the working type, side by side
    bint whole              # and so are the runs of a row
    Inside* inside          # of whose elements some alone are taken; NULL: all are


cdef struct Writer:
    bint streaming
    char* to                # where the staged bytes belong
    char* stage             # a line; the staged bytes lie to it as they belong to the lines of the output
    Py_ssize_t staged
    char room[2 * STAGE + LINE]


cdef inline Py_ssize_t panel_of(work zero) noexcept nogil:
    """Elements of a panel."""
    return PANEL_BYTES // <Py_ssize_t>sizeof(work)


cdef inline Py_ssize_t out_of_panel(work zero) noexcept nogil:
    """Elements that are computed at once."""
    return OUT_BYTES // <Py_ssize_t>sizeof(work)


cdef inline void open_array(Array* a, const Plan* p, const char* data, const Span* span, Dtype dtype, work zero) noexcept nogil:
    cdef Py_ssize_t size = size_of(dtype)
    a.data, a.dtype, a.itemsize = <char*>data, dtype, size
    a.groups, a.sample, a.group = p.groups, span.sample * size, p.channels * span.channel * size
    a.channels, a.channel = p.channels, span.channel * size
    a.segments, a.segment = p.segments, span.segment * size
    a.length, a.position = p.length, (1 if p.length == 1 else span.position) * size
    a.first = a.later = 0
    a.level, a.far, a.inside = p.level, False, NULL
    a.plain = size == sizeof(work) and a.position == size
    a.ahead = AHEAD_BYTES if p.level > 2 and not a.plain else 0
    a.whole = ((p.segments == 1 or a.segment == p.length * a.position)
               and (p.channels == 1 or a.channel == p.segments * p.length * a.position))


cdef inline void open_columns(Array* a, const Plan* p, const char* data, const Span* span, Dtype dtype, work zero) noexcept nogil:
    cdef Py_ssize_t size = size_of(dtype)
    a.data, a.dtype, a.itemsize = <char*>data, dtype, size
    a.sample, a.apart, a.position = span.sample * size, span.position * size, (1 if p.width == 1 else span.channel) * size
    a.length, a.level, a.ahead, a.inside = p.width, p.level, 0, NULL
    a.plain = size == sizeof(work) and a.position == size


cdef inline bint loadable(const Array* a) noexcept nogil:
    """Whether lanes are loaded where its elements lie: they are neighbours, of the working type or of one that instructions convert."""
    return a.position == a.itemsize and (a.plain or CONVERTS)


cdef inline char* row_at(const Array* a, Py_ssize_t r) noexcept nogil:
    r -= a.first
    if a.groups == 1:
        return a.data + r * a.sample
    return a.data + r // a.groups * a.sample + r % a.groups * a.group


cdef inline bint evenly(const Array* a, Py_ssize_t r, Py_ssize_t m, Py_ssize_t* apart) noexcept nogil:
    """Whether m rows from r on are each without a gap, and so many bytes apart."""
    apart[0] = a.sample if a.groups == 1 else a.group
    return a.whole and a.inside == NULL and (a.groups == 1 or a.sample == a.groups * a.group or (r - a.first) % a.groups + m <= a.groups)


cdef inline Py_ssize_t place_in(const Array* a, Py_ssize_t i) noexcept nogil:
    """Where element i of a row lies, from its first."""
    cdef Py_ssize_t run
    if a.whole:
        return i * a.position
    run = i // a.length
    return run // a.segments * a.channel + run % a.segments * a.segment + i % a.length * a.position


# ---- dtypes ----

cdef inline void widen_lanes(const narrow* x, Py_ssize_t n, float* t, Py_ssize_t ahead) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        if ahead != 0:
            prefetch(<const char*>(x + i) + ahead)
        if narrow is half_t:
            load_half(x + i, t + i)
        else:
            load_bf16(x + i, t + i)
        i += LANES
    if i < n:
        widen_last(x + i, n - i, t + i)


cdef inline void widen_last(const narrow* x, Py_ssize_t n, float* t) noexcept nogil:
    cdef float u[LANES]
    if narrow is half_t:
        load_part_half(x, n, u)
    else:
        load_part_bf16(x, n, u)
    store_part_f32(t, n, u)


cdef inline void narrow_lanes(const float* t, Py_ssize_t n, narrow* y) noexcept nogil:
    cdef float u[LANES]
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        if narrow is half_t:
            pack_half(y + i, t + i)
        else:
            store_bf16(y + i, t + i)
        i += LANES
    if i < n:
        load_part_f32(t + i, n - i, u)
        if narrow is half_t:
            store_part_half(y + i, n - i, u)
        else:
            store_part_bf16(y + i, n - i, u)


cdef void widen_strided(Dtype dtype, const char* x, Py_ssize_t step, Py_ssize_t n, work* t) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if dtype == F64:
            t[i] = <work>(<const double*>(x + i * step))[0]
        elif dtype == F32:
            t[i] = (<const float*>(x + i * step))[0]
        elif dtype == F16:
            t[i] = widen_half((<const half_t*>(x + i * step))[0])
        else:
            t[i] = widen_bf16((<const bf16_t*>(x + i * step))[0])


cdef inline float single(work t) noexcept nogil:
    """What is rounded once to 16 bits from there."""
    if work is double:
        return to_odd(t)
    else:
        return t


cdef void narrow_strided(Dtype dtype, const work* t, Py_ssize_t n, char* y, Py_ssize_t step) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if dtype == F64:
            (<double*>(y + i * step))[0] = t[i]
        elif dtype == F32:
            (<float*>(y + i * step))[0] = <float>t[i]
        elif dtype == F16:
            (<half_t*>(y + i * step))[0] = narrow_half(single(t[i]))
        else:
            (<bf16_t*>(y + i * step))[0] = narrow_bf16(single(t[i]))


cdef void widen_mask(const char* x, Py_ssize_t step, Py_ssize_t n, work* t) noexcept nogil:
    cdef Py_ssize_t i
    if step == 1:
        for i in range(n):
            t[i] = x[i] != 0
    else:
        for i in range(n):
            t[i] = x[i * step] != 0


cdef void widen(const Array* a, const char* x, Py_ssize_t n, work* t) noexcept nogil:
    """n elements of a run, from x on, in the working type"""
    if a.dtype == BOOL:
        widen_mask(x, a.position, n, t)
    elif a.position != a.itemsize and n > 1:
        widen_strided(a.dtype, x, a.position, n, t)
    elif a.itemsize == sizeof(work):
        if work is float:
            copy_f32(t, <const float*>x, n)
        else:
            memcpy(t, x, n * sizeof(work))
    elif work is float:
        if a.dtype == F16:
            widen_lanes(<const half_t*>x, n, t, a.ahead)
        else:
            widen_lanes(<const bf16_t*>x, n, t, a.ahead)


cdef inline void widen_to_double(const float* t, Py_ssize_t n, double* y) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = t[i]


cdef void narrow_double(Dtype dtype, const double* t, Py_ssize_t n, char* y) noexcept nogil:
    cdef float u[LANES]
    cdef Py_ssize_t i, l, m
    if dtype == F32:
        for i in range(n):
            (<float*>y)[i] = <float>t[i]
        return
    for i from 0 <= i < n by LANES:
        m = min(<Py_ssize_t>LANES, n - i)
        for l in range(m):
            u[l] = to_odd(t[i + l])
        if dtype == F16:
            narrow_lanes(u, m, <half_t*>y + i)
        else:
            narrow_lanes(u, m, <bf16_t*>y + i)


cdef void narrow_to(const Array* a, const work* t, Py_ssize_t n, char* y) noexcept nogil:
    """`widen` the other way"""
    if a.position != a.itemsize and n > 1:
        narrow_strided(a.dtype, t, n, y, a.position)
    elif a.itemsize == sizeof(work):
        memcpy(y, t, n * sizeof(work))
    elif work is float:
        if a.dtype == F64:
            widen_to_double(t, n, <double*>y)
        elif a.dtype == F16:
            narrow_lanes(t, n, <half_t*>y)
        else:
            narrow_lanes(t, n, <bf16_t*>y)
    else:
        narrow_double(a.dtype, t, n, y)


# ---- take ----

cdef void gather(const Array* a, const char* row, Py_ssize_t i, Py_ssize_t n, work* room) noexcept nogil:
    """Elements i to i + n of a row, from its runs."""
    cdef Py_ssize_t run, offset, segment, taken = 0, m
    if a.inside != NULL:
        gather_inside(a, row, i, n, room)
        return
    if a.whole:
        widen(a, row + i * a.position, n, room)
        return
    run, offset = i // a.length, i % a.length
    segment = run % a.segments
    row += run // a.segments * a.channel
    while taken < n:
        m = min(a.length - offset, n - taken)
        widen(a, row + segment * a.segment + offset * a.position, m, room + taken)
        taken += m
        segment += 1
        offset = 0
        if segment == a.segments:
            row += a.channel
            segment = 0


cdef inline const char* lying(const Array* a, const char* row, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Where elements i to i + n of the row that begins at `row` lie side by side; NULL: they do not."""
    if a.inside != NULL or a.position != a.itemsize:
        return NULL
    if a.whole or i + n <= a.length:
        return row + i * a.itemsize
    if i % a.length + n <= a.length:
        return row + place_in(a, i)
    return NULL


cdef inline const work* take(const Array* a, const char* row, Py_ssize_t i, Py_ssize_t n, work* room) noexcept nogil:
    """Elements i to i + n of the row that begins at `row`, side by side: where they lie, or in room."""
    cdef const char* t = lying(a, row, i, n) if a.plain else NULL
    if t != NULL:
        return <const work*>t
    gather(a, row, i, n, room)
    return room


cdef inline const work* take_run(const Array* a, const char* run, Py_ssize_t n, work* room) noexcept nogil:
    """n elements of a run from `run` on: where they lie, or in room."""
    if a.plain:
        return <const work*>run
    widen(a, run, n, room)
    return room


cdef inline Array* take_rows(Array* a, Py_ssize_t r, Py_ssize_t m, Py_ssize_t step, Array* taken, work* room, Py_ssize_t has) noexcept nogil:
    """m rows from r on: a itself where it is plain, or where room has no place for them, else rows in room, `step` elements apart."""
    cdef Py_ssize_t n = a.channels * a.segments * a.length, apart, k
    if (a.plain and a.whole) or m * n > has:
        return a
    if evenly(a, r, m, &apart) and apart == n * a.position and step == n:
        widen(a, row_at(a, r), m * n, room)
        return in_room(a, r, step, taken, room)
    for k in range(m):
        gather(a, row_at(a, r + k), 0, n, room + k * step)
    return in_room(a, r, step, taken, room)


cdef inline void open_run(Array* a, Dtype dtype, Py_ssize_t n, work zero) noexcept nogil:
    """The array of one run of n elements side by side, which nothing is prefetched of."""
    a.dtype, a.itemsize, a.position = dtype, size_of(dtype), size_of(dtype)
    a.channels, a.segments, a.length, a.first, a.groups = 1, 1, n, 0, 1
    a.plain, a.whole = a.itemsize == sizeof(work), True
    a.far, a.inside = False, NULL
    a.ahead = a.later = a.level = 0


cdef inline Array* in_room(const Array* a, Py_ssize_t r, Py_ssize_t step, Array* taken, work* room) noexcept nogil:
    """The array of rows like those of a, from r on, that are in room."""
    taken.data, taken.first, taken.groups, taken.sample = <char*>room, r, 1, step * sizeof(work)
    taken.dtype, taken.itemsize, taken.position = F64 if work is double else F32, sizeof(work), sizeof(work)
    taken.channels, taken.segments, taken.length = a.channels, a.segments, a.length
    taken.segment = a.length * sizeof(work)
    taken.channel = taken.segment * a.segments
    taken.plain = taken.whole = True
    taken.far, taken.inside = False, NULL
    taken.ahead = taken.later = taken.level = 0
    return taken


cdef inline const work* take_positions(const Array* a, const char* at, Py_ssize_t n, Py_ssize_t width, work* room, Py_ssize_t* apart) noexcept nogil:
    """n positions of `width` columns from `at` on, and how far they lie apart: where they are, or in room."""
    cdef Py_ssize_t i
    if a.plain:
        apart[0] = a.apart // <Py_ssize_t>sizeof(work)
        return <const work*>at
    apart[0] = width
    if a.apart == width * a.position:
        widen(a, at, n * width, room)
        return room
    for i in range(n):
        widen(a, at + i * a.apart, width, room + i * width)
    return room


# ---- give ----

cdef inline void open_writer(Writer* writer, bint streaming) noexcept nogil:
    """The stage begins on a line and lies in one page: what is stored across two, and read back, takes 80 ns more (Zen 4)."""
    cdef Py_ssize_t to_page = <Py_ssize_t>(-<size_t>writer.room % PAGE)
    writer.streaming = streaming
    writer.to = NULL
    writer.stage = writer.room + (to_page if to_page < STAGE + LINE else to_page % LINE)
    writer.staged = 0


cdef inline char* first_staged(const Writer* writer) noexcept nogil:
    return writer.stage + <Py_ssize_t>(<size_t>writer.to % LINE)


cdef void flush(Writer* writer, bint rest) noexcept nogil:
    """Send the whole lines, or all that is left."""
    cdef Py_ssize_t bytes = writer.staged, kept = 0
    if not rest:
        kept = <Py_ssize_t>((<size_t>writer.to + bytes) % LINE)
    stream_copy(writer.to, first_staged(writer), bytes - kept)
    memcpy(writer.stage, first_staged(writer) + bytes - kept, kept)
    writer.to += bytes - kept
    writer.staged = kept


cdef inline char* place(Writer* writer, char* target) noexcept nogil:
    """Where to write what belongs at `target`: at most STAGE_BYTES bytes, then `wrote`."""
    if not writer.streaming:
        return target
    if writer.to + writer.staged != target:
        flush(writer, True)
        writer.to = target
    return first_staged(writer) + writer.staged


cdef inline void wrote(Writer* writer, Py_ssize_t bytes) noexcept nogil:
    if writer.streaming:
        writer.staged += bytes
        if writer.staged >= STAGE_BYTES:
            flush(writer, False)


cdef inline void close_writer(Writer* writer) noexcept nogil:
    if writer.streaming:
        flush(writer, True)
        stream_fence()


cdef inline Py_ssize_t portion(const Array* x, const Array* y, const Writer* writer, Py_ssize_t n, work zero) noexcept nogil:
    """How many elements of n to compute at once: all of them where nothing is copied, else what a panel takes."""
    return n if x.plain and x.whole and y.plain and y.whole and not writer.streaming else out_of_panel(zero)


cdef inline bint in_a_run(const Array* y, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Whether elements i to i + n of a row, or of a run that begins it, lie in one run."""
    return y.whole or i + n <= y.length


cdef inline work* target(const Array* y, char* row, Py_ssize_t i, Writer* writer, const work* room, Py_ssize_t n) noexcept nogil:
    """Where to compute elements i to i + n of a row: there, in the stage if they are few, or in room."""
    if not y.plain or not in_a_run(y, i, n) or (writer.streaming and n * <Py_ssize_t>sizeof(work) >= LONG):
        return <work*>room
    return <work*>place(writer, row + i * y.position)


cdef void send(Writer* writer, char* at, const char* t, Py_ssize_t bytes) noexcept nogil:
    """Past the caches: whole lines at once, the ends by way of the stage."""
    cdef Py_ssize_t head = min(bytes, <Py_ssize_t>(-<size_t>at % LINE)), whole = (bytes - head) // LINE * LINE
    memcpy(place(writer, at), t, head)
    wrote(writer, head)
    if whole > 0:
        flush(writer, True)
        stream_copy(at + head, t + head, whole)
    memcpy(place(writer, at + head + whole), t + head + whole, bytes - head - whole)
    wrote(writer, bytes - head - whole)


cdef void give_room(const Array* y, char* at, Writer* writer, const work* t, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, m
    if not writer.streaming:
        narrow_to(y, t, n, at)
    elif y.plain:
        send(writer, at, <const char*>t, n * sizeof(work))
    else:
        for i from 0 <= i < n by STAGE_BYTES // y.itemsize:
            m = min(STAGE_BYTES // y.itemsize, n - i)
            narrow_to(y, t + i, m, place(writer, at + i * y.itemsize))
            wrote(writer, m * y.itemsize)


cdef void scatter(const Array* y, char* row, Py_ssize_t i, Writer* writer, const work* t, Py_ssize_t n) noexcept nogil:
    """`gather` the other way"""
    cdef Py_ssize_t offset = i % y.length, given = 0, m
    while given < n:
        m = min(y.length - offset, n - given)
        give_room(y, row + place_in(y, i + given), writer, t + given, m)
        given += m
        offset = 0


cdef inline void give(const Array* y, char* row, Py_ssize_t i, Writer* writer, const work* t, Py_ssize_t n) noexcept nogil:
    """Elements i to i + n of a row; they were computed at `target`, or in room."""
    cdef char* to = row + i * y.position
    if not in_a_run(y, i, n):
        scatter(y, row, i, writer, t, n)
    elif <const char*>t == place(writer, to):
        wrote(writer, n * y.itemsize)
    else:
        give_room(y, to, writer, t, n)


cdef inline void give_positions(const Array* y, char* at, Writer* writer, const work* t, Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    """n positions of `width` columns, which lie side by side at t, to `at`."""
    cdef Py_ssize_t i
    if y.apart == width * y.position:
        give_room(y, at, writer, t, n * width)
        return
    for i in range(n):
        give_room(y, at + i * y.apart, writer, t + i * width, width)


cdef inline void send_positions(const Array* y, char* at, Writer* writer, const char* t, Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    """give_positions of what is at t as it is stored, past the caches."""
    cdef Py_ssize_t bytes = width * y.itemsize, i
    if y.apart == bytes:
        send(writer, at, t, n * bytes)
        return
    for i in range(n):
        send(writer, at + i * y.apart, t + i * bytes, bytes)
