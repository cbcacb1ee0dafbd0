"""The hot composites as single operations: fewer passes, less memory, less overhead.

Each computes what a plain composition of smaller operations computes (the tests hold it to that
composition in value, gradient and second derivative).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygen import kernels
from tinygen.autodiff.engine import Tensor, operation, public
from tinygen.autodiff.promotion import as_array
from tinygen.backend import is_recorded, namespace_of
from tinygen.errors import unknown
from tinygen.kernels import Draw
from tinygen.kernels.reference import SLOPE_FROM_VALUE
from tinygen.ops import elementwise
from tinygen.ops.elementwise import add
from tinygen.ops.linalg import matmul
from tinygen.ops.reduce import mean, sum
from tinygen.ops.shape import split
from tinygen.random import Rng, as_generator

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "tanh": elementwise.tanh,
    "sigmoid": elementwise.sigmoid,
    "softplus": elementwise.softplus,
    "relu": elementwise.relu,
    "leaky_relu": elementwise.leaky_relu,
    "elu": elementwise.elu,
    "silu": elementwise.silu,
    "gelu": elementwise.gelu,
}
"""Activations by name, for `linear` and the layers of `tinygen.nn`."""


# What some forward functions make on the way for the derivative (`also`) is not given under
# create_graph: there the rules make it again, as a graph.


# -- layers --------------------------------------------------------------------------------------
def _with_bias(name: str) -> Callable[..., Tensor]:
    """activation(x + b) as one operation: the sum is not kept, only what its derivative needs."""

    def biased(m: Any, x: Any, b: Any) -> Any:
        return kernels.bias_activation(m, name, x, b)

    def from_value(m: Any, g: Any, y: Any) -> Any:
        return kernels.activation_backward(m, name, g, y)

    def from_input(m: Any, g: Any, x: Any, b: Any) -> Any:
        return kernels.activation_backward(m, name, g, x, b)

    biased.__name__, biased.__doc__ = f"_bias_{name}", f"{name}(x + b)."
    backward = from_value if name in SLOPE_FROM_VALUE else from_input
    return operation(x=lambda g: g, b=lambda g: g, shared=backward)(biased)


_BIASED = {name: _with_bias(name) for name in ACTIVATIONS}


def check_activation(name: str | None) -> None:
    """ValueError, with the nearest right name, unless `name` is an activation or None."""
    if name is not None and name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)


@public
def linear(x: Any, weight: Any, bias: Any = None, activation: str | None = None) -> Tensor:
    """activation(x @ weight + bias): a layer. x (..., n_in), weight (n_in, n_out), bias (n_out,).

    ValueError: an unknown activation.
    """
    check_activation(activation)
    y = matmul(x, weight)
    if activation is None:
        return y if bias is None else add(y, bias)
    return ACTIVATIONS[activation](y) if bias is None else _BIASED[activation](y, bias)


@operation(
    x=lambda m, g, x, eps, made: kernels.standardise_backward(m, g, x, None, eps, made)[0],
    also="made",
)
def standardise(m: Any, x: Any, eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(var + eps) over the last axis: layer normalisation (Ba et al. 2016, eq. 4)
    before its gain and bias."""
    return kernels.standardise(m, x, None, eps)


@operation(
    x=lambda g: g[0],
    modulation=lambda g: g[1],
    shared=lambda m, g, x, modulation, eps, made: kernels.standardise_backward(
        m, g, x, modulation, eps, made
    ),
    also="made",
)
def modulate(m: Any, x: Any, modulation: Any, eps: float = 1e-5) -> Any:
    """(1 + scale) · standardise(x) + shift, where the modulation (..., 2 k) holds scale | shift for the
    k columns of x (Perez et al. 2018). ValueError: it has another number of columns."""
    if modulation.shape[-1:] != (2 * x.shape[-1],):
        raise ValueError(f"{x.shape[-1]} columns take {2 * x.shape[-1]} of scale and shift")
    return kernels.standardise(m, x, modulation, eps)


# -- errors and likelihoods ----------------------------------------------------------------------
_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda losses: losses,
    "mean": mean,
    "sum": sum,
}


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    """All losses, their mean or their sum. ValueError: another `reduction`."""
    if reduction not in _REDUCTIONS:
        raise unknown("reduction", reduction, _REDUCTIONS)
    return _REDUCTIONS[reduction](losses)


@operation(
    logits=lambda m, g, logits, targets: kernels.bce_with_logits_backward(m, g, logits, targets),
    targets=lambda g, logits: -g * logits,
)
def _bce_with_logits(m: Any, logits: Any, targets: Any) -> Any:
    return kernels.bce_with_logits(m, logits, targets)


@public
def bce_with_logits(logits: Any, targets: Any, reduction: str = "none") -> Tensor:
    """Binary cross-entropy of targets t in [0, 1] under sigmoid(l), elementwise, in nats:
    -log Bernoulli(t; sigmoid(l)) = max(l, 0) - l t + log(1 + exp(-|l|)).

    reduction: 'none', or 'mean' or 'sum' over all elements.
    """
    return _reduced(_bce_with_logits(logits, targets), reduction)


