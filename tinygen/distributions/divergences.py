"""Exact divergences between distributions, by the types of the pair."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import log, pi, sqrt
from typing import Any, TypeAlias

import numpy as np

from tinygen import ops
from tinygen.autodiff.tensor import Tensor
from tinygen.backend import namespace_of
from tinygen.distributions.bernoulli import Bernoulli
from tinygen.distributions.categorical import Categorical
from tinygen.distributions.discrete import js_terms
from tinygen.distributions.discretised import DiscretisedNormal
from tinygen.distributions.multivariate import MultivariateNormal, whiten
from tinygen.distributions.normal import Normal

__all__ = ["js_divergence", "kl_divergence"]

Table: TypeAlias = dict[tuple[type, type], Callable[[Any, Any], Tensor]]


def kl_divergence(p: Any, q: Any) -> Tensor:
    """KL(p ‖ q) = E_p[log p(x) - log q(x)] in nats, by a closed form; never negative.

    Elementwise for two Normal, two Bernoulli or two DiscretisedNormal of the same levels, for each
    vector of two MultivariateNormal, for each row of two Categorical of the same classes; shapes
    broadcast. +inf where p gives probability to a class that q excludes.
    Differentiable in the parameters of both. TypeError: a pair without a closed form here.
    ValueError: different classes, levels or lengths of vectors.
    """
    return _lifted(_look_up("KL", _KL, p, q)(p, q))


def js_divergence(p: Any, q: Any) -> Tensor:
    """JS(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m) with the mixture m = (p + q)/2, in nats, in [0, log 2].

    For each row of two Categorical, elementwise for two Bernoulli or two DiscretisedNormal,
    differentiable; for two Normal of shape () by quadrature, a float64 constant.
    TypeError: another pair, or Normals whose parameters require a gradient.
    ValueError: Normals of another shape, different classes or levels.
    """
    js = _look_up("JS", _JS, p, q)(p, q)
    return _lifted(js) - ops.relu(js.detach() - log(2))


def _look_up(divergence: str, table: Table, p: Any, q: Any) -> Callable[[Any, Any], Tensor]:
    rule = table.get((type(p), type(q)))
    if rule is None:
        known = ", ".join(f"({a.__name__}, {b.__name__})" for a, b in table)
        raise TypeError(
            f"no exact {divergence} of ({type(p).__name__}, {type(q).__name__}), only of {known}; "
            f"monte_carlo_{divergence.lower()} estimates it"
        )
    return rule


def _lifted(value: Tensor) -> Tensor:
    """Rounding may leave a divergence just below 0: raise its value, not touching derivatives."""
    return value + ops.relu(-value.detach())


# -- Kullback-Leibler ----------------------------------------------------------------------------
def _kl_normal(p: Normal, q: Normal) -> Tensor:
    # log(σq/σp) + (σp² + (μp - μq)²)/(2σq²) - ½, arranged around the log-ratio r of the two σ:
    # e^2r - 1 - 2r is small where r is, not a difference of large terms.
    r = ops.log(p.std) - ops.log(q.std)
    z = (p.mean - q.mean) / q.std
    return 0.5 * (ops.expm1(2.0 * r) - 2.0 * r + ops.square(z))


def _kl_multivariate(p: MultivariateNormal, q: MultivariateNormal) -> Tensor:
    # ½ (tr Σq⁻¹Σp - d + log det Σq/Σp + |Lq⁻¹ (μp - μq)|²), where the trace is the sum of the
    # squares of A = Lq⁻¹ Lp. The diagonal of A is e^r, so that above each term is none below 0;
    # and A - I, whose other elements are A's, comes from the difference of the factors.
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(f"p is of vectors of {p.shape[-1]} numbers, q of {q.shape[-1]}")
    r = p.log_std - q.log_std
    z = whiten(q.factor, q.mean, ops.broadcast_to(p.mean, p.shape))
    a = ops.solve(q.factor, p.factor - q.factor)
    on_diagonal = namespace_of(a.data).eye(p.shape[-1], dtype=bool)
    others = ops.square(ops.where(on_diagonal, 0.0, a)).sum((-2, -1))
    return 0.5 * ((ops.expm1(2.0 * r) - 2.0 * r).sum(-1) + others + ops.square(z).sum(-1))


def _kl_bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    # The logarithms of both probabilities, -softplus(∓logits), keep their accuracy in the tails.
    a, b = p.logits, q.logits
    if_one = ops.softplus(-b) - ops.softplus(-a)
    if_zero = ops.softplus(b) - ops.softplus(a)
    return ops.sigmoid(a) * if_one + ops.sigmoid(-a) * if_zero


def _kl_categorical(p: Categorical, q: Categorical) -> Tensor:
    _check_classes(p, q)
    return _expected_log_ratio(p.probs, p.log_probs, q.log_probs)


def _kl_discretised(p: DiscretisedNormal, q: DiscretisedNormal) -> Tensor:
    _check_levels(p, q)
    return _expected_log_ratio(p.probs, p.log_probs, q.log_probs)


def _expected_log_ratio(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ p (log p - log q) for each row, where a class with p = 0 adds 0 even if q = 0."""
    possible = p > 0
    ratio = ops.where(possible, log_p, 0.0) - ops.where(possible, log_q, 0.0)
    return (p * ratio).sum(-1)


