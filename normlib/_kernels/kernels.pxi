# All kernels, in one source for every ISA level; a level is a module of a few lines that includes this file.

from cpython.pycapsule cimport PyCapsule_New, PyCapsule_SetContext
from normlib._kernels.plan cimport (
    BF16, BLOCK, CHUNK, F16, F32, F64, LANES, LINE, SCALED, SETTLED, AGAIN, LAST, WIDE, Plan, Run, Span, Step, WATCH_BYTES, few_rows,
    FEATURE_ROWS_FORWARD, FEATURE_ROWS_BACKWARD, FEATURE_ROWS_PARTS, FEATURE_COLUMNS_FORWARD, FEATURE_COLUMNS_BACKWARD,
    CHANNEL_ROWS_FORWARD, CHANNEL_ROWS_BACKWARD, CHANNEL_COLUMNS_FIRST, CHANNEL_COLUMNS_MOMENTS,
    CHANNEL_COLUMNS_STATISTICS, CHANNEL_COLUMNS_GIVEN, CHANNEL_COLUMNS_FORWARD, CHANNEL_COLUMNS_GRADIENTS,
    CHANNEL_COLUMNS_MEANS, CHANNEL_COLUMNS_PARTS, CHANNEL_COLUMNS_BACKWARD, ADD_PARTS, ROOTS, MAP, COPY, WIDEN, NARROW, MOVE,
)

include "lanes.pxi"
include "statistics.pxi"
include "streams.pxi"
include "feature_rows.pxi"
include "feature_rows_backward.pxi"
include "channel_rows.pxi"
include "channel_rows_backward.pxi"
include "columns.pxi"
include "feature_columns.pxi"
include "channel_columns.pxi"
include "channel_columns_backward.pxi"
include "parameters.pxi"

cdef void map_pages(const Plan* p, Py_ssize_t task) noexcept nogil:
    """Have the system map and clear the pages of a new result."""
    cdef Py_ssize_t i, first = task * WATCH_BYTES
    for i from first <= i < min(first + WATCH_BYTES, p.bytes) by PAGE:
        p.fresh[i] = 0


cdef void copy(const Plan* p, Py_ssize_t task) noexcept nogil:
    """The least that a pass must move: y = x, or y = x + dy where two arrays are read; the limit that benchmarks use."""
    cdef Writer writer
    cdef float t[LANES]
    cdef float g[LANES]
    cdef Py_ssize_t i = task * p.batch, stop = min(i + p.batch, p.length), j, m, l
    cdef const float* x = <const float*>p.x
    cdef const float* dy = <const float*>p.dy
    cdef float* y = <float*>p.y
    cdef float* to
    open_writer(&writer, p.streaming and dy != NULL)
    if dy == NULL and p.streaming:
        stream_copy(y + i, x + i, (stop - i) * sizeof(float))
        stream_fence()
    elif dy == NULL:
        memcpy(y + i, x + i, (stop - i) * sizeof(float))
    else:
        while i < stop:
            m = min(<Py_ssize_t>BLOCK // 4, stop - i)
            to = place(&writer, y + i)
            j = 0
            while j + LANES <= m:
                load(x + i + j, t)
                load(dy + i + j, g)
                for l in range(LANES):
                    t[l] += g[l]
                store(to + j, t)
                j += LANES
            for j in range(j, m):
                to[j] = x[i + j] + dy[i + j]
            wrote(&writer, m * sizeof(float))
            i += m
    close_writer(&writer)


cdef void run_typed(Step step, const Plan* p, Py_ssize_t task, const storage* x, const work* w) noexcept nogil:
    if step == FEATURE_ROWS_FORWARD:
        feature_rows_forward(p, task, x, w)
    elif step == FEATURE_ROWS_BACKWARD:
        feature_rows_backward(p, task, x, w)
    elif step == FEATURE_ROWS_PARTS:
        feature_rows_parts(p, task, x, w)
    elif step == FEATURE_COLUMNS_FORWARD:
        feature_columns_forward(p, task, x, w)
    elif step == FEATURE_COLUMNS_BACKWARD:
        feature_columns_backward(p, task, x, w)
    elif step == CHANNEL_ROWS_FORWARD:
        channel_rows_forward(p, task, x, w)
    elif step == CHANNEL_ROWS_BACKWARD:
        channel_rows_backward(p, task, x, w)
    elif step == CHANNEL_COLUMNS_FIRST:
        channel_columns_first(p, task, x, w)
    elif step == CHANNEL_COLUMNS_MOMENTS:
        channel_columns_moments(p, task, x, w)
    elif step == CHANNEL_COLUMNS_STATISTICS:
        channel_columns_statistics(p, task, x, w)
    elif step == CHANNEL_COLUMNS_GIVEN:
        channel_columns_given(p, task, x, w)
    elif step == CHANNEL_COLUMNS_FORWARD:
        channel_columns_forward(p, task, x, w)
    elif step == CHANNEL_COLUMNS_GRADIENTS:
        channel_columns_gradients(p, task, x, w)
    elif step == CHANNEL_COLUMNS_MEANS:
        channel_columns_means(p, task, x, w)
    elif step == CHANNEL_COLUMNS_PARTS:
        channel_columns_parts(p, task, x, w)
    elif step == CHANNEL_COLUMNS_BACKWARD:
        channel_columns_backward(p, task, x, w)
    elif step == ADD_PARTS:
        add_parts(p, task, x, w)
    elif step == WIDEN:
        widen_all(p, x, w)
    elif step == NARROW:
        narrow_all(p, x, w)
    elif step == MOVE:
        move_running(p, x)


cdef void run(Step step, const Plan* p, Py_ssize_t task) noexcept nogil:
    if step == ROOTS:
        roots(p)
    elif step == MAP:
        map_pages(p, task)
    elif step == COPY:
        copy(p, task)
    elif p.dtype == F32:
        run_typed(step, p, task, <const float*>p.x, <const float*>p.weight)
    elif p.dtype == F64:
        run_typed(step, p, task, <const double*>p.x, <const double*>p.weight)
    elif p.dtype == F16:
        run_typed(step, p, task, <const half_t*>p.x, <const float*>p.weight)
    else:
        run_typed(step, p, task, <const bf16_t*>p.x, <const float*>p.weight)


def kernels():
    """The kernels of this ISA level: a capsule around a `Run` function, its context the size of the plans it takes."""
    capsule = PyCapsule_New(<void*>run, "normlib.kernels", NULL)
    PyCapsule_SetContext(capsule, <void*>sizeof(Plan))
    return capsule
