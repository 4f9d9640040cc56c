/* Activation functions and their slopes, on n neighbouring elements, in place: silu_f32(v, n) and silu_slope_f32(v, n), and so on.

   Within 2 ulps everywhere, subnormal results too; a slope within 2 ulps of the larger of its two terms, which near a zero of the slope
   are larger than it. NaN stays that NaN; at infinity stands the limit, and 0 keeps its sign. All is made of additions, multiplications,
   divisions and choices, without branches, so that each compiler makes vectors of it and the bits are the same everywhere.

   float32 is computed in float64, but for silu and sigmoid, whose float32 form takes half the time. float64 is computed in
   pairs of numbers. All is written for u = |v|: with w(u) = u f(-u), f(v) is v - w or -w, and f'(v) is 1 - f'(-u) or f'(-u).

   Sources: Cody and Waite 1980 (reduction of exp); Dekker 1971 and Knuth 1969 (pairs); Shepherd and Laframboise 1981 (the normal
   distribution in (u - k) / (u + k)). tests/scripts/fit_activations.py finds and prints the tables. */
#ifndef NORMLIB_ACTIVATIONS_H
#define NORMLIB_ACTIVATIONS_H
#include "storage.h"
#include <math.h>

static inline uint64_t bits_of_f64(double f) { uint64_t u; memcpy(&u, &f, sizeof u); return u; }
static inline double float64_of(uint64_t u) { double f; memcpy(&f, &u, sizeof f); return f; }

/* f(v) of w = u f(-u), which vanishes for u > end; there it may have been computed to anything. */
static inline float value_f32(float v, float w, float end)
{
    w = fabsf(v) <= end ? w : 0;
    return v < 0 ? -w : v - w;
}

static inline double value_f64(double v, double w, double end)
{
    w = fabs(v) <= end ? w : 0;
    return v < 0 ? -w : v - w;
}

/* f(v) of f(-u) where f(-u) + f(u) = 1: the slopes of all that `value` is for, and sigmoid. */
static inline float share_f32(float v, float part, float end)
{
    part = fabsf(v) <= end ? part : 0;
    part = v < 0 ? part : 1 - part;
    return v != v ? v : part;
}

static inline double share_f64(double v, double part, double end)
{
    part = fabs(v) <= end ? part : 0;
    part = v < 0 ? part : 1 - part;
    return v != v ? v : part;
}

static inline double cubic(const double *c, double x, double x2) { return (c[0] + c[1] * x) + (c[2] + c[3] * x) * x2; }

/* Adding MAGIC rounds to a whole number k and leaves k + the exponent's bias in the lowest bits. */
#define MAGIC_F32 (0x1.8p23f + 127)
#define MAGIC_F64 (0x1.8p52 + 1023)
#define LOG2E 1.4426950408889634
#define LN2 0.69314718055994531
#define SQRT_8_OVER_PI 1.5957691216057308 /* gelu_tanh(v) = v / (1 + exp(-z)), z = sqrt(8 / pi) (v + 0.044715 v^3) */
#define CUBE 0.044715
#define DENSITY 0.39894228040143268 /* of the normal distribution at 0 */

/* ---- float32 in itself ---- */

/* (exp(r) - 1 - r) / r^2 for |r| < ln(2) / 2; exp within 2^-28.08 */
static const float EXP_F32[5] = {
    4.99999965e-1f, 1.66665157e-1f, 4.16674075e-2f, 8.36918930e-3f,
    1.38785057e-3f};

/* numerator / (1 + exp(-v)) for v from -110 to 64. The divisor could overflow: it is taken 2^-32 times. */
static inline float logistic_f32(float v, float numerator)
{
    const float one = 0x1p-32f;
    float k = v * -(float)LOG2E + MAGIC_F32, n = MAGIC_F32 - k;
    float scale = float_of((bits_of(k) - 32) << 23);
    float r = (n * 0x1.62e4p-1f - v) + n * 0x1.7f7d1cp-20f, r2 = r * r; /* ln(2) in two parts */
    float rest = (EXP_F32[0] + EXP_F32[1] * r) + ((EXP_F32[2] + EXP_F32[3] * r) + EXP_F32[4] * r2) * r2;
    float sum = one + scale, lost = one - (sum - scale);
    return numerator / (sum + (scale * (r + r2 * rest) + lost)) * one;
}

