"""Training, validation and test parts: as files have them, or whole trajectories by a draw."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physdiff.data import formats
from physdiff.data.fields import load, load_fields, open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.formats.the_well_writer import write_the_well
from physdiff.data.layout import Layout
from physdiff.data.selection import Selection
from physdiff.data.source import Source, Variable
from physdiff.data.splits import Split, files_of, open_splits, split_runs
from physdiff.data.stored import MemoryArray
from physdiff.data.view import View
from physdiff.grid import Grid

GRID = Grid((3, 4))


def write(path: Path, runs: int = 10, frames: int = 4, first: int = 0) -> Path:
    """A file whose values say run and frame: 100 run + frame."""
    runs_and_frames = 100.0 * (first + np.arange(runs))[:, np.newaxis] + np.arange(frames)
    values = np.broadcast_to(runs_and_frames[..., np.newaxis, np.newaxis], (runs, frames, 3, 4))
    return write_the_well(path, {"u": values.astype(np.float32)}, GRID)


def runs_in(fields: FieldSet) -> list[int]:
    return sorted(set((load(fields).values[:, 0, 0, 0] // 100).astype(int).tolist()))


def test_parts_are_whole_trajectories_and_cover_all(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    parts = open_splits(path, split=Split(0.6, 0.2, 0.2, seed=3), selection=Selection(frames=2))
    assert list(parts) == ["train", "valid", "test"] and [p.runs for p in parts.values()] == [6, 2, 2]
    assert [len(p) for p in parts.values()] == [18, 6, 6]
    runs = [runs_in(p) for p in parts.values()]
    assert sorted(itertools.chain(*runs)) == list(range(10))
    for part, own in zip(parts.values(), runs, strict=True):
        data = load(part)
        # The numbers of trajectories are those of the file, so that parts have none in common.
        assert sorted(set(data.trajectory.tolist())) == own
        np.testing.assert_array_equal(data.values[:, 0, 0, 0], 100 * data.trajectory + data.time)
    assert runs_in(pickle.loads(pickle.dumps(parts["test"]))) == runs[2]


def test_the_same_seed_gives_the_same_parts_and_another_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", runs=30)
    drawn = [runs_in(open_splits(path, split={"seed": seed})["test"]) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert runs_in(open_fields(path, split="test", splits=Split())) == drawn[0]
    assert load_fields(path, split="valid", splits=Split()).values.shape == (3 * 4, 1, 3, 4)


def test_every_run_is_as_likely_in_every_part() -> None:
    view = View(MemoryArray(np.zeros((10, 1, 3))), ("trajectory", "time", "x"))
    source = Source("m", "m", Grid((3,)), (Variable("u", view),), 10, np.zeros((10, 1)))
    n, count = 400, np.zeros(10)
    for seed in range(n):
        count[split_runs([source], Split(0.5, 0.2, 0.3, seed))["test"][0]] += 1
    # Each count is binomial; the largest of ten stays within four standard errors but once in 1500.
    assert np.abs(count - 0.3 * n).max() < 4 * np.sqrt(n * 0.3 * 0.7)


@pytest.mark.parametrize(
    ("n", "shares", "expected"),
    [
        (3, (0.8, 0.1, 0.1), (1, 1, 1)),
        (4, (0.8, 0.1, 0.1), (2, 1, 1)),
        (10, (0.8, 0.1, 0.1), (8, 1, 1)),
        (11, (0.5, 0.25, 0.25), (5, 3, 3)),
        (7, (0.9, 0.1, 0.0), (6, 1)),
        (1, (1.0, 0.0, 0.0), (1,)),
        (1000, (0.333, 0.333, 0.334), (333, 333, 334)),
        (5, (0.02, 0.49, 0.49), (1, 2, 2)),
    ],
)
def test_counts_follow_the_shares_with_at_least_one_each(n: int, shares: tuple, expected: tuple) -> None:
    assert tuple(Split(*shares).counts(n, "set").values()) == expected


def test_snapshots_of_one_run_stay_together() -> None:
    labels = np.repeat(np.arange(8), 5)[np.random.default_rng(0).permutation(40)]
    view = View(MemoryArray(np.zeros((40, 1, 3))), ("trajectory", "time", "x"))
    source = Source("m", "m", Grid((3,)), (Variable("u", view),), 40, np.zeros((40, 1)), labels=labels)
    parts = split_runs([source, source], Split(0.5, 0.25, 0.25))
    for file in range(2):
        in_part = [set(labels[taken[file]].tolist()) for taken in parts.values()]
        assert set.union(*in_part) == set(range(8)) and sum(map(len, in_part)) == 8
        assert sum(len(taken[file]) for taken in parts.values()) == 40


def test_too_few_runs_are_told_with_the_reason(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.hdf5", runs=1, frames=500), write(tmp_path / "two.hdf5", runs=2)
    with pytest.raises(ValueError, match=r"one\.hdf5 has 1 trajectory for 3 parts .*frames of one .* are alike"):
        open_splits(one, split=Split())
    with pytest.raises(ValueError, match=r"two\.hdf5 has 2 trajectories for 3 parts .*set the share of a part to 0"):
        open_splits(two, split=Split())
    assert list(open_splits(two, split=Split(0.5, 0.5, 0.0))) == ["train", "valid"]
    assert [p.runs for p in open_splits([one, two], split=Split()).values()] == [1, 1, 1]
    with pytest.raises(ValueError, match=r"is not divided into train, valid, test; say how .* data.splits"):
        open_splits(two)


def test_several_files_folders_and_patterns_are_divided(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"run_{i}.hdf5", runs=4, first=4 * i)
    (tmp_path / "README.md").write_text("a card")
    for path in (tmp_path, str(tmp_path / "run_*.hdf5"), sorted(tmp_path.glob("*.hdf5"))):
        parts = open_splits(path, split=Split(0.5, 0.25, 0.25))
        runs = [runs_in(p) for p in parts.values()]
        assert sorted(itertools.chain(*runs)) == list(range(12)) and [len(r) for r in runs] == [6, 3, 3]
        assert len(load_fields(path)) == 12 * 4


def test_files_by_part(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.hdf5"), write(tmp_path / "b.hdf5", runs=2, first=10)
    write(tmp_path / "c1.h5", runs=1, first=20), write(tmp_path / "c2.h5", runs=1, first=30)
    path = {"test": str(tmp_path / "c*.h5"), "train": [a], "valid": b}
    parts = open_splits(path)
    assert list(parts) == ["train", "valid", "test"]
    assert [runs_in(p) for p in parts.values()] == [list(range(10)), [10, 11], [20, 30]]
    assert len(open_fields(path, split="test")) == 8
    with pytest.raises(ValueError, match="has no split 'valid'; it has train"):
        open_fields({"train": a}, split="valid")
    with pytest.raises(ValueError, match=r"data\.path names the part 'validation'\. Did you mean 'valid'"):
        open_splits({"validation": a})
    with pytest.raises(ValueError, match="has its own parts"):
        open_splits({"train": a}, split=Split())
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*x\*\.h5', nor one that fits it as a pattern"):
        open_splits({"train": str(tmp_path / "x*.h5")})
    with pytest.raises(ValueError, match=r"a\.hdf5' is named twice"):
        files_of([a, tmp_path])


def test_one_file_under_two_names_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read twice, its runs would be trained on under one name and tested on under the other."""
    write(tmp_path / "a.h5")
    (tmp_path / "link.h5").symlink_to("a.h5")
    monkeypatch.chdir(tmp_path)
    for other in ("./a.h5", str(tmp_path / "a.h5"), "link.h5", "*.h5"):
        with pytest.raises(ValueError, match=r"is named twice"):
            open_splits(["a.h5", other], split=Split())
    with pytest.raises(ValueError, match=r"'link\.h5' is named twice: 'a\.h5' is the same file"):
        open_splits("*.h5", split=Split())
    for nothing in ("", " ", ["a.h5", ""]):
        with pytest.raises(ValueError, match=r"data\.path is '.*'; expected a file, a folder or a pattern"):
            open_splits(nothing, split=Split())


