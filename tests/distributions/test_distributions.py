"""Distributions and divergences against SciPy, exact decimal arithmetic and their own laws."""

from decimal import Decimal, localcontext
from itertools import product
from math import inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from tests.support.on_device import approx, np, on_cpu, special, stats, tg
from tinygen.distributions import (
    Bernoulli,
    Categorical,
    DiscretisedNormal,
    Normal,
    js_discrete,
    js_distance,
    js_divergence,
    kl_discrete,
    kl_divergence,
    monte_carlo_js,
    monte_carlo_kl,
)
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


# The exact oracle -------------------------------------------------------------------------------


def exact_kl(p, q):
    """Σ p log(p/q) - p + q in 60 digits; the last two sums cancel for exact probabilities."""
    total = Decimal(0)
    for a, b in zip(map(Decimal, p), map(Decimal, q), strict=True):
        if a > 0 and b == 0:
            return Decimal("Infinity")
        total += b - a + (a * (a / b).ln() if a > 0 else 0)
    return total


def exact(divergence, p, q):
    with localcontext() as context:
        context.prec, context.Emin = 60, -(10**6)
        p, q = [[Decimal(float(v)) for v in values] for values in (p, q)]
        if divergence == "kl":
            return float(exact_kl(p, q))
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return float((exact_kl(p, m) + exact_kl(q, m)) / 2)


def close(value, rel):
    """Within a relative tolerance alone: approx has an absolute one of 1e-12 by default."""
    return approx(value, rel=rel, abs=0)


# Distributions ----------------------------------------------------------------------------------


def test_log_prob_agrees_with_scipy():
    expected = stats.norm(MEAN, STD).logpdf(POINTS)
    np.testing.assert_allclose(Normal(MEAN, STD).log_prob(POINTS).data, expected, rtol=1e-12)
    expected = stats.bernoulli(special.expit(LOGITS)).logpmf(BITS)
    np.testing.assert_allclose(Bernoulli(LOGITS).log_prob(BITS).data, expected, rtol=1e-12)
    logs = special.log_softmax(LOGITS, axis=-1)
    expected = np.array([[logs[row, c] for row, c in enumerate(classes)] for classes in CLASSES])
    listed = Categorical(LOGITS).log_prob(on_cpu(CLASSES).tolist())
    np.testing.assert_allclose(listed.data, expected, rtol=1e-12)
    np.testing.assert_allclose(Categorical(LOGITS).log_prob(CLASSES).data, expected, rtol=1e-12)


def test_entropy_agrees_with_scipy():
    expected = stats.norm(MEAN, STD).entropy()
    np.testing.assert_allclose(Normal(MEAN, STD).entropy().data, expected, rtol=1e-12)
    p = special.expit(LOGITS)
    np.testing.assert_allclose(
        Bernoulli(LOGITS).entropy().data, stats.bernoulli(p).entropy(), rtol=1e-12
    )
    p = special.softmax(LOGITS, axis=-1)
    np.testing.assert_allclose(
        Categorical(LOGITS).entropy().data, stats.entropy(p, axis=-1), rtol=1e-12
    )
    assert Categorical([0.0, 0.0, IMPOSSIBLE]).entropy().item() == close(log(2), 1e-15)


def test_probabilities():
    np.testing.assert_allclose(Bernoulli(LOGITS).probs.data, special.expit(LOGITS))
    np.testing.assert_allclose(Categorical(LOGITS).probs.data, special.softmax(LOGITS, -1))
    np.testing.assert_allclose(Categorical(LOGITS).log_probs.data, special.log_softmax(LOGITS, -1))


def test_means_and_variances():
    np.testing.assert_allclose(Normal(MEAN, STD).variance.data, STD**2)
    coin, p = Bernoulli(LOGITS), special.expit(LOGITS)
    np.testing.assert_allclose(coin.mean.data, p)
    np.testing.assert_allclose(coin.variance.data, p * (1 - p), rtol=1e-9)
    assert Bernoulli(40.0).variance.item() == close(np.exp(-40.0), 1e-12)


