"""PDEBench's HDF5 files (Takamoto et al., 2022). They come in four layouts, N runs of T frames:

    1-D advection, Burgers,   tensor (N, T, X); @beta | @Nu | @Nu, @rho
      reaction-diffusion
    Darcy flow                tensor (N, 1, X, Y), the solution; nu (N, X, Y), the coefficient; @beta
    compressible flow         density, pressure, Vx[, Vy, Vz] (N, T, X[, Y, Z]); @eta, @zeta[, @M]
                              all of these: x-[, y-, z-]coordinate (X), t-coordinate (T + 1)
    diffusion-reaction,       a group for each run, '0000', ...: data (T, X[, Y], C); grid/x[, grid/y]; grid/t (T)
      -sorption, shallow water
    incompressible flow       velocity (N, T, X, Y, 2), particles (N, T, X, Y, 1), force (N, X, Y, 2), t (N, T); no
                              coordinates; @config

The last entry of a t-coordinate of T + 1 is the end of the run, of which no frame is stored. Coordinates are cell
centres. No file tells its boundary, nor names the channels of `data`: they are `data_0`, `data_1`, ... The names that
the published files carry do tell some of it (`periodic`, `trans`), but a name is lost when a file is renamed, so the
boundary is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from physdiff.data.axes import text
from physdiff.data.containment import is_group
from physdiff.data.formats.format import Format, Probe
from physdiff.data.formats.grids import grid_of, times_of
from physdiff.data.formats.marks import marked, only
from physdiff.data.formats.members import array_of, few, group_of, names_in, numbers
from physdiff.data.handles import open_hdf5
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.data.stored import HDF5Array, StackedArray, StoredArray
from physdiff.data.view import View
from physdiff.grid import Grid

_USED = ("boundary", "extent", "origin", "length_unit", "time", "vectors", "pseudo", "mask")
_AXES = ("x", "y", "z")
_VELOCITY = {"Vx": 0, "Vy": 1, "Vz": 2}
_HINT = (
    "PDEBench's generators made advection, Burgers, 1-D reaction-diffusion and files named 'periodic' with periodic "
    "sides, 2-D diffusion-reaction with insulated ones."
)


def recognises(probe: Probe) -> bool:
    """Whether the top of a file is that of one of the four layouts."""
    fields = probe.has("tensor", "x-coordinate") or probe.has("density", "x-coordinate")
    return fields or probe.has("velocity", "particles", "t") or _is_runs(probe.names)


def _is_runs(names: tuple[str, ...]) -> bool:
    return bool(names) and all(len(n) >= 5 and n.endswith("/") and n[:-1].isdigit() for n in names)


def open_pdebench(path: Path, layout: Layout) -> Source:
    """What a file holds.

    Raises:
        ValueError: a dataset is misshapen, runs differ in their grid, the axes are not regular, or the boundary (of
            incompressible flow also the extent) was not said.
    """
    only(layout, PDEBENCH.name, path, _USED)
    with open_hdf5(path) as file:
        names = tuple(n + "/" * is_group(file, n) for n in sorted(names_in(file)))
        if _is_runs(names):
            return _open_runs(file, str(path), layout)
        if "velocity" in file and "particles" in file:
            return _open_incompressible(file, str(path), layout)
        return _open_tensors(file, str(path), layout)


def _open_tensors(file: h5py.File, source: str, layout: Layout) -> Source:
    """Fields of the file's top, on coordinates beside them."""
    dims = [dim for dim in _AXES if f"{dim}-coordinate" in file]
    main = _numbers(file, "tensor" if "tensor" in file else "density")
    if not dims or main.ndim != 2 + len(dims):
        raise ValueError(
            f"{source}: '{text(main.name)}' has the shape {main.shape}; expected the axes trajectory, time, "
            f"{', '.join(dims) or 'x'}, with an x-coordinate (and y-, z-) for each of the last."
        )
    runs, frames, *cells = main.shape
    sizes = {TRAJECTORY: runs, TIME: frames, **dict(zip(dims, cells, strict=True))}
    centres = {dim: few(_numbers(file, f"{dim}-coordinate")) for dim in dims}
    grid = grid_of(source, dict(zip(dims, cells, strict=True)), centres, layout, hint=_HINT)
    stored = few(_numbers(file, "t-coordinate")) if "t-coordinate" in file else None
    times = times_of(source, runs, frames, stored, layout, file, one_more=True)
    found = []
    for name in names_in(file):
        if not name.endswith("-coordinate"):
            array = array_of(_numbers(file, name))
            axes = _axes(source, array, name, [sizes, {d: n for d, n in sizes.items() if d != TIME}])
            axis = _VELOCITY.get(name, len(dims))
            vector = ("V", (axis,)) if axis < len(dims) else ("", ())
            # Viscosity alone is Burgers' equation, whose field is a velocity along x: a reflection turns it.
            turns = dims == ["x"] and name == "tensor" and "Nu" in file.attrs and "rho" not in file.attrs
            found.append(Variable(name, View(array, axes), "", *vector, pseudo=turns))
    return _source(file, source, layout, grid, found, times)


