# From sums to statistics: corrected two-pass (Chan, Golub and LeVeque 1983). With a first mean m0 near the mean,
#   d = mean(x - m0),   var = mean((x - m0)^2) - d^2,   mean = m0 + d,
# and elements are normalised as (x - m0) - d. Any m0 with d^2 <= var serves, so the mean of a sample is tried first; the
# sums tell whether it did, and if not they are taken once more about m0 + d.

cdef enum:
    SAMPLE = 16                 # elements of a block that the first mean is taken from
    TOGETHER = 32               # short rows whose statistics are computed together
    FAR_F32 = 100               # powers of two so far from 1 leave room for products in the working type
    FAR_F64 = 900

cdef inline Py_ssize_t sample_step(Py_ssize_t n) noexcept nogil:
    """The sample for the first mean: the first SAMPLE elements of each such number of blocks, at most 32 times."""
    return (n - 1) // (32 * BLOCK) + 1


cdef inline Py_ssize_t sampled(Py_ssize_t n) noexcept nogil:
    """How many elements of n the sample takes."""
    cdef Py_ssize_t step = sample_step(n), blocks = (n - 1) // (step * BLOCK)
    return blocks * SAMPLE + min(<Py_ssize_t>SAMPLE, n - blocks * step * BLOCK)


cdef inline void fold_sample(const work* x, Py_ssize_t n, double* e, bint more) noexcept nogil:
    """The sum of n <= SAMPLE elements, in 8 parts; more: added to what is there."""
    cdef work t[LANES]
    load_lanes(x, n, t, True)
    fold(t, e, more)


