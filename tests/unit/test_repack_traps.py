"""Files whose values lie in others, and files written anew: nothing is lost and nothing else is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from physdiff.data import handles, hdf5_copy
from physdiff.data.formats import open_source
from physdiff.data.inspect import inspect
from physdiff.data.layout import Layout
from physdiff.data.repack import repack
from physdiff.data.source import Source

RNG = np.random.default_rng(6)
BOX: dict[str, Any] = {"boundary": "periodic", "extent": 1.0}
ORDER = ("trajectory", "time", "x", "y")


def opened(path: str | Path, mode: str = "r", **options: Any) -> Any:
    return h5py.File(path, mode, **options)  # type: ignore[arg-type]


def values(source: Source, name: str, order: tuple[str, ...]) -> np.ndarray:
    return {v.name: v.view for v in source.variables}[name].read(order)


def test_values_in_a_file_of_their_own_are_not_looked_for_where_the_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 follows these names from the working directory: values of another file would be read for those beside it."""
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    u = RNG.normal(size=(2, 3, 8))
    with opened("a.h5", "w") as file:
        file.create_dataset("u", u.shape, "f8", external=[("u.raw", 0, h5py.h5f.UNLIMITED)])[...] = u
        file.create_dataset("w", (4,), "f8", external=[("w.raw", 0, h5py.h5f.UNLIMITED)])[...] = 3.0
    layout = Layout(fields={"u": "u"}, dims=["trajectory", "time", "x"], time=1.0, **BOX)
    np.testing.assert_array_equal(values(open_source("a.h5", layout), "u", ("trajectory", "time", "x")), u)
    (tmp_path / "set" / "new").mkdir()
    repack("a.h5", "new/b.h5", layout=layout, progress=False)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(values(open_source("set/new/b.h5", layout), "u", ("trajectory", "time", "x")), u)
    with opened("set/new/b.h5") as file:
        assert not file["w"].external and file["w"][0] == 3
    np.full(u.shape, 7.0).tofile(tmp_path / "u.raw")
    with pytest.raises(ValueError, match=r"values stored in 'u.raw', which HDF5 looks for .*run it in '.*set'"):
        open_source("set/a.h5", layout)


def test_a_repacked_file_holds_what_the_old_one_linked(tmp_path: Path) -> None:
    u = RNG.normal(size=(2, 3, 8))
    (tmp_path / "new").mkdir()
    with opened(tmp_path / "values.h5", "w") as file:
        file["u"] = u
    with opened(tmp_path / "a.h5", "w") as file:
        file["u"] = h5py.ExternalLink("values.h5", "u")
        virtual = h5py.VirtualLayout(u.shape, "f8")
        virtual[...] = h5py.VirtualSource("values.h5", "u", u.shape)
        file.create_virtual_dataset("copy", virtual)
    layout = Layout(fields={"u": "u"}, dims=["trajectory", "time", "x"], time=1.0, **BOX)
    repack(tmp_path / "a.h5", tmp_path / "new" / "b.h5", layout=layout, progress=False)
    (tmp_path / "values.h5").rename(tmp_path / "gone.h5")
    with opened(tmp_path / "new" / "b.h5") as file:
        for name in ("u", "copy"):
            np.testing.assert_array_equal(file[name][()], u)
        assert file["u"].chunks == (1, 1, 8)
    (tmp_path / "gone.h5").rename(tmp_path / "values.h5")
    with opened(tmp_path / "a.h5", "r+") as file:
        file["more"] = h5py.ExternalLink("values.h5", "u")
    with pytest.raises(ValueError, match=r"'/more' is a link to 'values.h5', which would lead to nothing"):
        repack(tmp_path / "a.h5", tmp_path / "new" / "c.h5", layout=layout, progress=False)
    repack(tmp_path / "a.h5", tmp_path / "c.h5", layout=layout, progress=False)


