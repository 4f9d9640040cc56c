/* What Cython cannot say: the 16-bit storage types, loads and stores of a part of the lanes,
   streaming stores. Every function gives the same bits at each ISA level. */
#ifndef NORMLIB_STORAGE_H
#define NORMLIB_STORAGE_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define NORMLIB_X86 1
#endif
#if defined(__AVX512BW__) && defined(__GNUC__)
#include <cpuid.h>
#define NORMLIB_ASK_BF16 1
#endif

#define LANES 32

typedef struct { uint16_t bits; } half_t;
typedef struct { uint16_t bits; } bf16_t;

static inline uint32_t bits_of(float f) { uint32_t u; memcpy(&u, &f, sizeof u); return u; }
static inline float float_of(uint32_t u) { float f; memcpy(&f, &u, sizeof f); return f; }

/* ---- one element ---- */

/* float64 to float32 with a last bit of 1 where that is not exact: what is rounded to 16 bits from there is rounded once (Boldo, Melquiond 2008). */
static inline float to_odd(double d)
{
    float f = (float)d;
    uint32_t u = bits_of(f);
    if ((double)f == d || f != f)
        return f;
    return float_of((u - ((f < 0 ? -f : f) > (d < 0 ? -d : d))) | 1);
}

static inline float widen_bf16(bf16_t h) { return float_of((uint32_t)h.bits << 16); }

/* To nearest, ties to even; NaN stays NaN (made quiet). */
static inline bf16_t narrow_bf16(float f)
{
    uint32_t u = bits_of(f);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    uint32_t quiet = (u >> 16) | 0x40u;
    bf16_t h = {(uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
    return h;
}

/* Exponent and fraction move into place and are scaled by 2^112, which also normalises subnormals. */
static inline float widen_half(half_t h)
{
#if defined(__F16C__)
    return _cvtsh_ss(h.bits);
#else
    uint32_t magnitude = (uint32_t)(h.bits & 0x7fffu) << 13;
    uint32_t scaled = bits_of(float_of(magnitude) * float_of(0x77800000u));
    uint32_t special = magnitude | 0x7f800000u;
    uint32_t quiet = magnitude > 0x0f800000u ? 0x00400000u : 0u;
    uint32_t u = magnitude >= 0x0f800000u ? special | quiet : scaled;
    return float_of(u | (uint32_t)(h.bits & 0x8000u) << 16);
#endif
}

/* To nearest, ties to even. Below 2^-14 the addition of 0.5 rounds to multiples of 2^-24. */
static inline half_t narrow_half(float f)
{
    uint32_t u = bits_of(f);
    uint32_t magnitude = u & 0x7fffffffu;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    uint32_t r = magnitude < 0x38800000u ? subnormal : normal;
    r = magnitude >= 0x477ff000u ? 0x7c00u : r;
    r = magnitude > 0x7f800000u ? nan : r;
    half_t h = {(uint16_t)(r | ((u >> 16) & 0x8000u))};
    return h;
}

/* ---- all lanes ---- */

/* Whether lanes are widened and narrowed by instructions. Where they are not, it is done once, by way of a panel. */
#if defined(__AVX512BW__) || (defined(__AVX2__) && defined(__F16C__))
#define CONVERTS 1
#else
#define CONVERTS 0
#endif

/* Arrays of lanes stay in registers where every access has the width that the compiler chose for the loops over them. */

static inline void load_bf16(const bf16_t *x, float *t)
{
#if defined(__AVX512BW__)
    for (int l = 0; l < LANES; l += 16)
        _mm512_storeu_si512(t + l, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + l))), 16));
#elif defined(__AVX2__)
    for (int l = 0; l < LANES; l += 8)
        _mm256_storeu_si256((__m256i *)(t + l), _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(x + l))), 16));
#else
    for (int l = 0; l < LANES; l++) t[l] = widen_bf16(x[l]);
#endif
}

