"""What `inspect` says of a file: schema, storage and its cost, ranges and gaps; and what one frame costs to read."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from physdiff.data.amplification import amplification, frame_chunks
from physdiff.data.formats import open_source
from physdiff.data.inspect import inspect
from physdiff.data.layout import Layout
from physdiff.data.value_ranges import value_range

LAYOUT = Layout(dims=["trajectory", "time", "x", "y"], extent=1.0, boundary="periodic", time=1.0)


def plain(path: Path, values: np.ndarray, **how: object) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("u", data=values, **how)
    return path


def layout(**more: object) -> Layout:
    return Layout.of(LAYOUT, fields={"u": ["/u", "m/s"]}, **more)


@pytest.mark.parametrize(
    ("chunks", "frame", "read"),
    [
        (None, 16 * 16, 16 * 16),
        ((1, 1, 16, 16), 16 * 16, 16 * 16),
        ((1, 12, 16, 16), 16 * 16, 12 * 16 * 16),
        ((2, 5, 7, 9), 16 * 16, 3 * 2 * 2 * 5 * 7 * 9),  # 3 x 2 pieces cover 16 x 16 cells
    ],
)
def test_amplification_counts_the_bytes_of_the_pieces(
    tmp_path: Path, chunks: tuple[int, ...] | None, frame: int, read: int
) -> None:
    path = plain(tmp_path / "a.h5", np.zeros((4, 12, 16, 16), np.float32), chunks=chunks)
    view = open_source(path, layout()).variables[0].view
    found = amplification(view)
    assert (found.frame, found.read) == (4 * frame, 4 * read)
    assert found.factor == read / frame
    assert frame_chunks(view) == (1, 1, 16, 16)
    assert frame_chunks(view, most=600) == (1, 1, 8, 16)


def test_ranges_and_gaps(tmp_path: Path) -> None:
    values = 1e8 + np.random.default_rng(0).standard_normal((3, 5, 4, 6))
    values[1, 2, 0, 0], values[2, 4, 3, 5], values[0, 0, 1, 1] = np.nan, np.inf, -np.inf
    path = plain(tmp_path / "a.h5", values)
    source = open_source(path, layout())
    found = value_range(source, source.variables[0])
    finite = values[np.isfinite(values)]
    assert (found.low, found.high, found.count) == (finite.min(), finite.max(), len(finite))
    assert (found.missing, found.infinite, found.frames, found.share) == (1, 2, 15, 1.0)
    assert found.mean == pytest.approx(finite.mean(), abs=1e-6)
    assert found.std == pytest.approx(finite.std(), rel=1e-9)
    # A frame is 192 bytes: five of the fifteen, every third.
    part = value_range(source, source.variables[0], budget=5 * 192)
    chosen = values.reshape(15, 4, 6)[::3]
    assert part.frames == 5 and part.share == pytest.approx(1 / 3)
    assert part.high == chosen[np.isfinite(chosen)].max() and part.count == np.isfinite(chosen).sum()


def test_the_frames_of_a_chunk_are_read_together(tmp_path: Path) -> None:
    values = np.arange(6 * 8 * 4 * 4, dtype=np.float32).reshape(6, 8, 4, 4)
    source = open_source(plain(tmp_path / "a.h5", values, chunks=(1, 4, 4, 4)), layout())
    # Twelve pieces of four frames; room for four of them, so every third.
    found = value_range(source, source.variables[0], budget=4 * 4 * 64)
    assert (found.frames, found.low, found.high) == (16, 0.0, float(values[4, 4:].max()))
    assert found.mean == pytest.approx(values.reshape(12, 64)[::3].mean())


def test_what_is_said(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 2 * 8 * 16 * 16, dtype=np.float32).reshape(2, 8, 16, 16)
    path = plain(tmp_path / "a.h5", values, chunks=(1, 8, 16, 16), compression="gzip")
    told = inspect(path, layout())
    assert "grid: 16 (x, periodic, 1) x 16 (y, periodic, 1)" in told
    assert "trajectories: 2, frames: 8, time: 0 to 7, 1 apart" in told
    assert "field u (scalar): trajectory 2, time 8, x 16, y 16; float32, m/s, chunks (1, 8, 16, 16), gzip" in told
    assert "one frame (1 kB) reads 8.2 kB: amplification 8" in told
    assert f"physdiff data repack {path} NEW --layout LAYOUT" in told
    assert "range -1 to 1, mean " in told and "0 NaN, 0 infinite" in told
    # Without a layout: what there is, and what to say of it.
    told = inspect(path)
    assert "not loadable" in told and "dataset /u: (2, 8, 16, 16) float32, chunks (1, 8, 16, 16), gzip" in told


def test_a_field_without_a_number(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.h5", np.full((1, 1, 4, 4), math.nan))
    assert "no finite value, 16 NaN, 0 infinite" in inspect(path, layout())


def test_pieces_that_were_never_written_are_told(tmp_path: Path) -> None:
    """A run that was broken off leaves zeros that look like values."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        u = file.create_dataset("u", shape=(2, 5, 6, 4), dtype="f4", chunks=(1, 1, 6, 4), compression="gzip")
        u[0] = 1.0
        file["v"] = np.ones((2, 5, 6, 4))
        file.create_dataset("w", shape=(2, 5, 6, 4), dtype="f4", fillvalue=7.0)
    both = {"u": "/u", "v": "/v", "w": "/w"}
    told = [line.strip() for line in inspect(path, Layout.of(LAYOUT, fields=both)).splitlines() if "written" in line]
    assert told == [
        "5 of 10 pieces were never written: they are read as 0.0",
        "1 of 1 pieces were never written: they are read as 7.0",
    ]


