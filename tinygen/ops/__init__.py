"""All operations, one file for each family. The derivatives stand beside the forward function.

The names here are those that the files enter in the vocabulary with `@operation` and `@public`.
"""

from typing import TYPE_CHECKING

from tinygen.backend import vocabulary
from tinygen.ops import composites, create, elementwise, linalg, order, reduce, shape  # noqa: F401
from tinygen.ops.composites import ACTIVATIONS as ACTIVATIONS

if TYPE_CHECKING:
    from tinygen.ops.composites import *  # noqa: F403
    from tinygen.ops.create import *  # noqa: F403
    from tinygen.ops.elementwise import *  # noqa: F403
    from tinygen.ops.linalg import *  # noqa: F403
    from tinygen.ops.order import *  # noqa: F403
    from tinygen.ops.reduce import *  # noqa: F403
    from tinygen.ops.shape import *  # noqa: F403
else:
    public = {name: value for name, value in vars(vocabulary).items() if not name.startswith("_")}
    globals().update(public)
    __all__ = ["ACTIVATIONS", *public]