static inline float sigmoid_of_f32(float v)
{
    float f = logistic_f32(v, 1);
    f = v < -110 ? 0 : f;
    f = v > 64 ? 1 : f;
    return v != v ? v : f;
}

static inline float silu_of_f32(float v)
{
    float f = logistic_f32(v, v);
    f = v < -110 ? -0.0f : f;
    return v <= 64 ? f : v;
}

/* With exp(-2u) = 2^-n (1 + q): (1 - 2^-n) - 2^-n q over (1 + 2^-n) + 2^-n q; for n = 0 that is -q over 2 + q, exact near 0. */
static inline float tanh_of_f32(float v)
{
    float u = fabsf(v), x = 2 * (u < 10 ? u : 10);
    float k = x * -(float)LOG2E + MAGIC_F32, n = MAGIC_F32 - k;
    float scale = float_of(bits_of(k) << 23);
    float r = (n * 0x1.62e4p-1f - x) + n * 0x1.7f7d1cp-20f, r2 = r * r;
    float rest = (EXP_F32[0] + EXP_F32[1] * r) + ((EXP_F32[2] + EXP_F32[3] * r) + EXP_F32[4] * r2) * r2;
    float part = scale * (r + r2 * rest);
    float t = copysignf(((1 - scale) - part) / ((1 + scale) + part), v);
    return v != v ? v : t;
}

/* ---- float32 in float64 ---- */

/* r coth(r / 2) in r^2, in a unit that makes the last coefficient -1: the first two, the unit; exp within 2^-31.57 */
static const double COTH[3] = {
    2.8067563229243227e-1, 1.1876045945438746, 1.4033781526956662e-1};

/* exp(-unit x) = top / bottom */
typedef struct { double top, bottom; } quotient;

static inline quotient exp_quotient(double x, double unit)
{
    double k = x * (-LOG2E * unit) + MAGIC_F64;
    double r = (MAGIC_F64 - k) * (LN2 * COTH[2]) - x * (COTH[2] * unit), r2 = r * r;
    double even = COTH[0] + r2 * (COTH[1] - r2);
    quotient e = {float64_of(bits_of_f64(k) << 52) * (even + r), even - r};
    return e;
}

/* Phi(-u) exp(u^2 / 2) = top / bottom for u < 14.5, within 2^-26.91 */
static const double MILLS_TOP[5] = {
    4.7212530408449680e+1, 4.1641728255570583e+1, 1.7496203993581446e+1, 3.9035875665396528,
    3.9894623896172925e-1};

/* and 1 */
static const double MILLS_BOTTOM[5] = {
    9.4425060065849256e+1, 1.5862380557658573e+2, 1.1434279688302238e+2, 4.4843511540996999e+1,
    9.7853892517243353};

/* Phi(-u) exp(u^2 / 2) */
static inline quotient mills_quotient(double u, double u2)
{
    quotient m = {(MILLS_TOP[0] + MILLS_TOP[1] * u) + ((MILLS_TOP[2] + MILLS_TOP[3] * u) + MILLS_TOP[4] * u2) * u2,
                  (MILLS_BOTTOM[0] + MILLS_BOTTOM[1] * u)
                      + ((MILLS_BOTTOM[2] + MILLS_BOTTOM[3] * u) + (MILLS_BOTTOM[4] + u) * u2) * u2};
    return m;
}

/* f'(-u) of f(v) = v / (1 + exp(-z(v))), where y = u z'(u): with e = exp(-z), it is e (1 + e - y) / (1 + e)^2. */
static inline float gated_slope_f32(double z, double y)
{
    quotient e = exp_quotient(z, 1);
    double sum = e.top + e.bottom;
    return (float)(e.top * (sum - y * e.bottom) / (sum * sum));
}

static inline float sigmoid_slope_of_f32(float v)
{
    quotient e = exp_quotient(fabsf(v), 1);
    double sum = e.top + e.bottom;
    float slope = (float)(e.top * e.bottom / (sum * sum));
    slope = fabsf(v) > 110 ? 0 : slope;
    return v != v ? v : slope;
}

