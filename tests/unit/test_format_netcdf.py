"""netCDF 3 and 4 and xarray objects: every value as xarray decodes it, axes by name, and what is unclear refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from scipy.io import netcdf_file

from physdiff.data.decoded import unpacked
from physdiff.data.formats import find_format, open_source, source_of
from physdiff.data.layout import Layout
from physdiff.data.source import Source
from physdiff.data.stored import MemoryArray

RNG = np.random.default_rng(2)
LAT, LON = np.linspace(80, -80, 5), np.arange(8) * 45.0
PERIODIC = Layout(boundary=["neumann", "periodic"])


def weather() -> xr.Dataset:
    """Two members of three times, latitudes from north to south, with a mark, a mask of the sea and a static field."""
    axes = ("member", "time", "lat", "lon")
    values = RNG.standard_normal((2, 3, 5, 8)) * 20 + 280
    values[0, 1, 2, 3] = np.nan
    return xr.Dataset(
        {
            "t2m": (axes, values, {"units": "K"}),
            "orography": (("lat", "lon"), RNG.uniform(0, 9, (5, 8)).astype(np.float32), {"units": "m"}),
            "co2": (("time",), np.array([400.0, 401, 402])),
        },
        coords={
            "lat": (("lat",), LAT, {"units": "degrees_north"}),
            "lon": (("lon",), LON, {"units": "degrees_east"}),
            "time": (("time",), np.array([0.0, 30, 60]), {"units": "days since 2000-01-01", "calendar": "360_day"}),
        },
    )  # fmt: skip


PACKED = {"t2m": {"dtype": "i2", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768}}
WRITERS: dict[str, dict[str, Any]] = {
    "netCDF4": {"engine": "h5netcdf"},
    "netCDF4 packed": {"engine": "h5netcdf", "encoding": PACKED},
    "netCDF4 chunked": {"engine": "h5netcdf", "encoding": {"t2m": {"chunksizes": (1, 2, 3, 4), "zlib": True}}},
    "netCDF3": {"engine": "scipy"},
    "netCDF3 packed": {"engine": "scipy", "encoding": PACKED},
    "netCDF3 records": {"engine": "scipy", "unlimited_dims": ["time"]},
}


def whole(source: Source, name: str, order: tuple[str, ...]) -> np.ndarray:
    """A field, and the same from a copy through pickle."""
    view = {v.name: v.view for v in source.variables}[name]
    found = view.read(order)
    again = {v.name: v.view for v in pickle.loads(pickle.dumps(source)).variables}[name]
    np.testing.assert_array_equal(again.read(order), found)
    return found


@pytest.mark.parametrize("kind", WRITERS)
def test_values_are_those_of_xarray_in_named_order(tmp_path: Path, kind: str) -> None:
    path, dataset = tmp_path / "a.nc", weather()
    if "records" in kind:
        dataset = dataset.transpose("time", ...)
    dataset.to_netcdf(path, **WRITERS[kind])
    with xr.open_dataset(path, engine=WRITERS[kind]["engine"], decode_times=False) as file:
        expected = file.load()
    source = open_source(path, PERIODIC)
    assert find_format(path).name == source.schema == "netcdf"
    assert set(source.names) == {"t2m", "orography"} and source.trajectories == 2
    found = whole(source, "t2m", ("trajectory", "time", "lat", "lon"))
    # Rows from south to north, as the grid counts.
    np.testing.assert_array_equal(found, expected["t2m"].transpose("member", "time", "lat", "lon").values[:, :, ::-1])
    assert found.dtype == expected["t2m"].dtype and np.isnan(found[0, 1, 2, 3]) and np.isnan(found).sum() == 1
    np.testing.assert_array_equal(whole(source, "orography", ("lon", "lat")), expected["orography"].values[::-1].T)
    part = {v.name: v.view for v in source.variables}["t2m"].read(
        ("time", "lat"), {"trajectory": 1, "lon": 6, "lat": slice(1, 4, 2)}
    )
    np.testing.assert_array_equal(part, found[1, :, 1:4:2, 6])
    grid = source.grid
    assert (grid.dims, grid.shape, grid.units) == (("lat", "lon"), (5, 8), ("degrees_north", "degrees_east"))
    assert grid.extent == pytest.approx((200, 360)) and grid.origin == pytest.approx((-100, -22.5))
    assert source.times.tolist() == [[0, 30, 60]] * 2
    assert source.attrs["time_units"] == "days since 2000-01-01" and source.attrs["time_calendar"] == "360_day"
    assert source.scalars["co2"].tolist() == [400, 401, 402] and source.scalar_dims["co2"] == ("time",)
    assert {v.name: v.units for v in source.variables} == {"t2m": "K", "orography": "m"}


def test_packing_of_every_type_is_that_of_xarray(tmp_path: Path) -> None:
    stored = {
        "byte": (np.arange(-8, 8, dtype="i1"), {"scale_factor": np.float32(0.1)}),
        "unsigned": (
            np.arange(-8, 8, dtype="i1"), {"_Unsigned": "true", "scale_factor": 0.5, "_FillValue": np.int8(-1)},
        ),
        "short": (np.arange(16, dtype="i2"), {"add_offset": 1e6, "missing_value": np.int16(3)}),
        "both": (
            np.arange(16, dtype="i2"),
            {"scale_factor": np.float32(0.3), "add_offset": np.float32(7), "_FillValue": np.int16(5)},
        ),
        "int": (np.arange(16, dtype="i4"), {"scale_factor": np.float32(0.3), "add_offset": np.float32(7)}),
        "marked": (np.arange(16, dtype="i4"), {"_FillValue": np.int32(5), "missing_value": np.int32(6)}),
        "float": (np.arange(16, dtype="f4"), {"_FillValue": np.float32(1e20), "missing_value": np.float32(9)}),
        "double": (np.arange(16, dtype="f8"), {"scale_factor": 1 / 3}),
        "plain": (np.arange(16, dtype="i4"), {}),
        "nan": (np.array([1, np.nan] * 8, dtype="f4"), {"_FillValue": np.float32(np.nan)}),
    }  # fmt: skip
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["x"] = np.arange(16) / 16
        file["x"].make_scale("x")
        for name, (values, attrs) in stored.items():
            file[name] = values
            file[name].dims[0].attach_scale(file["x"])
            file[name].attrs.update(attrs)
    source = open_source(tmp_path / "a.nc", Layout(boundary="periodic"))
    # xarray warns of two marks that differ, and takes both.
    with pytest.warns(xr.SerializationWarning), xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as expected:
        for name in stored:
            found = whole(source, name, ("x",))
            np.testing.assert_array_equal(found, expected[name].values, err_msg=name)
            assert found.dtype == expected[name].dtype, name


def test_a_mark_of_64_bits_marks_itself_alone() -> None:
    # Neighbours are one number in float64; xarray takes all of them for missing.
    array = unpacked(MemoryArray(np.arange(16) + 2**62), {"_FillValue": np.int64(2**62 + 3)})
    assert np.flatnonzero(np.isnan(array.read((slice(None),)))).tolist() == [3]


def test_record_variables_of_netcdf3_that_interleave(tmp_path: Path) -> None:
    """Written by scipy alone: two record variables share each record, and one is of 2 bytes, padded to 4."""
    a, b = RNG.standard_normal((3, 5)), RNG.integers(-9, 9, (3, 3)).astype(np.int16)
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", None)
        file.createDimension("x", 5)
        file.createDimension("short", 3)
        for name, dims, kind, values in (
            ("b", ("time", "short"), "i2", b), ("a", ("time", "x"), "f8", a),
            ("time", ("time",), "f4", np.arange(3) * 0.5), ("x", ("x",), "f4", np.arange(5)),
            ("short", ("short",), "f8", np.arange(3)),
        ):  # fmt: skip
            file.createVariable(name, kind, dims)[:] = values
    np.testing.assert_array_equal(
        whole(open_source(tmp_path / "a.nc", Layout(fields={"b": "b"}, boundary="periodic")), "b", ("time", "short")), b
    )
    source = open_source(tmp_path / "a.nc", Layout(fields={"v": ["a", "m/s"]}, boundary="periodic"))
    np.testing.assert_array_equal(whole(source, "v", ("x", "time")), a.T)
    assert source.times.tolist() == [[0, 0.5, 1]] and source.variables[0].units == "m/s"
    # Both are on axes of a grid, but not of one.
    with pytest.raises(ValueError, match=r"no coordinates|have one grid|boundary"):
        open_source(tmp_path / "a.nc")


def test_samples_of_physdiff_are_snapshots_of_runs(tmp_path: Path) -> None:
    dataset = xr.Dataset(
        {
            "u": (("sample", "x"), RNG.standard_normal((4, 6)).astype(np.float32)),
            "log_prob": (("sample",), np.arange(4.0)),
        },
        coords={
            "x": np.arange(6) + 0.5,
            "trajectory": (("sample",), [0, 0, 3, 3]),
            "time": (("sample",), [0.0, 1, 0, 2]),
        },
    )
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    for source in (
        open_source(tmp_path / "a.nc", Layout(boundary="periodic")),
        source_of(dataset, {"boundary": "periodic"}),
    ):
        assert source.labels is not None and source.labels.tolist() == [0, 0, 3, 3]
        assert source.times.tolist() == [[0], [1], [0], [2]] and source.names == ("u",)
        np.testing.assert_array_equal(whole(source, "u", ("trajectory", "x")), dataset["u"].values)
        assert source.scalars["log_prob"].tolist() == [0, 1, 2, 3]


def test_levels_become_variables_and_single_cells_go(tmp_path: Path) -> None:
    values = RNG.standard_normal((3, 2, 5, 8, 1))
    dataset = xr.Dataset(
        {
            "temperature": (
                ("time", "level", "longitude", "latitude", "height"),
                values.transpose(0, 1, 3, 2, 4),
            )
        },
        coords={"level": [500, 850], "time": np.arange(3.0), "latitude": LAT, "longitude": LON, "height": [2.0]},
    )
    source = source_of(dataset, Layout(boundary=["periodic", "neumann"]))
    assert source.names == ("temperature_500", "temperature_850") and source.grid.dims == ("longitude", "latitude")
    np.testing.assert_array_equal(
        whole(source, "temperature_850", ("time", "latitude", "longitude")), values[:, 1, ::-1, :, 0]
    )


def test_xarray_objects_of_every_kind() -> None:
    dataset = weather()
    dataset["time"] = np.array(["2000-01-01", "2000-01-02", "2000-01-03T12:00"], dtype="datetime64[ns]")
    source = source_of(dataset["t2m"], {"boundary": "periodic"}, name="mine")
    assert source.path == "mine" and source.attrs["time_units"] == "seconds since 1970-01-01"
    np.testing.assert_allclose(np.diff(source.times[0]), [86400, 129600], rtol=0)
    np.testing.assert_array_equal(
        whole(source, "t2m", ("trajectory", "time", "lat", "lon")), dataset["t2m"].values[:, :, ::-1]
    )
    unnamed = source_of(xr.DataArray(np.eye(3), dims=("x", "y")), {"boundary": "periodic", "extent": 1.0})
    assert unnamed.names == ("data",)


def test_dims_names_axes_anew() -> None:
    dataset = xr.Dataset({"u": (("a", "b", "c"), np.arange(24.0).reshape(2, 3, 4))}, coords={"c": np.arange(4.0)})
    layout = Layout(dims=["time", "trajectory", "x"], boundary="periodic", time=0.5)
    source = source_of(dataset, layout)
    np.testing.assert_array_equal(
        whole(source, "u", ("trajectory", "time", "x")), dataset["u"].values.transpose(1, 0, 2)
    )
    assert source.grid.dims == ("x",) and source.grid.extent == (4.0,)
    with pytest.raises(ValueError, match=r"field 'u' has the axes a, b, c; dims= \(--data.layout.dims\) names 2: a, x"):
        source_of(dataset, Layout(dims=["a", "x"], boundary="periodic"))


def test_times_and_numbers_of_each_run_whatever_their_order() -> None:
    times, power = np.array([[0.0, 1, 2], [0, 5, 7]]), np.arange(6.0).reshape(2, 3)
    dataset = xr.Dataset(
        {"u": (("time", "run", "x"), RNG.standard_normal((3, 2, 4))), "power": (("time", "run"), power.T)},
        coords={"x": np.arange(4.0), "when": (("time", "run"), times.T)},
    )
    source = source_of(dataset, {"boundary": "periodic", "time": "when"})
    np.testing.assert_array_equal(source.times, times)
    np.testing.assert_array_equal(source.scalars["power"], power)
    assert source.scalar_dims["power"] == ("trajectory", "time")


def test_where_in_its_cell_a_field_sits_is_kept(tmp_path: Path) -> None:
    """JAX-CFD's velocities sit on faces; that all do on the same leaves one grid, half a cell aside."""
    x = xr.Dataset({"u": (("x", "y"), np.eye(4), {"offset": [1, 0.5]})}, coords={d: np.arange(4.0) for d in "xy"})
    x.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert open_source(tmp_path / "a.nc", Layout(boundary="periodic")).attrs["u.offset"] == "[1.0, 0.5]"


