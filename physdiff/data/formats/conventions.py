"""Arrays with named axes, coordinates and attributes: netCDF, zarr and xarray, by the CF conventions.

Axes are known by their names, never by their place. `time` is the time; `sample`, `trajectory` and the like count runs;
a level of pressure or height makes a variable for each level; the others are the axes of the grid. What is unclear is
refused, and settled by `dims`, which names the axes anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from physdiff.data.axes import text
from physdiff.data.formats.assembly import Contents, NamedArray, assemble, numbers_of_runs
from physdiff.data.formats.axis_names import COMPONENT, check_said, role
from physdiff.data.formats.by_layout import SHOWN, Wanted, wanted
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY, Source
from physdiff.data.stored import StoredArray, read_all
from physdiff.registry import nearest

# Variables that describe others (CF conventions, sections 5, 7 and appendix A).
_DESCRIBING = ("bounds", "climatology", "ancillary_variables", "cell_measures", "grid_mapping")
_MOST_NUMBERS = 2**27  # entries of an array without an axis of the grid, which is read at once


@dataclass(frozen=True)
class Described:
    """A variable of such a file.

    Attributes:
        array: Where its numbers are, unpacked.
        dims: Name of each axis, in stored order.
        attrs: Its attributes, plain values.
    """

    array: StoredArray
    dims: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)


def read_by_conventions(
    path: str, schema: str, variables: Mapping[str, Described], attrs: Mapping[str, Any], layout: Layout,
    groups: Sequence[str] = (),
) -> Source:  # fmt: skip
    """A file of variables with named axes.

    Args:
        path: What messages call it.
        schema: Name of the format.
        variables: Everything in it that is an array.
        attrs: Attributes of the whole.
        layout: `fields` chooses variables, `dims` names their axes anew, the rest as everywhere.
        groups: Parts of the file with variables of their own, for the message of a file without any at its top.

    Raises:
        ValueError: there is no field, an axis could be of two kinds, or the grid is not told.
    """
    asked = wanted(layout, path)
    for name, one in asked.items():
        if _key(one.path, variables) is None:
            raise ValueError(f"{path} has no variable '{one.path}', the field '{name}'. {nearest(one.path, variables)}")
    chosen = {name: variables[_found(one.path, variables)] for name, one in asked.items()}
    chosen = chosen or _fields(variables)
    if not chosen:
        held = ", ".join(f"{n} {v.dims}" for n, v in list(variables.items())[:SHOWN]) or "nothing"
        further = f" Its groups: {', '.join(groups[:SHOWN])}; say which with group= (--data.layout.group)."
        raise ValueError(
            f"{path} holds no field: no variable has a spatial dimension; it holds {held}.{further * bool(groups)}"
        )
    _refuse_staggered(path, chosen)
    roles = _roles(path, chosen, layout, variables)
    static = set(layout.static or ())
    fields = [
        _named(path, name, one, asked.get(name), roles, variables, name in static) for name, one in chosen.items()
    ]
    sizes = {dim: n for one in fields for dim, n in one.sizes.items()}
    trajectories, frames = sizes.get(TRAJECTORY, 1), sizes.get(TIME, 1)
    stored = {role: name for name, role in reversed(roles.items())}
    centres, beside = _coordinates(path, [d for d in sizes if d not in (TRAJECTORY, TIME)], stored, variables, layout)
    times, labels, notes = _times(path, trajectories, stored, roles, variables)
    rest = layout
    if isinstance(layout.time, str):
        said = _lookup(path, layout.time, "time", variables)
        counted = {stored[dim] for dim in (TRAJECTORY, TIME) if dim in stored}
        _require_axes(path, said, counted, stored, "time", layout.time)
        times = _numbers(path, said)
        times = times.T if tuple(roles.get(dim, dim) for dim in said.dims) == (TIME, TRAJECTORY) else times
        rest = replace(layout, time=None)
    taken = {stored.get(TIME), stored.get(TRAJECTORY), "time", "trajectory", *chosen, *(asked[n].path for n in asked)}
    scalars = _scalars(path, variables, roles, taken, trajectories, frames)
    for name, one in wanted(layout, path, "scalars").items():
        said = _lookup(path, one.path, "scalars", variables)
        values, own = _numbers(path, said), one.dims
        if own is None and set(told := tuple(roles.get(dim, "") for dim in said.dims)) <= {TRAJECTORY, TIME}:
            values, own = (values.T, told[::-1]) if told == (TIME, TRAJECTORY) else (values, told)
        scalars[name] = numbers_of_runs(path, name, values, own, trajectories, frames)
    names = None
    if (COMPONENT in stored) and (level := variables.get(stored[COMPONENT])) is not None:
        names = _words(path, level)
    notes |= {k: v for k, v in attrs.items() if isinstance(v, str | int | float)}
    notes |= {
        f"{n}.offset": str(np.ravel(v.attrs["offset"]).tolist()) for n, v in chosen.items() if "offset" in v.attrs
    }
    if left := _left_out(variables, chosen, asked):
        notes["not read"] = left
    contents = Contents(fields, centres, beside, times, scalars, labels, names, notes)
    return assemble(path, schema, contents, rest)


def _fields(variables: Mapping[str, Described]) -> dict[str, Described]:
    """Variables on as many axes of a grid as any, that are no coordinate and describe no other."""
    found = _on_a_grid(variables)
    if not found:
        return {}
    # A table along one axis beside fields on several (weights of latitudes, heights of levels) is none of them.
    most = max(sum(role(d) == "" for d in one.dims) for one in found.values())
    return {n: one for n, one in found.items() if sum(role(d) == "" for d in one.dims) == most}


def _on_a_grid(variables: Mapping[str, Described]) -> dict[str, Described]:
    describing = _named_by(variables, (*_DESCRIBING, "coordinates"))
    found = {}
    for name, one in variables.items():
        is_coordinate = one.dims == (name,) or name in describing
        has_space = any(_role(dim, variables) in ("", COMPONENT) for dim in one.dims)
        if has_space and not is_coordinate and one.array.dtype.kind in "fiubc":
            found[name] = one
    return found


def _left_out(variables: Mapping[str, Described], chosen: Mapping[str, Described], asked: Mapping[str, Wanted]) -> str:
    """Variables on two axes or more of the fields' grid that are none of these, such as the surface beneath layers."""
    axes = {dim for one in chosen.values() for dim in one.dims if not role(dim)}
    lacking = [] if asked else [n for n, v in _on_a_grid(variables).items() if n not in chosen]
    lacking = [n for n in lacking if len(axes & set(variables[n].dims)) > 1]
    return f"{', '.join(lacking)}, on fewer axes; fields= (--data.layout.fields) chooses them" if lacking else ""


