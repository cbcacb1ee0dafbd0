"""The time of a small operation, forward and backward: tinygen beside PyTorch, autograd, MyGrad.

    python -m benchmarks engine [--json FILE]

A chain of elementwise operations on float32 arrays so small that the arithmetic hardly counts:
what is measured is the engine. Each library runs the same chain in turn, round after round, so
that a machine that slows down slows all of them; printed are medians per operation over the
rounds, and the ratio to tinygen. A peer that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np

import tinygen as tg

OPERATIONS = 100  # in a chain
ROUNDS = 60

# By name: the chain of OPERATIONS operations z = f(z) from x and y. `product` has two inputs that
# need a gradient; `exp` one; `mix` goes through five different operations.
CHAINS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "product": lambda m, z, y: z * y,
    "exp": lambda m, z, y: m.exp(-z),
    "mix": lambda m, z, y: m.tanh(z * y + 0.5) / y - z,
}
COUNTS = {"product": 1, "exp": 2, "mix": 5}  # operations in one application


def applied(m: Any, chain: str, x: Any, y: Any) -> Any:
    """The chain of a name, by the functions of m."""
    z = x
    for _ in range(OPERATIONS // COUNTS[chain]):
        z = CHAINS[chain](m, z, y)
    return z


def _timed(m: Any, chain: str, xy: Any, clear: Callable[[Any], None]) -> Any:
    """The run of a library whose Tensors have `backward`."""
    seed = m.tensor(np.ones(xy[0].shape, np.float32))

    def run() -> tuple[float, float]:
        start = time.perf_counter()
        z = applied(m, chain, *xy)
        middle = time.perf_counter()
        z.backward(seed)
        end = time.perf_counter()
        for leaf in xy:
            clear(leaf)
        return middle - start, end - middle

    return run


def _forget(leaf: Any) -> None:
    leaf.grad = None


def _tinygen(chain: str, size: int) -> Any:
    xy = [tg.tensor(a, requires_grad=True) for a in leaves(size)]
    return _timed(tg, chain, xy, _forget)


def _torch(chain: str, size: int) -> Any:
    torch = import_module("torch")
    xy = [torch.tensor(a, requires_grad=True) for a in leaves(size)]
    return _timed(torch, chain, xy, _forget)


def _mygrad(chain: str, size: int) -> Any:
    mg = import_module("mygrad")
    xy = [mg.tensor(a) for a in leaves(size)]
    return _timed(mg, chain, xy, lambda leaf: leaf.null_grad())


def _autograd(chain: str, size: int) -> Any:
    m, make_vjp = import_module("autograd.numpy"), import_module("autograd").make_vjp
    x, y = leaves(size)
    seed = np.ones(size, np.float32)

    def run() -> tuple[float, float]:
        start = time.perf_counter()
        pull, _ = make_vjp(lambda xy: applied(m, chain, xy[0], xy[1]))((x, y))
        middle = time.perf_counter()
        pull(seed)
        return middle - start, time.perf_counter() - middle

    return run


LIBRARIES = {"tinygen": _tinygen, "torch": _torch, "autograd": _autograd, "mygrad": _mygrad}


def leaves(size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Values at which no chain grows or dies."""
    rng = np.random.default_rng(0)
    return (
        rng.uniform(0.9, 1.1, size).astype(np.float32),
        rng.uniform(0.99, 1.01, size).astype(np.float32),
    )


def measure(chain: str, size: int) -> dict[str, dict[str, float]]:
    """Median microseconds an operation, forward and backward, by library."""
    runs = {}
    for name, make in LIBRARIES.items():
        try:
            runs[name] = make(chain, size)
        except ImportError:
            continue
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 5):
        for name, run in runs.items():
            pair = run()
            if round_ >= 5:  # the first rounds warm up
                times[name].append(pair)
    scale = 1e6 / OPERATIONS
    return {
        name: {
            "forward": scale * median(f for f, _ in pairs),
            "backward": scale * median(b for _, b in pairs),
            "both": scale * median(f + b for f, b in pairs),
        }
        for name, pairs in times.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", help="write the figures to this file as well")
    args = parser.parse_args(arguments)
    results: dict[str, Any] = {"versions": _versions(), "operations": {}}
    print("  ".join(f"{name} {number}" for name, number in results["versions"].items()))
    print("microseconds an operation, medians; ratio: both, to tinygen")
    print(
        f"{'chain':10}{'size':>6}  {'library':10}{'forward':>9}{'backward':>10}{'both':>8}{'ratio':>8}"
    )
    for chain in CHAINS:
        for size in (1, 100, 1000):
            figures = measure(chain, size)
            results["operations"][f"{chain}-{size}"] = figures
            for name, f in figures.items():
                ratio = f["both"] / figures["tinygen"]["both"]
                print(
                    f"{chain:10}{size:6}  {name:10}{f['forward']:9.2f}{f['backward']:10.2f}"
                    f"{f['both']:8.2f}{ratio:8.2f}",
                    flush=True,
                )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=2)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "processor": platform.machine()}
    for name in ("numpy", *LIBRARIES):
        try:
            found[name] = tg.__version__ if name == "tinygen" else version(name)
        except ImportError:
            found[name] = "not installed"
    return found
