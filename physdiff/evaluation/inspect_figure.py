"""A look into a file: for each field some of its frames, and how its values are distributed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.evaluation.field_figures import ColourScale, plane
from physdiff.evaluation.figure_style import COLOURS, MUTED, WIDE, styled, with_unit

FRAMES = 3
MOST = 8  # fields
_LETTERS = 26  # of a label on one line
_BINS = 60
_PANEL = 2.4  # inches: width of a frame
_LONG = 4.0  # times as long as wide: boxes beyond are drawn out of proportion


@styled
def inspect_figure(source: Source) -> Figure:
    """The first, middle and last frame of the first trajectory of each field, and a histogram of these values.

    Of trajectories with fewer frames, those of the next ones. Frames of two dimensions have the box's proportions; of
    three, as their slice through the middle of the last axis. Missing values are left blank.
    """
    shown = source.variables[:MOST]
    box = source.grid.extent
    drawn = min(max(box[1] / box[0], 1 / _LONG), _LONG) if source.grid.ndim > 1 else 1.0
    tall = min(max(_PANEL * drawn, 1.6), 4.5)
    figure = Figure(figsize=(WIDE, 0.35 + len(shown) * (tall + 0.7)), layout="constrained")
    rows = figure.subplots(len(shown), FRAMES + 1, squeeze=False, width_ratios=[1] * FRAMES + [1.15])
    for axes, variable in zip(rows, shown, strict=True):
        _row(list(axes), source, variable)
    return figure


def _row(axes: list[Axes], source: Source, variable: Variable) -> None:
    chosen = _chosen(source, variable)
    frames = np.stack([_frame(source, variable, *one) for one in chosen])
    finite = frames[np.isfinite(frames)]
    scale = ColourScale.of(finite if finite.size else np.zeros(2))
    image = None
    for one in axes[len(chosen) : FRAMES]:
        one.set_axis_off()
    for one, field, (run, frame) in zip(axes, frames, chosen, strict=False):
        if source.grid.ndim == 1:
            one.plot(source.grid.coordinate(0), field, color=COLOURS["samples"], linewidth=1.2)
            one.set_ylim(scale.low - 0.05 * (scale.high - scale.low), scale.high + 0.05 * (scale.high - scale.low))
        else:
            # The first axis runs to the right, the second upwards.
            image = one.imshow(
                plane(field).T, origin="lower", cmap=scale.colours, vmin=scale.low, vmax=scale.high,
                extent=_extent(source), aspect=_aspect(source),
            )  # fmt: skip
        one.set_title(_title(source, variable, run, frame), fontsize=9)
        one.tick_params(labelsize=9)
        one.set_xlabel(with_unit(source.grid.dims[0], source.grid.units[0]), fontsize=9)
    first = axes[0]
    if image is None:
        first.set_ylabel(_label(variable))
    else:
        first.set_ylabel(with_unit(source.grid.dims[1], source.grid.units[1]), fontsize=9)
        first.figure.colorbar(image, ax=axes[:FRAMES], label=_label(variable), shrink=0.9)
    _histogram(axes[-1], variable, frames, finite)


def _histogram(axes: Axes, variable: Variable, frames: np.ndarray, finite: np.ndarray) -> None:
    if finite.size:
        axes.hist(finite, bins=_BINS, color=COLOURS["samples"], log=True)
        axes.ticklabel_format(axis="x", scilimits=(-3, 4))
        axes.set_ylim(bottom=0.7)  # below one cell, so that the heights of bars are seen
    axes.set_xlabel(_label(variable))
    axes.set_ylabel("cells")
    gone = frames.size - finite.size
    if gone:
        axes.set_title(f"{100 * gone / frames.size:.3g} % missing", color=MUTED)
    axes.tick_params(labelsize=9)


def _label(variable: Variable) -> str:
    """Name and unit; of a long name its beginning, and a long label on two lines."""
    name = variable.name if len(variable.name) <= _LETTERS else f"{variable.name[: _LETTERS - 3]}..."
    label = with_unit(name, variable.units)
    return label if len(label) <= _LETTERS else label.replace("  [", "\n[", 1)


def _title(source: Source, variable: Variable, run: int, frame: int) -> str:
    """Which trajectory, when, and where a box is cut."""
    parts = [f"trajectory {run}"] if TRAJECTORY in variable.view.sizes else []
    if variable.varies_in_time:
        parts.append(f"t = {source.times[run][frame]:.5g}")
    cuts = zip(source.grid.dims[2:], source.grid.shape[2:], strict=True)
    parts += [f"{dim} = cell {cells // 2}" for dim, cells in cuts]
    return ", ".join(parts)


def _extent(source: Source) -> tuple[float, float, float, float]:
    grid = source.grid
    x, y = ((grid.origin[a], grid.origin[a] + grid.extent[a]) for a in (0, 1))
    return (*x, *y)


def _aspect(source: Source) -> Literal["equal", "auto"]:
    x, y = source.grid.extent[:2]
    is_told = source.grid.units[0] == source.grid.units[1] and 1 / _LONG <= y / x <= _LONG
    return "equal" if is_told else "auto"


def _chosen(source: Source, variable: Variable) -> list[tuple[int, int]]:
    """Trajectory and frame of each panel."""
    sizes = variable.view.sizes
    count, runs = sizes.get(TIME, 1), sizes.get(TRAJECTORY, 1)
    frames = sorted({round(i * (count - 1) / (FRAMES - 1)) for i in range(FRAMES)})
    return [(run, frame) for run in range(min(runs, FRAMES)) for frame in frames][:FRAMES]


def _frame(source: Source, variable: Variable, run: int, frame: int) -> np.ndarray:
    """One frame, shape grid."""
    grid, sizes = source.grid, variable.view.sizes
    where = {dim: i for dim, i in ((TRAJECTORY, run), (TIME, frame)) if dim in sizes}
    own = [n if dim in sizes else 1 for dim, n in zip(grid.dims, grid.shape, strict=True)]
    return np.broadcast_to(variable.view.read(grid.dims, where).reshape(own), grid.shape).astype(np.float64)
