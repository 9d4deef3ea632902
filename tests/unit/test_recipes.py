"""What holds for every recipe: reproducible, independent runs, disjoint splits, a card, whatever the chunks."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_recipes import RUNS, SMALL

from datasets import recipes
from datasets.measure import measure
from datasets.writing import in_blocks, write_runs
from physdiff.commands.data import list_recipes
from physdiff.commands.data import make as command_make
from physdiff.data import load_fields
from physdiff.data.fields import SPLITS
from physdiff.data.formats import open_source
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile
from physdiff.data.repack import repack
from physdiff.grid import Grid

# py-pde, by which `equation` is solved, is an extra that only `make test-all` installs.
# Measured data have no seed; chains of one lattice advance together by one stream of random numbers.
MADE = [pytest.param(name, marks=pytest.mark.peers if name == "equation" else ()) for name in sorted(SMALL)]
SEEDED = [case for case in MADE if case.values != ("terrain",)]
INDEPENDENT = [case for case in SEEDED if case.values != ("lattice_phi4",)]


def make(name: str, folder: Path, seed: int = 3, **settings: Any) -> dict[str, np.ndarray]:
    """Values of each split."""
    recipes()[name].make(folder, seed, progress=False, **{**SMALL[name], **settings})
    return {split: load_fields(folder, split=split).values for split in SPLITS}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder and values of each recipe, made once."""

    @functools.cache
    def of(name: str) -> tuple[Path, dict[str, np.ndarray]]:
        folder = tmp_path_factory.mktemp(name) / "set"
        return folder, make(name, folder)

    return of


def test_every_recipe_is_tested_here() -> None:
    assert sorted(recipes()) == sorted(SMALL)


