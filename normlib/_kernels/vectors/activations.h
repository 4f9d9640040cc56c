/* Activation functions and their slopes, on n neighbouring elements, in place: silu_f32(v, n) and silu_slope_f32(v, n), and so on.

   Within 2 ulps everywhere, subnormal results too; a slope within 2 ulps of the larger of its two terms, which near a zero of the slope
   are larger than it. NaN stays that NaN; at infinity stands the limit, and 0 keeps its sign. All is made of additions, multiplications,
   divisions and choices, without branches, so that each compiler makes vectors of it and the bits are the same everywhere.

   All is written for u = |v|: with w(u) = -f(-u), f(v) is v - w or -w, and f'(v) is 1 - f'(-u) or f'(-u). float32 near 0, where nearly
   all lies that comes from a norm, is computed by polynomials for a piece of the line each; further away in float64, but for silu and
   sigmoid, whose float32 form takes half the time. float64 is computed in pairs of numbers.

   Sources: Tang 1989 and Gal 1986 (pieces that begin where the function is close to a float32); Cody and Waite 1980 (reduction of exp);
   Dekker 1971 and Knuth 1969 (pairs); Shepherd and Laframboise 1981 (the normal distribution in (u - k) / (u + k)).
   tests/scripts/fit_activations.py finds and prints the tables. */
#ifndef NORMLIB_ACTIVATIONS_H
#define NORMLIB_ACTIVATIONS_H
#include "floats.h"
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

/* ---- float32 near 0: 16 pieces ---- */

/* In each table where the pieces begin, then their coefficients, constants first. */

/* f(-u), within 2^-28.64 */
static const float SIGMOID_F32[8][16] = {
    {0.0f, 5.00000596e-1f, 1.00001025f, 1.50000226f, 2.00000024f, 2.50001526f, 3.00000024f, 3.50002193f,
     4.00003195f, 4.50003624f, 5.00002003f, 5.50001955f, 6.00003338f, 6.50000477f, 7.00004005f, 7.50001240f},
    {5.00000000e-1f, 3.77540529e-1f, 2.68939406e-1f, 1.82425186e-1f, 1.19202897e-1f, 7.58571103e-2f, 4.74258624e-2f, 2.93116067e-2f,
     1.79856457e-2f, 1.09865488e-2f, 6.69271778e-3f, 4.07005847e-3f, 2.47254083e-3f, 1.50117511e-3f, 9.11014737e-4f, 5.52771788e-4f},
    {-2.50000000e-1f, -2.35003680e-1f, -1.96611002e-1f, -1.49146244e-1f, -1.04993567e-1f, -7.01028109e-2f, -4.51766513e-2f, -2.84524355e-2f,
     -1.76621620e-2f, -1.08658448e-2f, -6.64792536e-3f, -4.05349303e-3f, -2.46642740e-3f, -1.49892154e-3f, -9.10184812e-4f, -5.52466256e-4f},
    {1.34929623e-8f, 2.87784226e-2f, 4.54290509e-2f, 4.73650880e-2f, 3.99812497e-2f, 2.97336131e-2f, 2.04457883e-2f, 1.33922296e-2f,
     8.51341523e-3f, 5.31354453e-3f, 3.27947014e-3f, 2.01024883e-3f, 1.22711540e-3f, 7.47210521e-4f, 4.54263267e-4f, 2.75927741e-4f},
    {2.08327975e-2f, 1.60594378e-2f, 5.88762807e-3f, -2.61260383e-3f, -6.47523114e-3f, -6.76934607e-3f, -5.48847392e-3f, -3.93259153e-3f,
     -2.63176090e-3f, -1.69289834e-3f, -1.06378971e-3f, -6.59153739e-4f, -4.04986029e-4f, -2.47575139e-4f, -1.50867520e-4f, -9.17710058e-5f},
    {7.76805518e-6f, -4.36465582e-3f, -5.14578959e-3f, -3.11735296e-3f, -8.66144837e-4f, 3.93144524e-4f, 7.79912341e-4f, 7.35068112e-4f,
     5.59111068e-4f, 3.85042484e-4f, 2.51480873e-4f, 1.59367351e-4f, 9.92304704e-5f, 6.11538853e-5f, 3.74390220e-5f, 2.28405133e-5f},
    {-2.13594525e-3f, -1.12597004e-3f, 4.14813083e-4f, 9.88886575e-4f, 7.22323952e-4f, 3.00578657e-4f, 4.22061858e-5f, -5.65318987e-5f,
     -7.43062265e-5f, -6.23935557e-5f, -4.46994381e-5f, -2.97398237e-5f, -1.90939954e-5f, -1.19307533e-5f, -7.40710857e-6f, -4.55188228e-6f},
    {1.69359933e-4f, 5.36401407e-4f, 3.88761749e-4f, 1.09934390e-5f, -1.45553699e-4f, -1.15800067e-4f, -5.29844438e-5f, -1.65565125e-5f,
     9.05237471e-7f, 5.93032792e-6f, 5.68317000e-6f, 4.28543672e-6f, 2.94112829e-6f, 1.82044869e-6f, 1.22420306e-6f, 7.55018618e-7f}};