def _open_incompressible(file: h5py.File, source: str, layout: Layout) -> Source:
    """Fields of the file's top with components last, and no coordinates."""
    main = _numbers(file, "velocity")
    if main.ndim < 4 or main.shape[-1] != main.ndim - 3:
        raise ValueError(
            f"{source}: '/velocity' has the shape {main.shape}; expected the axes trajectory, time, x, y, component, "
            "with a component along each of x, y."
        )
    runs, frames, *cells, _ = main.shape
    dims = _AXES[: len(cells)]
    grid = grid_of(source, dict(zip(dims, cells, strict=True)), {}, layout, hint=_HINT)
    times = times_of(source, runs, frames, few(_numbers(file, "t")), layout, file)
    sizes = {TRAJECTORY: runs, TIME: frames, **dict(zip(dims, cells, strict=True))}
    found = [
        variable
        for name in names_in(file)
        if name != "t"
        for variable in _with_components(source, array_of(_numbers(file, name)), name, sizes, grid)
    ]
    return _source(file, source, layout, grid, found, times)


def _with_components(
    source: str, array: StoredArray, name: str, sizes: Mapping[str, int], grid: Grid
) -> Iterator[Variable]:
    """A scalar field with an axis of one component, or a vector."""
    count = array.shape[-1] if array.shape else 0
    counted = {**sizes, "component": grid.ndim if count == grid.ndim else 1}
    axes = _axes(source, array, name, [counted, {d: n for d, n in counted.items() if d != TIME}])
    if count == 1:
        yield Variable(name, View(array, axes, {"component": 0}))
        return
    for i, dim in enumerate(grid.dims):
        yield Variable(f"{name}_{dim}", View(array, axes, {"component": i}), "", name, (i,))


def _open_runs(file: h5py.File, source: str, layout: Layout) -> Source:
    """A group for each run."""
    runs = sorted(names_in(file))
    stored = names_in(group_of(file, f"{runs[0]}/grid", PDEBENCH.title))
    dims = [dim for dim in _AXES if dim in stored]
    centres = {dim: few(_numbers(file, f"{runs[0]}/grid/{dim}")) for dim in dims}
    arrays, moments = [], []
    for run in runs:
        arrays.append(array_of(_numbers(file, f"{run}/data")))
        for dim, first in centres.items():
            if not np.array_equal(few(_numbers(file, f"{run}/grid/{dim}")), first):
                raise ValueError(
                    f"{source}: '{dim}' of run '{run}' is not that of run '{runs[0]}'; expected one grid for all."
                )
        if "t" in stored:
            moments.append(few(_numbers(file, f"{run}/grid/t")))
            if moments[-1].shape != moments[0].shape:
                raise ValueError(
                    f"{source}: 't' of run '{run}' has the shape {moments[-1].shape}, that of '{runs[0]}' "
                    f"{moments[0].shape}; expected one number of frames for all."
                )
    array = _stacked(source, arrays)
    if not dims or len(array.shape) != 3 + len(dims):
        raise ValueError(
            f"{source}: 'data' of a run has the shape {array.shape[1:]}; expected the axes time, "
            f"{', '.join(dims) or 'x'}, component, with coordinates grid/x (and y, z) for each but the ends."
        )
    count, frames, *cells, channels = array.shape
    # The generator of diffusion-reaction makes frames of shape (Y, X); of a square, the description's (X, Y) is taken.
    if cells != (lengths := [len(centres[dim]) for dim in dims]) and cells[::-1] == lengths:
        order, cells = dims[::-1], lengths
    else:
        order = dims
    grid = grid_of(source, dict(zip(dims, cells, strict=True)), centres, layout, hint=_HINT)
    view_dims = (TRAJECTORY, TIME, *order, "component")
    found = [
        Variable("data" if channels == 1 else f"data_{c}", View(array, view_dims, {"component": c}))
        for c in range(channels)
    ]
    times = times_of(source, count, frames, np.stack(moments) if moments else None, layout, file, one_more=True)
    return _source(file, source, layout, grid, found, times)


def _stacked(source: str, arrays: list[HDF5Array]) -> StackedArray:
    try:
        return StackedArray(tuple(arrays))
    except ValueError as error:
        raise ValueError(
            f"{source}: runs differ in size, and no grid or number of frames is all of theirs: {error}"
        ) from None


def _source(
    file: h5py.File, source: str, layout: Layout, grid: Grid, found: list[Variable], times: np.ndarray
) -> Source:
    variables, observed = marked(found, layout, grid, source)
    scalars, attrs = {}, {}
    for name, value in file.attrs.items():
        plain = np.asarray(value)
        if plain.dtype.kind in "fiub" and plain.size == 1 and name != "latestIndex":
            scalars[name] = plain.reshape(()).astype(np.float64)
        elif not isinstance(value, h5py.Empty):
            attrs[name] = text(value) if plain.size == 1 else plain.tolist()
    dims = dict.fromkeys(scalars, ())
    return Source(
        source, PDEBENCH.name, grid, variables, len(times), times, scalars, dims, observed=observed, attrs=attrs
    )


def _axes(source: str, array: StoredArray, name: str, kinds: list[dict[str, int]]) -> tuple[str, ...]:
    """Names of a field's axes: the first of `kinds` whose sizes are its shape."""
    for kind in kinds:
        if array.shape == tuple(kind.values()):
            return tuple(kind)
    expected = " or ".join(f"{tuple(kind.values())} for ({', '.join(kind)})" for kind in kinds)
    raise ValueError(f"{source}: field '{name}' has the shape {array.shape}; expected {expected}.")


def _numbers(file: h5py.Group, name: str) -> h5py.Dataset:
    return numbers(file, name, PDEBENCH.title)


PDEBENCH = Format(
    "pdebench", "PDEBench", recognises, open_pdebench,
    told_by="tensor or density beside x-coordinate; velocity, particles and t; or a group of digits for each run",
    needs="boundary; extent for incompressible flow",
)  # fmt: skip
