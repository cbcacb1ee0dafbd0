"""Optimisers against the papers' algorithms in plain float64; schedules, clipping and averages."""

import re
from math import cos, inf, nan, pi, sqrt

import pytest

from tests.support.on_device import np, tg
from tinygen.kernels.reference import BLOCK
from tinygen.optim import (
    EMA,
    SGD,
    Adam,
    AdamW,
    RMSprop,
    clip_global_norm,
    constant,
    cosine,
    step_decay,
    warmup,
)

STEPS = 20

# The oracles: one generator for each algorithm, that takes a gradient and yields the parameter.
# Written from the papers, on float64 arrays as a whole; none shares a line with tinygen.


def sgd(p, lr, momentum=0.0, nesterov=False):
    velocity = 0.0
    while True:
        g = yield p
        velocity = momentum * velocity + g
        p = p - lr() * (g + momentum * velocity if nesterov else velocity)


def adam(p, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    m = v = 0.0
    t = 0
    while True:
        g = yield p
        t += 1
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat = m / (1 - betas[0] ** t)
        v_hat = v / (1 - betas[1] ** t)
        step = lr()
        p = p - step * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * p)


def rmsprop(p, lr, alpha=0.99, eps=1e-8):
    v = 0.0
    while True:
        g = yield p
        v = alpha * v + (1 - alpha) * g**2
        p = p - lr() * g / (np.sqrt(v) + eps)


CASES = {
    "sgd": (SGD, sgd, {}),
    "momentum": (SGD, sgd, {"momentum": 0.9}),
    "nesterov": (SGD, sgd, {"momentum": 0.8, "nesterov": True}),
    "adam": (Adam, adam, {}),
    "adam, other numbers": (Adam, adam, {"betas": (0.5, 0.9), "eps": 0.3}),
    "adam without momentum": (Adam, adam, {"betas": (0.0, 0.0), "eps": 0.1}),
    "adamw": (AdamW, lambda *a, **k: adam(*a, **{"weight_decay": 1e-2, **k}), {}),
    "adamw, other decay": (AdamW, adam, {"weight_decay": 0.3}),
    "rmsprop": (RMSprop, rmsprop, {}),
    "rmsprop, other numbers": (RMSprop, rmsprop, {"alpha": 0.5, "eps": 0.2}),
}
cases = pytest.mark.parametrize(("kind", "oracle", "options"), CASES.values(), ids=CASES)
SHAPES = {"matrix": (3, 4), "one": (1,), "number": (), "vector": (7,), "empty": (0, 2)}


def parameters(shapes=SHAPES, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: tg.tensor(rng.normal(size=shape).astype(dtype), requires_grad=True)
        for name, shape in shapes.items()
    }


def test_an_optimiser_has_a_short_text():
    params = parameters()
    assert repr(SGD(params, 0.1)) == f"SGD({len(params)} parameters, lr 0.1, step 0)"
    adam = Adam(params, lambda step: 1.0 / (step + 3))
    adam.step()
    assert repr(adam) == f"Adam({len(params)} parameters, lr 0.25, step 1)"


def set_gradients(params, rng):
    for p in params.values():
        p.grad = tg.tensor(np.asarray(rng.normal(size=p.shape), p.dtype))


