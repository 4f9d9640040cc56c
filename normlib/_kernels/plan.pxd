"""What one pass over an array is, in plain C: the calls fill a Plan, the schedule runs tasks over it, the kernels compute a task."""

from normlib._kernels.header cimport OF_DY, VIEWS

cdef enum:
    LINE = 64       # bytes of a line of the caches
    LANES = 32      # accumulators of a sum
    BLOCK = 1024    # elements summed in lanes before the lanes are added up in float64
    CHUNK = 32      # positions whose columns are summed in the working type
    WIDE = 256      # neighbouring columns that one task of feature columns takes, at most
    ABREAST = 512   # columns of positions taken as one, at most
    PARTS = 32      # at most so many partial sums of a weight gradient over rows
    SAMPLE_PARTS = 16   # and over samples
    ALONE_BYTES = 1 << 18   # of a row up to which it is computed at once: no streams, no prefetch, no second thread
    WATCH_BYTES = 1 << 26   # passes from this size on can be interrupted, between tasks of at most so much
    SCALED = -1     # settled, and some elements are taken times a factor
    SETTLED = 0
    AGAIN = 1
    LAST = 2

cdef enum:      # beside the arrays of the shape of x: parameters with leading axes
    OF_WEIGHT = VIEWS
    OF_BIAS
    ALL_VIEWS

cdef enum Dtype:
    F64, F32, F16, BF16, BOOL   # of which the last is for masks alone
    I8      # and this for quantized results

cdef enum Form:
    FEATURE_ROWS
    FEATURE_COLUMNS
    CHANNEL_ROWS
    CHANNEL_COLUMNS

cdef struct Span:
    # Strides in elements.
    Py_ssize_t sample, channel, segment, position

cdef struct View:
    char* data          # NULL: there is none
    Span span
    Dtype dtype

cdef struct Watch:
    # What lets a signal end a long pass.
    double due              # when the calling thread looks for signals next
    int stopped             # a signal's handler has raised

cdef struct Plan:
    Form form
    Dtype dtype
    Py_ssize_t itemsize
    Py_ssize_t bytes        # of x
    Dtype y_dtype           # of y or dx
    bint centered           # False: RMSNorm
    bint given              # the statistics are given: batch norm in evaluation
    bint shared             # and all samples share them
    int level               # of the cache that holds most of what the pass moves: 2, 3, or 4 for memory; 0 in a pass of one task
    bint streaming          # the output goes past the caches
    Py_ssize_t l1_bytes     # of L1
    Py_ssize_t lot_bytes    # of the groups of several segments that are taken at once, in L2
    Py_ssize_t strip_bytes  # of a strip that stays in cache from statistics to normalization
    double eps
    # feature rows:     samples x groups rows of `segments` runs of `length` neighbouring elements
    # feature columns:  samples x `length` positions x `width` neighbouring columns, a statistic a column
    # channel rows:     samples x groups x channels runs of `segments` x `length` elements, a statistic a group
    # channel columns:  samples x `length` positions x `width` neighbouring channels, a statistic a group of `channels`
    Py_ssize_t samples, groups, channels, segments, length, width
    Span xs, ys, ds
    View companion[VIEWS]   # of a fused pass: what it reads and writes beside x, dy and y
    int activation          # what comes last; 0: nothing
    int gate_activation     # that of the gate
    double negative_slope   # of leaky_relu
    bint gate_first         # what is normalized is x times that of the gate
    bint round_first        # normalized values are rounded to the 16 bits of x before the weight
    bint fused              # an epilogue follows `normalize`
    bint upstream           # a forward pass that ends with dy times the derivative of its activation
    const Plan* before      # lot by lot, while it is in cache: a pass that gives a backward one its dy, or what is normalized
    const char* x
    const char* dy
    char* y                 # dx in a backward pass
    const char* weight      # in the working type: float, or double for float64
    const char* bias
    bint own                # of a forward pass: rows have parameters of their own, which begin where these spans say; in channel norms samples
    Span ws, bs
    double* mean
    double* rstd
    const Py_ssize_t* inside    # how many elements of each row a mask lets in; NULL: all
    char* scale             # of a quantized result, of each row, in the working type: read, or else written
    bint scale_given
    double* var             # where the statistics are given, a forward pass takes rstd from it; the two may be one array
    Py_ssize_t batch        # rows (or samples, or strips) a task takes
    Py_ssize_t strip        # neighbouring columns (or groups) a task takes
    Py_ssize_t parameters   # length of weight and bias
    Py_ssize_t parts        # partial sums of the weight gradients
    Py_ssize_t block        # positions a task takes
    Py_ssize_t blocks       # of them a sample
    Py_ssize_t abreast      # positions of channel columns that are taken as one, to fill the lanes
    Py_ssize_t padded       # their width in whole lanes, and more: the length of a table
    bint weight_grads
    double* dweight         # parts x parameters, the first part ends up with the sum; where parts are `few_rows`, the sum alone;
    double* dbias           # NULL where float32 accumulators are `alone`
    double* lost            # what is rounded off dweight, then dbias, where float64 sums of many terms need it
    char* scratch           # accumulators in the working type, parts x 2 x parameters
    void* memory            # that they lie in
    # channel columns
    Py_ssize_t first        # index of the first sample among all: it decides the part of the weight gradients
    double* sums            # samples x blocks x 2 x width
    char* table             # samples x 6 x padded, in the working type
    int* state              # samples: SETTLED, SCALED, or why the sums are taken again
    bint interruptible      # a call from Python: a long pass looks for signals
    double momentum, factor     # MOVE: of running statistics
    Py_ssize_t least            # MOVE: elements without which a row tells nothing
    char* fresh             # the memory of a new result, NULL for one that was given
    void* cell                  # of a recurrent layer: the Cell
    Watch* watch            # NULL for a pass that takes no time worth interrupting

