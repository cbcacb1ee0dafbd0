"""The fused kernels on the CPU: the C++ form beside the NumPy form and PyTorch.

    python -m benchmarks kernels

Each work is done by every form in turn, round after round; printed are medians, and the ratio to
the C++ form. C++ and NumPy forms take one thread, PyTorch as many as it likes. The last table says
what a kernel costs between two matrix products, whose threads may still be spinning: the time of
both in turn, over the sum of their times alone.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import tinygen as tg
from tinygen import kernels
from tinygen.backend import numpy_namespace as m
from tinygen.kernels import fused
from tinygen.optim import Adam

ROUNDS = 100
NORMALS = 100_352  # 128 images of MNIST
WEIGHTS = 1_650_000  # of a VAE 784-500-500-32

rng = tg.random.Generator(0)
Work = Callable[[], Any]


@contextmanager
def numpy_form() -> Iterator[None]:
    """Inside, the plain forms compute."""
    launcher = fused.launcher
    fused.launcher = lambda m, *arrays: None
    try:
        yield
    finally:
        fused.launcher = launcher


# -- the works: tinygen's, and PyTorch's as its users would write it -------------------------------
def normals() -> tuple[Work, Callable[[Any], Work]]:
    return lambda: rng.normal(NORMALS), lambda torch: lambda: torch.randn(NORMALS)


def noise_step() -> tuple[Work, Callable[[Any], Work]]:
    x0, a, s = rng.normal((128, 784)), rng.uniform(128), rng.uniform(128)

    def peer(torch: Any) -> Work:
        x, u, v = torch.tensor(x0), torch.tensor(a)[:, None], torch.tensor(s)[:, None]
        return lambda: u * x + v * torch.randn_like(x)

    return lambda: kernels.noise_step(m, x0, a, s, rng.next_draw()), peer


def denoise_step() -> tuple[Work, Callable[[Any], Work]]:
    x, out = rng.normal((64, 784)), rng.normal((64, 784))
    step = kernels.Denoising(1.1, -0.4, -1.0, 1.0, 0.3, 0.7, 0.1)

    def peer(torch: Any) -> Work:
        xt, o = torch.tensor(x), torch.tensor(out)

        def run() -> Any:
            x0 = (step.from_xt * xt + step.from_output * o).clamp(-1, 1)
            return step.on_x0 * x0 + step.on_xt * xt + step.sigma * torch.randn_like(xt)

        return run

    return lambda: kernels.denoise_step(m, x, out, step, rng.next_draw()), peer


def loss() -> tuple[Work, Callable[[Any], Work]]:
    out, target = rng.normal((128, 784)), rng.normal((128, 784))

    def peer(torch: Any) -> Work:
        o, t = torch.tensor(out, requires_grad=True), torch.tensor(target)

        def run() -> Any:
            o.grad = None
            torch.nn.functional.mse_loss(o, t).backward()

        return run

    return lambda: kernels.squared_error(m, out, target), peer


def silu() -> tuple[Work, Callable[[Any], Work]]:
    x, b = tg.tensor(rng.normal((128, 512))), tg.tensor(rng.normal(512))

    def peer(torch: Any) -> Work:
        y, c = torch.tensor(x.numpy()), torch.tensor(b.numpy())
        return lambda: torch.nn.functional.silu(y + c)

    return lambda: tg.ops.composites._BIASED["silu"](x, b), peer


def cross_entropy() -> tuple[Work, Callable[[Any], Work]]:
    logits, targets = tg.tensor(rng.normal((128, 784))), tg.tensor(rng.uniform((128, 784)))

    def peer(torch: Any) -> Work:
        l, t = torch.tensor(logits.numpy()), torch.tensor(targets.numpy())
        f = torch.nn.functional.binary_cross_entropy_with_logits
        return lambda: f(l, t, reduction="none")

    return lambda: tg.bce_with_logits(logits, targets), peer


def adam() -> tuple[Work, Callable[[Any], Work]]:
    p = tg.tensor(rng.normal(WEIGHTS), requires_grad=True)
    p.grad = tg.tensor(rng.normal(WEIGHTS))
    optimizer = Adam({"p": p})

    def peer(torch: Any) -> Work:
        q = torch.tensor(p.numpy(), requires_grad=True)
        q.grad = torch.tensor(p.grad.numpy())
        return torch.optim.Adam([q], fused=True).step

    return optimizer.step, peer


WORKS = {
    f"normals, {NORMALS}": normals,
    "noise step, 128x784": noise_step,
    "denoise step, 64x784": denoise_step,
    "squared error and gradient, 128x784": loss,
    "bias + SiLU, 128x512": silu,
    "cross-entropy of logits, 128x784": cross_entropy,
    f"Adam, {WEIGHTS} parameters": adam,
}


# -- measuring -----------------------------------------------------------------------------------
def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(make: Callable[[], tuple[Work, Callable[[Any], Work]]]) -> dict[str, float]:
    """Median microseconds by form."""
    ours, peer = make()
    forms = {"C++": ours, "NumPy": ours}
    try:
        torch = import_module("torch")
        with torch.no_grad() if make is not loss else torch.enable_grad():
            forms["PyTorch"] = peer(torch)
    except ImportError:
        pass
    times: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(ROUNDS):
        for form, work in forms.items():
            if form == "NumPy":
                with numpy_form():
                    times[form].append(_seconds(work))
            else:
                times[form].append(_seconds(work))
    return {form: 1e6 * median(ts) for form, ts in times.items()}


def beside_products(work: Work) -> tuple[float, float, float]:
    """Median microseconds of a matrix product, of the work, and of the one after the other."""
    a, b = rng.normal((128, 784)), rng.normal((784, 512))
    alone = median(_seconds(lambda: a @ b) for _ in range(ROUNDS))
    kernel = median(_seconds(work) for _ in range(ROUNDS))

    def both() -> None:
        for _ in range(4):
            _ = a @ b
            work()

    return 1e6 * alone, 1e6 * kernel, 1e6 * median(_seconds(both) / 4 for _ in range(ROUNDS))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    argparse.ArgumentParser(
        prog="python -m benchmarks kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    names = ("numpy", "torch")
    versions = {name: _version(name) for name in names}
    print(
        f"python {platform.python_version()}  "
        + "  ".join(f"{name} {v}" for name, v in versions.items())
    )
    print(f"kernels: {kernels.description('cpu').split(',')[0]}")
    print("microseconds, medians; in brackets the ratio to the C++ form")
    print(f"{'work':38}{'C++':>8}{'NumPy':>16}{'PyTorch':>16}")
    for name, make in WORKS.items():
        found = measure(make)
        row = f"{name:38}{found['C++']:8.0f}"
        for form in ("NumPy", "PyTorch"):
            if form in found:
                row += f"{found[form]:9.0f} ({found[form] / found['C++']:4.1f})"
        print(row, flush=True)
    print("\nbetween matrix products 128x784x512 on all threads; ratio: in turn, over the sum")
    print(f"{'work':38}{'product':>8}{'kernel':>9}{'in turn':>9}{'ratio':>7}")
    for name, make in WORKS.items():
        product, kernel, both = beside_products(make()[0])
        print(f"{name:38}{product:8.0f}{kernel:9.0f}{both:9.0f}{both / (product + kernel):7.2f}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
