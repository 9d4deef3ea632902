"""Arrays that lie in a file as they do in memory: .npy, uncompressed .npz members, netCDF3 variables.

The file is mapped; a part of an array is read by looking at it. A map is never pickled, and is made again in each
process and when the file is replaced.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from physdiff.data.stored import Key

T = TypeVar("T")

Identity = tuple[int, ...]

TICK = 20_000_000  # nanoseconds; clocks of file systems go on every 1 to 10 milliseconds


def identity(path: str) -> Identity:
    """What changes when a file is written or replaced; of one just written it is never the same twice.

    A second write within a tick of the file system's clock leaves the dates of the first. The date of the last change
    tells of a write after which a program has set back the other.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file or folder '{path}'.") from None
    is_young = 0 <= time.time_ns() - found.st_ctime_ns < TICK
    once = time.perf_counter_ns() if is_young else 0
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, once


@dataclass(frozen=True)
class MappedArray:
    """An array whose bytes stand in a file in the order of memory.

    Attributes:
        path: The file.
        name: What messages call the array.
        shape: Its shape.
        stored: Type of the stored numbers, of either byte order.
        strides: Bytes from one entry to the next along each axis.
        offset: Byte of the file at which it begins.

    Raises:
        ValueError: the file ends before the array does.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    stored: np.dtype
    strides: tuple[int, ...]
    offset: int

    def __post_init__(self) -> None:
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)) + self.stored.itemsize
        size = identity(self.path)[1]
        if 0 not in self.shape and self.offset + last > size:
            raise ValueError(
                f"'{self.path}' is truncated or damaged: '{self.name}' of shape {self.shape} ends at byte "
                f"{self.offset + last}; the file has {size}."
            )

    @property
    def dtype(self) -> np.dtype:
        return self.stored.newbyteorder("=")

    @property
    def chunks(self) -> None:
        return None

    @property
    def label(self) -> str:
        return f"{self.path}: {self.name}"

    def read(self, key: Key) -> np.ndarray:
        raw = _bytes_of(self.path, identity(self.path))
        whole = np.ndarray(self.shape, self.stored, raw, self.offset, self.strides)
        # A copy, so that what is read stays what it was when the map goes.
        return np.array(whole[key], dtype=self.dtype)


# Not shared after a fork in any way that matters: a map has no position.
@lru_cache(maxsize=64)
def _bytes_of(path: str, identity: Identity) -> np.memmap:
    return np.memmap(path, np.uint8, mode="r")


def steps(shape: tuple[int, ...], itemsize: int, *, fortran: bool = False) -> tuple[int, ...]:
    """Strides of an array without gaps."""
    order = shape if fortran else shape[::-1]
    found = [itemsize]
    for n in order[:-1]:
        found.append(found[-1] * n)
    found = found[: len(shape)]
    return tuple(found if fortran else found[::-1])
