"""tinygen: a small reverse-mode autodiff library, and generative models built on it."""

from tinygen import ops
from tinygen.autodiff import *  # noqa: F403
from tinygen.autodiff import __all__ as _engine
from tinygen.ops import *  # noqa: F403

__version__ = "0.1.0"
__all__ = [*_engine, *ops.__all__]
