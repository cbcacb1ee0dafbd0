"""Every example runs as it stands, with fewer steps, and ends in its picture."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tinygen.models import MODELS, Model

pytestmark = pytest.mark.cpu_only("as a reader runs them")

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_there_is_one_for_each_model():
    text = "".join(path.read_text() for path in EXAMPLES)
    assert all(f"{model.__name__}(features=" in text for model in MODELS.values())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_without_matplotlib_it_does_not_train(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(Model, "fit", lambda *_, **__: pytest.fail("trained first"))
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        runpy.run_path(str(path), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_it_ends_in_a_picture(path, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    for model in MODELS.values():
        monkeypatch.setattr(model, "defaults", replace(model.defaults, steps=3))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert (tmp_path / f"{path.stem}.png").stat().st_size > 1000
