"""Which variables of a file with named axes are fields, and what their axes are to us.

A field lies on as many axes of the grid as any other variable, is no coordinate and describes no other variable. An
axis of time, of runs or of levels is known by its name, or by its coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from physdiff.data.axes import text
from physdiff.data.formats.axis_names import COMPONENT, check_said, role
from physdiff.data.formats.by_layout import Wanted
from physdiff.data.formats.described import Described, named_by
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY

# Variables that describe others (CF conventions, sections 5, 7 and appendix A).
DESCRIBING = ("bounds", "climatology", "ancillary_variables", "cell_measures", "grid_mapping")


def fields_among(variables: Mapping[str, Described]) -> dict[str, Described]:
    """Variables on as many axes of a grid as any, that are no coordinate and describe no other."""
    found = _on_a_grid(variables)
    if not found:
        return {}
    # A table along one axis beside fields on several (weights of latitudes, heights of levels) is none of them.
    counts = {name: len(_space(one, variables)) for name, one in found.items()}
    return {name: one for name, one in found.items() if counts[name] == max(counts.values())}


def _space(one: Described, variables: Mapping[str, Described]) -> set[str]:
    """Its axes of the grid."""
    return {dim for dim in one.dims if not _role(dim, variables)}


def _on_a_grid(variables: Mapping[str, Described]) -> dict[str, Described]:
    describing = named_by(variables, (*DESCRIBING, "coordinates"))
    found = {}
    for name, one in variables.items():
        is_coordinate = one.dims == (name,) or name in describing
        has_space = any(_role(dim, variables) in ("", COMPONENT) for dim in one.dims)
        if has_space and not is_coordinate and one.array.dtype.kind in "fiubc":
            found[name] = one
    return found


def left_out(variables: Mapping[str, Described], chosen: Mapping[str, Described], asked: Mapping[str, Wanted]) -> str:
    """Variables on two axes or more of the fields' grid that are none of these, such as the surface beneath layers."""
    axes = {dim for one in chosen.values() for dim in _space(one, variables)}
    lacking = [] if asked else [name for name in _on_a_grid(variables) if name not in chosen]
    lacking = [name for name in lacking if len(axes & set(variables[name].dims)) > 1]
    return f"{', '.join(lacking)}, on fewer axes; fields= (--data.layout.fields) chooses them" if lacking else ""


def _role(dim: str, variables: Mapping[str, Described]) -> str:
    """What an axis is by its name, or else by its coordinate: times by the CF conventions, section 4.4; words."""
    known, coordinate = role(dim), variables.get(dim)
    if known or coordinate is None or coordinate.dims != (dim,):
        return known
    said = {key: text(coordinate.attrs.get(key, "")) for key in ("units", "axis", "standard_name")}
    if " since " in said["units"] or said["axis"] == "T" or said["standard_name"] == "time":
        return TIME
    return COMPONENT if coordinate.array.dtype.kind in "SUO" else ""


def roles_of(
    path: str, chosen: Mapping[str, Described], layout: Layout, variables: Mapping[str, Described]
) -> dict[str, str]:
    """Our name for every axis of the fields, by the file's name.

    Raises:
        ValueError: the names of the layout do not fit, or two axes could be of one kind.
    """
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


def refuse_staggered(path: str, chosen: Mapping[str, Described]) -> None:
    """JAX-CFD says with `offset` where in its cell a variable sits; those that sit apart are on different grids.

    Raises:
        ValueError: some sit apart.
    """
    offsets = {n: tuple(np.ravel(v.attrs["offset"]).tolist()) for n, v in chosen.items() if "offset" in v.attrs}
    if len(set(offsets.values())) > 1:
        said = ", ".join(f"'{name}' at {offset}" for name, offset in offsets.items())
        raise ValueError(
            f"{path}: the fields sit at different places of a cell, {said}: a staggered grid. Interpolate them to the "
            "centres first, or choose fields of one place with fields= (--data.layout.fields)."
        )
