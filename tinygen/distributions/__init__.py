"""Distributions, and divergences between them: exact, and estimated from samples.

Probabilities are logarithms in nats. Every distribution has `log_prob(x)`, `sample(rng, shape)` and
the `shape` of one sample. Leading axes of x are samples. The elements of one sample are independent,
except those of a vector of a MultivariateNormal and of a sample of a Mixture. Distributions whose
samples can be differentiated have `rsample` too.
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
