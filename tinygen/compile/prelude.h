// What the loops of a program are written with, beside the kernels' own mathematics: functions of
// NumPy and SciPy on one element, by their names there. For both compilers.

#ifndef __CUDACC__
#include <math.h>
#endif
#define inf double_of(0x7FF0000000000000LL)
#define nan_ double_of(0x7FF8000000000000LL)

// A number of this run.
union Slot {
    double number;
    u64 whole;
};

// -- functions that the library has for doubles, and the kernels for floats ------------------------
SHARED float exp_of(float x) { return exponential(x); }
SHARED double exp_of(double x) { return exp(x); }
SHARED double expm1_of(double x) { return expm1(x); }
SHARED float expm1_of(float x) {
    const float near = excess(x) + x;
    return x < -20.0f ? -1.0f : x > 100.0f ? x + (float)inf : near;
}
SHARED double tanh_of(double x) { return tanh(x); }
SHARED float tanh_of(float x) { return hyperbolic_tangent(x); }

// The logarithm of any float: `logarithm` is for normal numbers above 0.
SHARED float log_of(float x) {
    const bool tiny = x < 1.17549435e-38f;
    const float y = logarithm(tiny ? x * 8388608.0f : x) - (tiny ? 15.9423847f : 0.0f);
    const float other = x == 0.0f ? -(float)inf : x > 0.0f ? x : (float)nan_;
    return x > 0.0f && x < (float)inf ? y : other;
}
SHARED double log_of(double x) { return log(x); }
SHARED double log1p_of(double x) { return log1p(x); }
SHARED float log1p_of(float x) {
    const float sum = 1.0f + x, rest = (x - (sum - 1.0f)) / sum, y = log_of(sum);
    return sum > 0.0f && sum < (float)inf ? y + rest : y;
}

SHARED float magnitude_of(float x) { return magnitude(x); }
SHARED double magnitude_of(double x) { return fabs(x); }

// The sine of x and a number of quarter turns, to an error of 2e-16. From 2^50 on a double does not hold
// the number of turns, and the library computes.
SHARED double turned_sine(double x, i32 quarters) {
    if (magnitude_of(x) >= 1125899906842624.0) return quarters ? cos(x) : sin(x);
    const double shifted = x * 0.63661977236758134308 + 6755399441055744.0;  // in its low bits, turns
    const double n = shifted - 6755399441055744.0;
    const i32 quarter = (i32)bits_of(shifted) + quarters;
    double r = multiply_add(n, -1.57079632673412561417, x);  // pi / 2 in three parts
    r = multiply_add(n, -6.07710050630396597660e-11, r);
    r = multiply_add(n, -2.02226624879595063154e-21, r);
    const double y = quarter & 1 ? cosine(r) : sine(r);
    return quarter & 2 ? -y : y;
}
SHARED double ndtr_of(double x) { return 0.5 * erfc(x * -0.70710678118654752440); }

// -- elementwise: the names that a program may use, read by emit.py ---------------------------------
// Of any type; of floats and doubles; of truth values. The caller converts the result to its type.
#define ONE(name, y) template <class T> SHARED auto np_##name(T x) { return y; }
#define TWO(name, y) template <class T> SHARED auto np_##name(T a, T b) { return y; }
#define ONE_FLOAT(name, y) ONE(name, y)
#define TWO_FLOATS(name, y) TWO(name, y)
#define ONE_BIT(name, y) ONE(name, y)
#define TWO_BITS(name, y) TWO(name, y)

ONE(copy, x)
ONE(positive, x)
ONE(negative, -x)
ONE(square, x * x)
ONE(logical_not, !x)
TWO(add, a + b)
TWO(subtract, a - b)
TWO(multiply, a * b)
TWO(maximum, a > b || a != a ? a : b)
TWO(minimum, a < b || a != a ? a : b)
TWO(greater, a > b)
TWO(greater_equal, a >= b)
TWO(less, a < b)
TWO(less_equal, a <= b)
TWO(equal, a == b)
TWO(not_equal, a != b)
TWO(logical_and, a && b)
TWO(logical_or, a || b)
TWO_BITS(bitwise_and, a && b)
TWO_BITS(bitwise_or, a || b)
ONE_BIT(invert, !x)
TWO_FLOATS(divide, a / b)
TWO_FLOATS(power, pow(a, b))
ONE_FLOAT(absolute, magnitude_of(x))
ONE_FLOAT(sign, x != x ? x : (T)((x > 0) - (x < 0)))
ONE_FLOAT(rint, rint(x))
ONE_FLOAT(ceil, ceil(x))
ONE_FLOAT(isfinite, x - x == 0)
ONE_FLOAT(isinf, x == x && x - x != 0)
ONE_FLOAT(isnan, x != x)
ONE_FLOAT(sqrt, square_root(x))
ONE_FLOAT(exp, exp_of(x))
ONE_FLOAT(expm1, expm1_of(x))
ONE_FLOAT(log, log_of(x))
ONE_FLOAT(log1p, log1p_of(x))
ONE_FLOAT(sin, turned_sine(x, 0))
ONE_FLOAT(cos, turned_sine(x, 1))
ONE_FLOAT(tanh, tanh_of(x))
ONE_FLOAT(erf, erf((double)x))
ONE_FLOAT(ndtr, ndtr_of(x))
template <class T> SHARED T np_where(bool condition, T a, T b) { return condition ? a : b; }
