"""Files in The Well's HDF5 schema, from arrays of trajectories, and the statistics that go beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from physdiff.atomic import replacing_file
from physdiff.data.axes import axis_attrs
from physdiff.data.fields import load_fields
from physdiff.grid import Grid

# A clamped wall has no code of its own; axis_attrs keeps the word.
_CODE_OF_BOUNDARY = {"periodic": "PERIODIC", "neumann": "WALL", "dirichlet": "WALL"}


def write_the_well(
    path: str | Path,
    fields: Mapping[str, np.ndarray],
    grid: Grid,
    *,
    units: Mapping[str, str] | None = None,
    time: np.ndarray | None = None,
    parameters: Mapping[str, float | np.ndarray] | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
    compression: str | None = None,
) -> Path:
    """Write scalar fields of several trajectories to one file, whole or not at all.

    Args:
        path: File to make or replace, `<base>/data/<split>/<name>.hdf5` in a data set.
        fields: By name, in physical units, each of shape (trajectories, frames, *grid), finite.
        grid: Where the fields live; it reads back exactly.
        units: Unit of each field, `""` where not given.
        time: Time of each frame, shape (frames,) or (trajectories, frames); 0, 1, ... when not given.
        parameters: What the runs were made with: one number, or one per trajectory, shape (trajectories,).
        attrs: Further attributes of the file, such as `dataset_name`.
        compression: "gzip" or "lzf" packs frame by frame; None stores the array in one piece, the fastest to
            read.

    Returns:
        The path.

    Raises:
        ValueError: a field is not of the stated shape or not finite, or the times do not fit the frames.
    """
    path, fields = Path(path), {name: np.asarray(values) for name, values in fields.items()}
    trajectories, frames = _check_fields(fields, grid, units or {})
    time = np.arange(frames, dtype=np.float64) if time is None else np.asarray(time, dtype=np.float64)
    if time.shape not in ((frames,), (trajectories, frames)):
        raise ValueError(f"time has shape {time.shape}; expected ({frames},) or ({trajectories}, {frames}).")
    with replacing_file(path) as partial, h5py.File(partial, "w") as file:
        file.attrs["dataset_name"] = path.stem
        for key, value in (attrs or {}).items():
            file.attrs[key] = value
        file.attrs["grid_type"] = "cartesian"
        file.attrs["n_spatial_dims"] = grid.ndim
        file.attrs["n_trajectories"] = trajectories
        _write_dimensions(file, grid, time)
        _write_boundaries(file, grid)
        _write_parameters(file, parameters or {}, trajectories)
        for order, members in enumerate((fields, {}, {})):
            group = file.create_group(f"t{order}_fields")
            group.attrs["field_names"] = _names(members)
            for name, values in members.items():
                chunks = (1, 1, *grid.shape) if compression else None
                dataset = group.create_dataset(name, data=values, compression=compression, chunks=chunks)
                _vary(dataset, sample=True, time=True)
                dataset.attrs["dim_varying"] = [True] * grid.ndim
                dataset.attrs["units"] = (units or {}).get(name, "")
    return path


def _check_fields(fields: Mapping[str, np.ndarray], grid: Grid, units: Mapping[str, str]) -> tuple[int, int]:
    if not fields:
        raise ValueError("no field to write; expected at least one.")
    first = next(iter(fields.values()))
    expected = (*first.shape[:2], *grid.shape)
    for name, values in fields.items():
        if values.shape != expected or 0 in expected:
            raise ValueError(
                f"field '{name}' has shape {values.shape}; expected (trajectories, frames, *grid) "
                f"with a grid of {grid.shape} cells, alike for all fields."
            )
        if not np.isfinite(values).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise ValueError(
                f"field '{name}' holds {values[where]} at (trajectory, frame, *cell) {where}; not written."
            )
    if set(units) - set(fields):
        raise ValueError(f"units are given for {sorted(units)}; the fields are {sorted(fields)}.")
    return expected[0], expected[1]


def _write_dimensions(file: h5py.File, grid: Grid, time: np.ndarray) -> None:
    group = file.create_group("dimensions")
    group.attrs["spatial_dims"] = _names(grid.dims)
    _vary(group.create_dataset("time", data=time), sample=time.ndim == 2, time=True)
    for axis, dim in enumerate(grid.dims):
        centres = group.create_dataset(dim, data=grid.coordinate(axis))
        _vary(centres, sample=False, time=False)
        centres.attrs.update(axis_attrs(grid, axis))


def _write_boundaries(file: h5py.File, grid: Grid) -> None:
    group = file.create_group("boundary_conditions")
    for axis, dim in enumerate(grid.dims):
        code = _CODE_OF_BOUNDARY[grid.boundary[axis]]
        side = group.create_group(f"{dim}_{code.lower()}")
        side.attrs["associated_dims"] = _names([dim])
        side.attrs["associated_fields"] = _names([])
        side.attrs["bc_type"] = code
        _vary(side, sample=False, time=False)
        mask = np.zeros(grid.shape[axis], dtype=bool)
        mask[[0, -1]] = True
        side.create_dataset("mask", data=mask)


def _write_parameters(file: h5py.File, parameters: Mapping[str, float | np.ndarray], trajectories: int) -> None:
    file.attrs["simulation_parameters"] = _names([name for name in parameters if np.ndim(parameters[name]) == 0])
    group = file.create_group("scalars")
    group.attrs["field_names"] = _names(parameters)
    for name, value in parameters.items():
        values = np.asarray(value)
        if values.shape not in ((), (trajectories,)):
            raise ValueError(f"parameter '{name}' has shape {values.shape}; expected () or ({trajectories},).")
        if values.ndim == 0:
            file.attrs[name] = value
        _vary(group.create_dataset(name, data=values), sample=values.ndim == 1, time=False)


def _vary(item: h5py.Dataset | h5py.Group, sample: bool, time: bool) -> None:
    item.attrs["sample_varying"] = sample
    item.attrs["time_varying"] = time


def _names(names: Any) -> np.ndarray:
    return np.array(list(names), dtype=h5py.string_dtype())


def write_stats(folder: str | Path) -> Path:
    """Write `stats.yaml`: mean, standard deviation and root mean square of each field in the training split.

    The keys ending in `_delta` are those of the change from frame to frame; they are empty for single frames.

    Args:
        folder: Data set in The Well's layout.

    Returns:
        The path of the file.
    """
    data = load_fields(folder, split="train")
    stats: dict[str, dict[str, float]] = {
        f"{statistic}{suffix}": {} for suffix in ("", "_delta") for statistic in ("mean", "std", "rms")
    }
    consecutive = data.trajectory[1:] == data.trajectory[:-1]
    for channel, name in enumerate(data.names):
        values = data.values[:, channel].astype(np.float64)
        for suffix, x in (("", values), ("_delta", (values[1:] - values[:-1])[consecutive])):
            if x.size:
                stats[f"mean{suffix}"][name] = float(x.mean())
                stats[f"std{suffix}"][name] = float(x.std())
                stats[f"rms{suffix}"][name] = float(np.sqrt(np.mean(x**2)))
    path = Path(folder) / "stats.yaml"
    with replacing_file(path) as partial:
        partial.write_text(yaml.safe_dump(stats, sort_keys=False))
    return path
