"""The fused kernels as functions. Each stands beside its definition in plain array operations, which
computes where there is no kernel for the arrays: without a compiler, in float64, for views.

Their first argument `m` is the namespace of the arrays. A `draw` is what `Generator.next_draw`
gives: (seed, number, counter).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinygen.kernels import reference
from tinygen.kernels.dispatch import Launch, aligned, launcher

__all__ = [
    "NO_DRAW", "AdamStep", "Denoising", "Draw", "activation_backward", "adam", "bce_with_logits",
    "bce_with_logits_backward", "bias_activation", "bits", "denoise_step", "integers", "noise_step",
    "normal", "reparameterise", "reparameterise_backward", "squared_error", "standard_normals",
    "sum_squares", "uniform",
]  # fmt: skip

Array = Any
_SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}
SUM_CHUNK = 4096
"""Elements in each of the partial sums that the kernels make."""


class Draw(NamedTuple):
    """One draw of the random stream: `number`, to which the uint64 in `counter` is added if there is one."""

    seed: int
    number: int
    counter: Any = None

    def on_host(self) -> tuple[int, int]:
        """(seed, number) with the counter read."""
        if self.counter is None:
            return self.seed, self.number
        return self.seed, (self.number + int(self.counter.reshape(())[()])) % 2**64


NO_DRAW = Draw(0, 0)
"""Stands where nothing is drawn."""


def _drawn(m: Any, function: Any, *arguments: Any) -> Array:
    """What the function draws: one call of a program where the namespace records."""
    record = vars(m).get("call")
    return function(*arguments) if record is None else record(function, arguments, {})


# -- random fills: n elements in one row ---------------------------------------------------------
def bits(m: Any, n: int, draw: Draw) -> Array:
    """Random words, uint32."""
    launch = launcher(m)
    if launch is None:
        return _drawn(m, reference.bits, n, *draw.on_host())
    out = m.empty(n, np.uint32)
    launch("fill_bits", out, n, *draw)
    return out


def uniform(m: Any, n: int, draw: Draw, low: float, high: float, dtype: np.dtype[Any]) -> Array:
    """Uniform in [low, high)."""
    launch = launcher(m)
    if launch is None:
        return _drawn(m, reference.uniform, n, *draw.on_host(), low, high, dtype)
    start, end = dtype.type(low), dtype.type(high)
    out = m.empty(n, dtype)
    launch(
        f"fill_uniform_{_SUFFIX[dtype]}",
        out,
        n,
        *draw,
        start,
        end - start,
        np.nextafter(end, start),
    )
    return out


def normal(m: Any, n: int, draw: Draw, mean: float, std: float, dtype: np.dtype[Any]) -> Array:
    """Normal with the given mean and standard deviation."""
    launch = launcher(m)
    if launch is None:
        return _drawn(m, reference.normal, n, *draw.on_host(), mean, std, dtype)
    out = m.empty(n, dtype)
    launch(f"fill_normal_{_SUFFIX[dtype]}", out, n, *draw, mean, std)
    return out


def integers(m: Any, n: int, draw: Draw, low: int, size: int) -> Array:
    """Whole numbers in low .. low + size - 1, int64."""
    launch = launcher(m)
    if launch is None:
        return _drawn(m, reference.integers, n, *draw.on_host(), low, size)
    out = m.empty(n, np.int64)
    launch("fill_integers", out, n, *draw, size, low % 2**64)
    return out


def standard_normals(m: Any, like: Array, draw: Draw) -> Array:
    """N(0, 1) in the shape and dtype of `like`; drawn in float32 for other floats than that and float64."""
    dtype = like.dtype if like.dtype in _SUFFIX else np.dtype(np.float32)
    z = normal(m, like.size, draw, 0.0, 1.0, dtype)
    return z.astype(like.dtype, copy=False).reshape(like.shape)


# -- diffusion -----------------------------------------------------------------------------------
def noise_step(
    m: Any, x0: Array, a: Array, s: Array, draw: Draw, keep_noise: bool = False
) -> tuple[Array, Array | None]:
    """x_t = a x_0 + s ε (Ho et al. 2020, eq. 4), and ε if it is to be kept.

    x0 (rows, columns); a and s (rows,) in its dtype, one level of signal and noise for each row.
    """
    fits = x0.ndim == 2 and a.shape == s.shape == x0.shape[:1]
    launch = launcher(m, x0, a, s) if fits else None
    if launch is None:
        noise = standard_normals(m, x0, draw)
        return a[:, None] * x0 + s[:, None] * noise, noise if keep_noise else None
    xt = m.empty_like(x0)
    kept = m.empty_like(x0) if keep_noise else None
    launch("noise_step", xt, kept, x0, a, s, *x0.shape, *draw)
    return xt, kept


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


def denoise_step(
    m: Any, xt: Array, output: Array, step: Denoising, draw: Draw, out: Array | None = None
) -> Array:
    """One reverse step of a chain, from x_t and the network's output at it; `out` may be xt."""
    y = m.empty_like(xt) if out is None else out
    fits = xt.shape == output.shape == y.shape
    launch = launcher(m, xt, output, y) if fits else None
    if launch is None:
        x0 = step.from_xt * xt + step.from_output * output
        if step.low > -np.inf or step.high < np.inf:
            x0 = m.clip(x0, step.low, step.high)
        mean = step.on_x0 * x0 + step.on_xt * xt
        y[...] = mean + step.sigma * standard_normals(m, xt, draw) if step.sigma else mean
        return y
    launch("denoise_step", y, xt, output, xt.size, *step, *draw)
    return y


