/* The C interface of normlib: layer, RMS, batch, group and instance normalization on raw memory, forward and backward.

       #include <Python.h>
       #include <normlib.h>                            // flags: python -m normlib --includes

       if (normlib_import() < 0) return NULL;          // once, holding the GIL; on failure an ImportError is set
       int status = normlib_rms_norm_rows(NORMLIB_F32, rows, cols, x, weight, 1e-6, y, 1);
       if (status) fprintf(stderr, "%s\n", normlib->error_text(status));

   From then on nothing of Python is used: no objects, no exceptions, no GIL. All functions may be called from any thread,
   with or without the GIL, at the same time. Their results have the same bits as those of the Python functions of the same
   name, and do not depend on the number of threads. Code that does not know Python.h is handed the table by code that does,
   and calls normlib_use(table).

   There is one entry, `normlib->call`, which takes a struct: the op, its arrays by role, its options. The functions by name
   fill that struct. A new array or option is a new member at its end, so that what is compiled today goes on working.

   What holds for all functions:

   - They return NORMLIB_OK, or what is wrong and with which argument; then nothing has been written (after
     NORMLIB_NO_MEMORY outputs may hold anything). `error_text` says it in words.
   - Arguments have the order and meaning of the Python function of the same name, whose documentation has the formulas.
     Outputs follow the inputs, `threads` is last.
   - An array that says "or NULL" may be left out; an output that is left out is not computed.
   - Addresses and strides are multiples of the size of an element. Nothing needs more alignment.
   - y may be x, and dx may be x or dy: the same address and strides. No other memory may be shared between an output and
     another argument, nor by elements of an output; where it is, NORMLIB_OVERLAP is returned (outputs are looked at as
     the span from their first to their last byte, so that two interleaved arrays count as overlapping).
   - threads: at most so many threads compute, the calling one included; fewer where the work is not worth them, one inside a
     parallel region of the same OpenMP runtime, in a forked child, and in a build without OpenMP. 0: what
     normlib->get_num_threads says, and normlib.set_num_threads in Python.
   - The calling thread needs 128 kB of stack.
   - An array without elements is fine: statistics of nothing are NaN, gradients of nothing 0.

   BSD-3-Clause, as all of normlib. */

#ifndef NORMLIB_H
#define NORMLIB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* generated: version */
#define NORMLIB_VERSION "0.2.0"
#define NORMLIB_VERSION_MAJOR 0
#define NORMLIB_VERSION_MINOR 2
#define NORMLIB_VERSION_PATCH 0
/* end */

/* Tables of the same version hold what this header declares; newer ones may hold more at their end. */
#define NORMLIB_ABI_VERSION 2

/* generated: ops */
enum { /* op */
    NORMLIB_LAYER_NORM,
    NORMLIB_LAYER_NORM_BACKWARD,
    NORMLIB_RMS_NORM,
    NORMLIB_RMS_NORM_BACKWARD,
    NORMLIB_BATCH_NORM,
    NORMLIB_BATCH_NORM_BACKWARD,
    NORMLIB_GROUP_NORM,
    NORMLIB_GROUP_NORM_BACKWARD,
    NORMLIB_INSTANCE_NORM,
    NORMLIB_INSTANCE_NORM_BACKWARD
};
/* end */

/* generated: activations */
enum { /* activation */
    NORMLIB_NO_ACTIVATION,
    NORMLIB_RELU,
    NORMLIB_LEAKY_RELU,
    NORMLIB_SILU,
    NORMLIB_GELU,
    NORMLIB_GELU_TANH,
    NORMLIB_SIGMOID
};
/* end */

enum { /* dtype */
    NORMLIB_F64,
    NORMLIB_F32,
    NORMLIB_F16,
    NORMLIB_BF16,
    NORMLIB_BOOL, /* a byte that is 0 or 1: of `where` alone */
    NORMLIB_I8    /* of the y of layer and RMS norm alone */
};

