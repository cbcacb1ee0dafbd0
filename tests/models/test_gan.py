"""GANs against exact answers: the games of a point, two Gaussians and a linear critic."""

from __future__ import annotations

import logging
from itertools import pairwise
from math import log, pi, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.draws import normals, rows
from tests.support.on_device import (
    DEVICE,
    approx,
    np,
    on_cpu,
    on_device,
    placed,
    special,
    stats,
    tg,
)
from tests.support.small_models import small as small_model
from tinygen import data, training
from tinygen.autodiff.transforms import gradients
from tinygen.distributions import Normal, js_divergence
from tinygen.errors import NonFiniteError
from tinygen.models import Model, load
from tinygen.models import gan as gans
from tinygen.models.gan import (
    GAN,
    LOSSES,
    Loss,
    best_value,
    cross_entropy,
    js_bound,
    minimax,
    non_saturating,
    value,
)
from tinygen.models.gan.penalties import interpolate, r1, slopes, wgan_gp
from tinygen.models.gan.watch import LOOKS, STATES, Signs, Watch, look
from tinygen.nn import MLP, SpectralLinear
from tinygen.random import Generator, default_generator

GAN, MLP, SpectralLinear = map(on_device, (GAN, MLP, SpectralLinear))


# The game of both players -----------------------------------------------------------------------

DISCRETE = {
    "overlapping": ([1, 2, 3, 4], [4, 3, 2, 1]),
    "equal": ([5, 5], [5, 5]),
    "far apart": ([97, 2, 1], [1, 2, 97]),
}


@pytest.mark.parametrize(("p", "q"), DISCRETE.values(), ids=DISCRETE)
def test_the_best_discriminator_has_the_loss_log_4_minus_2_js(p, q):
    """On a discrete problem, with exactly p_i rows of point i as data and q_i as samples."""
    p, q = np.array(p), np.array(q)
    points = np.arange(len(p))
    x = np.repeat(points, p)[:, None].astype(np.float32)
    logits = np.log(p / q)
    model = GAN(1, bounded=False, hidden=(), latent=1, penalty=None)
    model.generator = lambda z: tg.tensor(np.repeat(points, q)[: len(z), None])
    model.discriminator = lambda x: tg.tensor(logits[tg.tensor(x).data.astype(int)])
    n, m = p / p.sum(), q / q.sum()
    middle = (n + m) / 2
    js = 0.5 * (special.rel_entr(n, middle) + special.rel_entr(m, middle)).sum()
    terms = model.discriminate(x, Generator(0))
    assert list(terms) == ["discriminator"]
    assert terms["discriminator"].item() == approx(log(4) - 2 * js, rel=1e-6)
    d = n / (n + m)  # and the losses of the generator there
    fake = model.discriminator(model.generator(np.zeros((p.sum(), 1))))
    assert minimax(fake).item() == approx((m * np.log(1 - d)).sum(), rel=1e-6)
    assert non_saturating(fake).item() == approx(-(m * np.log(d)).sum(), rel=1e-6)
    terms = model.generate(x, Generator(0))
    assert list(terms) == ["generator"]
    assert terms["generator"].item() == approx(-(m * np.log(d)).sum(), rel=1e-6)


def test_any_other_discriminator_has_a_larger_loss():
    p, q = np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])
    x = np.repeat(np.arange(4), p)[:, None].astype(np.float32)
    model = GAN(1, bounded=False, hidden=(), latent=1, penalty=None)
    model.generator = lambda z: tg.tensor(np.repeat(np.arange(4), q)[:, None])
    table = tg.tensor(np.log(p / q), requires_grad=True)
    model.discriminator = lambda x: table[tg.tensor(x).data.astype(int)]
    loss = model.discriminate(x, Generator(0))["discriminator"]
    np.testing.assert_allclose(gradients(loss, table).data, 0, atol=1e-12)
    hessian = tg.hessian(
        lambda t: (
            (p / 10 * tg.bce_with_logits(t, 1.0)).sum()
            + (q / 10 * tg.bce_with_logits(t, 0.0)).sum()
        )
    )(table.data)
    assert (np.linalg.eigvalsh(hessian) > 0).all()


def test_the_two_losses_of_the_generator_pull_alike_and_one_saturates():
    logits = tg.tensor(np.linspace(-30, 30, 61)[:, None], requires_grad=True)
    n = 61
    d = special.expit(logits.data)
    one = gradients(minimax(logits), logits).data * n
    other = gradients(non_saturating(logits), logits).data * n
    np.testing.assert_allclose(one, -d, rtol=1e-12)
    np.testing.assert_allclose(other, -special.expit(-logits.data), rtol=1e-12, atol=1e-14)
    assert (one < 0).all() and (other < 0).all()  # both raise D(G(z))
    ratio = one / other  # D / (1 - D): the minimax gradient dies where D is sure of the fake
    np.testing.assert_allclose(ratio[:36], np.exp(logits.data)[:36], rtol=1e-10)
    assert one[30] == other[30] == -0.5  # the same at D = 1/2


