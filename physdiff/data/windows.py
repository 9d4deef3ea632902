"""Where samples lie in files: number of a sample to file, run, first frame and patch, by arithmetic alone.

Samples are counted file by file, run by run, window by window, patch by patch. A table of samples would be larger than
some data sets; here only the counts of each file are kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np

# By file and patch: of each sample its place among those that are asked for, its run and its first frame.
Alone: TypeAlias = dict[tuple[int, int], list[tuple[int, int, int]]]


@dataclass(frozen=True)
class Place:
    """Where a sample lies.

    Attributes:
        source: Number of the file.
        run: Number of the trajectory in the file.
        start: Stored frame with which it begins.
        patch: Number of the patch of the grid; 0 where there is one.
    """

    source: int
    run: int
    start: int
    patch: int = 0


@dataclass(frozen=True, eq=False)
class Places:
    """Where some samples lie, one entry each, int64.

    Attributes:
        source: Number of the file.
        run: Number of the trajectory in the file.
        start: Stored frame with which it begins.
        patch: Number of the patch of the grid.
    """

    source: np.ndarray
    run: np.ndarray
    start: np.ndarray
    patch: np.ndarray


class Windows:
    """Samples of some files.

    Args:
        runs: Per file the number of its runs, or the numbers of those that are taken, ascending.
        windows: Per file the windows of each run.
        stride: Stored frames from one window to the next.
        patches: Patches of the grid.
    """

    def __init__(self, runs: Sequence[int | np.ndarray], windows: Sequence[int], stride: int, patches: int) -> None:
        self._runs, self._stride, self._patches = tuple(runs), stride, patches
        self._windows = np.array(windows, dtype=np.int64)
        counts = [n if isinstance(n, int) else len(n) for n in runs]
        # Python's whole numbers: a product of four counts of a file's header may exceed 63 bits.
        samples = [int(n) * int(w) * patches for n, w in zip(counts, windows, strict=True)]
        if sum(samples) >= 2**62:
            raise ValueError(f"{sum(samples)} samples are more than can be numbered.")
        self._before = np.cumsum([0, *samples], dtype=np.int64)
        self._starts, self._counts = self._before.tolist(), self._windows.tolist()

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._before[-1])

    def places(self, rows: Sequence[int] | np.ndarray) -> Places:
        """Where samples lie, by number.

        Raises:
            IndexError: there is no sample of a number, or it is not whole.
        """
        numbers = _whole(rows).reshape(-1)
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= len(self)):
            wrong = numbers[(numbers < 0) | (numbers >= len(self))][0]
            raise IndexError(f"there is no sample {wrong}; their numbers are 0 to {len(self) - 1}.")
        source = np.searchsorted(self._before, numbers, side="right") - 1
        window, patch = np.divmod(numbers - self._before[source], self._patches)
        run, window = np.divmod(window, self._windows[source])
        if not all(isinstance(n, int) for n in self._runs):
            for s in np.unique(source):
                taken = self._runs[s]
                if not isinstance(taken, int):
                    here = source == s
                    run[here] = taken[run[here]]
        return Places(source, run, window * self._stride, patch)

    def alone(self, rows: Sequence[int], span: int, count: int) -> Alone | None:
        """Few samples, if each is best read for itself; None if frames of some are best read together.

        The same as `places` tells, for a batch in a third of the time.

        Args:
            rows: Their numbers.
            span: Stored frames of a window from its first to its last.
            count: Frames of a window.

        Raises:
            IndexError: there is no sample of a number, or it is not whole.
        """
        found: list[tuple[int, int, int, int, int]] = []
        for i, row in enumerate(rows):
            if type(row) is not int:
                row = int(_whole(row))
            if not 0 <= row < self._starts[-1]:
                raise IndexError(f"there is no sample {row}; their numbers are 0 to {len(self) - 1}.")
            source = bisect_right(self._starts, row) - 1
            window, patch = divmod(row - self._starts[source], self._patches)
            run, window = divmod(window, self._counts[source])
            taken = self._runs[source]
            run = run if isinstance(taken, int) else int(taken[run])
            found.append((source, patch, run, window * self._stride, i))
        found.sort()
        begin = 0
        for end, (one, following) in enumerate(pairwise([*found, (-1, 0, 0, 0, 0)]), 1):
            if following[3] - one[3] <= span and one[:3] == following[:3]:
                continue
            if end - begin > 1 and (count == 1 or not is_sparse(one[3] - found[begin][3] + span, count, end - begin)):
                return None
            begin = end
        groups: Alone = {}
        for source, patch, run, start, i in found:
            groups.setdefault((source, patch), []).append((i, run, start))
        return groups


def together(places: Places, span: int, count: int, most: int) -> Iterator[tuple[int, int, int, list[int], list[int]]]:
    """Samples that one read serves: file, run, patch, their places among the asked ones, and the first frame of each.

    Windows of one run that touch are read as one block if that is no more frames than they hold together.

    Args:
        places: Where the samples lie.
        span: Stored frames of a window from its first to its last.
        count: Frames of a window.
        most: Frames of a block.
    """
    if len(places.run) == 1:
        yield int(places.source[0]), int(places.run[0]), int(places.patch[0]), [0], [int(places.start[0])]
        return
    order = np.lexsort((places.start, places.patch, places.run, places.source))
    source, run, patch, start = (x[order] for x in (places.source, places.run, places.patch, places.start))
    apart = start[1:] - start[:-1] > span
    for x in (source, run, patch):
        apart |= x[1:] != x[:-1]
    ends = [*(np.flatnonzero(apart) + 1).tolist(), len(order)]
    source, run, patch, start, order = (x.tolist() for x in (source, run, patch, start, order))
    begin = 0
    for end in ends:
        while begin < end:
            stop = end
            if start[end - 1] + span - start[begin] > most:
                stop = begin + 1
                while stop < end and start[stop] + span - start[begin] <= most:
                    stop += 1
            if start[stop - 1] + span - start[begin] > count * (stop - begin):
                stop = begin + 1
            yield source[begin], run[begin], patch[begin], order[begin:stop], start[begin:stop]
            begin = stop


def _whole(rows: object) -> np.ndarray:
    """Numbers of samples, int64; a mask or a fraction would silently be taken for others.

    Raises:
        IndexError: they are not whole.
    """
    found = np.asarray(rows)
    if found.size and found.dtype.kind not in "iu":
        raise IndexError(f"samples are asked for by whole numbers; got {found.dtype}.")
    return found.astype(np.int64, copy=False)


def is_sparse(frames: int, count: int, windows: int) -> bool:
    """Whether windows share so few of the frames that they cover together that each is read for itself.

    That takes less time than to put them in place from a block.
    """
    return 2 * frames > count * windows


def is_stretch(numbers: list[int]) -> bool:
    """Whether whole numbers follow each other."""
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))