def test_probabilities_add_up_to_one():
    for p in (Bernoulli(LOGITS), Categorical(LOGITS), Categorical(np.array([0.0, 9.0, -inf]))):
        outcomes = range(2 if isinstance(p, Bernoulli) else 3)
        total = sum(np.exp(p.log_prob(np.full(p.shape, x)).data) for x in outcomes)
        np.testing.assert_allclose(total, np.ones(p.shape), rtol=1e-14)
    p = Normal(0.3, 2.0)
    total = integrate.quad(lambda x: np.exp(p.log_prob(x).item()), -25, 25, epsabs=1e-12)[0]
    assert total == close(1, 1e-10)


@kinds
def test_entropy_is_the_expected_surprise(kind, params, others, x):
    p, n = kind(*params), 20_000
    surprise = -p.log_prob(p.sample(Generator(11), (n,))).data
    error = surprise.std(0) / n**0.5
    assert (np.abs(surprise.mean(0) - p.entropy().data) < 4 * error).all()


@kinds
def test_shapes_and_dtypes(kind, params, others, x):
    for dtype in (np.float32, np.float64):
        p, q = (kind(*(v.astype(dtype) for v in values)) for values in (params, others))
        given = x.astype(dtype) if x.dtype.kind == "f" else x
        results = {"log_prob": p.log_prob(given), "entropy": p.entropy(), "kl": kl_divergence(p, q)}
        shapes = {"log_prob": (5, *p.shape), "entropy": p.shape, "kl": p.shape}
        for name, result in results.items():
            assert (result.dtype, result.shape) == (dtype, shapes[name]), name
        sample = p.sample(Generator(1), (6, 2))
        assert sample.shape == (6, 2, *p.shape)
        assert sample.dtype == (np.int64 if kind is Categorical else dtype)


@kinds
def test_a_distribution_has_a_short_text(kind, params, others, x):
    p = kind(*params)
    assert repr(p) == f"<{kind.__name__} float64{list(p.shape)}>"


def test_numbers_take_the_dtype_of_arrays():
    mean = np.zeros(3, np.float32)
    for p in (Normal(mean, 1.0), Normal(mean, np.float64(2)), Normal(tg.tensor(mean)[0], 1.0)):
        assert p.dtype == p.sample(Generator()).dtype == p.entropy().dtype == np.float32
        assert p.entropy().shape == p.shape
    assert Normal(0, 1).dtype == Normal(np.arange(3), 1).dtype == np.float64
    assert Normal(mean, [1.0, 2.0, 3.0]).dtype == np.float32
    assert Normal(0, 1).log_prob(on_cpu(mean)).dtype == np.float32
    in_float64 = Normal(0.0, 1.0).sample(Generator(), (100,)).data
    assert (in_float64.astype(np.float32) != in_float64).any()  # not float32 numbers, widened


@kinds
def test_parameters_have_gradients(kind, params, others, x):
    tg.gradcheck(lambda *v: kind(*v).log_prob(x), params)
    tg.gradcheck(lambda *v: kind(*v).entropy(), params)
    n = len(params)
    tg.gradcheck(lambda *v: kl_divergence(kind(*v[:n]), kind(*v[n:])), [*params, *others])
    tg.gradgradcheck(lambda *v: kl_divergence(kind(*v[:n]), kind(*v[n:])), [*params, *others])


def test_gradient_passes_impossible_classes_by():
    possible = np.array([True, True, True, False])

    def with_impossible(v):
        return tg.where(possible, tg.concatenate([v, np.zeros((4, 1))], -1), IMPOSSIBLE)

    for f in (
        lambda v, w: kl_divergence(Categorical(with_impossible(v)), Categorical(w)),
        lambda v, w: js_divergence(Categorical(with_impossible(v)), Categorical(w)),
        lambda v, _: Categorical(with_impossible(v)).entropy(),
    ):
        tg.gradcheck(f, [LOGITS, np.hstack([LOGITS_2, MEAN[:, :1]])])


def test_samples_follow_the_law():
    n = 20_000
    z = (Normal(MEAN, STD).sample(Generator(3), (n,)).data - MEAN) / STD
    assert stats.kstest(z.ravel()[:n], "norm").pvalue > 0.001
    assert np.abs(z.mean(0)).max() < 4 / n**0.5
    frequency = Bernoulli(LOGITS).sample(Generator(4), (n,)).data.mean(0)
    p = special.expit(LOGITS)
    assert (np.abs(frequency - p) < 4 * np.sqrt(p * (1 - p) / n)).all()
    drawn = Categorical(LOGITS).sample(Generator(5), (n,)).data
    for row in range(4):
        counts = np.bincount(drawn[:, row], minlength=3)
        assert stats.chisquare(counts, n * special.softmax(LOGITS[row])).pvalue > 0.001


