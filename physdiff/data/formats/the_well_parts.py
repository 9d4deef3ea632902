"""Members and attributes of files in The Well's schema, in the forms that published files give them."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from physdiff.data.axes import text
from physdiff.data.formats import members as members_of
from physdiff.data.formats.members import group_of

_SCHEMA = "The Well"


def member(file: h5py.Group, name: str) -> h5py.Group:
    """A group of a file that the schema asks for."""
    return group_of(file, name, _SCHEMA)


def members(file: h5py.Group, name: str) -> h5py.Group | None:
    """A group that files may leave out."""
    return group_of(file, name, _SCHEMA) if name in file else None


def numbers(group: h5py.Group, name: str) -> h5py.Dataset:
    """A member of a group that must be an array of real numbers."""
    return members_of.numbers(group, name, _SCHEMA)


def flag(item: h5py.Dataset | h5py.Group, name: str, default: bool) -> bool:
    """An attribute that is true or false, whether stored as a number or an array of one."""
    value: Any = np.ravel(item.attrs.get(name, default))
    if value.size != 1 or value.dtype.kind not in "fiub":
        raise ValueError(
            f"{item.file.filename}: '{item.name}' has the attribute {name} = {value.tolist()}; expected true or false."
        )
    return bool(value[0])


def texts(value: Any) -> list[str]:
    """An attribute as strings, whether stored as one or as a list."""
    return [text(item) for item in np.ravel(np.asarray(value, dtype=object))]
