"""Training: the loop, and the run around it.

loop.py      settings, objectives, and one training step
run.py       `train`: checkpoints, exact resume, signals
progress.py  what is shown meanwhile
log.py       what is written meanwhile: a CSV file
"""

from tinygen.training.log import CsvLog
from tinygen.training.loop import Data, History, Objective, Settings
from tinygen.training.run import WATCH_STEPS, Stopped, fingerprint, not_finite, recorded, train

__all__ = [
    "WATCH_STEPS", "CsvLog", "Data", "History", "Objective", "Settings", "Stopped", "fingerprint",
    "not_finite", "recorded", "train",
]  # fmt: skip
