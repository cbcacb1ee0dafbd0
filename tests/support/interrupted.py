"""A training run that is cut short, for tests of what it leaves behind."""

from __future__ import annotations


class Interrupted(Exception):
    """What ends the run."""


def stop_at(model, step):
    """Let the loss of `model` raise when it has been asked for `step` batches."""
    calls = iter(range(step))
    objectives = model.objectives

    def counted():
        def wrap(loss):
            def interrupted(*batch, rng):
                if next(calls, None) is None:
                    raise Interrupted
                return loss(*batch, rng=rng)

            return interrupted

        return [o._replace(loss=wrap(o.loss)) for o in objectives()]

    model.objectives = counted
