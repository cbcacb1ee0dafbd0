"""Runs whose steps are programs: they end where eager ones do, and resume, stop and explain like them."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from tests.support.small_runs import SMALL, X, assert_same, make, parameters
from tinygen import checkpoint, models
from tinygen.errors import NonFiniteError
from tinygen.folder import CHECKPOINT
from tinygen.kernels import dispatch
from tinygen.random import Generator
from tinygen.training import Settings, run, train
from tinygen.training.loop import Loop

pytestmark = pytest.mark.cpu_only("programs run on the CPU")


def trained(name, compile, **options):
    model = make(name)
    history = model.fit(X, batch=16, ema_decay=0.9, seed=4, compile=compile, **options)
    return model, history


@pytest.mark.parametrize("name", SMALL)
def test_a_compiled_run_ends_where_the_eager_one_does(name, tmp_path):
    """As closely as the order of float32 sums allows: weights, averages, state and history; the
    counters exactly."""
    found = {}
    for compile in (True, False):
        folder = tmp_path / str(compile)
        _, history = trained(name, compile, steps=6, folder=folder)
        meta, arrays = checkpoint.read(folder / CHECKPOINT)
        assert [s.pop("steps") for s in meta["sittings"]] == ["compiled" if compile else "eager"]
        counters = [meta["step"], meta["batches"], meta["rng"]]
        found[compile] = history, counters, arrays
    (history, counters, arrays), (right, exact, expected) = found[True], found[False]
    assert counters == exact and history.keys() == right.keys() and arrays.keys() == expected.keys()
    for term in right:
        np.testing.assert_allclose(history[term], right[term], rtol=1e-4, atol=1e-6)
    for key, array in expected.items():
        scale = max(np.abs(array).max(initial=0), 1e-6)
        np.testing.assert_allclose(arrays[key], array, rtol=0, atol=1e-3 * scale, err_msg=key)


@pytest.mark.parametrize("name", SMALL)
def test_a_compiled_run_that_was_cut_off_resumes_to_the_same_bits(name, tmp_path, monkeypatch):
    whole, history = trained(name, True, steps=7)
    advance = Loop.advance

    def cut_off(loop):
        if loop.step == 4:
            raise KeyboardInterrupt
        advance(loop)

    monkeypatch.setattr(Loop, "advance", cut_off)
    with pytest.raises(KeyboardInterrupt):
        trained(name, True, steps=7, folder=tmp_path, checkpoint_seconds=0.0)
    monkeypatch.undo()
    resumed, again = trained(name, True, steps=7, folder=tmp_path, resume=True)
    assert_same(parameters(whole), parameters(resumed))
    assert again == history


def test_a_run_that_goes_on_eagerly_says_so(tmp_path, caplog):
    trained("ae", True, steps=2, folder=tmp_path)
    trained("ae", False, steps=4, folder=tmp_path, resume=True)
    assert "steps eager instead of compiled" in caplog.text


# -- what is not finite ----------------------------------------------------------------------------
def test_a_batch_that_is_not_finite_leaves_the_parameters_as_they_were():
    """The run ends before the update, and the reason is found by computing the step once more."""
    x = X.copy()
    x[Generator(0).child("order").permutation(len(X))[-1], 3] = np.nan  # in the last batch
    settings = Settings(steps=12, batch=10)
    messages = []
    for compile in (True, False):
        model = make("vae")
        with pytest.raises(NonFiniteError) as caught:
            train(model, (x,), settings, compile=compile)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("step 5, ")  # the program had been run by then

    other = make("vae")
    loop = Loop(other, (x,), settings, compiled=True)
    other.train()
    for _ in range(4):
        loop.advance()
    model = make("vae")
    with pytest.raises(NonFiniteError):
        train(model, (x,), settings, compile=True)
    assert_same(parameters(model), parameters(other))


def test_an_overflow_is_explained_as_in_an_eager_run():
    messages = []
    for compile in (True, False):
        with pytest.raises(NonFiniteError) as caught:
            make("ae").fit(X, steps=50, lr=1e30, warmup=0, compile=compile)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_run_in_anomaly_mode_is_eager():
    model = make("ae")
    loop = Loop(model, (X,), Settings(steps=3), compiled=True)
    with tg.detect_anomaly():
        loop.advance()
    assert [update.step.program for update in loop.updates.values()] == [None]


# -- what is compiled ------------------------------------------------------------------------------
class Own(models.Model):
    """A user's model, whose loss looks at a value."""

    def __init__(self):
        super().__init__(64, bounded=True)
        self.weight = tg.tensor(np.zeros(64, np.float32), requires_grad=True)

    def loss(self, x, rng):
        y = tg.mean(tg.square(x - self.weight + 0.1 * rng.normal(x.shape)))
        return {"loss": y * 2.0 if float(y.data) > 0.1 else y}


