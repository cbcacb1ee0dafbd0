"""Steps as programs: `tg.compile` records a function once, and runs it as one call from then on.

    recording.py   arrays that note every call that meets them
    program.py     the list of calls, on views of memory
    simplify.py    without copies, repetitions and what nobody reads
    fuse.py        the calls that share a nest of loops
    plan.py        a place in one block of memory for every array
    emit.py        the C++ text, on prelude.h; native.py compiles and calls it
    replay.py      the program run through NumPy, where there is no compiler
    step.py        what `tg.compile` returns: it leads through these in this order

`print(step.program)` shows the list.
"""

from tinygen.compile.recording import CompileError
from tinygen.compile.step import Step, compile

__all__ = ["CompileError", "Step", "compile"]
