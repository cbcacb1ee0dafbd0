"""The tests see mistakes: each formula of `mutants.py`, written wrongly, fails the tests named there.

Every mutant is a copy of the package with one text replaced, tested in a process of its own. If the
text is gone from the source, its line fails: then the mistake has to be written anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tinygen
from tests.support import mutants

pytestmark = [pytest.mark.slow, pytest.mark.cpu_only("the tests that run are those of the CPU")]

HERE, PACKAGE = Path(__file__).parent, Path(tinygen.__file__).parent
AT_ONCE = 2  # processes
PASSED, FAILED = 0, 1  # what pytest says when the tests it was asked for ran


def run(folder, tests):
    """The status and the output of the tests with the package in `folder`."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
            "-o", f"pythonpath={folder}",
            *sorted({str(HERE / test) for test in tests}),
        ],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def run_mutant(folder, mutant):
    """None if the text to replace is not in the file once."""
    # With what Python compiled, which is right for all files that do not change.
    shutil.copytree(PACKAGE, folder / "tinygen")
    path = folder / "tinygen" / mutant.file
    source = path.read_text()
    if source.count(mutant.right) != 1:
        return None
    path.write_text(source.replace(mutant.right, mutant.wrong))
    return run(folder, [mutant.tests])


def run_copy(folder):
    shutil.copytree(PACKAGE, folder / "tinygen")
    return run(folder, [mutant.tests for mutant in mutants.MUTANTS])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The runs of all mutants by what they are, and that of the package as it is; under way."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = {"right": pool.submit(run_copy, tmp_path_factory.mktemp("right"))}
        for mutant in mutants.MUTANTS:
            folder = tmp_path_factory.mktemp("mutant")
            found[mutant.what] = pool.submit(run_mutant, folder, mutant)
        yield found
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.what)
def test_a_mistake_is_seen(mutant, runs):
    done = runs[mutant.what].result()
    assert done is not None, f"to be written anew: {mutant.right!r} in {mutant.file}"
    status, output = done
    assert status == FAILED, output


def test_without_a_mistake_the_same_tests_pass(runs):
    status, output = runs["right"].result()
    assert status == PASSED, output
