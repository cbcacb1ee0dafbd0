"""What a trained model is measured by, on data held out from its training."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.backend import to_device
from tinygen.data import Dataset
from tinygen.metrics import nearest_distance, sliced_wasserstein
from tinygen.models import Model
from tinygen.random import Generator

__all__ = ["evaluate"]

ROWS = 2000  # at most so many held-out rows enter a measure: it is to take seconds
BATCH = 500


def evaluate(
    model: Model, data: Dataset, samples: np.ndarray[Any, Any], seed: int = 0
) -> dict[str, Any]:
    """Measures of `model` by name; the samples are on its device.

    held_out: each term of the training losses on held-out rows (nats or squared units, as the
        model's `loss` says), and the `score_samples` mean where the model has one.
    samples: the sliced 2-Wasserstein distance of the samples to held-out data, and their mean
        distance to the nearest training row (smaller than the floor: memorised). Under `floor` the
        same of as many real rows, from the training and the held-out data: what a perfect model
        would reach.
    """
    rng = Generator(seed).child("evaluation")
    test, train = (model.check(to_device(x, model.device)) for x in (data.test[:ROWS], data.x))
    held_out: dict[str, float] = {}
    for start in range(0, len(test), BATCH):
        batch = test[start : start + BATCH]
        for objective in {o.name: o for o in model.objectives()}.values():
            for name, value in objective.loss(batch, rng).items():
                held_out[name] = held_out.get(name, 0.0) + value.item() * len(batch) / len(test)
    score = getattr(model, "score_samples", None)
    if score is not None:
        held_out["score"] = float(score(test, rng=rng).mean())
    rows = rng.permutation(len(train))[: len(samples)]
    real = train[to_device(rows, model.device)]
    return {
        "held_out": held_out,
        "samples": {
            "sliced_wasserstein": sliced_wasserstein(samples, test, rng.child(0)),
            "nearest_training_row": nearest_distance(samples, train),
        },
        "floor": {
            "sliced_wasserstein": sliced_wasserstein(real, test, rng.child(0)),
            "nearest_training_row": nearest_distance(test[: len(samples)], train),
        },
    }
