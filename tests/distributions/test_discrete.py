"""KL and JS of arrays of probabilities, against exact decimal arithmetic and their laws."""

from decimal import Decimal, localcontext
from math import inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.distributions import close, rng
from tests.support.on_device import approx, np, special, stats
from tinygen.distributions import js_discrete, js_distance, kl_discrete


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
