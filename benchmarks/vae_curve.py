"""The test log-likelihood of a VAE against the number of its updates, beside the paper's.

    python -m benchmarks vae_curve [--updates N ...] [--k K] [--data-dir FOLDER]

The model of Burda et al. (2016), table 1, with one stochastic layer: 784-200-200-50, tanh, MNIST
binarised anew at each use. Each number of updates is a run of its own, since the learning rate falls
to 0 over it: Adam, batches of 100, 1e-3 after 100 steps of warm-up, an average of the parameters with
decay .999, seed 0. Printed are nats on all held-out images, binarised once by the seed: the bound,
its two terms, log p(x) by importance sampling with k samples and the standard error of its mean, and
how many of the 50 units are active.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from tinygen import data
from tinygen.models import VAE
from tinygen.random import Generator

UPDATES = (1_000, 3_000, 10_000, 30_000, 57_900)
PAPER = "the paper: 9,840,000 updates of batch 20, log p(x) -86.76 with k = 5000, 19 active units"


def trained(x: np.ndarray, updates: int) -> VAE:
    """The model after so many updates."""
    model = VAE(784, hidden=(200, 200), latent=50, activation="tanh", binarise=True)
    model.fit(x, steps=updates, batch=100, ema_decay=0.999, show_progress=True)
    return model


def row(model: VAE, test: np.ndarray, k: int) -> str:
    """What the model reaches on the held-out rows."""
    bits = Generator(0).bernoulli(test)
    log_likelihood, kl = (term.numpy().mean() for term in model.elbo(bits, Generator(1)))
    log_p, error = model.log_likelihood(bits, k=k, rng=Generator(2))
    active = int(model.units(bits).active.sum())
    error_of_mean = np.sqrt((error**2).sum()) / len(bits)
    return (
        f"{log_likelihood - kl:9.2f}{log_likelihood:16.2f}{kl:8.2f}"
        f"{log_p.mean():11.2f} ± {error_of_mean:.2f}{active:9}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks vae_curve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--updates", type=int, nargs="+", default=UPDATES)
    parser.add_argument("--k", type=int, default=500)
    parser.add_argument("--data-dir")
    args = parser.parse_args(arguments)
    mnist = data.load("mnist", args.data_dir)
    print(f"MNIST, {len(mnist.test)} held-out images; k = {args.k}; {PAPER}")
    print(
        f"{'updates':>8}{'seconds':>9}{'bound':>9}{'reconstruction':>16}{'KL':>8}{'log p(x)':>11}",
        f"{'active':>15}",
    )
    for updates in args.updates:
        began = time.monotonic()
        model = trained(mnist.x, updates)
        seconds = time.monotonic() - began
        print(f"{updates:8}{seconds:9.0f}{row(model, mnist.test, args.k)}", flush=True)
