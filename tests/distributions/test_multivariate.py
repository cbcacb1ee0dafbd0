"""The normal distribution with a full covariance, against SciPy, formulas in NumPy, and its laws."""

from math import inf, log, pi

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.on_device import approx, np, on_cpu, stats, tg
from tinygen.distributions import (
    MultivariateNormal,
    Normal,
    kl_divergence,
    monte_carlo_kl,
)
from tinygen.random import Generator

rng = np.random.default_rng(31)


def covariance(draw, *shape):
    """Random covariances (..., d, d), neither nearly singular nor nearly diagonal."""
    a = draw.normal(size=(*shape, shape[-1]))
    return a @ a.swapaxes(-1, -2) + 0.2 * np.eye(shape[-1])


MEAN, COVARIANCE = rng.normal(size=3), covariance(rng, 3)
MEAN_2, COVARIANCE_2 = rng.normal(size=3), covariance(rng, 3)
FACTOR, FACTOR_2 = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
POINTS = rng.normal(size=(5, 3))
P, Q = MultivariateNormal(MEAN, COVARIANCE), MultivariateNormal(MEAN_2, COVARIANCE_2)

laws = settings(max_examples=60)
seeds = st.integers(0, 2**32 - 1)
lengths = st.integers(1, 5)


def of_seed(seed, d, count=2):
    draw = np.random.default_rng(seed)
    return [(draw.normal(size=d), covariance(draw, d)) for _ in range(count)]


def formula(p, q):
    """½ (tr Σq⁻¹Σp - d + log det Σq/Σp + δᵀ Σq⁻¹ δ), as it is written."""
    (m, c), (m2, c2) = p, q
    inverse = np.linalg.inv(c2)
    logdet = np.linalg.slogdet(c2)[1] - np.linalg.slogdet(c)[1]
    return float((inverse * c.T).sum() - len(m) + logdet + (m - m2) @ inverse @ (m - m2)) / 2


def kl(p, q):
    return kl_divergence(MultivariateNormal(*p), MultivariateNormal(*q)).item()


def test_density_and_entropy_agree_with_scipy():
    law = stats.multivariate_normal(MEAN, COVARIANCE)
    np.testing.assert_allclose(P.log_prob(POINTS).data, law.logpdf(POINTS), rtol=1e-12)
    assert P.entropy().item() == approx(law.entropy(), rel=1e-12)
    np.testing.assert_allclose(P.variance.data, np.diagonal(COVARIANCE))
    np.testing.assert_allclose((P.factor @ P.factor.T).data, COVARIANCE, rtol=1e-12)


@pytest.mark.parametrize(
    ("mean", "rows", "x"),
    [((2, 3), (3,), (3,)), ((3,), (2, 3), (5, 2, 3)), ((2, 3), (1, 3), (4, 5, 2, 3)),
     ((), (3,), (5, 3)), ((2, 1, 3), (4, 3), (3,)), ((3,), (3,), (0, 3)), ((1,), (2, 1), (6, 1, 1))],
)  # fmt: skip
def test_leading_axes_broadcast(mean, rows, x):
    """Everything as for each vector alone."""
    draw = np.random.default_rng(5)
    m, x = draw.normal(size=mean), draw.normal(size=x)
    c = covariance(draw, *rows)
    p = MultivariateNormal(m, c)
    assert p.shape == np.broadcast_shapes(mean, rows)
    found, batch = p.log_prob(x), np.broadcast_shapes(x.shape, p.shape)[:-1]
    d, start = p.shape[-1], len(batch) - len(p.shape) + 1
    x = np.broadcast_to(x, (*batch, d))
    m, c = np.broadcast_to(m, p.shape), np.broadcast_to(c, (*p.shape, d))
    assert found.shape == batch and p.entropy().shape == p.shape[:-1]
    assert p.sample(Generator(), (2,)).shape == (2, *p.shape) == (2, *p.variance.shape)
    for i in np.ndindex(batch):
        expected = stats.multivariate_normal(m[i[start:]], c[i[start:]]).logpdf(x[i])
        assert float(found.data[i]) == approx(expected, rel=1e-11)
    other = MultivariateNormal(0.3, np.eye(d))
    for i, value in np.ndenumerate(on_cpu(kl_divergence(p, other).data)):
        assert value == approx(formula((m[i], c[i]), (0.3 * np.ones(d), np.eye(d))), rel=1e-10)


