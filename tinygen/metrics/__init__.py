"""Measures of the quality of samples: they compare a set of samples with a set of data.

None of them needs a pretrained network. All compute on the CPU: arrays on the GPU are copied.
"""

from tinygen.metrics.classifier import C2ST, c2st
from tinygen.metrics.kernel import MMD, mmd
from tinygen.metrics.neighbours import PRDC, Memorisation, memorisation, nearest_distances, prdc
from tinygen.metrics.parzen import Parzen, parzen, parzen_log_density
from tinygen.metrics.transport import sliced_wasserstein, wasserstein

__all__ = [
    "C2ST", "MMD", "PRDC", "Memorisation", "Parzen", "c2st", "memorisation", "mmd",
    "nearest_distances", "parzen", "parzen_log_density", "prdc", "sliced_wasserstein", "wasserstein",
]  # fmt: skip
