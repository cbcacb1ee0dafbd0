// The threads of a process, as C functions: what kernels.cpp exports, and what another library that
// was compiled apart is given, so that a process has one pool. Such a library includes this file, takes
// the address of the table that `tg_threads()` of the first library returns, and calls through it:
//
//     static const TgThreads* threads;
//     extern "C" void use(const TgThreads* given) { threads = given; }
//     ... threads->product_f32(m, n, k, 0, a, k, 1, b, k, 0.0f, c, n);
//
// Every function may be called from any thread, also from within a task: it then works alone.

#pragma once
#include <stdint.h>

extern "C" {

// Task number `index` of a job.
typedef void (*TgTask)(int64_t index, void* context);

typedef struct {
    // task(0, context) ... task(tasks - 1, context), in any order, by whichever threads are free, the
    // caller among them; returns when all are done. A task throws nothing and waits for no other.
    void (*parallel)(int64_t tasks, TgTask task, void* context);

    // C = op(A) op(B) + beta C in row-major order: op(A) is m x k, op(B) is k x n, C is m x n.
    // op(X) is X if `trans` is 0, else its transpose; ld is the distance from a row of what is stored
    // to the next. C is only written where beta is 0. The bits depend on the arguments alone, not on
    // the number of threads.
    void (*product_f32)(int64_t m, int64_t n, int64_t k, int transA, const float* A, int64_t lda,
                        int transB, const float* B, int64_t ldb, float beta, float* C, int64_t ldc);
    void (*product_f64)(int64_t m, int64_t n, int64_t k, int transA, const double* A, int64_t lda,
                        int transB, const double* B, int64_t ldb, double beta, double* C, int64_t ldc);
} TgThreads;
}
