"""Inpainting against its recursion and the conditional law."""

from math import sqrt

import numpy
import pytest

from tests.support.diffusion import DDPM, TWO, Mixture, check_samples, even, rows, within
from tests.support.on_device import (
    np,
    on_cpu,
    placed,
)
from tinygen.models.diffusion import (
    SCHEDULES,
)
from tinygen.random import Generator

RHO = 0.8

CORRELATED = Mixture([[0.0, 0.0]], [[1.0, RHO], [RHO, 1.0]])


def inpainted(schedule, kind, known, resample):
    """Mean and variance of the second coordinate, by the recursion of replaced noised copies."""
    mean, variance = 0.0, 1.0
    for t in range(schedule.T, 0, -1):
        abar, alpha = schedule.abar[t], schedule.alpha[t]
        on_x0, on_xt = schedule.posterior_mean(t)
        best = sqrt(abar) * CORRELATED.cov @ numpy.linalg.inv(CORRELATED.cov_at(abar))
        of_known, own = on_x0 * best[1] + [0.0, on_xt]
        sigma2 = schedule.variance(kind, t) if t > 1 else 0.0
        for again in range(resample):
            if again:
                mean, variance = sqrt(alpha) * mean, alpha * variance + 1 - alpha
            mean = of_known * sqrt(abar) * known + own * mean
            variance = of_known**2 * (1 - abar) + own**2 * variance + sigma2
    return mean, variance


@pytest.mark.parametrize("resample", [1, 3])
def test_inpainting_has_the_law_of_its_recursion(resample):
    model = CORRELATED.model(even(15), variance="small")
    n, known = 8000, 1.5
    x = on_cpu(
        model.sample(n, known=[known, 0.0], mask=[True, False], resample=resample, rng=Generator(4))
    )
    mean, variance = inpainted(model.schedule, "small", known, resample)
    assert (x[:, 0] == np.float32(known)).all()
    assert within(x[:, 1], mean) and within((x[:, 1] - mean) ** 2, variance)


def test_inpainting_tends_to_the_conditional_law_with_many_small_steps():
    """Not with one each: the mean is then .75, where E[x_2 | x_1 = 1.5] = 1.2."""
    schedule = SCHEDULES["cosine"](200)
    means, variances = zip(
        *(inpainted(schedule, "small", 1.5, r) for r in (1, 10, 100)), strict=True
    )
    assert means[0] == pytest.approx(0.75, abs=0.02)
    assert means[1] == pytest.approx(RHO * 1.5, rel=0.05)
    assert means[2] == pytest.approx(RHO * 1.5, rel=0.01)
    assert abs(variances[1] / (1 - RHO**2) - 1) < 0.1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver"])
@pytest.mark.parametrize("bounded", [True, False])
def test_what_is_kept_is_exact_and_what_is_not_may_be_anything(bounded, sampler):
    model = DDPM(3, T=6, width=4, blocks=1, bounded=bounded)
    if not bounded:
        model.shift.data[...], model.scale.data[...] = 0.3, 7.7
    known = on_cpu(rows(5, 3)) + np.float32(0 if bounded else 100)
    known[0, 0], known[1, 0] = 1e-8 if bounded else -1e8, np.nan
    mask = numpy.arange(15).reshape(5, 3) % 2 == 0
    options = {"sampler": sampler, "mask": placed(mask), "rng": Generator(0)}
    x = on_cpu(model.sample(5, known=placed(known), **options))
    numpy.testing.assert_array_equal(x[mask], known[mask])
    assert numpy.isfinite(x).all() and x.dtype == np.float32
    options["rng"], known[~mask] = Generator(0), 1e9
    numpy.testing.assert_array_equal(x, on_cpu(model.sample(5, known=placed(known), **options)))
    everything = {"mask": [True] * 3, "known": [0.25, 0.5, 0.1]}
    assert (on_cpu(model.sample(2, **everything)) == np.float32([0.25, 0.5, 0.1])).all()


def test_a_mask_of_nothing_is_no_condition():
    model = TWO.model(even(60))
    x = model.sample(2000, known=[5.0], mask=[False], resample=1, rng=Generator(1))
    check_samples(x, TWO)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"known": [0.5, 0.5]}, "both"),
        ({"mask": [True, False]}, "both"),
        (
            {"known": [0.5] * 3, "mask": [True, False]},
            r"known of shape \(3,\) for samples \(4, 2\)",
        ),
        ({"known": [0.5] * 2, "mask": [True]}, r"mask of shape \(1,\)"),
        ({"known": [[0.5, 0.5]] * 3, "mask": [True, False]}, r"\(3, 2\)"),
        ({"known": [0.5] * 2, "mask": [1, 0]}, "truth values, not int64"),
        ({"known": [0.5] * 2, "mask": [1.0, float("nan")]}, "truth values, not float64"),
        ({"known": [float("nan"), 0.5], "mask": [True, False]}, r"data\[0, 0\] is nan"),
        ({"known": [1.5, 0.5], "mask": [True, False]}, r"takes \[0, 1\]"),
        ({"known": [0.5] * 2, "mask": [True, False], "resample": 0}, "resample.*0"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        DDPM(2, T=5, width=4, blocks=1).sample(4, **options)
