"""The Well's HDF5 schema (Ohana et al., 2024): files of trajectories, each a sequence of frames.

    /dimensions           @spatial_dims; `time` (T) or (N, T); one array of cell centres per spatial dim
    /boundary_conditions  one group per side: @associated_dims, @bc_type WALL | OPEN | PERIODIC
    /t0_fields            scalars [N][T] x y [z]; /t1_fields: vectors, one more axis; /t2_fields: tensors, two

An axis is absent from a field where its @sample_varying, @time_varying or @dim_varying is false. Published
files differ in what they leave out, and in whether an attribute is a string or a list of one; this reader
takes both. A clamped wall has no code: `the_well_writer` says WALL and keeps the word in `grid_boundary` (see
`physdiff.data.axes`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physdiff.data.axes import grid_from_axes, text
from physdiff.data.fields import FieldData, unknown_field
from physdiff.grid import Grid

_BOUNDARY_OF_CODE = {"PERIODIC": "periodic", "WALL": "neumann"}
_FIELD_GROUPS = ("t0_fields", "t1_fields", "t2_fields")


def read(
    path: str | Path, names: Sequence[str] | None = None, boundary: str | Sequence[str] | None = None
) -> FieldData:
    """Snapshots in one file; vectors as components `velocity_x`, `velocity_y`; constants repeated in time.

    Args:
        path: File in The Well's layout.
        names: Fields to read, in this order; all when not given. A vector's name stands for its components.
        boundary: Boundary of every axis, or of each, in place of the file's own.

    Raises:
        ValueError: the file is truncated or of another layout, a field is missing, misshapen or not finite,
            or the grid is not a regular box with a known boundary.
    """
    with open_hdf5(path) as file:
        grid = read_grid(file, boundary)
        trajectories, times = read_times(file)
        components = field_components(file)
        chosen = _choose(str(path), components, names)
        fields = [_read_component(*components[name], grid, trajectories, times.shape[1]) for name in chosen]
        units = tuple(text(components[name][0].attrs.get("units", "")) for name in chosen)
    frames = times.shape[1]
    return FieldData(
        values=np.stack(fields, axis=2).reshape(trajectories * frames, len(chosen), *grid.shape),
        grid=grid,
        names=chosen,
        units=units,
        trajectory=np.repeat(np.arange(trajectories), frames),
        time=times.reshape(-1),
        source=str(path),
    )


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """An open HDF5 file whose unreadable bytes become one sentence."""
    if not Path(path).exists():
        raise FileNotFoundError(f"no file or folder '{path}'.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise ValueError(f"'{path}' is truncated or no HDF5 file: {error}.") from error


def member(file: h5py.Group, name: str) -> Any:
    """A group or dataset of a file that the schema asks for."""
    if name not in file:
        path = f"{text(file.name).rstrip('/')}/{name}"
        raise ValueError(f"{file.file.filename} has no '{path}'; The Well's layout asks for it.")
    return file[name]


def read_grid(file: h5py.File, boundary: str | Sequence[str] | None = None) -> Grid:
    """The grid of one file; `boundary` stands in for what it says of its sides."""
    source = str(file.filename)
    if text(file.attrs.get("grid_type", "cartesian")).lower() != "cartesian":
        raise ValueError(f"{source}: grid_type is '{text(file.attrs['grid_type'])}'; physdiff reads 'cartesian'.")
    dimensions = member(file, "dimensions")
    if "spatial_dims" not in dimensions.attrs:
        raise ValueError(f"{source}: '/dimensions' has no attribute 'spatial_dims'; expected the names of the axes.")
    axes: dict[str, tuple[np.ndarray, Mapping[str, Any]]] = {}
    for dim in _texts(dimensions.attrs["spatial_dims"]):
        centres = _numbers(dimensions, dim)
        if _flag(centres, "sample_varying", False) or _flag(centres, "time_varying", False):
            raise ValueError(f"{source}: dimension '{dim}' varies between samples or in time; expected one fixed grid.")
        attrs: dict[str, Any] = dict(centres.attrs)
        if boundary is None and "grid_boundary" not in attrs:
            attrs["grid_boundary"] = _side(file, dim)
        axes[dim] = (centres[()], attrs)
    return grid_from_axes(axes, boundary, source)


def _side(file: h5py.File, dim: str) -> str:
    """Boundary of one axis as the file's groups tell it."""
    source, codes = file.filename, set()
    for side in _members(file, "boundary_conditions").values():
        if dim in _texts(side.attrs.get("associated_dims", [])):
            codes.add(text(side.attrs.get("bc_type", "none")).upper())
    found = ", ".join(sorted(codes)) or "none"
    if len(codes) != 1 or found not in _BOUNDARY_OF_CODE:
        raise ValueError(
            f"{source}: dimension '{dim}' has boundary condition {found}; physdiff knows PERIODIC and WALL: "
            "pass boundary= 'periodic', 'neumann' or 'dirichlet' to say what stands for it."
        )
    return _BOUNDARY_OF_CODE[found]