enum { /* status: what is wrong, plus 256 times the number of the argument; see normlib_kind */
    NORMLIB_OK,
    NORMLIB_NULL,        /* an address or array that is needed is NULL, or is given without its companion */
    NORMLIB_BAD_DTYPE,   /* not a dtype, or not one that this argument may have */
    NORMLIB_BAD_SHAPE,   /* the number of axes or a size does not fit */
    NORMLIB_BAD_ALIGN,   /* the address or a stride is no multiple of the size of an element */
    NORMLIB_BAD_LAYOUT,  /* no loop walks this order of axes, or the array may have no strides */
    NORMLIB_OVERLAP,     /* an output shares memory with another argument, or with itself */
    NORMLIB_BAD_VALUE,   /* a number is outside its range */
    NORMLIB_ONE_VALUE,   /* one value a channel has no variance to learn from */
    NORMLIB_NO_MEMORY,   /* no scratch memory */
    NORMLIB_BAD_VERSION, /* normlib_use: the table is not of this header's version */
    NORMLIB_NOT_IMPORTED, /* a call before normlib_import() or normlib_use() */
    NORMLIB_NOT_TAKEN /* this op has no such argument, or a normlib_call has members that the library does not know */
};

static inline int normlib_kind(int status) { return status & 255; }

/* An array anywhere in memory. Functions read the description during the call alone.

   Parameters (weight, bias, their gradients) and statistics lie without gaps, in C order: their strides are NULL or say so.

   x, y, dx, dy may have any strides, each its own: with gaps, negative, 0 in what is read, and an output may have another order of
   axes than x. Neighbours that lie side by side are fastest. What no loop walks is an order of axes: sort those of more than one
   element by the size of x's strides. Sorted so, the axes that are normalized over still have the order that they have in
   `shape`; the two kinds alternate only as in (kept, normalized), (kept, normalized, kept) and, for channel
   norms, (samples, positions, channels), (samples, positions, channels, positions) and what is left of these without some
   axes; neighbours of one kind count as one if no gap parts them. What is refused comes back as NORMLIB_BAD_LAYOUT with the
   argument that does not fit: describe the axes in another order, or copy that one first. */
typedef struct normlib_array {
    void *data;
    int dtype;
    int ndim;
    const ptrdiff_t *shape;
    const ptrdiff_t *strides; /* in bytes; NULL: C order without gaps */
} normlib_array;

/* A call. Members that an op does not use are 0; so are those that an older header does not know.

   x: any dtype, 1 to 64 axes. y, dy, dx: shape and dtype of x, but y may have any dtype, to which it is rounded once. Parameters: the dtype of x, or float32 where that has 16 bits
   (which saves converting them each time). mean and rstd as outputs: float64; as inputs: float64 or float32. dweight,
   dbias: any of the four dtypes; they are written, not added to. eps: finite, >= 0.

   Layer and RMS norm: over the axes from `axis` to the last (-1: the last alone), or over those that have a bit in `axes`.
   weight, bias, dweight, dbias: the shape of x over these axes. mean, rstd: the shape of x over the others.

   Batch norm, group norm and instance norm: x has 2 axes or more; channels lie along `axis` (-1: the last), samples along the
   first other axis. All parameters: (channels,). mean, rstd: (channels,) in batch norm, (samples, num_groups) in group
   norm, (samples, channels) in instance norm. running_mean, running_var: (channels,), any dtype, both or neither.

   mode, as the functions of batch norm and instance norm have it: not 0 normalizes with the statistics of x and
   moves the running ones, if given, towards them: running += momentum * (new - running), with the unbiased variance;
   0 <= momentum <= 1. 0 normalizes with the running ones (without any, batch norm takes those of x). In the backward
   functions 0 says that mean and rstd were not computed from x.

   activation(norm(x + residual) + add) * gate_activation(gate): what stands around a norm is computed in the same pass. residual, add and
   gate have the shape and dtype of x, or are NULL. With a residual, the sum, rounded to that dtype, goes to `sum`, which may be x or
   residual. The activations are NORMLIB_RELU and so on, 0 for none; negative_slope is that of leaky_relu.
   Backward, x is the sum, dsum the gradient that reaches it from elsewhere, and add, gate and bias are given again; dadd and
   dgate, if wanted, take their gradients. With an activation, a gate or a mask and no dadd, dx may be dy, but not x.

   where: which elements take part, of dtype NORMLIB_BOOL (a byte each, 0 or not) and the shape of x; strides of 0 broadcast.

   Layer and RMS norm: round_first, if not 0, rounds normalized values to the 16 bits of x before the weight.

   Layer and RMS norm, forward: a y of NORMLIB_I8 is quantized. new_scale takes the scale of each row, the largest magnitude / 127; or
   scale gives it. Both have the shape of mean and rstd, and are float32, or float64 where x is. */
