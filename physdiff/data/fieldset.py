"""A data set of many files as a sequence of samples, each read when it is asked for.

Sample i is a window of frames of one trajectory of one file. Where it lies follows from i by arithmetic, so that a set
of any size is opened by reading the headers of its files alone. An object of this class can be pickled and used in any
process; open files are kept by `physdiff.data.handles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from physdiff.data.agreement import agree, agree_on_time, choose, condition_parts, require_classes, require_numbers
from physdiff.data.blocks import BlockReader, Target, is_finite
from physdiff.data.joined import open_runs
from physdiff.data.layout import Layout
from physdiff.data.region import Region
from physdiff.data.samples import Samples
from physdiff.data.selection import Selection
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.data.windows import Alone, Place, Places, Windows, is_sparse, is_stretch, together
from physdiff.grid import Grid

FEW = 64  # samples, of which Python's own numbers tell the places sooner than arrays
BLOCK = 64 * 2**20  # bytes of frames of one variable that are read at once, so that memory does not follow run length


class FieldSet:
    """Samples of one or more files.

    Args:
        sources: Files on one grid with the same fields.
        selection: What a sample is.
        name: What messages call the set.
        taken: Per file the numbers of the trajectories that belong to the set, ascending; None for all of a file.

    Attributes:
        sources: The files.
        selection: What a sample is.
        source: What messages call the set.
        taken: Per file the numbers of its trajectories in the set; None for all.

    Raises:
        ValueError: files disagree, there is no field or number of a name, the part of the grid does not fit, or there
            is no sample.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        selection: Selection | None = None,
        name: str = "",
        taken: Sequence[np.ndarray | None] | None = None,
    ) -> None:
        if not sources:
            raise ValueError("a data set needs at least one file.")
        self.sources, self.selection = tuple(sources), selection or Selection()
        self.source = name or self.sources[0].path
        self.taken = tuple(taken) if taken is not None else (None,) * len(self.sources)
        self._choose()
        s, first = self.selection, self.sources[0]
        self._region = Region.of(first.grid, s, self.source)
        windows = [s.windows(source.frames) for source in self.sources]
        runs = [
            source.trajectories if taken is None else np.asarray(taken, dtype=np.int64)
            for source, taken in zip(self.sources, self.taken, strict=True)
        ]
        self._windows = Windows(runs, windows, s.window_stride, self._region.count)
        # Trajectories keep their numbers when a set is restricted, so that parts of one file have none in common.
        self._runs_before = np.cumsum([0, *(_runs(source) for source in self.sources)])
        if len(self) == 0:
            raise ValueError(
                f"{self.source} has trajectories of {max(source.frames for source in self.sources)} frames; a sample "
                f"spans {s.span} ({s.past} past and {s.frames} frames, time_stride {s.time_stride})."
            )

    def _choose(self) -> None:
        s, first = self.selection, self.sources[0]
        given, self.scalar_names = condition_parts(first, s.condition)
        masks = () if s.mask in (None, "nan", "file") else choose(first, [s.mask])
        if len(masks) > 1:
            raise ValueError(f"{first.path}: the mask '{s.mask}' has {len(masks)} components; expected one field.")
        self._chosen = choose(first, s.fields, [*(v.name for v in given), *(v.name for v in masks)])
        self._given = given
        twice = set(self.names) & set(self.given_names)
        if twice:
            raise ValueError(f"'{min(twice)}' is a field of the samples and part of data.condition; name it in one.")
        for variable in (*self._chosen, *given, *masks):
            if variable.view.array.dtype.kind not in "fiub":
                raise ValueError(
                    f"{first.path}: field '{variable.name}' holds {variable.view.array.dtype}; expected real numbers."
                )
        for source in self.sources:
            if source is not first:
                agree(first, source, [v.name for v in (*self._chosen, *given, *masks)])
                if TIME in self.scalar_names:
                    agree_on_time(first, source)
            require_numbers(source, self.scalar_names)
            if s.classes is not None:
                require_classes(source, s.classes)
            if s.mask == "file" and source.observed is None:
                raise ValueError(f"{source.path} has no mask of its own for data.mask file; name a field, or say nan.")

    @classmethod
    def open(
        cls,
        paths: Iterable[str | Path],
        selection: Selection | None = None,
        layout: Layout | None = None,
        name: str = "",
    ) -> FieldSet:
        """The samples of some files; only their headers are read."""
        return cls(open_runs(list(paths), layout), selection, name)

    def restricted(self, taken: Sequence[np.ndarray | None], name: str = "") -> FieldSet:
        """The samples of some trajectories: per file their numbers, ascending, or None for all of it."""
        return FieldSet(self.sources, self.selection, name or self.source, taken)

    def selecting(self, selection: Selection) -> FieldSet:
        """The same trajectories with other samples."""
        return FieldSet(self.sources, selection, self.source, self.taken)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_readers"}

    # ---- what a sample is

    @property
    def grid(self) -> Grid:
        """Where a sample's fields live."""
        return self._region.grid

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that are modelled, each once."""
        return self._chosen

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each channel."""
        return tuple(_at(v.name, j, self.selection.frames) for v in self._chosen for j in range(self.selection.frames))

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each channel."""
        return tuple(v.units for v in self.channels)

    @property
    def channels(self) -> tuple[Variable, ...]:
        """The variable of each channel."""
        return tuple(v for v in self._chosen for _ in range(self.selection.frames))

    @property
    def given_names(self) -> tuple[str, ...]:
        """Name of each field of the condition: past frames, then further fields."""
        past = self.selection.past
        before = tuple(f"{v.name}@{j - past}" for v in self._chosen for j in range(past))
        return before + tuple(v.name for v in self._given)

    @property
    def given_units(self) -> tuple[str, ...]:
        """Unit of each field of the condition."""
        return tuple(v.units for v in self.given_variables)

    @property
    def given_variables(self) -> tuple[Variable, ...]:
        """The variable of each field of the condition."""
        return tuple(v for v in self._chosen for _ in range(self.selection.past)) + self._given

    @cached_property
    def dtype(self) -> np.dtype:
        """Type of the values: float32 where it holds every stored number, else float64."""
        names = {v.name for v in (*self._chosen, *self._given)}
        stored = {v.view.array.dtype for source in self.sources for v in source.variables if v.name in names}
        return np.dtype(np.float64 if np.result_type(np.float32, *stored) != np.float32 else np.float32)

    # ---- where a sample lies

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._windows)

    @property
    def runs(self) -> int:
        """Number of trajectories of the set."""
        return sum(s.trajectories if t is None else len(t) for s, t in zip(self.sources, self.taken, strict=True))

    def places(self, rows: Sequence[int] | np.ndarray) -> Places:
        """Where samples lie."""
        return self._windows.places(rows)

    def place(self, row: int) -> Place:
        """Where a sample lies."""
        found = self.places([row])
        return Place(*(int(x[0]) for x in (found.source, found.run, found.start, found.patch)))

    def trajectories(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Number of each sample's trajectory among those of all files, shape (n,), int64."""
        places = self.places(rows)
        found = places.run.copy()
        for here, source in self._by_source(places):
            if source.labels is not None:
                found[here] = _labels(source)[found[here]]
        return found + self._runs_before[places.source]

    def times(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Time of the first frame that each sample models, shape (n,), float64."""
        return self._numbers(self.places(rows), TIME)

    def trajectory(self, row: int) -> int:
        """Number of a sample's trajectory among those of all files."""
        return int(self.trajectories([row])[0])

    def time(self, row: int) -> float:
        """Time of the first frame that a sample models."""
        return float(self.times([row])[0])

    def chunk_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Number of the stored chunk that holds the first channel at each sample's start; frames where there is none.

        Samples with the same number are read from the same chunks. Shape (n,), int64; numbers have gaps.
        """
        places, before = self.places(rows), 0
        found = np.zeros(len(places.run), dtype=np.int64)
        for number, source in enumerate(self.sources):
            view = self._of(source, self._chosen[:1])[0].view
            chunks = dict(zip(view.dims, view.array.chunks or (1,) * len(view.dims), strict=True))
            run, frame = (chunks.get(dim, 1) if dim in view.sizes else 2**62 for dim in (TRAJECTORY, TIME))
            along = -(-source.frames // frame)
            here = places.source == number
            if here.any():
                found[here] = before + (places.run[here] // run) * along + places.start[here] // frame
            before += -(-source.trajectories // run) * along
        return found

    def _by_source(self, places: Places) -> Iterator[tuple[np.ndarray, Source]]:
        """Which entries lie in each file that there are any of."""
        for number in np.unique(places.source):
            yield np.flatnonzero(places.source == number), self.sources[number]

    # ---- numbers

    def read_numbers(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Numbers of the condition, shape (n, numbers), and classes, shape (n,), without the fields; None if none."""
        places = self.places(rows)
        scalars = [self._numbers(places, name) for name in self.scalar_names]
        name = self.selection.classes
        classes = None if name is None else self._numbers(places, name).astype(np.int64)
        return np.stack(scalars, axis=1) if scalars else None, classes

    def _numbers(self, places: Places, name: str) -> np.ndarray:
        found = np.empty(len(places.run))
        for here, source in self._by_source(places):
            run, frame = places.run[here], places.start[here] + self.selection.first_modelled
            if name == TIME:
                found[here] = source.times[run, frame]
            else:
                index = {TRAJECTORY: run, TIME: frame}
                found[here] = np.asarray(source.scalars[name])[
                    tuple(index[dim] for dim in source.scalar_dims.get(name, ()))
                ]
        return found

    # ---- reading

    @cached_property
    def _readers(self) -> dict[int, tuple[BlockReader, BlockReader | None]]:
        return {}

    def _of(self, source: Source, variables: Sequence[Variable]) -> list[Variable]:
        """The variables of the first file in another."""
        by_name = {v.name: v for v in source.variables}
        return [by_name[v.name] for v in variables]

    def _reader(self, number: int) -> tuple[BlockReader, BlockReader | None]:
        if number not in self._readers:
            source, mask = self.sources[number], self.selection.mask
            by: str | Variable | None = mask
            if mask == "file":
                assert source.observed is not None
                by = Variable("mask", source.observed)
            elif mask not in (None, "nan"):
                by = choose(source, [mask])[0]
            chosen = BlockReader(source, self._of(source, self._chosen), self._region, self.dtype, by)
            given = self._of(source, self._given)
            more = BlockReader(source, given, self._region, self.dtype, by, masks=False) if given else None
            self._readers[number] = chosen, more
        return self._readers[number]

    def read(self, rows: Sequence[int] | np.ndarray) -> Samples:
        """Samples by number, in this order, in physical units.

        Frames that neighbouring samples share, and those that lie side by side in a file, are read once.

        Raises:
            IndexError: there is no sample of a number.
            ValueError: a file cannot be read, or holds a value that is not finite and not masked; the value is named.
        """
        s, n, cells = self.selection, len(rows), self.grid.shape
        values = np.empty((n, len(self.channels), *cells), self.dtype)
        fields = np.empty((n, len(self.given_variables), *cells), self.dtype)
        before = len(self._chosen) * s.past
        targets = [Target(values.reshape(n, len(self._chosen), s.frames, *cells), s.past)]
        if s.past:
            targets.append(Target(fields[:, :before].reshape(n, len(self._chosen), s.past, *cells)))
        further = [Target(fields[:, before:, np.newaxis])]
        windows, is_simple = targets[0].values, s.past == 0 and not self._given
        alone = self._alone(rows) if is_simple and n <= FEW else None
        direct: list[tuple[int, int, slice, int, int]] = []
        span, count = s.span, s.frames
        single: Alone = {} if alone is None else alone
        groups = together(self.places(rows), span, s.past + count, self._most_frames) if alone is None else ()
        for number, run, patch, order, starts in groups:
            chosen, given = self._reader(number)
            if is_simple and chosen.is_direct:
                if count == 1 and len(order) > 1 and is_stretch(order) and is_stretch(starts):
                    frames = windows[order[0] : order[-1] + 1, :, 0].swapaxes(0, 1)
                    chosen.read_window(frames, run, slice(starts[0], starts[-1] + 1), patch)
                    direct += [(i, run, slice(at, at + 1), patch, number) for i, at in zip(order, starts, strict=True)]
                    continue
                if is_sparse(starts[-1] - starts[0] + span, count, len(order)):
                    alone = single.setdefault((number, patch), [])
                    for i, at in zip(order, starts, strict=True):
                        alone.append((i, run, at))
                    continue
            dense = len(order) > 1
            first, last = starts[0], starts[-1]
            offsets = [start - first for start in starts]
            when = slice(first, last + span, 1 if dense else s.time_stride)
            chosen.fill(targets, order, offsets, run, when, s.time_stride if dense else 1, patch)
            if given is not None:
                at = slice(first + s.first_modelled, last + s.first_modelled + 1, 1)
                given.fill(further, order, offsets, run, at, 1, patch)
        for (number, patch), found in single.items():
            at, runs, firsts = zip(*found, strict=True)
            if not self._reader(number)[0].read_windows(windows, at, runs, firsts, s.time_stride, patch):
                direct += [(i, r, slice(t, t + span, s.time_stride), patch, number) for i, r, t in found]
        if direct and not is_finite(values):
            for row, run, when, patch, number in direct:
                if not is_finite(values[row]):
                    # Once more, to name the value.
                    self._reader(number)[0].fill(targets, [row], [0], run, when, 1, patch)
        scalars, classes = self.read_numbers(rows) if self.scalar_names or s.classes else (None, None)
        observed = ~np.isnan(values) if s.mask is not None else None
        empty = None if observed is None else self._empty(self.places(rows), observed)
        return Samples(values, fields if self.given_variables else None, scalars, classes, observed, empty)

    def _alone(self, rows: Sequence[int] | np.ndarray) -> Alone | None:
        """Samples that are read one by one, straight from their files; None if blocks are the better way."""
        s, numbers = self.selection, rows.tolist() if isinstance(rows, np.ndarray) else rows
        found = self._windows.alone(numbers, s.span, s.frames)
        return found if found is None or all(self._reader(number)[0].is_direct for number, _ in found) else None

    def _empty(self, places: Places, observed: np.ndarray) -> str | None:
        """The first channel of a sample of which no cell has a value, in words; None if there is none."""
        empty = np.argwhere(~observed.any(axis=tuple(range(2, observed.ndim))))
        if not len(empty):
            return None
        i, channel = (int(k) for k in empty[0])
        cells = self._region.cells(int(places.patch[i]))
        where = ", ".join(f"{dim} {part.start} to {part.stop - 1}" for dim, part in cells.items())
        return (
            f"{self.sources[places.source[i]].path}: no cell of '{self.names[channel]}' has a value in trajectory "
            f"{places.run[i]}, frame {places.start[i] + self.selection.first_modelled}, cells {where}; leave such runs "
            "or fields out, or cut such cells off with data.crop"
        )

    @cached_property
    def _most_frames(self) -> int:
        """Frames that are read at once."""
        return max(1, BLOCK // self._reader(0)[0].frame_bytes)


def _runs(source: Source) -> int:
    """Numbers that the trajectories of a file take up."""
    return source.trajectories if source.labels is None else int(_labels(source).max()) + 1


def _labels(source: Source) -> np.ndarray:
    """Number of each trajectory's run, at least 0."""
    labels = np.asarray(source.labels)
    return labels if labels.min() >= 0 else np.unique(labels, return_inverse=True)[1]


def _at(name: str, frame: int, frames: int) -> str:
    return name if frames == 1 else f"{name}@{frame}"
