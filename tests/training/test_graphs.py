"""Runs on the GPU whose updates are graphs: they end where eager ones do, and explain like them; on the
stand-in."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import streams, strict_cupy
from tests.support.small_runs import SMALL, X, make
from tinygen import backend
from tinygen.errors import NonFiniteError
from tinygen.random import Generator
from tinygen.training import Settings, graphs, train

pytestmark = [pytest.mark.cpu_only("the stand-in itself"), pytest.mark.filterwarnings("error")]


@pytest.fixture(autouse=True)
def cupy():
    with strict_cupy.installed() as module:
        yield module


def on_gpu(name):
    return make(name).to("gpu")


@pytest.mark.parametrize("name", SMALL)
def test_a_run_of_graphs_ends_where_the_eager_one_does(cupy, name, monkeypatch):
    monkeypatch.setattr(graphs, "LOOKS", 5)
    found = []
    for compile in (True, False):
        model = on_gpu(name)
        settings = Settings(steps=7, batch=16, ema_decay=0.9, seed=4)
        history = train(model, (cupy.asarray(X),), settings, compile=compile)
        found.append((history, model.state_dict()))
    (history, weights), (right, expected) = found
    assert history.keys() == right.keys()
    for term in right:
        np.testing.assert_allclose(history[term], right[term], rtol=1e-4, atol=1e-6)
    for key, array in expected.items():
        scale = max(np.abs(array).max(initial=0), 1e-6)
        np.testing.assert_allclose(weights[key], array, rtol=0, atol=1e-3 * scale, err_msg=key)


def test_the_host_waits_once_in_a_hundred_steps(cupy):
    model = on_gpu("vae")
    loop = graphs.GraphLoop(model, (cupy.asarray(X),), Settings(steps=400, batch=16))
    model.train()
    for _ in range(graphs.LOOKS):
        loop.advance()
    assert len(loop.taken) == 0
    streams.Launches.start()
    before, epochs = cupy.ndarray.waits, loop.batches // (len(X) // 16)
    for _ in range(graphs.LOOKS - 1):
        loop.advance()
    epochs = loop.batches // (len(X) // 16) - epochs
    assert cupy.ndarray.waits - before <= epochs + 1  # the order of the rows of each pass
    assert len(loop.history["loss"]) == loop.step == 2 * graphs.LOOKS - 1


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_a_batch_that_is_not_finite_leaves_the_parameters_as_they_were(cupy, name):
    """It is seen at the next look, up to a hundred steps later; none of them changed anything."""
    x = X.copy()
    x[Generator(0).child("order").permutation(len(X))[-1], 3] = (
        np.nan
    )  # in the last batch of the first pass
    settings, messages, weights = Settings(steps=60, batch=10), [], []
    for compile in (True, False):
        model = on_gpu(name)
        with pytest.raises(NonFiniteError) as caught:
            train(model, (cupy.asarray(x),), settings, compile=compile)
        messages.append(str(caught.value))
        weights.append(model.state_dict())
    assert messages[0] == messages[1]
    for key, array in weights[1].items():
        scale = max(np.abs(array).max(initial=0), 1e-6)
        np.testing.assert_allclose(weights[0][key], array, rtol=0, atol=1e-3 * scale, err_msg=key)


def test_a_norm_too_large_for_float32_alone_is_computed_eagerly_and_the_rest_taken_again(cupy):
    """The squares overflow, the norm does not: the eager update goes on, as in an eager run."""
    found = []
    for compile in (True, False):
        model = on_gpu("ae")
        loss, calls = model.loss, []

        def scaled(x, rng, loss=loss, model=model, calls=calls):
            calls.append(model.step)
            terms = loss(x, rng=rng)
            first = next(iter(terms))
            huge = backend.varying(lambda: 1e25 if model.step == 3 else 1.0)
            return terms | {first: terms[first] * huge}

        model.loss = scaled
        history = train(model, (cupy.asarray(X),), Settings(steps=8, batch=16), compile=compile)
        found.append((history, model.state_dict()))
    (history, weights), (right, expected) = found
    for term in right:
        np.testing.assert_allclose(history[term], right[term], rtol=1e-3)
    for key, array in expected.items():
        np.testing.assert_allclose(weights[key], array, rtol=0, atol=2e-3 * np.abs(array).max())