typedef struct normlib_call {
    size_t size; /* sizeof(normlib_call) */
    int op;
    int threads;
    int axis;
    int mode;
    uint64_t axes; /* bit i for axis i; 0: see axis */
    ptrdiff_t num_groups;
    double momentum;
    double eps;
    /* generated: roles */
    const normlib_array *x;
    const normlib_array *dy;
    const normlib_array *weight;
    const normlib_array *bias;
    const normlib_array *running_mean;
    const normlib_array *running_var;
    const normlib_array *mean;
    const normlib_array *rstd;
    const normlib_array *y;
    const normlib_array *dx;
    const normlib_array *dweight;
    const normlib_array *dbias;
    const normlib_array *add;
    const normlib_array *dadd;
    ptrdiff_t activation;
    const normlib_array *residual;
    const normlib_array *sum;
    const normlib_array *dsum;
    double negative_slope;
    const normlib_array *gate;
    const normlib_array *dgate;
    ptrdiff_t gate_activation;
    const normlib_array *where;
    ptrdiff_t gate_first;
    const normlib_array *scale;
    const normlib_array *new_scale;
    ptrdiff_t round_first;
    /* end */
} normlib_call;

typedef struct normlib_api {
    int abi_version;
    int size; /* of the table in bytes */
    /* What a status means: "weight: the number of axes or a size does not fit". Never NULL; the text stays valid. */
    const char *(*error_text)(int status);
    int (*call)(const normlib_call *call);
    int (*get_num_threads)(void);        /* the default of all calls that give 0, from C and Python; 0 before normlib_import() */
    int (*set_num_threads)(int threads); /* NORMLIB_BAD_VALUE unless 1 <= threads <= 4096 */
} normlib_api;

/* Until a table is taken, these stand in. */
static inline const char *normlib_no_text(int status)
{
    (void)status;
    return "normlib_import() or normlib_use() has not been called";
}
static inline int normlib_no_call(const normlib_call *call)
{
    (void)call;
    return NORMLIB_NOT_IMPORTED;
}
static inline int normlib_no_threads(void) { return 0; }
static inline int normlib_not_set(int threads)
{
    (void)threads;
    return NORMLIB_NOT_IMPORTED;
}

#ifdef __GNUC__
__attribute__((unused))
#endif
static const normlib_api normlib_without = {NORMLIB_ABI_VERSION, 0, normlib_no_text, normlib_no_call, normlib_no_threads,
                                            normlib_not_set};

/* The table; each source file that includes this header has its own pointer, and fills it once. */
#ifdef __GNUC__
__attribute__((unused))
#endif
static const normlib_api *normlib = &normlib_without;

/* Take a table that normlib_import() or normlib.capi.table_address() gave elsewhere. NORMLIB_OK or NORMLIB_BAD_VERSION. */
static inline int normlib_use(const void *table)
{
    const normlib_api *api = (const normlib_api *)table;
    if (api == NULL || api->abi_version != NORMLIB_ABI_VERSION || api->size < (int)sizeof(normlib_api))
        return NORMLIB_BAD_VERSION;
    normlib = api;
    return NORMLIB_OK;
}

/* ---- the ten functions ---- */

/* generated: functions */
static inline int normlib_layer_norm(const normlib_array *x, const normlib_array *weight /* or NULL */,
                                     const normlib_array *bias /* or NULL */, int axis, double eps,
                                     const normlib_array *y, const normlib_array *mean /* or NULL */,
                                     const normlib_array *rstd /* or NULL */, int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_LAYER_NORM, threads, axis, 0, 0, 0, 0, eps, x, NULL, weight,
                               bias, NULL, NULL, mean, rstd, y, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, 0,
                               NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}

