"""The composites that are single operations against the compositions that they stand for.

Value, gradient and second derivative, in float64 and float32.
"""

from __future__ import annotations

import numpy
import pytest

from tests.support.on_device import np, on_cpu, placed, tg
from tinygen.random import Generator

pytestmark = pytest.mark.filterwarnings("error")


def standardise(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / tg.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)


def modulate(x, modulation):
    scale, shift = tg.split(modulation, 2, axis=-1)
    return (1.0 + scale) * standardise(x) + shift


def cross_entropy(x, labels):
    one_hot = (labels[..., None] == np.arange(x.shape[-1])).astype(x.dtype)
    return tg.log(tg.exp(x).sum(-1)) - (x * one_hot).sum(-1)


PLAIN_ACTIVATIONS = {
    None: lambda t: t,
    "tanh": lambda t: (tg.exp(t) - tg.exp(-t)) / (tg.exp(t) + tg.exp(-t)),
    "sigmoid": lambda t: 1.0 / (1.0 + tg.exp(-t)),
    "softplus": lambda t: tg.log(1.0 + tg.exp(t)),
    "relu": lambda t: t * (t > 0).data,
    "leaky_relu": lambda t: t * np.where((t > 0).data, 1.0, 0.01).astype(t.dtype),
    "elu": lambda t: tg.where(t > 0, t, tg.exp(t) - 1.0),
    "silu": lambda t: t / (1.0 + tg.exp(-t)),
    "gelu": lambda t: 0.5 * t * (1.0 + tg.erf(t / np.sqrt(2.0))),
}

LABELS = np.array([2, 0, 1, 2])


# name: the operation, the composition, the shapes of the inputs
def noise(like):
    """The draw that the operations below make, in the dtype of their input."""
    return placed(Generator(3).normal(like.shape, dtype=like.dtype))


def plain_reparameterise(h):
    mean, log_var = tg.split(h, 2, axis=-1)
    z = mean + tg.exp(log_var / 2.0) * noise(mean)
    return tg.concatenate([z, tg.gaussian_kl(mean, log_var)], axis=-1)


DATA = np.linspace(-1, 1, 12).reshape(4, 3)
ON_DATA, ON_NOISE = np.array([0.5, -0.25, 1.0, 0.0]), np.array([1.0, 0.5, 0.0, -2.0])


def noise_error(output, on_data, on_noise):
    cast = [None if a is None else a.astype(output.dtype) for a in (DATA, on_data, on_noise)]
    return tg.noise_error(output, *cast, Generator(3).next_draw())


def plain_noise_error(output, on_data, on_noise):
    cast = [a[:, None].astype(output.dtype) for a in (on_data, on_noise)]
    target = cast[0] * DATA.astype(output.dtype) + cast[1] * noise(output)
    return tg.mean((output - target) ** 2)


