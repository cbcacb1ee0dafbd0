// The mathematics of the kernels, for both compilers: the same operations in the same order, with
// every fused multiply-add written out, so that a GPU and a CPU agree to the last bit.
// Polynomials are minimax approximations; after each stands its largest error.

#pragma once

#ifdef __CUDACC__
#define SHARED static __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#else
#include <cmath>
#include <cstring>
#define SHARED static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// Arrays that a kernel works on one after the other, by value: a row has the addresses of up to five
// arrays of n floats each.
struct Table {
    i64 rows;
    struct {
        float* at[5];
        i64 n;
    } row[64];
};

#ifdef __CUDACC__
SHARED float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
SHARED double multiply_add(double a, double b, double c) { return fma(a, b, c); }
SHARED float square_root(float x) { return sqrtf(x); }
SHARED double square_root(double x) { return sqrt(x); }
SHARED i32 bits_of(float x) { return __float_as_int(x); }
SHARED float float_of(i32 bits) { return __int_as_float(bits); }
SHARED i64 bits_of(double x) { return __double_as_longlong(x); }
SHARED double double_of(i64 bits) { return __longlong_as_double(bits); }
SHARED float magnitude(float x) { return fabsf(x); }
#else
SHARED float magnitude(float x) { return __builtin_fabsf(x); }
SHARED float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
SHARED double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
SHARED float square_root(float x) { return __builtin_sqrtf(x); }
SHARED double square_root(double x) { return __builtin_sqrt(x); }
template <class To, class From>
SHARED To same_bits(From x) {
    To y;
    static_assert(sizeof x == sizeof y, "");
    memcpy(&y, &x, sizeof y);
    return y;
}
SHARED i32 bits_of(float x) { return same_bits<i32>(x); }
SHARED float float_of(i32 bits) { return same_bits<float>(bits); }
SHARED i64 bits_of(double x) { return same_bits<i64>(x); }
SHARED double double_of(i64 bits) { return same_bits<double>(bits); }
#endif

// -- what the hardware does in fewer instructions than the compiler ---------------------------------
#ifdef __CUDA_ARCH__
// Left to itself, the compiler adds a zero to every high half.
SHARED u64 product(u32 a, u32 b) {
    u64 p;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(p) : "r"(a), "r"(b));
    return p;
}

// The square root of 0, or of a number far from overflow: as sqrtf but without its branch, the
// hardware's estimate and the step that makes it correctly rounded.
SHARED float fast_square_root(float x) {
    float estimate;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(estimate) : "f"(x));
    estimate = fminf(estimate, 0x1p100f);  // finite for 0
    const float y = x * estimate;
    return multiply_add(multiply_add(-y, y, x), 0.5f * estimate, y);
}
#else
SHARED u64 product(u32 a, u32 b) { return (u64)a * b; }
SHARED float fast_square_root(float x) { return square_root(x); }
#endif

// x, or -x if bit 31 of `bits` is set.
SHARED float signed_by(float x, u32 bits) { return float_of(bits_of(x) ^ (i32)(bits & 0x80000000u)); }
SHARED double signed_by(double x, u32 bits) {
    return double_of(bits_of(x) ^ (i64)((u64)(bits & 0x80000000u) << 32));
}

// -- logarithm, for normal numbers above 0 -------------------------------------------------------
// x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); f is exact, so x near 1 loses nothing.
SHARED float logarithm(float x) {
    const i32 e = (bits_of(x) - 0x3F3504F3) >> 23;
    const float f = float_of(bits_of(x) - (i32)((u32)e << 23)) - 1.0f;
    float p = -0.0763449669f;  // log(1 + f) = f - f^2/2 + f^3 p, 6e-9
    p = multiply_add(p, f, 0.127615765f);
    p = multiply_add(p, f, -0.131601825f);
    p = multiply_add(p, f, 0.142017573f);
    p = multiply_add(p, f, -0.166233569f);
    p = multiply_add(p, f, 0.200012267f);
    p = multiply_add(p, f, -0.250008196f);
    p = multiply_add(p, f, 0.333333313f);
    p = multiply_add(p, f, -0.5f);
    return multiply_add((float)e, 0.693147182f, multiply_add(f * f, p, f));
}