def read_times(file: h5py.File) -> tuple[int, np.ndarray]:
    """Number of trajectories N of a file, and the time of each frame, shape (N, T), float64."""
    time = _numbers(member(file, "dimensions"), "time")
    if "n_trajectories" in file.attrs:
        count: Any = file.attrs["n_trajectories"]
        trajectories = _count(file, count)
    else:
        varying = [f for f, _ in field_components(file).values() if _flag(f, "sample_varying", True)]
        trajectories = varying[0].shape[0] if varying else 1
    values = np.asarray(time[()], dtype=np.float64)
    if values.ndim not in (1, 2) or (values.ndim == 2 and len(values) != trajectories):
        raise ValueError(
            f"{file.filename}: dimension 'time' has shape {values.shape}; "
            f"expected (frames,) or ({trajectories}, frames)."
        )
    return trajectories, np.broadcast_to(values, (trajectories, values.shape[-1]))


def field_components(file: h5py.File) -> dict[str, tuple[h5py.Dataset, tuple[int, ...]]]:
    """Every scalar in a file, in the file's order: its dataset and its place on the tensor axes."""
    dims = _texts(member(file, "dimensions").attrs.get("spatial_dims", []))
    components: dict[str, tuple[h5py.Dataset, tuple[int, ...]]] = {}
    for order, name in enumerate(_FIELD_GROUPS):
        for field in _members(file, name):
            dataset = _numbers(member(file, name), field)
            for index in itertools.product(range(len(dims)), repeat=order):
                suffix = "_" * bool(order) + "".join(dims[i] for i in index)
                components[field + suffix] = (dataset, index)
    return components


def _choose(
    source: str, components: Mapping[str, tuple[h5py.Dataset, tuple[int, ...]]], names: Sequence[str] | None
) -> tuple[str, ...]:
    if names is None:
        names = list(components)
    if not names:
        raise ValueError(f"{source} holds no field; expected datasets in {', '.join(_FIELD_GROUPS)}.")
    chosen: list[str] = []
    for name in names:
        parts = [c for c, (dataset, _) in components.items() if text(dataset.name).rsplit("/", 1)[-1] == name]
        if name in components:
            parts = [name]
        if not parts:
            raise unknown_field(source, name, components)
        chosen += parts
    return tuple(chosen)


def _read_component(
    dataset: h5py.Dataset, index: tuple[int, ...], grid: Grid, trajectories: int, frames: int
) -> np.ndarray:
    """One scalar as shape (trajectories, frames, *grid); absent axes are repeated."""
    varying = [_flag(dataset, "sample_varying", True), _flag(dataset, "time_varying", True)]
    varying += [bool(v) for v in np.ravel(dataset.attrs.get("dim_varying", [True] * grid.ndim))]
    words = ("trajectory", "time", *grid.dims)
    full = (trajectories, frames, *grid.shape)
    if len(varying) != len(full):
        raise ValueError(
            f"{dataset.file.filename}: field '{dataset.name}' has {len(varying) - 2} values of dim_varying; "
            f"expected one per axis, {grid.ndim}."
        )
    present = [(word, n) for word, n, here in zip(words, full, varying, strict=True) if here]
    present += [("component", grid.ndim)] * len(index)
    expected = tuple(n for _, n in present)
    if dataset.shape != expected:
        raise ValueError(
            f"{dataset.file.filename}: field '{dataset.name}' has shape {dataset.shape}; "
            f"expected {expected} for ({', '.join(word for word, _ in present)})."
        )
    values = np.asarray(dataset[(..., *index)])
    values = values.astype(np.result_type(values.dtype, np.float32), copy=False)
    shape = tuple(n if here else 1 for n, here in zip(full, varying, strict=True))
    return np.broadcast_to(values.reshape(shape), full)


def _members(file: h5py.Group, name: str) -> Mapping[str, Any]:
    group: Any = file[name] if name in file else {}
    if isinstance(group, h5py.Dataset):
        raise ValueError(f"{file.file.filename}: '{group.name}' is a dataset; The Well's layout asks for a group.")
    return group


def _numbers(group: h5py.Group, name: str) -> h5py.Dataset:
    """A member of a group that must be an array of real numbers."""
    found = member(group, name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{group.file.filename}: '{found.name}' is a group; expected a dataset of numbers.")
    if found.dtype.kind not in "fiub":
        raise ValueError(f"{group.file.filename}: '{found.name}' holds {found.dtype}; expected real numbers.")
    return found


def _count(file: h5py.File, value: Any) -> int:
    """The attribute n_trajectories."""
    try:
        count = int(np.ravel(value)[0])
    except (TypeError, ValueError, IndexError):
        count = 0
    if count < 1:
        raise ValueError(
            f"{file.filename} has the attribute n_trajectories = {text(value)!r}; expected a whole number, at least 1."
        )
    return count


def _flag(dataset: h5py.Dataset, name: str, default: bool) -> bool:
    value: Any = dataset.attrs.get(name, default)
    return bool(np.ravel(value)[0])


def _texts(value: Any) -> list[str]:
    return [text(item) for item in np.ravel(np.asarray(value, dtype=object))]