def _mse_slope(m: Any, g: Any, a: Any, b: Any, slope: Any) -> Any:
    return g * (kernels.squared_error(m, a, b)[1] if slope is None else slope)


@operation(a=lambda g: g, b=lambda g: -g, shared=_mse_slope, also="slope")
def _mse(m: Any, a: Any, b: Any) -> Any:
    return kernels.squared_error(m, a, b)


@public
def mse(a: Any, b: Any, reduction: str = "mean") -> Tensor:
    """The mean squared error over all elements of a and b: one number.

    reduction: 'mean', or 'sum' for the sum of the squares, 'none' for each.
    ValueError: shapes that differ, unless one is a number; broadcasting would average other pairs.
    """
    shapes = [as_array(x).shape for x in (a, b)]
    if shapes[0] != shapes[1] and () not in shapes:
        raise ValueError(f"mse: the shapes {shapes[0]} and {shapes[1]} differ")
    if reduction == "mean":
        return _mse(a, b)  # in one pass
    return _reduced(elementwise.square(elementwise.subtract(a, b)), reduction)


def _noise_error_slope(
    m: Any, g: Any, output: Any, data: Any, on_data: Any, on_noise: Any, draw: Draw, slope: Any
) -> Any:
    if slope is None:
        slope = _noise_error(m, output, data, on_data, on_noise, draw)[1]
    return g * slope


def _noise_error(
    m: Any, output: Any, data: Any, on_data: Any, on_noise: Any, draw: Draw
) -> tuple[Any, Any]:
    target = None if on_data is None else data
    return kernels.squared_error(m, output, target, on_data, on_noise, draw)


@operation(output=_noise_error_slope, also="slope")
def noise_error(m: Any, output: Any, data: Any, on_data: Any, on_noise: Any, draw: Draw) -> Any:
    """The mean of (output - (on_data · data + on_noise · ε))² over all elements: one number.

    ε is the noise of a `draw` (`Generator.next_draw`), made again where it is needed and never
    stored. output, data (rows, columns); on_data, on_noise (rows,) or None for 0; all but the
    output are arrays, and constants.
    """
    return _noise_error(m, output, data, on_data, on_noise, draw)


@operation(
    mean=lambda g, mean: g * mean,
    log_var=lambda m, g, log_var: 0.5 * g * m.expm1(log_var),
)
def gaussian_kl(m: Any, mean: Any, log_var: Any) -> Any:
    """KL(N(mean, exp(log_var)) ‖ N(0, 1)) in nats, elementwise (Kingma & Welling 2013, app. B)."""
    return 0.5 * (m.square(mean) + m.excess(log_var))


@operation(h=lambda m, g, h, draw: kernels.reparameterise_backward(m, g, h, draw))
def _reparameterise(m: Any, h: Any, draw: Draw) -> Any:
    return kernels.reparameterise(m, h, draw)


@public
def reparameterise(h: Any, rng: Rng) -> tuple[Tensor, Tensor]:
    """z = mean + std · ε, ε ~ N(0, I), and KL(N(mean, std²) ‖ N(0, 1)) in nats, both (rows, k).

    h (rows, 2 k) holds the mean and the log variance, side by side, as an encoder puts them out
    (Kingma & Welling 2013, eq. 10 and appendix B). ValueError: an odd number of columns.
    """
    shape = as_array(h).shape
    if len(shape) != 2 or shape[1] % 2:
        raise ValueError(f"mean and log variance side by side are (rows, 2 k), not {shape}")
    z, kl = split(_reparameterise(h, as_generator(rng).next_draw()), 2, axis=-1)
    return z, kl


def _pick(x: Any, labels: Any) -> Any:
    """1 at the label of each row, 0 elsewhere; shape of x."""
    return labels[..., None] == namespace_of(labels).arange(x.shape[-1])


@operation(
    logits=lambda m, g, logits, labels: (
        m.expand_dims(g, -1) * (m.softmax(logits, axis=-1) - _pick(logits, labels))
    ),
    labels=None,
)
def _softmax_cross_entropy(m: Any, logits: Any, labels: Any) -> Any:
    *rows, classes = logits.shape
    if labels.shape[labels.ndim - len(rows) :] != tuple(rows):
        raise ValueError(f"labels of shape {labels.shape} for logits of shape {(*rows, classes)}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are whole numbers, not {labels.dtype}")
    at_hand = namespace_of(labels).device == "cpu" and not is_recorded(labels)
    if at_hand and labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"labels {labels.min()}..{labels.max()} are out of range for {classes} classes"
        )
    picked = m.sum(m.where(_pick(logits, labels), m.log_softmax(logits, axis=-1), 0.0), axis=-1)
    return m.where((labels >= 0) & (labels < classes), -picked, m.nan)


@public
def softmax_cross_entropy(logits: Any, labels: Any, reduction: str = "none") -> Tensor:
    """-log softmax(logits)[label] for each row, in nats.

    logits (..., k), labels (...) whole numbers in 0..k-1, which may have more leading axes;
    ValueError for other labels; on the GPU, where the check would wait, a label that is out of range
    gives NaN. reduction: 'none', or 'mean' or 'sum' over all rows.
    """
    return _reduced(_softmax_cross_entropy(logits, labels), reduction)
