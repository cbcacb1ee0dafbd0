"""The fused kernels as one table: what each takes, what it computes, how many bytes it must move.

`plain` is the same mathematics in array operations whose names NumPy, CuPy and PyTorch share. In
NumPy and float64 it is the oracle; in CuPy and PyTorch it is what the kernel saves.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinygen import kernels
from tinygen.kernels import Draw, dispatch, fused, philox, reference

__all__ = ["BY_NAME", "KERNELS", "TARGETS", "Kernel", "exact_normals", "inputs"]

Array = Any
Make = Callable[..., Array]  # of a shape, as separate numbers
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


class Kernel(NamedTuple):
    """One line of the table; n = rows · columns elements."""

    name: str
    bytes: int  # an element: what must be read, plus what must be written
    make: Callable[[Make, Make, int, int], dict[str, Array]]
    """Arrays by name, of normal(*shape) and uniform(*shape)."""
    call: Callable[[Any, Any, Draw], list[Array]]
    """The results by the fused function of `tinygen.kernels`, from (m, arrays, draw)."""
    plain: Callable[[Any, Any, Callable[..., Array]], list[Array]] | None
    """The same from (m, arrays, noise), noise(shape) being standard normals."""
    definition: Callable[[Any, Draw], list[Array]] | None = None
    """Instead of `plain`, for random fills: NumPy's form, from (arrays, draw)."""
    tolerance: float = 1e-6  # of ‖out − oracle‖ / ‖oracle‖


def inputs(kernel: Kernel, normal: Make, uniform: Make, rows: int, columns: int) -> Any:
    """A named tuple of the number of elements n and the arrays of a kernel."""
    arrays = kernel.make(normal, uniform, rows, columns)
    return namedtuple("Inputs", ["n", *arrays])(rows * columns, **arrays)


@functools.lru_cache(maxsize=4)
def exact_normals(n: int, draw: Draw) -> Array:
    """The float32 normals of a draw, in float64 (Box & Muller on the words of the stream)."""
    words = philox.bits(n + n % 2, *draw.on_host()) >> np.uint32(8)
    radius = np.sqrt(-2 * np.log((words[0::2].astype(np.float64) + 1) * 2.0**-24))
    angle = words[1::2] * (2 * np.pi * 2.0**-24)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(-1)[:n]


# -- random fills --------------------------------------------------------------------------------
def _nothing(normal: Make, uniform: Make, rows: int, columns: int) -> dict[str, Array]:
    return {}


FILLS = [
    Kernel("fill_bits", 4, _nothing, lambda m, x, draw: [kernels.bits(m, x.n, draw)], None,
           lambda x, draw: [philox.bits(x.n, *draw.on_host())], 0.0),
    Kernel("fill_integers", 8, _nothing,
           lambda m, x, draw: [kernels.integers(m, x.n, draw, -7, 2**32 - 7)], None,
           lambda x, draw: [philox.integers(x.n, *draw.on_host(), -7, 2**32 - 7)], 0.0),
    Kernel("fill_uniform_f32", 4, _nothing,
           lambda m, x, draw: [kernels.uniform(m, x.n, draw, -2.5, 0.1, F32)], None,
           lambda x, draw: [philox.uniform(x.n, *draw.on_host(), -2.5, 0.1, F32)], 0.0),
    Kernel("fill_uniform_f64", 8, _nothing,
           lambda m, x, draw: [kernels.uniform(m, x.n, draw, -2.5, 0.1, F64)], None,
           lambda x, draw: [philox.uniform(x.n, *draw.on_host(), -2.5, 0.1, F64)], 0.0),
    Kernel("fill_normal_f32", 4, _nothing,
           lambda m, x, draw: [kernels.normal(m, x.n, draw, 0.0, 1.0, F32)],
           lambda m, x, noise: [noise((x.n,))]),
    Kernel("fill_normal_f64", 8, _nothing,
           lambda m, x, draw: [kernels.normal(m, x.n, draw, -0.5, 3.0, F64)], None,
           lambda x, draw: [philox.normal(x.n, *draw.on_host(), -0.5, 3.0, F64)], 1e-14),
]  # fmt: skip


