/* Sums whose bits depend on their terms alone (Demmel and Nguyen 2013); normlib/_sums.py says how. Here LANES sums are
   taken at a time. Adding 1.5 * 2^(52 + e) and taking it away rounds a term to multiples of 2^e; of these SETTLE_ROWS at
   least are added without rounding before they become integers. */
#ifndef NORMLIB_SUMS_H
#define NORMLIB_SUMS_H
#include <math.h>
#include "storage.h"

#define WIDTH 30            /* bits of a bin */
#define FOLDS 4             /* bins of a sum, at most */
#define LOWEST -31          /* the top bin of a sum of nothing */
#define LIMIT 0x1p989       /* what is larger counts as infinite */
#define SETTLE_ROWS (1 << 20)

typedef struct {
    double bound[LANES];        /* the largest term that fits: 2^(WIDTH * top - 1) */
    double grid[FOLDS][LANES];
    double sum[FOLDS][LANES];
    int64_t bins[FOLDS][LANES];
    int64_t top[LANES];
    double special[LANES];      /* the sum of the terms that are not finite */
    ptrdiff_t rows;             /* since sums became integers */
} exact_t;

static inline double two_to(int64_t e)  /* a normal number */
{
    uint64_t bits = (uint64_t)(e + 1023) << 52;
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

static inline void begin_bins(exact_t *s, int l, int64_t top)
{
    s->top[l] = top, s->bound[l] = two_to(WIDTH * top - 1);
    for (int k = 0; k < FOLDS; k++) s->grid[k][l] = 1.5 * two_to(52 + WIDTH * (top - 1 - k));
}

static inline void exact_begin(exact_t *s)
{
    memset(s, 0, sizeof *s);
    for (int l = 0; l < LANES; l++) begin_bins(s, l, LOWEST);
}

static inline void exact_settle(exact_t *s)
{
    for (int k = 0; k < FOLDS; k++)
        for (int l = 0; l < LANES; l++) {
            int64_t e = WIDTH * (s->top[l] - 1 - k), half = e / 2;
            s->bins[k][l] += (int64_t)(s->sum[k][l] * two_to(-half) * two_to(half - e));
            s->sum[k][l] = 0;
        }
    s->rows = 0;
}

/* Make room for larger terms. */
static inline void exact_lift(exact_t *s, const double *most)
{
    exact_settle(s);
    for (int l = 0; l < LANES; l++) {
        int e, k;
        if (!(most[l] > s->bound[l])) continue;
        frexp(most[l] * (1 - 0x1p-53), &e);     /* so that a power of two fits below the bound it is */
        int64_t top = e + 1 > 0 ? (e + WIDTH) / WIDTH : -((-e - 1) / WIDTH), by = top - s->top[l];
        for (k = FOLDS - 1; k >= 0; k--) s->bins[k][l] = k >= by ? s->bins[k - by][l] : 0;
        begin_bins(s, l, top);
    }
}

/* Take out what is not finite, and what a square has overflowed to. */
static inline void take_out(exact_t *s, double *v, ptrdiff_t rows)
{
    for (ptrdiff_t i = 0; i < rows; i++, v += LANES)
        for (int l = 0; l < LANES; l++)
            if (!(fabs(v[l]) <= LIMIT)) {
                s->special[l] += v[l] > LIMIT ? INFINITY : v[l] < -LIMIT ? -INFINITY : v[l];
                v[l] = 0;
            }
}

/* Of the sizes of the terms of each lane the sums, or else the largest. */
static inline void sizes_of(const double *v, ptrdiff_t rows, double *to, const int largest)
{
    double m[LANES];
    for (int l = 0; l < LANES; l++) m[l] = 0;
    for (ptrdiff_t i = 0; i < rows; i++, v += LANES)
        for (int l = 0; l < LANES; l++) {
            double size = fabs(v[l]);
            if (largest)
                m[l] = size > m[l] ? size : m[l];
            else
                m[l] += size;
        }
    for (int l = 0; l < LANES; l++) to[l] = m[l];
}

static inline int within(const double *sizes, const double *bound)
{
    int all = 1;
    for (int l = 0; l < LANES; l++) all &= sizes[l] <= bound[l];
    return all;
}

#if defined(__GNUC__) && defined(__AVX512F__)
typedef double terms_t __attribute__((vector_size(64), aligned(8), may_alias));
#elif defined(__GNUC__) && defined(__AVX__)
typedef double terms_t __attribute__((vector_size(32), aligned(8), may_alias));
#elif defined(__GNUC__)
typedef double terms_t __attribute__((vector_size(16), aligned(8), may_alias));
#else
typedef double terms_t;
#endif

#if defined(__GNUC__) && defined(__AVX512F__)
#define LESS(a, b) (terms_t)_mm512_fmsub_pd((__m512d)(a), one, (__m512d)(b))
#define ONE __m512d one = _mm512_set1_pd(one_f64())
#elif defined(__GNUC__) && defined(__AVX__) && defined(__FMA__)
#define LESS(a, b) (terms_t)_mm256_fmsub_pd((__m256d)(a), one, (__m256d)(b))
#define ONE __m256d one = _mm256_set1_pd(one_f64())
#else
#define LESS(a, b) ((a) - (b))
#define ONE
#endif
#define TERMS ((int)(sizeof(terms_t) / sizeof(double)))
#define BESIDE (TERMS > 1 ? 2 : 1)  /* vectors that are worked on together */

/* Add rows of LANES terms that fit. */
static inline void fold_terms(exact_t *s, const double *v, ptrdiff_t rows, const int folds)
{
    ONE;
    for (int h = 0; h < LANES; h += BESIDE * TERMS) {
        terms_t grid[FOLDS][BESIDE], sum[FOLDS][BESIDE];
        for (int k = 0; k < folds; k++)
            for (int j = 0; j < BESIDE; j++) {
                grid[k][j] = *(const terms_t *)(s->grid[k] + h + j * TERMS);
                sum[k][j] = *(const terms_t *)(s->sum[k] + h + j * TERMS);
            }
        for (ptrdiff_t i = 0; i < rows; i++)
            for (int j = 0; j < BESIDE; j++) {
                terms_t rest = *(const terms_t *)(v + i * LANES + h + j * TERMS);
                for (int k = 0; k < folds; k++) {
                    terms_t part = LESS(rest + grid[k][j], grid[k][j]);
                    sum[k][j] += part;
                    rest = LESS(rest, part);
                }
            }
        for (int k = 0; k < folds; k++)
            for (int j = 0; j < BESIDE; j++) *(terms_t *)(s->sum[k] + h + j * TERMS) = sum[k][j];
    }
}

/* Add rows of LANES terms; `v` is written to. */
static inline void exact_add(exact_t *s, double *v, ptrdiff_t rows, const int folds)
{
    double sizes[LANES];
    sizes_of(v, rows, sizes, 0);
    if (!within(sizes, s->bound)) {     /* and perhaps they are not finite */
        take_out(s, v, rows);
        sizes_of(v, rows, sizes, 1);
        if (!within(sizes, s->bound)) exact_lift(s, sizes);
    }
    if (folds == 3)
        fold_terms(s, v, rows, 3);
    else
        fold_terms(s, v, rows, 4);
    if ((s->rows += rows) >= SETTLE_ROWS) exact_settle(s);
}

/* What squares have lost (Dekker 1971, Veltkamp's splitting). */
static inline void lost_by_squares(const double *x, double *lost, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        double square = x[i] * x[i], far = x[i] * 0x1.0000002p27, upper = far - (far - x[i]), lower = x[i] - upper;
        double rest = ((upper * upper - square) + upper * lower + lower * upper) + lower * lower;
        lost[i] = square <= LIMIT ? rest : 0;
    }
}
#endif
