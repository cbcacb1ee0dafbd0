"""What all models share: data checked and measured, samples, files, copies, runs."""

import copy
import pickle
import re

import pytest

from tests.support.draws import normals, rows
from tests.support.on_device import DEVICE, np, on_cpu, on_device, placed, tg
from tests.support.small_models import MODELS, models, small, unbounded
from tinygen import data
from tinygen.autodiff.transforms import gradients
from tinygen.errors import CheckpointError
from tinygen.models import load
from tinygen.models.diffusion import DDPM, TARGETS
from tinygen.models.gan import GAN, minimax
from tinygen.random import Generator

GAN, DDPM = map(on_device, (GAN, DDPM))


def states_equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@models
def test_unbounded_data_are_measured_and_samples_come_back_in_their_units(name):
    model = small(name, **unbounded(name))
    factors, shifts = np.array([1, 10, 100, 0]), np.array([0, 5, -1000, 3])
    x = (normals(60, 4) * factors + shifts).astype(np.float32)
    model.prepare(x)
    np.testing.assert_allclose(model.shift.data, x.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.scale.data, [*x.std(axis=0)[:3].tolist(), 1], rtol=1e-5)
    y = model.normalise(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=0), [1, 1, 1, 0], atol=1e-4)
    np.testing.assert_allclose(model.denormalise(y), x, rtol=1e-4, atol=1e-4)
    assert y.dtype == np.float32


BAD_DATA = {
    "width": (np.zeros((3, 5)), r"\(3, 5\); the model takes \(n, 4\)"),
    "one row as a vector": (np.zeros(4), r"\(4,\); the model takes \(n, 4\)"),
    "empty": (np.zeros((0, 4)), "empty"),
    "nan": (np.where(np.arange(12).reshape(3, 4) == 6, np.nan, 0), r"data\[1, 2\] is nan; remove"),
    "inf": (np.where(np.arange(12).reshape(3, 4) == 11, -np.inf, 0), r"data\[2, 3\] is -inf"),
}


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize(("x", "message"), BAD_DATA.values(), ids=BAD_DATA)
@models
def test_data_that_a_model_cannot_take_are_named(name, x, message, bounded):
    model = small(name, **({} if bounded else unbounded(name)))
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        model.fit(x, steps=1)
    for method in ("encode", "reconstruct", "score_samples", "discriminator_logits"):
        if hasattr(model, method):
            with pytest.raises(ValueError, match=message):
                getattr(model, method)(x)
    assert states_equal(model, before)


@models
def test_data_outside_the_bounds_say_what_to_do(name):
    advice = "likelihood='gaussian'" if name == "vae" else "bounded=False"
    for x, message in (
        (np.array([[0, 0.5, 1, 255]]), rf"from 0 to 255; .*\[0, 1\].*rescale.*with {advice}"),
        (np.array([[0, -0.5, 1, 1]]), "from -0.5 to 1;"),
    ):
        with pytest.raises(ValueError, match=message):
            small(name).fit(x, steps=1)
        small(name, **unbounded(name)).fit(x, steps=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small("ae", activation="siul"), "activation 'siul'; did you mean 'silu'"),
        (lambda: small("ae", activation="rellu", hidden=()), "did you mean 'relu'"),
        (lambda: small("dae", corruption="mask"), "corruption 'mask'; did you mean 'masking'"),
        (lambda: small("dae", corruption="x"), "known: gaussian, masking, salt-and-pepper"),
        (lambda: small("dae", amount=1.5), r"masking corruption is in \[0, 1\], not 1.5"),
        (lambda: small("dae", corruption="gaussian", amount=-1), r"in \[0, inf\], not -1"),
        (lambda: small("cae", estimate="hutchison"), "did you mean 'hutchinson'"),
        (lambda: small("cae", penalty=-1), "penalty.*not -1"),
        (lambda: small("vae", likelihood="bernouli"), "did you mean 'bernoulli'"),
        (lambda: small("vae", beta=float("nan")), "beta.*nan"),
        (lambda: small("gan", loss="nonsaturating"), "did you mean 'non-saturating'"),
        (lambda: small("gan", discriminator_steps=0), "discriminator_steps.*0"),
        (lambda: small("gan", discriminator_steps=10**9), "discriminator_steps is at most 1000"),
        (lambda: small("ddpm", T=10**9), "T is at most 100000, not 1000000000"),
        (lambda: small("ddpm", schedule="cosin"), "schedule 'cosin'; did you mean 'cosine'"),
        (lambda: small("ddpm", predict="v"), "prediction 'v'; known: data, noise, velocity"),
        (lambda: small("ddpm", predict="nois"), "did you mean 'noise'"),
        (lambda: small("ddpm", variance="big"), "variance 'big'; known: large, learned, small"),
        (lambda: small("ddpm", T=0), "T is a whole number from 1, not 0"),
        (lambda: small("ae").fit(rows(3), step=3), "training setting 'step'; did you mean 'steps'"),
        (lambda: small("ae").fit(rows(3), steps=-3), "steps.*-3"),
    ],
)
def test_wrong_names_and_numbers_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@models
def test_a_number_of_features_is_a_whole_number(name):
    for features in (0, -2, 2.0, "4", None):
        with pytest.raises(ValueError, match=f"features.*{re.escape(repr(features))}"):
            MODELS[name](features)


