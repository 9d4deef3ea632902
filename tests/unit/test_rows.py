"""Rows in memory, in mapped files and streamed: the same bits, digests and orders, and what is refused."""

from __future__ import annotations

import errno
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.data import cache
from physdiff.data.cache import MappedRows
from physdiff.data.fields import open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.fingerprint import content_of
from physdiff.data.formats.the_well_writer import write_the_well
from physdiff.data.handles import close_all
from physdiff.data.order import rows_at
from physdiff.data.preparation import Preparation
from physdiff.data.rows import Rows, TensorRows, rows_of
from physdiff.data.selection import Selection
from physdiff.data.statistics_file import statistics_of
from physdiff.data.stream import StreamedRows
from physdiff.disk import DiskFull
from physdiff.grid import Grid

GRID = Grid((5, 7))  # odd sizes: nothing here fits a vector register
SELECTION = Selection(fields=("u", "v"), frames=2, past=1, condition=("nu", "time"))
KINDS = ("standard", "robust", "log", "box-cox", "yeo-johnson", "asinh")


def write(path: Path, seed: int = 0, chunks: tuple[int, ...] | None = None) -> Path:
    """Positive fields of several runs; in compressed chunks if told."""
    draws = np.random.default_rng(seed)
    values = {name: np.exp(draws.standard_normal((6, 9, 5, 7))).astype(np.float32) for name in "uv"}
    write_the_well(path, values, GRID, parameters={"nu": draws.random(6)})
    if chunks is not None:
        with h5py.File(path, "r+") as file:
            group = file["t0_fields"]
            assert isinstance(group, h5py.Group)
            for name, x in values.items():
                attrs = dict(group[name].attrs)
                del group[name]
                group.create_dataset(name, data=x, chunks=chunks, compression="gzip").attrs.update(attrs)
    return path


@pytest.fixture
def fields(tmp_path: Path) -> FieldSet:
    return open_fields(write(tmp_path / "flow.hdf5"), selection=SELECTION)


def prepared(fields: FieldSet, kind: str = "standard") -> Preparation:
    return Preparation.fit(fields, statistics_of(fields, store=False), kind)


def assert_same(found: tuple[Tensor, object], expected: tuple[Tensor, object]) -> None:
    assert found[0].dtype == torch.float32 and torch.equal(found[0], expected[0])
    for given in (found[1], expected[1]):
        assert isinstance(given, Condition)
    for name, x in vars(expected[1]).items():
        other = getattr(found[1], name)
        assert (x is None and other is None) or torch.equal(other, x)


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_depends_on_which_samples_are_prepared_together(fields: FieldSet, kind: str) -> None:
    preparation = prepared(fields, kind)
    whole = preparation.tensors(fields.read(range(len(fields))))
    for rows in ([0], [11], [3, 1, 2], list(range(5, 22))):
        x, condition = preparation.tensors(fields.read(rows))
        assert isinstance(whole[1], Condition)
        assert_same((x, condition), (whole[0][rows], whole[1][torch.tensor(rows)]))


@pytest.mark.parametrize("loader", ["memory", "mmap", "stream"])
@pytest.mark.parametrize("kind", ["standard", "box-cox"])
def test_all_loaders_give_the_same_bits(fields: FieldSet, tmp_path: Path, loader: str, kind: str) -> None:
    preparation = prepared(fields, kind)
    rows = rows_of(fields, preparation, loader, cache=tmp_path / "cache")  # pyright: ignore[reportArgumentType]
    assert isinstance(rows, Rows)
    assert rows.shape == (len(fields), 4, 5, 7) and len(rows) == len(fields) == 42
    for wanted in ([7], [41, 0, 3, 3], list(range(42))):
        assert_same(rows.batch(torch.tensor(wanted)), preparation.tensors(fields.read(wanted)))


def schedule(rows: Rows, batches: int) -> list[Tensor]:
    return [rows_at(rows.order, 8 * i, 8, 3) for i in range(batches)]


def test_what_is_read_ahead_is_what_is_asked_for(fields: FieldSet) -> None:
    preparation = prepared(fields)
    rows = rows_of(fields, preparation, "stream", workers=2)
    expected = [preparation.tensors(fields.read(wanted)) for wanted in schedule(rows, 12)]
    rows.expect(iter(schedule(rows, 12)))
    for i, wanted in enumerate(schedule(rows, 6)):
        assert_same(rows.batch(wanted), expected[i])
        unplanned = torch.tensor([i, 41])
        assert_same(rows.batch(unplanned), preparation.tensors(fields.read(unplanned.tolist())))
    rows.expect(iter(schedule(rows, 12)[3:]))  # taken up elsewhere, with batches still on their way
    for i, wanted in enumerate(schedule(rows, 12)[3:], 3):
        assert_same(rows.batch(wanted), expected[i])
    assert_same(rows.batch(torch.tensor([5])), preparation.tensors(fields.read([5])))  # after the end of the plan
    assert multiprocessing.active_children()
    rows.close()
    assert not multiprocessing.active_children()
    rows.expect(iter(schedule(rows, 2)))
    assert_same(rows.batch(schedule(rows, 1)[0]), expected[0])
    rows.close()


def test_what_a_worker_cannot_read_is_one_sentence(fields: FieldSet) -> None:
    rows = rows_of(fields, prepared(fields), "stream", workers=1)
    path = Path(fields.sources[0].path)
    path.write_bytes(path.read_bytes()[:2000])
    rows.expect(iter(schedule(rows, 3)))
    with pytest.raises(ValueError, match=r"^'.*flow\.hdf5' is truncated, damaged or no HDF5 file") as caught:
        rows.batch(schedule(rows, 1)[0])
    assert "\n" not in str(caught.value)
    rows.close()


