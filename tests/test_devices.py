"""Two devices: moves, errors where they mix, and the same results on both.

The GPU is the stand-in of strict_cupy.py, on which every implicit transfer and every name that
CuPy lacks is an error; these tests always run. The rest of the suite runs there with
`python -m pytest --device gpu`.
"""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest

import tinygen as tg
from tests.support import on_device
from tests.support.cuda_on_cpu import COMPILER
from tests.support.interrupted import Interrupted, stop_at
from tests.support.strict_cupy import installed
from tinygen import backend, data, distributions, nn
from tinygen.__main__ import main
from tinygen.backend import to_device
from tinygen.errors import DeviceError
from tinygen.evaluation import evaluate
from tinygen.models import MODELS, load
from tinygen.ops import shape
from tinygen.random import Generator

pytestmark = pytest.mark.filterwarnings("error")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels with")

X = data.load("digits").x[:60]
SMALL = {
    **{name: {"hidden": (8,), "latent": 3} for name in MODELS},
    "ddpm": {"width": 8, "blocks": 1, "T": 25},
}
ROUNDING = {"rtol": 2e-4, "atol": 2e-5}


@pytest.fixture(autouse=True)
def cupy():
    """CuPy, or its stand-in."""
    there = on_device.DEVICE == "gpu"
    with nullcontext(sys.modules.get("cupy")) if there else installed() as module:
        backend.gpu_problem.cache_clear()
        yield module
    backend.gpu_problem.cache_clear()


def both(values, **options):
    return [tg.tensor(values, device=device, **options) for device in ("cpu", "gpu")]


def equal(found, expected):
    np.testing.assert_array_equal(
        found.numpy() if isinstance(found, tg.Tensor) else to_device(found, "cpu"), expected
    )


# -- moves ---------------------------------------------------------------------------------------
def test_a_tensor_is_where_it_is_made_or_moved(cupy):
    host, there = both([1.0, 2.0])
    assert (host.device, there.device) == ("cpu", "gpu") and type(there.data) is cupy.ndarray
    assert there.to("gpu") is there and host.to("cpu") is host
    back, moved = there.to("cpu"), host.to("gpu")
    assert back.device == "cpu" and type(back.data) is np.ndarray and moved.device == "gpu"
    for t in (host, there, back, moved, tg.to(np.array([1.0, 2.0]), "gpu")):
        equal(t, [1.0, 2.0])
    assert type(there.numpy()) is np.ndarray
    there.numpy()[0] = 9.0  # a copy
    equal(there, [1.0, 2.0])
    assert tg.zeros((2,), device="gpu").device == tg.ones((2,), device="gpu").device == "gpu"


def test_a_new_tensor_of_an_array_is_a_copy_on_its_device(cupy):
    array = cupy.asarray(np.array([1.0, 2.0], np.float32))
    t = tg.tensor(array, requires_grad=True)
    array[0] = 5.0
    assert t.device == "gpu" and t.dtype == np.float32 and t.is_leaf
    equal(t, [1.0, 2.0])
    assert tg.tensor(t, device="cpu", dtype=float).data.dtype == np.float64


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_come_back_through_moves(create_graph):
    """A graph that crosses twice has the gradients of the same graph on one device."""

    def loss(x, w, there):
        h = tg.tanh(x.to(there) * w)
        return (tg.logsumexp(h.to("cpu") * x) * (h * h).sum().to("cpu")) ** 2

    found = []
    for there in ("cpu", "gpu"):
        x = tg.tensor([0.3, -0.7, 1.1], requires_grad=True)
        w = tg.tensor([0.5, 1.5, -1.0], requires_grad=True, device=there)
        first = tg.gradients(loss(x, w, there), [x, w], create_graph=create_graph)
        assert [g.device for g in first] == ["cpu", there]
        if create_graph:
            first += tg.gradients((first[0] * first[0]).sum(), [x, w])
            assert [g.device for g in first[2:]] == ["cpu", there]
        found.append([g.numpy() for g in first])
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-12)