@models
def test_a_seed_is_taken_where_a_generator_is(name):
    model = small(name)
    model.prepare(rows(20, 4))
    np.testing.assert_array_equal(model.sample(3, seed=5), model.sample(3, rng=Generator(5)))
    with pytest.raises(TypeError, match="rng=5 and seed=5: pass one of them"):
        model.sample(3, rng=5, seed=5)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3"])
@models
def test_a_number_of_samples_is_a_whole_number(name, n):
    with pytest.raises(ValueError, match=f"samples.*{re.escape(repr(n))}"):
        small(name).sample(n)


def test_the_largest_numbers_are_finite():
    largest = np.finfo(np.float32).max
    x = np.array([[largest, -largest], [-largest, largest]])
    np.testing.assert_array_equal(small("ae", 2, bounded=False).check(x), x)


@pytest.mark.parametrize("bounded", [True, False])
@models
def test_samples_are_rows_of_float32_and_a_function_of_the_generator(name, bounded):
    model = small(name, **({} if bounded else unbounded(name)))
    model.fit(rows(20), steps=3)
    x = model.sample(6)
    assert x.shape == (6, 4) and x.dtype == np.float32 and np.isfinite(x).all()
    assert not np.array_equal(x, model.sample(6))  # the default generator goes on
    tg.manual_seed(0)
    np.testing.assert_array_equal(x, model.sample(6))
    np.testing.assert_array_equal(x, model.sample(6, rng=Generator(0)))
    assert not np.array_equal(x, model.sample(6, rng=Generator(1)))
    rng = Generator(0)
    assert not np.array_equal(model.sample(6, rng=rng), model.sample(6, rng=rng))
    if bounded:
        assert x.min() >= 0 and x.max() <= 1


@models
def test_parameters_and_losses_are_float32(name):
    model = small(name)
    assert all(p.dtype == np.float32 for p in model.parameters())
    for objective in model.objectives():
        terms = objective.loss(rows(5), rng=Generator(0))
        assert all(t.dtype == np.float32 and t.size == 1 for t in terms.values())
        own = list(objective.parameters.values())
        assert all(g.dtype == np.float32 for g in gradients(next(iter(terms.values())), own))


@pytest.mark.parametrize("bounded", [True, False])
@models
def test_a_saved_model_is_the_same_model(name, bounded, tmp_path):
    model = small(name, seed=5, **({} if bounded else unbounded(name)))
    model.fit(rows(20), steps=3)
    path = tmp_path / "model.npz"
    model.save(path)
    again = load(path).to(DEVICE)
    assert type(again).__name__ == type(model).__name__ and again.features == 4
    assert states_equal(again, model)
    np.testing.assert_array_equal(
        again.sample(5, rng=Generator(0)), model.sample(5, rng=Generator(0))
    )
    for method in ("reconstruct", "score_samples", "discriminator_logits"):
        if hasattr(model, method):
            found = []
            for m in (again, model):
                tg.manual_seed(0)
                found.append(getattr(m, method)(rows(5)))
            np.testing.assert_array_equal(*found)
    assert not again.training
    again.fit(rows(20), steps=1)  # and can be trained