static inline int normlib_layer_norm_backward(const normlib_array *dy, const normlib_array *x,
                                              const normlib_array *weight /* or NULL */, const normlib_array *mean,
                                              const normlib_array *rstd, int axis, const normlib_array *dx,
                                              const normlib_array *dweight /* or NULL */,
                                              const normlib_array *dbias /* or NULL */, int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_LAYER_NORM_BACKWARD, threads, axis, 0, 0, 0, 0, 0, x, dy,
                               weight, NULL, NULL, NULL, mean, rstd, NULL, dx, dweight, dbias, NULL, NULL, 0, NULL, NULL,
                               NULL, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}

static inline int normlib_rms_norm(const normlib_array *x, const normlib_array *weight /* or NULL */, int axis,
                                   double eps, const normlib_array *y, const normlib_array *rstd /* or NULL */,
                                   int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_RMS_NORM, threads, axis, 0, 0, 0, 0, eps, x, NULL, weight,
                               NULL, NULL, NULL, NULL, rstd, y, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, 0,
                               NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}

static inline int normlib_rms_norm_backward(const normlib_array *dy, const normlib_array *x,
                                            const normlib_array *weight /* or NULL */, const normlib_array *rstd,
                                            int axis, const normlib_array *dx,
                                            const normlib_array *dweight /* or NULL */, int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_RMS_NORM_BACKWARD, threads, axis, 0, 0, 0, 0, 0, x, dy,
                               weight, NULL, NULL, NULL, NULL, rstd, NULL, dx, dweight, NULL, NULL, NULL, 0, NULL, NULL,
                               NULL, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}

static inline int normlib_batch_norm(const normlib_array *x, const normlib_array *weight /* or NULL */,
                                     const normlib_array *bias /* or NULL */,
                                     const normlib_array *running_mean /* or NULL */,
                                     const normlib_array *running_var /* or NULL */, int training, double momentum,
                                     double eps, int channel_axis, const normlib_array *y,
                                     const normlib_array *mean /* or NULL */, const normlib_array *rstd /* or NULL */,
                                     int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_BATCH_NORM, threads, channel_axis, training, 0, 0, momentum,
                               eps, x, NULL, weight, bias, running_mean, running_var, mean, rstd, y, NULL, NULL, NULL,
                               NULL, NULL, 0, NULL, NULL, NULL, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}

static inline int normlib_batch_norm_backward(const normlib_array *dy, const normlib_array *x,
                                              const normlib_array *weight /* or NULL */, const normlib_array *mean,
                                              const normlib_array *rstd, int training, int channel_axis,
                                              const normlib_array *dx, const normlib_array *dweight /* or NULL */,
                                              const normlib_array *dbias /* or NULL */, int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_BATCH_NORM_BACKWARD, threads, channel_axis, training, 0, 0,
                               0, 0, x, dy, weight, NULL, NULL, NULL, mean, rstd, NULL, dx, dweight, dbias, NULL, NULL,
                               0, NULL, NULL, NULL, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}

static inline int normlib_group_norm(const normlib_array *x, ptrdiff_t num_groups,
                                     const normlib_array *weight /* or NULL */, const normlib_array *bias /* or NULL */,
                                     double eps, int channel_axis, const normlib_array *y,
                                     const normlib_array *mean /* or NULL */, const normlib_array *rstd /* or NULL */,
                                     int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_GROUP_NORM, threads, channel_axis, 0, 0, num_groups, 0, eps,
                               x, NULL, weight, bias, NULL, NULL, mean, rstd, y, NULL, NULL, NULL, NULL, NULL, 0, NULL,
                               NULL, NULL, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}

static inline int normlib_group_norm_backward(const normlib_array *dy, const normlib_array *x, ptrdiff_t num_groups,
                                              const normlib_array *weight /* or NULL */, const normlib_array *mean,
                                              const normlib_array *rstd, int channel_axis, const normlib_array *dx,
                                              const normlib_array *dweight /* or NULL */,
                                              const normlib_array *dbias /* or NULL */, int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_GROUP_NORM_BACKWARD, threads, channel_axis, 0, 0,
                               num_groups, 0, 0, x, dy, weight, NULL, NULL, NULL, mean, rstd, NULL, dx, dweight, dbias,
                               NULL, NULL, 0, NULL, NULL, NULL, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}

