"""Arrays where they are stored: shape and type are known, numbers are read when asked for.

Every one can be pickled: it holds names, never an open file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from physdiff.data.asked import Asked, Key
from physdiff.data.handles import hdf5_dataset, read_into, read_part, read_windows


@runtime_checkable
class StoredArray(Protocol):
    """An array on disk or in memory.

    Attributes:
        shape: Its shape.
        dtype: Type of the numbers that `read` returns.
        chunks: Shape of the pieces that can only be read whole; None where any part can be read by itself.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def chunks(self) -> tuple[int, ...] | None: ...

    @property
    def label(self) -> str:
        """What messages call it: file and name."""
        ...

    def read(self, key: Key) -> np.ndarray:
        """A part of it: per axis a number, which drops the axis, or a slice with a step of at least 1."""
        ...


@dataclass(frozen=True)
class HDF5Array:
    """A dataset of an HDF5 file.

    Attributes:
        path: The file.
        name: The dataset's full name in it.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...] | None

    @classmethod
    def of(cls, path: str, name: str) -> HDF5Array:
        """A dataset as it stands in its file.

        Raises:
            FileNotFoundError: there is no file.
            ValueError: there is no such dataset, its values are in another folder, or it claims an absurd size.
        """
        dataset = hdf5_dataset(path, name)
        if dataset.shape is None:
            raise ValueError(f"'{path}': '{name}' is empty: it has no shape.")
        return cls(path, name, tuple(dataset.shape), dataset.dtype, dataset.chunks)

    @property
    def label(self) -> str:
        return f"{self.path}: {self.name}"

    def read(self, key: Key) -> np.ndarray:
        return read_part(self.path, self.name, key)

    def read_into(self, key: Key, out: np.ndarray) -> bool:
        """Read a part into an array of its shape, in less time than `read` and a copy; always True."""
        read_into(self.path, self.name, key, out)
        return True

    def read_windows(
        self, asked: Asked, runs: Sequence[int], starts: Sequence[int], out: Sequence[np.ndarray]
    ) -> float:  # fmt: skip
        """Read windows of frames, each into an array of its shape, faster than one by one; the sum of their squares."""
        return read_windows(self.path, self.name, asked, runs, starts, out)


@dataclass(frozen=True, eq=False)
class MemoryArray:
    """An array in memory.

    Attributes:
        values: The numbers.
        label: What messages call it.
    """

    values: np.ndarray
    label: str = "array"
    chunks: None = field(default=None, init=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def read(self, key: Key) -> np.ndarray:
        return self.values[key]


@dataclass(frozen=True)
class StackedArray:
    """Arrays of one shape along a new first axis.

    Attributes:
        parts: At least one.
        rows: How many rows of equal length they are known to be; 1 if nothing is, 0 if rows are of different length.

    Raises:
        ValueError: there is none, or shapes or types differ.
    """

    parts: tuple[StoredArray, ...]
    rows: int = 1

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("nothing to stack.")
        first = self.parts[0]
        for part in self.parts:
            if part.shape != first.shape or part.dtype != first.dtype:
                raise ValueError(
                    f"{part.label} is {part.dtype} of shape {part.shape}; {first.label} is {first.dtype} of shape "
                    f"{first.shape}, and one array is to be made of them."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.parts[0].shape)

    @property
    def dtype(self) -> np.dtype:
        return self.parts[0].dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        inner = self.parts[0].chunks
        return None if inner is None else (1, *inner)

    @property
    def label(self) -> str:
        return f"{self.parts[0].label} and {len(self.parts) - 1} more"

    def in_rows(self) -> StackedArray:
        """The same with an axis for the rows before that of their entries."""
        n = len(self.parts) // self.rows
        return StackedArray(tuple(StackedArray(self.parts[i * n : (i + 1) * n]) for i in range(self.rows)))

    def read(self, key: Key) -> np.ndarray:
        first, rest = key[0], key[1:]
        if isinstance(first, slice):
            return np.stack([part.read(rest) for part in self.parts[first]])
        return self.parts[first].read(rest)


def read_all(array: StoredArray) -> np.ndarray:
    """The whole array."""
    return array.read((slice(None),) * len(array.shape))


def nbytes(array: StoredArray) -> int:
    """Size of the whole array in memory."""
    return int(np.prod(array.shape, dtype=object)) * array.dtype.itemsize


def same_storage(arrays: Sequence[StoredArray]) -> bool:
    """Whether arrays are one and the same, so that one read may serve all."""
    return all(a is arrays[0] or a == arrays[0] for a in arrays)