@pytest.mark.parametrize("loss", ["minimax", "non-saturating"])
def test_both_losses_have_no_gradient_in_a_generator_that_is_not_told_apart(loss):
    """The fixed point: D is 1/2 everywhere."""
    model = small_model("gan", loss=loss)
    model.discriminator.layers[-1].weight.data[...] = 0
    objective = model.objectives()[-1]
    terms = objective.loss(rows(8), rng=Generator(0))["generator"]
    for g in gradients(terms, list(objective.parameters.values())):
        assert (g.data == 0).all()
    value = {"minimax": -log(2), "non-saturating": log(2)}[loss]
    assert terms.item() == approx(value, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_k_steps_of_the_discriminator_then_one_of_the_generator(k):
    model = small_model("gan", discriminator_steps=k)
    assert [o.name for o in model.objectives()] == ["discriminator"] * k + ["generator"]
    seen = []
    for name in ("discriminate", "generate"):
        whole = getattr(model, name)

        def watched(x, rng, name=name, whole=whole):
            seen.append((name, x.copy(), rng.state))
            return whole(x, rng)

        setattr(model, name, watched)
    history = model.fit(rows(64), steps=2, batch=8)
    assert [name for name, _, _ in seen] == (["discriminate"] * k + ["generate"]) * 2
    batches = [x.tobytes() for name, x, _ in seen if name == "discriminate"]
    assert len(set(batches)) == len(batches)  # each its own batch
    assert len({state for _, _, state in seen}) == len(seen)  # and its own z
    assert len(history["discriminator"]) == 2 * k and len(history["generator"]) == 2


@pytest.mark.parametrize("trained", [0, 1])
def test_each_player_moves_alone(trained, monkeypatch):
    model = small_model("gan")
    objective = model.objectives()[-trained]
    own, other = (model.discriminator, model.generator)[:: 1 - 2 * trained]
    assert [id(p) for p in objective.parameters.values()] == [id(p) for p in own.parameters()]
    before = [[p.data.copy() for p in part.parameters()] for part in (own, other)]
    monkeypatch.setattr(model, "objectives", lambda: [objective])
    model.fit(rows(32), steps=2, warmup=0, ema_decay=0)
    moved, still = (
        [not np.array_equal(p.data, b) for p, b in zip(part.parameters(), old, strict=True)]
        for part, old in zip((own, other), before, strict=True)
    )
    assert all(moved) and not any(still)
    assert all(p.grad is None for p in other.parameters())
    if objective.name == "discriminator":  # the generator is not even in the graph
        loss = objective.loss(rows(4), rng=Generator(0))["discriminator"]
        assert all((g.data == 0).all() for g in gradients(loss, other.parameters()))


def test_the_discriminator_sees_normalised_data_and_so_do_samples_leave():
    model = small_model("gan", bounded=False)
    model.shift.data[...], model.scale.data[...] = 5.0, 2.0
    x = normals(6, 4).astype(np.float32)
    z = placed(Generator(2).normal((6, 3)))
    np.testing.assert_allclose(
        model.discriminator_logits(x), model.discriminator((x - 5) / 2).data[:, 0], rtol=1e-5
    )
    expected = model.generator(z).data * 2 + 5
    np.testing.assert_allclose(model.sample(6, rng=Generator(2)), expected, rtol=1e-6)


RNG = Generator(0)
long = pytest.mark.cpu_only("trains for many steps")
many = settings(max_examples=40, derandomize=True)
numbers = st.floats(-3, 3)


def small(features=2, **options):
    return GAN(
        features, **{"hidden": (8,), "latent": 2, "bounded": False, "penalty": None, **options}
    )


# The Dirac-GAN (Mescheder et al. 2018): data at 0, samples at θ, D(x) = ψ x -------------------------

# Where D's output is no logit but 1 on data and 0 on samples, the fixed point is D = 1/2.
OFFSET = {"least-squares": 0.5}
# Minus the gradient of each player's loss at t = ψθ, over ψ for G and over θ for D. The paper has
# D's sign turned round: with f'(t) = sigmoid(-t), minimax is (-ψ f'(ψθ), θ f'(ψθ)) of -ψ.
FORCES = {
    "minimax": lambda t: (special.expit(t), -special.expit(t)),
    "non-saturating": lambda t: (special.expit(-t), -special.expit(t)),
    "least-squares": lambda t: (0.5 - t, -0.5 - t),
    "wasserstein": lambda t: (1.0, -1.0),
}
games = pytest.mark.parametrize("name", LOSSES)


def field(name, gamma=0.0):
    """The direction (of θ, of ψ) in which both players move, a function of (θ, ψ)."""
    loss, offset = LOSSES[name], OFFSET.get(name, 0.0)
    zero = np.zeros((1, 1))

    def network(psi):
        return lambda x: x * psi + offset

    def moves(point):
        theta, psi = point[0], point[1]
        of_theta = tg.grad(lambda t: loss.generator(network(psi)(t.reshape(1, 1))))(theta)

        def of_d(p):
            d = network(p)
            penalty = gamma * r1(d, zero, zero, RNG) if gamma else 0.0
            return loss.discriminator(d(zero), d(theta.reshape(1, 1))) + penalty

        return -tg.stack([of_theta, tg.grad(of_d)(psi)])

    return moves


@many
@given(name=st.sampled_from(sorted(LOSSES)), theta=numbers, psi=numbers)
def test_the_gradient_field_of_the_dirac_gan(name, theta, psi):
    of_g, of_d = FORCES[name](theta * psi)
    found = field(name)(tg.tensor([theta, psi]))
    np.testing.assert_allclose(found.data, np.array([psi * of_g, theta * of_d]), atol=1e-12)


def test_the_minimax_pull_dies_where_d_is_sure_of_the_sample_and_the_other_does_not():
    for t in (-1.0, -10.0, -30.0):  # D's logit of the sample: ψθ with ψ = 1
        pulls = {name: field(name)(tg.tensor([t, 1.0])).data[0].item() for name in LOSSES}
        assert pulls["minimax"] / pulls["non-saturating"] == approx(np.exp(t).item(), rel=1e-12)
        assert pulls["non-saturating"] > 0.7
        assert pulls["least-squares"] == approx(0.5 - t) and pulls["wasserstein"] == 1.0


@pytest.mark.parametrize("name", ["minimax", "wasserstein"])
@many
@given(theta=numbers, psi=numbers, h=st.floats(0.01, 1.0))
def test_simultaneous_descent_spirals_out(name, theta, psi, h):
    point = np.array([theta, psi])
    after = point + h * field(name)(tg.tensor(point)).data
    slope = FORCES[name](theta * psi)[0]
    factor = 1 + (h * slope) ** 2
    assert (after @ after).item() == approx((point @ point).item() * factor, rel=1e-9, abs=1e-12)


@games
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.5])
def test_r1_turns_the_eigenvalues_of_the_game_to_the_left(name, gamma):
    jacobian = tg.jacobian(field(name, gamma))(np.zeros(2))
    found = np.linalg.eigvals(on_cpu(jacobian).astype(complex))
    slope = FORCES[name](0.0)[0]  # 1/2, but 1 for the Wasserstein loss
    root = np.sqrt(complex(gamma**2 - 4 * slope**2))
    expected = on_cpu(np.array([-gamma - root, -gamma + root]) / 2)
    order = on_cpu(found)[[abs(on_cpu(found) - e).argmin() for e in expected]]
    np.testing.assert_allclose(order, expected, atol=1e-6)  # a double root is ill-conditioned
    assert (on_cpu(found).real < 0).all() if gamma else abs(on_cpu(found).real).max() < 1e-12


