"""`python -m benchmarks.gpu` without a GPU: every part runs, on tiny arrays and the stand-in for CuPy.

What the stand-in has not is faked here, under names and arguments that the real CuPy has. Times
are the host's then, and mean nothing.

This file is a program too, which runs a module on the stand-in: that is how parts of the benchmark,
which are processes, come to it.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import bandwidth, check, launches, peers, processes, steps, summary
from benchmarks.gpu.table import BY_NAME, KERNELS
from tests.support import cuda_on_cpu, strict_cupy
from tinygen import backend
from tinygen.kernels import dispatch
from tinygen.kernels.signatures import signatures

pytestmark = [
    pytest.mark.cpu_only("brings a stand-in of its own"),
    pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="needs g++"),
]

TORCH = find_spec("torch") is not None
TORCH_ON_CPU = partial(peers.Torch, "cpu", "eager")


# -- what CuPy has and the stand-in has not --------------------------------------------------------
class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.time = None

    def record(self, stream=None):
        self.time = time.perf_counter()

    def synchronize(self):
        assert self.time is not None


def get_elapsed_time(start_event, end_event):
    return 1e3 * (end_event.time - start_event.time)


def memcpyAsync(dst, src, size, kind, stream):
    assert kind == 3 and stream == 0
    ctypes.memmove(dst, src, size)


def standard_normal(size=None, dtype=float):
    return strict_cupy.array(np.random.default_rng().standard_normal(size, dtype))


def set_allocator(allocator=None):
    assert allocator is None


PROPERTIES = {"name": b"none", "multiProcessorCount": 2, "totalGlobalMem": 0, "l2CacheSize": 0}
FAKES = {
    "cuda.Event": Event,
    "cuda.get_elapsed_time": get_elapsed_time,
    "cuda.set_allocator": set_allocator,
    "cuda.runtime.memcpyAsync": memcpyAsync,
    "cuda.runtime.memcpyDeviceToDevice": 3,
    "cuda.runtime.getDeviceProperties": lambda device: PROPERTIES,
    "cuda.runtime.driverGetVersion": lambda: 13000,
    "cuda.runtime.runtimeGetVersion": lambda: 13000,
    "random.standard_normal": standard_normal,
    "get_default_memory_pool": lambda: SimpleNamespace(free_all_blocks=lambda: None),
}
ATTRIBUTES = {
    "num_regs": 32, "local_size_bytes": 0, "shared_size_bytes": 0, "max_threads_per_block": 256,
}  # fmt: skip


class RawModule(strict_cupy.RawModule):
    """Its kernels have the attributes of CuPy's."""

    def get_function(self, name):
        kernel = super().get_function(name)
        vars(kernel).update(ATTRIBUTES)
        return kernel


@contextmanager
def gpu() -> Iterator[None]:
    """The stand-in, with what it has not, as the GPU inside the block."""
    with strict_cupy.installed() as cupy:
        vars(cupy).update(random=SimpleNamespace(), RawModule=RawModule)
        vars(cupy.cuda).update(runtime=SimpleNamespace())
        for path, fake in FAKES.items():
            *parents, name = path.split(".")
            place = cupy
            for parent in parents:
                place = getattr(place, parent)
            setattr(place, name, fake)
        _forget()
        try:
            yield
        finally:
            _forget()


def _forget() -> None:
    """What tinygen knows of the CuPy that was there."""
    backend.gpu_problem.cache_clear()
    dispatch._found.cache_clear()
    backend.namespaces.pop(strict_cupy.ndarray, None)


