"""Linux's control groups, with which containers limit the cores and the memory of their processes."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

__all__ = ["least", "lines"]

Limit = Callable[[Path], float]


def least(controller: str, of_v2: Limit, of_v1: Limit, root: Path = Path("/")) -> float:
    """The least limit that the groups of this process have: a group's limit holds for those within it.

    of_v2, of_v1 read it from the folder of a group, in the two versions of control groups; inf means
    none. `root` is where /proc and /sys are.
    """
    groups = root / "sys/fs/cgroup"
    found = inf
    for line in lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            folder, read = groups, of_v2
        elif controller in controllers.split(","):
            # Controllers of one folder have it by their names together, with links of the single names.
            together = groups / controllers
            folder, read = together if together.is_dir() else groups / controller, of_v1
        else:
            continue
        group = folder / name.strip("/")
        # Seen from a container, the name may be one that only the host has: its own group is the root.
        for place in (group, *group.parents):
            found = min(found, read(place))
            if place == folder:
                break
    return found


def lines(path: Path) -> list[str]:
    """The lines of a file; none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