def test_backward_accumulates_on_each_device():
    x, w = tg.tensor(2.0, requires_grad=True), tg.tensor(3.0, requires_grad=True, device="gpu")
    for _ in range(2):
        (x.to("gpu") * w).backward()
    assert (x.grad.device, w.grad.device) == ("cpu", "gpu")
    assert (x.grad.item(), w.grad.item()) == (6.0, 4.0)


def test_numbers_and_lists_are_on_no_device(cupy):
    t = tg.tensor([1.0, 2.0, 3.0], requires_grad=True, device="gpu")
    for y in (
        t * 2.0, 2 * t, np.float32(2.0) * t, t * np.array(2.0), t * [2.0, 2.0, 2.0], t[[0, 1]],
        t > 0.5, t >= [0.5, 1.0, 2.0], tg.where(True, t, 0.0), tg.where(t > 1, 1.0, 0.0),
        tg.stack([t[0], 1.0]), tg.clip(t, [0.0, 1.0, 2.0], 5.0), 2.0**t, t.data * t, t.data > t,
        tg.gradients(t * t, t, [1.0, 0.0, 0.0]), tg.grad(lambda a, b: (a * b).sum(), 1)(t, 2.0),
        tg.diagonal(t[None] * t[:, None]), tg.gelu(t), tg.erf(t),
    ):  # fmt: skip
        assert type(y) is tg.Tensor and y.device == "gpu"
    number = cupy.asarray(2.0)  # without axes it is as weak as a number
    assert (tg.tensor(np.float32([1.0]), device="gpu") * number).dtype == np.float32


def test_text_copies_and_pickles():
    t = tg.tensor([1.0, 2.0], requires_grad=True, name="w", device="gpu")
    (t * t).sum().backward()
    assert repr(t) == "tensor([1., 2.], device='gpu', requires_grad=True)"
    assert f"{t.sum():.1f}" == "3.0" and t.sum().item() == 3.0
    for twin in (copy.deepcopy(t), pickle.loads(pickle.dumps(t)), copy.copy(t)):
        assert twin.device == "gpu" and twin.is_leaf and twin.name == "w"
        equal(twin, [1.0, 2.0])
        equal(twin.grad, [2.0, 4.0])
    assert list(range(5))[tg.tensor(3, device="gpu")] == 3


# -- devices that mix ----------------------------------------------------------------------------
HOST = np.ones(3)


@pytest.mark.parametrize(
    ("what", "mixed"),
    [
        ("add", lambda c, g: c + g),
        ("multiply", lambda c, g: g * HOST),
        ("multiply", lambda c, g: HOST * g),
        ("subtract", lambda c, g: g.data - c),
        ("matmul", lambda c, g: g @ c),
        ("where", lambda c, g: tg.where(HOST > 0, g, g)),
        ("concatenate", lambda c, g: tg.concatenate([c, g])),
        ("einsum", lambda c, g: tg.einsum("i,i", c, g)),
        ("mse", lambda c, g: tg.mse(g, HOST)),
        ("greater", lambda c, g: g > HOST),
        ("equal", lambda c, g: c == g),
        ("index", lambda c, g: g[np.array([0, 1])]),
        ("index", lambda c, g: c[g > 0]),
        ("clip", lambda c, g: tg.clip(g, HOST, None)),
        ("backward", lambda c, g: (g * g).backward(HOST)),
        ("gradient", lambda c, g: setattr(g, "grad", c.detach())),
        ("gradient", lambda c, g: tg.gradients(c * c, c, g.detach())),
        ("data", lambda c, g: MODELS["ae"](3).check(g)),
        ("data", lambda c, g: MODELS["ae"](3).to("gpu").check(HOST[None])),
        ("codes", lambda c, g: MODELS["vae"](3).to("gpu").decode(HOST[None])),
        ("indices", lambda c, g: nn.Embedding(3, 2, rng=Generator(0)).to("gpu")(np.array([0]))),
        ("parameter", lambda c, g: distributions.Normal(c, abs(g))),
        ("subtract", lambda c, g: distributions.Normal(c, 1.0).log_prob(g)),
        ("p on the gpu, q", lambda c, g: distributions.kl_discrete(g.data / 3, HOST / 3)),
    ],
)
def test_mixed_devices_name_what_and_both(what, mixed):
    c, g = both(HOST, requires_grad=True)
    with pytest.raises(TypeError) as caught:
        mixed(c, g)
    message = str(caught.value)
    assert what in message and "cpu" in message and "gpu" in message and ".to(" in message


