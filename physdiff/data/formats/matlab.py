"""MATLAB's files: version 7.3, which is HDF5 with its axes reversed, and version 5 through scipy.

A layout names the axes as MATLAB's `size` lists them, for both versions, with those of one entry at the end, which
MATLAB does not store. Only arrays of numbers are read; a struct, a cell or text is none. MATLAB's scalars and vectors
are 1x1 and 1xn arrays; where numbers of runs, times and coordinates are asked for, axes of one entry are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.io import loadmat, whosmat

from physdiff.data.containment import check_size
from physdiff.data.decoded import complex_of
from physdiff.data.formats.arrays import MOST_BYTES, ArrayStore, WholeArray
from physdiff.data.formats.by_layout import Store, read_by_layout
from physdiff.data.formats.format import Format, Probe, kind_of
from physdiff.data.formats.mapped import HDF5Store
from physdiff.data.formats.starred import Stars
from physdiff.data.handles import hdf5_dataset
from physdiff.data.layout import Layout
from physdiff.data.source import Source
from physdiff.data.stored import StoredArray

_TYPES = {
    "double": np.float64, "single": np.float32, "logical": np.bool_, "int8": np.int8, "uint8": np.uint8,
    "int16": np.int16, "uint16": np.uint16, "int32": np.int32, "uint32": np.uint32, "int64": np.int64,
    "uint64": np.uint64,
}  # fmt: skip


@dataclass(frozen=True)
class MatlabStore:
    """Arrays of a MATLAB file, whose vectors are vectors.

    Attributes:
        inner: The arrays as they are stored.
    """

    inner: Store
    drops_last: ClassVar[bool] = True

    @property
    def path(self) -> str:
        return self.inner.path

    @property
    def schema(self) -> str:
        return self.inner.schema

    @property
    def is_reversed(self) -> bool:
        return self.inner.is_reversed

    def names(self) -> Sequence[str]:
        """Arrays of numbers; MATLAB's text is stored as numbers too."""
        named = [name for name in self.inner.names() if not name.startswith("/#")]  # where MATLAB keeps cells
        return [name for name in named if _class(self.inner, name) in ("", *_TYPES)]

    def array(self, name: str) -> StoredArray:
        """An array of numbers.

        Raises:
            ValueError: it is text, a struct or a cell, or empty.
        """
        array, kind = self.inner.array(name), _class(self.inner, name)
        if kind not in ("", *_TYPES):
            raise ValueError(f"'{self.path}': '{name}' is a MATLAB {kind}; expected an array of real numbers.")
        return complex_of(array)

    def dims(self, name: str) -> None:
        """None: MATLAB has no names for axes."""
        return None

    def centres(self, name: str) -> Mapping[str, np.ndarray]:
        """None are tied to an array."""
        return {}

    def stars(self, name: str) -> Sequence[Stars]:
        """What stands for each "*" of a path in each of its matches."""
        return self.inner.stars(name)

    def numbers(self, name: str) -> np.ndarray:
        """A small array, in MATLAB's order, without axes of one entry."""
        values = self.inner.numbers(name)
        if self.is_reversed and "*" in name:
            # Arrays of several runs are stacked along the first axis, which is none of MATLAB's.
            values = values.transpose(0, *range(values.ndim - 1, 0, -1))
        elif self.is_reversed:
            values = values.T
        return np.squeeze(values)


def _class(store: Store, name: str) -> str:
    """MATLAB's name for the kind of an array; "empty" where the dataset holds a shape instead of numbers."""
    if not isinstance(store, HDF5Store) or "*" in name:
        return ""
    attrs: dict[str, Any] = dict(hdf5_dataset(store.path, name).attrs)
    if np.ravel(attrs.get("MATLAB_empty", 0))[0]:
        return "empty array"
    kind = attrs.get("MATLAB_class", b"")
    return kind.decode() if isinstance(kind, bytes) else str(kind)


def open_matlab(path: Path, layout: Layout) -> Source:
    """The arrays of a MATLAB file of version 5 or 7.3.

    Raises:
        ValueError: it is damaged, or something that must be known is not told.
    """
    if kind_of(path) == "hdf5":
        return read_by_layout(MatlabStore(HDF5Store(str(path), "matlab", True)), layout)
    arrays: dict[str, StoredArray] = {}
    for name, shape, kind in _listed(path):
        # scipy tells the class, not whether numbers are complex or stored smaller; they are as `_load` makes them.
        if kind in _TYPES:
            dtype = np.dtype(_TYPES[kind])
            check_size(f"'{path}': '{name}'", shape, dtype, path.stat().st_size)
            if int(np.prod(shape, dtype=object)) * dtype.itemsize > MOST_BYTES:
                raise ValueError(f"'{path}': '{name}' of shape {shape} is larger than {MOST_BYTES / 1e9:.3g} GB.")
            arrays[name] = WholeArray(str(path), name, tuple(shape), dtype, _load)
    return read_by_layout(MatlabStore(ArrayStore(str(path), "matlab", arrays)), layout)


def _listed(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    try:
        return whosmat(str(path))
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise _damaged(str(path), error) from None


def _load(path: str, name: str) -> np.ndarray:
    try:
        values = np.asarray(loadmat(path, variable_names=[name])[name])
    except Exception as error:
        raise _damaged(path, error) from None
    if values.dtype.kind not in "fiub":
        raise ValueError(f"'{path}': '{name}' holds {values.dtype}; expected real numbers. Save its parts apart.")
    return values


def _damaged(path: str, error: Exception) -> ValueError:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"'{path}' is truncated, damaged or no MATLAB file: {said}.")


def recognises(probe: Probe) -> bool:
    """Whether a file begins as MATLAB's version 5, or its datasets carry MATLAB's names of classes."""
    return probe.kind == "matlab5" or "matlab" in probe.marks


MATLAB = Format(
    "matlab", "MATLAB, v5 and v7.3", recognises, open_matlab,
    told_by="its header, or datasets with MATLAB_class",
    needs="dims in MATLAB's order, extent or coordinates, boundary, time", takes_fields=True,
)  # fmt: skip
