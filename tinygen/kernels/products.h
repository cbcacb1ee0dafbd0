// Products of matrices by the pool: each is cut into blocks of rows or of columns, by its shape alone,
// and every block is a product of a BLAS that works on one thread.

#pragma once
#include "pool.h"

namespace {

// cblas_sgemm and cblas_dgemm with their integers, given by the Python side (pool.py).
template <class T, class Int>
using Gemm = void (*)(int order, int transA, int transB, Int m, Int n, Int k, T alpha, const T* A,
                      Int lda, const T* B, Int ldb, T beta, T* C, Int ldc);

template <class T>
struct Blas {
    void* gemm = nullptr;
    bool wide = false;  // 64-bit integers
};
Blas<float> sgemm;
Blas<double> dgemm;

template <class T, class Int>
void call(void* gemm, int64_t m, int64_t n, int64_t k, int transA, const T* A, int64_t lda,
          int transB, const T* B, int64_t ldb, T beta, T* C, int64_t ldc) {
    constexpr int ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112;
    ((Gemm<T, Int>)gemm)(ROW_MAJOR, transA ? TRANSPOSED : AS_IT_IS, transB ? TRANSPOSED : AS_IT_IS, m,
                         n, k, 1, A, lda, B, ldb, beta, C, ldc);
}

template <class T>
struct Product {
    const Blas<T>& blas;
    int64_t m, n, k;
    int transA;
    const T* A;
    int64_t lda;
    int transB;
    const T* B;
    int64_t ldb;
    T beta;
    T* C;
    int64_t ldc;
    int64_t tasks = 1;

    // Blocks of the longer side. They are wide, as packing what they share costs each of them. Their
    // number is a power of two: often so is the number of cores.
    void cut() {
        constexpr int64_t WORTH_IT = 1 << 18;  // multiplications of a task
        const int64_t most = m * n * k / WORTH_IT, side = m >= n ? m : n;
        if (most >= 2) tasks = 2;
        while (2 * tasks <= most && 2 * tasks * (tasks < 4 ? 128 : 512) <= side) tasks *= 2;
    }

    // Where block i of a side begins: at a multiple of the vectors' length.
    int64_t begin(int64_t i, int64_t side) const {
        constexpr int64_t UNIT = 16;
        return i == tasks ? side : side / UNIT * i / tasks * UNIT;
    }

    void task(int64_t i) const {
        const int64_t side = m >= n ? m : n, from = begin(i, side), count = begin(i + 1, side) - from;
        if (m >= n)
            multiply(count, n, A + from * (transA ? 1 : lda), B, C + from * ldc);
        else
            multiply(m, count, A, B + from * (transB ? ldb : 1), C + from);
    }

    void multiply(int64_t m, int64_t n, const T* A, const T* B, T* C) const {
        if (m == 0 || n == 0) return;
        const auto gemm = blas.wide ? call<T, int64_t> : call<T, int32_t>;
        gemm(blas.gemm, m, n, k, transA, A, lda, transB, B, ldb, beta, C, ldc);
    }

    void run() {
        cut();
        tg_parallel(tasks, [](int64_t i, void* self) { ((Product*)self)->task(i); }, this);
    }
};

}  // namespace

extern "C" {
// The BLAS, and whether its integers have 64 bits; before the first product.
void tg_set_blas(void* single, void* twice, int wide) {
    sgemm = {single, wide != 0}, dgemm = {twice, wide != 0};
}

void tg_product_f32(int64_t m, int64_t n, int64_t k, int transA, const float* A, int64_t lda,
                    int transB, const float* B, int64_t ldb, float beta, float* C, int64_t ldc) {
    Product<float>{sgemm, m, n, k, transA, A, lda, transB, B, ldb, beta, C, ldc}.run();
}

void tg_product_f64(int64_t m, int64_t n, int64_t k, int transA, const double* A, int64_t lda,
                    int transB, const double* B, int64_t ldb, double beta, double* C, int64_t ldc) {
    Product<double>{dgemm, m, n, k, transA, A, lda, transB, B, ldb, beta, C, ldc}.run();
}

// C = A B for the Python side. Every argument costs it some time, so what is stored has no gaps:
// A and B are transposed where bit 0 and bit 1 of `transposed` are set.
void tg_matmul_f32(const float* A, const float* B, float* C, int64_t m, int64_t k, int64_t n,
                   int transposed) {
    const int a = transposed & 1, b = transposed >> 1;
    tg_product_f32(m, n, k, a, A, a ? m : k, b, B, b ? k : n, 0.0f, C, n);
}

void tg_matmul_f64(const double* A, const double* B, double* C, int64_t m, int64_t k, int64_t n,
                   int transposed) {
    const int a = transposed & 1, b = transposed >> 1;
    tg_product_f64(m, n, k, a, A, a ? m : k, b, B, b ? k : n, 0.0, C, n);
}

const TgThreads* tg_threads() {
    static const TgThreads table{tg_parallel, tg_product_f32, tg_product_f64};
    return &table;
}
}
