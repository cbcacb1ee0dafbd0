"""tinygen: a small reverse-mode autodiff library, and generative models built on it.

The engine and all operations are here; `tinygen.nn`, `optim`, `random` are imported with it,
`tinygen.models`, `data`, `distributions`, `metrics` and `training` when asked for.
"""

from tinygen import _interrupt, nn, ops, optim, random  # noqa: F401 - _interrupt comes first
from tinygen.autodiff import *  # noqa: F403
from tinygen.autodiff import __all__ as _engine
from tinygen.compile import compile
from tinygen.ops import *  # noqa: F403
from tinygen.random import manual_seed

__version__ = "0.1.0"
__all__ = ["compile", "manual_seed", "nn", "ops", "optim", "random", *_engine, *ops.__all__]  # type: ignore[attr-defined]
