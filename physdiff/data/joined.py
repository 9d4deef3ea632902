"""Several files that hold one run, one after the other in time: a file a step, sets of so many frames, years.

A trajectory is what goes into training or test as a whole. Files of one run that were taken for runs of their own would
be neighbours on both sides of that line, and windows would end at every file. Which files go on from which is said by
`layout.join`, or known of a format whose writer always does so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from physdiff.data.agreement import agree, agree_on_time
from physdiff.data.formats import find_format, open_source
from physdiff.data.formats.mapped import natural
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, Source
from physdiff.data.stored import Key, StackedArray, StoredArray, same_storage
from physdiff.data.view import View
from physdiff.registry import nearest

Join = Literal["number", "folder", "never"]

# With its decimals, as codes that name files by the time write it: state_phys_t0012.500.
_LAST_NUMBER = re.compile(r"\d+(?:\.\d+)?(?=\D*$)")
_SAME_TIME = 1e-3  # of the time between two frames: a run that was taken up again rounds it anew


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


def runs_of(files: Sequence[Path], layout: Layout) -> list[list[Path]]:
    """Files by the run that they hold; of one run in the order of their names, numbers by size.

    Raises:
        ValueError: `layout.join` is none of the words.
    """
    how = layout.join
    if how is None and files:
        try:  # a data set has files of one format
            how = find_format(files[0], layout).join
        except ValueError:  # the message belongs to whoever opens it
            how = None
    if how is not None and how not in get_args(Join):
        raise ValueError(f"join= (--data.layout.join) is '{how}'. {nearest(how, get_args(Join))}")
    if how in (None, "never"):
        return [[file] for file in files]
    found: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        name = "" if how == "folder" else _LAST_NUMBER.sub("*", file.stem) + file.suffix
        found.setdefault((str(file.parent), name), []).append(file)
    return [sorted(run, key=lambda file: natural(file.name)) for run in found.values()]


def open_runs(files: Sequence[str | Path], layout: Layout | None = None) -> list[Source]:
    """What files hold, those that go on from each other as one; only headers are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, or files of one run do not fit each other.
    """
    layout = layout or Layout()
    return [open_run(run, layout) for run in runs_of([Path(file) for file in files], layout)]


def open_run(files: Sequence[Path], layout: Layout) -> Source:
    """What the files of one run hold.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, or files do not fit each other.
    """
    parts = [open_source(file, layout) for file in files]
    return parts[0] if len(parts) == 1 else joined(parts, layout)


def joined(parts: Sequence[Source], layout: Layout) -> Source:
    """Files that go on from each other in time, as one.

    Where one begins before another has ended, as after a run was taken up again from a checkpoint, the later one holds.

    Raises:
        ValueError: they differ in grid, fields, units or trajectories, or do not come one after the other.
    """
    first = parts[0]
    for part in parts[1:]:
        agree(first, part, first.names)
        if not isinstance(layout.time, int | float):
            agree_on_time(first, part)
        if part.trajectories != first.trajectories or not _equal(part.labels, first.labels):
            raise ValueError(
                f"{part.path} has {part.trajectories} trajectories and {first.path} {first.trajectories}; files that "
                "are joined (--data.layout.join) hold the same."
            )
    times, counts = _times(parts, layout)
    # Of a file without an axis of time every field is a frame, but for those that are said to be static.
    has_axis = any(variable.varies_in_time for variable in first.variables)
    arrays: list[StoredArray] = []

    def along_time(views: Sequence[View], label: str, is_frame: bool) -> View:
        own = views[0]
        for view, part in zip(views, parts, strict=True):
            if (view.dims, view.fixed, view.reversed) != (own.dims, own.fixed, own.reversed):
                raise ValueError(
                    f"files disagree: '{label}' has the axes {', '.join(view.dims)} in {part.path} and "
                    f"{', '.join(own.dims)} in {first.path}."
                )
        if TIME in own.dims:
            made: StoredArray = JoinedArray(tuple(v.array for v in views), own.dims.index(TIME), counts)
            dims = own.dims
        elif is_frame:
            made, dims = StackedArray(tuple(v.array for v in views)), (TIME, *own.dims)
        else:
            _require_same(views, parts, label)
            return own
        # Components that lie in one array stay in one, so that they are read together.
        same = next((array for array in arrays if same_storage((array, made))), made)
        if same is made:
            arrays.append(made)
        return replace(own, array=same, dims=dims)

    variables = []
    for variable in first.variables:
        views = [next(v.view for v in part.variables if v.name == variable.name) for part in parts]
        is_frame = not has_axis and not {variable.name, variable.parent} & set(layout.static or ())
        variables.append(replace(variable, view=along_time(views, variable.name, is_frame)))
    observed = first.observed
    if observed is not None:
        observed = along_time([part.observed or observed for part in parts], "mask", False)
    scalars, dims = _scalars(parts, counts)
    left_out = sum(part.frames for part in parts) - sum(counts)
    also = f"; {left_out} frames left out that a later file begins before" * bool(left_out)
    return replace(
        first, variables=tuple(variables), times=times, scalars=scalars, scalar_dims=dims, observed=observed,
        attrs={**first.attrs, "joined": f"{len(parts)} files{also}"}, files=tuple(part.path for part in parts),
    )  # fmt: skip


def _times(parts: Sequence[Source], layout: Layout) -> tuple[np.ndarray, tuple[int, ...]]:
    """Times of the whole run, and how many frames of each file are part of it."""
    counts = [part.frames for part in parts]
    if isinstance(layout.time, int | float):
        whole = np.arange(sum(counts)) * float(layout.time)
        return np.broadcast_to(whole, (parts[0].trajectories, len(whole))), tuple(counts)
    for i in range(len(parts) - 2, -1, -1):
        own, later = parts[i].times, parts[i + 1].times[:, :1]
        step = float(np.diff(own, axis=1).min()) if parts[i].frames > 1 else 0.0
        counts[i] = int((own < later - _SAME_TIME * step).all(axis=0).sum())
        if not counts[i]:
            raise ValueError(
                f"{parts[i + 1].path} begins at the time {later.min():.6g} and {parts[i].path} at {own.min():.6g}; "
                "files that are joined go on from each other, in the order of their names. Where each file's time is "
                "says time= (--data.layout.time), a path, group@attribute, or the time between two frames."
            )
    return np.concatenate([part.times[:, :n] for part, n in zip(parts, counts, strict=True)], axis=1), tuple(counts)


def _scalars(
    parts: Sequence[Source], counts: Sequence[int]
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Numbers of the run, those that differ between files as numbers of the frames."""
    found: dict[str, np.ndarray] = {}
    dims: dict[str, tuple[str, ...]] = {}
    for name, value in parts[0].scalars.items():
        own = tuple(parts[0].scalar_dims.get(name, ()))
        for part in parts:
            if name not in part.scalars or tuple(part.scalar_dims.get(name, ())) != own:
                raise ValueError(f"files disagree: {part.path} has no number '{name}' as {parts[0].path} has.")
        values = [np.asarray(part.scalars[name]) for part in parts]
        if TIME not in own and all(_equal(values[0], other) for other in values):
            found[name], dims[name] = value, own
            continue
        if TIME not in own:
            values = [np.broadcast_to(v[..., None], (*v.shape, n)) for v, n in zip(values, counts, strict=True)]
            own = (*own, TIME)
        found[name] = np.concatenate([v[..., :n] for v, n in zip(values, counts, strict=True)], axis=-1)
        dims[name] = own
    return found, dims


def _require_same(views: Sequence[View], parts: Sequence[Source], label: str) -> None:
    dims = tuple(views[0].sizes)
    values = views[0].read(dims)
    for view, part in zip(views[1:], parts[1:], strict=True):
        if not _equal(view.read(dims), values):
            raise ValueError(
                f"files disagree: '{label}' does not change in time within {parts[0].path}, and is another in "
                f"{part.path}, which is to go on from it."
            )


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
