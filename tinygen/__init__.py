"""tinygen: a small reverse-mode autodiff library, and generative models built on it.

The engine and all operations are here; `tinygen.nn`, `optim`, `random` are imported with it,
`tinygen.models`, `data`, `distributions`, `metrics` and `training` when asked for, and `tg.scipy`
when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tinygen import _interrupt, linalg, nn, ops, optim, random, special  # noqa: F401 - _interrupt comes first
from tinygen.autodiff import *  # noqa: F403
from tinygen.autodiff import __all__ as _engine
from tinygen.compile import compile
from tinygen.kernels import get_threads, set_threads
from tinygen.ops import *  # noqa: F403
from tinygen.random import manual_seed
from tinygen.report import graph_html

if TYPE_CHECKING:
    from tinygen import scipy as scipy
else:

    def __getattr__(name):
        if name == "scipy":
            return import_module("tinygen.scipy")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.2.0"
__all__ = [
    "compile", "get_threads", "graph_html", "linalg", "manual_seed", "nn", "ops", "optim", "random",
    "set_threads", "special",
    *_engine, *ops.__all__,  # type: ignore[attr-defined]
]  # fmt: skip