/* -f(-u), within 2^-27.71 */
static const float SILU_F32[8][16] = {
    {0.0f, 5.00004888e-1f, 1.00000262f, 1.50000668f, 2.00001073f, 2.50000715f, 3.00000548f, 3.50000048f,
     4.00004625f, 4.50002813f, 5.00003529f, 5.50000000f, 6.00003433f, 6.50001764f, 7.00002241f, 7.50000572f},
    {0.0f, 1.88771605e-1f, 2.68941611e-1f, 2.73638010e-1f, 2.38404870e-1f, 1.89644739e-1f, 1.42277136e-1f, 1.02592774e-1f,
     7.19424039e-2f, 4.94401753e-2f, 3.34633179e-2f, 2.23857574e-2f, 1.48353158e-2f, 9.75753926e-3f, 6.37723599e-3f, 4.14581923e-3f},
    {5.00000000e-1f, 2.60036677e-1f, 7.23287016e-2f, -4.12952006e-2f, -9.07847881e-2f, -9.94010493e-2f, -8.81039277e-2f, -7.02733323e-2f,
     -5.26630990e-2f, -3.79103571e-2f, -2.65467446e-2f, -1.82245057e-2f, -1.23260962e-2f, -8.24173540e-3f, -5.46039548e-3f, -3.59075214e-3f},
    {-2.50000000e-1f, -2.20614001e-1f, -1.51182666e-1f, -7.80979246e-2f, -2.50302181e-2f, 4.23135562e-3f, 1.61607601e-2f, 1.84207372e-2f,
     1.63916964e-2f, 1.30453510e-2f, 9.74939484e-3f, 7.00300978e-3f, 4.89630131e-3f, 3.35791730e-3f, 2.26970785e-3f, 1.51700387e-3f},
    {-9.02022776e-8f, 3.68061662e-2f, 5.13155684e-2f, 4.34457175e-2f, 2.70307977e-2f, 1.28102712e-2f, 3.98014253e-3f, -3.71773087e-4f,
     -2.01365678e-3f, -2.30461638e-3f, -2.03949865e-3f, -1.61516410e-3f, -1.20283733e-3f, -8.62034969e-4f, -6.01826468e-4f, -4.12364490e-4f},
    {2.08357181e-2f, 1.38779664e-2f, 7.42234755e-4f, -7.28874980e-3f, -8.20710324e-3f, -5.78601053e-3f, -3.14779370e-3f, -1.36153679e-3f,
     -3.95720155e-4f, 3.99214878e-5f, 1.93708649e-4f, 2.17371329e-4f, 1.90446794e-4f, 1.49918909e-4f, 1.11214569e-4f, 7.95218293e-5f},
    {-2.06898931e-5f, -4.86455066e-3f, -4.69053909e-3f, -1.62945269e-3f, 5.64231945e-4f, 1.13716174e-3f, 9.04602231e-4f, 5.35628700e-4f,
     2.61043577e-4f, 1.05328058e-4f, 2.85021815e-5f, -3.47215109e-6f, -1.48549270e-5f, -1.61128901e-5f, -1.42883400e-5f, -1.11721092e-5f},
    {-2.01990013e-3f, -8.67961673e-4f, 8.00749403e-4f, 1.00550766e-3f, 4.27376654e-4f, 4.87749639e-6f, -1.26636747e-4f, -9.95200971e-5f,
     -6.63093451e-5f, -3.69003174e-5f, -1.70502226e-5f, -6.22746984e-6f, -1.92469247e-6f, -5.34198286e-8f, 1.11655049e-6f, 1.21187884e-6f}};

