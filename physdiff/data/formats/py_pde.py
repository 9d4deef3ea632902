"""Trajectories that py-pde's `FileStorage` writes (Zwicker, 2020): one run, every field in one array.

    data    (T, [components,] X[, Y[, Z]]); times (T)
    @field_attributes   JSON: class ScalarField | VectorField | Tensor2Field | FieldCollection, label, grid; JSON within
                        JSON, as each part is encoded by itself
    @data_length        frames that were written, where the arrays were made longer beforehand

A tensor has two axes of components, a collection the components of all its fields along one. The grid says which axes
are periodic; what stands at the ends of others is the equation's affair and not in the file, so it is asked for.
Values are at cell centres.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physdiff.data.axes import text
from physdiff.data.formats.format import Format, Probe
from physdiff.data.formats.grids import grid_of, times_of
from physdiff.data.formats.marks import marked, only
from physdiff.data.formats.members import array_of, few, numbers
from physdiff.data.handles import open_hdf5
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, Source, Variable
from physdiff.data.stored import StoredArray
from physdiff.data.view import View
from physdiff.grid import Grid

USED = ("boundary", "extent", "origin", "length_unit", "time", "vectors", "pseudo", "mask")
_RANKS = {"ScalarField": 0, "VectorField": 1, "Tensor2Field": 2}


def recognises(probe: Probe) -> bool:
    """Whether a file has the storage's arrays and attribute."""
    return probe.has("data", "times") and "field_attributes" in probe.attrs


def open_py_pde(path: Path, layout: Layout) -> Source:
    """What a file holds.

    Raises:
        ValueError: the grid is not Cartesian, values are complex, data and attributes do not fit each other, or the
            boundary of an axis that is not periodic was not said.
    """
    only(layout, PY_PDE.name, path, USED)
    source = str(path)
    with open_hdf5(path) as file:
        fields, collected = described(file.attrs.get("field_attributes", ""), source)
        grid = box_of(fields, source, layout)
        data, stored = numbers(file, "data", PY_PDE.title), numbers(file, "times", PY_PDE.title)
        frames = _frames(file, len(data))
        # Rows beyond those that were written hold nothing; the array ends before them.
        array = replace(array_of(data), shape=(frames, *data.shape[1:]))
        times = times_of(source, 1, frames, few(stored)[:frames], layout, file)
        found = list(variables_of(fields, collected, array, (TIME,), grid, source))
        attrs = further(file.attrs)
    variables, observed = marked(found, layout, grid, source)
    return Source(source, PY_PDE.name, grid, variables, 1, times, observed=observed, attrs=attrs)


def described(attributes: Any, source: str) -> tuple[list[Mapping[str, Any]], bool]:
    """What the array holds, field by field, and whether they are a collection.

    Raises:
        ValueError: it is not what py-pde says of a field.
    """
    # A file holds the dictionary as JSON, an object itself; its entries are JSON in both.
    whole = _decoded(attributes if isinstance(attributes, Mapping) else _decoded(attributes))
    fields = whole.get("fields", [whole]) if isinstance(whole, dict) else []
    fields = [_decoded(f) if f is not whole else f for f in fields] if isinstance(fields, list) else []
    if not fields or not all(isinstance(f, dict) and isinstance(f.get("grid"), dict) for f in fields):
        raise ValueError(f"{source}: the attribute 'field_attributes' is not what py-pde's FileStorage writes.")
    return fields, whole.get("class") == "FieldCollection"


