// The kernels on the GPU. A thread works on groups of neighbouring elements that fill 16 bytes: four
// of float, which is what one call of Philox makes, or two of double. Every kernel takes any number
// of blocks and threads, and its results do not depend on them.

#define KERNEL(name) extern "C" __global__ void __launch_bounds__(256) name
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

template <class T>
SHARED bool whole(const T* p, i64 i, i64 n) {
    return i + Group<T>::size <= n && ((u64)p & 15) == 0;
}

// The elements of p from i on; beyond n they are 0. In one access, or one by one if p is not aligned
// or the group is not full.
template <class T>
SHARED Group<T> load(const T* p, i64 i, i64 n) {
    if (whole(p, i, n)) return *reinterpret_cast<const Group<T>*>(p + i);
    Group<T> group = {};
    UNROLL
    for (int j = 0; j < Group<T>::size; ++j)
        if (i + j < n) group.v[j] = p[i + j];
    return group;
}

template <class T>
SHARED void store(T* p, i64 i, i64 n, Group<T> group) {
    if (whole(p, i, n)) {
        *reinterpret_cast<Group<T>*>(p + i) = group;
        return;
    }
    UNROLL
    for (int j = 0; j < Group<T>::size; ++j)
        if (i + j < n) p[i + j] = group.v[j];
}

// body(i) for the first element i of every group of n elements that is this thread's.
template <class T, class Body>
SHARED void for_groups(i64 n, Body body) {
    const i64 threads = (i64)gridDim.x * blockDim.x;
    for (i64 group = (i64)blockIdx.x * blockDim.x + threadIdx.x; group * Group<T>::size < n;
         group += threads)
        body(group * Group<T>::size);
}

// The row and column of an element; most arrays allow the faster division.
struct Place {
    i64 row, column;
};

SHARED Place place(i64 i, i64 columns) {
    if (((i | columns) >> 32) == 0) {
        const u32 row = (u32)i / (u32)columns;
        return Place{row, (u32)i - row * (u32)columns};
    }
    return Place{i / columns, i % columns};
}

// p[row] for each element of the group at i; p null stands for `otherwise`.
SHARED Group<float> of_rows(const float* p, i64 i, i64 rows, i64 columns, float otherwise = 1.0f) {
    Group<float> group;
    UNROLL
    for (int j = 0; j < 4; ++j) group.v[j] = otherwise;
    if (!p) return group;
    Place at = place(i, columns);
    UNROLL
    for (int j = 0; j < 4; ++j) {
        if (at.row < rows) group.v[j] = p[at.row];
        if (++at.column == columns) at.column = 0, ++at.row;
    }
    return group;
}

// The bias of each element of the group at i: p[column], or where rows have their own, p[i].
SHARED Group<float> biases(const float* p, i64 p_row, i64 i, i64 n, i64 columns) {
    if (p_row) return load(p, i, n);
    Group<float> group;
    i64 column = place(i, columns).column;
    UNROLL
    for (int j = 0; j < 4; ++j) {
        group.v[j] = p[column];
        if (++column == columns) column = 0;
    }
    return group;
}

// -- the random stream ---------------------------------------------------------------------------
// Standard normals for the group at element i of a draw.
SHARED Group<float> normals(Stream stream, i64 i) {
    const Words w = philox(stream, (u64)i / 4);
    const Pair<float> a = box_muller(w.w0, w.w1), b = box_muller(w.w2, w.w3);
    return Group<float>{{a.cosine, a.sine, b.cosine, b.sine}};
}

// -- sums ----------------------------------------------------------------------------------------
// In one order on every device: 256 lanes of four neighbours, each of which adds every 1024th element
// in float; then the lanes by halves, in double.
constexpr int LANES = 256, STRIDE = 4 * LANES, SUM_CHUNK = 4 * STRIDE;

__device__ double sum_of_lanes(double* lanes) {
    __syncthreads();
    for (int width = LANES / 2; width; width /= 2) {
        for (int i = threadIdx.x; i < width; i += blockDim.x) lanes[i] += lanes[i + width];
        __syncthreads();
    }
    const double sum = lanes[0];
    __syncthreads();  // all have read it before the lanes are used again
    return sum;
}

