"""What all distributions share, against SciPy and their own laws."""

from math import inf, log

import pytest
from scipy import integrate

from tests.support.distributions import (
    BITS,
    CLASSES,
    IMPOSSIBLE,
    LOGITS,
    MEAN,
    POINTS,
    STD,
    close,
    kinds,
)
from tests.support.on_device import np, on_cpu, special, stats, tg
from tinygen.distributions import (
    Bernoulli,
    Categorical,
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
