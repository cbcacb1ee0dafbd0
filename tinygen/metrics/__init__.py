"""How good are samples? Measures of a set of samples beside a set of data, rows of numbers.

None needs a pretrained network. All compute on the CPU: arrays from the GPU are copied there.
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
