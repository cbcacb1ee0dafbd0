"""Measures of samples against exact answers, brute force, their expectations and their laws."""

import itertools
import tracemalloc
from math import exp, log
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist

from tests.support.on_device import approx, np, on_cpu, placed, stats, tg
from tinygen.metrics import (
    _points,
    c2st,
    classifier,
    memorisation,
    mmd,
    nearest_distances,
    prdc,
    sliced_wasserstein,
    wasserstein,
)
from tinygen.random import Generator

rng = np.random.default_rng(11)
X, Y = rng.normal(size=(60, 3)), rng.normal(size=(45, 3)) * np.array([1, 2, 3]) + 1


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def moved(points, seed):
    """The points turned, mirrored or not, and shifted, all alike."""
    d = points.shape[1]
    turn = placed(np.linalg.qr(normal(seed, d, d))[0])
    return points @ turn + normal(seed + 1, d)


def wasserstein_on_a_line(x, y):
    """W2 of two sets of numbers: repeat both to one length, then match in order."""
    x, y = np.sort(np.repeat(x, len(y))), np.sort(np.repeat(y, len(x)))
    return np.sqrt(((x - y) ** 2).mean())


# -- transport -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (6, 4), (1, 5), (30, 49)])
def test_on_a_line_both_are_the_wasserstein_distance(n, m):
    x, y = rng.normal(size=(n, 1)), 2 * rng.normal(size=(m, 1)) + 1
    expected = wasserstein_on_a_line(x[:, 0], y[:, 0])
    assert sliced_wasserstein(x, y, Generator(), 3) == approx(expected, rel=1e-12)
    assert wasserstein(x, y) == approx(expected, rel=1e-12)
    if n * m < 100:  # a line in the plane takes the general way
        direction = np.array([3.0, 4.0])
        assert wasserstein(x * direction, y * direction) == approx(5 * expected, rel=1e-12)


def test_a_line_takes_sets_of_any_size():
    """A matrix of these distances would take 6 GB."""
    x = np.arange(20_000.0)[:, None]
    assert wasserstein(x, np.repeat(x, 2, axis=0) + 3) == approx(3, rel=1e-12)


def test_sliced_wasserstein_of_a_shift():
    """W2² along θ is (a·θ)², on average |a|²/d, with variance 2(d - 1)/(d²(d + 2)) |a|⁴."""
    a, projections = np.array([3.0, -1.0, 2.0]), 4000
    squared = sliced_wasserstein(X, X + a, Generator(2), projections) ** 2
    spread = a @ a * np.sqrt(2 * 2 / (9 * 5) / projections)
    assert abs(squared - a @ a / 3) < 4 * spread


def test_sliced_wasserstein_of_a_scaling():
    """W2² along θ is (c - 1)² mean (x·θ)², on average over θ (c - 1)² mean |x|²/d."""
    squared = sliced_wasserstein(X, 3 * X, Generator(3), 4000) ** 2
    assert squared == approx(4 * (X**2).sum(1).mean() / 3, rel=0.02)


def test_the_directions_come_from_the_generator():
    generator = Generator(5)
    first, second = (sliced_wasserstein(X, Y, generator) for _ in range(2))
    assert first == sliced_wasserstein(X, Y, Generator(5)) != second
    assert generator.state == (5, 2)
    assert first == approx(second, rel=0.1)


@pytest.mark.parametrize(
    "distance", [lambda x, y: sliced_wasserstein(x, y, Generator(4), 50), wasserstein]
)
def test_wasserstein_is_a_metric_of_sets(distance):
    x, y = X[:12], Y[:9]
    assert distance(x, x) == distance(x, rng.permutation(x)) == 0
    assert distance(x, np.repeat(x, 3, axis=0)) == approx(0, abs=1e-7)
    assert distance(x, y) == approx(distance(y, x), rel=1e-9)
    assert distance(x, y) <= distance(x, -x) + distance(-x, y)
    for scale in (1e-6, 10.0, 1e6):
        assert distance(scale * x, scale * y) == approx(scale * distance(x, y), rel=1e-9)
    assert distance(x + 5, y + 5) == approx(distance(x, y), rel=1e-9)


