"""How near the kernels come to the speed of a copy; by events on the GPU's default stream.

Inputs are random, and every call takes other buffers than the calls before it, so that nothing is
found in the L2 cache. Bytes are counted: each input read once, each output written once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median, quantiles
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gpu.check import geometry
from benchmarks.gpu.table import BY_NAME, KERNELS, TARGETS, Kernel, inputs
from tinygen.backend import namespace_for
from tinygen.kernels import Draw, cuda
from tinygen.kernels.fused import SUM_CHUNK
from tinygen.kernels.signatures import signatures
from tinygen.random import Generator

__all__ = [
    "FULL", "QUICK", "Scale", "Stopwatch", "forget", "fused", "host_time", "measure",
    "random_arrays", "registers", "rotating", "time_call",
]  # fmt: skip

DRAW = Draw(2024, 7)
COLUMNS = 1024
VARIANTS = [(threads, blocks) for threads in (128, 256) for blocks in (8, 16, 32, 2**16)]

Save = Callable[[dict[str, Any]], None]


class Scale(NamedTuple):
    """How much is measured."""

    sizes: tuple[int, ...]  # elements
    large: int  # bytes of an array from which on a size decides about targets
    rotate: int  # bytes that pass by before a buffer is used again: several times the L2 cache
    lead: int  # floats written before each measurement, while the host fills the queue
    samples: int
    calls: int  # in a sample
    small: int  # elements of arrays with which launches decide
    host_calls: int  # with them
    steps: int  # of training
    batch: int


FULL = Scale((2**20, 2**24, 2**26, 2**28), 2**28, 2**28, 2**28, 25, 8, 128 * 784, 300, 300, 128)
QUICK = Scale((2048, 4096), 2**14, 2**15, 2**10, 3, 2, 3 * 784, 3, 2, 4)


class Stopwatch:
    """Time on the GPU. A sample is a few calls between two events.

    Before it stands about a millisecond of other work, so that the calls are all in the queue when
    the first one starts, and no time passes between them.
    """

    def __init__(self, m: Any, scale: Scale) -> None:
        self.m, self.scale = m, scale
        self._lead = m.empty(scale.lead, np.float32)

    def samples(self, call: Callable[[int], Any]) -> list[float]:
        """Seconds for one call, in each sample; call(k) gets 0, 1, 2, ..."""
        start, end = self.m.cuda.Event(), self.m.cuda.Event()
        for k in range(self.scale.calls):
            call(k)
        seconds = []
        for _ in range(self.scale.samples):
            for _ in range(4):
                self._lead.fill(1.0)
            start.record()
            for k in range(self.scale.calls):
                call(k)
            end.record()
            end.synchronize()
            elapsed = self.m.cuda.get_elapsed_time(start, end)
            seconds.append(elapsed / 1e3 / self.scale.calls)
        return seconds


def rotating(scale: Scale, bytes_each: float, make: Callable[[], Any]) -> list[Any]:
    """So many results of make() that `scale.rotate` bytes pass by before one comes back."""
    return [make() for _ in range(max(2, -(-scale.rotate // max(int(bytes_each), 1))))]


def random_arrays(kernel: Kernel, m: Any, n: int) -> Any:
    """Inputs of n elements on the GPU."""
    rng = Generator(time.time_ns())
    columns = min(n, COLUMNS)
    return inputs(
        kernel,
        lambda *shape: rng.normal(shape, device=m.device),
        lambda *shape: rng.uniform(shape, device=m.device),
        n // columns,
        columns,
    )


def time_call(
    watch: Stopwatch, bytes_each: float, sets: Sequence[Any], call: Callable[[Any], Any]
) -> dict[str, float]:
    """µs and GB/s of call(one of the sets); `spread` is that of the middle half of the samples.

    The last results stay alive, so that the outputs rotate too.
    """
    kept: list[Any] = [None] * len(sets)
    turn = 0

    def next_call(_: int) -> None:
        nonlocal turn
        kept[turn % len(sets)] = call(sets[turn % len(sets)])
        turn += 1

    seconds = watch.samples(next_call)
    middle = max(median(seconds), 1e-12)
    low, _, high = quantiles(seconds, n=4)
    return {
        "us": 1e6 * middle,
        "gb_s": bytes_each / middle / 1e9,
        "spread": (high - low) / middle,
    }


def time_kernel(watch: Stopwatch, kernel: Kernel, n: int) -> dict[str, float]:
    """One kernel at n elements."""
    moved = float(kernel.bytes * n)
    sets = rotating(watch.scale, moved, partial(random_arrays, kernel, watch.m, n))
    return time_call(watch, moved, sets, fused(kernel, watch.m))


def fused(kernel: Kernel, m: Any) -> Callable[[Any], Any]:
    """The call of tinygen's kernel, as a function of its inputs."""
    return lambda x: kernel.call(m, x, DRAW)