#if defined(__AVX512BW__)
/* narrow_bf16, the result in the upper halves. */
static inline __m512i round_bf16(const float *t)
{
    __m512i u = _mm512_loadu_si512(t);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(_mm512_castsi512_ps(u), _mm512_castsi512_ps(u), _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
}

/* The upper halves of 32 values, side by side. */
static inline __m512i upper_halves(__m512i a, __m512i b)
{
    static const uint16_t odd[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                     33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return _mm512_permutex2var_epi16(a, _mm512_loadu_si512(odd), b);
}
#endif

#if defined(__AVX2__) && !defined(__AVX512BW__)
/* narrow_bf16, the result in the lower halves. */
static inline __m256i rounded_bf16(const float *t)
{
    __m256i u = _mm256_loadu_si256((const __m256i *)t), upper = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
    __m256 nan = _mm256_cmp_ps(_mm256_castsi256_ps(u), _mm256_castsi256_ps(u), _CMP_UNORD_Q);
    return _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), _mm256_castps_si256(nan));
}
#endif

#if defined(NORMLIB_ASK_BF16)
static int rounds_bf16; /* whether the processor has AVX512_BF16, which v4 does not ask for */

__attribute__((constructor)) static void ask_bf16(void)
{
    unsigned a = 0, b, c, d;
    rounds_bf16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

static inline void store_bf16(bf16_t *y, const float *t)
{
#if defined(NORMLIB_ASK_BF16)
    /* It rounds as narrow_bf16 does, but takes subnormals for zeros. */
    __m512 a = _mm512_loadu_ps(t), b = _mm512_loadu_ps(t + 16), r;
    if (rounds_bf16 && (_mm512_fpclass_ps_mask(a, 0x20) | _mm512_fpclass_ps_mask(b, 0x20)) == 0) {
        __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(r) : "v"(a), "v"(b));
        _mm512_storeu_ps(y, r);
        return;
    }
#endif
#if defined(__AVX512BW__)
    _mm512_storeu_si512(y, upper_halves(round_bf16(t), round_bf16(t + 16)));
#elif defined(__AVX2__)
    for (int l = 0; l < LANES; l += 16)
        _mm256_storeu_si256((__m256i *)(y + l), _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded_bf16(t + l), rounded_bf16(t + l + 8)), 0xd8));
#else
    for (int l = 0; l < LANES; l++) y[l] = narrow_bf16(t[l]);
#endif
}

static inline void load_half(const half_t *x, float *t)
{
#if defined(__AVX512BW__)
    for (int l = 0; l < LANES; l += 16)
        _mm512_storeu_ps(t + l, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + l))));
#elif defined(__F16C__)
    for (int l = 0; l < LANES; l += 8)
        _mm256_storeu_ps(t + l, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + l))));
#else
    for (int l = 0; l < LANES; l++) t[l] = widen_half(x[l]);
#endif
}

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

static inline void store_half(half_t *y, const float *t)
{
#if defined(__AVX512BW__)
    for (int l = 0; l < LANES; l += 16)
        _mm256_storeu_si256((__m256i *)(y + l), _mm512_cvtps_ph(_mm512_loadu_ps(t + l), NEAREST));
#elif defined(__F16C__)
    for (int l = 0; l < LANES; l += 8)
        _mm_storeu_si128((__m128i *)(y + l), _mm256_cvtps_ph(_mm256_loadu_ps(t + l), NEAREST));
#else
    for (int l = 0; l < LANES; l++) y[l] = narrow_half(t[l]);
#endif
}

/* store_half for what takes the lanes back at once: a load that is wider than the stores before it waits for L1. */
static inline void pack_half(half_t *y, const float *t)
{
#if defined(__AVX512BW__)
    __m256i a = _mm512_cvtps_ph(_mm512_loadu_ps(t), NEAREST), b = _mm512_cvtps_ph(_mm512_loadu_ps(t + 16), NEAREST);
    _mm512_storeu_si512(y, _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));
#elif defined(__F16C__)
    for (int l = 0; l < LANES; l += 16) {
        __m128i a = _mm256_cvtps_ph(_mm256_loadu_ps(t + l), NEAREST), b = _mm256_cvtps_ph(_mm256_loadu_ps(t + l + 8), NEAREST);
        _mm256_storeu_si256((__m256i *)(y + l), _mm256_insertf128_si256(_mm256_castsi128_si256(a), b, 1));
    }
#else
    store_half(y, t);
#endif
}

/* So many bytes, in whole vectors: where they are, or a copy in registers. The compiler, which knows no better, would load vectors
   from the last to the first, and lines that come so take half as long again from L2. */
