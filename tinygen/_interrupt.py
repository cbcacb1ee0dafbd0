"""Ctrl-C during the imports of the command line ends the process without a traceback.

It is imported first, because the other imports take a while. In a library it does nothing.
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
