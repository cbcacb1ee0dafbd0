"""tinygen: a small reverse-mode autodiff library, and generative models built on it.

The engine and all operations are here; `tinygen.nn`, `optim`, `random` are imported with it,
`tinygen.models`, `data`, `distributions`, `metrics` and `training` when asked for.
"""

from tinygen import _interrupt, linalg, nn, ops, optim, random, special  # noqa: F401 - _interrupt comes first
from tinygen.autodiff import *  # noqa: F403
from tinygen.autodiff import __all__ as _engine
from tinygen.compile import compile
from tinygen.kernels import get_threads, set_threads
from tinygen.ops import *  # noqa: F403
from tinygen.random import manual_seed
from tinygen.report import graph_html

__version__ = "0.2.0"
__all__ = [
    "compile", "get_threads", "graph_html", "linalg", "manual_seed", "nn", "ops", "optim", "random",
    "set_threads", "special",
    *_engine, *ops.__all__,  # type: ignore[attr-defined]
]  # fmt: skip