// sums[k] = the sum of the squares of chunk k of n elements; value(i) gives the group at i, with
// zeros beyond n.
template <class Value>
__device__ void sum_of_chunks(double* sums, i64 n, Value value) {
    __shared__ double lanes[LANES];
    for (i64 chunk = blockIdx.x; chunk * SUM_CHUNK < n; chunk += gridDim.x) {
        for (int lane = threadIdx.x; lane < LANES; lane += blockDim.x) {
            Group<float> part = {};
            for (int k = 0; k < SUM_CHUNK / STRIDE; ++k) {
                const i64 i = chunk * SUM_CHUNK + k * STRIDE + 4 * lane;
                if (i >= n) break;
                const Group<float> e = value(i);
                UNROLL
                for (int j = 0; j < 4; ++j) part.v[j] = fused(e.v[j], e.v[j], part.v[j]);
            }
            lanes[lane] = ((double)part.v[0] + part.v[1]) + ((double)part.v[2] + part.v[3]);
        }
        const double sum = sum_of_lanes(lanes);
        if (threadIdx.x == 0) sums[chunk] = sum;
    }
}

}  // namespace

// -- fills ---------------------------------------------------------------------------------------
KERNEL(fill_bits)(u32* out, i64 n, u64 seed, u64 draw, const u64* counter) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<u32>(n, [=](i64 i) {
        const Words w = philox(stream, (u64)i / 4);
        store(out, i, n, Group<u32>{{w.w0, w.w1, w.w2, w.w3}});
    });
}

KERNEL(fill_integers)(i64* out, i64 n, u64 seed, u64 draw, const u64* counter, u64 size, u64 offset) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<i64>(n, [=](i64 i) {
        const Words w = philox(stream, (u64)i / 2);
        store(out, i, n, Group<i64>{{(i64)(scaled(w.w0, w.w1, size) + offset),
                                     (i64)(scaled(w.w2, w.w3, size) + offset)}});
    });
}

KERNEL(fill_uniform_f32)(float* out, i64 n, u64 seed, u64 draw, const u64* counter, float low,
                         float width, float last) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<float>(n, [=](i64 i) {
        const Words w = philox(stream, (u64)i / 4);
        Group<float> x{{unit(w.w0), unit(w.w1), unit(w.w2), unit(w.w3)}};
        UNROLL
        for (int j = 0; j < 4; ++j) {
            x.v[j] = x.v[j] * width + low;
            x.v[j] = x.v[j] < last ? x.v[j] : last;
        }
        store(out, i, n, x);
    });
}

KERNEL(fill_uniform_f64)(double* out, i64 n, u64 seed, u64 draw, const u64* counter, double low,
                         double width, double last) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<double>(n, [=](i64 i) {
        const Words w = philox(stream, (u64)i / 2);
        Group<double> x{{unit(w.w0, w.w1), unit(w.w2, w.w3)}};
        UNROLL
        for (int j = 0; j < 2; ++j) {
            x.v[j] = x.v[j] * width + low;
            x.v[j] = x.v[j] < last ? x.v[j] : last;
        }
        store(out, i, n, x);
    });
}

KERNEL(fill_normal_f32)(float* out, i64 n, u64 seed, u64 draw, const u64* counter, float mean,
                        float std) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<float>(n, [=](i64 i) {
        Group<float> z = normals(stream, i);
        UNROLL
        for (int j = 0; j < 4; ++j) z.v[j] = z.v[j] * std + mean;
        store(out, i, n, z);
    });
}

KERNEL(fill_normal_f64)(double* out, i64 n, u64 seed, u64 draw, const u64* counter, double mean,
                        double std) {
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<double>(n, [=](i64 i) {
        const Pair<double> p = box_muller(philox(stream, (u64)i / 2));
        store(out, i, n, Group<double>{{p.cosine * std + mean, p.sine * std + mean}});
    });
}

// -- diffusion -----------------------------------------------------------------------------------
KERNEL(noise_step)(float* xt, float* eps, const float* x0, const float* a, const float* s, i64 rows,
                   i64 columns, u64 seed, u64 draw, const u64* counter) {
    const i64 n = rows * columns;
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<float>(n, [=](i64 i) {
        Group<float> x = load(x0, i, n);
        const Group<float> z = normals(stream, i);
        const Group<float> signal = of_rows(a, i, rows, columns);
        const Group<float> level = of_rows(s, i, rows, columns);
        UNROLL
        for (int j = 0; j < 4; ++j) x.v[j] = noised(x.v[j], signal.v[j], level.v[j], z.v[j]);
        store(xt, i, n, x);
        if (eps) store(eps, i, n, z);
    });
}

KERNEL(denoise_step)(float* y, const float* xt, const float* output, i64 n, float from_xt,
                     float from_output, float low, float high, float on_x0, float on_xt,
                     float sigma, u64 seed, u64 draw, const u64* counter) {
    const Denoising c{from_xt, from_output, low, high, on_x0, on_xt, sigma};
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<float>(n, [=](i64 i) {
        Group<float> x = load(xt, i, n), z = {};
        const Group<float> out = load(output, i, n);
        if (sigma != 0.0f) z = normals(stream, i);
        UNROLL
        for (int j = 0; j < 4; ++j) x.v[j] = denoised(c, x.v[j], out.v[j], z.v[j]);
        store(y, i, n, x);
    });
}

