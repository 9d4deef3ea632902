"""Arrays with a name for each axis, made into a `Source`: the last step of every reader whose files are only arrays.

Axes are `trajectory`, `time`, `component` and those of the grid. A field with the axis `component` becomes one variable
for each entry along it; complex numbers become two variables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physdiff.data.containment import check_numbers
from physdiff.data.decoded import ComplexPart, TruthArray
from physdiff.data.formats.axis_names import COMPONENT
from physdiff.data.formats.grids import grid_of, times_of
from physdiff.data.formats.marks import marked
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.data.stored import StoredArray
from physdiff.data.view import View


@dataclass(frozen=True)
class NamedArray:
    """A field as it is stored.

    Attributes:
        name: Its own.
        array: Where its numbers are.
        dims: Name of each axis, in stored order.
        units: `""` if dimensionless or unknown.
        fixed: Axes that are left out, with the number at which they stand.
        is_reversed: Whether users know the axes in the opposite order; that of the grid's axes is theirs.
    """

    name: str
    array: StoredArray
    dims: tuple[str, ...]
    units: str = ""
    fixed: Mapping[str, int] = field(default_factory=dict)
    is_reversed: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each axis that is not left out, in the order that users know."""
        found = [(n, k) for n, k in zip(self.dims, self.array.shape, strict=True) if n not in self.fixed]
        return dict(reversed(found) if self.is_reversed else found)


@dataclass(frozen=True)
class Contents:
    """What a reader found in a file.

    Attributes:
        fields: At least one.
        centres: Cell centres of those axes whose coordinates are stored.
        attrs: Per axis what is stored beside its coordinates.
        times: Shape (frames,) or (trajectories, frames); None if nothing is said.
        scalars: Numbers of the runs, and their axes among `trajectory` and `time`.
        labels: As of `Source`.
        components: Name of each entry along `component`, where the file tells.
        notes: Further attributes, plain values.
    """

    fields: Sequence[NamedArray]
    centres: Mapping[str, np.ndarray] = field(default_factory=dict)
    attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    times: np.ndarray | None = None
    scalars: Mapping[str, tuple[np.ndarray, tuple[str, ...]]] = field(default_factory=dict)
    labels: np.ndarray | None = None
    components: Sequence[str] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def assemble(path: str, schema: str, contents: Contents, layout: Layout) -> Source:
    """A `Source` of what a reader found, with what a layout says in its place.

    Raises:
        ValueError: arrays do not fit each other or hold no numbers; the grid, its boundary or the times are not told.
    """
    fields = contents.fields
    if not fields:
        raise ValueError(f"{path} holds no field.")
    for one in fields:
        check_numbers(f"{path}: field '{one.name}'", one.array.dtype, one.array.shape, may_be_complex=True)
    sizes = _sizes(path, fields)
    spatial = {name: n for name, n in sizes.items() if name not in (TRAJECTORY, TIME)}
    if not spatial:
        raise ValueError(f"{path} holds no field: {_shapes(fields)}; none has an axis of a grid.")
    trajectories, frames = sizes.get(TRAJECTORY, 1), sizes.get(TIME, 1)
    centres = {name: np.asarray(values) for name, values in contents.centres.items() if name in spatial}
    backwards = frozenset(name for name, values in centres.items() if _decreases(values))
    centres |= {name: centres[name][::-1] for name in backwards}
    grid = grid_of(path, spatial, centres, layout, contents.attrs)
    times = times_of(path, trajectories, frames, contents.times, layout)
    if layout.components is not None and not any(COMPONENT in one.dims for one in fields):
        raise ValueError(
            f"{path}: components= (--data.layout.components) names {', '.join(layout.components)}, and no field has an "
            f"axis 'component'; dims= (--data.layout.dims) names the axes: {_shapes(fields)}."
        )
    names = layout.components or contents.components
    # The channels of the only field need no first name of the array that happens to hold them.
    are_words = all(word.isidentifier() for word in contents.components or ["0"])
    is_whole = len(fields) == 1 and (layout.components is not None or are_words)
    variables = [v for one in fields for v in _variables(path, one, names, backwards, is_whole)]
    chosen, observed = marked(variables, layout, grid, path)
    if observed is not None:
        observed = dataclasses.replace(observed, array=TruthArray(observed.array))
    return Source(
        path, schema, grid, chosen, trajectories, times,
        {name: values for name, (values, _) in contents.scalars.items()},
        {name: dims for name, (_, dims) in contents.scalars.items()},
        contents.labels, observed, contents.notes,
    )  # fmt: skip


