"""Ctrl-C before the command line is there ends the process without a word, as it ends other tools.

Imported before all else, which takes a while. Where tinygen is a library, this does nothing.
"""

import signal
import sys
from os.path import basename

_program = basename([*getattr(sys, "argv", []), ""][0])
_command = _program in ("tinygen", "tinygen.exe") or (
    _program == "-m" and "tinygen" in sys.orig_argv  # Python's name for a package on its way
)
if _command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # `process` in __main__.py takes it back
