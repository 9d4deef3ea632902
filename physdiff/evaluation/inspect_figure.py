"""A look into a file: for each field some of its frames, and how its values are distributed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.evaluation.field_figures import ColourScale
from physdiff.evaluation.figure_style import COLOURS, MUTED, WIDE, styled, with_unit
from physdiff.evaluation.pane import Pane

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
    three, as their slice through the middle of one axis. Missing values are left blank.
    """
    shown = source.variables[:MOST]
    pane = Pane.of(source.grid) if source.grid.ndim > 1 else None
    drawn = min(max(pane.size[1] / pane.size[0], 1 / _LONG), _LONG) if pane else 1.0
    tall = min(max(_PANEL * drawn, 1.6), 4.5)
    figure = Figure(figsize=(WIDE, 0.35 + len(shown) * (tall + 0.7)), layout="constrained")
    rows = figure.subplots(len(shown), FRAMES + 1, squeeze=False, width_ratios=[1] * FRAMES + [1.15])
    for axes, variable in zip(rows, shown, strict=True):
        _row(list(axes), source, variable, pane)
    return figure


def _row(axes: list[Axes], source: Source, variable: Variable, pane: Pane | None) -> None:
    chosen = _chosen(source, variable)
    frames = np.stack([_frame(source, variable, *one) for one in chosen])
    finite = frames[np.isfinite(frames)]
    scale = ColourScale.of(finite if finite.size else np.zeros(2))
    image = None
    for one in axes[len(chosen) : FRAMES]:
        one.set_axis_off()
    for one, field, (run, frame) in zip(axes, frames, chosen, strict=False):
        if pane is None:
            one.plot(source.grid.coordinate(0), field, color=COLOURS["samples"], linewidth=1.2)
            one.set_ylim(scale.low - 0.05 * (scale.high - scale.low), scale.high + 0.05 * (scale.high - scale.low))
        else:
            image = one.imshow(
                pane.image(field), origin="lower", cmap=scale.colours, vmin=scale.low, vmax=scale.high,
                extent=_extent(pane), aspect=_aspect(pane),
            )  # fmt: skip
        one.set_title(_title(source, variable, run, frame, pane), fontsize=9)
        one.tick_params(labelsize=9)
        one.set_xlabel(_axis(source, pane.across if pane else 0), fontsize=9)
    first = axes[0]
    if pane is None or image is None:
        first.set_ylabel(_label(variable))
    else:
        first.set_ylabel(_axis(source, pane.up), fontsize=9)
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


def _axis(source: Source, axis: int) -> str:
    return with_unit(source.grid.dims[axis], source.grid.units[axis])


def _title(source: Source, variable: Variable, run: int, frame: int, pane: Pane | None) -> str:
    """Which trajectory, when, and where a box is cut."""
    parts = [f"trajectory {run}"] if TRAJECTORY in variable.view.sizes else []
    if variable.varies_in_time:
        parts.append(f"t = {source.times[run][frame]:.5g}")
    parts += [f"{dim} = cell {cell}" for dim, cell in (pane.cuts if pane else ())]
    return ", ".join(parts)


def _extent(pane: Pane) -> tuple[float, float, float, float]:
    grid = pane.grid
    right, up = ((grid.origin[a], grid.origin[a] + grid.extent[a]) for a in (pane.across, pane.up))
    return (*right, *up)


def _aspect(pane: Pane) -> Literal["equal", "auto"]:
    units, (across, up) = pane.grid.units, pane.size
    is_told = units[pane.across] == units[pane.up] and 1 / _LONG <= up / across <= _LONG
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