# -- diffusion -----------------------------------------------------------------------------------
STEP = kernels.Denoising(1.5, -0.75, -1.0, 1.25, 0.375, 0.625, 0.5)


def _denoised(m: Any, x: Any, noise: Callable[..., Array]) -> list[Array]:
    c = STEP
    x0 = m.clip(c.from_xt * x.xt + c.from_output * x.output, c.low, c.high)
    return [c.on_x0 * x0 + c.on_xt * x.xt + c.sigma * noise(x.xt.shape)]


def _error(m: Any, e: Array) -> list[Array]:
    return [m.mean(m.square(e)), (2.0 / max(prod(e.shape), 1)) * e]


DIFFUSION = [
    Kernel("noise_step", 8,
           lambda normal, uniform, r, c: dict(x0=normal(r, c), a=uniform(r), s=uniform(r)),
           lambda m, x, draw: [kernels.noise_step(m, x.x0, x.a, x.s, draw)[0]],
           lambda m, x, noise: [x.a[:, None] * x.x0 + x.s[:, None] * noise(x.x0.shape)]),
    Kernel("noise_step, noise kept", 12,
           lambda normal, uniform, r, c: dict(x0=normal(r, c), a=uniform(r), s=uniform(r)),
           lambda m, x, draw: list(kernels.noise_step(m, x.x0, x.a, x.s, draw, True)),
           lambda m, x, noise: [x.a[:, None] * x.x0 + x.s[:, None] * (z := noise(x.x0.shape)), z]),
    Kernel("denoise_step", 12,
           lambda normal, uniform, r, c: dict(xt=normal(r, c), output=normal(r, c)),
           lambda m, x, draw: [kernels.denoise_step(m, x.xt, x.output, STEP, draw)], _denoised),
    Kernel("denoise_step, in place", 12,
           lambda normal, uniform, r, c: dict(xt=normal(r, c), output=normal(r, c)),
           lambda m, x, draw: [kernels.denoise_step(m, x.xt, x.output, STEP, draw, x.xt)],
           _denoised),
    Kernel("squared_error", 8,
           lambda normal, uniform, r, c: dict(output=normal(r, c), ones=uniform(r) * 0 + 1),
           lambda m, x, draw: list(
               kernels.squared_error(m, x.output, None, None, x.ones, draw)),
           lambda m, x, noise: _error(m, x.output - noise(x.output.shape))),
    Kernel("squared_error, velocity", 12,
           lambda normal, uniform, r, c: dict(
               output=normal(r, c), data=normal(r, c), u=normal(r), v=normal(r)),
           lambda m, x, draw: list(kernels.squared_error(m, x.output, x.data, x.u, x.v, draw)),
           lambda m, x, noise: _error(m, x.output - (
               x.u[:, None] * x.data + x.v[:, None] * noise(x.output.shape)))),
    Kernel("squared_error, data", 12,
           lambda normal, uniform, r, c: dict(output=normal(r, c), data=normal(r, c)),
           lambda m, x, draw: list(kernels.squared_error(m, x.output, x.data)),
           lambda m, x, noise: _error(m, x.output - x.data)),
]  # fmt: skip


# -- rows ----------------------------------------------------------------------------------------
def _rows(normal: Make, uniform: Make, rows: int, columns: int) -> dict[str, Array]:
    return dict(x=normal(rows, columns), g=normal(rows, columns), of=normal(rows, 2 * columns))


def _standardised(m: Any, x: Any, of: Any) -> list[Array]:
    return [kernels.standardise(m, x.x, of, 1e-5)[0]]


def _of_rows(m: Any, x: Any, of: Any) -> list[Array]:
    return [d for d in kernels.standardise_backward(m, x.g, x.x, of, 1e-5, None) if d is not None]


