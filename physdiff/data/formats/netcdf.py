"""netCDF files through xarray: variables on ("sample", *grid dims), with coordinates and boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from physdiff.atomic import replacing_file
from physdiff.data.fields import FieldData


def read(
    path: str | Path, names: Sequence[str] | None = None, boundary: str | Sequence[str] | None = None
) -> FieldData:
    """Snapshots in one netCDF file; see `FieldData.from_xarray` for what it must hold."""
    try:
        # A field in seconds is a number, not a date: xarray would decode its unit.
        with xr.open_dataset(path, engine="h5netcdf", decode_times=False, decode_timedelta=False) as file:
            dataset = file.load()
    except OSError as error:
        raise ValueError(f"'{path}' is truncated or no netCDF file: {error}.") from error
    return FieldData.from_xarray(dataset, names=names, boundary=boundary, source=str(path))


def write(path: str | Path, dataset: xr.Dataset) -> Path:
    """Write a data set (`FieldData.to_xarray`) whole or not at all; returns the path."""
    with replacing_file(path) as partial:
        dataset.to_netcdf(partial, engine="h5netcdf")
    return Path(path)
