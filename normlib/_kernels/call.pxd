"""One call as data: an op, its arrays by role, its options. Python, C and XLA fill it, check.pyx checks it, call.pyx computes it."""

from libc.stdint cimport uint64_t
from normlib._kernels.header cimport ROLES, normlib_array
from normlib._kernels.layout cimport AXES, Extent
from normlib._kernels.plan cimport BF16, FEATURE_ROWS, Plan, Run

cdef enum:     # what a status names: a role, or one of these
    OP = ROLES
    AXIS
    CHANNEL_AXIS
    NUM_GROUPS
    EPS
    MOMENTUM
    ACTIVATION
    GATE_ACTIVATION
    NEGATIVE_SLOPE
    GATE_FIRST
    ROUND_FIRST
    THREADS
    STRUCT
    ARGUMENTS

cdef struct Op:
    bint feature        # parameters extend over the axes that are normalized over; else there is one a channel
    bint backward
    bint centered
    bint per_sample     # statistics a sample
    bint grouped        # num_groups of them, else one a channel
    bint moving         # it has a mode, and may have running statistics
    bint required       # which it must have where the mode asks for them
    int roles           # that it takes:
    int role[ROLES]
    int takes           # the same as a set of one bit each
    int needs
    int writes

cdef struct Shape:
    int ndim
    Py_ssize_t count
    Py_ssize_t sizes[AXES]

# An array of the call, and whether it is written to.
cdef struct Region:
    Extent extent
    int role
    bint written

cdef struct Call:
    # What is asked for; `clear` makes it nothing.
    int op
    int axis                            # layer and RMS norm: they go over this axis and those behind it,
    uint64_t axes                       # or over those that have a bit here; others: the axis of the channels
    Py_ssize_t num_groups
    int mode
    int threads
    Py_ssize_t activation, gate_activation, gate_first, round_first
    int wanted                          # 1 + the dtype that y is to have; 0: any. C does not say
    double momentum, eps, negative_slope
    bint known                          # a forward pass is given mean and rstd
    const normlib_array* at[ROLES]      # NULL where there is none
    double* var                         # where to write the variance of each row, if anywhere
    # What comes of it.
    Plan plan
    int ndim
    Py_ssize_t count                    # elements of x
    bint trailing                       # the axes that are normalized over are the last ones
    bint has_dense[2]
    uint64_t sliced                     # a bit for each axis along which parameters differ: there are calls of their own (slices.pxi)
    int regions, owned
    void* memory[12]
    Region region[ROLES]
    Shape parameter, statistic
    int kept                            # axes that have more than one row
    int order[AXES]                     # these in the order of memory, where that is not the array's
    bint turned                         # it is not
    char kinds[AXES]
    Py_ssize_t dense[2][AXES]           # strides of x, and of a y of another dtype, did it lie in C order
    Py_ssize_t of_mask[AXES]            # and of a mask
    normlib_array view[ROLES]           # for those that have no arrays to point at

cdef Run kernels_in_use() noexcept nogil
cdef int compute(Call* call) noexcept nogil
cdef void learn(Call* call) noexcept nogil
cdef void finish(Call* call) noexcept nogil
cdef int perform(Call* call) noexcept nogil


cdef inline void rows_without_gaps(Plan* p, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """What `lay_out` says of them."""
    p.form = FEATURE_ROWS
    p.samples, p.length = rows, cols
    p.segments = p.channels = p.width = 1
    p.xs.sample = p.ys.sample = p.ds.sample = cols
    p.xs.position = p.ys.position = p.ds.position = 1


cdef inline int wrong(int kind, int argument) noexcept nogil:
    return kind + 256 * argument


cdef inline bint is_dtype(int dtype) noexcept nogil:
    return 0 <= dtype and dtype <= <int>BF16
