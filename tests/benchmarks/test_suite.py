"""`python -m benchmarks`: the report's arithmetic, the comparison of contenders, a run in tiny sizes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import tinygen as tg
from benchmarks.__main__ import PARTS, main
from benchmarks.suite import (
    apart,
    chart,
    cli,
    equality,
    figures,
    measure,
    products,
    quiet,
    rows,
    solving,
    with_tinygen,
)
from benchmarks.suite.contenders import CONTENDERS, Contender, Failed, Process, takes_part
from benchmarks.suite.contract import part
from benchmarks.suite.party import Field, Party
from benchmarks.suite.worker import Closed, Pacer
from benchmarks.suite.workloads import GROUPS, QUICK, WORKLOADS, Workload
from tinygen.backend import numpy_namespace

pytestmark = pytest.mark.cpu_only("times the CPU")

LIBRARIES = {"with_torch": "torch", "with_jax": "jax"}
PEERS = [name for name, library in LIBRARIES.items() if find_spec(library)]
SMALL = {"hidden": [8, 6], "latent": 3}
TINY = {
    "ddpm": Workload("tiny-ddpm", "", "steps", "step", "ddpm", {"width": 8, "blocks": 2, "T": 20}, 6, 5),
    "ddpm-data": Workload("d", "", "steps", "step", "ddpm", {"width": 8, "predict": "data"}, 6, 5),
    "ddpm-2": Workload("p", "", "steps", "step", "ddpm", {"width": 8, "bounded": False}, 2, 5),
    "vae": Workload("v", "", "steps", "step", "vae", SMALL, 6, 5),
    "vae-bits": Workload("b", "", "steps", "step", "vae",
                         {**SMALL, "activation": "tanh", "binarise": True}, 6, 5),
    "iwae": Workload("i", "", "steps", "step", "vae", {**SMALL, "k": 4}, 6, 5),
    "gan": Workload("g", "", "steps", "step", "gan", {**SMALL, "penalty": None}, 6, 5),
    "gan-r1": Workload("r", "", "steps", "step", "gan", SMALL, 6, 5),
    "sample": Workload("s", "", "sampling", "sample", "ddpm", {"width": 8, "T": 20}, 6, 5),
    "chain": Workload("c", "", "operations", "chain", "mix", {}, 1, 3),
    "exp": Workload("e", "", "operations", "chain", "exp", {}, 1, 3),  # does not use y
}  # fmt: skip


# -- the report ------------------------------------------------------------------------------------
def rounds(*milliseconds):
    return {"rounds": [t / 1000 for t in milliseconds]}


def made_up():
    """A run with exact answers."""
    step = {"name": "a", "title": "A", "group": "steps", "kind": "step"}
    theirs = {
        "tinygen": rounds(8, 10, 12, 10, 10),
        "tinygen compiled": {"missing": "not there: none"},
        "PyTorch": rounds(16, 20, 24, 20, 20),
        "PyTorch compiled": {"missing": "failed: x"},
        "JAX": rounds(4, 5, 9, 5, 5),
    }
    chain = {"name": "b", "title": "B", "group": "operations", "kind": "chain"}
    ours = {"tinygen": rounds(1), "tinygen compiled": {"missing": "not there: none"}}
    return {
        "about": {
            "date": "now", "commit": "c", "processor": "P", "threads": 2, "rounds": 5,
            "versions": {"tinygen": "1"},
        },
        "machine": {"load": 0.0, "others": 0.0, "loop": [0.01] * 5},
        "workloads": {
            "a": {**step, "contenders": theirs,
                  "floor": {"products": rounds(4, 5, 6, 5, 5), "bytes": 0.008}},
            "b": {**chain, "contenders": ours, "floor": {}},
        },
    }  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(made_up()))
    return path


def test_the_middle_of_rounds():
    m = figures.middle([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (m.q1, m.median, m.q3) == (2.0, 3.0, 4.0) and m.spread == 2 / 3
    assert figures.middle([7.0]) == (7.0, 7.0, 7.0)


def test_ratios_are_of_rounds_that_were_timed_together():
    """A machine that slows down threefold on the way changes no ratio."""
    assert figures.ratio([2.0, 6.0, 2.0], [1.0, 3.0, 1.0]) == 2.0
    assert figures.ratio([1.0, 4.0, 10.0], [1.0, 1.0, 10.0]) == 1.0
    assert figures.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_a_number_has_three_figures():
    assert [*map(figures.number, (0.123, 1.234, 12.34, 123.4, 3447.0))] == [
        "0.12", "1.23", "12.3", "123", "3447",
    ]  # fmt: skip


def test_a_row_has_exact_figures():
    row = rows.Row(made_up()["workloads"]["a"])
    assert row.base == "tinygen"
    assert row.ratios() == pytest.approx({"tinygen": 1.0, "PyTorch": 2.0, "JAX": 0.5})
    assert row.best_peer() == pytest.approx(0.5)
    assert row.over_floor() == pytest.approx(10 / 8)  # of bytes, which take longer than products
    assert row.spread() == 0.0  # three of five rounds are equal


def test_compiled_tinygen_is_what_the_others_are_held_against():
    run = made_up()
    run["workloads"]["a"]["contenders"]["tinygen compiled"] = rounds(4, 5, 6, 5, 5)
    row = rows.Row(run["workloads"]["a"])
    assert row.base == "tinygen compiled" and row.ratios()["tinygen"] == pytest.approx(2.0)
    assert row.best_peer() == pytest.approx(1.0)


def test_the_table_is_made_of_a_stored_run(stored, capsys):
    assert main(["--table", str(stored)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:6] == [
        "**Training steps and sampling, milliseconds**",
        "",
        "|  | tinygen | PyTorch | JAX | best peer | products | bytes | tinygen / floor | spread |",
        "|---|---|---|---|---|---|---|---|---|",
        "| A | 10.0 | 20.0 (2.00) | 5.00 (0.50) | 0.50 | 5.00 | 8.00 | 1.25 | 0 % |",
        "| geometric mean |  | (2.00; 1 rows) | (0.50; 1 rows) |  |  |  |  |  |",
    ]
    assert "| B | 10.0 | 0 % |" in said  # microseconds an operation, of a hundred in a millisecond
    assert "PyTorch compiled: failed: x (A)." in said and "the machine was quiet." in said
    assert "tinygen compiled: not there: none." in said  # in all of them


def test_a_table_of_some_rows(stored, capsys):
    run = made_up()
    run["workloads"] = {"mix-1": run["workloads"]["b"], "ddpm-64": run["workloads"]["a"]}
    stored.write_text(json.dumps(run))
    assert main(["--table", str(stored), "--only", "operations"]) == 0
    said = capsys.readouterr().out
    assert "| B |" in said and "| A |" not in said


def test_two_runs_are_compared_by_their_medians(stored, tmp_path, capsys):
    other = made_up()
    other["workloads"]["a"]["contenders"]["JAX"] = rounds(*[10] * 5)
    other["machine"] = {"load": 3.0, "others": 0.0, "loop": [0.02] * 5}
    other["about"] |= {"threads": 4, "date": "then"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert main(["--table", str(stored), "--compare", str(tmp_path / "other.json")]) == 0
    said = capsys.readouterr().out.split("this run over the one of then, commit c")[1]
    lines = [line.split() for line in said.splitlines()]
    assert ["tinygen", "PyTorch", "JAX", "products"] in lines
    assert ["A", "1.00", "1.00", "0.50", "1.00"] in lines
    assert "the fixed loop: 0.50" in said and "other threads: 2, stored 4" in said
    assert "not a quiet machine, the load before the start was 3.0" in said


def test_what_says_that_a_machine_is_not_quiet():
    assert quiet.remarks({"load": 0.1, "others": 0.01, "loop": [1.0] * 9}) == []
    assert quiet.remarks({"load": 0.1, "others": None, "loop": []}) == []
    assert quiet.remarks({"load": 2.0, "others": 0.3, "loop": [0.01, 0.01, 0.01, 0.02]}) == [
        "the load before the start was 2.0",
        "other processes took 30 % of the cores' time",
        "a fixed loop took 10.0 ms, with a spread of 25 % and up to 2.0 times as much",
    ]


def test_a_row_that_spreads_is_told(stored, capsys):
    run = made_up()
    run["workloads"]["a"]["contenders"]["JAX"] = rounds(4, 5, 6, 7, 8)
    stored.write_text(json.dumps(run))
    assert main(["--table", str(stored)]) == 0
    assert "NOT A QUIET MACHINE: rows with a wide spread: A 33 %." in capsys.readouterr().out


def test_a_chart_shows_ratios(stored, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert chart.points(made_up()) == {
        "A": pytest.approx({"PyTorch": 2.0, "JAX": 0.5, "products": 0.5})
    }
    assert main(["--table", str(stored), "--chart", str(tmp_path / "run.png")]) == 0
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


# -- what is asked for -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--only", "dpm-784"],
            "no workload or group dpm-784 (is it ddpm-784?); there are steps, ",
        ),
        (["engin"], "no part engin; there are engine, "),
        (["--table", "{}/none.json"], "No such file or directory"),
        (["--table", "{}/no.json"], "no.json is not JSON"),
        (["--table", "{}/empty.json"], "empty.json is no run that --json stored"),
        (["--compare", "{}/empty.json"], "empty.json is no run that --json stored"),
        (["--json", "{}/none/run.json"], "there is no folder"),
        (["--chart", "{}/run.pdf"], "a chart is a .png file, not run.pdf"),
        (["--table", "{}/run.json", "--quick"], "--table takes a stored run"),
        (["--table", "{}/run.json", "--only", "import"], "the stored run has none of these"),
        (["--qick"], "unrecognized arguments: --qick"),
        (["--only"], "expected at least one argument"),
    ],
)
def test_wrong_input_is_one_line(arguments, said, stored, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "measure", None)  # nothing is timed before all is looked at
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "empty.json").write_text("{}")
    try:
        status = main([argument.format(tmp_path) for argument in arguments])
    except SystemExit as leaving:
        status = leaving.code
    out = capsys.readouterr()
    assert status == 2 and out.out == ""
    assert said in out.err and len(out.err.splitlines()) == 1
    assert out.err.startswith("python -m benchmarks: ")


def test_the_list_names_everything(capsys):
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*WORKLOADS, *GROUPS, *CONTENDERS))
    assert set(QUICK) <= WORKLOADS.keys()


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_under_the_one_command(name, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([name, "--help"])
    assert leaving.value.code == 0
    assert f"usage: python -m benchmarks {name}" in capsys.readouterr().out


def test_the_tables_of_documents_are_made_from_the_stored_run(capsys):
    results = Path(cli.__file__).parents[1] / "results"
    main(["--table", str(results / "suite.json")])
    assert capsys.readouterr().out == (results / "suite.md").read_text()


# -- who computes the same -------------------------------------------------------------------------
def found(module, work, case):
    return import_module(f"benchmarks.suite.{module}").opened(work, case, False).results()


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("peer", PEERS or [pytest.param("", marks=pytest.mark.skip("no peers"))])
def test_a_peer_computes_what_tinygen_does(peer, name):
    work = TINY[name]
    case = with_tinygen.case(work)
    ours = found("with_tinygen", work, case)
    assert equality.differs(work, case, ours, found(peer, work, case)) is None


@pytest.mark.skipif("with_jax" not in PEERS, reason="needs JAX")
def test_jax_updates_as_tinygen_does(monkeypatch):
    """Clipping, three steps of Adam, and the average, as tinygen's optimisers have them."""
    from benchmarks.suite import with_jax

    monkeypatch.setattr(with_jax, "RATE", 0.01)
    rng = np.random.default_rng(0)
    p = tg.tensor(rng.standard_normal(50).astype(np.float32), requires_grad=True)
    adam, theirs = tg.optim.Adam({"p": p}, 0.01), {"p": p.numpy().copy()}
    average, moments = p.numpy().copy(), with_jax.start(theirs)
    for size in (0.01, 1.0, 100.0):
        g = (size * rng.standard_normal(50)).astype(np.float32)
        p.grad = tg.tensor(g.copy())
        tg.optim.clip_global_norm({"p": p}, 2.0)
        adam.step()
        average += np.float32(0.1) * (p.numpy() - average)
        theirs, moments = with_jax.adam(2.0, 0.9, False, theirs, {"p": g}, moments)
    for a, b in (
        (theirs["p"], p.numpy()),
        (moments["average"]["p"], average),
        (moments["mean"]["p"], adam.state["mean"]["p"]),
        (moments["square"]["p"], adam.state["square"]["p"]),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


WRONG = [  # a model, a function of the peers' networks, and a wrong one made of it
    ("ddpm", "denoiser", lambda f: lambda p, x, t: 1.001 * f(p, x, t)),
    ("vae", "mlp", lambda f: lambda p, name, activation, x: f(p, name, lambda u: u, x)),
    ("gan-r1", "judged", lambda f: lambda p, x: f(p, 1.001 * x)),
]


@pytest.mark.parametrize(("name", "function", "change"), WRONG, ids=[w[0] for w in WRONG])
@pytest.mark.parametrize("peer", PEERS or [pytest.param("", marks=pytest.mark.skip("no peers"))])
def test_a_wrong_twin_is_caught(peer, name, function, change, monkeypatch):
    work = TINY[name]
    case = with_tinygen.case(work)
    networks = import_module(f"benchmarks.suite.{peer[5:]}_networks")
    monkeypatch.setattr(networks, function, change(getattr(networks, function)))
    what = equality.differs(work, case, found("with_tinygen", work, case), found(peer, work, case))
    assert what is not None and "rounding explains" in what


@pytest.mark.parametrize("name", TINY)
def test_rounding_differs_and_mistakes_differ_more(name):
    """Weights that are one rounding off pass; weights a thousandth off do not."""
    work = TINY[name]
    case = with_tinygen.case(work)
    ours = found("with_tinygen", work, case)
    rng = np.random.default_rng(0)
    learned = [f"weights/{n}" for n in part(case, "learned")] or ["x", "y"]
    rounded = {
        path: (case[path] * (1 + equality.U * rng.choice([-1, 1], case[path].shape))).astype(np.float32)
        for path in learned
    }  # fmt: skip
    assert equality.differs(work, case, ours, found("with_tinygen", work, case | rounded)) is None
    wrong = {path: case[path] * np.float32(1.001) for path in learned}
    what = equality.differs(work, case, ours, found("with_tinygen", work, case | wrong))
    assert what is not None and "rounding explains" in what


def test_what_is_missing_or_not_a_number_differs():
    a = {"loss": np.float32(1.0), "g": np.ones(3, np.float32)}
    assert equality.difference(a, a)[0] == 0.0
    assert equality.difference(a, {**a, "g": np.float32([1, 1, 2])}) == (
        pytest.approx(3**-0.5),
        "g",
    )
    for other in ({"loss": a["loss"]}, {**a, "h": a["g"]}, {**a, "g": np.ones(2)}):
        assert equality.difference(a, other)[0] == np.inf
    assert equality.difference(a, {**a, "g": np.float32([1, 1, np.nan])}) == (np.inf, "g")


def test_no_weight_of_a_case_is_zero():
    """A gradient that passes through zeros would hide a mistake behind them."""
    for work in TINY.values():
        case = with_tinygen.case(work)
        for name in part(case, "learned"):
            assert (case[f"weights/{name}"] != 0).all()


# -- the floor -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n, w in TINY.items() if w.kind == "step" and n != "gan-r1"])
def test_the_products_of_the_floor_are_those_of_a_step(name, monkeypatch):
    work = TINY[name]
    case = with_tinygen.case(work)
    did, matmul = Counter(), numpy_namespace.matmul

    def counted(a, b, **options):
        did[a.shape[0] * a.shape[1] * b.shape[1]] += 1
        return matmul(a, b, **options)

    monkeypatch.setattr(numpy_namespace, "matmul", counted)
    found("with_tinygen", work, case)
    asked = Counter()
    for p in products.products(work, case):
        asked[p.rows * p.a * p.b] += p.times
    assert asked == did


def test_the_bytes_of_the_floor():
    work = TINY["vae"]
    case = with_tinygen.case(work)
    sizes = [6, 8, 6, 6], [3, 6, 8, 6]
    n = sum((a + 1) * b for of in sizes for a, b in pairwise(of))
    assert case["decay"] == 0 and products.least_bytes(work, case) == 28 * n + 4 * 5 * 6
    assert products.least_bytes(TINY["sample"], with_tinygen.case(TINY["sample"])) == 0


# -- rounds ----------------------------------------------------------------------------------------
def test_a_round_has_as_many_steps_as_asked_for():
    commands = iter([{"do": "run", "steps": 5}, {"do": "close"}])
    answers, waits, at, steps = [], [], [], []
    pacer = Pacer(
        {"do": "run", "steps": 3}, lambda: at.append(len(steps)) or next(commands), answers.append
    )
    with pytest.raises(Closed):
        while True:
            pacer(lambda: waits.append(len(steps)))
            steps.append(1)
    assert at == [3, 8] and len(answers) == 3 and answers[-1] == {}
    assert waits == [0, 3, 8]  # for what was begun, before the clock is read


def test_a_contender_that_fails_says_why():
    field = Field()
    try:
        party = Party(field, ["tinygen", "products"])
        assert party.ask("tinygen", do="nonsense") is None
        assert party.found["tinygen"] == {"missing": "failed: ValueError: no command nonsense"}
        assert party.running() == ["products"]
        assert field["tinygen"].ask(60, do="peak")["bytes"] > 1e6  # a new process
        field["tinygen"]._process.kill()
        assert party.ask("tinygen", do="peak") is None
        assert party.found["tinygen"]["missing"].startswith("failed: its process ended: ")
    finally:
        field.close()


def test_a_contender_that_takes_too_long_is_ended():
    process = Process("tinygen")
    with pytest.raises(Failed, match="peak took too long"):
        process.ask(0.0, do="peak")
    assert process._process.returncode is not None


@pytest.fixture
def alone(monkeypatch):
    """No peers, whatever is installed."""
    monkeypatch.setattr(
        measure, "missing", lambda name: None if name == "tinygen" else "not there: here"
    )


@pytest.mark.slow
def test_the_suite_runs_with_tinygen_alone(alone, monkeypatch, capsys, tmp_path):
    works = [
        replace(TINY[name], name=name, title=f"a {name}")
        for name in ("ddpm", "vae", "gan-r1", "sample", "chain")
    ]
    works += [replace(TINY["vae"], name="busy", title="a neighbour", group="busy", busy=True)]
    works += [
        replace(TINY["vae"], name="memory", title="some memory", kind="memory", group="memory"),
        Workload("import", "import", "import", "import"),
    ]
    monkeypatch.setattr(cli, "chosen", lambda names: works if names else [])
    monkeypatch.setattr(cli, "QUICK", measure.Plan(2, 0.002))
    path = tmp_path / "run.json"
    assert main(["--quick", "--only", "these", "--json", str(path)]) == 0
    said, run = capsys.readouterr().out, json.loads(path.read_text())
    assert [*run["workloads"]] == [w.name for w in works]
    for work in run["workloads"].values():
        ours = work["contenders"]["tinygen"]["rounds"]
        assert len(ours) == (1 if work["kind"] == "memory" else 2) and min(ours) > 0
        assert work["contenders"]["JAX"] == {"missing": "not there: here"}
        assert (len(work["floor"].get("products", {}).get("rounds", [])) == 2) == (
            work["kind"] in ("step", "sample")
        )
        assert work["title"] in said
    assert run["workloads"]["vae"]["floor"]["bytes"] > 0
    assert len(run["machine"]["loop"]) >= 10 and "JAX: not there: here" in said


def test_who_computes_something_else_is_not_timed(monkeypatch):
    """The floor finds no loss: as a peer it is put out, and tinygen is timed."""
    monkeypatch.setitem(CONTENDERS, "JAX", Contender("products", True, "numpy"))
    field = Field()
    try:
        party = Party(field, ["tinygen", "JAX"])
        found = measure.timed(TINY["vae"], party, measure.Plan(2, 0.002), quiet.Watch())
    finally:
        field.close()
    assert len(found["contenders"]["tinygen"]["rounds"]) == 2
    assert found["contenders"]["JAX"]["missing"].startswith("not timed: loss/")


def test_nobody_is_always_the_first():
    assert [measure.turned(["a", "b", "c"], i) for i in (0, 1, 5)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"],
    ]  # fmt: skip
    assert measure.turned([], 3) == []


def test_imports_are_of_each_library_once(monkeypatch):
    monkeypatch.setitem(CONTENDERS, "JAX", CONTENDERS["JAX"]._replace(library="no_such_library"))
    watch = quiet.Watch()
    of = apart.imports(["tinygen", "tinygen compiled", "JAX"], 1, watch)["contenders"]
    assert of.keys() == {"tinygen", "JAX"} and len(of["tinygen"]["rounds"]) == 1
    assert of["JAX"]["missing"].startswith("failed: ModuleNotFoundError")


# -- small problems --------------------------------------------------------------------------------
SOLVERS = [name for name in solving.LIBRARIES if find_spec(name)]


@pytest.mark.parametrize("name", solving.PROBLEMS)
@pytest.mark.parametrize("library", SOLVERS)
def test_a_library_gives_scipy_the_value_and_its_gradient(library, name):
    """By central differences of the value; and like tinygen's, also in a compiled step."""
    work = WORKLOADS[f"solve-{name}"]
    case = with_tinygen.case(work)
    ours = found("with_tinygen", work, case)
    for compiled in (False, True):
        theirs = solving.opened(library, name, case, compiled).results()
        assert equality.differs(work, case, ours, theirs) is None
    f = solving._value_and_gradient("tinygen", False, name, case)
    along = np.random.default_rng(0).normal(size=case["x0"].shape)
    slope = (f(case["x0"] + 1e-5 * along)[0] - f(case["x0"] - 1e-5 * along)[0]) / 2e-5
    assert slope == pytest.approx(ours["start/gradient"] @ along, rel=1e-6)


@pytest.mark.parametrize("name", solving.PROBLEMS)
def test_a_small_problem_has_a_minimum_that_is_found(name):
    case = solving.case(name)
    f = solving._value_and_gradient("tinygen", False, name, case)
    solution = solving._solve(f, name, case)
    assert abs(solution.jac).max() < 1e-3 * abs(f(case["x0"])[1]).max()
    if name == "rosenbrock":
        np.testing.assert_allclose(solution.x, np.ones(10), atol=1e-4)


def test_who_takes_part_in_what():
    def who(kind):
        return {name for name in CONTENDERS if takes_part(name, Workload("", "", "", kind))}

    assert {*CONTENDERS} - who("step") == {"autograd"}
    assert {*CONTENDERS} - who("solve") == {*CONTENDERS} - who("start") == {"PyTorch compiled"}


@pytest.mark.slow
def test_a_small_problem_is_timed_in_a_process_that_goes_on_and_in_fresh_ones(alone, monkeypatch):
    works = [replace(WORKLOADS[f"{kind}-rosenbrock"]) for kind in ("solve", "start")]
    of, _ = measure.measure(works, measure.Plan(2, 0.002), lambda line: None)
    for work in works:
        rounds_of = of[work.name]["contenders"]["tinygen"]["rounds"]
        assert len(rounds_of) == 2 and min(rounds_of) > 0
        assert of[work.name]["contenders"].keys() == {*CONTENDERS} - {"PyTorch compiled"}
