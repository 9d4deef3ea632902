"""Snapshots of physical fields, with the grid, names and units that give the numbers a meaning.

Every file format becomes one `FieldData`; everything later (normalisation, training, likelihood) sees only
that. All snapshots are held in memory (C).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from physdiff.data.axes import axis_attrs, check_centres, grid_from_axes
from physdiff.grid import Grid

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class FieldData:
    """Snapshots of named variables on one grid, in physical units.

    Attributes:
        values: Shape (n, channels, *grid), float32 or float64 as stored, finite.
        grid: Where the values live.
        names: Name of each channel.
        units: Unit of each channel, `""` if dimensionless or unknown.
        trajectory: Which simulation run a snapshot comes from, shape (n,), integer, unique across files.
        time: Time of each snapshot in its run, shape (n,), float64.
        source: File or folder the snapshots come from.

    Raises:
        ValueError: the parts do not fit each other, or a value is not finite.
    """

    values: np.ndarray
    grid: Grid
    names: tuple[str, ...]
    units: tuple[str, ...]
    trajectory: np.ndarray
    time: np.ndarray
    source: str

    def __post_init__(self) -> None:
        n = len(self.values)
        expected = (n, len(self.names), *self.grid.shape)
        if self.values.shape != expected:
            raise ValueError(
                f"{self.source}: values have shape {self.values.shape}; {n} snapshots of "
                f"{len(self.names)} fields on a grid of {self.grid.shape} cells have shape {expected}."
            )
        if self.values.dtype not in (np.float32, np.float64):
            raise ValueError(f"{self.source}: values are {self.values.dtype}; expected float32 or float64.")
        if len(set(self.names)) != len(self.names) or len(self.units) != len(self.names):
            raise ValueError(
                f"{self.source}: names must differ and each have one unit; got {self.names}, units {self.units}."
            )
        for word, array in (("trajectory", self.trajectory), ("time", self.time)):
            if array.shape != (n,):
                raise ValueError(f"{self.source}: '{word}' has shape {array.shape}; expected one per snapshot, ({n},).")
        self._check_finite()

    def _check_finite(self) -> None:
        finite = np.isfinite(self.values)
        if finite.all():
            return
        sample, channel, *cell = (int(i) for i in np.argwhere(~finite)[0])
        trajectory = self.trajectory[sample]
        frame = int((self.trajectory[:sample] == trajectory).sum())
        raise ValueError(
            f"{self.source}: field '{self.names[channel]}' holds {self.values[sample, channel, *cell]} "
            f"at trajectory {trajectory}, frame {frame}, cell {tuple(cell)}; "
            "masked or missing values are not supported yet."
        )

    def __len__(self) -> int:
        """Number of snapshots."""
        return len(self.values)

    def select(self, names: Sequence[str]) -> FieldData:
        """Some of the channels, in the order of `names`.

        Raises:
            ValueError: there is no field of a name.
        """
        for name in names:
            if name not in self.names:
                raise unknown_field(self.source, name, self.names)
        index = [self.names.index(name) for name in names]
        units = tuple(self.units[i] for i in index)
        return replace(self, values=self.values[:, index], names=tuple(names), units=units)

    def first(self, n: int) -> FieldData:
        """The first n snapshots."""
        return replace(self, values=self.values[:n], trajectory=self.trajectory[:n], time=self.time[:n])

    def to_xarray(self) -> xr.Dataset:
        """One variable per channel on dims ("sample", *grid.dims), with coordinates, units and boundaries."""
        dims = ("sample", *self.grid.dims)
        fields = {
            name: (dims, self.values[:, c], {"units": unit})
            for c, (name, unit) in enumerate(zip(self.names, self.units, strict=True))
        }
        coords = {
            dim: ((dim,), self.grid.coordinate(axis), axis_attrs(self.grid, axis))
            for axis, dim in enumerate(self.grid.dims)
        }
        samples = {"trajectory": (("sample",), self.trajectory), "time": (("sample",), self.time)}
        return xr.Dataset(fields, coords={**coords, **samples}, attrs={"source": self.source})

    @classmethod
    def from_xarray(
        cls,
        ds: xr.Dataset,
        grid: Grid | None = None,
        names: Sequence[str] | None = None,
        boundary: str | Sequence[str] | None = None,
        source: str | None = None,
    ) -> FieldData:
        """Snapshots in a data set as `to_xarray` makes it.

        Args:
            ds: Variables on "sample" and the axes of one grid, in any order of dims. `trajectory` and `time`
                are optional coordinates on "sample"; without them each sample is a run of its own, at time 0.
            grid: The grid, when the data set does not tell; its coordinates must agree.
            names: Variables to take, in this order; every one that has a spatial dim when not given.
            boundary: Boundary of every axis, or of each, when neither `grid` nor the data set tells.
            source: What error messages call the data set.

        Raises:
            ValueError: a variable, dim or boundary is missing, the cells are not equally spaced, or a value
                is not finite.
        """
        source = source or str(ds.attrs.get("source", "dataset"))
        spatial = {
            str(name): tuple(str(dim) for dim in variable.dims if dim != "sample")
            for name, variable in ds.data_vars.items()
            if set(variable.dims) - {"sample"}
        }
        names = tuple(names) if names is not None else tuple(spatial)
        for name in names:
            if name not in ds.data_vars:
                raise unknown_field(source, name, spatial)
        if not names:
            raise ValueError(f"{source} holds no field: no variable has a spatial dimension.")
        dims = grid.dims if grid is not None else spatial.get(names[0], ())
        for name in names:
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
        fields = [_as_float(ds[name].transpose("sample", *dims).values) for name in names]
        return cls(
            values=np.stack(fields, axis=1),
            grid=grid,
            names=names,
            units=tuple(str(ds[name].attrs.get("units", "")) for name in names),
            trajectory=ds["trajectory"].values.astype(np.int64) if "trajectory" in ds else np.arange(n),
            time=ds["time"].values.astype(np.float64) if "time" in ds else np.zeros(n),
            source=source,
        )


def _check_on_grid(ds: xr.Dataset, grid: Grid, source: str) -> None:
    for axis, dim in enumerate(grid.dims):
        if ds.sizes[dim] != grid.shape[axis]:
            raise ValueError(f"{source}: dimension '{dim}' has {ds.sizes[dim]} cells; the grid has {grid.shape[axis]}.")
        if dim in ds.coords:
            check_centres(dim, ds[dim].values, grid.origin[axis], grid.extent[axis], source)


def _as_float(values: np.ndarray) -> np.ndarray:
    # float32 holds every int16 exactly; wider integers need float64. Both are what numpy's promotion gives.
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)


def load_fields(
    path: str | Path,
    names: Sequence[str] | None = None,
    split: str | None = None,
    boundary: str | Sequence[str] | None = None,
) -> FieldData:
    """Snapshots in a file, or in one split of a folder.

    Args:
        path: An HDF5 file in The Well's layout (.h5, .hdf5), a netCDF file as `FieldData.to_xarray` writes it
            (.nc), or a folder `<path>/data/{train,valid,test}/*.hdf5`.
        names: Fields to read, in this order; all when not given. A vector's name stands for its components.
        split: "train", "valid" or "test"; for a folder only.
        boundary: Boundary of every axis, or of each, in place of the one in the file.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: a file cannot be read, lacks a field or dimension, holds a value that is not finite, or
            its grid is not a regular box or not that of the other files.
    """
    path = Path(path)
    if path.is_dir():
        return concatenate((_load_file(f, names, boundary) for f in split_files(path, split)), source=str(path))
    if not path.exists():
        raise FileNotFoundError(f"no file or folder '{path}'.")
    if split is not None:
        raise ValueError(f"'{path}' is one file and has no split '{split}'; give its folder, or leave split out.")
    return _load_file(path, names, boundary)


def split_files(folder: Path, split: str | None) -> list[Path]:
    """Files of one split of a folder in The Well's layout, sorted by name."""
    if split not in SPLITS:
        raise ValueError(f"folder '{folder}' needs a split, one of {', '.join(SPLITS)}; got {split!r}.")
    files = sorted(f for f in (folder / "data" / split).glob("*") if f.suffix in (".h5", ".hdf5"))
    if not files:
        raise FileNotFoundError(f"no .h5 or .hdf5 files in '{folder / 'data' / split}'.")
    return files


