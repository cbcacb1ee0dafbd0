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
    """The result of `c2st`.

    accuracy: the share of test rows that are classified correctly. 0.5 is the accuracy of guessing, 1
        means that samples and data always differ.
    standard_error: sqrt(p (1 - p) / (n + 4)) with p = (correct + 2) / (n + 4) for n test rows. Two
        correct and two wrong rows are added, so that it is not 0 at accuracy 1 (Agresti & Coull 1998).
    """

    accuracy: float
    standard_error: float


def c2st(samples: Any, real: Any, rng: Rng) -> C2ST:
    """The test accuracy of a network that learns to tell samples (n, d) from real rows (m, d).

    It is the classifier two-sample test (Lopez-Paz & Oquab 2017, §3). Both sets give as many rows as the
    smaller one has. Half of these are test rows. Of the other half, three quarters are for training and
    one quarter for validation. The network is d-256-256-1 with ReLU, on standardised features. It is
    trained with Adam and batches of 128, until the validation loss has not fallen for ten epochs. The
    weights with the smallest validation loss are tested.
    For equal distributions the expected accuracy is 0.5, for any network. Else it is at most that of
    Bayes' rule. A weak network finds less, so 0.5 does not prove that distributions are equal. It is
    computed on the CPU.
    ValueError: fewer than 8 rows in a set, different d, NaN or infinity.
    """
    rng = as_generator(rng)
    samples, real = point_sets(samples=samples, real=real)
    at_least(8, "c2st", samples, real)
    n = min(len(samples), len(real))
    chosen = [rows[rng.permutation(len(rows))[:n]] for rows in (samples, real)]
    # Samples and real rows alternate: a slice between even numbers has as many of both.
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
    """The rows in float32, standardised with the mean and deviation of the training rows.

    They are clipped to 5 deviations, because a pixel that is nearly always 0 would be far above.
    """
    deviation = training.std(axis=0)
    deviation[deviation == 0] = 1.0
    return ((rows - training.mean(axis=0)) / deviation).clip(-5.0, 5.0).astype(np.float32)


def _trained(x: Array, y: Array, x_held: Array, y_held: Array, rng: Generator) -> MLP:
    """A network for the log-odds of y = 1, with the weights that are best on the held-out rows."""
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
