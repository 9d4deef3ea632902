"""`physdiff sample` with any solver and time grid, within a memory limit, with its trajectory; and on bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import Command  # pyright: ignore[reportMissingImports]

from physdiff import FieldModel, load_fields
from physdiff.solvers import (
    DDIM,
    Ancestral,
    Karras,
    PredictorCorrector,
    ReferenceSplitting,
    Solver,
    TimeGrid,
    Uniform,
    sample,
    solvers,
    suited_grid,
    time_grids,
)
from physdiff.solvers.memory import in_bytes

pytestmark = pytest.mark.xdist_group("tiny run")  # one worker trains the run for all
OWN = """
from dataclasses import dataclass
from typing import ClassVar
from physdiff import Ancestral, Solver
from physdiff.solvers import TimeGrid, Uniform


@dataclass(frozen=True)
class Mine(Solver):
    warmth: float = 0.0
    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    exact_on_gaussian: ClassVar[bool] = False

    def step(self, dynamics, y, t, s, noise):
        return Ancestral(1 - self.warmth).step(dynamics, y, t, s, noise)


@dataclass(frozen=True)
class Even(TimeGrid):
    def between(self, path, intervals):
        return Uniform().between(path, intervals)


class Half(Solver):
    pass


class Bare(Mine):
    pass
"""


def suited(solver: Solver) -> TimeGrid:
    """Where a rule stops when nothing is said."""
    return suited_grid(solver, FieldModel.load("run").denoiser.path)


@pytest.fixture
def own_rules(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a solver and a time grid, that no test before has imported."""
    (tiny / "own_rules.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own_rules", raising=False)


def read(file: str, group: str | None = None) -> xr.Dataset:
    with xr.open_dataset(file, engine="h5netcdf", group=group) as found:
        return found.load()


def expected(steps: int, n: int, solver: Solver, time_grid: TimeGrid, dtype: torch.dtype = torch.float64) -> np.ndarray:
    model = FieldModel.load("run")
    fields = sample(model.denoiser, n, steps=steps, solver=solver, time_grid=time_grid, seed=5, dtype=dtype)
    return model.normaliser.inverse(fields)[:, 0].numpy()


def test_solver_and_time_grid_with_their_settings(tiny: Path, command: Command) -> None:
    chosen = "--solver DDIM --solver.stochasticity 0.5 --time-grid Karras --time-grid.rho=5"
    code, said, error = command("sample", "run", "--n", "3", "--steps", "4", "--seed", "5", *chosen.split())
    assert code == 0, error
    assert "written: run/samples.nc" in said
    found = read("run/samples.nc")
    np.testing.assert_array_equal(found["vorticity"], expected(4, 3, DDIM(0.5), Karras(5.0)))
    assert found.attrs["solver"] == "DDIM" and json.loads(found.attrs["solver_settings"]) == {"stochasticity": 0.5}
    assert found.attrs["time_grid"] == "Karras" and json.loads(found.attrs["time_grid_settings"]) == {"rho": 5.0}
    assert (found.attrs["steps"], found.attrs["seed"], found.attrs["dtype"]) == (4, 5, "float64")


def test_a_solver_within_a_solver(tiny: Path, command: Command) -> None:
    chosen = (
        "--solver PredictorCorrector --solver.corrections 2 --solver.predictor DDIM --solver.predictor.stochasticity 1"
    )
    code, _, error = command("sample", "run", "--n", "2", "--steps", "4", "--seed", "5", *chosen.split())
    assert code == 0, error
    rule = PredictorCorrector(corrections=2, predictor=DDIM(1.0))
    found = read("run/samples.nc")
    np.testing.assert_array_equal(found["vorticity"], expected(4, 2, rule, suited(rule)))
    settings = json.loads(found.attrs["solver_settings"])
    assert (settings["corrections"], settings["predictor"]) == (2, "DDIM(stochasticity=1.0)")


def test_settings_may_stand_before_their_class(tiny: Path, command: Command) -> None:
    before = "--solver.predictor.stochasticity=1 --solver.predictor DDIM --solver.corrections 2"
    for last in ("--solver PredictorCorrector", "--solver=PredictorCorrector"):
        common = ("sample", "run", "--n", "1", "--steps", "3", "--seed", "5")
        code, _, error = command(*common, *before.split(), *last.split())
        assert code == 0, error
        rule = PredictorCorrector(corrections=2, predictor=DDIM(1.0))
        np.testing.assert_array_equal(read("run/samples.nc")["vorticity"], expected(3, 1, rule, suited(rule)))


