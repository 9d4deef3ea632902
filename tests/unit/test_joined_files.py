"""One run in several files, and one dataset a frame: read as numpy would put the pieces together."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from physdiff.commands.data_stats import stats
from physdiff.data import open_splits
from physdiff.data.data_identity import identity_of
from physdiff.data.fieldset import FieldSet
from physdiff.data.file_order import runs_of
from physdiff.data.formats import open_source
from physdiff.data.handles import close_all
from physdiff.data.inspect import inspect
from physdiff.data.joined import open_runs
from physdiff.data.joined_array import JoinedArray
from physdiff.data.layout import Layout
from physdiff.data.repack import repack
from physdiff.data.selection import Selection
from physdiff.data.stored import MemoryArray

RNG = np.random.default_rng(5)
RUNS, STEPS = 3, 11  # eleven, so that the order of names and that of numbers differ
U = RNG.standard_normal((RUNS, STEPS, 4, 6))
SPEED = RNG.standard_normal((RUNS, STEPS, 4, 6))
LAND = RNG.standard_normal((4, 6))
BOX: dict[str, Any] = {"dims": ["x", "y"], "extent": [1.0, 1.5], "boundary": "periodic"}
ONE_STEP = BOX | {
    "fields": {"u": "u", "speed": "speed", "land": "land"}, "static": ["land"], "time": "/@time",
    "scalars": {"nu": "/@nu", "energy": "/@energy"}, "join": "number",
}  # fmt: skip


def write_steps(folder: Path, **changed: Any) -> None:
    """A folder for each run, a file for each step: step_1.h5, ..., step_11.h5."""
    for run in range(RUNS):
        (folder / f"run{run}").mkdir(parents=True)
        for i in range(STEPS):
            with h5py.File(folder / f"run{run}" / f"step_{i + 1}.h5", "w") as file:
                file["u"], file["speed"], file["land"] = U[run, i], SPEED[run, i], LAND
                file.attrs.update({"time": 0.5 * i, "nu": 0.1 * run, "energy": 2.0 * i + run} | changed)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.h5"))


def test_a_file_a_step_is_one_run_a_folder(tmp_path: Path) -> None:
    write_steps(tmp_path)
    fields = FieldSet.open(files(tmp_path), Selection(frames=2, condition=("land", "energy")), Layout(**ONE_STEP))
    assert [(s.trajectories, s.frames) for s in fields.sources] == [(1, STEPS)] * RUNS
    np.testing.assert_array_equal(fields.sources[1].times, [0.5 * np.arange(STEPS)])
    assert fields.sources[1].scalar_dims == {"nu": (), "energy": ("time",)}
    np.testing.assert_array_equal(fields.sources[2].scalars["energy"], 2.0 * np.arange(STEPS) + 2)
    assert fields.names == ("u@0", "u@1", "speed@0", "speed@1")
    samples = fields.read(np.arange(len(fields)))
    windows = [(run, i) for run in range(RUNS) for i in range(STEPS - 1)]
    expected = np.stack([np.stack([U[r, i], U[r, i + 1], SPEED[r, i], SPEED[r, i + 1]]) for r, i in windows])
    np.testing.assert_array_equal(samples.values, expected)
    assert samples.given is not None
    np.testing.assert_array_equal(samples.given[:, 0], np.broadcast_to(LAND, (len(windows), 4, 6)))


def test_a_run_is_in_one_part_as_a_whole(tmp_path: Path) -> None:
    write_steps(tmp_path)
    parts = open_splits(
        f"{tmp_path}/*/*.h5", layout=ONE_STEP, split={"train": 0.34, "valid": 0.33, "test": 0.33}
    )  # fmt: skip
    assert [len(part) for part in parts.values()] == [STEPS] * RUNS
    held = [part.read(np.arange(STEPS)).values[:, 0] for part in parts.values()]
    found = [[run for run in range(RUNS) if np.array_equal(values, U[run])] for values in held]
    assert sorted(found) == [[run] for run in range(RUNS)]


@pytest.mark.parametrize("key", [
    (3, slice(None)), (slice(2, 9), 1), (slice(0, 11, 3), slice(None)), (slice(5, 5), slice(0, 2)),
    (10, 2), (slice(4, 11, 4), slice(1, 3)),
])  # fmt: skip
@pytest.mark.parametrize("axis", [0, 1])
def test_every_part_of_a_joined_array(key: tuple[int | slice, ...], axis: int) -> None:
    parts = [RNG.standard_normal((n, 5) if axis == 0 else (5, n)) for n in (4, 1, 6, 3)]
    counts = (3, 1, 6, 1)  # the first and the last are cut short
    whole = np.concatenate([p.take(range(n), axis) for p, n in zip(parts, counts, strict=True)], axis)
    array = JoinedArray(tuple(MemoryArray(p) for p in parts), axis, counts)
    at = key if axis == 0 else key[::-1]
    assert array.shape == whole.shape
    np.testing.assert_array_equal(array.read(at), whole[at])


def write_sets(folder: Path, *spans: tuple[int, int], names: tuple[str, ...] = ("a_1", "a_2", "a_10")) -> Layout:
    for name, (start, stop) in zip(names, spans, strict=False):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["u"], file["t"] = U[0, start:stop] + 100 * int(name[2:]), np.arange(start, stop) * 0.25
    return Layout(
        fields={"u": "u"}, dims=["time", "x", "y"], extent=1.0, boundary="periodic", time="t", join="number"
    )  # fmt: skip


def test_sets_of_frames_and_a_run_taken_up_again(tmp_path: Path) -> None:
    layout = write_sets(tmp_path, (0, 4), (4, 8), (6, 11))
    (source,) = open_runs(sorted(tmp_path.glob("*.h5")), layout)
    assert source.path.endswith("a_1.h5") and [Path(p).stem for p in source.paths] == ["a_1", "a_2", "a_10"]
    np.testing.assert_array_equal(source.times, [np.arange(11) * 0.25])
    # Frames 6 and 7 are those of the later file.
    expected = U[0] + 100 * np.repeat([1, 2, 10], [4, 2, 5])[:, None, None]
    np.testing.assert_array_equal(source.variables[0].view.read(("time", "x", "y")), expected)
    assert source.attrs["joined"] == "3 files; 2 frames left out that a later file begins before"
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).times, source.times)


def test_times_between_frames_run_on(tmp_path: Path) -> None:
    layout = write_sets(tmp_path, (0, 4), (4, 8), (8, 11), names=("a_8", "a_9", "a_10"))
    (source,) = open_runs(sorted(tmp_path.glob("*.h5")), Layout.of(layout, time=0.1))
    np.testing.assert_allclose(source.times, [np.arange(11) * 0.1], rtol=1e-15)


@pytest.mark.parametrize("join, runs", [(None, 4), ("never", 4), ("folder", 1), ("number", 2)])
def test_which_files_are_of_one_run(tmp_path: Path, join: str | None, runs: int) -> None:
    names = ("a_t00.500.h5", "a_t10.000.h5", "b_t0.h5", "b_t1.h5")
    for name in names:
        with h5py.File(tmp_path / name, "w") as file:
            file["u"] = LAND
    found = runs_of([tmp_path / name for name in names], Layout(join=join, fields={"u": "u"}))
    assert len(found) == runs and [file for run in found for file in run] == [tmp_path / name for name in names]


def test_what_does_not_go_on_from_each_other_is_refused(tmp_path: Path) -> None:
    layout = write_sets(tmp_path, (0, 4), (0, 4))
    with pytest.raises(ValueError, match=r"a_2.h5 begins at the time 0 and .*a_1.h5 at 0; files that are joined"):
        open_runs(sorted(tmp_path.glob("*.h5")), layout)
    with pytest.raises(ValueError, match=r"join= \(--data.layout.join\) is 'numbers'. Did you mean 'number'"):
        open_runs(sorted(tmp_path.glob("*.h5")), Layout.of(layout, join="numbers"))
    write_steps(tmp_path / "steps")
    with h5py.File(tmp_path / "steps" / "run1" / "step_7.h5", "r+") as file:
        file["land"][...] = LAND + 1  # pyright: ignore[reportIndexIssue]
    with pytest.raises(ValueError, match=r"'land' does not change in time within .*step_1.h5, and is another in .*p_7"):
        open_runs(files(tmp_path / "steps"), Layout(**ONE_STEP))


def test_a_changed_file_in_the_middle_is_other_data(tmp_path: Path) -> None:
    write_steps(tmp_path)
    before = identity_of(FieldSet.open(files(tmp_path), layout=Layout(**ONE_STEP)))
    close_all()
    with h5py.File(tmp_path / "run1" / "step_6.h5", "r+") as file:
        file["u"][...] = LAND  # pyright: ignore[reportIndexIssue]
    assert identity_of(FieldSet.open(files(tmp_path), layout=Layout(**ONE_STEP))) != before


def test_inspect_tells_runs_and_asks_whether_files_are_one(tmp_path: Path) -> None:
    write_steps(tmp_path)
    said = inspect(f"{tmp_path}/*/*.h5", Layout(**ONE_STEP))
    assert "run0/step_1.h5 and 10 more, one run in all" in said and "frames: 11, time: 0 to 5, 0.5 apart" in said
    assert "join" not in said.replace("attribute joined = 11 files", "")
    alone = inspect(tmp_path / "run0", Layout(**{**ONE_STEP, "join": None}))
    assert "if they are one run, say so with join= (--data.layout.join): number, or folder" in alone


@pytest.mark.parametrize("path, dims", [("/frames/*", ["time", "x", "y"]), ("/frames/*", ["time", "y", "x"])])
def test_a_dataset_a_frame(tmp_path: Path, path: str, dims: list[str]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(STEPS):
            file[f"frames/{i + 1}"] = U[0, i]
            file[f"frames/{i + 1}"].attrs["t"] = 0.5 * i
    layout = Layout(fields={"u": path}, dims=dims, extent=1.0, boundary="periodic", time="/frames/*@t")
    source = open_source(tmp_path / "a.h5", layout)
    assert (source.trajectories, source.frames) == (1, STEPS)
    np.testing.assert_array_equal(source.times, [0.5 * np.arange(STEPS)])
    np.testing.assert_array_equal(source.variables[0].view.read(("time", *dims[1:])), U[0])


def test_a_group_a_run_with_a_group_a_step(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for run in range(RUNS):
            for i in range(STEPS):
                group = file.create_group(f"run{run}/step{i + 1}")
                group["u"], group["w"] = U[run, i], np.stack([U[run, i], SPEED[run, i]])
                group.attrs["t"] = 0.5 * i + run
    rest: dict[str, Any] = {"extent": 1.0, "boundary": "periodic", "time": "/run*/step*@t"}
    for dims in (["time", "x", "y"], ["trajectory", "time", "x", "y"]):
        source = open_source(tmp_path / "a.h5", Layout(fields={"u": "/run*/step*/u"}, dims=dims, **rest))
        np.testing.assert_array_equal(source.variables[0].view.read(("trajectory", "time", "x", "y")), U)
        np.testing.assert_array_equal(source.times, 0.5 * np.arange(STEPS) + np.arange(RUNS)[:, None])
    with pytest.raises(ValueError, match="could name all its axes, or those of one dataset without 'component'"):
        open_source(
            tmp_path / "a.h5", Layout(fields={"w": "/run*/step*/w"}, dims=["time", "component", "x", "y"], **rest)
        )
    own = {"w": {"path": "/run*/step*/w", "dims": ["time", "component", "x", "y"]}}
    source = open_source(tmp_path / "a.h5", Layout(fields=own, **rest))
    np.testing.assert_array_equal(source.variables[1].view.read(("trajectory", "time", "x", "y")), SPEED)


def test_statistics_of_a_folder_without_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = write_sets(tmp_path, (0, 4), (4, 8), (8, 11))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({k: v for k, v in vars(layout).items() if v is not None}))
    stats(str(tmp_path), layout=str(tmp_path / "own.yaml"))
    assert "11 samples" in capsys.readouterr().out


def test_repacking_makes_one_file_of_a_run(tmp_path: Path) -> None:
    write_steps(tmp_path / "steps")
    (tmp_path / "steps" / "readme.txt").write_text("what this is")
    done = repack(tmp_path / "steps", tmp_path / "new", layout=Layout(**ONE_STEP), progress=False)
    assert [one.path for one in done] == [tmp_path / "new" / f"run{run}" / "step_1.hdf5" for run in range(RUNS)]
    assert (tmp_path / "new" / "readme.txt").is_file() and not list(tmp_path.glob("new/run0/step_2*"))
    for run in range(RUNS):
        source = open_source(done[run].path)
        by_name = {v.name: v.view for v in source.variables}
        np.testing.assert_array_equal(by_name["u"].read(("time", "x", "y")), U[run])
        np.testing.assert_array_equal(by_name["land"].read(("x", "y")), LAND)
        np.testing.assert_array_equal(np.ravel(source.scalars["energy"]), 2.0 * np.arange(STEPS) + run)
        np.testing.assert_array_equal(source.times, [0.5 * np.arange(STEPS)])
