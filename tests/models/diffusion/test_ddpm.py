"""The diffusion model as its users meet it: options, labels, files, the least of everything."""

from itertools import product
from math import sqrt

import numpy
import pytest
import scipy.special
import scipy.stats

from tests.support.diffusion import (
    BOTH,
    BOUND,
    CLASSES,
    DDPM,
    GAUSSIAN,
    even,
    half,
    knowing_classes,
    normals,
    normals_on_cpu,
    rows,
    says,
    within,
)
from tests.support.interrupted import Interrupted, stop_at
from tests.support.on_device import (
    DEVICE,
    np,
    on_cpu,
    placed,
)
from tinygen.models import load
from tinygen.models.diffusion import (
    SCHEDULES,
    NoiseSchedule,
    annealed_langevin,
    ode_log_likelihood,
    score,
    variational_bound,
)
from tinygen.random import Generator


def test_what_is_best_for_many_features_is_the_default_above_256():
    few, many = (DDPM(n, blocks=1, T=25) for n in (256, 257))
    for model, predict, schedule, width in (
        (few, "velocity", "cosine", 256),
        (many, "data", "log-normal", 512),
        (
            DDPM(257, blocks=1, T=25, predict="noise", schedule="linear", width=3),
            "noise", "linear", 3,
        ),
    ):  # fmt: skip
        assert (model.config["predict"], model.network.last.weight.shape[0]) == (predict, width)
        numpy.testing.assert_array_equal(model.schedule.abar, SCHEDULES[schedule](25).abar)
        named = {name: model.config[name] for name in ("predict", "schedule", "width")}
        assert named == {"predict": predict, "schedule": schedule, "width": width}


def test_bounded_data_go_to_minus_one_and_one_and_back():
    model = DDPM(4, width=16, blocks=1, T=25)
    x = rows(5)
    x[0] = np.array([0, 1, 0.5, 0.25])
    np.testing.assert_array_equal(model.normalise(x)[0], [-1, 1, 0, -0.5])
    np.testing.assert_allclose(model.denormalise(model.normalise(x)), x, atol=1e-7)
    model.network.last.bias.data[...] = 1000 * np.array([1, -1, 1, -1])  # a network gone wild
    samples = model.sample(20)
    assert samples.min() >= 0 and samples.max() <= 1


def test_samples_lie_on_the_levels_of_the_training_data():
    model = DDPM(2, T=3, width=4, blocks=1)
    x = placed((numpy.random.default_rng(0).integers(0, 5, (50, 2)) / 4).astype(np.float32))
    model.fit(x, steps=2)
    found = on_cpu(model.sample(200, sampler="ddpm")) * 4
    assert numpy.unique(found).tolist() == [0, 1, 2, 3, 4]
    model.fit(rows(50, 2), steps=1)
    assert len(numpy.unique(on_cpu(model.sample(200, sampler="ddpm")))) > 100


def test_the_usual_sampler_is_the_chain_and_for_images_dpm_solver_in_25_steps():
    def draws(model, **options):
        return model.sample(20, rng=Generator(1), **options)

    images = says(0.5, features=3, T=40)
    images.network.last.weight.data[...] = normals(4, 3)
    usual = draws(images)
    np.testing.assert_array_equal(usual, draws(images, sampler="dpm-solver", sampling_steps=25))
    np.testing.assert_array_equal(
        draws(images, sampling_steps=7), draws(images, sampler="dpm-solver", sampling_steps=7)
    )
    kept = {"known": np.zeros(3), "mask": np.zeros(3, bool), "resample": 2}
    np.testing.assert_array_equal(draws(images, **kept), draws(images, sampler="ddpm", **kept))
    points = GAUSSIAN.model(even(40))
    np.testing.assert_array_equal(draws(points), draws(points, sampler="ddpm"))
    short = DDPM(3, width=4, blocks=1, T=21)
    np.testing.assert_array_equal(draws(short), draws(short, sampler="dpm-solver"))