ctypedef int Step

cdef enum:  # Step
    FEATURE_ROWS_FORWARD
    FEATURE_ROWS_BACKWARD
    FEATURE_ROWS_PARTS
    FEATURE_ROW     # one alone, see `alone_row`
    SUM_ROW         # y = x + dy, of `length` neighbouring elements
    FEATURE_COLUMNS_FORWARD
    FEATURE_COLUMNS_BACKWARD
    FEATURE_COLUMNS_STRIPS
    CHANNEL_ROWS_FORWARD
    CHANNEL_ROWS_BACKWARD
    CHANNEL_COLUMNS_SUM
    CHANNEL_COLUMNS_FIRST
    CHANNEL_COLUMNS_MOMENTS
    CHANNEL_COLUMNS_STATISTICS
    CHANNEL_COLUMNS_GIVEN
    CHANNEL_COLUMNS_FORWARD
    CHANNEL_COLUMNS_GRADIENTS
    CHANNEL_COLUMNS_MEANS
    CHANNEL_COLUMNS_PARTS
    CHANNEL_COLUMNS_BACKWARD
    ADD_PARTS
    ROOTS
    MAP
    COPY
    WIDEN       # 16-bit parameters at x to float32 at y, `length` of them
    NARROW      # sums at dweight, or else in float32 at scratch, to y, in its dtype
    MOVE        # running statistics at y, by those of `samples` x `length` at mean
    CELL_FORWARD    # of a recurrent layer
    CELL_BACKWARD
    EXACT_SUMS      # of x, and of its squares, or of dy and dy z, to y, for each of `parts` of `batch` samples, or of positions
    STEPS

cdef inline Py_ssize_t size_of(int dtype) noexcept nogil:
    return 8 if dtype == F64 else 4 if dtype == F32 else 1 if dtype == BOOL or dtype == I8 else 2


cdef inline Py_ssize_t y_bytes(const Plan* p) noexcept nogil:
    return p.bytes // p.itemsize * size_of(p.y_dtype)


cdef inline Py_ssize_t working_size(int dtype) noexcept nogil:
    return 8 if dtype == F64 else 4


cdef inline Py_ssize_t round_up(Py_ssize_t n, Py_ssize_t multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple


cdef inline char* line_of(void* memory) noexcept nogil:
    """The first line in memory that has one more than is asked for; loads and stores across lines take twice the time."""
    return <char*>memory + -<size_t>memory % LINE


cdef inline View view_of(const Plan* p, int view) noexcept nogil:
    """What an epilogue reads: dy too, on the way back. The companion in the place of dy is the x that was gated before the norm."""
    cdef View of_dy
    if view != OF_DY or not p.upstream:
        return p.companion[view]
    of_dy.data, of_dy.span, of_dy.dtype = <char*>p.dy, p.ds, p.dtype
    return of_dy


cdef inline bint few_rows(const Plan* p) noexcept nogil:
    """Whether parts are so few rows that their sums for the weight gradients stay in the accumulators."""
    return p.form == FEATURE_ROWS and p.batch <= LANES


cdef inline bint alone(const Plan* p) noexcept nogil:
    """Whether the accumulators of one part are the weight gradients."""
    return few_rows(p) and p.parts == 1


cdef inline bint alone_row(const Plan* p) noexcept nogil:
    """Whether a forward pass is one row without gaps, and nothing else is asked for but mean and rstd."""
    return (p.samples == 1 and p.groups == 1 and p.segments == 1 and p.y_dtype == p.dtype
            and (p.length == 1 or (p.xs.position == 1 and p.ys.position == 1)) and not p.fused and not p.given and not p.own
            and not p.round_first and p.inside == NULL and p.var == NULL)


# What an ISA level provides: one task of one step of a plan.
ctypedef void (*Run)(Step step, const Plan* plan, Py_ssize_t task) noexcept nogil