def _named_by(variables: Mapping[str, Described], keys: Iterable[str]) -> set[str]:
    """Variables that others name in attributes."""
    words = [word for one in variables.values() for key in keys for word in text(one.attrs.get(key, "")).split()]
    return {word.rstrip(":") for word in words}


def _role(dim: str, variables: Mapping[str, Described]) -> str:
    """What an axis is by its name, or else by its coordinate: times by the CF conventions, section 4.4; words."""
    known, coordinate = role(dim), variables.get(dim)
    if known or coordinate is None or coordinate.dims != (dim,):
        return known
    said = {key: text(coordinate.attrs.get(key, "")) for key in ("units", "axis", "standard_name")}
    if " since " in said["units"] or said["axis"] == "T" or said["standard_name"] == "time":
        return TIME
    return COMPONENT if coordinate.array.dtype.kind in "SUO" else ""


def _roles(
    path: str, chosen: Mapping[str, Described], layout: Layout, variables: Mapping[str, Described]
) -> dict[str, str]:
    """Our name for every axis of the fields, by the file's name."""
    dims = list(dict.fromkeys(dim for one in chosen.values() for dim in one.dims))
    if layout.dims is not None:
        check_said(path, layout.dims)
        roles: dict[str, str] = {}
        for name, one in chosen.items():
            # Axes that already have the names that are asked for may come in any order.
            names = one.dims if set(one.dims) <= set(layout.dims) else tuple(layout.dims)
            if len(names) != len(one.dims):
                raise ValueError(
                    f"{path}: field '{name}' has the axes {', '.join(one.dims)}; dims= (--data.layout.dims) names "
                    f"{len(names)}: {', '.join(names)}."
                )
            for own, new in zip(one.dims, names, strict=True):
                if roles.setdefault(own, new) != new:
                    raise ValueError(
                        f"{path}: dims= (--data.layout.dims) calls the axis '{own}' both '{roles[own]}' and '{new}'."
                    )
        return roles
    roles = {dim: _role(dim, variables) or dim for dim in dims}
    for known in (TRAJECTORY, TIME, COMPONENT):
        same = [dim for dim in dims if roles[dim] == known]
        if len(same) > 1:
            raise ValueError(
                f"{path}: the axes {' and '.join(same)} could both be the {known}; the fields have "
                f"{', '.join(dims)}. Say what each is with dims= (--data.layout.dims), in this order."
            )
    return roles


