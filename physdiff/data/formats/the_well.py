"""The Well's HDF5 schema (Ohana et al., 2024): files of trajectories, each a sequence of frames.

    /                     @grid_type cartesian | spherical; @n_trajectories; @simulation_parameters, names of attributes
    /dimensions           @spatial_dims; `time` (T) or (N, T); one array of cell centres per spatial dim
    /boundary_conditions  one group per side, see `the_well_boundaries`
    /scalars              numbers of shape (), (N), (T) or (N, T)
    /t0_fields            scalars [N][T] x y [z]; /t1_fields: vectors, one more axis; /t2_fields: tensors, two

An axis is absent from a field where its @sample_varying, @time_varying or @dim_varying is false, or, if it is one of
the grid, has a single entry. Published
files differ in what they leave out, and in whether an attribute is a string or a list of one; this reader
takes both. Symmetric tensors are stored whole, so @symmetric and @antisymmetric are attributes and no more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physdiff.data.axes import text
from physdiff.data.containment import is_dataset
from physdiff.data.formats.format import Format, Probe
from physdiff.data.formats.grids import grid_of, times_of
from physdiff.data.formats.marks import marked, only
from physdiff.data.formats.members import array_of, few, names_in
from physdiff.data.formats.the_well_boundaries import obstacles, side_of_axis
from physdiff.data.formats.the_well_parts import flag, member, members, numbers, texts
from physdiff.data.handles import open_hdf5
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.data.stored import MemoryArray
from physdiff.data.view import View
from physdiff.grid import Grid

_FIELD_GROUPS = ("t0_fields", "t1_fields", "t2_fields")
_USED = ("boundary", "extent", "origin", "length_unit", "time", "vectors", "pseudo", "mask")


def open_the_well(path: Path, layout: Layout) -> Source:
    """What a file holds; a vector as components `velocity_x`, `velocity_y`.

    Raises:
        ValueError: the file is truncated or of another layout, a field is misshapen, or the grid is not a regular box
            with a known boundary.
    """
    source = str(path)
    only(layout, THE_WELL.name, path, _USED)
    with open_hdf5(path) as file:
        grid = _grid(file, layout)
        times = _times(file, layout)
        sizes = {TRAJECTORY: len(times), TIME: times.shape[1], **dict(zip(grid.dims, grid.shape, strict=True))}
        found = [v for rank, dataset in _fields(file) for v in _components(dataset, rank, grid, sizes)]
        if not found:
            raise ValueError(f"{source} holds no field; expected datasets in {', '.join(_FIELD_GROUPS)}.")
        variables, observed = marked(found, layout, grid, source)
        cells = obstacles(file, grid) if observed is None else None
        if cells is not None:
            observed = View(MemoryArray(~cells, f"{source}: boundary_conditions"), grid.dims)
        scalars, dims = _scalars(file, sizes)
        attrs = _attributes(file)
    return Source(source, THE_WELL.name, grid, variables, len(times), times, scalars, dims, None, observed, attrs)


def recognises(probe: Probe) -> bool:
    """Whether a file has The Well's groups; one that lacks some of them is refused by name when it is opened."""
    return any(probe.has(f"{group}/") for group in _FIELD_GROUPS) or probe.has("dimensions/", "boundary_conditions/")


