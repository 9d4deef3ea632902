"""netCDF files of weather services (iris-sample-data), read by xarray and by physdiff: every entry the same."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import peer

from physdiff.data.formats import open_source
from physdiff.data.layout import Layout

pytestmark = pytest.mark.peers

# File, its field, and the axes of the grid: packed and plain numbers, 360 days a year, rotated and projected grids.
FILES = (
    ("A1B_north_america.nc", "air_temperature", ("latitude", "longitude")),
    ("E1_north_america.nc", "air_temperature", ("latitude", "longitude")),
    ("ostia_monthly.nc", "surface_temperature", ("latitude", "longitude")),
    ("hybrid_height.nc", "air_potential_temperature", ("model_level_number", "grid_latitude", "grid_longitude")),
    ("rotated_pole.nc", "air_pressure_at_sea_level", ("grid_latitude", "grid_longitude")),
    ("toa_brightness_stereographic.nc", "data", ("y", "x")),
)
# Curvilinear or stretched grids, a series without a grid, a mesh: no box of equal cells.
OTHERS = (
    "SOI_Darwin.nc", "atlantic_profiles.nc", "mesh_C4_synthetic_float.nc", "orca2_votemper.nc", "space_weather.nc",
    "vlstr_type.nc",
)  # fmt: skip


def folder() -> Path:
    return Path(peer("iris_sample_data").path)


@pytest.mark.parametrize(("name", "field", "dims"), FILES, ids=[f[0] for f in FILES])
def test_every_entry_is_that_of_xarray(name: str, field: str, dims: tuple[str, ...]) -> None:
    source = open_source(folder() / name, Layout(boundary="neumann"))
    variable = next(v for v in pickle.loads(pickle.dumps(source)).variables if v.name == field)
    with xr.open_dataset(folder() / name, decode_times=False) as expected:
        stored = expected[field]
        order = [d for d in ("time", *dims) if d in stored.dims]
        for dim in dims:
            if stored[dim].values[0] > stored[dim].values[-1]:
                stored = stored.isel({dim: slice(None, None, -1)})
        found = variable.view.read(order)
        np.testing.assert_array_equal(found, stored.transpose(*order).values)
        assert found.dtype == stored.dtype and variable.units == stored.attrs.get("units", "")
        assert source.grid.dims == dims and source.grid.shape == tuple(stored.sizes[d] for d in dims)
        for axis, dim in enumerate(dims):
            np.testing.assert_allclose(
                source.grid.coordinate(axis), stored[dim].values, rtol=0, atol=_rounding(stored[dim])
            )
        if "time" in stored.dims:
            np.testing.assert_array_equal(source.times[0], expected["time"].values)
        assert source.attrs["time_units"] == expected["time"].attrs["units"]


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_box_of_equal_cells_is_one_sentence(name: str) -> None:
    said = r"(holds no field|equally spaced|extent=|have one grid)"
    with pytest.raises(ValueError, match=rf"{name.replace('.', '[.]')}.* {said}"):
        open_source(folder() / name, Layout(boundary="neumann"))


def _rounding(centres: xr.DataArray) -> float:
    """What a regular axis may differ by: a thousandth of a cell, and the rounding of stored float32."""
    values = centres.values.astype(np.float64)
    return float(1e-3 * abs(values[1] - values[0]) + 4 * np.finfo(np.float32).eps * np.abs(values).max())
