// Every kernel's name and arguments, once: kernels.cu and kernels.cpp define them, and the Python
// side reads the types of the arguments from this file.
//
// `seed, draw, counter` name a draw of the random stream (philox.h); counter, two numbers, may be null.
// Arrays are contiguous in C order. Pointers marked "or null" stand for what is left out.

#pragma once
#include "functions.h"

// Random fills of n elements.
KERNEL(fill_bits)(u32* out, i64 n, u64 seed, u64 draw, const u64* counter);
KERNEL(fill_integers)(i64* out, i64 n, u64 seed, u64 draw, const u64* counter, u64 size, u64 offset);
KERNEL(fill_uniform_f32)(float* out, i64 n, u64 seed, u64 draw, const u64* counter,
                         float low, float width, float last);
KERNEL(fill_uniform_f64)(double* out, i64 n, u64 seed, u64 draw, const u64* counter,
                         double low, double width, double last);
KERNEL(fill_normal_f32)(float* out, i64 n, u64 seed, u64 draw, const u64* counter,
                        float mean, float std);
KERNEL(fill_normal_f64)(double* out, i64 n, u64 seed, u64 draw, const u64* counter,
                        double mean, double std);

// x_t = a x_0 + s eps with a and s of each row; eps (or null) receives the noise.
KERNEL(noise_step)(float* xt, float* eps, const float* x0, const float* a, const float* s,
                   i64 rows, i64 columns, u64 seed, u64 draw, const u64* counter);

// One reverse step (see Denoising in formulas.h); y may be xt. Nothing is drawn if sigma is 0.
KERNEL(denoise_step)(float* y, const float* xt, const float* output, i64 n,
                     float from_xt, float from_output, float low, float high,
                     float on_x0, float on_xt, float sigma,
                     u64 seed, u64 draw, const u64* counter);

// e = output - target, gradient = scale e, and the sums of e^2 over chunks of error_chunk(n) elements.
// The target is data (or null for none), times on_data of its row (or null for 1), plus the noise
// of the draw times on_noise of its row (or null for none: nothing is drawn then).
KERNEL(squared_error)(double* sums, float* gradient, const float* output,
                      const float* data, const float* on_data, const float* on_noise,
                      i64 rows, i64 columns, float scale, u64 seed, u64 draw, const u64* counter);

// Sums of squares over chunks of 4096 elements; and sums of such sums over chunks of 4096, times scale
// (the sum of none is 0).
KERNEL(sum_squares)(double* sums, const float* x, i64 n);
// The same over the first arrays of a table, whose chunks follow one another; and those arrays times a
// factor, in place.
KERNEL(sum_squares_of_all)(double* sums, Table arrays);
KERNEL(scale_all)(Table arrays, float factor);
KERNEL(sum_chunks)(double* totals, const double* sums, i64 n, double scale);

// y = activation(x + bias). Row i begins at bias + i bias_row: bias_row is columns, or 0 for one row
// that is added to all.
KERNEL(bias_tanh)(float* y, const float* x, const float* bias, i64 bias_row, i64 rows, i64 columns);
KERNEL(bias_sigmoid)(float* y, const float* x, const float* bias, i64 bias_row, i64 rows, i64 columns);
KERNEL(bias_relu)(float* y, const float* x, const float* bias, i64 bias_row, i64 rows, i64 columns);
KERNEL(bias_leaky_relu)(float* y, const float* x, const float* bias, i64 bias_row, i64 rows, i64 columns);
KERNEL(bias_silu)(float* y, const float* x, const float* bias, i64 bias_row, i64 rows, i64 columns);
KERNEL(bias_gelu)(float* y, const float* x, const float* bias, i64 bias_row, i64 rows, i64 columns);

// d = g activation', from the value y where that is enough, else from x + bias.
KERNEL(tanh_backward)(float* d, const float* g, const float* y, i64 n);
KERNEL(sigmoid_backward)(float* d, const float* g, const float* y, i64 n);
KERNEL(relu_backward)(float* d, const float* g, const float* y, i64 n);
KERNEL(bias_leaky_relu_backward)(float* d, const float* g, const float* x, const float* bias,
                                 i64 bias_row, i64 rows, i64 columns);
KERNEL(bias_silu_backward)(float* d, const float* g, const float* x, const float* bias,
                           i64 bias_row, i64 rows, i64 columns);
KERNEL(bias_gelu_backward)(float* d, const float* g, const float* x, const float* bias,
                           i64 bias_row, i64 rows, i64 columns);

// y = (x - mean) / sqrt(variance + eps) for each row, then (1 + scale) y + shift. Row i of the modulation
// holds scale | shift and begins at modulation + i modulation_row: that is 2 columns, or 0 for one row
// for all. The modulation may be null. Then the gradients, that of the modulation also as scale | shift.
KERNEL(standardise)(float* y, const float* x, const float* modulation, i64 modulation_row, i64 rows,
                    i64 columns, float eps);
KERNEL(standardise_backward)(float* d, float* of_modulation, const float* g, const float* x,
                             const float* modulation, i64 modulation_row, i64 rows, i64 columns,
                             float eps);

// Binary cross-entropy of targets t under logits l, elementwise, in nats; its gradient in l. There
// g is full, or one number for each row (g_row = 1), or one for all (g_row = 0).
KERNEL(bce_with_logits)(float* loss, const float* l, const float* t, i64 n);
KERNEL(bce_with_logits_backward)(float* d, const float* g, const float* l, const float* t, i64 n);
KERNEL(bce_with_logits_backward_by_row)(float* d, const float* g, i64 g_row, const float* l,
                                        const float* t, i64 rows, i64 columns);

// h (rows, 2 columns) holds mean | log_var, out the same of z = mean + e^(log_var/2) eps | KL.
KERNEL(reparameterise)(float* out, const float* h, i64 rows, i64 columns,
                       u64 seed, u64 draw, const u64* counter);
KERNEL(reparameterise_backward)(float* d, const float* g, const float* h, i64 rows, i64 columns,
                                u64 seed, u64 draw, const u64* counter);

// One step of Adam or AdamW (see AdamStep in formulas.h), then of the moving average of p (or null).
KERNEL(adam)(float* p, const float* g, float* mean, float* square, float* average, i64 n,
             float beta1, float one_minus_beta1, float beta2, float one_minus_beta2,
             float step_size, float bias_correction, float eps,
             float weight_decay_factor, float one_minus_average_decay);
// The same for every row p, g, mean, square, average (or null) of a table.
KERNEL(adam_of_all)(Table arrays, float beta1, float one_minus_beta1, float beta2,
                    float one_minus_beta2, float step_size, float bias_correction, float eps,
                    float weight_decay_factor, float one_minus_average_decay);