def _check_classes(p: Categorical, q: Categorical) -> None:
    classes = p.logits.shape[-1], q.logits.shape[-1]
    if classes[0] != classes[1]:
        raise ValueError(f"p has {classes[0]} classes, q has {classes[1]}")


def _check_levels(p: DiscretisedNormal, q: DiscretisedNormal) -> None:
    grids = [f"{len(d.levels)} levels from {d.low} in steps of {d.step:.6g}" for d in (p, q)]
    if grids[0] != grids[1]:
        raise ValueError(f"p has {grids[0]}, q has {grids[1]}")


# -- Jensen-Shannon ------------------------------------------------------------------------------
def _js_categorical(p: Categorical, q: Categorical) -> Tensor:
    _check_classes(p, q)
    return _js_of_outcomes(p.log_probs, q.log_probs)


def _js_bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    return _js_of_outcomes(
        *(ops.stack([-ops.softplus(d.logits), -ops.softplus(-d.logits)], -1) for d in (p, q))
    )


def _js_discretised(p: DiscretisedNormal, q: DiscretisedNormal) -> Tensor:
    _check_levels(p, q)
    return _js_of_outcomes(p.log_probs, q.log_probs)


def _js_of_outcomes(log_p: Tensor, log_q: Tensor) -> Tensor:
    # With d = log p/q, log p/m = log 2 - softplus(-d), exactly 0 for p = q; and log 2 for q = 0.
    p, q = ops.exp(log_p), ops.exp(log_q)
    both = (p.data > 0) & (q.data > 0)
    d = ops.where(both, log_p, 0.0) - ops.where(both, log_q, 0.0)
    of_p, of_q = (log(2) - ops.where(both, ops.softplus(x), 0.0) for x in (-d, d))
    return 0.5 * (p * of_p + q * of_q).sum(-1)


def _js_normal(p: Normal, q: Normal) -> Tensor:
    from scipy.integrate import quad  # SciPy imports slowly, and only this needs it

    for d in (p, q):
        if d.shape != ():
            raise ValueError(f"the quadrature takes Normals of shape (), got {d.shape}")
    # np.asarray refuses a Tensor that requires a gradient.
    laws = [tuple(float(np.asarray(t.to("cpu"))) for t in (d.std, d.mean)) for d in (p, q)]
    _, origin = min(laws)  # x is relative to the mean of the narrower, where rounding matters most

    def integrand(x: float) -> float:
        return float(js_terms(*(_density(x, mean - origin, std) for std, mean in laws)))

    # Beyond ten standard deviations there is nothing that float64 could see. Each Normal has pieces
    # on its own scale, so that a narrow one is not overlooked.
    edges = sorted({mean - origin + k * std for std, mean in laws for k in (-10, 10)})
    pieces = (quad(integrand, a, b, epsabs=1e-13, epsrel=1e-10)[0] for a, b in pairwise(edges))
    return Tensor(np.array(sum(pieces))).to(p.mean.device)


def _density(x: float, mean: float, std: float) -> Any:
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * sqrt(2 * pi))


_KL: Table = {
    (Normal, Normal): _kl_normal,
    (MultivariateNormal, MultivariateNormal): _kl_multivariate,
    (DiscretisedNormal, DiscretisedNormal): _kl_discretised,
    (Bernoulli, Bernoulli): _kl_bernoulli,
    (Categorical, Categorical): _kl_categorical,
}
_JS: Table = {
    (Normal, Normal): _js_normal,
    (DiscretisedNormal, DiscretisedNormal): _js_discretised,
    (Bernoulli, Bernoulli): _js_bernoulli,
    (Categorical, Categorical): _js_categorical,
}