def test_nothing_leaves_the_gpu_unasked():
    t = tg.tensor([1.0], device="gpu")
    for convert in (np.asarray, lambda t: np.array([t]), lambda t: np.add(HOST, t, out=HOST)):
        with pytest.raises(TypeError):
            convert(t)
    with pytest.raises(TypeError, match=r"t\.numpy\(\)"):
        np.asarray(t)


@pytest.mark.parametrize("bad", [[[1.0, 2.0], [2.0, 1.0]], np.ones((2, 2)), -np.eye(2)])
def test_a_matrix_without_a_cholesky_factor_gives_nan_or_an_error(bad):
    """NaN where nothing waits for values; CuPy itself gives numbers."""
    stack = np.stack([[[4.0, 2.0], [2.0, 3.0]], bad]).astype(np.float32)
    factors = tg.cholesky(tg.tensor(stack, device="gpu"))
    assert factors.dtype == np.float32 and np.isnan(factors.numpy()[1]).all()
    np.testing.assert_allclose(factors.numpy()[0], np.linalg.cholesky(stack[0]), rtol=1e-6)
    with pytest.raises(ValueError, match="not positive definite: the smallest eigenvalue is"):
        distributions.MultivariateNormal(0.0, tg.tensor(bad, device="gpu"))


# -- modules -------------------------------------------------------------------------------------
class Net(nn.Module):
    def __init__(self):
        self.layers = nn.MLP([3, 4, 2], "tanh", rng=Generator(0))
        self.dropout = nn.Dropout(0.5, rng=Generator(1))
        self.shift = tg.tensor(np.float32([1.0, 2.0]))
        self.tied = self.layers.layers[0].weight

    def __call__(self, x):
        return self.dropout(self.layers(x)) + self.shift


@needs_compiler
def test_a_module_moves_in_place():
    net, rows = Net(), np.ones((5, 3), np.float32)
    parameters = net.parameters()
    here = net(rows)
    here.sum().backward()
    assert net.device == "cpu" and net.to("gpu") is net and net.device == "gpu"
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert all(p.device == "gpu" and p.is_leaf and p.grad is None for p in parameters)
    assert net.shift.device == "gpu" and net.tied is net.layers.layers[0].weight
    net.dropout.rng.state = 1, 0
    there = net(to_device(rows, "gpu"))
    np.testing.assert_allclose(there.numpy(), here.numpy(), **ROUNDING)
    there.sum().backward()
    assert all(p.grad.device == "gpu" for p in parameters)
    with pytest.raises(ValueError, match='"cpu" or "gpu", not \'cuda\''):
        net.to("cuda")


def test_a_state_is_numpys_and_loads_on_either_device():
    here, there = Net(), Net().to("gpu")
    for p in here.parameters():
        p.data += 1.0
    here.dropout.rng.state = 7, 8
    there.load_state_dict(here.state_dict())
    assert there.device == "gpu" and there.dropout.rng.state == (7, 8)
    state = there.state_dict()
    assert all(type(a) is np.ndarray for a in state.values())
    for name, array in here.state_dict().items():
        equal(state[name], array)
    state["shift"][...] = 5.0  # a copy
    equal(there.shift, [1.0, 2.0])


