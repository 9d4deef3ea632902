"""Files that are only arrays, read as a `Layout` says: what axes are, how long the box is, what stands at its sides.

Nothing physical is guessed from a shape. What is missing is asked for by the option that settles it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import ClassVar, Protocol

import numpy as np

from physdiff.data.decoded import ended_by_ones
from physdiff.data.formats.assembly import Contents, NamedArray, assemble, numbers_of_runs
from physdiff.data.formats.axis_names import COMPONENT, check_said
from physdiff.data.formats.starred import Stars, axes_of_stack, check_same_stars
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY, Source
from physdiff.data.stored import StoredArray
from physdiff.registry import nearest

SHOWN = 12  # arrays that a message lists


class Store(Protocol):
    """The arrays of one file, by name.

    Attributes:
        path: The file.
        schema: Name of the format.
        is_reversed: Whether arrays are stored with their axes in the opposite of the order that users know.
        drops_last: Whether axes of one entry at an array's end are not stored, as MATLAB does.
    """

    drops_last: ClassVar[bool]

    @property
    def path(self) -> str: ...

    @property
    def schema(self) -> str: ...

    @property
    def is_reversed(self) -> bool: ...

    def names(self) -> Sequence[str]:
        """Arrays of numbers in it, at least the first `SHOWN`."""
        ...

    def array(self, name: str) -> StoredArray:
        """An array; with "*" in its name, one for each match stacked. ValueError if there is none."""
        ...

    def dims(self, name: str) -> tuple[str, ...] | None:
        """Names of an array's axes, where the file tells."""
        ...

    def centres(self, name: str) -> Mapping[str, np.ndarray]:
        """Coordinates that are tied to an array's axes, by the names of the axes."""
        ...

    def stars(self, name: str) -> Sequence[Stars]:
        """What stands for each "*" of a path in each of its matches."""
        ...

    def numbers(self, name: str) -> np.ndarray:
        """A small array, or an attribute, read."""
        ...


@dataclass(frozen=True)
class Wanted:
    """One field as a layout asks for it.

    Attributes:
        path: Where it is.
        unit: `""` if none is given.
        dims: Names of its axes, where they are not those of the others.
    """

    path: str
    unit: str = ""
    dims: tuple[str, ...] | None = None


def wanted(layout: Layout, source: str, setting: str = "fields") -> dict[str, Wanted]:
    """The entries of `layout.fields` (or `layout.scalars`), whichever way each is written.

    Raises:
        ValueError: an entry is none of these.
    """
    found = {}
    for name, entry in (getattr(layout, setting) or {}).items():
        match entry:
            case str():
                one = Wanted(entry)
            case [str() as path]:
                one = Wanted(path)
            case [str() as path, str() as unit]:
                one = Wanted(path, unit)
            case {"path": str() as path, **rest} if set(rest) <= {"unit", "dims"}:
                dims = rest.get("dims")
                one = Wanted(path, str(rest.get("unit", "")), None if dims is None else tuple(str(d) for d in dims))
            case _:
                raise ValueError(
                    f"{source}: {setting}= (--data.layout.{setting}) says {entry!r} of '{name}'; expected a path, "
                    "[path, unit] or {path: ..., unit: ..., dims: [...]}."
                )
        found[str(name)] = one
    return found


def read_by_layout(store: Store, layout: Layout) -> Source:
    """A file of arrays as a layout says.

    Raises:
        ValueError: something that must be known is not told, or does not fit what is stored.
    """
    asked = wanted(layout, store.path) or _alike(store, layout)
    fields = [_field(store, name, one, layout) for name, one in asked.items()]
    numbers = wanted(layout, store.path, "scalars")
    of_time = [layout.time] if isinstance(layout.time, str) else []
    stacked = [*(one.path for one in asked.values()), *of_time, *(one.path for one in numbers.values())]
    check_same_stars(store.path, {path: store.stars(_within(layout, path)) for path in stacked if "*" in path})
    sizes = {dim: n for one in fields for dim, n in one.sizes.items()}
    centres = _tied(store, asked, layout)
    for dim, path in (layout.coordinates or {}).items():
        centres[dim] = _coordinate(store, dim, store.numbers(_within(layout, path)), path, sizes)
    unknown = [dim for dim in layout.coordinates or {} if dim not in sizes]
    if unknown:
        raise ValueError(
            f"{store.path}: coordinates= (--data.layout.coordinates) names the axis '{unknown[0]}', which no field "
            "has. "
            f"{nearest(unknown[0], sizes)}"
        )
    trajectories, frames = sizes.get(TRAJECTORY, 1), sizes.get(TIME, 1)
    times, rest = centres.pop(TIME, None), layout
    if isinstance(layout.time, str):
        times = _times(store.numbers(_within(layout, layout.time)), layout.time, trajectories, sizes)
        rest = replace(layout, time=None)
    scalars = {
        name: numbers_of_runs(
            store.path, name, store.numbers(_within(layout, one.path)), one.dims, trajectories, frames
        )
        for name, one in numbers.items()
    }
    return assemble(store.path, store.schema, Contents(fields, centres, {}, times, scalars), rest)