SHARED double logarithm(double x) {
    const u64 above = (u64)(bits_of(x) - 0x3FE6A09E667F3BCDLL);
    const i32 e = (i32)(above >> 32) >> 20;  // AVX2 shifts signed numbers of 32 bits, not of 64
    const double f = double_of(bits_of(x) - (i64)(above & 0xFFF0000000000000ull)) - 1.0;
    const double s = f / (2.0 + f), z = s * s;  // log(1 + f) = 2 atanh(s) = 2 s + s^3 p
    double p = 0.147959459539238483;            // 2e-18
    p = multiply_add(p, z, 0.15314050916391637);
    p = multiply_add(p, z, 0.181835643123497586);
    p = multiply_add(p, z, 0.22222198573439181);
    p = multiply_add(p, z, 0.285714287423852528);
    p = multiply_add(p, z, 0.399999999994146885);
    p = multiply_add(p, z, 0.666666666666673441);
    // 2 s = f - s f exactly; log 2 in two parts, the first with trailing zeros.
    const double n = (double)e;
    const double tail = multiply_add(s, z * p - f, n * 1.90821492927058770002e-10);
    return multiply_add(n, 6.93147180369123816490e-01, f + tail);
}

// -- sine and cosine, for |x| <= pi/4 ------------------------------------------------------------
SHARED float sine(float x) {
    const float z = x * x;
    float p = -0.000195172994f;  // sin x = x + x^3 p, 4e-9
    p = multiply_add(p, z, 0.008332178f);
    p = multiply_add(p, z, -0.166666552f);
    return multiply_add(x * z, p, x);
}

SHARED float cosine(float x) {
    const float z = x * x;
    float p = 2.44384519e-05f;  // cos x = 1 - x^2/2 + x^4 p, 1e-10
    p = multiply_add(p, z, -0.00138873677f);
    p = multiply_add(p, z, 0.0416666456f);
    p = multiply_add(p, z, -0.5f);
    return multiply_add(p, z, 1.0f);
}

SHARED double sine(double x) {
    const double z = x * x;
    double p = 1.58968281813190791e-10;  // 3e-18
    p = multiply_add(p, z, -2.50507586581574122e-8);
    p = multiply_add(p, z, 2.75573136952621376e-6);
    p = multiply_add(p, z, -0.000198412698298170715);
    p = multiply_add(p, z, 0.00833333333332242472);
    p = multiply_add(p, z, -0.166666666666666321);
    return multiply_add(x * z, p, x);
}

SHARED double cosine(double x) {
    const double z = x * x;
    double p = -1.1359670867176146e-11;  // 5e-20
    p = multiply_add(p, z, 2.08757237053721381e-9);
    p = multiply_add(p, z, -2.75573143554110954e-7);
    p = multiply_add(p, z, 0.0000248015872894924824);
    p = multiply_add(p, z, -0.00138888888888741398);
    p = multiply_add(p, z, 0.0416666666666665996);
    return multiply_add(z * z, p, multiply_add(-0.5, z, 1.0));
}

// -- exponentials --------------------------------------------------------------------------------
// e^x = 2^n e^r with |r| <= ln(2)/2: e^r, and n.
struct Exponent {
    float mantissa;
    i32 n;
};

SHARED Exponent exponent(float x) {
    const float shifted = multiply_add(x, 1.44269504f, 12582912.0f);  // n in the low bits
    const float n = shifted - 12582912.0f;
    const float r = multiply_add(n, 2.12194440e-4f, multiply_add(n, -0.693359375f, x));
    float p = 0.00139504788f;  // e^r = 1 + r + r^2 p, 3e-9
    p = multiply_add(p, r, 0.00836888235f);
    p = multiply_add(p, r, 0.041666206f);
    p = multiply_add(p, r, 0.166665196f);
    p = multiply_add(p, r, 0.5f);
    return Exponent{multiply_add(p * r, r, r) + 1.0f, bits_of(shifted) - 0x4B400000};
}

SHARED float power_of_two(i32 n) { return float_of((i32)((u32)(n + 127) << 23)); }