def test_scores_bounds_and_likelihoods_are_those_of_the_label():
    schedule = NoiseSchedule(BOUND[3])
    # The true kernels of each class.
    v = schedule.abar * 0.06 + 1 - schedule.abar
    share = schedule.alpha[1:] / schedule.beta[1:]
    model = knowing_classes(schedule, variance=[0.0, *(1 / (share + 1 / v[:-1])).tolist()])
    x = placed(numpy.full((4000, 1), -0.7, np.float32))
    for label, own in enumerate(CLASSES):
        bound = variational_bound(model, x, labels=label, rng=Generator(0)).total
        assert within(bound, -own.log_density(numpy.array([[-0.7]])), rounding=1e-6)
    model = knowing_classes(even(30, -9.0, 2.0))
    x = normals_on_cpu(20, 1)
    for label, own in ((0, CLASSES[0]), (1, CLASSES[1]), (None, BOTH)):
        found = ode_log_likelihood(model, placed(x.astype(np.float32)), labels=label)
        expected = own.log_density(x, noise=sqrt(1 / model.schedule.snr[1]))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
        abar, h = model.schedule.abar[9], 1e-5
        slope = (own.log_density(x + h, abar) - own.log_density(x - h, abar)) / (2 * h)
        np.testing.assert_allclose(
            score(model, placed(x), 9, label)[:, 0], slope, rtol=1e-4, atol=1e-4
        )


