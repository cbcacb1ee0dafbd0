"""Steps on the GPU: recorded once, captured as one graph, replayed with one launch; on the stand-in."""

from __future__ import annotations

import gc
import shutil
import subprocess

import numpy as np
import pytest

import tinygen as tg
from tests.compile.steps import FEATURES, MODELS, by_hand, digits, of_model
from tests.compile.test_compile import CHANGES, NUMPY_1, distance, seen_after_a_change
from tests.support import cublas, streams, strict_cupy
from tinygen import backend, nn, ops
from tinygen.compile import CompileError, graph
from tinygen.compile.cuda import Kernel
from tinygen.compile.simplify import simplify
from tinygen.compile.step import _Arguments, _Trace
from tinygen.errors import NonFiniteError
from tinygen.models import DDPM, VAE
from tinygen.optim import EMA, SGD, AdamW, clip_global_norm

pytestmark = [pytest.mark.cpu_only("the stand-in itself"), pytest.mark.filterwarnings("error")]
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def cupy():
    """The stand-in, and no work left behind."""
    with strict_cupy.installed() as module:
        yield module


def rows(cupy, name, steps, size=16):
    """A batch for each step."""
    x = digits(size + steps, FEATURES.get(name, 64))
    return [cupy.asarray(x[i : i + size]) for i in range(steps)]


# -- equal to eager -------------------------------------------------------------------------------
def compared(cupy, name, steps):
    """Steps of a model, eager and compiled, and what each run of the graph queued."""
    eager, other = MODELS[name]("gpu"), MODELS[name]("gpu")
    step = tg.compile(other.step)
    for i, x in enumerate(rows(cupy, name, steps)):
        right, before = eager.step(x), cupy.ndarray.waits
        streams.Launches.start()
        found = step(x)
        if i > 1:  # recorded and run, recorded and captured, then replayed
            assert (streams.Launches.single, streams.Launches.graphs) == (1, 1)
            assert cupy.ndarray.waits == before + (i % graph.LOOKS == graph.LOOKS - 1)
        assert found.keys() == right.keys()
        yield right, found
    assert eager.counters() == other.counters()
    assert distance(eager.arrays(), other.arrays()) < 2e-3


@every_model
def test_a_replayed_step_of_a_model_does_what_the_eager_one_does(cupy, name):
    for right, found in compared(cupy, name, 5):
        for term in right:
            assert float(found[term]) == pytest.approx(float(right[term]), rel=1e-4, abs=1e-6)


@pytest.mark.slow
@every_model
def test_a_hundred_replays_do_what_a_hundred_eager_steps_do(cupy, name):
    for right, found in compared(cupy, name, 102):
        for term in right:
            assert float(found[term]) == pytest.approx(float(right[term]), rel=1e-2, abs=1e-5)


@pytest.mark.parametrize("optimizer", ["SGD", "momentum", "AdamW", "RMSprop"])
def test_a_step_written_by_hand_equals_the_eager_one_in_float64(cupy, optimizer):
    eager, other = (by_hand(optimizer, np.float64, "gpu") for _ in range(2))
    step, rng = tg.compile(other.step), np.random.default_rng(0)
    for _ in range(6):
        x, y = (cupy.asarray(rng.normal(size=(16, n))) for n in (5, 3))
        assert float(step(x, y)) == pytest.approx(float(eager.step(x, y)), rel=1e-11)
    assert distance(eager.arrays(), other.arrays()) < 1e-9


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 5), (7, 64), (300, 3), (40, 257), (2, 3, 4), (70, 2100)]
)
def test_sums_of_rows_columns_and_all_are_those_of_any_shape(cupy, shape):
    """A mean, a variance by it, and what is divided by that; then sums over rows, and of everything."""

    def step(x):
        y = ops.standardise(tg.tensor(x))
        return y, ops.sum(y * x, axis=0), ops.sum(y * y * x), ops.sum(ops.exp(y), axis=-1) * 2.0

    x = np.random.default_rng(0).normal(size=shape)
    compiled, right = tg.compile(step), step(x)
    for _ in range(3):
        found = compiled(cupy.asarray(x))
        for y, z in zip(found, right, strict=True):
            np.testing.assert_allclose(y.data.get(), z.data, rtol=1e-12, atol=1e-12)


def test_results_do_not_depend_on_who_ends_last(cupy, monkeypatch):
    """Blocks backwards, and threads: what shares memory must wait for one another."""
    found = []
    for order in ("forward", "backward"):
        monkeypatch.setattr(strict_cupy, "ORDER", order)
        run = MODELS["ddpm"]("gpu")
        step = tg.compile(run.step)
        for x in rows(cupy, "ddpm", 3):
            step(x)
        found.append(run.arrays())
    for key, array in found[0].items():
        np.testing.assert_array_equal(found[1][key], array)


