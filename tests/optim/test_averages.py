"""Clipping of gradients and the moving average of parameters, against their formulas."""

import re
from math import inf, nan, sqrt

import pytest

from tests.support.on_device import np, tg
from tests.support.parameters import assert_same, parameters, values
from tinygen.optim import EMA, SGD, Adam, AdamW, RMSprop, clip_global_norm

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
