"""Samples of files, value by value against slices of the arrays that were written."""

from __future__ import annotations

import pickle
import time as clock
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from physdiff.data.fields import load, load_fields, open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile
from physdiff.data.selection import Selection
from physdiff.data.source import Source, Variable
from physdiff.data.stored import MemoryArray
from physdiff.data.view import View
from physdiff.grid import Grid

GRID = Grid((6, 4), (3.0, 2.0), ("periodic", "neumann"), units="m", origin=(1.0, 0.0))
Files = tuple[list[Path], list[dict[str, np.ndarray]]]


def write(path: Path, seed: int, runs: int, frames: int, grid: Grid = GRID) -> dict[str, np.ndarray]:
    """A file with a scalar, a vector, a field per run and one for all; its arrays."""
    rng = np.random.default_rng(seed)
    arrays = {
        "p": rng.standard_normal((runs, frames, *grid.shape)).astype(np.float32),
        "u": rng.standard_normal((runs, frames, *grid.shape, 2)).astype(np.float32),
        "k": rng.standard_normal((runs, *grid.shape)).astype(np.float32),
        "depth": rng.standard_normal(grid.shape).astype(np.float32),
    }
    specs = {
        "p": FieldSpec("Pa"), "u": FieldSpec("m/s", rank=1), "k": FieldSpec(time_varying=False),
        "depth": FieldSpec("m", sample_varying=False, time_varying=False),
    }  # fmt: skip
    numbers = {"nu": rng.standard_normal(runs), "kind": np.arange(runs) % 3, "g": 9.81}
    times = rng.uniform(0, 1, (runs, frames)).cumsum(axis=1)
    with WellFile(path, specs, grid, runs, times, parameters=numbers) as file:
        file.write(0, arrays)
    return {**arrays, "time": times, **{name: np.asarray(value) for name, value in numbers.items()}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / "a.hdf5", folder / "b.hdf5", folder / "c.hdf5"]
    # The second is too short for some windows.
    sizes = zip(paths, (3, 2, 4), (11, 3, 7), strict=True)
    return paths, [write(path, i, runs, frames) for i, (path, runs, frames) in enumerate(sizes)]


def windows_of(arrays: list[dict[str, np.ndarray]], s: Selection) -> list[tuple[int, int, int]]:
    """File, run and first frame of every sample, by loops."""
    found = []
    for number, file in enumerate(arrays):
        runs, frames = file["p"].shape[:2]
        for run in range(runs):
            start = 0
            while start + (s.past + s.frames - 1) * s.time_stride < frames:
                found.append((number, run, start))
                start += s.window_stride
    return found


# frames, past, time_stride, window_stride
WINDOWS = [
    (1, 0, 1, 1), (2, 0, 1, 1), (2, 1, 1, 1), (1, 2, 3, 1), (2, 1, 2, 3), (3, 0, 1, 5), (1, 0, 1, 4), (2, 0, 5, 2),
]  # fmt: skip


@pytest.mark.parametrize(("frames", "past", "stride", "between"), WINDOWS)
@pytest.mark.parametrize("order", ["forward", "shuffled"])
def test_windows_hold_the_frames_that_they_say(
    files: Files, frames: int, past: int, stride: int, between: int, order: str
) -> None:
    paths, arrays = files
    s = Selection(
        ("u", "p"), frames, past, stride, between, condition=("depth", "k", "nu", "g", "time"), classes="kind"
    )
    data = FieldSet.open(paths, s)
    places = windows_of(arrays, s)
    assert len(data) == len(places)
    rows = np.arange(len(data)) if order == "forward" else np.random.default_rng(0).integers(0, len(data), 40)
    found = data.read(rows)
    first = [0, 3, 5]
    for i, row in enumerate(rows):
        file, run, start = places[row]
        here = arrays[file]
        u = np.moveaxis(here["u"][run], -1, 0)
        modelled = [start + (past + j) * stride for j in range(frames)]
        before = [start + j * stride for j in range(past)]
        expected = [u[0, f] for f in modelled] + [u[1, f] for f in modelled] + [here["p"][run, f] for f in modelled]
        np.testing.assert_array_equal(found.values[i], expected)
        given = [u[0, f] for f in before] + [u[1, f] for f in before] + [here["p"][run, f] for f in before]
        assert found.given is not None and found.scalars is not None and found.classes is not None
        np.testing.assert_array_equal(found.given[i], [*given, here["depth"], here["k"][run]])
        t = here["time"][run, modelled[0]]
        np.testing.assert_array_equal(found.scalars[i], [here["nu"][run], here["g"], t])
        assert found.classes[i] == here["kind"][run]
        place = data.place(int(row))
        assert (place.source, place.run, place.start, place.patch) == (file, run, start, 0)
        assert data.trajectory(int(row)) == first[file] + run and data.time(int(row)) == t
    assert found.values.dtype == np.float32 and found.observed is None
    np.testing.assert_array_equal(data.trajectories(rows), [data.trajectory(int(row)) for row in rows])
    np.testing.assert_array_equal(data.times(rows), [data.time(int(row)) for row in rows])


