// What a program on the CPU is written with besides: loops in parts, products, rows by number.

// -- loops in parts --------------------------------------------------------------------------------
// body(i, from, to) for the parts i of 0 .. n, by the pool of threads, call[0], if there is one.
template <class Body>
static void in_parts(void* const* call, i64 parts, i64 n, const Body& body) {
    struct Job {
        const Body& body;
        i64 parts, n;
    } job{body, parts, n};
    const TgTask task = [](int64_t i, void* context) {
        const Job& j = *(const Job*)context;
        j.body(i, j.n * i / j.parts, j.n * (i + 1) / j.parts);
    };
    const auto* threads = (const TgThreads*)call[0];
    if (threads && parts > 1) return threads->parallel(parts, task, &job);
    for (i64 i = 0; i < parts; ++i) task(i, &job);
}

// -- products ------------------------------------------------------------------------------------
template <class T>
using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const T*, const T*,
                      const int*, const T*, const int*, const T*, T*, const int*);

// c = a b of row-major matrices: by the pool of threads, call[0], else by BLAS, call[1] or call[2],
// which counts along columns: cT = bT aT.
template <class T>
static void product(void* const* call, int m, int n, int k, const T* a, int a_row, bool a_turned,
                    const T* b, int b_row, bool b_turned, T* c) {
    constexpr bool single = sizeof(T) == sizeof(float);
    const T one = 1, zero = 0;
    if (const auto* threads = (const TgThreads*)call[0]) {
        if constexpr (single)
            threads->product_f32(m, n, k, a_turned, a, a_row, b_turned, b, b_row, zero, c, n);
        else
            threads->product_f64(m, n, k, a_turned, a, a_row, b_turned, b, b_row, zero, c, n);
    } else {
        ((Gemm<T>)call[single ? 1 : 2])(b_turned ? "T" : "N", a_turned ? "T" : "N", &n, &m, &k, &one,
                                        b, &b_row, a, &a_row, &zero, c, &n);
    }
}

// Rows of a table by their numbers, which may count from the end; false if one is not there.
template <class T, class I>
static bool take(T* out, const T* table, const I* rows, i64 count, i64 n, i64 columns) {
    for (i64 i = 0; i < count; ++i) {
        const i64 row = rows[i] < 0 ? (i64)rows[i] + n : (i64)rows[i];
        if (row < 0 || row >= n) return false;
        memcpy(out + i * columns, table + row * columns, columns * sizeof(T));
    }
    return true;
}
