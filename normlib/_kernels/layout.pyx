"""From the strides of the arrays to the loops of a plan: which family, which sizes, which strides."""

cimport numpy as cnp
from normlib._kernels.plan cimport CHANNEL_COLUMNS, CHANNEL_ROWS, FEATURE_COLUMNS, FEATURE_ROWS, Plan, Span

cdef struct Axis:
    int kind
    int number
    Py_ssize_t n
    Py_ssize_t x, y, d      # strides in elements


cdef inline Py_ssize_t magnitude(Py_ssize_t n) noexcept:
    return n if n >= 0 else -n


cdef int memory_axes(Axis* axes, const char* kinds, cnp.ndarray x, cnp.ndarray y, cnp.ndarray dy) noexcept:
    """The axes in the order of x's memory, neighbours merged; -1 where reduced axes lie in another order than in the
    array's shape, which would change the order of a sum, or a stride is no whole number of elements."""
    cdef int i, j, count = 0, seen = -1, kept = -1
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x)
    cdef Axis a
    for i in range(cnp.PyArray_NDIM(x)):
        if cnp.PyArray_DIM(x, i) == 1:
            continue
        a.kind = kinds[i]
        a.number = i
        a.n = cnp.PyArray_DIM(x, i)
        if cnp.PyArray_STRIDE(x, i) % size or cnp.PyArray_STRIDE(y, i) % size or cnp.PyArray_STRIDE(dy, i) % size:
            return -1
        a.x = cnp.PyArray_STRIDE(x, i) // size
        a.y = cnp.PyArray_STRIDE(y, i) // size
        a.d = cnp.PyArray_STRIDE(dy, i) // size
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
                     Py_ssize_t* x, Py_ssize_t* y, Py_ssize_t* d) noexcept:
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


cdef bint lay_out(Plan* p, const char* kinds, cnp.ndarray x, cnp.ndarray y, cnp.ndarray dy) noexcept:
    """Fill in form, sizes and strides; False where no family takes the layout. p.groups is given for channel norms."""
    cdef Axis axes[32]
    cdef int left = 0, right
    cdef bint feature, unit
    cdef Span* xs = &p.xs
    cdef Span* ys = &p.ys
    cdef Span* ds = &p.ds
    if cnp.PyArray_NDIM(x) > 32:
        return False
    right = memory_axes(axes, kinds, x, y, dy)
    if right < 0:
        return False
    feature = kinds[0] == b"K" or kinds[0] == b"R"
    unit = right == 0 or (axes[right - 1].x == 1 and axes[right - 1].y == 1 and axes[right - 1].d == 1)
    if feature:
        p.segments = p.channels = 1
        if right and axes[right - 1].kind == b"K" and right > 1:
            # ..., positions, columns
            p.form = FEATURE_COLUMNS
            p.groups = 1
            p.width = take(axes, &left, &right, b"K", True, &xs.channel, &ys.channel, &ds.channel)
            p.length = take(axes, &left, &right, b"R", True, &xs.position, &ys.position, &ds.position)
            p.samples = take(axes, &left, &right, b"K", True, &xs.sample, &ys.sample, &ds.sample)
            return unit and left == right
        p.form = FEATURE_ROWS
        p.width = 1
        if right and axes[right - 1].kind == b"K":
            unit = True     # rows of one element
            p.length = 1
        else:
            p.length = take(axes, &left, &right, b"R", True, &xs.position, &ys.position, &ds.position)
        p.groups = take(axes, &left, &right, b"K", True, &xs.channel, &ys.channel, &ds.channel)
        p.samples = take(axes, &left, &right, b"K", True, &xs.sample, &ys.sample, &ds.sample)
        if p.samples == 1 and p.groups > 1:
            # one outer axis is the sample's, so that its rows may be packed
            p.samples, p.groups = p.groups, 1
            xs.sample, ys.sample, ds.sample = xs.channel, ys.channel, ds.channel
        return unit and left == right
    p.segments = p.length = p.samples = p.width = 1
    if right and axes[right - 1].kind == b"C":
        p.form = CHANNEL_COLUMNS
        p.width = take(axes, &left, &right, b"C", True, &xs.channel, &ys.channel, &ds.channel)
        p.length = take(axes, &left, &right, b"S", True, &xs.position, &ys.position, &ds.position)
        p.samples = take(axes, &left, &right, b"N", True, &xs.sample, &ys.sample, &ds.sample)
        p.channels = p.width // p.groups
        return unit and left == right
    p.form = CHANNEL_ROWS
    if right and axes[right - 1].kind == b"N":
        unit = True         # one element a sample
    else:
        p.length = take(axes, &left, &right, b"S", True, &xs.position, &ys.position, &ds.position)
    p.channels = take(axes, &left, &right, b"N", False, &xs.sample, &ys.sample, &ds.sample)
    p.samples = p.channels
    p.segments = take(axes, &left, &right, b"S", False, &xs.segment, &ys.segment, &ds.segment)
    p.channels = take(axes, &left, &right, b"C", False, &xs.channel, &ys.channel, &ds.channel)
    if p.samples == 1:
        p.samples = take(axes, &left, &right, b"N", False, &xs.sample, &ys.sample, &ds.sample)
    p.channels //= p.groups
    return unit and left == right


cdef void extent(cnp.ndarray a, char** low, char** high) noexcept:
    cdef int i
    cdef Py_ssize_t reach
    low[0] = high[0] = <char*>cnp.PyArray_DATA(a)
    for i in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, i) - 1) * cnp.PyArray_STRIDE(a, i)
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach
    high[0] += cnp.PyArray_ITEMSIZE(a)


cdef bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the spans of memory of two arrays that are not empty overlap."""
    cdef char* al
    cdef char* ah
    cdef char* bl
    cdef char* bh
    extent(a, &al, &ah)
    extent(b, &bl, &bh)
    return al < bh and bl < ah


cdef bint same_memory(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether two arrays of one shape and dtype are the same elements in the same places."""
    cdef int i
    if cnp.PyArray_DATA(a) != cnp.PyArray_DATA(b):
        return False
    for i in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, i) > 1 and cnp.PyArray_STRIDE(a, i) != cnp.PyArray_STRIDE(b, i):
            return False
    return True