@pytest.mark.parametrize("n", range(1, 8))
def test_wasserstein_is_the_best_of_all_permutations(n):
    x, y = X[:n], Y[:n]
    cost = cdist(on_cpu(x), on_cpu(y), "sqeuclidean")
    orders = itertools.permutations(range(n))
    best = min(sum(cost[i, j] for i, j in enumerate(order)) for order in orders)
    assert wasserstein(x, y) ** 2 == approx(best / n, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 3), (6, 4), (9, 20), (31, 30)])
def test_wasserstein_of_unequal_sets_is_that_of_equal_sets_of_repeated_points(n, m):
    x, y = X[:n], Y[:m]
    repeated = on_cpu(np.repeat(x, m, axis=0)), on_cpu(np.repeat(y, n, axis=0))
    cost = cdist(*repeated, "sqeuclidean")
    expected = cost[linear_sum_assignment(cost)].mean()
    assert wasserstein(x, y) ** 2 == approx(expected, rel=1e-12)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), m=st.integers(1, 12))
@settings(max_examples=25)
def test_wasserstein_under_motions(seed, n, m):
    x, y, a = normal(seed, n, 3), normal(seed + 1, m, 3), normal(seed + 2, 3)
    both = moved(np.concatenate([x, y]), seed + 3)
    assert wasserstein(both[:n], both[n:]) == approx(wasserstein(x, y), rel=1e-9)
    shift = float(on_cpu(np.linalg.norm(a)))
    assert wasserstein(x, x + a) == approx(shift, rel=1e-12)
    # A plan has at least the distance of the means, and at most the spread more.
    means = float(on_cpu(np.linalg.norm(x.mean(0) - y.mean(0))))
    assert wasserstein(x, y) >= means * (1 - 1e-12)


# -- maximum mean discrepancy --------------------------------------------------------------------
def test_mmd_is_the_sum_over_pairs():
    """Gretton et al. 2012, eq. 3, term by term."""
    x, y, bandwidth = X[:7], Y[:5], 1.3
    cx, cy = on_cpu(x), on_cpu(y)
    xx, yy, xy = (
        np.exp(-(cdist(a, b) ** 2) / (2 * bandwidth**2)) for a, b in [(cx, cx), (cy, cy), (cx, cy)]
    )
    expected = (xx.sum() - 7) / 42 + (yy.sum() - 5) / 20 - 2 * xy.mean()
    assert mmd(x, y, Generator(), bandwidth).squared == approx(expected, rel=1e-12)
    assert mmd(y, x, Generator(), bandwidth).squared == approx(expected, rel=1e-12)


@pytest.mark.parametrize("a", [0.0, 1.0, 2.5])
def test_mmd_is_unbiased(a):
    """N(0, I) and N(a, I) in d dimensions: 2 (h²/(h² + 2))^(d/2) (1 - exp(-|a|²/(2 (h² + 2))))."""
    d, h, repeats, shift = 2, 1.5, 300, np.array([a, 0.0])
    found = [
        mmd(normal(i, 8, d), normal(1000 + i, 11, d) + shift, Generator(), h, 1).squared
        for i in range(repeats)
    ]
    expected = 2 * (h**2 / (h**2 + 2)) ** (d / 2) * -np.expm1(-(a**2) / (2 * (h**2 + 2)))
    assert abs(np.mean(found) - expected) < 3.5 * np.std(found) / repeats**0.5
    if a == 0:
        assert 0.3 < np.mean(np.array(found) < 0) < 0.8


def test_the_p_value_of_mmd_is_uniform_under_equality():
    counts = np.zeros(20)
    for i in range(400):
        p = mmd(normal(i, 9, 2), normal(1000 + i, 6, 2), Generator(i), permutations=19).p_value
        counts[round(p * 20) - 1] += 1
    assert stats.chisquare(counts).pvalue > 0.01


