"""Rows of op_cases.py for the mathematics: elementwise functions, products, tg.linalg and tg.special.

An oracle that SciPy has for real numbers alone is a series, or one step of Newton's method on a function
that takes complex numbers: exact to first order in the imaginary part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from tests.support.on_device import placed, tg
from tests.support.op_cases import (
    CONSTANTS,
    INF,
    POINTS,
    case,
    cholesky_oracle,
    dominant,
    elementwise,
    fraction,
    nonzero,
    normal,
    positive,
    solve_oracle,
)
from tinygen.backend import vocabulary

# -- elementwise -----------------------------------------------------------------------------------
elementwise("positive", lambda x: x + 0, normal)
elementwise("remainder", lambda a, b: a - b * np.floor(a.real / b.real), normal, nonzero)
case("mod", lambda a, b: a - b * np.floor(a.real / b.real), normal(2, 3), nonzero(3))
elementwise("floor_divide", lambda a, b: np.floor(a.real / b.real), normal, nonzero)
for step in ("floor", "ceil", "trunc", "rint"):
    elementwise(step, lambda x, step=step: getattr(np, step)(x.real), normal)
elementwise("round", lambda x: np.round(x.real), normal)
case("round", lambda x, decimals: np.round(x.real, decimals), normal(2, 3), decimals=1)
elementwise("log2", np.log2, positive)
elementwise("log10", np.log10, positive)
elementwise("exp2", lambda x: 2.0**x, normal)
elementwise("logaddexp", lambda a, b: np.log(np.exp(a) + np.exp(b)), normal, normal)
elementwise("sinh", np.sinh, normal)
elementwise("cosh", np.cosh, normal)
elementwise("arcsin", np.arcsin, fraction)
elementwise("arccos", np.arccos, fraction)
elementwise("arctan", np.arctan, normal)
elementwise("arcsinh", np.arcsinh, normal)
elementwise("arccosh", lambda x: np.arccosh(1 + x), positive, call=lambda x: tg.arccosh(1.0 + x))
elementwise("arctanh", np.arctanh, fraction)
elementwise("hypot", lambda a, b: np.sqrt(a * a + b * b), nonzero, nonzero)
elementwise(
    "arctan2", lambda a, b: np.arctan(a / b) + np.pi * (b < 0) * np.where(a < 0, -1, 1),
    nonzero, nonzero)  # fmt: skip

SOME = np.array([0.0, -0.0, 1.5, -2.0, INF, -INF, np.nan])
OTHER = np.array([0.0, 1.0, 1.5, -3.0, INF, 0.0, 1.0])
YES, NO = np.array([True, True, False, False]), np.array([True, False, True, False])
for name in ("isnan", "isinf", "isfinite", "signbit", "logical_not"):
    CONSTANTS.append((name, (SOME,), getattr(np, name)(SOME)))
for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and",
             "logical_or", "logical_xor"):  # fmt: skip
    CONSTANTS.append((name, (SOME, OTHER), getattr(np, name)(SOME, OTHER)))
    CONSTANTS.append((name, (SOME[:, None], 1.5), getattr(np, name)(SOME[:, None], 1.5)))
for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    CONSTANTS.append((name, (YES, NO), getattr(np, name)(YES, NO)))
    CONSTANTS.append((name, (np.int8([6, 3]), np.int8([3, 5])), getattr(np, name)(
        np.int8([6, 3]), np.int8([3, 5]))))  # fmt: skip

# -- products --------------------------------------------------------------------------------------
for a, b in [((2, 3), (3, 2)), ((3,), (3,)), ((), (2, 3)), ((2,), ()), ((2, 2, 3), (3,)),
             ((2, 3), (2, 3, 2)), ((3,), (2, 3, 2)), ((0, 3), (3, 2))]:  # fmt: skip
    case("dot", np.dot, normal(*a), normal(*b))
for a, b in [((3,), (3,)), ((2, 3), (4, 3)), ((), (2,)), ((2, 3), (3,)), ((2, 1, 3), (2, 3))]:
    case("inner", np.inner, normal(*a), normal(*b))
for a, b in [((2,), (3,)), ((2, 2), (3,)), ((), (2,)), ((0,), (2,))]:
    case("outer", np.outer, normal(*a), normal(*b))
for a, b in [((2, 3), (6,)), ((), ()), ((0,), (0,))]:
    case("vdot", lambda a, b: np.dot(a.reshape(-1), b.reshape(-1)), normal(*a), normal(*b))
for a, b, axes in [((2, 3, 4), (3, 4, 2), 2), ((2, 3), (3, 2), 1), ((2,), (3,), 0),
                   ((2, 3, 4), (4, 3), ([1, 2], [1, 0])), ((2, 3), (2, 4), (0, 0)),
                   ((2, 3, 2), (2, 4), (-1, -2)), ((2, 0), (0, 3), 1)]:  # fmt: skip
    case("tensordot", np.tensordot, normal(*a), normal(*b), axes=axes)
for a, b in [
    ((2, 3), (2, 2)),
    ((2,), (3,)),
    ((2, 2), (3,)),
    ((2,), (1, 2, 2)),
    ((), (2,)),
    ((0, 2), (2, 1)),
]:
    case("kron", np.kron, normal(*a), normal(*b))
for a, b in [((3,), (3,)), ((2, 3), (2, 3)), ((2, 1, 3), (4, 3)), ((3,), (2, 3)), ((0, 3), (3,))]:
    case("cross", np.cross, normal(*a), normal(*b))
case("cross", np.cross, normal(3, 2), normal(2, 3), axisa=0, axisb=1, axisc=0)
case("cross", np.cross, normal(2, 3, 2), normal(2, 3, 2), axis=1)
for params in [{}, {"offset": 1}, {"offset": -1}, {"offset": 5}]:
    case("trace", np.trace, normal(3, 4), **params)
case("trace", np.trace, normal(2, 3, 3), axis1=-1, axis2=1)

# -- tg.linalg -------------------------------------------------------------------------------------
STACKS = [(3, 3), (1, 1), (2, 3, 3), (2, 1, 2, 2), (0, 2, 2)]


def linalg(
    name: str, oracle: Callable[..., Any], *draws: Any, call: Any = None, **params: Any
) -> None:
    case(f"linalg.{name}", oracle, *draws, call=call or getattr(tg.linalg, name), **params)


def packed(*parts: Any) -> Any:
    """Several results as one array."""
    library = np if isinstance(parts[0], np.ndarray) else tg
    return library.concatenate([library.reshape(x, -1) for x in parts])


for a, b in [((3, 3), (3,)), ((2, 3, 3), (3,)), ((1, 1), (1,)), ((0, 2, 2), (2,))]:
    case("solve", lambda a, b: solve_oracle(a, b[:, None])[..., 0], dominant(*a), normal(*b))
linalg("solve", solve_oracle, dominant(3, 3), normal(3, 2))
linalg("cholesky", cholesky_oracle, dominant(3, 3))
for shape in STACKS:
    linalg("inv", np.linalg.inv, dominant(*shape))
    linalg("det", np.linalg.det, dominant(*shape))
    linalg("pinv", np.linalg.inv, dominant(*shape))
linalg("det", np.linalg.det, normal(4, 4))
linalg(
    "cofactors",
    lambda a: np.linalg.det(a) * np.linalg.inv(a).T,
    dominant(3, 3),
    call=vocabulary.cofactors,
)


def slogdet_oracle(a: Any) -> Any:
    d = np.linalg.det(a)
    sign = np.where(d < 0, -1.0, 1.0)
    return packed(sign, np.log(sign * d))


for shape in STACKS:
    linalg(
        "slogdet", slogdet_oracle, dominant(*shape), call=lambda a: packed(*tg.linalg.slogdet(a))
    )
linalg("slogdet", slogdet_oracle, normal(4, 3, 3), call=lambda a: packed(*tg.linalg.slogdet(a)))


def turned(a: Any) -> Any:
    return a.swapaxes(-1, -2)


def eigenpairs(a: Any, w: Any, v: Any) -> tuple[Any, Any]:
    """The pairs (w, v in columns) of symmetric matrices, from those of the real parts: a step of Newton."""
    n = a.shape[-1]
    w, v = w.astype(a.dtype), v.astype(a.dtype)
    for i in np.ndindex(w.shape):
        x = v[i[:-1]][:, i[-1]]
        top = np.concatenate([a[i[:-1]] - w[i] * np.eye(n), -x[:, None]], 1)
        system = np.concatenate([top, np.append(2 * x, 0)[None]])
        step = np.linalg.solve(system, np.append(a[i[:-1]] @ x - w[i] * x, x @ x - 1))
        v[i[:-1]][:, i[-1]] -= step[:-1]
        w[i] -= step[-1]
    return w, v


def eigh_oracle(a: Any) -> Any:
    a = (a + turned(a)) / 2
    return packed(*eigenpairs(a, *np.linalg.eigh(a.real)))


def svd_parts(a: Any) -> tuple[Any, Any, Any]:
    """Of the symmetric matrix [0, a; aᵀ, 0], which has the eigenvectors (u, v)/√2."""
    u, s, vh = np.linalg.svd(a.real, full_matrices=False)
    m, n = a.shape[-2:]
    whole = np.zeros((*a.shape[:-2], m + n, m + n), a.dtype)
    whole[..., :m, m:], whole[..., m:, :m] = a, turned(a)
    s, both = eigenpairs(whole, s, np.concatenate([u, turned(vh)], -2) / np.sqrt(2))
    return both[..., :m, :] * np.sqrt(2), s, turned(both[..., m:, :]) * np.sqrt(2)


def qr_parts(a: Any) -> tuple[Any, Any]:
    """Gram and Schmidt, twice, with LAPACK's signs."""
    signs = np.sign(np.diagonal(np.linalg.qr(a.real)[1], axis1=-2, axis2=-1))
    k = min(a.shape[-2:])
    q = np.zeros((*a.shape[:-1], k), a.dtype)
    for j in range(k):
        x = a[..., j]
        for _ in range(2):
            x = x - np.sum(q * np.sum(q * x[..., None], -2, keepdims=True), -1)
        q[..., j] = signs[..., j, None] * x / np.sqrt(np.sum(x * x, -1, keepdims=True))
    r = turned(q) @ a
    return q, np.where(np.arange(k)[:, None] > np.arange(a.shape[-1]), 0.0, r)


