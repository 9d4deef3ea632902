"""Stored arrays that go on from each other along an axis, as one: nothing is read before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physdiff.data.stored import Key, StoredArray


@dataclass(frozen=True)
class JoinedArray:
    """Arrays that go on from each other along an axis.

    Attributes:
        parts: At least one, of one type, alike in every other axis.
        axis: Number of the axis.
        counts: Entries of each part along it that are taken, from its first on.

    Raises:
        ValueError: types or shapes do not fit each other.
    """

    parts: tuple[StoredArray, ...]
    axis: int
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        first = self.parts[0]
        for part in self.parts:
            if _without(part.shape, self.axis) != _without(first.shape, self.axis) or part.dtype != first.dtype:
                raise ValueError(
                    f"{part.label} is {part.dtype} of shape {part.shape}; {first.label} is {first.dtype} of shape "
                    f"{first.shape}, and one is to go on from the other along axis {self.axis}."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        own = self.parts[0].shape
        return (*own[: self.axis], sum(self.counts), *own[self.axis + 1 :])

    @property
    def dtype(self) -> np.dtype:
        return self.parts[0].dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return self.parts[0].chunks

    @property
    def label(self) -> str:
        return f"{self.parts[0].label} and {len(self.parts) - 1} more"

    def read(self, key: Key) -> np.ndarray:
        ends = np.cumsum(self.counts)
        chosen = key[self.axis]
        if not isinstance(chosen, slice):
            i = int(np.searchsorted(ends, chosen, side="right"))
            return self.parts[i].read(self._at(key, int(chosen - ends[i] + self.counts[i])))
        start, stop, step = chosen.indices(int(ends[-1]))
        found = []
        for part, end, count in zip(self.parts, ends.tolist(), self.counts, strict=True):
            if start < min(stop, end):
                last = min(stop, end)
                found.append(part.read(self._at(key, slice(start - end + count, last - end + count, step))))
                start += -(-(last - start) // step) * step
        if not found:
            return self.parts[0].read(self._at(key, slice(0, 0)))
        # Axes before this one that were given a number are gone.
        place = self.axis - sum(not isinstance(one, slice) for one in key[: self.axis])
        return found[0] if len(found) == 1 else np.concatenate(found, place)

    def _at(self, key: Key, where: int | slice) -> Key:
        return (*key[: self.axis], where, *key[self.axis + 1 :])


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
