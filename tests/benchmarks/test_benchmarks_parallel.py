"""The model of many ranks, and the page that shows it."""

from pathlib import Path

import pytest

from benchmarks import parallel

pytestmark = pytest.mark.cpu_only("figures that are stored")

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "parallel.md"
FOUND = {"vae": {"numbers": 1000, "32 rows, 1 thread": 0.5, "128 rows, 1 thread": 1.0}}


def test_the_page_shows_the_tables_as_the_script_prints_them():
    page = PAGE.read_text(encoding="utf-8")
    own, assumed = (parallel.tables(*network).split("\n\n") for network in ((), (2e-6, 12e9)))
    assert all(table in page for table in (*own, assumed[-1]))


def test_a_step_of_one_rank_is_that_which_was_measured():
    assert parallel.modelled(FOUND, "vae", 1, 128, 5.0, 1.0) == 1.0
    assert parallel.modelled(FOUND, "vae", 1, 32, 5.0, 1.0) == 0.5
    assert parallel.modelled(FOUND, "vae", 1, 80, 5.0, 1.0) == pytest.approx(0.75)


def test_an_allreduce_sends_log_p_messages_and_twice_the_parameters():
    """8 ranks: 6 messages of 0.01 s, and 2 · 4000 · 7/8 bytes at 7000 bytes a second."""
    step = parallel.modelled(FOUND, "vae", 8, 128, 0.01, 7000.0)
    assert step == pytest.approx(1.0 + 0.06 + 1.0)