@games
def test_with_r1_the_players_meet_at_the_fixed_point(name):
    ends = {}
    for gamma in (0.0, 1.0):
        point, moves = np.array([1.0, 0.5]), field(name, gamma)
        for _ in range(150):
            point = point + 0.2 * moves(tg.tensor(point)).data
        ends[gamma] = np.linalg.norm(point).item()
    assert ends[1.0] < 1e-3 < 0.3 < ends[0.0]


# The best discriminator -----------------------------------------------------------------------------

GRID = on_cpu(np.linspace(-14, 16, 6001))


def log_normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - log(std * sqrt(2 * pi))


def on_line(mean, std):
    """The log-density of points (n, 1)."""
    return lambda x: log_normal(x[:, 0], mean, std)


def exact_js(p, q):
    return js_divergence(*(Normal(tg.tensor(float(m)), tg.tensor(float(s))) for m, s in (p, q)))


laws = st.tuples(st.floats(-2, 2), st.floats(0.3, 1.5))


@many
@given(p=laws, q=laws)
def test_the_best_value_is_minus_log_4_plus_2_js(p, q):
    expected = -log(4) + 2 * exact_js(p, q).item()
    assert best_value(on_line(*p), on_line(*q), [GRID]) == approx(expected, abs=1e-8)


def test_the_ends_of_the_value():
    one = on_line(0, 1)
    assert best_value(one, one, [GRID]) == approx(-log(4), abs=1e-9)
    far = best_value(on_line(-10, 0.1), on_line(10, 0.1), [GRID])  # densities that underflow
    assert far == approx(0.0, abs=1e-9)


@many
@given(p=laws, q=laws, shift=st.floats(-2, 2), gain=st.floats(-1, 3))
def test_any_other_discriminator_has_a_smaller_value(p, q, shift, gain):
    log_p, log_q = on_line(*p), on_line(*q)

    def other(x):
        return gain * (log_p(x) - log_q(x)) + shift

    best = best_value(log_p, log_q, [GRID])
    assert value(other, log_p, log_q, [GRID]) <= best + 1e-12


