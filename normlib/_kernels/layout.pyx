"""From the strides of the arrays to the loops of a plan: which family, which sizes, which strides."""

from normlib._kernels.header cimport OF_DY, OF_WHERE, OF_X, OF_Y
from normlib._kernels.plan cimport ALL_VIEWS, CHANNEL_COLUMNS, CHANNEL_ROWS, FEATURE_COLUMNS, FEATURE_ROWS, I8, OF_BIAS, OF_WEIGHT, Plan, Span
from normlib._kernels.plan cimport size_of, working_size

cdef enum Member:           # of a Span, in its order
    SAMPLE_STRIDE, CHANNEL_STRIDE, SEGMENT_STRIDE, POSITION_STRIDE

cdef struct Axis:
    int kind
    int number
    Py_ssize_t n
    Py_ssize_t strides[ALL_VIEWS]   # of each array that there is, in elements

cdef struct Axes:
    # The axes that are not yet taken, as they lie in the memory of x; the arrays.
    int left, right, views
    Axis axis[AXES]
    Span* spans[ALL_VIEWS]
    Py_ssize_t sizes[ALL_VIEWS]     # of an element
    bint by_rows                # columns will not do


cdef Span* span_of(Plan* p, int view) noexcept nogil:
    if view == OF_X:
        return &p.xs
    if view == OF_Y:
        return &p.ys
    if view == OF_WEIGHT:
        return &p.ws
    if view == OF_BIAS:
        return &p.bs
    return &p.ds if view == OF_DY else &p.companion[view].span


cdef inline Py_ssize_t size_in(const Plan* p, int view) noexcept nogil:
    if view == OF_WEIGHT or view == OF_BIAS:
        return working_size(p.dtype)
    if view == OF_Y:
        return size_of(p.y_dtype)
    return p.itemsize if view == OF_X or view == OF_DY else size_of(p.companion[view].dtype)


cdef inline bint one_run(const Axes* a, const Axis* outer, const Axis* inner) noexcept nogil:
    """Whether two axes are one in all arrays."""
    cdef int v
    for v in range(a.views):
        if outer.strides[v] != inner.n * inner.strides[v]:
            return False
    return outer.kind == inner.kind


cdef bint memory_axes(Axes* a, const char* kinds, int ndim, const Py_ssize_t* shape, const Py_ssize_t** strides) noexcept nogil:
    """The axes in the order of x's memory, neighbours merged; False where reduced axes lie in another order than in the
    array's shape, which would change the order of a sum, or a stride is no whole number of elements."""
    cdef int i, j, v, count = 0, seen = -1
    cdef Axis* axes = a.axis
    cdef Axis new
    for i in range(ndim):
        if shape[i] == 1:
            continue
        new.kind = kinds[i]
        new.number = i
        new.n = shape[i]
        for v in range(a.views):
            if strides[v][i] % a.sizes[v]:
                return False
            new.strides[v] = strides[v][i] // a.sizes[v]
        j = count
        while j > 0 and magnitude(axes[j - 1].strides[0]) < magnitude(new.strides[0]):
            axes[j] = axes[j - 1]
            j -= 1
        axes[j] = new
        count += 1
    for i in range(count):
        if axes[i].kind == b"R" or axes[i].kind == b"S":
            if axes[i].number < seen:
                return False
            seen = axes[i].number
    j = 0
    for i in range(1, count):
        if one_run(a, &axes[j], &axes[i]):
            axes[i].n *= axes[j].n
        else:
            j += 1
        axes[j] = axes[i]
    a.left, a.right = 0, min(count, j + 1)
    return True


cdef bint by_positions(Plan* p, const Axes* a) noexcept nogil:
    """Whether a mask is the same for all channels, which lie side by side."""
    cdef int v = 0
    if a.left == a.right or a.axis[a.right - 1].kind != b"C":
        return False
    while a.spans[v] != &p.companion[OF_WHERE].span:
        v += 1
    return a.axis[a.right - 1].strides[v] == 0


cdef void keep_first(Axes* a) noexcept nogil:
    """Make the last axis one that is reduced, if there is one: what is kept behind it comes before."""
    cdef Axis last
    cdef int i = a.right - 1
    if i <= a.left or a.axis[i].kind == b"R" or a.axis[i].kind == b"S":
        return
    last = a.axis[i]
    while i > a.left and (a.axis[i - 1].kind == b"R" or a.axis[i - 1].kind == b"S"):
        a.axis[i] = a.axis[i - 1]
        i -= 1
    a.axis[i] = last


cdef inline int kind_at(const Axes* a, int from_last) noexcept nogil:
    """The kind of the last axis that is not yet taken, or of one before it; 0: there is none."""
    return a.axis[a.right - from_last].kind if a.right - from_last >= a.left else 0


cdef Py_ssize_t take(Axes* a, int kind, bint last, Member member) noexcept nogil:
    """Take the first or last axis if it is of this kind: its size, else 1; its strides."""
    cdef int i = a.right - 1 if last else a.left, v
    if a.left >= a.right or a.axis[i].kind != kind:
        return 1
    for v in range(a.views):
        (<Py_ssize_t*>a.spans[v])[<int>member] = a.axis[i].strides[v]
    if last:
        a.right -= 1
    else:
        a.left += 1
    return a.axis[i].n