def squared_error(
    m: Any,
    output: Array,
    data: Array | None,
    on_data: Array | None = None,
    on_noise: Array | None = None,
    draw: Draw = NO_DRAW,
) -> tuple[Array, Array]:
    """The mean of e² with e = output - (on_data · data + on_noise · ε), and its gradient 2 e / size.

    The noise ε of the draw is made again, and only if on_noise is given. output, data
    (rows, columns); on_data, on_noise (rows,); None for 1 and for 0, data None for no data.
    """
    by_row = [x for x in (on_data, on_noise) if x is not None]
    full = [output] if data is None else [output, data]
    fits = all(x.shape == output.shape for x in full) and (
        not by_row or (output.ndim == 2 and all(x.shape == output.shape[:1] for x in by_row))
    )
    n = output.size
    launch = launcher(m, *full, *by_row) if fits and n else None
    if launch is None:
        error = output
        if data is not None:
            error = error - (data if on_data is None else on_data[:, None] * data)
        if on_noise is not None:
            error = error - on_noise[:, None] * standard_normals(m, output, draw)
        return m.mean(m.square(error)), (2.0 / max(n, 1)) * error
    columns = output.shape[-1] if output.ndim else 1
    sums = m.empty(-(-n // SUM_CHUNK), np.float64)
    gradient = m.empty_like(output)
    launch(
        "squared_error", sums, gradient, output, data, on_data, on_noise, n // columns, columns,
        2.0 / n, *draw,
    )  # fmt: skip
    return _total(m, launch, sums, 1.0 / n).astype(output.dtype), gradient


def _total(m: Any, launch: Launch, sums: Array, scale: float = 1.0) -> Array:
    """The sum of the sums of all chunks, times scale: float64, without axes."""
    while sums.size > SUM_CHUNK:
        fewer = m.empty(-(-sums.size // SUM_CHUNK), np.float64)
        launch("sum_chunks", fewer, sums, sums.size, 1.0)
        sums = fewer
    total = m.empty((), np.float64)
    launch("sum_chunks", total, sums, sums.size, scale)
    return total


def sum_squares(m: Any, arrays: Sequence[Array]) -> Array:
    """Σ x² over all elements of all arrays: float64, without axes."""
    launch = launcher(m, *arrays)
    if launch is None:
        return sum((m.sum(m.square(x), dtype=np.float64) for x in arrays), m.zeros((), np.float64))
    chunks = [-(-x.size // SUM_CHUNK) for x in arrays]
    sums = m.empty(sum(chunks), np.float64)
    start = 0
    for x, count in zip(arrays, chunks, strict=True):
        launch("sum_squares", sums[start : start + count], x, x.size)
        start += count
    return _total(m, launch, sums)


# -- layers and likelihoods: None where there is no kernel, and the composition computes ------------
OF_OUTPUT = ("tanh", "sigmoid", "relu")
"""Activations whose slope follows from their value."""
OF_INPUT = ("leaky_relu", "silu", "gelu")
"""Activations whose slope needs their input."""


def bias_activation(m: Any, name: str, x: Array, bias: Array) -> Array | None:
    """activation(x + bias) for x (..., columns), and one row of biases or one for each row of x."""
    if name not in OF_OUTPUT + OF_INPUT or not _is_bias(bias, x):
        return None
    launch = launcher(m, x, bias)
    if launch is None:
        return None
    y = m.empty_like(x)
    launch(f"bias_{name}", y, x, bias, *_bias_and_rows(bias, x))
    return y


def activation_backward(
    m: Any, name: str, g: Array, of: Array, bias: Array | None = None
) -> Array | None:
    """g · activation', `of` its value (OF_OUTPUT), or of its input and the bias (OF_INPUT)."""
    if name not in OF_OUTPUT + OF_INPUT or g.shape != of.shape:
        return None
    if bias is not None and not _is_bias(bias, of):
        return None
    launch = launcher(m, g, of, *([] if bias is None else [bias]))
    if launch is None:
        return None
    d = m.empty_like(of)
    if bias is None:
        launch(f"{name}_backward", d, g, of, of.size)
    else:
        launch(f"bias_{name}_backward", d, g, of, bias, *_bias_and_rows(bias, of))
    return d


def _is_bias(bias: Array, x: Array) -> bool:
    shape = bias.shape
    return x.ndim > 0 and (
        shape == x.shape
        or (shape[-1:] == x.shape[-1:] and prod(shape[:-1]) == 1 <= x.ndim - len(shape) + 1)
    )


def _bias_and_rows(bias: Array, x: Array) -> tuple[int, int, int]:
    """How far apart the biases of two rows are, and the rows and columns."""
    columns = x.shape[-1]
    return (columns if bias.shape == x.shape else 0), prod(x.shape[:-1]), columns


def _alike(a: Any, b: Any) -> bool:
    """True for two arrays of one shape (either may be a number instead)."""
    shape = getattr(a, "shape", None)
    return shape is not None and shape == getattr(b, "shape", None)


def bce_with_logits(m: Any, logits: Array, targets: Array) -> Array | None:
    """-log Bernoulli(targets; sigmoid(logits)), elementwise, in nats."""
    if not _alike(logits, targets):
        return None
    launch = launcher(m, logits, targets)
    if launch is None:
        return None
    loss = m.empty_like(logits)
    launch("bce_with_logits", loss, logits, targets, logits.size)
    return loss


def bce_with_logits_backward(m: Any, g: Array, logits: Array, targets: Array) -> Array | None:
    """g · (sigmoid(logits) - targets); g may be a broadcast view, as the derivative of a sum gives it."""
    if not _alike(g, logits) or not _alike(logits, targets):
        return None
    launch = launcher(m, logits, targets)
    if launch is None or g.dtype != logits.dtype or not (logits.size and aligned(g.flags)):
        return None
    d = m.empty_like(logits)
    if not any(g.strides):  # one number
        one = m.ascontiguousarray(g[(0,) * g.ndim])
        launch("bce_with_logits_backward_by_row", d, one, 0, logits, targets, 1, logits.size)
    elif g.ndim == 2 and g.strides[1] == 0 and g.shape[1] > 1:  # one number for each row
        of_rows = m.ascontiguousarray(g[:, 0])
        launch("bce_with_logits_backward_by_row", d, of_rows, 1, logits, targets, *logits.shape)
    else:
        launch("bce_with_logits_backward", d, m.ascontiguousarray(g), logits, targets, logits.size)
    return d


def reparameterise(m: Any, h: Array, draw: Draw) -> Array | None:
    """h (rows, 2 k) of mean | log variance to z = mean + std ε | KL(N(mean, std²) ‖ N(0, 1))."""
    launch = launcher(m, h) if h.ndim == 2 else None
    if launch is None:
        return None
    out = m.empty_like(h)
    launch("reparameterise", out, h, h.shape[0], h.shape[1] // 2, *draw)
    return out


def reparameterise_backward(m: Any, g: Array, h: Array, draw: Draw) -> Array | None:
    """The gradient in h, from g of z | KL."""
    launch = launcher(m, g, h) if h.ndim == 2 else None
    if launch is None:
        return None
    d = m.empty_like(h)
    launch("reparameterise_backward", d, g, h, h.shape[0], h.shape[1] // 2, *draw)
    return d


# -- Adam ----------------------------------------------------------------------------------------
class AdamStep(NamedTuple):
    """The numbers of one step: see AdamStep in formulas.h."""

    beta1: float
    rest1: float
    beta2: float
    rest2: float
    step_size: float
    root: float
    eps: float
    keep: float
    follow: float


def adam(
    m: Any, p: Array, g: Array, mean: Array, square: Array, average: Array | None, step: AdamStep
) -> bool:
    """One step of Adam or AdamW in place, and of the average of p if there is one, in one pass.

    False, and nothing is done, where there is no kernel for these arrays.
    """
    launch = launcher(m, *(x for x in (p, g, mean, square, average) if x is not None))
    if launch is None:
        return False
    launch("adam", p, g, mean, square, average, p.size, *step)
    return True