def test_d_star_maximises_v_pointwise():
    """On points with p_i rows as data and q_i as samples: D* = p/(p + q), each logit for itself."""
    p, q = np.array([1, 5, 9, 3]), np.array([4, 5, 1, 8])
    real, fake = np.repeat(np.arange(4), p), np.repeat(np.arange(4), q)
    logits = np.log(p / q)  # both means are over 18 rows

    def loss(l):
        return cross_entropy(l[real], l[fake])

    np.testing.assert_allclose(tg.grad(loss)(logits), 0, atol=1e-12)
    hessian = tg.hessian(loss)(logits)
    np.testing.assert_allclose(hessian, np.diag(np.diag(hessian)), atol=1e-15)
    assert (np.diag(hessian) > 0).all()


def test_laws_that_exclude_each_others_points():
    """Uniform on [0, 1] and on [1/2, 3/2]: half of each is certain, and half says nothing."""

    def uniform(low):
        return lambda x: np.where((x[:, 0] >= low) & (x[:, 0] <= low + 1), 0.0, -np.inf)

    axis = on_cpu(np.linspace(-0.5, 2, 25_001))
    assert best_value(uniform(0), uniform(0.5), [axis]) == approx(-log(4) + log(2), abs=1e-3)


def test_in_the_plane_a_shift_along_one_axis_is_that_of_the_line():
    """JS does not see the coordinate that both laws share."""
    axis = on_cpu(np.linspace(-9, 9, 301))

    def p(x):
        return on_line(0, 1)(x[:, :1]) + on_line(0, 1)(x[:, 1:])

    def q(x):
        return on_line(1, 1.2)(x[:, :1]) + on_line(0, 1)(x[:, 1:])

    expected = -log(4) + 2 * exact_js((0, 1), (1, 1.2)).item()
    assert best_value(p, q, [axis, axis]) == approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([GRID[:3000]], "density p has the integral"),
        ([on_cpu(np.linspace(-14, 16, 12))], "finer"),
        ([GRID[::-1]], "increasing"),
        ([], "one or two axes"),
        ([GRID[:4]] * 3, "one or two axes"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        best_value(on_line(0, 1), on_line(1, 0.3), axes)


def test_the_bound_from_samples_is_js_at_the_best_discriminator_and_less_at_others():
    p, q, n = (0.0, 1.0), (1.5, 0.7), 20_000
    x, y = normals(n), 1.5 + 0.7 * normals(n, seed=1)

    def logits(x):
        return log_normal(x, *p) - log_normal(x, *q)

    js = exact_js(p, q).item()
    best = js_bound(logits(x), logits(y))
    assert abs(best.js - js) < 4 * best.error and best.error < 0.005
    worse = js_bound(0.3 * logits(x) + 1, 0.3 * logits(y) + 1)
    assert worse.js < js - 0.05
    assert js_bound(100 * np.ones(5), -100 * np.ones(5)) == approx((log(2), 0.0))
    assert js_bound(np.zeros(5), np.zeros(3)) == approx((0.0, 0.0), abs=1e-15)


def test_the_error_of_the_bound_is_its_spread_over_repetitions():
    found = []
    for seed in range(400):  # N(0, 1), N(1, 1) and their log-ratio
        x, y = normals(80, seed=seed), 1 + normals(40, seed=1000 + seed)
        found.append(js_bound(0.5 - x, 0.5 - y))
    spread = np.std(np.array([b.js for b in found])).item()
    assert spread == approx(np.mean(np.array([b.error for b in found])).item(), rel=0.12)


@pytest.mark.parametrize("logits", [[1.0], [], [1.0, float("nan")], [1.0, float("inf")]])
def test_a_bound_needs_finite_logits(logits):
    good = np.zeros(3)
    for pair in ((np.array(logits), good), (good, np.array(logits))):
        with pytest.raises(ValueError, match="at least 2 finite logits"):
            js_bound(*pair)


@long
def test_a_trained_discriminator_is_the_log_ratio_of_the_densities_and_bounds_js():
    p, q = (0.0, 1.0), (1.0, 0.6)
    model = small(1, hidden=(24,), latent=1, activation="tanh")
    model.generator = lambda z: tg.tensor((q[0] + q[1] * z).astype(np.float32))
    x = normals(20_000, 1).astype(np.float32)
    model.prepare = model.check  # not normalised: the densities are known as they are
    objectives = model.objectives

    def alone():
        model.generator.named_parameters = dict
        return objectives()[:1]

    model.objectives = alone
    model.fit(x, steps=800, batch=500, lr=0.02, warmup=10, ema_decay=0)
    points = np.linspace(-0.5, 2, 26)[:, None].astype(np.float32)
    ratio = log_normal(points, *p) - log_normal(points, *q)
    assert np.abs(model.discriminator_logits(points) - ratio[:, 0]).max() < 0.25
    fresh = normals(20_000, 1, seed=5)
    bound, js = model.js_bound(fresh, rng=Generator(3)), exact_js(p, q).item()
    assert js - 0.02 < bound.js < js + 4 * bound.error


# Losses ---------------------------------------------------------------------------------------------


def test_the_best_least_squares_discriminator_is_p_over_p_plus_q():
    """On points with p_i rows as data and q_i as samples (Mao et al. 2017, eq. 10)."""
    p, q = np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])
    points = np.arange(4)
    real, fake = np.repeat(points, p), np.repeat(points, q)
    best = tg.tensor(p / (p + q), requires_grad=True)

    def loss(d):
        return LOSSES["least-squares"].discriminator(d[real], d[fake])

    np.testing.assert_allclose(gradients(loss(best), best).data, 0, atol=1e-15)
    assert (np.linalg.eigvalsh(tg.hessian(loss)(best.data)) > 0).all()
    expected = 0.5 * (p * q**2 + q * p**2) / (p + q) ** 2 / 10  # both means are over 10 rows
    assert loss(best).item() == approx(expected.sum().item(), rel=1e-12)
    assert LOSSES["least-squares"].generator(best[fake]).item() == approx(
        (0.5 * q / 10 * (q / (p + q)) ** 2).sum().item(), rel=1e-12
    )