for shape in STACKS:
    linalg("eigh", eigh_oracle, dominant(*shape), call=lambda a: packed(*tg.linalg.eigh(a)))
linalg("eigvalsh", lambda a: eigh_oracle(a)[:3], dominant(3, 3))
for shape in [*STACKS, (4, 2), (2, 4), (2, 3, 2), (2, 2, 3)]:
    linalg("svd", lambda a: packed(*svd_parts(a)), normal(*shape),
           call=lambda a: packed(*tg.linalg.svd(a, full_matrices=False)))  # fmt: skip
    linalg(
        "qr",
        lambda a: packed(*qr_parts(a)),
        normal(*shape),
        call=lambda a: packed(*tg.linalg.qr(a)),
    )
linalg("svd", lambda a, compute_uv: svd_parts(a)[1], normal(2, 3), compute_uv=False)
linalg("qr", lambda a, mode: qr_parts(a)[1], normal(3, 2), mode="r")
linalg("svdvals", lambda a: svd_parts(a)[1], normal(2, 3, 2))
linalg("pinv", lambda a: np.linalg.solve(turned(a) @ a, turned(a)), normal(2, 4, 2))
linalg("pinv", lambda a, rcond: turned(np.linalg.solve(a @ turned(a), a)), normal(2, 4), rcond=1e-8)


