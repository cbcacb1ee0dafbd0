"""What is measured: the table of workloads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.suite.solving import PROBLEMS

__all__ = ["GROUPS", "QUICK", "RATE", "WORKLOADS", "Unknown", "Workload", "chosen"]


@dataclass(frozen=True)
class Workload:
    """One row of the report.

    kind: 'step', a whole training step; 'sample', a whole sampling; 'chain', a chain of small
        operations forward and backward; 'solve', a small problem by scipy.optimize; 'start', the same
        with the import in a fresh process; 'import'; or 'memory', the peak of a process that takes
        some training steps.
    model, options: of tinygen's models, with the arguments that differ from the defaults; the name
        of a chain or of a problem instead. features: of the data. batch: rows of a step, or of a
        sampling; elements of a chain. busy: whether another process works beside it all the time.
    """

    name: str
    title: str
    group: str
    kind: str
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    features: int = 0
    batch: int = 0
    busy: bool = False


PAPER = {"hidden": [200, 200], "latent": 50, "activation": "tanh", "binarise": True}
"""The network of Burda et al. (2016), table 1."""

RATE = 1e-6
"""The learning rate: so small that a step costs the same at the end of a run as at its start, and no
contender meets numbers, such as subnormal ones, that the others do not."""

NO_PENALTY = {"penalty": None}


def _step(name: str, title: str, model: str, options: Any, features: int, batch: int) -> Workload:
    return Workload(name, title, "steps", "step", model, options, features, batch)


def _sample(name: str, title: str, options: Any, features: int, n: int) -> Workload:
    return Workload(name, title, "sampling", "sample", "ddpm", options, features, n)


STEPS = [
    _step("ddpm-784", "DDPM 784, batch 128", "ddpm", {}, 784, 128),
    _step("ddpm-64", "DDPM 64, 128", "ddpm", {}, 64, 128),
    _step("ddpm-2", "DDPM 2-D, 128", "ddpm", {"bounded": False}, 2, 128),
    _step("ddpm-2-2000", "DDPM 2-D, 2000", "ddpm", {"bounded": False}, 2, 2000),
    _step("vae-784", "VAE 784, 128", "vae", {}, 784, 128),
    _step("vae-784-20", "VAE 784-200-200-50, 20", "vae", PAPER, 784, 20),
    _step("iwae-784-20", "IWAE k = 50, same, 20", "vae", {**PAPER, "k": 50}, 784, 20),
    _step("vae-64", "VAE 64, 128", "vae", {}, 64, 128),
    _step("vae-784-4096", "VAE 784, 4096", "vae", {}, 784, 4096),
    _step("gan-784-r1", "GAN 784 with R1, 128", "gan", {}, 784, 128),
    _step("gan-784", "GAN 784, 128", "gan", NO_PENALTY, 784, 128),
    _step("gan-64-r1", "GAN 64 with R1, 128", "gan", {}, 64, 128),
]
SAMPLING = [
    _sample("sample-784", "sampling DDPM 784, n 64, T 1000", {}, 784, 64),
    _sample("sample-64", "sampling DDPM 64, n 100, T 1000", {}, 64, 100),
]
OPERATIONS = [
    Workload(f"{chain}-{n}", f"{what}, {n} elements", "operations", "chain", chain, {}, 1, n)
    for chain, what in (("product", "z * y"), ("exp", "exp(-z)"), ("mix", "tanh(z * y + .5) / y - z"))
    for n in (1, 100, 1000)
]  # fmt: skip
SOLVING = [
    Workload(f"solve-{name}", problem.title, "solving", "solve", name)
    for name, problem in PROBLEMS.items()
]
STARTS = [
    replace(work, name=f"start-{work.model}", group="starts", kind="start") for work in SOLVING
]
CURVES = [
    *(
        replace(STEPS[1], name=f"{name}-{n}", title=f"DDPM 64, {name} {n}", group=name, **changes)
        for name, option, numbers in (("depth", "blocks", (1, 2, 4, 8)), ("width", "width", (64, 256, 1024)))
        for n in numbers
        for changes in [{"options": {option: n}}]
    ),
    *(
        replace(STEPS[1], name=f"batch-{n}", title=f"DDPM 64, batch {n}", group="batch", batch=n)
        for n in (8, 32, 512, 2048)
    ),
    *(
        replace(_sample(f"T-{n}", f"sampling DDPM 64, n 100, T {n}", {"T": n}, 64, 100), group="T")
        for n in (10, 100)
    ),
]  # fmt: skip
OTHERS = [
    replace(STEPS[0], name="busy-ddpm-784", title="DDPM 784, batch 128", group="busy", busy=True),
    Workload("import", "import", "import", "import"),
    *(
        replace(step, name=f"memory-{step.name}", title=f"peak memory, {step.title}",
                group="memory", kind="memory")
        for step in (STEPS[0], STEPS[8])
    ),
]  # fmt: skip

WORKLOADS = {
    w.name: w for w in (*STEPS, *SAMPLING, *OPERATIONS, *SOLVING, *STARTS, *CURVES, *OTHERS)
}
GROUPS = [*dict.fromkeys(w.group for w in WORKLOADS.values())]
QUICK = ("ddpm-784", "ddpm-2", "vae-784", "gan-64-r1", "T-100", "mix-100", "import")
"""What `--quick` measures: of each kind of work something."""


class Unknown(ValueError):
    """A name that no workload and no group has; the message is one line."""


def chosen(names: Iterable[str]) -> list[Workload]:
    """The workloads that are called so, or are in a group called so, in the order of the table."""
    names = list(names)
    known = (*GROUPS, *WORKLOADS)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            guess = f" (is it {near[0]}?)" if near else ""
            raise Unknown(f"no workload or group {name}{guess}; there are {', '.join(known)}")
    return [w for w in WORKLOADS.values() if {w.name, w.group} & {*names}]


def titles(workloads: Sequence[Workload]) -> str:
    """The list that `--list` prints."""
    width = max(len(w.name) for w in workloads)
    return "\n".join(f"{w.name:{width}}  {w.group:10}  {w.title}" for w in workloads)
