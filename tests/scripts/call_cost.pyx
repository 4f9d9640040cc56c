# cython: language_level=3, boundscheck=False, wraparound=False
"""Nanoseconds of a call from C, beside the bare kernel on a plan that is ready."""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.string cimport memset
from normlib._kernels.plan cimport F32, FEATURE_ROW, FEATURE_ROWS, FEATURE_ROWS_FORWARD, Plan, Run
from normlib.capi cimport NORMLIB_F32, layer_norm, layer_norm_rows, normlib_array, rms_norm, rms_norm_rows

cdef extern from *:
    """
    #include <math.h>
    /* What one would write by hand. */
    static void layer_loop(long rows, long n, const float *x, const float *w, const float *b, float eps, float *y)
    {
        for (long r = 0; r < rows; r++, x += n, y += n) {
            float mean = 0, var = 0;
            for (long i = 0; i < n; i++) mean += x[i];
            mean /= n;
            for (long i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean);
            float rstd = 1 / sqrtf(var / n + eps);
            for (long i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd * w[i] + b[i];
        }
    }
    static void rms_loop(long rows, long n, const float *x, const float *w, float eps, float *y)
    {
        for (long r = 0; r < rows; r++, x += n, y += n) {
            float square = 0;
            for (long i = 0; i < n; i++) square += x[i] * x[i];
            float rstd = 1 / sqrtf(square / n + eps);
            for (long i = 0; i < n; i++) y[i] = x[i] * rstd * w[i];
        }
    }
    """
    void layer_loop(long rows, long n, const float* x, const float* w, const float* b, float eps, float* y) nogil
    void rms_loop(long rows, long n, const float* x, const float* w, float eps, float* y) nogil

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec* time)


cdef double now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return 1e9 * t.tv_sec + t.tv_nsec


cdef normlib_array described(float* data, int ndim, Py_ssize_t* shape, Py_ssize_t* strides) noexcept nogil:
    cdef normlib_array a
    a.data, a.dtype, a.ndim, a.shape, a.strides = data, NORMLIB_F32, ndim, shape, strides
    return a


def costs(kernels, bint centered, float[:, ::1] x, float[::1] w, float[:, ::1] y, int rounds):
    """The best times of: the bare kernel, the function for rows, the function for arrays, that on arrays with strides, a loop in C."""
    cdef Run run = <Run>PyCapsule_GetPointer(kernels, "normlib.kernels")
    cdef Plan p
    cdef Py_ssize_t[2] shape, strides
    cdef Py_ssize_t rows = x.shape[0], cols = x.shape[1], times
    cdef double[5] best
    cdef double start
    cdef normlib_array ax, aw, ay
    cdef int way
    shape[0], shape[1], strides[0], strides[1] = rows, cols, 4 * cols, 4
    aw = described(&w[0], 1, &shape[1], NULL)
    memset(&p, 0, sizeof(p))
    p.form, p.dtype, p.itemsize, p.bytes, p.centered, p.eps = FEATURE_ROWS, F32, 4, 4 * rows * cols, centered, 1e-5
    p.y_dtype, p.segments, p.channels, p.width = F32, 1, 1, 1
    p.samples, p.groups, p.length, p.batch, p.parameters = rows, 1, cols, rows, cols
    p.xs.sample = p.ys.sample = p.ds.sample = cols
    p.xs.position = p.ys.position = p.ds.position = 1
    p.x, p.y, p.weight = <const char*>&x[0, 0], <char*>&y[0, 0], <const char*>&w[0]
    p.bias = p.weight if centered else NULL
    best[0] = best[1] = best[2] = best[3] = best[4] = 1e30
    times = max(<Py_ssize_t>1, 100_000 // (rows * cols))
    with nogil:
        for _round in range(rounds):
            for way in range(5):
                ax = described(&x[0, 0], 2, shape, strides if way == 3 else NULL)
                ay = described(&y[0, 0], 2, shape, strides if way == 3 else NULL)
                start = now()
                for _call in range(times):
                    if way == 0:
                        run(FEATURE_ROW if rows == 1 else FEATURE_ROWS_FORWARD, &p, 0)
                    elif way == 1 and centered:
                        layer_norm_rows(NORMLIB_F32, rows, cols, &x[0, 0], &w[0], &w[0], 1e-5, &y[0, 0], 1)
                    elif way == 1:
                        rms_norm_rows(NORMLIB_F32, rows, cols, &x[0, 0], &w[0], 1e-5, &y[0, 0], 1)
                    elif way == 4 and centered:
                        layer_loop(rows, cols, &x[0, 0], &w[0], &w[0], 1e-5, &y[0, 0])
                    elif way == 4:
                        rms_loop(rows, cols, &x[0, 0], &w[0], 1e-5, &y[0, 0])
                    elif centered:
                        layer_norm(&ax, &aw, &aw, -1, 1e-5, &ay, NULL, NULL, 1)
                    else:
                        rms_norm(&ax, &aw, -1, 1e-5, &ay, NULL, 1)
                best[way] = min(best[way], (now() - start) / times)
    return list(best)
