"""Windows of frames of one array that are asked for together, and how HDF5 reads them into place.

h5py makes sense of a key, makes an array and fills it; a batch of windows of one shape needs one thought for all of
them, and HDF5 puts each where it belongs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np

Key = tuple[int | slice, ...]

AT_HAND = 1 << 18  # bytes that stay in a core's own cache
MOST_KNOWN = 1 << 24  # frames of which it is remembered that they are finite, a byte each

# By the axes of runs and frames, which a layout names: a mark for each frame of each run.
Known = dict[tuple[int | None, int], bytearray]


@dataclass(frozen=True)
class Asked:
    """Windows of frames of one array, each as many frames, to be read in one go.

    Attributes:
        key: Per axis what is read of it, a number or a slice; what it says of runs and frames does not count.
        run_axis: The axis of runs; None where there is none.
        time_axis: The axis of frames.
        runs: Run of each window.
        starts: First frame of each window.
        frames: Frames of a window.
        step: From one of its frames to the next.
    """

    key: Key
    run_axis: int | None
    time_axis: int
    runs: Sequence[int]
    starts: Sequence[int]
    frames: int
    step: int

    def part(self, number: int) -> Key:
        """What one window is of the array."""
        key, start = list(self.key), self.starts[number]
        if self.run_axis is not None:
            key[self.run_axis] = self.runs[number]
        key[self.time_axis] = slice(start, start + (self.frames - 1) * self.step + 1, self.step)
        return tuple(key)

    def is_within(self, shape: Sequence[int]) -> bool:
        """Whether an array of a shape has all the runs, frames and numbers that are asked for."""
        limits = {self.time_axis: (min(self.starts), max(self.starts) + (self.frames - 1) * self.step)}
        if self.run_axis is not None:
            limits[self.run_axis] = min(self.runs), max(self.runs)
        for axis, chosen in enumerate(self.key):
            if axis not in limits and not isinstance(chosen, slice):
                limits[axis] = chosen, chosen
        return all(0 <= low and high < shape[axis] for axis, (low, high) in limits.items())


def read_by_hdf5(dataset: h5py.Dataset, asked: Asked, out: Sequence[np.ndarray], known: Known | None) -> float:
    """Read windows of a dataset that is open, each into an array of its shape.

    Args:
        dataset: Where from.
        asked: What of it.
        out: Where to.
        known: Marks of the frames that were read before and are finite; more are set. None remembers nothing.

    Returns:
        The sum of the squares of what is not known to be finite.
    """
    shape, key = dataset.shape, asked.part(0)
    ranges = [range(n)[chosen] if isinstance(chosen, slice) else range(chosen, chosen + 1)
              for chosen, n in zip(key, shape, strict=True)]  # fmt: skip
    kept = tuple(len(r) for r, chosen in zip(ranges, key, strict=True) if isinstance(chosen, slice))
    dtype = dataset.dtype
    alike = all(x.shape == kept and x.dtype == dtype and x.flags.c_contiguous for x in out)
    if not alike or dtype.kind not in "fiu" or not asked.is_within(shape):
        for i, place in enumerate(out):
            place[...] = dataset[asked.part(i)]
        return sum(map(squared, out))
    first, counts = [r.start for r in ranges], tuple(map(len, ranges))
    # Told steps of 1, HDF5 takes a slower way than told none.
    strides = None if all(r.step == 1 for r in ranges) else tuple(r.step for r in ranges)
    there, here = dataset.id.get_space(), h5py.h5s.create_simple(counts)
    kind, squares = h5py.h5t.py_create(dtype), 0.0
    # Unpacked into memory that is at hand, looked at there, and then put in its place: a tenth less time than into a
    # batch, which no cache holds.
    at_hand = np.empty(kept, dtype) if math.prod(kept) * dtype.itemsize <= AT_HAND else None
    flat = None if at_hand is None else at_hand.reshape(-1)
    marks, whole = _marks(known, shape, counts, asked), bytes([1]) * asked.frames
    run_axis, time_axis, read, select = asked.run_axis, asked.time_axis, dataset.id.read, there.select_hyperslab
    for run, start, place in zip(asked.runs, asked.starts, out, strict=True):
        if run_axis is not None:
            first[run_axis] = run
        first[time_axis] = start
        select(tuple(first), counts, strides)
        if flat is None:
            read(here, there, place, kind)
            squares += squared(place)
            continue
        read(here, there, at_hand, kind)
        begin = start if run_axis is None else run * shape[time_axis] + start
        if marks is None or marks[begin : begin + asked.frames] != whole:
            own = flat.dot(flat)
            squares += own
            if marks is not None and math.isfinite(own):
                marks[begin : begin + asked.frames] = whole
        place[...] = at_hand
    return float(squares)


def _marks(known: Known | None, shape: Sequence[int], counts: Sequence[int], asked: Asked) -> bytearray | None:
    """A place for every frame of every run; None where nothing is remembered or frames are not read whole."""
    if known is None:
        return None
    runs = 1 if asked.run_axis is None else shape[asked.run_axis]
    frames = runs * shape[asked.time_axis]
    if asked.step != 1 or frames > MOST_KNOWN or math.prod(counts) * frames != math.prod(shape) * asked.frames:
        return None
    # Another layout of the same dataset counts other frames.
    return known.setdefault((asked.run_axis, asked.time_axis), bytearray(frames))


def squared(place: np.ndarray) -> float:
    """Sum of the squares of all values: not finite if one of them is not, or if it is too large itself.

    Taken of each window when it was just read and is at hand, it tells in least time whether all is well.
    """
    flat = place.reshape(-1)
    return float(flat.dot(flat))
