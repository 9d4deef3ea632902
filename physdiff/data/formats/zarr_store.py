"""Zarr stores of version 2 and 3, through the library zarr (the extra `zarr`).

Axes are named as xarray names them: `_ARRAY_DIMENSIONS` in version 2, dimension_names in version 3. Of stores by anemoi
the variables that share one array become fields of their names, and cells of a regular grid get its two axes back.
"""

from __future__ import annotations

import base64
import os
import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from physdiff.data.containment import check_size
from physdiff.data.decoded import SecondsArray, unpacked
from physdiff.data.file_map import Identity, identity
from physdiff.data.formats.conventions import read_by_conventions
from physdiff.data.formats.described import Described
from physdiff.data.formats.format import Format
from physdiff.data.layout import Layout
from physdiff.data.source import Source
from physdiff.data.stored import Key, MemoryArray, StoredArray, read_all

METADATA = ("zarr.json", ".zarray", ".zmetadata")  # of versions 3 and 2, and of a whole store of version 2


@dataclass(frozen=True)
class ZarrArray:
    """An array of a zarr store.

    Attributes:
        path: Folder of the store.
        name: Path of the array in it.
        compression: Names of what packs its chunks.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...] | None
    compression: str = ""

    @property
    def label(self) -> str:
        return f"{self.path}: {self.name}"

    def read(self, key: Key) -> np.ndarray:
        try:
            return np.asarray(_opened(self.path, self.name)[key])
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"'{self.path}': '{self.name}' is damaged: {' '.join(str(error).split())}.") from None

    def pieces_there(self) -> tuple[int, int, Any]:
        """Pieces that are in the store, all that there should be, and the number that stands for the others."""
        member = _opened(self.path, self.name)
        return member.nchunks_initialized, member.nchunks, member.fill_value


@dataclass(frozen=True)
class ReshapedArray:
    """An array whose last axis is seen as several, such as cells that are rows and columns.

    Attributes:
        flat: The array.
        last: Lengths of the axes that the last is split into.
    """

    flat: ZarrArray
    last: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.flat.shape[:-1], *self.last)

    @property
    def dtype(self) -> np.dtype:
        return self.flat.dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return None if self.flat.chunks is None else (*self.flat.chunks[:-1], *self.last)

    @property
    def compression(self) -> str:
        return self.flat.compression

    @property
    def label(self) -> str:
        return self.flat.label

    def read(self, key: Key) -> np.ndarray:
        lead, rest = key[: -len(self.last)], key[-len(self.last) :]
        whole = self.flat.read((*lead, slice(None)))
        return whole.reshape(*whole.shape[:-1], *self.last)[(..., *rest)]


def _opened(path: str, name: str) -> Any:
    """An array of a store, opened again when its metadata, or what the store keeps of it, was written."""
    places = (f"{path}/{file}" for part in dict.fromkeys(("", f"{name}/")) for file in (f"{part}{m}" for m in METADATA))
    return _member(path, name, tuple((place, identity(place)) for place in places if os.path.exists(place)))


# Stores are few, and their metadata is what costs time to open.
@lru_cache(maxsize=64)
def _member(path: str, name: str, written: tuple[tuple[str, Identity], ...]) -> Any:
    return _group(path, "")[name] if name else _group(path, "")


def _group(path: str, group: str) -> Any:
    try:
        import zarr
    except ImportError:
        raise ValueError(
            f"'{path}' is a zarr store, which needs the library zarr: pip install 'physdiff[zarr]'."
        ) from None
    try:
        return zarr.open(path, mode="r", path=group or None)
    except Exception as error:  # zarr raises whatever its parser of metadata stumbles over
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"'{path}' is damaged or no zarr store{f' with a group {group}' * bool(group)}: {said}."
        ) from None


def open_zarr(path: Path, layout: Layout) -> Source:
    """The arrays of a store.

    Raises:
        ValueError: it is damaged, zarr is not installed, or something that must be known is not told.
    """
    store = str(path)
    root = _group(store, layout.group or "")
    prefix = f"{layout.group.strip('/')}/" if layout.group else ""
    attrs = dict(root.attrs)
    members = dict(_arrays(root)) if hasattr(root, "arrays") else {"": root}
    variables = {name or "data": _described(store, prefix + name, member) for name, member in members.items()}
    if "variables" in attrs and "data" in variables:
        variables, layout = _anemoi(store, variables, attrs, layout)
    groups = sorted(prefix + name for name in root.group_keys()) if hasattr(root, "group_keys") else []
    return read_by_conventions(store, "zarr", variables, attrs, layout, groups)


def _arrays(root: Any) -> list[tuple[str, Any]]:
    try:
        return sorted(root.arrays())
    except Exception as error:  # as above, for the metadata of a member
        raise ValueError(f"'{root.store}' is damaged: {' '.join(str(error).split())}.") from None


def _described(path: str, name: str, member: Any) -> Described:
    attrs = dict(member.attrs)
    named = attrs.pop("_ARRAY_DIMENSIONS", None) or getattr(member.metadata, "dimension_names", None) or ()
    shape = tuple(member.shape)
    if len(named) != len(shape) or not all(isinstance(d, str) for d in named):
        named = tuple(f"axis_{i}" for i in range(len(shape)))
    array = ZarrArray(
        path, name, shape, np.dtype(member.dtype), tuple(member.chunks) if shape else None, _packed(member)
    )
    if array.dtype.kind in "fiu":
        check_size(f"'{path}': '{name}'", shape, array.dtype, _bytes_of(Path(path) / name, _needed(array)))
        return Described(unpacked(array, _with_mark(member, attrs)), tuple(named), attrs)
    dated: StoredArray = SecondsArray(array) if array.dtype.kind in "Mm" else array
    if isinstance(dated, SecondsArray):
        attrs["units"] = dated.units
    return Described(dated, tuple(named), attrs)


def _packed(member: Any) -> str:
    names = [getattr(c, "codec_id", type(c).__name__) for c in member.compressors or ()]
    return " + ".join(str(name).removesuffix("Codec").lower() for name in names)


def _with_mark(member: Any, attrs: dict[str, Any]) -> dict[str, Any]:
    """Attributes with the mark of missing values as xarray means it: in version 2 it is the store's own fill value."""
    mark = attrs.get("_FillValue")
    if isinstance(mark, str):  # of floats as eight bytes in base 64, which JSON can hold for NaN too
        try:
            return {**attrs, "_FillValue": struct.unpack("<d", base64.standard_b64decode(mark))[0]}
        except (ValueError, struct.error):
            return attrs
    fill = member.fill_value
    if mark is None and "_ARRAY_DIMENSIONS" in member.attrs and fill is not None:
        return {**attrs, "_FillValue": fill}
    return attrs