def test_one_dimension_and_a_diagonal_are_the_normal_distribution():
    std, x = np.array([0.5, 2.0, 1.0]), POINTS
    p, independent = MultivariateNormal(MEAN, np.diag(std**2)), Normal(MEAN, std)
    np.testing.assert_allclose(p.log_prob(x).data, independent.log_prob(x).data.sum(-1))
    np.testing.assert_allclose(p.entropy().data, independent.entropy().data.sum())
    np.testing.assert_allclose(p.sample(Generator(3), (4,)).data,
                               independent.sample(Generator(3), (4,)).data)  # fmt: skip
    expected = kl_divergence(independent, Normal(MEAN_2, 1.0)).data.sum()
    assert kl((MEAN, np.diag(std**2)), (MEAN_2, np.eye(3))) == approx(expected, rel=1e-12)
    line = MultivariateNormal(0.3, np.array([[4.0]]))
    np.testing.assert_allclose(
        line.log_prob(x[:, :1]).data, Normal(np.array([0.3]), 2.0).log_prob(x[:, 0]).data
    )


def test_float32_stays_float32():
    p, q = (MultivariateNormal(m.astype(np.float32), c.astype(np.float32))
            for m, c in ((MEAN, COVARIANCE), (MEAN_2, COVARIANCE_2)))  # fmt: skip
    x = POINTS.astype(np.float32)
    for found, expected in (
        (p.log_prob(x), P.log_prob(POINTS)), (p.entropy(), P.entropy()),
        (kl_divergence(p, q), kl_divergence(P, Q)),
    ):  # fmt: skip
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-4)
    assert p.rsample(Generator()).dtype == np.float32
    assert MultivariateNormal(x[0], np.eye(3).tolist()).dtype == np.float32


