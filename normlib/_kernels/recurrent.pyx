"""The steps of recurrent layers: what normlib._cells.Steps computes in NumPy, compiled."""

cimport numpy as cnp
import numpy as np

from libc.stdint cimport int64_t
from libc.string cimport memset
from normlib._kernels.call cimport kernels_in_use
from normlib._kernels.cell cimport (
    ARRAYS, BIAS, BIAS_H, BIAS_INNER, C_AFTER, C_BEFORE, CELL_PARTS, DC, DH, DOUTPUT, FROM_H, FROM_X, GATES, H_AFTER, H_BEFORE, INNER, NORM_H,
    NORM_INNER, NORM_X, OUTPUT, PART_ROWS, PRODUCT, SQUASHED, Cell, part_size,
)
from normlib._kernels.parallel cimport current_threads, parallel_for
from normlib._kernels.plan cimport CELL_BACKWARD, CELL_FORWARD, F32, F64, LANES, Plan

cnp.import_array()

cdef enum:
    SHARED = 1 << 15    # elements of all gates from which on threads share a step

cdef dict PLACES = {
    "from_x": FROM_X, "from_h": FROM_H, "gates": GATES, "inner": INNER, "squashed": SQUASHED, "h_before": H_BEFORE, "h_after": H_AFTER,
    "c_before": C_BEFORE, "c_after": C_AFTER, "y": OUTPUT, "dy": DOUTPUT, "dh": DH, "dc": DC, "product": PRODUCT,
}