@pytest.mark.usefixtures("own_rules")
def test_classes_of_ones_own(command: Command) -> None:
    for solver, grid in (("own_rules.py:Mine", "own_rules.py:Even"), ("own_rules.Mine", "own_rules.Even")):
        chosen = (f"--solver={solver}", "--solver.warmth=0.25", f"--time_grid={grid}")
        code, _, error = command("sample", "run", "--n", "2", "--steps", "4", "--seed", "5", *chosen, "--out", "own.nc")
        assert code == 0, error
        np.testing.assert_array_equal(read("own.nc")["vorticity"], expected(4, 2, Ancestral(0.75), Uniform()))
        assert read("own.nc").attrs["solver"] == "Mine"


@pytest.mark.parametrize("name", solvers.classes())
def test_every_registered_solver_by_its_name(tiny: Path, command: Command, name: str) -> None:
    code, _, error = command("sample", "run", "--n", "1", "--steps", "3", "--solver", name)
    assert code == 0, error
    assert np.isfinite(read("run/samples.nc")["vorticity"]).all()


@pytest.mark.parametrize("name", time_grids.classes())
def test_every_registered_time_grid_by_its_name(tiny: Path, command: Command, name: str) -> None:
    code, _, error = command("sample", "run", "--n", "1", "--steps", "3", "--time-grid", name)
    assert code == 0, error
    assert np.isfinite(read("run/samples.nc")["vorticity"]).all()


def test_type_and_memory_of_the_state(tiny: Path, command: Command) -> None:
    common = ("sample", "run", "--n", "3", "--steps", "4", "--seed", "5", "--dtype", "float32")
    whole = expected(4, 3, Ancestral(), suited(Ancestral()))
    for memory in ((), ("--memory-limit", "1MB"), ("--memory_limit=0.3 MiB", "--chunk", "auto"), ("--chunk", "2")):
        code, _, error = command(*common, "--solver", "Ancestral", *memory)
        assert code == 0, error
        found = read("run/samples.nc")["vorticity"]
        assert found.dtype == np.float32
        off = float(abs(found - whole).max() / whole.std())
        print(f"{memory}: off by {off:.1e} standard deviations")
        assert 0 < off < 1e-5


