"""`python -m benchmarks threads`: its products are those of a step, and its table is whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import threads

pytestmark = pytest.mark.cpu_only("threads of the CPU")


def test_products_of_a_step():
    shapes = []
    for product in threads.products(3, [5, 7, 2], lambda a, b: shapes.append((a @ b).shape)):
        product()
    assert shapes == [(3, 7), (3, 5), (5, 7), (3, 2), (3, 7), (7, 2)]


@pytest.mark.skipif(threads.pool.table() is None, reason="no pool here")
def test_the_table():
    """In a process of its own, as it sets NumPy's number of threads."""
    program = """
import sys
from benchmarks import threads
threads.STEPS, threads.REST, threads.WARM_UP, threads.RUNS = {"small": (2, [3, 3])}, 0, 0, 1
sys.argv = ["threads", "--rounds", "1", "--threads", "2"]
threads.main()
"""
    root = Path(threads.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    *_, head, a, b, c, d = done.stdout.splitlines()
    assert head.endswith("NumPy, 2  NumPy, 1   pool, 2   pool, 1   ratio  others")
    assert [row.split()[1:4] for row in (a, b, c, d)] == [
        [neighbour, pause, "ms"] for neighbour in ("-", "busy") for pause in ("0.0", "0.3")
    ]
    for row in (a, b, c, d):
        numpy, one, pool, _, ratio = (float(word) for word in row.split()[4:9])
        assert np.isfinite([numpy, one, pool]).all() and ratio >= 0
