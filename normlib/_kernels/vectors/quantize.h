/* Real numbers to int8. Loops that a compiler turns into vectors, with the same bits at each ISA level. */
#ifndef NORMLIB_QUANTIZE_H
#define NORMLIB_QUANTIZE_H
#include "activations.h"

/* The larger of `top` and the largest magnitude of n values, as integers: these are in the order of the numbers, and those of infinity
   and NaN come last. */
static inline int32_t top_f32(const float *v, ptrdiff_t n, int32_t top)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        int32_t u = (int32_t)(bits_of(v[i]) & 0x7fffffffu);
        top = u > top ? u : top;
    }
    return top;
}

static inline int64_t top_f64(const double *v, ptrdiff_t n, int64_t top)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        int64_t u = (int64_t)(bits_of_f64(v[i]) & 0x7fffffffffffffffu);
        top = u > top ? u : top;
    }
    return top;
}

/* v * factor to the nearest integer, ties to even: where 1.5 * 2^23 (2^52) is added, the last bit of the sum stands for 1, and its last
   byte is the integer. The product lies in [-127, 127], or is brought there, among integers, and NaN to 0. */
#define TO_INT8(name, number, integer, bits, shift)                                                                     \
    static inline void to_int8_##name(int8_t *restrict q, const number *restrict v, ptrdiff_t n, number factor)         \
    {                                                                                                                   \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                             \
            number sum = v[i] * factor + shift;                                                                         \
            q[i] = (int8_t)(uint8_t)bits(sum);                                                                          \
        }                                                                                                               \
    }                                                                                                                   \
    static inline void bound_int8_##name(int8_t *restrict q, const number *restrict v, ptrdiff_t n, number factor)      \
    {                                                                                                                   \
        const integer zero = (integer)bits(shift);                                                                      \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                             \
            number t = v[i] * factor;                                                                                   \
            integer k = (integer)bits(t + shift);                                                                       \
            k = k < zero + 127 ? k : zero + 127;                                                                        \
            k = k > zero - 127 ? k : zero - 127;                                                                        \
            q[i] = (int8_t)(uint8_t)(t == t ? k : zero);                                                                \
        }                                                                                                               \
    }

TO_INT8(f32, float, int32_t, bits_of, 0x1.8p23f)
TO_INT8(f64, double, int64_t, bits_of_f64, 0x1.8p52)

#endif
