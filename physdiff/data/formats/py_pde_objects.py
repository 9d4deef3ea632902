"""py-pde's fields and storages in memory, read as its `FileStorage` writes them (`py_pde`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physdiff.data.containment import check_numbers
from physdiff.data.formats.grids import times_of
from physdiff.data.formats.marks import marked, only
from physdiff.data.formats.py_pde import PY_PDE, USED, box_of, described, further, open_py_pde, variables_of
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY, Source
from physdiff.data.stored import MemoryArray, StackedArray, StoredArray


def kind_of_object(data: object) -> str:
    """What an object of py-pde is, "field" or "storage", and "" of any other.

    The names of its classes tell, so that py-pde need not be imported.
    """
    ours = {f"{cls.__module__}.{cls.__name__}" for cls in type(data).__mro__}
    names = {"pde.fields.base.FieldBase": "field", "pde.storage.base.StorageBase": "storage"}
    return next((kind for name, kind in names.items() if name in ours), "")


def is_py_pde(data: object) -> bool:
    """Whether it is a field or a storage of py-pde, or several of them."""
    parts = data if isinstance(data, list | tuple) and data else [data]
    return all(kind_of_object(part) for part in parts)


def source_of_py_pde(data: Any, layout: Layout, name: str) -> Source:
    """Fields of py-pde's objects, each a run of its own.

    Args:
        data: A field (one frame, at time 0), a storage, or several of one kind with the same grid, fields and frames.
        layout: What they do not tell: the boundary of an axis that is not periodic.
        name: What messages call them.

    Raises:
        ValueError: as for a file of py-pde, or several do not fit each other.
    """
    parts = list(data) if isinstance(data, list | tuple) else [data]
    if len(parts) == 1 and hasattr(parts[0], "filename"):
        return open_py_pde(Path(parts[0].filename), layout)
    only(layout, PY_PDE.name, name, USED)
    told = [_one(part, name if len(parts) == 1 else f"{name} {i}") for i, part in enumerate(parts)]
    attributes, first, _ = told[0]
    for i, (other, array, _) in enumerate(told):
        if _kinds(other, name) != _kinds(attributes, name) or array.shape != first.shape:
            raise ValueError(
                f"{name} {i} holds {_kinds(other, name)}, {array.shape}; {name} 0 holds {_kinds(attributes, name)}, "
                f"{first.shape}. Runs of one set are alike in fields, grid and frames."
            )
    fields, collected = described(attributes, name)
    grid = box_of(fields, name, layout)
    whole, leading = (first, (TIME,)) if len(told) == 1 else (
        StackedArray(tuple(array for _, array, _ in told)), (TRAJECTORY, TIME),
    )  # fmt: skip
    times = times_of(name, len(told), first.shape[0], np.stack([times for *_, times in told]), layout)
    found = list(variables_of(fields, collected, whole, leading, grid, name))
    variables, observed = marked(found, layout, grid, name)
    attrs = further(getattr(parts[0], "info", {})) if len(parts) == 1 else {}
    return Source(
        name, PY_PDE.name, grid, variables, len(told), times, observed=observed, attrs=attrs, is_in_memory=True
    )


def _one(data: Any, name: str) -> tuple[Mapping[str, str], StoredArray, np.ndarray]:
    """Attributes, values of shape (frames, ...) and times of one object."""
    if kind_of_object(data) == "field":
        frames, times, field = [data.data], [0.0], data
    else:
        if not len(data):
            raise ValueError(f"{name} holds no frame.")
        field = data[0]
        # Of a file that may be closed or written again the values are taken along.
        frames, times = [np.asarray(values) for values in data.data[: len(data)]], data.times[: len(data)]
    for values in frames:
        check_numbers(f"{name}: 'data'", values.dtype, values.shape)
    array = StackedArray(tuple(MemoryArray(values, name) for values in frames))
    return field.attributes_serialized, array, np.asarray(times, dtype=np.float64)


def _kinds(attributes: Mapping[str, str], name: str) -> list[Any]:
    """Class, label and grid of each field."""
    return [[field.get(key) for key in ("class", "label", "grid")] for field in described(attributes, name)[0]]
