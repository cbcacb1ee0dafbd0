// The kernels on the GPU. A thread works on groups of neighbouring elements that fill 16 bytes: four
// of float, which is what one call of Philox makes, or two of double. Every kernel takes any number
// of blocks and threads, and its results do not depend on them.

#ifndef KERNEL
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(256) name
#endif
#include "formulas.h"
#include "kernels.h"
#include "philox.h"

namespace {

// -- groups of elements --------------------------------------------------------------------------
template <class T>
struct alignas(16) Group {
    static constexpr int size = 16 / sizeof(T);
    T v[size];
};

// How a group is read and written: in one access of 16 bytes, or element by element where the array
// is not aligned or ends inside the group (what lies beyond n reads as 0).
struct Whole {
    template <class T>
    __device__ Group<T> load(const T* p, u32 group) const {
        return reinterpret_cast<const Group<T>*>(p)[group];
    }
    template <class T>
    __device__ void store(T* p, u32 group, Group<T> x) const {
        reinterpret_cast<Group<T>*>(p)[group] = x;
    }
    __device__ bool has(u32, int) const { return true; }
};

struct Part {
    i64 n;
    template <class T>
    __device__ Group<T> load(const T* p, u32 group) const {
        Group<T> x = {};
        const i64 i = (i64)group * Group<T>::size;
        UNROLL
        for (int j = 0; j < Group<T>::size; ++j)
            if (i + j < n) x.v[j] = p[i + j];
        return x;
    }
    template <class T>
    __device__ void store(T* p, u32 group, Group<T> x) const {
        const i64 i = (i64)group * Group<T>::size;
        UNROLL
        for (int j = 0; j < Group<T>::size; ++j)
            if (i + j < n) p[i + j] = x.v[j];
    }
    __device__ bool has(u32 group, int j) const { return group * 4ll + j < n; }
};

template <class... Pointers>
SHARED bool aligned(Pointers... pointers) {
    return (((u64)pointers | ...) & 15) == 0;
}

// body(access, group) for every group of n elements that is this thread's.
template <class T, class Body>
SHARED void for_groups(i64 n, bool is_aligned, Body body) {
    const u32 groups = (u32)((n + Group<T>::size - 1) / Group<T>::size);
    const u32 full = is_aligned ? (u32)(n / Group<T>::size) : 0;
    for (u32 group = blockIdx.x * blockDim.x + threadIdx.x; group < groups;
         group += gridDim.x * blockDim.x) {
        if (group < full)
            body(Whole{}, group);
        else
            body(Part{n}, group);
    }
}

// -- rows and columns ----------------------------------------------------------------------------
struct Place {
    u32 row, column;
};

SHARED Place place(u64 i, u32 columns) {
    if (i >> 32) return Place{(u32)(i / columns), (u32)(i % columns)};
    const u32 row = (u32)i / columns;  // much faster than the division of longer numbers
    return Place{row, (u32)i - row * columns};
}

SHARED void move(Place& at, Place by, u32 columns) {
    at.row += by.row;
    at.column += by.column;
    if (at.column >= columns) at.column -= columns, ++at.row;
}

// body(access, group, at) for the groups of a matrix, with the place of the group's first element.
// There is no division in the loop: the places of a thread's groups are equally far apart.
template <class Body>
SHARED void for_groups_of_matrix(i64 rows, i64 columns, bool is_aligned, Body body) {
    const i64 n = rows * columns;
    const u32 first = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    if (first * 4ull >= n) return;
    Place at = place(first * 4ull, (u32)columns);
    const Place by = place(threads * 4ull, (u32)columns);
    for_groups<float>(n, is_aligned, [=, &at](auto access, u32 group) {
        body(access, group, at);
        move(at, by, (u32)columns);
    });
}

// p[row] for each element of a group.
SHARED Group<float> of_rows(const float* p, Place at, i64 rows, i64 columns) {
    const float first = p[at.row];
    Group<float> x{{first, first, first, first}};
    if (at.column + 4ull <= columns) return x;
    UNROLL
    for (int j = 1; j < 4; ++j) {
        move(at, Place{0, 1}, (u32)columns);
        if (at.row < rows) x.v[j] = p[at.row];
    }
    return x;
}

// The bias of each element of a group: that of its column, or where rows have their own, of itself.
template <class Access>
SHARED Group<float> biases(Access access, const float* p, i64 p_row, u32 group, Place at, i64 columns) {
    if (p_row) return access.load(p, group);
    Group<float> x;
    UNROLL
    for (int j = 0; j < 4; ++j) {
        x.v[j] = p[at.column];
        move(at, Place{0, 1}, (u32)columns);
    }
    return x;
}

// -- the random stream ---------------------------------------------------------------------------
// Standard normals for a group of a draw.
SHARED Group<float> normals(Stream stream, u32 group) {
    const Words w = philox(stream, group);
    const Pair<float> a = box_muller(w.w0, w.w1), b = box_muller(w.w2, w.w3);
    return Group<float>{{a.cosine, a.sine, b.cosine, b.sine}};
}

// -- sums ----------------------------------------------------------------------------------------
// In one order on every device: 256 lanes of four neighbours, each of which adds every 1024th element
// in float; then the lanes by halves, in double.
constexpr int LANES = 256, STRIDE = 4 * LANES, SUM_CHUNK = 4 * STRIDE;

__device__ double sum_of_lanes(double* lanes) {
    __syncthreads();
    for (int width = LANES / 2; width >= 32; width /= 2) {
        for (int i = threadIdx.x; i < width; i += blockDim.x) lanes[i] += lanes[i + width];
        __syncthreads();
    }
    double sum = lanes[threadIdx.x % 32];  // every warp makes the last sums for itself
    UNROLL
    for (int width = 16; width; width /= 2) sum += __shfl_xor_sync(~0u, sum, width);
    __syncthreads();  // all have read before the lanes are used again
    return sum;
}

// The sum of the squares of the chunk of `size` elements, of n in all, that begins at group `first`.
// value(access, group, at) gives the numbers, with zeros beyond n. `at` is what value.start(group) gives
// of a lane's first group, and value.next(at) moves to the lane's next. All threads get the sum.
template <class Value>
__device__ double sum_of_chunk(u32 first, i64 size, i64 n, bool is_aligned, Value value) {
    __shared__ double lanes[LANES];
    const u32 groups = (u32)((n + 3) / 4), full = is_aligned ? (u32)(n / 4) : 0;
    const u32 end = groups - first < size / 4 ? groups : first + (u32)(size / 4);
    for (int lane = threadIdx.x; lane < LANES; lane += blockDim.x) {
        Group<float> part = {};
        const auto add = [&part](Group<float> e) {
            UNROLL
            for (int j = 0; j < 4; ++j) part.v[j] = multiply_add(e.v[j], e.v[j], part.v[j]);
        };
        u32 group = first + lane;
        auto at = value.start(group);
        // Counted down: a register keeps the count, where the end would be computed in every round.
        for (u32 left = group < end ? (end - group + LANES - 1) / LANES : 0; left; --left) {
            if (group < full)
                add(value(Whole{}, group, at));
            else
                add(value(Part{n}, group, at));
            value.next(at);
            group += LANES;
        }
        lanes[lane] = ((double)part.v[0] + part.v[1]) + ((double)part.v[2] + part.v[3]);
    }
    return sum_of_lanes(lanes);
}

// sums[k] = the sum of the squares of chunk k of n elements.
template <class Value>
__device__ void sum_of_chunks(double* sums, i64 size, i64 n, bool is_aligned, Value value) {
    for (u32 chunk = blockIdx.x; (i64)chunk * size < n; chunk += gridDim.x) {
        const double sum = sum_of_chunk(chunk * (u32)(size / 4), size, n, is_aligned, value);
        if (threadIdx.x == 0) sums[chunk] = sum;
    }
}

// The numbers of an array for the sums above.
struct Elements {
    const float* x;
    __device__ int start(u32) const { return 0; }
    __device__ void next(int) const {}
    template <class Access>
    __device__ Group<float> operator()(Access access, u32 group, int) const {
        return access.load(x, group);
    }
};

// body(row, piece, place) for every piece of `size` elements of the table's arrays that is this
// block's: number `piece` of its array, and number `place` of all.
template <class Body>
SHARED void for_pieces(const Table& arrays, i64 size, Body body) {
    i64 before = 0;
    int k = 0;
    for (i64 place = blockIdx.x;; place += gridDim.x) {
        for (;; ++k) {
            if (k == arrays.rows) return;
            const i64 pieces = (arrays.row[k].n + size - 1) / size;
            if (place < before + pieces) break;
            before += pieces;
        }
        body(k, (u32)(place - before), place);
    }
}

}  // namespace