def _plain_rows(m: Any, x: Any, of: Any) -> list[Array]:
    return [reference.standardise(m, x.x, of, 1e-5)[0]]


def _plain_of_rows(m: Any, x: Any, of: Any) -> list[Array]:
    made = reference.standardise(m, x.x, None, 1e-5)[1]
    return [d for d in reference.standardise_backward(m, x.g, of, *made) if d is not None]


ROWS = [
    Kernel("standardise", 8, _rows, lambda m, x, draw: _standardised(m, x, None),
           lambda m, x, noise: _plain_rows(m, x, None), tolerance=2e-6),
    Kernel("standardise, modulated", 16, _rows, lambda m, x, draw: _standardised(m, x, x.of),
           lambda m, x, noise: _plain_rows(m, x, x.of), tolerance=2e-6),
    Kernel("standardise_backward", 12, _rows, lambda m, x, draw: _of_rows(m, x, None),
           lambda m, x, noise: _plain_of_rows(m, x, None), tolerance=2e-6),
    Kernel("standardise_backward, modulated", 24, _rows, lambda m, x, draw: _of_rows(m, x, x.of),
           lambda m, x, noise: _plain_of_rows(m, x, x.of), tolerance=2e-6),
]  # fmt: skip


# -- sums ----------------------------------------------------------------------------------------
def _scaled(m: Any, arrays: list[Array]) -> list[Array]:
    kernels.scale_all(m, arrays, 0.75)
    return arrays


SUMS = [
    Kernel("sum_squares", 4, lambda normal, uniform, r, c: dict(x=normal(r, c)),
           lambda m, x, draw: [kernels.sum_squares(m, [x.x])],
           lambda m, x, noise: [m.square(x.x).sum()]),
    Kernel("sum_squares_of_all", 8, lambda normal, uniform, r, c: dict(x=normal(r, c), y=normal(r, c)),
           lambda m, x, draw: [kernels.sum_squares(m, [x.x, x.y[:0], x.y])],
           lambda m, x, noise: [m.square(x.x).sum() + m.square(x.y).sum()]),
    Kernel("scale_all", 16, lambda normal, uniform, r, c: dict(x=normal(r, c), y=normal(r, c)),
           lambda m, x, draw: _scaled(m, [x.x, x.y]),
           lambda m, x, noise: [0.75 * x.x, 0.75 * x.y]),
    Kernel("sum_chunks", 8, lambda normal, uniform, r, c: dict(sums=_doubled(normal(r, c))),
           lambda m, x, draw: [_sum_of_sums(m, x.sums)],
           lambda m, x, noise: [0.5 * x.sums.sum()], tolerance=1e-14),
]  # fmt: skip


def _doubled(x: Array) -> Array:
    return (x * x).astype(np.float64)


def _sum_of_sums(m: Any, sums: Array) -> Array:
    """The second kernel of every sum, which `tinygen.kernels` gives no name to."""
    launch = dispatch.launcher(m)
    assert launch is not None, "there are no kernels"
    return fused._total(m, launch, sums, 0.5)


# -- activations ---------------------------------------------------------------------------------
ROOT_HALF, DENSITY = 0.5**0.5, (2 * np.pi) ** -0.5

FORWARD: dict[str, Callable[[Any, Array], Array]] = {
    "tanh": lambda m, u: m.tanh(u),
    "sigmoid": lambda m, u: m.sigmoid(u),
    "relu": lambda m, u: m.where(u > 0, u, 0.0),
    "leaky_relu": lambda m, u: m.where(u > 0, u, 0.01 * u),
    "silu": lambda m, u: u * m.sigmoid(u),
    "gelu": lambda m, u: 0.5 * u * (1 + m.erf(ROOT_HALF * u)),
}
OF_OUTPUT: dict[str, Callable[[Any, Array, Array], Array]] = {
    "tanh": lambda m, g, y: g * (1 - y * y),
    "sigmoid": lambda m, g, y: g * y * (1 - y),
    "relu": lambda m, g, y: m.where(y > 0, g, 0.0),
}
OF_INPUT: dict[str, Callable[[Any, Array, Array], Array]] = {
    "leaky_relu": lambda m, g, u: m.where(u > 0, g, 0.01 * g),
    "silu": lambda m, g, u: g * (s := m.sigmoid(u)) * (1 + u * (1 - s)),
    "gelu": lambda m, g, u: g * (
        0.5 * (1 + m.erf(ROOT_HALF * u)) + DENSITY * u * m.exp(-0.5 * u * u)),
}  # fmt: skip


