"""What a trained model is measured by, on data held out from its training."""

from __future__ import annotations

import logging
import warnings
from math import isfinite
from typing import Any

import numpy as np

from tinygen.backend import to_device
from tinygen.data import Dataset
from tinygen.metrics import c2st, memorisation, mmd, prdc, sliced_wasserstein, wasserstein
from tinygen.models import VAE, Model
from tinygen.random import Generator

__all__ = ["evaluate"]

ROWS = 2000  # at most so many rows of a set enter a measure: it is to take seconds
BATCH = 500
WEIGHTS = 200  # of importance sampling, for each row
FEW = 50  # with fewer rows than these, neighbours and a classifier say nothing

Array = np.ndarray[Any, Any]


def evaluate(model: Model, data: Dataset, samples: Array, seed: int = 0) -> dict[str, Any]:
    """Measures of `model` by name; the samples may be on any device.

    held_out: each term of the training losses on held-out rows (nats or squared units, as the
        model's `loss` says), and the `score_samples` mean where the model has one. Of a VAE also
        log p(x) by importance sampling on 500 rows, the error of that mean, and what the weights say
        of both (see `Estimate`): the mean effective sample size of 200, the median k_hat, and the
        share of rows with one above 0.7, where log p(x) is surer than it may be.
    samples: the measures of `tinygen.metrics`, of the samples beside as many held-out rows, and of
        the samples' distances to training rows beside those of held-out rows. Those of neighbours
        and of the classifier are left out where there are fewer than 50 rows.
    floor: the same of real rows in the place of the samples, which is what a perfect model would
        reach: of held-out rows that are not compared with, or of training rows if those are too
        few. For distances to training rows, half of the held-out rows are for the floor.
    """
    rng = Generator(seed).child("evaluation")
    # In an order of its own: the first half of MNIST's held-out rows is easier than the other.
    test = data.test[rng.permutation(len(data.test))]
    samples = samples[:ROWS]
    size = min(len(samples), len(test), len(data.x), ROWS)
    order = rng.child("spare").permutation(len(data.x))  # a stream of its own: nothing else moves
    spare = test[size:] if len(test) >= 2 * size else data.x[order]
    half = -(-min(ROWS, len(test)) // 2)

    def measures(rows: Array, fresh: Array) -> dict[str, float]:
        return {
            **_beside_held_out(rows[:size], test[:size], rng.child("measures")),
            **_prefixed("memorisation", memorisation(fresh, data.x, test[:half])),
        }

    return {
        "held_out": _losses(model, test[:ROWS], rng),
        "samples": measures(samples, samples),
        "floor": measures(spare, test[-half:][: len(samples)]),
    }


def _losses(model: Model, rows: Array, rng: Generator) -> dict[str, float]:
    """The mean over the rows of each term of the model's losses, and of its scores.

    An outlier can make one impossible or infinite: it is left out, and the logger "tinygen" says so.
    """
    rows = model.check(to_device(rows, model.device))
    found: dict[str, float] = {}
    failed: dict[str, Any] = {}
    with np.errstate(all="ignore"):  # what comes of it is told below
        for name, measure in MEASURES.items():
            try:
                found |= measure(model, rows, rng)
            except (ValueError, ArithmeticError) as error:
                failed[name] = error
    failed |= {name: value for name, value in found.items() if not isfinite(value)}
    if failed:
        logging.getLogger("tinygen").warning(
            "tinygen: left out of the measures of held-out rows, which may have an outlier: %s",
            ", ".join(f"{name} ({reason})" for name, reason in failed.items()),
        )
    return {name: value for name, value in found.items() if name not in failed}


def _terms(model: Model, rows: Array, rng: Generator) -> dict[str, float]:
    found: dict[str, float] = {}
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        for objective in {o.name: o for o in model.objectives()}.values():
            for name, value in objective.loss(batch, rng=rng).items():
                found[name] = found.get(name, 0.0) + value.item() * len(batch) / len(rows)
    return found


def _score(model: Model, rows: Array, rng: Generator) -> dict[str, float]:
    score = getattr(model, "score_samples", None)
    return {} if score is None else {"score": float(score(rows, rng=rng).mean())}


def _likelihood(model: Model, rows: Array, rng: Generator) -> dict[str, float]:
    if not isinstance(model, VAE):
        return {}
    rows, rng = rows[:BATCH], rng.child("likelihood")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the figures say it
        estimate = model.log_likelihood(rows, k=WEIGHTS, rng=rng)
    log_p, error, ess, k_hat = (
        to_device(a, "cpu") for a in (*estimate, estimate.ess, estimate.k_hat)
    )
    return {
        "log_likelihood": float(log_p.mean()),
        "log_likelihood_error": float((error**2).sum() ** 0.5) / len(rows),
        "effective_samples": float(ess.mean()),
        "k_hat": float(np.median(k_hat)),
        "k_hat_above_0.7": float((k_hat > 0.7).mean()),
    }


MEASURES = {"losses": _terms, "score": _score, "log_likelihood": _likelihood}


def _beside_held_out(rows: Array, held_out: Array, rng: Generator) -> dict[str, float]:
    found = {
        "sliced_wasserstein": sliced_wasserstein(rows, held_out, rng),
        "wasserstein": wasserstein(rows, held_out),
    }
    if len(rows) >= FEW:
        found |= _prefixed("mmd", mmd(rows, held_out, rng))
        found |= prdc(rows, held_out)._asdict()
        found |= _prefixed("c2st", c2st(rows, held_out, rng))
    return found


def _prefixed(name: str, measures: Any) -> dict[str, float]:
    return {f"{name}_{key}": value for key, value in measures._asdict().items()}