KERNEL(squared_error)(double* sums, float* gradient, const float* output, const float* data,
                      const float* on_data, const float* on_noise, i64 rows, i64 columns,
                      float scale, u64 seed, u64 draw, const u64* counter) {
    const i64 n = rows * columns;
    const Stream stream = stream_at(seed, draw, counter);
    sum_of_chunks(sums, n, [=](i64 i) {
        Group<float> e = load(output, i, n), target = {}, z = {}, v = {};
        if (on_noise) {
            z = normals(stream, i);
            v = of_rows(on_noise, i, rows, columns);
        }
        if (data) {
            target = load(data, i, n);
            const Group<float> u = of_rows(on_data, i, rows, columns);
            UNROLL
            for (int j = 0; j < 4; ++j)
                target.v[j] = on_noise ? noised(target.v[j], u.v[j], v.v[j], z.v[j])
                                       : u.v[j] * target.v[j];
        } else {
            UNROLL
            for (int j = 0; j < 4; ++j) target.v[j] = v.v[j] * z.v[j];
        }
        Group<float> d;
        UNROLL
        for (int j = 0; j < 4; ++j) {
            e.v[j] = i + j < n ? e.v[j] - target.v[j] : 0.0f;
            d.v[j] = scale * e.v[j];
        }
        store(gradient, i, n, d);
        return e;
    });
}

KERNEL(sum_squares)(double* sums, const float* x, i64 n) {
    sum_of_chunks(sums, n, [=](i64 i) { return load(x, i, n); });
}

KERNEL(sum_chunks)(double* total, const double* sums, i64 n, double scale) {
    __shared__ double lanes[LANES];
    if (blockIdx.x != 0) return;
    for (int lane = threadIdx.x; lane < LANES; lane += blockDim.x) {
        double part = 0.0;
        for (i64 i = lane; i < n; i += LANES) part += sums[i];
        lanes[lane] = part;
    }
    const double sum = sum_of_lanes(lanes);
    if (threadIdx.x == 0) *total = sum * scale;
}

// -- activations ---------------------------------------------------------------------------------
#define FORWARD(name, activation)                                                                 \
    KERNEL(name)(float* y, const float* x, const float* bias, i64 bias_row, i64 rows,             \
                 i64 columns) {                                                                   \
        const i64 n = rows * columns;                                                             \
        for_groups<float>(n, [=](i64 i) {                                                         \
            Group<float> u = load(x, i, n);                                                       \
            const Group<float> b = biases(bias, bias_row, i, n, columns);                         \
            UNROLL                                                                                \
            for (int j = 0; j < 4; ++j) u.v[j] = activation(u.v[j] + b.v[j]);                     \
            store(y, i, n, u);                                                                    \
        });                                                                                       \
    }
FORWARD(bias_tanh, hyperbolic_tangent)
FORWARD(bias_sigmoid, logistic)
FORWARD(bias_relu, relu)
FORWARD(bias_leaky_relu, leaky_relu)
FORWARD(bias_silu, silu)
FORWARD(bias_gelu, gelu)

#define BACKWARD_OF_OUTPUT(name, slope)                                                           \
    KERNEL(name)(float* d, const float* g, const float* y, i64 n) {                               \
        for_groups<float>(n, [=](i64 i) {                                                         \
            Group<float> u = load(y, i, n);                                                       \
            const Group<float> of_y = load(g, i, n);                                              \
            UNROLL                                                                                \
            for (int j = 0; j < 4; ++j) u.v[j] = of_y.v[j] * slope(u.v[j]);                       \
            store(d, i, n, u);                                                                    \
        });                                                                                       \
    }
BACKWARD_OF_OUTPUT(tanh_backward, tanh_slope)
BACKWARD_OF_OUTPUT(sigmoid_backward, sigmoid_slope)
BACKWARD_OF_OUTPUT(relu_backward, relu_slope)

#define BACKWARD_OF_INPUT(name, slope)                                                            \
    KERNEL(name)(float* d, const float* g, const float* x, const float* bias, i64 bias_row,       \
                 i64 rows, i64 columns) {                                                         \
        const i64 n = rows * columns;                                                             \
        for_groups<float>(n, [=](i64 i) {                                                         \
            Group<float> u = load(x, i, n);                                                       \
            const Group<float> of_y = load(g, i, n), b = biases(bias, bias_row, i, n, columns);   \
            UNROLL                                                                                \
            for (int j = 0; j < 4; ++j) u.v[j] = of_y.v[j] * slope(u.v[j] + b.v[j]);              \
            store(d, i, n, u);                                                                    \
        });                                                                                       \
    }
