# Runs of channels, each with coefficients of its own; short ones of float32 many at once (short_rows.h).

cdef inline void prefetch_stretch(const Block* b, const work* x, Py_ssize_t ahead) noexcept nogil:
    """`prefetch_ahead` of all runs of a block, which follow each other."""
    if ahead != 0:
        prefetch_bytes(<const char*>x + ahead, b.rows * b.width * sizeof(work))


cdef inline void normalize_runs(const Affine* c, const Block* b, const work* x, work* y) noexcept nogil:
    """Of channel rows."""
    cdef const float* of_runs[4]
    if work is float and SHORT_ROWS and b.x == b.width and b.y == b.width and b.width < BLOCK:
        of_runs[0], of_runs[1], of_runs[2], of_runs[3] = <const float*>c.shift, <const float*>c.delta, <const float*>c.scale, <const float*>c.of_bias
        prefetch_stretch(b, x, b.ahead)
        normalize_runs_f32(<const float*>x, <float*>y, b.width, b.rows, of_runs)
    else:
        normalize(c, b, x, y)


cdef inline void descend_runs(const Affine* c, const Block* b, const work* x, const work* dy, work* dx) noexcept nogil:
    """Of channel rows."""
    cdef const float* of_runs[5]
    if work is float and SHORT_ROWS and b.x == b.width and b.dy == b.width and b.y == b.width and b.width < BLOCK:
        of_runs[0], of_runs[1], of_runs[2] = <const float*>c.of_weight, <const float*>c.scale, <const float*>c.mean_g
        of_runs[3], of_runs[4] = <const float*>c.shift, <const float*>c.slope
        prefetch_stretch(b, x, b.ahead)
        prefetch_stretch(b, dy, b.dy_ahead)
        if c.through == ABSENT:
            scale_runs_f32(<const float*>dy, <float*>dx, b.width, b.rows, of_runs)
        else:
            descend_runs_f32(<const float*>x, <const float*>dy, <float*>dx, b.width, b.rows, of_runs)
    else:
        descend(c, b, x, dy, dx)
