"""Distributions of each kind, with parameters and points; one generator of a known number."""

import pytest

from tests.support.on_device import approx, np
from tinygen.distributions import Bernoulli, Categorical, Normal
from tinygen.random import Generator

rng = np.random.default_rng(20240501)

MEAN, STD = rng.normal(size=(4, 3)), rng.uniform(0.3, 2.0, 3)
LOGITS = 2 * rng.normal(size=(4, 3))
MEAN_2, STD_2, LOGITS_2 = MEAN + 0.7, STD[::-1].copy(), 2 * rng.normal(size=(4, 3))
POINTS = rng.normal(size=(5, 4, 3))
BITS = rng.integers(0, 2, (5, 4, 3))
CLASSES = rng.integers(0, 3, (5, 4))
IMPOSSIBLE = -np.inf  # the logit of an impossible class

KINDS = {
    "normal": (Normal, (MEAN, STD), (MEAN_2, STD_2), POINTS),
    "bernoulli": (Bernoulli, (LOGITS,), (LOGITS_2,), BITS),
    "categorical": (Categorical, (LOGITS,), (LOGITS_2,), CLASSES),
}
kinds = pytest.mark.parametrize(("kind", "params", "others", "x"), KINDS.values(), ids=KINDS)


def close(value, rel):
    """Within a relative tolerance alone: approx has an absolute one of 1e-12 by default."""
    return approx(value, rel=rel, abs=0)


class Fixed(Generator):
    """A generator of one uniform number."""

    def __init__(self, u):
        super().__init__()
        self.u = u

    def uniform(self, shape, low=0.0, high=1.0, dtype=np.float32, device="cpu"):
        return np.full(shape, self.u, dtype)
