"""The normal distribution rounded to levels, such as grey levels."""

from __future__ import annotations

from math import inf, log, pi, sqrt
from typing import Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor, operation
from tinygen.autodiff.promotion import array_on
from tinygen.backend import namespace_of, special
from tinygen.distributions.base import Described, check, parameters
from tinygen.errors import whole
from tinygen.random import Rng, as_generator

__all__ = ["DiscretisedNormal", "log_mass"]


class DiscretisedNormal(Described):
    """N(loc, scale²) rounded to the nearest of equally spaced levels. Elements are independent.

    The probability of a level is that of its bin, which reaches half a step to either side. The first
    and the last bin reach to -∞ and +∞ (Ho et al. 2020, eq. 13). So the probabilities sum to 1.

    loc, scale: Tensors, arrays or numbers that broadcast to `shape`. The attributes are Tensors of
        one `dtype` on one `device`. Everything but the samples is differentiable in both.
    low, high, levels: the first level, the last level and their number. By default they are the 256
        grey levels of an image, scaled to [-1, 1]. The attribute `levels` is the array of levels.
    ValueError: shapes that do not broadcast; a loc that is not finite, a scale that is not positive
    and finite; low ≥ high; fewer than two levels. The values of a result that requires a
    gradient are not checked.
    """

    def __init__(
        self, loc: Any, scale: Any, low: float = -1.0, high: float = 1.0, levels: int = 256
    ) -> None:
        self.loc, self.scale = parameters(loc, scale)
        self.shape = np.broadcast_shapes(self.loc.shape, self.scale.shape)
        self.dtype, self.device = self.loc.dtype, self.loc.device
        check("loc", self.loc, "finite", lambda x: abs(x) < inf)
        check("scale", self.scale, "positive and finite", lambda x: (x > 0) & (x < inf))
        if not -inf < low < high < inf:
            raise ValueError(f"low must be below high, both finite, got {low} and {high}")
        self.low, self.step = low, (high - low) / (whole("levels", levels, 2) - 1)
        m = namespace_of(self.loc.data)
        self.levels = (low + self.step * m.arange(levels)).astype(self.dtype)

    def log_prob(self, x: Any) -> Tensor:
        """The log-probability in nats of the level nearest to x, elementwise. x broadcasts."""
        x = array_on(self.device, x, "x", "the parameters")
        return self._log_prob_of(self._nearest(x), self.loc, self.scale)

    @property
    def log_probs(self) -> Tensor:
        """The log-probability of every level, shape (*shape, number of levels)."""
        number = namespace_of(self.levels).arange(len(self.levels))
        return self._log_prob_of(number, self.loc[..., None], self.scale[..., None])

    @property
    def probs(self) -> Tensor:
        """The probability of every level, shape (*shape, number of levels)."""
        return ops.exp(self.log_probs)

    @property
    def mean(self) -> Tensor:
        """The expected level, elementwise. It is not loc, because the levels end at low and high."""
        # low plus one step for each edge below the value, one edge at a time: `probs` of a batch of
        # images would take 256 times their memory.
        edges = (self.low + self.step * (k + 0.5) for k in range(len(self.levels) - 1))
        below: Any = sum(ops.ndtr((self.loc - edge) / self.scale) for edge in edges)
        return self.low + self.step * below

    @property
    def variance(self) -> Tensor:
        """The expected square of a level's distance from `mean`, elementwise."""
        return (self.probs * ops.square(self.levels - self.mean[..., None])).sum(-1)

    def sample(self, rng: Rng, shape: tuple[int, ...] = ()) -> Tensor:
        """Levels of shape (*shape, *self.shape), as a constant."""
        rng = as_generator(rng)
        noise = rng.normal((*shape, *self.shape), dtype=self.dtype, device=self.device)
        number = self._nearest(self.loc.data + self.scale.data * noise)
        return Tensor(self.levels[number.astype(int)])

    def entropy(self) -> Tensor:
        """-Σ p log p over the levels in nats, elementwise, of shape `shape`."""
        log_p = self.log_probs
        p = ops.exp(log_p)
        return -(p * ops.where(p > 0, log_p, 0.0)).sum(-1)

    def _nearest(self, x: Any) -> Any:
        """The number of the level nearest to x, as a float. NaN stays NaN."""
        m = namespace_of(x)
        return m.clip(m.rint((x - self.low) / self.step), 0, len(self.levels) - 1)

    def _log_prob_of(self, number: Any, loc: Tensor, scale: Tensor) -> Tensor:
        # Both bins at an edge compute it with the same formula, so that the probabilities sum to 1.
        number = number.astype(self.dtype)
        lower = (self.low + self.step * (number - 0.5) - loc) / scale
        upper = (self.low + self.step * (number + 0.5) - loc) / scale
        first, last = number == 0, number == len(self.levels) - 1
        # A bin left of 0 is mirrored to the right, where the tail of the normal distribution is
        # accurate. Open bins then always extend to the right.
        right = (last | (lower + upper >= 0).data) & ~first
        start = ops.maximum(ops.where(right, lower, -upper), -_NOTHING)
        width = ops.where(first | last, _ENDLESS, ops.minimum(self.step / scale, _ENDLESS))
        return log_mass(start, width) - 0.5 * ops.square(ops.relu(start))