cdef bint lay_out(Plan* p, const char* kinds, int ndim, const Py_ssize_t* shape, const Py_ssize_t** strides) noexcept nogil:
    """Fill in form, sizes and strides; False where no family takes the layout. p.itemsize and p.y_dtype are given, and p.groups for
    channel norms; the strides of each view are in bytes, NULL for an array that there is not. Masks are for rows, or for whole positions of
    channels."""
    cdef const Py_ssize_t* given[ALL_VIEWS]
    cdef Axes a
    cdef int v
    if ndim > AXES:
        return False
    a.views = 0
    for v in range(ALL_VIEWS):
        if strides[v] != NULL:
            given[a.views], a.spans[a.views], a.sizes[a.views] = strides[v], span_of(p, v), size_in(p, v)
            a.views += 1
    if not memory_axes(&a, kinds, ndim, shape, given):
        return False
    a.by_rows = strides[OF_WHERE] != NULL and not by_positions(p, &a)
    if a.by_rows:
        keep_first(&a)
    if kinds[0] == b"K" or kinds[0] == b"R":
        features(p, &a)
    else:
        channels(p, &a)
    return a.left == a.right


cdef void strided_rows(Plan* p, Axes* a) noexcept nogil:
    p.form = FEATURE_ROWS
    p.groups = take(a, b"K", True, CHANNEL_STRIDE)
    p.length = take(a, b"R", True, POSITION_STRIDE)
    p.samples = take(a, b"K", True, SAMPLE_STRIDE)


cdef void features(Plan* p, Axes* a) noexcept nogil:
    cdef int v
    p.segments = p.channels = p.groups = p.width = 1
    if kind_at(a, 1) == b"K" and kind_at(a, 2) == b"R" and kind_at(a, 3) != b"R":
        # ..., positions, columns
        if p.y_dtype == I8:     # quantized row by row, whose elements lie apart
            strided_rows(p, a)
            return
        p.form = FEATURE_COLUMNS
        p.width = take(a, b"K", True, CHANNEL_STRIDE)
        p.length = take(a, b"R", True, POSITION_STRIDE)
        p.samples = take(a, b"K", True, SAMPLE_STRIDE)
        return
    p.form = FEATURE_ROWS
    p.length = 1        # rows of one element
    if kind_at(a, 1) != b"K":
        p.length = take(a, b"R", True, POSITION_STRIDE)
        p.segments = take(a, b"R", True, SEGMENT_STRIDE)
    p.groups = take(a, b"K", True, CHANNEL_STRIDE)
    p.samples = take(a, b"K", True, SAMPLE_STRIDE)
    if p.samples == 1 and p.groups > 1:
        # one outer axis is the sample's, so that its rows may be packed
        p.samples, p.groups = p.groups, 1
        for v in range(a.views):
            a.spans[v].sample = a.spans[v].channel


cdef void channels(Plan* p, Axes* a) noexcept nogil:
    p.segments = p.length = p.samples = p.width = 1
    if kind_at(a, 1) == b"C" and not a.by_rows:
        p.form = CHANNEL_COLUMNS
        p.width = take(a, b"C", True, CHANNEL_STRIDE)
        p.length = take(a, b"S", True, POSITION_STRIDE)
        p.samples = take(a, b"N", True, SAMPLE_STRIDE)
        p.channels = p.width // p.groups
        return
    p.form = CHANNEL_ROWS
    if kind_at(a, 1) != b"N":       # else one element a sample
        p.length = take(a, b"S", True, POSITION_STRIDE)
    p.samples = take(a, b"N", False, SAMPLE_STRIDE)
    p.segments = take(a, b"S", False, SEGMENT_STRIDE)
    p.channels = take(a, b"C", False, CHANNEL_STRIDE)
    if p.segments == 1:
        p.segments = take(a, b"S", False, SEGMENT_STRIDE)
    if p.samples == 1:
        p.samples = take(a, b"N", False, SAMPLE_STRIDE)
    p.channels //= p.groups


cdef int kept_order(const char* kinds, int ndim, const Py_ssize_t* shape, const Py_ssize_t* strides, int* order) noexcept nogil:
    """The kept axes in the order of memory, which is that of the rows in a plan; how many have more than one element."""
    cdef int i, j, count = 0
    for i in range(ndim):
        if kinds[i] != b"K" or shape[i] == 1:
            continue
        j = count
        while j > 0 and magnitude(strides[order[j - 1]]) < magnitude(strides[i]):
            order[j] = order[j - 1]
            j -= 1
        order[j] = i
        count += 1
    return count


cdef Extent extent_of(const void* data, Py_ssize_t itemsize, int ndim, const Py_ssize_t* shape,
                      const Py_ssize_t* strides) noexcept nogil:
    """The memory from the first to the last byte of an array that is not empty."""
    cdef int i
    cdef Py_ssize_t reach
    cdef Extent e
    e.low = e.high = <const char*>data
    for i in range(ndim):
        reach = (shape[i] - 1) * strides[i]
        if reach < 0:
            e.low += reach
        else:
            e.high += reach
    e.high += itemsize
    return e


cdef bint same_strides(int ndim, const Py_ssize_t* shape, const Py_ssize_t* a, const Py_ssize_t* b) noexcept nogil:
    """Whether two arrays of one shape and address are the same elements in the same places."""
    cdef int i
    for i in range(ndim):
        if shape[i] > 1 and a[i] != b[i]:
            return False
    return True