static inline float silu_slope_of_f32(float v)
{
    double u = fabsf(v);
    return share_f32(v, gated_slope_f32(u, u), 110);
}

static inline float gelu_of_f32(float v)
{
    double u = fabsf(v), u2 = u * u;
    quotient e = exp_quotient(u2, 0.5), m = mills_quotient(u, u2);
    return value_f32(v, (float)((u * m.top) * e.top / (m.bottom * e.bottom)), 14.5f);
}

static inline float gelu_slope_of_f32(float v)
{
    double u = fabsf(v), u2 = u * u;
    quotient e = exp_quotient(u2, 0.5), m = mills_quotient(u, u2);
    return share_f32(v, (float)(e.top * (m.top - DENSITY * u * m.bottom) / (e.bottom * m.bottom)), 14.5f);
}

static inline float gelu_tanh_of_f32(float v)
{
    double u = fabsf(v);
    quotient e = exp_quotient(u + CUBE * u * (u * u), SQRT_8_OVER_PI);
    return value_f32(v, (float)(u * e.top / (e.top + e.bottom)), 12);
}

static inline float gelu_tanh_slope_of_f32(float v)
{
    double u = fabsf(v), a = SQRT_8_OVER_PI * u, b = a * (CUBE * (u * u));
    return share_f32(v, gated_slope_f32(a + b, a + 3 * b), 12);
}

/* ---- float64 in pairs: head + tail, the tail at most 2^-24 of the head ---- */

typedef struct { double head, tail; } pair;

/* The first 26 bits: the product of two such is exact. */
static inline double upper(double x) { return float64_of(bits_of_f64(x) & ~(((uint64_t)1 << 27) - 1)); }

static inline pair pair_of(double head, double tail) { pair p = {head, tail}; return p; }
static inline pair scaled(pair a, double power_of_2) { return pair_of(a.head * power_of_2, a.tail * power_of_2); }

static inline pair plus(pair a, pair b)
{
    double sum = a.head + b.head, of_b = sum - a.head;
    return pair_of(sum, ((a.head - (sum - of_b)) + (b.head - of_b)) + (a.tail + b.tail));
}

static inline pair times(pair a, pair b)
{
    double a1 = upper(a.head), a2 = (a.head - a1) + a.tail;
    double b1 = upper(b.head), b2 = (b.head - b1) + b.tail;
    return pair_of(a1 * b1, a1 * b2 + a2 * (b1 + b2));
}

static inline pair over(pair a, pair b)
{
    double b1 = upper(b.head), b2 = (b.head - b1) + b.tail;
    double inverse = 1 / (b1 + b2), first = upper(a.head * inverse);
    return pair_of(first, (((a.head - first * b1) - first * b2) + a.tail) * inverse);
}

/* (exp(r) - 1 - r) / r^2 for |r| < ln(2) / 2; exp within 2^-57.7 */
static const double EXP_F64[10] = {
    5.0000000000000133e-1, 1.6666666666666618e-1, 4.1666666666511263e-2, 8.3333333333608492e-3,
    1.3888888947988481e-3, 1.9841269799232307e-4, 2.4801489009013213e-5, 2.7557322960378877e-6,
    2.7631596069130400e-7, 2.5083876172361425e-8};

/* exp(-x) = 2^-n (1 + r + rest), of which r comes as the head and rest as the tail; n is MAGIC_F64 - k */
static inline pair reduced(pair x, double *k)
{
    *k = x.head * -LOG2E + MAGIC_F64;
    double n = MAGIC_F64 - *k;
    double a = n * 0x1.62e42fefa38p-1 - x.head, b = n * 0x1.ef35793c7673p-45 - x.tail; /* ln(2) in two parts */
    double r = a + b, low = (a - r) + b, r2 = r * r;
    double rest = cubic(EXP_F64 + 4, r, r2) + (EXP_F64[8] + EXP_F64[9] * r) * (r2 * r2);
    return pair_of(r, low + r2 * (cubic(EXP_F64, r, r2) + rest * (r2 * r2)));
}

