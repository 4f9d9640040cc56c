# All kernels, in one source for every ISA level; a level is a module of a few lines that includes this file.

from cpython.pycapsule cimport PyCapsule_New, PyCapsule_SetContext
from libc.stdint cimport int64_t
from normlib._kernels.cell cimport (
    BIAS, BIAS_H, BIAS_INNER, C_AFTER, C_BEFORE, DC, DH, DOUTPUT, FROM_H, FROM_X, GATES, H_AFTER, H_BEFORE, INNER, NORM_H, NORM_INNER, NORM_X,
    NORMS, OUTPUT, PRODUCT, SQUASHED, Cell, CellNorm, part_size,
)
from normlib._kernels.header cimport BESIDE, INPUTS, OF_DY, OF_GATE, OF_RESIDUAL, OF_SUM, OF_WHERE, OUTPUTS
from normlib._kernels.plan cimport (
    ABREAST, BF16, BLOCK, BOOL, CHUNK, F16, F32, F64, I8, LANES, LINE, SCALED, SETTLED, AGAIN, LAST, WIDE, Dtype, Plan, Run, Span, Step, WATCH_BYTES,
    few_rows, View, line_of, round_up, size_of, view_of, y_bytes,
    CHANNEL_COLUMNS, FEATURE_ROW, SUM_ROW, FEATURE_ROWS, FEATURE_ROWS_FORWARD, FEATURE_ROWS_BACKWARD, FEATURE_ROWS_PARTS, FEATURE_COLUMNS_FORWARD,
    FEATURE_COLUMNS_BACKWARD, FEATURE_COLUMNS_STRIPS,
    CHANNEL_ROWS_FORWARD, CHANNEL_ROWS_BACKWARD, CHANNEL_COLUMNS_SUM, CHANNEL_COLUMNS_FIRST, CHANNEL_COLUMNS_MOMENTS,
    CHANNEL_COLUMNS_STATISTICS, CHANNEL_COLUMNS_GIVEN, CHANNEL_COLUMNS_FORWARD, CHANNEL_COLUMNS_GRADIENTS,
    CHANNEL_COLUMNS_MEANS, CHANNEL_COLUMNS_PARTS, CHANNEL_COLUMNS_BACKWARD, ADD_PARTS, ROOTS, MAP, COPY, WIDEN, NARROW, MOVE,
    CELL_FORWARD, CELL_BACKWARD, EXACT_SUMS, STEPS,
)

include "vectors/lanes.pxi"
include "vectors/panel.pxi"
include "vectors/inside.pxi"
include "vectors/statistics.pxi"
include "vectors/reduce.pxi"
include "vectors/slopes.pxi"
include "vectors/normalize.pxi"
include "vectors/short_runs.pxi"
include "vectors/rounded.pxi"
include "vectors/activations.pxi"
include "vectors/epilogues.pxi"
include "walks/rows.pxi"
include "walks/pieces.pxi"
include "vectors/across.pxi"
include "walks/tables.pxi"
include "walks/residual.pxi"
include "walks/quantize.pxi"
include "walks/feature_rows.pxi"
include "walks/channel_runs.pxi"
include "walks/channel_rows.pxi"
include "walks/channels_in_turn.pxi"
include "walks/beside.pxi"
include "walks/feature_columns.pxi"
include "walks/feature_columns_backward.pxi"
include "walks/channel_columns.pxi"
include "walks/channel_cuts.pxi"
include "walks/position_masks.pxi"
include "walks/parameters.pxi"
include "walks/memory.pxi"
include "walks/sums.pxi"
include "cells/norms.pxi"
include "cells/lstm.pxi"
include "cells/gru.pxi"
include "cells/steps.pxi"

ctypedef void (*InFloat)(const Plan*, Py_ssize_t, float) noexcept nogil
ctypedef void (*InDouble)(const Plan*, Py_ssize_t, double) noexcept nogil
cdef InFloat in_float[STEPS]
cdef InDouble in_double[STEPS]


cdef void run(Step step, const Plan* p, Py_ssize_t task) noexcept nogil:
    if p.dtype == F64:
        in_double[step](p, task, 0)
    else:
        in_float[step](p, task, 0)


