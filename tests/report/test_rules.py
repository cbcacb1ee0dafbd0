"""The text that a page shows of a rule is that of the rule which runs."""

from __future__ import annotations

from types import CodeType, ModuleType

import pytest

import tinygen as tg
import tinygen.models  # distributions have operations of their own
from tinygen.autodiff.engine import REGISTRY
from tinygen.report.order import ways
from tinygen.report.rules import place, record_of

pytestmark = pytest.mark.cpu_only("the text of the package")

OURS = {n: op for n, op in REGISTRY.items() if op.forward.__module__.startswith("tinygen.")}


@pytest.mark.parametrize("name", OURS)
def test_the_text_of_each_rule_compiles_to_the_rule(name):
    op, record = OURS[name], record_of(OURS[name])
    functions = {n: rule.function for n, rule in op.rules.items()}
    if op.shared:
        functions["shared"] = op.shared.function
    assert record["rules"].keys() == functions.keys()
    for input_, function in functions.items():
        text = record["rules"][input_]["text"]
        if function.__name__ == "<lambda>":
            assert text.startswith(f"{input_}=")
            text = text.removeprefix(f"{input_}=")
        own, names = function.__code__, function.__globals__
        modules = [n for n in own.co_names if isinstance(names.get(n), ModuleType)]
        imports = "".join(f"import {n}\n" for n in modules)  # the compiler heeds them
        whole = compile(f"{imports}{text}", "page", "exec")
        code = next(c for c in whole.co_consts if isinstance(c, CodeType))
        assert (code.co_name, code.co_varnames) == (own.co_name, own.co_varnames)
        if not own.co_freevars:
            assert (code.co_code, code.co_names) == (own.co_code, own.co_names)
        assert record["rules"][input_]["at"].startswith("tinygen/")


def test_two_lambdas_in_a_line_are_told_apart():
    rules = record_of(REGISTRY["subtract"])["rules"]
    assert (rules["a"]["text"], rules["b"]["text"]) == ("a=lambda g: g", "b=lambda g: -g")


def test_an_operation_that_no_file_has():
    code = "@tg.operation(x=lambda g: 7.0 * g)\ndef _seven(m, x):\n    return 7.0 * x"
    before = dict(REGISTRY)
    try:
        exec(compile(code, "<nowhere>", "exec"), {"tg": tg})
        record = record_of(REGISTRY["seven"])
    finally:
        REGISTRY.clear()
        REGISTRY.update(before)
    assert record["rules"]["x"] == {"text": "", "at": "<nowhere>:1"}
    assert record["signature"] == "seven(x)" and record["doc"] == ""


def test_a_place_is_told_from_the_package_or_the_present_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place(f"{tmp_path}/train.py:3") == "train.py:3"
    assert place(f"{tg.__file__}:1") == "tinygen/__init__.py:1"
    assert place("/elsewhere/a.py:2") == "/elsewhere/a.py:2"


# -- why an order --------------------------------------------------------------------------------
def test_each_way_of_going_backward_gives_what_the_page_says_of_it():
    replacing, adding, every_path, engine = ways()
    assert engine["events"] == [("y", 1.0), ("b", 2.0), ("a", 4.0)] and engine["result"] == 4.0
    assert replacing["result"] == 1.0
    assert adding["result"] == 6.0  # b sends 1 and 1, then, complete, 2 and 2
    assert every_path["result"] == 4.0 and len(every_path["events"]) == 1 + 2 + 4
    assert all(way["text"].startswith("def ") for way in ways())