/* exp(-x) divided by `scale`, which is 2^-512 where it would be subnormal. */
static inline pair exp_pair(pair x, double *scale)
{
    double k;
    pair p = reduced(x, &k);
    double one = 1 + p.head, tail = ((1 - one) + p.head) + p.tail, head = one + tail;
    int far = MAGIC_F64 - k > 500;
    *scale = far ? 0x1p-512 : 1.0;
    return scaled(pair_of(head, (one - head) + tail), float64_of((bits_of_f64(k) + (far ? 512u : 0u)) << 52));
}

/* Phi(-u) exp(u^2 / 2) (u + 1.25) in (u - 5) / (u + 5) for u < 39, within 2^-61.79 */
static const double MILLS_F64[25] = {
    4.8074565609378935e-1, -1.2741667065001192e-1, 6.0047571397463718e-2, -1.0218616930813889e-2,
    -1.4437204895227950e-2, 1.8683488122112660e-2, -1.2922572765546909e-2, 5.9272895734180973e-3,
    -1.6211846539928968e-3, 4.1360850656310065e-5, 1.6722724291662488e-4, -5.3367468881106488e-5,
    -8.2348990399065636e-6, 8.7430122577925268e-6, -2.3926047447807138e-7, -1.2481675803206540e-6,
    1.4718365976846118e-7, 1.8876683942026630e-7, -2.8720541937129593e-8, -3.1677575843433247e-8,
    3.4971046755664216e-9, 5.4392705376983357e-9, 1.2294089250819962e-10, -6.7042406294668556e-10,
    -1.4378327604586680e-10};

static inline pair mills_pair(double u)
{
    const double *c = MILLS_F64;
    double t = (u - 5) / (u + 5), t2 = t * t, t4 = t2 * t2;
    double rest = cubic(c + 17, t, t2) + t4 * cubic(c + 21, t, t2);
    rest = t * (cubic(c + 1, t, t2) + t4 * (cubic(c + 5, t, t2) + t4 * (cubic(c + 9, t, t2) + t4 * (cubic(c + 13, t, t2) + t4 * rest))));
    double head = c[0] + rest;
    return over(pair_of(head, (c[0] - head) + rest), plus(pair_of(u, 0), pair_of(1.25, 0)));
}

static inline double rounded(pair a, double scale) { return (a.head + a.tail) * scale; }

/* u / (1 + exp(z)) */
static inline double gated(double u, pair z)
{
    double scale;
    pair e = exp_pair(z, &scale);
    return rounded(over(times(pair_of(u, 0), e), plus(pair_of(1, 0), scaled(e, scale))), scale);
}

/* As gated_slope_f32. */
static inline double gated_slope(pair z, pair y)
{
    double scale;
    pair e = exp_pair(z, &scale), sum = plus(pair_of(1, 0), scaled(e, scale));
    return rounded(over(times(e, plus(sum, scaled(y, -1))), times(sum, sum)), scale);
}

/* The two terms of z = sqrt(8 / pi) (u + 0.044715 u^3) */
static inline pair linear_term(double u) { return times(pair_of(u, 0), pair_of(SQRT_8_OVER_PI, -0x1.cbc0d30ebfd15p-54)); }

static inline pair cubic_term(double u)
{
    pair square = times(pair_of(u, 0), pair_of(u, 0));
    return times(times(square, pair_of(u, 0)), pair_of(0x1.2444f2a4d8b4bp-4, -0x1.6c843a29d1c70p-61));
}

static inline double sigmoid_of_f64(double v) { return share_f64(v, gated(1, pair_of(fabs(v), 0)), 800); }

static inline double sigmoid_slope_of_f64(double v)
{
    double scale;
    pair e = exp_pair(pair_of(fabs(v), 0), &scale), sum = plus(pair_of(1, 0), scaled(e, scale));
    double slope = rounded(over(e, times(sum, sum)), scale);
    slope = fabs(v) > 800 ? 0 : slope;
    return v != v ? v : slope;
}

static inline double silu_of_f64(double v) { return value_f64(v, gated(fabs(v), pair_of(fabs(v), 0)), 800); }

static inline double silu_slope_of_f64(double v)
{
    pair u = pair_of(fabs(v), 0);
    return share_f64(v, gated_slope(u, u), 800);
}

