"""The discretised normal distribution against 100 decimal digits, and its laws."""

import functools
from decimal import Decimal, localcontext
from math import inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.on_device import approx, np, special, stats, tg
from tinygen.distributions import (
    DiscretisedNormal,
    Mixture,
    Normal,
    js_discrete,
    js_divergence,
    kl_discrete,
    kl_divergence,
    monte_carlo_kl,
)
from tinygen.random import Generator

STEP = 2 / 255
LOCS, SCALES = np.array([-0.9, 0.1, 0.996]), np.array([0.5, 0.02, 0.2])
GREYS = np.array([-1.0, 0.098, 1.0])

# The exact oracle -------------------------------------------------------------------------------

PI = Decimal(
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534"
    "2117067982148086513282306647093844609550582231725359408128481"
)


def density(x):
    return (-x * x / 2).exp() / (2 * PI).sqrt()


@functools.cache
def upper_tail(x):
    """Q(x) = 1 - Φ(x) in Decimal: a series near 0, Laplace's continued fraction beyond."""
    if x < 0:
        return 1 - upper_tail(-x)
    if x > 8:
        fraction = x
        for n in range(400, 0, -1):
            fraction = x + n / fraction
        return density(x) / fraction
    term = total = x
    n = Decimal(1)
    while abs(term) > Decimal(10) ** -150:
        n += 2
        term *= x * x / n
        total += term
    return Decimal("0.5") - density(x) * total