// -- fills ---------------------------------------------------------------------------------------
KERNEL(fill_bits)(u32* out, i64 n, u64 seed, u64 draw, const u64* counter) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<u32>(n, aligned(out), [=](auto access, u32 group) {
        const Words w = philox(stream, group);
        access.store(out, group, Group<u32>{{w.w0, w.w1, w.w2, w.w3}});
    });
}

KERNEL(fill_integers)(i64* out, i64 n, u64 seed, u64 draw, const u64* counter, u64 size, u64 offset) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<i64>(n, aligned(out), [=](auto access, u32 group) {
        const Words w = philox(stream, group);
        access.store(out, group, Group<i64>{{(i64)(scaled(w.w0, w.w1, size) + offset),
                                             (i64)(scaled(w.w2, w.w3, size) + offset)}});
    });
}

KERNEL(fill_uniform_f32)(float* out, i64 n, u64 seed, u64 draw, const u64* counter, float low,
                         float width, float last) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<float>(n, aligned(out), [=](auto access, u32 group) {
        const Words w = philox(stream, group);
        Group<float> x{{unit(w.w0), unit(w.w1), unit(w.w2), unit(w.w3)}};
        UNROLL
        for (int j = 0; j < 4; ++j) x.v[j] = placed(x.v[j], low, width, last);
        access.store(out, group, x);
    });
}