# So many standard deviations from the mean, the mass of a normal distribution is 0 in float64. And
# a tail that is cut at such a width has lost nothing in float64.
_NOTHING, _ENDLESS = 40.0, 100.0

_ROOT_2 = sqrt(2)
_LOG_ROOT_2PI = 0.5 * log(2 * pi)
_NODES = [
    (0.5 + 0.5 * x, 0.5 * w) for x, w in np.transpose(np.polynomial.legendre.leggauss(6)).tolist()
]


def _rate(m: Any, y: Any, u: Any) -> Any:
    """φ(u) divided by the mass."""
    return m.exp(-_LOG_ROOT_2PI - 0.5 * m.square(m.minimum(u, 0.0)) - y)


@operation(
    u=lambda m, g, y, u, w: g * (_rate(m, y, u) * m.expm1(-w * (u + 0.5 * w)) + m.relu(u)),
    w=lambda m, g, y, u, w: g * _rate(m, y, u) * m.exp(-w * (u + 0.5 * w)),
)
def log_mass(m: Any, u: Any, w: Any) -> Any:
    """log(Φ(u + w) - Φ(u)) + max(u, 0)²/2 for u ≥ -w/2, w > 0. It is small even far in the tail."""
    # For a narrow bin the difference of two Φ would cancel. There, six points of Gauss-Legendre
    # quadrature integrate φ(u + t)/φ(u) = exp(-t (u + t/2)) to full precision.
    narrow = w * (m.abs(u) + w) <= 0.5
    t = m.where(narrow, w, 0.0)
    ratio = sum(weight * m.exp(-x * t * (u + 0.5 * x * t)) for x, weight in _NODES)
    left = m.minimum(u, 0.0)
    # For other bins, by the tails: Φ(-x) = φ(x) √(π/2) erfcx(x/√2). Right of 0, without φ(u):
    from_u, from_end = (special(m).erfcx(m.abs(x) / _ROOT_2) for x in (u, u + w))
    tail = 0.5 * (from_u - m.exp(-w * (m.maximum(u, 0.0) + 0.5 * w)) * from_end)
    mass = m.where(narrow, t * ratio * m.exp(-_LOG_ROOT_2PI), tail)
    # For a bin on both sides of 0, 1 minus the two tails.
    across = ~narrow & (u < 0)
    tails = m.exp(-0.5 * m.square(left)) * from_u + m.exp(-0.5 * m.square(left + w)) * from_end
    outside = m.where(across, 0.5 * tails, 0.0)
    log_inside = m.log(m.where(across, 1.0, mass)) - 0.5 * m.square(left)
    return m.where(across, m.log1p(-outside), log_inside)
