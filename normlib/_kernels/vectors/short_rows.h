/* Short rows of float32, many in one loop, where a vector has 16 lanes: what a row takes beside its elements counts as much as they
   do, so that no lanes are worked on that have none, and nothing is looked up twice. The sums are those of reduce.pxi, bit by bit:
   element i goes to lane i % 32, FEW elements are folded at a time. */
#ifndef NORMLIB_SHORT_ROWS_H
#define NORMLIB_SHORT_ROWS_H
#include "storage.h"

#if defined(__GNUC__) && defined(__AVX512F__)
#define SHORT_ROWS 1
#define FEW_F32 128
#define INLINED static inline __attribute__((always_inline))

static inline __m512 all_f32(float x) { return _mm512_set1_ps(x); }

static inline __mmask16 first_lanes(ptrdiff_t n) { return (__mmask16)((1u << n) - 1); }

/* The fold of 16 lanes to 8 sums. */
static inline __m512d fold_16(__m512 v)
{
    return _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
}

static inline void put_sums(double *e, __m512 low, __m512 high, int wide, int more)
{
    __m512d t = fold_16(wide ? _mm512_add_ps(low, high) : low);
    _mm512_storeu_pd(e, more ? _mm512_add_pd(_mm512_loadu_pd(e), t) : t);
}

/* The sums of the first n <= 16 elements of each channel of m rows. */
static inline void short_samples_f32(const float *x, ptrdiff_t n, ptrdiff_t channels, ptrdiff_t channel, ptrdiff_t apart, ptrdiff_t m, double (*sums)[8])
{
    __mmask16 some = first_lanes(n);
    for (ptrdiff_t k = 0; k < m; k++, x += apart) {
        __m512d e = fold_16(_mm512_maskz_loadu_ps(some, x));
        for (ptrdiff_t c = 1; c < channels; c++) e = _mm512_add_pd(e, fold_16(_mm512_maskz_loadu_ps(some, x + c * channel)));
        _mm512_storeu_pd(sums[k], e);
    }
}

typedef struct { __m512 sum, square; } pair_t;  /* or the product in the place of the square */

static inline void add_moment(pair_t *s, __m512 t, int centered)
{
    if (centered) s->sum = _mm512_add_ps(s->sum, t);
    s->square = _mm512_add_ps(s->square, _mm512_mul_ps(t, t));
}

static inline void whole_moment(pair_t *s, const float *x, __m512 shift, __m512 one, int centered)
{
    add_moment(s, centered ? _mm512_fmsub_ps(_mm512_loadu_ps(x), one, shift) : _mm512_loadu_ps(x), centered);
}

static inline void part_moment(pair_t *s, const float *x, ptrdiff_t n, __m512 shift, int centered)
{
    __m512 t = _mm512_maskz_loadu_ps(first_lanes(n), x);
    add_moment(s, centered ? _mm512_maskz_sub_ps(first_lanes(n), t, shift) : t, centered);
}

static inline void few_moments_f32(const float *x, ptrdiff_t n, __m512 shift, __m512 one, double *sums, double *squares, int centered, int more)
{
    pair_t low = {_mm512_setzero_ps(), _mm512_setzero_ps()}, high = low;
    ptrdiff_t i = 0;
    for (; i + 32 <= n; i += 32) {
        whole_moment(&low, x + i, shift, one, centered);
        whole_moment(&high, x + i + 16, shift, one, centered);
    }
    if (i + 16 <= n) {
        whole_moment(&low, x + i, shift, one, centered);
        i += 16;
        if (i < n) part_moment(&high, x + i, n - i, shift, centered);
    } else if (i < n) {
        part_moment(&low, x + i, n - i, shift, centered);
    }
    if (centered) put_sums(sums, low.sum, high.sum, n > 16, more);
    put_sums(squares, low.square, high.square, n > 16, more);
}