@pytest.mark.parametrize("name", MADE)
def test_data_set_is_whole(name: str, made: Any) -> None:
    folder, values = made(name)
    assert sorted(p.name for p in folder.iterdir()) == ["card.md", "data", "stats.yaml"]
    card = (folder / "card.md").read_text()
    assert card.startswith(recipes()[name].card.read_text().rstrip())
    # SMALL differs from the recipe's own settings, and so does the seed: the card of these data says so.
    for setting, value in {**SMALL[name], "seed": 3}.items():
        own = inspect.signature(recipes()[name].make).parameters[setting].default
        assert f"| {setting} | {value} | {own} |" in card.split("## This data set")[1]
    train = load_fields(folder, split="train")
    assert train.values.dtype == np.float32 and np.isfinite(train.values).all()
    stats = yaml.safe_load((folder / "stats.yaml").read_text())
    for channel, field in enumerate(train.names):
        if field in stats["mean"]:
            x = train.values[:, channel].astype(np.float64)
            assert stats["mean"][field] == pytest.approx(x.mean(), rel=1e-9, abs=1e-12 * np.abs(x).max())
            assert stats["std"][field] == pytest.approx(x.std(), rel=1e-9)
    # No field of a split is one of another: every field is a row of its own.
    rows = np.concatenate([v.reshape(len(v), -1) for v in values.values()])
    starts = np.concatenate([[split] * len(v) for split, v in values.items()])
    _, index = np.unique(rows, axis=0, return_inverse=True)
    assert all(len(set(starts[index == i])) == 1 for i in range(index.max() + 1))


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_gives_its_own_bits(name: str, made: Any, tmp_path: Path) -> None:
    _, values = made(name)
    again, other = make(name, tmp_path / "again"), make(name, tmp_path / "other", seed=4)
    for split in SPLITS:
        assert values[split].tobytes() == again[split].tobytes()
        assert not np.array_equal(values[split], other[split])


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_run_does_not_depend_on_its_company(
    name: str, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on how many runs there are nor on which are made and written together: to the last bit."""
    _, values = made(name)
    module = importlib.import_module(f"datasets.{name}")
    for at_once in (1, 2):
        monkeypatch.setattr(module, "write_runs", functools.partial(_chunked, at_once))
        part = make(name, tmp_path / str(at_once), train_runs=3)
        frames = len(values["test"]) // RUNS["test_runs"]
        assert part["train"].tobytes() == values["train"][: 3 * frames].tobytes()
        assert part["test"].tobytes() == values["test"].tobytes()


def _chunked(chunk: int, *args: Any, **kwargs: Any) -> Path:
    return write_runs(*args, **{**kwargs, "at_once": chunk})


@pytest.mark.parametrize("name", MADE)
def test_make_refuses_an_occupied_folder_and_its_parameters_are_told(name: str, made: Any) -> None:
    folder, _ = made(name)
    with pytest.raises(ValueError, match="exists already"):
        make(name, folder)
    told = inspect.getdoc(recipes()[name].make) or ""
    for setting in inspect.signature(recipes()[name].make).parameters:
        assert f"{setting}:" in told, setting


@pytest.mark.parametrize("name", sorted(SMALL))
def test_card_tells_what_a_reader_needs(name: str) -> None:
    card = recipes()[name].card.read_text()
    assert card.startswith(f"# {name}\n") and "## Limits" in card
    # Rows of its table; terrain is measured, it has no equation and no solver.
    asked = {"stored", "boundary", "units", "seed", "size", "licence", "made by", "symmetries"}
    asked |= set() if name == "terrain" else {"equation", "parameters", "solver"}
    rows = {line.split("|")[1].strip() for line in card.splitlines() if line.startswith("|")}
    assert asked <= rows, asked - rows
    assert f"datasets/{name}.py" in card
    size = next(line for line in card.splitlines() if line.startswith("| size |"))
    assert re.search(r"\d (kB|MB|GB)", size), size
    # Which test verifies the solver, or what else was measured, stands in the text.
    tests = re.findall(r"`(tests/unit/test_\w+\.py)`", card)
    assert all((Path(__file__).parents[2] / test).is_file() for test in tests)
    assert name == "terrain" or (tests and "## What it looks like" in card)


def test_a_card_of_the_recipes_own_settings_is_as_it_is(tmp_path: Path) -> None:
    folder = recipes()["terrain"].make(tmp_path / "set", progress=False)
    assert (folder / "card.md").read_text() == recipes()["terrain"].card.read_text()


@pytest.mark.parametrize(
    ("name", "field"),
    [("turbulence", "vorticity"), ("forced_turbulence", "vorticity"), ("burgers", "velocity"),
     ("kuramoto_sivashinsky", "u")],
)  # fmt: skip
def test_a_reflection_turns_the_sign_of_fields_that_it_should(name: str, field: str, made: Any, tmp_path: Path) -> None:
    """Else `data.symmetries: [flip]` would train on flows that do not exist; repacking keeps the mark."""
    folder, _ = made(name)
    file = folder / "data" / "train" / f"{name}.hdf5"
    list(repack(str(file), str(tmp_path / "new.hdf5")))
    for path in (file, tmp_path / "new.hdf5"):
        assert {v.name: v.pseudo for v in open_source(path).variables} == {field: True}


def test_other_fields_keep_their_sign(made: Any) -> None:
    folder, _ = made("gray_scott")
    assert not any(v.pseudo for v in open_source(folder / "data" / "test" / "gray_scott.hdf5").variables)


def test_command_tells_what_was_made_not_what_is_made_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command_make("poisson", str(tmp_path / "pairs"), settings={**RUNS, "cells": 16})
    said = capsys.readouterr().out
    assert "solution, source: 5 train + 2 valid + 2 test trajectories of 1 frame on 16 (x, dirichlet, 1 m)" in said
    assert "1280" not in said


def test_list_aligns_every_summary(capsys: pytest.CaptureFixture[str]) -> None:
    list_recipes()
    lines = capsys.readouterr().out.splitlines()
    assert len({line.index(recipes()[line.split()[0]].summary) for line in lines}) == 1


@pytest.mark.parametrize("name", sorted(SMALL))
def test_list_tells_the_settings_of_a_recipe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    list_recipes(name)
    said = capsys.readouterr().out
    for setting in set(SMALL[name]):
        own = inspect.signature(recipes()[name].make).parameters[setting].default
        told = re.search(rf"^  {setting} = {re.escape(str(own))}: (.+)$", said, re.MULTILINE)
        assert told is not None and len(told.group(1)) > 5
    assert not re.search(r"^  (folder|seed|progress|overwrite) =", said, re.MULTILINE)


def test_measure_tells_the_moments_of_a_data_set(made: Any) -> None:
    folder, values = made("advection")
    text = measure(folder)
    assert text.startswith("5 runs of 2 frames to train on, 32 (x, periodic, 1 m)")
    assert f"std {values['train'].astype(np.float64).std():.3g}" in text and "mean square by frame" in text
    # Two sines have equal power at three modes at most of the 15 below Nyquist; the rest is rounding.
    assert float(text.split("weakest mode ")[1].split()[0]) > 1e10


# ---- the scaffold itself

GRID = Grid((4,), 1.0, "periodic")


def _numbers(split: int, first: int, last: int) -> dict[str, np.ndarray]:
    runs = np.arange(first, last, dtype=np.float64)
    return {"u": runs[:, None, None] + 100 * split + np.zeros((1, 2, 4)), "n": 10 * runs}


def _write(folder: Path, simulate: Any, **options: Any) -> Path:
    settings = {"at_once": 3, "seed": 7, "per_run": ("n",), "progress": False, **options}
    return write_runs(
        folder, "advection", GRID, {"u": FieldSpec()}, {"train": 7, "valid": 1, "test": 2}, np.arange(2), simulate,
        **settings,
    )  # fmt: skip


def test_simulate_is_asked_for_each_run_once_in_order(tmp_path: Path) -> None:
    asked: list[tuple[int, int, int]] = []

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        asked.append((split, first, last))
        return _numbers(split, first, last)

    folder = _write(tmp_path / "set", simulate)
    assert asked == [(0, 0, 3), (0, 3, 6), (0, 6, 7), (1, 0, 1), (2, 0, 2)]
    data = load_fields(folder, split="train")
    assert data.values[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    asked.clear()
    blocks = _write(tmp_path / "blocks", in_blocks(simulate, 4))
    assert set(asked) == {(0, 0, 4), (0, 4, 8), (1, 0, 4), (2, 0, 4)}
    assert load_fields(blocks, split="train").values.tobytes() == data.values.tobytes()


def test_chains_are_written_a_few_at_a_time(tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.lattice_phi4._AT_ONCE", 1)  # one by one
    calls: list[int] = []
    write = WellFile.write

    def counted(file: WellFile, first: int, values: Mapping[str, np.ndarray]) -> None:
        calls.append(len(values["phi"]))
        write(file, first, values)

    monkeypatch.setattr(WellFile, "write", counted)
    found, (folder, whole) = make("lattice_phi4", tmp_path / "set"), made("lattice_phi4")
    assert calls[-7:] == [1] * 7 and all(np.array_equal(found[split], whole[split]) for split in SPLITS)
    # Nothing is left of where the chains were parked.
    assert sorted(f.name for f in (tmp_path / "set").iterdir()) == sorted(f.name for f in folder.iterdir())


def test_a_simulation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        values = _numbers(split, first, last)
        if first == 6:
            values["u"][0, 1, 2] = np.inf
        return values

    with pytest.raises(ValueError, match=r"'u' holds inf at \(trajectory, frame, \*cell\) \(6, 1, 2\)"):
        _write(tmp_path / "set", failing)
    assert list(tmp_path.iterdir()) == []