COMPOSITES = {
    **{
        f"linear, {name}": (
            lambda x, w, b, name=name: tg.linear(x, w, b, name),
            lambda x, w, b, plain=plain: plain(x @ w + b),
            [(4, 3), (3, 2), (2,)],
        )
        for name, plain in PLAIN_ACTIVATIONS.items()
    },
    **{
        f"linear without bias, {name}": (
            lambda x, w, name=name: tg.linear(x, w, activation=name),
            lambda x, w, plain=plain: plain(x @ w),
            [(2, 2, 3), (3, 2)],
        )
        for name, plain in PLAIN_ACTIVATIONS.items()
    },
    "linear, bias of every shape": (
        lambda x, w, b: tg.linear(x, w, b, "tanh"), lambda x, w, b: tg.tanh(x @ w + b),
        [(4, 3), (3, 2), (4, 1)]),
    "linear, a number for bias": (
        lambda x, w: tg.linear(x, w, 0.5, "silu"), lambda x, w: tg.silu(x @ w + 0.5),
        [(4, 3), (3, 2)]),
    "bce_with_logits": (
        tg.bce_with_logits,
        lambda x, t: -(t * tg.log(tg.sigmoid(x)) + (1.0 - t) * tg.log(tg.sigmoid(-x))),
        [(3, 4), (3, 4)]),
    "bce_with_logits, broadcast": (
        tg.bce_with_logits, lambda x, t: tg.log(1.0 + tg.exp(x)) - x * t, [(3, 4), (4,)]),
    "mse": (tg.mse, lambda a, b: ((a - b) ** 2).mean(), [(3, 4), (3, 4)]),
    "mse, a number": (tg.mse, lambda a, b: ((a - b) ** 2).mean(), [(3, 4), ()]),
    "gaussian_kl": (
        tg.gaussian_kl, lambda mean, log_var: 0.5 * (mean**2 + tg.exp(log_var) - 1.0 - log_var),
        [(3, 2), (3, 2)]),
    "gaussian_kl, broadcast": (
        tg.gaussian_kl, lambda mean, log_var: 0.5 * (mean**2 + tg.exp(log_var) - 1.0 - log_var),
        [(3, 2), ()]),
    "reparameterise": (
        lambda h: tg.concatenate(tg.reparameterise(h, Generator(3)), axis=-1),
        plain_reparameterise, [(3, 4)]),
    "noise_error": (
        lambda x: noise_error(x, ON_DATA, ON_NOISE),
        lambda x: plain_noise_error(x, ON_DATA, ON_NOISE), [(4, 3)]),
    "noise_error, noise alone": (
        lambda x: noise_error(x, None, ON_NOISE),
        lambda x: plain_noise_error(x, 0 * ON_DATA, ON_NOISE), [(4, 3)]),
    "noise_error, data alone": (
        lambda x: noise_error(x, ON_DATA, None),
        lambda x: plain_noise_error(x, ON_DATA, 0 * ON_NOISE), [(4, 3)]),
    "softmax_cross_entropy": (
        lambda x: tg.softmax_cross_entropy(x, LABELS), lambda x: cross_entropy(x, LABELS), [(4, 3)]),
    "logsumexp": (
        lambda x: tg.logsumexp(x, 1), lambda x: tg.log(tg.sum(tg.exp(x), 1)), [(3, 4)]),
    "logsumexp, all axes": (
        lambda x: tg.logsumexp(x, keepdims=True),
        lambda x: tg.log(tg.sum(tg.exp(x), keepdims=True)), [(3, 4)]),
    "softmax": (
        lambda x: tg.softmax(x, 0), lambda x: tg.exp(x) / tg.exp(x).sum(0, keepdims=True), [(3, 4)]),
    "log_softmax": (
        tg.log_softmax, lambda x: x - tg.log(tg.exp(x).sum(-1, keepdims=True)), [(3, 4)]),
    "norm": (lambda x: tg.norm(x, 1), lambda x: tg.sqrt((x * x).sum(1)), [(3, 4)]),
    "standardise": (tg.standardise, standardise, [(3, 4)]),
    "modulate": (tg.modulate, modulate, [(3, 4), (3, 8)]),
    "modulate, one for all": (tg.modulate, modulate, [(2, 3, 4), (1, 8)]),
    "modulate, of a row": (tg.modulate, modulate, [(4,), (3, 8)]),
}  # fmt: skip


@pytest.mark.parametrize(("dtype", "tight"), [(np.float64, 1e-11), (np.float32, 3e-4)])
@pytest.mark.parametrize("name", COMPOSITES)
def test_a_composite_is_its_composition(name, dtype, tight):
    composite, plain, shapes = COMPOSITES[name]
    results = []
    for f in (composite, plain):
        rng = np.random.default_rng(7)
        inputs = [tg.tensor(rng.normal(size=s), dtype=dtype, requires_grad=True) for s in shapes]
        y = f(*inputs)
        first = tg.gradients(y, inputs, rng.normal(size=y.shape), create_graph=True)
        weighted = sum((g * rng.normal(size=g.shape).astype(dtype)).sum() for g in first)
        second = (
            tg.gradients(weighted, inputs)
            if weighted.requires_grad
            else [tg.zeros_like(x) for x in inputs]
        )
        results.append([y, *first, *second])
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype == dtype and a.shape == b.shape
        np.testing.assert_allclose(a.data, b.data, rtol=tight, atol=tight)