class Fixed(Generator):
    """A generator of one uniform number."""

    def __init__(self, u):
        super().__init__()
        self.u = u

    def uniform(self, shape, low=0.0, high=1.0, dtype=np.float32, device="cpu"):
        return np.full(shape, self.u, dtype)


@pytest.mark.parametrize("u", [0.0, 0.25, 1 - 2.0**-53])
def test_every_uniform_number_falls_into_a_possible_class(u):
    # Softmax rounds, so that the probabilities may sum to less than the largest u.
    logits = np.random.default_rng(0).normal(size=(1000, 7))
    logits[:, 0] = logits[:, 3] = logits[:, 6] = IMPOSSIBLE
    assert np.isin(Categorical(logits).sample(Fixed(u)).data, [1, 2, 4, 5]).all()


def test_sampling_adds_many_small_probabilities_without_drift():
    k = 100_000
    drawn = Categorical(np.zeros(k, np.float32)).sample(Fixed(0.5)).item()
    assert abs(drawn - k // 2) <= 1


def test_rsample_is_the_sample_with_a_gradient():
    mean, std = tg.tensor(MEAN, requires_grad=True), tg.tensor(STD, requires_grad=True)
    p = Normal(mean, std)
    x = p.rsample(Generator(7), (5,))
    constant = p.sample(Generator(7), (5,))
    assert not constant.requires_grad
    np.testing.assert_array_equal(x.data, constant.data)
    x.sum().backward()
    np.testing.assert_allclose(mean.grad.data, np.full_like(MEAN, 5))
    np.testing.assert_allclose(std.grad.data, ((x.data - MEAN) / STD).sum((0, 1)), rtol=1e-9)


# Divergences between distributions --------------------------------------------------------------


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


def test_bernoullis_are_made_of_probabilities_as_well():
    p = special.expit(LOGITS)
    for name in ("logits", "probs", "mean", "variance"):
        made, known = (getattr(b, name).data for b in (Bernoulli(probs=p), Bernoulli(LOGITS)))
        np.testing.assert_allclose(made, known, rtol=1e-12)
    np.testing.assert_allclose(
        Bernoulli(probs=p).log_prob(BITS).data, Bernoulli(LOGITS).log_prob(BITS).data, rtol=1e-12
    )
    single = Bernoulli(probs=p.astype(np.float32))
    assert single.log_prob(BITS).dtype == single.entropy().dtype == np.float32
    assert js_divergence(single, single).dtype == np.float32
    tg.gradcheck(lambda v: Bernoulli(probs=v).log_prob(BITS), [p])
    tg.gradcheck(lambda v, w: kl_divergence(Bernoulli(probs=v), Bernoulli(probs=w)), [p, p[::-1]])


def test_a_certain_bernoulli():
    never, coin, always = (Bernoulli(probs=np.array(p)) for p in (0.0, 0.5, 1.0))
    outcomes = np.array([0.0, 0.3, 1.0])
    assert never.log_prob(outcomes).data.tolist() == [0, -inf, -inf]
    assert always.log_prob(outcomes).data.tolist() == [-inf, -inf, 0]
    for p in (never, always):
        assert p.entropy().item() == kl_divergence(p, p).item() == 0
        assert p.variance.item() < 1e-300
        assert kl_divergence(p, coin).item() == close(log(2), 1e-15)
        assert kl_divergence(coin, p).item() == inf
        assert js_divergence(p, p).item() == 0
        assert p.sample(Fixed(0.0)).item() == p.mean.item()
    assert kl_divergence(never, always).item() == kl_divergence(always, never).item() == inf
    assert js_divergence(never, always).item() == log(2)


def test_hessian_at_equality_is_the_fisher_information():
    mean, std, logits = MEAN[0], STD, LOGITS[0]

    def fisher(kind, x, *rest):
        p = kind(x, *rest)
        return tg.hessian(lambda v: kl_divergence(p, kind(v, *rest)).sum())(x).data

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


# Divergences between arrays of probabilities ----------------------------------------------------


def normalised(weights):
    weights = np.asarray(weights, float)
    return weights / weights.sum()


def vectors(count):
    """`count` probability vectors of one length, in which outcomes may be impossible."""

    def of_length(k):
        weights = st.lists(st.integers(0, 50), min_size=k, max_size=k).filter(any)
        return st.tuples(*[weights.map(normalised)] * count)

    return st.integers(2, 6).flatmap(of_length)


@settings(max_examples=200)
@given(vectors(2))
def test_discrete_agrees_with_exact_arithmetic(pair):
    for p, q in (pair, pair[::-1]):
        assert kl_discrete(p, q) == close(exact("kl", p, q), 1e-12)
    assert js_discrete(*pair) == close(exact("js", *pair), 1e-12)


@pytest.mark.parametrize("exponent", range(2, 50, 3))
def test_discrete_is_accurate_for_nearly_equal_pairs(exponent):
    p = np.array([3, 5, 7, 1]) / 16  # exact, and so are the sums with q
    q = p + np.array([1, -1, 2, -2]) * 2.0**-exponent / 16
    assert q.sum() == 1
    assert kl_discrete(p, q) == close(exact("kl", p, q), 1e-13)
    assert js_discrete(p, q) == close(exact("js", p, q), 1e-13)


def test_discrete_is_accurate_where_the_series_ends():
    q = np.array([0.9, 0.1])
    # u = (p - q)/q of the second outcome: the last with the series, the first with logarithms.
    for u, rel in [(0.0999, 1e-14), (-0.0999, 1e-14), (0.1001, 2e-13), (-0.1001, 2e-13)]:
        p = np.array([0.9 - 0.1 * u, 0.1 + 0.1 * u])
        assert kl_discrete(p, q) == close(exact("kl", p, q), rel)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([1 - 1e-300, 1e-300], [1 - 5e-301, 5e-301]),
        ([0.5, 0.5, 0], [0.5, 0.5, 5e-324]),
        ([0.5, 0.5, 5e-324], [0.5, 0.5, 0]),
        ([1, 5e-324], [5e-324, 1]),
        ([1, 1.5e-323], [1, 1e-323]),
        ([0.5, 0.5], [1, 2e-308]),
    ],
)
def test_discrete_of_subnormal_probabilities(p, q):
    for a, b in ((p, q), (q, p)):
        assert kl_discrete(a, b) == approx(exact("kl", a, b), rel=1e-10, abs=2e-323)
        assert js_discrete(a, b) == approx(exact("js", a, b), rel=1e-10, abs=2e-323)
        assert js_distance(a, b) ** 2 == approx(js_discrete(a, b), rel=1e-14, abs=2e-323)


