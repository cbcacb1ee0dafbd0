"""The classifier two-sample test: can a network tell samples from data?"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np

from tinygen.autodiff import no_grad
from tinygen.metrics._points import Array, at_least, point_sets
from tinygen.nn import MLP
from tinygen.ops import bce_with_logits, mean
from tinygen.optim import Adam
from tinygen.random import Generator, Rng, as_generator

__all__ = ["C2ST", "c2st"]

_HIDDEN, _LEARNING_RATE = 256, 1e-3
_BATCH, _EPOCHS, _PATIENCE = 128, 100, 10


class C2ST(NamedTuple):
    """accuracy: the share of test rows told right; .5 means indistinguishable, 1 told apart always.
    standard_error: sqrt(p (1 - p) / (n + 4)) with p = (right + 2) / (n + 4) of n test rows: two more
        told right and two told wrong, so that it is no 0 at accuracy 1 (Agresti & Coull 1998)."""

    accuracy: float
    standard_error: float


def c2st(samples: Any, real: Any, rng: Rng) -> C2ST:
    """How well a network trained to tell samples (n, d) from real rows (m, d) does on other rows.

    The classifier two-sample test (Lopez-Paz & Oquab 2017, §3). As many rows of each set, all of
    the smaller one; half of both is for the test. The network, d-256-256-1 with ReLU, sees three
    quarters of the other half, each feature standardised, until the cross-entropy on the last
    quarter has not fallen for ten passes (Adam, batches of 128); the weights with the least are
    tested. For equal laws the expected accuracy is .5, whatever the network learnt; else it is at
    most that of Bayes' rule. A weak network finds less: .5 is no proof. Computed on the CPU.
    ValueError: fewer than 8 rows in a set, different d, NaN or infinity.
    """
    rng = as_generator(rng)
    samples, real = point_sets(samples=samples, real=real)
    at_least(8, "c2st", samples, real)
    n = min(len(samples), len(real))
    chosen = [rows[rng.permutation(len(rows))[:n]] for rows in (samples, real)]
    # Samples and real rows in turn: what begins and ends at an even row has as many of both.
    rows, labels = np.stack(chosen, axis=1).reshape(2 * n, -1), np.arange(2 * n) % 2 == 0
    held, test = 2 * (n * 3 // 8), 2 * (n // 2)
    rows = _standardised(rows, rows[:held])
    labels = labels.astype(np.float32)[:, None]
    net = _trained(rows[:held], labels[:held], rows[held:test], labels[held:test], rng)
    with no_grad():
        right = (net(rows[test:]).numpy() > 0) == (labels[test:] > 0)
    n = right.size + 4
    p = (int(right.sum()) + 2) / n
    return C2ST(float(right.mean()), (p * (1 - p) / n) ** 0.5)


def _standardised(rows: Array, training: Array) -> Array:
    """Float32, with mean 0 and deviation 1 for each feature of the training rows.

    Cut at 5 deviations, which pixels that are almost never lit would exceed by far.
    """
    deviation = training.std(axis=0)
    deviation[deviation == 0] = 1.0
    return ((rows - training.mean(axis=0)) / deviation).clip(-5.0, 5.0).astype(np.float32)


def _trained(x: Array, y: Array, x_held: Array, y_held: Array, rng: Generator) -> MLP:
    """A network that gives the log-odds of y = 1, stopped where it is best on the held rows."""
    net = MLP([x.shape[1], _HIDDEN, _HIDDEN, 1], rng=rng)
    adam = Adam(net.named_parameters(), _LEARNING_RATE)
    least, best, waited = inf, net.state_dict(), 0
    for _ in range(_EPOCHS):
        order = rng.permutation(len(x))
        for start in range(0, len(x), _BATCH):
            batch = order[start : start + _BATCH]
            adam.zero_grad()
            mean(bce_with_logits(net(x[batch]), y[batch])).backward()
            adam.step()
        with no_grad():
            loss = float(bce_with_logits(net(x_held), y_held).numpy().mean())
        waited += 1
        if loss < least:
            least, best, waited = loss, net.state_dict(), 0
        elif waited == _PATIENCE:
            break
    net.load_state_dict(best)
    return net