KERNEL(fill_uniform_f64)(double* out, i64 n, u64 seed, u64 draw, const u64* counter, double low,
                         double width, double last) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<double>(n, aligned(out), [=](auto access, u32 group) {
        const Words w = philox(stream, group);
        Group<double> x{{unit(w.w0, w.w1), unit(w.w2, w.w3)}};
        UNROLL
        for (int j = 0; j < 2; ++j) x.v[j] = placed(x.v[j], low, width, last);
        access.store(out, group, x);
    });
}

KERNEL(fill_normal_f32)(float* out, i64 n, u64 seed, u64 draw, const u64* counter, float mean,
                        float std) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<float>(n, aligned(out), [=](auto access, u32 group) {
        Group<float> z = normals(stream, group);
        UNROLL
        for (int j = 0; j < 4; ++j) z.v[j] = z.v[j] * std + mean;
        access.store(out, group, z);
    });
}

KERNEL(fill_normal_f64)(double* out, i64 n, u64 seed, u64 draw, const u64* counter, double mean,
                        double std) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<double>(n, aligned(out), [=](auto access, u32 group) {
        const Pair<double> p = box_muller(philox(stream, group));
        access.store(out, group, Group<double>{{p.cosine * std + mean, p.sine * std + mean}});
    });
}

// -- diffusion -----------------------------------------------------------------------------------
KERNEL(noise_step)(float* xt, float* eps, const float* x0, const float* a, const float* s, i64 rows,
                   i64 columns, u64 seed, u64 draw, const u64* counter) {
    const Stream stream = stream_at(seed, draw, counter);
    const auto body = [=](auto access, u32 group, Place at) {
        Group<float> x = access.load(x0, group);
        const Group<float> signal = of_rows(a, at, rows, columns);
        const Group<float> level = of_rows(s, at, rows, columns);
        const Group<float> z = normals(stream, group);
        UNROLL
        for (int j = 0; j < 4; ++j) x.v[j] = noised(x.v[j], signal.v[j], level.v[j], z.v[j]);
        access.store(xt, group, x);
        if (eps) access.store(eps, group, z);
    };
    for_groups_of_matrix(rows, columns, aligned(xt, eps, x0), body);
}

KERNEL(denoise_step)(float* y, const float* xt, const float* output, i64 n, float from_xt,
                     float from_output, float low, float high, float on_x0, float on_xt,
                     float sigma, u64 seed, u64 draw, const u64* counter) {
    const Denoising c{from_xt, from_output, low, high, on_x0, on_xt, sigma};
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<float>(n, aligned(y, xt, output), [=](auto access, u32 group) {
        Group<float> x = access.load(xt, group), z = {};
        const Group<float> out = access.load(output, group);
        if (sigma != 0.0f) z = normals(stream, group);
        UNROLL
        for (int j = 0; j < 4; ++j) x.v[j] = denoised(c, x.v[j], out.v[j], z.v[j]);
        access.store(y, group, x);
    });
}