static inline int normlib_instance_norm(const normlib_array *x, const normlib_array *weight /* or NULL */,
                                        const normlib_array *bias /* or NULL */,
                                        const normlib_array *running_mean /* or NULL */,
                                        const normlib_array *running_var /* or NULL */, int use_input_stats,
                                        double momentum, double eps, int channel_axis, const normlib_array *y,
                                        const normlib_array *mean /* or NULL */, const normlib_array *rstd /* or NULL */,
                                        int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_INSTANCE_NORM, threads, channel_axis, use_input_stats, 0, 0,
                               momentum, eps, x, NULL, weight, bias, running_mean, running_var, mean, rstd, y, NULL,
                               NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}

static inline int normlib_instance_norm_backward(const normlib_array *dy, const normlib_array *x,
                                                 const normlib_array *weight /* or NULL */, const normlib_array *mean,
                                                 const normlib_array *rstd, int use_input_stats, int channel_axis,
                                                 const normlib_array *dx, const normlib_array *dweight /* or NULL */,
                                                 const normlib_array *dbias /* or NULL */, int threads)
{
    const normlib_call call = {sizeof(normlib_call), NORMLIB_INSTANCE_NORM_BACKWARD, threads, channel_axis,
                               use_input_stats, 0, 0, 0, 0, x, dy, weight, NULL, NULL, NULL, mean, rstd, NULL, dx,
                               dweight, dbias, NULL, NULL, 0, NULL, NULL, NULL, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0};
    return normlib->call(&call);
}
/* end */

/* ---- the everyday call: contiguous rows ----

   x and y: rows * cols elements of `dtype`. weight and bias: cols elements, or NULL; of double where dtype is NORMLIB_F64,
   else of float, also for 16-bit rows. */

static inline int normlib_layer_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void *x, const void *weight,
                                          const void *bias, double eps, void *y, int threads)
{
    const ptrdiff_t shape[2] = {rows, cols};
    const int working = dtype == NORMLIB_F64 ? NORMLIB_F64 : NORMLIB_F32;
    const normlib_array from = {(void *)x, dtype, 2, shape, NULL}, to = {y, dtype, 2, shape, NULL};
    const normlib_array scale = {(void *)weight, working, 1, shape + 1, NULL}, shift = {(void *)bias, working, 1, shape + 1, NULL};
    return normlib_layer_norm(&from, weight ? &scale : NULL, bias ? &shift : NULL, -1, eps, &to, NULL, NULL, threads);
}

static inline int normlib_rms_norm_rows(int dtype, ptrdiff_t rows, ptrdiff_t cols, const void *x, const void *weight,
                                        double eps, void *y, int threads)
{
    const ptrdiff_t shape[2] = {rows, cols};
    const int working = dtype == NORMLIB_F64 ? NORMLIB_F64 : NORMLIB_F32;
    const normlib_array from = {(void *)x, dtype, 2, shape, NULL}, to = {y, dtype, 2, shape, NULL};
    const normlib_array scale = {(void *)weight, working, 1, shape + 1, NULL};
    return normlib_rms_norm(&from, weight ? &scale : NULL, -1, eps, &to, NULL, threads);
}

#ifdef PY_VERSION_HEX /* Python.h was included */
/* Import normlib and take its table, holding the GIL. 0, or -1 with an ImportError set. */
static inline int normlib_import(void)
{
    const normlib_api *api;
    PyObject *capsule = NULL, *module = PyImport_ImportModule("normlib.capi");
    if (module != NULL)
        capsule = PyObject_GetAttrString(module, "table");
    Py_XDECREF(module);
    if (capsule == NULL)
        return -1;
    api = (const normlib_api *)PyCapsule_GetPointer(capsule, "normlib.capi.table");
    Py_DECREF(capsule); /* the table itself lives as long as the process */
    if (api == NULL)
        return -1;
    if (normlib_use(api) != NORMLIB_OK) {
        PyErr_Format(PyExc_ImportError, "the normlib that is installed has version %d of its C interface (%d bytes), expected "
                     "version %d (%d bytes or more): build again, or install another normlib",
                     api->abi_version, api->size, NORMLIB_ABI_VERSION, (int)sizeof(normlib_api));
        return -1;
    }
    return 0;
}
#endif

#ifdef __cplusplus
}
#endif

#endif
