"""Arrays with named axes, coordinates and attributes: netCDF, zarr and xarray, by the CF conventions.

Axes are known by their names, never by their place. `time` is the time; `sample`, `trajectory` and the like count runs;
a level of pressure or height makes a variable for each level; the others are the axes of the grid. What is unclear is
refused, and settled by `dims`, which names the axes anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from physdiff.data.axes import text
from physdiff.data.formats.assembly import Contents, NamedArray, assemble, numbers_of_runs
from physdiff.data.formats.axis_names import COMPONENT, check_said
from physdiff.data.formats.by_layout import SHOWN, Wanted, wanted
from physdiff.data.formats.described import Described, lookup, named_by, numbers_of, words_of
from physdiff.data.formats.field_axes import DESCRIBING, fields_among, left_out, refuse_staggered, roles_of
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY, Source


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
    chosen = {name: lookup(path, one.path, f"the field '{name}'", variables) for name, one in asked.items()}
    chosen = chosen or fields_among(variables)
    if not chosen:
        held = ", ".join(f"{n} {v.dims}" for n, v in list(variables.items())[:SHOWN]) or "nothing"
        further = f" Its groups: {', '.join(groups[:SHOWN])}; say which with group= (--data.layout.group)."
        raise ValueError(
            f"{path} holds no field: no variable has a spatial dimension; it holds {held}.{further * bool(groups)}"
        )
    refuse_staggered(path, chosen)
    roles = roles_of(path, chosen, layout, variables)
    static = set(layout.static or ())
    fields = [
        _field(path, name, one, asked.get(name), roles, variables, name in static) for name, one in chosen.items()
    ]
    sizes = {dim: n for one in fields for dim, n in one.sizes.items()}
    trajectories, frames = sizes.get(TRAJECTORY, 1), sizes.get(TIME, 1)
    stored = {role: name for name, role in reversed(roles.items())}
    centres, beside = _coordinates(path, [d for d in sizes if d not in (TRAJECTORY, TIME)], stored, variables, layout)
    times, labels, notes = _times(path, trajectories, stored, roles, variables)
    rest = layout
    if isinstance(layout.time, str):
        times, rest = _times_at(path, layout.time, stored, roles, variables), replace(layout, time=None)
    taken = {stored.get(TIME), stored.get(TRAJECTORY), "time", "trajectory", *chosen, *(asked[n].path for n in asked)}
    scalars = _scalars(path, variables, roles, taken, trajectories, frames)
    for name, one in wanted(layout, path, "scalars").items():
        scalars[name] = _scalar_at(path, name, one, roles, variables, trajectories, frames)
    names = None
    if (COMPONENT in stored) and (level := variables.get(stored[COMPONENT])) is not None:
        names = words_of(path, level)
    notes |= {k: v for k, v in attrs.items() if isinstance(v, str | int | float)}
    notes |= {
        f"{n}.offset": str(np.ravel(v.attrs["offset"]).tolist()) for n, v in chosen.items() if "offset" in v.attrs
    }
    if not_read := left_out(variables, chosen, asked):
        notes["not read"] = not_read
    contents = Contents(fields, centres, beside, times, scalars, labels, names, notes)
    return assemble(path, schema, contents, rest)


def _field(
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
        one = named if name is None else lookup(path, name, _named("coordinates"), variables)
        if one is not None and len(one.dims) == 1 and dim != COMPONENT:
            _require_axes(path, one, {stored[dim]} if dim in stored else set(), stored, "coordinates", name)
            centres[dim], beside[dim] = numbers_of(path, one), one.attrs
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
    values = None if time is None else numbers_of(path, time)
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
            labels = numbers_of(path, label).astype(np.int64)
    return values, labels, notes


def _times_at(
    path: str, name: str, stored: Mapping[str, str], roles: Mapping[str, str], variables: Mapping[str, Described]
) -> np.ndarray:
    """Times where a layout says that they are."""
    one = lookup(path, name, _named("time"), variables)
    _require_axes(path, one, {stored[dim] for dim in (TRAJECTORY, TIME) if dim in stored}, stored, "time", name)
    times = numbers_of(path, one)
    return times.T if tuple(roles.get(dim, dim) for dim in one.dims) == (TIME, TRAJECTORY) else times


def _scalars(
    path: str, variables: Mapping[str, Described], roles: Mapping[str, str], taken: set[str | None], trajectories: int,
    frames: int,
) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:  # fmt: skip
    """Variables without an axis of the grid: numbers of the runs, or of the frames."""
    found: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {}
    taken = taken | named_by(variables, DESCRIBING)
    for name, one in variables.items():
        own = tuple(roles.get(dim, "") for dim in one.dims)
        if name in taken or set(own) - {TRAJECTORY, TIME} or one.array.dtype.kind not in "fiub":
            continue
        if 0 in one.array.shape:
            continue
        values = numbers_of(path, one)
        if own == (TIME, TRAJECTORY):
            values, own = values.T, (TRAJECTORY, TIME)
        found[name] = numbers_of_runs(path, name, values, own, trajectories, frames)
    return found


def _scalar_at(
    path: str, name: str, asked: Wanted, roles: Mapping[str, str], variables: Mapping[str, Described],
    trajectories: int, frames: int,
) -> tuple[np.ndarray, tuple[str, ...]]:  # fmt: skip
    """Numbers of the runs, or of the frames, where a layout says that they are."""
    one = lookup(path, asked.path, _named("scalars"), variables)
    values, own = numbers_of(path, one), asked.dims
    if own is None and set(told := tuple(roles.get(dim, "") for dim in one.dims)) <= {TRAJECTORY, TIME}:
        values, own = (values.T, told[::-1]) if told == (TIME, TRAJECTORY) else (values, told)
    return numbers_of_runs(path, name, values, own, trajectories, frames)


def _named(setting: str) -> str:
    return f"which {setting}= (--data.layout.{setting}) names"
