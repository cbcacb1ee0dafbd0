"""The training loop: batches, objectives, settings, and what a step does."""

from __future__ import annotations

import pytest

from tests.support.leaves_reached import leaves_reached
from tests.support.on_device import np, on_cpu, on_device, tg
from tests.support.small_runs import SMALL, X, assert_same, make, parameters
from tinygen import models
from tinygen.nn import Linear, Module
from tinygen.optim import SGD
from tinygen.random import Generator
from tinygen.training import Objective, Settings, train
from tinygen.training.loop import Loop


class Recorder(models.Model):
    """One weight, whose loss keeps the batches that it gets."""

    def __init__(self):
        super().__init__(1, bounded=True)
        self.weight = tg.tensor([0.0], requires_grad=True)
        self.batches = []

    def loss(self, *batch, rng):
        self.batches.append(batch)
        return {"loss": tg.sum(tg.square(self.weight - 1.0))}


# -- batches -------------------------------------------------------------------------------------
def test_a_batch_has_the_same_rows_of_every_array():
    x, labels = np.arange(10, dtype=np.float32)[:, None], np.arange(10) * 7
    model = on_device(Recorder)()
    train(model, (x, labels), Settings(steps=7, batch=4))
    assert len(model.batches) == 7 and len({tuple(on_cpu(y)) for _, y in model.batches}) > 2
    for rows, y in model.batches:
        assert y.dtype == np.int64 and rows.shape == (4, 1)
        np.testing.assert_array_equal(rows[:, 0] * 7, y)


def test_an_array_is_a_tuple_of_one():
    x = np.arange(6, dtype=np.float32)[:, None]
    seen = []
    for rows in (x, (x,)):
        model = on_device(Recorder)()
        train(model, rows, Settings(steps=3, batch=4))
        assert all(len(batch) == 1 for batch in model.batches)
        seen.append(np.concatenate([batch[0] for batch in model.batches]))
    np.testing.assert_array_equal(*seen)


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"different lengths: \[5, 4\]"):
        train(on_device(Recorder)(), (np.zeros((5, 1)), np.zeros(4)), Settings(steps=1))


def test_labels_are_refused_by_a_model_that_takes_none():
    with pytest.raises(TypeError, match="prepare"):
        make("vae").fit(X, np.zeros(len(X), np.int64), steps=1)


def recorded_batches(n, batch, steps, seed=0):
    rows = np.arange(n, dtype=np.float32)[:, None] / n
    model = on_device(models.Autoencoder)(1, hidden=(2,), latent=1)
    seen = []
    loss = model.loss

    def remember(x, rng):
        seen.append(on_cpu(x[:, 0] * n).round().astype(int))
        return loss(x, rng)

    model.loss = remember
    model.fit(rows, steps=steps, batch=batch, seed=seed)
    return seen


def test_every_pass_takes_each_row_once_in_a_new_order():
    seen = recorded_batches(12, 4, 9)
    passes = [np.concatenate(seen[i : i + 3]) for i in (0, 3, 6)]
    for order in passes:
        assert sorted(order) == list(range(12))
    assert not np.array_equal(passes[0], passes[1])
    assert not np.array_equal(passes[1], passes[2])


def test_the_order_is_the_streams_own():
    """Epoch e is draw e of the first child of the run's seed, whatever came before."""
    order = Generator(5).child("order")
    order.state = order.state[0], 2
    expected = order.permutation(12)
    seen = recorded_batches(12, 4, 9, seed=5)
    np.testing.assert_array_equal(np.concatenate(seen[6:]), expected)


def test_a_batch_larger_than_the_data_is_the_data():
    assert [sorted(b) for b in recorded_batches(5, 128, 3)] == [[0, 1, 2, 3, 4]] * 3