/* -f(-u), within 2^-26.2 */
static const float GELU_F32[9][16] = {
    {0.0f, 1.00001180f, 1.56155276f, 2.00000215f, 2.37230349f, 2.70157456f, 3.00001407f, 3.27492666f,
     3.53114843f, 3.77201915f, 4.00002909f, 4.21702814f, 4.42444134f, 4.62348890f, 4.81509399f, 5.00004530f},
    {0.0f, 1.58654273e-1f, 9.24387574e-2f, 4.55000810e-2f, 2.09682733e-2f, 9.32205375e-3f, 4.04952606e-3f, 1.73062528e-3f,
     7.30523083e-4f, 3.05404974e-4f, 1.26670318e-4f, 5.21948095e-5f, 2.13904423e-5f, 8.72311193e-6f, 3.54223880e-6f, 1.43293414e-6f},
    {5.00000000e-1f, -8.33183452e-2f, -1.24865539e-1f, -8.52315724e-2f, -4.79174927e-2f, -2.45828647e-2f, -1.19452104e-2f, -5.59754018e-3f,
     -2.55506556e-3f, -1.14332640e-3f, -5.03595162e-4f, -2.18997782e-4f, -9.42402257e-5f, -4.01859106e-5f, -1.70032927e-5f, -7.14539738e-6f},
    {-3.98942769e-1f, -1.20981410e-1f, 2.58403122e-2f, 5.39909713e-2f, 4.33970205e-2f, 2.74905376e-2f, 1.55110015e-2f, 8.16050638e-3f,
     4.09425329e-3f, 1.98445492e-3f, 9.36718134e-4f, 4.32990462e-4f, 1.96782770e-4f, 8.81613669e-5f, 3.90233181e-5f, 1.70937401e-5f},
    {1.47467226e-5f, 1.20986126e-1f, 4.79038879e-2f, 2.87740107e-7f, -1.53985685e-2f, -1.54113285e-2f, -1.10795153e-2f, -6.86631165e-3f,
     -3.89851094e-3f, -2.08702940e-3f, -1.07054762e-3f, -5.31519821e-4f, -2.57193082e-4f, -1.21846228e-4f, -5.67201641e-5f, -2.60123506e-5f},
    {6.63393140e-2f, -2.01522298e-2f, -3.49885412e-2f, -1.79977603e-2f, -3.71122058e-3f, 2.67104246e-3f, 4.06262372e-3f, 3.42577463e-3f,
     2.35278532e-3f, 1.44491915e-3f, 8.25230323e-4f, 4.47542698e-4f, 2.33423008e-4f, 1.18038253e-4f, 5.82147877e-5f, 2.81181274e-5f},
    {7.24155048e-4f, -1.61677022e-2f, 4.40723123e-3f, 8.97993241e-3f, 5.80690289e-3f, 2.09982321e-3f, 1.01732221e-5f, -7.73016247e-4f,
     -8.33527592e-4f, -6.53135648e-4f, -4.36911825e-4f, -2.67229247e-4f, -1.53452347e-4f, -8.41847141e-5f, -4.45165861e-5f, -2.28215558e-5f},
    {-1.17664440e-2f, 5.86564653e-3f, 4.24523233e-3f, -4.16972500e-4f, -1.95777765e-3f, -1.56311039e-3f, -7.80479982e-4f, -2.05992808e-4f,
     7.40953838e-5f, 1.57032977e-4f, 1.47753555e-4f, 1.10488945e-4f, 7.31029722e-5f, 4.48084720e-5f, 2.58514265e-5f, 1.42728213e-5f},
    {2.25669728e-3f, 1.46618381e-3f, -1.51464797e-3f, -8.76408070e-4f, -4.55598463e-4f, 4.84437158e-4f, 1.04737097e-4f, 3.60216131e-4f,
     1.22532674e-5f, 4.79314767e-5f, -2.92224940e-5f, -3.01909440e-5f, -2.40648205e-5f, -1.16227629e-5f, -5.86844044e-6f, -5.05823164e-6f}};

