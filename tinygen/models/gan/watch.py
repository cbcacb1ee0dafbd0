"""A watch on the training of a GAN: it reports divergence, mode collapse and other bad states.

The losses of a GAN say little, because neither is small at the end of a good run. So every look
compares D's outputs on data and on samples, and the samples with the data. The thresholds were set
on runs on digits and on points in the plane. Good runs pass through bad states too, so a state must
last for several looks before it is reported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygen.metrics.neighbours import prdc

__all__ = ["LEAST_ROWS", "Signs", "Watch", "look"]

Array = np.ndarray[Any, Any]

LOOKS = 5  # the state is read from the last so many looks
LEAST_ROWS = 20  # with fewer rows, neighbours and variances mean nothing


class Signs(NamedTuple):
    """The numbers of one look.

    doubt: the cross-entropy of D in nats, which is 0 if D is certain; None if its outputs are not
        logits.
    order: the share of pairs (data row, sample) in which D gives the data row the larger output.
    range: the standard deviation of D's outputs.
    spread: the variance of the samples divided by the variance of the data.
    distance: the distance between the two means, in standard deviations of the data.
    precision, coverage: see `tinygen.metrics.prdc`.
    """

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
    """The signs from D's outputs on data (n,) and on samples (m,), and the rows (n, d) and (m, d).

    logits: whether D's outputs are logits. ValueError: fewer than 6 rows, NaN or infinity.
    """
    near = prdc(fake, real)  # also checks the rows
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
        # Constant data have no variance to lose, so constant samples are not a collapse.
        spread=float(fake.var(axis=0).sum() / variance) if variance else 1.0,
        distance=float(shift / variance**0.5) if variance else 0.0,
        precision=near.precision,
        coverage=near.coverage,
    )


_SIDES: Any = ("left", "right")  # their mean counts pairs of equal outputs as one half


class State(NamedTuple):
    """A bad state of the training.

    holds: whether the state shows in one look.
    looks: it is reported if it shows in so many of the last five looks.
    early: whether it is reported from the start of the run, when all samples are still alike.
    text, advice: the report, with the numbers of the last look that shows it, and what to try.
    """

    holds: Callable[[Signs], bool]
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
        "the discriminator is certain: its loss is only {s.doubt:.1g} nats (a D that guesses "
        "has log 4 = 1.39), so the generator learns little from it",
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
        "the players circle: D gives the data row the larger output in only {s.order:.0%} of the "
        "pairs of a data row and a sample, so it does not keep up with G",
        "more discriminator_steps, a smaller lr, or penalty='r1' with a smaller penalty_weight",
    ),
]  # fmt: skip
"""From the worst to the mildest. If several hold, the first is reported."""


class Watch:
    """Reads the state of a run from its last looks, and reports when it changes.

    grace: the number of looks at the start in which samples that are alike are not yet a collapse.
    """

    def __init__(self, grace: int = 10) -> None:
        self.grace = grace
        self.count = 0
        self.recent: deque[Signs] = deque(maxlen=LOOKS)
        self.state: State | None = None

    def __call__(self, signs: Signs) -> str | None:
        """One line of text if this look changes the state, else None."""
        self.recent.append(signs)
        self.count += 1
        found = next((s for s in STATES if self._holds(s)), None)
        if found is not None and found is not self.state:
            self.state = found
            last = next(s for s in reversed(self.recent) if found.holds(s))
            return f"{found.text.format(s=last)}; try {found.advice}"
        if found is None and self.state is not None and not any(map(self.state.holds, self.recent)):
            before, self.state = self.state, None
            return f"over: {before.text.partition(':')[0]}"
        return None

    def _holds(self, state: State) -> bool:
        early = self.count < self.grace + LOOKS
        return not (early and not state.early) and sum(map(state.holds, self.recent)) >= state.looks
