"""What the network predicts and what its errors weigh, against exact answers."""

from math import sqrt

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.diffusion import (
    DDPM,
    GAUSSIAN,
    MEAN,
    STD,
    THREE,
    Mixture,
    diffusion,
    even,
    half,
    many,
    mean_errors,
    normals,
    normals_on_cpu,
    perfect,
    within,
)
from tests.support.on_device import (
    approx,
    np,
    on_cpu,
    placed,
    tg,
)
from tinygen.models.diffusion import (
    TARGETS,
)
from tinygen.models.diffusion.targets import solve
from tinygen.random import Generator


@given(st.floats(1e-3, 1 - 1e-3), st.floats(-4, 4), st.floats(-4, 4))
@many
def test_x0_and_the_noise_follow_from_every_target(abar, x0, noise):
    a, s = sqrt(abar), sqrt(1 - abar)
    xt = a * x0 + s * noise
    assert set(TARGETS) == {"noise", "data", "velocity"}
    for target in TARGETS.values():
        u, v = target(a, s)
        output = u * x0 + v * noise
        (x0_xt, x0_output), (noise_xt, noise_output) = solve(target, a, s)
        assert x0_xt * xt + x0_output * output == approx(x0, abs=1e-9)
        assert noise_xt * xt + noise_output * output == approx(noise, abs=1e-9)
    assert TARGETS["noise"](a, s) == (0, 1) and TARGETS["data"](a, s) == (1, 0)
    # velocity is the derivative of x_t in the angle with (cos, sin) = (a, s)
    angle, h = np.arctan2(s, a), 1e-6
    moved = [np.cos(u) * x0 + np.sin(u) * noise for u in (angle + h, angle - h)]
    u, v = TARGETS["velocity"](a, s)
    assert u * x0 + v * noise == approx((moved[0] - moved[1]) / (2 * h), abs=1e-8)


def test_the_least_l_simple_of_gaussian_data():
    """min = mean over t of abar_t s² / v_t."""
    model = diffusion([0.1, 0.3, 0.6], perfect("noise"), predict="noise")
    abar = model.schedule.abar[1:]
    least = (abar * STD**2 / (abar * STD**2 + 1 - abar)).mean()
    losses = []
    for seed in range(25):
        x = (MEAN + STD * normals(4000, 1, seed=seed)).astype(np.float32)
        losses.append(model.loss(x, rng=Generator(seed))["loss"].item())
    assert within(losses, least)
    assert np.std(losses) < 0.05 * least  # the test is sharp


def test_times_are_uniform_from_the_first_to_the_last():
    seen = []
    model = diffusion([0.1, 0.2, 0.3, 0.4], lambda x, t, s: seen.append(t) or 0 * x)
    n = 20_000
    model.loss(np.zeros((n, 1), np.float32), rng=Generator(0))
    values, counts = np.unique(seen[0], return_counts=True)
    assert values.tolist() == [1, 2, 3, 4]
    assert (abs(counts / n - 0.25) < 4 * sqrt(0.25 * 0.75 / n)).all()


def test_the_loss_is_a_mean_over_elements_and_every_element_has_its_own_noise():
    model = DDPM(3, T=25, width=4, blocks=1, predict="noise", bounded=False)
    x = np.zeros((5000, 3), np.float32)
    seen = []
    model.network = lambda xt, t: seen.append((xt, t)) or tg.Tensor(0 * xt)
    losses = [model.loss(x, rng=Generator(s))["loss"].item() for s in range(20)]
    assert within(losses, 1.0)  # E ε² for a network that says 0
    xt, t = seen[0]
    noise = on_cpu(xt) / np.sqrt(1 - model.schedule.abar[on_cpu(t)])[:, None]
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(3), atol=4 / sqrt(5000))


@pytest.mark.parametrize(
    ("predict", "bounded"), [("data", True), ("data", False), ("velocity", True)]
)
def test_an_estimate_beyond_the_range_of_the_data_counts_as_at_its_end(predict, bounded):
    """If the output is x_0 of bounded data; the gradient goes on as if it were not cut."""
    model = diffusion([0.2], features=2, predict=predict, bounded=bounded)
    output = numpy.array([[-3.0, 0.5], [0.2, 7.0]], numpy.float32)
    output = tg.tensor(placed(output), requires_grad=True)
    model.network = lambda x, t: output
    model.held = tg.tensor(0.0)  # a model is where its arrays are
    x = numpy.array([[0.6, 0.75], [0.1, 1.0]], numpy.float32)
    loss = model.loss(placed(x), rng=Generator(0))["loss"]
    loss.backward()
    x0 = 2 * x - 1 if bounded else x
    if predict == "velocity":
        draw = Generator(0)
        draw.integers(1, 2, 2)
        noise = on_cpu(draw.normal((2, 2)))
        target = sqrt(0.8) * noise - sqrt(0.2) * x0
    else:
        target = x0
    taken = on_cpu(output.data)
    if predict == "data" and bounded:
        taken = numpy.clip(taken, -1, 1)
    error = taken - target
    assert loss.item() == approx((error**2).mean(), rel=1e-5)
    np.testing.assert_allclose(output.grad.data, placed(2 * error / 4), rtol=1e-5, atol=1e-6)