def values(params):
    return {name: p.data.copy() for name, p in params.items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


# Optimisers -------------------------------------------------------------------------------------


def follow(kind, oracle, options, shapes, dtype=np.float64, lr=0.05, steps=STEPS, **tolerances):
    """tinygen and the oracle side by side; lr is a number or a schedule."""
    params = parameters(shapes, dtype)
    at = 0

    def rate():
        return lr(at) if callable(lr) else lr

    oracles = {name: oracle(p.data.astype(float), rate, **options) for name, p in params.items()}
    for o in oracles.values():
        next(o)
    optimizer = kind(params, lr, **options)
    rng = np.random.default_rng(1)
    for at in range(steps):  # noqa: B007  (rate reads it)
        set_gradients(params, rng)
        optimizer.step()
        for name, p in params.items():
            expected = oracles[name].send(p.grad.data.astype(float))
            assert p.dtype == dtype
            np.testing.assert_allclose(p.data, expected, err_msg=name, **tolerances)
    assert optimizer.steps == steps


@cases
def test_every_step_is_that_of_the_paper(kind, oracle, options):
    follow(kind, oracle, options, SHAPES, rtol=1e-10, atol=1e-13)


@cases
def test_float32_parameters_stay_float32_and_near(kind, oracle, options):
    follow(kind, oracle, options, SHAPES, np.float32, rtol=1e-4, atol=1e-5)


@cases
def test_a_parameter_of_several_blocks(kind, oracle, options):
    shapes = {"exact": (BLOCK,), "over": (2, BLOCK // 2 + 1), "many": (2 * BLOCK + 7,)}
    follow(kind, oracle, options, shapes, steps=3, rtol=1e-10, atol=1e-13)


@cases
def test_a_schedule_gives_the_rate_of_each_step(kind, oracle, options):
    schedule = warmup(cosine(0.1, 15, 0.01), 4)
    follow(kind, oracle, options, {"w": (2, 3)}, lr=schedule, rtol=1e-10, atol=1e-13)


def test_the_first_step_of_adam_is_the_rate_against_the_sign():
    """Bias correction makes m̂ = g and v̂ = g² at t = 1, however small the gradient."""
    p = tg.tensor(np.zeros(3), requires_grad=True)
    p.grad = tg.tensor(np.array([1e-3, -50.0, 0.0]))
    Adam({"p": p}, 0.25).step()
    np.testing.assert_allclose(p.data, [-0.25, 0.25, 0.0], rtol=1e-4)


def test_decoupled_decay_does_not_enter_the_moments():
    """Without a gradient signal AdamW shrinks by exactly 1 - lr · decay each step."""
    p = tg.tensor(np.array([2.0, -4.0]), requires_grad=True)
    optimizer = AdamW({"p": p}, 0.1, weight_decay=0.5)
    for _ in range(3):
        p.grad = tg.tensor(np.zeros(2))
        optimizer.step()
    np.testing.assert_allclose(p.data, np.array([2.0, -4.0]) * 0.95**3, rtol=1e-14)
    assert all((a == 0).all() for slot in optimizer.state.values() for a in slot.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, 0.05, momentum=0.9),
        lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True),
        lambda p: Adam(p, 0.05),
        lambda p: AdamW(p, 0.05),
        lambda p: RMSprop(p, 0.02),
    ],
)
def test_it_finds_the_minimum_of_a_quadratic(make):
    p = tg.tensor(np.array([3.0, -2.0]), requires_grad=True)
    goal = np.array([1.0, 2.0])
    optimizer = make({"p": p})
    for _ in range(400):
        optimizer.zero_grad()
        (tg.square(p - goal) * np.array([1.0, 3.0])).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(p.data, goal, atol=0.05)


@cases
def test_a_parameter_without_gradient_is_left_alone(kind, oracle, options):
    params = parameters()
    before = values(params)
    optimizer = kind(params, 0.1, **options)
    state = optimizer.state_dict()
    rng = np.random.default_rng(0)
    set_gradients(params, rng)
    params["matrix"].grad = None
    optimizer.step()
    after = values(params)
    np.testing.assert_array_equal(after["matrix"], before["matrix"])
    for path, array in optimizer.state_dict().items():
        if path.endswith("/matrix"):
            np.testing.assert_array_equal(array, state[path])
    assert (after["vector"] != before["vector"]).all()
    assert optimizer.steps == 1


@cases
def test_gradients_are_read_only_to_the_optimiser(kind, oracle, options):
    params = parameters()
    optimizer = kind(params, 0.1, **options)
    set_gradients(params, np.random.default_rng(0))
    before = {name: p.grad.data.copy() for name, p in params.items()}
    for p in params.values():
        p.grad.data.flags.writeable = False
    optimizer.step()
    assert_same({name: p.grad.data for name, p in params.items()}, before)


