"""Steps on the GPU: recorded once, captured as one graph, replayed with one launch; on the stand-in."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from tests.compile.steps import FEATURES, MODELS, digits
from tests.support import streams, strict_cupy
from tinygen import backend

pytestmark = [pytest.mark.cpu_only("the stand-in itself"), pytest.mark.filterwarnings("error")]
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def cupy():
    """The stand-in, and no work left behind."""
    with strict_cupy.installed() as module:
        backend.gpu_problem.cache_clear()
        yield module
    backend.gpu_problem.cache_clear()


def rows(cupy, name, steps, size=16):
    """A batch for each step."""
    x = digits(size + steps, FEATURES.get(name, 64))
    return [cupy.asarray(x[i : i + size]) for i in range(steps)]


def distance(a, b):
    """The largest difference of two states, in units of the largest element of its array."""
    assert a.keys() == b.keys()
    return max(
        float(np.abs(a[k] - b[k]).max() / max(np.abs(a[k]).max(), 1e-6))
        for k in a
        if a[k].size and a[k].dtype.kind == "f"
    )


@every_model
def test_a_replayed_step_of_a_model_does_what_the_eager_one_does(cupy, name):
    eager, other = MODELS[name]("gpu"), MODELS[name]("gpu")
    step = tg.compile(other.step)
    for i, x in enumerate(rows(cupy, name, 5)):
        right = eager.step(x)
        streams.Launches.start()
        before = cupy.ndarray.waits
        found = step(x)
        if i > 1:  # recorded, captured, then replayed
            assert (streams.Launches.single, streams.Launches.graphs) == (1, 1)
            assert cupy.ndarray.waits == before
        assert found.keys() == right.keys()
        for term in right:
            assert float(found[term]) == pytest.approx(float(right[term]), rel=1e-4, abs=1e-6)
    assert distance(eager.arrays(), other.arrays()) < 2e-3
    assert eager.counters() == other.counters()
