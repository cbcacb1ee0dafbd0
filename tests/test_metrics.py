"""Metrics against exact transport on a line, brute force, and their laws."""

import pytest
from on_device import approx, np, on_cpu, tg
from scipy.spatial.distance import cdist

from tinygen.metrics import nearest_distance, sliced_wasserstein
from tinygen.random import Generator

rng = np.random.default_rng(11)
X, Y = rng.normal(size=(60, 3)), rng.normal(size=(45, 3)) * np.array([1, 2, 3]) + 1


def wasserstein_on_a_line(x, y):
    """W2 of two sets of numbers: repeat both to one length, then match in order."""
    x, y = np.sort(np.repeat(x, len(y))), np.sort(np.repeat(y, len(x)))
    return np.sqrt(((x - y) ** 2).mean())


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (6, 4), (1, 5), (30, 49)])
def test_on_a_line_it_is_the_wasserstein_distance(n, m):
    x, y = rng.normal(size=(n, 1)), 2 * rng.normal(size=(m, 1)) + 1
    expected = wasserstein_on_a_line(x[:, 0], y[:, 0])
    assert sliced_wasserstein(x, y, Generator(), 3) == approx(expected, rel=1e-12)


def test_of_a_shift():
    """W2² along θ is (a·θ)², on average |a|²/d, with variance 2(d - 1)/(d²(d + 2)) |a|⁴."""
    a, projections = np.array([3.0, -1.0, 2.0]), 4000
    squared = sliced_wasserstein(X, X + a, Generator(2), projections) ** 2
    spread = a @ a * np.sqrt(2 * 2 / (9 * 5) / projections)
    assert abs(squared - a @ a / 3) < 4 * spread


def test_of_a_scaling():
    """W2² along θ is (c - 1)² mean (x·θ)², on average over θ (c - 1)² mean |x|²/d."""
    squared = sliced_wasserstein(X, 3 * X, Generator(3), 4000) ** 2
    assert squared == approx(4 * (X**2).sum(1).mean() / 3, rel=0.02)


def test_sliced_wasserstein_is_a_metric_of_sets():
    def distance(x, y):
        return sliced_wasserstein(x, y, Generator(4), 50)

    assert distance(X, X) == distance(X, rng.permutation(X)) == 0
    assert distance(X, np.repeat(X, 3, axis=0)) == approx(0, abs=1e-12)
    assert distance(X, Y) == approx(distance(Y, X), rel=1e-12)
    assert distance(X, Y) <= distance(X, -X) + distance(-X, Y)
    assert distance(10 * X, 10 * Y) == approx(10 * distance(X, Y), rel=1e-12)
    assert distance(X + 5, Y + 5) == approx(distance(X, Y), rel=1e-12)


def test_the_directions_come_from_the_generator():
    generator = Generator(5)
    first, second = (sliced_wasserstein(X, Y, generator) for _ in range(2))
    assert first == sliced_wasserstein(X, Y, Generator(5)) != second
    assert generator.state == (5, 2)
    assert first == approx(second, rel=0.1)


@pytest.mark.parametrize("n", [1, 60, 1024, 2500])
def test_nearest_distance_agrees_with_brute_force(n):
    x = rng.normal(size=(n, 3))
    assert nearest_distance(x, Y) == approx(cdist(on_cpu(x), on_cpu(Y)).min(1).mean(), rel=1e-12)


def test_nearest_distance_of_copies_is_zero():
    assert nearest_distance(Y[::-1], Y) == 0
    assert nearest_distance(Y, np.vstack([X, Y])) == 0
    # Far from the origin the squares of coordinates would swamp their differences.
    assert nearest_distance(1e8 + X, 1e8 + Y) == approx(nearest_distance(X, Y), rel=1e-6)
    pixels = rng.random((20, 64), np.float32)
    assert nearest_distance(tg.tensor(pixels), pixels) == 0


@pytest.mark.parametrize(
    "metric", [nearest_distance, lambda x, y: sliced_wasserstein(x, y, Generator())]
)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 3)), X, r"x must be .*not empty, got shape \(0, 3\)"),
        (X, np.zeros((2, 0)), r"y must be .*not empty, got shape \(2, 0\)"),
        (X, X[0], r"y must be rows .*got shape \(3,\)"),
        (X, X[:, :2], "x has rows of 3 numbers, y of 2"),
        (X * np.nan, X, "x must be finite, got nan"),
        (X, [[0.0, np.inf, 0.0]], "y must be finite, got inf"),
    ],
)  # fmt: skip
def test_errors_name_the_value(metric, x, y, message):
    with pytest.raises(ValueError, match=message):
        metric(x, y)


def test_projections_must_be_positive():
    with pytest.raises(ValueError, match="projections must be at least 1, got 0"):
        sliced_wasserstein(X, Y, Generator(), projections=0)
