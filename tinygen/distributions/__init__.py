"""Distributions, and divergences between them: exact, and estimated from samples.

Probabilities are handled as logarithms, in nats. A distribution is three things: `log_prob(x)`,
`sample(rng, shape)` and the `shape` of one sample. Leading axes of x are samples, and the axes of
the parameters are independent of one another; but a vector of a MultivariateNormal and a sample of
a Mixture count as a whole. What can be differentiated through has `rsample` as well.
"""

from tinygen.distributions.base import Distribution
from tinygen.distributions.bernoulli import Bernoulli
from tinygen.distributions.categorical import Categorical
from tinygen.distributions.discrete import js_discrete, js_distance, kl_discrete
from tinygen.distributions.discretised import DiscretisedNormal
from tinygen.distributions.divergences import js_divergence, kl_divergence
from tinygen.distributions.estimators import monte_carlo_js, monte_carlo_kl
from tinygen.distributions.mixture import Mixture
from tinygen.distributions.multivariate import MultivariateNormal
from tinygen.distributions.neighbours import knn_kl
from tinygen.distributions.normal import Normal

__all__ = [
    "Bernoulli", "Categorical", "DiscretisedNormal", "Distribution", "Mixture",
    "MultivariateNormal", "Normal", "js_discrete", "js_distance", "js_divergence", "kl_discrete",
    "kl_divergence", "knn_kl", "monte_carlo_js", "monte_carlo_kl",
]  # fmt: skip