def test_derivatives_of_both_orders():
    def given_factors(f):
        return lambda m, a, *rest: f(MultivariateNormal(m, a @ a.swapaxes(-1, -2) + 0.1), *rest)

    tg.gradgradcheck(
        given_factors(lambda p, x: p.log_prob(x)), [MEAN, FACTOR, POINTS[:2]], rtol=1e-5
    )
    tg.gradgradcheck(given_factors(lambda p: p.entropy()), [MEAN, FACTOR], rtol=1e-5)
    tg.gradcheck(given_factors(lambda p: p.rsample(Generator(2), (4,))), [MEAN, FACTOR], rtol=1e-5)
    tg.gradgradcheck(
        lambda m, a, m2, a2: kl_divergence(
            MultivariateNormal(m, a @ a.swapaxes(-1, -2) + 0.1),
            MultivariateNormal(m2, a2 @ a2.swapaxes(-1, -2) + 0.1),
        ),
        [MEAN, FACTOR, MEAN_2, FACTOR_2], rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_gradients_have_their_closed_forms():
    """Score, entropy and KL: ∇μ = Σ⁻¹ (x - μ), ∇Σ H = ½ Σ⁻¹, ∇Σp KL = ½ (Σq⁻¹ - Σp⁻¹)."""
    mean, matrix = (tg.tensor(v, requires_grad=True) for v in (MEAN, COVARIANCE))
    p, inverse = MultivariateNormal(mean, matrix), np.linalg.inv(COVARIANCE)
    apart = POINTS[0] - MEAN
    score, by_matrix = tg.gradients(p.log_prob(POINTS[0]), [mean, matrix], retain_graph=True)
    np.testing.assert_allclose(score.data, inverse @ apart, rtol=1e-10)
    expected = 0.5 * (inverse @ np.outer(apart, apart) @ inverse - inverse)
    np.testing.assert_allclose(by_matrix.data, expected, rtol=1e-9)
    by_matrix = tg.gradients(p.entropy(), matrix, retain_graph=True)
    np.testing.assert_allclose(by_matrix.data, 0.5 * inverse, rtol=1e-10)
    by_mean, by_matrix = tg.gradients(kl_divergence(p, Q), [mean, matrix])
    inverse_2 = np.linalg.inv(COVARIANCE_2)
    np.testing.assert_allclose(by_mean.data, inverse_2 @ (MEAN - MEAN_2), rtol=1e-9)
    np.testing.assert_allclose(by_matrix.data, 0.5 * (inverse_2 - inverse), rtol=1e-8)


def test_rsample_carries_the_gradient_of_an_expectation():
    """E |x|² = |μ|² + tr Σ has the gradients 2μ and I."""
    mean, matrix = (tg.tensor(v, requires_grad=True) for v in (MEAN, COVARIANCE))
    p, n = MultivariateNormal(mean, matrix), 20_000
    x = p.rsample(Generator(8), (n,))
    assert not p.sample(Generator(8)).requires_grad
    tg.square(x).sum(-1).mean().backward()
    assert np.abs(mean.grad.data - 2 * MEAN).max() < 8 * (np.diag(COVARIANCE) / n).max() ** 0.5
    assert np.abs(matrix.grad.data - np.eye(3)).max() < 0.15


def test_samples_follow_the_law():
    n = 40_000
    x = P.sample(Generator(3), (n,)).data
    assert (np.abs(x.mean(0) - MEAN) < 4 * np.sqrt(np.diag(COVARIANCE) / n)).all()
    spread = np.sqrt((np.outer(np.diag(COVARIANCE), np.diag(COVARIANCE)) + COVARIANCE**2) / n)
    assert (np.abs(np.cov(x.T) - COVARIANCE) < 4 * spread).all()
    # Any combination is normal, and the squared distance to the mean χ².
    along = np.array([1.0, -2.0, 0.5])
    z = ((x - MEAN) @ along) / (along @ COVARIANCE @ along) ** 0.5
    assert stats.kstest(z, "norm").pvalue > 0.001
    distance = ((x - MEAN) @ np.linalg.inv(COVARIANCE) * (x - MEAN)).sum(-1)
    assert stats.kstest(distance, "chi2", (3,)).pvalue > 0.001


# Divergence -------------------------------------------------------------------------------------


@laws
@given(seeds, lengths)
def test_kl_is_the_formula_and_positive(seed, d):
    p, q = of_seed(seed, d)
    assert kl(p, q) == approx(formula(p, q), rel=1e-8, abs=1e-10)
    assert kl(p, q) > 0 and kl(p, p) == kl(q, q) == 0


@laws
@given(seeds, lengths)
def test_kl_does_not_depend_on_the_coordinates(seed, d):
    p, q = of_seed(seed, d)
    draw = np.random.default_rng(seed + 1)
    a, b = draw.normal(size=(d, d)) + 3 * np.eye(d), draw.normal(size=d)
    moved = [(a @ m + b, a @ c @ a.T) for m, c in (p, q)]
    assert kl(*moved) == approx(kl(p, q), rel=1e-6)


def conditioned(law, k):
    """The first k elements; slope and offset of the others' mean given them; their covariance."""
    m, c = law
    slope = c[k:, :k] @ np.linalg.inv(c[:k, :k])
    rest = c[k:, k:] - slope @ c[:k, k:]
    return (m[:k], c[:k, :k]), slope, m[k:] - slope @ m[:k], (rest + rest.T) / 2


@laws
@given(seeds, st.integers(2, 5), st.data())
def test_kl_of_a_part_and_of_the_rest_given_it_add_up(seed, d, data):
    """The chain rule; and so a part has no more than the whole (data processing)."""
    k = data.draw(st.integers(1, d - 1))
    p, q = of_seed(seed, d)
    (first, slope, offset, rest), (first_2, slope_2, offset_2, rest_2) = (
        conditioned(law, k) for law in (p, q)
    )
    # The means given x differ by Δ x + δ, the expected square of which has two parts.
    change = slope - slope_2
    apart = change @ first[0] + offset - offset_2
    squares = np.outer(apart, apart) + change @ first[1] @ change.T
    conditional = kl((0.0 * apart, rest), (0.0 * apart, rest_2))
    conditional += 0.5 * float((np.linalg.inv(rest_2) * squares).sum())
    assert kl(p, q) == approx(kl(first, first_2) + conditional, rel=1e-7)
    assert kl(first, first_2) <= kl(p, q) * (1 + 1e-9)


@laws
@given(seeds, lengths, lengths)
def test_kl_of_independent_parts_adds_up(seed, d, d2):
    first, first_2 = of_seed(seed, d)
    second, second_2 = of_seed(seed + 1, d2)

    def together(a, b):
        matrix = np.zeros((d + d2, d + d2))
        matrix[:d, :d], matrix[d:, d:] = a[1], b[1]
        return np.concatenate([a[0], b[0]]), matrix

    found = kl(together(first, second), together(first_2, second_2))
    assert found == approx(kl(first, first_2) + kl(second, second_2), rel=1e-9)


@laws
@given(seeds, lengths)
def test_cross_entropy_is_entropy_and_kl(seed, d):
    p, q = of_seed(seed, d)
    inverse, apart = np.linalg.inv(q[1]), p[0] - q[0]
    squares = float((inverse * (p[1] + np.outer(apart, apart))).sum())
    expected = 0.5 * (d * log(2 * pi) + float(np.linalg.slogdet(q[1])[1]) + squares)
    found = MultivariateNormal(*p).entropy().item() + kl(p, q)
    assert found == approx(expected, rel=1e-9)


@given(st.floats(-0.999, 0.999), st.floats(0.01, 100), st.floats(0.01, 100))
def test_mutual_information(correlation, a, b):
    """KL of the joint and the product of its parts; Σ entropies - joint entropy; -½ log(1 - ρ²)."""
    matrix = np.array([[a * a, correlation * a * b], [correlation * a * b, b * b]])
    joint, parts = (np.zeros(2), matrix), (np.zeros(2), np.diag(np.diag(matrix)))
    expected = -0.5 * np.log1p(-(correlation**2))
    assert kl(joint, parts) == approx(expected, rel=1e-9, abs=1e-14)
    entropies = [MultivariateNormal(*law).entropy().item() for law in (parts, joint)]
    assert entropies[0] - entropies[1] == approx(expected, rel=1e-9, abs=1e-12)


def test_entropy_and_kl_are_expectations():
    x = P.sample(Generator(4), (20_000,))
    surprise = -P.log_prob(x).data
    error = float(surprise.std()) / len(surprise) ** 0.5
    assert abs(float(surprise.mean()) - P.entropy().item()) < 4 * error
    for seed in range(3):
        estimate, error = monte_carlo_kl(P, Q, Generator(seed), 2000)
        assert abs(estimate - kl_divergence(P, Q).item()) < 4 * error


@pytest.mark.parametrize("size", [10.0**-e for e in range(1, 18, 2)])
def test_kl_of_nearly_equal_laws_is_accurate(size):
    """Against Σp = Σq (1 + size), μp - μq = size δ: d/2 (size - log(1 + size)) + size² δᵀΣq⁻¹δ/2."""
    delta = np.array([1.0, -1.0, 2.0])
    found = kl((MEAN + size * delta, COVARIANCE * (1 + size)), (MEAN, COVARIANCE))
    by_scale = size**2 / 2 - size**3 / 3 + size**4 / 4 if size < 1e-2 else size - np.log1p(size)
    exact = 1.5 * by_scale + 0.5 * size**2 * float(delta @ np.linalg.inv(COVARIANCE) @ delta)
    assert found >= 0
    assert found == approx(exact, rel=1e-4 if size > 1e-11 else inf, abs=1e-30)
    for shift in (0.0, 1e-16, 1e-12):  # rounding alone; and in float32
        for dtype in (np.float64, np.float32):
            p, q = (MultivariateNormal(MEAN.astype(dtype), (COVARIANCE * s).astype(dtype))
                    for s in (1.0, 1 + shift))  # fmt: skip
            assert 0 <= kl_divergence(p, q).item() < 1e-12


# Errors -----------------------------------------------------------------------------------------

I2 = np.eye(2)


@pytest.mark.parametrize(
    ("mean", "matrix", "message"),
    [
        ([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]], "not positive definite: .* eigenvalue is -1$"),
        ([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]], "not positive definite: .* eigenvalue is "),
        (0.0, [[-0.5]], "eigenvalue is -0.5"),
        (0.0, [[0.0]], "eigenvalue is 0"),
        (0.0, [[[1.0]], [[-3.0]]], "eigenvalue is -3"),
        ([0.0, 0.0], [[1.0, 0.3], [0.2, 1.0]], "symmetric, got 0.3 opposite 0.2"),
        ([0.0, 0.0], [[1.0, np.nan], [np.nan, 1.0]], "covariance must be finite, got nan"),
        ([0.0, 0.0], [[inf, 0.0], [0.0, 1.0]], "covariance must be finite, got inf"),
        ([0.0, np.nan], I2, "mean must be finite, got nan"),
        ([0.0, 0.0, 0.0], I2, r"shapes \(3,\) and \(2, 2\)"),
        ([0.0, 0.0], [[1.0]], r"shapes \(2,\) and \(1, 1\)"),
        ([0.0, 0.0], [1.0, 1.0], r"shapes \(2,\) and \(2,\)"),
        (0.0, 1.0, r"shapes \(\) and \(\)"),
        ([0.0, 0.0], np.ones((2, 3)), r"shapes \(2,\) and \(2, 3\)"),
        (np.zeros(0), np.zeros((0, 0)), r"shapes \(0,\) and \(0, 0\)"),
        (np.zeros((3, 2)), np.stack([I2, I2]), r"\(3, 2\).*\(2, 2\)|mismatch"),
    ],
)
def test_errors_name_the_value(mean, matrix, message):
    with pytest.raises(ValueError, match=message):
        MultivariateNormal(mean, matrix)