@cases
def test_parameters_are_updated_in_place(kind, oracle, options):
    params = parameters()
    arrays = {name: p.data for name, p in params.items()}
    optimizer = kind(params, 0.1, **options)
    set_gradients(params, np.random.default_rng(0))
    optimizer.step()
    assert all(p.data is arrays[name] for name, p in params.items())


@cases
def test_the_layout_of_the_gradient_does_not_matter(kind, oracle, options):
    one, two = parameters({"w": (5, 6)}), parameters({"w": (5, 6)})
    g = np.random.default_rng(0).normal(size=(6, 5))
    for params, grad in ((one, g.T.copy()), (two, g.T)):
        optimizer = kind(params, 0.1, **options)
        params["w"].grad = tg.Tensor(grad)
        optimizer.step()
    assert_same(values(one), values(two))


@pytest.mark.parametrize("make", [lambda a: a.T, lambda a: a[:, ::2], np.asfortranarray])
@cases
def test_a_parameter_that_is_not_contiguous_is_refused(kind, oracle, options, make):
    p = tg.Tensor(make(np.ones((4, 6))))
    p.requires_grad = True
    optimizer = kind({"w": p}, 0.1, **options)
    p.grad = tg.tensor(np.ones(p.shape))
    with pytest.raises(ValueError, match="not contiguous"):
        optimizer.step()
    np.testing.assert_array_equal(p.data, np.ones(p.shape))


@cases
def test_a_saved_state_continues_bit_for_bit(kind, oracle, options):
    schedule = cosine(0.1, STEPS)

    def run(params, optimizer, rng, steps):
        for _ in range(steps):
            set_gradients(params, rng)
            optimizer.step()

    one = parameters(dtype=np.float32)
    whole = kind(one, schedule, **options)
    run(one, whole, np.random.default_rng(3), STEPS)

    two, rng = parameters(dtype=np.float32), np.random.default_rng(3)
    first = kind(two, schedule, **options)
    run(two, first, rng, 8)
    state = first.state_dict()
    kept = {path: array.copy() for path, array in state.items()}
    second = kind(two, schedule, **options)
    second.load_state_dict(state)
    run(two, second, rng, STEPS - 8)
    assert_same(values(one), values(two))
    assert_same(whole.state_dict(), second.state_dict())
    assert_same(state, kept)  # what was loaded is not shared
    assert whole.steps == second.steps == STEPS


def test_the_state_is_named_after_its_parameter():
    state = Adam(parameters({"a": (2,), "b.c": ()}), 0.1).state_dict()
    assert set(state) == {"steps", "mean/a", "mean/b.c", "square/a", "square/b.c"}
    assert set(SGD(parameters(), 0.1).state_dict()) == {"steps"}


def test_a_state_that_does_not_fit_is_refused_whole():
    params = parameters()
    optimizer = Adam(params, 0.1)
    set_gradients(params, np.random.default_rng(0))
    optimizer.step()
    before, good = optimizer.state_dict(), Adam(params, 0.1).state_dict()
    without = {path: a for path, a in good.items() if path != "square/vector"}
    for state, message in [
        (without, "square/vector"),
        (good | {"mean/other": np.zeros(1)}, "mean/other"),
        (good | {"mean/vector": np.zeros((7, 1))}, r"mean/vector: shape \(7, 1\).*\(7,\)"),
        (SGD(params, 0.1).state_dict(), "mean/matrix"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
        assert_same(optimizer.state_dict(), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD({}, 0.1), "at least one parameter"),
        (lambda p: SGD(p, -0.1), "learning rate.*-0.1"),
        (lambda p: Adam(p, nan), "learning rate.*nan"),
        (lambda p: SGD(p, 0.1, momentum=1.0), "momentum.*1.0"),
        (lambda p: SGD(p, 0.1, momentum=-0.5), "momentum.*-0.5"),
        (lambda p: SGD(p, 0.1, nesterov=True), "nesterov.*momentum"),
        (lambda p: Adam(p, betas=(1.0, 0.9)), "beta.*1.0"),
        (lambda p: Adam(p, betas=(0.9, -0.1)), "beta.*-0.1"),
        (lambda p: Adam(p, eps=-1e-8), "eps.*-1e-08"),
        (lambda p: AdamW(p, weight_decay=-1.0), "weight_decay.*-1.0"),
        (lambda p: AdamW(p, weight_decay=nan), "weight_decay.*nan"),
        (lambda p: RMSprop(p, alpha=1.5), "alpha.*1.5"),
        (lambda p: RMSprop(p, eps=nan), "eps.*nan"),
    ],
)
def test_bad_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(parameters())