@pytest.mark.parametrize(("frames", "past", "stride"), [(1, 0, 1), (2, 1, 1), (2, 2, 3)])
def test_a_condition_that_changes_is_given_at_the_first_modelled_frame(
    files: Files, frames: int, past: int, stride: int
) -> None:
    paths, arrays = files
    s = Selection(("p",), frames, past, stride, condition=("u_y", "k"))
    data, places = FieldSet.open(paths, s), windows_of(arrays, s)
    for rows in (np.arange(len(data)), np.array([5]), np.array([5, 2, 3])):
        given = data.read(rows).given
        assert given is not None and given.shape[1] == past + 2
        for i, row in enumerate(rows):
            file, run, start = places[row]
            np.testing.assert_array_equal(given[i, past], arrays[file]["u"][run, start + past * stride, ..., 1])
            np.testing.assert_array_equal(given[i, past + 1], arrays[file]["k"][run])


def test_names_units_and_variables(files: Files) -> None:
    data = FieldSet.open(files[0][:1], Selection(("u", "p"), frames=2, past=2, condition=("depth", "nu")))
    assert data.names == ("u_x@0", "u_x@1", "u_y@0", "u_y@1", "p@0", "p@1")
    assert data.units == ("m/s",) * 4 + ("Pa",) * 2 and [v.name for v in data.channels][2:5] == ["u_y", "u_y", "p"]
    assert data.given_names == ("u_x@-2", "u_x@-1", "u_y@-2", "u_y@-1", "p@-2", "p@-1", "depth")
    assert data.given_units[-2:] == ("Pa", "m") and data.scalar_names == ("nu",)
    one = FieldSet.open(files[0][:1], Selection(condition=("k",)))
    # What changes, without what is the condition and without what is the same for all.
    assert one.names == ("p", "u_x", "u_y") and one.given_names == ("k",)