def test_a_trajectory_is_written_beside_the_samples(tiny: Path, command: Command) -> None:
    code, said, error = command("sample", "run", "--n", "3", "--steps", "7", "--chunk", "2", "--trajectory", "3")
    assert code == 0, error
    assert "states on the way in its group 'diffusion'" in said
    clean, way = read("run/samples.nc"), read("run/samples.nc", "diffusion")
    model = FieldModel.load("run")
    times = suited(ReferenceSplitting()).times(model.denoiser.path, 7)[[0, 3, 6, 7]]
    np.testing.assert_array_equal(way["diffusion_time"], times)
    assert way["vorticity"].dims == ("diffusion_time", "sample", "x", "y")
    assert way["vorticity"].attrs["units"] == "1/s"
    np.testing.assert_array_equal(way["vorticity"][-1], clean["vorticity"])
    # The start is the reference at t = 1 in the units of the data: white when whitened there.
    start = torch.from_numpy(way["vorticity"][0].values).unsqueeze(1)
    modes = model.denoiser.path.basis.forward(model.normaliser.forward(start))
    white = model.denoiser.path.at(1.0).whiten(modes)[:, model.denoiser.path.reference.support]
    assert abs(float(white.square().mean()) - 1) < 5 * (2 / white.numel()) ** 0.5
    assert len(load_fields("run/samples.nc", ["vorticity"])) == 3  # the file still is one of fields


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--solver DDMI", ("unknown solver 'DDMI'", "Did you mean 'DDIM'?")),
        ("--solver=DDMI", ("unknown solver 'DDMI'", "Did you mean 'DDIM'?")),
        ("--solver DDIM --solver.eta 1", ("DDIM has no setting 'eta'", "It has: stochasticity = 0.0")),
        ("--solver.eta 1", ("ReferenceSplitting has no setting 'eta'", "It has: none")),
        ("--solver DDIM --solver.stochasticity x", ("stochasticity", "float", "Got value: x")),
        ("--solver DDIM --solver.stochasticity 3", ("'stochasticity' must lie in [0, 1]; got 3.0",)),
        ("--solver", ("--solver", "expected one argument")),
        (
            "--solver WhitenedAdams --solver.order three",
            ("error: --solver.order: Expected a <class 'int'>", "Got value: three"),
        ),
        (
            "--solver Ancestral --solver.variance learnt",
            ("--solver.variance: Expected one of 'reference', 'learned',", "Did you mean 'learned'?"),
        ),
        ("--solver PredictorCorrector --solver.predictor Hune", ("unknown solver 'Hune'. Did you mean 'Heun'?",)),
        (
            "--solver PredictorCorrector --solver.predictor DDIM --solver.predictor.stochasticity x",
            ("error: --solver.predictor.stochasticity: Expected", "float"),
        ),
        ("--solver ChurnedHeun --solver.rule.eta 1", ("ReferenceSplitting has no setting 'eta'",)),
        ("--solver physdiff.grid.Grid", ("solver 'physdiff.grid.Grid': Grid is not a subclass of physdiff.Solver",)),
        ("--solver own_rules.py:Half", ("Half is abstract; it must define step",)),
        ("--solver own_rules.py:Bare", ("Bare is no dataclass; put @dataclass(frozen=True) above it",)),
        ("--solver nothing.py:Mine", ("solver 'nothing.py:Mine': there is no file nothing.py",)),
        ("--time-grid Unifrom", ("unknown time grid 'Unifrom'", "Did you mean 'Uniform'?")),
        ("--time-grid Karras --time-grid.exponnent 7", ("Karras has no setting 'exponnent'",)),
        (
            "--time-grid.rho 7",
            ("--time_grid.rho is a setting of a time grid; name the time grid too",),
        ),
        ("--memory-limit -5", ("a memory limit is a size such as 2GB", "'-5'")),
        ("--memory-limit 2XB", ("a memory limit is a size such as 2GB", "'2XB'")),
        ("--memory-limit 0", ("at least 1 byte; got '0'",)),
        ("--memory-limit 1kB", ("one sample takes about", "kB of memory; the limit is 1 kB")),
        ("--chunk 0", ("chunk = 0",)),
        ("--chunk all", ("--chunk: Expected one of <class 'int'>, typing.Literal['auto']. Got value: all",)),
        ("--dtype float16", ("--dtype", "'float64', 'float32'", "float16")),
        ("--trajectory 0", ("k at least 1; got 0",)),
        ("--n 0", ("n and chunk must be whole numbers, at least 1; got n = 0",)),
        ("--steps 0", ("a whole number of steps, at least 1; got 0",)),
        ("--seed -1", ("seed", "-1")),
        ("--solvr DDIM", ("there is no option 'solvr'. Did you mean 'solver'?",)),
    ],
)
@pytest.mark.usefixtures("own_rules")
def test_bad_input(command: Command, arguments: str, words: tuple[str, ...]) -> None:
    before = sorted(Path("run").iterdir())
    code, _, error = command("sample", "run", *arguments.split())
    line = error.strip().splitlines()[-1]
    assert code == 2 and line.rpartition("\r")[2].startswith("physdiff: error: "), error
    for word in words:
        assert word in line
    assert sorted(Path("run").iterdir()) == before


def test_help_lists_what_can_be_named(command: Command) -> None:
    code, said, _ = command("sample", "--help")
    assert code == 0
    said = " ".join(said.split())
    assert f"One of {', '.join(solvers.classes())}; or your own, as module.Class or file.py:Class" in said
    assert f"One of {', '.join(time_grids.classes())}; or your own" in said
    for name in ("PhaseSpaceDDIM", "Calibrated", "Levels", "known subclasses"):  # made by code, not by name
        assert name not in said


def test_sizes_in_words() -> None:
    sizes = {"2GB": 2 * 10**9, "1.5 GiB": 3 * 2**29, "500MiB": 500 * 2**20, "3 kb": 3000, "4096": 4096, "7B": 7}
    assert {words: in_bytes(words) for words in sizes} == sizes
