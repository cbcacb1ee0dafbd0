// What a program on the GPU is written with besides. Blocks have THREADS threads.

constexpr int THREADS = 256;

// x added over a team of LANES neighbouring threads, in one order. All threads of the block are to come.
template <int LANES, class T>
__device__ T sum_of_team(T x) {
    __shared__ T lanes[THREADS];
    const int i = threadIdx.x, lane = i % LANES;
    lanes[i] = x;
    __syncthreads();
    for (int width = LANES / 2; width; width /= 2) {
        if (lane < width) lanes[i] += lanes[i + width];
        __syncthreads();
    }
    const T sum = lanes[i - lane];
    __syncthreads();  // all have read it before the lanes are used again
    return sum;
}

// True in the one of so many blocks that comes here last: it sees what the others wrote before they came.
__device__ bool last_block(u32* arrived, u32 blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(arrived, 1u) == blocks - 1;
        if (last) *arrived = 0;
    }
    __syncthreads();
    __threadfence();
    const bool found = last;
    __syncthreads();
    return found;
}

// What a program that ends early leaves: the first stop that it came to, and in which run.
struct Stopped {
    u64 code, run;
};

SHARED void stop(Stopped* stopped, u64 code, u64 run) {
    if (stopped->code == 0) *stopped = Stopped{code, run};
}

// Single numbers are the work of one thread, which sees what it wrote before.
SHARED bool single() { return blockIdx.x == 0 && threadIdx.x == 0; }

// Adam's update (formulas.h), each of its results as the function of one element that a loop computes.
SHARED float np_adam_mean(float beta1, float rest, float mean, float g) {
    float p = 0.0f, square = 0.0f;
    adam_update(AdamStep{beta1, rest}, p, g, mean, square);
    return mean;
}
SHARED float np_adam_square(float beta2, float rest, float square, float g) {
    float p = 0.0f, mean = 0.0f;
    adam_update(AdamStep{0.0f, 0.0f, beta2, rest}, p, g, mean, square);
    return square;
}
SHARED float np_adam_parameter(float step_size, float bias_correction, float eps, float decay, float p,
                               float mean, float square) {
    adam_update(AdamStep{1.0f, 0.0f, 1.0f, 0.0f, step_size, bias_correction, eps, decay}, p, 0.0f, mean,
                square);
    return p;
}
SHARED float np_adam_average(float rest, float average, float p) {
    AdamStep c{};
    c.one_minus_average_decay = rest;
    return averaged(c, average, p);
}

// Rows of a table by their numbers, which may count from the end; false if one is not there.
template <class T, class I>
SHARED bool take(T* out, const T* table, const I* rows, i64 count, i64 n, i64 columns) {
    bool all = true;
    for (i64 i = blockIdx.x * (i64)THREADS + threadIdx.x; i < count * columns; i += gridDim.x * (i64)THREADS) {
        const i64 given = (i64)rows[i / columns], row = given < 0 ? given + n : given;
        if (row < 0 || row >= n)
            all = false;
        else
            out[i] = table[row * columns + i % columns];
    }
    return all;
}

// The arguments of a run, copied to where the program has them.
SHARED void copy(u64 to, u64 from, u64 bytes) {
    const u64 i = blockIdx.x * (u64)THREADS + threadIdx.x, step = gridDim.x * (u64)THREADS;
    const u64 words = (to | from) & 3 ? 0 : bytes / 4;
    for (u64 k = i; k < words; k += step) ((u32*)to)[k] = ((const u32*)from)[k];
    for (u64 k = 4 * words + i; k < bytes; k += step) ((char*)to)[k] = ((const char*)from)[k];
}