def test_each_discriminator_step_has_a_batch_of_its_own():
    model = make("gan")
    seen = []
    for name in ("discriminate", "generate"):
        loss = getattr(model, name)
        setattr(
            model,
            name,
            lambda x, rng, name=name, loss=loss: seen.append((name, x.copy())) or loss(x, rng),
        )
    model.fit(X, steps=2, batch=16)
    assert [name for name, _ in seen] == ["discriminate", "discriminate", "generate"] * 2
    assert not np.array_equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_the_run(name):
    def run(seed):
        model = make(name)
        model.fit(X, steps=3, batch=16, seed=seed)
        return parameters(model)

    first = run(1)
    assert_same(first, run(1))
    assert any(not np.array_equal(first[k], v) for k, v in run(2).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "steps.*-1"),
        ({"steps": 1.5}, "steps.*1.5"),
        ({"batch": 0}, "batch.*0"),
        ({"lr": 0.0}, "lr.*0"),
        ({"lr": float("nan")}, "lr.*nan"),
        ({"clip": -1.0}, "clip.*-1"),
        ({"ema_decay": 1.0}, "ema_decay.*1"),
        ({"ema": 0.9}, r"'ema' is called 'ema_decay' since version 0\.2"),
        ({"seed": -3}, "seed.*-3"),
        ({"stepz": 3}, "unknown training setting 'stepz'; did you mean 'steps'"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings().changed(**changes)


# -- a step --------------------------------------------------------------------------------------
class Line(Module):
    """y = x w + b by gradient descent; two objectives, of which each has one parameter."""

    def __init__(self):
        super().__init__()
        self.layer = Linear(1, 1, rng=Generator(0))
        self.step = 0

    def objectives(self):
        weight, bias = self.layer.weight, self.layer.bias
        return [
            Objective("slope", {"w": weight}, self.loss),
            Objective("offset", {"b": bias}, self.loss),
        ]

    def optimizer(self, parameters, lr):
        return SGD(parameters, lr)

    def loss(self, x, y, rng):
        return {"loss": tg.mean(tg.square(self.layer(x) - y))}


def test_a_step_is_the_descent_of_each_objective_in_turn():
    """By hand: the derivative of the mean square, clipped, times the rate; the offset sees the new
    slope."""
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [-8.0], [9.0]])
    model = on_device(Line)()
    w, b = model.layer.weight.item(), model.layer.bias.item()
    model.layer.weight.grad = tg.tensor([[1e6]], dtype=np.float32)  # of something before
    loop = Loop(model, (x, y), Settings(steps=4, batch=3, lr=0.1, warmup=0, clip=3.0))
    loop.advance()
    x, y = on_cpu(x), on_cpu(y)
    slope = 2 * (x * (w * x + b - y)).mean()
    w -= 0.1 * slope * min(1.0, 3.0 / abs(slope))
    offset = 2 * (w * x + b - y).mean()
    b -= 0.1 * offset * min(1.0, 3.0 / abs(offset))
    assert abs(slope) > 3.0 > abs(offset)  # one is clipped
    np.testing.assert_allclose(
        [model.layer.weight.item(), model.layer.bias.item()], [w, b], rtol=1e-6
    )
    assert loop.step == 1 and len(loop.history["loss"]) == 2


def test_the_gradients_of_the_other_player_are_not_computed(monkeypatch):
    model = make("gan", penalty=None)
    players = {
        o.name: {p.node for p in o.parameters.values()} for o in reversed(model.objectives())
    }
    loop = Loop(model, (X,), Settings(steps=1, batch=8))
    for name in ("discriminator", "generator"):
        loop.objectives = [o for o in model.objectives() if o.name == name][:1]
        with monkeypatch.context() as patch:
            reached = leaves_reached(patch)
            loop.advance()
        assert set(reached) == players[name]


def test_several_updates_in_a_step_share_its_learning_rate():
    """The schedule goes by steps, also for a discriminator that is updated k times in each."""
    model = make("gan")
    rates = {}
    optimizer = model.optimizer

    def recorded(parameters, lr):
        seen = rates.setdefault(len(rates), [])
        return optimizer(parameters, lambda n: seen.append(lr(n)) or seen[-1])

    model.optimizer = recorded
    model.fit(X, steps=5, batch=16, warmup=2)
    discriminator, generator = rates.values()
    assert discriminator == [rate for rate in generator for _ in range(2)]
    assert generator[0] > 0 and generator[-1] > 0