/* -f(-u), within 2^-26.48 */
static const float GELU_TANH_F32[9][16] = {
    {0.0f, 1.00000918f, 1.56155777f, 2.00000453f, 2.37228298f, 2.70156980f, 3.00000858f, 3.27492881f,
     3.53114104f, 3.77201819f, 4.00002956f, 4.21703434f, 4.42445230f, 4.62350273f, 4.81507921f, 5.00001240f},
    {0.0f, 1.58807248e-1f, 9.26373526e-2f, 4.54019159e-2f, 2.05867868e-2f, 8.84894095e-3f, 3.63729266e-3f, 1.43520383e-3f,
     5.44770272e-4f, 1.99193208e-4f, 7.02360412e-5f, 2.39053825e-5f, 7.86215423e-6f, 2.49983418e-6f, 7.69227199e-7f, 2.29160449e-7f},
    {5.00000000e-1f, -8.29663277e-2f, -1.25221431e-1f, -8.60987678e-2f, -4.84742224e-2f, -2.45789476e-2f, -1.15838936e-2f, -5.14461519e-3f,
     -2.16877228e-3f, -8.71699129e-4f, -3.35079618e-4f, -1.23480728e-4f, -4.37153103e-5f, -1.48877316e-5f, -4.88549176e-6f, -1.54623888e-6f},
    {-3.98942798e-1f, -1.21070988e-1f, 2.49165315e-2f, 5.39375544e-2f, 4.41821665e-2f, 2.82844659e-2f, 1.58835296e-2f, 8.14329274e-3f,
     3.88269173e-3f, 1.73939823e-3f, 7.36943097e-4f, 2.96659535e-4f, 1.13885959e-4f, 4.17992014e-5f, 1.47048295e-5f, 4.96669236e-6f},
    {1.55757625e-5f, 1.20288014e-1f, 4.80321757e-2f, 9.55176831e-4f, -1.50046973e-2f, -1.57351196e-2f, -1.16136791e-2f, -7.23985257e-3f,
     -4.03366005e-3f, -2.06016330e-3f, -9.78249242e-4f, -4.35749011e-4f, -1.83259544e-4f, -7.30926477e-5f, -2.77561994e-5f, -1.00625348e-5f},
    {6.66603222e-2f, -2.04106849e-2f, -3.42136137e-2f, -1.80065818e-2f, -4.31740191e-3f, 2.28359853e-3f, 4.08737687e-3f, 3.65203153e-3f,
     2.56656669e-3f, 1.56241830e-3f, 8.56105820e-4f, 4.30785585e-4f, 2.01558709e-4f, 8.84085384e-5f, 3.65837732e-5f, 1.43456627e-5f},
    {7.61672971e-4f, -1.57638974e-2f, 4.37500607e-3f, 8.49893596e-3f, 5.71055431e-3f, 2.37489282e-3f, 2.42671362e-4f, -7.05148443e-4f,
     -8.92040320e-4f, -7.38396542e-4f, -4.98044537e-4f, -2.94919388e-4f, -1.57468196e-4f, -7.73835709e-5f, -3.53852411e-5f, -1.51819213e-5f},
    {-1.20849228e-2f, 6.07106369e-3f, 3.86508391e-3f, -3.70379828e-4f, -1.71468896e-3f, -1.50393543e-3f, -8.71178752e-4f, -3.10775009e-4f,
     2.68335407e-5f, 1.62124372e-4f, 1.74093948e-4f, 1.34396978e-4f, 8.67661947e-5f, 4.95241911e-5f, 2.56537169e-5f, 1.22526289e-5f},
    {2.36746226e-3f, 1.38495199e-3f, -1.44421775e-3f, -9.76816518e-4f, 8.13450697e-6f, 3.17298225e-4f, 8.23529263e-5f, 5.32071645e-5f,
     -3.41882442e-5f, 3.07909286e-5f, -2.38465145e-5f, -1.69152863e-5f, -2.86263585e-5f, -2.20142683e-5f, -1.38131491e-5f, -7.04119384e-6f}};

/* f'(-u), within 2^-28.57 */
static const float SIGMOID_SLOPE_F32[8][16] = {
    {0.0f, 5.00000298e-1f, 1.00001156f, 1.50001085f, 2.00002027f, 2.50002074f, 3.00000358f, 3.50000048f,
     4.00003481f, 4.50003386f, 5.00003195f, 5.50001192f, 6.00003147f, 6.50003767f, 7.00002670f, 7.50002575f},
    {2.50000000e-1f, 2.35003695e-1f, 1.96610883e-1f, 1.49145424e-1f, 1.04991965e-1f, 7.01024830e-2f, 4.51765135e-2f, 2.84530111e-2f,
     1.76621135e-2f, 1.08658699e-2f, 6.64784713e-3f, 4.05352376e-3f, 2.46643205e-3f, 1.49887241e-3f, 9.10196919e-4f, 5.52458863e-4f},
    {-3.56256802e-10f, -5.75568117e-2f, -9.08581540e-2f, -9.47300494e-2f, -7.99617171e-2f, -5.94669953e-2f, -4.08914573e-2f, -2.67849695e-2f,
     -1.70267858e-2f, -1.06271124e-2f, -6.55886391e-3f, -4.02052747e-3f, -2.45423522e-3f, -1.49437238e-3f, -9.08538466e-4f, -5.51848090e-4f},
    {-6.24999739e-2f, -4.81783375e-2f, -1.76621098e-2f, 7.83964619e-3f, 1.94260348e-2f, 2.03081723e-2f, 1.64655074e-2f, 1.17977904e-2f,
     7.89520331e-3f, 5.07873343e-3f, 3.19134165e-3f, 1.97746931e-3f, 1.21496606e-3f, 7.42696284e-4f, 4.52613051e-4f, 2.75313709e-4f},
    {-6.43243993e-7f, 1.74577609e-2f, 2.05840096e-2f, 1.24694351e-2f, 3.46411788e-3f, -1.57346949e-3f, -3.12058441e-3f, -2.93995952e-3f,
     -2.23637954e-3f, -1.54025492e-3f, -1.00593735e-3f, -6.37487392e-4f, -3.96937714e-4f, -2.44584109e-4f, -1.49770203e-4f, -9.13654367e-5f},
    {1.04238475e-2f, 5.64994290e-3f, -2.12554378e-3f, -5.00298291e-3f, -3.61741823e-3f, -1.49972795e-3f, -2.07931109e-4f, 2.88527721e-4f,
     3.73632065e-4f, 3.11582611e-4f, 2.23228853e-4f, 1.48666993e-4f, 9.52458795e-5f, 5.96653117e-5f, 3.68953042e-5f, 2.26420907e-5f},
    {-3.85516578e-5f, -3.20164091e-3f, -2.34883442e-3f, -6.57581259e-5f, 8.74930294e-4f, 7.09660235e-4f, 3.33740667e-4f, 9.40214668e-5f,
     -6.53039524e-6f, -3.42395469e-5f, -3.37059500e-5f, -2.56247058e-5f, -1.74277338e-5f, -1.13359720e-5f, -7.15799024e-6f, -4.44769421e-6f},
    {-1.38960977e-3f, -3.96432617e-4f, 7.60823314e-4f, 5.91701653e-4f, 6.63248939e-5f, -1.23966034e-4f, -1.06651867e-4f, -5.09786914e-5f,
     -1.89718758e-5f, -2.80695031e-6f, 2.08326924e-6f, 3.15288094e-6f, 2.30854971e-6f, 1.65318158e-6f, 1.09418556e-6f, 6.77167634e-7f}};

