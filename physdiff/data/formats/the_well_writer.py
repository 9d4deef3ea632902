"""Files in The Well's HDF5 schema, run by run or from whole arrays.

`WellFile` takes some runs at a time, so a file's size is bounded by the disk; `write_the_well` is the same for arrays
that are in memory. Either leaves a whole file or none.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from physdiff.atomic import replacing_file
from physdiff.data.axes import axis_attrs
from physdiff.data.formats.the_well_stats import write_stats
from physdiff.grid import Grid

__all__ = ["FieldSpec", "WellFile", "write_stats", "write_the_well"]

# A clamped wall has no code of its own; axis_attrs keeps the word.
_CODE_OF_BOUNDARY = {"periodic": "PERIODIC", "neumann": "WALL", "dirichlet": "WALL"}


@dataclass(frozen=True)
class FieldSpec:
    """What one field of a file is.

    Attributes:
        units: Of its values, `""` if dimensionless.
        rank: 0 for a scalar, 1 for a vector, 2 for a tensor; each rank adds a last axis with one entry per grid axis.
        sample_varying: Whether runs differ in it.
        time_varying: Whether frames differ in it.
        dtype: Of the stored numbers.
        pseudo: Whether a reflection turns its sign beyond what its components say: vorticity in 2-D.

    Raises:
        ValueError: the rank is not 0, 1 or 2.
    """

    units: str = ""
    rank: int = 0
    sample_varying: bool = True
    time_varying: bool = True
    dtype: str = "float32"
    pseudo: bool = False

    def __post_init__(self) -> None:
        if self.rank not in (0, 1, 2):
            raise ValueError(f"a field has rank 0 (scalar), 1 (vector) or 2 (tensor); got {self.rank}.")

    def axes(self, trajectories: int, frames: int, grid: Grid) -> dict[str, int]:
        """Length of each axis of the stored array, by name, in order."""
        axes = {"trajectories": trajectories} if self.sample_varying else {}
        axes |= {"frames": frames} if self.time_varying else {}
        axes |= {"*grid" if grid.ndim == 1 else f"*grid[{i}]": n for i, n in enumerate(grid.shape)}
        return axes | {("component", "second component")[i]: grid.ndim for i in range(self.rank)}


class WellFile:
    """One file of several runs that is written some runs at a time; a context manager.

    Args:
        path: File to make or replace, `<base>/data/<split>/<name>.hdf5` in a data set.
        fields: What each field is, by name.
        grid: Where the fields live; it reads back exactly.
        trajectories: Number of runs.
        time: Time of each frame, shape (frames,) or (trajectories, frames).
        parameters: What the runs were made with: one number, or one per run, shape (trajectories,).
        attrs: Further attributes of the file, such as `dataset_name`.
        compression: "gzip" or "lzf" packs frame by frame, as do options by name as h5py takes them; None, or none of
            these, stores each array in one piece, the fastest to read.
        missing: Whether NaN may stand for cells without a value; else every value must be finite.

    Raises:
        ValueError: there is no field, run or frame, or the times or parameters do not fit; at the end of the block, a
            run was not written. Nothing is left on disk then.
    """

    def __init__(
        self,
        path: str | Path,
        fields: Mapping[str, FieldSpec],
        grid: Grid,
        trajectories: int,
        time: np.ndarray,
        *,
        parameters: Mapping[str, float | np.ndarray] | None = None,
        attrs: Mapping[str, str | int | float] | None = None,
        compression: str | Mapping[str, Any] | None = None,
        missing: bool = False,
    ) -> None:
        self.path, self.fields, self.grid, self.trajectories = Path(path), dict(fields), grid, trajectories
        self.time = np.asarray(time, dtype=np.float64)
        self._parameters = {name: np.asarray(value) for name, value in (parameters or {}).items()}
        self._attrs, self._may_miss = dict(attrs or {}), missing
        self._packing = {"compression": compression} if isinstance(compression, str) else dict(compression or {})
        self._written = np.zeros(trajectories, dtype=bool)
        self._constant: set[str] = set()
        if not self.fields:
            raise ValueError("no field to write; expected at least one.")
        if trajectories < 1 or self.time.ndim not in (1, 2) or 0 in self.time.shape:
            raise ValueError(
                f"{self.path.name} needs at least one run and one frame; got {trajectories} runs and times of shape "
                f"{self.time.shape}."
            )
        if self.time.ndim == 2 and len(self.time) != trajectories:
            raise ValueError(f"time has shape {self.time.shape}; expected (frames,) or ({trajectories}, frames).")
        for name, value in self._parameters.items():
            if value.shape not in ((), (trajectories,)):
                raise ValueError(f"parameter '{name}' has shape {value.shape}; expected () or ({trajectories},).")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(replacing_file(self.path))
            self._file = stack.enter_context(h5py.File(partial, "w"))
            self._lay_out()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        try:
            self._check_complete()
        except ValueError:
            # What is told to the stack decides that the file does not take its place.
            self._stack.__exit__(*sys.exc_info())
            raise
        self._stack.close()

    def write(self, first: int, values: Mapping[str, np.ndarray]) -> None:
        """Store runs first, first + 1, ...

        Args:
            first: Number of the first run.
            values: By name, every field that varies between runs, each of shape (n, frames, *grid[, components]), the
                frames left out where it does not vary in time. A field that is the same in all runs is given once, or
                again with the same values, without the first axis.

        Raises:
            ValueError: a field is missing, unknown, of another shape or not finite, or a run was written before.
        """
        for name in values:
            if name not in self.fields:
                near = difflib.get_close_matches(name, self.fields, n=1)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"{self.path.name} has no field '{name}'; it has {', '.join(self.fields)}.{hint}")
        varying = [name for name, spec in self.fields.items() if spec.sample_varying]
        missing = [name for name in varying if name not in values]
        if missing:
            raise ValueError(f"runs from {first} of {self.path.name} lack the field '{missing[0]}'.")
        n = len(np.asarray(values[varying[0]])) if varying else self.trajectories - first
        last = first + n
        if n < 1 or first < 0 or last > self.trajectories or self._written[first:last].any():
            raise ValueError(
                f"runs {first} to {last - 1} of {self.path.name} are not {n} new ones of its {self.trajectories}; "
                f"written before: {int(self._written.sum())}."
            )
        stored = {name: self._as_stored(name, np.asarray(array), first, n) for name, array in values.items()}
        for name, array in stored.items():
            dataset = self._dataset(name)
            if self.fields[name].sample_varying:
                dataset[first:last] = array
            elif name not in self._constant:
                dataset[...] = array
                self._constant.add(name)
            elif not np.array_equal(dataset[()], array):
                raise ValueError(f"field '{name}' is to be the same in all runs; from run {first} on it differs.")
        self._written[first:last] = True

    def write_parameters(self, first: int, values: Mapping[str, np.ndarray]) -> None:
        """Replace parameters that differ between runs, from run `first` on; each of shape (n,), finite.

        Raises:
            ValueError: there is no such parameter with one number per run, or a number is not finite.
        """
        for name, value in values.items():
            value, given = np.asarray(value), self._parameters.get(name)
            if given is None or given.ndim != 1 or value.ndim != 1 or first < 0 or first + len(value) > len(given):
                raise ValueError(
                    f"'{name}' of runs from {first}, shape {value.shape}, is no part of a parameter of "
                    f"{self.path.name} with one number for each of its {self.trajectories} runs."
                )
            if not np.isfinite(value).all():
                raise ValueError(f"parameter '{name}' is {value[~np.isfinite(value)][0]} in a run from {first} on.")
            dataset = self._file[f"scalars/{name}"]
            assert isinstance(dataset, h5py.Dataset)
            dataset[first : first + len(value)] = value

    def _as_stored(self, name: str, array: np.ndarray, first: int, n: int) -> np.ndarray:
        spec = self.fields[name]
        axes = spec.axes(n, self.time.shape[-1], self.grid)
        if array.shape != tuple(axes.values()):
            raise ValueError(
                f"field '{name}' has shape {array.shape}; expected {tuple(axes.values())} for "
                f"({', '.join(_without_index(axes))})."
            )
        # A number that overflows on its way to the stored type is refused below, with its place.
        with np.errstate(over="ignore"):
            array = array.astype(spec.dtype, copy=False)
        finite = np.isfinite(array) | (np.isnan(array) if self._may_miss else False)
        if not finite.all():
            where = tuple(int(i) for i in np.argwhere(~finite)[0])
            place = (where[0] + first, *where[1:]) if spec.sample_varying else where
            words = ", ".join(_without_index(axes)).replace("trajectories", "trajectory").replace("frames", "frame")
            raise ValueError(
                f"field '{name}' holds {array[where]} at ({words.replace('*grid', '*cell')}) {place}; not written."
            )
        return array

    def _check_complete(self) -> None:
        if not self._written.all():
            raise ValueError(
                f"{self.path.name} lacks run {int(np.argmin(self._written))}: {int(self._written.sum())} of "
                f"{self.trajectories} were written; the file is not kept."
            )
        lacking = [n for n, spec in self.fields.items() if not spec.sample_varying and n not in self._constant]
        if lacking:
            raise ValueError(f"{self.path.name} lacks the field '{lacking[0]}'; the file is not kept.")

    def _dataset(self, name: str) -> h5py.Dataset:
        found = self._file[f"t{self.fields[name].rank}_fields/{name}"]
        assert isinstance(found, h5py.Dataset)
        return found

    # ---- what the schema asks for beside the fields

    def _lay_out(self) -> None:
        file = self._file
        file.attrs["dataset_name"] = self.path.stem
        for key, value in self._attrs.items():
            file.attrs[key] = value
        file.attrs["grid_type"] = "cartesian"
        file.attrs["n_spatial_dims"] = self.grid.ndim
        file.attrs["n_trajectories"] = self.trajectories
        _write_dimensions(file, self.grid, self.time)
        _write_boundaries(file, self.grid)
        _write_parameters(file, self._parameters)
        for rank in range(3):
            group = file.create_group(f"t{rank}_fields")
            members = {name: spec for name, spec in self.fields.items() if spec.rank == rank}
            group.attrs["field_names"] = _names(members)
            for name, spec in members.items():
                axes = spec.axes(self.trajectories, self.time.shape[-1], self.grid)
                chunks = tuple(1 if axis in ("trajectories", "frames") else n for axis, n in axes.items())
                dataset = group.create_dataset(
                    name, tuple(axes.values()), spec.dtype, chunks=chunks if self._packing else None, **self._packing
                )  # fmt: skip
                _vary(dataset, sample=spec.sample_varying, time=spec.time_varying)
                dataset.attrs["dim_varying"] = [True] * self.grid.ndim
                dataset.attrs["units"] = spec.units
                if spec.pseudo:
                    dataset.attrs["pseudo"] = True


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
    fields, units = {name: np.asarray(values) for name, values in fields.items()}, units or {}
    if not fields:
        raise ValueError("no field to write; expected at least one.")
    expected = (*next(iter(fields.values())).shape[:2], *grid.shape)
    for name, values in fields.items():
        if values.shape != expected or 0 in expected:
            raise ValueError(
                f"field '{name}' has shape {values.shape}; expected (trajectories, frames, *grid) "
                f"with a grid of {grid.shape} cells, alike for all fields."
            )
    if set(units) - set(fields):
        raise ValueError(f"units are given for {sorted(units)}; the fields are {sorted(fields)}.")
    trajectories, frames = expected[:2]
    time = np.arange(frames, dtype=np.float64) if time is None else np.asarray(time, dtype=np.float64)
    if time.shape not in ((frames,), (trajectories, frames)):
        raise ValueError(f"time has shape {time.shape}; expected ({frames},) or ({trajectories}, {frames}).")
    specs = {name: FieldSpec(units.get(name, ""), dtype=values.dtype.str) for name, values in fields.items()}
    with WellFile(
        path, specs, grid, trajectories, time, parameters=parameters, attrs=attrs, compression=compression
    ) as file:
        file.write(0, fields)
    return Path(path)


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


def _write_parameters(file: h5py.File, parameters: Mapping[str, np.ndarray]) -> None:
    file.attrs["simulation_parameters"] = _names([name for name, value in parameters.items() if value.ndim == 0])
    group = file.create_group("scalars")
    group.attrs["field_names"] = _names(parameters)
    for name, values in parameters.items():
        if values.ndim == 0:
            file.attrs[name] = values[()]
        _vary(group.create_dataset(name, data=values), sample=values.ndim == 1, time=False)


def _vary(item: h5py.Dataset | h5py.Group, sample: bool, time: bool) -> None:
    item.attrs["sample_varying"] = sample
    item.attrs["time_varying"] = time


def _names(names: Any) -> np.ndarray:
    return np.array(list(names), dtype=h5py.string_dtype())


def _without_index(axes: Iterable[str]) -> list[str]:
    """Names of the axes, those of the grid as one."""
    return list(dict.fromkeys(axis.split("[")[0] for axis in axes))