BACKWARD_OF_INPUT(bias_leaky_relu_backward, leaky_relu_slope)
BACKWARD_OF_INPUT(bias_silu_backward, silu_slope)
BACKWARD_OF_INPUT(bias_gelu_backward, gelu_slope)

// -- likelihoods ---------------------------------------------------------------------------------
KERNEL(bce_with_logits)(float* loss, const float* l, const float* t, i64 n) {
    for_groups<float>(n, [=](i64 i) {
        Group<float> x = load(l, i, n);
        const Group<float> target = load(t, i, n);
        UNROLL
        for (int j = 0; j < 4; ++j) x.v[j] = cross_entropy(x.v[j], target.v[j]);
        store(loss, i, n, x);
    });
}

SHARED Group<float> logit_gradient(Group<float> g, Group<float> l, Group<float> t) {
    UNROLL
    for (int j = 0; j < 4; ++j) g.v[j] = g.v[j] * (logistic(l.v[j]) - t.v[j]);
    return g;
}

KERNEL(bce_with_logits_backward)(float* d, const float* g, const float* l, const float* t, i64 n) {
    for_groups<float>(n, [=](i64 i) {
        store(d, i, n, logit_gradient(load(g, i, n), load(l, i, n), load(t, i, n)));
    });
}

KERNEL(bce_with_logits_backward_by_row)(float* d, const float* g, i64 g_row, const float* l,
                                        const float* t, i64 rows, i64 columns) {
    const i64 n = rows * columns;
    for_groups<float>(n, [=](i64 i) {
        const Group<float> of_row = g_row ? of_rows(g, i, rows, columns)
                                          : of_rows(nullptr, i, rows, columns, *g);
        store(d, i, n, logit_gradient(of_row, load(l, i, n), load(t, i, n)));
    });
}

KERNEL(reparameterise)(float* out, const float* h, i64 rows, i64 columns, u64 seed, u64 draw,
                       const u64* counter) {
    const i64 n = rows * columns;
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<float>(n, [=](i64 i) {
        const Group<float> z = normals(stream, i);
        Place at = place(i, columns);
        UNROLL
        for (int j = 0; j < 4; ++j) {
            if (i + j < n) {
                const i64 first = i + j + at.row * columns;  // rows of h are twice as long
                const Latent latent{h[first], h[first + columns]};
                out[first] = sampled(latent, z.v[j]);
                out[first + columns] = divergence(latent);
            }
            if (++at.column == columns) at.column = 0, ++at.row;
        }
    });
}

KERNEL(reparameterise_backward)(float* d, const float* g, const float* h, i64 rows, i64 columns,
                                u64 seed, u64 draw, const u64* counter) {
    const i64 n = rows * columns;
    const Stream stream = stream_at(seed, draw, counter);
    for_groups<float>(n, [=](i64 i) {
        const Group<float> z = normals(stream, i);
        Place at = place(i, columns);
        UNROLL
        for (int j = 0; j < 4; ++j) {
            if (i + j < n) {
                const i64 first = i + j + at.row * columns;
                const Latent latent{h[first], h[first + columns]};
                const Latent of = latent_gradient(latent, g[first], g[first + columns], z.v[j]);
                d[first] = of.mean;
                d[first + columns] = of.log_var;
            }
            if (++at.column == columns) at.column = 0, ++at.row;
        }
    });
}

// -- Adam ----------------------------------------------------------------------------------------
KERNEL(adam)(float* p, const float* g, float* mean, float* square, float* average, i64 n,
             float beta1, float rest1, float beta2, float rest2,
             float step_size, float root, float eps, float keep, float follow) {
    const AdamStep c{beta1, rest1, beta2, rest2, step_size, root, eps, keep, follow};
    for_groups<float>(n, [=](i64 i) {
        Group<float> x = load(p, i, n), first = load(mean, i, n), second = load(square, i, n);
        const Group<float> gradient = load(g, i, n);
        UNROLL
        for (int j = 0; j < 4; ++j)
            adam_update(c, x.v[j], gradient.v[j], first.v[j], second.v[j]);
        store(p, i, n, x);
        store(mean, i, n, first);
        store(square, i, n, second);
        if (average) {
            Group<float> slow = load(average, i, n);
            UNROLL
            for (int j = 0; j < 4; ++j) slow.v[j] = averaged(c, slow.v[j], x.v[j]);
            store(average, i, n, slow);
        }
    });
}