def test_errors_of_use():
    with pytest.raises(ValueError, match="3 numbers, q of 2"):
        kl_divergence(P, MultivariateNormal(0.0, I2))
    with pytest.raises(TypeError, match="MultivariateNormal, Normal"):
        kl_divergence(P, Normal(MEAN, 1.0))
    with pytest.raises(ValueError, match=r"\[2\]"):
        P.log_prob(np.zeros(2))
    with pytest.raises(ValueError, match=r"square matrices .* \(2, 3\)"):
        tg.cholesky(np.ones((2, 3)))
    with pytest.raises(ValueError, match="two dimensions"):
        tg.solve(np.ones(2), I2)


def test_rounding_does_not_make_a_covariance_asymmetric():
    rounded = COVARIANCE.copy()
    rounded[0, 1] += 1e-9
    np.testing.assert_allclose(MultivariateNormal(MEAN, rounded).entropy().data, P.entropy().data)


def test_what_a_network_computed_is_not_looked_at():
    leaf = tg.tensor(COVARIANCE + np.array([0.0, 0.0, 0.1]), requires_grad=True)
    with pytest.raises(ValueError, match="symmetric"):
        MultivariateNormal(0.0, leaf)
    MultivariateNormal(0.0, leaf * 1.0)  # of which the symmetric part is taken
