"""Files written anew: the same values and everything else as it was, one chunk a frame, whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from physdiff import Grid, load_fields
from physdiff.data import hdf5_copy
from physdiff.data.formats import open_source
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile, write_the_well
from physdiff.data.layout import Layout
from physdiff.data.packing import packing, plugin_is_there
from physdiff.data.repack import repack

GRID = Grid((6, 4), (3.0, 2.0), ("periodic", "neumann"), units="m")
PACKINGS = ["none", "gzip", "lzf"]


def slow_file(path: Path) -> Path:
    """A vector and a scalar, packed by trajectory."""
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, 5, 6, 4)), rng.standard_normal((2, 5, 6, 4, 2))
    specs = {"u": FieldSpec("K"), "v": FieldSpec("m/s", rank=1)}
    with WellFile(path, specs, GRID, 2, np.arange(5.0), parameters={"nu": np.array([0.1, 0.2])}) as file:
        file.write(0, {"u": u, "v": v})
    with h5py.File(path, "a") as file:
        for name in ("t0_fields/u", "t1_fields/v"):
            values, attributes = file[name][()], dict(file[name].attrs)
            del file[name]
            file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]), compression="gzip")
            file[name].attrs.update(attributes)
        file.attrs["note"] = "kept"
        file["link"] = h5py.SoftLink("/t0_fields/u")
    return path


def everything(path: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    with h5py.File(path) as file:

        def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = (item.dtype, item[()].tobytes() if item.dtype != object else list(item[()].ravel()))
            for key, value in item.attrs.items():
                found[f"{name}@{key}"] = np.asarray(value).tolist()

        visit("", file)
        file.visititems(visit)
    return found


@pytest.mark.parametrize("compression", [*PACKINGS, *(["lz4", "zstd"] if plugin_is_there() else [])])
def test_everything_is_kept_but_the_chunks(tmp_path: Path, compression: str) -> None:
    old = slow_file(tmp_path / "old.hdf5")
    (done,) = repack(old, tmp_path / "new.hdf5", compression=compression, progress=False)
    assert done.path == tmp_path / "new.hdf5" and (done.worst_before, done.worst_after) == (5.0, 1.0)
    assert (done.before, done.after) == (old.stat().st_size, done.path.stat().st_size)
    assert everything(done.path) == everything(old)
    with h5py.File(done.path) as file:
        assert file["t0_fields/u"].chunks == (1, 1, 6, 4) and file["t1_fields/v"].chunks == (1, 1, 6, 4, 2)
        assert isinstance(file.get("link", getlink=True), h5py.SoftLink)
    np.testing.assert_array_equal(load_fields(done.path).values, load_fields(old).values)


def test_a_file_may_take_its_own_place(tmp_path: Path) -> None:
    path = slow_file(tmp_path / "a.hdf5")
    before = everything(path)
    with pytest.raises(ValueError, match=r"a\.hdf5' exists already"):
        repack(path, path, progress=False)
    repack(path, path, overwrite=True, progress=False)
    assert everything(path) == before
    with h5py.File(path) as file:
        assert file["t0_fields/u"].chunks == (1, 1, 6, 4)
    assert [f.name for f in tmp_path.iterdir()] == ["a.hdf5"]


def test_netcdf_keeps_its_dimension_scales(tmp_path: Path) -> None:
    x = xr.Dataset(
        {"t2m": (("time", "y", "x"), np.random.default_rng(1).standard_normal((7, 4, 6)), {"units": "K"})},
        coords={"time": np.arange(7.0), "y": np.arange(4.0), "x": np.arange(6.0)},
    )
    x.to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf",
        encoding={"t2m": {"chunksizes": (7, 2, 3), "scale_factor": 0.001, "dtype": "int32", "_FillValue": -9999}},
    )  # fmt: skip
    (done,) = repack(tmp_path / "a.nc", tmp_path / "b.nc", layout=Layout(boundary="neumann"), progress=False)
    # Four pieces of 7 x 2 x 3 for a frame of 4 x 6.
    assert (done.worst_before, done.worst_after) == (7.0, 1.0)
    old, new = (xr.load_dataset(tmp_path / f"{n}.nc", engine="h5netcdf") for n in "ab")
    xr.testing.assert_identical(old, new)


def test_arrays_become_a_file_of_the_well(tmp_path: Path) -> None:
    values = np.random.default_rng(2).standard_normal((3, 4, 2, 6, 4))
    np.save(tmp_path / "a.npy", values)
    layout = Layout(
        dims=["trajectory", "time", "component", "x", "y"], extent=[3.0, 2.0], boundary="periodic", time=0.5,
    )  # fmt: skip
    repack(tmp_path / "a.npy", tmp_path / "b.hdf5", layout=layout, progress=False)
    old, new = open_source(tmp_path / "a.npy", layout), open_source(tmp_path / "b.hdf5")
    assert new.schema == "the_well" and new.grid == old.grid and np.array_equal(new.times, old.times)
    data = load_fields(tmp_path / "b.hdf5")
    np.testing.assert_array_equal(data.values, values.reshape(12, 2, 6, 4))


@pytest.mark.parametrize("compression", ["gzip", *(["zstd"] if plugin_is_there() else [])])
def test_what_else_a_file_of_arrays_says_is_kept(tmp_path: Path, compression: str) -> None:
    """Missing values, numbers of frames, the mask, attributes and the compression that was asked for."""
    rng = np.random.default_rng(3)
    u = np.where(rng.random((3, 4, 6, 4)) > 0.8, np.nan, rng.standard_normal((3, 4, 6, 4)))
    x = xr.Dataset(
        {
            "u": (("trajectory", "time", "x", "y"), u), "land": (("x", "y"), rng.integers(0, 2, (6, 4))),
            "forcing": (("time",), rng.standard_normal(4)), "nu": (("trajectory",), rng.random(3)),
            "dose": (("trajectory", "time"), rng.standard_normal((3, 4))),
        },
        coords={d: np.arange(float(n)) for d, n in (("time", 4), ("x", 6), ("y", 4))},
        attrs={"institution": "somewhere"},
    )  # fmt: skip
    x.time.attrs["units"] = "days since 2000-01-01"
    x.to_netcdf(tmp_path / "a.nc", engine="scipy")
    layout = Layout(boundary="neumann", mask="land", pseudo=["u"])
    (done,) = repack(tmp_path / "a.nc", tmp_path / "b.hdf5", layout=layout, compression=compression, progress=False)
    old, new = open_source(tmp_path / "a.nc", layout), open_source(tmp_path / "b.hdf5", Layout(mask="land"))
    axes = ("trajectory", "time", "x", "y")
    assert new.variables[0].pseudo
    np.testing.assert_array_equal(new.variables[0].view.read(axes), u)
    assert old.observed is not None and new.observed is not None
    np.testing.assert_array_equal(new.observed.read(("x", "y")), old.observed.read(("x", "y")))
    for name in ("forcing", "dose", "nu"):
        assert new.scalar_dims[name] == x[name].dims
        np.testing.assert_array_equal(new.scalars[name], x[name].values)
    said = {key: new.attrs[key] for key in ("dataset_name", "institution", "time_units")}
    assert said == {"dataset_name": "b", "institution": "somewhere", "time_units": "days since 2000-01-01"}
    with h5py.File(done.path) as file:
        assert file["t0_fields/u"].chunks == (1, 1, 6, 4)
        assert file["t0_fields/u"].id.get_create_plist().get_nfilters() > 0


def test_the_cost_before_is_that_of_any_format(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", u=np.zeros((3, 4, 6, 4)))
    layout = Layout(dims=["trajectory", "time", "x", "y"], extent=1.0, boundary="periodic", time=0.5)
    (done,) = repack(tmp_path / "a.npz", tmp_path / "b.hdf5", layout=layout, progress=False)
    assert (done.worst_before, done.worst_after) == (12.0, 1.0)  # the archive unpacks all 12 frames for one


def test_snapshots_with_runs_are_refused(tmp_path: Path) -> None:
    x = xr.Dataset(
        {"u": (("sample", "x"), np.zeros((4, 6))), "trajectory": (("sample",), [0, 0, 1, 1])},
        coords={"x": np.arange(6.0)},
    )
    x.to_netcdf(tmp_path / "a.nc", engine="scipy")
    with pytest.raises(ValueError, match=r"a\.nc lists snapshots one by one"):
        repack(tmp_path / "a.nc", tmp_path / "b.hdf5", layout=Layout(boundary="periodic"), progress=False)
    assert not (tmp_path / "b.hdf5").exists()


def by_path(field: str) -> Layout:
    return Layout(fields={"u": field}, dims=["trajectory", "time", "x", "y"], extent=1.0, boundary="periodic", time=1.0)


@pytest.mark.parametrize("named", ["u", "/u", "alias", "soft"])
def test_names_and_references_lead_where_they_led(tmp_path: Path, named: str) -> None:
    """By whichever of its names a field is asked for; MATLAB's cells are references."""
    values = np.random.default_rng(4).standard_normal((3, 4, 6, 4))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", data=values, chunks=values.shape, compression="gzip")
        file["alias"], file["soft"] = file["u"], h5py.SoftLink("/u")
        file.create_group("inner")["up"] = file["/"]
        cells = file.create_dataset("cells", (3,), dtype=h5py.ref_dtype)
        cells[0], cells[1] = file["u"].ref, file["inner"].ref
        file.attrs["main"] = file["u"].ref
        file["inner"].attrs.create("both", [file["u"].ref, file["cells"].ref], dtype=h5py.ref_dtype)
        file["inner"].attrs["CLASS"] = "of its own"
    (done,) = repack(tmp_path / "a.h5", tmp_path / "b.h5", layout=by_path(named), progress=False)
    assert (done.worst_before, done.worst_after) == (12.0, 1.0)
    with h5py.File(done.path) as file:
        assert file["u"].chunks == (1, 1, 6, 4) and file["u"] == file["alias"] == file["soft"]
        assert file["inner/up"] == file["/"]
        cells = file["cells"]
        assert file[cells[0]] == file["u"] and file[cells[1]] == file["inner"] and not cells[2]
        assert file[file.attrs["main"]] == file["u"]
        assert [file[r].name for r in file["inner"].attrs["both"]][1] == "/cells"
        assert file["inner"].attrs["CLASS"] == "of its own"
        np.testing.assert_array_equal(file["u"][()], values)


