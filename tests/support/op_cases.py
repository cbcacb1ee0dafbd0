"""The registry of operation cases: one row a case, from which test_ops.py generates its tests.

A row names a public function of `tinygen.ops`, an *oracle* that computes the same from NumPy and
SciPy alone, and how to draw the inputs:

    case("sum", np.sum, normal(2, 3, 4), axis=(0, -1), keepdims=True)

calls `tg.sum(x, axis=(0, -1), keepdims=True)` and `np.sum(x, axis=(0, -1), keepdims=True)`.

Every oracle is written so that it also takes complex numbers, with `<` and `>` reading the real
part: the derivative in direction u is then Im f(x + ihu) / h, exact to the last digits (no
difference is taken, so h may be 1e-30). Values at kinks, poles and in tails stand in POINTS.

A new operation needs one row; test_ops.py fails, naming it, until there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
from scipy import special

from tests.support.on_device import placed, tg
from tinygen.distributions.discretised import log_mass


# -- how inputs are drawn ------------------------------------------------------------------------
@dataclass(frozen=True)
class Draw:
    """An input to draw: what kind of numbers, and the shape."""

    kind: str
    shape: tuple[int, ...]

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(DRAWS[self.kind](rng, self.shape))


DRAWS: dict[str, Callable[..., Any]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "positive": lambda rng, shape: rng.uniform(0.5, 2.0, shape),
    "nonzero": lambda rng, shape: rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape),
    "fraction": lambda rng, shape: rng.uniform(0.1, 0.9, shape),
    "bits": lambda rng, shape: rng.random(shape) < 0.5,
    "labels": lambda rng, shape: rng.integers(0, 3, shape),
    "dominant": lambda rng, shape: 0.4 * rng.normal(size=shape) + 2 * np.eye(shape[-1]),
}


def _draws(kind: str) -> Callable[..., Draw]:
    return lambda *shape: Draw(kind, shape)


normal, positive, nonzero = _draws("normal"), _draws("positive"), _draws("nonzero")
fraction, bits, labels = _draws("fraction"), _draws("bits"), _draws("labels")
dominant = _draws("dominant")  # matrices with a large diagonal: far from singular


# -- the registry --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """One function at one set of shapes and parameters."""

    name: str
    call: Callable[..., Any]
    oracle: Callable[..., Any]
    draws: tuple[Draw, ...]
    params: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    def arrays(self, dtype: Any = np.float64) -> list[np.ndarray]:
        """The inputs, the same at every call; `dtype` is that of the real numbers among them."""
        rng = np.random.default_rng(crc32(self.id.encode()))
        drawn = [draw(rng) for draw in self.draws]
        return [x.astype(dtype) if x.dtype.kind == "f" else x for x in drawn]

    def expected(self, *inputs: np.ndarray) -> np.ndarray:
        return np.asarray(self.oracle(*inputs, **self.params))

    def __call__(self, *inputs: Any) -> tg.Tensor:
        return self.call(*placed(inputs), **placed(self.params))


CASES: list[Case] = []


def case(
    name: str,
    oracle: Callable[..., Any],
    *draws: Draw,
    call: Callable[..., Any] | None = None,
    **params: Any,
) -> None:
    shapes = "x".join(str(list(d.shape)).replace(" ", "") for d in draws)
    notes = [f"{k}={_short(v)}" for k, v in params.items()]
    CASES.append(
        Case(
            name,
            call or getattr(tg, name),
            oracle,
            draws,
            params,
            " ".join([name, shapes, *notes]),
        )
    )


def _short(value: Any) -> str:
    return repr(value).replace("\n", "").replace(" ", "").replace("None", "_")


# Every elementwise operation is tried at these shapes: plain, broadcast against each other both
# ways, with lengths 1 and 0, and without any axis.
SHAPES = {
    1: [[(2, 3)], [()], [(0, 3)]],
    2: [
        [(2, 3), (2, 3)], [(3, 1), (4,)], [(2, 3), ()], [(), (3,)], [(1,), ()], [(), ()],
        [(1, 3), (2, 1)], [(0, 3), (1,)],
    ],
    3: [[(2, 3), (2, 3), (2, 3)], [(3, 1), (4,), ()], [(), (2, 1), (3,)], [(), (), ()],
        [(2,), (1,), (3, 1)]],
}  # fmt: skip


def elementwise(name: str, oracle: Callable[..., Any], *kinds: Any, **params: Any) -> None:
    for shapes in SHAPES[len(kinds)]:
        case(name, oracle, *(kind(*s) for kind, s in zip(kinds, shapes, strict=True)), **params)


# Arithmetic
elementwise("add", np.add, normal, normal)
elementwise("subtract", np.subtract, normal, normal)
elementwise("multiply", np.multiply, normal, normal)
elementwise("divide", np.divide, normal, nonzero)
elementwise("negative", np.negative, normal)
elementwise("power", np.power, positive, normal)
for exponent in (-1.5, -1, 0, 0.5, 1, 2, 3):
    base = positive(2, 3) if exponent % 1 else nonzero(2, 3)
    case("power", lambda x, p: x**p, base, call=lambda x, p: tg.power(x, p), p=exponent)
case("power", lambda x, a: a**x, normal(2, 3), call=lambda x, a: tg.power(a, x), a=1.7)
case("power", lambda x, p: x**p, positive(2, 3), call=tg.power, p=np.float32([0.0, 1.0, 2.0]))

# Powers, exponentials, logarithms
elementwise("exp", np.exp, normal)
elementwise("expm1", np.expm1, normal)
elementwise("log", np.log, positive)
elementwise("log1p", np.log1p, fraction)
elementwise("sqrt", np.sqrt, positive)
elementwise("square", lambda x: x * x, normal)

# Pieces
elementwise("abs", lambda x: np.where(x > 0, x, -x), nonzero)
elementwise("sign", lambda x: np.where(x > 0, 1.0, -1.0), nonzero)
elementwise("maximum", lambda a, b: np.where(a > b, a, b), normal, normal)
elementwise("minimum", lambda a, b: np.where(a < b, a, b), normal, normal)
elementwise("where", lambda c, a, b: np.where(c, a, b), bits, normal, normal)


def clip_oracle(x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else np.where(x > low, x, low)
    return x if high is None else np.where(x < high, x, high)


elementwise("clip", clip_oracle, normal, low=-0.5, high=0.5)
case("clip", clip_oracle, normal(2, 3), low=0.1)
case("clip", clip_oracle, normal(2, 3), high=0.1)
case("clip", clip_oracle, normal(2, 3), normal(3), high=0.9)
case("clip", clip_oracle, normal(3), normal(2, 1))
elementwise("clip", clip_oracle, normal, fraction, positive)
case("clip", clip_oracle, normal(6), positive(6), fraction(6))  # the limits crossed

# Trigonometry and special functions
elementwise("sin", np.sin, normal)
elementwise("cos", np.cos, normal)
elementwise("tan", np.tan, fraction)
elementwise("erf", special.erf, normal)
elementwise("ndtr", special.ndtr, normal)


def log_mass_oracle(u: Any, w: Any) -> Any:
    return np.log(special.ndtr(u + w) - special.ndtr(u)) + np.where(u > 0, u * u / 2, 0.0)


elementwise("log_mass", log_mass_oracle, fraction, positive, call=log_mass)
case("log_mass", lambda u, w: log_mass_oracle(-u, 2 * w), fraction(3, 2), positive(3, 2),
     call=lambda u, w: log_mass(-1.0 * u, 2.0 * w))  # fmt: skip
elementwise("excess", lambda x: np.exp(x) - 1 - x, normal)
case("excess", lambda x: np.exp(x) - 1 - x, fraction(3, 2))

# Activations, also through `linear` below
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "leaky_relu": lambda x, slope=0.01: np.where(x > 0, x, slope * x),
    "elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * special.ndtr(x),
}
for activation, formula in ACTIVATIONS.items():
    elementwise(activation, formula, normal)
case("leaky_relu", ACTIVATIONS["leaky_relu"], normal(2, 3), slope=0.2)
case("elu", ACTIVATIONS["elu"], normal(2, 3), alpha=1.6)
case("astype", lambda x, dtype: +x, normal(2, 3), dtype=np.float64)

# Reductions
EVERY_AXIS = [None, 0, -1, 1, (0, 2), (-1, 0), (0, 1, 2), ()]


def norm_oracle(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))


def var_oracle(x: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    n = np.ones_like(x).sum(axis=axis, keepdims=True)
    d = x - x.sum(axis=axis, keepdims=True) / n
    return np.sum(d * d / (n - ddof), axis=axis, keepdims=keepdims)


def logsumexp_oracle(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "prod": np.prod,
    "norm": norm_oracle, "var": var_oracle, "logsumexp": logsumexp_oracle,
}  # fmt: skip
for reduction, formula in REDUCTIONS.items():
    for axis in EVERY_AXIS:
        if axis == () and reduction in ("norm", "prod"):
            continue  # |x| and x: the first has a kink, the second is no product
        kind = nonzero if reduction in ("norm", "prod") else normal
        case(reduction, formula, kind(2, 1, 3), axis=axis, keepdims=axis in (0, (-1, 0), ()))
    case(reduction, formula, nonzero(5), keepdims=True)
    if reduction not in ("norm",):
        case(reduction, formula, normal())
    if reduction in ("sum", "prod"):
        case(reduction, formula, normal(2, 0, 3), axis=1)
        case(reduction, formula, normal(0))
    if reduction != "prod":
        case(reduction, formula, normal(0, 3), axis=1)
case("var", var_oracle, normal(4, 3), axis=0, ddof=1)
case("var", var_oracle, normal(4, 3), ddof=1.5, keepdims=True)
case("cumsum", np.cumsum, normal(2, 3))
for axis in (-1, 0, 1):
    case("cumsum", np.cumsum, normal(2, 3), axis=axis)
for axis in (-1, 0, 1, None, (0, 2), (-1, 0)):
    case("softmax", lambda x, axis: np.exp(x) / np.exp(x).sum(axis, keepdims=True), normal(3, 1, 4),
         axis=axis)  # fmt: skip
    case("log_softmax", lambda x, axis: x - np.log(np.exp(x).sum(axis, keepdims=True)),
         normal(3, 2, 2), axis=axis)  # fmt: skip
case("cumsum", np.cumsum, normal(2, 0), axis=-1)

case("standardise", lambda x: (x - x.mean(-1, keepdims=True))
     / np.sqrt(var_oracle(x, -1, keepdims=True) + 1e-5), normal(3, 4))  # fmt: skip
case("standardise", lambda x, eps: (x - x.mean(-1, keepdims=True))
     / np.sqrt(var_oracle(x, -1, keepdims=True) + eps), normal(2, 1, 3), eps=0.3)  # fmt: skip

case("modulate", lambda x, of: (x - x.mean(-1, keepdims=True))
     / np.sqrt(var_oracle(x, -1, keepdims=True) + 1e-5) * (1 + of[..., :4]) + of[..., 4:],
     normal(3, 4), normal(3, 8))  # fmt: skip

# Products
for a, b in [
    ((2, 3), (3, 4)), ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 2, 3), (3, 2)),
    ((3,), (2, 3, 2)), ((2, 2, 3), (3,)), ((2, 3), (2, 3, 2)), ((2, 1, 2, 3), (3, 3, 2)),
    ((1, 2, 2), (3, 2, 1)), ((1, 1), (1, 1)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((0, 2, 3), (3, 2)),
]:  # fmt: skip
    case("matmul", np.matmul, normal(*a), normal(*b))


def einsum_case(subscripts: str, *shapes: tuple[int, ...]) -> None:
    case(
        "einsum",
        lambda *xs, subscripts: np.einsum(subscripts, *xs),
        *(normal(*s) for s in shapes),
        call=lambda *xs, subscripts: tg.einsum(subscripts, *xs),
        subscripts=subscripts,
    )


einsum_case("ij,jk->ik", (2, 3), (3, 2))
einsum_case("bij,bjk->bik", (2, 2, 3), (2, 3, 1))
einsum_case("i,j->ij", (2,), (3,))
einsum_case("i,i", (3,), (3,))
einsum_case("i,i->i", (3,), (3,))
einsum_case("ba", (2, 3))  # implicit output: sorted letters
einsum_case("ij->", (2, 3))
einsum_case("ijk->j", (2, 3, 2))
einsum_case("ij,k->k", (2, 3), (2,))  # an operand that is only summed
einsum_case("ii", (3, 3))
einsum_case("ii->i", (3, 3))
einsum_case("iij->j", (2, 2, 3))
einsum_case("iii->i", (2, 2, 2))
einsum_case("iji,ik->jk", (2, 3, 2), (2, 2))
einsum_case("...ij,...jk->...ik", (2, 2, 3), (3, 2))
einsum_case("...i,...i", (2, 1, 3), (2, 3))
einsum_case("i...->...", (2, 3))
einsum_case("...ii->...i", (2, 3, 3))
einsum_case("ab,bc,cd->ad", (2, 2), (2, 3), (3, 1))
einsum_case("i,ij,j", (2,), (2, 3), (3,))
einsum_case("bi,bi->b", (1, 3), (2, 3))  # lengths 1 broadcast
einsum_case("i,i->", (1,), (3,))
einsum_case("ij,ij->i", (2, 1), (2, 3))
einsum_case(",i->i", (), (3,))
einsum_case(" i j , j -> i ", (2, 3), (3,))
for params in [{}, {"offset": 1}, {"offset": -1}, {"offset": 5}]:
    case("diagonal", np.diagonal, normal(3, 4), **params)
case("diagonal", np.diagonal, normal(2, 3, 3), axis1=-1, axis2=1)
case("diagonal", np.diagonal, normal(2, 3, 2), offset=1, axis1=1, axis2=0)

# Linear equations


def solve_oracle(a: Any, b: Any) -> Any:
    # NumPy 1 takes b for vectors where it has one dimension less than a.
    return np.linalg.solve(a, b.reshape((1,) * (a.ndim - b.ndim) + b.shape))


for a, b in [
    ((3, 3), (3, 2)), ((1, 1), (1, 1)), ((2, 3, 3), (2, 3, 1)), ((3, 3), (2, 3, 2)),
    ((2, 1, 2, 2), (3, 2, 1)), ((2, 2, 2), (1, 2, 3)), ((0, 2, 2), (0, 2, 1)),
]:  # fmt: skip
    case("solve", solve_oracle, dominant(*a), normal(*b))


def cholesky_oracle(a: Any) -> Any:
    a = (a + a.swapaxes(-1, -2)) / 2
    y = np.zeros_like(a)
    for i, j in np.ndindex(a.shape[-2:]):
        rest = a[..., i, j] - np.sum(y[..., i, :j] * y[..., j, :j], -1)
        if i >= j:
            y[..., i, j] = np.sqrt(rest) if i == j else rest / y[..., j, j]
    return y


for shape in [(3, 3), (1, 1), (2, 3, 3), (0, 2, 2), (2, 1, 2, 2)]:
    case("cholesky", cholesky_oracle, dominant(*shape))

# Shapes
for shape in [(3, 2), (-1,), 6, (1, 6, 1), (2, -1)]:
    case("reshape", lambda x, shape: x.reshape(shape), normal(2, 3), shape=shape)
case("reshape", lambda x, shape: x.reshape(shape), normal(1), shape=())
case("reshape", lambda x, shape: x.reshape(shape), normal(0, 3), shape=(5, 0))
for axes in [None, (1, 0, 2), (2, 0, 1), (-1, 0, 1)]:
    case("transpose", np.transpose, normal(2, 3, 2), axes=axes)
case("transpose", np.transpose, normal())
case("swapaxes", np.swapaxes, normal(2, 3, 2), axis1=0, axis2=-1)
for source, destination in [(0, 2), (-1, 0), (1, -1)]:
    case("moveaxis", np.moveaxis, normal(2, 3, 2), source=source, destination=destination)
for axis in [0, -1, (0, 2), (-1, 0)]:
    case("expand_dims", np.expand_dims, normal(2, 3), axis=axis)
for axis in [None, 0, -1, (0, 2)]:
    case("squeeze", np.squeeze, normal(1, 3, 1), axis=axis)
for start, shape in [((3,), (2, 3)), ((2, 1), (2, 3)), ((), (2,)), ((1,), (0,)), ((2, 3), (2, 3))]:
    case("broadcast_to", np.broadcast_to, normal(*start), shape=shape)
for axis in [None, 0, -1, (0, 1)]:
    case("flip", np.flip, normal(2, 3), axis=axis)
for widths in [1, (1, 2), ((0, 1),), ((1, 0), (2, 3)), 0]:
    case("pad", np.pad, normal(2, 3), pad_width=widths)
case("pad", np.pad, normal(0), pad_width=(2, 1))
for shapes, axis in [
    ([(2, 3), (1, 3)], 0), ([(2, 1), (2, 3), (2, 2)], -1), ([(2,)], 0), ([(0, 2), (1, 2)], 0),
]:  # fmt: skip
    case("concatenate", lambda *xs, axis: np.concatenate(xs, axis), *(normal(*s) for s in shapes),
         call=lambda *xs, axis: tg.concatenate(xs, axis), axis=axis)  # fmt: skip
for shape, axis in [((2, 3), 0), ((2, 3), -1), ((2, 3), 1), ((), 0)]:
    case("stack", lambda *xs, axis: np.stack(xs, axis), normal(*shape), normal(*shape),
         call=lambda *xs, axis: tg.stack(xs, axis), axis=axis)  # fmt: skip
for parts, axis in [(2, 0), (np.int64(3), -1), ([1], 0), ([1, 4], 1), ([-1], 1), ([2, 2], 1)]:
    for piece in (0, -1):
        case("split", lambda x, parts, axis, piece: np.split(x, parts, axis)[piece], normal(4, 6),
             call=lambda x, parts, axis, piece: tg.split(x, parts, axis)[piece],
             parts=parts, axis=axis, piece=piece)  # fmt: skip

case("split", lambda x, parts: np.split(x, parts)[1], normal(0, 2),
     call=lambda x, parts: tg.split(x, parts)[1], parts=2)  # fmt: skip

KEYS: list[Any] = [
    1, -1, np.int64(2), (0, 1), slice(1, 3), slice(None, None, -1), slice(3, 0, -2), slice(0, 0),
    (slice(None), 1), None, (None, slice(1, 2), None), ..., (..., 0), (1, ..., None), (),
    np.array([2, 0, 2, 2]), [1, 1], [], np.array([[0, 1], [1, -1]]), np.array(1), range(2),
    (np.array([0, 0, 3]), np.array([1, 1, 2])), (np.array([[0], [3]]), np.array([0, 2])),
    (slice(1, None), [0, 0]), ([0, 0], slice(None, None, 2)), ([0, 2, 0], None, 1), ((0, 0),),
    np.array([True, False, True, True]), [False] * 4, (slice(None), [True, False, True]),
    np.arange(12).reshape(4, 3) % 5 == 1, (np.array([True, False, True, False]), [2, 0]), True,
]  # fmt: skip
for key in KEYS:
    case("index", lambda x, key: x[key], normal(4, 3), key=key)


def index_add_oracle(g: Any, key: Any, shape: tuple[int, ...]) -> Any:
    out = np.zeros(shape, g.dtype)
    np.add.at(out, key, g)
    return out


case("index_add", index_add_oracle, normal(3), key=np.array([1, 1, 0]), shape=(2,))
case("index_add", index_add_oracle, normal(2, 3), key=slice(None, None, 2), shape=(3, 3))
case("index_add", index_add_oracle, normal(3, 1), key=([0, 1, 0], slice(1)), shape=(2, 2))
case("index_add", index_add_oracle, normal(), key=(1, 2), shape=(2, 3))

# Fused composites
for activation in [None, *ACTIVATIONS]:
    case("linear", lambda x, w, b, activation: ACTIVATIONS.get(activation, np.add)(
        *([x @ w + b] if activation else [x @ w, b])), normal(2, 3), normal(3, 2), normal(2),
        activation=activation)  # fmt: skip
case("linear", lambda x, w: x @ w, normal(2, 3), normal(3, 2))
case("linear", lambda x, w, activation: np.tanh(x @ w), normal(2, 2, 3), normal(3, 2),
     call=lambda x, w, activation: tg.linear(x, w, activation=activation),
     activation="tanh")  # fmt: skip
elementwise("bce_with_logits", lambda x, t: np.log1p(np.exp(x)) - x * t, normal, fraction)
for shapes in [((3,), (3,)), ((2, 3), (2, 3)), ((), ()), ((), (4,)), ((2, 3), ())]:
    case("mse", lambda a, b: np.mean((a - b) * (a - b)), *(normal(*s) for s in shapes))
elementwise(
    "gaussian_kl", lambda mean, log_var: (mean * mean + np.exp(log_var) - 1 - log_var) / 2,
    normal, normal)  # fmt: skip


def cross_entropy_oracle(x: Any, y: Any) -> Any:
    picked = np.sum(np.where(y[..., None] == np.arange(x.shape[-1]), x, 0.0), -1)
    return np.log(np.sum(np.exp(x), -1)) - picked


for shape in [(4, 3), (3,), (2, 2, 5), (0, 3)]:
    case("softmax_cross_entropy", cross_entropy_oracle, normal(*shape), labels(*shape[:-1]))


# What has no row here, and where its tests are.
ELSEWHERE = {
    "from_dlpack": "test_array_face.py: it takes arrays of other libraries",
    "to": "test_devices.py: it needs two devices",
    "noise_error": "test_composites.py: its noise depends on the dtype",
    "reparameterise": "test_composites.py: its noise depends on the dtype",
}


# -- constants: functions without a derivative ---------------------------------------------------
CONSTANTS: list[tuple[str, tuple[Any, ...], np.ndarray]] = [
    ("zeros", ((2, 3), np.float32), np.zeros((2, 3), np.float32)),
    ("zeros", (3,), np.zeros(3)),
    ("ones", ((), np.float32), np.ones((), np.float32)),
    ("ones", ((2, 0),), np.ones((2, 0))),
    ("zeros_like", (np.ones((2, 1), np.float32),), np.zeros((2, 1), np.float32)),
    ("ones_like", (np.zeros(3),), np.ones(3)),
    ("arange", (4,), np.arange(4)),
    ("arange", (1, 8, 3), np.array([1, 4, 7])),
]

# -- exact answers where a formula is delicate ----------------------------------------------------
INF = float("inf")
POINTS: list[tuple[str, Callable[[tg.Tensor], tg.Tensor], Any, Any, Any]] = [
    # name, function of one Tensor, its value, the function's value there, the gradient of the sum
    ("abs at 0", tg.abs, [0.0, -2.0], [0.0, 2.0], [0.0, -1.0]),
    ("sign at 0", tg.sign, [0.0, 3.0], [0.0, 1.0], [0.0, 0.0]),
    ("relu at 0", tg.relu, [0.0, -1.0, 2.0], [0.0, 0.0, 2.0], [0.0, 0.0, 1.0]),
    ("maximum, tie", lambda x: tg.maximum(x, 1.0), [1.0, 2.0], [1.0, 2.0], [0.5, 1.0]),
    ("maximum, tie on the right", lambda x: tg.maximum(1.0, x), [1.0, 0.0], [1.0, 1.0], [0.5, 0.0]),
    ("maximum with itself", lambda x: tg.maximum(x, x), [1.0], [1.0], [1.0]),
    ("minimum, tie", lambda x: tg.minimum(x, 1.0), [1.0, 2.0], [1.0, 1.0], [0.5, 0.0]),
    ("minimum, tie on the right", lambda x: tg.minimum(1.0, x), [1.0, 0.0], [1.0, 0.0], [0.5, 1.0]),
    ("max, ties share", tg.max, [3.0, 1.0, 3.0], 3.0, [0.5, 0.0, 0.5]),
    ("min, ties share", tg.min, [2.0, 2.0, 2.0, 2.0], 2.0, [0.25] * 4),
    ("max, ties by row", lambda x: tg.max(x, 1), [[1.0, 1.0], [0.0, 2.0]], [1.0, 2.0],
     [[0.5, 0.5], [0.0, 1.0]]),
    ("clip, limits included", lambda x: tg.clip(x, 0.0, 1.0), [-1.0, 0.0, 1.0, 2.0],
     [0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]),
    ("norm at 0", tg.norm, [0.0, 0.0], 0.0, [0.0, 0.0]),
    ("norm, a row of 0", lambda x: tg.norm(x, 1), [[0.0, 0.0], [3.0, 4.0]], [0.0, 5.0],
     [[0.0, 0.0], [0.6, 0.8]]),
    ("0 to the 0", lambda x: x**0, [0.0, 2.0], [1.0, 1.0], [0.0, 0.0]),
    ("0 to the 1", lambda x: x**1, [0.0, -2.0], [0.0, -2.0], [1.0, 1.0]),
    ("0 to the 2", lambda x: x**2, [0.0, -2.0], [0.0, 4.0], [0.0, -4.0]),
    ("0 to the 3", lambda x: x**3, [0.0, -2.0], [0.0, -8.0], [0.0, 12.0]),
    ("0 to an array", lambda x: x ** placed(np.float32([0.0, 1.0, 2.0])), [0.0] * 3, [1.0, 0.0, 0.0],
     [0.0, 1.0, 0.0]),
    ("0 to a variable", lambda x: 0.0**x, [0.0, 1.0, 2.0], [1.0, 0.0, 0.0], [0.0] * 3),
    ("a negative base to a variable", lambda x: (-2.0) ** x, [2.0, 3.0], [4.0, -8.0], [0.0, 0.0]),
    ("prod, no zero", tg.prod, [2.0, 3.0, 4.0], 24.0, [12.0, 8.0, 6.0]),
    ("prod, one zero", tg.prod, [2.0, 0.0, 4.0], 0.0, [0.0, 8.0, 0.0]),
    ("prod, two zeros", tg.prod, [0.0, 3.0, 0.0], 0.0, [0.0, 0.0, 0.0]),
    ("prod, rows of seven", lambda x: tg.prod(x, 1),
     [[1.0, 2, 3, 4, 5, 6, 7], [1.0, 0, 3, 1, 1, 1, 2]], [5040.0, 0.0],
     [[5040.0, 2520, 1680, 1260, 1008, 840, 720], [0.0, 6, 0, 0, 0, 0, 0]]),
    ("logsumexp, large", tg.logsumexp, [1000.0, 1000.0], 1000 + np.log(2), [0.5, 0.5]),
    ("logsumexp, small", tg.logsumexp, [-1000.0, -1000.0], -1000 + np.log(2), [0.5, 0.5]),
    ("logsumexp, one -inf", tg.logsumexp, [-INF, 3.0], 3.0, [0.0, 1.0]),
    ("logsumexp, all -inf", tg.logsumexp, [-INF, -INF], -INF, [0.0, 0.0]),
    ("logsumexp, a row of -inf", lambda x: tg.logsumexp(x, 1, keepdims=True),
     [[-INF, -INF], [0.0, 0.0]], [[-INF], [np.log(2)]], [[0.0, 0.0], [0.5, 0.5]]),
    ("softmax, large", lambda x: tg.softmax(x)[0], [1000.0, 1000.0], 0.5, [0.25, -0.25]),
    ("softmax, -inf", lambda x: tg.softmax(x)[1], [-INF, 5.0, 5.0], 0.5, [0.0, 0.25, -0.25]),
    ("log_softmax, large", lambda x: tg.log_softmax(x)[0], [1000.0, 0.0], 0.0, [0.0, 0.0]),
    ("log_softmax, far below", lambda x: tg.log_softmax(x)[1], [1000.0, 0.0], -1000.0, [-1.0, 1.0]),
    ("sigmoid, tails", tg.sigmoid, [-800.0, 0.0, 800.0, -INF, INF], [0.0, 0.5, 1.0, 0.0, 1.0],
     [0.0, 0.25, 0.0, 0.0, 0.0]),
    ("sigmoid, small values", tg.sigmoid, [-50.0], [np.exp(-50.0)], [np.exp(-50.0)]),
    ("softplus, tails", tg.softplus, [-800.0, 0.0, 800.0], [0.0, np.log(2), 800.0], [0.0, 0.5, 1.0]),
    ("softplus, small values", tg.softplus, [-50.0], [np.exp(-50.0)], [np.exp(-50.0)]),
    ("silu, tails", tg.silu, [-INF, -1e36, -800.0, 0.0, 800.0, INF], [0.0] * 4 + [800.0, INF],
     [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]),
    ("gelu, tails", tg.gelu, [-INF, -1e36, -40.0, 0.0, 40.0, INF], [0.0] * 4 + [40.0, INF],
     [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]),
    ("gelu, small values", tg.gelu, [-10.0], [-10 * 7.61985302416052606597e-24],
     [7.61985302416052606597e-24 - 10 * np.exp(-50) / np.sqrt(2 * np.pi)]),
    ("elu, tail", tg.elu, [-800.0, 0.0, 800.0], [-1.0, 0.0, 800.0], [0.0, 1.0, 1.0]),
    ("leaky_relu at 0", tg.leaky_relu, [-2.0, 0.0, 2.0], [-0.02, 0.0, 2.0], [0.01, 0.01, 1.0]),
    ("tanh, tails", tg.tanh, [-400.0, 400.0], [-1.0, 1.0], [0.0, 0.0]),
    ("erf, tails", tg.erf, [-30.0, 0.0, 30.0], [-1.0, 0.0, 1.0], [0.0, 2 / np.sqrt(np.pi), 0.0]),
    ("ndtr, tails", tg.ndtr, [-10.0, 10.0, 40.0], [7.61985302416052606597e-24, 1.0, 1.0],
     [np.exp(-50) / np.sqrt(2 * np.pi)] * 2 + [0.0]),
    ("exp, no underflow", tg.exp, [-800.0], [0.0], [0.0]),
    ("expm1, near 0", tg.expm1, [1e-12, 0.0], [1e-12 + 5e-25, 0.0], [1.0 + 1e-12, 1.0]),
    ("log1p, near 0", tg.log1p, [1e-12, 0.0], [1e-12 - 5e-25, 0.0], [1.0 - 1e-12, 1.0]),
    ("bce, confident and right", lambda x: tg.bce_with_logits(x, placed(np.float32([1.0, 0.0]))),
     [1e4, -1e4], [0.0, 0.0], [0.0, 0.0]),
    ("bce, confident and wrong", lambda x: tg.bce_with_logits(x, placed(np.float32([0.0, 1.0]))),
     [1e4, -1e4], [1e4, 1e4], [1.0, -1.0]),
    ("gaussian_kl at the prior", lambda x: tg.gaussian_kl(x, 0.0), [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]),
    ("gaussian_kl, variance to 0", lambda x: tg.gaussian_kl(0.0, x), [-1000.0, 0.0], [499.5, 0.0],
     [-0.5, 0.0]),
    ("gaussian_kl near the prior", lambda x: tg.gaussian_kl(0.0, x), [1e-6, -1e-9],
     [2.5e-13 * (1 + 1e-6 / 3), 2.5e-19 * (1 - 1e-9 / 3)], [5e-7 * (1 + 5e-7), -5e-10 * (1 - 5e-10)]),
    ("cross entropy, sure and wrong", lambda x: tg.softmax_cross_entropy(x, placed(np.array([0, 1]))),
     [[0.0, 1e4], [0.0, 1e4]], [1e4, 0.0], [[-1.0, 1.0], [0.0, 0.0]]),
    ("cross entropy, an impossible class", lambda x: tg.softmax_cross_entropy(x, placed(np.array([0]))),
     [[0.0, -INF]], [0.0], [[0.0, 0.0]]),
]  # fmt: skip

from tests.support import array_cases, math_cases  # noqa: E402, F401 - they add to the lists above
