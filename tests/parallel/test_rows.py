"""Rows and draws of one of several ranks, without MPI."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygen.parallel import MPI, Ranks, Rows, by_rows, ranks_of, started
from tinygen.random import Generator

pytestmark = pytest.mark.cpu_only("numbers, and the text of errors")


class Silent:
    """A transport that says nothing to nobody."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def reduce(self, array, op): ...

    def gather(self, value):
        return [value]


def ranks(size):
    return [Ranks(Silent(rank, size)) for rank in range(size)]


@given(st.integers(1, 300), st.integers(1, 9))
def test_the_ranks_rows_follow_one_another_from_multiples_of_four(n, size):
    rows = [r.rows(n) for r in ranks(size)]
    own = [r for r in rows if r is not None]
    assert rows[: len(own)] == own and len(own) == min(size, -(-n // 4))
    assert [r.start for r in own] == [0, *np.cumsum([r.count for r in own])[:-1]]
    assert sum(r.count for r in own) == n and all(r.start % 4 == 0 < r.count for r in own)
    assert max(r.count for r in own) - min(r.count for r in own) < 8  # groups of 4, the last cut
    assert sum(r.share for r in own) == pytest.approx(1)


@given(st.integers(1, 60), st.integers(1, 9))
def test_a_batch_is_shared_or_refused_by_all_ranks_alike(n, size):
    def part(r):
        try:
            return r.part(np.arange(n)).tolist()
        except ValueError as error:
            return str(error)

    parts = [part(r) for r in ranks(size)]
    if n > 4 * (size - 1):
        assert [row for own in parts for row in own] == list(range(n))
    else:
        assert set(parts) == {parts[0]} and f"at least {4 * (size - 1) + 1}" in parts[0]


DRAWS = {
    "bits": lambda g, n: g.bits((n, 3)),
    "uniform": lambda g, n: g.uniform((n, 5)),
    "uniform, float64": lambda g, n: g.uniform((n, 5), dtype=np.float64),
    "normal": lambda g, n: g.normal((n, 2, 7)),
    "normal, float64": lambda g, n: g.normal((n, 3), dtype=np.float64),
    "integers": lambda g, n: g.integers(-9, 100, n),
    "bernoulli": lambda g, n: g.bernoulli(0.5, (n, 9)),
    "of a child": lambda g, n: g.child("x").normal((n, 3)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_of_a_rank_are_rows_of_the_draw_of_all(name):
    whole = DRAWS[name](Generator(3, 8), 18)
    parts = []
    for r in ranks(3):
        g = Generator(3, 8)
        with r.drawing([g], 18):
            parts.append(DRAWS[name](g, r.rows(18).count))
        assert g.rows is None
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_draw_of_one_number_is_the_same_on_all_ranks():
    g = Generator(1)
    g.rows = Rows(8, 4, 18, Ranks())
    assert g.normal(()) == Generator(1).normal(())


@pytest.mark.parametrize("shape", [3, (5, 4), (2, 4, 3)])
def test_a_draw_that_has_not_a_row_for_each_row_is_refused_and_claims_nothing(shape):
    g = Generator(1)
    g.rows = Rows(8, 4, 18, Ranks())
    with pytest.raises(ValueError, match=r"for 4 rows of a batch .*len\(x\)"):
        g.normal(shape)
    assert g.state == (1, 0)


def test_a_permutation_of_shared_rows_is_refused():
    g = Generator(1)
    g.rows = Rows(8, 4, 18, Ranks())
    with pytest.raises(ValueError, match="4 rows"):
        g.permutation(4)


def test_one_process_alone_computes_all_rows_with_the_generator_given():
    rng = Generator(5)
    made = by_rows(Ranks(), lambda n, x, rng: rng.normal(n) + x, 6, np.float32([1] * 6), rng=rng)
    np.testing.assert_array_equal(made, Generator(5).normal(6) + 1)
    assert rng.state == (5, 1)


def test_ranks_of_something_else():
    assert ranks_of(None).size == 1
    with pytest.raises(TypeError, match="communicator"):
        ranks_of("4")


def test_mpi4py_is_asked_for_where_mpiexec_started_the_process(monkeypatch):
    monkeypatch.setattr("tinygen.parallel.find_spec", lambda name: None)
    assert started().size == 1
    monkeypatch.setenv("PMI_SIZE", "1")
    assert started().size == 1
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(ModuleNotFoundError, match=r"one of 4 processes.*mpi4py"):
        started()


def test_nothing_of_mpi_is_imported_unasked():
    code = """
import sys
from tinygen.__main__ import main
from tinygen.models import VAE
import numpy as np
VAE(4).fit(np.zeros((8, 4), np.float32), steps=1, comm=None)
main(["info"])
assert not [name for name in sys.modules if name.startswith("mpi4py")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_transport_of_mpi_has_all_that_ranks_need():
    from tinygen.parallel import Transport

    needed = [n for n in vars(Transport) if not n.startswith("_")]
    assert needed and all(hasattr(MPI, n) for n in needed)