static inline const void *load_in_order(const void *x, void *t, size_t bytes)
{
#if defined(__GNUC__) && defined(__AVX512F__)
    for (size_t i = 0; i < bytes; i += 64) {
        __m512i v = _mm512_loadu_si512((const char *)x + i);
        __asm__ volatile("" : "+v"(v));
        _mm512_storeu_si512((char *)t + i, v);
    }
    return t;
#else
    (void)t, (void)bytes;
    return x;
#endif
}

/* ---- the first n lanes, 0 <= n < LANES; a load sets the others to zero ---- */

static inline void load_part_f32(const float *x, ptrdiff_t n, float *t)
{
#if defined(__AVX512F__)
    uint32_t mask = ((uint32_t)1 << n) - 1;
    _mm512_storeu_ps(t, _mm512_maskz_loadu_ps((__mmask16)mask, x));
    _mm512_storeu_ps(t + 16, _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + 16));
#elif defined(__AVX2__)
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int l = 0; l < LANES; l += 8)
        _mm256_storeu_ps(t + l, _mm256_maskload_ps(x + l, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - l), lane)));
#else
    for (ptrdiff_t l = 0; l < LANES; l++) t[l] = l < n ? x[l] : 0;
#endif
}

static inline void store_part_f32(float *y, ptrdiff_t n, const float *t)
{
#if defined(__AVX512F__)
    uint32_t mask = ((uint32_t)1 << n) - 1;
    _mm512_mask_storeu_ps(y, (__mmask16)mask, _mm512_loadu_ps(t));
    _mm512_mask_storeu_ps(y + 16, (__mmask16)(mask >> 16), _mm512_loadu_ps(t + 16));
#elif defined(__AVX2__)
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int l = 0; l < LANES; l += 8)
        _mm256_maskstore_ps(y + l, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - l), lane), _mm256_loadu_ps(t + l));
#else
    for (ptrdiff_t l = 0; l < n; l++) y[l] = t[l];
#endif
}

/* memcpy of a short run takes longer to be called than to copy. */
static inline void copy_f32(float *y, const float *x, ptrdiff_t n)
{
#if defined(__AVX512F__)
    ptrdiff_t i = 0;
    if (n > 256) {
        memcpy(y, x, (size_t)n * sizeof *x);
        return;
    }
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(y + i, _mm512_loadu_ps(x + i));
    if (i < n) _mm512_mask_storeu_ps(y + i, (__mmask16)((1u << (n - i)) - 1), _mm512_maskz_loadu_ps((__mmask16)((1u << (n - i)) - 1), x + i));
#else
    memcpy(y, x, (size_t)n * sizeof *x);
#endif
}

static inline void load_part_f64(const double *x, ptrdiff_t n, double *t)
{
#if defined(__AVX512F__)
    uint32_t mask = ((uint32_t)1 << n) - 1;
    for (int l = 0; l < LANES; l += 8) _mm512_storeu_pd(t + l, _mm512_maskz_loadu_pd((__mmask8)(mask >> l), x + l));
#else
    for (ptrdiff_t l = 0; l < LANES; l++) t[l] = 0;
    for (ptrdiff_t l = 0; l < n; l++) t[l] = x[l];
#endif
}

static inline void store_part_f64(double *y, ptrdiff_t n, const double *t)
{
#if defined(__AVX512F__)
    uint32_t mask = ((uint32_t)1 << n) - 1;
    for (int l = 0; l < LANES; l += 8) _mm512_mask_storeu_pd(y + l, (__mmask8)(mask >> l), _mm512_loadu_pd(t + l));
#else
    for (ptrdiff_t l = 0; l < n; l++) y[l] = t[l];
#endif
}

static inline void load_part_16(void *t, const void *x, ptrdiff_t n)
{
#if defined(__AVX512BW__)
    _mm512_storeu_si512(t, _mm512_maskz_loadu_epi16(((__mmask32)1 << n) - 1, x));
#else
    memset(t, 0, LANES * sizeof(uint16_t));
    memcpy(t, x, (size_t)n * sizeof(uint16_t));
#endif
}

static inline void store_part_16(void *y, const void *t, ptrdiff_t n)
{
#if defined(__AVX512BW__)
    _mm512_mask_storeu_epi16(y, ((__mmask32)1 << n) - 1, _mm512_loadu_si512(t));
#else
    memcpy(y, t, (size_t)n * sizeof(uint16_t));
#endif
}

static inline void load_part_bf16(const bf16_t *x, ptrdiff_t n, float *t)
{
    bf16_t part[LANES];
    load_part_16(part, x, n);
    load_bf16(part, t);
}

