"""Functions of matrices with derivatives, in NumPy's layout."""

from tinygen.ops.matrices import *  # noqa: F403
from tinygen.ops.matrices import __all__ as __all__
