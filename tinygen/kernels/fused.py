"""The kernels as functions that compute whatever arrays they are given.

Each asks `launcher` for a kernel that takes these arrays, and launches it. Where there is none, the
formula in reference.py (of random fills, the stream in philox.py) computes.

Their first argument `m` is the namespace of the arrays; with Tensors, the vocabulary. A `draw` is what
`Generator.next_draw` gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinygen.backend import namespace_of, vocabulary
from tinygen.kernels import philox, reference
from tinygen.kernels.dispatch import Launch, aligned, launcher
from tinygen.kernels.reference import AdamStep, Denoising
from tinygen.kernels.signatures import signatures

__all__ = [
    "NO_DRAW", "AdamStep", "Denoising", "Draw", "activation_backward", "adam", "adam_of_all",
    "bce_with_logits", "bce_with_logits_backward", "bias_activation", "bits", "denoise_step",
    "integers", "noise_step", "normal", "reparameterise", "reparameterise_backward", "scale_all",
    "squared_error", "standard_normals", "standardise", "standardise_backward", "sum_squares",
    "uniform",
]  # fmt: skip

Array = Any
_SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}
SUM_CHUNK = 4096
"""Elements in each of the partial sums that the kernels make."""


def error_chunk(n: int) -> int:
    """The same for the sums of n squared errors, as in formulas.h."""
    return int(min(max(2 ** (n.bit_length() - 11), 1024), 65536))


class Draw(NamedTuple):
    """One draw of the random stream.

    counter: None, or two uint64, which are added to `number` and to the numbers of Philox's blocks.
    rows: None, or the rows of the draw that an array holds, with `start` and `count`: the first is a
        multiple of four, so that their words begin with a block.
    """

    seed: int
    number: int
    counter: Any = None
    rows: Any = None

    def first_block(self, n: int, words: int = 1) -> int:
        """The block with which n elements begin, of so many words each. ValueError: not whole rows."""
        if self.rows is None:
            return 0
        each, rest = divmod(n, self.rows.count)
        if rest:
            raise ValueError(f"{n} random numbers for {self.rows.count} rows of a batch")
        return int(self.rows.start * each * words // 4)

    def at(self, m: Any, n: int, words: int = 1) -> tuple[int, int, Any]:
        """(seed, number, counter) for a kernel that draws n elements.

        ValueError: a counter of another length, beyond whose end the kernel would read.
        """
        counter = self.counter
        if counter is not None and counter.shape != (2,):
            raise ValueError(f"a counter is two uint64, not an array of shape {counter.shape}")
        if first := self.first_block(n, words):
            own = m.asarray(np.array((0, first), np.uint64))
            counter = own if counter is None else counter + own
        return self.seed, self.number, counter

    def on_host(self) -> tuple[int, int]:
        """(seed, number) with the counter read."""
        if self.counter is None:
            return self.seed, self.number
        if self.counter.tolist()[1:] != [0]:
            raise ValueError(f"a counter is two uint64, the second 0 here, not {self.counter}")
        return self.seed, (self.number + int(self.counter[0])) % 2**64


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
        return _drawn(m, philox.bits, n, *draw.on_host(), draw.first_block(n))
    out = m.empty(n, np.uint32)
    launch("fill_bits", out, n, *draw.at(m, n))
    return out


def uniform(m: Any, n: int, draw: Draw, low: float, high: float, dtype: np.dtype[Any]) -> Array:
    """Uniform in [low, high)."""
    launch, words = launcher(m), dtype.itemsize // 4
    if launch is None:
        first = draw.first_block(n, words)
        return _drawn(m, philox.uniform, n, *draw.on_host(), low, high, dtype, first)
    start, end = dtype.type(low), dtype.type(high)
    out = m.empty(n, dtype)
    launch(
        f"fill_uniform_{_SUFFIX[dtype]}",
        out,
        n,
        *draw.at(m, n, words),
        start,
        end - start,
        np.nextafter(end, start),
    )
    return out


def normal(m: Any, n: int, draw: Draw, mean: float, std: float, dtype: np.dtype[Any]) -> Array:
    """Normal with the given mean and standard deviation."""
    launch, words = launcher(m), dtype.itemsize // 4
    if launch is None:
        first = draw.first_block(n, words)
        return _drawn(m, philox.normal, n, *draw.on_host(), mean, std, dtype, first)
    out = m.empty(n, dtype)
    launch(f"fill_normal_{_SUFFIX[dtype]}", out, n, *draw.at(m, n, words), mean, std)
    return out


def integers(m: Any, n: int, draw: Draw, low: int, size: int) -> Array:
    """Whole numbers in low .. low + size - 1, int64."""
    launch = launcher(m)
    if launch is None:
        return _drawn(m, philox.integers, n, *draw.on_host(), low, size, draw.first_block(n, 2))
    out = m.empty(n, np.int64)
    launch("fill_integers", out, n, *draw.at(m, n, 2), size, low % 2**64)
    return out


def standard_normals(m: Any, like: Array, draw: Draw) -> Array:
    """N(0, 1) in the shape and dtype of `like`, an array even if that is a Tensor.

    Drawn in float32 for other floats than that and float64.
    """
    if m is vocabulary:
        return standard_normals(namespace_of(like.data), like.data, draw)
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
        return reference.noise_step(x0, a, s, noise), noise if keep_noise else None
    xt = m.empty_like(x0)
    kept = m.empty_like(x0) if keep_noise else None
    launch("noise_step", xt, kept, x0, a, s, *x0.shape, *draw.at(m, x0.size))
    return xt, kept


def denoise_step(
    m: Any, xt: Array, output: Array, step: Denoising, draw: Draw, out: Array | None = None
) -> Array:
    """One reverse step of a chain, from x_t and the network's output at it; `out` may be xt."""
    y = m.empty_like(xt) if out is None else out
    fits = xt.shape == output.shape == y.shape
    launch = launcher(m, xt, output, y) if fits else None
    if launch is None:
        noise = standard_normals(m, xt, draw) if step.sigma else None
        y[...] = reference.denoise_step(m, xt, output, step, noise)
        return y
    launch("denoise_step", y, xt, output, xt.size, *step, *draw.at(m, xt.size))
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
    fits = (data is None or _alike(output, data)) and (
        not by_row or (output.ndim == 2 and all(x.shape == output.shape[:1] for x in by_row))
    )
    launch = launcher(m, *full, *by_row) if fits and output.size else None
    if launch is None:
        noise = None if on_noise is None else standard_normals(m, output, draw)
        return reference.squared_error(m, output, data, on_data, on_noise, noise)
    n, columns = output.size, output.shape[-1] if output.ndim else 1
    sums = m.empty(-(-n // error_chunk(n)), np.float64)
    gradient = m.empty_like(output)
    launch(
        "squared_error", sums, gradient, output, data, on_data, on_noise, n // columns, columns,
        2.0 / n, *draw.at(m, n),
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
        return reference.sum_squares(m, arrays)
    chunks = [-(-x.size // SUM_CHUNK) for x in arrays]
    sums, start = m.empty(sum(chunks), np.float64), 0
    for first, part in _tables(m, [(x,) for x in arrays]):
        count = sum(chunks[first : first + len(part)])
        piece = sums[start : start + count]
        if len(part) == 1:
            launch("sum_squares", piece, *part[0], part[0][0].size)
        else:
            launch("sum_squares_of_all", piece, part)
        start += count
    return _total(m, launch, sums)


def scale_all(m: Any, arrays: Sequence[Array], factor: float) -> None:
    """Multiply all arrays by a number, in place."""
    launch = None if _recorded(m) else launcher(m, *arrays)
    if launch is None:
        for x in arrays:
            x *= factor
    else:
        for _, part in _tables(m, [(x,) for x in arrays]):
            launch("scale_all", part, factor)


MOST_ROWS, MOST_ELEMENTS = 64, 2**31 - 1
"""Of a table that a kernel takes at once (functions.h)."""


def _tables(
    m: Any, rows: Sequence[tuple[Array, ...]]
) -> Iterator[tuple[int, list[tuple[Array, ...]]]]:
    """The rows in lists that a kernel takes at once, each with the number of its first row. Where a
    program is recorded these have one row: it knows the arrays of a kernel one by one."""
    most, first = (1 if _recorded(m) else MOST_ROWS), 0
    while first < len(rows):
        end, size = first, 0
        while end < len(rows) and end - first < most and size + rows[end][0].size <= MOST_ELEMENTS:
            size += rows[end][0].size
            end += 1
        end = max(end, first + 1)  # one that is too large is the kernel's to refuse
        yield first, list(rows[first:end])
        first = end


def _recorded(m: Any) -> bool:
    """True for the namespace of arrays that record."""
    return "launch" in vars(m)


# -- layers --------------------------------------------------------------------------------------
def bias_activation(m: Any, name: str, x: Array, bias: Array) -> Array:
    """activation(x + bias); kernels take one row of biases, or one for each row of x."""
    fits = f"bias_{name}" in signatures() and _is_bias(bias, x)
    launch = launcher(m, x, bias) if fits else None
    if launch is None:
        return reference.bias_activation(m, name, x, bias)
    y = m.empty_like(x)
    launch(f"bias_{name}", y, x, bias, *_bias_and_rows(bias, x))
    return y


def activation_backward(m: Any, name: str, g: Array, of: Array, bias: Any = None) -> Array:
    """g · activation', from its value `of` if that is enough (reference.SLOPE_FROM_VALUE), else from
    its input `of` + bias."""
    kernel = f"{name}_backward" if bias is None else f"bias_{name}_backward"
    fits = kernel in signatures() and _alike(g, of) and (bias is None or _is_bias(bias, of))
    launch = launcher(m, g, of, *([] if bias is None else [bias])) if fits else None
    if launch is None:
        return reference.activation_backward(m, name, g, of, bias)
    d = m.empty_like(of)
    if bias is None:
        launch(kernel, d, g, of, of.size)
    else:
        launch(kernel, d, g, of, bias, *_bias_and_rows(bias, of))
    return d


def _is_bias(bias: Any, x: Any) -> bool:
    """True for arrays of which the kernels add the one, row by row, to the other."""
    shape, of = getattr(bias, "shape", ()), getattr(x, "shape", ())
    return len(of) > 0 and (
        shape == of or (shape[-1:] == of[-1:] and prod(shape[:-1]) == 1 <= len(of) - len(shape) + 1)
    )


def _bias_and_rows(bias: Array, x: Array) -> tuple[int, int, int]:
    """How far apart the biases of two rows are, and the rows and columns."""
    columns = x.shape[-1]
    return (columns if bias.shape == x.shape else 0), prod(x.shape[:-1]), columns


def _alike(a: Any, b: Any) -> bool:
    """True for two arrays of one shape (either may be a number instead)."""
    shape = getattr(a, "shape", None)
    return shape is not None and shape == getattr(b, "shape", None)


def standardise(m: Any, x: Array, modulation: Array | None, eps: float) -> tuple[Array, Any]:
    """(x - mean) / sqrt(var + eps) over the last axis, then (1 + scale) times it + shift if there is a
    modulation scale | shift; and what the backward pass may use instead of making it again."""
    launch = _for_rows(m, x, modulation)
    if launch is None:
        return reference.standardise(m, x, modulation, eps)
    y = m.empty_like(x)
    launch("standardise", y, x, modulation, *_modulation_and_rows(modulation, x), eps)
    return y, None


def standardise_backward(
    m: Any, g: Array, x: Array, modulation: Array | None, eps: float, made: Any
) -> tuple[Array, Array | None]:
    """The gradients in x and in the modulation (of each row, also where one stands for all), from g of
    the result and what `standardise` made on its way, or None."""
    launch = _for_rows(m, x, modulation, g) if made is None and g.shape == x.shape else None
    if launch is None:
        z, deviation = made or reference.standardise(m, x, None, eps)[1]
        return reference.standardise_backward(m, g, modulation, z, deviation)
    d, of = m.empty_like(x), None
    if modulation is not None:
        of = m.empty((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    launch(
        "standardise_backward", d, of, g, x, modulation, *_modulation_and_rows(modulation, x), eps
    )
    return d, of


def _for_rows(m: Any, x: Any, modulation: Any, *more: Any) -> Launch | None:
    """What launches the kernels of rows, if they take these arrays. Not where a program is recorded:
    what it fuses around the sums of rows is faster."""
    if _recorded(m) or not getattr(x, "ndim", 0):
        return None
    if modulation is None:
        return launcher(m, x, *more)
    *rows, columns = modulation.shape
    fits = columns == 2 * x.shape[-1] and (
        tuple(rows) == x.shape[:-1] or (prod(rows) == 1 and len(rows) < x.ndim)
    )
    return launcher(m, x, modulation, *more) if fits else None


def _modulation_and_rows(modulation: Array | None, x: Array) -> tuple[int, int, int]:
    """How far apart the modulations of two rows are, and the rows and columns."""
    rows, columns = prod(x.shape[:-1]), x.shape[-1]
    each = modulation is not None and modulation.shape[:-1] == x.shape[:-1]
    return (2 * columns if each else 0), rows, columns


# -- likelihoods ---------------------------------------------------------------------------------
def bce_with_logits(m: Any, logits: Array, targets: Array) -> Array:
    """-log Bernoulli(targets; sigmoid(logits)), elementwise, in nats."""
    launch = launcher(m, logits, targets) if _alike(logits, targets) else None
    if launch is None:
        return reference.bce_with_logits(m, logits, targets)
    loss = m.empty_like(logits)
    launch("bce_with_logits", loss, logits, targets, logits.size)
    return loss


def bce_with_logits_backward(m: Any, g: Array, logits: Array, targets: Array) -> Array:
    """g · (sigmoid(logits) - targets); g may be a broadcast view, as the derivative of a sum gives it."""
    fits = _alike(g, logits) and _alike(logits, targets)
    launch = launcher(m, logits, targets) if fits else None
    if launch is None or g.dtype != logits.dtype or not (logits.size and aligned(g.flags)):
        return reference.bce_with_logits_backward(m, g, logits, targets)
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


def reparameterise(m: Any, h: Array, draw: Draw) -> Array:
    """h (rows, 2 k) of mean | log variance to z = mean + std ε | KL(N(mean, std²) ‖ N(0, 1))."""
    launch = launcher(m, h)
    if launch is None:
        return reference.reparameterise(m, h, _latent_noise(m, h, draw))
    out = m.empty_like(h)
    launch("reparameterise", out, h, h.shape[0], h.shape[1] // 2, *draw.at(m, h.size // 2))
    return out


def reparameterise_backward(m: Any, g: Array, h: Array, draw: Draw) -> Array:
    """The gradient in h, from g of z | KL."""
    launch = launcher(m, g, h)
    if launch is None:
        return reference.reparameterise_backward(m, g, h, _latent_noise(m, h, draw))
    d = m.empty_like(h)
    launch(
        "reparameterise_backward", d, g, h, h.shape[0], h.shape[1] // 2, *draw.at(m, h.size // 2)
    )
    return d


def _latent_noise(m: Any, h: Array, draw: Draw) -> Array:
    """A number for each mean in h."""
    return standard_normals(m, h[:, : h.shape[1] // 2], draw)


# -- Adam ----------------------------------------------------------------------------------------
def adam(
    m: Any, p: Array, g: Array, mean: Array, square: Array, average: Array | None, step: AdamStep
) -> None:
    """One step of Adam or AdamW in place, and of the average of p if there is one, in one pass.

    ValueError: an array to be updated is not contiguous.
    """
    launch = launcher(m, *(x for x in (p, g, mean, square, average) if x is not None))
    if launch is None:
        reference.adam(m, p, g, mean, square, average, step)
    else:
        launch("adam", p, g, mean, square, average, p.size, *step)


def adam_of_all(rows: Sequence[tuple[Array, ...]], step: AdamStep) -> None:
    """`adam` of every row (p, g, mean, square, average or None): together where the kernels can."""
    m = namespace_of(rows[0][0])
    alike = all(namespace_of(row[0]) is m for row in rows) and not _recorded(m)
    arrays = [x for row in rows for x in row if x is not None]
    launch = launcher(m, *arrays) if alike and len(rows) > 1 else None
    if launch is None:
        for p, g, mean, square, average in rows:
            adam(namespace_of(p), p, g, mean, square, average, step)
        return
    for _, part in _tables(m, rows):
        launch("adam_of_all", part, *step)