static inline void store_part_bf16(bf16_t *y, ptrdiff_t n, const float *t)
{
    bf16_t part[LANES];
    store_bf16(part, t);
    store_part_16(y, part, n);
}

static inline void load_part_half(const half_t *x, ptrdiff_t n, float *t)
{
    half_t part[LANES];
    load_part_16(part, x, n);
    load_half(part, t);
}

static inline void store_part_half(half_t *y, ptrdiff_t n, const float *t)
{
    half_t part[LANES];
    pack_half(part, t);
    store_part_16(y, part, n);
}

/* ---- sums of lanes: l + (l + 16) in the working type, then in float64 + 8, + 4, + 2, + 1 ---- */

/* e[l] = (or +=) a[l] + a[l + 8], 16 lanes to 8 */
static inline void fold_f32(const float *a, double *e, int more)
{
#if defined(__AVX512F__)
    __m512 v = _mm512_loadu_ps(a);
    __m512d t = _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
    _mm512_storeu_pd(e, more ? _mm512_add_pd(_mm512_loadu_pd(e), t) : t);
#else
    for (int l = 0; l < 8; l++) e[l] = (double)a[l] + (double)a[l + 8] + (more ? e[l] : 0);
#endif
}

static inline void fold_f64(const double *a, double *e, int more)
{
    for (int l = 0; l < 8; l++) e[l] = a[l] + a[l + 8] + (more ? e[l] : 0);
}

/* 32 lanes: the upper half is added to the lower. Said in vectors, for compilers that pair the lanes on their own take
   vectors across two that were just stored, which wait for L1. */
static inline void fold_all_f32(const float *a, double *e, int more)
{
    float t[16];
#if defined(__AVX512F__)
    _mm512_storeu_ps(t, _mm512_add_ps(_mm512_loadu_ps(a), _mm512_loadu_ps(a + 16)));
#elif defined(__AVX__)
    for (int l = 0; l < 16; l += 8) _mm256_storeu_ps(t + l, _mm256_add_ps(_mm256_loadu_ps(a + l), _mm256_loadu_ps(a + l + 16)));
#else
    for (int l = 0; l < 16; l++) t[l] = a[l] + a[l + 16];
#endif
    fold_f32(t, e, more);
}

static inline void fold_all_f64(const double *a, double *e, int more)
{
    double t[16];
#if defined(__AVX512F__)
    for (int l = 0; l < 16; l += 8) _mm512_storeu_pd(t + l, _mm512_add_pd(_mm512_loadu_pd(a + l), _mm512_loadu_pd(a + l + 16)));
#elif defined(__AVX__)
    for (int l = 0; l < 16; l += 4) _mm256_storeu_pd(t + l, _mm256_add_pd(_mm256_loadu_pd(a + l), _mm256_loadu_pd(a + l + 16)));
#else
    for (int l = 0; l < 16; l++) t[l] = a[l] + a[l + 16];
#endif
    fold_f64(t, e, more);
}

static inline double sum_8(const double *e)
{
#if defined(__AVX512F__)   /* the same tree, on sums that are in a register */
    __m512d v = _mm512_loadu_pd(e);
    __m256d u = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
    __m128d t = _mm_add_pd(_mm256_castpd256_pd128(u), _mm256_extractf128_pd(u, 1));
    return _mm_cvtsd_f64(_mm_add_sd(t, _mm_unpackhi_pd(t, t)));
#else
    return ((e[0] + e[4]) + (e[2] + e[6])) + ((e[1] + e[5]) + (e[3] + e[7]));
#endif
}

/* sum_8 of 8 rows, by transposition in registers: halves change places once and are blended once, for a blend has four units, a
   shuffle two */
