"""Many random trials of what must hold for every input: `python -m tests.campaign`.

    graphs    random computations: first and second derivatives against central differences
    damage    damaged files: each loads, or is refused in one line
    kills     runs killed by the operating system: resumed, they give the same bits
    starts    two starts into one folder at once: one is accepted

Each trial is a function of the seed and its number; only the moment of a kill is the machine's. A
trial that fails says how to run it alone.
"""

from __future__ import annotations

import argparse
import sys
import time

from . import damage, graphs, kills, starts

PARTS = {  # how many trials the gate runs
    "graphs": (graphs.trials, 200),
    "damage": (damage.trials, 1000),
    "kills": (kills.trials, 60),
    "starts": (starts.trials, 10),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    for name, (_, count) in PARTS.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"trials (default: {count})")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of all trials (default: 0)")
    args = parser.parse_args()

    passed = failed = 0
    for name, (trials, _) in PARTS.items():
        count = getattr(args, name)
        if not count:
            continue
        began, problems = time.monotonic(), 0
        for number, problem in trials(args.seed, range(args.first, args.first + count)):
            passed, failed = passed + (not problem), failed + bool(problem)
            problems += bool(problem)
            if problem:
                others = " ".join(f"--{n} 0" for n in PARTS if n != name)
                print(f"{name} {number}: {problem}\n    alone: --{name} 1 --first {number} "
                      f"--seed {args.seed} {others}")  # fmt: skip
        print(f"{name}: {count} trials, {problems} failed, {time.monotonic() - began:.0f} s")
        sys.stdout.flush()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
