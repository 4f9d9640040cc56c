"""The sums of normlib._sums, compiled."""

cimport numpy as cnp
import numpy as np

from libc.string cimport memset
from normlib._kernels.call cimport kernels_in_use
from normlib._kernels.parallel cimport current_threads, parallel_for
from normlib._kernels.plan cimport BF16, CHANNEL_COLUMNS, CHANNEL_ROWS, EXACT_SUMS, F16, F32, F64, LANES, Plan, Span

cnp.import_array()

cdef enum:
    FOLDS = 4
    PARTS = 32          # of the samples, or of the positions, at most
    PART = 1 << 14      # elements of a part at least, where there are several
    SHARED = 1 << 15    # elements from which on threads share the work

cdef dict DTYPES = {"float64": F64, "float32": F32, "float16": F16, "bfloat16": BF16}


cdef void span_of(Span* s, cnp.ndarray a):
    s.sample, s.channel, s.position = a.strides[0] // a.itemsize, a.strides[1] // a.itemsize, a.strides[2] // a.itemsize


def sums(cnp.ndarray x, cnp.ndarray dy, cnp.ndarray mean, cnp.ndarray rstd):
    """(top, bins, special) with a leading axis of parts, the second axis of bins that of the folds; as
    normlib._sums.sums, for arrays of one axis of samples, one of channels, one of positions."""
    cdef Plan p
    cdef Py_ssize_t rows, parts, tasks
    cdef int threads = current_threads()
    memset(&p, 0, sizeof(Plan))
    arrays = [x] if dy is None else [x, dy]
    columns = all(a.strides[1] == a.itemsize for a in arrays) and x.shape[1] > 1
    if not columns and not all(a.strides[2] == a.itemsize for a in arrays):
        arrays = [np.ascontiguousarray(a) for a in arrays]
    x, dy = arrays[0], arrays[1] if len(arrays) > 1 else None
    p.form, p.dtype = CHANNEL_COLUMNS if columns else CHANNEL_ROWS, DTYPES[x.dtype.name]
    p.samples, p.channels, p.length = x.shape[0], x.shape[1], x.shape[2]
    span_of(&p.xs, x)
    p.x = <char*>cnp.PyArray_DATA(x)
    if dy is not None:
        span_of(&p.ds, dy)
        p.dy = <char*>cnp.PyArray_DATA(dy)
        p.mean, p.rstd = <double*>cnp.PyArray_DATA(mean), <double*>cnp.PyArray_DATA(rstd)
    rows = p.samples * p.length if columns else p.samples
    parts = max(<Py_ssize_t>1, min(<Py_ssize_t>PARTS, min(rows, p.samples * p.length * (LANES if columns else 1) // PART)))
    p.batch = max(<Py_ssize_t>1, (rows - 1) // parts + 1)
    parts = max(<Py_ssize_t>1, (rows - 1) // p.batch + 1)
    tasks = parts * ((p.channels - 1) // LANES + 1 if columns else p.channels)
    found = np.empty((parts, 2 + FOLDS, 2, p.channels), np.int64)
    p.y = <char*>cnp.PyArray_DATA(found)
    if x.size < SHARED:
        threads = 1
    with nogil:
        parallel_for(kernels_in_use(), EXACT_SUMS, &p, tasks, threads)
    return found[:, 0], found[:, 1 : 1 + FOLDS], found[:, 1 + FOLDS].view(np.float64)