static inline void sums_of_8(const double *e, double *s)
{
#if defined(__AVX512F__)
    const __m512i swap = _mm512_setr_epi64(2, 3, 8, 9, 6, 7, 12, 13);
    __m512d t[4], u[2];
    for (int k = 0; k < 4; k++) {
        __m512d a = _mm512_loadu_pd(e + 8 * k), b = _mm512_loadu_pd(e + 8 * k + 32);
        t[k] = _mm512_add_pd(_mm512_mask_blend_pd(0xf0, a, b), _mm512_shuffle_f64x2(a, b, 0x4e));
    }
    for (int k = 0; k < 2; k++)
        u[k] = _mm512_add_pd(_mm512_mask_blend_pd(0xcc, t[k], t[k + 2]), _mm512_permutex2var_pd(t[k], swap, t[k + 2]));
    _mm512_storeu_pd(s, _mm512_add_pd(_mm512_mask_blend_pd(0xaa, u[0], u[1]), _mm512_shuffle_pd(u[0], u[1], 0x55)));
#elif defined(__AVX2__)
    for (int k = 0; k < 8; k += 4) {
        __m256d t[4], u[2];
        for (int j = 0; j < 4; j++)
            t[j] = _mm256_add_pd(_mm256_loadu_pd(e + 8 * (k + j)), _mm256_loadu_pd(e + 8 * (k + j) + 4));
        for (int j = 0; j < 2; j++)
            u[j] = _mm256_add_pd(_mm256_permute2f128_pd(t[2 * j], t[2 * j + 1], 0x20),
                                 _mm256_permute2f128_pd(t[2 * j], t[2 * j + 1], 0x31));
        _mm256_storeu_pd(s + k, _mm256_permute4x64_pd(_mm256_hadd_pd(u[0], u[1]), 0xd8));
    }
#else
    for (int k = 0; k < 8; k++) s[k] = sum_8(e + 8 * k);
#endif
}

/* ---- x - y on the multipliers ----
   The adders are the busier units, and fma(x, 1, -y) rounds once, as x - y does. The compiler, which does not see
   that `one` is 1, does not turn it back. */
#if defined(__GNUC__) && defined(__FMA__)
static inline float one_f32(void) { float one = 1; __asm__("" : "+x"(one)); return one; }
static inline double one_f64(void) { double one = 1; __asm__("" : "+x"(one)); return one; }
static inline float minus_f32(float x, float y, float one) { return __builtin_fmaf(x, one, -y); }
static inline double minus_f64(double x, double y, double one) { return __builtin_fma(x, one, -y); }
#else
static inline float one_f32(void) { return 1; }
static inline double one_f64(void) { return 1; }
static inline float minus_f32(float x, float y, float one) { (void)one; return x - y; }
static inline double minus_f64(double x, double y, double one) { (void)one; return x - y; }
#endif

/* ---- memory ---- */

/* Into L2, where more can be on its way: L1 has some two dozen places for lines that are awaited,
   fewer than memory could deliver in the time that one takes. */
static inline void prefetch(const void *p)
{
#if defined(__GNUC__)
    __builtin_prefetch(p, 0, 2);
#else
    (void)p;
#endif
}

/* All lanes past the caches; y on a 64-byte line. */
static inline void stream_lines(void *y, const void *t, size_t bytes)
{
#if defined(__AVX512F__)
    for (size_t i = 0; i < bytes; i += 64)
        _mm512_stream_si512((__m512i *)((char *)y + i), _mm512_loadu_si512((const char *)t + i));
#elif defined(__AVX__)
    for (size_t i = 0; i < bytes; i += 32)
        _mm256_stream_si256((__m256i *)((char *)y + i), _mm256_loadu_si256((const __m256i *)((const char *)t + i)));
#elif defined(NORMLIB_X86)
    for (size_t i = 0; i < bytes; i += 16)
        _mm_stream_si128((__m128i *)((char *)y + i), _mm_loadu_si128((const __m128i *)((const char *)t + i)));
#else
    memcpy(y, t, bytes);
#endif
}

/* Copy past the caches: whole lines by streaming stores, the ends as usual. */
static inline void stream_copy(void *dst, const void *src, size_t bytes)
{
    if (bytes == 0) return; /* memcpy takes no NULL, not even of 0 bytes */
#if defined(NORMLIB_X86)
    char *y = (char *)dst;
    const char *x = (const char *)src;
    size_t head = (size_t)(-(uintptr_t)y & 63);
    if (head > bytes) head = bytes;
    memcpy(y, x, head);
    y += head, x += head, bytes -= head;
    stream_lines(y, x, bytes & ~(size_t)63);
    y += bytes & ~(size_t)63, x += bytes & ~(size_t)63, bytes &= 63;
    memcpy(y, x, bytes);
#else
    memcpy(dst, src, bytes);
#endif
}

/* Streaming stores are weakly ordered: make them visible before the task is done. */
static inline void stream_fence(void)
{
#if defined(NORMLIB_X86)
    _mm_sfence();
#endif
}

#endif
