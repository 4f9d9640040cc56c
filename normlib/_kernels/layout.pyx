"""From the strides of the arrays to the loops of a plan: which family, which sizes, which strides."""

from normlib._kernels.plan cimport CHANNEL_COLUMNS, CHANNEL_ROWS, FEATURE_COLUMNS, FEATURE_ROWS, Plan, Span

cdef struct Axis:
    int kind
    int number
    Py_ssize_t n
    Py_ssize_t x, y, d      # strides in elements


cdef int memory_axes(Axis* axes, const char* kinds, Py_ssize_t size, int ndim, const Py_ssize_t* shape, const Py_ssize_t* xs,
                     const Py_ssize_t* ys, const Py_ssize_t* ds) noexcept nogil:
    """The axes in the order of x's memory, neighbours merged; -1 where reduced axes lie in another order than in the
    array's shape, which would change the order of a sum, or a stride is no whole number of elements."""
    cdef int i, j, count = 0, seen = -1, kept = -1
    cdef Axis a
    for i in range(ndim):
        if shape[i] == 1:
            continue
        a.kind = kinds[i]
        a.number = i
        a.n = shape[i]
        if xs[i] % size or ys[i] % size or ds[i] % size:
            return -1
        a.x = xs[i] // size
        a.y = ys[i] // size
        a.d = ds[i] // size
        j = count
        while j > 0 and magnitude(axes[j - 1].x) < magnitude(a.x):
            axes[j] = axes[j - 1]
            j -= 1
        axes[j] = a
        count += 1
    for i in range(count):
        if axes[i].kind == b"R" or axes[i].kind == b"S":
            if axes[i].number < seen:
                return -1
            seen = axes[i].number
        elif axes[i].kind == b"K":
            if axes[i].number < kept:
                return -1
            kept = axes[i].number
    j = 0
    for i in range(1, count):
        if (axes[i].kind == axes[j].kind and axes[j].x == axes[i].n * axes[i].x and axes[j].y == axes[i].n * axes[i].y
                and axes[j].d == axes[i].n * axes[i].d):
            axes[j].n *= axes[i].n
            axes[j].x, axes[j].y, axes[j].d = axes[i].x, axes[i].y, axes[i].d
        else:
            j += 1
            axes[j] = axes[i]
    return min(count, j + 1)


cdef Py_ssize_t take(Axis* axes, int* left, int* right, int kind, bint last,
                     Py_ssize_t* x, Py_ssize_t* y, Py_ssize_t* d) noexcept nogil:
    """Take the first or last axis if it is of this kind: its size, else 1; its strides."""
    cdef int i = right[0] - 1 if last else left[0]
    if left[0] >= right[0] or axes[i].kind != kind:
        return 1
    x[0], y[0], d[0] = axes[i].x, axes[i].y, axes[i].d
    if last:
        right[0] -= 1
    else:
        left[0] += 1
    return axes[i].n


cdef bint lay_out(Plan* p, const char* kinds, int ndim, const Py_ssize_t* shape, const Py_ssize_t* x_strides,
                  const Py_ssize_t* y_strides, const Py_ssize_t* dy_strides) noexcept nogil:
    """Fill in form, sizes and strides; False where no family takes the layout. p.itemsize is given, and p.groups for
    channel norms; strides are in bytes."""
    cdef Axis axes[AXES]
    cdef int left = 0, right
    cdef bint feature
    cdef Span* xs = &p.xs
    cdef Span* ys = &p.ys
    cdef Span* ds = &p.ds
    if ndim > AXES:
        return False
    right = memory_axes(axes, kinds, p.itemsize, ndim, shape, x_strides, y_strides, dy_strides)
    if right < 0:
        return False
    feature = kinds[0] == b"K" or kinds[0] == b"R"
    if feature:
        p.segments = p.channels = 1
        if right > 1 and axes[right - 1].kind == b"K" and axes[right - 2].kind == b"R" and (right < 3 or axes[right - 3].kind == b"K"):
            # ..., positions, columns
            p.form = FEATURE_COLUMNS
            p.groups = 1
            p.width = take(axes, &left, &right, b"K", True, &xs.channel, &ys.channel, &ds.channel)
            p.length = take(axes, &left, &right, b"R", True, &xs.position, &ys.position, &ds.position)
            p.samples = take(axes, &left, &right, b"K", True, &xs.sample, &ys.sample, &ds.sample)
            return left == right
        p.form = FEATURE_ROWS
        p.width = 1
        if right and axes[right - 1].kind == b"K":
            p.length = 1    # rows of one element
        else:
            p.length = take(axes, &left, &right, b"R", True, &xs.position, &ys.position, &ds.position)
            p.segments = take(axes, &left, &right, b"R", True, &xs.segment, &ys.segment, &ds.segment)
        p.groups = take(axes, &left, &right, b"K", True, &xs.channel, &ys.channel, &ds.channel)
        p.samples = take(axes, &left, &right, b"K", True, &xs.sample, &ys.sample, &ds.sample)
        if p.samples == 1 and p.groups > 1:
            # one outer axis is the sample's, so that its rows may be packed
            p.samples, p.groups = p.groups, 1
            xs.sample, ys.sample, ds.sample = xs.channel, ys.channel, ds.channel
        return left == right
    p.segments = p.length = p.samples = p.width = 1
    if right and axes[right - 1].kind == b"C":
        p.form = CHANNEL_COLUMNS
        p.width = take(axes, &left, &right, b"C", True, &xs.channel, &ys.channel, &ds.channel)
        p.length = take(axes, &left, &right, b"S", True, &xs.position, &ys.position, &ds.position)
        p.samples = take(axes, &left, &right, b"N", True, &xs.sample, &ys.sample, &ds.sample)
        p.channels = p.width // p.groups
        return left == right
    p.form = CHANNEL_ROWS
    if right and axes[right - 1].kind == b"N":
        pass                # one element a sample
    else:
        p.length = take(axes, &left, &right, b"S", True, &xs.position, &ys.position, &ds.position)
    p.channels = take(axes, &left, &right, b"N", False, &xs.sample, &ys.sample, &ds.sample)
    p.samples = p.channels
    p.segments = take(axes, &left, &right, b"S", False, &xs.segment, &ys.segment, &ds.segment)
    p.channels = take(axes, &left, &right, b"C", False, &xs.channel, &ys.channel, &ds.channel)
    if p.segments == 1:
        p.segments = take(axes, &left, &right, b"S", False, &xs.segment, &ys.segment, &ds.segment)
    if p.samples == 1:
        p.samples = take(axes, &left, &right, b"N", False, &xs.sample, &ys.sample, &ds.sample)
    p.channels //= p.groups
    return left == right


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
