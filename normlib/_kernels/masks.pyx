"""How many elements of each row a mask lets in."""

from normlib._kernels.header cimport OF_WHERE
from normlib._kernels.plan cimport Plan, View


cdef Py_ssize_t count_run(const char* m, Py_ssize_t step, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, count = 0
    if step == 0:
        return n if m[0] else 0
    if step == 1:
        for i in range(n):
            count += m[i] != 0
    else:
        for i in range(n):
            count += m[i * step] != 0
    return count


cdef Py_ssize_t count_runs(const View* mask, const char* m, Py_ssize_t segments, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t i, count = 0
    if mask.span.segment == 0:
        return segments * count_run(m, mask.span.position, length)
    for i in range(segments):
        count += count_run(m + i * mask.span.segment, mask.span.position, length)
    return count


cdef void count_inside(const Plan* p, Py_ssize_t* inside) noexcept nogil:
    """Of all rows of a plan by rows, in its order; what is the same for several of them is counted once."""
    cdef const View* mask = &p.companion[OF_WHERE]
    cdef const char* m
    cdef Py_ssize_t sample, g, c, r = 0
    for sample in range(p.samples):
        for g in range(p.groups):
            m = mask.data + sample * mask.span.sample + g * p.channels * mask.span.channel
            if g > 0 and mask.span.channel == 0:
                inside[r] = inside[r - 1]
            elif sample > 0 and mask.span.sample == 0:
                inside[r] = inside[r - p.groups]
            elif mask.span.channel == 0:
                inside[r] = p.channels * count_runs(mask, m, p.segments, p.length)
            else:
                inside[r] = 0
                for c in range(p.channels):
                    inside[r] += count_runs(mask, m + c * mask.span.channel, p.segments, p.length)
            r += 1
