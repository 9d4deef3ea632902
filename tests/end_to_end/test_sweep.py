"""`physdiff train CONFIG --sweep ...`: every combination once, one table, and nothing lost to an interruption."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from physdiff import cli
from physdiff.commands import training
from physdiff.model import FieldModel
from physdiff.training.company import ProcessLost
from physdiff.training.sweep import points
from physdiff.training.sweep_table import Outcome, best_of, compared_by, ranked, write_tables

RATES = ("--sweep", "training.learning_rate=1e-3,4e-3")
SCALES = ("--sweep=denoiser.mode_scaling=0,1",)


def sweep_of(command: Any, *words: str) -> tuple[int, str, str]:
    return command("train", "config.yaml", "--run", "sweep", *words)


def table() -> dict[str, Any]:
    return {run["name"]: run for run in json.loads(Path("sweep/sweep.json").read_text())["runs"]}


def times() -> dict[str, int]:
    """When each run's model was written."""
    return {file.parts[1]: file.stat().st_mtime_ns for file in Path("sweep").glob("*/model/model.json")}


def test_a_grid_is_trained_and_told_in_one_table(tiny: Path, command: Any) -> None:
    code, out, _ = sweep_of(command, *RATES, *SCALES)
    assert code == 0
    names = [f"learning_rate={rate},mode_scaling={scale}" for rate in ("1e-3", "4e-3") for scale in (0, 1)]
    assert [line for line in out.splitlines() if line.startswith("[")] == [
        f"[{i + 1}/4] {n}" for i, n in enumerate(names)
    ]
    cards = {name: FieldModel.load(Path("sweep") / name).card for name in names}
    found = table()
    for name in names:
        told, settings = dict(part.split("=") for part in name.split(",")), cards[name]["settings"]
        assert settings["training"]["learning_rate"] == float(told["learning_rate"])
        assert settings["denoiser"]["mode_scaling"] == float(told["mode_scaling"])
        assert settings["network"]["width"] == 4  # of config.yaml
        row = {k: cards[name][k] for k in ("steps", "seconds", "parameters", "validation_error", "validation_loss")}
        assert found[name]["found"] == row and found[name]["status"] == "done"
    errors = [found[name]["found"]["validation_error"] for name in found]
    assert errors == sorted(errors) and len(set(errors)) == 4
    best = next(iter(found))
    assert json.loads(Path("sweep/sweep.json").read_text())["best"] == best and f"best: {best}, validation error" in out
    page = Path("sweep/sweep.md").read_text()
    assert f"Best: `{best}`, validation error {errors[0]:.4g}." in page and page.count("\n| ") == 6
    rows = list(csv.DictReader(Path("sweep/sweep.csv").open()))
    assert [row["run"] for row in rows] == list(found)
    assert rows[0]["training.learning_rate"] == found[best]["overrides"]["training.learning_rate"]

    # The same command again does nothing; a larger grid trains what is new.
    before = times()
    code, out, _ = sweep_of(command, *RATES, *SCALES)
    assert code == 0 and out.count("done before") == 4 and times() == before
    code, out, _ = sweep_of(command, "--sweep", "training.learning_rate=1e-3", "--sweep", "denoiser.mode_scaling=0,0.5")
    assert code == 0 and out.count("done before") == 1 and len(times()) == 5
    assert {name: times()[name] for name in before} == before


