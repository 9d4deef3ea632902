"""Samples in memory to and from xarray: one variable a channel, all that goes with it told by attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from physdiff.data.agreement import unknown_field
from physdiff.data.axes import axis_attrs, check_centres, grid_from_axes
from physdiff.data.field_data import FieldData
from physdiff.grid import Grid


def to_xarray(data: FieldData) -> xr.Dataset:
    """See `FieldData.to_xarray`."""
    dims = ("sample", *data.grid.dims)
    variables: dict[str, Any] = {
        name: (dims, data.values[:, c], {"units": unit})
        for c, (name, unit) in enumerate(zip(data.names, data.units, strict=True))
    }
    coords: dict[str, Any] = {
        dim: ((dim,), data.grid.coordinate(axis), axis_attrs(data.grid, axis))
        for axis, dim in enumerate(data.grid.dims)
    }
    coords |= {"trajectory": (("sample",), data.trajectory), "time": (("sample",), data.time)}
    if data.given is not None:
        for c, (name, unit) in enumerate(zip(data.given_names, data.given_units, strict=True)):
            variables[f"given.{name}"] = (dims, data.given[:, c], {"units": unit, "role": "condition"})
    if data.scalars is not None:
        for c, name in enumerate(data.scalar_names):
            coords[f"number.{name}"] = (("sample",), data.scalars[:, c], {"role": "condition"})
    if data.classes is not None:
        coords[f"class.{data.class_name or 'class'}"] = (("sample",), data.classes, {"role": "class"})
    if data.observed is not None:
        for c, name in enumerate(data.names):
            variables[f"observed.{name}"] = (dims, data.observed[:, c], {"role": "observed"})
    return xr.Dataset(variables, coords=coords, attrs={"source": data.source})


def from_xarray(
    ds: xr.Dataset,
    grid: Grid | None = None,
    names: Sequence[str] | None = None,
    boundary: str | Sequence[str] | None = None,
    source: str | None = None,
) -> FieldData:
    """See `FieldData.from_xarray`."""
    source = source or str(ds.attrs.get("source", "dataset"))
    spatial = {
        str(name): tuple(str(dim) for dim in variable.dims if dim != "sample")
        for name, variable in ds.data_vars.items()
        if set(variable.dims) - {"sample"} and "role" not in variable.attrs
    }
    names = tuple(names) if names is not None else tuple(spatial)
    for name in names:
        if name not in ds.data_vars:
            raise unknown_field(source, name, spatial)
    if not names:
        raise ValueError(f"{source} holds no field: no variable has a spatial dimension.")
    dims = grid.dims if grid is not None else spatial.get(names[0], ())
    given = _with_role(ds, "given.", "condition")
    seen = {name: f"observed.{name}" for name in names if f"observed.{name}" in ds.data_vars}
    for name in (*names, *given.values(), *seen.values()):
        if set(ds[name].dims) != {"sample", *dims}:
            found = tuple(str(dim) for dim in ds[name].dims)
            raise ValueError(f"{source}: field '{name}' has dims {found}; expected {('sample', *dims)}.")
    for dim in dims:
        if dim not in ds.coords and grid is None:
            raise ValueError(f"{source}: dimension '{dim}' has no coordinate; expected its cell centres.")
    if grid is None:
        grid = grid_from_axes({dim: (ds[dim].values, ds[dim].attrs) for dim in dims}, boundary, source)
    else:
        _check_on_grid(ds, grid, source)
    n = ds.sizes["sample"]

    def stacked(variables: Sequence[str]) -> np.ndarray:
        return np.stack([_as_float(ds[name].transpose("sample", *dims).values) for name in variables], axis=1)

    values = stacked(names)
    observed = None
    if seen:
        observed = np.ones(values.shape, dtype=bool)
        for c, name in enumerate(names):
            if name in seen:
                observed[:, c] = ds[seen[name]].transpose("sample", *dims).values.astype(bool)
    numbers, classes = _with_role(ds, "number.", "condition"), _with_role(ds, "class.", "class")
    if len(classes) > 1:
        raise ValueError(f"{source} has {len(classes)} classes, {', '.join(classes)}; expected one.")
    scalars = [np.asarray(ds[name].values, dtype=np.float64) for name in numbers.values()]
    return FieldData(
        values=values,
        grid=grid,
        names=names,
        units=tuple(str(ds[name].attrs.get("units", "")) for name in names),
        trajectory=ds["trajectory"].values.astype(np.int64) if "trajectory" in ds else np.arange(n),
        time=ds["time"].values.astype(np.float64) if "time" in ds else np.zeros(n),
        source=source,
        given=stacked(tuple(given.values())) if given else None,
        given_names=tuple(given),
        given_units=tuple(str(ds[name].attrs.get("units", "")) for name in given.values()),
        scalars=np.stack(scalars, axis=1) if scalars else None,
        scalar_names=tuple(numbers),
        classes=ds[next(iter(classes.values()))].values.astype(np.int64) if classes else None,
        class_name=next(iter(classes), None),
        observed=observed,
    )


def _with_role(ds: xr.Dataset, prefix: str, role: str) -> dict[str, str]:
    """Name in the data set of each variable of a role, by its own name."""
    names = [str(name) for name in ds.variables if str(name).startswith(prefix)]
    return {name.removeprefix(prefix): name for name in names if ds[name].attrs.get("role") == role}


def _check_on_grid(ds: xr.Dataset, grid: Grid, source: str) -> None:
    for axis, dim in enumerate(grid.dims):
        if ds.sizes[dim] != grid.shape[axis]:
            raise ValueError(f"{source}: dimension '{dim}' has {ds.sizes[dim]} cells; the grid has {grid.shape[axis]}.")
        if dim in ds.coords:
            check_centres(dim, ds[dim].values, grid.origin[axis], grid.extent[axis], source)


def _as_float(values: np.ndarray) -> np.ndarray:
    # float32 holds every int16 exactly; wider integers need float64. Both are what numpy's promotion gives.
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)