def test_zero_grad():
    params = parameters()
    optimizer = SGD(params, 0.1)
    set_gradients(params, np.random.default_rng(0))
    optimizer.zero_grad()
    assert all(p.grad is None for p in params.values())


# Schedules --------------------------------------------------------------------------------------


def test_constant():
    assert [constant(0.3)(step) for step in (0, 1, 10**6)] == [0.3] * 3


def test_cosine_values():
    rate = cosine(0.8, 100, 0.2)
    assert rate(0) == 0.8
    assert rate(50) == pytest.approx(0.5, rel=1e-14)
    assert rate(25) == pytest.approx(0.2 + 0.3 * (1 + sqrt(0.5)), rel=1e-14)
    assert rate(33) == pytest.approx(0.2 + 0.3 * (1 + cos(0.33 * pi)), rel=1e-14)
    assert rate(99) > 0.2
    assert rate(100) == rate(101) == rate(10**9) == pytest.approx(0.2, rel=1e-14)
    assert cosine(1.0, 7)(7) == pytest.approx(0, abs=1e-16)
    falling = [rate(step) for step in range(101)]
    assert falling == sorted(falling, reverse=True)


def test_step_decay_values():
    rate = step_decay(0.5, 10, 0.2)
    expected = [0.5] * 10 + [0.1] * 10 + [0.02] * 2
    np.testing.assert_allclose([rate(step) for step in range(22)], expected, rtol=1e-14)
    assert step_decay(1.0, 1)(3) == pytest.approx(1e-3)


def test_warmup_values():
    rate = warmup(constant(0.4), 4)
    np.testing.assert_allclose([rate(s) for s in range(6)], [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert warmup(constant(0.4), 0)(0) == 0.4 == warmup(constant(0.4), 1)(0)
    inner = cosine(1.0, 10)
    rate = warmup(inner, 5)
    for step in range(12):  # the schedule beneath is not delayed
        assert rate(step) == pytest.approx(inner(step) * min((step + 1) / 5, 1), rel=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cosine(0.1, 0), "steps.*0"),
        (lambda: step_decay(0.1, 0), "every.*0"),
        (lambda: warmup(constant(0.1), -3), "steps.*-3"),
    ],
)
def test_schedules_name_bad_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Clipping ---------------------------------------------------------------------------------------


def with_gradients(*gradients):
    params = []
    for g in gradients:
        p = tg.tensor(np.zeros(np.shape(g)), requires_grad=True)
        p.grad = tg.tensor(np.array(g, float))
        params.append(p)
    return params


def test_the_norm_is_joint_and_the_scale_one():
    params = with_gradients([3.0, 0.0], [[0.0], [4.0]], 12.0)
    params.append(tg.tensor(np.ones(5), requires_grad=True))  # has no gradient
    assert clip_global_norm(params, 6.5) == 13.0
    np.testing.assert_allclose(params[0].grad.data, [1.5, 0.0], rtol=1e-15)
    np.testing.assert_allclose(params[1].grad.data, [[0.0], [2.0]], rtol=1e-15)
    np.testing.assert_allclose(params[2].grad.data, 6.0, rtol=1e-15)
    assert clip_global_norm(params, 100.0) == pytest.approx(6.5, rel=1e-15)
    assert params[3].grad is None