def test_the_wasserstein_loss_of_the_best_critic_is_minus_the_distance():
    """Samples are the data moved by 3: the best slope-1 critic falls along the way."""
    x = normals(50, 1)
    scores = tg.tensor(-x), tg.tensor(-(x + 3))
    assert LOSSES["wasserstein"].discriminator(*scores).item() == approx(-3.0)
    assert LOSSES["wasserstein"].generator(scores[1]).item() == approx((x + 3).mean().item())


@games
def test_every_loss_trains_and_is_kept_in_the_file(name, tmp_path):
    model = small(loss=name, penalty="r1", spectral=True)
    model.fit(normals(40, 2), steps=3, batch=8)
    model.save(tmp_path / "m.npz")
    again = load(tmp_path / "m.npz").to(DEVICE)
    assert (again.discriminator_loss, again.generator_loss) == LOSSES[name]
    assert again.penalty is r1 and isinstance(
        again.discriminator.layers[0], gans.gan.SpectralLinear
    )
    x = normals(4, 2)
    np.testing.assert_array_equal(again.discriminator_logits(x), model.discriminator_logits(x))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "wassertein"}, ValueError, "did you mean 'wasserstein'"),
        ({"loss": "wasserstein"}, ValueError, "bounded slope.*wgan-gp"),
        ({"loss": cross_entropy}, TypeError, r"a name or a Loss\(discriminator, generator\)"),
        ({"penalty": "r2"}, ValueError, "unknown penalty 'r2'"),
        ({"penalty": "r1", "penalty_weight": -1}, ValueError, "penalty_weight.*-1"),
        ({"penalty_weight": float("nan")}, ValueError, "penalty_weight.*nan"),
        ({"discriminator_steps": 0}, ValueError, "discriminator_steps.*0"),
        ({"latent": 0}, ValueError, "latent.*0"),
    ],
)
def test_wrong_options_are_told(options, error, message):
    with pytest.raises(error, match=message):
        small(**options)


def test_a_bound_of_js_needs_logits():
    with pytest.raises(ValueError, match="a D of logits"):
        small(loss="least-squares").js_bound(normals(4, 2))
    with pytest.raises(ValueError, match="at least 2"):
        small().js_bound(normals(1, 2))


# Penalties ------------------------------------------------------------------------------------------


@many
@given(st.lists(numbers, min_size=1, max_size=5))
def test_the_penalties_of_a_linear_discriminator(weights):
    w = tg.tensor(np.array(weights)[:, None])

    def critic(x):
        return x @ w + 0.7

    x, y = normals(6, len(weights)), normals(6, len(weights), seed=1)
    length = np.linalg.norm(w.data).item()
    assert wgan_gp(critic, x, y, Generator(1)).item() == approx((length - 1) ** 2, abs=1e-12)
    assert r1(critic, x, y, Generator(1)).item() == approx(length**2 / 2, abs=1e-12)


def test_a_critic_of_slope_one_has_no_penalty_and_a_flat_one_no_nan():
    x = normals(6, 3)
    w = tg.tensor(np.array([[0.6], [0.0], [0.8]]), requires_grad=True)
    penalty = wgan_gp(lambda x: x @ w, x, -x, Generator(1))
    assert penalty.item() == approx(0, abs=1e-14)
    flat = tg.tensor(np.zeros((3, 1)), requires_grad=True)
    penalty = wgan_gp(lambda x: x @ flat, x, -x, Generator(1))
    assert penalty.item() == 1.0 and np.isfinite(gradients(penalty, flat).data).all()