def _forward(name: str, full: bool) -> Kernel:
    """With one row of biases, or as many as there are rows."""
    return Kernel(
        f"bias_{name}" + (", a bias for each row" if full else ""),
        12 if full else 8,
        lambda normal, uniform, r, c: dict(x=3 * normal(r, c), b=normal(*[r] * full, c)),
        lambda m, x, draw: [kernels.bias_activation(m, name, x.x, x.b)],
        lambda m, x, noise: [FORWARD[name](m, x.x + x.b)],
    )


def _backward_of_output(name: str) -> Kernel:
    return Kernel(
        f"{name}_backward",
        12,
        lambda normal, uniform, r, c: dict(g=normal(r, c), y=uniform(r, c)),
        lambda m, x, draw: [kernels.activation_backward(m, name, x.g, x.y)],
        lambda m, x, noise: [OF_OUTPUT[name](m, x.g, x.y)],
    )


def _backward_of_input(name: str, full: bool) -> Kernel:
    return Kernel(
        f"bias_{name}_backward" + (", a bias for each row" if full else ""),
        16 if full else 12,
        lambda normal, uniform, r, c: dict(
            g=normal(r, c), x=3 * normal(r, c), b=normal(*[r] * full, c)
        ),
        lambda m, x, draw: [kernels.activation_backward(m, name, x.g, x.x, x.b)],
        lambda m, x, noise: [OF_INPUT[name](m, x.g, x.x + x.b)],
    )


ACTIVATIONS = [
    *(_forward(name, False) for name in FORWARD),
    _forward("silu", True),
    *(_backward_of_output(name) for name in OF_OUTPUT),
    *(_backward_of_input(name, False) for name in OF_INPUT),
    _backward_of_input("silu", True),
]


# -- likelihoods ---------------------------------------------------------------------------------
def _bce(normal: Make, uniform: Make, rows: int, columns: int) -> dict[str, Array]:
    return dict(l=8 * normal(rows, columns), t=uniform(rows, columns))


def _bce_backward(name: str, size: int, shape: Callable[[int, int], tuple[int, ...]]) -> Kernel:
    """The gradient that arrives is an array of this shape, seen as one of the logits' shape."""
    return Kernel(
        f"bce_with_logits_backward{name}",
        size,
        lambda normal, uniform, r, c: {**_bce(normal, uniform, r, c), "g": normal(*shape(r, c))},
        lambda m, x, draw: [
            kernels.bce_with_logits_backward(m, m.broadcast_to(x.g, x.l.shape), x.l, x.t)
        ],
        lambda m, x, noise: [x.g * (m.sigmoid(x.l) - x.t)],
    )


def _reparameterised(m: Any, x: Any, noise: Callable[..., Array]) -> list[Array]:
    k = x.h.shape[1] // 2
    mean, log_var = x.h[:, :k], x.h[:, k:]
    z = mean + m.exp(0.5 * log_var) * noise(mean.shape)
    kl = 0.5 * (mean * mean + m.expm1(log_var) - log_var)
    return [m.concatenate([z, kl], axis=1)]


def _latent_gradient(m: Any, x: Any, noise: Callable[..., Array]) -> list[Array]:
    k = x.h.shape[1] // 2
    mean, log_var = x.h[:, :k], x.h[:, k:]
    of_z, of_kl = x.g[:, :k], x.g[:, k:]
    of_mean = of_z + of_kl * mean
    slope = of_z * m.exp(0.5 * log_var) * noise(mean.shape) + of_kl * m.expm1(log_var)
    return [m.concatenate([of_mean, 0.5 * slope], axis=1)]


