// The kernels on the CPU: plain loops that the compiler vectorises. Long ones are cut into parts for the
// pool of threads that the products of matrices use.

#define KERNEL(name) extern "C" void name
#include "formulas.h"
#include "kernels.h"
#include "philox.h"
#include "products.h"

#define VECTORISED _Pragma("omp simd")

namespace {

constexpr int BLOCKS = 64;         // of Philox at a time: enough for the vector units, in the cache
constexpr int CHUNK = 4 * BLOCKS;  // words

i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

// body(from, to) for parts of 0 .. n that begin at multiples of `unit`, each worth a thread's while: an
// element costs `cost` tenths of a nanosecond. No part's results depend on where it begins.
template <class Body>
void in_parts(i64 n, i64 unit, i64 cost, const Body& body) {
    constexpr i64 WORTH_IT = 80000, MOST = 8;  // tenths of a nanosecond; parts
    const i64 units = (n + unit - 1) / unit, tasks = smaller(smaller(n * cost / WORTH_IT, units), MOST);
    if (tasks < 2) return body((i64)0, n);
    struct Job {
        const Body& body;
        i64 n, unit, units, tasks;
    } job{body, n, unit, units, tasks};
    const auto task = [](int64_t i, void* context) {
        const Job& j = *(const Job*)context;
        j.body(j.units * i / j.tasks * j.unit, smaller(j.units * (i + 1) / j.tasks * j.unit, j.n));
    };
    tg_parallel(tasks, task, &job);
}

// -- the random stream ---------------------------------------------------------------------------
struct WordsOfBlocks {
    alignas(64) u32 w0[BLOCKS], w1[BLOCKS], w2[BLOCKS], w3[BLOCKS];
};

void draw_words(Stream stream, u64 block, WordsOfBlocks& out) {
    VECTORISED
    for (int i = 0; i < BLOCKS; ++i) {
        const Words w = philox(stream, block + i);
        out.w0[i] = w.w0, out.w1[i] = w.w1, out.w2[i] = w.w2, out.w3[i] = w.w3;
    }
}

// Standard normals of the blocks from `block` on: CHUNK of float, half as many of double.
void draw_normals(Stream stream, u64 block, float* z) {
    WordsOfBlocks w;
    draw_words(stream, block, w);
    VECTORISED
    for (int i = 0; i < BLOCKS; ++i) {
        const Pair<float> a = box_muller(w.w0[i], w.w1[i]), b = box_muller(w.w2[i], w.w3[i]);
        z[4 * i] = a.cosine, z[4 * i + 1] = a.sine, z[4 * i + 2] = b.cosine, z[4 * i + 3] = b.sine;
    }
}

void draw_normals(Stream stream, u64 block, double* z) {
    WordsOfBlocks w;
    draw_words(stream, block, w);
    VECTORISED
    for (int i = 0; i < BLOCKS; ++i) {
        const Pair<double> p = box_muller(Words{w.w0[i], w.w1[i], w.w2[i], w.w3[i]});
        z[2 * i] = p.cosine, z[2 * i + 1] = p.sine;
    }
}

// body(start, count, words) for every chunk of a fill of n elements, `each` words an element.
template <int each, class Body>
void with_words(i64 n, Stream stream, Body body) {
    constexpr int step = CHUNK / each;
    in_parts(n, step, 6, [&](i64 from, i64 to) {
        alignas(64) u32 words[CHUNK];
        for (i64 start = from; start < to; start += step) {
            WordsOfBlocks w;
            draw_words(stream, start / step * BLOCKS, w);
            VECTORISED
            for (int i = 0; i < BLOCKS; ++i) {
                words[4 * i] = w.w0[i], words[4 * i + 1] = w.w1[i];
                words[4 * i + 2] = w.w2[i], words[4 * i + 3] = w.w3[i];
            }
            body(start, (int)smaller(step, to - start), words);
        }
    });
}

// body(start, count, z) for every chunk of n elements, with standard normals z.
template <class T, class Body>
void with_normals(i64 n, Stream stream, Body body) {
    constexpr int step = CHUNK / (sizeof(T) / 4);
    in_parts(n, step, 10, [&](i64 from, i64 to) {
        alignas(64) T z[step];
        for (i64 start = from; start < to; start += step) {
            draw_normals(stream, start / step * BLOCKS, z);
            body(start, (int)smaller(step, to - start), z);
        }
    });
}

// body(row, from, to) for the parts of rows that make up the elements start .. start + count.
template <class Body>
void by_row(i64 start, i64 count, i64 columns, Body body) {
    for (i64 i = start; i < start + count;) {
        const i64 row = i / columns, to = smaller((row + 1) * columns, start + count);
        body(row, i, to);
        i = to;
    }
}

// -- sums ----------------------------------------------------------------------------------------
// The same order of additions as on the GPU: 256 lanes of four neighbours, each of which adds every
// 1024th element in float; then the lanes by halves, in double.
constexpr int LANES = 256, STRIDE = 4 * LANES, SUM_CHUNK = 4 * STRIDE;

double sum_of_lanes(double* lanes) {
    for (int width = LANES / 2; width; width /= 2) {
        VECTORISED
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    return lanes[0];
}

// The sum of squares of a chunk's elements, which may come in pieces that begin at multiples of STRIDE.
struct SumOfChunk {
    alignas(64) float part[STRIDE] = {};

    template <class Value>
    void add(i64 count, Value value) {  // value(i) for i < count
        for (i64 start = 0; start < count; start += STRIDE) {
            const int length = (int)smaller(STRIDE, count - start);
            VECTORISED
            for (int i = 0; i < length; ++i) {
                const float e = value(start + i);
                part[i] = multiply_add(e, e, part[i]);
            }
        }
    }

    double sum() const {
        alignas(64) double lanes[LANES];
        VECTORISED
        for (int i = 0; i < LANES; ++i)
            lanes[i] = ((double)part[4 * i] + part[4 * i + 1]) +
                       ((double)part[4 * i + 2] + part[4 * i + 3]);
        return sum_of_lanes(lanes);
    }
};

// -- activations ---------------------------------------------------------------------------------
template <float (*activation)(float)>
void forward(float* y, const float* x, const float* bias, i64 bias_row, i64 rows, i64 columns) {
    in_parts(rows, 1, 4 * columns, [=](i64 from, i64 to) {
        for (i64 row = from; row < to; ++row) {
            const float* own = bias + row * bias_row;
            VECTORISED
            for (i64 j = 0; j < columns; ++j)
                y[row * columns + j] = activation(x[row * columns + j] + own[j]);
        }
    });
}

template <float (*slope)(float)>
void backward_of_input(float* d, const float* g, const float* x, const float* bias, i64 bias_row,
                       i64 rows, i64 columns) {
    in_parts(rows, 1, 4 * columns, [=](i64 from, i64 to) {
        for (i64 row = from; row < to; ++row) {
            const float* own = bias + row * bias_row;
            VECTORISED
            for (i64 j = 0; j < columns; ++j) {
                const i64 i = row * columns + j;
                d[i] = g[i] * slope(x[i] + own[j]);
            }
        }
    });
}

template <float (*slope)(float)>
void backward_of_output(float* d, const float* g, const float* y, i64 n) {
    in_parts(n, 16, 2, [=](i64 from, i64 to) {
        VECTORISED
        for (i64 i = from; i < to; ++i) d[i] = g[i] * slope(y[i]);
    });
}

}  // namespace

// -- fills ---------------------------------------------------------------------------------------
KERNEL(fill_bits)(u32* out, i64 n, u64 seed, u64 draw, const u64* counter) {
    with_words<1>(n, stream_at(seed, draw, counter), [=](i64 start, int count, const u32* words) {
        memcpy(out + start, words, count * sizeof *words);
    });
}

KERNEL(fill_integers)(i64* out, i64 n, u64 seed, u64 draw, const u64* counter, u64 size, u64 offset) {
    with_words<2>(n, stream_at(seed, draw, counter), [=](i64 start, int count, const u32* words) {
        VECTORISED
        for (int i = 0; i < count; ++i)
            out[start + i] = (i64)(scaled(words[2 * i], words[2 * i + 1], size) + offset);
    });
}

KERNEL(fill_uniform_f32)(float* out, i64 n, u64 seed, u64 draw, const u64* counter, float low,
                         float width, float last) {
    with_words<1>(n, stream_at(seed, draw, counter), [=](i64 start, int count, const u32* words) {
        VECTORISED
        for (int i = 0; i < count; ++i)
            out[start + i] = placed(unit(words[i]), low, width, last);
    });
}

KERNEL(fill_uniform_f64)(double* out, i64 n, u64 seed, u64 draw, const u64* counter, double low,
                         double width, double last) {
    with_words<2>(n, stream_at(seed, draw, counter), [=](i64 start, int count, const u32* words) {
        VECTORISED
        for (int i = 0; i < count; ++i)
            out[start + i] = placed(unit(words[2 * i], words[2 * i + 1]), low, width, last);
    });
}

KERNEL(fill_normal_f32)(float* out, i64 n, u64 seed, u64 draw, const u64* counter, float mean,
                        float std) {
    with_normals<float>(n, stream_at(seed, draw, counter), [=](i64 start, int count, const float* z) {
        VECTORISED
        for (int i = 0; i < count; ++i) out[start + i] = z[i] * std + mean;
    });
}

KERNEL(fill_normal_f64)(double* out, i64 n, u64 seed, u64 draw, const u64* counter, double mean,
                        double std) {
    with_normals<double>(n, stream_at(seed, draw, counter), [=](i64 start, int count, const double* z) {
        VECTORISED
        for (int i = 0; i < count; ++i) out[start + i] = z[i] * std + mean;
    });
}

// -- diffusion -----------------------------------------------------------------------------------
KERNEL(noise_step)(float* xt, float* eps, const float* x0, const float* a, const float* s, i64 rows,
                   i64 columns, u64 seed, u64 draw, const u64* counter) {
    const Stream stream = stream_at(seed, draw, counter);
    with_normals<float>(rows * columns, stream, [=](i64 start, int count, const float* z) {
        if (eps) memcpy(eps + start, z, count * sizeof *z);
        by_row(start, count, columns, [=](i64 row, i64 from, i64 to) {
            const float signal = a[row], level = s[row];
            VECTORISED
            for (i64 i = from; i < to; ++i) xt[i] = noised(x0[i], signal, level, z[i - start]);
        });
    });
}

KERNEL(denoise_step)(float* y, const float* xt, const float* output, i64 n, float from_xt,
                     float from_output, float low, float high, float on_x0, float on_xt,
                     float sigma, u64 seed, u64 draw, const u64* counter) {
    const Denoising c{from_xt, from_output, low, high, on_x0, on_xt, sigma};
    if (sigma == 0.0f) {
        return in_parts(n, 16, 2, [=](i64 from, i64 to) {
            VECTORISED
            for (i64 i = from; i < to; ++i) y[i] = denoised(c, xt[i], output[i], 0.0f);
        });
    }
    with_normals<float>(n, stream_at(seed, draw, counter), [=](i64 start, int count, const float* z) {
        VECTORISED
        for (int i = 0; i < count; ++i)
            y[start + i] = denoised(c, xt[start + i], output[start + i], z[i]);
    });
}

KERNEL(squared_error)(double* sums, float* gradient, const float* output, const float* data,
                      const float* on_data, const float* on_noise, i64 rows, i64 columns,
                      float scale, u64 seed, u64 draw, const u64* counter) {
    const i64 n = rows * columns;
    const Stream stream = stream_at(seed, draw, counter);
    const i64 size = error_chunk(n);
    in_parts(n, size, 12, [=](i64 from_chunk, i64 to_chunk) {
        alignas(64) float target[STRIDE];
        for (i64 chunk = from_chunk / size; chunk * size < to_chunk; ++chunk) {
            SumOfChunk squares;
            const i64 end = smaller((chunk + 1) * size, n);
            for (i64 start = chunk * size; start < end; start += STRIDE) {
                const i64 count = smaller(STRIDE, end - start);
                for (i64 i = 0; i < count; i += CHUNK) {
                    if (on_noise) draw_normals(stream, (start + i) / 4, target + i);
                }
                if (!on_noise) memset(target, 0, sizeof target);
                by_row(start, count, columns, [=, &target](i64 row, i64 from, i64 to) {
                    const float u = on_data ? on_data[row] : 1.0f, v = on_noise ? on_noise[row] : 0.0f;
                    float* part = target + (from - start);
                    if (data) {
                        VECTORISED
                        for (i64 i = 0; i < to - from; ++i) part[i] = noised(data[from + i], u, v, part[i]);
                    } else {
                        VECTORISED
                        for (i64 i = 0; i < to - from; ++i) part[i] = noised(0.0f, u, v, part[i]);
                    }
                });
                squares.add(count, [=, &target](i64 i) {
                    const float e = output[start + i] - target[i];
                    gradient[start + i] = scale * e;
                    return e;
                });
            }
            sums[chunk] = squares.sum();
        }
    });
}

KERNEL(sum_squares)(double* sums, const float* x, i64 n) {
    in_parts(n, SUM_CHUNK, 1, [=](i64 from, i64 to) {
        for (i64 start = from; start < to; start += SUM_CHUNK) {
            const float* part = x + start;
            SumOfChunk squares;
            squares.add(smaller(SUM_CHUNK, to - start), [=](i64 i) { return part[i]; });
            sums[start / SUM_CHUNK] = squares.sum();
        }
    });
}

KERNEL(sum_squares_of_all)(double* sums, Table arrays) {
    for (i64 k = 0; k < arrays.rows; ++k) {
        const i64 n = arrays.row[k].n;
        sum_squares(sums, arrays.row[k].at[0], n);
        sums += (n + SUM_CHUNK - 1) / SUM_CHUNK;
    }
}

KERNEL(scale_all)(Table arrays, float factor) {
    for (i64 k = 0; k < arrays.rows; ++k) {
        float* x = arrays.row[k].at[0];
        in_parts(arrays.row[k].n, 16, 1, [=](i64 from, i64 to) {
            VECTORISED
            for (i64 i = from; i < to; ++i) x[i] *= factor;
        });
    }
}

KERNEL(sum_chunks)(double* totals, const double* sums, i64 n, double scale) {
    for (i64 chunk = 0; chunk == 0 || chunk * SUM_CHUNK < n; ++chunk) {
        alignas(64) double lanes[LANES] = {};
        const i64 start = chunk * SUM_CHUNK, end = smaller(start + SUM_CHUNK, n);
        for (i64 i = start; i < end; ++i) lanes[(i - start) % LANES] += sums[i];
        totals[chunk] = sum_of_lanes(lanes) * scale;
    }
}

// -- activations ---------------------------------------------------------------------------------
#include "activations.h"

// -- rows ----------------------------------------------------------------------------------------
// The same order of additions as on the GPU: 32 lanes of four neighbours, each of which adds every
// 128th element; then the lanes by halves.
template <class Value>
float sum_of_row(i64 columns, Value value) {
    constexpr int ROW_LANES = 32, ROW_STRIDE = 4 * ROW_LANES;
    alignas(64) float part[ROW_STRIDE] = {}, lanes[ROW_LANES];
    i64 start = 0;
    for (; start + ROW_STRIDE <= columns; start += ROW_STRIDE) {
        VECTORISED
        for (int i = 0; i < ROW_STRIDE; ++i) part[i] += value(start + i);
    }
    VECTORISED
    for (i64 i = 0; i < columns - start; ++i) part[i] += value(start + i);
    for (int i = 0; i < ROW_LANES; ++i) {
        const float* four = part + 4 * i;
        lanes[i] = (four[0] + four[1]) + (four[2] + four[3]);
    }
    for (int width = ROW_LANES / 2; width; width /= 2) {
        VECTORISED
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    return lanes[0];
}

struct Row {
    float mean, inverse;
};

static Row row_of(const float* x, i64 columns, float eps) {
    const float n = (float)columns, mean = sum_of_row(columns, [=](i64 i) { return x[i]; }) / n;
    const float variance = sum_of_row(columns, [=](i64 i) { return (x[i] - mean) * (x[i] - mean); }) / n;
    return Row{mean, inverse_deviation(variance, eps)};
}

KERNEL(standardise)(float* y, const float* x, const float* modulation, i64 modulation_row, i64 rows,
                    i64 columns, float eps) {
    in_parts(rows, 1, 4 * columns, [=](i64 from, i64 to) {
        for (i64 row = from; row < to; ++row) {
            const float* of = x + row * columns;
            const float* scale = modulation ? modulation + row * modulation_row : nullptr;
            float* out = y + row * columns;
            const Row r = row_of(of, columns, eps);
            if (modulation) {
                VECTORISED
                for (i64 i = 0; i < columns; ++i)
                    out[i] = modulated(standardised(of[i], r.mean, r.inverse), scale[i],
                                       scale[columns + i]);
            } else {
                VECTORISED
                for (i64 i = 0; i < columns; ++i) out[i] = standardised(of[i], r.mean, r.inverse);
            }
        }
    });
}

template <bool has_modulation>
void standardise_gradient(float* d, float* of_modulation, const float* g, const float* x,
                          const float* modulation, i64 modulation_row, i64 rows, i64 columns, float eps) {
    in_parts(rows, 1, 8 * columns, [=](i64 from, i64 to) {
        for (i64 row = from; row < to; ++row) {
            const float *of = x + row * columns, *of_y = g + row * columns;
            const float* scale = modulation ? modulation + row * modulation_row : nullptr;
            float* out = d + row * columns;
            float* of_scale = has_modulation ? of_modulation + 2 * row * columns : nullptr;
            const Row r = row_of(of, columns, eps);
            const auto of_z = [=](i64 i) {
                return has_modulation ? modulated(of_y[i], scale[i], 0.0f) : of_y[i];
            };
            const auto z = [=](i64 i) { return standardised(of[i], r.mean, r.inverse); };
            const float n = (float)columns, along_1 = sum_of_row(columns, of_z) / n;
            const float along_z = sum_of_row(columns, [=](i64 i) { return of_z(i) * z(i); }) / n;
            VECTORISED
            for (i64 i = 0; i < columns; ++i) {
                if (has_modulation) {
                    of_scale[i] = of_y[i] * z(i);
                    of_scale[columns + i] = of_y[i];
                }
                out[i] = standardised_slope(of_z(i), z(i), along_1, along_z, r.inverse);
            }
        }
    });
}

KERNEL(standardise_backward)(float* d, float* of_modulation, const float* g, const float* x,
                             const float* modulation, i64 modulation_row, i64 rows, i64 columns,
                             float eps) {
    (modulation ? standardise_gradient<true> : standardise_gradient<false>)(
        d, of_modulation, g, x, modulation, modulation_row, rows, columns, eps);
}

// -- likelihoods ---------------------------------------------------------------------------------
KERNEL(bce_with_logits)(float* loss, const float* l, const float* t, i64 n) {
    in_parts(n, 16, 6, [=](i64 from, i64 to) {
        VECTORISED
        for (i64 i = from; i < to; ++i) loss[i] = cross_entropy(l[i], t[i]);
    });
}

KERNEL(bce_with_logits_backward)(float* d, const float* g, const float* l, const float* t, i64 n) {
    in_parts(n, 16, 4, [=](i64 from, i64 to) {
        VECTORISED
        for (i64 i = from; i < to; ++i) d[i] = g[i] * (logistic(l[i]) - t[i]);
    });
}

KERNEL(bce_with_logits_backward_by_row)(float* d, const float* g, i64 g_row, const float* l,
                                        const float* t, i64 rows, i64 columns) {
    in_parts(rows, 1, 4 * columns, [=](i64 from, i64 to) {
        for (i64 row = from; row < to; ++row) {
            const float of_row = g[row * g_row];
            VECTORISED
            for (i64 i = row * columns; i < (row + 1) * columns; ++i)
                d[i] = of_row * (logistic(l[i]) - t[i]);
        }
    });
}

KERNEL(reparameterise)(float* out, const float* h, i64 rows, i64 columns, u64 seed, u64 draw,
                       const u64* counter) {
    const Stream stream = stream_at(seed, draw, counter);
    with_normals<float>(rows * columns, stream, [=](i64 start, int count, const float* z) {
        by_row(start, count, columns, [=](i64 row, i64 from, i64 to) {
            const i64 left = row * columns;  // of what the rows before have added
            VECTORISED
            for (i64 i = from; i < to; ++i) {
                const float mean = h[left + i], log_var = h[left + columns + i];
                out[left + i] = sampled(mean, log_var, z[i - start]);
                out[left + columns + i] = gaussian_kl(mean, log_var);
            }
        });
    });
}

KERNEL(reparameterise_backward)(float* d, const float* g, const float* h, i64 rows, i64 columns,
                                u64 seed, u64 draw, const u64* counter) {
    const Stream stream = stream_at(seed, draw, counter);
    with_normals<float>(rows * columns, stream, [=](i64 start, int count, const float* z) {
        by_row(start, count, columns, [=](i64 row, i64 from, i64 to) {
            const i64 left = row * columns;
            VECTORISED
            for (i64 i = from; i < to; ++i) {
                const Latent of = latent_gradient(h[left + i], h[left + columns + i], g[left + i],
                                                  g[left + columns + i], z[i - start]);
                d[left + i] = of.mean;
                d[left + columns + i] = of.log_var;
            }
        });
    });
}

// -- Adam ----------------------------------------------------------------------------------------
KERNEL(adam)(float* p, const float* g, float* mean, float* square, float* average, i64 n,
             float beta1, float one_minus_beta1, float beta2, float one_minus_beta2,
             float step_size, float bias_correction, float eps,
             float weight_decay_factor, float one_minus_average_decay) {
    const AdamStep c{beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, bias_correction,
                     eps, weight_decay_factor, one_minus_average_decay};
    in_parts(n, 16, 8, [=](i64 from, i64 to) {
        if (average) {
            VECTORISED
            for (i64 i = from; i < to; ++i) {
                adam_update(c, p[i], g[i], mean[i], square[i]);
                average[i] = averaged(c, average[i], p[i]);
            }
        } else {
            VECTORISED
            for (i64 i = from; i < to; ++i) adam_update(c, p[i], g[i], mean[i], square[i]);
        }
    });
}

KERNEL(adam_of_all)(Table arrays, float beta1, float one_minus_beta1, float beta2,
                    float one_minus_beta2, float step_size, float bias_correction, float eps,
                    float weight_decay_factor, float one_minus_average_decay) {
    for (i64 k = 0; k < arrays.rows; ++k) {
        float* const* at = arrays.row[k].at;
        adam(at[0], at[1], at[2], at[3], at[4], arrays.row[k].n, beta1, one_minus_beta1, beta2,
             one_minus_beta2, step_size, bias_correction, eps, weight_decay_factor,
             one_minus_average_decay);
    }
}
