"""Sampling with the network as a program: the same samples as without."""

import copy
import pickle
import sys

import numpy
import pytest

from tests.support.diffusion import normals_on_cpu
from tinygen import nn
from tinygen.kernels import dispatch
from tinygen.models.diffusion import DDPM, ddpm
from tinygen.random import Generator

needs_compiler = pytest.mark.skipif(dispatch.native() is None, reason="needs a compiler")

X = numpy.random.default_rng(0).random((5, 4), numpy.float32)

MODELS = {
    "velocity": {"bounded": False},
    "data": {"predict": "data"},
    "noise": {"predict": "noise", "schedule": "linear"},
    "learned": {"variance": "learned"},
    "classes": {"classes": 3},
}
WAYS = {
    "ddpm": {"sampler": "ddpm"},
    "ddim": {"sampler": "ddim", "sampling_steps": 7},
    "dpm-solver": {"sampler": "dpm-solver", "sampling_steps": 7},
    "inpainting": {"known": X[0], "mask": numpy.arange(4) < 2, "resample": 2},
}


def model_of(**options):
    """A model whose network does not say 0, as one that was never trained does."""
    model = DDPM(4, T=30, width=16, blocks=2, **options)
    for i, p in enumerate(model.named_parameters().values()):
        p.data[...] += 0.1 * normals_on_cpu(*p.shape, seed=i)
    return model


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", MODELS)
def test_samples_are_the_same(options, way):
    """But for the order of sums within the network."""
    model, how = model_of(**MODELS[options]), dict(WAYS[way])
    if model.classes:
        how |= {"labels": numpy.array([0, 1, 2, 1, 0]), "guidance": 2.0}
    eager, compiled = (model.sample(5, rng=3, compile=c, **how) for c in (False, True))
    numpy.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-4)


def test_a_program_is_recorded_once_for_all_times_and_follows_the_parameters():
    model = model_of()
    denoiser, x = model.denoiser(compiled=True), X
    found = [denoiser(x, t) for t in (30, 2, 1)]
    assert len(model.compiled_output._made) == 1
    model.network.last.bias.data += 0.5
    found += [denoiser(x, t) for t in (30, 1)]
    for t, before, after in ((30, found[0], found[3]), (1, found[2], found[4])):
        numpy.testing.assert_allclose(after, model.denoiser()(x, t), rtol=1e-5, atol=1e-6)
        assert (before != after).any()


def test_a_program_is_kept_for_the_next_sampling_and_a_copy_of_the_model_makes_its_own():
    model = model_of()
    first = model.sample(2, rng=1, compile=True)
    kept = dict(model.compiled_output._made)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    numpy.testing.assert_array_equal(model.sample(2, rng=1, compile=True), first)
    assert len(kept) == 1 and model.compiled_output._made == kept
    twin.network.last.bias.data += 0.5
    assert (twin.sample(2, rng=1, compile=True) != first).any()
    numpy.testing.assert_array_equal(model.sample(2, rng=1, compile=True), first)


@pytest.mark.parametrize("options", MODELS)
def test_times_that_are_prepared_are_the_same_as_others(options, monkeypatch):
    """But for the order of sums: their conditions are computed a few times at once."""
    monkeypatch.setattr(sys.modules["tinygen.models.diffusion.denoiser"], "TIMES", 3)
    model = model_of(**MODELS[options])
    condition = (numpy.array([0, 1, 2, 1, 0]), 2.0) if model.classes else ()
    plain, prepared = model.denoiser(*condition), model.denoiser(*condition)
    prepared.prepare([30, 22, 15, 8, 1])
    for t in (30, 22, 22, 15, 8, 1, 7):
        x0 = prepared(X, t)
        numpy.testing.assert_allclose(x0, plain(X, t), rtol=1e-5, atol=1e-6)
        assert (t in prepared._conditions) == (t != 7)
        assert len(prepared._conditions) <= 3


@needs_compiler
def test_long_sampling_by_tinygens_own_network_is_compiled(monkeypatch):
    module = sys.modules["tinygen.models.diffusion.ddpm"]  # the package has a function of that name
    monkeypatch.setattr(module, "COMPILED_FROM", 30)
    seen = []

    def looking(denoiser, x, pairs, rng):
        seen.append(hasattr(denoiser._output, "program"))
        return ddpm(denoiser, x, pairs, rng)

    model, own = model_of(), model_of()
    own.network = lambda x, t: nn.MLP([4, 4], rng=0)(x)
    for m, options in (
        (model, {}),
        (model, {"compile": False}),
        (model, {"sampling_steps": 29}),
        (own, {}),
        (own, {"compile": True}),
    ):
        m.sample(2, sampler=looking, rng=Generator(0), **options)
    assert seen == [True, False, False, False, True]
