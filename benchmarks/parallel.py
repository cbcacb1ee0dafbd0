"""Training by several processes: what is measured here, and a model of more ranks.

    python -m benchmarks.parallel measure                # one process: steps by rows and threads
    mpiexec -n 2 python -m benchmarks.parallel measure   # two: the same, and the time in Allreduce
    python -m benchmarks.parallel                        # the tables, from results/parallel.json
    python -m benchmarks.parallel --latency 2e-6 --bandwidth 12e9   # the model for another network

Steps are compiled. Other processes may share the machine, so a step's time is processor time, of all
threads and processes together: the median over STEPS steps. On free cores that of two threads or of two
processes passes in half of it, if they are equally busy. A rank that waits for the other takes none. An
Allreduce is the shortest of many. The data are random: no time depends on them.
"""

from __future__ import annotations

import argparse
import json
from math import log2
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

import tinygen as tg
from tinygen.models import DDPM, GAN, VAE, Model
from tinygen.parallel import Ranks, started
from tinygen.training import Settings
from tinygen.training.loop import Loop

RESULTS = Path(__file__).parent / "results" / "parallel.json"
STEPS, WARM = 100, 5
BATCH, WHOLE = 128, 8192  # rows
WORKLOADS: dict[str, Any] = {
    "vae": lambda: VAE(784),
    "gan": lambda: GAN(784),
    "ddpm": lambda: DDPM(784),
}
UPDATES = {"vae": 1, "gan": 2, "ddpm": 1}  # in a step, each with an Allreduce
SIZES = (1, 1 << 20)  # float32 numbers in an Allreduce, for its latency and its bandwidth


# -- measured --------------------------------------------------------------------------------------
def step_times(model: Model, ranks: Ranks, rows: int) -> list[float]:
    """Seconds of a step, and of those in Allreduce, on all ranks together."""
    x = np.random.default_rng(0).random((4 * rows, 784), np.float32)
    inside = [0.0]
    reduce = getattr(ranks._transport, "reduce", None)

    def timed(array: Any, op: str) -> None:
        start = process_time()
        reduce(array, op)
        inside[0] += process_time() - start

    if reduce:
        ranks._transport.reduce = timed
    loop = Loop(model, model.prepare(x), Settings(steps=STEPS + WARM, batch=rows), compiled=True)
    loop.ranks = ranks
    times = []
    with ranks.drawing(loop.random, rows):
        for _ in range(WARM + STEPS):
            inside[0], start = 0.0, process_time()
            loop.advance()
            times.append((process_time() - start, inside[0]))
    loop.updates.clear()
    if reduce:
        ranks._transport.reduce = reduce
    medians = np.median(times[WARM:], axis=0)
    return [float(s) for s in np.sum(ranks.gather(medians), axis=0)]


def allreduce(ranks: Ranks, size: int) -> float:
    """Seconds of one Allreduce of so many float32 numbers, when all ranks are ready."""
    array, times = np.zeros(size, np.float32), []
    for _ in range(1000):
        ranks.any(False)
        start = perf_counter()
        ranks._transport.reduce(array, "sum")
        times.append(perf_counter() - start)
    return min(times)


