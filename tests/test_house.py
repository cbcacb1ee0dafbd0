"""The house: imports go downwards, and the texts that are to be read keep their size."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import tinygen
from benchmarks.lines import lines_of_code

pytestmark = pytest.mark.cpu_only("the text of the package")

PACKAGE = Path(tinygen.__file__).parent
FLOORS = [  # from the ground up; a file imports from its own floor and from those below
    "_interrupt errors cgroup", "backend npz", "kernels", "random", "autodiff", "ops",
    "linalg special optim parallel", "nn", "compile", "scipy checkpoint folder",
    "distributions metrics data pictures report", "training", "models",
    "evaluation exercises lab sklearn sweep", "__main__",
]  # fmt: skip
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names.split()}


def imports():
    """Every module of the package, with the modules that it imports: anywhere in its text."""
    files = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = defaultdict(set, {module: set() for module in files})
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[module] |= {a.name for a in node.names if a.name in files}
            elif isinstance(node, ast.ImportFrom) and node.module in files:
                whole = {f"{node.module}.{a.name}" for a in node.names}
                found[module] |= {name if name in files else node.module for name in whole}
    return found


IMPORTS = imports()


INSIDE = {"training": "history programs loop graphs progress log run"}


def floor(module):
    return FLOOR[module.split(".")[1]]


def test_imports_go_downwards():
    inside = {
        a: {b for b in found if b != "tinygen"} for a, found in IMPORTS.items() if a != "tinygen"
    }
    upwards = [(a, b) for a, found in inside.items() for b in found if floor(b) > floor(a)]
    assert upwards == []


@pytest.mark.parametrize("folder", INSIDE)
def test_imports_inside_a_folder_go_downwards(folder):
    names = INSIDE[folder].split()
    assert {f"tinygen.{folder}.{name}" for name in names} | {f"tinygen.{folder}"} == {
        module for module in IMPORTS if module.startswith(f"tinygen.{folder}")
    }
    for i, name in enumerate(names):
        above = {f"tinygen.{folder}", *(f"tinygen.{folder}.{other}" for other in names[i:])}
        assert not IMPORTS[f"tinygen.{folder}.{name}"] & above


def test_no_two_files_import_each_other():
    circles = [(a, b) for a, found in IMPORTS.items() for b in found if a in IMPORTS.get(b, ())]
    assert circles == []


def test_the_engine_is_a_text():
    """At most 350 lines of code, and the chain rule within the first 250 of the file."""
    engine = PACKAGE / "autodiff" / "engine.py"
    assert lines_of_code(engine) <= 350
    chain_rule = engine.read_text().splitlines().index("def _walk(") + 1
    assert chain_rule <= 250


def test_a_training_step_stands_on_one_screen():
    """The loop, with its settings and objectives, and the step within it."""
    loop = PACKAGE / "training" / "loop.py"
    assert lines_of_code(loop) <= 130
    nodes = ast.walk(ast.parse(loop.read_text()))
    (step,) = (n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == "advance")
    assert step.end_lineno - step.lineno < 30
