"""On a real GPU: the kernels' numbers, the models' gradients, and what goes between devices.

`python -m pytest --device gpu` runs the other tests there; what is here compares the two devices.
"""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from benchmarks.gpu import check
from benchmarks.gpu.table import BY_NAME
from tinygen import backend
from tinygen.models import MODELS, load
from tinygen.random import Generator

pytestmark = pytest.mark.gpu

SEED = 20
X = np.random.default_rng(0).random((96, 20), np.float32)


# -- kernels: the C++ build has the same bits, float64 nearly the same numbers -------------------------
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize("shape", check.SHAPES, ids=lambda shape: "{}x{}".format(*shape))
@pytest.mark.parametrize("name", BY_NAME)
def test_a_kernel_is_right(name, shape):
    found = check.compare(BY_NAME[name], shape, SEED)
    assert check.close(BY_NAME[name], shape, found), found
    assert not found.get("bits"), found


@pytest.mark.parametrize("shape", [(7, 143), (3, 4099)])
@pytest.mark.parametrize("name", BY_NAME)
def test_the_launch_geometry_and_the_place_of_the_counter_change_no_bit(name, shape):
    assert check.moved_by_geometry(BY_NAME[name], shape, SEED) == 0
    assert check.moved_by_counter(BY_NAME[name], shape, SEED) == 0


def test_a_generator_draws_the_same_on_both_devices():
    for draw in (
        lambda rng, device: rng.bits(1001, device=device),
        lambda rng, device: rng.uniform((7, 143), -1, 3, device=device),
        lambda rng, device: rng.uniform(5, dtype=np.float64, device=device),
        lambda rng, device: rng.integers(-5, 2**31, (3, 5), device=device),
        lambda rng, device: rng.bernoulli(0.3, 100, device=device),
    ):
        on_cpu, on_gpu = (draw(Generator(SEED, 3), device) for device in ("cpu", "gpu"))
        np.testing.assert_array_equal(on_gpu.get(), on_cpu, strict=True)


def test_a_counter_on_the_gpu_advances_the_stream_there():
    m = backend.namespace_for("gpu")
    rng = Generator(SEED)
    rng.counter = m.zeros(2, np.uint64)
    expected = Generator(SEED)
    for _ in range(3):
        np.testing.assert_array_equal(rng.bits(10, device="gpu").get(), expected.bits(10))
        rng.state = SEED, 0  # as when a captured graph is replayed
        rng.counter[:1] += np.uint64(1)


# -- models ----------------------------------------------------------------------------------------
def pair(name):
    """A model with equal parameters on both devices, each with its data."""
    models = [MODELS[name](X.shape[1]) for _ in range(2)]
    for p in models[0].parameters():  # some start as zeros
        p.data[...] += 0.05 * np.random.default_rng(1).standard_normal(p.shape)
    models[1].load_state_dict(models[0].state_dict())
    models[1].to("gpu")
    return [(models[0], X), (models[1], backend.to_device(X, "gpu"))]


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_the_cpu(name):
    found = []
    for model, x in pair(name):
        for objective in model.objectives():
            parameters = list(objective.parameters.values())
            loss = next(iter(objective.loss(x, rng=Generator(SEED)).values()))
            gradients = tg.gradients(loss, parameters)
            assert {g.device for g in gradients} == {model.device}
            found += [loss.item(), *(g.numpy() for g in gradients)]
    half = len(found) // 2
    for a, b in zip(found[:half], found[half:], strict=True):
        assert np.linalg.norm(np.subtract(a, b)) <= 1e-4 * np.linalg.norm(a)


@pytest.mark.parametrize("name", MODELS)
def test_training_goes_as_on_the_cpu(name):
    (model, x), (on_gpu, x_gpu) = pair(name)
    before = on_gpu.state_dict()
    history = model.fit(x, steps=3, batch=32)
    for term, values in on_gpu.fit(x_gpu, steps=3, batch=32).items():
        np.testing.assert_allclose(values, history[term], rtol=1e-3)
    assert any((value != before[name]).any() for name, value in on_gpu.state_dict().items())
    assert backend.namespace_of(on_gpu.sample(3, rng=Generator(0))).device == "gpu"


# -- between the devices ---------------------------------------------------------------------------
def test_a_move_there_and_back_changes_no_bit():
    x = tg.tensor(X, requires_grad=True)
    there = x.to("gpu")
    np.testing.assert_array_equal(there.to("cpu").data, X, strict=True)
    (there * there).sum().backward()
    np.testing.assert_array_equal(x.grad.data, 2 * X)
    model = MODELS["vae"](X.shape[1])
    state = model.state_dict()
    for name, value in model.to("gpu").to("cpu").state_dict().items():
        np.testing.assert_array_equal(value, state[name], strict=True)


@pytest.mark.parametrize("name", MODELS)
def test_a_file_goes_from_one_device_to_the_other(name, tmp_path):
    model = MODELS[name](X.shape[1]).to("gpu")
    history = model.fit(backend.to_device(X, "gpu"), steps=2, batch=32, folder=tmp_path)
    loaded = load(tmp_path / "checkpoint.npz")
    assert loaded.device == "cpu"
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[key], value, strict=True)
    resumed = MODELS[name](X.shape[1], seed=9)
    assert resumed.fit(X, steps=2, batch=32, folder=tmp_path, resume=True) == history


def test_nothing_moves_by_itself():
    x, y = tg.tensor(X), tg.tensor(X).to("gpu")
    model = MODELS["vae"](X.shape[1]).to("gpu")
    for mixed in (
        lambda: x + y,
        lambda: y @ X.T,
        lambda: tg.concatenate([y, x]),
        lambda: tg.mse(y, X),
        lambda: model.encode(X),
        lambda: model.fit(X, steps=1),
    ):
        with pytest.raises(TypeError, match=r"cpu.*gpu|gpu.*cpu"):
            mixed()
    with pytest.raises(TypeError):
        np.asarray(y.data)