def _named(
    path: str, name: str, one: Described, asked: Wanted | None, roles: Mapping[str, str],
    variables: Mapping[str, Described], is_static: bool,
) -> NamedArray:  # fmt: skip
    dims = tuple(roles[dim] for dim in one.dims)
    if asked is not None and asked.dims is not None:
        dims = asked.dims
        check_said(path, dims)
    if len(dims) != len(one.dims) or len(set(dims)) != len(dims):
        raise ValueError(
            f"{path}: field '{name}' has the axes {', '.join(one.dims)}; they were named {', '.join(dims)}."
        )
    if is_static and {TIME, TRAJECTORY} & set(dims):
        raise ValueError(f"{path}: field '{name}' is listed as static; it has the axes {', '.join(dims)}.")
    fixed = {
        new: 0
        for own, new, n in zip(one.dims, dims, one.array.shape, strict=True)
        # One level of height or one member has no extent; an axis of one cell says what extent it has.
        if n == 1 and new not in (TRAJECTORY, TIME) and not _has_extent(variables.get(own))
    }
    if len(fixed) == len([d for d in dims if d not in (TRAJECTORY, TIME)]):
        fixed = {}
    units = text(one.attrs.get("units", "")) if asked is None or not asked.unit else asked.unit
    return NamedArray(name, one.array, dims, units, fixed)


def _has_extent(coordinate: Described | None) -> bool:
    return coordinate is not None and "grid_extent" in coordinate.attrs


def _coordinates(
    path: str, dims: Iterable[str], stored: Mapping[str, str], variables: Mapping[str, Described], layout: Layout
) -> tuple[dict[str, np.ndarray], dict[str, Mapping[str, Any]]]:
    """Cell centres of the axes, and the attributes beside them."""
    centres, beside = {}, {}
    for dim in dims:
        name = (layout.coordinates or {}).get(dim)
        named = variables.get(stored[dim]) if dim in stored else None
        one = named if name is None else _lookup(path, name, "coordinates", variables)
        if one is not None and len(one.dims) == 1 and dim != COMPONENT:
            _require_axes(path, one, {stored[dim]} if dim in stored else set(), stored, "coordinates", name)
            centres[dim], beside[dim] = _numbers(path, one), one.attrs
    return centres, beside


def _require_axes(
    path: str, one: Described, own: set[str], stored: Mapping[str, str], setting: str, name: str | None
) -> None:
    """Raise where a variable that a layout names lies along an axis of the fields that it cannot belong to.

    Axes to which h5netcdf gave names, by their lengths alone, say nothing.
    """
    wrong = [d for d in one.dims if d in stored.values() and d not in own and not d.startswith("phony_dim")]
    if wrong and name is not None:
        raise ValueError(
            f"{path}: '{name}' lies along the axis '{wrong[0]}'; {setting}= (--data.layout.{setting}) names it for "
            f"{' and '.join(sorted(own)) or 'none of the axes'}."
        )