# -- the same results on both --------------------------------------------------------------------
@needs_compiler
def test_a_seed_gives_the_same_numbers_on_both():
    draws = [
        lambda rng, device: rng.bits((3, 5), device=device),
        lambda rng, device: rng.uniform((7,), -1.0, 2.0, device=device),
        lambda rng, device: rng.uniform((7,), dtype=np.float64, device=device),
        lambda rng, device: rng.integers(-3, 1000, (2, 9), device=device),
        lambda rng, device: rng.bernoulli(0.3, (40,), device=device),
        lambda rng, device: rng.bernoulli(to_device(np.full(9, 0.5), device)),
    ]
    here, there = Generator(5), Generator(5)
    for draw in draws:
        array = draw(there, "gpu")
        assert backend.namespace_of(array).device == "gpu"
        equal(array, draw(here, "cpu"))
    for dtype in (np.float32, np.float64):
        a, b = here.normal((99,), dtype=dtype), there.normal((99,), dtype=dtype, device="gpu")
        np.testing.assert_allclose(b.get(), a, rtol=1e-6, atol=1e-7)
    assert here.state == there.state


@needs_compiler
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_and_answers_alike(name, bounded):
    options = {"likelihood": "gaussian"} if name == "vae" else {"bounded": bounded}
    options = {} if bounded else options
    results = []
    for device in ("cpu", "gpu"):
        x = to_device(X, device)
        model = MODELS[name](64, **SMALL[name], **options).to(device)
        history = model.fit(x, steps=4, batch=16, warmup=0, ema_decay=0.5)
        found = {**history, "samples": model.sample(5, rng=Generator(1))}
        for method in ("encode", "reconstruct", "score_samples", "discriminator_logits"):
            if hasattr(model, method):
                tg.manual_seed(3)
                found[method] = getattr(model, method)(x)
        arrays = {k: v for k, v in found.items() if not isinstance(v, list)}
        assert all(backend.namespace_of(v).device == device for v in arrays.values())
        results.append({k: to_device(np.array(v) if k in history else v, "cpu")
                        for k, v in found.items()})  # fmt: skip
    assert results[0].keys() == results[1].keys()
    for key, here in results[0].items():
        # What is unbounded has no scale of its own: compared with the size of the whole.
        tolerance = 2e-3 * max(1.0, float(abs(here).max()))
        np.testing.assert_allclose(results[1][key], here, rtol=2e-3, atol=tolerance, err_msg=key)


@needs_compiler
@pytest.mark.parametrize("name", ["vae", "gan"])
@pytest.mark.parametrize("start", ["cpu", "gpu"])
def test_a_run_resumes_on_the_other_device(name, start, tmp_path):
    """The moments, the average and the order of the data come along: as if never moved."""
    settings = {"batch": 16, "warmup": 2, "ema_decay": 0.9, "steps": 8}

    def run(device, stop=None, **options):
        model = MODELS[name](64, **SMALL[name]).to(device)
        if stop is not None:
            stop_at(model, stop)
        return model, model.fit(to_device(X, device), **settings, **options)

    with pytest.raises(Interrupted):
        run(start, stop=6, folder=tmp_path, checkpoint_seconds=0.0)
    other = {"cpu": "gpu", "gpu": "cpu"}[start]
    resumed, history = run(other, folder=tmp_path, resume=True)
    whole, expected = run("cpu")
    for term, values in expected.items():
        np.testing.assert_allclose(history[term], values, rtol=2e-3)
    for path, array in whole.state_dict().items():
        np.testing.assert_allclose(resumed.state_dict()[path], array, rtol=2e-2, atol=2e-3)
    loaded = load(tmp_path / "checkpoint.npz")
    assert loaded.device == "cpu" and loaded.to("gpu").sample(2).shape == (2, 64)


