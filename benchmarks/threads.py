"""Matrix products beside other work: tinygen's pool of threads, and NumPy on all threads and on one.

    python -m benchmarks threads [--rounds N] [--threads N]

The products are those of a training step, forward and backward. They are timed alone, and beside a
process that keeps one core busy; one after the other, and with 0.3 ms of other work before each, as
a step has it (which is not counted). The contenders take turns, round after round. Printed are medians
in milliseconds, and what tinygen's pool takes relative to NumPy on one thread in the same place.

Beside it stands how busy other processes kept the cores meanwhile: figures of a machine that is not
quiet say little.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

import tinygen as tg
from tinygen.kernels import pool

OTHER_WORK = 0.3e-3  # seconds
REST = 0.15  # seconds until OpenBLAS's threads, which wait awake for some time, sleep
WARM_UP = 0.3  # seconds until new threads have found a core each
RUNS = 10  # of all products in a row

Product = Callable[[], object]
Contenders = dict[str, tuple[int, int, str]]  # threads of NumPy and of the pool, whose products

STEPS = {
    "DDPM 784, batch 128": (128, [784, *[512] * 7, 784]),
    "DDPM 2-D, batch 2000": (2000, [128] * 6),
    "VAE 784-200-200-50, batch 20": (20, [784, 200, 200, 100]),
    "VAE 784-200-200-50, batch 4096": (4096, [784, 200, 200, 100]),
}
"""A batch, and the widths between which its layers map."""


def products(batch: int, widths: list[int], matmul: Callable[..., object]) -> list[Product]:
    """For every layer the output, the gradient of the input, and that of the weight."""
    rng = np.random.default_rng(0)

    def layer(inputs: int, outputs: int) -> list[Product]:
        x, w, g = (
            rng.standard_normal(shape, dtype=np.float32)
            for shape in ((batch, inputs), (inputs, outputs), (batch, outputs))
        )
        return [lambda: matmul(x, w), lambda: matmul(g, w.T), lambda: matmul(x.T, g)]

    return [product for pair in pairwise(widths) for product in layer(*pair)]


# -- measuring -----------------------------------------------------------------------------------
def milliseconds(work: list[Product], pause: float) -> float:
    """What the products take, without the work between them."""
    total = 0.0
    for product in work:
        start = time.perf_counter()
        while pause and time.perf_counter() < start + pause:
            pass
        start = time.perf_counter()
        product()
        total += time.perf_counter() - start
    return 1e3 * total


def measure(step: str, pause: float, contenders: Contenders, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every run, by contender."""
    blas = pool.OpenBLAS.of_numpy()
    batch, widths = STEPS[step]
    matmuls = {"numpy": np.matmul, "pool": pool.matmul}
    work = {name: products(batch, widths, matmul) for name, matmul in matmuls.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (of_numpy, of_pool, whose) in contenders.items():
            blas.openblas_set_num_threads(of_numpy)
            tg.set_threads(of_pool)
            time.sleep(REST)
            warm = time.perf_counter() + WARM_UP
            while time.perf_counter() < warm:
                milliseconds(work[whose], pause)
            times[name] += [milliseconds(work[whose], pause) for _ in range(RUNS)]
    return times


@contextmanager
def one_busy_core(wanted: bool) -> Iterator[None]:
    """A neighbour that computes all the time, wherever the system puts it."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if neighbour:
            neighbour.kill()
            neighbour.wait()


def cores_used() -> tuple[float, float] | None:
    """Core seconds that all processes, and that this one and its children, have used so far."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(n) for n in first[1:9])
    mine = os.times()
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK"), sum(mine[:4])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks threads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=tg.get_threads())
    args = parser.parse_args(arguments)
    if pool.table() is None:
        sys.exit("there is no pool: no compiler, or NumPy computes with another BLAS than OpenBLAS")
    n = args.threads
    contenders = {
        f"NumPy, {n}": (n, 1, "numpy"),
        "NumPy, 1": (1, 1, "numpy"),
        f"pool, {n}": (n, n, "pool"),
        "pool, 1": (n, 1, "pool"),
    }
    print(f"python {platform.python_version()}  numpy {np.__version__}  {os.cpu_count()} cores")
    print("milliseconds, medians; ratio: the pool on all its threads, over NumPy on one")
    print(f"{'products of a step':32}{'neighbour':>10}{'between':>9}", end="")
    print("".join(f"{name:>10}" for name in contenders) + f"{'ratio':>8}{'others':>8}")
    for step in STEPS:
        for busy in (False, True):
            for pause in (0.0, OTHER_WORK):
                place = f"{step:32}{'busy' if busy else '-':>10}{1e3 * pause:6.1f} ms"
                print(place + _figures(step, busy, pause, contenders, args.rounds), flush=True)


def _figures(step: str, busy: bool, pause: float, contenders: Contenders, rounds: int) -> str:
    start, before = time.perf_counter(), cores_used()
    with one_busy_core(busy):
        times = measure(step, pause, contenders, rounds)
    elapsed, after = time.perf_counter() - start, cores_used()
    others = "?"
    if before and after:
        others = f"{(after[0] - before[0] - after[1] + before[1]) / elapsed:.2f}"
    medians = [median(of_one) for of_one in times.values()]
    ratio = medians[2] / medians[1]
    return "".join(f"{t:10.2f}" for t in medians) + f"{ratio:8.2f}{others:>8}"
