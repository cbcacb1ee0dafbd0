import json

import pytest

from tinygen.__main__ import main
from tinygen.sweep import combinations, measures, table

pytestmark = pytest.mark.cpu_only("the command line, and texts")


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], [()]),
        (["latent=8"], [(("latent", "8"),)]),
        (["latent=8,16"], [(("latent", "8"),), (("latent", "16"),)]),
        (["hidden=[8,4],[2]"], [(("hidden", "[8, 4]"),), (("hidden", "[2]"),)]),
        (["loss=minimax,wasserstein"], [(("loss", "minimax"),), (("loss", "wasserstein"),)]),
        (["penalty=null"], [(("penalty", "null"),)]),
        (["a=1,2", "b=3,4"], [(("a", a), ("b", b)) for a in "12" for b in "34"]),
    ],
)
def test_combinations(pairs, expected):
    assert combinations(pairs) == expected


@pytest.mark.parametrize("pair", ["latent", "latent=", "=8"])
def test_a_text_without_name_or_values_is_refused(pair):
    with pytest.raises(ValueError, match="NAME=VALUE"):
        combinations([pair])


def test_a_table_has_means_and_their_standard_errors():
    """Of 1, 2, 6: 3 ± sqrt(7/3); a measure that a run lacks counts where it is."""
    found = {
        (("k", "1"),): [{"loss": 1.0, "score": 5.0}, {"loss": 2.0}, {"loss": 6.0}],
        (("k", "2"),): [{"loss": 4.0}],
    }
    assert table(found).splitlines() == [
        "| k | runs | loss | score |",
        "| --- | --- | --- | --- |",
        "| 1 | 3 | 3 ± 1.5 | 5 |",
        "| 2 | 1 | 4 |  |",
    ]


def test_a_table_shows_held_out_measures_and_two_of_samples():
    metrics = {"held_out": {"loss": 1.0}, "samples": {"c2st_accuracy": 0.5, "precision": 0.7}}
    assert measures(metrics) == {"loss": 1.0, "c2st_accuracy": 0.5}


SWEEP = ["sweep", "ae", "--steps", "3", "--batch", "16", "--seeds", "2", "--set", "hidden=[4]"]


def test_a_sweep_goes_on_where_it_was_stopped_and_repeats_nothing(tmp_path, capsys):
    out = str(tmp_path / "sweep")
    assert main([*SWEEP, "--set", "latent=2", "--out", out]) == 0
    first = capsys.readouterr().out
    done = tmp_path / "sweep" / "hidden=[4],latent=2,seed=1" / "metrics.json"
    kept = json.loads(done.read_text())
    done.write_text(json.dumps(kept | {"held_out": {"loss": 100.0}}))  # not trained again
    (tmp_path / "sweep" / "hidden=[4],latent=2,seed=0" / "metrics.json").unlink()  # resumed
    assert main([*SWEEP, "--set", "latent=2,3", "--out", out]) == 0
    second = capsys.readouterr().out
    assert second == (tmp_path / "sweep" / "table.md").read_text()
    assert len(first.splitlines()) == 3 and len(second.splitlines()) == 4
    assert "| [4] | 2 | 2 |" in second and "| [4] | 3 | 2 |" in second
    loss = json.loads((done.parents[1] / "hidden=[4],latent=2,seed=0" / "metrics.json").read_text())
    mean = (loss["held_out"]["loss"] + 100) / 2
    assert f"| [4] | 2 | 2 | {mean:.4g} ±" in second


def test_a_run_that_fails_is_named_and_the_others_are_in_the_table(tmp_path, capsys):
    out = tmp_path / "sweep"
    (out / "hidden=[4],seed=1").mkdir(parents=True)
    (out / "hidden=[4],seed=1" / "mine").touch()
    assert main([*SWEEP, "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert f"{out}/hidden=[4],seed=1: failed" in captured.err
    assert "| [4] | 1 |" in captured.out
    assert "exists already" in (out / "hidden=[4],seed=1.log").read_text()


def test_an_option_that_no_run_could_take_is_one_line_before_any_run(tmp_path, capsys):
    assert main([*SWEEP, "--set", "latent=2,two", "--out", str(tmp_path / "sweep")]) == 2
    assert "latent" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
