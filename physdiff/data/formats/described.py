"""A variable with named axes and attributes, and what is found of it by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physdiff.data.axes import text
from physdiff.data.stored import StoredArray, read_all
from physdiff.registry import nearest

_MOST_NUMBERS = 2**27  # entries of an array without an axis of the grid, which is read at once


@dataclass(frozen=True)
class Described:
    """A variable of a netCDF file, a zarr store or an xarray object.

    Attributes:
        array: Where its numbers are, unpacked.
        dims: Name of each axis, in stored order.
        attrs: Its attributes, plain values.
    """

    array: StoredArray
    dims: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)


def lookup(path: str, name: str, said: str, variables: Mapping[str, Described]) -> Described:
    """The variable of a name, which may begin with "/".

    Args:
        path: What messages call the file.
        name: As somebody wrote it.
        said: What it is to be, for messages, such as "the field 'u'".
        variables: Those of the file.

    Raises:
        ValueError: there is none; the nearest is named.
    """
    found = variables.get(name) or variables.get(name.strip("/"))
    if found is None:
        raise ValueError(f"{path} has no variable '{name}', {said}. {nearest(name, variables)}")
    return found


def numbers_of(path: str, one: Described) -> np.ndarray:
    """All values of a variable that is no field: coordinates, times, numbers of runs.

    Raises:
        ValueError: they are no real numbers, or too many to be one of these.
    """
    if one.array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: {one.array.label} holds {one.array.dtype}; expected numbers.")
    if int(np.prod(one.array.shape, dtype=object)) > _MOST_NUMBERS:
        raise ValueError(f"{path}: {one.array.label} has the shape {one.array.shape}; expected some numbers.")
    return read_all(one.array)


def words_of(path: str, level: Described) -> list[str]:
    """Names of the entries along an axis: its coordinates, numbers or words."""
    if level.array.dtype.kind in "SUO" and len(level.array.shape) == 1:
        return [text(value).strip() for value in read_all(level.array)]
    return [f"{value:g}" for value in numbers_of(path, level)]


def named_by(variables: Mapping[str, Described], keys: Iterable[str]) -> set[str]:
    """Names of variables that others name in attributes of some names."""
    words = [word for one in variables.values() for key in keys for word in text(one.attrs.get(key, "")).split()]
    return {word.rstrip(":") for word in words}
