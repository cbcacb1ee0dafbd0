"""The hot composites as single operations: fewer passes, less memory, less overhead.

Each computes what a plain composition of smaller operations computes (the tests hold it to that
composition in value, gradient and second derivative).
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import Any

from tinygen import kernels
from tinygen.autodiff.operation import REGISTRY, operation
from tinygen.autodiff.tensor import Tensor, array_on, as_array
from tinygen.backend import namespace_of
from tinygen.errors import unknown
from tinygen.kernels import Draw
from tinygen.ops import elementwise
from tinygen.ops.elementwise import add
from tinygen.ops.linalg import matmul
from tinygen.ops.shape import split
from tinygen.random import Rng, as_generator

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "tanh": elementwise.tanh,
    "sigmoid": elementwise.sigmoid,
    "softplus": elementwise.softplus,
    "relu": elementwise.relu,
    "leaky_relu": elementwise._leaky_relu,
    "elu": elementwise._elu,
    "silu": elementwise.silu,
    "gelu": elementwise.gelu,
}
"""Activations by name, for `linear` and the layers of `tinygen.nn`."""


def _with_bias(name: str) -> Callable[..., Tensor]:
    """activation(x + b) as one operation: the sum is not kept, only what its derivative needs."""
    activation = REGISTRY[name]
    slope: Any = activation.rules[0]

    def forward(m: Any, x: Any, b: Any) -> Any:
        y = kernels.bias_activation(m, name, x, b)
        return activation.forward(m, m.add(x, b)) if y is None else y

    def from_output(m: Any, g: Any, y: Any, _x: Any, _b: Any) -> Any:  # tanh, sigmoid, relu
        d = kernels.activation_backward(m, name, g, y)
        return slope(m, g, y, None) if d is None else d

    def from_input(m: Any, g: Any, _y: Any, x: Any, b: Any) -> Any:
        d = kernels.activation_backward(m, name, g, x, b)
        return slope(m, g, None, x + b) if d is None else d

    return operation(
        f"bias_{name}",
        forward,
        lambda m, g, _y, _x, _b: g,
        lambda m, g, _y, _x, _b: g,
        common=from_input if slope.__code__.co_varnames[2].startswith("_") else from_output,
        doc=f"{name}(x + b).",
    )


_BIASED = {name: _with_bias(name) for name in ACTIVATIONS}


def check_activation(name: str | None) -> None:
    """ValueError, with the nearest right name, unless `name` is an activation or None."""
    if name is not None and name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)


def linear(x: Any, weight: Any, bias: Any = None, activation: str | None = None) -> Tensor:
    """activation(x @ weight + bias): a layer. x (..., n_in), weight (n_in, n_out), bias (n_out,).

    ValueError: an unknown activation.
    """
    check_activation(activation)
    y = matmul(x, weight)
    if activation is None:
        return y if bias is None else add(y, bias)
    return ACTIVATIONS[activation](y) if bias is None else _BIASED[activation](y, bias)


def _bce_forward(m: Any, l: Any, t: Any) -> Any:
    """-log Bernoulli(t; sigmoid(l)) = max(l, 0) - l t + log(1 + exp(-|l|))."""
    loss = kernels.bce_with_logits(m, l, t)
    if loss is not None:
        return loss
    # The logarithm is of a number in (1, 2]: `log` is as good as `log1p` next to the other terms,
    # and much faster.
    return m.maximum(l, 0.0) - l * t + m.log(1.0 + m.exp(-m.abs(l)))


def _bce_of_logits(m: Any, g: Any, _y: Any, l: Any, t: Any) -> Any:
    d = kernels.bce_with_logits_backward(m, g, l, t)
    return g * (m.sigmoid(l) - t) if d is None else d


bce_with_logits = operation(
    "bce_with_logits", _bce_forward, _bce_of_logits,
    lambda m, g, _y, l, _t: -g * l,
    doc="Binary cross-entropy of targets t in [0, 1] under sigmoid(l), elementwise, in nats.",
)  # fmt: skip


class _Kept:
    """A gradient that the forward pass made on its way, for the first-order backward pass."""

    gradient: Any = None


def _mse_forward(m: Any, a: Any, b: Any, kept: _Kept) -> Any:
    if getattr(a, "shape", None) != getattr(b, "shape", None):  # one of them is a number
        return m.mean(m.square(a - b))
    mean, kept.gradient = kernels.squared_error(m, a, b)
    return mean


def _mse_common(m: Any, g: Any, _y: Any, a: Any, b: Any, kept: _Kept) -> Any:
    if kept.gradient is not None and isinstance(kept.gradient, type(g)):
        return g * kept.gradient
    return (2.0 * g / max((a - b).size, 1)) * (a - b)


_mse = operation(
    "mse", _mse_forward,
    lambda m, g, _y, _a, _b, kept: g,
    lambda m, g, _y, _a, _b, kept: -g,
    common=_mse_common,
)  # fmt: skip


def mse(a: Any, b: Any) -> Tensor:
    """The mean squared error over all elements of a and b: one number.

    ValueError: shapes that differ, unless one is a number; broadcasting would average other pairs.
    """
    shapes = as_array(a).shape, as_array(b).shape
    if shapes[0] != shapes[1] and () not in shapes:
        raise ValueError(f"mse: shapes {shapes[0]} and {shapes[1]} differ")
    return _mse(a, b, kept=_Kept())


def _noise_error_forward(
    m: Any, output: Any, data: Any, on_data: Any, on_noise: Any, draw: Draw, kept: _Kept
) -> Any:
    data = None if on_data is None else data
    mean, kept.gradient = kernels.squared_error(m, output, data, on_data, on_noise, draw)
    return mean


def _noise_error_rule(
    m: Any, g: Any, _y: Any, output: Any,
    data: Any, on_data: Any, on_noise: Any, draw: Draw, kept: _Kept,
) -> Any:  # fmt: skip
    if isinstance(kept.gradient, type(g)):
        return g * kept.gradient
    error = output
    if on_data is not None:
        error = error - on_data[:, None] * data
    if on_noise is not None:
        error = error - on_noise[:, None] * kernels.standard_normals(namespace_of(data), data, draw)
    return (2.0 * g / max(error.size, 1)) * error


_noise_error = operation("noise_error", _noise_error_forward, _noise_error_rule)


def noise_error(output: Any, data: Any, on_data: Any, on_noise: Any, draw: Draw) -> Tensor:
    """The mean of (output - (on_data · data + on_noise · ε))² over all elements: one number.

    ε is the noise of a `draw` (`Generator.next_draw`), made again where it is needed and never
    stored. output, data (rows, columns); on_data, on_noise (rows,) or None for 0; all but the
    output are arrays, and constants.
    """
    return _noise_error(
        output, data=data, on_data=on_data, on_noise=on_noise, draw=draw, kept=_Kept()
    )


def _gaussian_kl(m: Any, mean: Any, log_var: Any) -> Any:
    return 0.5 * (m.square(mean) + _exp_less_linear(m, log_var))


def _exp_less_linear(m: Any, x: Any) -> Any:
    """e^x - 1 - x, by its series near 0, where the difference cancels."""
    near = m.abs(x) < 0.1
    small = m.where(near, x, 0.0)
    series = small * (1.0 / factorial(9))
    for n in range(8, 2, -1):
        series += 1.0 / factorial(n)
        series *= small
    series += 0.5
    return m.where(near, small * small * series, m.expm1(x) - x)


gaussian_kl = operation(
    "gaussian_kl",
    _gaussian_kl,
    lambda m, g, _y, mean, _log_var: g * mean,
    lambda m, g, _y, _mean, log_var: 0.5 * g * m.expm1(log_var),
    doc="KL(N(mean, exp(log_var)) ‖ N(0, 1)) in nats, elementwise (Kingma & Welling 2013, app. B).",
)  # fmt: skip


def _reparameterise_forward(m: Any, h: Any, draw: Draw) -> Any:
    out = kernels.reparameterise(m, h, draw)
    if out is not None:
        return out
    mean, log_var = m.split(h, 2, axis=-1)
    z = mean + m.exp(0.5 * log_var) * kernels.standard_normals(m, mean, draw)
    return m.concatenate([z, _gaussian_kl(m, mean, log_var)], axis=-1)


def _reparameterise_rule(m: Any, g: Any, _y: Any, h: Any, draw: Draw) -> Any:
    d = kernels.reparameterise_backward(m, g, h, draw)
    if d is not None:
        return d
    (mean, log_var), (of_z, of_kl) = m.split(h, 2, axis=-1), m.split(g, 2, axis=-1)
    drawn = kernels.standard_normals(namespace_of(as_array(mean)), as_array(mean), draw)
    noise = m.exp(0.5 * log_var) * drawn
    of_log_var = 0.5 * (of_z * noise + of_kl * m.expm1(log_var))
    return m.concatenate([of_z + of_kl * mean, of_log_var], axis=-1)


_reparameterise = operation("reparameterise", _reparameterise_forward, _reparameterise_rule)


def reparameterise(h: Any, rng: Rng) -> tuple[Tensor, Tensor]:
    """z = mean + std · ε, ε ~ N(0, I), and KL(N(mean, std²) ‖ N(0, 1)) in nats, both (rows, k).

    h (rows, 2 k) holds the mean and the log variance, side by side, as an encoder puts them out
    (Kingma & Welling 2013, eq. 10 and appendix B). ValueError: an odd number of columns.
    """
    shape = as_array(h).shape
    if len(shape) != 2 or shape[1] % 2:
        raise ValueError(f"mean and log variance side by side are (rows, 2 k), not {shape}")
    z, kl = split(_reparameterise(h, draw=as_generator(rng).next_draw()), 2, axis=-1)
    return z, kl


def _standardise_forward(m: Any, x: Any, eps: float) -> Any:
    centred = x - m.mean(x, axis=-1, keepdims=True)
    return centred / _deviation(m, centred, eps)


def _deviation(m: Any, centred: Any, eps: float) -> Any:
    return m.sqrt(m.mean(m.square(centred), axis=-1, keepdims=True) + eps)


def _standardise_rule(m: Any, g: Any, y: Any, x: Any, eps: float) -> Any:
    """g without its parts along 1 and along y: moving x along those leaves y where it is."""
    centred = x - m.mean(x, axis=-1, keepdims=True)
    along = m.mean(g, axis=-1, keepdims=True) + y * m.mean(g * y, axis=-1, keepdims=True)
    return (g - along) / _deviation(m, centred, eps)


_standardise = operation("standardise", _standardise_forward, _standardise_rule)


def standardise(x: Any, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the last axis: layer normalisation (Ba et al. 2016, eq. 4)
    before its gain and bias."""
    return _standardise(x, eps=eps)


