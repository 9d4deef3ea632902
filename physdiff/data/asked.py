"""Windows of frames of one array that are asked for together, and how HDF5 reads them into place.

h5py makes sense of a key, makes an array and fills it; a batch of windows of one shape needs one thought for all of
them, which is kept for the next batch, and HDF5 puts each where it belongs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

Key = tuple[int | slice, ...]

MOST_KNOWN = 1 << 24  # frames of which it is remembered that they are finite, a byte each
MOST_WAYS = 16  # ways of asking that are kept of a dataset


# Told apart by being another object, not by its content: it is looked up for every batch, and a slice has no hash.
@dataclass(frozen=True, eq=False)
class Asked:
    """What windows of frames of one array have in common when they are read in one go.

    Attributes:
        key: Per axis what is read of it, a number or a slice; what it says of runs and frames does not count.
        run_axis: The axis of runs; None where there is none.
        time_axis: The axis of frames.
        frames: Frames of a window.
        step: From one of its frames to the next.
    """

    key: Key
    run_axis: int | None
    time_axis: int
    frames: int
    step: int

    def part(self, run: int, start: int) -> Key:
        """What one window is of the array."""
        key = list(self.key)
        if self.run_axis is not None:
            key[self.run_axis] = run
        key[self.time_axis] = slice(start, start + (self.frames - 1) * self.step + 1, self.step)
        return tuple(key)

    def is_within(self, shape: Sequence[int], runs: Sequence[int], starts: Sequence[int]) -> bool:
        """Whether an array of a shape has all the runs, frames and numbers that are asked for."""
        limits = {self.time_axis: (min(starts), max(starts) + (self.frames - 1) * self.step)}
        if self.run_axis is not None:
            limits[self.run_axis] = min(runs), max(runs)
        for axis, chosen in enumerate(self.key):
            if axis not in limits and not isinstance(chosen, slice):
                limits[axis] = chosen, chosen
        return all(0 <= low and high < shape[axis] for axis, (low, high) in limits.items())


@dataclass(frozen=True)
class _Way:
    """How HDF5 is asked for windows of one kind.

    Attributes:
        first: Per axis where the first window that was asked for begins.
        counts: Per axis how many numbers are read.
        strides: Per axis from one to the next; None where these follow each other.
        kept: Shape of a window.
        there: The dataset's space, of which a window is selected.
        here: The space of a window in memory.
        dtype: Type of the numbers.
        kind: The same in HDF5's words.
        marks: Of every frame of every run whether it is known to be finite; None remembers nothing.
    """

    first: tuple[int, ...]
    counts: tuple[int, ...]
    strides: tuple[int, ...] | None
    kept: tuple[int, ...]
    there: Any
    here: Any
    dtype: np.dtype
    kind: Any
    marks: bytearray | None


@dataclass
class Known:
    """What is kept of a dataset that is open, from one read to the next.

    Attributes:
        is_lasting: Whether values that were read stay as they are.
        marks: By the axes of runs and frames, which a layout names: a mark for each frame of each run that is finite.
        ways: How it is asked for windows of some kinds.
    """

    is_lasting: bool = True
    marks: dict[tuple[int | None, int], bytearray] = field(default_factory=dict)
    ways: dict[Asked, _Way] = field(default_factory=dict)


def read_by_hdf5(
    dataset: h5py.Dataset, asked: Asked, runs: Sequence[int], starts: Sequence[int], out: Sequence[np.ndarray],
    known: Known,
) -> float:  # fmt: skip
    """Read windows of a dataset that is open, each into an array of its shape.

    Args:
        dataset: Where from.
        asked: What of it.
        runs: Run of each window.
        starts: First frame of each window.
        out: Where to.
        known: What is kept of the dataset.

    Returns:
        The sum of the squares of what is not known to be finite.
    """
    shape, way = dataset.shape, known.ways.get(asked)
    if not asked.is_within(shape, runs, starts) or dataset.dtype.kind not in "fiu":
        return _one_by_one(dataset, asked, runs, starts, out)
    if way is None:
        way = _way(dataset, asked, runs[0], starts[0], known)
        if len(known.ways) >= MOST_WAYS:
            known.ways.clear()
        known.ways[asked] = way
    kept, dtype = way.kept, way.dtype
    if not all(x.shape == kept and x.dtype == dtype and x.flags.c_contiguous for x in out):
        return _one_by_one(dataset, asked, runs, starts, out)
    first, counts, strides, marks = list(way.first), way.counts, way.strides, way.marks
    run_axis, time_axis, frames, along = asked.run_axis, asked.time_axis, asked.frames, shape[asked.time_axis]
    here, there, kind, whole, squares = way.here, way.there, way.kind, bytes([1]) * frames, 0.0
    read, select = dataset.id.read, there.select_hyperslab
    for run, start, place in zip(runs, starts, out, strict=True):
        begin = start
        if run_axis is not None:
            first[run_axis] = run
            begin += run * along
        first[time_axis] = start
        select(tuple(first), counts, strides)
        read(here, there, place, kind)
        if marks is None or marks[begin : begin + frames] != whole:
            own = squared(place)
            squares += own
            if marks is not None and math.isfinite(own):
                marks[begin : begin + frames] = whole
    return squares


def _one_by_one(
    dataset: h5py.Dataset, asked: Asked, runs: Sequence[int], starts: Sequence[int], out: Sequence[np.ndarray]
) -> float:
    for place, run, start in zip(out, runs, starts, strict=True):
        place[...] = dataset[asked.part(run, start)]
    return sum(map(squared, out))


def _way(dataset: h5py.Dataset, asked: Asked, run: int, start: int, known: Known) -> _Way:
    shape, key, dtype = dataset.shape, asked.part(run, start), dataset.dtype
    ranges = [range(n)[chosen] if isinstance(chosen, slice) else range(chosen, chosen + 1)
              for chosen, n in zip(key, shape, strict=True)]  # fmt: skip
    counts = tuple(map(len, ranges))
    kept = tuple(len(r) for r, chosen in zip(ranges, key, strict=True) if isinstance(chosen, slice))
    # Told steps of 1, HDF5 takes a slower way than told none.
    strides = None if all(r.step == 1 for r in ranges) else tuple(r.step for r in ranges)
    return _Way(
        tuple(r.start for r in ranges), counts, strides, kept, dataset.id.get_space(), h5py.h5s.create_simple(counts),
        dtype, h5py.h5t.py_create(dtype), _marks(known, shape, counts, asked),
    )  # fmt: skip


def _marks(known: Known, shape: Sequence[int], counts: Sequence[int], asked: Asked) -> bytearray | None:
    """A place for every frame of every run; None where nothing is remembered or frames are not read whole."""
    runs = 1 if asked.run_axis is None else shape[asked.run_axis]
    frames = runs * shape[asked.time_axis]
    whole = math.prod(counts) * frames == math.prod(shape) * asked.frames
    if not known.is_lasting or asked.step != 1 or frames > MOST_KNOWN or not whole:
        return None
    # Another layout of the same dataset counts other frames.
    return known.marks.setdefault((asked.run_axis, asked.time_axis), bytearray(frames))


def squared(place: np.ndarray) -> float:
    """Sum of the squares of all values: not finite if one of them is not, or if it is too large itself.

    Taken of each window when it was just read and is at hand, it tells in least time whether all is well.
    """
    flat = place.reshape(-1)
    return float(flat.dot(flat))