def test_every_option_is_kept_in_the_file(tmp_path):
    model = DDPM(3, T=30, schedule="linear", predict="noise", variance="large", width=8, blocks=2)
    model.save(tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    assert (again.target, again.variance.choice) == (TARGETS["noise"], "large")
    np.testing.assert_array_equal(again.schedule.beta, model.schedule.beta)
    gan = GAN(3, hidden=(5,), loss="minimax", discriminator_steps=2, activation="tanh")
    gan.save(tmp_path / "g.npz")
    again = load(tmp_path / "g.npz")
    assert len(again.objectives()) == 3 and again.generator_loss is minimax
    assert again.generator.layers[0].activation == "tanh"


@models
def test_a_file_that_does_not_fit_is_refused(name, tmp_path):
    from tinygen import checkpoint

    model = small(name)
    model.save(tmp_path / "m.npz")
    meta, arrays = checkpoint.read(tmp_path / "m.npz")
    path = next(iter(arrays))
    for changed in (
        ({**meta, "config": {**meta["config"], "features": 5}}, arrays),
        ({**meta, "config": {**meta["config"], "nonsense": 1}}, arrays),
        ({**meta, "model": "Nonsense"}, arrays),
        (meta, {k: v for k, v in arrays.items() if k != path}),
        (meta, arrays | {"model/extra": on_cpu(np.zeros(1))}),
    ):
        checkpoint.write(tmp_path / "bad.npz", *changed)
        with pytest.raises(CheckpointError):
            load(tmp_path / "bad.npz")


def trained(name, seed, run_seed, **options):
    model = small(name, seed=seed, **options)
    model.fit(rows(40), steps=5, batch=8, warmup=0, seed=run_seed)
    return model


@models
def test_a_run_is_a_function_of_its_seeds(name):
    model = trained(name, 1, 2)
    assert states_equal(model, trained(name, 1, 2))
    assert not states_equal(model, trained(name, 2, 2))  # other initial weights
    assert not states_equal(model, trained(name, 1, 3))  # other batches and noise


@models
def test_training_leaves_the_data_as_they_are(name):
    x = rows(20)
    before = x.copy()
    for options in ({}, unbounded(name)):
        small(name, **options).fit(x, steps=2)
        np.testing.assert_array_equal(x, before)


@models
def test_sixty_steps_on_digits_help(name):
    x = placed(data.load("digits").x)
    model = small(name, x.shape[1])

    def distance():
        return np.linalg.norm(model.sample(200).mean(axis=0) - x.mean(axis=0))

    before = distance()
    history = model.fit(x, steps=60, batch=64, lr=5e-3, warmup=5, ema_decay=0.0)
    if name == "gan":  # its losses are a game's: they need not fall
        assert distance() < 0.85 * before
        return
    loss = history["loss"]
    share = 0.99 if name == "vae" else 0.8  # its output starts at the mean of each pixel
    assert len(loss) == 60 and np.mean(loss[-10:]) < share * np.mean(loss[:3])


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("bounded", [True, False])
@models
def test_the_smallest_data(name, n, features, bounded):
    model = small(name, features, **({} if bounded else unbounded(name)))
    x = rows(n, features)
    history = model.fit(x, steps=2, batch=7)
    assert all(np.isfinite(values).all() for values in history.values())
    assert model.sample(1).shape == (1, features) and np.isfinite(model.sample(1)).all()
    if hasattr(model, "reconstruct"):
        assert model.reconstruct(x).shape == x.shape
    if hasattr(model, "score_samples"):
        assert model.score_samples(x).shape == (n,)
    if hasattr(model, "discriminator_logits"):
        assert model.discriminator_logits(x).shape == (n,)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@models
def test_a_copy_of_a_model_is_equal_and_its_own(name, copied, tmp_path):
    model = trained(name, 1, 2, **unbounded(name))
    other = copied(model)
    assert type(other) is type(model) and states_equal(other, model)
    assert other.config == model.config
    np.testing.assert_array_equal(
        other.sample(4, rng=Generator(0)), model.sample(4, rng=Generator(0))
    )
    before = copy.deepcopy(model)
    other.fit(rows(20, seed=9), steps=2, warmup=0)
    assert states_equal(model, before) and not states_equal(other, model)
    other.save(tmp_path / "m.npz")
    np.testing.assert_array_equal(
        load(tmp_path / "m.npz").to(DEVICE).sample(4, rng=Generator(0)),
        other.sample(4, rng=Generator(0)),
    )


@models
def test_a_model_whose_numbers_are_numpys_can_be_saved(name, tmp_path):
    model = small(name, np.int64(4))
    assert type(model.features) is int
    model.save(tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").features == 4


@pytest.mark.parametrize("name", MODELS)
def test_the_checkpoint_of_a_finished_run_is_the_model(name, tmp_path):
    model = small(name)
    model.fit(rows(40), steps=5, warmup=0, folder=tmp_path)
    again = load(tmp_path / "checkpoint.npz").to(DEVICE)
    np.testing.assert_array_equal(
        again.sample(5, rng=Generator(0)), model.sample(5, rng=Generator(0))
    )
