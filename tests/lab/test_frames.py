"""What is seen of a model: exact where an exact answer exists, and nothing that changes the run."""

from __future__ import annotations

import numpy as np
import pytest

from tinygen import data
from tinygen.data import Dataset
from tinygen.errors import NonFiniteError
from tinygen.lab import frames
from tinygen.lab.frames import ARROWS, MAP, SCORES, Scene, frame, reverse_paths, steady, watched
from tinygen.lab.frames import whole_hundredths as hundredths
from tinygen.lab.page import make
from tinygen.models import MODELS
from tinygen.models.diffusion.samplers import SAMPLERS
from tinygen.pictures import moments
from tinygen.random import Generator

pytestmark = pytest.mark.cpu_only("the laboratory computes on the CPU")


@pytest.fixture(scope="module")
def scene():
    return Scene(data.load("two-moons", n=300))


def trained(name, scene, steps=20, **options):
    """A model after so many steps, and its frame."""
    model, settings = make(name, steps, 1, options)
    shown = []
    watched(model, scene, settings, 2, shown.append)
    return model, shown[-1]


# -- the run -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", MODELS)
def test_a_watched_run_is_fit_to_the_last_bit(name, scene):
    """Looking changes nothing, and the model that is seen last is the one that `fit` leaves."""
    model, settings = make(name, 30, 2)
    seen, steps = {}, []

    def look(shown):
        steps.append(shown["step"])
        seen.update((path, array.copy()) for path, array in model.state_dict().items())

    watched(model, scene, settings, 5, look)
    assert steps == moments(30, 5)
    other, settings = make(name, 30, 2)
    other.fit(scene.data.x, settings=settings)
    for path, array in other.state_dict().items():
        assert (array == seen[path]).all(), path


