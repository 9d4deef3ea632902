r"""Frames that a data set holds twice: in training and test, or within one part.

A test on frames that were trained on flatters the model. Frames are read once, in order. Two are the same if the bytes
of their values are, which a hash of each tells. Two are the same up to rounding if no value differs by more than a
share ε of the field's standard deviation. Such pairs are found by two random projections of the standardised values,

    pᵢ = ⟨wᵢ, (x − mean)/std⟩/√n,    wᵢ unit normal, n values,

which rounding moves by about ε and another frame by about 1, and are then compared value by value. A copy in single
precision of fields with a large mean is rounded by far more than ε: its hash is that of the others, rounded likewise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from physdiff.data.fieldset import FieldSet
from physdiff.data.selection import Selection

ROUNDING = 1e-4  # of a standard deviation: what packing into 16 bits leaves
PROJECTED = 2**16  # cells of a frame that are projected
NEIGHBOURS = 1000  # frames whose projections are compared with one's own; bounds the time where all are alike
BATCH = 32 * 2**20  # bytes of frames that are looked at together


@dataclass(frozen=True, order=True)
class Frame:
    """Where a frame is.

    Attributes:
        split: Part of the data set.
        file: Its file.
        trajectory: Number of the trajectory in the file.
        frame: Number of the frame in the trajectory.
    """

    split: str
    file: str
    trajectory: int
    frame: int


@dataclass(frozen=True)
class Duplicate:
    """A frame that was there before.

    Attributes:
        first: The first of its kind, in the order of the parts.
        second: The frame that repeats it.
        is_exact: Whether every value is the same; otherwise up to rounding.
    """

    first: Frame
    second: Frame
    is_exact: bool

    @property
    def crosses(self) -> bool:
        """Whether they are in different parts."""
        return self.first.split != self.second.split


@dataclass(frozen=True, eq=False)
class _Marks:
    """What is kept of each frame.

    Attributes:
        digest: Hash of its values, shape (n,).
        single: Hash of them in single precision, where that leaves their variation; else the same as `digest`.
        projection: Two random projections, shape (n, 2).
        mean: Of each field, shape (n, channels).
        std: Standard deviation of each field, shape (n, channels); 0 of all where nothing varies.
        run: A number for its trajectory, shape (n,).
    """

    digest: np.ndarray
    single: np.ndarray
    projection: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    run: np.ndarray


def duplicates(
    splits: Mapping[str, FieldSet], every: int = 1, rounding: float = ROUNDING, most: int = 100_000
) -> list[Duplicate]:
    """Frames of a data set that are there twice, between its parts and within them.

    Frames of one value everywhere, such as a state of rest, are left out; so are frames of one trajectory that are
    alike up to rounding, since nothing may have moved.

    Args:
        splits: Parts by name; of each the modelled fields of every stored frame are compared, within the crop.
        every: Only each such frame of a trajectory is read: of a huge set, where whole trajectories may be copies.
        rounding: Largest difference that counts as rounding, in standard deviations of the frame's field; 0 for exact
            copies only.
        most: How many are returned.

    Returns:
        In the order of the parts; each repeated frame once, with the first of its kind.

    Raises:
        ValueError: a value is not finite, or the parts have different fields or grids.
    """
    parts = {name: _frames(fields, every) for name, fields in splits.items()}
    first = next(iter(parts.values()))
    for name, fields in parts.items():
        if fields.names != first.names or fields.grid.shape != first.grid.shape:
            raise ValueError(
                f"part '{name}' has {', '.join(fields.names)} on {fields.grid.shape} cells, and "
                f"'{next(iter(parts))}' has {', '.join(first.names)} on {first.grid.shape}; only like can be compared."
            )
    marks = [_marks(fields) for fields in parts.values()]
    before = np.cumsum([0, *(len(fields) for fields in parts.values())])
    joined = _Marks(
        np.concatenate([m.digest for m in marks]),
        np.concatenate([m.single for m in marks]),
        np.concatenate([m.projection for m in marks]),
        np.concatenate([m.mean for m in marks]),
        np.concatenate([m.std for m in marks]),
        np.concatenate([m.run + (i << 48) for i, m in enumerate(marks)]),
    )
    where = _Where(parts, before)
    found = [(i, j, True) for i, j in _same(joined.digest, _is_constant(joined))]
    if rounding > 0:
        taken = _is_constant(joined)
        taken[[j for _, j, _ in found]] = True
        singles = [(i, j) for i, j in _same(joined.single, taken) if joined.run[i] != joined.run[j]]
        taken[[j for _, j in singles]] = True
        found += [(i, j, False) for i, j in singles]
        found += [(i, j, False) for i, j in _alike(joined, taken, where, rounding)]
    found.sort(key=lambda pair: pair[1])
    return [Duplicate(where.frame(i), where.frame(j), exact) for i, j, exact in found[:most]]


def describe(found: Iterable[Duplicate]) -> list[str]:
    """One sentence for each stretch of frames that follow each other at one step."""
    stretches: list[list[Duplicate]] = []
    for pair in found:
        if stretches and _continues(stretches[-1], pair):
            stretches[-1].append(pair)
        else:
            stretches.append([pair])
    return [
        f"{_words(s[0].second, s[-1].second)}: {'' if s[0].is_exact else 'up to rounding '}the same as "
        f"{_words(s[0].first, s[-1].first)}."
        for s in stretches
    ]


def _continues(stretch: list[Duplicate], pair: Duplicate) -> bool:
    last = stretch[-1]
    alike = all(
        (a.split, a.file, a.trajectory) == (b.split, b.file, b.trajectory)
        for a, b in ((last.first, pair.first), (last.second, pair.second))
    )
    step = pair.second.frame - last.second.frame
    before = stretch[1].second.frame - stretch[0].second.frame if len(stretch) > 1 else step
    return alike and last.is_exact == pair.is_exact and step == before == pair.first.frame - last.first.frame


def _words(first: Frame, last: Frame) -> str:
    frames = f"frame {first.frame}" if first == last else f"frames {first.frame} to {last.frame}"
    return f"{first.split} ({first.file}, trajectory {first.trajectory}, {frames})"


def _frames(fields: FieldSet, every: int) -> FieldSet:
    """Every stored frame of a set's trajectories, on its crop."""
    s = fields.selection
    names = tuple(v.name for v in fields.variables)
    # The boundary of a part does not matter here, and has to be said.
    boundary = None if s.crop is None else "neumann"
    return fields.selecting(Selection(names, window_stride=every, crop=s.crop, crop_boundary=boundary, mask=s.mask))