def test_points_are_uniform_on_the_segments():
    x, y = normals(3000, 3), 5 + normals(3000, 3, seed=1)
    between = interpolate(x, y, Generator(0))
    t = (between - y) / (x - y)
    np.testing.assert_allclose(t, np.broadcast_to(t[:, :1], t.shape), rtol=1e-8)
    assert stats.kstest(t[:, 0], "uniform").pvalue > 0.01
    assert abs(np.corrcoef(on_cpu(t)[:-1, 0], on_cpu(t)[1:, 0])[0, 1]) < 0.06  # each row its own


def critic(activation="softplus"):
    return MLP([3, 7, 5, 1], activation, rng=Generator(4), dtype=np.float64)


@pytest.mark.parametrize("activation", ["softplus", "tanh", "leaky_relu"])
def test_slopes_are_those_of_each_row(activation):
    d, x, h = critic(activation), normals(5, 3), 1e-6
    found = slopes(d, x).data
    for j in range(3):
        step = h * np.eye(3)[j]
        numeric = (d(x + step).data - d(x - step).data) / (2 * h)
        np.testing.assert_allclose(found[:, j], numeric[:, 0], rtol=1e-6, atol=1e-9)
    norms = np.sqrt((found**2).sum(axis=1))
    assert r1(d, x, x, RNG).item() == approx((norms**2).mean().item() / 2, rel=1e-12)
    assert wgan_gp(d, x, x, RNG).item() == approx(((norms - 1) ** 2).mean().item(), rel=1e-12)


@pytest.mark.parametrize("penalty", [r1, wgan_gp])
@pytest.mark.parametrize("activation", ["softplus", "tanh", "leaky_relu"])
def test_the_gradients_of_the_penalties_in_the_parameters(penalty, activation):
    d, x, y = critic(activation), normals(5, 3), normals(5, 3, seed=1)

    def total():
        return penalty(d, x, y, Generator(2))

    parameters = d.parameters()
    found = gradients(total(), parameters)
    assert sum(np.abs(g.data).sum().item() for g in found) > 0.1
    for p, g in zip(parameters, found, strict=True):
        direction, h = normals(*p.shape, seed=3), 1e-6
        before, ends = p.data.copy(), []
        for sign in (1, -1):
            p.data[...] = before + sign * h * direction
            ends.append(total().item())
        p.data[...] = before
        numeric = (ends[0] - ends[1]) / (2 * h)
        assert (g.data * direction).sum().item() == approx(numeric, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", gans.PENALTIES)
def test_the_discriminators_loss_is_the_games_and_the_weighted_penalty(name):
    x = normals(9, 2).astype(np.float32)
    plain = small().discriminate(x, Generator(1))
    model = small(penalty=name, penalty_weight=3)
    terms = model.discriminate(x, Generator(1))
    assert list(terms) == ["discriminator", "penalty"]
    rng = Generator(1)
    fake = model.generator(rng.normal((9, 2), device=DEVICE)).data
    penalty = gans.PENALTIES[name](model.discriminator, x, fake, rng).item()
    assert terms["penalty"].item() == approx(3 * penalty, rel=1e-6)
    expected = plain["discriminator"].item() + 3 * penalty
    assert terms["discriminator"].item() == approx(expected, rel=1e-6)


def test_the_weight_of_a_penalty_is_by_default_its_own():
    usual = GAN(2, hidden=())
    assert usual.penalty is r1 and usual.penalty_weight == 1
    weights = [GAN(2, hidden=(), penalty=name).penalty_weight for name in ("wgan-gp", wgan_gp, r1)]
    assert weights == [10, 10, 1]
    assert usual.config["penalty_weight"] == 1  # a file names what was chosen
    with pytest.raises(ValueError, match=r"no minimum: penalty='wgan-gp'"):
        GAN(2, hidden=(), loss="wasserstein")  # R1 bounds the slope at the data alone
    assert GAN(2, hidden=(), penalty="wgan-gp", penalty_weight=3).penalty_weight == 3


def test_a_penalty_and_a_loss_of_ones_own():
    calls = []

    def mine(network, real, fake, rng):
        calls.append((real.shape, fake.shape))
        return r1(network, real, fake, rng)

    loss = Loss(cross_entropy, LOSSES["non-saturating"].generator)
    assert small(loss=loss).has_logits
    small(loss=loss, penalty=mine).fit(normals(40, 2), steps=2, batch=8)
    assert calls == [((8, 2), (8, 2))] * 2


# Spectral normalisation -----------------------------------------------------------------------------


def test_the_vector_is_saved_not_trained_and_a_resumed_run_is_the_same(tmp_path):
    x, options = normals(40, 2), {"steps": 4, "batch": 8, "warmup": 0, "ema_decay": 0.5}
    model = small(spectral=True, penalty="wgan-gp")
    assert not any("right" in name for name in model.named_parameters())
    assert "discriminator.layers.0.right" in model.state_dict()
    whole = small(spectral=True, penalty="wgan-gp")
    whole.fit(x, **options)
    calls, generate = [], model.generate

    def interrupted(x, rng):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(x, rng)

    model.generate = interrupted
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, **options, folder=tmp_path, checkpoint_seconds=0)
    resumed = small(spectral=True, penalty="wgan-gp", seed=9)
    resumed.fit(x, **options, folder=tmp_path, resume=True)
    for name, array in whole.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], array, err_msg=name)