def norm_oracle(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    axis = tuple(range(x.ndim)) if axis is None else axis
    size = np.where(x < 0, -x, x)
    if not isinstance(axis, tuple) or len(axis) == 1:
        if ord in (INF, -INF):
            return (np.max if ord > 0 else np.min)(size, axis, keepdims=keepdims)
        if ord == 0:
            return np.sum(x != 0, axis, keepdims=keepdims) * 1.0
        return np.sum(size ** (ord or 2), axis, keepdims=keepdims) ** (1.0 / (ord or 2))
    if ord in (None, "fro"):
        return np.sqrt(np.sum(x * x, axis, keepdims=keepdims))
    x, size = np.moveaxis(x, axis, (-2, -1)), np.moveaxis(size, axis, (-2, -1))
    if ord == "nuc":
        y = svd_parts(x)[1].sum(-1)
    else:
        values = svd_parts(x)[1] if abs(ord) == 2 else size.sum(-2 if abs(ord) == 1 else -1)
        y = (np.max if ord > 0 else np.min)(values, -1)
    return np.expand_dims(y, tuple(a % (y.ndim + 2) for a in axis)) if keepdims else y


for order in (None, 0, 1, 2, 2.5, 3, -1, 0.5, INF, -INF):
    linalg("norm", norm_oracle, nonzero(2, 3), ord=order, axis=1, keepdims=order == 1)
    linalg("norm", norm_oracle, nonzero(4), ord=order)
for order in (None, "fro", "nuc", 1, -1, 2, -2, INF, -INF):
    linalg("norm", norm_oracle, nonzero(2, 3), ord=order)
    linalg("norm", norm_oracle, nonzero(3, 2, 2), ord=order, axis=(0, -1), keepdims=True)
    linalg("norm", norm_oracle, nonzero(2, 2, 3), ord=order, axis=(2, 0))
linalg("norm", lambda x: np.sqrt(np.sum(x * x)), nonzero(2, 2, 2))

# -- tg.special ------------------------------------------------------------------------------------


def of_scipy(name: str, oracle: Callable[..., Any], *kinds: Any) -> None:
    elementwise(f"special.{name}", oracle, *kinds, call=getattr(tg.special, name))


def inverse(solution: Callable[..., Any], f: Callable[..., Any], slope: Callable[..., Any]) -> Any:
    """The inverse of f from its real values, by a step of Newton."""

    def oracle(x: Any) -> Any:
        y = solution(x.real)
        return y - (f(y) - x) / slope(y)

    return oracle


def gammainc_oracle(a: Any, x: Any) -> Any:
    total = term = 1 / special.gamma(a + 1)
    for n in range(1, 60):
        term = term * x / (a + n)
        total = total + term
    return np.exp(a * np.log(x) - x) * total


def betainc_oracle(a: Any, b: Any, x: Any) -> Any:
    total = term = np.ones_like(a + b + x)
    for n in range(500):
        term = term * x * (a + b + n) / (a + 1 + n)
        total = total + term
    log_b = special.loggamma(a) + special.loggamma(b) - special.loggamma(a + b)
    return np.exp(a * np.log(x) + b * np.log(1 - x) - log_b) / a * total


def by_recurrence(n: int) -> Callable[..., Any]:
    """ψ⁽ⁿ⁾(x), n > 0, by the sum of (-1)^(n+1) n! / (x + k)^(n+1) over k < 20 and Stirling's series."""

    def oracle(x: Any) -> Any:
        near = sum(1 / (x + k) ** (n + 1) for k in range(20))
        z = x + 20
        far = special.factorial(n - 1) / z**n + special.factorial(n) / (2 * z ** (n + 1))
        for k, b in enumerate(special.bernoulli(16)[2::2], 1):
            far = far + b * special.factorial(2 * k + n - 1) / (
                special.factorial(2 * k) * z ** (2 * k + n)
            )
        return (-1) ** (n + 1) * (special.factorial(n) * near + far)

    return oracle


def ends() -> Any:
    return placed(np.float32([0.0, 1.0]))


def log_beta(a: Any, b: Any) -> Any:
    return special.loggamma(a) + special.loggamma(b) - special.loggamma(a + b)


def scaled(n: int) -> Callable[..., Any]:
    return lambda x: special.iv(n, x) * np.exp(np.where(x < 0, x, -x))


ROOT = np.sqrt(np.pi)
of_scipy("gammaln", lambda x: special.loggamma(x), positive)
of_scipy(
    "gamma", lambda x: special.gamma(x + 10) / np.prod([x + k for k in range(10)], 0), positive
)
of_scipy("digamma", special.digamma, positive)
of_scipy("psi", special.digamma, positive)
for order in (0, 1, 2, 4):
    case("special.polygamma", lambda x, n: by_recurrence(n)(x) if n else special.digamma(x), positive(2, 3),
         call=lambda x, n: tg.special.polygamma(n, x), n=order)  # fmt: skip
of_scipy("betaln", log_beta, positive, positive)
of_scipy("beta", lambda a, b: np.exp(log_beta(a, b)), positive, positive)
of_scipy("gammainc", gammainc_oracle, positive, positive)
of_scipy("gammaincc", lambda a, x: 1 - gammainc_oracle(a, x), positive, positive)
of_scipy("betainc", betainc_oracle, positive, positive, fraction)
of_scipy("erf", special.erf, normal)
of_scipy("erfc", special.erfc, normal)
of_scipy("erfcx", special.erfcx, normal)
of_scipy(
    "erfinv", inverse(special.erfinv, special.erf, lambda y: 2 / ROOT * np.exp(-y * y)), fraction
)
of_scipy(
    "erfcinv",
    inverse(special.erfcinv, special.erfc, lambda y: -2 / ROOT * np.exp(-y * y)),
    fraction,
)
of_scipy("ndtr", special.ndtr, normal)
of_scipy("ndtri", inverse(special.ndtri, special.ndtr, lambda y: np.exp(-y * y / 2) / np.sqrt(2 * np.pi)),
         fraction)  # fmt: skip
of_scipy("log_ndtr", lambda x: np.log(special.ndtr(x)), normal)
of_scipy("expit", lambda x: 1 / (1 + np.exp(-x)), normal)
of_scipy("logit", lambda x: np.log(x / (1 - x)), fraction)
of_scipy("xlogy", lambda a, b: a * np.log(b), normal, positive)
of_scipy("xlog1py", lambda a, b: a * np.log1p(b), normal, positive)
of_scipy("i0", lambda x: special.iv(0, x), nonzero)
of_scipy("i1", lambda x: special.iv(1, x), nonzero)
of_scipy("i0e", scaled(0), nonzero)
of_scipy("i1e", scaled(1), nonzero)


def weighted_oracle(a: Any, b: Any = 1.0, axis: Any = None, keepdims: bool = False) -> Any:
    return np.log(np.sum(b * np.exp(a), axis=axis, keepdims=keepdims))


case("special.logsumexp", weighted_oracle, normal(2, 3), call=tg.special.logsumexp, axis=1)
for params in ({}, {"axis": 0}, {"axis": (0, -1), "keepdims": True}):
    case("special.logsumexp", weighted_oracle, normal(2, 3), positive(3),
         call=lambda a, b, **more: tg.special.logsumexp(a, b=b, **more), **params)  # fmt: skip
for params in ({}, {"axis": 1}):
    case("special.softmax", lambda x, axis=None: np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True),
         normal(2, 3), call=tg.special.softmax, **params)  # fmt: skip
    case("special.log_softmax", lambda x, axis=None: x - np.log(np.exp(x).sum(axis=axis, keepdims=True)),
         normal(2, 3), call=tg.special.log_softmax, **params)  # fmt: skip