def _batches(fields: FieldSet) -> Iterable[np.ndarray]:
    size = max(1, BATCH // (fields.dtype.itemsize * len(fields.names) * math.prod(fields.grid.shape)))
    for start in range(0, len(fields), size):
        yield fields.read(np.arange(start, min(start + size, len(fields)))).values


def _marks(fields: FieldSet) -> _Marks:
    n, channels = len(fields), len(fields.names)
    cells = math.prod(fields.grid.shape)
    step = -(-cells * channels // PROJECTED)
    kept = -(-cells // step)
    weights = np.random.default_rng(0).standard_normal((channels * kept, 2)) / math.sqrt(channels * kept)
    digest, single, projection = np.empty(n, dtype=np.uint64), np.empty(n, dtype=np.uint64), np.empty((n, 2))
    means, stds, start = np.empty((n, channels)), np.empty((n, channels)), 0
    for values in _batches(fields):
        stop = start + len(values)
        flat = values.reshape(len(values), channels, cells)
        digest[start:stop] = [_digest(frame) for frame in flat]
        mean, std = _moments(flat)
        single[start:stop] = [
            _digest(frame.astype(np.float32)) if _is_left_by_single(frame, of) else code
            for frame, of, code in zip(flat, std, digest[start:stop], strict=True)
        ]
        means[start:stop], stds[start:stop] = mean, std
        some = flat[:, :, ::step].astype(np.float64) - mean[:, :, np.newaxis]
        some /= np.where(std > 0, std, 1)[:, :, np.newaxis]
        projection[start:stop] = np.where(np.isnan(some), 0, some).reshape(len(values), -1) @ weights
        start = stop
    places = fields.places(np.arange(n))
    return _Marks(digest, single, projection, means, stds, (places.source << 32) + places.run)


def _moments(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each frame's fields over the cells that hold values, shape (n, channels)."""
    seen = ~np.isnan(flat)
    count = np.maximum(seen.sum(axis=2), 1)
    mean = flat.sum(axis=2, dtype=np.float64, where=seen) / count
    away = np.where(seen, flat - mean[:, :, np.newaxis], 0)
    # A mean of equal numbers is rounded; what is left of them then is no variation.
    std = np.sqrt((away**2).sum(axis=2) / count)
    return mean, np.where(std > 1e-12 * np.abs(mean), std, 0)


def _digest(frame: np.ndarray) -> int:
    """Hash of the values, the same for those of float64 that float32 holds, for −0 and 0, and for any NaN."""
    # float32 first: a copy in double precision of a file in single is a copy.
    with np.errstate(over="ignore"):
        single = frame.astype(np.float32)
    if np.array_equal(single, frame, equal_nan=True):
        frame = single
    plain = np.where(np.isnan(frame), np.nan, frame) + np.zeros((), frame.dtype)
    code = hashlib.blake2b(np.ascontiguousarray(plain).tobytes(), digest_size=8).digest()
    return int.from_bytes(code, "little")


def _is_left_by_single(frame: np.ndarray, std: np.ndarray) -> bool:
    """Whether the values of each field still vary in single precision: its steps are small beside their spread."""
    if frame.dtype == np.float32:
        return False  # its hash is of single precision
    largest = np.where(np.isnan(frame), 0, np.abs(frame)).max(axis=1)
    limits = np.finfo(np.float32)
    seen = std > 0
    return bool((largest < limits.max).all() and (std[seen] > limits.tiny).all()
                and (limits.eps * largest[seen] <= 0.25 * std[seen]).all())  # fmt: skip


class _Where:
    """Frames by their number over all parts."""

    def __init__(self, parts: Mapping[str, FieldSet], before: np.ndarray) -> None:
        self._parts, self._before = list(parts.items()), before

    def _part(self, number: int) -> tuple[str, FieldSet, int]:
        part = int(np.searchsorted(self._before, number, side="right")) - 1
        return *self._parts[part], int(number - self._before[part])

    def frame(self, number: int) -> Frame:
        name, fields, row = self._part(number)
        place = fields.place(row)
        return Frame(name, fields.sources[place.source].path, place.run, place.start)

    def values(self, number: int) -> np.ndarray:
        _, fields, row = self._part(number)
        return fields.read([row]).values[0]


def _is_constant(marks: _Marks) -> np.ndarray:
    return (marks.std == 0).all(axis=1)


def _same(digest: np.ndarray, left_out: np.ndarray) -> list[tuple[int, int]]:
    """Pairs with the same hash: the first of a kind, and each that repeats it."""
    _, first, kind = np.unique(digest, return_index=True, return_inverse=True)
    first_of = first[kind]
    repeated = np.flatnonzero((first_of != np.arange(len(first_of))) & ~left_out)
    return [(int(first_of[j]), int(j)) for j in repeated]


def _alike(marks: _Marks, taken: np.ndarray, where: _Where, rounding: float) -> list[tuple[int, int]]:
    """Pairs of different frames that are the same up to rounding."""
    left = np.flatnonzero(~taken)
    p = marks.projection[left]
    order = np.argsort(p[:, 0], kind="stable")
    left, p = left[order], p[order]
    mean, std = marks.mean[left], marks.std[left]
    run = marks.run[left]
    reach = 8 * rounding  # standard deviations of what independent rounding does to a projection
    pairs: list[tuple[int, int]] = []
    for step in range(1, min(len(left), NEIGHBOURS)):
        near = p[step:, 0] - p[:-step, 0] <= reach
        if not near.any():
            break
        near &= (np.abs(p[step:, 1] - p[:-step, 1]) <= reach) & (run[step:] != run[:-step])
        # Rounding moves the mean and the standard deviation by no more than it moves a value.
        for x in (mean, std):
            near &= (np.abs(x[step:] - x[:-step]) <= 2 * rounding * std[:-step]).all(axis=1)
        for i in np.flatnonzero(near):
            a, b = int(left[i]), int(left[i + step])
            pairs.append((min(a, b), max(a, b)))
    found: dict[int, int] = {}
    for i, j in sorted(pairs):
        if j not in found and _agree(where, i, j, rounding):
            found[j] = i
    return [(i, j) for j, i in found.items()]


def _agree(where: _Where, i: int, j: int, rounding: float) -> bool:
    one, other = (x.reshape(len(x), -1).astype(np.float64) for x in (where.values(i), where.values(j)))
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return False
    _, std = _moments(one[np.newaxis])
    difference = np.where(np.isnan(one), 0, np.abs(one - other))
    return bool((difference <= rounding * std[0][:, np.newaxis]).all())