static inline double gelu_of_f64(double v)
{
    double scale;
    pair u = pair_of(fabs(v), 0), e = exp_pair(scaled(times(u, u), 0.5), &scale);
    return value_f64(v, rounded(times(times(u, mills_pair(u.head)), e), scale), 39);
}

static inline double gelu_slope_of_f64(double v)
{
    double scale;
    pair u = pair_of(fabs(v), 0), e = exp_pair(scaled(times(u, u), 0.5), &scale);
    pair density = times(u, pair_of(0x1.9884533d43651p-2, -0x1.cbc0d30ebfd15p-56));
    return share_f64(v, rounded(times(e, plus(mills_pair(u.head), scaled(density, -1))), scale), 39);
}

static inline double gelu_tanh_of_f64(double v)
{
    double u = fabs(v);
    return value_f64(v, gated(u, plus(linear_term(u), cubic_term(u))), 24);
}

static inline double gelu_tanh_slope_of_f64(double v)
{
    pair cube = cubic_term(fabs(v)), z = plus(linear_term(fabs(v)), cube);
    return share_f64(v, gated_slope(z, plus(z, scaled(cube, 2))), 24);
}

static inline double tanh_of_f64(double v)
{
    double u = fabs(v), k;
    pair p = reduced(pair_of(2 * (u < 20 ? u : 20), 0), &k);
    double q = p.head + p.tail, scale = float64_of(bits_of_f64(k) << 52);
    pair part = scaled(pair_of(q, (p.head - q) + p.tail), scale);
    pair top = plus(plus(pair_of(1, 0), pair_of(-scale, 0)), scaled(part, -1)), bottom = plus(plus(pair_of(1, 0), pair_of(scale, 0)), part);
    double t = copysign(rounded(over(top, bottom), 1), v);
    return v != v ? v : t;
}

/* ---- on arrays: LANES at a time, and those at the end in a room of that size ---- */

#define ON_ARRAYS(name, type, of_one)                                   \
    static inline void name(type *v, ptrdiff_t n)                       \
    {                                                                   \
        for (; n > 0; v += LANES, n -= LANES) {                         \
            type room[LANES], *p = v;                                   \
            if (n < LANES) {                                            \
                memset(room, 0, sizeof room);                           \
                p = (type *)memcpy(room, v, (size_t)n * sizeof(type));  \
            }                                                           \
            for (int l = 0; l < LANES; l++) p[l] = of_one(p[l]);        \
            if (n < LANES) memcpy(v, room, (size_t)n * sizeof(type));   \
        }                                                               \
    }

ON_ARRAYS(tanh_f32, float, tanh_of_f32)
ON_ARRAYS(tanh_f64, double, tanh_of_f64)
ON_ARRAYS(sigmoid_f32, float, sigmoid_of_f32)
ON_ARRAYS(silu_f32, float, silu_of_f32)
ON_ARRAYS(gelu_f32, float, gelu_of_f32)
ON_ARRAYS(gelu_tanh_f32, float, gelu_tanh_of_f32)
ON_ARRAYS(sigmoid_slope_f32, float, sigmoid_slope_of_f32)
ON_ARRAYS(silu_slope_f32, float, silu_slope_of_f32)
ON_ARRAYS(gelu_slope_f32, float, gelu_slope_of_f32)
ON_ARRAYS(gelu_tanh_slope_f32, float, gelu_tanh_slope_of_f32)
ON_ARRAYS(sigmoid_f64, double, sigmoid_of_f64)
ON_ARRAYS(silu_f64, double, silu_of_f64)
ON_ARRAYS(gelu_f64, double, gelu_of_f64)
ON_ARRAYS(gelu_tanh_f64, double, gelu_tanh_of_f64)
ON_ARRAYS(sigmoid_slope_f64, double, sigmoid_slope_of_f64)
ON_ARRAYS(silu_slope_f64, double, silu_slope_of_f64)
ON_ARRAYS(gelu_slope_f64, double, gelu_slope_of_f64)
ON_ARRAYS(gelu_tanh_slope_f64, double, gelu_tanh_slope_of_f64)

#endif