@pytest.mark.parametrize(("dtype", "tight"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", COMPOSITES)
def test_the_first_order_gradient_is_that_of_the_graph(name, dtype, tight):
    """The plain backward pass may use kernels, and gradients kept by the forward pass; twice alike."""
    composite, _, shapes = COMPOSITES[name]
    rng = np.random.default_rng(8)
    inputs = [tg.tensor(rng.normal(size=s), dtype=dtype, requires_grad=True) for s in shapes]
    y = composite(*inputs)
    g = rng.normal(size=y.shape)
    graph = tg.gradients(y, inputs, g, create_graph=True)
    for _ in range(2):
        raw = tg.gradients(y, inputs, g, retain_graph=True)
        for a, b in zip(raw, graph, strict=True):
            assert a.dtype == b.dtype == dtype and not a.requires_grad
            np.testing.assert_allclose(a.data, b.data, rtol=tight, atol=tight)


@pytest.mark.parametrize("name", [n for n in COMPOSITES if n.startswith(("repa", "noise_e"))])
def test_operations_with_noise_have_right_derivatives(name):
    composite, _, shapes = COMPOSITES[name]
    points = [np.random.default_rng(9).normal(size=s) for s in shapes]
    assert tg.gradcheck(composite, points)
    assert tg.gradgradcheck(composite, points)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", [n for n in COMPOSITES if n.startswith(("repa", "noise_e"))])
def test_a_nan_goes_through_the_operations_with_noise(name, dtype):
    """Into the sample, the divergence or the loss, and into the gradients that depend on it."""
    composite, _, (shape,) = COMPOSITES[name]
    x = np.ones(shape, dtype)
    x[1, 2] = np.nan
    x = tg.tensor(x, requires_grad=True)
    y = composite(x)
    assert numpy.isnan(on_cpu(y.data) if y.ndim == 0 else on_cpu(y.data)[1, [0, 2]]).all()
    for create_graph in (False, True):
        d = tg.gradients(y, x, np.ones(y.shape), retain_graph=True, create_graph=create_graph)
        d = on_cpu(d.data)
        assert numpy.isnan(d[1, 2])
        assert not numpy.isnan(d[[0, 2]]).any()


def test_reparameterise_takes_mean_and_log_variance_side_by_side():
    for shape in [(3, 5), (4,), (2, 3, 4)]:
        with pytest.raises(ValueError, match=f"not .{shape[0]},"):
            tg.reparameterise(np.zeros(shape), Generator(0))


def test_every_activation_is_compared():
    assert set(tg.ACTIVATIONS) == set(PLAIN_ACTIVATIONS) - {None}


@pytest.mark.parametrize("name", sorted(tg.ACTIVATIONS))
def test_activation_and_bias_are_one_operation(name):
    x, b = tg.tensor(np.ones((2, 3)), requires_grad=True), tg.tensor(np.ones(3), requires_grad=True)
    y = tg.linear(x, np.eye(3), b, name)
    assert [line.split()[1] for line in tg.graph_text(y).splitlines()] == [
        "leaf", "matmul", "leaf", f"bias_{name}",
    ]  # fmt: skip


def test_mse_is_one_number_over_all_elements():
    x = tg.tensor(np.zeros((2, 3)), requires_grad=True)
    loss = tg.mse(x, np.ones((2, 3)))
    loss.backward()
    assert loss.shape == () and loss.item() == 1.0
    np.testing.assert_allclose(x.grad.data, np.full((2, 3), -2.0 / 6.0), rtol=1e-15)


def test_mse_and_cross_entropy_do_not_pair_what_does_not_belong_together():
    with pytest.raises(ValueError, match=r"mse.*shapes \(5, 1\) and \(5,\) differ"):
        tg.mse(np.zeros((5, 1)), np.zeros(5))
    with pytest.raises(ValueError, match=r"labels of shape \(5, 1\) for logits of shape \(5, 3\)"):
        tg.softmax_cross_entropy(np.zeros((5, 3)), np.zeros((5, 1), int))
    assert tg.softmax_cross_entropy(np.zeros((5, 3)), np.zeros((2, 5), int)).shape == (2, 5)


@pytest.mark.parametrize(
    ("loss", "default"),
    [
        (lambda **r: tg.mse(np.array([[1.0, 2.0], [3.0, 5.0]]), np.zeros((2, 2)), **r), "mean"),
        (lambda **r: tg.bce_with_logits(np.array([0.5, -2.0, 3.0]), np.array([0.0, 1.0, 1.0]), **r), "none"),
        (lambda **r: tg.softmax_cross_entropy(np.eye(3), np.array([0, 2, 2]), **r), "none"),
    ],
    ids=["mse", "bce", "softmax"],
)  # fmt: skip
def test_losses_reduce_alike(loss, default):
    each = loss(reduction="none").data
    assert each.ndim and each.size >= 3
    np.testing.assert_allclose(loss(reduction="sum").data, each.sum(), rtol=1e-14)
    np.testing.assert_allclose(loss(reduction="mean").data, each.mean(), rtol=1e-14)
    np.testing.assert_allclose(loss().data, loss(reduction=default).data)
    with pytest.raises(ValueError, match=r"reduction 'means'.*mean"):
        loss(reduction="means")


def test_the_squared_errors_are_differentiated_one_by_one():
    x = tg.tensor(np.array([1.0, 3.0]), requires_grad=True)
    tg.mse(x, np.array([0.0, 1.0]), reduction="none").backward(np.array([1.0, 10.0]))
    np.testing.assert_allclose(x.grad.data, [2.0, 40.0])
    with pytest.raises(ValueError, match=r"mse.*shapes \(2,\) and \(1,\) differ"):
        tg.mse(x, np.zeros(1), reduction="sum")
