"""Divergences between arrays of probabilities. They are accurate even for nearly equal arrays.

In the textbook sum Σ p log(p/q) the terms cancel for nearly equal p and q. The result may be
negative, and its square root NaN. But p and q sum to one, so Σ (q - p) = 0 may be added. Then each
term,

    p log(p/q) - p + q = p E(-log(p/q)),    E(x) = e^x - 1 - x  ≥  0,

is at least 0, and it is 0 only for p = q.
"""

from __future__ import annotations

from math import log
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinygen.autodiff.promotion import as_array
from tinygen.backend import check_device, namespace_of

__all__ = ["js_discrete", "js_distance", "kl_discrete"]

Array: TypeAlias = npt.NDArray[np.float64]


def kl_discrete(p: Any, q: Any, axis: int = -1, base: float | None = None) -> Any:
    """KL(p ‖ q) = Σ p log(p/q) of probabilities along `axis`, in nats or to the given `base`.

    p, q: arrays of the same length along `axis`. Their other axes broadcast. They must be normalised.
    The result is a float64 array without that axis, or a number for vectors. 0 log(0/q) = 0. It is
    +inf if an outcome has p > 0 and q = 0. It is never negative or NaN, and it is 0 for p = q.
    ValueError: a probability is negative or NaN, a sum differs from 1 by more than 1e-6 (1.2e-5 in
    float32), the lengths differ, base ≤ 1 or not finite.
    """
    p, q = _outcomes_last(p, q, axis)
    return _kl_terms(p, q).sum(-1) / _unit(base)


def js_discrete(p: Any, q: Any, axis: int = -1, base: float | None = None) -> Any:
    """JS(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m), m = (p + q)/2, of probabilities along `axis`.

    It is symmetric and in [0, log 2] (Lin 1991), finite for all p and q. `js_distance` is its square
    root. Arguments, result and errors are those of `kl_discrete`.
    """
    p, q = _outcomes_last(p, q, axis)
    # If the inputs sum to a little more than 1, the result may be a little above the bound.
    return namespace_of(p).minimum(_js_terms(p, q).sum(-1), log(2)) / _unit(base)


def js_distance(p: Any, q: Any, axis: int = -1, base: float | None = None) -> Any:
    """The square root of `js_discrete`, which is a metric (Endres & Schindelin 2003)."""
    js = js_discrete(p, q, axis, base)
    return namespace_of(js).sqrt(js)


def _kl_terms(p: Array, q: Array) -> Array:
    """p log(p/q) - p + q for numbers ≥ 0, elementwise. Never negative; +inf for p > 0 and q = 0."""
    m = namespace_of(p)
    difference = p - q
    near = m.abs(difference) <= 0.3 * q  # true also for p = q = 0
    u = m.where(near, difference, 0.0) / m.where(near & (q > 0), q, 1.0)
    by_ratio = p * m.excess(-m.log1p(u))

    # A difference of logarithms, because the ratio to a very small q would overflow.
    positive = p > 0
    with np.errstate(divide="ignore"):  # log 0 = -inf is the right value
        log_ratio = m.log(m.where(positive, p, 1.0)) - m.log(m.where(positive, q, 1.0))
    terms: Array = m.where(near, by_ratio, p * log_ratio - difference)
    return terms


def _js_terms(p: Array, q: Array) -> Array:
    """The term of each outcome in JS(p, q). It is never negative."""
    twice_m = p + q  # half of the smallest number would be 0, and KL would be infinite
    return (_kl_terms(2 * p, twice_m) + _kl_terms(2 * q, twice_m)) / 4


def _outcomes_last(p: Any, q: Any, axis: int) -> tuple[Array, Array]:
    p, q = _probabilities("p", p, axis), _probabilities("q", q, axis)
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(f"p has {p.shape[-1]} outcomes, q has {q.shape[-1]}")
    check_device("p", p, "q", namespace_of(q).device)
    p, q = namespace_of(p).broadcast_arrays(p, q)
    return p, q


def _probabilities(name: str, values: Any, axis: int) -> Array:
    """`values` in float64 with `axis` moved to the end, after a check."""
    given = as_array(values)
    array = namespace_of(given).moveaxis(given.astype(np.float64), axis, -1)
    valid = array >= 0
    if not valid.all():
        raise ValueError(f"{name} must not be negative or NaN, got {array[~valid][0]}")
    rounding = np.finfo(given.dtype).eps if given.dtype.kind == "f" else 0.0
    totals = array.sum(-1)
    wrong = ~(abs(totals - 1) <= max(1e-6, 100 * rounding))
    if wrong.any():
        raise ValueError(f"{name} must sum to 1 along axis {axis}, got {totals[wrong][0]}")
    return array


def _unit(base: float | None) -> float:
    """The unit of the result in nats."""
    if base is None:
        return 1.0
    if not 1 < base < float("inf"):
        raise ValueError(f"base must be above 1 and finite, got {base}")
    return log(base)