def test_mmd_of_different_laws():
    found = mmd(X, Y, Generator())
    assert found.squared > 0.05 and found.p_value == 1 / 200
    assert found == mmd(X, Y, Generator()) != mmd(X, Y, Generator(1), permutations=99)
    generator = Generator()
    mmd(X, Y, generator, permutations=7)
    assert generator.state == (0, 7)
    # With the median as the bandwidth it has no unit.
    assert mmd(1e3 * X, 1e3 * Y, Generator()).squared == approx(found.squared, rel=1e-9)
    both = moved(np.concatenate([X, Y]), 0)
    assert mmd(both[:60], both[60:], Generator()) == approx(found, rel=1e-9)


def test_the_bandwidth_is_the_median_distance():
    expected = np.median(pdist(on_cpu(np.concatenate([X, Y]))))
    assert mmd(X, Y, Generator(), permutations=1).bandwidth == approx(expected, rel=1e-12)
    # Points that are equal do not count: here all pairs but some are.
    x, y = np.array([[0.0], [0.0], [0.0], [3.0]]), np.zeros((9, 1))
    assert mmd(x, y, Generator()).bandwidth == 3.0
    line = np.arange(6000.0)[:, None]  # of those, 2000 evenly: |i - j| = (1 - 1/√2) n is the median
    bandwidth = mmd(line[:50], line[50:], Generator(), permutations=1).bandwidth
    assert bandwidth == approx(6000 * (1 - 0.5**0.5), rel=0.01)


def test_mmd_of_equal_points():
    assert mmd(np.ones((4, 2)), np.ones((3, 2)), Generator()) == (0.0, 1.0, 1.0)
    x = X[:20]
    kernel = np.exp(-(pdist(on_cpu(x)) ** 2) / 2)
    same = mmd(x, x, Generator(), 1.0)
    assert same.squared == approx((kernel.mean() - 1) * 2 / 20, rel=1e-9)  # by chance never so low
    assert same.p_value == 1.0


# -- precision, recall, density, coverage --------------------------------------------------------
def column(*numbers):
    return np.array(numbers, float)[:, None]


def test_prdc_counted_by_hand():
    """k = 1. Real balls: [-1, 1], [0, 2], [2, 6], [2, 6]... of 0, 1, 4, 6 and samples' of 2, 3, 9."""
    real, samples = column(0, 1, 4, 6), column(2, 3, 9)
    # Radii 1, 1, 2, 2: balls [-1, 1], [0, 2], [2, 6], [4, 8]. Of the samples 1, 1, 6: [1, 3], [2, 4],
    # [3, 15]. 2 lies in two real balls, 3 in one, 9 in none; 1, 4 and 6 in balls of samples; and
    # the balls of 1 and 4 have samples in them.
    assert prdc(samples, real, 1) == approx((2 / 3, 3 / 4, 3 / 3, 2 / 4))
    # k = 2: radii 4, 3, 3, 5 and 7, 6, 7: balls [-4, 4], [-2, 4], [1, 7], [1, 11] and [-5, 9],
    # [-3, 9], [2, 16].
    assert prdc(samples, real, 2) == approx((1, 1, 9 / (2 * 3), 1))


def prdc_by_definition(samples, real, k):
    x, y = on_cpu(real), on_cpu(samples)
    of_x, of_y = (np.sort(cdist(a, a), axis=1)[:, k] for a in (x, y))
    across = cdist(y, x)
    in_real, in_samples = across <= of_x, across <= of_y[:, None]
    return (
        in_real.any(1).mean(),
        in_samples.any(0).mean(),
        in_real.sum(1).mean() / k,
        in_real.any(0).mean(),
    )