def further(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """What a storage tells beside its fields."""
    return {key: _decoded(value) for key, value in attrs.items() if key not in ("field_attributes", "data_length")}


def box_of(fields: list[Mapping[str, Any]], source: str, layout: Layout) -> Grid:
    """The grid of fields, and at ends that are not periodic what the layout says.

    Raises:
        ValueError: it is not Cartesian, or the layout does not say.
    """
    state = fields[0]["grid"]
    kind, shape = state.get("class"), state.get("shape")
    if kind not in ("CartesianGrid", "UnitGrid"):
        raise ValueError(f"{source} is on a {kind} of py-pde; physdiff reads CartesianGrid and UnitGrid.")
    periodic = state.get("periodic")
    bounds = state.get("bounds", [[0, n] for n in shape]) if isinstance(shape, list) else None
    try:
        sides = np.asarray(bounds, dtype=np.float64).reshape(len(shape), 2)
        whole = [int(n) for n in shape]
        wraps = [bool(p) for p in (periodic if isinstance(periodic, list) else [periodic] * len(shape))]
        if len(wraps) != len(whole):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"{source}: its grid has shape {shape}, bounds {bounds} and periodic {periodic}.") from None
    dims = ("x", "y", "z")[: len(whole)] if len(whole) <= 3 else tuple(f"x{i}" for i in range(len(whole)))
    walls = [dim for dim, wrap in zip(dims, wraps, strict=True) if not wrap]
    if walls and layout.boundary is None:
        asked = ", ".join("periodic" if wrap else "neumann" for wrap in wraps)
        raise ValueError(
            f"{source} is not periodic along {', '.join(walls)}, and does not say what stands at the ends; pass "
            f"boundary= (--data.layout.boundary), such as [{asked}]; 'neumann' is insulated, 'dirichlet' clamped."
        )
    own = replace(
        layout,
        boundary=layout.boundary if layout.boundary is not None else ["periodic"] * len(whole),
        extent=layout.extent if layout.extent is not None else [float(high - low) for low, high in sides],
        origin=layout.origin if layout.origin is not None else [float(low) for low, _ in sides],
    )
    return grid_of(source, dict(zip(dims, whole, strict=True)), {}, own)


def variables_of(
    fields: list[Mapping[str, Any]],
    collected: bool,
    array: StoredArray,
    leading: tuple[str, ...],
    grid: Grid,
    source: str,
) -> Iterator[Variable]:
    """Scalars, and the components of vectors and tensors, in the order in which the array stacks them.

    Raises:
        ValueError: a field is of another kind, or the array is not of these fields.
    """
    ranks = []
    for field in fields:
        if field.get("class") not in _RANKS:
            raise ValueError(f"{source} holds a {field.get('class')}; physdiff reads {', '.join(_RANKS)}.")
        ranks.append(_RANKS[field["class"]])
    before = [sum(grid.ndim**r for r in ranks)] if collected else [grid.ndim] * ranks[0]
    expected = (*array.shape[: len(leading)], *before, *grid.shape)
    if array.shape != expected:
        raise ValueError(
            f"{source}: 'data' has the shape {array.shape}; expected {expected} for "
            f"({', '.join((*leading, *['component'] * len(before), *grid.dims))}) of "
            f"{', '.join(f['class'] for f in fields)}."
        )
    places = ("component", "second component")[: len(before)]
    count = itertools.count()
    for number, (field, rank) in enumerate(zip(fields, ranks, strict=True)):
        name = field.get("label") or ("data" if len(fields) == 1 else f"data_{number}")
        for index in itertools.product(range(grid.ndim), repeat=rank):
            at = (next(count),) if collected else index
            view = View(array, (*leading, *places, *grid.dims), dict(zip(places, at, strict=True)))
            suffix = "_" * bool(rank) + "".join(grid.dims[i] for i in index)
            yield Variable(name + suffix, view, "", name if rank else "", index)


def _frames(file: h5py.File, stored: int) -> int:
    length = _decoded(file.attrs.get("data_length", stored))
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"{file.filename}: the attribute 'data_length' is {length!r}; expected at least one frame.")
    return min(length, stored)


def _decoded(value: Any) -> Any:
    """One layer of JSON taken off, of a word or of each entry of a dictionary; what is no JSON stays."""
    if isinstance(value, Mapping):
        return {key: _decoded(item) if isinstance(item, str) else item for key, item in value.items()}
    try:
        return json.loads(text(value))
    except ValueError:
        return value


PY_PDE = Format(
    "py_pde", "py-pde", recognises, open_py_pde,
    told_by="datasets data and times, and the attribute field_attributes",
    needs="boundary, where an axis is not periodic",
)  # fmt: skip