# -- all of it -------------------------------------------------------------------------------------
@pytest.fixture
def here(monkeypatch):
    """The processes of the benchmark run on the stand-in; of the tests a few."""
    monkeypatch.setattr(processes, "PYTHON", [sys.executable, "-W", "ignore", __file__])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(processes.ROOT), *sys.path]))
    monkeypatch.setenv("PYTEST_ADDOPTS", "tests/test_gpu.py -k 'noise_step or vae or itself'")
    with gpu():
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_the_whole_run(here, tmp_path, monkeypatch, capsys):
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    path = tmp_path / "report.json"
    assert program.main(["--quick", "--out", str(path)]) == 0
    report, printed = json.loads(path.read_text()), capsys.readouterr().out
    for name, part in report["parts"].items():
        assert part["ended"] == "", (name, part)
    found = {name: part["found"] for name, part in report["parts"].items()}
    assert found["registers"]["kernels"].keys() == signatures().keys()
    assert all(found["check"][kernel.name]["ok"] for kernel in KERNELS)
    for kernel in KERNELS:
        measured = found["bandwidth"]["kernels"][kernel.name]
        assert all(way["gb_s"] > 0 for way in measured.values()) and len(measured) == 2
        assert found["bandwidth"]["small"][kernel.name] > 0
    assert len(found["bandwidth"]["variants"]["adam"]) == len(bandwidth.VARIANTS) + 1
    assert found["tests"]["counts"]["passed"] > 30 and not found["tests"]["failed"], found["tests"]
    assert {tool: said["result"] for tool, said in found["sanitizer"].items()} == {
        "memcheck": "clean", "racecheck": "ERRORS", "initcheck": "failed, exit code 3",
        "synccheck": "clean",
    }  # fmt: skip
    assert {"tinygen", "CuPy"} <= found["peers"]["adam"]["4096"].keys()
    for name in steps.CONTENDERS:
        assert found[f"steps {name}"].keys() >= {*steps.NAMES}
    assert all(one["us"] > 0 and not one["differs"]
               for one in found["steps tinygen eager"].values())  # fmt: skip
    assert report["targets"].keys() == set(summary.TARGETS)
    assert len(printed) <= summary.LONGEST + 2000
    for word in (*BY_NAME, "of the copy (90 %)", "memcheck clean", "256 x 32", "training step"):
        assert word[:35] in printed, word
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "report.json"]


SANITIZER = """#!/bin/sh
# compute-sanitizer --tool TOOL --error-exitcode 99 ... PYTHON ...
case "$*" in
    *--plant*) echo "========= Invalid __global__ write of size 4 bytes"; exit 99 ;;
    *racecheck*) echo "========= RACECHECK SUMMARY: 1 hazard displayed"; exit 99 ;;
    *initcheck*) echo "========= Error: unsupported"; exit 3 ;;
esac
echo "========= ERROR SUMMARY: 0 errors"
"""


def test_without_a_gpu_there_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "report.json")],
        cwd=processes.ROOT, capture_output=True, text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_part_that_fails_costs_only_itself(tmp_path, monkeypatch, capsys):
    def broken(limit, path, quick):
        raise RuntimeError("not today")

    def killed(limit, path, quick):
        path.with_name("report.json.killed").write_text('{"so": "far"}')
        return program.apart("killed", limit, path, quick)

    parts = {
        "broken": program.Part(50, broken),
        "killed": program.Part(50, killed),
        "fine": program.Part(50, partial(program.outside, lambda limit: {"limit": limit})),
    }
    monkeypatch.setattr(program, "PARTS", parts)
    monkeypatch.setattr(processes, "PYTHON", [sys.executable, "-c", "import os; os.abort()"])
    path = tmp_path / "report.json"
    with gpu():
        assert program.main(["--out", str(path)]) == 0
        found = json.loads(path.read_text())["parts"]
        assert found["broken"]["ended"] == "RuntimeError: not today"
        assert (
            found["killed"]["ended"] == "exit code -6" and found["killed"]["found"]["so"] == "far"
        )
        assert found["fine"]["found"] == {"limit": 50}
        assert "not measured of the copy" in capsys.readouterr().out.replace(" -", "")
        assert program.main(["--out", str(path), "--minutes", "0.01"]) == 0
    assert "left out: no time" in json.loads(path.read_text())["parts"]["fine"]["ended"]


def test_a_report_of_nothing_has_a_table():
    report = {"about": {"large": [1]}, "parts": {"check": {"ended": "exit code 1", "found": {}}}}
    text = summary.text(report)
    assert "_about: KeyError" in text and "not measured" in text and "no counts" in text
    assert summary.targets(report)["adam"] == {"share": None, "speedup": None}


def test_the_table_is_never_too_long(monkeypatch):
    monkeypatch.setattr(summary, "SECTIONS", [lambda report: ["x" * 20_000, "the end"]])
    text = summary.text({})
    assert len(text) == summary.LONGEST and text.endswith("the end")


# -- time limits and other programs ------------------------------------------------------------------
def test_a_command_at_its_limit_is_asked_to_end(monkeypatch):
    code = "import time, sys\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('so far')"
    done = processes.command([sys.executable, "-c", code], 1.0)
    assert done.code is None and done.output == "so far\n" and done.seconds < 20
    monkeypatch.setattr(processes, "GRACE", 0.3)
    code = "import time, signal; signal.signal(2, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    done = processes.command([sys.executable, "-c", code], 1.0)
    assert done.code is None and done.output == "1\n" and done.seconds < 20