def _pick(x: Any, labels: Any) -> Any:
    """1 at the label of each row, 0 elsewhere; shape of x."""
    return labels[..., None] == namespace_of(labels).arange(x.shape[-1])


def _cross_entropy_forward(m: Any, x: Any, labels: Any) -> Any:
    picked = m.sum(m.where(_pick(x, labels), m.log_softmax(x, axis=-1), 0.0), axis=-1)
    return m.where((labels >= 0) & (labels < x.shape[-1]), -picked, m.nan)


_cross_entropy = operation(
    "softmax_cross_entropy", _cross_entropy_forward,
    lambda m, g, _y, x, labels: m.expand_dims(g, -1)
        * (m.softmax(x, axis=-1) - _pick(x, labels)),
)  # fmt: skip


def softmax_cross_entropy(logits: Any, labels: Any) -> Tensor:
    """-log softmax(logits)[label] for each row, in nats.

    logits (..., k), labels (...) whole numbers in 0..k-1, which may have more leading axes;
    ValueError for other labels; on the GPU, where the check would wait, a label that is out of range
    gives NaN.
    """
    array = as_array(logits)
    *rows, classes = array.shape
    labels = array_on(namespace_of(array).device, labels, "the labels", "the logits")
    if labels.shape[labels.ndim - len(rows) :] != tuple(rows):
        raise ValueError(f"labels of shape {labels.shape} for logits of shape {(*rows, classes)}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are whole numbers, not {labels.dtype}")
    on_cpu = namespace_of(labels).device == "cpu"
    if on_cpu and labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"labels {labels.min()}..{labels.max()} are out of range for {classes} classes"
        )
    return _cross_entropy(logits, labels=labels)