# -- exact answers where a formula is delicate -----------------------------------------------------
POINTS += [
    ("remainder, signs", lambda x: x % 3.0, [-4.0, 4.0], [2.0, 1.0], [1.0, 1.0]),
    ("remainder in the divisor", lambda x: -4.0 % x, [3.0, -3.0], [2.0, -1.0], [2.0, -1.0]),
    ("round, halves", tg.round, [0.5, 1.5, -0.5], [0.0, 2.0, 0.0], [0.0] * 3),
    ("logaddexp, -inf on one side", lambda x: tg.logaddexp(x, -INF), [-2.0, 0.0], [-2.0, 0.0], [1.0, 1.0]),
    ("logaddexp, -inf on both", lambda x: tg.logaddexp(x, x), [-INF], [-INF], [0.0]),
    ("logaddexp, +inf", lambda x: tg.logaddexp(x, 0.0), [INF], [INF], [1.0]),
    ("logaddexp, huge", lambda x: tg.logaddexp(x, 1e8), [1e8, 0.0], [1e8 + np.log(2), 1e8], [0.5, 0.0]),
    ("hypot at 0", lambda x: tg.hypot(x, 0.0), [0.0, -2.0], [0.0, 2.0], [0.0, -1.0]),
    ("hypot, huge", lambda x: tg.hypot(x, 4e30), [3e30], [5e30], [0.6]),
    ("arctan2 at 0", lambda x: tg.arctan2(x, 0.0), [0.0, 2.0], [0.0, np.pi / 2], [0.0, 0.0]),
    ("arctan2, behind", lambda x: tg.arctan2(x, -2.0), [0.0], [np.pi], [-0.5]),
    ("arctan2, huge", lambda x: tg.arctan2(x, 1e30), [1e30], [np.pi / 4], [0.5e-30]),
    ("arcsinh, tails", tg.arcsinh, [0.0, 1e10], [0.0, np.log(2e10)], [1.0, 1e-10]),
    ("xlogy at 0", lambda x: tg.special.xlogy(x, 0.5), [0.0, 2.0], [0.0, -2 * np.log(2)], [-np.log(2)] * 2),
    ("xlogy of 0 times log 0", lambda x: tg.special.xlogy(0.0, x), [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]),
    ("xlog1py of 0 times log 0", lambda x: tg.special.xlog1py(0.0, x), [-1.0], [0.0], [0.0]),
    ("gammainc at 0", lambda x: tg.special.gammainc(2.0, x), [0.0, INF], [0.0, 1.0], [0.0, 0.0]),
    ("gammainc of a = 1 at 0", lambda x: tg.special.gammainc(1.0, x), [0.0], [0.0], [1.0]),
    ("gammainc in a at 0", lambda a: tg.special.gammainc(a, 0.0), [2.0], [0.0], [0.0]),
    ("gammaincc in a at ∞", lambda a: tg.special.gammaincc(a, INF), [2.0], [0.0], [0.0]),
    ("betainc in a at its ends", lambda a: tg.special.betainc(a, 3.0, ends()), [2.0, 2.0],
     [0.0, 1.0], [0.0, 0.0]),
    ("betainc in b at its ends", lambda b: tg.special.betainc(3.0, b, ends()), [2.0, 2.0],
     [0.0, 1.0], [0.0, 0.0]),
    ("betainc in x at its ends", lambda x: tg.special.betainc(1.0, 1.0, x), [0.0, 1.0], [0.0, 1.0],
     [1.0, 1.0]),
    ("log_ndtr, tails", tg.special.log_ndtr, [-1e4, 0.0, 40.0], [special.log_ndtr(-1e4), -np.log(2), 0.0],
     [1e4 + 1e-4, np.sqrt(2 / np.pi), 0.0]),
    ("erfcx, tail", tg.special.erfcx, [1e6], [special.erfcx(1e6)], [(1.5e-24 - 1e-12) / ROOT]),
    ("erfc, tails", tg.special.erfc, [-30.0, 30.0], [2.0, 0.0], [0.0, 0.0]),
    ("i0e at 0", tg.special.i0e, [0.0], [1.0], [0.0]),
    ("i1e at 0", tg.special.i1e, [0.0], [0.0], [0.5]),
    ("i1 at 0", tg.special.i1, [0.0], [0.0], [0.5]),
    ("det of a singular matrix", tg.linalg.det, [[1.0, 2.0], [2.0, 4.0]], 0.0, [[4.0, -2.0], [-2.0, 1.0]]),
    ("det of 0", tg.linalg.det, [[0.0, 0.0], [0.0, 0.0]], 0.0, [[0.0, 0.0], [0.0, 0.0]]),
    ("eigenvalues that are equal", lambda a: tg.sum(tg.linalg.eigvalsh(a) ** 2),
     [[2.0, 0.0], [0.0, 2.0]], 8.0, [[4.0, 0.0], [0.0, 4.0]]),
    ("singular values that are equal", lambda a: tg.sum(tg.linalg.svdvals(a) ** 2),
     [[2.0, 0.0], [0.0, 2.0]], 8.0, [[4.0, 0.0], [0.0, 4.0]]),
    ("a norm of order 3 at 0", lambda x: tg.linalg.norm(x, 3), [0.0, 0.0], 0.0, [0.0, 0.0]),
]  # fmt: skip