// x within [low, high]; a NaN stays.
SHARED float bounded(float x, float low, float high) {
    x = high < x ? high : x;
    return low > x ? low : x;
}

// Overflows to infinity, underflows through the subnormals to 0: 2^n itself may not be a float.
SHARED float exponential(float x) {
    const Exponent e = exponent(bounded(x, -104.0f, 89.0f));
    const i32 half = e.n >> 1;
    return e.mantissa * power_of_two(half) * power_of_two(e.n - half);
}

// For activations: beyond |x| = 87 it stays what it is there, 1.6e-38 or its inverse.
SHARED float bounded_exponential(float x) {
    const Exponent e = exponent(bounded(x, -87.0f, 87.0f));
    return e.mantissa * power_of_two(e.n);
}

// e^x - 1 - x, accurate near 0.
SHARED float excess(float x) {
    float p = 2.48915258e-05f;  // x^2 p for |x| <= 0.75, 1e-8
    p = multiply_add(p, x, 0.00020113161f);
    p = multiply_add(p, x, 0.00138896576f);
    p = multiply_add(p, x, 0.00833257195f);
    p = multiply_add(p, x, 0.0416666381f);
    p = multiply_add(p, x, 0.166666716f);
    p = multiply_add(p, x, 0.5f);
    const float far = exponential(x) - 1.0f - x;
    return magnitude(x) < 0.75f ? x * x * p : far;
}

SHARED float hyperbolic_tangent(float x) {
    const float z = x * x;
    float p = -0.00571704516f;  // x + x^3 p for |x| <= 0.625, 4e-9
    p = multiply_add(p, z, 0.020650588f);
    p = multiply_add(p, z, -0.0537434965f);
    p = multiply_add(p, z, 0.133314908f);
    p = multiply_add(p, z, -0.333332837f);
    const float e = bounded_exponential(-2.0f * x), far = (1.0f - e) / (1.0f + e);
    return magnitude(x) < 0.625f ? multiply_add(x * z, p, x) : far;
}

// sigmoid(x) and sigmoid(-x) = 1 - sigmoid(x), which subtraction would spoil.
struct Logistic {
    float value, complement;
};

SHARED Logistic logistic_pair(float x) {
    const float e = bounded_exponential(-x), value = 1.0f / (1.0f + e);
    return Logistic{value, e * value};
}

SHARED float logistic(float x) { return logistic_pair(x).value; }

// log(1 + e^x), without overflow. With e = e^-|x|, log(1 + e) is the logarithm of the rounded sum
// and what the rounding took.
SHARED float softplus(float x) {
    const float e = bounded_exponential(-magnitude(x)), sum = 1.0f + e;
    return (x <= 0.0f ? 0.0f : x) + (logarithm(sum) + (e - (sum - 1.0f)) / sum);
}

// -- the standard normal -------------------------------------------------------------------------
// Its density and its distribution function, both accurate relative to themselves in the left tail.
// Beyond |x| = 12.9 they stay what they are there: what is subnormal a GPU flushes.
constexpr float TAIL = 12.9f;
struct Gaussian {
    float density, cumulative;
};

SHARED Gaussian gaussian(float x) {
    const float a = bounded(magnitude(x), 0.0f, TAIL);
    const float square = a * a, rest = multiply_add(a, a, -square);  // a^2 in two parts
    const float coarse = bounded_exponential(-0.5f * square);
    const float e = multiply_add(coarse, -0.5f * rest, coarse);
    const float t = 1.0f / multiply_add(0.35f, a, 1.0f);
    float p = -0.029157877f;  // the probability below -a is e^(-a^2/2) t p, 3e-8
    p = multiply_add(p, t, 0.144030884f);
    p = multiply_add(p, t, -0.255838931f);
    p = multiply_add(p, t, 0.159319609f);
    p = multiply_add(p, t, -0.0232122932f);
    p = multiply_add(p, t, 0.10555248f);
    p = multiply_add(p, t, 0.119821295f);
    p = multiply_add(p, t, 0.139863521f);
    p = multiply_add(p, t, 0.139621302f);
    const float tail = e * (t * p);
    return Gaussian{0.398942280f * e, x > 0.0f ? 1.0f - tail : tail};
}
