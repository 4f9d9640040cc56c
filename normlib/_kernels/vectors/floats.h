/* A vector of float32 as wide as the ISA level has: + - * are the compiler's, with a number for all lanes too; what else is needed
   stands here. Elsewhere the compiler makes vectors of loops over lanes; of chains of tables it does not. */
#ifndef NORMLIB_FLOATS_H
#define NORMLIB_FLOATS_H
#include "storage.h"

#if defined(__AVX512F__) && defined(__GNUC__)
#define VECTOR 16
#elif defined(__AVX2__) && defined(__GNUC__)
#define VECTOR 8
#elif defined(__GNUC__)
#define VECTOR 4
#else
#define VECTOR 1
#endif

#if VECTOR > 1
typedef float floats __attribute__((vector_size(4 * VECTOR)));
typedef uint32_t words __attribute__((vector_size(4 * VECTOR)));
#else
typedef float floats;
typedef uint32_t words;
#endif

static inline floats load_floats(const float *p) { floats v; memcpy(&v, p, sizeof v); return v; }
static inline void store_floats(float *p, floats v) { memcpy(p, &v, sizeof v); }
static inline words as_words(floats v) { words w; memcpy(&w, &v, sizeof w); return w; }
static inline floats as_floats(words w) { floats v; memcpy(&v, &w, sizeof v); return v; }
static inline floats of(float f) { floats v = {0}; return v + f; }
static inline floats magnitude(floats v) { return as_floats(as_words(v) & 0x7fffffffu); }

/* ---- choices: a <= b ? x : y, and for v < 0 ---- */

#if VECTOR == 16
#define AT_MOST(a, b) _mm512_cmp_ps_mask((__m512)(a), (__m512)(b), _CMP_LE_OQ)
#define BELOW(a, b) _mm512_cmp_ps_mask((__m512)(a), (__m512)(b), _CMP_LT_OQ)
typedef __mmask16 choice;
static inline floats choose(choice c, floats x, floats y) { return (floats)_mm512_mask_blend_ps(c, (__m512)y, (__m512)x); }
static inline int all(choice c) { return c == 0xffff; }
#elif VECTOR == 8
#define AT_MOST(a, b) _mm256_cmp_ps((__m256)(a), (__m256)(b), _CMP_LE_OQ)
#define BELOW(a, b) _mm256_cmp_ps((__m256)(a), (__m256)(b), _CMP_LT_OQ)
typedef __m256 choice;
static inline floats choose(choice c, floats x, floats y) { return (floats)_mm256_blendv_ps((__m256)y, (__m256)x, c); }
static inline int all(choice c) { return _mm256_movemask_ps(c) == 0xff; }
#elif VECTOR == 4
#define AT_MOST(a, b) ((words)((a) <= (b)))
#define BELOW(a, b) ((words)((a) < (b)))
typedef words choice;
static inline floats choose(choice c, floats x, floats y) { return as_floats((as_words(x) & c) | (as_words(y) & ~c)); }
static inline int all(choice c) { return (c[0] & c[1] & c[2] & c[3]) != 0; }
#else
#define AT_MOST(a, b) ((a) <= (b))
#define BELOW(a, b) ((a) < (b))
typedef int choice;
static inline floats choose(choice c, floats x, floats y) { return c ? x : y; }
static inline int all(choice c) { return c; }
#endif

/* ---- table[i & 15] ---- */

static inline floats pick(const float *table, words i)
{
#if VECTOR == 16
    return (floats)_mm512_permutexvar_ps((__m512i)i, _mm512_loadu_ps(table));
#elif VECTOR == 8
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)i);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)i);
    return (floats)_mm256_blendv_ps(low, high, (__m256)(i << 28)); /* by bit 3 */
#elif VECTOR == 4
    floats found = {table[i[0] & 15], table[i[1] & 15], table[i[2] & 15], table[i[3] & 15]};
    return found;
#else
    return table[i & 15];
#endif
}

#endif
