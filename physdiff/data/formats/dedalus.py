"""Files of Dedalus's file handlers, versions 2 and 3 (github.com/DedalusProject/dedalus, dedalus/core/evaluator.py).

    /scales/sim_time (T,), ...; coordinates of grids      /tasks/<name> (T, [components,] x, y, ...)

The first axis of a task is labelled `t`; those of a vector or tensor have no label; those of space have the names of
their coordinates, to which they are tied, or `constant` where the task does not change along them. A task of
coefficients has `k` before those names, and is no field. One run fills a folder with sets, `snapshots_s1.h5`,
`snapshots_s2.h5`, ..., each of so many frames, which are joined.

In version 3 the only bases with equally spaced points are those of Fourier, so such an axis is periodic.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from physdiff.data.containment import dataset_within
from physdiff.data.formats.format import Format, Probe
from physdiff.data.formats.grids import grid_of, times_of
from physdiff.data.formats.marks import marked, only
from physdiff.data.formats.members import array_of, few, group_of, names_in, numbers
from physdiff.data.handles import open_hdf5
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, Source, Variable
from physdiff.data.view import View
from physdiff.grid import Grid

_USED = ("boundary", "extent", "origin", "length_unit", "vectors", "pseudo", "mask")
_CONSTANT = "constant"


@dataclass(frozen=True)
class _Task:
    """One dataset of /tasks.

    Attributes:
        name: Its own.
        dataset: Where it is.
        space: Name of each axis of space, in stored order; `constant` where it does not change.
        lines: Points of those axes along which it changes.
    """

    name: str
    dataset: h5py.Dataset
    space: tuple[str, ...]
    lines: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Axes of components."""
        return self.dataset.ndim - 1 - len(self.space)

    @property
    def is_coefficients(self) -> bool:
        return not np.all(self.dataset.attrs.get("grid_space", True))


def recognises(probe: Probe) -> bool:
    """Whether a file has the groups and the attributes that a file handler writes."""
    return probe.has("scales/", "tasks/") and {"set_number", "handler_name", "writes"} <= probe.attrs


def open_dedalus(path: Path, layout: Layout) -> Source:
    """The tasks of a file that lie on one grid, and those that are numbers of the frames.

    Raises:
        ValueError: tasks are on different grids, points are not equally spaced, or a boundary is not told.
    """
    only(layout, DEDALUS.name, path, _USED)
    source = str(path)
    with open_hdf5(path) as file:
        stored = list(_tasks(file))
        tasks = [task for task in stored if not task.is_coefficients]
        fields = [task for task in tasks if set(task.space) - {_CONSTANT}]
        if not fields:
            held = ", ".join(names_in(group_of(file, "tasks", DEDALUS.title))) or "nothing"
            raise ValueError(f"{source} holds no field: of its tasks ({held}) none is on the points of a grid.")
        is_version_3 = any("_hash_" in name for name in names_in(group_of(file, "scales", DEDALUS.title)))
        grid = _grid(source, fields, layout, is_periodic=is_version_3)
        times = few(numbers(file, "scales/sim_time", DEDALUS.title))
        times = times_of(source, 1, fields[0].dataset.shape[0], times, layout, file)
        found = [variable for task in fields for variable in _variables(task, grid)]
        scalars = {name: values for task in tasks if task not in fields for name, values in _averages(task)}
        left_out = [task.name for task in stored if task.is_coefficients]
        attrs = {"left out, as they are coefficients": ", ".join(left_out)} if left_out else {}
    variables, observed = marked(found, layout, grid, source)
    return Source(
        source, DEDALUS.name, grid, variables, 1, times, scalars, dict.fromkeys(scalars, (TIME,)),
        observed=observed, attrs=attrs,
    )  # fmt: skip


