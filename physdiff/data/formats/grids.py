"""The grid and the times of a file, from what it stores and what a `Layout` says in its place.

Stored coordinates are those of cell centres. They must be equally spaced and increasing: a stretched or decreasing axis
that were read as a regular one would be wrong in every later step, so nothing overrides that. One coordinate more than
there are cells may be those of their edges; whoever says so by extent and origin is believed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import h5py
import numpy as np

from physdiff.data.axes import grid_from_axes
from physdiff.data.layout import Layout
from physdiff.grid import Grid


def grid_of(
    source: str,
    sizes: Mapping[str, int],
    centres: Mapping[str, np.ndarray],
    layout: Layout,
    attrs: Mapping[str, Mapping[str, Any]] | None = None,
    hint: str = "",
) -> Grid:
    """The grid of a file; `layout` stands in for what the file says, or leaves open.

    Args:
        source: What messages call the file.
        sizes: Cells along each axis, in order.
        centres: Cell centres of those axes whose coordinates are stored, shape (n,).
        layout: Its `extent`, `origin`, `boundary` and `length_unit` are used.
        attrs: Per axis what is stored beside its coordinates (see `physdiff.data.axes.axis_attrs`).
        hint: A sentence on boundaries that the message about a missing one ends with.

    Raises:
        ValueError: an axis is not regular, or lacks an extent or a boundary; the option that settles it is named.
    """
    extents = _per_axis(source, "extent", layout.extent, sizes)
    origins = _per_axis(source, "origin", layout.origin, sizes)
    axes: dict[str, tuple[np.ndarray, Mapping[str, Any]]] = {}
    for dim, n in sizes.items():
        own = dict((attrs or {}).get(dim, {}))
        extent, origin = extents[dim], origins[dim]
        ends = _edges(source, dim, n, centres.get(dim))
        if ends is not None and (extent is None or origin is None):
            raise ValueError(
                f"{source}: dimension '{dim}' has {n} cells and {n + 1} coordinates, equally spaced, as of the cells' "
                f"edges; if they are, pass extent= (--data.layout.extent) {ends[1] - ends[0]:.6g} and origin= "
                f"(--data.layout.origin) {ends[0]:.6g} of this axis."
            )
        stored = None if ends is not None else _stored(source, dim, n, centres.get(dim))
        if extent is None and stored is None:
            also = f" Nor does it tell its boundary: {_ask_for_boundary(sizes)}{f' {hint}' * bool(hint)}"
            raise ValueError(
                f"{source}: the file has no coordinates along '{dim}'; pass extent= (--data.layout.extent), the "
                f"length of the box along each axis.{also * (layout.boundary is None and 'grid_boundary' not in own)}"
            )
        if extent is None and n == 1 and "grid_extent" not in own:
            raise ValueError(
                f"{source}: dimension '{dim}' has one cell, so its extent cannot be told from its coordinate; pass "
                "extent= (--data.layout.extent), a list with null for the axes that tell theirs."
            )
        if extent is not None or origin is not None:
            if extent is None:
                assert stored is not None
                extent = float(own.get("grid_extent", _step(stored) * n))
            if origin is None:
                origin = 0.0 if stored is None else float(own.get("grid_origin", stored[0] - extent / n / 2))
            stored = origin + (np.arange(n) + 0.5) * (extent / n)
            own |= {"grid_extent": extent, "grid_origin": origin}
        if layout.length_unit is not None:
            own["units"] = layout.length_unit
        if layout.boundary is None and "grid_boundary" not in own:
            raise ValueError(
                f"{source}: dimension '{dim}' has no boundary condition; {_ask_for_boundary(sizes)}"
                f"{f' {hint}' * bool(hint)}"
            )
        assert stored is not None
        axes[dim] = stored, own
    return grid_from_axes(axes, layout.boundary, source)


def _ask_for_boundary(sizes: Mapping[str, int]) -> str:
    return (
        "pass boundary= (--data.layout.boundary) 'periodic', 'neumann' or 'dirichlet', or a list with one for each of "
        f"{', '.join(sizes)}."
    )


def times_of(
    source: str,
    trajectories: int,
    frames: int,
    stored: np.ndarray | None,
    layout: Layout,
    file: h5py.File | None = None,
    *,
    one_more: bool = False,
) -> np.ndarray:
    """Time of each frame, shape (trajectories, frames), float64.

    Args:
        source: What messages call the file.
        trajectories: Runs of the file.
        frames: Frames of a run.
        stored: What the file says, shape (frames,) or (trajectories, frames); None if it says nothing.
        layout: Its `time` wins: the time between two frames, or the path of a dataset.
        file: Where that path leads from.
        one_more: Whether the file may store the end of the run after the time of its last frame; it is left out.

    Raises:
        ValueError: times are missing, do not fit the frames, or do not increase.
    """
    if isinstance(layout.time, str):
        found = None if file is None else file.get(layout.time)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"{source} has no dataset '{layout.time}', which time= (--data.layout.time) names.")
        stored = np.asarray(found[()])
    elif layout.time is not None:
        stored = np.arange(frames) * float(layout.time)
    elif stored is None and frames == 1:
        stored = np.zeros(1)
    elif stored is None:
        raise ValueError(
            f"{source} says nothing of the times of its {frames} frames; pass time= (--data.layout.time), the time "
            "between two of them."
        )
    if stored.dtype.kind not in "fiu":
        raise ValueError(f"{source}: the times are {stored.dtype}; expected real numbers.")
    values = np.asarray(stored, dtype=np.float64)
    most = frames + 1 if one_more else frames
    fits = values.ndim in (1, 2) and values.shape[:-1] in ((), (trajectories,)) and values.shape[-1] in (frames, most)
    if not fits:
        raise ValueError(
            f"{source}: the times have the shape {values.shape}; expected {frames} frames"
            + f", or {most} with the end of the run," * one_more
            + f" once or for each of {trajectories} trajectories."
        )
    # Negated, so that a time that is not a number fails too.
    if not (np.diff(values, axis=-1) > 0).all() or not np.isfinite(values).all():
        bad = np.argwhere(~np.isfinite(values) | (np.diff(values, axis=-1, prepend=-np.inf) <= 0))[0]
        raise ValueError(
            f"{source}: the times do not increase; frame {int(bad[-1])} of trajectory "
            f"{int(bad[0]) if values.ndim == 2 else 0} is at {values[tuple(bad)]:.6g}. What they "
            "should be is said by time= (--data.layout.time)."
        )
    return np.broadcast_to(values[..., :frames], (trajectories, frames))


def _stored(source: str, dim: str, n: int, centres: np.ndarray | None) -> np.ndarray | None:
    """Coordinates of an axis, checked to be those of a regular one."""
    if centres is None:
        return None
    if centres.dtype.kind not in "fiu":
        raise ValueError(f"{source}: the coordinates of dimension '{dim}' are {centres.dtype}; expected real numbers.")
    if centres.shape != (n,):
        raise ValueError(
            f"{source}: dimension '{dim}' has {n} cells and coordinates of shape {centres.shape}; expected ({n},)."
        )
    if not np.isfinite(centres).all():
        raise ValueError(f"{source}: dimension '{dim}' has the coordinate {centres[~np.isfinite(centres)][0]}.")
    if n > 1:
        # A stored extent may be wrong; that the cells are equally spaced is checked without it.
        try:
            grid_from_axes({dim: (centres, {})}, "periodic", source)
        except ValueError as error:
            advice = (
                f"Bring the fields to equal cells; or, for a field at each of the {n} places instead of an axis of the "
                f"grid, call '{dim}' component in dims= (--data.layout.dims)."
            )
            if (np.diff(centres.astype(np.float64)) < 0).all():
                advice = "They decrease: name the datasets by fields= (--data.layout.fields), which turns such an axis."
            raise ValueError(f"{error} {advice}") from None
    return centres


def _edges(source: str, dim: str, n: int, values: np.ndarray | None) -> tuple[float, float] | None:
    """First and last of one regular coordinate more than there are cells; None of any others."""
    if values is None or values.shape != (n + 1,):
        return None
    stored = _stored(source, dim, n + 1, values)
    assert stored is not None
    return float(stored[0]), float(stored[-1])


def _step(centres: np.ndarray) -> float:
    return (float(centres[-1]) - float(centres[0])) / max(len(centres) - 1, 1)


def _per_axis(source: str, name: str, value: Any, sizes: Mapping[str, int]) -> dict[str, float | None]:
    """A setting of the layout for each axis."""
    values = list(value) if isinstance(value, list | tuple) else [value] * len(sizes)
    if len(values) != len(sizes):
        raise ValueError(
            f"{source} has the axes {', '.join(sizes)}; {name}= (--data.layout.{name}) has {len(values)} numbers, "
            f"{value}: expected one, or {len(sizes)}."
        )
    for number in values:
        if number is not None and (isinstance(number, bool) or not isinstance(number, Real)):
            raise ValueError(f"{source}: {name}= (--data.layout.{name}) holds {number!r}; expected a number.")
        if number is not None and not (math.isfinite(number) and (float(number) > 0 or name != "extent")):
            expected = "a length above 0" if name == "extent" else "a finite number"
            raise ValueError(f"{source}: {name}= (--data.layout.{name}) holds {number!r}; expected {expected}.")
    return dict(zip(sizes, (None if v is None else float(v) for v in values), strict=True))
