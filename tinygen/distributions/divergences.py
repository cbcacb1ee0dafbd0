"""Exact divergences between two distributions. The types of the pair choose the formula."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import Any, TypeAlias

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.backend import namespace_of
from tinygen.distributions.bernoulli import Bernoulli
from tinygen.distributions.categorical import Categorical
from tinygen.distributions.discretised import DiscretisedNormal
from tinygen.distributions.multivariate import MultivariateNormal, whiten
from tinygen.distributions.normal import Normal
from tinygen.ops.elementwise import NEAR

__all__ = ["js_divergence", "kl_divergence"]

Table: TypeAlias = dict[tuple[type, type], Callable[[Any, Any], Tensor]]


def kl_divergence(p: Any, q: Any) -> Tensor:
    """KL(p ‖ q) = E_p[log p(x) - log q(x)] in nats, by a closed form. It is never negative.

    It is elementwise for two Normal, two Bernoulli, or two DiscretisedNormal with the same levels.
    Two MultivariateNormal give one number for each vector, two Categorical with the same classes one
    for each row. Shapes broadcast. It is +inf if p gives probability to a class that q excludes.
    It is differentiable in the parameters of both.
    TypeError: a pair without a closed form here. ValueError: different classes, levels or lengths of
    vectors.
    """
    return _look_up("KL", _KL, p, q)(p, q)


def js_divergence(p: Any, q: Any) -> Tensor:
    """JS(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m) with the mixture m = (p + q)/2, in nats, in [0, log 2].

    Two Categorical give one number for each row. Two Bernoulli and two DiscretisedNormal are computed
    elementwise. These are differentiable. Two Normal of shape () give a float64 constant by
    quadrature, with an error below 1e-12.
    TypeError: another pair, or Normals whose parameters require a gradient.
    ValueError: Normals of another shape, different classes or levels.
    """
    js = _look_up("JS", _JS, p, q)(p, q)
    return js - ops.relu(js.detach() - log(2))  # rounded probabilities may have a sum above 1


def _look_up(divergence: str, table: Table, p: Any, q: Any) -> Callable[[Any, Any], Tensor]:
    rule = table.get((type(p), type(q)))
    if rule is None:
        known = ", ".join(f"({a.__name__}, {b.__name__})" for a, b in table)
        raise TypeError(
            f"no exact {divergence} of ({type(p).__name__}, {type(q).__name__}), only of {known}; "
            f"monte_carlo_{divergence.lower()} estimates it"
        )
    return rule


# -- Kullback-Leibler ----------------------------------------------------------------------------
def _kl_normal(p: Normal, q: Normal) -> Tensor:
    # log(σq/σp) + (σp² + (μp - μq)²)/(2σq²) - ½, written with r = log(σp/σq). The function
    # e^2r - 1 - 2r is accurate for small r, where the difference of the terms would cancel.
    r = ops.log(p.std) - ops.log(q.std)
    z = (p.mean - q.mean) / q.std
    return 0.5 * (ops.excess(2.0 * r) + ops.square(z))


def _kl_multivariate(p: MultivariateNormal, q: MultivariateNormal) -> Tensor:
    # ½ (tr Σq⁻¹Σp - d + log det Σq/Σp + |Lq⁻¹ (μp - μq)|²). The trace is the sum of the squares of
    # A = Lq⁻¹ Lp, and the diagonal of A is e^r. So the sum has only terms that are at least 0. The
    # other elements of A are those of A - I = Lq⁻¹ (Lp - Lq), which is accurate for equal factors.
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(f"p is of vectors of {p.shape[-1]} numbers, q of {q.shape[-1]}")
    r = p.log_std - q.log_std
    z = whiten(q.factor, q.mean, ops.broadcast_to(p.mean, p.shape))
    a = ops.solve(q.factor, p.factor - q.factor)
    on_diagonal = namespace_of(a.data).eye(p.shape[-1], dtype=bool)
    others = ops.square(ops.where(on_diagonal, 0.0, a)).sum((-2, -1))
    return 0.5 * (ops.excess(2.0 * r).sum(-1) + others + ops.square(z).sum(-1))


def _kl_outcomes(p: Any, q: Any) -> Tensor:
    _check_outcomes(p, q)
    log_p, log_q = p.log_probs, q.log_probs
    p_, q_ = ops.exp(log_p), ops.exp(log_q)
    possible = p_.data > 0  # an outcome with p = 0 adds 0, even if q = 0
    log_ratio = ops.where(possible, log_p, 0.0) - ops.where(possible, log_q, 0.0)
    return _terms(p_, q_, log_ratio).sum(-1)


def _terms(p: Tensor, q: Tensor, log_ratio: Tensor) -> Tensor:
    """p log(p/q) - p + q of each outcome. Their sum is KL(p ‖ q), and each is at least 0.

    log_ratio is log(p/q), or 0 for p = 0.
    """
    near = (abs(log_ratio.data) <= NEAR) & (p.data > 0)
    nearly_equal = p * ops.excess(ops.where(near, -log_ratio, 0.0))
    return ops.where(near, nearly_equal, p * log_ratio - p + q)


def _check_outcomes(p: Any, q: Any) -> None:
    if isinstance(p, Categorical):
        classes = p.logits.shape[-1], q.logits.shape[-1]
        if classes[0] != classes[1]:
            raise ValueError(f"p has {classes[0]} classes, q has {classes[1]}")
    if isinstance(p, DiscretisedNormal):
        grids = [f"{len(d.levels)} levels from {d.low} in steps of {d.step:.6g}" for d in (p, q)]
        if grids[0] != grids[1]:
            raise ValueError(f"p has {grids[0]}, q has {grids[1]}")


# -- Jensen-Shannon ------------------------------------------------------------------------------
def _js_outcomes(p: Any, q: Any) -> Tensor:
    _check_outcomes(p, q)
    return _js_of_logs(p.log_probs, q.log_probs)


def _js_of_logs(log_p: Tensor, log_q: Tensor) -> Tensor:
    """JS of probabilities along the last axis, from their logarithms."""
    p, q = ops.exp(log_p), ops.exp(log_q)
    both = (p.data > 0) & (q.data > 0)
    d = ops.where(both, log_p, 0.0) - ops.where(both, log_q, 0.0)
    # For the larger of p and q, log(larger/m) = -log(½ + ½ e^-|d|). For the smaller it is |d| less.
    p_larger = d.data >= 0
    minus = ops.where(p_larger, -d, d)
    larger = -ops.log1p(0.5 * ops.expm1(minus))
    smaller = larger + minus
    over_m = ops.where(p_larger, larger, smaller), ops.where(p_larger, smaller, larger)
    of_p, of_q = (  # if the other is 0, m is half of this one
        ops.where(both, ratio, log(2) * (one.data > 0).astype(one.dtype))
        for one, ratio in zip((p, q), over_m, strict=True)
    )
    m = 0.5 * (p + q)
    return 0.5 * (_terms(p, m, of_p) + _terms(q, m, of_q)).sum(-1)


def _js_normal(p: Normal, q: Normal) -> Tensor:
    for d in (p, q):
        if d.shape != ():
            raise ValueError(f"the quadrature takes Normals of shape (), got {d.shape}")
    # np.asarray refuses a Tensor that requires a gradient.
    laws = [tuple(float(np.asarray(t.to("cpu"))) for t in (d.std, d.mean)) for d in (p, q)]
    (narrow, its_mean), (wide, mean) = sorted(laws)
    # In the units of the wide Normal, which is then N(0, 1), the narrow one is N(t, s²). Beyond these
    # limits they do not overlap, and JS is log 2 in float64.
    t, s = min(abs(its_mean - mean) / wide, 60.0), max(narrow / wide, 1e-30)
    # Each has nodes on its own scale, so that the narrow one is not missed. They reach ten standard
    # deviations to both sides; the mass beyond is 0 in float64.
    z, weight = _nodes(-10.0, 10.0)
    left, right = _nodes(-10.0, min(t - 10 * s, 10.0)), _nodes(min(t + 10 * s, 10.0), 10.0)
    (x, others) = (np.concatenate(pair) for pair in zip(left, right, strict=True))
    z, x = np.append(z, (x - t) / s), np.append(t + s * z, x)  # in both units
    log_weight = np.log(np.append(s * weight, others))
    log_narrow = Tensor(log_weight - 0.5 * z**2 - 0.5 * log(2 * pi) - log(s))
    log_wide = Tensor(log_weight - 0.5 * x**2 - 0.5 * log(2 * pi))
    return _js_of_logs(log_narrow, log_wide).to(p.mean.device)


def _nodes(start: float, end: float) -> tuple[Any, Any]:
    """Nodes and weights of an integral: Gauss-Legendre quadrature of 128 pieces with 16 points."""
    if end <= start:
        return np.empty(0), np.empty(0)
    x, w = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(start, end, 129)
    half = 0.5 * np.diff(edges)[:, None]
    return (edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()


_KL: Table = {
    (Normal, Normal): _kl_normal,
    (MultivariateNormal, MultivariateNormal): _kl_multivariate,
    (DiscretisedNormal, DiscretisedNormal): _kl_outcomes,
    (Bernoulli, Bernoulli): _kl_outcomes,
    (Categorical, Categorical): _kl_outcomes,
}
_JS: Table = {
    (Normal, Normal): _js_normal,
    (DiscretisedNormal, DiscretisedNormal): _js_outcomes,
    (Bernoulli, Bernoulli): _js_outcomes,
    (Categorical, Categorical): _js_outcomes,
}