def test_a_norm_within_the_limit_changes_no_bit():
    params = with_gradients(np.random.default_rng(0).normal(size=50), [0.1])
    before = [p.grad.data.copy() for p in params]
    norm = sqrt(sum((g**2).sum() for g in before))
    assert clip_global_norm(params) == pytest.approx(norm, rel=1e-14)
    assert clip_global_norm(iter(params), norm * (1 + 1e-9)) == pytest.approx(norm, rel=1e-14)
    for p, g in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.grad.data, g)
    assert clip_global_norm([]) == 0.0


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_norm_that_is_not_finite_is_returned_and_nothing_scaled(bad):
    params = with_gradients([3.0, bad], [4.0])
    assert not np.isfinite(clip_global_norm(params, 1.0))
    np.testing.assert_array_equal(params[0].grad.data, [3.0, bad])
    np.testing.assert_array_equal(params[1].grad.data, [4.0])


@pytest.mark.parametrize("limit", [0.0, -1.0, nan])
def test_a_limit_that_is_not_positive_is_refused(limit):
    with pytest.raises(ValueError, match=f"above 0, not {re.escape(str(limit))}"):
        clip_global_norm(with_gradients([1.0]), limit)


def test_gradients_that_come_from_one_array_are_each_scaled_once():
    a, b = (tg.tensor(np.zeros((2, 3)), requires_grad=True) for _ in range(2))
    c = tg.tensor(np.zeros((3, 2)), requires_grad=True)
    d = tg.tensor(np.zeros(()), requires_grad=True)
    (a + b + c.T + d).sum().backward()
    assert clip_global_norm([a, b, c, d], 1.0) == pytest.approx(sqrt(18 + 36))
    for p, g in ((a, 1.0), (b, 1.0), (c, 1.0), (d, 6.0)):
        np.testing.assert_allclose(p.grad.data, np.full(p.shape, g / sqrt(54)), rtol=1e-14)


def test_gradients_found_without_backward_are_each_scaled_once():
    from tinygen.autodiff.transforms import gradients

    a, b = (tg.tensor(np.zeros((2, 3)), requires_grad=True) for _ in range(2))
    for p, g in zip((a, b), gradients((a - b).sum(), [a, b]), strict=True):
        p.grad = g
    assert clip_global_norm([a, b], 1.0) == pytest.approx(sqrt(12))
    np.testing.assert_allclose(a.grad.data, np.full((2, 3), 1 / sqrt(12)))
    np.testing.assert_allclose(b.grad.data, np.full((2, 3), -1 / sqrt(12)))


# The moving average -----------------------------------------------------------------------------


def move_average(ema):
    """Move the average, not the parameters."""
    SGD(ema.parameters, 0.0).step(ema)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_the_average_is_the_weighted_sum_of_all_values(decay):
    """a_n = Π d_k p_0 + Σ_i (1 - d_i) Π_{k>i} d_k p_i with d_k = min(decay, (1 + k) / (10 + k))."""
    params = parameters()
    ema = EMA(params, decay)
    history = [values(params)]
    rng = np.random.default_rng(2)
    n = 150
    for _ in range(n):
        for p in params.values():
            p.data[...] = rng.normal(size=p.shape)
        history.append(values(params))
        move_average(ema)
    rates = [min(decay, (1 + k) / (10 + k)) for k in range(n)]
    weights = [np.prod(rates)]
    weights += [(1 - rates[i]) * np.prod(rates[i + 1 :]) for i in range(n)]
    assert sum(weights) == pytest.approx(1)
    for name in params:
        expected = sum(w * h[name] for w, h in zip(weights, history, strict=True))
        np.testing.assert_allclose(ema.average[name], expected, rtol=1e-10, atol=1e-13)
    assert ema.updates == n


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, 0.1, momentum=0.9),
        lambda p: Adam(p, 0.1),
        lambda p: AdamW(p, 0.1, weight_decay=0.3),
        lambda p: RMSprop(p, 0.1),
    ],
    ids=["SGD", "Adam", "AdamW", "RMSprop"],
)
def test_an_optimiser_moves_the_average_in_its_own_pass(make, dtype):
    """To where the parameters are after the step; the step itself is the same as without it."""
    params, alone = parameters(dtype=dtype), parameters(dtype=dtype)
    optimizer, plain, ema = make(params), make(alone), EMA(params, 0.9)
    rng = np.random.default_rng(4)
    for _ in range(5):
        before = {name: a.copy() for name, a in ema.average.items()}
        for name in params:
            g = np.asarray(rng.normal(size=params[name].shape), dtype)
            params[name].grad, alone[name].grad = tg.tensor(g), tg.tensor(g)
        share = 1 - min(0.9, (1 + ema.updates) / (10 + ema.updates))
        optimizer.step(ema)
        plain.step()
        assert_same(values(params), values(alone))
        for name, p in params.items():
            expected = before[name] + share * (p.data.astype(np.float64) - before[name])
            tolerance = 4 * np.finfo(dtype).eps
            np.testing.assert_allclose(ema.average[name], expected, rtol=tolerance, atol=tolerance)


