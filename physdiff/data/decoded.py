"""Stored arrays whose numbers stand for others: packed integers, marks of missing values, complex numbers, masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from physdiff.data.stored import Key, StackedArray, StoredArray

_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value")


class _Standing(ABC):
    """An array whose numbers stand for others, entry by entry."""

    @property
    @abstractmethod
    def stored(self) -> StoredArray:
        """The array whose numbers these are made of."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return self.stored.chunks

    @property
    def label(self) -> str:
        return self.stored.label

    @abstractmethod
    def read(self, key: Key) -> np.ndarray: ...


@dataclass(frozen=True)
class UnpackedArray(_Standing):
    """scale·n + offset of stored numbers n, NaN where n is a mark of a missing value (CF conventions, section 8.1).

    Attributes:
        packed: The stored numbers.
        scale: Factor, None for 1.
        offset: Summand, None for 0.
        missing: Stored numbers that stand for no value.
        dtype: Type of the values.
        taken_as: Type as which stored integers are to be taken, bit by bit; None for their own.
    """

    packed: StoredArray
    scale: float | None
    offset: float | None
    missing: tuple[float, ...]
    dtype: np.dtype
    taken_as: np.dtype | None = None

    @property
    def stored(self) -> StoredArray:
        return self.packed

    def read(self, key: Key) -> np.ndarray:
        raw = np.asarray(self.packed.read(key))
        if self.taken_as is not None:
            raw = raw.view(self.taken_as)
        values = np.array(raw, dtype=self.dtype)
        # In this order and in this type, as xarray does, so that the values are the same to the last bit.
        if self.missing:
            values[np.isin(raw, np.array(self.missing, dtype=raw.dtype))] = np.nan
        if self.scale is not None:
            values *= self.dtype.type(self.scale)
        if self.offset is not None:
            values += self.dtype.type(self.offset)
        return values


def unpacked(array: StoredArray, attrs: Mapping[str, Any]) -> StoredArray:
    """An array as its attributes scale_factor, add_offset, _FillValue and missing_value ask for.

    Raises:
        ValueError: an attribute is no number.
    """
    numbers = {name: _numbers(array, name, attrs[name]) for name in _PACKING if name in attrs}
    scale, offset = (_factor(array, n, numbers[n]) if n in numbers else None for n in ("scale_factor", "add_offset"))
    taken_as = _taken_as(array.dtype, str(attrs.get("_Unsigned", "")).lower())
    said = [m for n in ("_FillValue", "missing_value") if n in numbers for m in numbers[n].tolist()]
    marks = _marks(said, taken_as or array.dtype, taken_as is not None)
    if scale is None and offset is None and not marks:
        return array if taken_as is None else UnpackedArray(array, None, None, (), taken_as, taken_as)
    dtype = _type(array.dtype, numbers)
    return UnpackedArray(array, scale, offset, marks, dtype, taken_as)


def _taken_as(stored: np.dtype, unsigned: str) -> np.dtype | None:
    """The type that `_Unsigned` gives to integers of the other kind: netCDF 3 has no signless ones, OPeNDAP no signed
    bytes."""
    other = {("i", "true"): "u", ("u", "false"): "i"}.get((stored.kind, unsigned))
    return None if other is None else np.dtype(stored.str.replace(stored.kind, other))


def _marks(said: list[float], stored: np.dtype, is_retaken: bool) -> tuple[float, ...]:
    """Those marks that a stored number can be; NaN needs none."""
    if stored.kind == "f":
        return tuple(m for m in said if np.isfinite(m))
    whole = [int(m) for m in said if np.isfinite(m) and m == int(m)]
    if is_retaken:
        # Written in the other of the two types, as the same bits.
        bits = 8 * stored.itemsize
        whole = [m % 2**bits - 2**bits * (stored.kind == "i" and m % 2**bits >= 2 ** (bits - 1)) for m in whole]
    return tuple(m for m in whole if stored.kind in "iu" and np.iinfo(stored).min <= m <= np.iinfo(stored).max)


def _numbers(array: StoredArray, name: str, value: Any) -> np.ndarray:
    found = np.ravel(np.asarray(value))
    if found.dtype.kind not in "fiu" or found.size == 0:
        raise ValueError(f"{array.label} has the attribute {name} = {value!r}; expected a number.")
    return found


def _factor(array: StoredArray, name: str, values: np.ndarray) -> float:
    """The one number of a scale or an offset."""
    if values.size > 1 and (values != values[0]).any():
        raise ValueError(
            f"{array.label} has {values.size} different numbers as its attribute {name}; expected one for the whole "
            "array."
        )
    return float(values[0])