def test_references_to_regions_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["u"] = np.zeros((3, 4, 6, 4))
        file.create_dataset("part", (1,), dtype=h5py.regionref_dtype)[0] = file["u"].regionref[0, 0]
    with pytest.raises(ValueError, match=r"a\.h5': '/part' refers to parts of datasets"):
        repack(tmp_path / "a.h5", tmp_path / "b.h5", layout=by_path("u"), progress=False)
    assert [f.name for f in tmp_path.iterdir()] == ["a.h5"]


def test_a_folder_keeps_its_other_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_the_well(tmp_path / "set" / "data" / split / "a.hdf5", {"u": np.ones((1, 2, 6, 4))}, GRID)
    (tmp_path / "set" / "card.md").write_text("card")
    done = repack(tmp_path / "set", tmp_path / "new", progress=False)
    assert sorted(d.path.relative_to(tmp_path / "new").as_posix() for d in done) == [
        "data/test/a.hdf5", "data/train/a.hdf5",
    ]  # fmt: skip
    assert (tmp_path / "new" / "card.md").read_text() == "card"
    assert len(load_fields(tmp_path / "new", split="train")) == 2
    with pytest.raises(ValueError, match=r"'.*new' exists already"):
        repack(tmp_path / "set", tmp_path / "new", progress=False)
    repack(tmp_path / "set", tmp_path / "new", overwrite=True, progress=False)


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = slow_file(tmp_path / "old.hdf5")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hdf5_copy._Copying, "_values", full)
    with pytest.raises(OSError, match=r"no room for .*new\.hdf5"):
        repack(old, tmp_path / "new.hdf5", progress=False)
    monkeypatch.undo()
    monkeypatch.setattr(hdf5_copy, "_same_bits", lambda a, b: False)
    with pytest.raises(ValueError, match=r"new\.hdf5'.* does not read back as it was"):
        repack(old, tmp_path / "new.hdf5", progress=False)
    assert [f.name for f in tmp_path.iterdir()] == ["old.hdf5"]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compression must be one of none, gzip, lzf, lz4, zstd; got 'zip'"):
        packing("zip")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        repack(tmp_path / "nothing.h5", tmp_path / "b.h5")
    with pytest.raises(FileNotFoundError, match="no HDF5 or netCDF file below"):
        repack(tmp_path, tmp_path / "b")
    path = slow_file(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=r"a\.h5"):
        repack(path, tmp_path / "b.h5", progress=False)
    assert not (tmp_path / "b.h5").exists()