def exact(level, loc, scale, levels=256):
    """The log-probability of a level by its number, and its derivatives by loc and scale."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 120, -(10**15), 10**15
        loc, scale, step = Decimal(loc), Decimal(scale), Decimal(2) / (levels - 1)
        low, high = ((-1 + step * (level + half) - loc) / scale for half in (-half_, half_))
        first, last = level == 0, level == levels - 1
        q = 1 if first else upper_tail(low), 0 if last else upper_tail(high)
        if low + high < 0:  # the same difference on the left
            q = 1 if last else upper_tail(-high), 0 if first else upper_tail(-low)
        mass = q[0] - q[1]
        at_low, at_high = (0 if first else density(low)), (0 if last else density(high))
        by_loc = (at_low - at_high) / mass / scale
        by_scale = (at_low * low - at_high * high) / mass / scale
        return float(mass.ln()), float(by_loc), float(by_scale)


half_ = Decimal("0.5")

# Values -----------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    st.floats(-1.0, 1.0) | st.floats(-1e3, 1e3) | st.floats(-1e12, 1e12),
    st.floats(-12.0, 12.0).map(lambda e: 10.0**e),
)
def test_probabilities_are_finite_logarithms_and_sum_to_one(loc, scale):
    logs = DiscretisedNormal(np.array(loc), scale).log_probs.data
    assert logs.shape == (256,)
    assert (logs <= 0).all() and (logs > -inf).all()
    assert abs(float(np.exp(logs).sum()) - 1) < 1e-12


def test_probabilities_on_both_sides_of_an_edge_add_up():
    """Also of a scale that rounding shifts the edge by: the bins shift it alike."""
    draw = np.random.default_rng(12)
    edge = -1 + STEP * (draw.integers(1, 255, 300) - 0.5)
    scale = 10.0 ** draw.uniform(-13, -1, 300)
    p = DiscretisedNormal(edge + draw.normal(size=300) * scale, scale)
    assert (np.abs(p.probs.data.sum(-1) - 1) < 1e-12).all()


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 4e-3, STEP, 1e-2, 0.3, 5.0, 1e3, 1e6])
def test_values_and_gradients_are_exact_in_both_tails(scale):
    """And in narrow and wide bins, where the tanh approximation is off by 1e-4 and more."""
    for loc in (0.0, 0.3, -0.999, 1.0, STEP / 2, 1.7, -4.0, 60.0):
        centre = min(max(round((loc + 1) / STEP), 0), 255)
        near = {centre + k for k in (-2, -1, 0, 1, 2)} | {0, 1, 20, 127, 128, 254, 255}
        levels = sorted(k for k in near if 0 <= k < 256)
        p = [tg.tensor(v, requires_grad=True) for v in (loc, scale)]
        law = DiscretisedNormal(*p)
        for k in levels:
            value, *slopes = exact(k, loc, scale)
            found = law.log_prob(law.levels[k])
            # Levels are rounded to 1e-16, which counts relative to the scale and the step.
            blur = 2e-16 * (2 + abs(loc)) * (abs(slopes[0]) + 1 / STEP)
            assert found.item() == approx(value, rel=1e-13, abs=blur), (loc, k)
            tolerance = 1e-10 + blur * (1 / scale if scale < STEP else 1)
            gradients = tg.gradients(found, p)
            for g, slope in zip(gradients, slopes, strict=True):
                assert g.item() == approx(slope, rel=1e-10, abs=tolerance / scale), (loc, k)


def test_far_out_the_near_edge_of_the_bin_decides():
    """-z²/2 - log z - log √2π - 1/z² there; z up to 1e100, where no float holds probabilities."""
    for exponent in (3, 6, 9, 50, 100):
        z = 10.0**exponent
        p = DiscretisedNormal(np.array(0.0), 1 / z)
        for x in (1.0, -1.0):
            edge = (1 - STEP / 2) * z
            expected = -0.5 * edge**2 - log(edge) - 0.5 * log(2 * np.pi) - edge**-2
            assert p.log_prob(np.array(x)).item() == approx(expected, rel=1e-12)


def test_wide_distributions_have_the_density_times_the_step():
    loc, x = np.array([0.3, -2.0, 5.0]), np.array([0.5, -0.2, 0.1])
    for scale in (1e3, 1e6, 1e9):
        p = DiscretisedNormal(loc, scale)
        level = np.rint((x + 1) / STEP) * STEP - 1
        expected = Normal(loc, scale).log_prob(level).data + log(STEP)
        np.testing.assert_allclose(p.log_prob(x).data, expected, rtol=1e-12)


def test_a_tiny_scale_rounds():
    p = DiscretisedNormal(np.array([-0.5, 0.2, 3.0]), 1e-9)
    nearest = np.clip(np.rint((p.loc.data + 1) / STEP), 0, 255)
    np.testing.assert_allclose(p.probs.data.argmax(-1), nearest)
    np.testing.assert_allclose(p.probs.data.max(-1), 1.0)


def test_values_count_as_the_nearest_level():
    p = DiscretisedNormal(LOCS, SCALES)
    level = np.rint((GREYS + 1) / STEP) * STEP - 1
    for shift in (-0.4, 0.4):
        moved = p.log_prob(level + shift * STEP).data
        np.testing.assert_allclose(p.log_prob(level).data, moved, rtol=1e-12)
    np.testing.assert_allclose(
        p.log_prob(np.array([-7.0, 0.098, 9.0])).data, p.log_prob(GREYS).data
    )
    assert np.isnan(p.log_prob(np.array(np.nan)).data).all()


def test_other_grids():
    """Sixteen greys of a picture in [0, 1] as well as 0..16; the ends take what is beyond."""
    a, b = (DiscretisedNormal(LOCS * s, 0.2 * s, 0.0, s, 17) for s in (1.0, 16.0))
    np.testing.assert_allclose(b.levels, np.arange(17))
    np.testing.assert_allclose(a.log_probs.data, b.log_probs.data, rtol=1e-12)
    bits = DiscretisedNormal(np.array(0.3), 2.0, 0.0, 1.0, 2)
    np.testing.assert_allclose(bits.probs.data[1], special.ndtr(-0.1), rtol=1e-12)


def test_shapes_and_dtypes():
    for dtype in (np.float32, np.float64):
        p = DiscretisedNormal(LOCS.astype(dtype), np.ones((2, 1), dtype))
        results = {"log_prob": p.log_prob(np.zeros((4, 1, 3))), "log_probs": p.log_probs,
                   "entropy": p.entropy(), "mean": p.mean, "variance": p.variance,
                   "sample": p.sample(Generator(), (5,))}  # fmt: skip
        shapes = {"log_prob": (4, 2, 3), "log_probs": (2, 3, 256), "sample": (5, 2, 3)}
        for name, result in results.items():
            assert (result.dtype, result.shape) == (dtype, shapes.get(name, (2, 3))), name
    assert DiscretisedNormal(LOCS.astype(np.float32), 1.0).log_prob(GREYS).dtype == np.float32


def test_float32_is_as_right_as_float32_can_be():
    loc, x = np.linspace(-1.5, 1.5, 41)[:, None], np.linspace(-1, 1, 256)
    for scale in (1e-3, 0.01, 0.3, 10.0):
        expected = DiscretisedNormal(loc, scale).log_prob(x).data
        found = DiscretisedNormal(loc.astype(np.float32), scale).log_prob(x).data
        # A rounded distance in scales, z (1 + 1e-7), makes z² 1e-7 of an error there.
        blur = 1e-5 + 1e-6 * (np.abs(x - loc) / scale + 1) / scale
        assert (np.abs(found - expected) < blur + 1e-5 * np.abs(expected)).all()


def test_derivatives_of_both_orders():
    x = np.linspace(-1, 1, 12)
    for locs, scales in ((LOCS, SCALES), (np.array([0.2]), np.array([1e-3])), (LOCS, SCALES + 3)):
        tg.gradgradcheck(
            lambda loc, log_scale: DiscretisedNormal(loc, tg.exp(log_scale)).log_prob(x[:, None]),
            [locs, np.log(scales)], rtol=2e-5, atol=2e-5,
        )  # fmt: skip


def test_moments_have_derivatives():
    def moments(loc, scale):
        p = DiscretisedNormal(loc, scale)
        return tg.stack([p.entropy(), p.mean, p.variance])

    tg.gradcheck(moments, [LOCS, SCALES], rtol=1e-5)


def test_training_finds_loc_and_scale():
    """Samples are fitted by maximum likelihood, up to where they come from."""
    n, truth = 4000, (0.4, 0.15)
    x = DiscretisedNormal(np.full(n, truth[0]), truth[1]).sample(Generator(5)).data
    loc, log_scale = (tg.tensor(np.array(v), requires_grad=True) for v in (-0.5, 0.5))
    adam = tg.optim.Adam({"loc": loc, "log_scale": log_scale}, 0.03)
    for _ in range(300):
        adam.zero_grad()
        (-DiscretisedNormal(loc, tg.exp(log_scale)).log_prob(x).mean()).backward()
        adam.step()
    assert abs(loc.item() - truth[0]) < 4 * truth[1] / n**0.5
    assert abs(np.exp(log_scale.item()) - truth[1]) < 4 * truth[1] / (2 * n) ** 0.5


# Moments and samples ----------------------------------------------------------------------------


def test_moments_and_entropy_are_sums_over_the_levels():
    p = DiscretisedNormal(LOCS, SCALES)
    probs, levels = p.probs.data, p.levels
    mean = (probs * levels).sum(-1)
    np.testing.assert_allclose(p.mean.data, mean, rtol=1e-12)
    np.testing.assert_allclose(p.variance.data, probs @ levels**2 - mean**2, rtol=1e-9)
    np.testing.assert_allclose(p.entropy().data, stats.entropy(probs, axis=-1), rtol=1e-12)
    # Sheppard: inside the range a bin adds step²/12 to the variance, and log 1/step to the entropy.
    fine = DiscretisedNormal(np.array(0.1), 0.05)
    assert fine.mean.item() == approx(0.1, abs=1e-12)
    assert fine.variance.item() == approx(0.05**2 + STEP**2 / 12, rel=1e-9)
    assert fine.entropy().item() == approx(Normal(0.1, 0.05).entropy().item() - log(STEP), rel=1e-3)


def test_samples_follow_the_law():
    n, loc = 40_000, np.array([0.0, 0.9])
    p = DiscretisedNormal(loc, np.array([0.2, 0.15]), levels=21)
    x = p.sample(Generator(6), (n,)).data
    number = np.rint((x + 1) * 10)
    np.testing.assert_allclose(x, number / 10 - 1, atol=1e-12)
    for column in range(2):
        counts = np.bincount(number[:, column].astype(int), minlength=21)
        expected = n * p.probs.data[column]
        often = expected > 5
        pooled = [np.append(v[often], v[~often].sum()) for v in (counts, expected)]
        assert stats.chisquare(*pooled).pvalue > 0.001
    surprise = -p.log_prob(x).data
    error = surprise.std(0) / n**0.5
    assert (np.abs(surprise.mean(0) - p.entropy().data) < 4 * error).all()


def test_divergences():
    p, q = DiscretisedNormal(LOCS, SCALES), DiscretisedNormal(LOCS + 0.1, 2 * SCALES)
    for found, expected in (
        (kl_divergence(p, q), kl_discrete(p.probs.data, q.probs.data)),
        (js_divergence(p, q), js_discrete(p.probs.data, q.probs.data)),
    ):
        np.testing.assert_allclose(found.data, expected, rtol=1e-9)
        assert found.shape == (3,)
    # Processing brings no information: less than between the distributions before the rounding.
    before = kl_divergence(Normal(LOCS, SCALES), Normal(LOCS + 0.1, 2 * SCALES)).data
    assert (kl_divergence(p, q).data < before).all()
    assert (kl_divergence(p, p).data == 0).all() and (js_divergence(p, p).data == 0).all()
    estimate, error = monte_carlo_kl(p, q, Generator(1), 2000)
    assert abs(estimate - float(kl_divergence(p, q).sum())) < 4 * error
    apart = DiscretisedNormal(np.array(-1.0), 1e-6), DiscretisedNormal(np.array(1.0), 1e-6)
    assert js_divergence(*apart).item() == approx(log(2), rel=1e-12)
    assert kl_divergence(*apart).item() == approx(0.5 * ((2 - STEP / 2) / 1e-6) ** 2, rel=1e-9)


def test_a_mixture_of_them_is_one_for_each_pixel():
    logits = np.random.default_rng(2).normal(size=(4, 3))
    p = Mixture(special.softmax(logits, -1), DiscretisedNormal(LOCS, np.full((4, 1), 0.1)))
    assert p.shape == (4,)
    level = p.components.levels
    np.testing.assert_allclose(np.exp(p.log_prob(level[:, None]).data).sum(0), np.ones(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DiscretisedNormal(0.0, 0.0), "scale must be positive and finite, got 0.0"),
        (lambda: DiscretisedNormal(0.0, [1.0, np.nan]), "scale .* got nan"),
        (lambda: DiscretisedNormal(inf, 1.0), "loc must be finite, got inf"),
        (lambda: DiscretisedNormal(np.zeros(2), np.ones(3)), r"\(2,\).*\(3,\)"),
        (lambda: DiscretisedNormal(0.0, 1.0, 1.0, 1.0), "low must be below high.* 1.0 and 1.0"),
        (lambda: DiscretisedNormal(0.0, 1.0, 0.0, inf), "low must be below .* 0.0 and inf"),
        (lambda: DiscretisedNormal(0.0, 1.0, levels=1), "levels is a whole number from 2, not 1"),
        (
            lambda: kl_divergence(DiscretisedNormal(0, 1), DiscretisedNormal(0, 1, levels=17)),
            "p has 256 levels from -1.0 .* q has 17 levels",
        ),
        (
            lambda: js_divergence(DiscretisedNormal(0, 1), DiscretisedNormal(0, 1, 0.0)),
            "q has 256 levels from 0.0 in steps of 0.00392157",
        ),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
