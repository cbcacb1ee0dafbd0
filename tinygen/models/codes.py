"""The codes of models with an encoder: paths between codes, and classification from codes."""

from __future__ import annotations

import copy
from math import acos, sin, sqrt
from typing import Any, NamedTuple

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.modes import no_grad
from tinygen.autodiff.promotion import as_array
from tinygen.backend import namespace_of, to_device
from tinygen.data import Dataset
from tinygen.errors import unknown, whole
from tinygen.models.model import Model
from tinygen.models.rows import blocks
from tinygen.nn import Linear
from tinygen.random import Generator
from tinygen.training import Settings, train

__all__ = ["ErrorRate", "fine_tune", "interpolate", "linear_probe", "traverse"]

Array = np.ndarray[Any, Any]


# -- paths ---------------------------------------------------------------------------------------
def interpolate(start: Any, end: Any, n: int = 8, path: str = "spherical") -> Array:
    """n ≥ 2 codes (n, latent) on a path from `start` to `end`, both (latent,) and included.

    path: 'straight', or 'spherical' (Shoemake 1985; White 2016). On the spherical path the angle
        grows in equal steps, and the codes keep the norm of draws from N(0, I). On a straight line
        their norm would be smaller. Between parallel codes both paths are straight.
    ValueError: codes that are not two vectors of one length, n < 2, an unknown path.
    """
    a, b = as_array(start), as_array(end)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"interpolate takes two codes (latent,), not {a.shape} and {b.shape}")
    if path not in ("straight", "spherical"):
        raise unknown("path", path, ("straight", "spherical"))
    m = namespace_of(a)
    t = m.linspace(0.0, 1.0, whole("n", n, 2))[:, None]
    norms = float(m.linalg.norm(a) * m.linalg.norm(b))
    angle = acos(max(-1.0, min(float((a * b).sum()) / norms, 1.0))) if norms else 0.0
    if path == "straight" or sin(angle) < 1e-6:
        codes = (1 - t) * a + t * b
    else:
        codes = (m.sin((1 - t) * angle) * a + m.sin(t * angle) * b) / sin(angle)
    return codes.astype(a.dtype)


def traverse(code: Any, n: int = 8, span: float = 3.0) -> Array:
    """Codes (latent · n, latent) that move one unit at a time from -span to span, in n steps.

    The other units stay as in `code` (latent,). In a grid of the decoded images with n columns,
    each row shows the effect of one unit. ValueError: not one code, n < 1.
    """
    z = as_array(code)
    if z.ndim != 1:
        raise ValueError(f"traverse takes one code (latent,), not {z.shape}")
    m = namespace_of(z)
    codes = m.tile(z, (len(z), whole("n", n), 1))
    unit = m.arange(len(z))
    codes[unit, :, unit] = m.linspace(-span, span, n, dtype=z.dtype)
    return codes.reshape(-1, len(z))


# -- classification ------------------------------------------------------------------------------
class ErrorRate(NamedTuple):
    """The share of held-out rows that are classified wrongly, and its binomial standard error.

    The standard error is for the choice of the held-out rows. It does not count the differences
    between one training and another.
    """

    rate: float
    standard_error: float


PROBE = Settings(steps=2000, batch=256, lr=1e-2)
FINE_TUNING = Settings(steps=2000)


def linear_probe(model: Any, data: Dataset, settings: Settings = PROBE) -> ErrorRate:
    """The test error of a softmax layer trained on the codes of a frozen model.

    model: has `encode` and `device`. The codes are standardised with the mean and the standard
        deviation of the training rows.
    ValueError: data without labels, or labels that `class_count` refuses.
    """
    classes = class_count(data)
    train_codes, test_codes = (_codes(model, x) for x in (data.x, data.test))
    mean, std = train_codes.mean(axis=0), train_codes.std(axis=0)
    std = namespace_of(std).where(std > 0, std, 1.0)
    rows, held_out = (train_codes - mean) / std, (test_codes - mean) / std
    probe = _Classifier(rows.shape[1], classes, settings.seed)
    return _error_rate(probe.to(model.device), rows, held_out, data, settings)


def fine_tune(model: Model, data: Dataset, settings: Settings = FINE_TUNING) -> ErrorRate:
    """The test error of a softmax layer on the codes of an encoder, both trained together.

    model: has `code`, such as an autoencoder or a VAE. A copy of it is trained.
    ValueError: as for `linear_probe`, or data that `model.check` refuses.
    """
    classes = class_count(data)
    rows, held_out = (model.check(to_device(x, model.device)) for x in (data.x, data.test))
    width = len(_codes(model, data.x[:1])[0])
    tuned = _Classifier(width, classes, settings.seed)
    tuned.body = copy.deepcopy(model)
    return _error_rate(tuned.to(model.device), rows, held_out, data, settings)


def class_count(data: Dataset) -> int:
    """The number of classes: the largest training label plus one. A class may have no rows.

    ValueError: no labels; a label that is negative or not a whole number; a held-out label that is
    larger than all training labels.
    """
    if data.y is None or data.y_test is None:
        raise ValueError(f"{data.name} has no labels")
    for y, x in ((data.y, data.x), (data.y_test, data.test)):
        if y.dtype.kind not in "iu" or y.shape != (len(x),):
            raise ValueError(f"labels are whole numbers ({len(x)},), not {y.dtype} {y.shape}")
    classes = int(data.y.max()) + 1
    low, high = min(data.y.min(), data.y_test.min()), int(data.y_test.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"label {wrong} is out of range: the training rows have 0..{classes - 1}")
    return classes


class _Classifier(Model):
    """A softmax layer on codes, or on those of a `body`."""

    body: Any = None

    def __init__(self, width: int, classes: int, seed: int) -> None:
        super().__init__(width, bounded=True)
        self.head = Linear(width, classes, rng=Generator(seed).child("weights"))

    def logits(self, rows: Array) -> Tensor:
        return self.head(rows if self.body is None else self.body.code(self.body.normalise(rows)))

    def loss(  # type: ignore[override]
        self, x: Array, labels: Any, *, rng: Generator
    ) -> dict[str, Tensor]:
        return {"loss": ops.mean(ops.softmax_cross_entropy(self.logits(x), labels))}


def _error_rate(
    classifier: _Classifier, rows: Array, held_out: Array, data: Dataset, settings: Settings
) -> ErrorRate:
    m = namespace_of(rows)
    y, y_test = (to_device(np.asarray(v), m.device) for v in (data.y, data.y_test))
    train(classifier, (rows, y.astype(np.int64)), settings)
    with no_grad():
        guesses = [classifier.logits(held_out[b]).data.argmax(-1) for b in blocks(len(held_out))]
    rate = float((m.concatenate(guesses) != y_test).mean())
    return ErrorRate(rate, sqrt(rate * (1 - rate) / len(y_test)))


def _codes(model: Any, x: Array) -> Array:
    x = to_device(x, model.device)
    return namespace_of(x).concatenate([model.encode(x[rows]) for rows in blocks(len(x))])