def test_discrete_never_fails_on_nearly_equal_dirichlet_pairs():
    """SciPy's jensenshannon gives NaN for many such pairs (scipy#20083)."""
    draw = np.random.default_rng(20083)
    p = draw.dirichlet(np.full(10, 0.3), 2000)
    q = p * (1 + 1e-9 * draw.normal(size=p.shape))
    q /= q.sum(-1, keepdims=True)
    for result in (kl_discrete(p, q), kl_discrete(q, p), js_discrete(p, q), js_distance(p, q)):
        assert result.shape == (2000,)
        assert (result >= 0).all()  # false for NaN
    assert (js_discrete(p, q) > 0).all() and (js_discrete(p, q) < 1e-17).all()
    for row in range(0, 2000, 100):
        assert js_discrete(p[row], q[row]) == close(exact("js", p[row], q[row]), 1e-9)


def test_supports():
    p, q = [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]
    assert kl_discrete(p, q) == inf
    assert kl_discrete(q, p) == close(log(2), 1e-15)
    assert kl_discrete(p, p) == kl_discrete(q, q) == js_discrete(p, p) == 0
    assert js_discrete([1, 0], [0, 1]) == log(2)
    # A sum a little above one does not carry the result above the bound.
    assert js_discrete([1 + 5e-7, 0], [0, 1 + 5e-7]) == log(2)


