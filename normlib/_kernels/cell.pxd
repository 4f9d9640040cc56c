"""One step of a recurrent layer as data: its arrays, its norms, the rows of a task. The formulas are in normlib/_cells.py."""

from libc.stdint cimport int64_t
from normlib._kernels.plan cimport Plan

cdef enum:      # arrays of a step, and parameters
    FROM_X, FROM_H, GATES, INNER, SQUASHED, H_BEFORE, H_AFTER, C_BEFORE, C_AFTER, OUTPUT, DOUTPUT, DH, DC, PRODUCT
    NORM_X, NORM_H, NORM_INNER, BIAS, BIAS_H, BIAS_INNER
    ARRAYS

cdef enum:
    NORMS = 5           # of a step, at most
    PART_ROWS = 8       # a task takes so many rows at least
    CELL_PARTS = 32     # and there are so many tasks at most

cdef struct CellNorm:
    Plan plan           # of `groups` rows of `parameters` elements a row of the step, their statistics and where they stand
    int source          # the array
    Py_ssize_t first    # the column that it begins with

cdef struct Cell:
    bint lstm, per_gate, cell_norm, carried
    Py_ssize_t hidden, width    # width: of all gates
    Py_ssize_t rows, batch      # batch: rows of a task
    Py_ssize_t t
    const int64_t* lengths      # steps of each row that count; NULL: all
    char* at[ARRAYS]            # in this step; NULL: there is none
    int norms
    CellNorm norm[NORMS]
    # Backward: of the norms of from_x, from_h and inner the gradients of weight and bias, a part a task, in float64; room for those of
    # up to LANES rows in the working type, and whether they move on after this step.
    double* sums
    char* room
    bint flush


cdef inline Py_ssize_t part_size(const Cell* c) noexcept nogil:
    return 4 * c.width + 2 * c.hidden
