"""What is kept in memory of a file, or known of a set by its digest, goes when the numbers change."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from physdiff.data import file_map, fingerprint
from physdiff.data.data_identity import identity_of
from physdiff.data.fieldset import FieldSet
from physdiff.data.file_map import TICK, identity
from physdiff.data.fingerprint import content_of
from physdiff.data.formats.xarray_objects import source_of
from physdiff.data.layout import Layout

LAYOUT = Layout(fields={"u": "u"}, dims=["time", "x"], boundary="periodic", extent=1.0, time=1.0)


def clock(now: int) -> SimpleNamespace:
    """What `identity` asks of the module `time`."""
    return SimpleNamespace(time_ns=lambda: now, perf_counter_ns=time.perf_counter_ns)


def write(path: Path, value: float) -> None:
    """A file in its place that can only be read whole, of the same size for any value."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        if path.suffix == ".pt":
            torch.save({"u": torch.full((3, 4), value)}, file, _use_new_zipfile_serialization=False)
        else:
            np.savez_compressed(file, u=np.full((3, 4), value, np.float32))


@pytest.mark.parametrize("name", ["u.pt", "u.npz"])
@pytest.mark.parametrize("dates", ["set back", "of one tick"])
def test_a_file_that_is_written_again_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dates: str
) -> None:
    path = tmp_path / name
    write(path, 2.0)
    before = path.stat()
    if dates == "of one tick":
        monkeypatch.setattr(file_map, "os", SimpleNamespace(stat=lambda _: before))
        monkeypatch.setattr(file_map, "time", clock(before.st_ctime_ns + TICK // 2))
    for value in (2.0, 3.0, 4.0):
        write(path, value)
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        found = FieldSet.open([path], layout=LAYOUT).read([1]).values
        assert (found == value).all(), f"{found.ravel()[0]} of the file before, not {value}"


def test_a_file_that_rests_keeps_its_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "u.bin"
    path.write_bytes(b"1")
    changed = path.stat().st_ctime_ns
    for age, is_kept in ((0, False), (TICK - 1, False), (TICK, True), (10**12, True), (-(10**9), True)):
        monkeypatch.setattr(file_map, "time", clock(changed + age))
        assert (identity(str(path)) == identity(str(path))) == is_kept, age


def test_an_object_in_memory_that_bears_the_name_of_a_folder_is_known_by_all_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by that folder, nor by the few samples by which a set on disk is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fingerprint, "ALL_UP_TO", 100)
    Path("dataset").mkdir()

    def fields(value: float) -> FieldSet:
        values = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
        values[101] = value  # none of those that are probed
        coords = {"time": np.arange(200.0), "x": np.arange(4.0)}
        data = xr.Dataset({"u": (("time", "x"), values)}, coords=coords)
        return FieldSet([source_of(data, Layout(boundary="periodic"))])

    one, other = fields(1.0), fields(2.0)
    assert one.source == "dataset"
    assert content_of(one) == content_of(fields(1.0)) and content_of(one) != content_of(other)
    assert identity_of(one) == identity_of(fields(1.0)) and identity_of(one) != identity_of(other)


def test_a_store_that_is_made_again_is_read_as_it_is_now(tmp_path: Path) -> None:
    """The same shape, in other pieces and with another number where none is stored."""
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "u.zarr"
    for pieces, fill in ((3, 1.0), (2, 5.0), (6, 9.0)):
        group = zarr.open_group(str(path), mode="w")
        array = group.create_array("u", shape=(6, 4), chunks=(pieces, 4), dtype="f4", fill_value=fill)
        array[:2] = np.arange(8.0).reshape(2, 4) + fill
        found = FieldSet.open([path], layout=LAYOUT).read([0, 1, 5]).values[:, 0]
        np.testing.assert_array_equal(found, [fill + np.arange(4.0), fill + np.arange(4.0, 8.0), np.full(4, fill)])