cdef void set_steps():
    """A step's kernel for each working type."""
    in_float[FEATURE_ROWS_FORWARD], in_double[FEATURE_ROWS_FORWARD] = feature_rows_forward, feature_rows_forward
    in_float[FEATURE_ROWS_BACKWARD], in_double[FEATURE_ROWS_BACKWARD] = feature_rows_backward, feature_rows_backward
    in_float[FEATURE_ROWS_PARTS], in_double[FEATURE_ROWS_PARTS] = feature_rows_parts, feature_rows_parts
    in_float[FEATURE_ROW], in_double[FEATURE_ROW] = feature_row, feature_row
    in_float[SUM_ROW], in_double[SUM_ROW] = sum_row, sum_row
    in_float[FEATURE_COLUMNS_FORWARD], in_double[FEATURE_COLUMNS_FORWARD] = feature_columns_forward, feature_columns_forward
    in_float[FEATURE_COLUMNS_BACKWARD], in_double[FEATURE_COLUMNS_BACKWARD] = feature_columns_backward, feature_columns_backward
    in_float[FEATURE_COLUMNS_STRIPS], in_double[FEATURE_COLUMNS_STRIPS] = feature_columns_strips, feature_columns_strips
    in_float[CHANNEL_ROWS_FORWARD], in_double[CHANNEL_ROWS_FORWARD] = channel_rows_forward, channel_rows_forward
    in_float[CHANNEL_ROWS_BACKWARD], in_double[CHANNEL_ROWS_BACKWARD] = channel_rows_backward, channel_rows_backward
    in_float[CHANNEL_COLUMNS_SUM], in_double[CHANNEL_COLUMNS_SUM] = channel_columns_sum, channel_columns_sum
    in_float[CHANNEL_COLUMNS_FIRST], in_double[CHANNEL_COLUMNS_FIRST] = channel_columns_first, channel_columns_first
    in_float[CHANNEL_COLUMNS_MOMENTS], in_double[CHANNEL_COLUMNS_MOMENTS] = channel_columns_moments, channel_columns_moments
    in_float[CHANNEL_COLUMNS_STATISTICS], in_double[CHANNEL_COLUMNS_STATISTICS] = channel_columns_statistics, channel_columns_statistics
    in_float[CHANNEL_COLUMNS_GIVEN], in_double[CHANNEL_COLUMNS_GIVEN] = channel_columns_given, channel_columns_given
    in_float[CHANNEL_COLUMNS_FORWARD], in_double[CHANNEL_COLUMNS_FORWARD] = channel_columns_forward, channel_columns_forward
    in_float[CHANNEL_COLUMNS_GRADIENTS], in_double[CHANNEL_COLUMNS_GRADIENTS] = channel_columns_gradients, channel_columns_gradients
    in_float[CHANNEL_COLUMNS_MEANS], in_double[CHANNEL_COLUMNS_MEANS] = channel_columns_means, channel_columns_means
    in_float[CHANNEL_COLUMNS_PARTS], in_double[CHANNEL_COLUMNS_PARTS] = channel_columns_parts, channel_columns_parts
    in_float[CHANNEL_COLUMNS_BACKWARD], in_double[CHANNEL_COLUMNS_BACKWARD] = channel_columns_backward, channel_columns_backward
    in_float[ADD_PARTS], in_double[ADD_PARTS] = add_parts, add_parts
    in_float[ROOTS], in_double[ROOTS] = roots, roots
    in_float[MAP], in_double[MAP] = map_pages, map_pages
    in_float[COPY], in_double[COPY] = copy, copy
    in_float[WIDEN], in_double[WIDEN] = widen_all, widen_all
    in_float[NARROW], in_double[NARROW] = narrow_all, narrow_all
    in_float[MOVE], in_double[MOVE] = move_running, move_running
    in_float[EXACT_SUMS], in_double[EXACT_SUMS] = exact_sums, exact_sums
    in_float[CELL_FORWARD], in_double[CELL_FORWARD] = cell_forward, cell_forward
    in_float[CELL_BACKWARD], in_double[CELL_BACKWARD] = cell_backward, cell_backward


set_steps()


def kernels():
    """The kernels of this ISA level: a capsule around a `Run` function, its context the size of the plans it takes."""
    capsule = PyCapsule_New(<void*>run, "normlib.kernels", NULL)
    PyCapsule_SetContext(capsule, <void*>sizeof(Plan))
    return capsule