def _needed(array: ZarrArray) -> int:
    """Stored bytes with which the claimed size is believed."""
    return int(np.prod(array.shape, dtype=object)) * array.dtype.itemsize // 10**5


def _bytes_of(folder: Path, enough: int) -> int:
    """Bytes of the files in a folder, counted until there are enough."""
    total = 0
    for file in folder.rglob("*"):
        total += file.stat().st_size if file.is_file() else 0
        if total > enough:
            break
    return total


def _anemoi(
    path: str, variables: dict[str, Described], attrs: dict[str, Any], layout: Layout
) -> tuple[dict[str, Described], Layout]:
    """An anemoi store: `data` (dates, variables, ensembles, cells), with names in the attribute `variables`."""
    data, names = variables["data"].array, [str(name) for name in attrs["variables"]]
    shape = tuple(int(n) for n in attrs.get("field_shape") or ())
    if not isinstance(data, ZarrArray) or len(data.shape) != 4 or data.shape[1] != len(names):
        return variables, layout
    if len(shape) < 2 or int(np.prod(shape)) != data.shape[-1]:
        raise ValueError(
            f"'{path}' is an anemoi store of {data.shape[-1]} cells without a regular grid (field_shape = "
            f"{list(shape)}); physdiff reads boxes of equal cells."
        )
    space = ("latitude", "longitude") if len(shape) == 2 else tuple(f"x{i}" for i in range(len(shape)))
    found = {"data": Described(ReshapedArray(data, shape), ("time", "component", "ensemble", *space), {})}
    if "dates" in variables:
        dates = variables["dates"]
        found["time"] = Described(dates.array, ("time",), dates.attrs)
    for axis, name in enumerate(space):
        for stored in (name, f"{name}s"):
            if stored in variables and variables[stored].array.shape == data.shape[-1:]:
                line: list[int | slice] = [0] * len(shape)
                line[axis] = slice(None)
                centres = read_all(variables[stored].array).reshape(shape)[tuple(line)]
                found[name] = Described(MemoryArray(centres, stored), (name,), {"units": "degrees"})
    return found, replace(layout, components=layout.components or names)


ZARR = Format(
    "zarr", "zarr 2 and 3", lambda probe: probe.kind == "zarr", open_zarr,
    told_by="a folder with zarr.json, .zgroup or .zarray", needs="boundary; the extra zarr", takes_fields=True,
)  # fmt: skip
