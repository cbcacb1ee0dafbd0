"""The training loop: batches, objectives, settings, and what a step does."""

from __future__ import annotations

import pytest

from tests.support.on_device import np, on_cpu, on_device, placed, tg
from tests.support.small_runs import SMALL, X, assert_same, make, parameters
from tinygen import models
from tinygen.random import Generator
from tinygen.training import Settings


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