// The errors of a group, whose gradient it stores on the way.
template <bool has_noise>
struct Errors {
    float* gradient;
    const float *output, *data, *on_data, *on_noise;
    i64 rows, columns;
    float scale;
    Stream stream;
    Place by;  // from a group of a lane to its next

    __device__ Place start(u32 group) const { return place(group * 4ull, (u32)columns); }
    __device__ void next(Place& at) const { move(at, by, (u32)columns); }

    template <class Access>
    __device__ Group<float> operator()(Access access, u32 group, Place at) const {
        Group<float> e = access.load(output, group), target = {}, z = {};
        if (data) target = access.load(data, group);
        if (has_noise) z = normals(stream, group);
        const float u = on_data ? on_data[at.row] : 1.0f, v = has_noise ? on_noise[at.row] : 0.0f;
        Group<float> us{{u, u, u, u}}, vs{{v, v, v, v}};
        if (at.column + 4ull <= columns) return stored(access, group, e, target, z, us, vs);
        UNROLL
        for (int j = 1; j < 4; ++j) {  // the row ends inside the group
            move(at, Place{0, 1}, (u32)columns);
            if (at.row >= rows) break;
            if (on_data) us.v[j] = on_data[at.row];
            if (has_noise) vs.v[j] = on_noise[at.row];
        }
        return stored(access, group, e, target, z, us, vs);
    }

    template <class Access>
    __device__ Group<float> stored(Access access, u32 group, Group<float> e, Group<float> target,
                                   Group<float> z, Group<float> u, Group<float> v) const {
        Group<float> d;
        UNROLL
        for (int j = 0; j < 4; ++j) {
            target.v[j] = noised(target.v[j], u.v[j], v.v[j], z.v[j]);
            e.v[j] = access.has(group, j) ? e.v[j] - target.v[j] : 0.0f;
            d.v[j] = scale * e.v[j];
        }
        access.store(gradient, group, d);
        return e;
    }
};

KERNEL(squared_error)(double* sums, float* gradient, const float* output, const float* data,
                      const float* on_data, const float* on_noise, i64 rows, i64 columns,
                      float scale, u64 seed, u64 draw, const u64* counter) {
    const i64 n = rows * columns;
    if (n == 0) return;
    const bool together = aligned(gradient, output, data);
    const auto errors = [=](auto of) {
        return decltype(of){gradient, output, data, on_data, on_noise, rows, columns, scale,
                            stream_at(seed, draw, counter), place(STRIDE, (u32)columns)};
    };
    if (on_noise)
        sum_of_chunks(sums, error_chunk(n), n, together, errors(Errors<true>{}));
    else
        sum_of_chunks(sums, error_chunk(n), n, together, errors(Errors<false>{}));
}

KERNEL(sum_squares)(double* sums, const float* x, i64 n) {
    sum_of_chunks(sums, SUM_CHUNK, n, aligned(x), Elements{x});
}

KERNEL(sum_squares_of_all)(double* sums, Table arrays) {
    for_pieces(arrays, SUM_CHUNK, [&](int k, u32 chunk, i64 place) {
        const float* x = arrays.row[k].at[0];
        const double sum = sum_of_chunk(chunk * (SUM_CHUNK / 4), SUM_CHUNK, arrays.row[k].n,
                                        aligned(x), Elements{x});
        if (threadIdx.x == 0) sums[place] = sum;
    });
}

KERNEL(sum_chunks)(double* totals, const double* sums, i64 n, double scale) {
    __shared__ double lanes[LANES];
    for (i64 chunk = blockIdx.x; chunk == 0 || chunk * SUM_CHUNK < n; chunk += gridDim.x) {
        const i64 end = (chunk + 1) * SUM_CHUNK < n ? (chunk + 1) * SUM_CHUNK : n;
        for (int lane = threadIdx.x; lane < LANES; lane += blockDim.x) {
            double part = 0.0;
            for (i64 i = chunk * SUM_CHUNK + lane; i < end; i += LANES) part += sums[i];
            lanes[lane] = part;
        }
        const double sum = sum_of_lanes(lanes);
        if (threadIdx.x == 0) totals[chunk] = sum * scale;
    }
}