/* f'(-u), within 2^-27.4 */
static const float SILU_SLOPE_F32[8][16] = {
    {0.0f, 5.00005245e-1f, 1.00001061f, 1.50000966f, 2.00002313f, 2.50001526f, 3.00000644f, 3.50000501f,
     4.00001192f, 4.50000286f, 5.00004292f, 5.50003052f, 6.00000715f, 6.50001383f, 7.00001335f, 7.50002718f},
    {5.00000000e-1f, 2.60036498e-1f, 7.23262802e-2f, -4.12956625e-2f, -9.07854065e-2f, -9.94009823e-2f, -8.81038979e-2f, -7.02731684e-2f,
     -5.26642241e-2f, -3.79110165e-2f, -2.65465956e-2f, -1.82240792e-2f, -1.23263625e-2f, -8.24176148e-3f, -5.46043646e-3f, -3.59068695e-3f},
    {-5.00000000e-1f, -4.41227853e-1f, -3.02362889e-1f, -1.56195074e-1f, -5.00584133e-2f, 8.46333429e-3f, 3.23215611e-2f, 3.68413739e-2f,
     3.27837877e-2f, 2.60910541e-2f, 1.94987003e-2f, 1.40057206e-2f, 9.79280099e-3f, 6.71585556e-3f, 4.53944784e-3f, 3.03395372e-3f},
    {1.06699453e-7f, 1.10425234e-1f, 1.53949484e-1f, 1.30335629e-1f, 8.10898095e-2f, 3.84300388e-2f, 1.19404932e-2f, -1.11486786e-3f,
     -6.04081433e-3f, -6.91381563e-3f, -6.11849176e-3f, -4.84526437e-3f, -3.60853923e-3f, -2.58603902e-3f, -1.80551363e-3f, -1.23708707e-3f},
    {8.33290890e-2f, 5.55064082e-2f, 2.96886312e-3f, -2.91548781e-2f, -3.28293927e-2f, -2.31442768e-2f, -1.25925196e-2f, -5.44060487e-3f,
     -1.58163335e-3f, 1.59483083e-4f, 7.74626387e-4f, 8.69602372e-4f, 7.61643110e-4f, 5.99539664e-4f, 4.44920850e-4f, 3.18154402e-4f},
    {6.16063189e-5f, -2.46474091e-2f, -2.36024968e-2f, -8.08238238e-3f, 2.90555577e-3f, 5.71549265e-3f, 4.52447962e-3f, 2.66425195e-3f,
     1.30146916e-3f, 5.23111317e-4f, 1.41358571e-4f, -2.08631955e-5f, -7.52091655e-5f, -8.20583882e-5f, -7.10530876e-5f, -5.55828010e-5f},
    {-1.29178436e-2f, -5.12424903e-3f, 4.79790242e-3f, 6.02915836e-3f, 2.58271047e-3f, 3.88509325e-5f, -7.39417621e-4f, -6.69777393e-4f,
     -4.18751355e-4f, -2.19525798e-4f, -9.97774987e-5f, -3.81900827e-5f, -9.36028664e-6f, 2.09466589e-6f, 5.67897814e-6f, 6.17267006e-6f},
    {1.34824170e-3f, 3.93325603e-3f, 1.95972482e-3f, -8.10519792e-4f, -1.16076437e-3f, -5.10811864e-4f, -6.82403406e-5f, 7.68009777e-5f,
     7.87205499e-5f, 5.36294938e-5f, 2.80583390e-5f, 1.31546913e-5f, 5.38569520e-6f, 2.06150139e-6f, 6.64501840e-7f, -1.65011301e-7f}};