@given(
    seed=st.integers(0, 10**6), n=st.integers(6, 30), m=st.integers(6, 30), k=st.integers(1, 5),
    d=st.integers(1, 4), whole=st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_prdc_agrees_with_its_definition(seed, n, m, k, d, whole):
    """With whole numbers too, among which many points and distances are equal."""
    x, y = normal(seed, n, d), normal(seed + 1, m, d)
    if whole:
        x, y = np.rint(1.5 * x), np.rint(1.5 * y)
    found = prdc(x, y, k)
    assert found == approx(prdc_by_definition(x, y, k))
    assert prdc(y, x, k)[:2] == approx((found.recall, found.precision))
    assert prdc(64 * x[::-1], 64 * y, k) == found
    if not whole:
        both = moved(np.concatenate([x, y]), seed)
        assert prdc(both[:n], both[n:], k) == found


def test_prdc_of_many_rows_agrees_with_its_definition():
    """Few rows are sorted whole where many are only parted at the k-th."""
    x, y = normal(0, 700, 3), normal(1, 500, 3)
    for k in (1, 5, 30):
        assert prdc(x, y, k) == approx(prdc_by_definition(x, y, k))


@pytest.mark.parametrize(("n", "m", "k"), [(30, 20, 3), (25, 25, 5)])
def test_density_and_coverage_are_expected_under_equal_laws(n, m, k):
    """Naeem et al. 2020: density 1 and coverage 1 - (m-1)...(m-k) / ((n+m-1)...(n+m-k))."""
    found = np.array([prdc(normal(i, n, 2), normal(1000 + i, m, 2), k) for i in range(300)])
    j = np.arange(1, k + 1)
    expected = 1, 1 - np.prod((m - j) / (n + m - j))
    error = found[:, 2:].std(axis=0) / 300**0.5
    assert (np.abs(found[:, 2:].mean(axis=0) - np.array(expected)) < 3.5 * error).all()
    assert ((found[:, :2] > 0.5) & (found[:, :2] <= 1)).all()


def test_prdc_of_equal_and_of_disjoint_sets():
    assert prdc(X, X) == approx((1, 1, 6 / 5, 1))
    assert prdc(X, rng.permutation(X), 2) == approx((1, 1, 3 / 2, 1))
    assert prdc(X, Y + 100) == (0, 0, 0, 0)
    constant = np.full((8, 4), 0.1)  # all distances are 0
    assert prdc(constant, constant, 2) == (1, 1, 4, 1)
    assert prdc(constant, constant + 1) == (0, 0, 0, 0)


def test_dropping_modes_lowers_recall_and_coverage_alone():
    corners = 10 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    real, samples = (normal(i, 50, 4, 2) + corners for i in (0, 1))
    of_modes = [
        prdc(samples[:, :modes].reshape(-1, 2), real.reshape(-1, 2)) for modes in (1, 2, 3, 4)
    ]
    for name in ("recall", "coverage"):
        values = [getattr(found, name) for found in of_modes]
        assert values == sorted(values) and values[0] < 0.3 and values[3] > 0.85
    assert all(found.precision > 0.85 for found in of_modes)


# -- nearest neighbours, memorisation ------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 60, 1024, 2500])
def test_nearest_distances_agree_with_brute_force(n):
    x = rng.normal(size=(n, 3))
    assert nearest_distances(x, Y) == approx(cdist(on_cpu(x), on_cpu(Y)).min(1), rel=1e-12)


def test_nearest_distances_of_copies_are_zero():
    assert not nearest_distances(Y[::-1], Y).any()
    assert not nearest_distances(Y, np.vstack([X, Y])).any()
    # Far from the origin the squares of coordinates would swamp their differences.
    assert nearest_distances(1e8 + X, 1e8 + Y) == approx(nearest_distances(X, Y), rel=1e-6)
    far = np.vstack([Y, [[1e9, 0, 0]]])
    assert nearest_distances(X, far) == approx(nearest_distances(X, Y), rel=1e-12)
    pixels = rng.random((20, 64), np.float32)
    assert not nearest_distances(tg.tensor(pixels), pixels).any()


def test_fresh_rows_are_not_memorised():
    """The expected share that is closer is exactly 1/20, where 20 divides the rows held out plus 1."""
    found = np.array(
        [memorisation(normal(i, 30, 2), X[:, :2], normal(1000 + i, 39, 2)) for i in range(100, 400)]
    )
    ratio, closer, copies = found.mean(axis=0)
    assert abs(closer - 0.05) < 3.5 * found[:, 1].std() / 300**0.5
    assert 0.97 < ratio < 1.05 and copies == 0


def test_copies_are_memorised():
    train, fresh, held_out = (normal(i, 200, 5) for i in range(3))
    assert memorisation(train[::-1][:50], train, held_out) == (0, 1, 1)
    half = memorisation(np.concatenate([train[:100], fresh[:100]]), train, held_out)
    assert half.copies == 0.5 and 0.45 < half.ratio < 0.55 and 0.5 < half.closer < 0.56
    near = memorisation(train + 1e-3 * fresh, train, held_out)
    assert near.copies == 0 and near.ratio < 0.01 and near.closer == 1


def test_memorisation_where_held_out_rows_are_copies_too():
    ones = np.ones((5, 2))
    assert memorisation(ones, ones, ones) == (1, 0, 1)
    with np.errstate(divide="ignore"):
        assert memorisation(2 * ones, ones, ones) == (np.inf, 0, 0)


# -- classifier ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("distance", "d"), [(1.0, 5), (2.0, 5), (3.0, 1)])
def test_c2st_approaches_bayes_rule_from_below(distance, d):
    """N(0, I) and N(a, I) are told apart with probability Φ(|a|/2)."""
    x, y = normal(0, 1500, d) + distance / d**0.5, normal(1, 1399, d)
    found = [c2st(x, y, Generator(i)) for i in range(3)]
    bayes = NormalDist().cdf(distance / 2)
    assert bayes - 0.03 < np.mean([f.accuracy for f in found]) < bayes + 0.015
    for accuracy, error in found:
        p = (1400 * accuracy + 2) / 1404
        assert error == approx((p * (1 - p) / 1404) ** 0.5, rel=1e-12)


def test_c2st_of_equal_laws_is_a_half():
    scores = []
    for i in range(30):
        accuracy, error = c2st(normal(i, 60, 8), normal(1000 + i, 60, 8), Generator(i))
        scores.append((accuracy - 0.5) / error)
    assert abs(np.mean(scores)) < 3 / 30**0.5
    assert 0.6 < np.std(scores) < 1.4


def test_c2st_approaches_bayes_rule_where_it_is_no_line():
    """N(0, I) and N(0, s² I) in the plane meet where |x|² = 2 ln(s²) / (1 - 1/s²)."""
    x, y, s = normal(0, 1500, 2), 1.5 * normal(1, 1500, 2), 1.5**2
    edge = 2 * log(s) / (1 - 1 / s)
    bayes = (1 + exp(-edge / 2 / s) - exp(-edge / 2)) / 2
    found = np.mean([c2st(x, y, Generator(i)).accuracy for i in range(3)])
    assert bayes - 0.025 < found < bayes + 0.02


def test_the_classifier_stops_where_it_is_best_on_held_rows():
    """Of labels at random nothing can be learnt, and ten passes later much has been, by heart."""
    x = on_cpu(normal(0, 400, 50)).astype("f4")
    y = on_cpu(normal(1, 400, 1) > 0).astype("f4")
    net = classifier._trained(x[:300], y[:300], x[300:], y[300:], Generator())
    loss = tg.bce_with_logits(net(x[300:]), y[300:]).numpy().mean()
    assert 0.6 < loss < 0.73  # ln 2 is .693


def test_c2st_takes_rows_at_random():
    ordered = np.sort(normal(0, 400, 1), axis=0)
    accuracy, error = c2st(ordered, normal(1, 200, 1), Generator())
    assert abs(accuracy - 0.5) < 3 * error


def test_c2st_is_of_the_generator_and_of_no_unit():
    x, y = normal(0, 200, 3), 1.5 * normal(1, 300, 3)
    generator = Generator(2)
    first, second = (c2st(x, y, generator) for _ in range(2))
    assert first == c2st(x, y, Generator(2)) != second
    units = np.array([1e-6, 1.0, 1e9])
    assert abs(c2st(x * units, y * units, Generator(2)).accuracy - first.accuracy) < 0.05


def test_c2st_of_equal_and_of_disjoint_sets():
    assert c2st(X, X, Generator()).accuracy < 0.7
    assert c2st(X, X + 100, Generator()).accuracy == 1
    # The same answer to all is right for half of them: the test rows are of both sets equally.
    constant = np.ones((9, 2))
    assert c2st(constant, constant, Generator()).accuracy == 0.5


@pytest.mark.parametrize("n", [20, 200])
def test_all_rows_told_right_leave_an_error(n):
    """The rate p at which all n test rows are right with probability 10 %, some 1 - 2.3/n, is less
    than two errors away."""
    x = normal(0, n, 2)
    accuracy, error = c2st(x, x + 100, Generator())
    assert accuracy == 1
    assert 1 - 0.1 ** (1 / n) < 2 * error < 5 / n


# -- what they share -----------------------------------------------------------------------------
METRICS = {
    "sliced_wasserstein": lambda x, y: sliced_wasserstein(x, y, Generator()),
    "wasserstein": wasserstein,
    "mmd": lambda x, y: mmd(x, y, Generator(), permutations=9),
    "prdc": prdc,
    "nearest_distances": lambda x, y: nearest_distances(x, y).tolist(),
    "memorisation": lambda x, y: memorisation(x, y, y),
    "c2st": lambda x, y: c2st(x, y, Generator()),
}
metrics = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


@metrics
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 3)), X, r"must be .*not empty, got shape \(0, 3\)"),
        (X, np.zeros((2, 0)), r"must be .*not empty, got shape \(2, 0\)"),
        (X, X[0], r"must be rows .*got shape \(3,\)"),
        (X, X[:, :2], "has rows of 3 numbers, .* of 2"),
        (X * np.nan, X, "(x|samples) must be finite, got nan"),
        (X, [[0.0, np.inf, 0.0]], "(y|real|train) must be finite, got inf"),
    ],
)  # fmt: skip
def test_errors_name_the_value(metric, x, y, message):
    with pytest.raises(ValueError, match=message):
        metric(x, y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sliced_wasserstein(X, Y, Generator(), 0), "projections is .* from 1, not 0"),
        (lambda: mmd(X, Y[:1], Generator()), "mmd needs at least 2 rows in each set, got 1"),
        (lambda: mmd(X, Y, Generator(), 0.0), "bandwidth is a number above 0, not 0.0"),
        (lambda: mmd(X, Y, Generator(), np.nan), "bandwidth is a number above 0, not nan"),
        (lambda: mmd(X, Y, Generator(), permutations=0), "permutations is .* from 1, not 0"),
        (lambda: prdc(X, Y, 0), "k is a whole number from 1, not 0"),
        (lambda: prdc(X, Y, 1.5), "k is a whole number from 1, not 1.5"),
        (lambda: prdc(X, Y[:5]), "k = 5 needs at least 6 rows in each set, got 5"),
        (lambda: c2st(X[:7], Y, Generator()), "c2st needs at least 8 rows in each set, got 7"),
    ],
)
def test_errors_say_what_is_needed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@metrics
def test_the_fewest_rows_are_enough(metric):
    """As many as the errors ask for, in one dimension, of lists and whole numbers."""
    fewest = [[i] for i in range(8)]
    assert np.isfinite(np.array(metric(fewest, fewest[::-1]))).all()


@metrics
def test_blocks_make_no_difference(metric, monkeypatch):
    whole = metric(X[:20], Y[:25])
    monkeypatch.setattr(_points, "_ENTRIES", 60)  # two rows of 25, one of 45
    assert metric(X[:20], Y[:25]) == approx(whole, rel=1e-9)


def test_distances_are_never_all_in_memory(monkeypatch):
    x, y = on_cpu(normal(0, 2000, 3)), on_cpu(normal(1, 2000, 3))  # 32 MB of distances
    monkeypatch.setattr(_points, "_ENTRIES", 1 << 16)
    for measure in (prdc, nearest_distances, lambda x, y: mmd(x, y, Generator(), 1.0, 1)):
        tracemalloc.start()
        measure(x, y)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 6e6


def test_single_points():
    x, y = [[1.0, 2.0]], [[4.0, 6.0]]
    assert wasserstein(x, y) == 5.0
    assert nearest_distances(x, y).tolist() == [5.0]
    assert memorisation(x, y, x) == (1, 0, 0)