def _type(stored: np.dtype, numbers: Mapping[str, np.ndarray]) -> np.dtype:
    """Type of unpacked values: float32 only where nothing is lost by it (the rule of xarray)."""
    scale, offset = numbers.get("scale_factor"), numbers.get("add_offset")
    small = (stored.kind == "f" and stored.itemsize <= 4) or (stored.kind in "iu" and stored.itemsize <= 2)
    if scale is None and offset is None:
        return np.dtype(np.float32 if small else np.float64)
    if scale is not None and offset is not None and scale.dtype == offset.dtype == np.float32:
        return np.dtype(np.float64 if stored.kind in "iu" and stored.itemsize >= 4 else np.float32)
    if offset is None and scale is not None and scale.dtype == np.float32:
        return np.dtype(np.float32)
    return np.dtype(np.float64)


@dataclass(frozen=True)
class ComplexPart(_Standing):
    """The real or the imaginary part of complex numbers.

    Attributes:
        numbers: The complex numbers.
        part: Which part.
    """

    numbers: StoredArray
    part: Literal["real", "imag"]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"f{self.numbers.dtype.itemsize // 2}")

    @property
    def stored(self) -> StoredArray:
        return self.numbers

    def read(self, key: Key) -> np.ndarray:
        return getattr(self.numbers.read(key), self.part)


@dataclass(frozen=True)
class ComplexRecords(_Standing):
    """Complex numbers that are stored as records of two numbers, as MATLAB does.

    Attributes:
        records: The records.
    """

    records: StoredArray

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"c{self.records.dtype.itemsize}")

    @property
    def stored(self) -> StoredArray:
        return self.records

    def read(self, key: Key) -> np.ndarray:
        return np.asarray(self.records.read(key)).copy().view(self.dtype)


def complex_of(array: StoredArray) -> StoredArray:
    """An array as complex numbers, if its entries are records of `real` and `imag`; else itself."""
    names, item = array.dtype.names, array.dtype.itemsize
    plain = [np.dtype(np.float32), np.dtype(np.float64)]
    is_complex = names == ("real", "imag") and array.dtype["real"] == array.dtype["imag"] in plain
    return ComplexRecords(array) if is_complex and item == 2 * array.dtype["real"].itemsize else array


@dataclass(frozen=True)
class EndedByOnes(_Standing):
    """An array with further axes of one entry each at its end.

    Attributes:
        array: The array.
        count: How many.
    """

    array: StoredArray
    count: int

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.array.shape, *[1] * self.count)

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return None if self.array.chunks is None else (*self.array.chunks, *[1] * self.count)

    @property
    def stored(self) -> StoredArray:
        return self.array

    def read(self, key: Key) -> np.ndarray:
        values = self.array.read(key[: len(self.array.shape)])
        return values.reshape(*values.shape, *[1] * self.count)[(..., *key[len(self.array.shape) :])]


def ended_by_ones(array: StoredArray, count: int, is_reversed: bool) -> StoredArray:
    """An array with further axes of one entry at its end; at its beginning, if its axes are stored the other way."""
    if not is_reversed:
        return EndedByOnes(array, count)
    for _ in range(count):
        array = StackedArray((array,))
    return array


@dataclass(frozen=True)
class TruthArray(_Standing):
    """Where an array is neither 0 nor NaN.

    Attributes:
        numbers: The array.
    """

    numbers: StoredArray

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(bool)

    @property
    def stored(self) -> StoredArray:
        return self.numbers

    def read(self, key: Key) -> np.ndarray:
        values = np.asarray(self.numbers.read(key))
        return (values != 0) & ~np.isnan(values)


@dataclass(frozen=True)
class SecondsArray(_Standing):
    """Dates as seconds since 1970, or spans of time in seconds; NaN where there is none.

    Attributes:
        dates: numpy's datetime64 or timedelta64.
    """

    dates: StoredArray

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float64)

    @property
    def units(self) -> str:
        """What the numbers count."""
        return "seconds since 1970-01-01" if self.dates.dtype.kind == "M" else "seconds"

    @property
    def stored(self) -> StoredArray:
        return self.dates

    def read(self, key: Key) -> np.ndarray:
        values = np.asarray(self.dates.read(key))
        unit = "datetime64[us]" if values.dtype.kind == "M" else "timedelta64[us]"
        return np.where(np.isnat(values), np.nan, values.astype(unit).astype(np.int64) / 1e6)


def as_stored(array: StoredArray) -> StoredArray:
    """The array on disk whose numbers an array's stand for; itself, if they are its own."""
    while isinstance(array, _Standing):
        array = array.stored
    return array
