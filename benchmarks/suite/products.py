"""The floor under a step: its matrix products alone by NumPy, and its bytes at a copy's bandwidth."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.suite.contract import Case, Opened, Tick, part, threads
from benchmarks.suite.workloads import Workload

__all__ = ["Product", "bandwidth", "least_bytes", "opened", "products"]

Array = np.ndarray[Any, Any]
COPIED = 1 << 26  # bytes: larger than a cache


class Product(NamedTuple):
    """x @ w of x (rows, a) and w (a, b), x.T @ g for w's gradient, or g @ w.T for x's; so many times."""

    way: str
    rows: int
    a: int
    b: int
    times: int = 1


def layers(weights: Case, start: str) -> list[tuple[str, int, int]]:
    """Name and sizes of the matrices below a name, in order."""
    return [
        (name, *a.shape)
        for name, a in weights.items()
        if name.startswith(start) and name.endswith("weight")
    ]


def _forward(of: list[Any], rows: int) -> Iterator[Product]:
    yield from (Product("x @ w", rows, a, b) for _, a, b in of)


def _of_weights(of: list[Any], rows: int) -> Iterator[Product]:
    yield from (Product("x.T @ g", rows, a, b) for _, a, b in of)


def _of_inputs(of: list[Any], rows: int) -> Iterator[Product]:
    yield from (Product("g @ w.T", rows, a, b) for _, a, b in of)


def products(work: Workload, case: Case) -> list[Product]:
    """The products that the work cannot do without."""
    weights = part(case, "weights")
    found = (
        _sampling
        if work.kind == "sample"
        else {"ddpm": _ddpm, "vae": _vae, "gan": _gan}[work.model]
    )
    return [*found(work, case, weights)]


def _ddpm(work: Workload, case: Case, weights: Case) -> Iterator[Product]:
    every, n = layers(weights, ""), work.batch
    yield from _forward(every, n)
    yield from _of_weights(every, n)
    # Data and times need no gradient.
    yield from _of_inputs(
        [m for m in every if m[0] not in ("network.time.weight", "network.first.weight")], n
    )


def _vae(work: Workload, case: Case, weights: Case) -> Iterator[Product]:
    encoder, decoder, n = layers(weights, "encoder"), layers(weights, "decoder"), work.batch
    many = n * work.options.get("k", 1)
    for of, rows in ((encoder, n), (decoder, many)):
        yield from _forward(of, rows)
        yield from _of_weights(of, rows)
    yield from _of_inputs(encoder[1:], n)
    yield from _of_inputs(decoder, many)


def _gan(work: Workload, case: Case, weights: Case) -> Iterator[Product]:
    g, d, n = layers(weights, "generator"), layers(weights, "discriminator"), work.batch
    # The step of D: on data, and on samples.
    yield from _forward(g, n)
    for _ in range(2):
        yield from _forward(d, n)
        yield from _of_weights(d, n)
        yield from _of_inputs(d[1:], n)
    if work.options.get("penalty", "r1"):
        # The slope in x, and its derivative in each weight (leaky_relu has no second one).
        yield from _of_inputs(d, n)
        yield from _forward(d, n)
        yield from _of_weights(d, n)
    # The step of G.
    yield from _forward([*g, *d], n)
    yield from _of_inputs([*g[1:], *d], n)
    yield from _of_weights(g, n)


def _sampling(work: Workload, case: Case, weights: Case) -> Iterator[Product]:
    """What depends on t alone is computed once for all t."""
    last = len(case["constants/signal"]) - 1
    for name, a, b in layers(weights, ""):
        if "time" in name or "skip" in name:
            yield Product("x @ w", last, a, b)
        else:
            yield Product("x @ w", work.batch, a, b, last)


def least_bytes(work: Workload, case: Case) -> int:
    """What a training step must read and write: parameters, gradients, moments, averages, the batch.

    Adam reads four arrays and writes three, 28 bytes a parameter, and 36 with the average.
    """
    if work.kind != "step":
        return 0
    learned = part(case, "learned")
    numbers = sum(a.size for name, a in part(case, "weights").items() if name in learned)
    return (36 if case["decay"] else 28) * numbers + case["batch"].nbytes


def bandwidth(rounds: int = 9) -> float:
    """Bytes a second of a copy by as many threads as there are cores, reading and writing counted."""
    source, target = np.ones(COPIED // 4, np.float32), np.zeros(COPIED // 4, np.float32)
    n = threads()

    def copy() -> float:
        parts = zip(np.array_split(target, n), np.array_split(source, n), strict=True)
        workers = [threading.Thread(target=np.copyto, args=pair) for pair in parts]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.perf_counter() - start

    copy()
    return 2 * COPIED / median(copy() for _ in range(rounds))


def _operands(product: Product) -> tuple[Array, Array, Array]:
    way, n, a, b, _ = product
    x, w, g = (np.ones(shape, np.float32) for shape in ((n, a), (a, b), (n, b)))
    return {"x @ w": (x, w, g), "x.T @ g": (x.T, g, w), "g @ w.T": (g, w.T, x)}[way]


def opened(work: Workload, case: Case, compiled: bool) -> Opened:
    """The products as a contender that computes nothing else."""
    every = [(*_operands(p), p.times) for p in products(work, case)]

    def run(tick: Tick) -> None:
        while True:
            tick()
            for x, y, out, times in every:
                for _ in range(times):
                    np.matmul(x, y, out=out)

    return Opened(dict, run)