def test_what_pytest_says_is_read(monkeypatch):
    output = "..F\nFAILED tests/a.py::b - E\n1 failed, 2 passed, 3 skipped in 1.20s"
    asked = []

    def command(arguments, limit):
        asked.append(arguments)
        return processes.Done(1, output, 1.25)

    monkeypatch.setattr(processes, "command", command)
    found = processes.tests_on_gpu(5.0)
    assert found["counts"] == {"failed": 1, "passed": 2, "skipped": 3}
    assert found["failed"] == ["FAILED tests/a.py::b - E"] and found["ended"] == "exit code 1"
    assert "gpu" in asked[0] and "-W" in asked[0]
    output = "..... [ 12%]"
    assert processes.tests(5.0)["counts"] == {}
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    assert processes.tests(5.0) == {"skipped": "pytest is not installed"}


def test_a_sanitizer_that_is_not_there_or_does_not_work():
    assert "no compute-sanitizer" in processes.sanitizer(1.0, lambda: None)["skipped"]
    found = processes.sanitizer(20.0, lambda: "true")  # finds nothing
    assert "does not work here" in found["skipped"] and found["ended"] == "exit code 0"


def test_what_the_sanitizer_watches_launches_every_kernel(monkeypatch):
    monkeypatch.setattr(launches, "LARGE", (5, 1001))
    # On the CPU a write beyond the array would land somewhere; this one is inside.
    monkeypatch.setattr(launches, "PLANT", launches.PLANT.replace("n + threadIdx.x", "n - 1"))
    with gpu():
        with launched() as names:
            launches.main([])
        assert names == set(signatures())
        launches.main(["--plant"])


def test_a_name_in_the_table_begins_with_that_of_the_compiled_kernel():
    with gpu():
        for kernel in KERNELS:
            with launched() as names:
                fresh = check.Fresh.of(kernel, (3, 5), 0)
                check.run(kernel, backend.namespace_for("gpu"), fresh)
            assert summary._compiled_name(kernel.name) in names