def test_components_of_one_array_come_with_one_read(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    from physdiff.data.stored import HDF5Array

    read, keys = HDF5Array.read, []

    def counted(self: HDF5Array, key: tuple) -> np.ndarray:
        keys.append((self.name, key))
        return read(self, key)

    monkeypatch.setattr(HDF5Array, "read", counted)
    data = FieldSet.open(files[0], Selection(("u_y", "u_x"), frames=2))
    both = data.read([3, 4, 5])
    assert len(keys) == 1 and keys[0][0] == "/t1_fields/u"  # three windows of one run, four frames
    assert keys[0][1][1] == slice(3, 7, 1)
    np.testing.assert_array_equal(both.values[1], np.moveaxis(files[1][0]["u"][0, 4:6], -1, 0)[::-1].reshape(4, 6, 4))
    keys.clear()
    whole = load(data)
    assert len(keys) == 3 + 2 + 4  # one a run
    assert len(whole) == 3 * 10 + 2 * 2 + 4 * 6
    keys.clear()
    data.read([0, 5, 9])
    assert [key[1][1] for key in keys] == [slice(0, 2, 1), slice(5, 7, 1), slice(9, 11, 1)]
    keys.clear()
    # Far apart in time: the frames between are not read, though the windows overlap.
    FieldSet.open(files[0], Selection(("u_y", "u_x"), frames=2, time_stride=8)).read([2, 0])
    assert [key[1][1] for key in keys] == [slice(0, 9, 8), slice(2, 11, 8)]


def test_long_runs_are_read_in_bounded_blocks(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    import physdiff.data.fieldset as module

    monkeypatch.setattr(module, "BLOCK", 3 * 6 * 4 * 4)  # three frames
    data = FieldSet.open(files[0], Selection(("p",), frames=2))
    assert data._most_frames == 3
    np.testing.assert_array_equal(load(data).values[:10, 1], files[1][0]["p"][0, 1:])


FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class Ramp:
    """A stored array of any size whose entry is its flat number modulo 1000: nothing is held."""

    shape: tuple[int, ...]
    dtype: np.dtype = FLOAT
    chunks: tuple[int, ...] | None = None
    label: str = "ramp"

    def read(self, key: tuple) -> np.ndarray:
        index = np.ix_(
            *(np.arange(n)[k] if isinstance(k, slice) else [k] for k, n in zip(key, self.shape, strict=True))
        )
        flat = np.ravel_multi_index(np.broadcast_arrays(*index), self.shape) % 1000
        return flat.astype(np.float32).reshape(
            [d for d, k in zip(flat.shape, key, strict=True) if isinstance(k, slice)]
        )


def ramp(runs: int, frames: int, cells: int, path: str = "ramp", **more) -> Source:
    view = View(Ramp((runs, frames, cells)), ("trajectory", "time", "x"))
    times = np.broadcast_to(np.arange(float(frames)), (runs, frames))
    return Source(path, "ramp", Grid((cells,)), (Variable("u", view),), runs, times, **more)


def test_ten_million_samples_open_in_milliseconds_and_hold_no_table() -> None:
    source = ramp(1000, 10_001, 8)
    begin = clock.perf_counter()
    data = FieldSet([source], Selection(frames=2))
    opened = clock.perf_counter() - begin
    assert len(data) == 10_000_000 and opened < 0.1
    rows = np.array([0, 9_999, 10_000, 9_999_999])
    assert data.trajectories(rows).tolist() == [0, 0, 1, 999] and data.times(rows).tolist() == [0, 9999, 0, 9999]
    begin = clock.perf_counter()
    places = data.places(np.random.default_rng(0).integers(0, len(data), 100_000))
    assert clock.perf_counter() - begin < 0.5 and places.start.max() == 9999
    expected = (999 * 10_001 * 8 + 9999 * 8 + np.arange(16)) % 1000
    np.testing.assert_array_equal(data.read([9_999_999]).values.ravel(), expected)
    assert sum(getattr(x, "nbytes", 0) for x in vars(data._windows).values()) < 1000


@pytest.mark.parametrize("rows", [[-1], [0, 30], [10**15]])
def test_samples_that_are_not_there(files: Files, rows: list[int]) -> None:
    data = FieldSet([ramp(3, 10, 4)])
    with pytest.raises(IndexError, match=rf"there is no sample {rows[-1]}; their numbers are 0 to 29"):
        data.read(rows)


def test_no_sample_needs_a_long_enough_run(files: Files) -> None:
    with pytest.raises(
        ValueError, match=r"trajectories of 11 frames; a sample spans 13 \(2 past and 2 frames, time_st"
    ):
        FieldSet.open(files[0], Selection(frames=2, past=2, time_stride=4))
    assert len(FieldSet.open(files[0], Selection(frames=10))) == 3 * 2


def test_labels_say_which_snapshots_belong_together() -> None:
    first = ramp(4, 1, 4, labels=np.array([5, 5, 0, 2]))
    second = ramp(3, 1, 4, "more", labels=np.array([-7, 3, -7]))
    data = FieldSet([first, second, ramp(2, 1, 4, "last")])
    assert data.trajectories(np.arange(9)).tolist() == [5, 5, 0, 2, 6, 7, 6, 8, 9]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fields": ("pp",)}, r"has no field 'pp'; it has .*Did you mean 'p'\?"),
        ({"fields": ("u", "u_x")}, "field 'u_x' was asked for twice"),
        ({"condition": ("dept",)}, r"no field or number 'dept' .* the numbers .*time\. Did you mean 'depth'"),
        ({"condition": ("kin",)}, r"no field or number 'kin' .*Did you mean 'kind'"),
        ({"condition": ("nu", "nu")}, "names 'nu' twice"),
        ({"fields": ("p",), "condition": ("p",)}, "'p' is a field of the samples and part of data.condition"),
        ({"classes": "nu"}, r"number 'nu' is [-.\d]+; data.classes needs whole numbers, at least 0"),
        ({"classes": "kid"}, r"has no number 'kid'; it has .*Did you mean 'kind'\?"),
        ({"classes": "time"}, "data.classes is 'time'"),
        ({"mask": "file"}, "has no mask of its own"),
        ({"mask": "depht"}, r"no field 'depht'.*Did you mean 'depth'"),
        ({"mask": "u"}, "mask 'u' has 2 components"),
    ],
)
def test_names_that_are_not_there(files: Files, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FieldSet.open(files[0], Selection(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 0}, "data.frames must be whole and at least 1; got 0"),
        ({"past": -1}, "data.past must be whole and at least 0"),
        ({"time_stride": 1.5}, "data.time_stride must be whole"),
        ({"coarsen": (2, 0)}, "data.coarsen must be whole and at least 1; got 0"),
        ({"crop": {"x": [3, 3]}}, r"data.crop of 'x' is \[3, 3\]"),
        ({"crop": {"x": [0, 1, 2]}}, "data.crop of 'x'"),
        ({"fields": ()}, "names no field"),
        ({"fields": "p"}, "expected a list"),
        ({"patch_stride": (2,)}, "without data.patch"),
        ({"coarsening": "median"}, "data.coarsening is 'median'"),
        ({"coarsening": "spectral", "mask": "nan"}, "choose data.coarsening mean"),
        ({"crop_boundary": "open"}, "data.crop_boundary has 'open'"),
        ({"crop_boundary": "neumann"}, "without data.crop and data.patch; the boundary of a whole axis is data.bound"),
    ],
)
def test_settings_that_make_no_sample(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(**settings)


def test_files_must_agree(files: Files, tmp_path: Path) -> None:
    write(tmp_path / "d.hdf5", 0, 1, 3, replace(GRID, origin=(0.0, 0.0)))
    with pytest.raises(ValueError, match=r"files disagree: .*d\.hdf5 has origin \(0\.0, 0\.0\), .*a\.hdf5 has \(1\.0"):
        FieldSet.open([files[0][0], tmp_path / "d.hdf5"])


def test_it_travels_between_processes_without_its_files(files: Files) -> None:
    s = Selection(("p", "u"), frames=2, past=1, condition=("depth", "nu"), classes="kind", crop={"y": (1, 3)})
    data = FieldSet.open(files[0], s)
    here = data.read([1, 20, 3])
    again = pickle.loads(pickle.dumps(data)).read([1, 20, 3])
    for name in ("values", "given", "scalars", "classes"):
        np.testing.assert_array_equal(getattr(here, name), getattr(again, name))
    assert len(pickle.dumps(data)) < 30_000


def test_numbers_are_told_without_reading_fields(files: Files) -> None:
    data = FieldSet.open(files[0], Selection(("p",), condition=("time", "nu"), classes="kind"))
    rows = np.array([40, 2, 11])
    samples, (scalars, classes) = data.read(rows), data.read_numbers(rows)
    np.testing.assert_array_equal(scalars, samples.scalars)
    np.testing.assert_array_equal(classes, samples.classes)


def test_numbers_per_frame_and_both(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    numbers = {"a": rng.standard_normal(3), "b": rng.standard_normal(3), "c": rng.standard_normal((3, 3))}
    dims = {"a": ("trajectory",), "b": ("time",), "c": ("trajectory", "time")}
    data = FieldSet([ramp(3, 3, 4, scalars=numbers, scalar_dims=dims)], Selection(past=1, condition=("a", "b", "c")))
    scalars = data.read(np.arange(6)).scalars
    places = [(run, start + 1) for run in range(3) for start in range(2)]
    expected = [[numbers["a"][run], numbers["b"][frame], numbers["c"][run, frame]] for run, frame in places]
    np.testing.assert_array_equal(scalars, expected)


def test_a_number_that_is_not_finite_is_named() -> None:
    source = ramp(3, 3, 4, scalars={"a": np.array([1, np.nan, 2])}, scalar_dims={"a": ("trajectory",)})
    with pytest.raises(ValueError, match="ramp: number 'a' is nan at trajectory 1"):
        FieldSet([source], Selection(condition=("a",)))


def test_whole_numbers_and_wide_types_keep_their_values() -> None:
    grid = Grid((3,))
    types = ((np.int16, np.float32), (np.int32, np.float64), (">f4", np.float32), (np.float16, np.float32))
    for stored, expected in types:
        values = np.arange(6).reshape(1, 2, 3).astype(stored)
        view = View(MemoryArray(values), ("trajectory", "time", "x"))
        data = FieldSet([Source("m", "m", grid, (Variable("u", view),), 1, np.zeros((1, 2)))])
        found = data.read([1]).values
        assert found.dtype == expected and found.ravel().tolist() == [3, 4, 5]


def test_axes_in_any_stored_order_reversed_or_missing() -> None:
    rng = np.random.default_rng(5)
    full, flat = rng.standard_normal((3, 5, 2, 4)), rng.standard_normal((5, 4))
    grid = Grid((3, 4))
    variables = (
        Variable("u", View(MemoryArray(full), ("x", "time", "trajectory", "y"), reversed=frozenset({"y"}))),
        Variable("w", View(MemoryArray(full), ("x", "time", "trajectory", "y"))),
        Variable("s", View(MemoryArray(flat), ("time", "y"))),  # constant along x and over runs
    )
    times = np.broadcast_to(np.arange(5.0), (2, 5))
    s = Selection(("u", "w", "s"), frames=2, time_stride=2, crop={"x": (1, 3)}, crop_boundary="neumann")
    data = FieldSet([Source("m", "m", grid, variables, 2, times)], s)
    for rows in ([4], [0, 1, 2, 3, 4, 5]):
        values = data.read(rows).values
        for i, row in enumerate(rows):
            run, start = divmod(row, 3)
            for j, frame in enumerate((start, start + 2)):
                np.testing.assert_array_equal(values[i, j], full[1:3, frame, run, ::-1].astype(np.float64))
                np.testing.assert_array_equal(values[i, 2 + j], full[1:3, frame, run])
                np.testing.assert_array_equal(values[i, 4 + j], np.broadcast_to(flat[frame], (2, 4)))


def test_chunks_of_samples(tmp_path: Path) -> None:
    view = View(Ramp((4, 10, 8), chunks=(2, 3, 8)), ("trajectory", "time", "x"))
    times = np.zeros((4, 10))
    data = FieldSet([Source("m", "m", Grid((8,)), (Variable("u", view),), 4, times)])
    chunks = data.chunk_of(np.arange(40)).reshape(4, 10)
    assert chunks[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3] and chunks[0].tolist() == chunks[1].tolist()
    assert chunks[2, 0] == 4 and len(np.unique(chunks)) == 8


def test_loaded_samples_keep_what_they_are_conditioned_on(files: Files) -> None:
    s = Selection(("p",), past=1, condition=("depth", "nu"), classes="kind")
    data = load_fields(files[0], selection=s)
    opened = open_fields(files[0], selection=s)
    assert data.given_names == ("p@-1", "depth") and data.given_units == ("Pa", "m") and data.class_name == "kind"
    assert data.is_conditioned and len(data) == len(opened) == 3 * 10 + 2 * 2 + 4 * 6
    np.testing.assert_array_equal(data.samples.given, opened.read(range(len(opened))).given)
    some = data.rows(np.array([3, 1]))
    np.testing.assert_array_equal(some.classes, data.classes[[3, 1]])
    np.testing.assert_array_equal(some.scalars, data.scalars[[3, 1]])
    np.testing.assert_array_equal(data.first(2).given, data.given[:2])
    assert not load_fields(files[0], ["p"]).is_conditioned
