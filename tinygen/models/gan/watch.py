"""What goes wrong in the training of a GAN, seen from outside: one line when the state changes.

A loss of the game says little: at a good end neither is small. So every look compares D's outputs
on data and on samples, and the samples with the data. The numbers that decide were set on runs on
digits and points in the plane; a run that ends well passes through bad states on its way, so what
counts is what lasts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygen.metrics.neighbours import prdc

__all__ = ["LEAST_ROWS", "Signs", "Watch", "look"]

Array = np.ndarray[Any, Any]

LOOKS = 5  # in a row, from which a state is read
LEAST_ROWS = 20  # with fewer, neighbours and variances say nothing


class Signs(NamedTuple):
    """One look. doubt: how far D is from certain, its cross-entropy in nats; None if its outputs
    are no logits. order: the share of pairs (data row, sample) in which D prefers the data row.
    range: the standard deviation of D's outputs. spread: the variance of the samples over that of
    the data. distance: between their means, in standard deviations of the data. precision: the
    share of samples among the data; coverage: the share of the data with samples among them."""

    doubt: float | None
    order: float
    range: float
    spread: float
    distance: float
    precision: float
    coverage: float


def look(
    real_out: Array, fake_out: Array, real: Array, fake: Array, *, logits: bool = True
) -> Signs:
    """The signs in D's outputs on data and samples (n,), (m,), and those rows (n, d), (m, d).

    `logits` says whether D's outputs are. ValueError: fewer than 6 rows, NaN or infinity.
    """
    near = prdc(fake, real)  # which checks the rows
    outs = np.concatenate([real_out, fake_out]).astype(np.float64)
    n, real, fake = len(real_out), real.astype(np.float64), fake.astype(np.float64)
    doubt = np.logaddexp(0.0, -outs[:n]).mean() + np.logaddexp(0.0, outs[n:]).mean()
    lower, upper = (np.searchsorted(np.sort(outs[n:]), outs[:n], side) for side in _SIDES)
    variance = real.var(axis=0).sum()
    shift = np.linalg.norm(real.mean(axis=0) - fake.mean(axis=0))
    return Signs(
        doubt=float(doubt) if logits else None,
        order=float((lower + upper).mean()) / (2 * (len(outs) - n)),
        range=float(outs.std()),
        # Constant data are met by constant samples: nothing collapses there.
        spread=float(fake.var(axis=0).sum() / variance) if variance else 1.0,
        distance=float(shift / variance**0.5) if variance else 0.0,
        precision=near.precision,
        coverage=near.coverage,
    )


_SIDES: Any = ("left", "right")  # of equal outputs: counted half


class State(NamedTuple):
    """What may go wrong: how it is seen in a look, in how many of the last five, what is said of
    the last one, and what to try. `early`: whether it counts from the start of a run, in which
    samples that are all alike have not yet begun to differ."""

    seen: Callable[[Signs], bool]
    looks: int
    early: bool
    text: str
    advice: str


STATES = [
    State(
        lambda s: s.range > 100 or s.spread > 10 or s.distance > 5, LOOKS, True,
        "training diverges: D's outputs range over ±{s.range:.3g}, the samples' variance is "
        "{s.spread:.3g} times the data's, their mean {s.distance:.1f} standard deviations away",
        "a smaller lr, penalty='r1' with a larger penalty_weight, or spectral=True",
    ),
    State(
        lambda s: s.doubt is not None and s.doubt < 0.02, LOOKS, True,
        "the discriminator is certain: its loss is {s.doubt:.1g} nats, and log 4 would be no idea; "
        "it teaches the generator little",
        "penalty='r1' with a larger penalty_weight, spectral=True, fewer discriminator_steps, or a "
        "loss that does not saturate",
    ),
    State(
        lambda s: s.spread < 0.1, LOOKS, False,
        "mode collapse: the samples' variance is {s.spread:.2g} of the data's",
        "penalty='r1' with a larger penalty_weight, a smaller lr, or loss='wasserstein' with "
        "penalty='wgan-gp'",
    ),
    State(
        lambda s: s.precision > 0.5 and s.coverage < 0.3 * s.precision, LOOKS, False,
        "mode collapse: {s.precision:.0%} of the samples lie among the data, but only "
        "{s.coverage:.0%} of the data have samples among them",
        "penalty='r1' with another penalty_weight, a larger batch, or loss='wasserstein' with "
        "penalty='wgan-gp'",
    ),
    State(
        lambda s: s.order < 0.25, 2, False,
        "the players circle: of a data row and a sample, D prefers the data row in only "
        "{s.order:.0%} of pairs, so it does not keep up with G",
        "more discriminator_steps, a smaller lr, or penalty='r1' with a smaller penalty_weight",
    ),
]  # fmt: skip
"""From the gravest to the mildest: of several, the first is told."""


class Watch:
    """Reads the state of a run from its last looks, and says so when it changes.

    grace: how many looks are too early to call samples that are alike a collapse.
    """

    def __init__(self, grace: int = 10) -> None:
        self.grace = grace
        self.count = 0
        self.recent: deque[Signs] = deque(maxlen=LOOKS)
        self.state: State | None = None

    def __call__(self, signs: Signs) -> str | None:
        """One line if this look changes the state, else None."""
        self.recent.append(signs)
        self.count += 1
        found = next((s for s in STATES if self._holds(s)), None)
        if found is not None and found is not self.state:
            self.state = found
            last = next(s for s in reversed(self.recent) if found.seen(s))
            return f"{found.text.format(s=last)}; try {found.advice}"
        if found is None and self.state is not None and not any(map(self.state.seen, self.recent)):
            before, self.state = self.state, None
            return f"over: {before.text.partition(':')[0]}"
        return None

    def _holds(self, state: State) -> bool:
        early = self.count < self.grace + LOOKS
        return not (early and not state.early) and sum(map(state.seen, self.recent)) >= state.looks