def measure(ranks: Ranks) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make in WORKLOADS.items():
        model = make()
        found[name] = {"numbers": sum(p.size for p in model.parameters())}
        if ranks.size == 1:
            tg.set_threads(1)
            for rows in (BATCH // 4, BATCH // 2, BATCH):
                found[name][f"{rows} rows, 1 thread"] = step_times(make(), ranks, rows)[0]
            tg.set_threads(2)
            found[name][f"{BATCH} rows, 2 threads"] = step_times(make(), ranks, BATCH)[0]
        else:
            tg.set_threads(1)
            found[name]["2 processes"] = step_times(make(), ranks, BATCH)
    if ranks.size > 1:
        found["allreduce"] = [allreduce(ranks, size) for size in SIZES]
    return found


# -- tables ----------------------------------------------------------------------------------------
def measured_table(found: dict[str, Any]) -> str:
    """Steps of 128 rows: one process with one and with two threads, and two processes with one each."""
    lines = [
        "| step | parameters | 1 thread | 2 threads | 2 processes | of it in Allreduce |",
        "|---|---|---|---|---|---|",
    ]
    for name in WORKLOADS:
        f = found[name]
        seconds = [f[f"{BATCH} rows, 1 thread"], f[f"{BATCH} rows, 2 threads"], *f["2 processes"]]
        shown = " | ".join(f"{1e3 * s:.2f} ms" for s in seconds)
        lines.append(f"| {name} | {f['numbers'] / 1e6:.2f} M | {shown} |")
    return "\n".join(lines)


def network(found: dict[str, Any]) -> tuple[float, float]:
    """Seconds of latency, and bytes a second, of an Allreduce between two ranks here."""
    short, long = found["allreduce"]
    return short, 4 * SIZES[1] / (long - short)


def modelled(
    found: dict[str, Any], name: str, ranks: int, rows: float, latency: float, bandwidth: float
) -> float:
    """Seconds of a step of one of `ranks` with so many rows each: a + b · rows, and the Allreduces.

    a and b go through the measured times of 32 and of 128 rows on one thread. An Allreduce of M bytes
    takes 2 log2(P) messages, and sends 2 M (P - 1)/P bytes (Rabenseifner 2004).
    """
    few, many = (found[name][f"{n} rows, 1 thread"] for n in (BATCH // 4, BATCH))
    each = (many - few) / (BATCH - BATCH // 4)
    step = few + each * (rows - BATCH // 4)
    sent = 2 * 4 * found[name]["numbers"] * (ranks - 1) / ranks
    return float(step + 2 * log2(ranks) * latency * UPDATES[name] + sent / bandwidth)


def model_table(found: dict[str, Any], latency: float, bandwidth: float) -> str:
    """How often faster than one rank P ranks compute a row: 128 rows on each, or 8192 on all."""
    names = list(WORKLOADS)
    head = [f"{name}, 128 rows each | {WHOLE} in all" for name in names]
    lines = [f"| ranks | {' | '.join(head)} |", "|---" * (1 + 2 * len(names)) + "|"]
    for ranks in (8, 64, 256, 1024):
        cells = []
        for name in names:
            for one, rows in ((BATCH, BATCH), (WHOLE, WHOLE / ranks)):
                alone = modelled(found, name, 1, one, latency, bandwidth) / one
                step = modelled(found, name, ranks, rows, latency, bandwidth)
                cells.append(f"{alone * ranks * rows / step:.1f}")
        lines.append(f"| {ranks} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(latency: float | None = None, bandwidth: float | None = None) -> str:
    found = json.loads(RESULTS.read_text())
    own_latency, own_bandwidth = network(found)
    latency, bandwidth = latency or own_latency, bandwidth or own_bandwidth
    return (
        f"{measured_table(found)}\n\n"
        f"A model of speed, with {1e6 * latency:.1f} µs and {bandwidth / 1e9:.2f} GB/s:\n\n"
        f"{model_table(found, latency, bandwidth)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel")
    parser.add_argument("what", nargs="?", choices=("measure",))
    parser.add_argument("--latency", type=float, help="seconds of a message of the network")
    parser.add_argument("--bandwidth", type=float, help="its bytes a second")
    args = parser.parse_args()
    if args.what is None:
        print(tables(args.latency, args.bandwidth))
        return
    ranks = started()
    found = measure(ranks)
    if ranks.rank == 0:
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        for name, values in found.items():
            same = isinstance(values, dict) and name in before
            before[name] = {**before[name], **values} if same else values
        RESULTS.write_text(json.dumps(before, indent=1) + "\n")


if __name__ == "__main__":
    main()