def test_interrupted_failed_and_unfinished_runs(tiny: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, launched = training.run_job, []

    def watched(job: Any, folder: Path, *args: Any, **kwargs: Any) -> Any:
        launched.append(folder.name)
        if folder.name == "learning_rate=2e-3" and launched.count(folder.name) == 1:
            raise FloatingPointError("training stopped at step 1:\nthe loss is not finite.")
        if folder.name == "learning_rate=3e-3" and launched.count(folder.name) == 1:
            raise KeyboardInterrupt
        return plain(job, folder, *args, **kwargs)

    monkeypatch.setattr(training, "run_job", watched)
    words = ("--sweep", "training.learning_rate=1e-3,2e-3,3e-3")
    code, _, said = sweep_of(command, *words)
    assert code == 130 and "interrupted; the same command continues the sweep" in said
    assert [run["status"] for run in table().values()] == ["done", "failed", "unfinished"]
    assert table()["learning_rate=2e-3"]["error"] == "training stopped at step 1: the loss is not finite."
    assert launched == [f"learning_rate={n}e-3" for n in (1, 2, 3)]

    launched.clear()
    launched += ["learning_rate=2e-3", "learning_rate=3e-3"]  # what failed once now goes through
    code, out, _ = sweep_of(command, *words)
    assert code == 0 and out.count("done before") == 1
    assert launched[2:] == [f"learning_rate={n}e-3" for n in (2, 3)]
    assert {run["status"] for run in table().values()} == {"done"}


def test_a_failed_run_is_told_and_the_rest_go_on(tiny: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, error = training.run_job, ValueError("unfit for this")

    def failing(job: Any, folder: Path, *args: Any, **kwargs: Any) -> Any:
        if folder.name == "seed=1":
            raise error
        return plain(job, folder, *args, **kwargs)

    monkeypatch.setattr(training, "run_job", failing)
    code, _, said = sweep_of(command, "--sweep", "training.seed=1,0")
    assert code == 2 and "failed: seed=1: unfit for this" in said and "Traceback" not in said
    assert [(run["name"], run["status"]) for run in table().values()] == [("seed=0", "done"), ("seed=1", "failed")]
    assert "- `seed=1` failed: unfit for this" in Path("sweep/sweep.md").read_text()
    error = ProcessLost("another process has stopped")
    error.__cause__ = FloatingPointError("the loss is not finite")  # of all processes, another was the first
    code, _, said = sweep_of(command, "--sweep", "training.seed=1,0")
    assert code == 2 and "failed: seed=1: the loss is not finite" in said and "Traceback" not in said
    error.__cause__ = RuntimeError("connection reset")
    code, _, said = sweep_of(command, "--sweep", "training.seed=1,0")
    assert code == 1 and "failed: seed=1: another process has stopped" in said and "Traceback" not in said
    error = AssertionError("a bug")
    code, _, said = sweep_of(command, "--sweep", "training.seed=1,0")
    assert code == 1 and "Traceback" in said and "failed: seed=1: AssertionError: a bug" in said


def test_a_time_limit_leaves_a_run_unfinished_and_it_is_continued(tiny: Path, command: Any) -> None:
    words = ("--training.steps", "6", "--sweep", "training.seed=0")
    code, out, said = sweep_of(command, *words, "--training.time_limit", "1e-6")
    assert code == 0 and "unfinished: seed=0" in said and table()["seed=0"]["status"] == "unfinished"
    code, out, _ = sweep_of(command, *words)
    assert code == 0 and "continued from step 1" in out and table()["seed=0"]["status"] == "done"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.lerning_rate=1,2"], "no option 'training.lerning_rate'. Did you mean 'training.learning_rate'?"),
        (["training.learning_rate=1e-3,-1"], "learning_rate must be positive and finite; got -1.0"),
        (["process=Heat,Het"], "unknown process 'Het'. Did you mean 'Heat'?"),
        (["training.seed=0", "training.seed=1"], "the sweep sets 'training.seed' twice; give all its values at once"),
        (["training.seed=0,0"], 'the sweep has the point {"training.seed": 0} twice'),
        (["training.seed="], "'training.seed' needs a list of values; got []"),
        (["training.seed=[0"], "--sweep training.seed=[0 cannot be understood"),
        (["run=a,b"], "a sweep has 'run' itself"),
        (["no.yaml"], "--sweep takes NAME=VALUE,VALUE or a YAML file; there is no file 'no.yaml'"),
        (["list.yaml"], "say training.seed in place of training"),
    ],
)
def test_a_sweep_that_cannot_be_understood_runs_nothing(
    tiny: Path, command: Any, words: list[str], message: str
) -> None:
    Path("list.yaml").write_text(yaml.safe_dump([{"training": {"seed": 1}}]))
    code, out, said = sweep_of(command, *(part for word in words for part in ("--sweep", word)))
    assert code == 2 and message in said and len(said.splitlines()) == 1
    assert not Path("sweep").exists() and out == ""


def test_lists_grids_and_files_are_axes_of_one_product(tmp_path: Path) -> None:
    pairs, grid = tmp_path / "pairs.yaml", tmp_path / "grid.yaml"
    pairs.write_text("- {a.x: v, b: 1.0e-3}\n- {a.x: residual, c: [1, 2]}\n")
    grid.write_text("d.x: [true, null]\n")
    found = points([str(pairs), "e.deep.y=p,q", str(grid)])
    assert [p.overrides for p in found[:2]] == [
        {"a.x": "v", "b": 0.001, "e.deep.y": "p", "d.x": True},
        {"a.x": "v", "b": 0.001, "e.deep.y": "p", "d.x": None},
    ]
    assert [p.name for p in found[:2]] == ["a.x=v,b=0.001,y=p,d.x=true", "a.x=v,b=0.001,y=p,d.x=null"]
    assert found[4].words == ["--a.x=residual", "--c=[1, 2]", "--e.deep.y=p", "--d.x=true"]
    assert len({p.name for p in found}) == len(found) == 8
    clash = points(["network.multipliers=[1,2],'1-2'", f"objective.name={'long.' * 40}Loss"])
    assert len({p.name for p in clash}) == 2 and all(len(p.name) < 140 and "/" not in p.name for p in clash)
    assert [p.words for p in points(["training.learning-rate=1e-3"])] == [["--training.learning_rate=1e-3"]]


def test_the_table_orders_by_what_all_have_and_puts_what_is_not_a_number_last(tmp_path: Path) -> None:
    def done(name: str, **found: float) -> Outcome:
        return Outcome(name, {"s": name}, "done", "", found=found)

    runs = [
        done("a", validation_error=0.5, validation_loss=3.0),
        done("b", validation_error=float("nan"), validation_loss=1),
        Outcome("c", {"s": "c"}, "failed", "", "x | y", {"validation_error": 0.0}),
        done("d", validation_error=0.25, validation_loss=2),
    ]  # fmt: skip
    assert compared_by(runs) == "validation_error"
    assert [o.name for o in ranked(runs)] == ["d", "a", "b", "c"]
    best = best_of(runs)
    assert best is not None and best.name == "d"
    without = [*runs, done("e", validation_loss=0.5)]
    assert compared_by(without) == "validation_loss"
    assert [o.name for o in ranked(without)] == ["e", "b", "d", "a", "c"]
    assert best_of([runs[1], runs[2]]) is None and best_of([]) is None
    write_tables(tmp_path, runs)
    assert "| d | done | 0.25 | 2 |" in (tmp_path / "sweep.md").read_text()
    assert "- `c` failed: x | y" in (tmp_path / "sweep.md").read_text()


def test_help_tells_of_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--sweep training.learning_rate=1e-3,2e-3" in text
