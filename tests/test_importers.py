"""Every program of examples/importers runs as it stands; each checks its own answer and says it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cpu_only("as a reader runs them")

FOLDER = Path(__file__).parents[1] / "examples" / "importers"
NAMES = [
    "gaussian_process", "implicit_layer", "logistic_regression", "own_operation", "parameter_tree",
    "weibull_survival",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_finds_what_is_known(name, tmp_path):
    """In a process of its own, for some make operations. Warnings are errors."""
    path = FOLDER / f"{name}.py"
    assert "assert" in path.read_text(encoding="utf-8")
    command = [sys.executable, "-W", "error", str(path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) >= 2 and [*tmp_path.iterdir()] == []
