// CUDA on a CPU: what the text of a kernel needs so that g++ compiles it and one processor runs it.
//
// The threads of a block run one after another, forwards or backwards. A kernel that synchronises
// runs each of its threads in a fiber, which gives way to the next one at the barrier. Shared
// memory is filled with NaN for every block, since on a GPU it starts with whatever was there.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#ifdef __SSE__
#include <pmmintrin.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define __CUDACC__
#define __CUDACC_RTC__
#define __CUDA_ARCH__ 900

#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static
#define __syncthreads() cuda_on_cpu::barrier(__LINE__)
#define __shfl_xor_sync(mask, x, lane_bits) cuda_on_cpu::exchanged(x, lane_bits, __LINE__)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

// clang-format off
#define VECTOR2(T, name, bytes) \
    struct alignas(bytes) name { T x, y; }; \
    static inline name make_##name(T x, T y) { return {x, y}; }
#define VECTOR4(T, name, bytes) \
    struct alignas(bytes) name { T x, y, z, w; }; \
    static inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
// clang-format on
VECTOR2(float, float2, 8)
VECTOR2(double, double2, 16)
VECTOR2(int, int2, 8)
VECTOR2(unsigned, uint2, 8)
VECTOR2(long long, longlong2, 16)
VECTOR2(unsigned long long, ulonglong2, 16)
VECTOR4(float, float4, 16)
VECTOR4(int, int4, 16)
VECTOR4(unsigned, uint4, 16)

namespace cuda_on_cpu {
template <class To, class From>
static inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits are reinterpreted, not converted");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
}  // namespace cuda_on_cpu
static inline int __float_as_int(float x) { return cuda_on_cpu::same_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return cuda_on_cpu::same_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return cuda_on_cpu::same_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return cuda_on_cpu::same_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return cuda_on_cpu::same_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return cuda_on_cpu::same_bits<double>(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t{a} * b >> 32; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned __int128>(a) * b >> 64;
}
template <class T>
static inline T __ldg(const T* address) { return *address; }
static inline unsigned atomicAdd(unsigned* address, unsigned x) { return (*address += x) - x; }
static inline void __threadfence() {}  // blocks run one after the other
namespace ptx {  // instructions of inline assembly
static inline unsigned long long mul_wide_u32(unsigned a, unsigned b) { return uint64_t{a} * b; }
// The nearest number; a GPU's estimate may be a few units off.
static inline float rsqrt_approx_ftz_f32(float x) { return 1.0 / sqrt(static_cast<double>(x)); }
}  // namespace ptx

template <class T>
static inline T min(T a, T b) { return b < a ? b : a; }
template <class T>
static inline T max(T a, T b) { return a < b ? b : a; }

namespace cuda_on_cpu {

constexpr size_t STACK = 128 * 1024;
constexpr int ENDED = 0;  // otherwise a thread is at the barrier of this line

struct Failure {
    int line;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    int line = ENDED;
};

static std::vector<std::unique_ptr<Fiber>> fibers;
static std::vector<void*> spoilt;  // shared variables that this block has met
static Fiber* running;  // null when the thread has no fiber of its own
static ucontext_t scheduler;
static void (*body)(const void*);  // what a thread does, and the arguments it does it with
static const void* body_arguments;
static char message[200];

// The address sanitizer has to know which stack is in use.
#ifdef __SANITIZE_ADDRESS__
static const void* scheduler_stack;
static size_t scheduler_size;
static void leave(void** save, const void* stack, size_t size) {
    __sanitizer_start_switch_fiber(save, stack, size);
}
static void arrive(void* saved, const void** stack, size_t* size) {
    __sanitizer_finish_switch_fiber(saved, stack, size);
}
#else
static const void* scheduler_stack;
static size_t scheduler_size;
static void leave(void**, const void*, size_t) {}
static void arrive(void*, const void**, size_t*) {}
#endif

static void barrier(int line) {
    if (!running) throw Failure{line};
    Fiber* fiber = running;
    void* saved = nullptr;
    fiber->line = line;
    leave(&saved, scheduler_stack, scheduler_size);
    swapcontext(&fiber->context, &scheduler);
    arrive(saved, &scheduler_stack, &scheduler_size);
}

// A number of another lane of the warp. Here every thread of the block has to come.
template <class T>
static T exchanged(T x, unsigned lane_bits, int line) {
    static T given[1024];
    given[threadIdx.x] = x;
    barrier(line);
    const T other = given[threadIdx.x ^ lane_bits];
    barrier(line);
    return other;
}

static void run_fiber() {
    arrive(nullptr, &scheduler_stack, &scheduler_size);
    body(body_arguments);
    running->line = ENDED;
    leave(nullptr, scheduler_stack, scheduler_size);
}

static void resume(unsigned thread) {
    void* saved = nullptr;
    threadIdx.x = thread;
    running = fibers[thread].get();
    leave(&saved, running->stack.get(), STACK);
    swapcontext(&scheduler, &running->context);
    arrive(saved, nullptr, nullptr);
    running = nullptr;
}

static void start(unsigned thread) {
    while (fibers.size() <= thread) fibers.emplace_back(new Fiber);
    Fiber& fiber = *fibers[thread];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, run_fiber, 0);
    resume(thread);
}

// Every declaration of shared memory is followed by a call of this.
static void spoil(void* variable, size_t size) {
    for (void* other : spoilt)
        if (other == variable) return;
    memset(variable, 0xff, size);
    spoilt.push_back(variable);
}

// Threads that wait at different barriers, or that ended while others wait, never meet on a GPU.
static void check_same_barrier(unsigned threads) {
    for (unsigned t = 1; t < threads; ++t)
        if (fibers[t]->line != fibers[0]->line)
            throw Failure{max(fibers[t]->line, fibers[0]->line)};
}

static void run_block(bool backward) {
    const unsigned threads = blockDim.x;
    auto nth = [&](unsigned k) { return backward ? threads - 1 - k : k; };
    spoilt.clear();
    start(nth(0));
    if (fibers[nth(0)]->line == ENDED) {  // no barrier: then the others need no fibers
        for (unsigned k = 1; k < threads; ++k) {
            threadIdx.x = nth(k);
            body(body_arguments);
        }
        return;
    }
    for (unsigned k = 1; k < threads; ++k) start(nth(k));
    for (check_same_barrier(threads); fibers[0]->line != ENDED; check_same_barrier(threads))
        for (unsigned k = 0; k < threads; ++k) resume(nth(k));
}

// With -ftz=true subnormal numbers are 0, as operands and as results. (Here those of double, too.)
struct Arithmetic {
#if defined(FLUSH_TO_ZERO) && defined(__SSE__)
    const unsigned saved = _mm_getcsr();
    Arithmetic() { _mm_setcsr(saved | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON); }
    ~Arithmetic() { _mm_setcsr(saved); }
#endif
};

// Run a grid; returns what went wrong, or null.
template <class Thread>
static const char* run(unsigned blocks, unsigned threads, bool backward, const Thread& thread) {
    const Arithmetic arithmetic;
    body = [](const void* arguments) { (*static_cast<const Thread*>(arguments))(); };
    body_arguments = &thread;
    gridDim.x = blocks;
    blockDim.x = threads;
    try {
        for (unsigned k = 0; k < blocks; ++k) {
            blockIdx.x = backward ? blocks - 1 - k : k;
            run_block(backward);
        }
    } catch (const Failure& failure) {
        snprintf(message, sizeof message, "not every thread of block %u reaches the barrier in line %d",
                 blockIdx.x, failure.line);
        return message;
    }
    return nullptr;
}

}  // namespace cuda_on_cpu
