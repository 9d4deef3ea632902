"""Members of an HDF5 file that a schema asks for, each checked to be what it should before it is opened or read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from physdiff.data.axes import text
from physdiff.data.containment import check_numbers, dataset_within, has_member, is_group
from physdiff.data.stored import HDF5Array

# Coordinates, times and numbers of runs are read whole when a file is opened; fields never are.
_FEW = 2**24


def numbers(group: h5py.Group, name: str, schema: str) -> h5py.Dataset:
    """A member that must be an array of real numbers.

    Raises:
        ValueError: it is missing, a group, empty, of other numbers, or in a file of another folder.
    """
    file, full = group.file, _full(group, name)
    try:
        found = dataset_within(file, full)
    except KeyError:
        raise ValueError(f"{file.filename} has no '{full}'; {schema}'s layout asks for it.") from None
    if found.shape is None:
        raise ValueError(f"{file.filename}: '{full}' is empty: it has no shape.")
    check_numbers(f"{file.filename}: '{full}'", found.dtype, found.shape)
    packing = [key for key in ("scale_factor", "add_offset") if key in found.attrs]
    if packing:
        raise ValueError(
            f"{file.filename}: '{full}' has the attribute {packing[0]}, as packed numbers have, which {schema}'s "
            "layout does not know; name the datasets by fields= (--data.layout.fields), and they are unpacked."
        )
    return found


def few(dataset: h5py.Dataset, most: int = _FEW) -> np.ndarray:
    """All values of a dataset that describes fields, such as coordinates.

    Raises:
        ValueError: it is larger than anything of the kind.
    """
    if int(np.prod(dataset.shape, dtype=object)) > most:
        raise ValueError(
            f"{dataset.file.filename}: '{text(dataset.name)}' has the shape {dataset.shape}, {dataset.size} numbers; "
            f"it is to be read whole, and more than {most} are no description of a field."
        )
    return np.asarray(dataset[()])


def group_of(group: h5py.Group, name: str, schema: str) -> h5py.Group:
    """A member that must be a group.

    Raises:
        ValueError: it is missing or a dataset.
    """
    full = _full(group, name)
    if not has_member(group.file, full):
        raise ValueError(f"{group.file.filename} has no '{full}'; {schema}'s layout asks for it.")
    if not has_member(group.file, full, h5py.Group):
        raise ValueError(f"{group.file.filename}: '{full}' is a dataset; {schema}'s layout asks for a group.")
    found: Any = group.file[full]
    return found


def names_in(group: h5py.Group | None) -> list[str]:
    """Names of what a group holds; none of no group."""
    return [] if group is None else [str(name) for name in group]


def groups_in(group: h5py.Group | None) -> Iterator[h5py.Group]:
    """The groups that a group holds, without links to other files."""
    for name in names_in(group):
        assert group is not None
        if is_group(group, name):
            found: Any = group[name]
            yield found


def array_of(dataset: h5py.Dataset) -> HDF5Array:
    """A dataset as an array that is read later."""
    return HDF5Array(
        str(dataset.file.filename), text(dataset.name), tuple(dataset.shape), dataset.dtype, dataset.chunks
    )


def _full(group: h5py.Group, name: str) -> str:
    return f"{text(group.name).rstrip('/')}/{name.strip('/')}"
