"""What a `Layout` says of fields that a format has named: which are vectors, which are pseudo, which is the mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import replace

from physdiff.data.layout import Layout
from physdiff.data.source import Variable
from physdiff.data.view import View
from physdiff.grid import Grid
from physdiff.registry import nearest


def marked(
    variables: Iterable[Variable], layout: Layout, grid: Grid, source: str
) -> tuple[tuple[Variable, ...], View | None]:
    """Variables as the layout describes them, and the mask, which is then none of them.

    Raises:
        ValueError: there is no field of a name, or a vector has not one component per axis of the grid.
    """
    fields = {v.name: v for v in variables}
    for vector, components in (layout.vectors or {}).items():
        if len(components) != grid.ndim:
            raise ValueError(
                f"{source}: the vector '{vector}' has the components {', '.join(components)}; expected one for each of "
                f"the axes {', '.join(grid.dims)}."
            )
        for axis, name in enumerate(components):
            fields[_known(name, "vectors", fields, source)] = replace(fields[name], parent=vector, component=(axis,))
    for name in layout.pseudo or ():
        parts = [n for n, v in fields.items() if name in (n, v.parent)]
        for part in parts or [_known(name, "pseudo", fields, source)]:
            fields[part] = replace(fields[part], pseudo=True)
    observed = None
    if layout.mask is not None:
        observed = fields.pop(_known(layout.mask, "mask", fields, source)).view
    return tuple(fields.values()), observed


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
