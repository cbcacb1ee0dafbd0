"""What the kernels compute, in the functions of a namespace `m`: their definition.

`m` has NumPy's functions and tinygen's operations (`m.sigmoid`, `m.excess`). So these formulas compute
where no kernel takes the arrays: without a compiler, in float64, for views. With Tensors, whose `m` is
the vocabulary, they build the graph of a derivative. The CUDA and C++ forms, in formulas.h, are tested
against them. `noise` stands for standard normals, which fused.py draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf, pi, sqrt
from typing import Any, NamedTuple

import numpy as np

from tinygen.backend import namespace_of, recorder, vocabulary

Array = Any


def constant(m: Any, x: Array) -> tuple[Any, Array]:
    """Namespace and array to compute with what has no derivative in x, also if x is a Tensor."""
    return (namespace_of(x.data), x.data) if m is vocabulary else (m, x)


# -- diffusion -----------------------------------------------------------------------------------
def noise_step(x0: Array, a: Array, s: Array, noise: Array) -> Array:
    """x_t = a x_0 + s ε (Ho et al. 2020, eq. 4), with a and s of each row."""
    return a[:, None] * x0 + s[:, None] * noise


class Denoising(NamedTuple):
    """The numbers of one reverse step that is linear in x_t, the clipped estimate of x_0, and noise:

    x_0 = clip(from_xt x_t + from_output output, low, high), y = on_x0 x_0 + on_xt x_t + sigma z.
    """

    from_xt: float
    from_output: float
    low: float
    high: float
    on_x0: float
    on_xt: float
    sigma: float


def denoise_step(m: Any, xt: Array, output: Array, step: Denoising, noise: Array | None) -> Array:
    """y of a reverse step: DDPM (Ho et al. 2020, eq. 7), DDIM (Song et al. 2021, eq. 12). No noise: z = 0."""
    x0 = step.from_xt * xt + step.from_output * output
    if step.low > -inf or step.high < inf:
        x0 = m.clip(x0, step.low, step.high)
    mean = step.on_x0 * x0 + step.on_xt * xt
    return mean if noise is None else mean + step.sigma * noise


def squared_error(
    m: Any,
    output: Array,
    data: Array | None,
    on_data: Array | None,
    on_noise: Array | None,
    noise: Array | None,
) -> tuple[Array, Array]:
    """The mean of e² with e = output - (on_data · data + on_noise · ε), and its gradient 2 e / size
    (Ho et al. 2020, eq. 14). None for data of 0, on_data of 1, on_noise of 0."""
    error = output
    if data is not None:
        error = error - (data if on_data is None else on_data[:, None] * data)
    if on_noise is not None:
        error = error - on_noise[:, None] * noise
    return m.mean(m.square(error)), (2.0 / max(error.size, 1)) * error


def sum_squares(m: Any, arrays: Sequence[Array]) -> Array:
    """Σ x² over all elements of all arrays, in float64."""
    return sum((m.sum(m.square(x), dtype=np.float64) for x in arrays), m.zeros((), np.float64))


# -- the slopes of activations, from the value y where that is enough, else from the input x -------
def tanh_slope(m: Any, y: Array) -> Array:
    """1 - y²."""
    return 1.0 - m.square(y)


def sigmoid_slope(m: Any, y: Array) -> Array:
    """y (1 - y)."""
    return y * (1.0 - y)


def relu_slope(m: Any, y: Array) -> Array:
    """1 where y > 0, 0 where it is 0, NaN where it is NaN."""
    return _unit_step(*constant(m, y))


def softplus_slope(m: Any, x: Array) -> Array:
    """The sigmoid of x."""
    return m.sigmoid(x)


def leaky_relu_slope(m: Any, x: Array, slope: float = 0.01) -> Array:
    """1 where x > 0, the slope where x ≤ 0, NaN where it is NaN; 0 ≤ slope ≤ 1."""
    m, x = constant(m, x)
    step = _unit_step(m, x)
    return m.clip(step, slope, 1.0, out=step)


def _unit_step(m: Any, x: Array) -> Array:
    """1 where x > 0, 0 where x ≤ 0, NaN where it is NaN. (`where` would take far longer.)"""
    step = m.asarray(m.clip(x, 0.0, 1.0))
    return m.ceil(step, out=step)


def elu_slope(m: Any, x: Array, alpha: float = 1.0) -> Array:
    """1 where x > 0, alpha exp(x) elsewhere (Clevert et al. 2015)."""
    return m.where(x > 0, 1.0, alpha * m.exp(m.minimum(x, 0.0)))


FAR, FAR_NORMAL = 750.0, 40.0
"""Beyond these e^-x, or the tail of the normal, is 0 in every dtype: 0 · x is taken there, not 0 · ∞."""


def silu_slope(m: Any, x: Array) -> Array:
    """σ (1 + x (1 - σ)) with σ the sigmoid of x."""
    s = m.sigmoid(x)
    return s * (1.0 + m.clip(x, -FAR, FAR) * (1.0 - s))


def gelu_slope(m: Any, x: Array) -> Array:
    """Φ(x) + x φ(x), with the distribution function and the density of N(0, 1)."""
    x = m.clip(x, -FAR_NORMAL, FAR_NORMAL)
    return m.ndtr(x) + x * normal_density(m, x)


def normal_density(m: Any, x: Array) -> Array:
    """φ(x) = exp(-x²/2) / √(2π)."""
    return (1.0 / sqrt(2.0 * pi)) * m.exp(-0.5 * m.square(x))


Slope = Callable[[Any, Array], Array]
SLOPE_FROM_VALUE: dict[str, Slope] = {
    "tanh": tanh_slope, "sigmoid": sigmoid_slope, "relu": relu_slope,
}  # fmt: skip
SLOPE_FROM_INPUT: dict[str, Slope] = {
    "softplus": softplus_slope, "leaky_relu": leaky_relu_slope, "elu": elu_slope,
    "silu": silu_slope, "gelu": gelu_slope,
}  # fmt: skip


def bias_activation(m: Any, name: str, x: Array, bias: Array) -> Array:
    """activation(x + bias): a layer after its product; the activation is that of m."""
    return getattr(m, name)(m.add(x, bias))


def activation_backward(m: Any, name: str, g: Array, of: Array, bias: Array | None) -> Array:
    """g · activation', from its value, or from its input and the bias."""
    if name in SLOPE_FROM_VALUE:
        return g * SLOPE_FROM_VALUE[name](m, of)
    return g * SLOPE_FROM_INPUT[name](m, m.add(of, bias))


