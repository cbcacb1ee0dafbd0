"""Random computations of the library's operations, in float64, against central differences."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import numpy as np

import tinygen as tg

LENGTH = 14  # operations in a computation
STEPS = (1e-4, 1e-5, 1e-6)  # of the differences: the largest may cross a kink, the least rounds
TOLERANCE = 1e-6  # of the size of the terms that are added


def _regular(x: tg.Tensor) -> tg.Tensor:
    """A matrix with more rows: its columns are independent, and its singular values differ."""
    return tg.concatenate([x, np.diag(1.0 + np.arange(x.shape[1]))], axis=0)


# Each of these takes any real numbers; `c` are constants of the shape of x.
ELEMENTWISE = [
    lambda x, c: tg.arctan(x) + tg.arcsinh(c * x),
    lambda x, c: tg.arcsin(0.9 * tg.tanh(x)) - tg.arccos(0.8 * tg.sin(x)),
    lambda x, c: tg.arctanh(0.9 * tg.sin(x)),
    lambda x, c: tg.arccosh(1.5 + tg.square(x)),
    lambda x, c: tg.log2(2.0 + tg.square(x)) + tg.exp2(-tg.square(x)),
    lambda x, c: tg.sinh(tg.tanh(x)) * tg.cosh(tg.tanh(c * x)),
    lambda x, c: x % (1.5 + tg.square(c)),
    lambda x, c: x * tg.floor(3.0 * c) + tg.round(x),
    lambda x, c: tg.where((x > -1.0) & ~(c > 0) | tg.isnan(x), tg.tan(tg.tanh(x)), x),
    lambda x, c: (
        tg.special.gammaln(0.5 + tg.square(x)) + tg.special.digamma(1.0 + tg.square(c * x))
    ),
    lambda x, c: tg.special.gammainc(0.5 + tg.square(c), 0.1 + tg.square(x)),
    lambda x, c: tg.special.gammaincc(0.5 + tg.square(x), 0.1 + tg.square(c)),
    lambda x, c: tg.special.betainc(0.5 + tg.square(x), 0.5 + tg.square(c), tg.sigmoid(x)),
    lambda x, c: tg.special.erfcx(tg.tanh(x)) + tg.special.erfinv(0.9 * tg.tanh(x)),
    lambda x, c: tg.special.ndtri(0.1 + 0.8 * tg.sigmoid(x)) + tg.special.log_ndtr(x),
    lambda x, c: (
        tg.special.xlogy(x, 0.5 + tg.square(x)) + tg.special.logit(0.1 + 0.8 * tg.sigmoid(x))
    ),
    lambda x, c: tg.special.i0e(1.0 + tg.square(x)) + tg.special.i1e(x) * tg.special.i1(tg.tanh(x)),
    lambda x, c: tg.tanh(x),
    lambda x, c: tg.sigmoid(x),
    lambda x, c: tg.softplus(x),
    lambda x, c: tg.silu(x),
    lambda x, c: tg.gelu(x),
    lambda x, c: tg.relu(x),
    lambda x, c: tg.leaky_relu(x, 0.2),
    lambda x, c: tg.elu(x, 1.3),
    lambda x, c: tg.erf(x),
    lambda x, c: tg.ndtr(x),
    lambda x, c: tg.sin(x) + tg.cos(2.0 * x),
    lambda x, c: tg.exp(0.5 * x),
    lambda x, c: tg.expm1(-tg.abs(x)),
    lambda x, c: tg.log(1.0 + tg.square(x)),
    lambda x, c: tg.log1p(tg.exp(x)),
    lambda x, c: tg.sqrt(0.3 + x * x),
    lambda x, c: (0.5 + tg.square(x)) ** 1.5,
    lambda x, c: 2.0 ** tg.tanh(x),
    lambda x, c: tg.clip(x, -0.7, 0.9),
    lambda x, c: tg.where(c > 0, x, -2.0 * x),
    lambda x, c: c - x,
    lambda x, c: c / (1.0 + tg.square(x)),
    lambda x, c: tg.bce_with_logits(x, tg.sigmoid(c)),
]
ALONG_ROWS = [  # x has two axes
    lambda x, c: tg.linalg.inv(x @ x.T + 2.0 * np.eye(len(x))),
    lambda x, c: tg.linalg.det(x @ x.T + np.eye(len(x)))[None],
    lambda x, c: tg.linalg.slogdet(x @ x.T + np.eye(len(x))).logabsdet[None],
    lambda x, c: tg.linalg.pinv(_regular(x)),
    lambda x, c: tg.linalg.eigvalsh(x @ x.T + np.diag(np.arange(len(x)) * 3.0)),
    lambda x, c: tg.linalg.svdvals(_regular(x)),
    lambda x, c: tg.linalg.qr(_regular(x)).R,
    lambda x, c: tg.linalg.norm(x, 3, axis=0) + tg.linalg.norm(_regular(x), "nuc"),
    lambda x, c: tg.tensordot(x, c, (0, 0)) + tg.inner(x.T, c.T),
    lambda x, c: tg.kron(x[:2, :2], c[:1]),
    lambda x, c: tg.trace(x) * tg.outer(x[0], c[0]),
    lambda x, c: tg.cross(tg.pad(x, ((0, 0), (0, 3)))[:, :3], np.ones(3)),
    lambda x, c: tg.softmax(x, axis=1),
    lambda x, c: tg.log_softmax(x, axis=0),
    lambda x, c: tg.logsumexp(x, axis=1),
    lambda x, c: tg.cumsum(x, axis=0),
    lambda x, c: tg.sum(x, axis=0),
    lambda x, c: x.mean(axis=1, keepdims=True),
    lambda x, c: x.var(axis=0, ddof=0),
    lambda x, c: x.max(axis=1),
    lambda x, c: x.min(axis=0, keepdims=True),
    lambda x, c: tg.prod(x, axis=1),
    lambda x, c: tg.norm(x, axis=0),
    lambda x, c: tg.standardise(x),
    lambda x, c: x.T,
    lambda x, c: tg.flip(x, 1),
    lambda x, c: x.reshape(-1),
    lambda x, c: x[[0, 0, -1]],
    lambda x, c: x[:, ::2],
    lambda x, c: tg.pad(x, 1),
    lambda x, c: tg.concatenate([x, c, x], axis=0),
    lambda x, c: tg.stack([x, 2.0 * x], axis=1).reshape(len(x) * 2, -1),
    lambda x, c: tg.split(x, [1], axis=0)[1],
    lambda x, c: tg.broadcast_to(x, (2, *x.shape)).sum(axis=0),
    lambda x, c: tg.einsum("ij,ik->jk", x, c),
    lambda x, c: x @ tg.transpose(c),
    lambda x, c: tg.linear(x, c.T, None, "tanh"),
    lambda x, c: tg.linear(x, c.T, c[:, 0], "silu"),
    lambda x, c: tg.solve(x @ x.T + 2.0 * np.eye(len(x)), c),
    lambda x, c: tg.cholesky(x @ x.T + 2.0 * np.eye(len(x))),
    lambda x, c: tg.diagonal(x @ c.T),
    lambda x, c: tg.softmax_cross_entropy(x, np.arange(len(x)) % x.shape[1]),
]
ARRAYS = [  # x has two axes
    lambda x, c: tg.ravel(x),
    lambda x, c: tg.roll(x, (1, -1), axis=(0, 1)),
    lambda x, c: tg.tril(x, 1) - tg.triu(c - x),
    lambda x, c: tg.diag(x[0]) + tg.diag(tg.diag(x), -1)[0, 0],
    lambda x, c: tg.vstack([x, c[0], x[0]]),
    lambda x, c: tg.hstack([x, x * c]),
    lambda x, c: tg.column_stack([x[:, 0], x]),
    lambda x, c: tg.repeat(x, [2, *[1] * (len(x) - 1)], axis=0),
    lambda x, c: tg.repeat(x, 2, axis=1),
    lambda x, c: tg.tile(x, (2, 1)),
    lambda x, c: tg.moveaxis(x, [0, 1], [1, 0]),
    lambda x, c: tg.pad(x, 1, mode="reflect"),
    lambda x, c: tg.pad(x, ((0, 1), (2, 0)), mode="wrap"),
    lambda x, c: tg.diff(x, axis=0, prepend=0.3),
    lambda x, c: tg.convolve(x[0], x[:, 1], mode="same"),
    lambda x, c: tg.linspace(x[0, 0], x[1], 4),
    lambda x, c: tg.std(x, axis=1, ddof=1, keepdims=True),
    lambda x, c: tg.cumprod(x, axis=1),
    lambda x, c: tg.nanmean(tg.where(c > c.mean(0), np.nan, x), axis=0),
    lambda x, c: tg.nanstd(tg.where(c > c.mean(), np.nan, x), keepdims=True),
    lambda x, c: tg.nanmax(tg.where(c > c.mean(), np.nan, x), keepdims=True),
    lambda x, c: tg.nanprod(tg.where(c > 0.5, np.nan, x), axis=0),
    lambda x, c: tg.sort(x, axis=0),
    lambda x, c: tg.take_along_axis(x, np.argsort(c, axis=1)[:, :1], axis=1),
    lambda x, c: tg.median(x, axis=1),
    lambda x, c: tg.quantile(x, [0.2, 0.7], axis=0, method="hazen"),
    lambda x, c: tg.nanquantile(tg.where(c > c.mean(), np.nan, x), 0.4, keepdims=True),
    lambda x, c: tg.interp(x, np.linspace(-2.0, 2.0, len(x)), x[:, 0]),
    lambda x, c: tg.interp(c, np.arange(-1.0, x.shape[1] - 1) + 0.1 * tg.tanh(x[1]), x[0]),
]
ALONG_ROWS += ARRAYS
OF_TWO = [  # of one shape, or shapes that broadcast
    lambda a, b: tg.hypot(a, b),
    lambda a, b: tg.arctan2(a, 1.0 + tg.square(b)),
    lambda a, b: tg.logaddexp(a, b),
    lambda a, b: tg.special.betaln(0.5 + tg.square(a), 0.5 + tg.square(b)),
    lambda a, b: tg.special.xlog1py(a, tg.square(b)),
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / (0.5 + tg.square(b)),
    lambda a, b: tg.maximum(a, b),
    lambda a, b: tg.minimum(a, b),
    lambda a, b: tg.power(0.5 + tg.square(a), b),
    lambda a, b: tg.gaussian_kl(a, tg.tanh(b)),
    lambda a, b: tg.where(np.arange(a.shape[-1]) % 2 == 0, a, b) if a.shape == b.shape else a * b,
]


class Computation:
    """A list of operations on a growing list of values; the answer is one number."""

    def __init__(self, rng: np.random.Generator) -> None:
        rows, columns = rng.integers(2, 5, 2)
        shapes = [(rows, columns), (rows, columns), (columns,), (rows, 1)]
        self.inputs = [rng.normal(size=s) for s in shapes[: rng.integers(2, 5)]]
        self.list: list = []
        values = [tg.tensor(x) for x in self.inputs]
        while len(self.list) < LENGTH:
            operation = self._choose(rng, values)
            values.append(operation(values))
            self.list.append(operation)

    @staticmethod
    def _choose(rng: np.random.Generator, values: list):
        """An operation of earlier values, often of the newest; scaled so that numbers stay small."""
        small = [i for i, v in enumerate(values) if v.size <= 64]
        i = small[-1] if rng.random() < 0.5 else int(rng.choice(small))
        kind, x = rng.integers(3), values[i]
        if kind == 0 and x.ndim == 2 and min(x.shape) > 1:
            table = ALONG_ROWS
        elif kind == 1:
            table = OF_TWO
        else:
            table = ELEMENTWISE
        function = table[rng.integers(len(table))]
        if table is OF_TWO:
            fits = [j for j, v in enumerate(values) if _broadcast(v.shape, x.shape)]
            j = int(rng.choice(fits))
            raw = lambda values: function(values[i], values[j])  # noqa: E731
        else:
            c = rng.normal(size=x.shape)
            raw = lambda values: function(values[i], c)  # noqa: E731
        # A random factor: else the largest of two values are both 1, on the kink of `maximum`.
        size = max(1.0, float(np.abs(raw(values).numpy()).max())) * rng.uniform(1.0, 1.5)
        return lambda values: raw(values) / size

    def __call__(self, inputs):
        values = list(inputs)
        for operation in self.list:
            values.append(operation(values))
        used, total = 0, 0.0
        for v in values:  # each with weights of its own
            w = np.sin(1.0 + used + np.arange(v.size)).reshape(v.shape)
            total, used = total + tg.sum(v * w), used + v.size
        return total

    def gradients(self, inputs, create_graph=False):
        leaves = [tg.tensor(x, requires_grad=True) for x in inputs]
        return leaves, tg.gradients(self(leaves), leaves, create_graph=create_graph)


def _broadcast(a: tuple, b: tuple) -> bool:
    try:
        shape = np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return shape in (a, b)


def _dot(a, b) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(a, b, strict=True)))


def _moved(inputs, direction, h):
    return [x + h * d for x, d in zip(inputs, direction, strict=True)]


def _difference(f, inputs, direction, exact, size) -> str | None:
    """Whether the central difference of f along the direction is `exact`, and what is wrong."""
    found = [
        (f(_moved(inputs, direction, h)) - f(_moved(inputs, direction, -h))) / (2 * h)
        for h in STEPS
    ]
    error = min(abs(d - exact) for d in found)
    return None if error <= TOLERANCE * (1.0 + size) else f"{exact}, differences {found}"


def trial(rng: np.random.Generator) -> str | None:
    f = Computation(rng)
    v, w = ([rng.normal(size=x.shape) for x in f.inputs] for _ in range(2))
    _, g = f.gradients(f.inputs)
    g = [t.numpy() for t in g]
    size = sum(float(np.abs(a * b).sum()) for a, b in zip(g, v, strict=True))
    problem = _difference(
        lambda x: f([tg.tensor(a) for a in x]).item(), f.inputs, v, _dot(g, v), size
    )
    if problem:
        return f"first derivative {problem}"

    leaves, slopes = f.gradients(f.inputs, create_graph=True)
    if any(not np.array_equal(a, b.numpy()) for a, b in zip(g, slopes, strict=True)):
        return "the gradient differs under create_graph"
    along = sum(tg.sum(s * d) for s, d in zip(slopes, v, strict=True))
    second = [t.numpy() for t in tg.gradients(along, leaves)] if along.requires_grad else None
    if second is None:
        return None
    size = sum(float(np.abs(a * b).sum()) for a, b in zip(second, w, strict=True))
    along_v = lambda x: _dot([t.numpy() for t in f.gradients(x)[1]], v)  # noqa: E731
    problem = _difference(along_v, f.inputs, w, _dot(second, w), size)
    return f"second derivative {problem}" if problem else None


def trials(seed: int, numbers: Iterable[int]) -> Iterator[tuple[int, str | None]]:
    for number in numbers:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            problem = trial(np.random.default_rng([seed, number]))
        yield number, problem