def _load_file(path: Path, names: Sequence[str] | None, boundary: str | Sequence[str] | None) -> FieldData:
    # The formats build a FieldData, so they import this module and it can only import them here.
    from physdiff.data.formats import netcdf, the_well

    readers = {".h5": the_well.read, ".hdf5": the_well.read, ".nc": netcdf.read}
    if path.suffix not in readers:
        raise ValueError(f"'{path}' ends in '{path.suffix}'; physdiff reads {', '.join(readers)}.")
    return readers[path.suffix](path, names, boundary)


def concatenate(parts: Iterable[FieldData], source: str) -> FieldData:
    """The snapshots of several files as one, with trajectories renumbered to stay unique.

    Raises:
        ValueError: the files differ in grid, names or units.
    """
    parts = list(parts)
    first, offset, trajectories = parts[0], 0, []
    for part in parts:
        for word, here, there in (
            ("grid", part.grid.describe(), first.grid.describe()),
            ("origin", _rounded(part.grid.origin), _rounded(first.grid.origin)),
            ("fields", part.names, first.names),
            ("units", part.units, first.units),
        ):
            if here != there:
                raise ValueError(f"files disagree: {part.source} has {word} {here}, {first.source} has {there}.")
        trajectories.append(part.trajectory + offset)
        offset += int(part.trajectory.max(initial=-1)) + 1
    return FieldData(
        values=np.concatenate([part.values for part in parts]),
        grid=first.grid,
        names=first.names,
        units=first.units,
        trajectory=np.concatenate(trajectories),
        time=np.concatenate([part.time for part in parts]),
        source=source,
    )


def _rounded(numbers: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{number:.6g}") for number in numbers)


def unknown_field(source: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a field that is not there: what is, and the nearest name."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return ValueError(f"{source} has no field '{name}'; it has {', '.join(known) or 'none'}.{hint}")
