"""Steps as programs: `tg.compile` records a function once, and runs it as one call from then on.

recording.py   arrays that note every call that meets them
program.py     the list of calls, on views of memory
simplify.py    without copies, repetitions and what nobody reads
plan.py        a place in one block of memory for every array
replay.py      the program run through NumPy
step.py        what `tg.compile` returns
"""

from tinygen.compile.recording import CompileError
from tinygen.compile.step import Step, compile

__all__ = ["CompileError", "Step", "compile"]