@needs_compiler
@pytest.mark.parametrize("name", MODELS)
def test_nothing_in_a_step_waits_for_the_gpu(name, cupy):
    """Losses, gradients, the update and its average: values are asked for by the loop alone."""
    if not hasattr(cupy.ndarray, "waits"):
        pytest.skip("the stand-in counts them")
    model = MODELS[name](64, **SMALL[name]).to("gpu")
    batch = model.prepare(to_device(X, "gpu"))
    objectives = {o.name: o for o in model.objectives()}.values()
    optimizers = [model.optimizer(o.parameters, lambda step: 1e-3) for o in objectives]
    number = cupy.asarray(1.0)  # which is not read either

    def step():
        for objective, optimizer in zip(objectives, optimizers, strict=True):
            loss = next(iter(objective.loss(*batch, rng=Generator(0)).values())) * number
            parameters = list(objective.parameters.values())
            for p, g in zip(parameters, tg.gradients(loss, parameters), strict=True):
                p.grad = g
            optimizer.step()

    step()  # copies the tables of a schedule
    before = cupy.ndarray.waits
    step()
    assert cupy.ndarray.waits == before


@pytest.mark.parametrize("few", [0, shape.FEW])
def test_the_gradient_of_an_embedding_repeats_bit_for_bit(few, monkeypatch):
    """Whatever order the GPU adds in, so that a run resumes as if it had not stopped."""
    monkeypatch.setattr(shape, "FEW", few)
    embedding = nn.Embedding(40, 3, rng=Generator(0)).to("gpu")
    numbers = np.random.default_rng(0).integers(39, size=(20, 50))
    weights = np.random.default_rng(1).standard_normal((20, 50, 3), np.float32)

    def gradient():
        loss = (embedding(to_device(numbers, "gpu")) * to_device(weights, "gpu")).sum()
        return tg.gradients(loss, embedding.table).numpy()

    first = gradient()
    equal(first, gradient())
    assert not first[39].any()
    expected = np.zeros((40, 3))
    np.add.at(expected, numbers, weights)
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_evaluation_is_the_same():
    found = []
    for device in ("cpu", "gpu"):
        model = MODELS["vae"](64, **SMALL["vae"]).to(device)
        samples = model.sample(30, rng=Generator(2))
        found.append(evaluate(model, data.load("digits"), samples))
    for group, measures in found[0].items():
        for name, value in measures.items():
            assert found[1][group][name] == pytest.approx(value, rel=1e-4)


# -- other libraries -----------------------------------------------------------------------------
def test_dlpack_shares_memory_on_each_device(cupy):
    array = cupy.asarray(np.array([1.0, 2.0]))
    t = tg.from_dlpack(array)
    assert t.device == "gpu" and not t.requires_grad and t.data.data.ptr == array.data.ptr
    again = tg.from_dlpack(tg.tensor([3.0]))  # a Tensor gives and takes
    assert again.device == "cpu" and again.item() == 3.0
    assert t.__dlpack_device__()[0] == 2 and again.__dlpack_device__()[0] == 1
    with pytest.raises(TypeError, match="detach"):
        np.from_dlpack(tg.tensor([1.0], requires_grad=True))
    with pytest.raises(TypeError, match="CPU or CUDA memory"):
        tg.from_dlpack(SimpleNamespace(__dlpack_device__=lambda: (10, 0)))


def test_dlpack_with_torch():
    torch = pytest.importorskip("torch")
    theirs = torch.arange(4.0)
    ours = tg.from_dlpack(theirs)
    theirs[0] = 9.0
    assert ours.dtype == np.float32 and ours.data[0] == 9.0
    t = tg.tensor(np.arange(3.0))
    back = torch.from_dlpack(t)
    back[1] = 7.0
    equal(t, [0.0, 7.0, 2.0])


@pytest.fixture
def rows(tmp_path):
    """A small file of data for the command line."""
    path = tmp_path / "rows.npy"
    np.save(path, np.random.default_rng(0).random((40, 3), np.float32))
    return str(path)