def test_a_worker_that_dies_is_one_sentence(fields: FieldSet) -> None:
    rows = rows_of(fields, prepared(fields), "stream", workers=1)
    rows.expect(iter(schedule(rows, 50)))
    rows.batch(schedule(rows, 1)[0])
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, 9)
        child.join()
    with pytest.raises(ValueError, match=r"a process that reads .*flow\.hdf5 has ended: DataLoader worker") as caught:
        for wanted in schedule(rows, 50)[1:]:
            rows.batch(wanted)
    assert "\n" not in str(caught.value)
    rows.close()


def test_a_digest_is_of_the_data_not_of_its_files(tmp_path: Path) -> None:
    def digest(path: Path, kind: str = "standard") -> str:
        fields = open_fields(path, selection=SELECTION)
        return rows_of(fields, fixed if kind == "standard" else prepared(fields, kind), "stream").digest

    first = open_fields(write(tmp_path / "a.hdf5"), selection=SELECTION)
    fixed = prepared(first)
    known = digest(tmp_path / "a.hdf5")
    assert digest(write(tmp_path / "elsewhere.hdf5", chunks=(1, 9, 5, 7))) == known
    for loader in ("memory", "mmap"):
        assert rows_of(first, fixed, loader, cache=tmp_path / "cache").digest == known
    assert digest(write(tmp_path / "b.hdf5", seed=1)) != known
    other = open_fields(tmp_path / "a.hdf5", selection=replace(SELECTION, condition=("nu",)))
    assert content_of(other) != content_of(first)
    assert digest(tmp_path / "a.hdf5", kind="robust") != known
    close_all()
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["t0_fields/v"][4, 6, 2, 3] += 0.01
    assert digest(tmp_path / "a.hdf5") != known


def test_size_decides_between_loaders(fields: FieldSet, tmp_path: Path) -> None:
    preparation = prepared(fields)
    size = 42 * 6 * 35 * 4  # four channels and two past frames
    assert isinstance(rows_of(fields, preparation), TensorRows)
    assert isinstance(rows_of(fields, preparation, memory_limit=size), TensorRows)
    assert isinstance(rows_of(fields, preparation, memory_limit=size - 1), StreamedRows)
    kept = rows_of(fields, preparation, memory_limit=size - 1, cache=tmp_path / "cache")
    assert isinstance(kept, MappedRows)
    for words, told in (
        ("unknown loader 'disk'; it is one of auto, memory, mmap, stream", {"loader": "disk"}),
        ("loader 'mmap' needs a folder", {"loader": "mmap"}),
        ("workers must be at least 0; got -1", {"workers": -1}),
    ):
        with pytest.raises(ValueError, match=words):
            rows_of(fields, preparation, **told)  # pyright: ignore[reportArgumentType]


def test_a_cache_is_made_once_and_for_one_state_of_the_files(fields: FieldSet, tmp_path: Path) -> None:
    folder, preparation = tmp_path / "cache", prepared(fields)

    def made() -> dict[Path, int]:
        rows_of(fields, preparation, "mmap", cache=folder)
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}

    first = made()
    assert {path.name for path in first} == {"x.npy", "fields.npy", "scalars.npy"}
    assert made() == first
    path = Path(fields.sources[0].path)
    os.utime(path, ns=(0, 0))
    assert len(made()) == 6


def test_a_damaged_cache_is_refused(fields: FieldSet, tmp_path: Path) -> None:
    folder, preparation = tmp_path / "cache", prepared(fields)
    rows_of(fields, preparation, "mmap", cache=folder)
    (x,) = folder.rglob("x.npy")
    sound = x.read_bytes()
    x.write_bytes(sound[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match=r"the cache '.*' is damaged: its 'x' is not that of .*flow\.hdf5; delete"):
        rows_of(fields, preparation, "mmap", cache=folder)
    x.write_bytes(sound[:-400])
    with pytest.raises(ValueError, match=r"the cache '.*' is damaged: mmap length is greater than file size"):
        rows_of(fields, preparation, "mmap", cache=folder)


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    fields: FieldSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "before":
        monkeypatch.setattr(cache, "free", lambda _: 1000)
    else:
        monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match=r"there is no room for .*cache") as caught:
        rows_of(fields, prepared(fields), "mmap", cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_processes_that_begin_together_make_one_cache(fields: FieldSet, tmp_path: Path) -> None:
    preparation = prepared(fields)
    expected = preparation.tensors(fields.read(range(42)))
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            found = rows_of(fields, preparation, "mmap", cache=tmp_path / "cache").batch(torch.arange(42))
            os._exit(0 if torch.equal(found[0], expected[0]) else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(list((tmp_path / "cache").rglob("x.npy"))) == 1


def test_tensors_are_rows_with_the_digest_of_all_their_numbers() -> None:
    x = torch.arange(24.0).reshape(4, 1, 6)
    rows = TensorRows(x, Condition(classes=torch.arange(4)))
    found, condition = rows.batch(torch.tensor([2, 0]))
    assert torch.equal(found, x[[2, 0]]) and isinstance(condition, Condition)
    assert condition.classes is not None and condition.classes.tolist() == [2, 0]
    assert rows.digest.startswith("float32 (4, 1, 6), digest ") and ", condition classes int64 (4,)" in rows.digest
    assert TensorRows(x + 0).digest == TensorRows(x).digest != TensorRows(x.flip(0)).digest