/* `add_moments` of m rows of n < 256 elements, so many elements apart, the first of them at x. */
INLINED void short_moments_f32(const float *x, ptrdiff_t n, ptrdiff_t apart, ptrdiff_t m, const float *shift,
                                                                    double (*sums)[8], double (*squares)[8], const int centered)
{
    __m512 one = all_f32(one_f32());
    for (ptrdiff_t k = 0; k < m; k++, x += apart) {
        few_moments_f32(x, n < FEW_F32 ? n : FEW_F32, all_f32(shift[k]), one, sums[k], squares[k], centered, 0);
        if (n > FEW_F32) few_moments_f32(x + FEW_F32, n - FEW_F32, all_f32(shift[k]), one, sums[k], squares[k], centered, 1);
    }
}

static inline void add_slope(pair_t *s, __m512 x, __m512 dy, __mmask16 some, __m512 shift, __m512 scale, __m512 one)
{
    __m512 z = _mm512_mul_ps(_mm512_fmsub_ps(x, one, shift), scale);
    s->sum = _mm512_add_ps(s->sum, dy);
    s->square = _mm512_mask_add_ps(s->square, some, s->square, _mm512_mul_ps(z, dy));
}

static inline void part_slope(pair_t *s, const float *x, const float *dy, ptrdiff_t n, __m512 shift, __m512 scale, __m512 one)
{
    __mmask16 some = first_lanes(n);
    add_slope(s, _mm512_maskz_loadu_ps(some, x), _mm512_maskz_loadu_ps(some, dy), some, shift, scale, one);
}

/* sum dy and sum dy * (x - shift) * scale of m rows of n < 256 elements. */
static inline void short_slopes_f32(const float *x, const float *dy, ptrdiff_t n, ptrdiff_t x_apart, ptrdiff_t dy_apart, ptrdiff_t m,
                                    const float *shift, const float *scale, double (*sums)[8], double (*products)[8])
{
    __m512 one = all_f32(one_f32());
    for (ptrdiff_t k = 0; k < m; k++, x += x_apart, dy += dy_apart) {
        __m512 s = all_f32(shift[k]), r = all_f32(scale[k]);
        pair_t low = {_mm512_setzero_ps(), _mm512_setzero_ps()}, high = low;
        ptrdiff_t i = 0;
        for (; i + 32 <= n; i += 32) {
            add_slope(&low, _mm512_loadu_ps(x + i), _mm512_loadu_ps(dy + i), 0xffff, s, r, one);
            add_slope(&high, _mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(dy + i + 16), 0xffff, s, r, one);
        }
        if (i + 16 <= n) {
            add_slope(&low, _mm512_loadu_ps(x + i), _mm512_loadu_ps(dy + i), 0xffff, s, r, one);
            i += 16;
            if (i < n) part_slope(&high, x + i, dy + i, n - i, s, r, one);
        } else if (i < n) {
            part_slope(&low, x + i, dy + i, n - i, s, r, one);
        }
        put_sums(sums[k], low.sum, high.sum, n > 16, 0);
        put_sums(products[k], low.square, high.square, n > 16, 0);
    }
}

/* ---- what follows the sums: runs side by side, with coefficients of their own ---- */

enum {FORWARD, BACKWARD, CONSTANT};     /* CONSTANT: backward, where the statistics were given */

/* Of a run, or of the two that a vector lies in: shift, delta, scale, offset; weight, scale, mean_g, shift, slope; weight, scale. */
typedef struct { __m512 c[5]; } coefficients_t;

INLINED coefficients_t of_run(const float *const *c, ptrdiff_t k, const int many)
{
    coefficients_t r;
    for (int j = 0; j < many; j++) r.c[j] = all_f32(c[j][k]);
    return r;
}

INLINED coefficients_t of_two(coefficients_t a, coefficients_t b, __mmask16 of_b, const int many)
{
    for (int j = 0; j < many; j++) a.c[j] = _mm512_mask_mov_ps(a.c[j], of_b, b.c[j]);
    return a;
}

INLINED __m512 computed(coefficients_t c, __m512 x, __m512 dy, __m512 one, const int how)
{
    if (how == FORWARD)
        return _mm512_add_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_fmsub_ps(x, one, c.c[0]), c.c[1]), c.c[2]), c.c[3]);
    dy = _mm512_mul_ps(dy, c.c[0]);
    if (how == BACKWARD)
        dy = _mm512_sub_ps(_mm512_sub_ps(dy, c.c[2]), _mm512_mul_ps(_mm512_sub_ps(x, c.c[3]), c.c[4]));
    return _mm512_mul_ps(dy, c.c[1]);
}

