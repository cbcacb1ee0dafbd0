"""KL from nearest neighbours against all distances, closed forms, and what changes nothing."""

from math import inf, log

import pytest

from tests.support.on_device import approx, np, placed, tg
from tinygen.distributions import MultivariateNormal, kl_divergence, knn_kl
from tinygen.random import Generator

rng = np.random.default_rng(9)
X, Y = rng.normal(size=(40, 2)), rng.normal(size=(25, 2)) + 0.5


def by_all_distances(x, y, k):
    def sorted_distances(a, b):
        return np.sort(np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)), axis=1)

    near_x, near_y = sorted_distances(x, x)[:, k], sorted_distances(x, y)[:, k - 1]
    n, d = x.shape
    return d / n * float(np.log(near_y / near_x).sum()) + log(len(y) / (n - 1))


@pytest.mark.parametrize("k", [1, 2, 5, 25])
def test_the_formula(k):
    assert knn_kl(X, Y, k) == approx(by_all_distances(X, Y, k), rel=1e-12)
    assert type(knn_kl(X, Y, k)) is float
    assert knn_kl(tg.tensor(X), tg.tensor(Y), k=k) == knn_kl(X, Y, k)


def laws(d):
    correlated = 0.8 * np.eye(d) + 0.6
    return MultivariateNormal(np.zeros(d), np.eye(d)), MultivariateNormal(
        np.full(d, 0.7), correlated
    )


@pytest.mark.parametrize("d", [1, 2, 4])
def test_converges_to_the_closed_form(d):
    p, q = laws(d)
    exact = kl_divergence(p, q).item()

    def estimates(n):
        draws = [Generator(s) for s in range(12)]
        return np.array([knn_kl(p.sample(r, (n,)), q.sample(r, (n,)), k=3) for r in draws])

    few, many = estimates(250), estimates(4000)
    assert float(many.std()) < 0.5 * float(few.std())
    bias, error = abs(float(many.mean()) - exact), float(many.std()) / 12**0.5
    assert bias < 4 * error + 0.02 * d * exact
    assert 4 * float(many.std()) < 0.3 + 0.3 * exact


def test_equal_laws_are_0_apart():
    p, _ = laws(2)
    rngs = [Generator(s) for s in range(12)]
    found = np.array([knn_kl(p.sample(r, (1000,)), p.sample(r, (1500,)), 2) for r in rngs])
    assert abs(float(found.mean())) < 4 * float(found.std()) / 12**0.5 < 0.1


def test_scale_shift_and_order_change_nothing():
    expected = knn_kl(X, Y, 2)
    for scale, shift in ((1e-300, 0.0), (1e300, 0.0), (-2.0, 30.0), (1e-6, 1.0)):
        assert knn_kl(scale * X + shift, scale * Y + shift, 2) == approx(expected, rel=1e-6)
    assert knn_kl(X[::-1], Y[::-1], 2) == approx(expected, rel=1e-12)
    assert knn_kl(X.astype(np.float32), Y.astype(np.float32), 2) == approx(expected, rel=1e-4)
    assert knn_kl(4e307 * X, 4e307 * Y, 2) == approx(expected, rel=1e-6)


def test_two_points_are_enough():
    x, y = placed(np.array([[0.0], [1.0]])), placed(np.array([[0.25]]))
    # ρ = 1, 1 and ν = ¼, ¾: ½ log(3/16) + log 1.
    assert knn_kl(x, y) == approx(0.5 * log(3 / 16), rel=1e-12)
    x, y = placed(np.array([[-1.5e308], [1.5e308]])), placed(np.array([[1e308]]))  # 3e308 apart
    assert knn_kl(x, y) == approx(0.5 * log(2.5 * 0.5 / 9), rel=1e-12)


TWICE = np.array([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [5.0, 5.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: knn_kl(X, Y, 0), "k is a whole number from 1, not 0"),
        (lambda: knn_kl(X, Y, -1), "k is a whole number from 1, not -1"),
        (lambda: knn_kl(X, Y, 1.5), "k is a whole number from 1, not 1.5"),
        (lambda: knn_kl(X, Y, 26), "39 others in x and 25 in y, fewer than k = 26"),
        (lambda: knn_kl(Y, X, 25), "24 others in x and 40 in y, fewer than k = 25"),
        (lambda: knn_kl(X[:1], Y), "0 others in x and 25 in y, fewer than k = 1"),
        (lambda: knn_kl(TWICE, Y), r"x\[0\] coincides with 1 other points of x"),
        (lambda: knn_kl(X, np.vstack([Y, X[7:8]])), r"x\[7\] coincides with 1 points of y"),
        (lambda: knn_kl(np.ones((4, 1)), np.ones((3, 1))), r"x\[0\] coincides"),
        (lambda: knn_kl(X, Y[:, :1]), "x has rows of 2 numbers, y of 1"),
        (lambda: knn_kl(X[:, 0], Y), r"x must be rows of numbers, .* shape \(40,\)"),
        (lambda: knn_kl(X, np.zeros((0, 2))), r"y must be .* not empty, got shape \(0, 2\)"),
        (lambda: knn_kl(X, np.where(Y > 1, np.nan, Y)), "y must be finite, got nan"),
        (lambda: knn_kl(np.where(X > 1, inf, X), Y), "x must be finite, got inf"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_second_neighbour_passes_a_duplicate_by():
    assert knn_kl(TWICE, TWICE + 0.5, 2) == approx(
        by_all_distances(TWICE, TWICE + 0.5, 2), rel=1e-12
    )