def numbers_of_runs(
    path: str, name: str, values: np.ndarray, dims: Iterable[str] | None, trajectories: int, frames: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A number of the runs with its axes, by `dims` or else by its shape.

    Raises:
        ValueError: its shape is not that of runs or frames, or could be of either.
    """
    values = np.asarray(values)
    check_numbers(f"{path}: scalar '{name}'", values.dtype, values.shape)
    if dims is not None:
        own = tuple(dims)
        expected = tuple({TRAJECTORY: trajectories, TIME: frames}.get(dim, -1) for dim in own)
        if expected != values.shape:
            raise ValueError(
                f"{path}: scalar '{name}' has the shape {values.shape}; its axes were named {own}, of "
                f"{trajectories} trajectories and {frames} frames."
            )
        return (values.T, own[::-1]) if own == (TIME, TRAJECTORY) else (values, own)
    if values.ndim > 1 and max(values.shape) == values.size and values.shape != (trajectories, frames):
        values = values.reshape(-1)  # a column, or MATLAB's row
    if values.size == 1 and values.shape != (trajectories, frames):
        return values.reshape(()), ()
    if values.shape == (trajectories, frames):
        return values, (TRAJECTORY, TIME)
    if values.shape == (trajectories,) and (trajectories != frames or trajectories == 1):
        return values, (TRAJECTORY,)
    if values.shape == (frames,) and trajectories != frames:
        return values, (TIME,)
    if values.ndim == 1 and values.shape == (trajectories,):
        raise ValueError(
            f"{path}: scalar '{name}' has {trajectories} numbers, and there are as many trajectories as frames; say "
            f"which: scalars= (--data.layout.scalars) {{{name}: {{path: ..., dims: [trajectory]}}}}."
        )
    raise ValueError(
        f"{path}: scalar '{name}' has the shape {values.shape}; expected (), ({trajectories},) for the trajectories, "
        f"({frames},) for the frames, or both."
    )


def _sizes(path: str, fields: Sequence[NamedArray]) -> dict[str, int]:
    """Length of every axis of any field; that with the most axes sets the order of the grid."""
    sizes: dict[str, int] = {}
    first: dict[str, str] = {}
    for one in sorted(fields, key=lambda f: -len(f.sizes)):
        for dim, n in one.sizes.items():
            if dim != COMPONENT and sizes.setdefault(dim, n) != n:
                raise ValueError(
                    f"{path}: field '{one.name}' has {n} entries along '{dim}' and '{first[dim]}' has {sizes[dim]}; "
                    "fields of one data set have one grid, as many trajectories and as many frames. Choose some with "
                    "fields= (--data.layout.fields)."
                )
            first.setdefault(dim, one.name)
    # A field may lack axes of the grid, as a mask of the ground beneath layers does; one on axes of its own is no part.
    most = max(fields, key=lambda f: len(_space(f)))
    other = next((f for f in fields if not set(_space(f)) <= set(_space(most))), None)
    if other is not None:
        raise ValueError(
            f"{path}: field '{other.name}' is on the axes {', '.join(_space(other))} and '{most.name}' on "
            f"{', '.join(_space(most))}; fields of one data set have one grid. Choose some with fields= "
            "(--data.layout.fields)."
        )
    return sizes


def _space(one: NamedArray) -> list[str]:
    """A field's axes of the grid."""
    return [dim for dim in one.sizes if dim not in (TRAJECTORY, TIME, COMPONENT)]


def _shapes(fields: Sequence[NamedArray]) -> str:
    return ", ".join(f"'{f.name}' {tuple(f.sizes.items())}" for f in fields[:4])


def _decreases(values: np.ndarray) -> bool:
    return (
        values.ndim == 1 and values.dtype.kind in "fiu" and len(values) > 1 and bool((values[1:] < values[:-1]).all())
    )


def _variables(
    path: str, one: NamedArray, names: Sequence[str] | None, backwards: frozenset[str], is_whole: bool
) -> list[Variable]:
    view = View(one.array, one.dims, one.fixed, backwards & set(one.dims))
    views = {one.name: view}
    if COMPONENT in one.sizes:
        n = one.sizes[COMPONENT]
        if names is not None and (len(names) != n or len(set(names)) != n):
            raise ValueError(
                f"{path}: field '{one.name}' has {n} components; components= (--data.layout.components) names "
                f"{len(set(names))}: {', '.join(names)}."
            )
        words = [str(i) for i in range(n)] if names is None else list(names)
        prefix = "" if is_whole else f"{one.name}_"
        views = {prefix + word: view.at(**{COMPONENT: i}) for i, word in enumerate(words)}
    if one.array.dtype.kind == "c":
        views = {
            f"{name}_{part}": dataclasses.replace(v, array=ComplexPart(v.array, part))
            for name, v in views.items()
            for part in ("real", "imag")
        }
    return [Variable(name, v, one.units) for name, v in views.items()]