cdef class Steps:
    """As normlib._cells.Steps."""

    cdef Plan plan
    cdef Cell cell
    cdef char* base[ARRAYS]
    cdef Py_ssize_t apart[ARRAYS]       # bytes from a step to the next; 0: one serves all steps
    cdef double* statistics[2]
    cdef Py_ssize_t statistics_apart
    cdef Py_ssize_t tasks, steps, between
    cdef object held, sums, room
    cdef dict arrays

    def __init__(self, cell, dict arrays, lengths=None):
        cdef Cell* c = &self.cell
        cdef Py_ssize_t rows
        self.arrays, self.held = arrays, lengths
        memset(c, 0, sizeof(Cell))
        memset(&self.plan, 0, sizeof(Plan))
        memset(self.base, 0, sizeof(self.base))
        memset(self.apart, 0, sizeof(self.apart))
        rows = arrays["from_x"].shape[1]
        c.lstm, c.per_gate, c.cell_norm, c.carried = cell.lstm, cell.per_gate, cell.cell_norm, cell.carried
        c.hidden, c.width, c.rows = cell.hidden, cell.gates * cell.hidden, rows
        c.batch = max(<Py_ssize_t>PART_ROWS, (rows - 1) // CELL_PARTS + 1)
        self.tasks = (rows + c.batch - 1) // c.batch
        self.plan.cell = c
        self.plan.dtype = F64 if arrays["from_x"].dtype == np.float64 else F32
        if lengths is not None:
            c.lengths = <const int64_t*>cnp.PyArray_DATA(lengths)
        for name, place in PLACES.items():
            if name in arrays:
                self.place(place, arrays[name])
        self.parameters(arrays)
        self.norms(cell)
        if "dy" in arrays:
            self.sums = np.zeros((self.tasks, part_size(c)))
            self.room = np.zeros((self.tasks, part_size(c)), arrays["from_x"].dtype)
            c.sums, c.room = <double*>cnp.PyArray_DATA(self.sums), <char*>cnp.PyArray_DATA(self.room)
            self.between = max(<Py_ssize_t>1, LANES // c.batch)     # steps whose gradients are added in the working type

    cdef void place(self, int at, cnp.ndarray array):
        self.base[at] = <char*>cnp.PyArray_DATA(array)
        self.apart[at] = array.strides[0] if array.shape[0] > 1 else 0

    cdef void parameters(self, dict arrays):
        cdef Py_ssize_t size = arrays["from_x"].itemsize
        cdef bint gru_per_gate = self.cell.per_gate and not self.cell.lstm
        names = {"bias": BIAS, "bias_hn": BIAS_H, "norm_ih": NORM_X, "norm_hh": NORM_H, "norm": NORM_H, "norm_cell_weight": NORM_INNER,
                 "norm_cell_bias": BIAS_INNER}
        for name, at in names.items():
            if name in arrays:
                self.cell.at[<int>at] = <char*>cnp.PyArray_DATA(arrays[name])
        if gru_per_gate:    # n has the last part
            self.cell.at[NORM_INNER] = self.cell.at[NORM_H] + 2 * self.cell.hidden * size
            self.cell.at[BIAS_INNER] = self.cell.at[BIAS] + 2 * self.cell.hidden * size

    cdef void norms(self, cell):
        cdef Plan* p
        cdef int k
        cdef Py_ssize_t width
        mean = self.arrays["mean"]
        self.statistics[0] = <double*>cnp.PyArray_DATA(mean)
        self.statistics[1] = <double*>cnp.PyArray_DATA(self.arrays["rstd"])
        self.statistics_apart = mean.shape[1] if mean.shape[0] > 1 else 0
        self.cell.norms = len(cell.norms)
        for k, norm in enumerate(cell.norms):
            p = &self.cell.norm[k].plan
            self.cell.norm[k].source, self.cell.norm[k].first = PLACES[norm.source], norm.first
            width = self.cell.hidden if norm.source == "inner" else self.cell.width
            p.dtype, p.centered, p.eps = self.plan.dtype, True, cell.eps
            p.samples, p.groups, p.channels, p.segments, p.length = self.cell.rows, norm.groups, 1, 1, norm.size
            p.parameters = norm.size
            p.xs.sample, p.xs.channel, p.xs.segment, p.xs.position = width, norm.size, norm.size, 1

    cdef void at_step(self, Py_ssize_t t) noexcept nogil:
        cdef Py_ssize_t i
        cdef Py_ssize_t at = t * self.statistics_apart
        self.cell.t = t
        for i in range(NORM_X):
            self.cell.at[i] = self.base[i] + t * self.apart[i] if self.base[i] != NULL else NULL
        for i in range(self.cell.norms):
            self.cell.norm[i].plan.mean, self.cell.norm[i].plan.rstd = self.statistics[0] + at, self.statistics[1] + at
            at += self.cell.norm[i].plan.groups * self.cell.rows

    cdef int threads(self) except -1:
        return current_threads() if self.cell.rows * self.cell.width >= SHARED else 1

    def forward(self, Py_ssize_t t):
        """The states after step t, of its products and the states before."""
        cdef int threads = self.threads()
        with nogil:
            self.at_step(t)
            parallel_for(kernels_in_use(), CELL_FORWARD, &self.plan, self.tasks, threads)

    def backward(self, Py_ssize_t t):
        """The gradients with respect to the products of step t and the states before it."""
        cdef int threads = self.threads()
        with nogil:
            self.at_step(t)
            self.steps += 1
            self.cell.flush = self.steps % self.between == 0
            parallel_for(kernels_in_use(), CELL_BACKWARD, &self.plan, self.tasks, threads)

    def gradients(self):
        """Those of the parameters beside the products, in float64."""
        cdef Py_ssize_t n = self.cell.hidden, width = self.cell.width
        sums = (self.sums + self.room).sum(axis=0) if self.tasks else np.zeros(part_size(&self.cell))
        x, x_bias, h, h_bias = sums[: 4 * width].reshape(4, width)
        inner, inner_bias = sums[4 * width :].reshape(2, n)
        if self.cell.per_gate and not self.cell.lstm:
            return {"bias": np.concatenate((h_bias[: 2 * n], inner_bias)), "norm": np.concatenate((h[: 2 * n], inner))}
        if self.cell.per_gate:
            found = {"bias": h_bias, "norm": h}
        else:
            found = {"bias": x_bias, "norm_ih": x, "norm_hh": h, "bias_hn": h_bias[2 * n :]}
        return found | {"norm_cell_weight": inner, "norm_cell_bias": inner_bias}
