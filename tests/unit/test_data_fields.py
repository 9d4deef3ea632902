"""Fields through xarray, netCDF and folders, and what is refused."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physdiff.atomic import replacing_file, replacing_folder
from physdiff.data import FieldData, inspect, load_fields
from physdiff.data.axes import grid_from_axes
from physdiff.data.fields import concatenate
from physdiff.data.formats import netcdf
from physdiff.data.formats.the_well_writer import write_the_well
from physdiff.data.selection import Selection
from physdiff.grid import Grid

# Thirds: nothing here is exact in binary, so only stored attributes give the grid back exactly.
GRID = Grid((3, 4), extent=(1 / 3, 0.7), boundary=("periodic", "dirichlet"), units=("m", "km"), origin=(-0.1, 5))


def snapshots() -> FieldData:
    values = np.random.default_rng(0).standard_normal((5, 2, 3, 4)).astype(np.float32)
    runs, times = np.array([0, 0, 1, 1, 4]), np.array([0.0, 0.1, 0.0, 0.1, 0.3])
    return FieldData(values, GRID, ("u", "p"), ("m/s", ""), runs, times, "here")


def assert_same(a: FieldData, b: FieldData) -> None:
    assert (a.grid, a.names, a.units) == (b.grid, b.names, b.units)
    assert a.values.dtype == b.values.dtype
    for name in ("values", "trajectory", "time"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_xarray_and_netcdf_give_back_every_bit(tmp_path: Path) -> None:
    data = snapshots()
    assert_same(FieldData.from_xarray(data.to_xarray()), data)
    path = netcdf.write(tmp_path / "fields.nc", data.to_xarray())
    assert_same(load_fields(path), data)
    assert os.listdir(tmp_path) == ["fields.nc"]


def test_dataset_carries_coordinates_units_and_boundaries() -> None:
    ds = snapshots().to_xarray()
    assert ds["u"].dims == ("sample", "x", "y")
    assert (ds["u"].units, ds["x"].units, ds["y"].grid_boundary) == ("m/s", "m", "dirichlet")
    np.testing.assert_allclose(ds["x"].values, [-0.1 + 1 / 18, -0.1 + 3 / 18, -0.1 + 5 / 18], rtol=1e-14)


def test_order_of_dims_and_names_is_the_readers_choice() -> None:
    data = snapshots()
    ds = data.to_xarray().transpose("y", "sample", "x")
    ds["log_prob"] = (("sample",), np.zeros(5))
    some = FieldData.from_xarray(ds[["p", "u", "log_prob"]], grid=GRID, names=["p"])
    np.testing.assert_array_equal(some.values, data.values[:, 1:])
    assert FieldData.from_xarray(ds, grid=GRID).names == ("u", "p")


def test_a_field_in_seconds_stays_a_number(tmp_path: Path) -> None:
    data = dataclasses.replace(snapshots(), units=("s", "days since 2000-01-01"))
    assert_same(load_fields(netcdf.write(tmp_path / "seconds.nc", data.to_xarray())), data)


def test_bare_dataset_needs_only_a_boundary() -> None:
    x = np.linspace(0.5, 9.5, 10, dtype=np.float32)
    ds = xr.Dataset({"u": (("sample", "x"), np.arange(20).reshape(2, 10))}, coords={"x": x})
    with pytest.raises(ValueError, match="dimension 'x' has no boundary condition; pass boundary="):
        FieldData.from_xarray(ds)
    data = FieldData.from_xarray(ds, boundary="neumann")
    assert data.grid.boundary == ("neumann",) and data.grid.shape == (10,)
    # float32 coordinates: rounding of 9.5 relative.
    assert data.grid.extent[0] == pytest.approx(10, rel=1e-7) and data.grid.origin[0] == pytest.approx(0, abs=1e-6)
    assert data.trajectory.tolist() == [0, 1] and data.values.dtype == np.float64


def test_xarray_errors_name_field_dim_and_expectation() -> None:
    ds = snapshots().to_xarray()
    with pytest.raises(ValueError, match=r"here has no field 'uu'; it has u, p\. Did you mean 'u'\?"):
        FieldData.from_xarray(ds, names=["uu"])
    with pytest.raises(ValueError, match=r"field 'u' has dims \('x', 'y'\); expected \('sample', 'x', 'y'\)"):
        FieldData.from_xarray(ds.isel(sample=0))
    with pytest.raises(ValueError, match="dimension 'y' has no coordinate"):
        FieldData.from_xarray(ds.drop_vars("y"))
    with pytest.raises(ValueError, match=r"'x' run from -0\.0444444 to 0\.0666667; its origin -0\.1"):
        FieldData.from_xarray(ds.isel(x=slice(0, 2)))
    with pytest.raises(ValueError, match="dimension 'x' has 2 cells; the grid has 3"):
        FieldData.from_xarray(ds.isel(x=slice(0, 2)), grid=GRID)
    with pytest.raises(ValueError, match="holds no field"):
        FieldData.from_xarray(ds[["trajectory"]])
    shifted = dataclasses.replace(GRID, origin=(0.0, 5))
    with pytest.raises(ValueError, match="coordinates of dimension 'x' run from"):
        FieldData.from_xarray(ds, grid=shifted)


@pytest.mark.parametrize(
    ("centres", "message"),
    [
        ([0.0, 1.0, 2.5], r"equally spaced and increasing; their spacing runs from 1 to 1\.5"),
        ([2.0, 1.0, 0.0], "equally spaced and increasing; their spacing runs from -1 to -1"),
        ([0.0, np.nan, 2.0], "equally spaced"),
        ([1.0], "has one cell, so its extent cannot be told"),
        ([[0.0, 1.0]], r"coordinates of shape \(1, 2\)"),
    ],
)
def test_irregular_axes_are_refused(centres: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=r"^here: .*dimension 'x'") as error:
        grid_from_axes({"x": (np.array(centres), {})}, "periodic", "here")
    assert error.match(message)


def test_unknown_boundary_names_the_source() -> None:
    with pytest.raises(ValueError, match="here: unknown boundary 'open'"):
        grid_from_axes({"x": (np.arange(3.0), {})}, "open", "here")


def test_first_value_that_is_not_finite_is_named() -> None:
    values = snapshots().values.copy()
    values[3, 1, 2, 0] = np.nan
    with pytest.raises(
        ValueError,
        match=r"field 'p' holds nan at trajectory 1, frame 1, cell \(2, 0\); masked or missing values",
    ):
        dataclasses.replace(snapshots(), values=values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"names": ("u",), "units": ("",)},
            r"values have shape \(5, 2, 3, 4\); .* have shape \(5, 1, 3, 4\)",
        ),
        ({"names": ("u", "u")}, "names must differ"),
        ({"units": ("m",)}, "each have one unit"),
        ({"time": np.zeros(4)}, r"'time' has shape \(4,\); expected one per snapshot, \(5,\)"),
        ({"values": np.zeros((5, 2, 3, 4), dtype=np.int64)}, "values are int64; expected float32 or float64"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(snapshots(), **change)


def folder_with(path: Path, **grids: Grid) -> Path:
    for i, (name, grid) in enumerate(grids.items()):
        values = np.full((2, 3, *grid.shape), float(i))
        write_the_well(path / "data" / "train" / f"{name}.hdf5", {"u": values}, grid, time=np.arange(3.0))
    return path


def test_folder_joins_files_and_keeps_runs_apart(tmp_path: Path) -> None:
    data = load_fields(folder_with(tmp_path, a=GRID, b=GRID), split="train")
    assert data.trajectory.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert data.time.tolist() == [0, 1, 2] * 4 and len(data) == 12
    assert data.values[:, 0, 0, 0].tolist() == [0.0] * 6 + [1.0] * 6
    text = inspect(tmp_path)
    for part in (
        "train: 2 files",
        "valid: 0 files",
        "trajectories: 2, frames: 3, time: 0 to 2",
        "periodic, 0.333333 m",
    ):
        assert part in text


def test_folder_errors(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "set", a=GRID, b=dataclasses.replace(GRID, extent=(1.0, 0.7)))
    with pytest.raises(ValueError, match=r"files disagree: .*b\.hdf5 has grid 3 \(x, periodic, 1 m\).*a\.hdf5 has"):
        load_fields(folder, split="train")
    with pytest.raises(ValueError, match="needs a split, one of train, valid, test; got 'validation'"):
        load_fields(folder, split="validation")
    with pytest.raises(FileNotFoundError, match=r"no \.h5 or \.hdf5 files in '.*set/data/test'"):
        load_fields(folder, split="test")
    with pytest.raises(ValueError, match="is one file and has no split 'train'"):
        load_fields(folder / "data" / "train" / "a.hdf5", split="train")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_fields(tmp_path / "nowhere.hdf5")
    with pytest.raises(FileNotFoundError, match=r"no data files .* in"):
        inspect(tmp_path)


def test_unreadable_files(tmp_path: Path) -> None:
    for name, kind in (("a.nc", "netCDF"), ("a.hdf5", "HDF5")):
        (tmp_path / name).write_text("not HDF5")
        with pytest.raises(ValueError, match=rf"'.*{name}' is truncated or no {kind} file"):
            load_fields(tmp_path / name)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"ends in '\.csv'; physdiff reads \.h5, \.hdf5, \.nc"):
        load_fields(tmp_path / "a.csv")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), replacing_file(tmp_path / "a") as partial:
        partial.write_text("new")
        raise RuntimeError
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    with pytest.raises(RuntimeError), replacing_folder(folder, overwrite=True) as partial:
        (partial / "half").write_text("new")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "data", "set"]


def test_folders_are_replaced_only_when_asked_and_only_data_sets(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match="exists already; choose another folder or pass overwrite=True"):
        with replacing_folder(folder):
            pass
    with replacing_folder(folder, overwrite=True) as partial:
        (partial / "new").touch()
    assert [p.name for p in folder.iterdir()] == ["new"]
    with pytest.raises(ValueError, match="is of another kind"):
        with replacing_folder(folder, overwrite=True):
            pass
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["new", "set"]


def conditioned() -> FieldData:
    """Samples with every optional part, two cells of which hold no value."""
    rng = np.random.default_rng(1)
    data = snapshots()
    observed = np.ones(data.values.shape, dtype=bool)
    observed[2, 1, 0, 3] = observed[4, 0, 2, 2] = False
    return dataclasses.replace(
        data,
        values=np.where(observed, data.values, np.nan).astype(np.float32),
        given=rng.standard_normal((5, 3, 3, 4)).astype(np.float32),
        given_names=("u@-1", "p@-1", "depth"),
        given_units=("m/s", "", "m"),
        scalars=rng.standard_normal((5, 2)),
        scalar_names=("nu", "time"),
        classes=np.array([0, 3, 1, 1, 2]),
        class_name="kind",
        observed=observed,
    )


def test_conditions_and_masks_go_through_xarray_and_netcdf(tmp_path: Path) -> None:
    data = conditioned()
    path = netcdf.write(tmp_path / "a.nc", data.to_xarray())
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False, decode_timedelta=False) as stored:
        for again in (FieldData.from_xarray(data.to_xarray()), FieldData.from_xarray(stored.load())):
            assert_same(again, data)
            for name in ("given_names", "given_units", "scalar_names", "class_name"):
                assert getattr(again, name) == getattr(data, name)
            for name in ("given", "scalars", "classes", "observed"):
                np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
                assert getattr(again, name).dtype == getattr(data, name).dtype
    # Read as a file like any other, its fields are those of the samples.
    opened = load_fields(path, selection=Selection(mask="nan", condition=("given.depth",)))
    assert opened.names == ("u", "p") and opened.trajectory.tolist() == [0, 0, 1, 1, 4]
    np.testing.assert_array_equal(opened.values, data.values)
    np.testing.assert_array_equal(opened.observed, data.observed)
    np.testing.assert_array_equal(opened.given, data.given[:, 2:])
    one = FieldData.from_xarray(data.to_xarray(), names=["p"])
    np.testing.assert_array_equal(one.observed, data.observed[:, 1:])


def test_parts_of_samples_stay_together() -> None:
    data = conditioned()
    assert data.is_conditioned and not snapshots().is_conditioned
    some = data.rows(np.array([4, 2]))
    for name in ("values", "given", "scalars", "classes", "observed", "trajectory", "time"):
        np.testing.assert_array_equal(getattr(some, name), getattr(data, name)[[4, 2]])
    p = data.select(["p"])
    np.testing.assert_array_equal(p.observed, data.observed[:, 1:])
    assert p.given is data.given and len(data.first(2).classes) == 2
    both = concatenate([data, dataclasses.replace(data, observed=None, values=snapshots().values)], "both")
    assert both.observed.shape == both.values.shape and both.observed[5:].all() and not both.observed[:5].all()
    assert both.scalars.shape == (10, 2) and both.trajectory.tolist() == [0, 0, 1, 1, 4, 5, 5, 6, 6, 9]
    with pytest.raises(ValueError, match="files disagree: here has the condition"):
        concatenate([data, snapshots()], "both")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"given": np.zeros((5, 2, 3, 4))}, r"'given' has shape \(5, 2, 3, 4\); expected \(5, 3, 3, 4\)"),
        ({"given_names": ("a", "a", "b")}, "names must differ"),
        ({"scalars": None}, "come with their names, or not at all"),
        ({"scalars": np.full((5, 2), np.nan)}, "number 'nu' of snapshot 0 is nan"),
        ({"classes": np.array([0, 1, 2, 3, -1])}, "expected int64, at least 0"),
        ({"classes": np.zeros(5)}, "classes are float64"),
        ({"observed": np.ones((5, 2, 3, 4))}, "'observed' is float64"),
        ({"observed": None}, r"'p' holds nan at trajectory 1, frame 0, cell \(0, 3\); .*data\.mask nan"),
        ({"observed": np.ones((5, 2, 3, 4), dtype=bool)}, r"'p' holds nan .*; expected a finite value"),
        ({"given": np.full((5, 3, 3, 4), np.inf)}, "'u@-1' holds inf"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(conditioned(), **change)