# -- what a run takes -----------------------------------------------------------------------------
def launches(cupy, model, size):
    """The text of a model's program for a batch, and what it queues."""
    step = of_model(model, "gpu").step
    x = cupy.asarray(digits(size, model.features))
    program = _Trace(step, _Arguments((x,), {})).program
    simplify(program)
    emitted = graph.emitted(program)
    kernels = [s for s in emitted.segments if isinstance(s, Kernel)]
    others = [s.kind for s in emitted.segments if not isinstance(s, Kernel)]
    return emitted.text, len(kernels), others


@pytest.mark.skipif(NUMPY_1, reason="NumPy 1 casts some arrays without axes anew")
@pytest.mark.parametrize("model, most, products", [(DDPM, 49, 37), (VAE, 28, 17)])
def test_the_launches_of_a_step_are_counted(cupy, model, most, products):
    """Of 784 features and a batch of 128. More of them is slower: say why before writing larger numbers."""
    _, kernels, others = launches(cupy, model(784), 128)
    assert (kernels, others) == (most, ["product"] * products)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
@pytest.mark.parametrize(
    "architecture", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90",
                     pytest.param("sm_120", marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_text_compiles_without_warnings_and_spills_nothing(cupy, architecture, tmp_path):
    file = tmp_path / "step.cu"
    file.write_text(launches(cupy, DDPM(784), 128)[0])
    options = ["-std=c++17", "--fmad=false", "-ftz=true", "--cubin", "-Xptxas", "-v"]
    command = ["nvcc", *options, f"-arch={architecture}", "-Werror=all-warnings", str(file)]
    done = subprocess.run([*command, "-o", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 bytes spill stores" in done.stderr
    assert set(done.stderr.split("bytes spill stores")[0].split()[-1]) == {"0"}


# -- what could go wrong --------------------------------------------------------------------------
def test_memory_that_a_graph_uses_is_not_handed_to_others(cupy):
    """CuPy computes the sums, in memory of its own that is free again when the capture ends."""
    step = tg.compile(lambda x: backend.namespace_of(x).cumsum(x, axis=0) * 2.0)
    x = cupy.asarray(np.arange(12.0).reshape(4, 3))
    for _ in range(2):
        step(x)
    taken = [cupy.full(x.shape, 7.0) for _ in range(20)]
    np.testing.assert_array_equal(step(x).get(), 2 * np.arange(12.0).reshape(4, 3).cumsum(0))
    for array in taken:
        np.testing.assert_array_equal(array.get(), np.full(x.shape, 7.0))


@pytest.mark.parametrize("what", CHANGES)
def test_a_number_that_changes_between_runs_is_seen(cupy, what):
    seen_after_a_change(what, "gpu")


@pytest.mark.parametrize(
    "wait",
    [lambda x: float(x.sum()), lambda x: x.get(), lambda x: x[x > 0], lambda x: 1 if x[0] else 2],
)
def test_what_waits_for_the_device_is_refused_with_its_line(cupy, wait):
    with pytest.raises(CompileError, match=r"test_graph\.py:\d+ asks for"):
        tg.compile(wait)(cupy.ones(3))


def test_what_cannot_be_captured_says_which_line(cupy):
    @tg.compile
    def step(x):
        return ops.einsum("ij,kj->ik", tg.tensor(x), x)

    x = cupy.asarray(np.eye(3))
    np.testing.assert_array_equal(step(x).data.get(), np.eye(3))  # runs launch by launch
    with pytest.raises(
        CompileError, match=r"test_graph\.py:\d+: CuPy cannot do einsum here: .*cuBLAS"
    ):
        step(x)
    assert not streams.current().is_capturing() and gc.isenabled()


def test_an_array_of_the_host_among_those_of_the_device_is_refused(cupy):
    table = np.ones(3)
    with pytest.raises(TypeError, match=r"test_graph\.py:\d+: an array on the cpu meets"):
        tg.compile(lambda x: ops.multiply(table, x))(cupy.ones(3))


def test_runs_on_one_stream_and_on_another_keep_their_order(cupy):
    """The work on a stream is done only when somebody waits for it, and so would come late."""
    w = tg.tensor(np.ones(3), requires_grad=True, device="gpu")

    @tg.compile
    def step(x):
        w.data[...] = w.data * x + 1.0

    other = cupy.cuda.Stream(non_blocking=True)
    expected = np.ones(3)
    for i in range(6):
        with other if i % 2 else streams.null:
            x = cupy.full(3, float(i))
            x *= 2.0  # queued where the run is
            step(x)
        expected = expected * (2.0 * i) + 1.0
    other.synchronize()
    np.testing.assert_array_equal(w.data.get(), expected)


def test_nothing_is_collected_while_it_is_captured(cupy, monkeypatch):
    seen, queue = [], graph.Graph._queue
    monkeypatch.setattr(
        graph.Graph,
        "_queue",
        lambda self: (seen.append((streams.current().is_capturing(), gc.isenabled())), queue(self)),
    )
    step = tg.compile(lambda x: x * 2.0)
    for _ in range(3):
        step(cupy.ones(3))
    assert seen == [(False, True), (True, False)] and gc.isenabled()


def test_results_are_new_arrays_at_every_run(cupy):
    step = tg.compile(lambda x: (x + 1.0, x.sum()))
    runs = [step(cupy.full(3, float(i))) for i in range(4)]
    for i, (a, b) in enumerate(runs):
        assert a.tolist() == [i + 1.0] * 3 and float(b) == 3.0 * i


def test_eager_products_are_those_of_the_graph_to_the_bit(cupy):
    a, b = (np.random.default_rng(i).normal(size=(9, 9)).astype(np.float32) for i in range(2))
    x, y = cupy.asarray(a), cupy.asarray(b)
    step = tg.compile(
        lambda x, y: (tg.tensor(x) @ y, tg.tensor(x.T) @ y, tg.tensor(x[:, 2:]) @ y[:7])
    )
    for _ in range(3):
        cublas.products.clear()
        found = [t.data.get() for t in step(x, y)]
    right = [(tg.tensor(x) @ y), (tg.tensor(x.T) @ y), (tg.tensor(x[:, 2:]) @ y[:7])]
    assert len(cublas.products) == 3  # the eager ones: replays ask cuBLAS for nothing
    for p, q, exact in zip(found, right, [a @ b, a.T @ b, a[:, 2:] @ b[:7]], strict=True):
        np.testing.assert_array_equal(p, q.data.get())
        np.testing.assert_allclose(p, exact, rtol=1e-5, atol=1e-5)


def test_adam_in_the_loop_that_clips_has_the_bits_of_its_kernel(cupy):
    rng, states = np.random.default_rng(0), []
    batches = [cupy.asarray(rng.normal(size=(7, 30)).astype(np.float32)) for _ in range(4)]
    for wrap in (tg.compile, lambda step: step):
        w = tg.tensor(np.ones((7, 30), np.float32), requires_grad=True, device="gpu")
        adam = AdamW({"w": w}, lambda step: 0.1 / (1 + step))
        average = EMA({"w": w}, 0.9)

        def step(x, w=w, adam=adam, average=average):
            w.grad = tg.tensor(x) * 1.0
            clip_global_norm([w], 2.0)
            adam.step(average)

        step = wrap(step)
        for x in batches:
            step(x)
        states.append([*adam.state_dict().values(), *average.state_dict().values(), w.data.get()])
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensor_cores_round_only_where_they_are_asked_to(cupy, monkeypatch):
    x = cupy.ones((4, 4), np.float32)
    tg.tensor(x) @ x
    monkeypatch.setenv("TINYGEN_TF32", "1")
    tg.tensor(x) @ x
    tg.tensor(x.astype(np.float64)) @ x.astype(np.float64)
    assert [compute for *_, compute in cublas.products[-3:]] == [68, 77, 70]


# -- what ends early ------------------------------------------------------------------------------
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_told_at_the_next_look(cupy):
    net = nn.MLP([4, 3], rng=0).to("gpu")
    ps = net.named_parameters()
    sgd = SGD(ps, 0.1)

    def step(x):
        loss = ops.mean(ops.square(net(x)))
        for p, g in zip(ps.values(), tg.gradients(loss, list(ps.values())), strict=True):
            p.grad = g
        clip_global_norm(ps)
        sgd.step()
        return loss

    compiled = tg.compile(step)
    good, bad = cupy.ones((2, 4), np.float32), cupy.full((2, 4), np.nan, np.float32)
    for _ in range(3):
        compiled(good)
    before = net.state_dict()
    compiled(bad)
    for _ in range(graph.LOOKS - 5):
        compiled(good)  # does nothing: the parameters are those before
    for key, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[key])
    with pytest.raises(
        NonFiniteError, match="norm of the gradient is finite, 96 runs ago; nothing"
    ):
        compiled(good)
    compiled(good)
    assert any((net.state_dict()[key] != before[key]).any() for key in before)


def test_rows_out_of_range_are_told_too(cupy, monkeypatch):
    monkeypatch.setattr(graph, "LOOKS", 1)
    table = tg.tensor(np.arange(6.0).reshape(3, 2), device="gpu")
    step = tg.compile(lambda i: table[i] * 1.0)
    for numbers in ([0, 2], [-1, 1], [-3, 0]):
        np.testing.assert_array_equal(
            step(cupy.asarray(numbers)).data.get(), table.data.get()[numbers]
        )
    for numbers in ([0, 3], [-4, 0]):
        with pytest.raises(IndexError, match="out of"):
            step(cupy.asarray(numbers))
