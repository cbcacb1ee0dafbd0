"""Steps as programs: `tg.compile` records a function once, and runs it as one call from then on.

    recording.py   arrays that note every call that meets them
    program.py     the list of calls, on views of memory
    simplify.py    without copies, repetitions and what nobody reads
    fuse.py        the calls that share a nest of loops
    plan.py        a place in one block of memory for every array
    emit.py        the C++ text, on prelude.h and cpu.h; native.py compiles and calls it
    cuda.py        the CUDA text, on prelude.h and gpu.h; graph.py captures it as one graph
    replay.py      the program run through NumPy, where there is no compiler
    step.py        what `tg.compile` returns: it leads through these in this order

`print(step.program)` shows the list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tinygen.errors import CompileError

if TYPE_CHECKING:
    from tinygen.compile.step import Step

__all__ = ["CompileError", "compile"]


def compile(function: Callable[..., Any]) -> Step:
    """A step that is recorded once and run as one program: `step = tg.compile(step)`.

    The function computes with arrays, Tensors, modules, an optimiser, a Generator; it takes arrays and
    returns arrays, numbers, or tuples, lists and dicts of them. Arrays that it meets on its way, such
    as parameters, are read where they are at every run, and may be updated in place by it. Floats
    among its arguments may change; whole numbers, words and objects are part of the program, and
    another one is another program, as is another shape or dtype of an array. What it decides by other
    things, such as a module's `training`, is decided once. Gradients that it leaves are forgotten.
    NonFiniteError: the norm that it clips by is not finite; what follows the clipping was not done. On a
    GPU, where a run is only queued, it is raised up to a hundred runs later; those do nothing then.

    CompileError, with the line: something that cannot be recorded, as the value of an array, or a
    number that changes from call to call and is not an argument (see `tinygen.backend.varying`).
    """
    from tinygen.compile.step import Step  # at the first use: `import tinygen` is to be quick

    return Step(function)