def test_a_folder_in_the_wells_layout(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "test")):
        write(tmp_path / "data" / split / "a.h5", runs=2, first=10 * i)
    (tmp_path / "data" / "train" / "stats.yaml").write_text("{}")
    parts = open_splits(tmp_path)
    assert {name: runs_in(p) for name, p in parts.items()} == {"train": [0, 1], "test": [10, 11]}
    with pytest.raises(ValueError, match=r"has its own parts \(train, test\); leave data.splits out"):
        open_splits(tmp_path, split=Split())


def test_a_file_that_holds_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.hdf5")
    taken = []

    def open_part(path: Path, layout: Layout) -> Source:
        taken.append(layout.group)
        return formats.THE_WELL.open(path, Layout())

    part = formats.Format("parts", "parts", lambda probe: True, open_part, lambda path: ("train", "valid"))
    monkeypatch.setattr("physdiff.data.formats.FORMATS", {"parts": part})
    assert list(open_splits(tmp_path / "a.hdf5")) == ["train", "valid"] and taken == ["train", "valid"]
    open_fields(tmp_path / "a.hdf5", split="valid")
    assert taken[-1] == "valid"
    with pytest.raises(ValueError, match="is divided into train, valid; say which with split"):
        open_fields(tmp_path / "a.hdf5")
    # Who names a part in the layout divides that.
    parts = open_splits(tmp_path / "a.hdf5", layout={"group": "train"}, split=Split())
    assert list(parts) == ["train", "valid", "test"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": 0.5}, r"sum to 1; got train = 0.5, valid = 0.1, test = 0.1"),
        ({"train": 1.2, "valid": -0.2, "test": 0.0}, "at least 0"),
        ({"train": 0.0, "valid": 0.5, "test": 0.5}, "of train above 0"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"validation": 0.1}, "a split has no setting 'validation'. Did you mean 'valid'"),
    ],
)
def test_shares_that_are_none(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split.of(settings)


def test_an_xarray_object_is_a_data_set() -> None:
    values = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    held = xr.Dataset(
        {"u": (("trajectory", "time", "x"), values, {"units": "K"})}, {"x": np.arange(4.0), "time": np.arange(3.0)}
    )
    whole = open_fields(held, boundary="periodic")
    assert whole.units == ("K",) and np.array_equal(whole.read(range(15)).values[:, 0], values.reshape(15, 4))
    assert np.array_equal(load_fields(held["u"], boundary="periodic").values[:, 0], values.reshape(15, 4))
    shares = {"train": 0.6, "valid": 0.2, "test": 0.2}
    parts = open_splits(held, boundary="periodic", split=shares)
    assert {name: len(part) for name, part in parts.items()} == {"train": 9, "valid": 3, "test": 3}
    assert len(open_fields(held, split="test", boundary="periodic", splits=shares)) == 3
    with pytest.raises(ValueError, match="this xarray object has no split 'train'; divide it with splits"):
        open_fields(held, split="train", boundary="periodic")
    with pytest.raises(ValueError, match="xarray object is not divided into train, valid, test"):
        open_splits(held, boundary="periodic")
    with pytest.raises(ValueError, match=r"xarray object.*boundary"):
        open_fields(held)
