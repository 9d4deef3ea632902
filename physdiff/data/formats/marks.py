"""What a `Layout` says of fields that a format has named: which are vectors, which are pseudo, which is the mask."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from physdiff.data.layout import Layout
from physdiff.data.source import Variable
from physdiff.data.view import View
from physdiff.grid import Grid
from physdiff.registry import nearest

# Which axes the components u, v, w are along in fluids and on the globe.
_ALONG = {"u": ("x", "lon", "longitude"), "v": ("y", "lat", "latitude"), "w": ("z", "lev", "level", "height", "depth")}


def marked(
    variables: Iterable[Variable], layout: Layout, grid: Grid, source: str
) -> tuple[tuple[Variable, ...], View | None]:
    """Variables as the layout describes them, and the mask, which is then none of them.

    Raises:
        ValueError: two fields have one name, there is no field of a name, or a vector has not one component per axis of
            the grid, or its components are called after other axes than those along which the layout puts them.
    """
    fields: dict[str, Variable] = {}
    for v in variables:
        if fields.setdefault(v.name, v) is not v:
            raise ValueError(f"{source}: two fields are named '{v.name}'.")
    for vector, components in (layout.vectors or {}).items():
        for axis, name in enumerate(_by_axis(vector, components, grid, source)):
            fields[_known(name, "vectors", fields, source)] = replace(fields[name], parent=vector, component=(axis,))
    for name in layout.pseudo or ():
        parts = [n for n, v in fields.items() if name in (n, v.parent)]
        for part in parts or [_known(name, "pseudo", fields, source)]:
            fields[part] = replace(fields[part], pseudo=True)
    observed = None
    if layout.mask is not None:
        observed = fields.pop(_known(layout.mask, "mask", fields, source)).view
    return tuple(fields.values()), observed


def _by_axis(vector: str, components: Any, grid: Grid, source: str) -> list[str]:
    """Components of a vector in the order of the grid's axes, from a list in this order or from names by axis."""
    if not isinstance(components, list | dict):
        raise ValueError(
            f"{source}: the vector '{vector}' is {components!r}; expected its components, by axis or in the order of "
            f"the axes {', '.join(grid.dims)}."
        )
    by_name = components if isinstance(components, dict) else None
    if len(components) != grid.ndim or (by_name is not None and set(by_name) != set(grid.dims)):
        names = [str(name) if by_name is None else f"{name}: {by_name[name]}" for name in components]
        raise ValueError(
            f"{source}: the vector '{vector}' has the components {', '.join(names)}; expected one for each of the axes "
            f"{', '.join(grid.dims)}."
        )
    if by_name is not None:
        return [by_name[dim] for dim in grid.dims]
    named = [axis_of(str(name), grid.dims) for name in components]
    if set(named) == set(grid.dims) and tuple(named) != grid.dims:
        # Each is called after another axis: what is meant is asked for, as flips would turn the wrong signs.
        meant = ", ".join(f"{dim}: {components[named.index(dim)]}" for dim in grid.dims)
        raise ValueError(
            f"{source}: the vector '{vector}' has the components {', '.join(components)} along "
            f"{', '.join(grid.dims)}, the order of the grid's axes, and their names say otherwise; say {{{meant}}}, or "
            "which component is along which axis."
        )
    return list(components)


def axis_of(name: str, dims: Sequence[str]) -> str | None:
    """The axis after which a component is called: v_x, vx, x_velocity, or u, v, w along x, y, z; None if after none."""
    word, known = name.lower(), {dim.lower(): dim for dim in dims}
    found = [dim for axis, dim in known.items() if word.endswith(axis) or word.startswith(f"{axis}_")]
    if not found and re.fullmatch(r"[uvw](\d*|_.*)", word):
        found = [known[axis] for axis in _ALONG[word[0]] if axis in known]
    return found[0] if len(found) == 1 else None


def only(layout: Layout, schema: str, path: object, used: Sequence[str]) -> None:
    """Raise for a setting that files of a format have no use for: it would be left out without a word.

    Raises:
        ValueError: there is one; those that are used are named.
    """
    for field in dataclasses.fields(layout):
        if getattr(layout, field.name) is not None and field.name not in ("schema", "join", *used):
            raise ValueError(
                f"'{path}' is read as {schema}, which has no use for '{field.name}' (--data.layout.{field.name}); it "
                f"takes {', '.join(used)}."
            )


def _known(name: str, setting: str, fields: dict[str, Variable], source: str) -> str:
    if name not in fields:
        raise ValueError(
            f"{source} has no field '{name}', which {setting}= (--data.layout.{setting}) names. {nearest(name, fields)}"
        )
    return name