def _grid(file: h5py.File, layout: Layout) -> Grid:
    source = str(file.filename)
    if text(file.attrs.get("grid_type", "cartesian")).lower() != "cartesian":
        raise ValueError(f"{source}: grid_type is '{text(file.attrs['grid_type'])}'; physdiff reads 'cartesian'.")
    dimensions = member(file, "dimensions")
    if "spatial_dims" not in dimensions.attrs:
        raise ValueError(f"{source}: '/dimensions' has no attribute 'spatial_dims'; expected the names of the axes.")
    dims = texts(dimensions.attrs["spatial_dims"])
    if not dims or len({*dims, TRAJECTORY, TIME}) != len(dims) + 2:
        raise ValueError(
            f"{source}: '/dimensions' has spatial_dims = {dims}; expected a name for each axis, all different and "
            "none of trajectory and time."
        )
    sizes, centres, attrs = {}, {}, {}
    for dim in dims:
        stored = numbers(dimensions, dim)
        if flag(stored, "sample_varying", False) or flag(stored, "time_varying", False):
            raise ValueError(f"{source}: dimension '{dim}' varies between samples or in time; expected one fixed grid.")
        if stored.ndim != 1:
            raise ValueError(
                f"{source}: dimension '{dim}' has coordinates of shape {stored.shape}; expected one number per cell, "
                "(n,)."
            )
        sizes[dim], centres[dim], attrs[dim] = len(stored), few(stored), dict(stored.attrs)
        if layout.boundary is None and "grid_boundary" not in stored.attrs:
            attrs[dim]["grid_boundary"] = side_of_axis(file, dim, len(stored))
    return grid_of(source, sizes, centres, layout, attrs)


def _times(file: h5py.File, layout: Layout) -> np.ndarray:
    """Time of each frame, shape (N, T), float64; both sizes follow from it."""
    stored = numbers(member(file, "dimensions"), "time")
    values = few(stored).astype(np.float64)
    trajectories = _trajectories(file, values)
    if values.ndim not in (1, 2) or (values.ndim == 2 and len(values) != trajectories):
        raise ValueError(
            f"{file.filename}: dimension 'time' has shape {values.shape}; "
            f"expected (frames,) or ({trajectories}, frames)."
        )
    return times_of(str(file.filename), trajectories, values.shape[-1], values, layout, file)


def _trajectories(file: h5py.File, times: np.ndarray) -> int:
    if "n_trajectories" in file.attrs:
        value: Any = file.attrs["n_trajectories"]
        try:
            count = int(np.ravel(value)[0])
        except (TypeError, ValueError, IndexError):
            count = 0
        if count < 1:
            raise ValueError(
                f"{file.filename} has the attribute n_trajectories = {text(value)!r}; expected a whole number, at "
                "least 1."
            )
        return count
    if times.ndim == 2:
        return len(times)
    varying = [f for _, f in _fields(file) if flag(f, "sample_varying", True)]
    varying += [s for s in _numbers_of_runs(file).values() if flag(s, "sample_varying", False)]
    return next((f.shape[0] for f in varying if f.ndim), 1)


def _fields(file: h5py.File) -> Iterator[tuple[int, h5py.Dataset]]:
    """Every field of a file with its rank, in the file's order."""
    for rank, name in enumerate(_FIELD_GROUPS):
        group = members(file, name)
        if group is not None:
            yield from ((rank, numbers(group, field)) for field in names_in(group))


def _components(dataset: h5py.Dataset, rank: int, grid: Grid, sizes: Mapping[str, int]) -> Iterator[Variable]:
    """The scalars that a field consists of."""
    path, full = str(dataset.file.filename), text(dataset.name)
    varying = [bool(v) for v in np.ravel(dataset.attrs.get("dim_varying", [True] * grid.ndim))]
    if len(varying) != grid.ndim:
        raise ValueError(
            f"{path}: field '{full}' has {len(varying)} values of dim_varying; expected one per axis, {grid.ndim}."
        )
    varying = [flag(dataset, "sample_varying", True), flag(dataset, "time_varying", True), *varying]
    places = dict.fromkeys(("component", "second component")[:rank], grid.ndim)
    axes = {dim: n for (dim, n), here in zip(sizes.items(), varying, strict=True) if here} | places
    # The description leaves an axis out along which a field is constant; the peer's loader asks for one entry.
    single = {
        d: n if here else 1 for (d, n), here in zip(sizes.items(), varying, strict=True) if here or d in grid.dims
    }
    single |= places
    if dataset.shape not in (tuple(axes.values()), tuple(single.values())):
        raise ValueError(
            f"{path}: field '{full}' has shape {dataset.shape}; "
            f"expected {tuple(axes.values())} for ({', '.join(axes)})."
        )
    alone = {} if dataset.shape == tuple(axes.values()) else dict.fromkeys(single.keys() - axes.keys(), 0)
    dims = tuple(single if alone else axes)
    array = array_of(dataset)
    name, units = full.rsplit("/", 1)[-1], text(dataset.attrs.get("units", ""))
    pseudo = bool(np.all(dataset.attrs.get("pseudo", False)))  # not of the schema: what the writer here adds to it
    for index in itertools.product(range(grid.ndim), repeat=rank):
        suffix = "_" * bool(rank) + "".join(grid.dims[i] for i in index)
        view = View(array, dims, alone | dict(zip(places, index, strict=True)))
        yield Variable(name + suffix, view, units, name if rank else "", index, pseudo)


