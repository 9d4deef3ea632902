"""Stored arrays whose numbers stand for others: packed integers, marks of missing values, complex numbers, masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from physdiff.data.stored import Key, StoredArray

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
        signless: Whether stored integers are to be taken without their sign.
    """

    packed: StoredArray
    scale: float | None
    offset: float | None
    missing: tuple[float, ...]
    dtype: np.dtype
    signless: bool = False

    @property
    def stored(self) -> StoredArray:
        return self.packed

    def read(self, key: Key) -> np.ndarray:
        raw = np.asarray(self.packed.read(key))
        if self.signless:
            raw = raw.view(raw.dtype.str.replace("i", "u"))
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
    signless = str(attrs.get("_Unsigned", "false")).lower() == "true" and array.dtype.kind == "i"
    scale, offset = (numbers[n][0] if n in numbers else None for n in ("scale_factor", "add_offset"))
    stored = array.dtype.str.replace("i", "u") if signless else array.dtype
    said = [m for n in ("_FillValue", "missing_value") if n in numbers for m in numbers[n].tolist()]
    marks = _marks(said, np.dtype(stored), signless)
    if scale is None and offset is None and not marks and not signless:
        return array
    if signless and scale is None and offset is None and not marks:
        return UnpackedArray(array, None, None, (), np.dtype(stored), True)
    dtype = _type(array.dtype, numbers)
    return UnpackedArray(array, _plain(scale), _plain(offset), marks, dtype, signless)


def _marks(said: list[float], stored: np.dtype, signless: bool) -> tuple[float, ...]:
    """Those marks that a stored number can be; NaN needs none."""
    if stored.kind == "f":
        return tuple(m for m in said if np.isfinite(m))
    whole = [int(m) for m in said if np.isfinite(m) and m == int(m)]
    if signless:
        # Written with the sign of the stored type.
        whole = [m % 2 ** (8 * stored.itemsize) for m in whole]
    return tuple(m for m in whole if stored.kind in "iu" and np.iinfo(stored).min <= m <= np.iinfo(stored).max)


def _numbers(array: StoredArray, name: str, value: Any) -> np.ndarray:
    found = np.ravel(np.asarray(value))
    if found.dtype.kind not in "fiu" or found.size == 0:
        raise ValueError(f"{array.label} has the attribute {name} = {value!r}; expected a number.")
    return found


def _plain(value: Any) -> float | None:
    return None if value is None else float(value)


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
