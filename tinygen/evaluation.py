"""Measures of a trained model, on data that were held out from its training."""

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
from tinygen.parallel import Ranks, by_rows, ranks_of
from tinygen.random import Generator

__all__ = ["evaluate"]

ROWS = 2000  # the largest number of rows in a measure, so that it takes seconds
BATCH = 500
WEIGHTS = 200  # the number of importance weights for each row
FEW = 50  # with fewer rows, measures by neighbours and by a classifier mean nothing

Array = np.ndarray[Any, Any]


def evaluate(
    model: Model, data: Dataset, samples: Array, seed: int = 0, comm: Any = None
) -> dict[str, Any]:
    """Measures of `model` and of `samples` (n, d) by name, in three groups. Any device will do.

    held_out: the mean of each term of the training losses on held-out rows, in the units that the
        model's `loss` names, and the mean of `score_samples` if the model has it. For a VAE also
        log p(x) by importance sampling on 500 rows with 200 weights each, and its standard error.
        Three numbers say how far to trust it (see `Estimate`): the mean effective sample size, the
        median k_hat, and the share of rows with k_hat above 0.7, whose log p(x) is not to be trusted.
    samples: the measures of `tinygen.metrics`. They compare the samples with as many held-out rows,
        and the distances from samples to training rows with those from held-out rows. With fewer
        than 50 rows, the measures by neighbours and by a classifier are left out.
    floor: the same measures, with real rows instead of the samples. A perfect model would reach
        these values. The real rows are held-out rows that are not used in the comparison; if there
        are too few of them, training rows. For the distances to training rows, the floor uses one
        half of the held-out rows and the comparison the other.
    comm: an mpi4py communicator, whose ranks all call this. They share the rows of scores and of log p(x).
        Rank 0 alone measures samples: elsewhere these two groups are empty.
    """
    ranks, rng = ranks_of(comm), Generator(seed).child("evaluation")
    # Shuffled, because the first half of MNIST's held-out rows is easier than the second.
    test = data.test[rng.permutation(len(data.test))]
    samples = samples[:ROWS]
    size = min(len(samples), len(test), len(data.x), ROWS)
    order = rng.child("spare").permutation(len(data.x))  # from a stream of its own
    spare = test[size:] if len(test) >= 2 * size else data.x[order]
    half = -(-min(ROWS, len(test)) // 2)

    def measures(rows: Array, fresh: Array) -> dict[str, float]:
        if ranks.rank:
            return {}
        return {
            **_beside_held_out(rows[:size], test[:size], rng.child("measures")),
            **_prefixed("memorisation", memorisation(fresh, data.x, test[:half])),
        }

    return {
        "held_out": _losses(model, test[:ROWS], rng, ranks),
        "samples": measures(samples, samples),
        "floor": measures(spare, test[-half:][: len(samples)]),
    }


def _losses(model: Model, rows: Array, rng: Generator, ranks: Ranks) -> dict[str, float]:
    """The mean over the rows of each term of the model's losses, and of its scores.

    An outlier in the data can make a mean fail or be infinite. Such a mean is left out, with a
    warning by the logger "tinygen".
    """
    rows = model.check(to_device(rows, model.device))
    found: dict[str, float] = {}
    failed: dict[str, Any] = {}
    with np.errstate(all="ignore"):  # results that are not finite are reported below
        for name, measure in MEASURES.items():
            try:
                found |= measure(model, rows, rng, ranks)
            except (ValueError, ArithmeticError) as error:
                failed[name] = error
    failed |= {name: value for name, value in found.items() if not isfinite(value)}
    if failed:
        logging.getLogger("tinygen").warning(
            "tinygen: left out of the measures of held-out rows, which may have an outlier: %s",
            ", ".join(f"{name} ({reason})" for name, reason in failed.items()),
        )
    return {name: value for name, value in found.items() if name not in failed}


def _terms(model: Model, rows: Array, rng: Generator, ranks: Ranks) -> dict[str, float]:
    found: dict[str, float] = {}
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        for objective in {o.name: o for o in model.objectives()}.values():
            for name, value in objective.loss(batch, rng=rng).items():
                found[name] = found.get(name, 0.0) + value.item() * len(batch) / len(rows)
    return found


def _score(model: Model, rows: Array, rng: Generator, ranks: Ranks) -> dict[str, float]:
    score = getattr(model, "score_samples", None)
    if score is None:
        return {}
    scores = by_rows(ranks, lambda rows, rng: score(rows, rng=rng), rows, rng=rng)
    return {"score": float(scores.mean())}


def _likelihood(model: Model, rows: Array, rng: Generator, ranks: Ranks) -> dict[str, float]:
    if not isinstance(model, VAE):
        return {}
    rows, rng = rows[:BATCH], rng.child("likelihood")

    def estimated(rows: Array, rng: Generator) -> tuple[Array, ...]:
        estimate = model.log_likelihood(rows, k=WEIGHTS, rng=rng)
        return *estimate, estimate.ess, estimate.k_hat

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k_hat is in the result
        found = by_rows(ranks, estimated, rows, rng=rng)
    log_p, error, ess, k_hat = (to_device(a, "cpu") for a in found)
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
