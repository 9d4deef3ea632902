"""Parts of HDF5 datasets that are stored as they are, read by the system straight into an array.

What is neither compressed nor converted lies in the file as it will lie in memory. HDF5 reads it into an array of its
own that is copied afterwards; one system call puts it where it belongs, in less than half of the time. The offsets are
those that HDF5 tells.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product
from math import prod
from operator import mul

import h5py
import numpy as np

from physdiff.data.asked import Asked, Key, squared

_ALL = slice(None)
LISTED = 20_000  # chunks; the places of so many are asked for at once, which is faster than one by one


class Plain:
    """A dataset that lies in one piece, or of which every frame, the numbers along its last axes, does.

    Args:
        dataset: Open, and stored as it is: see `plain_of`.
        leading: Axes before those of a frame; 0 where all is in one piece.
        descriptor: Of its file.
    """

    def __init__(self, dataset: h5py.Dataset, leading: int, descriptor: int) -> None:
        self._id, self._descriptor, self._leading = dataset.id, descriptor, leading
        self.dtype, self._shape = dataset.dtype, tuple(dataset.shape)
        # Bytes from one entry along an axis to the next, where the frames follow each other.
        self._steps = [prod(self._shape[axis + 1 :]) * self.dtype.itemsize for axis in range(len(self._shape))]
        self._base: int | None = dataset.id.get_offset()  # None where each frame is a chunk
        self._places: dict[tuple[int, ...], int | None] = {}
        if leading and prod(self._shape[:leading]) <= LISTED:
            self._id.chunk_iter(self._enter)

    def _enter(self, info: h5py.h5d.StoreInfo) -> None:
        known = info.size == self._steps[self._leading - 1]
        self._places[tuple(info.chunk_offset[: self._leading])] = info.byte_offset if known else None

    def read_into(self, key: Key, out: np.ndarray) -> bool:
        """Read a part into `out`, which has its type and, in memory, as many numbers without a gap.

        Args:
            key: Per axis a number or a slice, from the first axis on; axes that are not named are read whole.
            out: Where it goes.

        Returns:
            Whether this is a part that can be read in this way; else nothing was done.

        Raises:
            OSError: the file ends before.
        """
        n = len(key)
        while n > max(self._leading, 1) and _is_all(key[n - 1], self._shape[n - 1]):
            n -= 1
        if (self._leading and n != self._leading) or out.dtype != self.dtype or not out.flags.c_contiguous:
            return False
        ranges = []
        for chosen, size in zip(key[:n], self._shape, strict=False):
            if isinstance(chosen, slice):
                ranges.append(range(*chosen.indices(size)))
            elif 0 <= chosen < size:
                ranges.append((chosen,))
            else:
                return False
        piece = self._steps[n - 1]
        offsets = [self._offset(index) for index in product(*ranges)]
        if None in offsets or len(offsets) * piece != out.nbytes:
            return False
        view, done = out.reshape(-1).view(np.uint8), 0
        while done < len(offsets):
            first, count = offsets[done], 1
            assert first is not None
            while done + count < len(offsets) and offsets[done + count] == first + count * piece:
                count += 1
            self._fill(view[done * piece : (done + count) * piece], first)
            done += count
        return True

    def read_windows(
        self, asked: Asked, runs: Sequence[int], starts: Sequence[int], out: Sequence[np.ndarray]
    ) -> float | None:  # fmt: skip
        """Read windows of whole frames, each as `read_into` would, in less time.

        Args:
            asked: What they have in common.
            runs: Run of each.
            starts: First frame of each.
            out: For each its place, shape (frames, *frame), in memory without a gap.

        Returns:
            Sum of the squares of what was read; None if they cannot be read in this way: nothing was done.

        Raises:
            OSError: the file ends before.
        """
        n = self._axes_before_frame(asked, runs, starts)
        if n is None:
            return None
        piece, count = self._steps[n - 1], asked.frames
        if any(x.nbytes != count * piece or x.dtype != self.dtype or not x.flags.c_contiguous for x in out):
            return None
        offsets, squares = self._frame_offsets(asked, runs, starts, n), 0.0
        if None in offsets:
            return None
        for place, first in zip(out, range(0, len(offsets), count), strict=True):
            begin = offsets[first]
            assert begin is not None
            if all(offsets[first + i] == begin + i * piece for i in range(1, count)):
                self._fill(place, begin)
            else:
                for frame, offset in zip(place, offsets[first : first + count], strict=True):
                    assert offset is not None
                    self._fill(frame, offset)
            squares += squared(place)
        return squares

    def _axes_before_frame(self, asked: Asked, runs: Sequence[int], starts: Sequence[int]) -> int | None:
        """Axes of which a number is asked for; None unless they stand first and all that follow are asked for whole."""
        key, counted = asked.key, (asked.run_axis, asked.time_axis)
        numbers = [i in counted or not isinstance(key[i], slice) for i in range(len(key))]
        n = sum(numbers)
        if not all(numbers[:n]) or (self._leading and n != self._leading) or len(key) > len(self._shape):
            return None
        if not all(map(_is_all, key[n:], self._shape[n : len(key)])):
            return None
        return n if asked.is_within(self._shape, runs, starts) else None

    def _frame_offsets(
        self, asked: Asked, runs: Sequence[int], starts: Sequence[int], n: int
    ) -> list[int | None]:  # fmt: skip
        """Where each frame of each window begins in the file, window by window."""
        index = [0 if isinstance(chosen, slice) else chosen for chosen in asked.key[:n]]
        run_axis, time_axis = asked.run_axis, asked.time_axis
        within = range(0, asked.frames * asked.step, asked.step)
        found: list[int | None] = []
        for run, start in zip(runs, starts, strict=True):
            if run_axis is not None:
                index[run_axis] = run
            for frame in within:
                index[time_axis] = start + frame
                found.append(self._offset(tuple(index)))
        return found

    def _fill(self, place: np.ndarray, offset: int) -> None:
        got = os.preadv(self._descriptor, [place.data], offset)
        if got < place.nbytes:
            view = memoryview(place.reshape(-1).view(np.uint8).data)
            while got < len(view):
                more = os.preadv(self._descriptor, [view[got:]], offset + got)
                if more == 0:
                    raise OSError(f"it ends {len(view) - got} bytes too early")
                got += more

    def _offset(self, index: tuple[int, ...]) -> int | None:
        """Where a frame, or what else is in one piece, begins in the file; None if it was never written."""
        if self._base is not None:
            return self._base + sum(map(mul, index, self._steps))
        if index not in self._places:
            info = self._id.get_chunk_info_by_coord((*index, *[0] * (len(self._shape) - self._leading)))
            known = info.byte_offset is not None and info.size == self._steps[self._leading - 1]
            self._places[index] = info.byte_offset if known else None
        return self._places[index]


def _is_all(chosen: int | slice, size: int) -> bool:
    if not isinstance(chosen, slice):
        return False
    return chosen == _ALL or chosen.indices(size) == (0, size, 1)


def plain_of(file: h5py.File, dataset: h5py.Dataset) -> Plain | None:
    """How to read a dataset without HDF5; None if it cannot be."""
    made = dataset.id.get_create_plist()
    if (
        file.driver != "sec2"
        or file.userblock_size
        or made.get_nfilters()
        or dataset.dtype.kind not in "fiu"
        or not dataset.dtype.isnative
        # A type that numpy has not, such as 20 bits in 32, is converted when it is read.
        or not dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype))
        or dataset.ndim < 2
    ):
        return None
    layout = made.get_layout()
    if layout == h5py.h5d.CONTIGUOUS and made.get_external_count() == 0 and dataset.id.get_offset() is not None:
        return Plain(dataset, 0, _descriptor(file))
    if layout == h5py.h5d.CHUNKED:
        leading = axes_before_chunk(dataset.shape, dataset.chunks or ())
        if leading:
            return Plain(dataset, leading, _descriptor(file))
    return None


def axes_before_chunk(shape: tuple[int, ...], chunks: tuple[int, ...]) -> int:
    """Axes along which a chunk holds one entry, if it holds all of those that follow; else 0."""
    leading = next((i for i, c in enumerate(chunks) if c != 1), len(chunks) - 1)
    return leading if tuple(chunks[leading:]) == tuple(shape[leading:]) else 0


def _descriptor(file: h5py.File) -> int:
    return int(file.id.get_vfd_handle())
