"""A look into a file: for each field some of its frames, and how its values are distributed."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.evaluation.field_figures import ColourScale, plane
from physdiff.evaluation.figure_style import COLOURS, MUTED, WIDE, styled, with_unit

FRAMES = 3
MOST = 8  # fields
_BINS = 60


@styled
def inspect_figure(source: Source) -> Figure:
    """The first, middle and last frame of the first trajectory of each field, and a histogram of these values.

    Frames of one dimension are drawn all together, time upwards; of three, as their middle slice. Missing values are
    left blank.
    """
    shown = source.variables[:MOST]
    shape = source.grid.shape
    tall = 2.9 if source.grid.ndim == 1 else float(np.clip(2.55 * shape[1] / shape[0], 1.6, 4.5))
    figure = Figure(figsize=(WIDE, 0.35 + len(shown) * (tall + 0.55)), layout="constrained")
    rows = figure.subplots(len(shown), FRAMES + 1, squeeze=False, width_ratios=[1] * FRAMES + [1.15])
    for axes, variable in zip(rows, shown, strict=True):
        _row(list(axes), source, variable)
    return figure


def _row(axes: list[Axes], source: Source, variable: Variable) -> None:
    frames, times = _frames(source, variable)
    finite = frames[np.isfinite(frames)]
    scale = ColourScale.of(finite if finite.size else np.zeros(2))
    image = None
    for number, one in enumerate(axes[:FRAMES]):
        if number >= len(frames):
            one.set_axis_off()
            continue
        if source.grid.ndim == 1:
            one.plot(source.grid.coordinate(0), frames[number], color=COLOURS["samples"], linewidth=1.2)
            one.set_ylim(scale.low - 0.05 * (scale.high - scale.low), scale.high + 0.05 * (scale.high - scale.low))
        else:
            # The first axis runs to the right, the second upwards.
            image = one.imshow(
                plane(frames[number]).T, origin="lower", cmap=scale.colours, vmin=scale.low, vmax=scale.high,
                extent=_extent(source), aspect="auto",
            )  # fmt: skip
        one.set_title(f"{variable.name},  t = {times[number]:.4g}" if variable.varies_in_time else variable.name)
        one.tick_params(labelsize=9)
    if image is not None:
        axes[0].figure.colorbar(image, ax=axes[:FRAMES], label=with_unit(variable.name, variable.units), shrink=0.9)
    last = axes[-1]
    if finite.size:
        last.hist(finite, bins=_BINS, color=COLOURS["samples"], log=True)
    last.set_xlabel(with_unit(variable.name, variable.units))
    last.set_ylabel("cells")
    gone = frames.size - finite.size
    if gone:
        last.set_title(f"{100 * gone / frames.size:.3g} % missing", color=MUTED)
    last.tick_params(labelsize=9)


def _extent(source: Source) -> tuple[float, float, float, float]:
    grid = source.grid
    x, y = ((grid.origin[a], grid.origin[a] + grid.extent[a]) for a in (0, 1))
    return (*x, *y)


def _frames(source: Source, variable: Variable) -> tuple[np.ndarray, np.ndarray]:
    """Some frames of the first trajectory, shape (frames, *grid), and their times."""
    sizes = variable.view.sizes
    count = sizes.get(TIME, 1)
    chosen = sorted({round(i * (count - 1) / (FRAMES - 1)) for i in range(FRAMES)})
    where = {TRAJECTORY: 0} if TRAJECTORY in sizes else {}
    own = [n if dim in sizes else 1 for dim, n in zip(source.grid.dims, source.grid.shape, strict=True)]
    frames = [
        variable.view.read(source.grid.dims, {**where, **({TIME: i} if TIME in sizes else {})}).reshape(own)
        for i in chosen
    ]
    values = np.stack([np.broadcast_to(f, source.grid.shape) for f in frames]).astype(np.float64)
    return values, source.times[0][chosen]