def _tasks(file: h5py.File) -> Iterator[_Task]:
    group = group_of(file, "tasks", DEDALUS.title)
    for name in names_in(group):
        dataset = numbers(group, name, DEDALUS.title)
        labels = [str(axis.label) for axis in dataset.dims]
        if labels[:1] != ["t"] or "" in labels[1 + labels[1:].count("") :]:
            raise ValueError(
                f"{file.filename}: the axes of '/tasks/{name}' are labelled {labels}; Dedalus labels the first 't', "
                "those of components not at all, and the others by their coordinates."
            )
        space = tuple(label for label in labels[1:] if label)
        lines = {
            label: few(dataset_within(file, str(axis[0].name)))
            for label, axis in zip(labels, dataset.dims, strict=True)
            if label not in ("t", "", _CONSTANT) and len(axis)
        }
        yield _Task(name, dataset, space, lines)


def _grid(source: str, tasks: list[_Task], layout: Layout, *, is_periodic: bool) -> Grid:
    """The one grid of all tasks, in the order of their axes."""
    most = max(tasks, key=lambda task: len(task.lines))
    lines = dict(most.lines)
    for task in tasks:
        for dim, points in task.lines.items():
            if dim not in lines or not np.array_equal(points, lines[dim]):
                raise ValueError(
                    f"{source}: task '{task.name}' is on {len(points)} points along '{dim}' and '{most.name}' on "
                    f"{len(lines.get(dim, ()))}; fields of one data set have one grid: let one handler write tasks of "
                    "the same scales, and another those of others."
                )
    for dim, points in lines.items():
        steps = np.diff(points)
        if len(points) > 2 and np.ptp(steps) > 1e-3 * np.abs(steps).mean():
            raise ValueError(
                f"{source}: the points along '{dim}' are {np.abs(steps).min():.3g} to {np.abs(steps).max():.3g} apart, "
                "as those of Chebyshev or Legendre polynomials are; physdiff's grids are of equal cells: interpolate "
                "the tasks onto equally spaced points first."
            )
    beside = {dim: {"grid_boundary": "periodic"} if is_periodic else {} for dim in lines}
    sizes = {dim: len(points) for dim, points in lines.items()}
    return grid_of(source, sizes, lines, layout, beside, "Fourier bases are periodic.")


def _averages(task: _Task) -> Iterator[tuple[str, np.ndarray]]:
    """A task that changes in time alone, or each component of it."""
    values = few(task.dataset).reshape(len(task.dataset), -1)
    for i in range(values.shape[1]):
        yield f"{task.name}_{i}" if task.rank else task.name, values[:, i]


def _variables(task: _Task, grid: Grid) -> Iterator[Variable]:
    """A scalar, or the components of a vector or tensor."""
    array = array_of(task.dataset)
    components = tuple(f"component {i}" for i in range(task.rank))
    own = tuple(f"constant {i}" if dim == _CONSTANT else dim for i, dim in enumerate(task.space))
    dims = (TIME, *components, *own)
    fixed = {dim: 0 for dim, name in zip(own, task.space, strict=True) if name == _CONSTANT}
    sizes = array.shape[1 : 1 + task.rank]
    # A vector of another space than the grid's, such as three components on a plane, is fields side by side.
    is_tensor = bool(task.rank) and set(sizes) == {grid.ndim}
    for index in itertools.product(*map(range, sizes)):
        words = [grid.dims[i] if is_tensor else str(i) for i in index]
        name = "_".join([task.name, "".join(words)]) if words else task.name
        view = View(array, dims, {**fixed, **dict(zip(components, index, strict=True))})
        yield Variable(name, view, "", task.name if is_tensor else "", index if is_tensor else ())


DEDALUS = Format(
    "dedalus", "Dedalus", recognises, open_dedalus,
    told_by="groups scales and tasks, and the attributes handler_name, set_number, writes",
    needs="boundary, for files of version 2; sets of a folder are one run", join="number",
    set_name=r"_s\d+$",
)  # fmt: skip