def _times(
    path: str,
    trajectories: int,
    stored: Mapping[str, str],
    roles: Mapping[str, str],
    variables: Mapping[str, Described],
) -> tuple[np.ndarray | None, np.ndarray | None, dict[str, Any]]:
    """Times of the frames, the run that each entry along the runs belongs to, and the unit of time."""
    notes: dict[str, Any] = {}
    time = variables.get(stored.get(TIME, "time"))
    if time is not None:
        for key in ("units", "calendar"):
            if key in time.attrs:
                notes[f"time_{key}"] = text(time.attrs[key])
    values = None if time is None else _numbers(path, time)
    own = () if time is None else tuple(roles.get(dim, dim) for dim in time.dims)
    runs, labels = stored.get(TRAJECTORY), None
    if own == (TIME, TRAJECTORY) and values is not None:
        values = values.T
    elif TIME not in stored:
        # Snapshots one by one: each is a trajectory of one frame, at its own time, of the run that it names.
        if own == (TRAJECTORY,) and values is not None:
            values = values.reshape(trajectories, 1)
        elif values is not None and values.ndim == 0:
            values = values.reshape(1)
        elif own != (TIME,):
            values = None
        label = variables.get("trajectory")
        if label is not None and runs is not None and label.dims == (runs,) and runs != "trajectory":
            labels = _numbers(path, label).astype(np.int64)
    return values, labels, notes


def _scalars(
    path: str, variables: Mapping[str, Described], roles: Mapping[str, str], taken: set[str | None], trajectories: int,
    frames: int,
) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:  # fmt: skip
    """Variables without an axis of the grid: numbers of the runs, or of the frames."""
    found: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {}
    taken = taken | _named_by(variables, _DESCRIBING)
    for name, one in variables.items():
        own = tuple(roles.get(dim, "") for dim in one.dims)
        if name in taken or set(own) - {TRAJECTORY, TIME} or one.array.dtype.kind not in "fiub":
            continue
        if 0 in one.array.shape:
            continue
        values = _numbers(path, one)
        if own == (TIME, TRAJECTORY):
            values, own = values.T, (TRAJECTORY, TIME)
        found[name] = numbers_of_runs(path, name, values, own, trajectories, frames)
    return found


def _refuse_staggered(path: str, chosen: Mapping[str, Described]) -> None:
    """JAX-CFD says with `offset` where in its cell a variable sits; those that sit apart are on different grids."""
    offsets = {n: tuple(np.ravel(v.attrs["offset"]).tolist()) for n, v in chosen.items() if "offset" in v.attrs}
    if len(set(offsets.values())) > 1:
        said = ", ".join(f"'{name}' at {offset}" for name, offset in offsets.items())
        raise ValueError(
            f"{path}: the fields sit at different places of a cell, {said}: a staggered grid. Interpolate them to the "
            "centres first, or choose fields of one place with fields= (--data.layout.fields)."
        )


def _numbers(path: str, one: Described) -> np.ndarray:
    if one.array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: {one.array.label} holds {one.array.dtype}; expected numbers.")
    if int(np.prod(one.array.shape, dtype=object)) > _MOST_NUMBERS:
        raise ValueError(f"{path}: {one.array.label} has the shape {one.array.shape}; expected some numbers.")
    return read_all(one.array)


def _lookup(path: str, name: str, setting: str, variables: Mapping[str, Described]) -> Described:
    key = _key(name, variables)
    if key is None:
        raise ValueError(
            f"{path} has no variable '{name}', which {setting}= (--data.layout.{setting}) names. "
            f"{nearest(name, variables)}"
        )
    return variables[key]


def _key(name: str, variables: Mapping[str, Described]) -> str | None:
    return next((key for key in (name, name.strip("/")) if key in variables), None)


def _found(name: str, variables: Mapping[str, Described]) -> str:
    key = _key(name, variables)
    assert key is not None
    return key


def _words(path: str, level: Described) -> list[str]:
    """Names of the entries along an axis: its coordinates, numbers or words."""
    if level.array.dtype.kind in "SUO" and len(level.array.shape) == 1:
        return [text(value).strip() for value in read_all(level.array)]
    return [f"{value:g}" for value in _numbers(path, level)]
