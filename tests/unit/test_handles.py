"""Handles of HDF5 files: their own in every process, safe among threads, bounded, with chunks decompressed once."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from physdiff.data import handles
from physdiff.data.asked import Asked
from physdiff.data.direct import plain_of
from physdiff.data.fields import open_fields
from physdiff.data.formats.the_well_writer import write_the_well
from physdiff.data.handles import cache_for, close_all, hdf5_dataset, held, read_into, read_windows, reading
from physdiff.data.selection import Selection
from physdiff.data.torch_dataset import EpochSampler, FieldDataset
from physdiff.grid import Grid

RUNS, FRAMES, CELLS = 6, 7, 8


def numbered() -> np.ndarray:
    """Fields of which each number says where it stands."""
    return np.arange(RUNS * FRAMES * CELLS, dtype=np.float32).reshape(RUNS, FRAMES, CELLS)


def well_file(folder: Path) -> Path:
    """A small file in one gzip chunk a run."""
    path = write_the_well(folder / "numbered.hdf5", {"u": numbered()}, Grid(CELLS))
    with h5py.File(path, "r+") as file:
        group = file["t0_fields"]
        assert isinstance(group, h5py.Group)
        attrs = dict(group["u"].attrs)
        del group["u"]
        group.create_dataset("u", data=numbered(), chunks=(1, FRAMES, CELLS), compression="gzip")
        group["u"].attrs.update(attrs)
    return path


@pytest.fixture(autouse=True)
def closed() -> None:
    close_all()


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "forkserver"))]
)
def test_a_data_set_that_was_touched_reads_right_in_workers(tmp_path: Path, method: str) -> None:
    fields = open_fields(well_file(tmp_path), selection=Selection(frames=2))
    data = FieldDataset(fields)
    assert torch.equal(data[3]["values"], torch.tensor(numbered()[0, 3:5]))
    assert held()[0] == 1
    sampler = EpochSampler(fields, 5, seed=1)
    loader = DataLoader(data, sampler=sampler, batch_size=None, num_workers=2, multiprocessing_context=method)
    seen = []
    for rows, batch in zip(list(sampler), loader, strict=True):
        runs, starts = np.divmod(np.array(rows), FRAMES - 1)
        expected = numbered()[runs[:, None], starts[:, None] + np.arange(2)]
        np.testing.assert_array_equal(batch["values"].numpy(), expected)
        seen += rows
        data[rows[0]]  # the parent reads between
    assert sorted(seen) == list(range(len(fields)))


def test_nothing_but_names_is_pickled(tmp_path: Path) -> None:
    data = FieldDataset(open_fields(well_file(tmp_path)))
    _ = data[0]
    sent = pickle.dumps(data)
    assert b"h5py" not in sent and len(sent) < 20_000
    assert torch.equal(pickle.loads(sent)[11]["values"], data[11]["values"])


def test_a_forked_process_opens_files_of_its_own(tmp_path: Path) -> None:
    path = str(well_file(tmp_path))
    with reading(path, "t0_fields/u") as dataset:
        assert dataset[0, 0, 0] == 0
    child = os.fork()
    if child == 0:
        with reading(path, "t0_fields/u") as dataset:
            right = bool((dataset[...] == numbered()).all())
        os._exit(0 if right and held()[0] == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    with reading(path, "t0_fields/u") as dataset:
        np.testing.assert_array_equal(dataset[...], numbered())


def test_threads_read_right_while_files_are_closed_under_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "MOST", 2)
    paths = [str(tmp_path / f"{i}.h5") for i in range(6)]
    for i, path in enumerate(paths):
        with h5py.File(path, "w") as file:
            file["a"] = np.full((50, 20), i)

    def read(turn: int) -> bool:
        i = turn * 7 % len(paths)
        with reading(paths[i], "a") as dataset:
            return bool((dataset[turn % 50] == i).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(400)))
    assert held()[0] == 2


def test_files_and_caches_that_are_open_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "MOST", 5)
    monkeypatch.setattr(handles, "CACHE_OF_ALL", 3000)
    for i in range(12):
        path = str(tmp_path / f"{i}.h5")
        with h5py.File(path, "w") as file:
            for name in "ab":
                file.create_dataset(name, data=np.ones((4, 100), np.float32), chunks=(1, 100), compression="gzip")
        for name in "ab":
            with reading(path, name) as dataset:
                assert dataset[0].sum() == 100
        files, datasets, cached = held()
        # Each dataset keeps its four chunks of 400 bytes.
        assert files <= 5 and cached == 1600 * datasets <= 3000
    close_all()
    assert held() == (0, 0, 0)


def test_a_cache_holds_some_chunks_or_none_that_is_too_large() -> None:
    mega = 1 << 20
    assert cache_for(4 * mega) == 32 * mega  # eight
    assert cache_for(4 * mega, pieces=3) == 12 * mega
    assert cache_for(20 * mega) == 60 * mega
    assert cache_for(100 * mega) == 100 * mega
    assert cache_for(300 * mega) == 0


def test_windows_of_one_large_chunk_decompress_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.h5"
    # 12 MB in a chunk, more than HDF5 keeps by itself.
    values = np.random.default_rng(0).integers(0, 4, (3, 24, 65536)).astype(np.float64)
    with h5py.File(path, "w") as file:
        file.create_dataset("u", data=values, chunks=(1, 24, 65536), compression="gzip", compression_opts=1)
    with reading(str(path), "u") as dataset:
        np.testing.assert_array_equal(dataset[1, :2], values[1, :2])
    with h5py.File(path, "r") as file:
        stored = file["u"].id.get_chunk_info_by_coord((1, 0, 0))
    before = handles._identity(str(path))
    close_other = os.open(path, os.O_WRONLY)
    os.pwrite(close_other, bytes(stored.size), stored.byte_offset)  # what is on disk can no longer be decompressed
    os.close(close_other)
    with monkeypatch.context() as unseen:
        unseen.setattr(handles, "_identity", lambda _: before)
        with reading(str(path), "u") as dataset:
            np.testing.assert_array_equal(dataset[1, 20:22], values[1, 20:22])
    close_all()
    with pytest.raises(ValueError, match=r"large\.h5' is truncated, damaged"), reading(str(path), "u") as dataset:
        dataset[1, 20:22]


def test_a_file_that_was_replaced_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "one.h5"
    for value in (1.0, 2.0):
        new = tmp_path / "new.h5"
        with h5py.File(new, "w") as file:
            file["a"] = np.full(3, value)
        new.replace(path)
        with reading(str(path), "a") as dataset:
            assert dataset[0] == value


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*none\.h5'"):
        hdf5_dataset(str(tmp_path / "none.h5"), "a")
    path = tmp_path / "some.h5"
    with h5py.File(path, "w") as file:
        file["a"] = 1.0
    with pytest.raises(ValueError, match=r"some\.h5' has no dataset 'b'"):
        hdf5_dataset(str(path), "b")
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"some\.h5' is truncated, damaged or no HDF5 file"):
        hdf5_dataset(str(path), "a")


@pytest.mark.parametrize(
    ("dtype", "chunks", "direct"),
    [
        ("f4", None, True), ("f8", None, True), ("i2", (1, 1, 5, 4), True), ("f4", (1, 1, 5, 4), True),
        ("f4", (1, 3, 5, 4), False), ("f4", (1, 1, 5, 2), False), (">f4", None, False), ("f4", (2, 1, 5, 4), False),
    ],
)  # fmt: skip
def test_what_is_stored_as_it_is_is_read_straight_into_its_place(
    tmp_path: Path, dtype: str, chunks: tuple[int, ...] | None, direct: bool
) -> None:
    path, draws = str(tmp_path / "plain.h5"), np.random.default_rng(0)
    values = draws.integers(-99, 99, (3, 7, 5, 4)).astype(dtype)
    with h5py.File(path, "w") as file:
        file["before"] = np.arange(13)
        dataset = file.create_dataset("u", shape=values.shape, dtype=dtype, chunks=chunks)
        for frame in draws.permutation(7):  # so that chunks do not lie in order
            dataset[:, frame] = values[:, frame]
    whole = slice(None)
    for key in [(1, slice(2, 4)), (0, slice(0, 7, 3)), (2, 6), (slice(0, 3), slice(1, 3)), (1, slice(0, 1), whole)]:
        expected = values[key]
        out = np.full(expected.shape, 7, values.dtype.newbyteorder("="))
        assert read_into(path, "u", key, out) == direct
        np.testing.assert_array_equal(out, expected)
    # In one piece, part of a frame can be read too.
    part = np.zeros((3, 4), dtype)
    assert read_into(path, "u", (1, 2, slice(1, 4)), part) == (direct and chunks is None)
    np.testing.assert_array_equal(part, values[1, 2, 1:4])
    with h5py.File(path, "r") as file:
        plain = plain_of(file, file["u"])
        for key, out in (
            ((1, 2, slice(0, 3), slice(0, 3)), np.zeros((3, 4), dtype)),
            ((3, slice(0, 2)), np.zeros((2, 5, 4), dtype)),
            ((1, -1), np.zeros((5, 4), dtype)),
            ((1, 2), np.zeros((5, 4), "c8")),
            ((1, 2), np.zeros((4, 5), dtype).T),
            ((1, slice(0, 2)), np.zeros((3, 5, 4), dtype)),
        ):
            assert plain is None or (not plain.read_into(key, out) and not out.any())


@pytest.mark.parametrize(
    ("dtype", "storage", "plain"),
    [
        ("f4", {}, True), ("f8", {"chunks": (1, 1, 5, 4)}, True), ("i2", {"chunks": (1, 3, 5, 4)}, False),
        ("f4", {"chunks": (1, 1, 5, 4), "compression": "gzip"}, False), (">f4", {}, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("time_first", [False, True])
def test_windows_are_read_in_one_go(
    tmp_path: Path, dtype: str, storage: dict[str, Any], plain: bool, time_first: bool
) -> None:
    """In any order, next to each other or not, with steps, of parts of a frame, into a batch of two variables."""
    path, draws = str(tmp_path / "windows.h5"), np.random.default_rng(0)
    values = draws.integers(-99, 99, (7, 3, 5, 4) if time_first else (3, 7, 5, 4)).astype(dtype)
    with h5py.File(path, "w") as file:
        file.create_dataset("u", data=values, **storage)
    by_run = values.swapaxes(0, 1) if time_first else values
    run_axis, time_axis, whole = (1, 0, slice(None)) if time_first else (0, 1, slice(None))
    for frames, step, cells in [(2, 1, whole), (2, 3, whole), (1, 1, whole), (3, 2, whole), (2, 1, slice(1, 3))]:
        runs, starts = [2, 0, 0, 1], [0, 1, 2, 6 - (frames - 1) * step]
        out = np.full((4, 2, frames, *by_run[0, 0, cells].shape), 7, values.dtype.newbyteorder("="))
        asked = Asked((slice(None), slice(None), cells, whole), run_axis, time_axis, frames, step)
        close_all()
        squares = read_windows(path, "u", asked, runs, starts, list(out[:, 1]))
        expected = np.stack([by_run[r, s : s + (frames - 1) * step + 1 : step, cells]
                             for r, s in zip(runs, starts, strict=True)])  # fmt: skip
        np.testing.assert_array_equal(out[:, 1], expected)
        assert (out[:, 0] == 7).all()
        if values.dtype.kind == "f":
            assert squares == np.square(expected.astype(float)).sum()  # whole numbers, exact in float32
            again = read_windows(path, "u", asked, runs, starts, list(out[:, 1]))
            # Whole frames that HDF5 has put into their own type before are not looked at again.
            remembered = step == 1 and cells == whole and not plain and dtype == "f4"
            assert again == (0.0 if remembered else squares)
            np.testing.assert_array_equal(out[:, 1], expected)
        with h5py.File(path, "r") as file:
            directly = plain_of(file, file["u"])
            can = directly is not None and directly.read_windows(asked, runs, starts, list(out[:, 1])) is not None
            assert can == (plain and cells == whole)
            beyond = [0, 1, 2, 7]
            assert directly is None or directly.read_windows(asked, runs, beyond, list(out[:, 1])) is None
        # Other windows of the same kind, for which the way to ask is kept.
        read_windows(path, "u", asked, runs[::-1], starts, list(out[:, 0]))
        expected = np.stack([by_run[r, s : s + (frames - 1) * step + 1 : step, cells]
                             for r, s in zip(runs[::-1], starts, strict=True)])  # fmt: skip
        np.testing.assert_array_equal(out[:, 0], expected)


def test_chunks_that_were_never_written_and_files_that_end(tmp_path: Path) -> None:
    out = np.zeros((2, 64), np.float32)
    with h5py.File(tmp_path / "user.h5", "w", userblock_size=512) as file:
        file["u"] = np.ones((3, 2, 64), np.float32)
    assert not read_into(str(tmp_path / "user.h5"), "u", (1, slice(0, 2)), out) and (out == 1).all()
    with h5py.File(tmp_path / "holes.h5", "w") as file:
        dataset = file.create_dataset("u", (3, 2, 64), np.float32, chunks=(1, 1, 64), fillvalue=5)
        dataset[1] = 1
    assert read_into(str(tmp_path / "holes.h5"), "u", (1, slice(0, 2)), out) and (out == 1).all()
    assert not read_into(str(tmp_path / "holes.h5"), "u", (0, slice(0, 2)), out) and (out == 5).all()
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as file:
        file["u"] = np.ones((30, 2, 64), np.float32)
    assert read_into(str(path), "u", (29, slice(0, 2)), out)
    state = path.stat()
    os.truncate(path, state.st_size - 2048)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ValueError, match=r"plain\.h5' is truncated, damaged or no HDF5 file"):
        read_into(str(path), "u", (29, slice(0, 2)), out)


def test_a_filter_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "packed.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("u", data=np.zeros((4, 4), np.float32), chunks=(1, 4), compression="gzip")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda _: False)
    with pytest.raises(ValueError, match=r"packed\.h5': 'u' is compressed by HDF5 filter 1, .* install hdf5plugin"):
        hdf5_dataset(str(path), "u")


def test_a_value_that_is_not_finite_is_told_every_time(tmp_path: Path) -> None:
    """What is remembered of frames are those without one."""
    path, values = str(tmp_path / "nan.h5"), np.ones((2, 6, 4, 4), np.float32)
    values[1, 3, 2, 2] = np.nan
    with h5py.File(path, "w") as file:
        file.create_dataset("u", data=values, chunks=(1, 1, 4, 4), compression="gzip")
    whole = slice(None)

    def squares(run: int, start: int) -> float:
        return read_windows(
            path, "u", Asked((0, whole, whole, whole), 0, 1, 2, 1), [run], [start], [np.empty((2, 4, 4), np.float32)]
        )

    for _ in range(3):
        assert np.isnan(squares(1, 2)) and np.isnan(squares(1, 3))
    assert squares(0, 2) == 32 and squares(0, 2) == 0 and squares(0, 3) == 32
    assert squares(1, 1) == 32 and np.isnan(squares(1, 2))
