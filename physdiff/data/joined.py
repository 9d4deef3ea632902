"""Several files that hold one run, one after the other in time: a file a step, sets of so many frames, years.

A trajectory is what goes into training or test as a whole. Files of one run that were taken for runs of their own would
be neighbours on both sides of that line, and windows would end at every file. Which files go on from which is said by
`layout.join`, or known of a format whose writer always does so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from physdiff.data.agreement import agree, agree_on_time
from physdiff.data.file_order import runs_of
from physdiff.data.formats import open_source
from physdiff.data.joined_array import JoinedArray
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, Source
from physdiff.data.stored import StackedArray, StoredArray, same_storage
from physdiff.data.view import View

_SAME_TIME = 1e-3  # of the time between two frames: a run that was taken up again rounds it anew


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
    has_axis = any(variable.varies_in_time for variable in parts[0].variables)
    # Of files that are steps the only one of a run is a step too: what it holds is no static field.
    is_whole = len(parts) == 1 and (has_axis or layout.join in (None, "never"))
    return parts[0] if is_whole else joined(parts, layout)


def joined(parts: Sequence[Source], layout: Layout) -> Source:
    """Files that go on from each other in time, as one.

    Where one begins before another has ended, as after a run was taken up again from a checkpoint, the later one holds.

    Raises:
        ValueError: they differ in grid, fields, units or trajectories, or do not come one after the other.
    """
    first = parts[0]
    _require_alike(parts, layout)
    times, counts = _times(parts, layout)
    # Of a file without an axis of time every field is a frame, but for those that are said to be static.
    has_axis = any(variable.varies_in_time for variable in first.variables)
    along = _AlongTime(parts, counts)
    variables = []
    for variable in first.variables:
        views = [next(v.view for v in part.variables if v.name == variable.name) for part in parts]
        is_frame = not has_axis and not {variable.name, variable.parent} & set(layout.static or ())
        variables.append(replace(variable, view=along.view(views, variable.name, is_frame)))
    scalars, dims = _scalars(parts, counts)
    left_out = sum(part.frames for part in parts) - sum(counts)
    also = f"; {left_out} frames left out that a later file begins before" * bool(left_out)
    told = {"joined": f"{len(parts)} files{also}"} if len(parts) > 1 else {}
    return replace(
        first, variables=tuple(variables), times=times, scalars=scalars, scalar_dims=dims,
        observed=_mask(parts, along, has_axis),
        attrs={**first.attrs, **told}, files=tuple(part.path for part in parts),
    )  # fmt: skip


def _require_alike(parts: Sequence[Source], layout: Layout) -> None:
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


@dataclass(frozen=True)
class _AlongTime:
    """Makes one view of those that the files of a run have of the same thing.

    Attributes:
        parts: The files.
        counts: Frames of each that are taken.
        arrays: What was made of their arrays.
    """

    parts: Sequence[Source]
    counts: tuple[int, ...]
    arrays: list[StoredArray] = field(default_factory=list)

    def view(self, views: Sequence[View], label: str, is_frame: bool) -> View:
        """One view of all, along the time that they have, or of each as a frame; else that of the first.

        Raises:
            ValueError: axes differ, or what does not change in time is another in another file.
        """
        own, first = views[0], self.parts[0]
        for view, part in zip(views, self.parts, strict=True):
            if (view.dims, view.fixed, view.reversed) != (own.dims, own.fixed, own.reversed):
                raise ValueError(
                    f"files disagree: '{label}' has the axes {', '.join(view.dims)} in {part.path} and "
                    f"{', '.join(own.dims)} in {first.path}."
                )
        if TIME in own.dims:
            made: StoredArray = JoinedArray(tuple(v.array for v in views), own.dims.index(TIME), self.counts)
            dims = own.dims
        elif is_frame:
            made, dims = StackedArray(tuple(v.array for v in views)), (TIME, *own.dims)
        else:
            _require_same(views, self.parts, label)
            return own
        # Components that lie in one array stay in one, so that they are read together.
        same = next((array for array in self.arrays if same_storage((array, made))), made)
        if same is made:
            self.arrays.append(made)
        return replace(own, array=same, dims=dims)


def _mask(parts: Sequence[Source], along: _AlongTime, has_axis: bool) -> View | None:
    first = parts[0]
    masks = [part.observed for part in parts if part.observed is not None]
    if masks and len(masks) < len(parts):
        without = next(part for part in parts if (part.observed is None) != (first.observed is None))
        raise ValueError(f"files disagree: of {first.path} and {without.path} one has a mask, and the other has none.")
    return along.view(masks, "mask", not has_axis and not _are_same(masks)) if masks else None


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
                "says time= (--data.layout.time), a path, group@attribute, or the time between two frames; files that "
                "are runs of their own are read with join= never (--data.layout.join)."
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
    i = _first_other(views)
    if i is not None:
        raise ValueError(
            f"files disagree: '{label}' does not change in time within {parts[0].path}, and is another in "
            f"{parts[i].path}, which is to go on from it."
        )


def _are_same(views: Sequence[View]) -> bool:
    return TIME not in views[0].sizes and _first_other(views) is None


def _first_other(views: Sequence[View]) -> int | None:
    """Number of the first view that holds other values than that before all; None if there is none."""
    dims = tuple(views[0].sizes)
    values = views[0].read(dims)
    return next((i for i, view in enumerate(views) if not _equal(view.read(dims), values)), None)


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