def suggestion(store: Store) -> str:
    """What a file holds, and the lines of a layout that would read it, with its shapes."""
    names = list(store.names())
    if not names:
        return "it holds no array of numbers"
    arrays = [(name, store.array(name)) for name in names[:SHOWN]]
    lines = [f"  {name}: {_shape(store, array)} {array.dtype}" for name, array in arrays]
    lines += ["  ..."] * (len(names) > SHOWN)
    name, largest = max(arrays, key=lambda pair: math.prod(pair[1].shape))
    shape = _shape(store, largest)
    axes = ", ".join(f"<axis of {n}>" for n in shape)
    key = PurePosixPath(name).name or "u"
    return "\n".join(
        [
            "it holds",
            *lines,
            "say what they are in a YAML file, layout= (--data.layout):",
            f"  fields: {{{key}: [{name}, <unit>]}}",
            f"  dims: [{axes}]  # each of trajectory, time, component, or a name such as x",
            "  extent: [<length of the box along each axis of the grid>]",
            "  boundary: [<periodic, neumann or dirichlet, for each>]",
            "  time: <path of the times, or the time between two frames>",
        ]
    )


def _alike(store: Store, layout: Layout) -> dict[str, Wanted]:
    """Without `fields`: every array that has as many axes as `dims` names."""
    if layout.dims is None:
        raise ValueError(f"'{store.path}' does not tell what its axes are; {suggestion(store)}")
    fitting = [name for name in store.names() if len(store.array(name).shape) == len(layout.dims)]
    if not fitting:
        raise ValueError(
            f"'{store.path}' has no array of {len(layout.dims)} axes, {', '.join(layout.dims)}; {suggestion(store)}"
        )
    return {name.strip("/").replace("/", "_"): Wanted(name) for name in fitting}


def _field(store: Store, name: str, one: Wanted, layout: Layout) -> NamedArray:
    path = _within(layout, one.path)
    array = store.array(path)
    shape = _shape(store, array)
    dims = one.dims or (tuple(layout.dims) if layout.dims is not None else store.dims(path))
    if dims is None:
        raise ValueError(
            f"{store.path}: '{path}' has the shape {shape}, and the file does not tell what its axes are; pass "
            f"dims= (--data.layout.dims), {len(shape)} names: trajectory, time, component, or axes of the grid."
        )
    check_said(store.path, dims)
    if one.dims is None and name in (layout.static or ()):
        dims = tuple(d for d in dims if d not in (TRAJECTORY, TIME))
    if "*" in one.path:
        turn = -1 if store.is_reversed else 1
        label = f"{store.path}: field '{name}' ('{path}')"
        array, dims = axes_of_stack(label, array, dims[::turn], may_lack_component=one.dims is None, path=one.path)
        dims, shape = dims[::turn], _shape(store, array)
    if one.dims is None and len(dims) == len(shape) + 1 and COMPONENT in dims:
        if store.drops_last and dims[-1] != COMPONENT:
            raise ValueError(
                f"{store.path}: field '{name}' ('{path}') has the shape {shape}, one axis fewer than "
                f"{', '.join(dims)}: it has no 'component', or '{dims[-1]}' has one entry, which MATLAB does not "
                f"store; say which, {{path: {one.path}, dims: [...]}}."
            )
        dims = tuple(d for d in dims if d != COMPONENT)
    if store.drops_last and len(dims) > max(2, len(shape)) and len(set(dims)) == len(dims):
        missing = len(dims) - len(shape)
        array = ended_by_ones(array, missing, store.is_reversed)
        shape = (*shape, *[1] * missing)
    if len(dims) != len(shape) or len(set(dims)) != len(dims):
        raise ValueError(
            f"{store.path}: field '{name}' ('{path}') has the shape {shape}; its axes were named {', '.join(dims)}: "
            f"expected {len(shape)} different names. A field with other axes says so itself, "
            f"{{path: {one.path}, dims: [...]}}, or is listed under static=."
        )
    if store.is_reversed:
        return NamedArray(name, array, dims[::-1], one.unit, is_reversed=True)
    return NamedArray(name, array, dims, one.unit)