def test_discrete_axes_and_dtypes():
    p, q = rng.dirichlet(np.ones(4), (2, 3)), rng.dirichlet(np.ones(4), 3)
    expected = [[exact("kl", p[i, j], q[j]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(kl_discrete(p, q), expected, rtol=1e-12)
    np.testing.assert_allclose(
        kl_discrete(p.swapaxes(0, 2), q.T[..., None], axis=0).T, expected, rtol=1e-12
    )
    in_float32 = kl_discrete(p.astype(np.float32), q.astype(np.float32))
    assert in_float32.dtype == np.float64
    np.testing.assert_allclose(in_float32, expected, rtol=1e-4)
    kl_discrete([1, 0], [1 - 9e-7, 0])  # within the tolerance
    kl_discrete(np.float32([0.5, 0.500009]), np.float32([0.5, 0.5]))


@given(vectors(2))
def test_kl_is_positive_unless_equal(pair):
    p, q = pair
    assert kl_discrete(p, p) == 0
    assert (kl_discrete(p, q) > 0) == (p != q).any()
    assert (js_discrete(p, q) > 0) == (p != q).any()


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=6, max_size=6))
def test_chain_rule(pairs):
    p, q = (normalised(w).reshape(2, 3) for w in zip(*pairs, strict=True))
    first_p, first_q = p.sum(1), q.sum(1)
    conditional = kl_discrete(p / first_p[:, None], q / first_q[:, None])
    expected = kl_discrete(first_p, first_q) + first_p @ conditional
    assert kl_discrete(p.ravel(), q.ravel()) == approx(expected, rel=1e-9, abs=1e-15)


@given(vectors(3))
def test_js_is_symmetric_bounded_and_its_root_a_metric(triple):
    p, q, r = triple
    assert js_discrete(p, q) == js_discrete(q, p)
    assert 0 <= js_discrete(p, q) <= log(2)
    assert js_distance(p, r) <= js_distance(p, q) + js_distance(q, r) + 1e-12


@given(vectors(2), st.integers(0, 10**6))
def test_processing_data_brings_no_information(pair, seed):
    p, q = pair
    channel = np.random.default_rng(seed).dirichlet(np.full(4, 0.5), len(p))
    assert kl_discrete(p @ channel, q @ channel) <= kl_discrete(p, q) + 1e-12
    assert js_discrete(p @ channel, q @ channel) <= js_discrete(p, q) + 1e-12


@given(vectors(2), st.randoms(use_true_random=False), st.floats(1.1, 100))
def test_order_of_outcomes_and_base(pair, random, base):
    p, q = pair
    order = np.array(random.sample(range(len(p)), len(p)))
    for divergence in (kl_discrete, js_discrete):
        value = divergence(p, q)
        assert divergence(p[order], q[order]) == close(value, 1e-12)
        assert divergence(p, q, base=base) == close(value / log(base), 1e-12)
    assert js_distance(p, q, base=base) ** 2 == close(js_discrete(p, q, base=base), 1e-12)


@given(vectors(2))
def test_entropic_identities(pair):
    p, q = pair
    uniform = np.full(len(p), 1 / len(p))
    entropy = stats.entropy
    assert kl_discrete(p, uniform) == approx(log(len(p)) - entropy(p), abs=1e-12)
    expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert js_discrete(p, q) == approx(expected, abs=1e-12)


@given(vectors(2))
def test_cross_entropy_is_entropy_and_kl(pair):
    p, q = pair[0], (pair[1] + 1) / (1 + len(pair[1]))  # all possible
    assert -(p @ np.log(q)) == approx(stats.entropy(p) + kl_discrete(p, q), abs=1e-12)


@given(st.lists(st.integers(0, 50), min_size=12, max_size=12).filter(any))
def test_mutual_information(weights):
    """KL of the joint and the product of its parts: what their entropies have in common."""
    joint = normalised(weights).reshape(3, 4)
    rows, columns = joint.sum(1), joint.sum(0)
    information = kl_discrete(joint.ravel(), np.outer(rows, columns).ravel())
    common = stats.entropy(rows) + stats.entropy(columns) - stats.entropy(joint.ravel())
    assert information == approx(common, abs=1e-12)


@given(vectors(2), vectors(2))
def test_kl_of_independent_parts_adds_up(first, second):
    together = [np.outer(a, b).ravel() for a, b in zip(first, second, strict=True)]
    expected = kl_discrete(*first) + kl_discrete(*second)
    assert kl_discrete(*together) == approx(expected, rel=1e-9, abs=1e-14)


@given(vectors(2))
def test_value_of_the_optimal_discriminator(pair):
    """Goodfellow et al. 2014, theorem 1: V(D*) = -log 4 + 2 JS with D* = p/(p + q)."""
    p, q = pair
    value = special.xlogy(p, p / np.where(p > 0, p + q, 1)).sum()
    value += special.xlogy(q, q / np.where(q > 0, p + q, 1)).sum()
    assert value == approx(-log(4) + 2 * js_discrete(p, q), abs=1e-12)


# Estimates --------------------------------------------------------------------------------------


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


# Errors -----------------------------------------------------------------------------------------

NORMAL, COIN = Normal(0.0, 1.0), Bernoulli(0.0)
LEARNED = Normal(tg.tensor(0.5, requires_grad=True), 1.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Normal(0.0, [1.0, 0.0]), ValueError, "std must be positive and finite, got 0.0"),
        (lambda: Normal(0.0, -2.5), ValueError, "std .* got -2.5"),
        (lambda: Normal(0.0, np.nan), ValueError, "std .* got nan"),
        (lambda: Normal(0.0, inf), ValueError, "std .* got inf"),
        (lambda: Normal([0.0, -inf], 1.0), ValueError, "mean must be finite, got -inf"),
        (lambda: Normal(np.zeros(2), np.ones(3)), ValueError, r"\(2,\).*\(3,\)"),
        (lambda: Bernoulli([0.0, inf]), ValueError, "logits must be finite, got inf"),
        (lambda: Bernoulli(), TypeError, "logits, or probs="),
        (lambda: Bernoulli(0.0, probs=0.5), TypeError, "logits, or probs=.*not both"),
        (lambda: Bernoulli(probs=[0.5, 1.5]), ValueError, r"probs must be in \[0, 1\], got 1.5"),
        (lambda: Bernoulli(probs=np.nan), ValueError, "probs .* got nan"),
        (lambda: Categorical(0.0), ValueError, r"classes along the last axis, got \(\)"),
        (lambda: Categorical(np.zeros((2, 0))), ValueError, r"got \(2, 0\)"),
        (lambda: Categorical([0.0, np.nan]), ValueError, "logits must be .*, got nan"),
        (lambda: Categorical([0.0, inf]), ValueError, "below .inf.*, got inf"),
        (lambda: Categorical([[0, 0], [-inf, -inf]]), ValueError, "not all -inf .*, got -inf"),
        (lambda: Categorical([0.0, 0.0]).log_prob(2), ValueError, "2..2 .* 2 classes"),
        (
            lambda: kl_divergence(NORMAL, COIN),
            TypeError,
            "KL of .Normal, Bernoulli.*monte_carlo_kl",
        ),
        (lambda: js_divergence(NORMAL, COIN), TypeError, "JS of .Normal, Ber.*monte_carlo_js"),
        (
            lambda: kl_divergence(Categorical([0.0, 0.0]), Categorical([0.0])),
            ValueError,
            "p has 2 classes, q has 1",
        ),
        (lambda: js_divergence(Categorical(MEAN[0]), Categorical([0.0])), ValueError, "3.*1"),
        (lambda: js_divergence(Normal([0.0], 1.0), NORMAL), ValueError, r"shape \(\), got \(1,\)"),
        (lambda: js_divergence(LEARNED, NORMAL), TypeError, "detach"),
        (
            lambda: kl_discrete([0.5, 0.4], [0.5, 0.5]),
            ValueError,
            "p must sum to 1 along axis -1, got 0.9",
        ),
        (lambda: js_discrete([1, 0], [1 + 2e-6, 0]), ValueError, "q must sum .* got 1.000002"),
        (lambda: kl_discrete([1.5, -0.5], [0.5, 0.5]), ValueError, "p must not .* got -0.5"),
        (lambda: kl_discrete([0.5, 0.5], [np.nan, 1]), ValueError, "q must not .* got nan"),
        (lambda: kl_discrete([0.5, 0.5], [1.0]), ValueError, "p has 2 outcomes, q has 1"),
        (lambda: kl_discrete([1.0], [1.0], base=1), ValueError, "base .* got 1"),
        (lambda: js_distance([1.0], [1.0], base=inf), ValueError, "base .* got inf"),
        (lambda: monte_carlo_kl(NORMAL, NORMAL, Generator(), 1), ValueError, "got n = 1"),
        (
            lambda: monte_carlo_js(NORMAL, Normal(np.zeros(3), 1.0), Generator(), 3),
            ValueError,
            r"got \(\) and \(3,\)",
        ),
    ],
)
def test_errors_name_the_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_a_network_computed_is_not_looked_at():
    leaf = tg.tensor([-1.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"got -1\.0"):
        Normal(0.0, leaf)
    Normal(0.0, leaf + 0.0)
