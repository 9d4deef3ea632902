"""Frames that are there twice are found, with their places; others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physdiff import cli
from physdiff.data.duplicates import Duplicate, Frame, describe, duplicates
from physdiff.data.fieldset import FieldSet
from physdiff.data.selection import Selection
from physdiff.data.settings import DataSettings
from physdiff.data.source import Source, Variable
from physdiff.data.splits import open_splits
from physdiff.data.stored import MemoryArray
from physdiff.data.view import View
from physdiff.grid import Grid
from physdiff.training.job import opened
from physdiff.training.remarks import of_duplicates


def source_of(name: str, values: np.ndarray) -> Source:
    view = View(MemoryArray(values), ("trajectory", "time", "x", "y"))
    times = np.zeros(values.shape[:2])
    return Source(name, "memory", Grid(values.shape[2:]), (Variable("u", view),), len(values), times)


def fields_of(seed: int, runs: int = 2, frames: int = 9, dtype: type = np.float64) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((runs, frames, 5, 4)) * 3 + 280).astype(dtype)


def pair(a: tuple, b: tuple, exact: bool = True) -> Duplicate:
    return Duplicate(Frame(*a), Frame(*b), exact)


def test_copies_between_parts_and_within_one() -> None:
    train, test = fields_of(0), fields_of(1)
    test[1, 2:6] = train[0, 4:8]  # a stretch at another time
    train[1, 8] = train[0, 0]
    splits = {"train": FieldSet([source_of("a", train)]), "test": FieldSet([source_of("b", test)])}
    found = duplicates(splits)
    assert found == [
        pair(("train", "a", 0, 0), ("train", "a", 1, 8)),
        *(pair(("train", "a", 0, 4 + i), ("test", "b", 1, 2 + i)) for i in range(4)),
    ]
    assert [d.crosses for d in found] == [False] + [True] * 4
    assert describe(found) == [
        "train (a, trajectory 1, frame 8): the same as train (a, trajectory 0, frame 0).",
        "test (b, trajectory 1, frames 2 to 5): the same as train (a, trajectory 0, frames 4 to 7).",
    ]
    assert duplicates(splits, most=2) == found[:2]


def test_what_repeats_the_same_frame_is_told_against_the_first() -> None:
    train, valid = fields_of(0), fields_of(1)
    valid[0, 1] = valid[1, 1] = train[1, 5]
    found = duplicates({"train": FieldSet([source_of("a", train)]), "valid": FieldSet([source_of("b", valid)])})
    assert [(d.first.frame, d.second.trajectory) for d in found] == [(5, 0), (5, 1)]


def test_other_frames_are_not_copies() -> None:
    train = fields_of(0, 20, 50)
    assert duplicates({"train": FieldSet([source_of("a", train)])}) == []


def test_a_copy_in_another_precision_or_layout_is_a_copy() -> None:
    single = fields_of(0, dtype=np.float32)
    single[0, 0, 0, 0] = -0.0
    double = single.astype(np.float64)
    double[0, 0, 0, 0] = 0.0
    found = duplicates({"train": FieldSet([source_of("a", single)]), "test": FieldSet([source_of("b", double)])})
    assert len(found) == 18 and all(d.is_exact for d in found)


@pytest.mark.parametrize(("mean", "std"), [(280.0, 0.01), (1e5, 0.1), (1e30, 1e26), (0.0, 1e-30)])
def test_a_copy_in_single_precision_of_a_field_with_a_large_mean_is_found(mean: float, std: float) -> None:
    """What single precision takes from 280 K ± 0.01 K is 20 times what counts as rounding of its variation."""
    double = mean + std * (fields_of(0) - 280) / 3
    single = double.astype(np.float32)
    other = mean + std * (fields_of(1) - 280) / 3
    other[0, 0] = double[0, 0] + 0.5 * std  # alike, and no copy
    splits = {"train": FieldSet([source_of("a", double)]), "test": FieldSet([source_of("b", single)])}
    found = duplicates(splits)
    assert [(d.first.trajectory, d.first.frame) for d in found] == [(r, t) for r in range(2) for t in range(9)]
    assert all(d.crosses and not d.is_exact for d in found)
    assert duplicates(splits, rounding=0) == []
    assert duplicates({"train": FieldSet([source_of("a", double)]), "test": FieldSet([source_of("b", other)])}) == []


def test_fields_whose_variation_single_precision_does_not_hold_are_no_copies() -> None:
    """Two runs of 280 K ± 1e-7 K are one number in single precision, and not the same."""
    one, other = (280 + 1e-7 * (fields_of(seed) - 280) for seed in (0, 1))
    small = [1e-60 * fields_of(seed) for seed in (0, 1)]  # none is a number of single precision
    for a, b in ((one, other), small):
        assert duplicates({"train": FieldSet([source_of("a", a)]), "test": FieldSet([source_of("b", b)])}) == []


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_rounding_is_found_and_noise_is_not(size: float) -> None:
    train, test = fields_of(0), fields_of(1)
    # Half of the tolerance of 1e-4 standard deviations, which are 3 here, and 30 times that.
    error = size * 1e-4 * np.random.default_rng(2).uniform(-1, 1, (3, 5, 4))
    test[0, :3] = train[1, 3:6] + error
    splits = {"train": FieldSet([source_of("a", train)]), "test": FieldSet([source_of("b", test)])}
    found = duplicates(splits)
    if size == 1:
        assert found == [pair(("train", "a", 1, 3 + i), ("test", "b", 0, i), False) for i in range(3)]
        assert "up to rounding the same as" in describe(found)[0] and len(describe(found)) == 1
    else:
        assert found == []
    assert duplicates(splits, rounding=0) == []


def test_rest_and_slow_motion_are_no_copies() -> None:
    values = fields_of(0)
    values[:, 0] = 0.1  # both runs begin at rest
    values[1, 5] = values[1, 4] + 1e-7  # nothing moves
    assert duplicates({"train": FieldSet([source_of("a", values)])}) == []


def test_cells_without_values_and_crops() -> None:
    train, test = fields_of(0), fields_of(1)
    test[1, 3] = train[0, 2]
    train[:, :, 0] = test[:, :, 0] = np.nan
    test[0, 0, 1:] = train[0, 0, 1:]
    test[0, 0, 1, 1] = np.nan  # another mask: not the same
    s = Selection(mask="nan", frames=2, patch=(2, 2), crop_boundary="neumann", coarsen=2)
    splits = {"train": FieldSet([source_of("a", train)], s), "test": FieldSet([source_of("b", test)], s)}
    assert duplicates(splits) == [pair(("train", "a", 0, 2), ("test", "b", 1, 3))]
    part = Selection(crop={"x": (3, 5)}, crop_boundary={"x": "dirichlet"})
    splits = {"train": FieldSet([source_of("a", train)], part), "test": FieldSet([source_of("b", test)], part)}
    assert [d.second.frame for d in duplicates(splits)] == [0, 3]


def test_every_so_many_frames_of_a_huge_set() -> None:
    train = fields_of(0)
    splits = {"train": FieldSet([source_of("a", train)]), "test": FieldSet([source_of("b", train[1:])])}
    found = duplicates(splits, every=4)
    assert [d.second.frame for d in found] == [0, 4, 8] and all(d.first.trajectory == 1 for d in found)
    said = "test (b, trajectory 0, frames 0 to 8): the same as train (a, trajectory 1, frames 0 to 8)."
    assert describe(found) == [said]


def test_only_like_is_compared() -> None:
    other = FieldSet([source_of("b", np.zeros((1, 2, 3, 3)))])
    with pytest.raises(ValueError, match=r"part 'test' has u on .3, 3. cells, and 'train' has u on .5, 4."):
        duplicates({"train": FieldSet([source_of("a", fields_of(0))]), "test": other})


def write(file: Path, t: np.ndarray) -> None:
    coords = {"time": np.arange(t.shape[1]) * 1.0, "x": np.arange(5) + 0.5, "y": np.arange(4) + 0.5}
    xr.Dataset({"t": (("trajectory", "time", "x", "y"), t)}, coords=coords).to_netcdf(file, engine="h5netcdf")


def test_the_command_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    t = fields_of(0, 10, 4)
    t[7] = t[2]
    t[4, 1] = t[4, 3]
    write(tmp_path / "t.nc", t)
    assert cli.run(["data", "duplicates", str(tmp_path / "t.nc"), "--boundary", "periodic"]) == 0
    out = capsys.readouterr().out
    assert (
        "t.nc, trajectory 4, frame 3): the same as data" in out and "trajectory 7, frames 0 to 3): the same as" in out
    )
    assert "5 frames are copies of others; data: 40 frames" in out
    shares = "{train: 0.6, valid: 0.2, test: 0.2}"
    assert cli.run(["data", "duplicates", str(tmp_path / "t.nc"), "--boundary", "neumann", "--splits", shares]) == 0
    parts = open_splits(tmp_path / "t.nc", boundary="neumann", split={"train": 0.6, "valid": 0.2, "test": 0.2})
    part_of = {int(run): name for name, fields in parts.items() for run in fields.taken[0]}  # type: ignore[union-attr]
    crossing = 4 * (part_of[2] != part_of[7])
    assert f"5 frames are copies of others, {crossing} of them in another split; train valid test" in (
        capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="every must be at least 1 and rounding at least 0; got 0"):
        cli.run(["data", "duplicates", str(tmp_path / "t.nc"), "--boundary", "neumann", "--every", "0"])


def test_training_is_told_of_copies_in_two_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all frames where they are few, by frames spread over the runs where they are many, never at any cost."""
    for split, seed in (("train", 0), ("valid", 1), ("test", 2)):
        (tmp_path / "data" / split).mkdir(parents=True)
        t = fields_of(seed, 3, 8)
        if split != "train":
            t[1, 2:7] = fields_of(0, 3, 8)[0, 2:7]
        write(tmp_path / "data" / split / "t.nc", t)
    data = DataSettings(str(tmp_path), boundary="periodic")
    train, valid = opened(data)
    splits = {"train": train, "valid": valid}
    remarks = of_duplicates(data, splits)
    assert len(remarks) == 2 and "valid (" in remarks[0] and "test (" in remarks[1]
    assert "t.nc, trajectory 1, frames 2 to 6): the same as train (" in remarks[0]
    assert remarks[0].endswith("t.nc, trajectory 0, frames 2 to 6)")
    frame = 5 * 4 * 8  # bytes
    monkeypatch.setattr("physdiff.training.remarks.COMPARED", 27 * frame)  # 72 frames of 9 runs: each fourth
    assert "trajectory 1, frame 4): the same as" in of_duplicates(data, splits)[0]
    monkeypatch.setattr("physdiff.training.remarks.COMPARED", 9 * frame)
    assert of_duplicates(data, splits) == []