def test_the_time_that_a_frame_takes_is_none_of_the_training(scene, monkeypatch):
    clock = [5.0]

    def slow_frame(model, scene, step, seconds, final):
        clock[0] += 100.0
        return seconds

    monkeypatch.setattr(frames, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(frames, "frame", slow_frame)
    model, settings = make("ae", 3, 0)
    seconds = []
    watched(model, scene, settings, 4, seconds.append)
    assert seconds == [0.0] * 3  # at the steps 0, 1 and 3


def test_looks_rise_from_the_start_to_the_end():
    assert (
        moments(4000, 24)[0] == 0 and moments(4000, 24)[-1] == 4000 and len(moments(4000, 24)) == 24
    )
    gaps = np.diff(moments(4000, 24))
    assert (gaps > 0).all() and gaps[0] < gaps[-1]
    assert moments(1, 24) == [0, 1]


# -- the scene -----------------------------------------------------------------------------------
def test_real_rows_that_are_the_held_out_rows_have_perfect_measures(scene):
    found = scene.measures(scene._apart[0])
    assert found["sliced_wasserstein"] == 0 and found["mmd"] <= 0
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    far = scene.measures(scene._apart[0] + 100)
    assert far["sliced_wasserstein"] > 50 and far["precision"] == far["coverage"] == 0


def test_the_floor_is_of_other_rows_than_those_it_is_compared_with():
    toy = data.load("two-moons", n=3000)
    few = Dataset("x", toy.x, toy.test[:100])  # held out for both
    for held_out, spare in (Scene(toy)._apart, Scene(few)._apart):
        assert len(held_out) == len(spare)
        assert not set(map(tuple, held_out)) & set(map(tuple, spare))


def test_the_grid_goes_row_by_row_from_below(scene):
    x, y, half = scene.window
    grid = scene.grid(4)
    assert grid[0] == pytest.approx([x - 0.75 * half, y - 0.75 * half], abs=1e-6)
    assert grid[1] - grid[0] == pytest.approx([half / 2, 0], abs=1e-6)
    assert grid[-1] == pytest.approx([x + 0.75 * half, y + 0.75 * half], abs=1e-6)


def test_the_columns_of_a_file_are_standardised(tmp_path):
    path = tmp_path / "body.csv"
    x = np.random.default_rng(0).normal([170, 7e4], [10, 9e3], (200, 2))
    np.savetxt(path, x, "%.3f", ",", header="height,weight", comments="")
    scene = Scene(data.load(path))
    assert scene.data.x.mean(axis=0) == pytest.approx([0, 0], abs=1e-5)
    assert scene.data.x.std(axis=0) == pytest.approx([1, 1], rel=1e-5)
    assert scene.data.test.std(axis=0) == pytest.approx([1, 1], rel=0.5)
    assert scene.head["name"] == "body.csv" and scene.head["standardised"]


@pytest.mark.parametrize("rows, columns, message", [
    (100, 3, "x has 3 columns, the laboratory shows two: --columns A,B"),
    (30, 2, "x has 40 points, the laboratory needs at least 60"),
])  # fmt: skip
def test_what_is_not_for_the_plane(rows, columns, message):
    zeros = np.zeros((rows, columns), np.float32)
    with pytest.raises(ValueError, match=message):
        Scene(Dataset("x", zeros, zeros[:10]))


def test_numbers_for_the_page_are_whole_and_bounded():
    assert hundredths([[0.126, -1.0], [np.nan, np.inf]]) == [13, -100, 0, 9900]


# -- what each family shows ----------------------------------------------------------------------
def test_the_score_field_of_a_normal_distribution_is_minus_x():
    """An untrained network puts out 0: the exact velocity for data N(0, I), whose x_t are N(0, I) too.
    The page shows the score times the noise of its time."""
    model, settings = make("ddpm", 1, 0)
    normal = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    scene = Scene(Dataset("normal", normal, normal[:100]))
    shown = frame(model, scene, 0, 0.0, False)
    half, times = (steady("ddpm", model, scene, settings)[k] for k in ("half", "times"))
    axis = (np.arange(ARROWS) + 0.5) * 2 * half / ARROWS - half
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert len(shown["scores"]) == len(times) == len(SCORES)
    for t, scores in zip(times, shown["scores"], strict=True):
        expected = -100 * model.schedule.noise[t] * grid
        assert np.reshape(scores, (-1, 2)) == pytest.approx(expected, abs=0.51)
    assert "paths" not in shown


def test_the_forward_cloud_of_the_page_is_that_of_the_schedule(scene):
    model, settings = make("ddpm", 1, 0)
    told = steady("ddpm", model, scene, settings)
    clean = np.reshape(told["clean"], (-1, 2)) / 100
    assert clean == pytest.approx(
        (scene.data.x[: len(clean)] - scene.data.x.mean(axis=0)) / 1, abs=9
    )
    assert np.square(told["signal"]) + np.square(told["noise"]) == pytest.approx(1, abs=3e-4)
    assert (told["signal"][0], told["noise"][0]) == (1, 0) and len(told["signal"]) == 101
    eps = np.array(told["eps"]) / 100
    assert abs(eps.mean()) < 0.25 and 0.85 < eps.std() < 1.15  # five standard errors of 500 numbers


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_paths_end_where_sample_ends(sampler, scene):
    model, _ = trained("ddpm", scene)
    times, states = reverse_paths(model, sampler, 7, 16, seed=5)
    end = model.sample(16, sampler=sampler, sampling_steps=7, rng=Generator(5))
    assert (model.denormalise(states[-1]) == end).all()
    assert (states[0] == Generator(5).normal((16, 2))).all()
    assert times == [*model.schedule.times(7), 0] and len(states) == 8


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver"])
def test_each_state_of_a_path_is_the_one_of_its_time(sampler, scene):
    """A chain that is broken off at a time has that state; nothing is written over."""
    model, _ = trained("ddpm", scene)
    _, states = reverse_paths(model, sampler, 7, 16)
    first = SAMPLERS[sampler](model.denoiser(), states[0].copy(), model.schedule.pairs(7)[:1], None)
    assert first == pytest.approx(states[1], abs=1e-5)
    assert len({x.tobytes() for x in states}) == 8


@pytest.mark.parametrize("name", ["ae", "dae", "cae"])
def test_arrows_of_autoencoders_end_at_reconstructions(name, scene):
    model, shown = trained(name, scene)
    grid = scene.grid(ARROWS)
    expected = 100 * (model.reconstruct(grid) - grid)
    assert np.reshape(shown["field"], (-1, 2)) == pytest.approx(expected, abs=0.51)
    assert ("curve" in shown) == (name != "dae")


def test_the_curve_is_where_the_reconstructions_lie(scene):
    model, shown = trained("ae", scene, steps=300)
    curve = np.reshape(shown["curve"], (-1, 2)) / 100
    seen = model.reconstruct(scene.data.x)
    gap = np.sqrt(((seen[:, None] - curve) ** 2).sum(axis=2)).min(axis=1)
    step = np.linalg.norm(np.diff(curve, axis=0), axis=1).max()
    assert np.quantile(gap, 0.98) <= step / 2 + 0.01


def test_the_shade_of_autoencoders_is_the_slope_of_the_code(scene):
    """By finite differences, relative to the 90 % quantile."""
    model, shown = trained("ae", scene, steps=100)
    cells, h = scene.grid(MAP).astype(np.float64), 1e-2
    scale = model.scale.data  # the slope is per unit of normalised x
    parts = [(model.encode(cells + h * e) - model.encode(cells - h * e)) / (2 * h) * scale[i]
             for i, e in enumerate(np.eye(2))]  # fmt: skip
    slopes = np.sqrt(sum((p**2).sum(axis=1) for p in parts))
    expected = np.minimum(slopes / np.quantile(slopes, 0.9), 1)
    assert np.array(shown["map"]) / 100 == pytest.approx(expected, abs=0.05)


def test_the_terms_of_the_vae_are_those_of_the_elbo(scene):
    model, shown = trained("vae", scene)
    terms = shown["terms"]
    assert terms["loss"] == pytest.approx(terms["reconstruction"] + terms["kl"], abs=2e-4)
    _, kl = model.elbo(model.check(scene.data.test), Generator(0))
    assert terms["kl"] == pytest.approx(kl.data.mean(), abs=1e-3)


def test_clouds_and_grid_of_the_vae(scene):
    model, shown = trained("vae", scene)
    mean, log_var = model.posterior(model.normalise(scene.data.x[:5]))
    assert np.reshape(shown["means"], (-1, 2))[:5] == pytest.approx(100 * mean.data, abs=0.51)
    assert np.reshape(shown["stds"], (-1, 2))[:5] == pytest.approx(
        100 * np.exp(log_var.data / 2), abs=0.51
    )
    sheet = np.reshape(shown["sheet"], (2, 9, 21, 2))  # lines of equal z_1, then of equal z_2
    for k, codes in ((0, [[-2, 2.5]]), (1, [[2.5, -2]])):
        end = 100 * model.decode(np.array(codes, np.float32))[0]
        assert sheet[k, 0, 20] == pytest.approx(end, abs=0.51)
    assert "sheet" not in trained("vae", scene, latent=1)[1]


def test_the_map_of_the_gan_is_how_its_discriminator_decides(scene):
    model, _ = make("gan", 1, 0)
    logits = np.linspace(-6, 6, MAP * MAP)
    model.discriminator_logits = lambda x: logits[: len(x)]
    shown = np.array(frame(model, scene, 0, 0.0, False)["map"]) / 100
    d = 1 / (1 + np.exp(-logits))
    assert np.sign(shown) * shown**2 == pytest.approx(2 * d - 1, abs=0.011)
    assert shown[0] < -0.9 and shown[-1] > 0.9  # samples, data


def test_the_bound_of_the_gan_is_js_bound_on_held_out_rows(scene):
    model, shown = trained("gan", scene)
    bound = model.js_bound(scene.data.test, rng=Generator(0).child("bound"))
    assert (shown["js"], shown["js_error"]) == pytest.approx(tuple(bound), abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("value", [np.nan, 1e4])
def test_a_model_that_diverged_says_so_or_has_a_frame(name, value, scene):
    model, _ = make(name, 1, 0)
    for p in model.parameters():
        p.data[...] = value
    try:
        shown = frame(model, scene, 1, 0.0, True)
    except (NonFiniteError, ValueError) as error:
        assert " finite, got " in str(error) if name == "vae" else "the run diverged" in str(error)
    else:
        assert np.isfinite(value) and max(map(abs, shown["samples"])) <= 9900
        assert np.isfinite(list(shown["terms"].values())).all()


# -- options -------------------------------------------------------------------------------------
def test_only_what_is_offered_is_made():
    model, settings = make("ddpm", 7, 3, {"schedule": "linear"})
    assert settings.steps == 7 and settings.seed == 3 and model.config["schedule"] == "linear"
    for name, options, message in [
        ("resnet", {}, "unknown model 'resnet'"),
        ("ae", {"schedule": "linear"}, "unknown option of ae 'schedule'"),
        ("ae", {"latent": 10**9}, r"latent is one of \[1, 2\], not 1000000000"),
        ("ae", {"latent": [1]}, "latent is one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(name, 7, 3, options)
    with pytest.raises(ValueError, match="steps is a whole number from 1"):
        make("ae", 0, 3)
