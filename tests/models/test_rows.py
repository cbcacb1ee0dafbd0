"""Rows in blocks: moments, memory and draws are those of all rows at once."""

import tracemalloc

import pytest

from tests.support.draws import rows
from tests.support.on_device import np, placed
from tests.support.small_models import MODELS, small, unbounded
from tinygen.models import rows as models_rows
from tinygen.random import Generator


@pytest.mark.cpu_only("memory is measured on the CPU")
@pytest.mark.parametrize(("name", "classes"), [*((name, 0) for name in MODELS), ("ddpm", 2)])
def test_samples_take_the_memory_of_the_samples(name, classes):
    """Not that of the hidden layers, which is 3 kB a row and more."""
    model = MODELS[name](
        2, **unbounded(name), **({"T": 2, "classes": classes} if name == "ddpm" else {})
    )

    def peak(n):
        options = {"labels": np.arange(n) % 2, "guidance": 2.0} if classes else {}
        tracemalloc.start()
        model.sample(n, rng=0, **options)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    rows = 2 * models_rows.BLOCK
    assert (peak(2 * rows) - peak(rows)) / rows < 500  # bytes


@pytest.mark.parametrize("name", MODELS)
def test_blocks_of_rows_have_the_same_draws(name, monkeypatch):
    model = small(name)
    for p in model.parameters():
        p.data[...] = placed(Generator(5).normal(p.shape, 0.0, 0.5))
    whole = model.sample(23, rng=3)
    monkeypatch.setattr(models_rows, "BLOCK", 5)
    np.testing.assert_allclose(model.sample(23, rng=3), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.sample(9, rng=3), whole[:9], rtol=1e-4, atol=1e-5)


@pytest.mark.cpu_only("memory is measured on the CPU")
@pytest.mark.parametrize(
    ("name", "options"),
    [("vae", {}), ("vae", {"likelihood": "gaussian"}), ("ddpm", {"bounded": False}), ("gan", {})],
)
def test_data_are_prepared_in_little_memory(name, options):
    x = rows(400_000, 20)
    model = MODELS[name](20, **options)
    tracemalloc.start()
    model.prepare(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * x.nbytes


@pytest.mark.cpu_only("memory is measured on the CPU")
def test_moments_of_wide_rows_take_a_few_megabytes():
    x = rows(4096, 784)
    tracemalloc.start()
    models_rows.moments(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * models_rows.BYTES


@pytest.mark.parametrize(
    ("n", "copies"),
    [*((n, 1) for n in (1, 2, 4095, 4096, 4097, 10_000)), (1000, 300), (3, 100_000)],
)
def test_moments_in_blocks_are_those_of_all_rows(n, copies):
    """Also where the mean is large beside the deviation, and exactly for what is constant.

    Of many columns, or very many, fewer rows make a block."""
    x = np.stack([rows(n, 1)[:, 0], 1e4 + rows(n, 1, seed=1)[:, 0], np.full(n, 0.1)], axis=1)
    x = np.tile(x.astype(np.float32), copies)
    mean, std = models_rows.moments(x)
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(std, x.std(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-12)
    assert mean[2] == np.float32(0.1) and std[2] == 0