# -- a GPU that is not there ---------------------------------------------------------------------
@pytest.mark.parametrize("installed", [True, False])
def test_without_a_gpu_the_reason_is_told(installed, cupy, rows, monkeypatch, capsys, tmp_path):
    def refuse(*args):
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device\nis detected")

    monkeypatch.setattr(cupy, "arange", refuse)  # whatever is computed first
    reason = "cudaErrorNoDevice: no CUDA-capable device"
    if not installed:
        monkeypatch.setitem(sys.modules, "cupy", None)
        reason = "CuPy is not installed: pip install 'cupy-cuda13x[ctk]'"
    backend.gpu_problem.cache_clear()
    for call in (
        lambda: tg.tensor([1.0], device="gpu"),
        lambda: tg.tensor([1.0]).to("gpu"),
        lambda: nn.LayerNorm(2).to("gpu"),
        lambda: Generator(0).normal((2,), device="gpu"),
    ):
        with pytest.raises(DeviceError) as caught:
            call()
        assert 'device "gpu"' in str(caught.value) and reason in str(caught.value)
    folder = tmp_path / "run"
    assert main(["train", "ae", "--device", "gpu", "--out", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and reason in error and not folder.exists()
    assert main(["info"]) == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("gpu")]
    assert reason in line
    arguments = ["train", "ae", "--device", "auto", "--steps", "1", "--data", rows]
    assert main([*arguments, "--out", str(folder)]) == 0
    assert json.loads((folder / "metrics.json").read_text())["device"] == "cpu"


def test_a_gpu_without_cublas_is_not_usable(cupy, monkeypatch):
    def refuse(*args):
        raise ImportError("libcublas.so.13: cannot open shared object file")

    monkeypatch.setattr(cupy, "matmul", refuse)
    backend.gpu_problem.cache_clear()
    with pytest.raises(DeviceError, match="no usable GPU: libcublas"):
        tg.tensor([1.0], device="gpu")


def test_devices_are_two_words():
    for call in (lambda d: tg.tensor(1.0, device=d), lambda d: tg.tensor(1.0).to(d)):
        for word in ("cuda", "CPU", ""):
            with pytest.raises(ValueError, match='a device is "cpu" or "gpu"'):
                call(word)


def test_importing_tinygen_does_not_import_cupy():
    code = (
        "import sys, tinygen as tg, tinygen.models, tinygen.data, tinygen.metrics, tinygen.__main__\n"
        "tg.models.VAE(4).fit([[0.0] * 4] * 3, steps=1); tg.tensor([1.0]).sum().item()\n"
        "assert not any(name.startswith('cupy') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_property_has_all_the_time_that_its_first_call_needs():
    """On a GPU every function is compiled when it is first called."""
    assert hypothesis.settings().deadline is None


# -- the command line ----------------------------------------------------------------------------
@needs_compiler
def test_a_run_goes_from_device_to_device_on_the_command_line(rows, tmp_path, capsys):
    folder = str(tmp_path / "run")
    train = ["train", "vae", "--out", folder, "--steps", "3", "--data", rows]
    assert main([*train, "--set", "hidden=[8]", "--device", "gpu"]) == 0
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert first["device"] == "gpu"
    assert main(["train", "vae", "--out", folder, "--resume"]) == 0  # on the CPU
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert again["device"] == "cpu" and again["final"] == first["final"]
    samples = []
    for device in ("cpu", "gpu", "auto"):
        out = str(tmp_path / f"{device}.npy")
        assert main(["sample", folder, "--out", out, "--n", "4", "--device", device]) == 0
        samples.append(np.load(out))
    np.testing.assert_allclose(samples[1], samples[0], **ROUNDING)
    equal(samples[2], samples[1])
    capsys.readouterr()
    assert main(["evaluate", folder, "--n", "20", "--device", "gpu"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out"].keys() == again["held_out"].keys()
    assert main(["info"]) == 0
    assert "gpu         usable" in capsys.readouterr().out
