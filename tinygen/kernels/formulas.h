// What each kernel computes for one element. The loops around these formulas are in kernels.cu and
// kernels.cpp. Their definition is reference.py: the tests hold both forms to it.

#pragma once
#include "functions.h"

// -- diffusion -----------------------------------------------------------------------------------
// x_t = a x_0 + s eps (Ho et al. 2020, eq. 4).
SHARED float noised(float x0, float a, float s, float eps) { return multiply_add(a, x0, s * eps); }

// A reverse step of any sampler that is linear in x_t, the clipped estimate of x_0, and noise.
struct Denoising {
    float from_xt, from_output, low, high;  // x_0 = from_xt x_t + from_output output, clipped
    float on_x0, on_xt, sigma;              // y = on_x0 x_0 + on_xt x_t + sigma z
};

SHARED float denoised(Denoising c, float xt, float output, float z) {
    float x0 = multiply_add(c.from_xt, xt, c.from_output * output);
    x0 = bounded(x0, c.low, c.high);
    return multiply_add(c.sigma, z, multiply_add(c.on_x0, x0, c.on_xt * xt));
}

// -- activations of u = x + bias: the value, and the slope from the input or from the value --------
SHARED float relu(float u) { return u <= 0.0f ? 0.0f : u; }
SHARED float leaky_relu(float u) { return u > 0.0f ? u : 0.01f * u; }
// The sigmoid and the tail of the normal stay at 1e-38 where they would be smaller (functions.h). So
// the input that multiplies them is bounded as well: an infinite one times 0 is 0.
SHARED float silu(float u) {
    return (u < -104.0f ? -104.0f : u) / (1.0f + bounded_exponential(-u));
}
SHARED float gelu(float u) { return (u < -TAIL ? -TAIL : u) * gaussian(u).cumulative; }

SHARED float tanh_slope(float y) { return multiply_add(-y, y, 1.0f); }
SHARED float sigmoid_slope(float y) { return y * (1.0f - y); }
SHARED float relu_slope(float y) { return y > 0.0f ? 1.0f : y; }  // y is 0 elsewhere, or NaN
SHARED float leaky_relu_slope(float u) { return u > 0.0f ? 1.0f : u <= 0.0f ? 0.01f : u; }
SHARED float silu_slope(float u) {
    const Logistic s = logistic_pair(u);
    return s.value * multiply_add(bounded(u, -104.0f, 104.0f), s.complement, 1.0f);
}
SHARED float gelu_slope(float u) {
    const Gaussian n = gaussian(u);
    return multiply_add(bounded(u, -TAIL, TAIL), n.density, n.cumulative);
}

// Elements in each of the sums of squared errors: so few that there are a thousand sums for processors to
// share, but not fewer than 1024 and not more than 65536.
SHARED i64 error_chunk(i64 n) {
    i64 chunk = 1024;
    while (chunk < 65536 && 2048 * chunk <= n) chunk *= 2;
    return chunk;
}

// -- layer normalisation (Ba et al. 2016), with a scale and a shift of each element ---------------------
SHARED float inverse_deviation(float variance, float eps) { return 1.0f / square_root(variance + eps); }
SHARED float standardised(float x, float mean, float inverse) { return (x - mean) * inverse; }
SHARED float modulated(float z, float scale, float shift) { return multiply_add(z, 1.0f + scale, shift); }
// g without its parts along 1 and along z, which are the means of g and of g z.
SHARED float standardised_slope(float g, float z, float along_1, float along_z, float inverse) {
    return (g - multiply_add(z, along_z, along_1)) * inverse;
}

// -- likelihoods ---------------------------------------------------------------------------------
// -log Bernoulli(t; sigmoid(l)) = log(1 + e^l) - l t, in nats.
SHARED float cross_entropy(float l, float t) { return multiply_add(-l, t, softplus(l)); }

// The reparameterised sample z = mean + e^(log_var/2) eps, KL(N(mean, e^log_var) || N(0, 1)) in nats
// (Kingma & Welling 2013, eq. 10 and appendix B), and the gradient of both in mean and log_var.
SHARED float sampled(float mean, float log_var, float eps) {
    return multiply_add(exponential(0.5f * log_var), eps, mean);
}

SHARED float gaussian_kl(float mean, float log_var) {
    return 0.5f * multiply_add(mean, mean, excess(log_var));
}

struct Latent {
    float mean, log_var;
};

SHARED Latent latent_gradient(float mean, float log_var, float g_z, float g_kl, float eps) {
    const float noise = exponential(0.5f * log_var) * eps;
    const float variance_less_one = excess(log_var) + log_var;  // e^log_var - 1
    return Latent{multiply_add(g_kl, mean, g_z),
                  0.5f * multiply_add(g_z, noise, g_kl * variance_less_one)};
}

// -- Adam (Kingma & Ba 2015), decoupled weight decay (Loshchilov & Hutter 2019), average -----------
struct AdamStep {
    float beta1, one_minus_beta1;  // both: float32 cannot form the second from the first
    float beta2, one_minus_beta2;
    float step_size;        // lr / (1 - beta1^t)
    float bias_correction;  // 1 / sqrt(1 - beta2^t)
    float eps;
    float weight_decay_factor;  // 1 - lr weight_decay
    float one_minus_average_decay;
};

SHARED void adam_update(AdamStep c, float& p, float g, float& mean, float& square) {
    mean = multiply_add(c.beta1, mean, c.one_minus_beta1 * g);
    square = multiply_add(c.beta2, square, c.one_minus_beta2 * g * g);
    const float deviation = multiply_add(square_root(square), c.bias_correction, c.eps);
    p = multiply_add(-c.step_size, mean / deviation, c.weight_decay_factor * p);
}

SHARED float averaged(AdamStep c, float average, float p) {
    return multiply_add(c.one_minus_average_decay, p - average, average);
}
