"""Sampling on the GPU as graphs: what the eager sampling gives, in few launches; on the stand-in."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import streams, strict_cupy
from tinygen.models import DDPM
from tinygen.random import Generator

pytestmark = [pytest.mark.cpu_only("the stand-in itself"), pytest.mark.filterwarnings("error")]


@pytest.fixture(autouse=True)
def cupy():
    with strict_cupy.installed() as module:
        yield module


def model(**options):
    made = DDPM(12, T=60, width=16, **options)
    for p in made.parameters():  # what starts at 0 would hide mistakes
        p.data[...] = np.random.default_rng(p.size).normal(0, 0.2, p.shape)
    return made.to("gpu")


@pytest.mark.parametrize(
    "how",
    [
        {"sampler": "ddpm"},
        {"sampler": "ddim"},
        {"sampler": "ddpm", "sampling_steps": 7},
        {"sampler": "dpm-solver", "sampling_steps": 6},
    ],
)
def test_sampling_by_graphs_gives_what_eager_sampling_gives(cupy, how):
    trained = model()
    for seed in (3, 4, 5):
        eager = trained.sample(5, rng=seed, compile=False, **how).get()
        found = trained.sample(5, rng=seed, compile=True, **how).get()
        np.testing.assert_allclose(found, eager, rtol=1e-4, atol=1e-5)


def test_labels_and_guidance_are_sampled_alike(cupy):
    trained = model(classes=3)
    labels = cupy.asarray(np.array([0, 1, 2, 1]))
    for guidance in (1.0, 2.0):
        how = {"labels": labels, "guidance": guidance, "sampling_steps": 5}
        for seed in (3, 4, 5):
            eager = trained.sample(4, rng=seed, compile=False, **how).get()
            found = trained.sample(4, rng=seed, compile=True, **how).get()
            np.testing.assert_allclose(found, eager, rtol=1e-4, atol=1e-5)


def test_the_generator_is_where_eager_sampling_leaves_it(cupy):
    trained = model()
    for steps in (None, 7):
        left = []
        for compiled in (False, True, True, True):
            rng = Generator(3)
            trained.sample(2, rng=rng, sampler="ddpm", sampling_steps=steps, compile=compiled)
            left.append(rng.state)
        assert len(set(left)) == 1


def test_few_steps_are_one_launch_and_many_two_each(cupy):
    trained = model()
    for sampler, steps, most in (("dpm-solver", 25, 8), ("ddpm", 60, 2 * 60 + 20)):
        for _ in range(3):
            streams.Launches.start()
            before = cupy.ndarray.waits
            trained.sample(5, rng=3, sampler=sampler, sampling_steps=steps, compile=True)
        assert streams.Launches.graphs == (1 if steps == 25 else 60)
        assert streams.Launches.single + streams.Launches.graphs <= most
        assert cupy.ndarray.waits - before <= 2  # the times, and how many grey levels there are