def test_a_tenth_of_the_labels_is_dropped_in_training():
    model, seen = DDPM(2, T=25, classes=3, width=4, blocks=1), []
    network = model.network
    model.network = lambda x, t, y: seen.append(on_cpu(y)) or network(x, t, y)
    n = 20_000
    labels = numpy.arange(n) % 3
    x = on_cpu(rows(n, 2))
    model.loss(placed(x), placed(labels), rng=Generator(0))
    dropped = seen[0] == 3
    assert abs(dropped.mean() - 0.1) < 4 * sqrt(0.09 / n)
    np.testing.assert_array_equal(seen[0][~dropped], labels[~dropped])
    counts = numpy.bincount(labels[dropped], minlength=3)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3  # of every class alike
    model.loss(placed(x), rng=Generator(0))  # held-out rows come without
    assert (seen[1] == 3).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "with labels"),
        ([0, 1, 2, 3], "labels 0..3 for 3 classes"),
        ([0, -1, 2, 1], r"labels -1\.\.2"),
        ([0.0, 1.0, 2.0, 1.0], "whole numbers, not float64"),
        ([True, False, True, True], "whole numbers, not bool"),
        ([0, 1, 2], r"labels are 4 whole numbers, not int64 of shape \(3,\)"),
        ([[0, 1, 2, 1]], r"\(1, 4\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message):
    model = DDPM(2, T=25, classes=3, width=4, blocks=1)
    with pytest.raises(ValueError, match=message):
        model.fit(rows(4, 2), labels=labels, steps=1)
    if labels is None:
        return
    for call in (
        lambda: model.sample(4, labels=labels),
        lambda: variational_bound(model, rows(4, 2), labels=labels),
        lambda: ode_log_likelihood(model, rows(4, 2), labels=labels),
        lambda: score(model, rows(4, 2), 3, labels),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_labels_and_guidance_where_there_are_none():
    plain, classes = (DDPM(2, T=25, classes=k, width=4, blocks=1) for k in (0, 3))
    for call in (
        lambda: plain.fit(rows(4, 2), labels=[0, 0, 0, 0], steps=1),
        lambda: plain.sample(4, labels=0),
        lambda: variational_bound(plain, rows(4, 2), labels=0),
    ):
        with pytest.raises(ValueError, match="classes"):
            call()
    for options, message in (
        ({"guidance": 2.0}, "give some"),
        ({"guidance": float("nan"), "labels": 1}, "finite.*nan"),
        ({"guidance": float("inf"), "labels": 1}, "finite.*inf"),
    ):
        with pytest.raises(ValueError, match=message):
            classes.sample(4, **options)
    plain.fit(rows(4, 2), steps=1)  # and a call that failed left nothing behind
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        classes.fit(rows(4, 3), labels=[0, 1, 2, 0], steps=1)
    assert [a.shape for a in classes.prepare(rows(5, 2))] == [(5, 2)]


def test_a_class_without_rows_is_told():
    model = DDPM(2, T=25, classes=4, width=4, blocks=1)
    with pytest.warns(UserWarning, match=r"no row to learn the labels \[1, 3\] from"):
        model.fit(rows(4, 2), labels=[0, 2, 2, 0], steps=1)
    assert np.isfinite(model.sample(3, labels=1)).all()
    for classes in (-1, 1.5, "3"):
        with pytest.raises(ValueError, match=f"classes.*{classes}"):
            DDPM(2, T=25, classes=classes, width=4, blocks=1)


@pytest.mark.cpu_only("many steps: the stand-in takes a millisecond for each kernel")
def test_a_model_learns_its_classes():
    """Trained for a second, it puts each label where its class is."""
    x = numpy.concatenate([of.samples(300, seed=i) for i, of in enumerate(CLASSES)])
    labels = numpy.repeat([0, 1], 300)
    model = DDPM(1, T=50, classes=2, bounded=False, width=32, blocks=1)
    model.fit(x, labels=labels, steps=400, lr=5e-3, batch=128, ema_decay=0.98)
    for label, sign in ((0, -1), (1, 1)):
        found = model.sample(300, labels=label, rng=Generator(0))
        assert (sign * found > 0).mean() > 0.9 and abs(found.mean() - sign) < 0.3


OPTIONS = [
    {"predict": "noise", "schedule": "linear", "weight": "snr", "variance": "large"},
    {"predict": "data", "schedule": "sigmoid", "weight": "min-snr", "variance": "learned"},
    {"predict": "velocity", "schedule": "cosine", "classes": 3, "bounded": False},
    {"variance": [0.01] * 31},
    {"variance": numpy.full(31, 0.01), "blocks": 2, "width": 6},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_is_kept_in_a_file_and_through_a_stop(options, tmp_path):
    options = {"T": 30, "width": 8, "blocks": 1, **options}
    x, labels = rows(20, 3), [0, 1, 2, 1] * 5 if "classes" in options else None
    run = {"labels": labels, "steps": 6, "batch": 8, "warmup": 0, "ema_decay": 0.5}
    whole = DDPM(3, **options)
    history = whole.fit(x, **run)
    stopped = DDPM(3, **options)
    stop_at(stopped, 4)
    with pytest.raises(Interrupted):
        stopped.fit(x, **run, folder=tmp_path, checkpoint_seconds=0.0)
    resumed = DDPM(3, **options, seed=9)  # other initial weights
    assert resumed.fit(x, **run, folder=tmp_path, resume=True) == history
    whole.save(tmp_path / "m.npz")
    for other in (
        resumed,
        load(tmp_path / "m.npz").to(DEVICE),
        load(tmp_path / "checkpoint.npz").to(DEVICE),
    ):
        assert other.config | {"seed": 0} == whole.config
        found, expected = (
            m.sample(4, rng=Generator(1), **({"labels": 1, "guidance": 2.0} if labels else {}))
            for m in (other, whole)
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": NoiseSchedule([0.9, 0.999])},
        {"predict": half},
        {"weight": lambda snr: snr},
    ],
    ids=["schedule", "target", "weight"],
)
def test_parts_of_ones_own_train_and_sample_but_cannot_be_saved(options, tmp_path):
    model = DDPM(2, **{"T": 25, "width": 4, "blocks": 1, **options})
    model.fit(rows(9, 2), steps=2)
    assert np.isfinite(model.sample(3)).all()
    with pytest.raises(TypeError, match="use parts known by name"):
        model.save(tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("steps", "variance"),
    [*product([1, 2], ["small", "large", "given"]), (2, "learned")],
)
@pytest.mark.parametrize("bounded", [True, False])
def test_the_shortest_chain_of_one_constant_number(steps, variance, bounded):
    """T = 1, one row, one feature: all that a model does is still finite."""
    variance = [0.1] * (steps + 1) if variance == "given" else variance
    model = DDPM(1, T=steps, variance=variance, bounded=bounded, width=4, blocks=1)
    x = np.full((1, 1), 0.5, np.float32)
    model.fit(x, steps=2)
    for sampler in ("ddpm", "ddim", "dpm-solver"):
        found = model.sample(1, sampler=sampler)
        assert found.shape == (1, 1) and np.isfinite(found).all()
    with pytest.warns(UserWarning, match="cannot follow"):
        assert np.isfinite(annealed_langevin(model, 1, sampling_steps=1, corrector_steps=1)).all()
    assert np.isfinite(variational_bound(model, x).total).all()
    assert np.isfinite(ode_log_likelihood(model, x)).all()
    assert np.isfinite(score(model, x, steps)).all()
    assert (on_cpu(model.sample(1, known=x, mask=[True])) == 0.5).all()


def test_data_with_nan_are_named_wherever_they_enter():
    model = DDPM(2, T=5, width=4, blocks=1)
    x = rows(3, 2)
    x[1, 0] = np.nan
    for call in (
        model.fit,
        lambda x: variational_bound(model, x),
        lambda x: ode_log_likelihood(model, x),
    ):
        with pytest.raises(ValueError, match=r"data\[1, 0\] is nan"):
            call(x)