/* f'(-u), within 2^-27.59 */
static const float GELU_SLOPE_F32[9][16] = {
    {0.0f, 1.00000572f, 1.56156170f, 2.00001502f, 2.37228823f, 2.70157957f, 3.00000811f, 3.27492714f,
     3.53114486f, 3.77200961f, 4.00004292f, 4.21701431f, 4.42443895f, 4.62350941f, 4.81508112f, 5.00004673f},
    {5.00000000e-1f, -8.33168551e-2f, -1.24865077e-1f, -8.52301791e-2f, -4.79188189e-2f, -2.45825890e-2f, -1.19453957e-2f, -5.59753226e-3f,
     -2.55509489e-3f, -1.14336424e-3f, -5.03569259e-4f, -2.19009758e-4f, -9.42411643e-5f, -4.01822945e-5f, -1.70042968e-5f, -7.14534826e-6f},
    {-7.97884881e-1f, -2.41966590e-1f, 5.16828857e-2f, 1.07981935e-1f, 8.67954344e-2f, 5.49806058e-2f, 3.10223997e-2f, 1.63209941e-2f,
     8.18859041e-3f, 3.96902906e-3f, 1.87334744e-3f, 8.66025104e-4f, 3.93569237e-4f, 1.76307731e-4f, 7.80510090e-5f, 3.41872546e-5f},
    {1.19165670e-5f, 3.62954646e-1f, 1.43707782e-1f, -3.24537564e-6f, -4.61939313e-2f, -4.62341048e-2f, -3.32384668e-2f, -2.05990560e-2f,
     -1.16955712e-2f, -6.26127468e-3f, -3.21150082e-3f, -1.59463240e-3f, -7.71585619e-4f, -3.65511427e-4f, -1.70170970e-4f, -7.80370028e-5f},
    {2.65808702e-1f, -8.06569010e-2f, -1.39934376e-1f, -7.19855875e-2f, -1.48439882e-2f, 1.06857419e-2f, 1.62502099e-2f, 1.37028061e-2f,
     9.41108447e-3f, 5.77985914e-3f, 3.30079719e-3f, 1.79021293e-3f, 9.33692965e-4f, 4.72124782e-4f, 2.32877050e-4f, 1.12473885e-4f},
    {9.32984636e-4f, -8.06527883e-2f, 2.20576730e-2f, 4.49920222e-2f, 2.89318915e-2f, 1.05307875e-2f, -2.48447208e-7f, -3.84191191e-3f,
     -4.17942088e-3f, -3.26130586e-3f, -2.18565110e-3f, -1.33652450e-3f, -7.67333899e-4f, -4.20374534e-4f, -2.22129063e-4f, -1.13962189e-4f},
    {-6.28537312e-2f, 3.62504050e-2f, 2.52789780e-2f, -2.68498110e-3f, -1.18851652e-2f, -9.44136456e-3f, -4.66165831e-3f, -1.21500925e-3f,
     4.65643854e-4f, 9.38999059e-4f, 8.86190624e-4f, 6.66393549e-4f, 4.39104420e-4f, 2.68227130e-4f, 1.54026260e-4f, 8.52343364e-5f},
    {5.12575079e-3f, 8.68466496e-3f, -1.10694403e-2f, -7.77753536e-3f, -7.06896360e-4f, 2.45295977e-3f, 2.54485290e-3f, 1.55704445e-3f,
     6.45084481e-4f, 1.00901714e-4f, -1.37997660e-4f, -1.89999337e-4f, -1.64459838e-4f, -1.20371704e-4f, -7.82894203e-5f, -4.78343100e-5f},
    {5.63551765e-3f, -6.72281440e-3f, -1.59926875e-3f, 2.55850796e-3f, 2.60990928e-3f, 3.80170648e-4f, -1.53582485e-4f, -4.87175654e-4f,
     -9.74470284e-4f, -4.54995898e-5f, 7.84566655e-5f, -9.55495780e-5f, 4.84352404e-6f, -3.88513364e-8f, 4.50776351e-5f, 2.06120731e-5f}};

