"""Layers. Each draws its initial weights from the generator or seed that you pass as `rng`.

By default that is the generator that `tg.manual_seed` sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log
from typing import Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.promotion import array_on, as_array
from tinygen.backend import is_recorded, namespace_of
from tinygen.nn.init import initial
from tinygen.nn.module import Module
from tinygen.ops.composites import check_activation
from tinygen.random import Rng, as_generator, default_generator

__all__ = [
    "MLP", "Dropout", "Embedding", "LayerNorm", "Linear", "Sequential", "TimeEmbedding",
]  # fmt: skip


class Linear(Module):
    """activation(x @ weight + bias), from (..., n_in) to (..., n_out).

    init: 'glorot', 'he' or 'orthogonal' for the weight (n_in, n_out). The bias starts at zeros; with
        bias=False there is none.
    dtype: of the parameters. float64 data give float64 results: convert the data with astype first.
    ValueError: an unknown activation or initialisation, sizes below 1.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        activation: str | None = None,
        *,
        rng: Rng | None = None,
        bias: bool = True,
        init: str = "glorot",
        dtype: Any = np.float32,
    ) -> None:
        if n_in < 1 or n_out < 1:
            raise ValueError(f"Linear({n_in}, {n_out}): both sizes must be at least 1")
        check_activation(activation)
        self.activation = activation
        self.weight = tensor(initial(init, rng, (n_in, n_out), dtype), requires_grad=True)
        self.bias = tensor(np.zeros(n_out, dtype), requires_grad=True) if bias else None

    def __call__(self, x: Any) -> Tensor:
        return ops.linear(x, self.weight, self.bias, self.activation)


class Sequential(Module):
    """Modules or functions applied one after the other."""

    def __init__(self, *layers: Callable[[Any], Tensor]) -> None:
        for layer in layers:
            if not callable(layer):
                raise TypeError(f"Sequential(a, b, ...) takes layers, not a {type(layer).__name__}")
        self.layers = list(layers)

    def __call__(self, x: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MLP(Sequential):
    """Linear layers of the given sizes, with an activation after each layer but the last.

    MLP([784, 200, 200, 10], "tanh", rng=rng) has three layers.
    final: the activation after the last layer, or None. dropout: the rate of a Dropout after each
    layer but the last. layer: the class of the layers, such as `SpectralLinear`.
    ValueError: fewer than two sizes, a rate outside [0, 1).
    """

    layers: list[Linear]  # type: ignore[assignment]

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        *,
        rng: Rng | None = None,
        final: str | None = None,
        dropout: float = 0.0,
        init: str = "glorot",
        dtype: Any = np.float32,
        layer: type[Linear] = Linear,
    ) -> None:
        given, rng = rng, as_generator(rng)
        if len(sizes) < 2:
            raise ValueError(f"an MLP needs an input and an output size, not {list(sizes)}")
        check_activation(activation)  # here, because an MLP of one layer does not use it
        last = len(sizes) - 2
        super().__init__(
            *(
                layer(a, b, final if i == last else activation, rng=rng, init=init, dtype=dtype)
                for i, (a, b) in enumerate(pairwise(sizes))
            )
        )
        self.dropout = Dropout(dropout, rng=given) if dropout else None

    def __call__(self, x: Any) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x) if self.dropout is None else self.dropout(layer(x))
        return self.layers[-1](x)


class Embedding(Module):
    """A table of n vectors. It maps whole numbers (...) to vectors (..., width).

    IndexError: a number outside 0..n-1. On the GPU such a number wraps around instead, because a
    check would wait for the values.
    """

    def __init__(
        self, n: int, width: int, *, rng: Rng | None = None, dtype: Any = np.float32
    ) -> None:
        rng = as_generator(rng)
        if n < 1 or width < 1:
            raise ValueError(f"Embedding({n}, {width}): both sizes must be at least 1")
        self.table = tensor(rng.normal((n, width), dtype=dtype), requires_grad=True)

    def __call__(self, indices: Any) -> Tensor:
        array = array_on(self.table.device, indices, "the indices", "the table")
        n = self.table.shape[0]
        if array.dtype.kind not in "iu":
            raise IndexError(f"an Embedding is looked up by whole numbers, not {array.dtype}")
        at_hand = self.table.device == "cpu" and not is_recorded(array)
        if at_hand and array.size and not (array.min() >= 0 and array.max() < n):
            raise IndexError(f"indices {array.min()}..{array.max()} in an Embedding of {n} rows")
        return self.table[array]


class TimeEmbedding(Module):
    """Sines and cosines of t at frequencies from 1 to 1/period (Vaswani et al. 2017, §3.5).

    It maps t (n,) to a float32 constant (n, width). ValueError: a width that is not even and
    positive, a period that is not above 0.
    """

    def __init__(self, width: int, period: float = 10_000.0) -> None:
        if width < 2 or width % 2:
            raise ValueError(f"the width of a time embedding is even and positive, not {width}")
        if not period > 0:
            raise ValueError(f"the period of a time embedding is above 0, not {period}")
        half = width // 2
        self.frequencies = tensor(np.exp(-log(period) * np.arange(half) / half))

    def __call__(self, t: Any) -> Tensor:
        frequencies = self.frequencies.data
        m = namespace_of(frequencies)
        # In float64, because t may be in the thousands.
        angles = array_on(m.device, t, "t", "the embedding")[..., None] * frequencies
        return Tensor(m.concatenate([m.sin(angles), m.cos(angles)], -1).astype(np.float32))


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) · gain + bias, over the last axis (Ba et al. 2016, eq. 4)."""

    def __init__(self, width: int, eps: float = 1e-5, dtype: Any = np.float32) -> None:
        self.eps = eps
        self.gain = tensor(np.ones(width, dtype), requires_grad=True)
        self.bias = tensor(np.zeros(width, dtype), requires_grad=True)

    def __call__(self, x: Any) -> Tensor:
        return ops.standardise(x, self.eps) * self.gain + self.bias


class Dropout(Module):
    """Sets each element to 0 with probability `rate` in training (Srivastava et al. 2014).

    The other elements are divided by 1 - rate, so that the expected value stays. In evaluation it
    changes nothing. Its generator is saved with the module; without `rng` it is one of its own, with a
    seed from the default generator. ValueError: rate outside [0, 1).
    """

    def __init__(self, rate: float, *, rng: Rng | None = None) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"a dropout rate is in [0, 1), not {rate}")
        self.rate = rate
        self.rng = as_generator(default_generator().integers(0, 2**32, ()) if rng is None else rng)

    def __call__(self, x: Any) -> Tensor:
        if not self.training or self.rate == 0:
            return x if isinstance(x, Tensor) else tensor(x)
        array = as_array(x)
        if array.dtype.kind != "f":
            raise TypeError(f"Dropout takes floating-point numbers, not {array.dtype}")
        device = namespace_of(array).device
        keep = self.rng.bernoulli(1 - self.rate, array.shape, array.dtype, device)
        return ops.multiply(x, keep / array.dtype.type(1 - self.rate))
