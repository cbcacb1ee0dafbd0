"""Special functions with derivatives, under SciPy's names."""

from tinygen.ops.special import *  # noqa: F403
from tinygen.ops.special import __all__ as __all__