# What is seen going wrong ---------------------------------------------------------------------------

HEALTHY = Signs(1.2, 0.55, 1.0, 0.9, 0.2, 0.7, 0.6)
ILL = {
    "diverges": [
        HEALTHY._replace(range=1e3), HEALTHY._replace(spread=30), HEALTHY._replace(distance=9)
    ],
    "certain": [HEALTHY._replace(doubt=1e-4)],
    "variance is 0.01": [HEALTHY._replace(spread=0.01)],
    "80% of the samples lie among the data, but only 12%": [
        HEALTHY._replace(precision=0.8, coverage=0.12)
    ],
    "circle": [HEALTHY._replace(order=0.1)],
}  # fmt: skip
ill = [(words, signs) for words, all_signs in ILL.items() for signs in all_signs]


def told(watch, *looks):
    """The lines for these looks, with the number of the look (from 1) of each."""
    return [(i, line) for i, signs in enumerate(looks, 1) if (line := watch(signs))]


def test_each_state_has_a_case():
    assert len(ILL) == len(STATES)


@pytest.mark.parametrize(("words", "signs"), ill)
def test_a_state_is_told_once_when_it_lasts_and_once_when_it_is_over(words, signs):
    watch = Watch()
    lines = told(watch, *[HEALTHY] * 20, *[signs] * 30, *[HEALTHY] * 30)
    assert words in lines[0][1] and len(lines) == 2
    assert "; try " in lines[0][1] and "\n" not in lines[0][1]
    assert 20 < lines[0][0] <= 20 + LOOKS and lines[1][0] == 50 + LOOKS
    assert lines[1][1].startswith("over: ")
    assert [i for i, _ in told(watch, *[signs] * 30)] == [
        lines[0][0] - 20
    ]  # and again if it returns


@pytest.mark.parametrize(("words", "signs"), ill)
def test_what_passes_is_not_told(words, signs):
    looks = [HEALTHY] * 20
    few = 1 if words == "circle" else LOOKS - 1  # circles swing to and fro
    for _ in range(10):
        looks += [signs] * few + [HEALTHY] * (LOOKS - few)
    assert not told(Watch(), *looks)


@pytest.mark.parametrize(("words", "signs"), ill)
def test_at_the_start_samples_may_be_alike_and_players_circle(words, signs):
    lines = told(Watch(grace=10), *[signs] * 40)
    early = words in ("diverges", "certain")
    assert [i for i, _ in lines] == [LOOKS if early else 10 + LOOKS]
    if not early:
        assert not told(Watch(grace=10), *[signs] * 11, *[HEALTHY] * 20)


def test_the_gravest_of_several_states_is_told_and_a_change_between_them():
    both = HEALTHY._replace(spread=0.01, doubt=1e-4)
    lines = told(Watch(), *[HEALTHY] * 20, *[both] * 20, *[HEALTHY._replace(spread=0.01)] * 20)
    assert ["certain" in lines[0][1], "collapse" in lines[1][1], len(lines)] == [True, True, 2]


@many
@given(
    st.lists(
        st.tuples(st.sampled_from([HEALTHY, *(s for _, s in ill)]), st.integers(1, 12)), max_size=12
    )
)
def test_a_line_always_tells_a_change(runs):
    lines = [line for _, line in told(Watch(), *[s for s, times in runs for _ in range(times)])]
    states = [line.removeprefix("over: ").partition(":")[0] for line in lines]
    for (a, b), (state, other) in zip(pairwise(lines), pairwise(states), strict=True):
        assert a != b
        if b.startswith("over"):
            assert state == other and not a.startswith("over")
    assert not lines or not lines[0].startswith("over")


def test_what_a_look_sees():
    real = on_cpu(normals(200, 3)) * [1, 2, 3] + 5
    real -= real.mean(axis=0)
    out, other = on_cpu(normals(200, seed=1)), on_cpu(normals(150, seed=2))
    fake = (real / 2 + [3, 0, 0])[:150]
    signs = look(out, other, real, fake)
    bce = [tg.bce_with_logits(tg.tensor(placed(o)), t) for o, t in ((out, 1.0), (other, 0.0))]
    assert signs.doubt == approx(sum(b.data.mean().item() for b in bce))
    assert signs.order == approx((out[:, None] > other).mean())
    assert signs.spread == approx(fake.var(axis=0).sum() / real.var(axis=0).sum())
    scale = sqrt(real.var(axis=0).sum())
    assert look(out, out, real, real / 2 + [3, 0, 0]).distance == approx(3 / scale)
    assert look(out, out, real, real / 2).spread == approx(0.25)
    same = look(out, out, real, real)
    assert (same.order, same.spread, same.distance, same.coverage) == approx((0.5, 1, 0, 1))
    assert (
        look(*on_cpu([np.ones(200), np.ones(150)]), real, fake).order == 0.5
    )  # equal outputs count half
    assert look(out, other, real, fake, logits=False).doubt is None