def unclear() -> dict[str, tuple[xr.Dataset, dict[str, Any], str]]:
    base = weather()
    twice = base.rename(lon="run").drop_vars("run")
    staggered = xr.Dataset(
        {"u": (("x", "y"), np.eye(4), {"offset": [1, 0.5]}), "v": (("x", "y"), np.eye(4), {"offset": [0.5, 1]})},
        coords={"x": np.arange(4.0), "y": np.arange(4.0)},
    )
    stretched = base.assign_coords(lon=LON**1.1)
    return {
        "two kinds of runs": (twice, {}, r"the axes member and run could both be the trajectory; .*dims= \(--data"),
        "forecast": (
            base[["t2m"]].rename(lat="prediction_timedelta"), {"boundary": "periodic"},
            r"could both be the time; .*dims= \(--data",
        ),
        "staggered": (staggered, {}, r"'u' at \(1.0, 0.5\), 'v' at \(0.5, 1.0\): a staggered grid"),
        "stretched": (stretched, {"boundary": "periodic"}, "must be equally spaced"),
        "no boundary": (base, {}, r"dimension 'lat' has no boundary condition; pass boundary="),
        "no coordinate": (base.drop_vars("lon"), {"boundary": "periodic"}, r"no coordinates along 'lon'; pass extent="),
        "unknown field": (base, {"fields": {"t": "tm2"}}, r"no variable 'tm2', the field 't'\. Did you mean 't2m'\?"),
        "no field": (base[["co2"]], {}, r"no variable has a spatial dimension; it holds co2 \('time',\)"),
        "no times": (base.drop_vars("time"), {"boundary": "periodic"}, "says nothing of the times of its 3 frames"),
        "two grids": (
            base[["t2m"]].assign(w=(("time", "lat", "depth"), np.zeros((3, 5, 2)))).assign_coords(depth=[0.0, 1.0]),
            {"boundary": "periodic"}, r"field 'w' is on the axes lat, depth and 't2m' on lat, lon; .* fields= \(--data",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("case", unclear())
def test_what_is_unclear_is_refused(case: str) -> None:
    dataset, layout, message = unclear()[case]
    with pytest.raises(ValueError, match=message):
        source_of(dataset, layout)


def test_groups_of_netcdf4(tmp_path: Path) -> None:
    weather().to_netcdf(tmp_path / "a.nc", engine="h5netcdf", group="deep/down")
    source = open_source(tmp_path / "a.nc", Layout.of(PERIODIC, group="deep/down"))
    assert set(source.names) == {"t2m", "orography"}
    with pytest.raises(ValueError, match=r"holds no field: .* Its groups: deep/down; say which with group= \(--data"):
        open_source(tmp_path / "a.nc", Layout.of(PERIODIC))
    with pytest.raises(ValueError, match="has no group 'nowhere'"):
        open_source(tmp_path / "a.nc", Layout(group="nowhere"))
    weather().to_netcdf(tmp_path / "b.nc", engine="scipy")
    with pytest.raises(ValueError, match="netCDF of version 3, which has no groups"):
        open_source(tmp_path / "b.nc", Layout(group="deep"))


def test_truncated_files_are_named(tmp_path: Path) -> None:
    for engine in ("h5netcdf", "scipy"):
        weather().to_netcdf(tmp_path / "a.nc", engine=engine)
        content = (tmp_path / "a.nc").read_bytes()
        for length in (600, len(content) // 2, len(content) - 9):
            (tmp_path / "b.nc").write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"b\.nc'.* (is truncated|stops|damaged|claims)"):
                whole(open_source(tmp_path / "b.nc", PERIODIC), "t2m", ("trajectory", "time", "lat", "lon"))
    (tmp_path / "c.nc").write_bytes(b"CDF\x05" + bytes(100))
    with pytest.raises(ValueError, match=r"c\.nc' is netCDF with 64-bit data \(CDF-5\)"):
        open_source(tmp_path / "c.nc")


@pytest.mark.parametrize("runs", ["samples", "runs", "batch", "Ensemble_Member"])
def test_runs_by_other_names_are_no_axis_of_the_grid(runs: str) -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 4))
    x = xr.Dataset(
        {"u": ((runs, "time", "x"), values)},
        coords={runs: np.arange(2), "time": np.arange(3.0), "x": np.arange(4.0)},
    )
    source = source_of(x, {"boundary": "periodic"})
    assert (source.trajectories, source.frames, source.grid.dims) == (2, 3, ("x",))