def _tied(store: Store, asked: Mapping[str, Wanted], layout: Layout) -> dict[str, np.ndarray]:
    """Coordinates that the file ties to axes of the fields; those that the layout gives are left out.

    Raises:
        ValueError: two fields lie on different ones.
    """
    said = {*(layout.coordinates or {}), *([] if layout.time is None else [TIME])}
    found: dict[str, tuple[str, np.ndarray]] = {}
    for name, one in asked.items():
        for dim, values in store.centres(_within(layout, one.path)).items():
            if dim in said:
                continue
            if dim != TIME and values.ndim > 1:
                raise ValueError(
                    f"{store.path}: the coordinates of '{dim}' differ between the datasets '{one.path}'; a data set "
                    "has one grid. coordinates= (--data.layout.coordinates) says which are right for all."
                )
            first, known = found.setdefault(dim, (name, values))
            if not same_line(known, values):
                option = "time" if dim == TIME else "coordinates"
                raise ValueError(
                    f"{store.path}: the coordinates of '{dim}' are others for field '{name}' than for '{first}'; a "
                    "data set has one grid and one list of times: choose fields of one with fields= "
                    f"(--data.layout.fields), or say which is right with {option}= (--data.layout.{option})."
                )
    return {dim: values for dim, (_, values) in found.items()}


def same_line(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two lists of coordinates are the same but for rounding."""
    if a.shape != b.shape:
        return False
    return bool(np.abs(a.astype(np.float64) - b).max(initial=0) <= 1e-5 * np.ptp(a.astype(np.float64)))


def _times(values: np.ndarray, path: str, trajectories: int, sizes: Mapping[str, int]) -> np.ndarray:
    """Times as a file has them: of each frame, of each snapshot, or one number, the time between two frames."""
    frames = sizes.get(TIME, 1)
    if values.dtype.kind not in "fiu":
        return values
    if values.size == 1 and frames > 1:
        return np.arange(frames) * float(values.reshape(()))
    if "*" in path and values.size == trajectories and values.shape[0] == trajectories and frames > 1:
        return np.arange(frames) * values.reshape(trajectories, 1)
    if TIME not in sizes and values.shape == (trajectories,):
        return values.reshape(trajectories, 1)
    if "*" in path and values.shape == (trajectories * frames,):
        return values.reshape(trajectories, frames)
    return values.reshape(-1) if values.size == frames else values


def _coordinate(store: Store, dim: str, values: np.ndarray, path: str, sizes: Mapping[str, int]) -> np.ndarray:
    """Cell centres of one axis; of several trajectories they must be the same."""
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    space = [d for d in sizes if d not in (TRAJECTORY, TIME, COMPONENT)]
    if dim in space and values.ndim > 1 and values.shape == tuple(sizes[d] for d in space):
        return _line(store, dim, values, path, space)
    if values.ndim == 2 and "*" in path:
        if not (values == values[:1]).all():
            raise ValueError(
                f"{store.path}: the coordinates '{path}' of axis '{dim}' differ between trajectories; a data set has "
                "one grid."
            )
        values = values[0]
    return values


def _line(store: Store, dim: str, values: np.ndarray, path: str, space: Sequence[str]) -> np.ndarray:
    """The coordinates of an axis from an array with one for each cell of the grid, as meshgrid makes it."""
    key: list[int | slice] = [0] * values.ndim
    key[space.index(dim)] = slice(None)
    line = values[tuple(key)]
    shape = [1] * values.ndim
    shape[space.index(dim)] = -1
    if not (values == line.reshape(shape)).all():
        raise ValueError(
            f"{store.path}: the coordinates '{path}' of axis '{dim}' have one number for each cell of "
            f"({', '.join(space)}) and do not change along '{dim}' alone: the axes are named in another order than "
            "they are stored, or the grid is none of straight lines."
        )
    return line


def _shape(store: Store, array: StoredArray) -> tuple[int, ...]:
    """An array's shape in the order that users know."""
    return array.shape[::-1] if store.is_reversed else array.shape


def _within(layout: Layout, path: str) -> str:
    return path if layout.group is None else f"{layout.group.rstrip('/')}/{path.lstrip('/')}"