def test_pieces_of_frames_of_runs_that_are_stacked_are_counted_too(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for run, step in itertools.product(range(2), range(3)):
            u = file.create_dataset(f"run{run}/step{step}/u", shape=(6, 4), dtype="f4", chunks=(3, 4))
            u[: 6 if step < 2 else 3] = 1.0
    told = Layout.of(LAYOUT, fields={"u": "/run*/step*/u"}, dims=["time", "x", "y"])
    text = inspect(path, told)
    assert "trajectory 2, time 3, x 6, y 4; float32, no units, chunks (" in text
    assert "2 of 12 pieces were never written: they are read as 0.0" in text


def test_missing_pieces_of_a_zarr_store_are_told(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(tmp_path / "a.zarr", shape=(2, 5, 6), chunks=(1, 5, 6), dtype="f4", fill_value=0)
    array[0] = 1.0
    told = Layout(dims=["trajectory", "time", "x"], extent=1.0, boundary="periodic", time=1.0)
    text = inspect(tmp_path / "a.zarr", told)
    assert "1 of 2 pieces were never written: they are read as 0.0" in text
    assert "chunks (1, 5, 6), zstd" in text


def test_an_error_says_where_its_setting_is_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tensor"], file["x-coordinate"] = np.zeros((2, 3, 4)), (np.arange(4) + 0.5) / 4
        file["t-coordinate"] = np.arange(3.0)
    head, fault, where, *_ = inspect(tmp_path / "a.h5").splitlines()
    assert head.startswith(f"{tmp_path}/a.h5: PDEBench, ")
    assert "pass boundary= (--data.layout.boundary)" in fault
    assert where == (
        "  say it here by --layout FILE, a YAML file with boundary: ...; in an experiment by data: {layout: {boundary: "
        "...}}"
    )


def test_a_file_that_was_inspected_can_be_written_to(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.h5", np.ones((2, 3, 4, 5)))
    inspect(path, layout())
    with h5py.File(path, "a") as file:
        file.attrs["note"] = 1


def test_a_damaged_file_of_a_folder_does_not_hide_the_others(tmp_path: Path) -> None:
    plain(tmp_path / "a.h5", np.ones((2, 3, 4, 5)))
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:1000])
    plain(tmp_path / "c.cdf", np.ones((2, 3, 4, 5)))  # a file's name says nothing
    text = inspect(tmp_path, layout())
    assert "files: 3 files" in text and text.count("field u (scalar)") == 2
    assert f"{tmp_path}/b.h5: not readable\n      '{tmp_path}/b.h5' is truncated" in text


def test_of_many_files_that_are_alike_a_few_are_told(tmp_path: Path) -> None:
    for i in range(12):
        plain(tmp_path / f"{i:02}.h5", np.full((1, 3, 4, 6), float(i), np.float32))
    plain(tmp_path / "10.h5", np.zeros((1, 3, 4, 8), np.float32))
    (tmp_path / "11.h5").write_bytes((tmp_path / "11.h5").read_bytes()[:900])
    told = inspect(tmp_path, layout())
    assert [i for i in range(12) if f"{i:02}.h5: HDF5 by a layout" in told] == [*range(8), 10]
    assert "8 (y, periodic" in told and "11.h5: not readable" in told
    assert told.endswith("2 more, with the grid, frames and fields of the first; their values were not read")
    assert "09.h5: HDF5 by a layout" in inspect(tmp_path, layout(), everything=True)