# -- the copy that all are held against ------------------------------------------------------------
COPY = """
typedef long long i64;
extern "C" __global__ void __launch_bounds__(256) copy(float* y, const float* x, i64 n) {
    const i64 threads = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; 4 * i < n; i += threads)
        reinterpret_cast<float4*>(y)[i] = reinterpret_cast<const float4*>(x)[i];
}
"""  # n is a multiple of 4


def copies(watch: Stopwatch, n: int) -> dict[str, dict[str, float]]:
    """The ways to copy n floats."""
    m, moved = watch.m, 8.0 * n
    pairs = rotating(watch.scale, moved, lambda: (m.empty(n, np.float32), _random(m, n)))
    kernel = m.RawModule(code=COPY, options=cuda.OPTIONS).get_function("copy")
    processors = m.cuda.Device().attributes["MultiProcessorCount"]
    runtime, stream = m.cuda.runtime, m.cuda.get_current_stream().ptr

    def by_runtime(pair: Any) -> None:
        to, of = (array.data.ptr for array in pair)
        runtime.memcpyAsync(to, of, 4 * n, runtime.memcpyDeviceToDevice, stream)

    def by_kernel(blocks: int) -> Callable[[Any], None]:
        grid = min(-(-n // 1024), blocks * processors)
        return lambda pair: kernel((grid,), (256,), (*pair, np.int64(n)))

    ways: dict[str, Callable[[Any], None]] = {"cudaMemcpy": by_runtime}
    ways |= {f"kernel, {b} blocks": by_kernel(b) for b in (8, 16, 32, 2**16)}
    return {name: time_call(watch, moved, pairs, way) for name, way in ways.items()}


def _random(m: Any, n: int) -> Any:
    return Generator(time.time_ns()).normal(n, device=m.device)


# -- all of it -----------------------------------------------------------------------------------
def measure(scale: Scale, save: Save) -> None:
    """The copy, the targets, their launch variants, the other kernels, and small arrays.

    `save` gets a piece of the report whenever there is one more.
    """
    m = namespace_for("gpu")
    watch = Stopwatch(m, scale)
    for n in scale.sizes:
        save({"copy": {str(n): copies(watch, n)}})
        forget(m)
    others = [kernel.name for kernel in KERNELS if kernel.name not in TARGETS]
    _sizes(watch, TARGETS, save)
    _small(watch, save)
    _variants(watch, save)
    _sizes(watch, others, save)


def forget(m: Any) -> None:
    """Give the memory of arrays that are gone back to the GPU."""
    m.get_default_memory_pool().free_all_blocks()


def _sizes(watch: Stopwatch, names: Sequence[str], save: Save) -> None:
    for name in names:
        for n in watch.scale.sizes:
            # What is summed up at the end of a sum is one number for each chunk.
            size = max(n // SUM_CHUNK, 4) if name == "sum_chunks" else n
            save({"kernels": {name: {str(n): time_kernel(watch, BY_NAME[name], size)}}})
            forget(watch.m)


def _variants(watch: Stopwatch, save: Save) -> None:
    """The kernels that are to be fast, launched in other ways. The first way comes again at the
    end: what differs between these two is noise."""
    n = watch.scale.sizes[-2]
    for name in TARGETS:
        kernel = BY_NAME[name]
        moved = float(kernel.bytes * n)
        sets = rotating(watch.scale, moved, partial(random_arrays, kernel, watch.m, n))
        for i, (threads, blocks) in enumerate([*VARIANTS, VARIANTS[0]]):
            with geometry(threads, blocks):
                found = time_call(watch, moved, sets, fused(kernel, watch.m))
            word = f"{threads} x {'all' if blocks == 2**16 else blocks}"
            save({"variants": {name: {word + (" again" if i == len(VARIANTS) else ""): found}}})
        del sets
        forget(watch.m)


def _small(watch: Stopwatch, save: Save) -> None:
    """µs a call from Python, the host's work included, as a training step sees it."""
    for kernel in KERNELS:
        x = random_arrays(kernel, watch.m, watch.scale.small)
        call = partial(kernel.call, watch.m, x, DRAW)
        save({"small": {kernel.name: 1e6 * host_time(watch, call)}})


def host_time(watch: Stopwatch, call: Callable[[], Any]) -> float:
    """Seconds a call, many in a row, until the GPU is done with the last."""
    synchronize = watch.m.cuda.Device().synchronize
    for _ in range(3):
        call()
    synchronize()
    start = time.perf_counter()
    for _ in range(watch.scale.host_calls):
        call()
    synchronize()
    return (time.perf_counter() - start) / watch.scale.host_calls


def registers(save: Save) -> None:
    """What each kernel takes of a multiprocessor, as compiled for this GPU, and how long that took."""
    m = namespace_for("gpu")
    start = time.perf_counter()
    module = m.RawModule(code=cuda.source(), options=cuda.OPTIONS)
    module.compile()
    save({"seconds": time.perf_counter() - start})
    for name in signatures():
        function = module.get_function(name)
        attributes = ("num_regs", "local_size_bytes", "shared_size_bytes", "max_threads_per_block")
        save({"kernels": {name: {a: getattr(function, a) for a in attributes}}})