LIKELIHOODS = [
    Kernel("bce_with_logits", 12, _bce,
           lambda m, x, draw: [kernels.bce_with_logits(m, x.l, x.t)],
           lambda m, x, noise: [m.where(x.l > 0, x.l, 0.0) - x.l * x.t + m.log1p(m.exp(-abs(x.l)))]),
    _bce_backward("", 16, lambda r, c: (r, c)),
    _bce_backward("_by_row", 12, lambda r, c: (r, 1)),
    _bce_backward("_by_row, one number", 12, lambda r, c: (1, 1)),
    Kernel("reparameterise", 16, lambda normal, uniform, r, c: dict(h=normal(r, 2 * c)),
           lambda m, x, draw: [kernels.reparameterise(m, x.h, draw)], _reparameterised),
    Kernel("reparameterise_backward", 24,
           lambda normal, uniform, r, c: dict(h=normal(r, 2 * c), g=normal(r, 2 * c)),
           lambda m, x, draw: [kernels.reparameterise_backward(m, x.g, x.h, draw)],
           _latent_gradient),
]  # fmt: skip


# -- Adam ----------------------------------------------------------------------------------------
LEARNING_RATE = 1e-3
ADAM = kernels.AdamStep(
    0.9, 0.1, 0.999, 0.001, LEARNING_RATE / (1 - 0.9**10), (1 - 0.999**10) ** -0.5, 1e-8, 1.0, 0.05
)  # at the tenth step


def _moments(normal: Make, uniform: Make, rows: int, columns: int) -> dict[str, Array]:
    names = dict(p=normal, g=normal, mean=normal, square=uniform)
    return {name: make(rows, columns) for name, make in names.items()}


def _adam(m: Any, x: Any, draw: Draw) -> list[Array]:
    average = getattr(x, "average", None)
    kernels.adam(m, x.p, x.g, x.mean, x.square, average, ADAM)
    return [x.p, x.mean, x.square, *([] if average is None else [average])]


def _adam_plain(m: Any, x: Any, noise: Callable[..., Array]) -> list[Array]:
    c = ADAM
    mean = c.beta1 * x.mean + c.one_minus_beta1 * x.g
    square = c.beta2 * x.square + c.one_minus_beta2 * (x.g * x.g)
    deviation = c.bias_correction * m.sqrt(square) + c.eps
    p = c.weight_decay_factor * x.p - c.step_size * mean / deviation
    average = getattr(x, "average", None)
    if average is None:
        return [p, mean, square]
    return [p, mean, square, average + c.one_minus_average_decay * (p - average)]


def _adam_of_all(m: Any, x: Any, draw: Draw) -> list[Array]:
    given = [x.p, x.g, x.mean, x.square]
    halves = [[a[:1] for a in given], [a[1:] for a in given]]
    kernels.adam_of_all([(*half, None) for half in halves], ADAM)
    return [x.p, x.mean, x.square]


OPTIMISER = [
    Kernel("adam_of_all", 28, _moments, _adam_of_all, _adam_plain),
    Kernel("adam", 28, _moments, _adam, _adam_plain),
    Kernel("adam, with average", 36,
           lambda normal, uniform, r, c: {
               **_moments(normal, uniform, r, c), "average": normal(r, c)},
           _adam, _adam_plain),
]  # fmt: skip

KERNELS = [*FILLS, *DIFFUSION, *ROWS, *SUMS, *ACTIVATIONS, *LIKELIHOODS, *OPTIMISER]
BY_NAME = {kernel.name: kernel for kernel in KERNELS}
TARGETS = ("noise_step", "denoise_step", "squared_error", "adam")
"""Those that are to reach 90 % of a copy's bandwidth, and three times PyTorch's eager speed."""
