/* Element by element, each loop once in the library: a call takes less than a loop of its own in a dozen places would. */
#ifndef NORMLIB_EPILOGUES_H
#define NORMLIB_EPILOGUES_H
#include <stddef.h>

#if defined(__GNUC__)
#define ONCE static __attribute__((noinline, unused))
#else
#define ONCE static
#endif

/* relu where the slope below 0 is 0, else leaky_relu: of v, or of v + add. NaN stays, and relu makes 0 of all that is not above 0.
   through_rectifier: v becomes dy times the slope there. */
#define ELEMENTWISE(name, type)                                                                                                 \
    ONCE void add_##name(const type *a, const type *b, type *to, ptrdiff_t n)                                                   \
    {                                                                                                                           \
        for (ptrdiff_t i = 0; i < n; i++) to[i] = a[i] + b[i];                                                                  \
    }                                                                                                                           \
    static inline type below_##name(type v, type slope) { return slope != 0 ? v * slope : 0; }                                  \
    ONCE void rectify_##name(type *v, const type *add, ptrdiff_t n, type slope)                                                 \
    {                                                                                                                           \
        if (add == NULL)                                                                                                        \
            for (ptrdiff_t i = 0; i < n; i++) v[i] = v[i] <= 0 ? below_##name(v[i], slope) : v[i];                              \
        else                                                                                                                    \
            for (ptrdiff_t i = 0; i < n; i++) {                                                                                 \
                type t = v[i] + add[i];                                                                                         \
                v[i] = t <= 0 ? below_##name(t, slope) : t;                                                                     \
            }                                                                                                                   \
    }                                                                                                                           \
    ONCE void through_rectifier_##name(type *v, const type *add, const type *dy, ptrdiff_t n, type slope)                       \
    {                                                                                                                           \
        if (add == NULL)                                                                                                        \
            for (ptrdiff_t i = 0; i < n; i++) v[i] = v[i] <= 0 ? below_##name(dy[i], slope) : dy[i];                            \
        else                                                                                                                    \
            for (ptrdiff_t i = 0; i < n; i++) v[i] = v[i] + add[i] <= 0 ? below_##name(dy[i], slope) : dy[i];                   \
    }

ELEMENTWISE(f32, float)
ELEMENTWISE(f64, double)

#endif
