"""What a run shows while it goes: a bar, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.training.loop import History

__all__ = ["progress"]

SECONDS = 2.0  # from one line to the next


def progress(steps: int, start: int) -> Callable[..., None]:
    """A function (step, history, last=False) that shows step, loss, steps a second and time left.

    A bar in a terminal if tqdm is installed, else a line now and then; both on stderr.
    """
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            return _bar(tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True))
    return _lines(steps, start)


def _bar(bar: Any) -> Callable[..., None]:
    def show(step: int, history: History, last: bool = False) -> None:
        if history:
            bar.set_postfix_str(_latest(history), refresh=False)
        bar.update(step - bar.n)
        if last:
            bar.close()

    return show


def _lines(steps: int, start: int) -> Callable[..., None]:
    began = shown = time.monotonic()

    def show(step: int, history: History, last: bool = False) -> None:
        nonlocal shown
        now = time.monotonic()
        if not history or (now - shown < SECONDS and not last):
            return
        shown = now
        rate = (step - start) / max(now - began, 1e-9)
        left = (steps - step) / rate if rate else 0.0
        print(
            f"step {step}/{steps}  {_latest(history)}  {rate:.0f} steps/s  {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return show


def _latest(history: History) -> str:
    """Each term, averaged over its last 50 values."""
    return "  ".join(f"{k} {np.mean(v[-50:]):.4f}" for k, v in history.items())