// -- activations ---------------------------------------------------------------------------------
template <float (*activation)(float)>
SHARED void forward(float* y, const float* x, const float* bias, i64 bias_row, i64 rows, i64 columns) {
    const bool together = aligned(y, x, bias_row ? bias : nullptr);
    for_groups_of_matrix(rows, columns, together, [=](auto access, u32 group, Place at) {
        Group<float> u = access.load(x, group);
        const Group<float> b = biases(access, bias, bias_row, group, at, columns);
        UNROLL
        for (int j = 0; j < 4; ++j) u.v[j] = activation(u.v[j] + b.v[j]);
        access.store(y, group, u);
    });
}

template <float (*slope)(float)>
SHARED void backward_of_input(float* d, const float* g, const float* x, const float* bias,
                              i64 bias_row, i64 rows, i64 columns) {
    const bool together = aligned(d, g, x, bias_row ? bias : nullptr);
    for_groups_of_matrix(rows, columns, together, [=](auto access, u32 group, Place at) {
        Group<float> u = access.load(x, group);
        const Group<float> of_y = access.load(g, group);
        const Group<float> b = biases(access, bias, bias_row, group, at, columns);
        UNROLL
        for (int j = 0; j < 4; ++j) u.v[j] = of_y.v[j] * slope(u.v[j] + b.v[j]);
        access.store(d, group, u);
    });
}

template <float (*slope)(float)>
SHARED void backward_of_output(float* d, const float* g, const float* y, i64 n) {
    for_groups<float>(n, aligned(d, g, y), [=](auto access, u32 group) {
        Group<float> u = access.load(y, group);
        const Group<float> of_y = access.load(g, group);
        UNROLL
        for (int j = 0; j < 4; ++j) u.v[j] = of_y.v[j] * slope(u.v[j]);
        access.store(d, group, u);
    });
}

#include "activations.h"

// -- rows ----------------------------------------------------------------------------------------
// A warp works on a row. Its sums have one order on every device: 32 lanes of four neighbours, each of
// which adds every 128th element; then the lanes by halves.
template <class Access, class Value>
SHARED float sum_of_row(Access access, i64 columns, Value value) {
    Group<float> part = {};
    for (u32 group = threadIdx.x % 32; group * 4ll < columns; group += 32) {
        const Group<float> x = value(group);
        UNROLL
        for (int j = 0; j < 4; ++j)
            if (access.has(group, j)) part.v[j] += x.v[j];
    }
    float sum = (part.v[0] + part.v[1]) + (part.v[2] + part.v[3]);
    UNROLL
    for (int width = 16; width; width /= 2) sum += __shfl_xor_sync(~0u, sum, width);
    return sum;
}

struct Row {
    float mean, inverse;
};

template <class Access>
SHARED Row row_of(Access access, const float* x, i64 columns, float eps) {
    const float n = (float)columns, mean = sum_of_row(access, columns, [=](u32 group) {
        return access.load(x, group);
    }) / n;
    const float variance = sum_of_row(access, columns, [=](u32 group) {
        Group<float> c = access.load(x, group);
        UNROLL
        for (int j = 0; j < 4; ++j) c.v[j] = (c.v[j] - mean) * (c.v[j] - mean);
        return c;
    }) / n;
    return Row{mean, inverse_deviation(variance, eps)};
}

template <class Access>
SHARED Group<float> standardised_group(Access access, const float* x, Row row, u32 group) {
    Group<float> z = access.load(x, group);
    UNROLL
    for (int j = 0; j < 4; ++j) z.v[j] = standardised(z.v[j], row.mean, row.inverse);
    return z;
}

// body(access, row, columns) for every row that is this warp's. All threads of a block come equally
// often, and beyond the last row they find no columns.
template <class Body>
SHARED void for_rows(i64 rows, i64 columns, bool is_aligned, Body body) {
    const i64 warps = blockDim.x / 32;
    for (i64 first = blockIdx.x * warps; first < rows; first += gridDim.x * warps) {
        const i64 row = first + threadIdx.x / 32, own = row < rows ? columns : 0;
        if (is_aligned && columns % 4 == 0)
            body(Whole{}, row, own);
        else
            body(Part{own}, row, own);
    }
}

KERNEL(standardise)(float* y, const float* x, const float* modulation, i64 modulation_row, i64 rows,
                    i64 columns, float eps) {
    for_rows(rows, columns, aligned(y, x, modulation), [=](auto access, i64 row, i64 own) {
        const float* of = x + row * columns;
        const float* scale = modulation ? modulation + row * modulation_row : nullptr;
        const Row r = row_of(access, of, own, eps);
        for (u32 group = threadIdx.x % 32; group * 4ll < own; group += 32) {
            Group<float> z = standardised_group(access, of, r, group);
            if (modulation) {
                const Group<float> s = access.load(scale, group), t = access.load(scale + columns, group);
                UNROLL
                for (int j = 0; j < 4; ++j) z.v[j] = modulated(z.v[j], s.v[j], t.v[j]);
            }
            access.store(y + row * columns, group, z);
        }
    });
}