def test_what_cannot_be_recorded_runs_eagerly_and_a_line_names_it(caplog):
    found = []
    for compile in (True, False):
        model = Own()
        history = model.fit(X, steps=5, batch=8, ema_decay=0.9, compile=compile)
        found.append((history, parameters(model)))
    (history, weights), (right, expected) = found
    assert history == right
    assert_same(weights, expected)
    (line,) = caplog.messages
    asks = Own.loss.__code__.co_firstlineno + 2
    assert f"test_compiled.py:{asks} asks for" in line and "the steps of loss run eagerly" in line


def test_a_number_that_changes_is_found_at_the_second_step_and_changes_nothing(caplog):
    class Counting(Own):
        def loss(self, x, rng):
            return {"loss": tg.mean(tg.square(x - self.weight)) * (1.0 + self.step)}

    found = []
    for compile in (True, False):
        model = Counting()
        model.fit(X, steps=4, batch=8, compile=compile)
        found.append(parameters(model)["weight"])
    np.testing.assert_allclose(*found, rtol=1e-5)
    assert "changes, 1.0 to 2.0" in caplog.text


needs_compiler = pytest.mark.skipif(dispatch.native() is None, reason="needs a compiler")


@needs_compiler
@pytest.mark.parametrize("name", SMALL)
def test_long_runs_of_tinygens_own_models_are_compiled(name):
    for steps in (run.COMPILED_FROM, run.COMPILED_FROM - 1):
        settings = Settings(steps=steps)
        assert run.worthwhile(make(name), (X,), settings) == (steps == run.COMPILED_FROM)


@needs_compiler
def test_the_users_own_code_is_compiled_only_if_asked():
    """What it does besides computing would be done while it is recorded only."""
    replaced, part = make("ae"), make("ae")
    replaced.loss = lambda x, rng: models.Autoencoder.loss(replaced, x, rng)
    part.encoder = type("Mine", (type(part.encoder),), {})([64, 8, 3], rng=0)
    for model in (Own(), replaced, part):
        assert not run.worthwhile(model, (X,), Settings(steps=10**6))


def test_without_a_compiler_steps_are_eager(monkeypatch):
    monkeypatch.setattr(dispatch, "_found", lambda device: (None, "NumPy"))
    assert not run.worthwhile(make("ae"), (X,), Settings(steps=10**6))


def test_a_loss_that_is_not_finite_with_a_gradient_that_is_ends_the_run():
    class Constant(Own):
        def loss(self, x, rng):
            return {"loss": tg.mean(tg.square(self.weight - 1.0)) + tg.mean(tg.log(x))}

    x = np.ones_like(X)
    x[Generator(0).child("order").permutation(len(X))[-1], 3] = 0.0
    weights = []
    for compile in (True, False):
        model = Constant()
        with pytest.raises(NonFiniteError, match=r"step 5, objective loss: log made .*inf"):
            train(model, (x,), Settings(steps=9, batch=10), compile=compile)
        weights.append(parameters(model)["weight"])
    np.testing.assert_allclose(*weights, rtol=1e-6)
    assert (weights[0] > 0).all()
