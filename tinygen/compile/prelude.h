// What the loops of a program are written with, beside the kernels' own mathematics: NumPy's
// functions on one element, products, rows by number.

#include <cfloat>
#define EACH _Pragma("omp simd")

// A number of this run.
union Slot {
    double number;
    u64 whole;
};

// -- elementwise ---------------------------------------------------------------------------------
template <class T> SHARED T larger(T a, T b) { return a > b || a != a ? a : b; }
template <class T> SHARED T smaller(T a, T b) { return a < b || a != a ? a : b; }
template <class T> SHARED T sign_of(T x) { return x != x ? x : (T)((x > 0) - (x < 0)); }
template <class T> SHARED bool finite(T x) { return x - x == 0; }
template <class T> SHARED bool infinite(T x) { return x == x && x - x != 0; }
SHARED float absolute(float x) { return __builtin_fabsf(x); }
SHARED double absolute(double x) { return __builtin_fabs(x); }
SHARED i64 absolute(i64 x) { return x < 0 ? -x : x; }

SHARED float exp_of(float x) { return exponential(x); }
SHARED double exp_of(double x) { return std::exp(x); }
SHARED float expm1_of(float x) {
    const float tail = exponential_less_linear(x) + x;
    return x == x && x - x != 0 ? (x > 0 ? x : -1.0f) : tail;
}
SHARED double expm1_of(double x) { return std::expm1(x); }

// The logarithm of any float: `logarithm` is for normal numbers above 0.
SHARED float log_of(float x) {
    const bool tiny = x < FLT_MIN;
    const float y = logarithm(tiny ? x * 8388608.0f : x) - (tiny ? 15.9423847f : 0.0f);
    const float special = x == 0.0f ? -INFINITY : x > 0.0f ? x : NAN;
    return x > 0.0f && x < INFINITY ? y : special;
}
SHARED double log_of(double x) { return std::log(x); }
SHARED float log1p_of(float x) {
    const float sum = 1.0f + x, rest = (x - (sum - 1.0f)) / sum;
    const float y = log_of(sum);
    return sum > 0.0f && sum < INFINITY ? y + rest : y;
}
SHARED double log1p_of(double x) { return std::log1p(x); }
SHARED float tanh_of(float x) { return hyperbolic_tangent(x); }
SHARED double tanh_of(double x) { return std::tanh(x); }

// The sine of x + quarters quarter turns. Beyond 1e5, or 800 for floats, the library's.
SHARED double turned_sine(double x, i32 quarters) {
    const double shifted = x * 0.63661977236758134308 + 6755399441055744.0;
    const double n = shifted - 6755399441055744.0;
    const i32 quarter = (i32)bits_of(shifted) + quarters;
    double r = fused(n, -1.57079632673412561417, x);
    r = fused(n, -6.07710050630396597660e-11, r);
    r = fused(n, -2.02226624879595063154e-21, r);
    const double y = quarter & 1 ? cosine(r) : sine(r);
    return quarter & 2 ? -y : y;
}
SHARED double sin_of(double x) { return turned_sine(x, 0); }
SHARED double cos_of(double x) { return turned_sine(x, 1); }
SHARED float sin_of(float x) { return (float)turned_sine(x, 0); }
SHARED float cos_of(float x) { return (float)turned_sine(x, 1); }

template <class T> SHARED T power_of(T a, T b) { return std::pow(a, b); }
SHARED float erf_of(float x) { return (float)std::erf((double)x); }
SHARED double erf_of(double x) { return std::erf(x); }
SHARED double ndtr_of(double x) { return 0.5 * std::erfc(x * -0.70710678118654752440); }
SHARED float ndtr_of(float x) { return (float)ndtr_of((double)x); }

// -- products ------------------------------------------------------------------------------------
template <class T>
using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const T*, const T*,
                      const int*, const T*, const int*, const T*, T*, const int*);

// c = a b of row-major matrices, by BLAS, which counts along columns: cT = bT aT.
template <class T>
static void product(void* gemm, int m, int n, int k, const T* a, int a_row, bool a_turned,
                    const T* b, int b_row, bool b_turned, T* c) {
    const T one = 1, zero = 0;
    const int c_row = n > 1 ? n : 1;
    ((Gemm<T>)gemm)(b_turned ? "T" : "N", a_turned ? "T" : "N", &n, &m, &k, &one, b, &b_row, a,
                    &a_row, &zero, c, &c_row);
}

// Rows of a table by their numbers, which may count from the end; false if one is not there.
template <class T, class I>
static bool take(T* out, const T* table, const I* rows, i64 count, i64 n, i64 columns) {
    for (i64 i = 0; i < count; ++i) {
        const i64 row = rows[i] < 0 ? rows[i] + n : rows[i];
        if (row < 0 || row >= n) return false;
        memcpy(out + i * columns, table + row * columns, columns * sizeof(T));
    }
    return true;
}
