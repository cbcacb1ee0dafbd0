"""Data-parallel training: several processes, the ranks, share the rows of every batch over MPI.

The plan. One process alone computes a function of the batch's rows: a loss that is a mean over them, its
gradient, the norm of that, an update. With ranks the same function is computed, and only the order of
sums differs. So each thing that a step does is one of two kinds:

*Of rows*, and each rank does it for its own.
  The batch     `Loop.next_batch` finds the rows of the whole batch, the same on every rank, since their
                order is a draw of its own from the seed. `Ranks.part` keeps this rank's, a slice of them.
  The noise     Each number of a draw has a place: the row and the column. A generator whose `rows` are
                set makes the numbers of these rows, at their places in the draw for the whole batch. So
                noise, times, dropout, bits and labels left out are those of one process alone.
                Slices begin at multiples of four rows: any row then begins with a whole block of Philox.
  Layers, backward   treat each row independently of the others.

*Of the batch*, and all ranks do the same with the same numbers.
  The gradient  and the terms of the loss are means over the rows, uneven between ranks: each rank's
                count by its share n_r/n, and the sum over ranks is the mean over all. They go in one flat
                array, so that there is one Allreduce for an update, also in a compiled step, which it
                cuts in two. A term that is no mean over rows (free bits, the range of a batch) takes
                `batch_mean` or `batch_max`, which cost an Allreduce of their own.
  Clipping      follows, by the norm of the sum.
  Optimisers, averages, schedules, spectral norms   start equal, and get equal gradients: they stay equal.
                The order of a GAN's updates is part of the loop. That parameters are equal is checked
                from time to time.
  Decisions     (to stop, that a step failed) follow from numbers that all ranks have.

*Of one*: rank 0 alone writes the folder, watches and shows. A rank that fails alone ends all of them.

Nothing of MPI is imported unless a communicator is given.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from math import inf
from typing import Any, Protocol

import numpy as np

from tinygen.autodiff.engine import Tensor
from tinygen.backend import namespace_of, to_device
from tinygen.errors import pip_install
from tinygen.random import Generator, Rng, as_generator

__all__ = [
    "Ranks",
    "Rows",
    "Transport",
    "batch_max",
    "batch_mean",
    "by_rows",
    "ranks_of",
    "started",
]

Array = Any
GROUP = 4  # rows: their numbers fill whole blocks of Philox, whatever the length of a row
AWAKE = 1e-4  # seconds of a wait before a rank sleeps, for a twentieth of the time waited
SECONDS = 3.0  # that a rank which failed waits for the others to fail too


class Transport(Protocol):
    """What ranks need of a network: `MPI` here is mpi4py's.

    For arrays on GPUs, `reduce` may call a CUDA-aware MPI, or NCCL (`cupyx.distributed`); `gather` and
    `together` stay MPI's.
    """

    rank: int
    size: int

    def reduce(self, array: Array, op: str) -> None:
        """Put into the array, on every rank, the "sum" or the "max" over all ranks, elementwise."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank, on every rank: small objects of Python, or arrays."""

    def together(self, seconds: float) -> bool:
        """Whether every rank calls this within so many seconds."""

    def abort(self) -> None:
        """End all ranks."""


class MPI:
    """The ranks of an MPI communicator of mpi4py.

    They wait asleep, since MPI's own wait is a loop that takes the core from the ranks waited for, where
    there are more ranks than cores.
    """

    def __init__(self, comm: Any) -> None:
        self._mpi = sys.modules[type(comm).__module__]
        self.comm, self._failures = comm.Dup(), comm.Dup()  # apart from what else is sent
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._ops = {"sum": self._mpi.SUM, "max": self._mpi.MAX}

    def reduce(self, array: Array, op: str) -> None:
        """See `Transport`."""
        _wait(self.comm.Iallreduce(self._mpi.IN_PLACE, array, self._ops[op]))

    def gather(self, value: Any) -> list[Any]:
        """See `Transport`."""
        _wait(self.comm.Ibarrier())
        found: list[Any] = self.comm.allgather(value)
        return found

    def together(self, seconds: float) -> bool:
        """See `Transport`."""
        return _wait(self._failures.Ibarrier(), seconds)

    def abort(self) -> None:
        """See `Transport`."""
        self.comm.Abort(2)


def _wait(request: Any, seconds: float = inf) -> bool:
    """Whether the request is done within so many seconds."""
    began = time.perf_counter()
    let_others_run = getattr(os, "sched_yield", int)  # Windows has none; int() does nothing
    while not request.Test():
        waited = time.perf_counter() - began
        if waited > seconds:
            return False
        if waited < AWAKE:
            let_others_run()
        else:
            time.sleep(min(waited / 20, 1e-3))
    return True