INLINED void compute_16(const float *x, const float *dy, float *y, coefficients_t c, __m512 one, const int how)
{
    _mm512_storeu_ps(y, computed(c, _mm512_loadu_ps(x), _mm512_loadu_ps(dy), one, how));
}

INLINED void compute_part(const float *x, const float *dy, float *y, ptrdiff_t n, coefficients_t c, __m512 one, const int how)
{
    __mmask16 some = first_lanes(n);
    _mm512_mask_storeu_ps(y, some, computed(c, _mm512_maskz_loadu_ps(some, x), _mm512_maskz_loadu_ps(some, dy), one, how));
}

/* m runs of n elements, each with vectors of its own. */
INLINED void runs_apart(const float *x, const float *dy, float *y, ptrdiff_t n, ptrdiff_t m, const float *const *c, const int many, const int how)
{
    __m512 one = all_f32(one_f32());
    for (ptrdiff_t k = 0; k < m; k++, x += n, dy += n, y += n) {
        coefficients_t run = of_run(c, k, many);
        ptrdiff_t i = 0;
        for (; i + 16 <= n; i += 16) compute_16(x + i, dy + i, y + i, run, one, how);
        if (i < n) compute_part(x + i, dy + i, y + i, n - i, run, one, how);
    }
}

/* As one stretch of whole vectors, of which one may lie in two runs: half of the time of planes of 7 x 7 would be their ends. */
INLINED void runs_joined(const float *x, const float *dy, float *y, ptrdiff_t n, ptrdiff_t m, const float *const *c, const int many, const int how)
{
    __m512 one = all_f32(one_f32());
    coefficients_t last = of_run(c, 0, many), run = last;
    ptrdiff_t i = 0, end = n;
    for (ptrdiff_t k = 0; k < m; k++, end += n, last = run) {
        run = of_run(c, k, many);
        if (i < end - n) {
            compute_16(x + i, dy + i, y + i, of_two(last, run, (__mmask16)(0xffff << (end - n - i)), many), one, how);
            i += 16;
        }
        for (; i + 16 <= end; i += 16) compute_16(x + i, dy + i, y + i, run, one, how);
    }
    if (i < m * n) compute_part(x + i, dy + i, y + i, m * n - i, run, one, how);
}

INLINED void runs_f32(const float *x, const float *dy, float *y, ptrdiff_t n, ptrdiff_t m, const float *const *c, const int many, const int how)
{
    if (n < 16 || n % 16 == 0)
        runs_apart(x, dy, y, n, m, c, many, how);
    else
        runs_joined(x, dy, y, n, m, c, many, how);
}

/* Functions of their own: in the large ones that call them, pointers would not stay in registers. Nor would those at c, which a store
   might overwrite. */
#define ON_ITS_OWN static __attribute__((noinline))

ON_ITS_OWN void normalize_runs_f32(const float *x, float *y, ptrdiff_t n, ptrdiff_t m, const float *const *c)
{
    const float *of_runs[4] = {c[0], c[1], c[2], c[3]};
    runs_f32(x, x, y, n, m, of_runs, 4, FORWARD);
}

ON_ITS_OWN void descend_runs_f32(const float *x, const float *dy, float *dx, ptrdiff_t n, ptrdiff_t m, const float *const *c)
{
    const float *of_runs[5] = {c[0], c[1], c[2], c[3], c[4]};
    runs_f32(x, dy, dx, n, m, of_runs, 5, BACKWARD);
}

ON_ITS_OWN void scale_runs_f32(const float *dy, float *dx, ptrdiff_t n, ptrdiff_t m, const float *const *c)
{
    const float *of_runs[2] = {c[0], c[1]};
    runs_f32(dy, dy, dx, n, m, of_runs, 2, CONSTANT);
}

#else
#define SHORT_ROWS 0
#define short_samples_f32(...) ((void)0)
#define short_moments_f32(...) ((void)0)
#define short_slopes_f32(...) ((void)0)
#define normalize_runs_f32(...) ((void)0)
#define descend_runs_f32(...) ((void)0)
#define scale_runs_f32(...) ((void)0)
#endif
#endif