def test_a_collapse_to_some_modes_is_seen_and_a_fair_sample_is_not():
    x, _ = data.toys.eight_gaussians(256, Generator(0))
    y, others = data.toys.eight_gaussians(4000, Generator(1))
    out = on_cpu(np.zeros(256))
    partial = look(out, out, x, y[others % 4 == 1][:256])  # two opposite modes of eight
    assert partial.spread == approx(1, abs=0.15)  # which the variance does not show
    assert told(Watch(), *[HEALTHY] * 20, *[partial] * 6)
    fair = look(out, out, x, y[:256])
    assert not told(Watch(), *[fair] * 40)
    single = look(out, out, x, y[others == 3][:256])
    assert any("variance is" in line for _, line in told(Watch(), *[single] * 40))


def test_constant_data_are_met_by_constant_samples():
    x, out = on_cpu([np.ones((30, 2)), np.zeros(30)])
    signs = look(out, out, x, x)
    assert (signs.spread, signs.distance) == (1.0, 0.0)
    assert not told(Watch(), *[signs] * 40)


@pytest.fixture
def often(monkeypatch, caplog):
    """A look every 5 steps, so that short runs have many; the lines are in caplog.messages."""
    monkeypatch.setattr(training.run, "WATCH_STEPS", 5)
    caplog.set_level(logging.WARNING, "tinygen")
    return caplog


def eight(n=2000):
    return placed(data.load("eight-gaussians").x[:n])


def frozen(fake):
    """The generator's loss that teaches nothing."""
    return tg.mean(fake) * 0.0


@long
def test_a_run_that_collapses_says_so_once(often):
    model = small(loss=Loss(lambda real, fake: frozen(real) + frozen(fake), frozen))
    for layer in model.generator.layers:
        layer.weight.data[...] *= 1e-2
    model.fit(eight(), steps=120)
    assert len(often.messages) == 1
    assert often.messages[0].startswith("tinygen: step 75: mode collapse: the samples' variance")


@long
def test_a_run_that_diverges_says_so(often):
    loss = Loss(*LOSSES["wasserstein"])  # as if its slope were bounded
    model = small(loss=loss, discriminator_steps=5)
    model.fit(eight(), steps=150, lr=0.2, clip=1e9, warmup=0)
    assert any(": training diverges: D's outputs range over" in m for m in often.messages)
    assert all("\n" not in m for m in often.messages) and len(often.messages) <= 4


@long
def test_a_discriminator_that_wins_is_told(often):
    model = small(loss=Loss(cross_entropy, frozen), hidden=(16,), discriminator_steps=3)
    model.generator.layers[-1].bias.data[...] = 3  # beside the data
    model.generator.layers[-1].weight.data[...] *= 1.5
    model.fit(eight(), steps=100, lr=0.02, warmup=0)
    assert len(often.messages) == 1
    assert "the discriminator is certain" in often.messages[0]


@long
@pytest.mark.parametrize("options", [{}, {"loss": "minimax"}, {"penalty": "r1"}])
def test_a_healthy_run_is_silent(options, monkeypatch, caplog):
    monkeypatch.setattr(training.run, "WATCH_STEPS", 20)
    model = small(hidden=(32, 32), **options)
    model.fit(placed(data.load("two-moons").x), steps=500, batch=64, lr=1e-3)
    assert not caplog.messages


@pytest.mark.parametrize("options", [{}, {"spectral": True}, {"loss": "least-squares"}])
def test_looking_changes_nothing(options, often, monkeypatch):
    ends = []
    for watched in (True, False):
        model = small(**options)
        if not watched:
            monkeypatch.setattr(GAN, "watch", Model.watch)
        model.fit(eight(), steps=12)
        ends.append(model.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(np.array_equal(ends[0][k], ends[1][k]) for k in ends[0])
    assert default_generator().state == (0, 0)


@pytest.mark.parametrize(
    "x",
    [np.ones((50, 2)), normals(1, 2), normals(19, 2), normals(25, 2), normals(40, 1)],
    ids=["constant", "one row", "few rows", "fewer than are looked at", "one dimension"],
)
def test_runs_on_little_data_are_watched_without_a_mistake(x, often):
    small(x.shape[1]).fit(x, steps=10)
    assert not often.messages


def test_a_run_that_breaks_is_named_by_the_loop(often):
    model = small()
    model.fit(eight(), steps=2)
    remark = model.watch(eight(), training.Settings())
    model.generator.layers[-1].bias.data[0] = np.nan
    assert remark() is None and model.training
    with pytest.raises(NonFiniteError):
        model.fit(eight(), steps=6)
