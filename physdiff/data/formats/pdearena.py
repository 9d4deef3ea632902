"""PDEArena's HDF5 files (Gupta and Brandstetter, 2022): a group for the split, 'train', 'valid' or 'test'.

    Navier-Stokes 2-D   u, vx, vy (N, T, X, Y); t (N, T); x (N, X); y (N, Y); dt, dx, dy, buo_y (N)
    Kuramoto-Sivashinsky 1-D   pde_<T>-<X> (N, T, X); dt, dx[, v] (N)
    Maxwell 3-D         d_field, h_field (N, T, X, Y, Z, 3); nothing else

What is stored is not always what was solved on. Navier-Stokes' x and y run from 0 to L with both ends among their n
entries, while its solver has n cells of L/n: here the box is L long, and `dx` (L/(n − 1)) is left a number of the run.
vx and vy are stored at the lower faces of the cells, and Maxwell's fields on Yee's edges and faces; they are read as
they stand, and `offset` says where that is. Navier-Stokes' t likewise has both ends of the
time among its n entries, while the frames are `dt` apart: they are put that far apart. Boxes of Kuramoto-Sivashinsky
may differ between runs: dx is then a number of the run, and the extent is asked for; its u is a velocity, which a
reflection turns. H of Maxwell is a pseudovector. No file tells its boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physdiff.data.axes import text
from physdiff.data.containment import is_dataset, is_group
from physdiff.data.formats.format import Format, Probe
from physdiff.data.formats.grids import grid_of, times_of
from physdiff.data.formats.marks import marked, only
from physdiff.data.formats.members import array_of, few, group_of, names_in, numbers
from physdiff.data.handles import open_hdf5
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.data.stored import HDF5Array
from physdiff.data.view import View
from physdiff.grid import Grid
from physdiff.registry import nearest

_SPLITS = ("train", "valid", "test")
_USED = ("boundary", "extent", "origin", "length_unit", "time", "vectors", "pseudo", "mask", "group")
_COORDINATES = ("t", "x", "y", "z")
_HINT = "PDEArena made Kuramoto-Sivashinsky periodic, Navier-Stokes with walls, and cut Maxwell from a larger box."


def recognises(probe: Probe) -> bool:
    """Whether a file has nothing but splits, and in them fields of one of the three layouts."""
    groups = [n.rstrip("/") for n in probe.names]
    if probe.kind != "hdf5" or not groups or not set(groups) <= set(_SPLITS):
        return False
    with open_hdf5(probe.path) as file:
        return all(is_group(file, g) and _kind(group_of(file, g, PDEARENA.title)) for g in groups)


def splits(path: Path) -> tuple[str, ...]:
    """The splits that a file holds; none where it holds but one, as the published ones do: it is not divided."""
    with open_hdf5(path) as file:
        found = tuple(split for split in _SPLITS if is_group(file, split))
    return found if len(found) > 1 else ()


def _kind(group: Any) -> str:
    """Which of the layouts a split is of; empty for none."""
    if {"u", "vx", "vy"} <= set(group):
        return "navier-stokes"
    if {"d_field", "h_field"} <= set(group):
        return "maxwell"
    return "kuramoto-sivashinsky" if any(name.startswith("pde_") for name in group) else ""


def open_pdearena(path: Path, layout: Layout) -> Source:
    """What one split of a file holds.

    Raises:
        ValueError: a file holds several splits and none was named, a dataset is misshapen, runs differ in their grid,
            or something that the layout does not store was not said: the boundary, an extent, the time between frames.
    """
    only(layout, PDEARENA.name, path, _USED)
    source = str(path)
    with open_hdf5(path) as file:
        group, key = _group(file, layout)
        kind = _kind(group)
        if kind == "maxwell":
            return _maxwell(group, source, layout)
        if kind == "navier-stokes":
            return _navier_stokes(group, source, layout)
        if kind == "kuramoto-sivashinsky":
            return _kuramoto_sivashinsky(group, key, source, layout)
        raise ValueError(
            f"{source}: '{text(group.name)}' holds {', '.join(group) or 'nothing'}; PDEArena's layouts ask for u, vx "
            "and vy, for pde_<T>-<X>, or for d_field and h_field."
        )


def _group(file: h5py.File, layout: Layout) -> tuple[Any, str]:
    """The split that was asked for, and the name of a dataset in it where that was said too."""
    found = [split for split in _SPLITS if is_group(file, split)]
    if layout.group is None and len(found) == 1:
        return group_of(file, found[0], PDEARENA.title), ""
    if layout.group is None:
        raise ValueError(
            f"{file.filename} holds {', '.join(found) or 'no split'}; say which with group= (--data.layout.group)."
            if found
            else f"{file.filename} has no group 'train', 'valid' or 'test'; PDEArena's layout asks for one."
        )
    split, _, key = layout.group.strip("/").partition("/")
    if split not in found:
        raise ValueError(f"{file.filename} has no group '{split}'. {nearest(split, found)}")
    return group_of(file, split, PDEARENA.title), key


def _navier_stokes(group: Any, source: str, layout: Layout) -> Source:
    shape = _numbers(group, "u", 4).shape
    sizes = dict(zip((TRAJECTORY, TIME, "x", "y"), shape, strict=True))
    centres = {}
    for dim in ("x", "y"):
        stored = few(_numbers(group, dim, 2))
        if stored.shape != (shape[0], sizes[dim]) or (stored != stored[:1]).any():
            raise ValueError(
                f"{source}: '{group.name}/{dim}' has the shape {stored.shape}; expected {(shape[0], sizes[dim])}, the "
                "same in every run."
            )
        centres[dim] = stored[0]
    cells = {dim: sizes[dim] for dim in ("x", "y")}
    # As stored first, which refuses what is not regular.
    grid = grid_of(source, cells, centres, layout, hint=_HINT)
    if layout.extent is None:
        box = {dim: float(c[-1] - c[0]) if len(c) > 1 else grid.extent[i] for i, (dim, c) in enumerate(centres.items())}
        origin = layout.origin if layout.origin is not None else [float(c[0]) for c in centres.values()]
        grid = grid_of(source, cells, {}, replace(layout, extent=list(box.values()), origin=origin), hint=_HINT)
    variables = [
        Variable(name, View(_array(group, name, tuple(sizes.values())), tuple(sizes)), "", *vector)
        for name, vector in (("u", ("", ())), ("vx", ("v", (0,))), ("vy", ("v", (1,))))
    ]
    times = times_of(source, shape[0], shape[1], _moments(group, shape[0]), layout, group.file)
    return _source(group, source, layout, grid, variables, times, {"u": [0.5, 0.5], "vx": [0.0, 0.5], "vy": [0.5, 0.0]})


def _moments(group: Any, runs: int) -> np.ndarray:
    """Times of Navier-Stokes, `dt` apart where they were stored with both ends of n steps among n entries."""
    stored, dt = few(_numbers(group, "t", 2)).astype(np.float64), _per_run(group, runs).get("dt")
    frames = stored.shape[1]
    if dt is None or frames < 2 or len(stored) != runs:
        return stored
    has_both_ends = np.abs(stored[:, -1] - stored[:, 0] - dt * frames) <= 1e-6 * np.abs(dt * frames)
    return np.where(has_both_ends[:, None], stored[:, :1] + np.arange(frames) * dt[:, None], stored)


def _kuramoto_sivashinsky(group: Any, key: str, source: str, layout: Layout) -> Source:
    keys = [name for name in names_in(group) if name.startswith("pde_")]
    if key and key not in keys:
        raise ValueError(f"{source}: '{group.name}' has no '{key}'. {nearest(key, keys)}")
    if not key and len(keys) > 1:
        raise ValueError(
            f"{source}: '{group.name}' holds {', '.join(keys)}; say which with group= (--data.layout.group), such as "
            f"'{group.name.strip('/')}/{keys[0]}'."
        )
    array = _array(group, key or keys[0])
    if len(array.shape) not in (3, 4):
        raise ValueError(
            f"{source}: '{array.name}' has the shape {array.shape}; expected the axes trajectory, time, [component,] x."
        )
    runs, frames, cells = array.shape[0], array.shape[1], array.shape[-1]
    told = _per_run(group, runs)
    dx, dt = (told.get(name) for name in ("dx", "dt"))
    if layout.extent is None and (dx is None or np.ptp(dx) > 1e-6 * np.abs(dx).max()):
        raise ValueError(
            f"{source}: the box differs between runs (dx from {dx.min():.6g} to {dx.max():.6g}); pass extent= "
            "(--data.layout.extent), such as 1 for lengths in units of each run's box: dx stays a number of the run."
            if dx is not None
            else f"{source}: '{group.name}' has no 'dx'; pass extent= (--data.layout.extent), the length of the box."
        )
    if layout.extent is None and dx is not None:
        layout = replace(layout, extent=float(dx[0]) * cells)
    grid = grid_of(source, {"x": cells}, {}, layout, hint=_HINT)
    stored = None if dt is None else np.arange(frames) * dt[:, None]
    times = times_of(source, runs, frames, stored, layout, group.file)
    if len(array.shape) == 3:
        variables = [Variable("u", View(array, (TRAJECTORY, TIME, "x")), pseudo=True)]
    else:
        count, dims = array.shape[2], (TRAJECTORY, TIME, "component", "x")
        variables = [
            Variable("u" if count == 1 else f"u_{c}", View(array, dims, {"component": c}), pseudo=count == 1)
            for c in range(count)
        ]
    return _source(group, source, layout, grid, variables, times)


def _maxwell(group: Any, source: str, layout: Layout) -> Source:
    shape = _numbers(group, "d_field", 6).shape
    dims = (TRAJECTORY, TIME, "x", "y", "z", "component")
    if shape[-1] != 3:
        raise ValueError(
            f"{source}: '{group.name}/d_field' has the shape {shape}; expected 3 components as its last axis."
        )
    grid = grid_of(source, dict(zip("xyz", shape[2:5], strict=True)), {}, layout, hint=_HINT)
    times = times_of(source, shape[0], shape[1], None, layout, group.file)
    variables = [
        Variable(
            f"{name}_{dim}", View(_array(group, name, shape), dims, {"component": i}), "", name, (i,), name == "h_field"
        )
        for name in ("d_field", "h_field")
        for i, dim in enumerate("xyz")
    ]
    # Yee's cell: E_x in the middle of an edge along x, H_x in the middle of a face across it.
    places = {f"d_field_{dim}": [0.5 * (i == j) for j in range(3)] for i, dim in enumerate("xyz")}
    places |= {f"h_field_{dim}": [0.5 * (i != j) for j in range(3)] for i, dim in enumerate("xyz")}
    return _source(group, source, layout, grid, variables, times, places)


def _source(
    group: Any, source: str, layout: Layout, grid: Grid, variables: list[Variable], times: np.ndarray,
    places: Mapping[str, list[float]] | None = None,
) -> Source:  # fmt: skip
    found, observed = marked(variables, layout, grid, source)
    scalars: Mapping[str, np.ndarray] = _per_run(group, len(times))
    attrs = {"split": text(group.name).strip("/")} | {f"{k}.offset": str(v) for k, v in (places or {}).items()}
    return Source(
        source, PDEARENA.name, grid, found, len(times), times, scalars, dict.fromkeys(scalars, (TRAJECTORY,)),
        observed=observed, attrs=attrs,
    )  # fmt: skip


def _per_run(group: Any, runs: int) -> dict[str, np.ndarray]:
    """Every dataset of one number per run."""
    found = {}
    for name in names_in(group):
        if is_dataset(group, name) and name not in _COORDINATES and group[name].shape == (runs,):
            found[name] = few(_numbers(group, name)).astype(np.float64)
    return found


def _array(group: Any, name: str, shape: tuple[int, ...] | None = None) -> HDF5Array:
    dataset = _numbers(group, name)
    if shape is not None and dataset.shape != shape:
        raise ValueError(f"{group.file.filename}: '{dataset.name}' has the shape {dataset.shape}; expected {shape}.")
    return array_of(dataset)


def _numbers(group: h5py.Group, name: str, axes: int | None = None) -> h5py.Dataset:
    found = numbers(group, name, PDEARENA.title)
    if axes is not None and found.ndim != axes:
        raise ValueError(f"{group.file.filename}: '{found.name}' has the shape {found.shape}; expected {axes} axes.")
    return found


PDEARENA = Format(
    "pdearena", "PDEArena", recognises, open_pdearena, splits,
    told_by="groups train, valid, test with u, vx, vy; pde_<T>-<X>; or d_field, h_field",
    needs="boundary; extent for Maxwell and for boxes that differ between runs; time for Maxwell",
)  # fmt: skip
