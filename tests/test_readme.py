"""The README's blocks of Python run as they stand, each on its own; its first block is the gate's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.pages import own_operations
from tinygen.models import MODELS

pytestmark = pytest.mark.cpu_only("as a reader runs them")

README = Path(__file__).parents[1] / "README.md"
FENCED = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M)
BLOCKS = [text for language, text in FENCED if language == "python"]
PRINTED = [text for language, text in FENCED if not language]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(number, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    for model in MODELS.values():
        monkeypatch.setattr(model, "defaults", replace(model.defaults, steps=3))
    monkeypatch.chdir(tmp_path)
    with own_operations():
        exec(compile(BLOCKS[number], f"README block {number}", "exec"), {"__name__": "readme"})
    if number == 0:
        assert capsys.readouterr().out == PRINTED[0]


def test_the_first_block_is_the_two_commands():
    commands = FENCED[0][1].splitlines()
    assert len(commands) == 2
    assert "tinygen train ddpm --data digits --out runs/ddpm" in commands[0]
    assert commands[1].endswith("python -m pytest -n auto")
