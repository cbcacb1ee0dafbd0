"""Optimisers against the papers' algorithms in plain float64."""

from math import nan

import pytest

from tests.support.on_device import np, tg
from tests.support.parameters import SHAPES, assert_same, parameters, values
from tinygen.kernels.reference import BLOCK
from tinygen.optim import SGD, Adam, AdamW, RMSprop, cosine, warmup

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


def test_an_optimiser_has_a_short_text():
    params = parameters()
    assert repr(SGD(params, 0.1)) == f"SGD({len(params)} parameters, lr 0.1, step 0)"
    adam = Adam(params, lambda step: 1.0 / (step + 3))
    adam.step()
    assert repr(adam) == f"Adam({len(params)} parameters, lr 0.25, step 1)"


def set_gradients(params, rng):
    for p in params.values():
        p.grad = tg.tensor(np.asarray(rng.normal(size=p.shape), p.dtype))


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


@pytest.mark.parametrize("make", [Adam, lambda p: SGD(p, 0.1, momentum=0.9)], ids=["Adam", "SGD"])
def test_a_list_of_parameters_is_stepped_as_by_name(make):
    one, two = (tg.nn.Linear(3, 2, rng=0) for _ in range(2))
    named, listed = make(one.named_parameters()), make(two.parameters())
    for net, optimiser in ((one, named), (two, listed)):
        tg.sum(net(np.ones((4, 3), np.float32)) ** 2).backward()
        optimiser.step()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert list(listed.parameters) == ["0", "1"]
    again = make(iter(two.parameters()))
    again.load_state_dict(listed.state_dict())
    assert again.steps == 1


def test_what_is_no_list_of_parameters_is_refused():
    net = tg.nn.Linear(3, 2, rng=0)
    for wrong in (net, net.weight, 3):
        with pytest.raises(
            TypeError, match=rf"not a {type(wrong).__name__}: pass module\.parameters"
        ):
            Adam(wrong)
    with pytest.raises(TypeError, match="parameter 1 is a Tensor, not ndarray"):
        Adam([net.weight, np.ones(2)])