KERNEL(standardise_backward)(float* d, float* of_modulation, const float* g, const float* x,
                             const float* modulation, i64 modulation_row, i64 rows, i64 columns,
                             float eps) {
    const bool together = aligned(d, of_modulation, g, x, modulation);
    for_rows(rows, columns, together, [=](auto access, i64 row, i64 own) {
        const float *of = x + row * columns, *of_y = g + row * columns;
        const float* scale = modulation ? modulation + row * modulation_row : nullptr;
        const Row r = row_of(access, of, own, eps);
        const auto of_z = [=](u32 group) {
            Group<float> u = access.load(of_y, group);
            if (modulation) {
                const Group<float> s = access.load(scale, group);
                UNROLL
                for (int j = 0; j < 4; ++j) u.v[j] = modulated(u.v[j], s.v[j], 0.0f);
            }
            return u;
        };
        const float n = (float)own, along_1 = sum_of_row(access, own, of_z) / n;
        const float along_z = sum_of_row(access, own, [=](u32 group) {
            Group<float> u = of_z(group);
            const Group<float> z = standardised_group(access, of, r, group);
            UNROLL
            for (int j = 0; j < 4; ++j) u.v[j] *= z.v[j];
            return u;
        }) / n;
        for (u32 group = threadIdx.x % 32; group * 4ll < own; group += 32) {
            Group<float> u = of_z(group);
            const Group<float> z = standardised_group(access, of, r, group);
            if (of_modulation) {
                Group<float> given = access.load(of_y, group);
                float* place = of_modulation + 2 * row * columns;
                access.store(place + columns, group, given);
                UNROLL
                for (int j = 0; j < 4; ++j) given.v[j] *= z.v[j];
                access.store(place, group, given);
            }
            UNROLL
            for (int j = 0; j < 4; ++j)
                u.v[j] = standardised_slope(u.v[j], z.v[j], along_1, along_z, r.inverse);
            access.store(d + row * columns, group, u);
        }
    });
}

// -- likelihoods ---------------------------------------------------------------------------------
KERNEL(bce_with_logits)(float* loss, const float* l, const float* t, i64 n) {
    for_groups<float>(n, aligned(loss, l, t), [=](auto access, u32 group) {
        Group<float> x = access.load(l, group);
        const Group<float> target = access.load(t, group);
        UNROLL
        for (int j = 0; j < 4; ++j) x.v[j] = cross_entropy(x.v[j], target.v[j]);
        access.store(loss, group, x);
    });
}

SHARED Group<float> logit_gradient(Group<float> g, Group<float> l, Group<float> t) {
    UNROLL
    for (int j = 0; j < 4; ++j) g.v[j] = g.v[j] * (logistic(l.v[j]) - t.v[j]);
    return g;
}

KERNEL(bce_with_logits_backward)(float* d, const float* g, const float* l, const float* t, i64 n) {
    for_groups<float>(n, aligned(d, g, l, t), [=](auto access, u32 group) {
        access.store(d, group, logit_gradient(access.load(g, group), access.load(l, group),
                                              access.load(t, group)));
    });
}

KERNEL(bce_with_logits_backward_by_row)(float* d, const float* g, i64 g_row, const float* l,
                                        const float* t, i64 rows, i64 columns) {
    const auto body = [=](auto access, u32 group, Place at) {
        if (!g_row) at = Place{0, 0};  // one number for all
        const Group<float> of_row = of_rows(g, at, g_row ? rows : 1, columns);
        access.store(d, group, logit_gradient(of_row, access.load(l, group), access.load(t, group)));
    };
    for_groups_of_matrix(rows, columns, aligned(d, l, t), body);
}

// body(first, z) for every element of the draw of z: `first` is where its mean is in h, whose rows
// are twice as long.
template <class Body>
SHARED void for_latents(i64 rows, i64 columns, Stream stream, Body body) {
    const i64 n = rows * columns;
    for_groups_of_matrix(rows, columns, false, [=](auto, u32 group, Place at) {
        const Group<float> z = normals(stream, group);
        UNROLL
        for (int j = 0; j < 4; ++j) {
            const i64 i = group * 4ll + j;
            if (i < n) body(i + at.row * columns, z.v[j]);
            move(at, Place{0, 1}, (u32)columns);
        }
    });
}

