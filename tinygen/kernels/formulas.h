// What each kernel computes for one element. The loops around these formulas are in kernels.cu and
// kernels.cpp; the NumPy forms in reference.py are the definition.

#pragma once
#include "functions.h"

// -- diffusion -----------------------------------------------------------------------------------
// x_t = a x_0 + s eps (Ho et al. 2020, eq. 4).
SHARED float noised(float x0, float a, float s, float eps) { return fused(a, x0, s * eps); }

// A reverse step of any sampler that is linear in x_t, the clipped estimate of x_0, and noise.
struct Denoising {
    float from_xt, from_output, low, high;  // x_0 = from_xt x_t + from_output output, clipped
    float on_x0, on_xt, sigma;              // y = on_x0 x_0 + on_xt x_t + sigma z
};

SHARED float denoised(Denoising c, float xt, float output, float z) {
    float x0 = fused(c.from_xt, xt, c.from_output * output);
    x0 = bounded(x0, c.low, c.high);
    return fused(c.sigma, z, fused(c.on_x0, x0, c.on_xt * xt));
}

// -- activations of u = x + bias: the value, and the slope from the input or from the value --------
SHARED float relu(float u) { return u <= 0.0f ? 0.0f : u; }
SHARED float leaky_relu(float u) { return u > 0.0f ? u : 0.01f * u; }
// The sigmoid and the normal's tail stop at 1e-38 (functions.h), so their factor is to stop as well.
SHARED float factor(float u) { return bounded(u, -104.0f, 104.0f); }

SHARED float silu(float u) {
    return (u < -104.0f ? -104.0f : u) / (1.0f + tame_exponential(-u));
}
SHARED float gelu(float u) { return (u < -TAIL ? -TAIL : u) * gaussian(u).below; }

SHARED float tanh_slope(float y) { return fused(-y, y, 1.0f); }
SHARED float sigmoid_slope(float y) { return y * (1.0f - y); }
SHARED float relu_slope(float y) { return y > 0.0f ? 1.0f : y; }  // y is 0 elsewhere, or NaN
SHARED float leaky_relu_slope(float u) { return u > 0.0f ? 1.0f : u <= 0.0f ? 0.01f : u; }
SHARED float silu_slope(float u) {
    const Logistic s = logistic_pair(u);
    return s.value * fused(factor(u), s.rest, 1.0f);
}
SHARED float gelu_slope(float u) {
    const Gaussian n = gaussian(u);
    return fused(bounded(u, -TAIL, TAIL), n.density, n.below);
}

// -- likelihoods ---------------------------------------------------------------------------------
// -log Bernoulli(t; sigmoid(l)) = log(1 + e^l) - l t, in nats.
SHARED float cross_entropy(float l, float t) { return fused(-l, t, soft_plus(l)); }

// The reparameterised sample z = mean + e^(log_var/2) eps, KL(N(mean, e^log_var) || N(0, 1)) in nats
// (Kingma & Welling 2013, eq. 10 and appendix B), and the gradient of both in mean and log_var.
SHARED float sampled(float mean, float log_var, float eps) {
    return fused(exponential(0.5f * log_var), eps, mean);
}

SHARED float divergence(float mean, float log_var) {
    return 0.5f * fused(mean, mean, exponential_less_linear(log_var));
}

struct Latent {
    float mean, log_var;
};

SHARED Latent latent_gradient(float mean, float log_var, float of_z, float of_kl, float eps) {
    const float noise = exponential(0.5f * log_var) * eps;
    const float surplus = exponential_less_linear(log_var) + log_var;  // e^log_var - 1
    return Latent{fused(of_kl, mean, of_z), 0.5f * fused(of_z, noise, of_kl * surplus)};
}

// -- Adam (Kingma & Ba 2015), decoupled weight decay (Loshchilov & Hutter 2019), average -----------
struct AdamStep {
    float beta1, rest1, beta2, rest2;  // rest = 1 - beta, which float32 cannot form from beta
    float step_size;                   // lr / (1 - beta1^t)
    float root;                        // 1 / sqrt(1 - beta2^t)
    float eps;
    float keep;                        // 1 - lr weight_decay
    float follow;                      // 1 - decay of the moving average
};

SHARED void adam_update(AdamStep c, float& p, float g, float& mean, float& square) {
    mean = fused(c.beta1, mean, c.rest1 * g);
    square = fused(c.beta2, square, c.rest2 * g * g);
    p = fused(-c.step_size, mean / fused(square_root(square), c.root, c.eps), c.keep * p);
}

SHARED float averaged(AdamStep c, float average, float p) {
    return fused(c.follow, p - average, average);
}