def _scalars(file: h5py.File, sizes: Mapping[str, int]) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Numbers of the runs; a parameter that is an attribute alone is one of them."""
    values: dict[str, np.ndarray] = {}
    dims: dict[str, tuple[str, ...]] = {}
    for name, dataset in _numbers_of_runs(file).items():
        own = _scalar_dims(dataset, sizes)
        values[name], dims[name] = few(dataset).reshape([sizes[dim] for dim in own]), own
    for name in texts(file.attrs.get("simulation_parameters", [])):
        value = np.asarray(file.attrs.get(name, ""))
        if name not in values and value.dtype.kind in "fiub" and value.size == 1:
            values[name], dims[name] = value.reshape(()), ()
    return values, dims


def _numbers_of_runs(file: h5py.File) -> dict[str, h5py.Dataset]:
    """The datasets of /scalars; a word among them is no number that a model can be given."""
    group = members(file, "scalars")
    if group is None:
        return {}
    return {name: numbers(group, name) for name in names_in(group) if not _is_word(group, name)}


def _is_word(group: h5py.Group, name: str) -> bool:
    found = group[name] if is_dataset(group, name) else None
    return isinstance(found, h5py.Dataset) and found.dtype.kind in "OSU"


def _scalar_dims(dataset: h5py.Dataset, sizes: Mapping[str, int]) -> tuple[str, ...]:
    said = [name for name in ("sample_varying", "time_varying") if name in dataset.attrs]
    kinds = [(), (TRAJECTORY,), (TIME,), (TRAJECTORY, TIME)]
    if said:
        varies = (flag(dataset, "sample_varying", False), flag(dataset, "time_varying", False))
        kinds = [tuple(dim for dim, here in zip((TRAJECTORY, TIME), varies, strict=True) if here)]
    fits = [kind for kind in kinds if dataset.shape in ((tuple(sizes[d] for d in kind)), (1,) if not kind else ())]
    # A number for each of one run, or of one frame, is the same number either way.
    if len(fits) > 1 and np.prod(dataset.shape) == 1:
        fits = fits[:1]
    if len(fits) != 1:
        expected = " or ".join(f"{tuple(sizes[d] for d in kind)} for ({', '.join(kind)})" for kind in fits or kinds)
        raise ValueError(
            f"{dataset.file.filename}: '{text(dataset.name)}' has shape {dataset.shape}; expected {expected}, as "
            "@sample_varying and @time_varying say."
        )
    return fits[0]


def _attributes(file: h5py.File) -> dict[str, Any]:
    """Root attributes, and those of tensors as `stress.symmetric`."""
    found = {key: np.asarray(value).tolist() for key, value in file.attrs.items() if not isinstance(value, h5py.Empty)}
    for rank, dataset in _fields(file):
        for key in ("symmetric", "antisymmetric"):
            if rank == 2 and key in dataset.attrs:
                found[f"{text(dataset.name).rsplit('/', 1)[-1]}.{key}"] = flag(dataset, key, False)
    return {key: value.decode(errors="replace") if isinstance(value, bytes) else value for key, value in found.items()}


THE_WELL = Format(
    "the_well", "The Well", recognises, open_the_well,
    told_by="groups t0_fields, t1_fields or t2_fields, or dimensions and boundary_conditions",
    needs="boundary, where a side is open or the two ends of an axis differ",
)  # fmt: skip