# -- layer normalisation -------------------------------------------------------------------------
def standardise(
    m: Any, x: Array, modulation: Array | None, eps: float
) -> tuple[Array, tuple[Array, Array]]:
    """z = (x - mean) / sqrt(var + eps) over the last axis (Ba et al. 2016, eq. 4), or, with a modulation
    scale | shift, (1 + scale) z + shift (Perez et al. 2018); and z with the deviation, for the slope."""
    centred = x - m.mean(x, axis=-1, keepdims=True)
    deviation = m.sqrt(m.mean(m.square(centred), axis=-1, keepdims=True) + eps)
    z = centred / deviation
    if modulation is None:
        return z, (z, deviation)
    scale, shift = m.split(modulation, 2, axis=-1)
    return z * (1.0 + scale) + shift, (z, deviation)


def standardise_backward(
    m: Any, g: Array, modulation: Array | None, z: Array, deviation: Array
) -> tuple[Array, Array | None]:
    """g without its parts along 1 and along z: moving x along those leaves z where it is. And the
    gradient in scale | shift."""
    of_modulation = None
    if modulation is not None:
        of_modulation = m.concatenate([g * z, g], axis=-1)
        g = g * (1.0 + m.split(modulation, 2, axis=-1)[0])
    along = m.mean(g, axis=-1, keepdims=True) + z * m.mean(g * z, axis=-1, keepdims=True)
    return (g - along) / deviation, of_modulation