cdef inline Py_ssize_t together(Py_ssize_t n, bint streaming) noexcept nogil:
    """Rows of n elements to take at once; a stream wants its reads and writes close to each other. What a lot takes beside its rows is
    shared by 32 short ones; longer ones would not be in L1 with what is written."""
    cdef Py_ssize_t most = (PANEL // 2 if streaming else PANEL) // n
    return TOGETHER if most > TOGETHER else max(<Py_ssize_t>1, min(<Py_ssize_t>TOGETHER // 2, most))


cdef inline bint sound(double s, double d, double q, double eps, work zero) noexcept nogil:
    """Whether mean and mean square of the shifted elements give the variance: no cancellation in var = q - d^2
    (d^2 <= var), no overflow, no squares lost to underflow that would show beside eps, and no mean d of few bits, or none, for
    a sum s: where float64 is the working type, d^2 does not tell. False for NaN."""
    cdef double lost = 1e-35 if work is float else 1e-290
    if work is double:
        return (2 * d * d <= q) & (q < INFINITY) & (q + eps >= lost) & ((s == 0) | (abs(d) >= lost))
    else:
        return (2 * d * d <= q) & (q < INFINITY) & (q + eps >= lost)


cdef inline double over(double s, Py_ssize_t n) noexcept nogil:
    """s / n. The quotient by a power of two is the same number as a product, for which a row alone does not wait as long."""
    return s * (1. / n) if n & (n - 1) == 0 else s / n


cdef inline bint trusted(const double* s, Py_ssize_t n, double eps, work zero) noexcept nogil:
    return sound(s[0], over(s[0], n), over(s[1], n), eps, zero)


cdef inline bint chance(double d, double q, Py_ssize_t taken) noexcept nogil:
    """Whether a first mean from `taken` elements is off by no more than d^2 <= var, or less where they are many: then one
    that is has an outlier among them, which alone makes d^2 = var n / taken^2, some 30 to 64 / taken. In gradients the rounding
    of sums about such a mean would show. False for NaN."""
    return (1 + max(1., taken / 30.)) * d * d <= q


cdef inline void add_up(double* s, double* lost, double u, work zero) noexcept nogil:
    """s += u; where the working type is float64, lost takes what is rounded off (TwoSum, Knuth 1969)."""
    cdef double t, v
    if work is double:
        t = s[0] + u
        v = t - s[0]
        lost[0] += (s[0] - (t - v)) + (u - v)
        s[0] = t
    else:
        s[0] += u


cdef inline double regain(double s, double lost, work zero) noexcept nogil:
    return s + lost if work is double and lost - lost == 0 else s


cdef inline void add_terms(double* sums, double* lost, const term* terms, Py_ssize_t n, work zero) noexcept nogil:
    """sums += terms; lost: where to keep what is rounded off, if not NULL"""
    cdef Py_ssize_t k
    if work is double and lost != NULL:
        for k in range(n):
            add_up(sums + k, lost + k, terms[k], zero)
    else:
        for k in range(n):
            sums[k] += terms[k]


cdef inline void add_gradients(const Plan* p, Py_ssize_t i, const term* dw, const term* db, Py_ssize_t n, work zero) noexcept nogil:
    """Add n terms to the gradients of weight and bias; i: part * parameters + the first of n parameters."""
    add_terms(p.dweight + i, at(p.lost, i, p.lost != NULL), dw, n, zero)
    if p.centered:
        add_terms(p.dbias + i, at(p.lost, p.parts * p.parameters + i, p.lost != NULL), db, n, zero)


cdef inline void add_eight(double* e, double* lost, const double* block) noexcept nogil:
    """Add a sum in 8 parts where the working type is float64."""
    cdef double s[8]
    cdef double u[8]
    cdef double r[8]
    cdef Py_ssize_t k
    for k in range(8):
        s[k], u[k], r[k] = e[k], block[k], lost[k]
    for k in range(8):
        add_up(&s[k], &r[k], u[k], <double>0)
    for k in range(8):
        e[k], lost[k] = s[k], r[k]


cdef inline void regain_eight(double* e, const double* lost) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(8):
        e[k] = regain(e[k], lost[k], <double>0)


cdef inline void recenter(double* shift, double* delta) noexcept nogil:
    """In float64 the mean becomes the shift, what that rounds off the delta: then elements lose nothing to it."""
    cdef double lost = 0
    add_up(shift, &lost, delta[0], <double>0)
    delta[0] = lost


cdef inline void split_mean(double mean, work* shift, work* delta) noexcept nogil:
    shift[0] = <work>mean
    delta[0] = <work>(mean - shift[0])


cdef inline double about_mean(double q, double s, double delta, double scale) noexcept nogil:
    """sum g * z from q = sum g * (x - shift) * scale and s = sum g; delta is what the mean lost when it became the shift"""
    return regain(q, -delta * scale * s, <double>0)


cdef inline void descent(double s, double q, double n, work delta, work scale, work* c1, work* c2) noexcept nogil:
    """From s = sum g and q = sum g * z the coefficients with which rstd * (g - mean(g) - z * mean(g * z)) is
    scale * ((g - c1) - (x - shift) * c2): two operations an element less."""
    cdef double slope = q / n * scale
    c1[0], c2[0] = <work>regain(s / n, -delta * slope, <double>0), <work>slope


cdef struct Statistics:
    # y = ((x * factor - shift) - delta) * scale. The factor is a power of two, 1 but for `wide_statistics`; the shift is of the
    # working type, and x * factor - shift is as good as exact.
    double shift, delta, var, rstd, scale, factor

cdef inline double refined(double q, double n, double d, double eps, double r, work zero) noexcept nogil:
    """r = 1 / sqrt(v), v = q / n - d^2 + eps, after a Newton step, its residual 1 - v r^2 taken exactly: where the working type
    is float64 the roundings of v, of the square root and of the division would show."""
    cdef double mean, v, lost, h
    if work is double:
        mean = q / n
        v = mean - d * d
        lost = fma(-mean, n, q) / n - ((v - mean) + d * d)
        add_up(&v, &lost, eps, <double>0)
        h = v * r
        return r + 0.5 * r * (fma(-h, r, 1) - (fma(v, r, -h) + lost * r) * r) if 0 < h < INFINITY else r
    else:
        return r


cdef struct Rows:
    # Sums of TOGETHER rows, in 8 parts: of the sample, of the shifted elements, of their squares; then their statistics.
    double sample[TOGETHER][8]
    double sums[TOGETHER][8]
    double squares[TOGETHER][8]
    double mean[TOGETHER]
    double var[TOGETHER]
    double rstd[TOGETHER]
    bint good[TOGETHER]


cdef inline void clear_rows(double (*e)[8], Py_ssize_t first, Py_ssize_t m) noexcept nogil:
    """Zeros from row `first` on, up to eights of m rows."""
    if first % 8 != 0 or first < m:
        memset(e + first, 0, ((m + 7) // 8 * 8 - first) * sizeof(e[0]))


cdef inline bint put(Rows* rows, Py_ssize_t k, const Statistics* found, work* shift, work* delta, work* scale, work* factor) noexcept nogil:
    """The statistics of row k, found in another way; whether they have a factor."""
    rows.mean[k], rows.var[k], rows.rstd[k] = (found.shift + found.delta) / found.factor, found.var, found.rstd
    shift[k], delta[k], scale[k], factor[k] = <work>found.shift, <work>found.delta, <work>found.scale, <work>found.factor
    return found.factor != 1


cdef inline void shift_rows(Rows* rows, Py_ssize_t m, Py_ssize_t taken, work* shift) noexcept nogil:
    """The first mean of m rows, from `taken` elements of each."""
    cdef double total[TOGETHER]
    cdef Py_ssize_t k
    clear_rows(rows.sample, m, m)
    sum_rows(rows.sample, m, total)
    for k in range((m + 7) // 8 * 8):
        shift[k] = <work>(total[k] / taken)


cdef inline bint settle_rows(Rows* rows, Py_ssize_t m, Py_ssize_t n, Py_ssize_t taken, bint centered, double eps,
                             work* shift, work* delta, work* scale) noexcept nogil:
    """`settle` for m rows of n elements: divisions and square roots run in vectors; whether all are `sound`."""
    cdef double s[TOGETHER]
    cdef double q[TOGETHER]
    cdef double sums[TOGETHER]
    cdef double total
    cdef Py_ssize_t k
    cdef bint good = True
    clear_rows(rows.sums, m if centered else 0, m)
    clear_rows(rows.squares, m, m)
    sum_rows(rows.sums, m, s)
    sum_rows(rows.squares, m, q)
    for k in range((m + 7) // 8 * 8):
        total = q[k]
        sums[k] = s[k]
        s[k] /= n
        q[k] /= n
        rows.mean[k] = shift[k] + s[k]
        rows.var[k] = q[k] - s[k] * s[k]
        rows.rstd[k] = 1 / sqrt(rows.var[k] + eps)
        delta[k] = <work>s[k]
        scale[k] = <work>refined(total, n, s[k], eps, rows.rstd[k], <work>0)
    for k in range((m + 7) // 8 * 8):
        rows.good[k] = sound(sums[k], s[k], q[k], eps, <work>0) & chance(s[k], q[k], taken)
    for k in range(m):
        good &= rows.good[k]
        if work is double:
            recenter(&shift[k], &delta[k])
    return good


cdef inline void settle(const double* s, Py_ssize_t n, double eps, work shift, Statistics* to) noexcept nogil:
    """From the sums about `shift` (0 for RMSNorm) to the statistics."""
    to.shift = shift
    to.delta = over(s[0], n)
    to.var = over(s[1], n) - to.delta * to.delta
    to.rstd = 1 / sqrt(to.var + eps)
    to.scale = refined(s[1], n, to.delta, eps, to.rstd, shift)
    to.factor = 1
    if work is double:
        recenter(&to.shift, &to.delta)


cdef inline void add_exactly(double* s, double u) noexcept nogil:
    """s[0] + s[1] += u, where s[1] takes what s[0] would lose (Kahan 1965)."""
    cdef double v = u + s[1], t = s[0] + v
    s[1] = v - (t - s[0])
    s[0] = t


cdef void wide_statistics(const Array* x, const char* row, Py_ssize_t n, bint centered, double eps, Statistics* to, work zero) noexcept nogil:
    """Statistics in float64 of n elements times a power of two, for rows whose squares, differences or rstd leave the working type."""
    cdef double top = 0, m = 0, d, q, u, scale = 1, back = 1
    cdef int far = FAR_F32 if work is float else FAR_F64
    cdef double total[2]
    cdef double first[2]
    cdef double second[2]
    cdef work room[LANES]
    cdef Py_ssize_t sweep, i, k, many
    cdef const work* t
    cdef int exponent = 0
    total[0] = total[1] = first[0] = first[1] = second[0] = second[1] = 0
    for sweep in range(3):
        for i from 0 <= i < n by LANES:
            many = min(<Py_ssize_t>LANES, n - i)
            t = take(x, row, i, many, room)
            for k in range(many):
                if sweep == 0:
                    top = max(top, <double>abs(t[k]))
                elif sweep == 1:
                    add_exactly(total, t[k] * scale)
                else:
                    u = t[k] * scale - m
                    add_exactly(first, u)
                    add_exactly(second, u * u)
        if sweep == 0 and 0 < top < INFINITY:
            frexp(max(top, sqrt(eps)), &exponent)       # beside a large eps the elements may stay small
            exponent = min(max(exponent, -far), far)
            scale = ldexp(1, -exponent)
            back = ldexp(1, exponent)
        elif sweep == 1 and centered:
            m = total[0] / n
    d = first[0] / n if centered else 0
    q = second[0] / n - d * d
    to.shift = <work>(m + d)
    to.delta = (m - to.shift) + d
    to.var = q * back * back
    to.scale = 1 / sqrt(q + eps * scale * scale)
    to.rstd = to.scale * scale
    to.factor = scale


cdef inline void split_scaled(double mean, double rstd, work* shift, work* delta, work* scale, work* factor) noexcept nogil:
    """`split_mean`, and rstd, of statistics that are given, about elements times a factor where the working type asks for one."""
    cdef int far = FAR_F32 if work is float else FAR_F64, e = 0, room
    cdef double most = ldexp(1, far), f
    if 0 < rstd < INFINITY and not (abs(mean) <= most and 1 / most <= rstd <= most):
        frexp(rstd, &e)
        frexp(mean, &room)
        e = min(max(e - 2, -far), far, far - room)
    f = ldexp(1, e)
    split_mean(mean * f, shift, delta)
    scale[0], factor[0] = <work>(rstd / f), <work>f


cdef bint split_given(const double* mean, const double* rstd, Py_ssize_t n, work* table, Py_ssize_t entry, bint forward) noexcept nogil:
    """n statistics that are given, to a table whose entries are so many values apart; mean NULL: 0. Whether one has a factor, which none
    has in a backward pass."""
    cdef work* shift = table + SHIFT * entry
    cdef work* delta = table + DELTA * entry
    cdef work* scale = table + SCALE * entry
    cdef work* factor = table + FACTOR * entry
    cdef double most = ldexp(1, FAR_F32 if work is float else FAR_F64), least = 1 / most, m
    cdef bint far = False
    cdef Py_ssize_t k
    for k in range(n):
        m = mean[k] if mean != NULL else 0
        shift[k] = <work>m
        delta[k] = <work>(m - shift[k])
        scale[k] = <work>rstd[k]
        far |= (not (least <= rstd[k])) | (not (rstd[k] <= most)) | (not (abs(m) <= most))
    if not forward:
        return False
    for k in range(n):
        factor[k] = 1
    if not far:
        return False
    far = False
    for k in range(n):
        split_scaled(mean[k] if mean != NULL else 0, rstd[k], shift + k, delta + k, scale + k, factor + k)
        far |= factor[k] != 1
    return far


cdef inline bint far_from_1(const work* a, Py_ssize_t n) noexcept nogil:
    """Whether one of n numbers is so far from 1, and not 0, that its product with another may not be a normal number."""
    cdef work most = <work>ldexp(1, (FAR_F32 if work is float else FAR_F64) // 2), least = 1 / most
    cdef bint far = False
    cdef Py_ssize_t i
    for i in range(n):
        far |= ((abs(a[i]) < least) & (a[i] != 0)) | (abs(a[i]) > most)
    return far


cdef inline bint normal(work least, work most) noexcept nogil:
    """Whether what lies from least to most are normal numbers."""
    if work is double:
        return (least >= 2.2250738585072014e-308) & (most <= 1.7976931348623157e308)
    else:
        return (least >= <float>1.1754943508222875e-38) & (most <= <float>3.4028234663852886e38)


cdef inline bint beyond(work scale, work weight) noexcept nogil:
    """Whether a weight other than 0 takes a scale out of the normal numbers."""
    return (weight != 0) & (not normal(abs(scale * weight), abs(scale * weight)))


cdef inline void balance(work* shift, work* delta, work* scale, work* factor) noexcept nogil:
    """Move a power of two from the scale to the elements: the scale comes near 1, so that its product with a weight is a number
    where the results are."""
    cdef int far = FAR_F32 if work is float else FAR_F64, e, of_shift, of_factor
    cdef work f
    frexp(scale[0], &e)
    frexp(shift[0], &of_shift)
    frexp(factor[0], &of_factor)
    e = min(max(e, -far), far, far - of_shift, far + 20 - of_factor)
    f = <work>ldexp(1, e)
    shift[0], delta[0], scale[0], factor[0] = shift[0] * f, delta[0] * f, scale[0] / f, factor[0] * f
