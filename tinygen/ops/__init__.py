"""All operations, one file for each family. The derivatives stand beside the forward function.

The names here are those that the files enter in the vocabulary with `@operation` and `@public`, but for
those of `tg.linalg` and `tg.special`.
"""

from typing import TYPE_CHECKING

from tinygen.autodiff.array_face import no_method
from tinygen.autodiff.engine import Tensor
from tinygen.backend import vocabulary
from tinygen.ops import (  # noqa: F401
    composites,
    create,
    elementwise,
    linalg,
    matrices,
    order,
    reduce,
    shape,
    special,
)
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
    apart = {matrices.__name__: "linalg", special.__name__: "special"}
    public = {name: value for name, value in vars(vocabulary).items() if not name.startswith("_")}
    for name, value in list(public.items()):
        if (space := apart.get(value.__module__)) is not None:
            del public[name]
            value.__qualname__ = f"{space}.{name}"  # for messages
            setattr(Tensor, name, no_method(value.__qualname__))
    globals().update(public)
    __all__ = ["ACTIVATIONS", *public]
