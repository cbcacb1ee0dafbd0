"""The one command of the benchmarks: `python -m benchmarks`.

Alone it runs the suite: tinygen beside PyTorch and JAX, where they are installed, on this machine.
With the name of a part as its first argument it runs that part; `python -m benchmarks PART --help`
says what the part takes.

    python -m benchmarks --quick
    python -m benchmarks --only steps --json run.json --chart run.png
    python -m benchmarks --table run.json
    python -m benchmarks kernels
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

PARTS = {
    "engine": "small operations beside PyTorch, autograd and MyGrad",
    "kernels": "the fused kernels on the CPU, beside their NumPy forms and PyTorch",
    "learning": "what the models learn: measures of their samples",
    "recipe": "what each part of the diffusion model for images is worth",
    "vae_curve": "log-likelihood of a VAE against the number of its updates",
    "threads": "products of matrices by NumPy's threads and by tinygen's, also beside a busy process",
    "gpu": "the CUDA kernels on a GPU: right, fast, and beside CuPy and PyTorch",
    "lines": "lines of code of each file of the package",
}


class Parser(argparse.ArgumentParser):
    """What is wrong with the arguments is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a part, or the suite."""
    given = sys.argv[1:] if arguments is None else [*arguments]
    if given and given[0] in PARTS:
        name = f"benchmarks.{given[0]}"
        module = import_module(f"{name}.__main__" if given[0] == "gpu" else name)
        return module.main(given[1:]) or 0
    if given and not given[0].startswith("-"):
        print(
            f"python -m benchmarks: no part {given[0]}; there are {', '.join(PARTS)}",
            file=sys.stderr,
        )
        return 2
    width = max(map(len, PARTS))
    parser = Parser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="parts:\n" + "\n".join(f"  {name:{width}}  {what}" for name, what in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from benchmarks.suite import cli

    return cli.run(parser, given)


if __name__ == "__main__":
    sys.exit(main())