/* f'(-u), within 2^-27.47 */
static const float GELU_TANH_SLOPE_F32[9][16] = {
    {0.0f, 1.00001121f, 1.56155288f, 2.00001931f, 2.37230110f, 2.70157862f, 3.00001478f, 3.27493334f,
     3.53114843f, 3.77200198f, 4.00003958f, 4.21702862f, 4.42444944f, 4.62350559f, 4.81508780f, 5.00002146f},
    {5.00000000e-1f, -8.29667971e-2f, -1.25221670e-1f, -8.60971734e-2f, -4.84726205e-2f, -2.45784484e-2f, -1.15836971e-2f, -5.14454162e-3f,
     -2.16871500e-3f, -8.71755532e-4f, -3.35064862e-4f, -1.23484118e-4f, -4.37159615e-5f, -1.48874924e-5f, -4.88523938e-6f, -1.54614884e-6f},
    {-7.97884881e-1f, -2.42140129e-1f, 4.98316474e-2f, 1.07875191e-1f, 8.83627012e-2f, 5.65680973e-2f, 3.17666307e-2f, 1.62863899e-2f,
     7.76520465e-3f, 3.47899692e-3f, 1.47382740e-3f, 5.93334029e-4f, 2.27775061e-4f, 8.35971441e-5f, 2.94082292e-5f, 9.93283629e-6f},
    {1.21670582e-5f, 3.60857427e-1f, 1.44097060e-1f, 2.86242622e-3f, -4.50154655e-2f, -4.72052433e-2f, -3.48403864e-2f, -2.17191558e-2f,
     -1.21006193e-2f, -6.18079072e-3f, -2.93464051e-3f, -1.30728353e-3f, -5.49786375e-4f, -2.19274953e-4f, -8.32647711e-5f, -3.01861455e-5f},
    {2.67120123e-1f, -8.16854015e-2f, -1.36854529e-1f, -7.20219389e-2f, -1.72668919e-2f, 9.13530216e-3f, 1.63484383e-2f, 1.46076577e-2f,
     1.02660256e-2f, 6.24986039e-3f, 3.42430943e-3f, 1.72317482e-3f, 8.06246186e-4f, 3.53633601e-4f, 1.46330174e-4f, 5.73813995e-5f},
    {9.69500805e-4f, -7.85926580e-2f, 2.19451096e-2f, 4.24867868e-2f, 2.85923164e-2f, 1.18890163e-2f, 1.16577349e-3f, -3.55836959e-3f,
     -4.48457990e-3f, -3.69267887e-3f, -2.49117799e-3f, -1.47290353e-3f, -7.87123805e-4f, -3.86899104e-4f, -1.76936563e-4f, -7.58718379e-5f},
    {-6.43502846e-2f, 3.74727696e-2f, 2.32190229e-2f, -2.35930481e-3f, -1.03454003e-2f, -9.06914845e-3f, -5.14950417e-3f, -1.83455180e-3f,
     1.75444584e-4f, 9.80834244e-4f, 1.04897865e-3f, 8.07470991e-4f, 5.20137139e-4f, 2.96218728e-4f, 1.53514993e-4f, 7.31128239e-5f},
    {5.34955366e-3f, 7.73853902e-3f, -1.09872483e-2f, -6.67006010e-3f, -9.00795858e-4f, 1.77512376e-3f, 2.23878352e-3f, 1.70649320e-3f,
     8.99415405e-4f, 2.45773874e-4f, -1.07883381e-4f, -2.27386219e-4f, -2.15992404e-4f, -1.55241054e-4f, -9.54113639e-5f, -5.22809605e-5f},
    {5.91954961e-3f, -7.35123316e-3f, -8.23035138e-4f, 2.47243885e-3f, 1.13842322e-3f, 1.21203030e-3f, -1.22512644e-3f, -3.81925376e-4f,
     -3.63133062e-4f, -3.35882738e-4f, -2.74280057e-4f, -1.11852954e-4f, 2.46473337e-5f, 6.21568324e-5f, 3.41886553e-5f, 3.04254463e-5f}};

#define DEGREE(pieces) ((int)(sizeof(pieces) / sizeof(pieces)[0]) - 2)

static inline floats in_piece(const float (*pieces)[16], int degree, words piece, floats u)
{
    floats h = u - pick(pieces[0], piece), f = pick(pieces[degree + 1], piece);
    for (int k = degree; k > 0; k--) f = pick(pieces[k], piece) + h * f;
    return f;
}

/* A piece is what rounds to the same multiple of 1/2: adding 3 * 2^21 leaves it in the lowest bits. */
#define HALVES_END 7.5f
static inline words halves(floats u) { return as_words(u + 0x1.8p22f); }

/* A piece is where u^2 + u rounds to the same multiple of 2. */
#define SHRINKING_END 5.0f
static inline words shrinking(floats u) { return as_words((u * u + u) + 0x1.8p24f); }

