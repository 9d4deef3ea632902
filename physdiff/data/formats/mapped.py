"""Any HDF5 file, by a few lines of YAML that say where its fields are (see `physdiff.data.layout`).

Axes that are tied to coordinates as HDF5's own dimension scales are named and placed by these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import h5py
import numpy as np

from physdiff.data.containment import dataset_within, has_member, is_dataset, is_group
from physdiff.data.decoded import unpacked
from physdiff.data.file_map import Identity, identity
from physdiff.data.formats.axis_names import counted
from physdiff.data.formats.by_layout import SHOWN, read_by_layout, same_line
from physdiff.data.formats.format import Format
from physdiff.data.formats.starred import Stars, rows_of, stands_for
from physdiff.data.handles import hdf5_dataset, open_hdf5
from physdiff.data.layout import Layout
from physdiff.data.source import Source
from physdiff.data.stored import HDF5Array, StackedArray, StoredArray, nbytes, read_all
from physdiff.registry import nearest

_TIME_OF_SOLVER = ("sim_time",)  # Dedalus ties numbers of steps and clocks to the same axis
_MOST_NUMBERS = 2**30  # bytes of coordinates, times or scalars, which are read at once


@dataclass(frozen=True)
class HDF5Store:
    """The datasets of an HDF5 file.

    Attributes:
        path: The file.
        schema: Name of the format that it is read as.
        is_reversed: Whether axes are stored in the opposite of the order that users know.
    """

    path: str
    schema: str = "hdf5"
    is_reversed: bool = False
    drops_last: ClassVar[bool] = False

    def names(self) -> Sequence[str]:
        """Datasets of numbers, in the order of groups; the first of a file of very many."""
        found: list[str] = []
        with open_hdf5(self.path) as file:
            _collect(file, "", found, 4 * SHOWN)
        return found

    def array(self, name: str) -> StoredArray:
        """A dataset, or all that match a path with "*", stacked in natural order."""
        matches = self._matches(name)
        parts = [self._one(match) for match in matches]
        return parts[0] if "*" not in name else StackedArray(tuple(parts), rows_of(name, self.stars(name)))

    def dims(self, name: str) -> tuple[str, ...] | None:
        """Names of axes by their labels or scales, if every one has a name; of runs they are those of the first."""
        first = self._matches(name)[0]
        with open_hdf5(self.path) as file:
            names = [_axis_name(axis) for axis in dataset_within(file, first).dims]
        return tuple(map(counted, names)) if all(names) and len(set(names)) == len(names) else None

    def centres(self, name: str) -> Mapping[str, np.ndarray]:
        """Coordinates of the scales that are tied to a dataset's axes; one list for each run where these differ."""
        found: dict[str, list[np.ndarray]] = {}
        with open_hdf5(self.path) as file:
            for match in self._matches(name):
                for axis in dataset_within(file, match).dims:
                    own, scale = _axis_name(axis), _scale_of(axis)
                    if own and scale is not None:
                        found.setdefault(counted(own), []).append(read_all(self._one(scale)))
        return {dim: lines[0] if _all_same(lines) else _of_each(self.path, dim, lines) for dim, lines in found.items()}

    def numbers(self, name: str) -> np.ndarray:
        """A small dataset, or with `group@name` an attribute; stacked if "*" is in the path."""
        path, at, attribute = name.rpartition("@")
        if at:
            with open_hdf5(self.path) as file:
                values = [_attribute(file, match, attribute) for match in self._matches(path or "/", groups=True)]
        else:
            arrays = [self._one(match) for match in self._matches(name)]
            if sum(nbytes(array) for array in arrays) > _MOST_NUMBERS:
                raise ValueError(f"{self.path}: '{name}' has the shape {arrays[0].shape}; expected some numbers.")
            values = [array.read((slice(None),) * len(array.shape)) for array in arrays]
        if "*" not in name:
            return values[0]
        if len({value.shape for value in values}) > 1:
            raise ValueError(f"{self.path}: the datasets '{name}' differ in shape, so that one array cannot hold them.")
        return np.stack(values)

    def stars(self, name: str) -> Sequence[Stars]:
        """What stands for each "*" of a path in each of its matches."""
        path, at, _ = name.rpartition("@")
        path = path if at else name
        return [stands_for(path, match) for match in self._matches(path or "/", groups=bool(at))]

    def _one(self, name: str) -> StoredArray:
        array = HDF5Array.of(self.path, name)
        return unpacked(array, dict(hdf5_dataset(self.path, name).attrs))

    def _matches(self, pattern: str, *, groups: bool = False) -> tuple[str, ...]:
        return _matching(self.path, identity(self.path), pattern, groups)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names as people do, numbers by size."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