@dataclass(frozen=True)
class Rows:
    """The rows start .. start + count of a batch of `total`, which are this rank's."""

    start: int
    count: int
    total: int
    ranks: Ranks

    def of(self, batch: Array) -> Array:
        """These rows of an array of the whole batch."""
        return batch[self.start : self.start + self.count]

    @property
    def share(self) -> float:
        """What a mean over these rows counts in the mean over all."""
        return self.count / self.total


class Ranks:
    """The ranks of a run; without a transport, one process alone."""

    def __init__(self, transport: Transport | None = None) -> None:
        self._transport: Any = transport
        self.rank, self.size = (0, 1) if transport is None else (transport.rank, transport.size)

    # -- rows ------------------------------------------------------------------------------------
    def rows(self, n: int) -> Rows | None:
        """This rank's of n rows; None if it has none, because there are too few groups of four."""
        groups = -(-n // GROUP)
        used = min(self.size, groups)
        if self.rank >= used:
            return None
        start, end = (min(GROUP * (groups * r // used), n) for r in (self.rank, self.rank + 1))
        return Rows(start, end - start, n, self)

    def part(self, rows: Array) -> Array:
        """This rank's part of the rows of a batch. ValueError: too few for all ranks."""
        if self.size == 1:
            return rows
        own = self.rows(len(rows))
        if len(rows) <= GROUP * (self.size - 1) or own is None:
            raise ValueError(
                f"{self.size} ranks share a batch of {len(rows)} rows in groups of {GROUP}: take a "
                f"batch of at least {GROUP * (self.size - 1) + 1}, or fewer ranks"
            )
        return own.of(rows)

    @contextmanager
    def drawing(self, generators: Iterable[Generator], n: int) -> Iterator[None]:
        """Inside the `with` block, the generators draw for this rank's rows of a batch of n."""
        generators = list(generators)
        rows = self.rows(n) if self.size > 1 else None
        before = [g.rows for g in generators]
        try:
            for g in generators:
                g.rows = rows
            yield
        finally:
            for g, own in zip(generators, before, strict=True):
                g.rows = own

    # -- what all share --------------------------------------------------------------------------
    def mean(
        self, rng: Generator, parameters: Iterable[Tensor], terms: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The terms of a loss as means over the whole batch, and so the gradients, in place.

        rng: draws for this rank's rows.
        """
        if self.size == 1:
            return terms
        trained = [p for p in parameters if p.grad is not None]
        gradients = [p.grad.data for p in trained if p.grad is not None]
        m, dtype = namespace_of(gradients[0]), np.result_type(*(g.dtype for g in gradients))
        parts = [*gradients, *(t.data.astype(dtype) for t in terms.values())]
        flat = m.concatenate([part.reshape(-1) * rng.rows.share for part in parts])
        self._reduce(m, flat, "sum")
        ends = np.cumsum([part.size for part in parts]).tolist()
        means = [
            flat[end - part.size : end].reshape(part.shape).astype(part.dtype, copy=False)
            for part, end in zip(parts, ends, strict=True)
        ]
        for p, mean in zip(trained, means, strict=False):
            p.grad = Tensor(mean)
        return {name: Tensor(x) for name, x in zip(terms, means[len(trained) :], strict=True)}

    def _reduce(self, m: Any, array: Array, op: str) -> None:
        """In place; in a program, a call between two parts of it."""
        record = vars(m).get("call")
        if record is None:
            self._transport.reduce(array, op)
        else:
            record(self._transport.reduce, (array, op), {}, True)

    def any(self, truth: object) -> bool:
        """Whether it is true on any rank."""
        if self.size == 1:
            return bool(truth)
        flag = np.array([bool(truth)], np.int32)
        self._transport.reduce(flag, "max")
        return bool(flag[0])

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""
        return [value] if self.size == 1 else self._transport.gather(value)

    def agree(self, **own: Any) -> None:
        """ValueError, on every rank, names the first of these that differs from rank 0's."""
        all_own = self.gather(own)
        for name, expected in all_own[0].items():
            for rank, other in enumerate(all_own):
                if other[name] != expected:
                    raise ValueError(
                        f"rank {rank} has other {name} than rank 0: {other[name]}, not {expected}"
                    )

    # -- failures --------------------------------------------------------------------------------
    @contextmanager
    def together(self) -> Iterator[None]:
        """An error in the `with` block that all ranks raise is raised; that of some ends all ranks.

        Otherwise the others would wait for these for ever.
        """
        try:
            yield
        except BaseException as error:
            if self.size > 1 and not self._transport.together(SECONDS):
                text = " ".join(f"{error or type(error).__name__}".split())
                print(f"tinygen: rank {self.rank}: {text}", file=sys.__stderr__, flush=True)
                self._transport.abort()
            raise


STARTED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables in which mpiexec (of MPICH or Intel, of Open MPI) or srun says how many processes it started."""


def started() -> Ranks:
    """The ranks that mpiexec or srun started this command with; without them, one process alone.

    ModuleNotFoundError: mpi4py, which is then needed, is not installed.
    """
    sizes = [os.environ.get(name, "") for name in STARTED]
    if not any(size.isdecimal() and int(size) > 1 for size in sizes):
        return Ranks()
    if find_spec("mpi4py") is None:
        raise ModuleNotFoundError(
            f"this is one of {max(sizes)} processes, which need mpi4py: {pip_install('mpi4py')}"
        )
    return ranks_of(import_module("mpi4py.MPI").COMM_WORLD)


def ranks_of(comm: Any) -> Ranks:
    """The ranks of an mpi4py communicator, of a `Transport`, or of None: one process alone.

    TypeError: something else.
    """
    if comm is None or isinstance(comm, Ranks):
        return comm or Ranks()
    if hasattr(comm, "Allreduce"):
        comm = _of_mpi(comm)
    if not hasattr(comm, "reduce") or not hasattr(comm, "gather"):
        raise TypeError(f"comm is a communicator such as mpi4py.MPI.COMM_WORLD, not {comm!r}")
    return Ranks(comm)


_key: list[int] = []  # of an attribute of communicators


def _of_mpi(comm: Any) -> MPI:
    """The same one for the same communicator, since it duplicates that, and MPI has not many."""
    if not _key:
        _key.append(comm.Create_keyval())
    made: MPI | None = comm.Get_attr(_key[0])
    if made is None:
        made = MPI(comm)
        comm.Set_attr(_key[0], made)
    return made


# -- statistics of a batch, inside a loss ----------------------------------------------------------
def batch_mean(mean: Tensor, rng: Generator) -> Tensor:
    """The mean over the whole batch, from the mean over the rows that `rng` draws for.

    Its derivative is that of the mean given: with the ranks' shares, gradients add up to that of the
    batch. A loss needs this where a mean over rows goes into a function that is not linear.
    """
    if rng.rows is None:
        return mean
    m, rows = namespace_of(mean.data), rng.rows
    whole = mean.data * rows.share
    rows.ranks._reduce(m, whole, "sum")
    return mean + (whole - mean.data)


def batch_max(largest: Array, rng: Generator) -> Array:
    """The largest number of the whole batch, from that of the rows that `rng` draws for."""
    if rng.rows is None:
        return largest
    m = namespace_of(largest)
    whole = m.asarray(largest).reshape(1) * 1.0
    rng.rows.ranks._reduce(m, whole, "max")
    return whole.reshape(())


# -- evaluation ------------------------------------------------------------------------------------
def by_rows(ranks: Ranks, f: Callable[..., Any], *arrays: Any, rng: Rng | None = None) -> Any:
    """f(*arrays, rng) computed by all ranks, each for its rows, and gathered on every rank.

    arrays: of n rows each; a whole number n stands for n rows that are to be made. f returns an array of
        so many rows, or a tuple of such arrays; it treats each row independently of the others. From
        several ranks the result is on the CPU. An error on one rank is raised on all.

        by_rows(ranks, lambda n, rng: model.sample(n, rng=rng), 1000, rng=0)
    """
    rng = as_generator(rng)
    n = next(a if isinstance(a, int) else len(a) for a in arrays)
    if ranks.size == 1 or n < 1:
        return f(*arrays, rng)
    made: Any = None
    if (rows := ranks.rows(n)) is not None:
        own = [rows.count if isinstance(a, int) else rows.of(a) for a in arrays]
        try:
            with ranks.drawing([rng], n):
                made = f(*own, rng)
            made = [to_device(a, "cpu") for a in made] if isinstance(made, tuple) else made
        except Exception as error:
            made = error
    found = ranks.gather((to_device(made, "cpu") if hasattr(made, "dtype") else made, rng.state))
    rng.state = found[0][1]
    parts = [part for part, _ in found if part is not None]
    for part in parts:
        if isinstance(part, Exception):
            raise part
    if isinstance(parts[0], list):
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    return np.concatenate(parts)
