"""Normal, Bernoulli, Categorical; divergences between distributions, exact and estimated.

Probabilities are handled as logarithms, in nats. A distribution is three things: `log_prob(x)`,
`sample(rng, shape)` and the `shape` of one sample. Leading axes of x are samples, and the axes of
the parameters are independent of one another.
"""

from tinygen.distributions.base import Distribution
from tinygen.distributions.bernoulli import Bernoulli
from tinygen.distributions.categorical import Categorical
from tinygen.distributions.discrete import js_discrete, js_distance, kl_discrete
from tinygen.distributions.divergences import js_divergence, kl_divergence
from tinygen.distributions.estimators import monte_carlo_js, monte_carlo_kl
from tinygen.distributions.normal import Normal

__all__ = [
    "Bernoulli", "Categorical", "Distribution", "Normal", "js_discrete", "js_distance",
    "js_divergence", "kl_discrete", "kl_divergence", "monte_carlo_js", "monte_carlo_kl",
]  # fmt: skip