KERNEL(reparameterise)(float* out, const float* h, i64 rows, i64 columns, u64 seed, u64 draw,
                       const u64* counter) {
    for_latents(rows, columns, stream_at(seed, draw, counter), [=](i64 first, float z) {
        const float mean = h[first], log_var = h[first + columns];
        out[first] = sampled(mean, log_var, z);
        out[first + columns] = gaussian_kl(mean, log_var);
    });
}

KERNEL(reparameterise_backward)(float* d, const float* g, const float* h, i64 rows, i64 columns,
                                u64 seed, u64 draw, const u64* counter) {
    for_latents(rows, columns, stream_at(seed, draw, counter), [=](i64 first, float z) {
        const Latent of = latent_gradient(h[first], h[first + columns], g[first],
                                          g[first + columns], z);
        d[first] = of.mean;
        d[first + columns] = of.log_var;
    });
}

// -- Adam ----------------------------------------------------------------------------------------
template <class Access>
SHARED void adam_group(Access access, AdamStep c, float* p, const float* g, float* mean,
                       float* square, float* average, u32 group) {
    Group<float> x = access.load(p, group), first = access.load(mean, group);
    Group<float> second = access.load(square, group), moving = {};
    const Group<float> gradient = access.load(g, group);
    if (average) moving = access.load(average, group);
    UNROLL
    for (int j = 0; j < 4; ++j) {
        adam_update(c, x.v[j], gradient.v[j], first.v[j], second.v[j]);
        moving.v[j] = averaged(c, moving.v[j], x.v[j]);
    }
    access.store(p, group, x);
    access.store(mean, group, first);
    access.store(square, group, second);
    if (average) access.store(average, group, moving);
}

KERNEL(adam)(float* p, const float* g, float* mean, float* square, float* average, i64 n,
             float beta1, float one_minus_beta1, float beta2, float one_minus_beta2,
             float step_size, float bias_correction, float eps,
             float weight_decay_factor, float one_minus_average_decay) {
    const AdamStep c{beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, bias_correction,
                     eps, weight_decay_factor, one_minus_average_decay};
    const bool together = aligned(p, g, mean, square, average);
    for_groups<float>(n, together, [=](auto access, u32 group) {
        adam_group(access, c, p, g, mean, square, average, group);
    });
}

// body(access, k, group) for every group of all arrays of a table that is this thread's.
template <class Body>
SHARED void for_groups_of_all(const Table& arrays, Body body) {
    constexpr int GROUPS = 256;  // in a piece
    for_pieces(arrays, 4 * GROUPS, [&](int k, u32 piece, i64) {
        const auto& row = arrays.row[k];
        const u32 groups = (u32)((row.n + 3) / 4);
        const bool together = aligned(row.at[0], row.at[1], row.at[2], row.at[3], row.at[4]);
        const u32 full = together ? (u32)(row.n / 4) : 0;
        for (u32 i = threadIdx.x; i < GROUPS; i += blockDim.x) {
            const u32 group = piece * GROUPS + i;
            if (group < full)
                body(Whole{}, k, group);
            else if (group < groups)
                body(Part{row.n}, k, group);
        }
    });
}

KERNEL(adam_of_all)(Table arrays, float beta1, float one_minus_beta1,
                    float beta2, float one_minus_beta2, float step_size, float bias_correction,
                    float eps, float weight_decay_factor, float one_minus_average_decay) {
    const AdamStep c{beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, bias_correction,
                     eps, weight_decay_factor, one_minus_average_decay};
    for_groups_of_all(arrays, [&](auto access, int k, u32 group) {
        float* const* at = arrays.row[k].at;
        adam_group(access, c, at[0], at[1], at[2], at[3], at[4], group);
    });
}

KERNEL(scale_all)(Table arrays, float factor) {
    for_groups_of_all(arrays, [&](auto access, int k, u32 group) {
        Group<float> x = access.load(arrays.row[k].at[0], group);
        UNROLL
        for (int j = 0; j < 4; ++j) x.v[j] *= factor;
        access.store(arrays.row[k].at[0], group, x);
    });
}