def test_an_average_of_other_parameters_is_refused():
    params = parameters()
    for other in (parameters(), {"vector": params["vector"]}):
        with pytest.raises(ValueError, match="other parameters"):
            SGD(params, 0.1).step(EMA(other))


def test_the_average_of_constant_parameters_is_them_and_a_copy():
    params = parameters(dtype=np.float32)
    ema = EMA(params, 0.9)
    for _ in range(5):
        move_average(ema)
    assert_same(ema.average, values(params))
    assert all(a.dtype == np.float32 for a in ema.average.values())
    params["vector"].data[...] = 100
    assert not (ema.average["vector"] == 100).any()


def test_applied_shows_the_average_and_restores_also_after_an_exception():
    params = parameters()
    ema = EMA(params, 0.5)
    for p in params.values():
        p.data += 1
    move_average(ema)
    own, arrays = values(params), {name: p.data for name, p in params.items()}
    with ema.applied():
        assert_same(values(params), ema.average)
        assert (params["vector"].data != own["vector"]).all()
    assert_same(values(params), own)
    with pytest.raises(KeyError, match="inside"), ema.applied():
        raise KeyError("inside")
    assert_same(values(params), own)
    assert all(p.data is arrays[name] for name, p in params.items())


def test_the_state_of_an_average_continues_it():
    def move(params, rng):
        for p in params.values():
            p.data += np.asarray(rng.normal(size=p.shape), p.dtype)

    one, rng = parameters(), np.random.default_rng(0)
    whole = EMA(one, 0.9)
    for _ in range(10):
        move(one, rng)
        move_average(whole)
    two, rng = parameters(), np.random.default_rng(0)
    first = EMA(two, 0.9)
    for _ in range(4):
        move(two, rng)
        move_average(first)
    second = EMA(two, 0.9)
    second.load_state_dict(first.state_dict())
    for _ in range(6):
        move(two, rng)
        move_average(second)
    assert_same(whole.state_dict(), second.state_dict())
    assert first.updates == 4  # its arrays are its own


def test_an_average_refuses_a_state_that_does_not_fit():
    ema = EMA(parameters(), 0.9)
    before = ema.state_dict()
    good = EMA(parameters(seed=5), 0.9).state_dict() | {"updates": np.array(7)}
    for state, message in [
        (good | {"average/vector": np.zeros(3)}, "average/vector"),
        ({k: v for k, v in good.items() if k != "average/one"}, "average/one"),
        ({k: v for k, v in good.items() if k != "updates"}, "updates"),
        (good | {"average/other": np.zeros(1)}, "average/other"),
    ]:
        with pytest.raises(ValueError, match=message):
            ema.load_state_dict(state)
        assert_same(ema.state_dict(), before)


@pytest.mark.parametrize("decay", [1.0, -0.1, nan])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"not {decay}"):
        EMA(parameters(), decay)
