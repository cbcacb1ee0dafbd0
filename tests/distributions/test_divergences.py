"""KL and JS of distributions, against quadrature, enumeration and the Fisher information."""

from math import inf, log

import pytest
from scipy import integrate

from tests.support.distributions import (
    IMPOSSIBLE,
    LOGITS,
    LOGITS_2,
    MEAN,
    MEAN_2,
    STD,
    STD_2,
    close,
    kinds,
    rng,
)
from tests.support.on_device import approx, np, special, stats, tg
from tinygen.distributions import (
    Bernoulli,
    Categorical,
    DiscretisedNormal,
    Normal,
    js_discrete,
    js_divergence,
    kl_divergence,
)


def test_kl_of_normals_agrees_with_quadrature():
    def integral(m, s, m2, s2):
        p, q = stats.norm(m, s), stats.norm(m2, s2)
        f = lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x))  # noqa: E731
        return integrate.quad(f, m - 12 * s, m + 12 * s, epsabs=1e-12)[0]

    found = kl_divergence(Normal(MEAN[0], STD), Normal(MEAN_2[0], STD_2)).data
    expected = [integral(*v) for v in zip(MEAN[0], STD, MEAN_2[0], STD_2, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_kl_of_bernoulli_and_categorical_agree_with_enumeration():
    p, q = special.expit(LOGITS), special.expit(LOGITS_2)
    expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = kl_divergence(Bernoulli(LOGITS), Bernoulli(LOGITS_2)).data
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    p, q = special.softmax(LOGITS, -1), special.softmax(LOGITS_2, -1)
    found = kl_divergence(Categorical(LOGITS), Categorical(LOGITS_2)).data
    np.testing.assert_allclose(found, (p * np.log(p / q)).sum(-1), rtol=1e-12)
    found = js_divergence(Categorical(LOGITS), Categorical(LOGITS_2)).data
    np.testing.assert_allclose(found, js_discrete(p, q), rtol=1e-12)


@kinds
def test_nearly_equal_distributions(kind, params, others, x):
    for dtype in (np.float32, np.float64):
        for size in 10.0 ** -np.arange(3, 20):
            p = kind(*(v.astype(dtype) for v in params))
            moved = (v * (1 + size * rng.normal(size=v.shape)) for v in params)
            q = kind(*(v.astype(dtype) for v in moved))
            kl = kl_divergence(p, q).data
            assert (kl >= 0).all() and (kl < 20 * size**2 + 20 * np.finfo(dtype).eps).all()
            assert (kl_divergence(q, p).data >= 0).all()
        assert (kl_divergence(p, p).data == 0).all()


def test_divergences_of_nearly_equal_dirichlet_pairs():
    """Neither NaN nor negative, with impossible classes, tiny ones, and both dtypes."""
    draw = np.random.default_rng(20083)
    p = draw.dirichlet(np.full(10, 0.1), 2000)
    q = p * (1 + 1e-9 * draw.normal(size=p.shape))
    q[::3] = p[::3]
    p[::2, 0] = q[::2, 0] = 0.0
    q[1::4, 0] = 0.0  # where p is positive, and KL(p ‖ q) infinite
    logs = [np.where(v > 0, np.log(np.where(v > 0, v, 1.0)), IMPOSSIBLE) for v in (p, q)]
    for dtype in (np.float32, np.float64):
        a, b = (Categorical(v.astype(dtype)) for v in logs)
        for found in (kl_divergence(a, b), kl_divergence(b, a), js_divergence(a, b)):
            assert (found.data >= 0).all()  # false for NaN
        infinite = kl_divergence(a, b).data == inf
        excluded = ((a.probs.data > 0) & (b.probs.data == 0)).any(-1)
        assert (infinite == excluded).all() and infinite.any() and not infinite.all()
        assert (kl_divergence(a, a).data == 0).all() and (js_divergence(a, a).data == 0).all()


def test_js_of_bernoulli_is_that_of_its_two_outcomes():
    p, q = (np.stack([1 - v, v], -1) for v in (special.expit(LOGITS), special.expit(LOGITS_2)))
    found = js_divergence(Bernoulli(LOGITS), Bernoulli(LOGITS_2)).data
    np.testing.assert_allclose(found, js_discrete(p, q), rtol=1e-10)
    assert js_divergence(Bernoulli(800.0), Bernoulli(-800.0)).item() == log(2)
    tg.gradcheck(lambda a, b: js_divergence(Bernoulli(a), Bernoulli(b)), [LOGITS, LOGITS_2])


def test_kl_of_nearly_equal_normals_is_accurate():
    # r = log(σp/σq) = 1e-6: KL = (e^2r - 1 - 2r)/2 = r² + ..., where cancellation would leave 1e-4.
    r = 1e-6
    found = kl_divergence(Normal(0.0, np.exp(r)), Normal(0.0, 1.0)).item()
    assert found == close(r**2 * (1 + 2 * r / 3), 1e-9)


def test_kl_of_extreme_parameters():
    found = kl_divergence(Normal(0.0, 1e-200), Normal(0.0, 1e200)).item()
    assert found == close(400 * log(10) - 0.5, 1e-12)
    # p = 1 - 4e-18, rounded to 1, against 1 - 2e-22: the tails decide.
    found = kl_divergence(Bernoulli(40.0), Bernoulli(50.0)).item()
    expected = np.exp(-40) * 10 - (np.exp(-40) - np.exp(-50))
    assert found == close(expected, 1e-9)
    assert kl_divergence(Bernoulli(800.0), Bernoulli(-800.0)).item() == 800
    assert kl_divergence(Categorical([0.0, 0.0]), Categorical([0.0, IMPOSSIBLE])).item() == inf
    assert kl_divergence(Categorical([0.0, IMPOSSIBLE]), Categorical([0.0, 0.0])).item() == log(2)
    assert kl_divergence(Categorical([0.0, IMPOSSIBLE]), Categorical([1.0, IMPOSSIBLE])).item() == 0
    opposite = Categorical([0.0, IMPOSSIBLE]), Categorical([IMPOSSIBLE, 0.0])
    assert js_divergence(*opposite).item() == log(2)
    assert js_divergence(opposite[0], opposite[0]).item() == 0
    apart, left = rng.normal(size=(500, 20)), np.arange(20) < 10  # sums that round to above one
    opposite = (Categorical(np.where(v, apart, IMPOSSIBLE)) for v in (left, ~left))
    js = js_divergence(*opposite).data
    assert (js <= log(2)).all() and (js > log(2) - 1e-12).all()


def grey_fisher(loc, scale):
    """That of the location of a DiscretisedNormal with 256 levels from -1 to 1."""
    edges = np.concatenate([[-inf], np.linspace(-1, 1, 511)[1::2], [inf]])
    p = np.diff(stats.norm(loc, scale).cdf(edges))
    slope = np.diff(stats.norm(loc, scale).pdf(edges))
    return (slope[p > 0] ** 2 / p[p > 0]).sum()


COIN_P = special.expit(LOGITS[0])
NEARLY_EQUAL = {
    "bernoulli": (Bernoulli, LOGITS[0], np.ones(3), COIN_P * (1 - COIN_P)),
    "categorical": (
        Categorical, LOGITS[0], np.array([1.0, 0.0, 0.0]),
        special.softmax(LOGITS[0])[0] * (1 - special.softmax(LOGITS[0])[0]),
    ),
    "discretised": (
        lambda loc: DiscretisedNormal(loc, 0.1), 0.3, np.array(1.0), grey_fisher(0.3, 0.1)
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "start", "direction", "fisher"), NEARLY_EQUAL.values(), ids=NEARLY_EQUAL
)
def test_divergences_of_nearly_equal_distributions_are_those_of_the_fisher_information(
    kind, start, direction, fisher
):
    """A step h from anywhere: KL = F h²/2 and JS = F h²/8, where the sum Σ p log p/q cancels."""
    for h in (1e-5, 1e-7, 1e-9):
        p, q = kind(np.array(start)), kind(start + h * direction)
        tolerance = 10 * h + 1e-14 / h
        np.testing.assert_allclose(kl_divergence(p, q).data, 0.5 * fisher * h**2, rtol=tolerance)
        np.testing.assert_allclose(kl_divergence(q, p).data, 0.5 * fisher * h**2, rtol=tolerance)
        np.testing.assert_allclose(js_divergence(p, q).data, fisher * h**2 / 8, rtol=tolerance)


def test_hessian_at_equality_is_the_fisher_information():
    mean, std, logits = MEAN[0], STD, LOGITS[0]

    def fisher(kind, x, *rest):
        p = kind(x, *rest)
        return tg.hessian(lambda v: kl_divergence(p, kind(v, *rest)).sum())(x)

    np.testing.assert_allclose(fisher(Normal, mean, std), np.diag(1 / std**2), rtol=1e-12)
    coin = special.expit(logits)
    np.testing.assert_allclose(fisher(Bernoulli, logits), np.diag(coin * (1 - coin)), rtol=1e-9)
    p = special.softmax(logits)
    expected = np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(fisher(Categorical, logits), expected, rtol=1e-9)


def test_js_of_normals():
    def integral(p, q):
        def f(x):
            a, b = p.logpdf(x), q.logpdf(x)
            m = np.logaddexp(a, b) - log(2)
            return 0.5 * (np.exp(a) * (a - m) + np.exp(b) * (b - m))

        return integrate.quad(f, -30, 30, epsabs=1e-12, limit=200)[0]

    for m, s in [(0.5, 1.0), (3.0, 0.5), (-1.0, 2.5)]:
        expected = integral(stats.norm(0, 1), stats.norm(m, s))
        for pair in [(Normal(0.0, 1.0), Normal(m, s)), (Normal(m, s), Normal(0.0, 1.0))]:
            assert js_divergence(*pair).item() == close(expected, 1e-9)
    assert js_divergence(Normal(1.0, 2.0), Normal(1.0, 2.0)).item() == 0
    # A shift by h: JS = h²/8 + O(h⁴), a quarter of both KLs; and Normals that do not meet.
    assert js_divergence(Normal(0.0, 1.0), Normal(1e-4, 1.0)).item() == close(1e-8 / 8, 1e-4)
    for mean, std in [(12.0, 1e-6), (1e6, 1e-3)]:
        far = js_divergence(Normal(0.0, 1.0), Normal(mean, std)).item()
        assert far == close(log(2), 1e-12) and far <= log(2)
    small_far_away = js_divergence(Normal(1e6, 1e-6), Normal(1e6, 3e-6)).item()
    expected = js_divergence(Normal(0.0, 1.0), Normal(0.0, 3.0)).item()
    assert small_far_away == close(expected, 1e-9)


def js_on_all_scales(mean, std, mean_2, std_2):
    """By the trapezoidal rule in v, x = mean + std sinh v: from the width `std` to any other."""
    step = 120 / 40_000
    v = step * np.arange(-20_000, 20_001)
    x = std * np.sinh(v)
    a = -0.5 * np.sinh(v) ** 2 - log(std)
    b = -0.5 * ((x - (mean_2 - mean)) / std_2) ** 2 - log(std_2)
    m = np.logaddexp(a, b) - log(2)
    terms = np.exp(a) * (a - m) + np.exp(b) * (b - m)
    return float((terms * std * np.cosh(v)).sum() * step / np.sqrt(8 * np.pi))


@pytest.mark.parametrize("ratio", [1.0, 1.01, 3.0, 1e3, 1e6, 1e12, 1e16])
@pytest.mark.parametrize("apart", [0.0, 0.4, 3.0, 9.0])
@pytest.mark.parametrize("unit", [1e-6, 1.0])
def test_js_of_normals_of_any_distance_and_width(ratio, apart, unit):
    law = (0.0, unit, apart * ratio * unit, ratio * unit)
    expected = js_on_all_scales(*law)
    for pair in (law[:2], law[2:]), (law[2:], law[:2]):
        found = js_divergence(*(Normal(*v) for v in pair)).item()
        assert 0 <= found <= log(2) and found == approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ((0.0, 1e-200), (0.0, 1e200)),
        ((1e308, 1.0), (-1e308, 1e-300)),
        ((0.0, 1e-300), (1.0, 1e-300)),
        ((0.0, 1.0), (70.0, 1.0)),
        ((0.0, 1.0), (1e10, 1.0)),
        ((0.0, 1.0), (1e100, 1.0)),
    ],
)
def test_js_of_normals_that_do_not_meet_is_log_2(p, q):
    assert js_divergence(Normal(*p), Normal(*q)).item() == close(log(2), 1e-13)
