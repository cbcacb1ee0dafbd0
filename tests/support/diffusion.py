"""Diffusion models of data that are known: closed forms, mixtures, perfect networks."""

import warnings
from math import sqrt

import numpy
import pytest
import scipy.special
import scipy.stats
from hypothesis import settings
from hypothesis import strategies as st

from tests.support.on_device import (
    np,
    on_cpu,
    on_device,
    placed,
    tg,
)
from tinygen.models.diffusion import (
    DDPM,
    TARGETS,
    NoiseSchedule,
)

DDPM = on_device(DDPM)


def rows(n, features=4, seed=0):
    """Data in [0, 1], float32."""
    return np.random.default_rng(seed).random((n, features), np.float32)


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def normals_on_cpu(*shape, seed=0):
    return numpy.random.default_rng(seed).normal(size=shape)


def within(values, expected, errors=4.0, rounding=1e-9):
    """The mean of independent values is `expected`, to so many standard errors."""
    values = np.asarray(values, float)
    return (
        abs(values.mean() - expected) <= errors * values.std(ddof=1) / sqrt(len(values)) + rounding
    )


betas = st.lists(st.floats(1e-4, 0.999), min_size=1, max_size=12)

many = settings(max_examples=60, derandomize=True)


def diffusion(beta, network=None, features=1, **options):
    """A model on unbounded features with the given β_t, and a network of (x, t, schedule)."""
    schedule = NoiseSchedule(beta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a schedule that keeps some of the data
        small = {"width": 4, "blocks": 1, "bounded": False}
        model = DDPM(features, **{**small, "schedule": schedule, **options})
    if network is not None:
        model.held = tg.tensor(0.0)  # a model is where its arrays are
        model.network = lambda x, t: tg.Tensor(placed(network(*on_cpu((x, t)), schedule)))
    return model


MEAN, STD = 0.5, 0.5  # of the data


def output(predict, xt, noise, abar):
    """What the network is to put out where the best estimate of the noise is `noise`."""
    a, s = np.sqrt(abar), np.sqrt(1 - abar)
    x0 = (xt - s * noise) / a
    return {"noise": noise, "data": x0, "velocity": a * noise - s * x0}[predict]


def perfect(predict):
    """ε* = E[ε | x_t] of data N(MEAN, STD²), as a network."""

    def network(x, t, schedule):
        abar = schedule.abar[t][:, None]
        v = abar * STD**2 + 1 - abar
        noise = np.sqrt(1 - abar) * (x - np.sqrt(abar) * MEAN) / v
        return output(predict, x, noise, abar).astype(np.float32)

    return network


BETAS = np.linspace(0.02, 0.5, 20).tolist()

targets = pytest.mark.parametrize("predict", TARGETS)


def says(value, features=2, **options):
    """A model of bounded data whose network puts out x_0 = value everywhere."""
    model = DDPM(features, **{"width": 4, "blocks": 1, "T": 25, "predict": "data", **options})
    model.network.skip.bias.data[...] = 0
    model.network.last.bias.data[...] = np.array(value)
    return model


class Mixture:
    """Data Σ w_k N(m_k, C), what follows at every time, and the perfect network.

    With C = 0 they are points: the training set itself.
    """

    def __init__(self, means, cov, weights=None):
        self.means = numpy.array(means, float)  # (k, d)
        k, d = self.means.shape
        self.cov = cov * numpy.eye(d) if numpy.ndim(cov) == 0 else numpy.array(cov)
        self.weights = numpy.full(k, 1 / k) if weights is None else numpy.array(weights)

    def cov_at(self, abar):
        return abar * self.cov + (1 - abar) * numpy.eye(len(self.cov))

    def log_density(self, x, abar=1.0, noise=0.0):
        """log q(x_t), or that of data with noise of this standard deviation on them."""
        cov = self.cov_at(abar) + noise**2 * numpy.eye(len(self.cov))
        each = [
            scipy.stats.multivariate_normal(sqrt(abar) * m, cov).logpdf(x).reshape(-1)
            for m in self.means
        ]
        return scipy.special.logsumexp(numpy.stack(each, axis=1), axis=1, b=self.weights)

    def samples(self, n, seed=0):
        rng = numpy.random.default_rng(seed)
        own = rng.multivariate_normal(0 * self.means[0], self.cov, n)
        return self.means[rng.choice(len(self.weights), n, p=self.weights)] + own

    def estimates(self, x, abar):
        """E[x_0 | x_t] and E[ε | x_t], differentiable in the Tensor x (n, d): the best of each
        component, and a softmax over these."""

        def constant(array):
            return placed(array.astype(x.dtype))

        factor = numpy.linalg.cholesky(numpy.linalg.inv(self.cov_at(abar)))
        apart = (x[:, None, :] - constant(sqrt(abar) * self.means)) @ constant(factor)
        logits = constant(numpy.log(self.weights)) - 0.5 * (apart * apart).sum(2)
        share = tg.softmax(logits, axis=1)
        pull = (share[:, :, None] * apart).sum(1)
        x0 = share @ constant(self.means) + pull @ constant(sqrt(abar) * factor.T @ self.cov)
        return x0, pull @ constant(sqrt(1 - abar) * factor.T)

    def output(self, model, x, t):
        """What the perfect network says at one time, which may lie between two."""
        x = x if isinstance(x, tg.Tensor) else tg.Tensor(x)
        times = numpy.arange(1, model.schedule.T + 1)
        log_snr = numpy.interp(on_cpu(t).item(), times, numpy.log(model.schedule.snr[1:]))
        a, s = (float(sqrt(scipy.special.expit(sign * log_snr))) for sign in (1, -1))
        x0, noise = self.estimates(x, a * a)
        u, v = model.target(a, s)
        return u * x0 + v * noise

    def model(self, schedule, **options):
        """A model that knows these data."""
        model = diffusion(schedule.beta[1:], features=self.means.shape[1], **options)

        def network(x, t):
            if len(t) == 1:
                return self.output(model, x, t)
            t = on_cpu(t)[:, None]
            return sum(
                tg.where(placed(t == i), self.output(model, x, i), 0.0) for i in numpy.unique(t)
            )

        model.network = network
        return model


def even(steps, low=-5.0, high=3.0):
    """T levels evenly spaced in λ = ½ log snr, from `high` at t = 1 to `low` at t = T."""
    abar = scipy.special.expit(2 * numpy.linspace(high, low, steps))
    return NoiseSchedule(1 - abar / numpy.append(1.0, abar[:-1]))


GAUSSIAN = Mixture([[MEAN]], STD**2)

TWO = Mixture([[-1.2], [0.8]], 0.09, [0.3, 0.7])

THREE = Mixture([[-2.0, 0.0], [1.0, 1.0], [1.0, -1.5]], 0.09, [0.5, 0.3, 0.2])


def half(a, s):
    """A linear target that is none of the named."""
    return 1, 0.5


any_target = pytest.mark.parametrize("predict", [*TARGETS, half])


def check_samples(x, mixture, std=0.1, p=1e-3):
    """Weights, means and spread of the modes, and each coordinate against its own distribution."""
    x = on_cpu(x).astype(float)
    nearest = ((x[:, None] - mixture.means) ** 2).sum(2).argmin(1)
    spread = sqrt(mixture.cov[0, 0])
    for k, (mean, weight) in enumerate(zip(mixture.means, mixture.weights, strict=True)):
        of_mode = x[nearest == k]
        share = len(of_mode) / len(x)
        assert abs(share - weight) <= 4 * sqrt(weight * (1 - weight) / len(x)), (k, share)
        assert abs(of_mode.mean(0) - mean).max() < 5 * spread / sqrt(len(of_mode))
        assert abs((of_mode - of_mode.mean(0)).std() / spread - 1) < std
    for i in range(x.shape[1]):

        def cdf(at, i=i):
            return scipy.stats.norm.cdf(at[:, None], mixture.means[:, i], spread) @ mixture.weights

        assert scipy.stats.kstest(x[:, i], cdf).pvalue > p


def mean_errors(schedule):
    """E (x_0 - E[x_0 | x_t])² of the Gaussian data at t = 1..T."""
    abar = schedule.abar[1:]
    return STD**2 * (1 - abar) / (abar * STD**2 + 1 - abar)


BOUND = {
    1: [1 - 1e-9],
    2: [0.6, 1 - 1e-9],
    3: [0.2, 0.7, 1 - 1e-9],
    5: [0.1, 0.2, 0.4, 0.8, 1 - 1e-9],
}


def true_variance(schedule):
    """Of the reverse steps of the Gaussian data: index 0 stands for nothing."""
    v = schedule.abar * STD**2 + 1 - schedule.abar
    return [0.0, *(1 / (schedule.alpha[1:] / schedule.beta[1:] + 1 / v[:-1])).tolist()]


CLASSES = [Mixture([[-1.0]], 0.06), Mixture([[1.0]], 0.06)]

BOTH = Mixture([[-1.0], [1.0]], 0.06)  # what is known without a label


def knowing_classes(schedule=None, **options):
    """The perfect model of two Gaussian classes: label 2 stands for none."""
    model = BOTH.model(schedule or even(30), classes=2, **options)

    def network(x, t, labels):
        outputs = [of.output(model, x, t) for of in (*CLASSES, BOTH)]
        labels = on_cpu(labels)[:, None]
        return sum(tg.where(placed(labels == i), y, 0.0) for i, y in enumerate(outputs))

    model.network = network
    return model