# One pattern is asked for several times, and a file may have thousands of groups.
@lru_cache(maxsize=16)
def _matching(path: str, identity: Identity, pattern: str, groups: bool) -> tuple[str, ...]:
    """Paths in a file that match, sorted as people do: run2 before run10."""
    parts = [p for p in PurePosixPath(pattern).parts if p != "/"]
    with open_hdf5(path) as file:
        found = [""]
        for part in parts:
            if "*" in part:
                found = [f"{base}/{n}" for base in found for n in _members(file, base) if fnmatchcase(n, part)]
            else:
                found = [f"{base}/{part}" for base in found]
        # A group that is no trajectory, such as one of settings, lacks the dataset; without "*" it must be there.
        if "*" in pattern:
            datasets = [one for one in found if has_member(file, one, h5py.Dataset)]
            # Attributes are those of groups, or of datasets where there are no groups.
            found = (groups and [one for one in found if has_member(file, one, h5py.Group)]) or datasets
        if found and ("*" in pattern or has_member(file, found[0] or "/")):
            return tuple(one or "/" for one in found)
        there: list[str] = []
        _collect(file, "", there, 200)
    known = there if pattern.startswith("/") else [one.lstrip("/") for one in there]
    raise ValueError(f"'{path}' has no dataset '{pattern}'. {nearest(pattern, known or ['none'])}")


def _members(file: h5py.File, path: str) -> list[str]:
    """Names in a group, in natural order; none if it is no group, or lies in another file."""
    group = file[path] if path and is_group(file, path) else None if path else file
    return sorted(group.keys(), key=natural) if isinstance(group, h5py.Group) else []


def _collect(group: Any, prefix: str, found: list[str], most: int) -> None:
    """Paths of datasets of numbers below a group, breadth first, as many as are asked for."""
    inner = []
    for name in sorted(group.keys(), key=natural):
        if len(found) >= most:
            return
        if is_group(group, name):
            inner.append(name)
        elif is_dataset(group, name) and _holds_numbers(group[name]):
            found.append(f"{prefix}/{name}")
    for name in inner:
        # As deep as people nest groups; a file that links a group into itself has no end.
        if len(found) < most and prefix.count("/") < 8:
            _collect(group[name], f"{prefix}/{name}", found, most)


def _holds_numbers(dataset: Any) -> bool:
    return dataset.shape is not None and dataset.dtype.kind in "fiubc"


def _axis_name(axis: Any) -> str:
    if axis.label:
        return str(axis.label)
    return str(PurePosixPath(str(axis[0].name)).name) if len(axis) else ""


def _all_same(lines: Sequence[np.ndarray]) -> bool:
    return all(same_line(lines[0], line) for line in lines)


def _of_each(path: str, dim: str, lines: Sequence[np.ndarray]) -> np.ndarray:
    if len({line.shape for line in lines}) > 1:
        raise ValueError(f"{path}: the coordinates of '{dim}' differ in number between the datasets that are stacked.")
    return np.stack(lines)


def _scale_of(axis: Any) -> str | None:
    """Path of the coordinates that are tied to an axis: of several those whose name is the axis's, or none."""
    scales = [axis[i] for i in range(len(axis)) if axis[i].ndim == 1 and axis[i].dtype.kind in "fiu"]
    if len(scales) > 1:
        named = [one for one in scales if PurePosixPath(str(one.name)).name in (axis.label, *_TIME_OF_SOLVER)]
        scales = named if len(named) == 1 else []
    return str(scales[0].name) if scales else None


def _attribute(file: h5py.File, path: str, name: str) -> np.ndarray:
    attrs = dict(file[path].attrs)
    if name not in attrs:
        raise ValueError(f"{file.filename}: '{path}' has no attribute '{name}'. {nearest(name, attrs or ['none'])}")
    return np.asarray(attrs[name])


def open_mapped(path: Path, layout: Layout) -> Source:
    """The datasets that `layout.fields` names.

    Raises:
        ValueError: the file is damaged, lacks a dataset, or something that must be known is not told.
    """
    return read_by_layout(HDF5Store(str(path)), layout)


MAPPED = Format(
    "hdf5", "HDF5 by a layout", lambda probe: False, open_mapped,
    told_by="an HDF5 file, with fields= in the layout", needs="fields, dims, extent or coordinates, boundary, time",
    takes_fields=True,
)  # fmt: skip