def test_a_time_is_told_by_its_unit_and_channels_by_their_words(tmp_path: Path) -> None:
    """ROMS's ocean_time and NEMO's time_counter are no axes of the grid; channels stacked in one array are fields."""
    values = RNG.standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
    said = {"units": "seconds since 1900-01-01"}
    dataset = xr.Dataset(
        {"state": (("run", "ocean_time", "what", "y", "x"), values)},
        coords={
            "ocean_time": (("ocean_time",), np.array([0.0, 60, 120]), said), "what": ["rho", "p", "vx", "vy"],
            "y": np.arange(5.0), "x": np.arange(6.0),
        },
    )  # fmt: skip
    path = tmp_path / "a.nc"
    dataset.to_netcdf(path, engine="h5netcdf")
    layout = Layout(boundary="periodic", vectors={"v": ["vy", "vx"]})
    for source in (open_source(path, layout), source_of(dataset, layout)):
        assert source.names == ("rho", "p", "vx", "vy") and source.grid.dims == ("y", "x")
        assert (source.trajectories, source.times.tolist()) == (2, [[0, 60, 120]] * 2)
        found = [v.view.read(("trajectory", "time", "y", "x")) for v in source.variables]
        np.testing.assert_array_equal(np.stack(found, 2), values)
    numbered = source_of(dataset.drop_vars("what").rename(what="channel"), Layout(boundary="periodic"))
    assert numbered.names == ("state_0", "state_1", "state_2", "state_3")
    stretched = dataset.isel(what=0).assign_coords(y=[0.0, 1, 3, 6, 10])
    with pytest.raises(ValueError, match=r"their spacing runs from 1 to 4.*call 'y' component in dims="):
        source_of(stretched, Layout(boundary="periodic"))
