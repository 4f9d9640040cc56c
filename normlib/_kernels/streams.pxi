# Streaming stores. An output that will not stay in cache is written past the caches, which saves reading the lines that
# it overwrites. Results are staged in the first cache and leave in whole lines, while the next loads are under way.

cdef enum:
    LONG = 512          # bytes of a run that goes past the caches lane by lane; a shorter one is staged whole
    STAGE_BYTES = 1024  # bytes staged before they leave
    STAGE = 2 * STAGE_BYTES + 2 * LINE  # STAGE_BYTES and as many more, from any place in a line on
    PAGE = 4096
    PIECE = 4 * LANES   # elements that a stage has room for, whatever their type

cdef struct Writer:
    bint streaming
    char* to                # where the staged bytes belong
    char* stage             # a line; the staged bytes lie to it as they belong to the lines of the output
    Py_ssize_t staged
    char room[2 * STAGE + LINE]


cdef inline void open_writer(Writer* writer, bint streaming) noexcept nogil:
    """The stage begins on a line and lies in one page: what is stored across two, and read back, takes 80 ns more (Zen 4)."""
    cdef Py_ssize_t to_page = <Py_ssize_t>(-<size_t>writer.room % PAGE)
    writer.streaming = streaming
    writer.to = NULL
    writer.stage = writer.room + (to_page if to_page < STAGE + LINE else to_page % LINE)
    writer.staged = 0


cdef inline char* first_staged(const Writer* writer) noexcept nogil:
    return writer.stage + <Py_ssize_t>(<size_t>writer.to % LINE)


cdef inline void flush(Writer* writer, bint rest) noexcept nogil:
    """Send the whole lines, or all that is left."""
    cdef Py_ssize_t bytes = writer.staged, kept = 0
    if not rest:
        kept = <Py_ssize_t>((<size_t>writer.to + bytes) % LINE)
    stream_copy(writer.to, first_staged(writer), bytes - kept)
    memcpy(writer.stage, first_staged(writer) + bytes - kept, kept)
    writer.to += bytes - kept
    writer.staged = kept


cdef inline storage* place(Writer* writer, storage* target) noexcept nogil:
    """Where to write what belongs at `target`: at most STAGE_BYTES bytes, then `wrote`; with an empty stage twice as many, then
    `fill_line`."""
    if not writer.streaming:
        return target
    if writer.to + writer.staged != <char*>target:
        flush(writer, True)
        writer.to = <char*>target
    return <storage*>(first_staged(writer) + writer.staged)


cdef inline void wrote(Writer* writer, Py_ssize_t bytes) noexcept nogil:
    if writer.streaming:
        writer.staged += bytes
        if writer.staged >= STAGE_BYTES:
            flush(writer, False)


cdef inline void fill_line(Writer* writer, Py_ssize_t bytes) noexcept nogil:
    """Send what is staged, `bytes` more, and leave the stage empty: a line of the end of one run and the beginning of the next."""
    writer.staged += bytes
    flush(writer, True)


cdef inline Py_ssize_t to_line(const storage* y) noexcept nogil:
    """Elements up to the next line."""
    return <Py_ssize_t>(-<size_t>y % LINE) // <Py_ssize_t>sizeof(storage)


cdef inline void stream(storage* y, const work* t) noexcept nogil:
    """All lanes past the caches; y on a line."""
    cdef storage narrow[LANES]
    if storage is double or storage is float:
        stream_lines(y, t, sizeof(narrow))
    else:
        pack_lanes(narrow, t)
        stream_lines(y, narrow, sizeof(narrow))


cdef inline bint lane_by_lane(const Plan* p, const storage* x) noexcept nogil:
    """Whether the runs of a pass go past the caches lane by lane."""
    return p.streaming and p.length * <Py_ssize_t>sizeof(storage) >= LONG


cdef inline void close_writer(Writer* writer) noexcept nogil:
    if writer.streaming:
        flush(writer, True)
        stream_fence()


cdef inline void prefetch_run(const storage* x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i from 0 <= i < n by LINE // <Py_ssize_t>sizeof(storage):
        prefetch(x + i)