/* `value` and `share` within the pieces; a w that rounds to 0 leaves the sign of v */
static inline floats value_of(floats v, floats w)
{
    return as_floats(as_words(choose(BELOW(v, of(0)), of(0), v) - w) | (as_words(v) & 0x80000000u));
}

static inline floats share_of(floats v, floats part) { return choose(BELOW(v, of(0)), part, 1.0f - part); }
static inline floats even(floats v, floats part) { return (void)v, part; }

#define PIECES(name, finish, pieces, where)                                                                                     \
    static inline floats name##_near(floats v)                                                                                  \
    {                                                                                                                           \
        floats u = magnitude(v);                                                                                                \
        return finish(v, in_piece(pieces, DEGREE(pieces), where(u), u));                                                        \
    }

PIECES(sigmoid, share_of, SIGMOID_F32, halves)
PIECES(silu, value_of, SILU_F32, halves)
PIECES(gelu, value_of, GELU_F32, shrinking)
PIECES(gelu_tanh, value_of, GELU_TANH_F32, shrinking)
PIECES(sigmoid_slope, even, SIGMOID_SLOPE_F32, halves)
PIECES(silu_slope, share_of, SILU_SLOPE_F32, halves)
PIECES(gelu_slope, share_of, GELU_SLOPE_F32, shrinking)
PIECES(gelu_tanh_slope, share_of, GELU_TANH_SLOPE_F32, shrinking)

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

#define ON_ARRAYS(name, type, on_lanes)                                 \
    static inline void name(type *v, ptrdiff_t n)                       \
    {                                                                   \
        for (; n > 0; v += LANES, n -= LANES) {                         \
            type room[LANES], *p = v;                                   \
            if (n < LANES) {                                            \
                memset(room, 0, sizeof room);                           \
                p = (type *)memcpy(room, v, (size_t)n * sizeof(type));  \
            }                                                           \
            on_lanes                                                    \
            if (n < LANES) memcpy(v, room, (size_t)n * sizeof(type));   \
        }                                                               \
    }

#define EACH(name, type, of_one) ON_ARRAYS(name, type, for (int l = 0; l < LANES; l++) p[l] = of_one(p[l]);)

static inline int all_near(const float *p, float end)
{
    int near = 1;
    for (int l = 0; l < LANES; l += VECTOR) near &= all(AT_MOST(magnitude(load_floats(p + l)), of(end)));
    return near;
}

#if defined(__GNUC__)
#define IN_PAIRS _Pragma("GCC unroll 2")
#else
#define IN_PAIRS
#endif

/* Which lanes lie near decides each for itself; what is far is computed where there is such a one. */
#define NEAR(name, near, end, of_far)                                                                                           \
    ON_ARRAYS(name, float, {                                                                                                    \
        float v[LANES];                                                                                                         \
        int everywhere = all_near(p, end);                                                                                      \
        if (!everywhere) memcpy(v, p, sizeof v);                                                                                \
        IN_PAIRS for (int l = 0; l < LANES; l += VECTOR) store_floats(p + l, near(load_floats(p + l)));                         \
        for (int l = 0; l < (everywhere ? 0 : LANES); l++) p[l] = fabsf(v[l]) <= end ? p[l] : of_far(v[l]);                     \
    })

NEAR(sigmoid_f32, sigmoid_near, HALVES_END, sigmoid_of_f32)
NEAR(silu_f32, silu_near, HALVES_END, silu_of_f32)
NEAR(gelu_f32, gelu_near, SHRINKING_END, gelu_of_f32)
NEAR(gelu_tanh_f32, gelu_tanh_near, SHRINKING_END, gelu_tanh_of_f32)
NEAR(sigmoid_slope_f32, sigmoid_slope_near, HALVES_END, sigmoid_slope_of_f32)
NEAR(silu_slope_f32, silu_slope_near, HALVES_END, silu_slope_of_f32)
NEAR(gelu_slope_f32, gelu_slope_near, SHRINKING_END, gelu_slope_of_f32)
NEAR(gelu_tanh_slope_f32, gelu_tanh_slope_near, SHRINKING_END, gelu_tanh_slope_of_f32)
EACH(tanh_f32, float, tanh_of_f32)
EACH(tanh_f64, double, tanh_of_f64)
EACH(sigmoid_f64, double, sigmoid_of_f64)
EACH(silu_f64, double, silu_of_f64)
EACH(gelu_f64, double, gelu_of_f64)
EACH(gelu_tanh_f64, double, gelu_tanh_of_f64)
EACH(sigmoid_slope_f64, double, sigmoid_slope_of_f64)
EACH(silu_slope_f64, double, silu_slope_of_f64)
EACH(gelu_slope_f64, double, gelu_slope_of_f64)
EACH(gelu_tanh_slope_f64, double, gelu_tanh_slope_of_f64)

#endif
