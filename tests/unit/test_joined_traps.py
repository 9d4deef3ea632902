"""Files of one run and stacked datasets that do not fit each other: a missing file, an odd order, a lacking frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from physdiff.data.fieldset import FieldSet
from physdiff.data.formats import open_source
from physdiff.data.joined import open_runs
from physdiff.data.layout import Layout
from physdiff.data.selection import Selection

BOX: dict[str, Any] = {"dims": ["y", "x"], "extent": 1.0, "boundary": "periodic"}


def write_numbered(folder: Path, *numbers: float | str) -> list[Path]:
    """A file for each number, which its cells hold."""
    for number in numbers:
        np.save(folder / f"u_{number}.npy", np.full((3, 4), float(number)))
    return sorted(folder.glob("*.npy"))


@pytest.mark.parametrize("numbers", [("0.25", "0.5", "0.75", "1.0", "1.25"), ("8", "9", "10", "11"), (0, 100, 200)])
def test_files_are_in_the_order_of_their_last_number(tmp_path: Path, numbers: tuple[float | str, ...]) -> None:
    (source,) = open_runs(write_numbered(tmp_path, *numbers), Layout(time=0.25, join="number", **BOX))
    found = source.variables[0].view.read(("time", "y", "x"))[:, 0, 0]
    np.testing.assert_array_equal(found, [float(n) for n in numbers])


def test_files_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    files = write_numbered(tmp_path, 8, 9, 10, 11)
    (source,) = open_runs(files, Layout(time=0.25, join="folder", **BOX))
    np.testing.assert_array_equal(source.variables[0].view.read(("time", "y", "x"))[:, 0, 0], [8, 9, 10, 11])


def test_an_order_that_could_be_two_is_refused(tmp_path: Path) -> None:
    files = write_numbered(tmp_path, "0.25", "0.5", "0.75")
    with pytest.raises(ValueError, match=r"u_0.5.npy or .*u_0.25.npy is first: .*as many decimals"):
        open_runs(files, Layout(time=0.25, join="folder", **BOX))
    with pytest.raises(ValueError, match=r"u_1.1.npy and .*u_1.10.npy have the same number"):
        open_runs([tmp_path / f"u_1.{i}.npy" for i in (1, 2, 10)], Layout(time=0.25, join="number", **BOX))


def test_a_missing_file_is_told_where_files_do_not_tell_their_times(tmp_path: Path) -> None:
    files = write_numbered(tmp_path, 0, 1, 2, 4, 5)
    with pytest.raises(ValueError, match=r"u_4.npy follows .*u_2.npy, .* one may be missing.*join= folder"):
        open_runs(files, Layout(time=0.1, join="number", **BOX))
    assert open_runs(files, Layout(time=0.1, join="folder", **BOX))[0].frames == 5


def test_files_that_tell_their_times_may_be_numbered_in_any_way(tmp_path: Path) -> None:
    for i, n in enumerate((3, 7, 8, 20)):
        with h5py.File(tmp_path / f"a_{n}.h5", "w") as file:
            file["u"], file.attrs["t"] = np.zeros((3, 4)), 0.5 * i
    layout = Layout(fields={"u": "u"}, time="/@t", join="number", **BOX)
    assert open_runs(sorted(tmp_path.glob("*.h5")), layout)[0].times.tolist() == [[0, 0.5, 1, 1.5]]


def test_nothing_to_join_is_refused(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"u_{i}_coarse7.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"no two of 3 files.* differ in their last number alone"):
        open_runs(sorted(tmp_path.glob("*.npy")), Layout(time=0.1, join="number", **BOX))


def test_numbers_with_time_first(tmp_path: Path) -> None:
    f = np.arange(24.0).reshape(8, 3)
    for k in range(2):
        with h5py.File(tmp_path / f"a_{k}.h5", "w") as file:
            file["u"], file["f"], file["t"] = np.zeros((3, 4, 5, 6)), f[4 * k : 4 * k + 4], np.arange(4.0) + 4 * k
    layout = Layout(
        fields={"u": "u"}, dims=["trajectory", "time", "y", "x"], extent=1.0, boundary="periodic", time="t",
        scalars={"f": {"path": "f", "dims": ["time", "trajectory"]}}, join="number",
    )  # fmt: skip
    (source,) = open_runs(sorted(tmp_path.glob("*.h5")), layout)
    assert source.scalar_dims["f"] == ("trajectory", "time")
    np.testing.assert_array_equal(source.scalars["f"], f.T)


def test_a_mask_of_each_frame(tmp_path: Path) -> None:
    seen = np.random.default_rng(0).random((4, 5, 6)) > 0.3
    for k in range(4):
        with h5py.File(tmp_path / f"a_{k}.h5", "w") as file:
            file["u"], file["m"] = np.full((5, 6), k + 1.0), seen[k].astype("i1")
    layout = Layout(fields={"u": "u", "m": "m"}, mask="m", time=0.1, join="number", **BOX)
    fields = FieldSet.open(sorted(tmp_path.glob("*.h5")), Selection(frames=2, mask="file"), layout)
    found = fields.read(range(3))
    np.testing.assert_array_equal(found.observed, np.stack([seen[i : i + 2] for i in range(3)]))


def write_groups(path: Path, *names: str) -> None:
    with h5py.File(path, "w") as file:
        for i, name in enumerate(names):
            file[name] = np.full((3, 4), float(i))


REST: dict[str, Any] = {"extent": 1.0, "boundary": "periodic", "time": 0.1}


@pytest.mark.parametrize("dims", [["time", "y", "x"], ["trajectory", "time", "y", "x"]])
@pytest.mark.parametrize("names, path", [
    (("run1/step0/u", "run1/step1/u", "run2/step0/u", "run2/step1/u", "run2/step2/u"), "/run*/step*/u"),
    (("run1_step0", "run1_step1", "run2_step0", "run2_step1", "run2_step2"), "/run*_step*"),
    (("a/run1/step0", "a/run1/step1", "a/run2/step0", "b/run1/step0"), "/*/run*/step*"),
])  # fmt: skip
def test_runs_of_unequal_length_are_no_single_run(
    tmp_path: Path, names: tuple[str, ...], path: str, dims: list[str]
) -> None:
    write_groups(tmp_path / "a.h5", *names)
    with pytest.raises(ValueError, match=r"stacks .* in rows of different length"):
        open_source(tmp_path / "a.h5", Layout(fields={"u": path}, dims=dims, **REST))


@pytest.mark.parametrize("names, path, runs", [
    (("run1_step0", "run1_step1", "run2_step0", "run2_step1"), "/run*_step*", 2),
    (("a/run1/step0", "a/run2/step0", "b/run1/step0", "b/run2/step0"), "/*/run*/step*", 4),
    (("frame_1_0.1", "frame_2_0.4", "frame_3_0.9"), "/frame_*_*", 1),
])  # fmt: skip
def test_rows_of_equal_length_are_runs(tmp_path: Path, names: tuple[str, ...], path: str, runs: int) -> None:
    write_groups(tmp_path / "a.h5", *names)
    source = open_source(tmp_path / "a.h5", Layout(fields={"u": path}, dims=["time", "y", "x"], **REST))
    assert source.trajectories == runs
    view = source.variables[0].view
    found = view.read([dim for dim in ("trajectory", "time", "y", "x") if dim in view.sizes])
    np.testing.assert_array_equal(found[..., 0, 0].ravel(), np.arange(len(names)))


def test_steps_before_runs_are_refused(tmp_path: Path) -> None:
    write_groups(tmp_path / "a.h5", "step0/run1/u", "step0/run2/u", "step1/run1/u", "step1/run2/u")
    with pytest.raises(ValueError, match=r"'/step\*/run\*/u'.* the first \* .*runs"):
        open_source(tmp_path / "a.h5", Layout(fields={"u": "/step*/run*/u"}, dims=["time", "y", "x"], **REST))


@pytest.mark.parametrize("lacking", ["v", "t", "nu"])
def test_what_is_stacked_is_of_the_same_frames(tmp_path: Path, lacking: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(6):
            names = {"u", "v", "t", "nu"} - {"u" if i == 3 else lacking if i == 5 else ""}
            for name in names:
                file[f"frames/{i}/{name}"] = np.full((3, 4), i) if name in "uv" else 0.5 * i
    layout = Layout(
        fields={name: f"/frames/*/{name}" for name in ("u", lacking if lacking == "v" else "u")},
        dims=["time", "y", "x"], extent=1.0, boundary="periodic", time="/frames/*/t" if lacking == "t" else 0.1,
        scalars={"nu": "/frames/*/nu"} if lacking == "nu" else None,
    )  # fmt: skip
    said = rf"a match where \* is '5' and '/frames/\*/{lacking}' has none"
    with pytest.raises(ValueError, match=said):
        open_source(tmp_path / "a.h5", layout)


def test_stacks_may_be_named_in_their_own_ways(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(3):
            file[f"u/u{i:03d}"], file[f"T/temp_{i}"], file[f"t/{i}"] = np.full((3, 4), i), np.full((3, 4), -i), 0.5 * i
    layout = Layout(
        fields={"u": "/u/*", "T": "/T/temp_*"}, dims=["time", "y", "x"], extent=1.0, boundary="periodic", time="/t/*"
    )  # fmt: skip
    source = open_source(tmp_path / "a.h5", layout)
    assert source.times.tolist() == [[0, 0.5, 1.0]]
    np.testing.assert_array_equal(source.variables[1].view.read(("time", "y", "x"))[:, 0, 0], [0, -1, -2])


def test_a_run_of_one_step_has_the_fields_of_the_others(tmp_path: Path) -> None:
    for run, steps in ((0, 1), (1, 3)):
        (tmp_path / f"run{run}").mkdir()
        for i in range(steps):
            with h5py.File(tmp_path / f"run{run}" / f"s_{i}.h5", "w") as file:
                file["u"], file["land"], file.attrs["t"] = np.full((3, 4), 10.0 * run + i), np.ones((3, 4)), float(i)
    layout = Layout(fields={"u": "u", "land": "land"}, static=["land"], time="/@t", join="number", **BOX)
    fields = FieldSet.open(sorted(tmp_path.glob("*/*.h5")), layout=layout)
    assert fields.names == ("u",)
    np.testing.assert_array_equal(fields.read(range(4)).values[:, 0, 0, 0], [0, 10, 11, 12])