# -- likelihoods ---------------------------------------------------------------------------------
def bce_with_logits(m: Any, logits: Array, targets: Array) -> Array:
    """-log Bernoulli(t; sigmoid(l)) = max(l, 0) - l t + log(1 + exp(-|l|)), in nats."""
    # The logarithm is of a number in (1, 2]: `log` is as good as `log1p` next to the other terms,
    # and much faster.
    return m.maximum(logits, 0.0) - logits * targets + m.log(1.0 + m.exp(-m.abs(logits)))


def bce_with_logits_backward(m: Any, g: Array, logits: Array, targets: Array) -> Array:
    """g · (sigmoid(l) - t)."""
    return g * (m.sigmoid(logits) - targets)


def reparameterise(m: Any, h: Array, noise: Array) -> Array:
    """h = mean | log variance to z = mean + std ε | KL(N(mean, std²) ‖ N(0, 1))
    (Kingma & Welling 2013, eq. 10 and appendix B)."""
    mean, log_var = m.split(h, 2, axis=-1)
    z = mean + m.exp(0.5 * log_var) * noise
    return m.concatenate([z, m.gaussian_kl(mean, log_var)], axis=-1)


def reparameterise_backward(m: Any, g: Array, h: Array, noise: Array) -> Array:
    """The gradient in mean | log variance, from g of z | KL: with dz/dlog_var = std ε / 2,
    dKL/dmean = mean and dKL/dlog_var = (exp(log_var) - 1) / 2."""
    (mean, log_var), (g_z, g_kl) = m.split(h, 2, axis=-1), m.split(g, 2, axis=-1)
    scaled_noise = m.exp(0.5 * log_var) * noise
    of_log_var = 0.5 * (g_z * scaled_noise + g_kl * m.expm1(log_var))
    return m.concatenate([g_z + g_kl * mean, of_log_var], axis=-1)


# -- Adam ----------------------------------------------------------------------------------------
class AdamStep(NamedTuple):
    """The numbers of step t of Adam or AdamW, and of a moving average of the parameters."""

    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    step_size: float
    """lr / (1 - beta1^t)."""
    bias_correction: float
    """1 / sqrt(1 - beta2^t)."""
    eps: float
    weight_decay_factor: float
    """1 - lr · weight_decay; 1 for Adam."""
    one_minus_average_decay: float


def adam(
    m: Any, p: Array, g: Array, mean: Array, square: Array, average: Array | None, step: AdamStep
) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1), AdamW (Loshchilov & Hutter 2019, algorithm 2), in place:

    m_t = β1 m + (1 - β1) g, v_t = β2 v + (1 - β2) g²,
    p ← (1 - lr λ) p - lr / (1 - β1^t) · m_t / (sqrt(v_t / (1 - β2^t)) + ε).
    """
    arrays = [p, g, mean, square, *([] if average is None else [average])]
    for p_, g_, mean_, square_, *average_ in blocks(arrays):
        mean_ *= step.beta1
        mean_ += step.one_minus_beta1 * g_
        scratch = g_ * g_
        scratch *= step.one_minus_beta2
        square_ *= step.beta2
        square_ += scratch
        m.sqrt(square_, out=scratch)
        scratch *= step.bias_correction
        scratch += step.eps
        m.divide(mean_, scratch, out=scratch)
        scratch *= step.step_size
        p_ *= step.weight_decay_factor
        p_ -= scratch
        for a in average_:
            a += step.one_minus_average_decay * (p_ - a)


BLOCK = 1 << 15
"""Elements of an array at a time, so that the many small passes over them stay in the cache."""


def blocks(arrays: Sequence[Array]) -> Iterator[list[Array]]:
    """Flat views of the arrays, block by block. All but the second, the gradient, are written to.

    ValueError: one of those is not contiguous.
    """
    for a in (arrays[0], *arrays[2:]):
        if not a.flags.c_contiguous:  # reshape would copy, and the update would be lost
            raise ValueError(
                f"a parameter of shape {a.shape} is not contiguous: it cannot be updated"
            )
    flat = [a.reshape(-1) for a in arrays]
    block = BLOCK if recorder.get() is None else max(flat[0].size, 1)  # a program fuses the passes
    for start in range(0, flat[0].size, block):
        yield [a[start : start + block] for a in flat]
