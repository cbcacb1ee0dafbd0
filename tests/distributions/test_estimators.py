"""Monte Carlo estimates of KL and JS, against the exact values and errors."""

from itertools import product
from math import inf, log

import pytest

from tests.support.distributions import IMPOSSIBLE, LOGITS, LOGITS_2, MEAN, STD, kinds
from tests.support.on_device import approx, np, special, tg
from tinygen.distributions import (
    Categorical,
    Normal,
    js_discrete,
    js_divergence,
    kl_divergence,
    monte_carlo_js,
    monte_carlo_kl,
)
from tinygen.random import Generator


@kinds
def test_monte_carlo_kl_agrees_with_the_closed_form(kind, params, others, x):
    p, q = kind(*params), kind(*others)
    for seed in range(3):
        estimate, error = monte_carlo_kl(p, q, Generator(seed), 2000)
        assert abs(estimate - float(kl_divergence(p, q).sum())) < 4 * error < estimate


def test_monte_carlo_js_agrees_with_the_exact_value():
    pairs = [
        (Categorical(LOGITS[0]), Categorical(LOGITS_2[0])),
        (Categorical([0.0, 0.0, IMPOSSIBLE]), Categorical([0.0, IMPOSSIBLE, 1.0])),
        (Normal(0.0, 1.0), Normal(1.0, 0.5)),
    ]
    for (p, q), seed in product(pairs, range(3)):
        estimate, error = monte_carlo_js(p, q, Generator(seed), 4000)
        assert abs(estimate - js_divergence(p, q).item()) < 4 * error < 0.1


def test_monte_carlo_js_counts_a_distribution_as_a_whole():
    # Of two independent pairs, one outcome in four: JS of the products, not the sum of two JS.
    p, q = special.softmax(LOGITS[:2], -1), special.softmax(LOGITS_2[:2], -1)
    expected = js_discrete(np.outer(*p).ravel(), np.outer(*q).ravel())
    estimate, error = monte_carlo_js(
        Categorical(LOGITS[:2]), Categorical(LOGITS_2[:2]), Generator(1), 4000
    )
    assert abs(estimate - expected) < 4 * error < 0.2 * expected


@pytest.mark.parametrize("n", [100, 400, 1600])
def test_standard_error_is_that_of_the_estimate(n):
    # log N(x; 0, 1)/N(x; h, 1) = h²/2 - h x has variance h²: the error is h/√n, no more, no less.
    h = 0.6
    found = np.array(
        [monte_carlo_kl(Normal(0.0, 1.0), Normal(h, 1.0), Generator(s), n) for s in range(200)]
    )
    assert found[:, 1].mean() == approx(h / n**0.5, rel=0.01)
    assert found[:, 0].std() == approx(h / n**0.5, rel=0.2)  # four errors of a std of 200


def test_monte_carlo_depends_on_the_generator_alone_and_records_no_graph():
    class Watched(Normal):
        def log_prob(self, x):
            result = super().log_prob(x)
            assert not result.requires_grad
            return result

    p, q = Watched(tg.tensor(MEAN, requires_grad=True), STD), Normal(0.0 * MEAN, 1.0)
    first, second = (monte_carlo_kl(p, q, Generator(5), 10) for _ in range(2))
    assert first == second and all(type(v) is float for v in first)


def test_monte_carlo_kl_is_infinite_where_a_sample_is_impossible():
    p, q = Categorical([0.0, 0.0]), Categorical([0.0, IMPOSSIBLE])
    assert monte_carlo_kl(p, q, Generator(), 50) == (inf, inf)
    assert monte_carlo_js(p, q, Generator(), 50)[0] < log(2)