def test_no_output_has_a_smaller_loss_than_the_posterior_mean_over_the_training_set():
    points = Mixture(normals_on_cpu(6, 2, seed=4), 0.0)
    model = points.model(even(8))
    x = placed(numpy.tile(points.means, (700, 1)).astype(numpy.float32))
    best, network = model.loss(x, rng=Generator(3))["loss"].item(), model.network
    for change in (lambda y: 1.1 * y, lambda y: 0.9 * y, lambda y: y + 0.1, lambda y: y - 0.1):
        model.network = lambda x, t, change=change: change(network(x, t))
        assert model.loss(x, rng=Generator(3))["loss"].item() > best


LEAST = {  # of the target's squared error, and so of x_0's error times the weight
    ("noise", "simple"): lambda snr, abar: snr,
    ("data", "simple"): lambda snr, abar: 1 + 0 * snr,
    ("velocity", "simple"): lambda snr, abar: 1 / (1 - abar),
    ("noise", "snr"): lambda snr, abar: snr,
    ("velocity", "min-snr"): lambda snr, abar: numpy.minimum(snr, 5),
    ("data", "min-snr"): lambda snr, abar: numpy.minimum(snr, 5),
}


@pytest.mark.parametrize(("predict", "weight"), LEAST)
def test_the_least_loss_of_gaussian_data_for_each_target_and_weight(predict, weight):
    model = GAUSSIAN.model(even(6), predict=predict, weight=weight)
    snr, abar = model.schedule.snr[1:], model.schedule.abar[1:]
    least = (LEAST[predict, weight](snr, abar) * mean_errors(model.schedule)).mean()
    losses = [
        model.loss(placed(GAUSSIAN.samples(3000, seed).astype(numpy.float32)), rng=Generator(seed))
        for seed in range(12)
    ]
    losses = [terms["loss"].item() for terms in losses]
    assert within(losses, least) and numpy.std(losses) < 0.07 * least


@pytest.mark.parametrize("weight", ["snr", "min-snr", lambda snr: 1 / (1 + snr)])
@pytest.mark.parametrize("mixture", [GAUSSIAN, THREE], ids=["Gaussian", "mixture"])
def test_an_error_of_the_network_weighs_alike_whatever_the_target(weight, mixture):
    """Networks that say the same of x_0 have the same loss, unless errors of the target count."""
    x = placed(mixture.samples(200).astype(numpy.float32))

    def losses(weight):
        models = [
            mixture.model(even(8), predict=predict, weight=weight) for predict in (*TARGETS, half)
        ]
        return [model.loss(x, rng=Generator(1))["loss"].item() for model in models]

    assert losses(weight) == pytest.approx([losses(weight)[0]] * 4, rel=1e-4)
    plain = losses("simple")
    assert max(plain) > 1.5 * min(plain)
    if weight == "snr":  # L_simple is that of ε
        assert losses(weight)[0] == pytest.approx(plain[[*TARGETS].index("noise")], rel=1e-5)


def test_models_that_share_a_schedule_have_weights_of_their_own():
    x, schedule = placed(GAUSSIAN.samples(50).astype(numpy.float32)), even(6)

    def losses(*schedules):
        models = [
            DDPM(1, schedule=s, weight=w, predict="noise", width=4, blocks=1, bounded=False)
            for s, w in zip(schedules, ("snr", lambda snr: 1 / (1 + snr)), strict=True)
        ]
        return [model.loss(x, rng=Generator(1))["loss"].item() for model in models]

    assert losses(schedule, schedule) == losses(even(6), even(6))


def test_a_target_that_says_nothing_of_x0_is_refused():
    with pytest.raises(ValueError, match="multiple of x_t"):
        DDPM(1, predict=lambda a, s: (a, s), width=4, blocks=1)
    with pytest.raises(ValueError, match="multiple of x_t"):
        DDPM(1, predict=lambda a, s: (0.0, 0.0), width=4, blocks=1)