@pytest.mark.parametrize("kind", ["f2", ">f4", "f8", "i1", "u1", "i2", ">u4", "i8", "?", "c8"])
def test_types_and_attributes_outlive_repacking(tmp_path: Path, kind: str) -> None:
    u = (RNG.normal(size=(2, 3, 4, 4)) * 20).astype(kind)
    with opened(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset(
            "u", data=u, chunks=(2, 3, 2, 2), compression="gzip", shuffle=True, fletcher32=True,
            maxshape=(None, None, 4, 4),
        )  # fmt: skip
        data.attrs.update({"text": "a", "bytes": np.bytes_("b"), "nothing": h5py.Empty("f4"), "truth": [True, False]})
        data.attrs["names"] = np.array(["a", "bb"], dtype=h5py.string_dtype())
        data.attrs["records"] = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    layout = Layout(fields={"u": "u"}, dims=list(ORDER), time=0.1, **BOX)
    repack(tmp_path / "a.h5", tmp_path / "b.h5", layout=layout, progress=False)
    with opened(tmp_path / "a.h5") as old, opened(tmp_path / "b.h5") as new:
        a: Any = old["u"]
        b: Any = new["u"]
        assert a.dtype == b.dtype and a.maxshape == b.maxshape and b.chunks == (1, 1, 4, 4)
        np.testing.assert_array_equal(a[()], b[()])
        assert set(a.attrs) == set(b.attrs) and isinstance(b.attrs["nothing"], h5py.Empty)
        for key in set(a.attrs) - {"nothing"}:
            np.testing.assert_array_equal(a.attrs[key], b.attrs[key], err_msg=key)


def test_a_folder_of_any_suffix_is_repacked(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    dataset = xr.Dataset({"u": (("time", "x"), RNG.normal(size=(3, 8)))}, {"x": np.arange(8.0), "time": np.arange(3.0)})
    for name in ("a.nc4", "b.NC"):
        dataset.to_netcdf(tmp_path / "old" / name, engine="h5netcdf", encoding={"u": {"chunksizes": (3, 8)}})
    done = repack(tmp_path / "old", tmp_path / "new", layout=Layout(boundary="periodic"), progress=False)
    assert [one.path.name for one in done] == ["a.nc4", "b.NC"] and [one.worst_after for one in done] == [1, 1]


def test_no_dataset_is_open_where_others_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 2.0 destroys its memory when it copies one that is open and packed with scaleoffset; that may go unseen."""
    with opened(tmp_path / "a.h5", "w") as file:
        for name in "ab":
            file.create_dataset(name, data=np.arange(48.0).reshape(2, 3, 8), chunks=(1, 3, 8), scaleoffset=3)
    layout = Layout(fields={"u": "a"}, dims=["trajectory", "time", "x"], time=1.0, **BOX)
    seen, copy = [], hdf5_copy.copy_file
    other = open_source(tmp_path / "a.h5", Layout.of(layout, fields={"b": "b"}))
    values(other, "b", ("trajectory", "time", "x"))

    def counted(*arguments: Any) -> None:
        seen.append(len(handles._datasets))
        copy(*arguments)

    monkeypatch.setattr(sys.modules["physdiff.data.repack"], "copy_file", counted)
    repack(tmp_path / "a.h5", tmp_path / "b.h5", layout=layout, progress=False)
    assert seen == [0]
    found = values(open_source(tmp_path / "b.h5", layout), "u", ("trajectory", "time", "x"))
    assert np.abs(found - np.arange(48.0).reshape(2, 3, 8)).max() <= 5e-4


def test_holes_of_virtual_data_are_told(tmp_path: Path) -> None:
    with opened(tmp_path / "a.h5", "w") as file:
        file["a"] = np.ones((2, 8))
        virtual = h5py.VirtualLayout((2, 3, 8), "f8")
        virtual[:, 0] = h5py.VirtualSource(".", "a", (2, 8))
        file.create_virtual_dataset("u", virtual, fillvalue=0)
    layout = Layout(fields={"u": "u"}, dims=["trajectory", "time", "x"], time=1.0, **BOX)
    assert "32 of 48 pieces were never written: they are read as 0.0" in inspect(tmp_path / "a.h5", layout)