@contextmanager
def launched() -> Iterator[set[str]]:
    """The names of the kernels that are launched inside the block."""
    launch, what = dispatch._found("gpu")
    names: set[str] = set()

    def noted(name, *arguments):
        names.add(name)
        launch(name, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_found", lambda device: (noted, what))
        yield names


# -- checks can fail -------------------------------------------------------------------------------
def test_differences_are_seen():
    tiny = np.float32(1e-40)
    a = np.array([1, np.nan, 0, tiny, -tiny], np.float32)
    b = np.array([1, np.nan, 0, 0, -0.0], np.float32)
    assert check.differing(a, b) == 0
    assert check.differing(a, np.array([1, np.nan, -0.0, 0, 0], np.float32)) == 2
    assert check.differing(a, a.astype(np.float64)) == 5
    assert check.differing(np.array([2**63 - 1]), np.array([2**63 - 2])) == 1
    next_ = np.nextafter(a, np.float32(9))
    assert check.units(a[:1], next_[:1]) == 1
    assert check.units(np.array([-1e-300]), np.array([1e-300])) > 2**50
    assert check.errors([a[:1]], [np.array([0.5])]) == (1.0, 1.0)
    assert check.errors([None], [a]) == check.errors([a], [b[:2]]) == (np.inf, np.inf)
    assert check.errors([a], [np.zeros(5)])[0] == np.inf  # NaN where there should be none


def _unwritten(call):
    """The last element stays as it was allocated, in CUDA alone."""

    def wrong(m, x, draw):
        (y,) = call(m, x, draw)
        if m.device == "gpu" and y.size > 1:
            y.reshape(-1)[-1:] = m.empty(1, y.dtype)
        return [y]

    return wrong


def _in_cuda(change):
    """The results changed, in CUDA alone."""
    return lambda call: (
        lambda m, x, draw: [change(y) if m.device == "gpu" else y for y in call(m, x, draw)]
    )


MISTAKES = {  # what turns a kernel's call into a wrong one, and what sees it
    "wrong": (lambda call: lambda m, x, draw: [1.001 * y for y in call(m, x, draw)], "error"),
    "one place": (_in_cuda(lambda y: y * np.float32(1 + 2**-23)), "bits"),
    "unwritten": (_unwritten, "error"),
    "geometry": (_in_cuda(lambda y: y + (check.cuda.THREADS == 96)), "geometry"),
    "counter": (
        lambda call: lambda m, x, draw: call(m, x, draw._replace(counter=None)), "counter"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_a_wrong_kernel_is_seen(mistake):
    spoil, field = MISTAKES[mistake]
    if field == "bits" and not dispatch.description("cpu").startswith("C++"):
        pytest.skip("bits are compared with those of the C++ form")
    kernel = BY_NAME["noise_step"]
    with gpu():
        right = check.verdict(kernel, 1, check.SHAPES[:-1])
        wrong = check.verdict(kernel._replace(call=spoil(kernel.call)), 1, check.SHAPES[:-1])
    assert right["ok"] and not wrong["ok"]
    assert wrong[field] > right[field] and wrong[field] > kernel.tolerance


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_a_kernel_that_raises_is_reported(monkeypatch):
    broken = BY_NAME["adam"]._replace(call=lambda m, x, draw: 1 / 0)
    monkeypatch.setattr(program, "KERNELS", [broken, BY_NAME["fill_bits"]])
    found = {}
    with gpu():
        program.checked(partial(program.merge, found), quick=True)
    assert found["adam"] == {"ok": False, "failed": "ZeroDivisionError: division by zero"}
    assert found["fill_bits"]["ok"]
    report = {"about": {"large": []}, "parts": {"check": {"ended": "", "found": found}}}
    assert "BAD adam: {'ok': False, 'failed': 'ZeroDivisionError" in summary.text(report)


# -- PyTorch, on the CPU -----------------------------------------------------------------------------
@pytest.mark.skipif(not TORCH, reason="needs PyTorch")
@pytest.mark.filterwarnings("default")
def test_every_way_to_compute_a_step():
    found = {}
    with gpu():
        peers.measure(bandwidth.QUICK, partial(program.merge, found), TORCH_ON_CPU)
    for name in (*summary.TARGETS, *peers.MORE):
        for n in ("4096", str(bandwidth.QUICK.small)):
            ways = found[name][n]
            eager = ["torch foreach", "torch fused"] if name == "adam" else ["torch eager"]
            assert list(ways) == ["tinygen", "CuPy", *eager, "torch.compile"]
            assert all(way["us"] > 0 for way in ways.values()), ways
    parts = {"peers": {"ended": "", "found": found}}
    targets = summary.targets({"about": {"large": [4096]}, "parts": parts})
    assert all(target["speedup"] > 0 for target in targets.values())


@pytest.mark.skipif(not TORCH, reason="needs PyTorch")
def test_a_way_that_fails_says_why():
    class Failing(peers.Torch):
        def normal(self, *shape):
            raise MemoryError("out of memory")

    found = {}
    with gpu():
        watch = bandwidth.Stopwatch(backend.namespace_for("gpu"), bandwidth.QUICK)
        kernel = BY_NAME["noise_step"]
        ways = Failing("cpu").ways(kernel, 4096)
        peers._time(watch, kernel, 4096, ways, partial(program.merge, found))
    assert found["noise_step"]["4096"]["torch eager"] == {"error": "MemoryError: out of memory"}
    report = {"about": {"large": [4096]}, "parts": {"peers": {"ended": "", "found": found}}}
    assert "torch eager MemoryError" in summary.text(report)


@pytest.mark.skipif(not TORCH, reason="needs PyTorch")
@pytest.mark.parametrize("name", ["noise_step", "denoise_step", "adam", "squared_error"])
def test_pytorch_computes_the_same_step(name):
    """From the same inputs, its noise being ones."""
    torch, kernel = TORCH_ON_CPU().torch, BY_NAME[name]
    x = check.Fresh.of(kernel, (16, 64), 3).arrays
    tensors = x._replace(**{k: torch.tensor(v) for k, v in check.arrays_of(x).items()})
    theirs = kernel.plain(torch, tensors, lambda shape: torch.ones(shape))
    ours = kernel.plain(np, x, lambda shape: np.ones(shape, np.float32))
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)


CONTENDERS = {
    "tinygen eager": (steps.CONTENDERS["tinygen eager"], True),
    "torch eager": (steps.Contender("with_torch", False, "cpu"), TORCH),
    "jax": (steps.CONTENDERS["jax"], find_spec("jax") is not None),
}


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.filterwarnings("default")
def test_a_contender_computes_the_same_and_is_timed(name):
    contender, there = CONTENDERS[name]
    if not there:
        pytest.skip("not installed")
    found = {}
    with gpu():
        steps.measure(name, bandwidth.QUICK, partial(program.merge, found), contender)
    assert found.keys() == {*steps.NAMES}
    for work, one in found.items():
        assert one["differs"] is None and one["us"] > 0, (work, one)
        assert one["launches"] is None and (one["flops"] is None) == work.startswith("gan")
    report = {"about": {"large": []}, "parts": {f"steps {name}": {"ended": "", "found": found}}}
    assert f"{name} {found['vae-784']['us']:.0f} (-)" in summary.text(report)


def test_a_contender_that_differs_is_named():
    def results():
        return {name: 1.5 * a for name, a in opened.results().items()}

    work = steps._scaled(bandwidth.QUICK)("vae-784")
    case = steps.with_tinygen.case(work)
    opened = steps.with_tinygen.opened(work, case, False)
    wrong = opened._replace(results=results)
    with pytest.MonkeyPatch.context() as patch, gpu():
        patch.setattr(steps, "NAMES", ["vae-784"])
        module = SimpleNamespace(opened=lambda *args: wrong)
        patch.setattr(steps, "import_module", lambda name: module)
        found = {}
        steps.measure("torch eager", bandwidth.QUICK, partial(program.merge, found))
    assert "differs from tinygen's by 5.0e-01" in found["vae-784"]["differs"]


def test_rounds_are_of_the_length_that_was_asked(monkeypatch):
    """The first steps and the one that tells how long a step takes do not count."""
    now = [0.0]
    monkeypatch.setattr(steps.time, "perf_counter", lambda: now[0])
    rounds, begun, waits = steps.Rounds(20, 5.0), [], []
    with pytest.raises(steps.Enough):
        while True:
            rounds(lambda: waits.append(len(begun)))
            now[0] += 1.0 if len(begun) < 20 else 2**-6
            begun.append(now[0])
    taken = len(begun)
    assert taken == 20 + 1 + steps.ROUNDS * 64 and waits == [0, 20, *range(21, taken + 1, 64)]
    assert rounds.seconds[2:] == [2**-6] * steps.ROUNDS


def test_the_targets_of_steps_are_judged():
    parts = {
        f"steps {name}": {"ended": "", "found": {"ddpm-784": {"us": us, "launches": 7}}}
        for name, us in {
            "tinygen": 10.0,
            "torch eager": 60.0,
            "jax": 12.0,
            "torch compiled": 14.0,
        }.items()
    }
    parts["steps tinygen"]["found"]["matrix peak"] = 1e12
    parts["steps tinygen"]["found"]["ddpm-784"]["flops"] = 5e6
    text = summary.text({"about": {"large": []}, "parts": parts})
    assert "pass 6.00 times torch eager (5.0)" in text and "50.0% of the products' peak" in text
    assert "FAIL 1.20 times the best compiled peer (1.3)" in text
    assert "tinygen 10 (7), tinygen eager -, torch eager 60 (7)" in text


def test_the_limits_of_the_parts_leave_the_most_wanted_their_time():
    """In nine minutes: what tells whether it is right, and every contender's steps."""
    names = [*program.PARTS]
    wanted = names[: names.index("steps torch compiled") + 1]
    assert sum(program.PARTS[name].limit + processes.GRACE for name in wanted) < 540


# -- the fakes are CuPy's ------------------------------------------------------------------------------
REAL = """
import json, sys, inspect, cupy
found = {}
for path in json.loads(sys.argv[1]):
    value = cupy
    for name in path.split("."):
        value = getattr(value, name)
    found[path] = " ".join([*(value.__doc__ or "").split("\\n")[:9], str(getattr(value, "__init__", ""
        ).__doc__)]) if callable(value) else ""
print(json.dumps(found))
"""


@pytest.mark.skipif(find_spec("cupy") is None, reason="compares with the real CuPy")
def test_fakes_have_the_names_and_arguments_of_the_real_package():
    used = ["RawModule", "cuda.Device.attributes", "cuda.Device.synchronize", "cuda.Event.record",
            "cuda.Event.synchronize", "cuda.get_current_stream", "cuda.Stream.null.ptr",
            *(f"RawKernel.{name}" for name in ATTRIBUTES)]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", REAL, json.dumps([*FAKES, *used])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    real = json.loads(done.stdout)
    for path, fake in FAKES.items():
        if callable(fake) and fake.__name__ != "<lambda>":
            for parameter in inspect.signature(fake).parameters:
                assert parameter in real[path], (path, parameter, real[path])


if __name__ == "__main__":  # FILE -m MODULE ARGUMENTS...
    sys.argv = sys.argv[2:]
    with gpu():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
