"""Fields side by side: held-out data, the trained model's samples, and the Gaussian reference's, on one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

from physdiff.evaluation.figure_style import COLOURS, LABELS, WIDE, styled, with_unit
from physdiff.evaluation.findings import Findings
from physdiff.evaluation.pane import Pane
from physdiff.grid import Grid

Box = tuple[float, float, float, float]
CURVES = 6
GAP = 0.06


@dataclass(frozen=True)
class ColourScale:
    """How values become colours.

    Attributes:
        low: Value at the lower end, in the field's unit.
        high: Value at the upper end.
        colours: Name of matplotlib's colour map: diverging around zero for signed fields, sequential otherwise.
        signed: Whether zero is in the middle.
    """

    low: float
    high: float
    colours: str
    signed: bool

    @classmethod
    def of(cls, values: np.ndarray) -> ColourScale:
        """The scale of a set of values: the central 99.6 % of them, symmetric about zero if both signs are common."""
        low, some, most, high = (float(q) for q in np.quantile(values, [0.002, 0.05, 0.95, 0.998]))
        if low == high:
            low, high = low - 0.5, high + 0.5
        if some < 0 < most:
            limit = max(-low, high)
            return cls(-limit, limit, "RdBu_r", True)
        return cls(low, high, "cividis", False)


def channel_scale(findings: Findings, channel: int) -> ColourScale:
    """The scale of one channel, taken from the data (else from what is there) and used for every set."""
    first = next(iter(findings.ensembles.values()))
    return ColourScale.of(first[:, channel])


@styled
def fields_figure(findings: Findings, channel: int = 0, tiles: int = 9) -> Figure:
    """Some fields of each set of one channel, one block per set, on the data's scale.

    Args:
        findings: With at least one set of fields.
        channel: Index of the channel.
        tiles: Largest number of fields in a block; three in a row.
    """
    sets, grid = findings.ensembles, Grid(**findings.grid)
    unit = with_unit(findings.names[channel], findings.units[channel])
    scale = channel_scale(findings, channel)
    blocks, gap, right, top, bottom = len(sets), 0.3, 1.05, 0.42, 0.08
    if grid.ndim == 1:
        return _curves_figure(findings, channel, unit)
    columns = 3
    rows = max(1, min(tiles, *(len(x) for x in sets.values())) // columns)
    width = (WIDE - right - gap * (blocks - 1)) / blocks if blocks > 1 else 4.2
    tile = (width - GAP * (columns - 1)) / columns
    height = rows * tile * tile_aspect(grid) + GAP * (rows - 1)
    total = blocks * width + gap * (blocks - 1) + right
    figure = Figure(figsize=(total, height + top + bottom))
    for i, (name, fields) in enumerate(sets.items()):
        left = i * (width + gap)
        draw_tiles(figure, (left, bottom, width, height), fields[:, channel], grid, scale, rows, columns)
        block_title(figure, left, bottom + height, name)
    bar = figure.add_axes(_share(figure, (total - right + 0.16, bottom, 0.17, height)))
    draw_colour_bar(figure, bar, scale, unit)
    return figure


def tile_aspect(grid: Grid) -> float:
    """Height over width of a picture, kept between 1/3 and 3 (C)."""
    across, up = Pane.of(grid).size
    return min(3.0, max(1 / 3, up / across))


def draw_tiles(
    figure: Figure, box: Box, fields: np.ndarray, grid: Grid, scale: ColourScale, rows: int, columns: int
) -> None:
    """Pictures of the first rows · columns fields in a box.

    Args:
        figure: Where to draw.
        box: Left, bottom, width and height in inches.
        fields: Shape (n, *grid), two dimensions or more.
        grid: Where they live; `Pane` says which axis points right and which up.
        scale: Values to colours.
        rows: Rows of pictures.
        columns: Columns of pictures.
    """
    left, bottom, width, height = box
    pane = Pane.of(grid)
    w, h = (width - GAP * (columns - 1)) / columns, (height - GAP * (rows - 1)) / rows
    for i, field in enumerate(fields[: rows * columns]):
        row, column = divmod(i, columns)
        place = (left + column * (w + GAP), bottom + (rows - 1 - row) * (h + GAP), w, h)
        axes = figure.add_axes(_share(figure, place))
        axes.imshow(
            pane.image(field), origin="lower", aspect="auto", cmap=scale.colours, vmin=scale.low, vmax=scale.high,
            interpolation="nearest", extent=(0, pane.size[0], 0, pane.size[1]),
        )  # fmt: skip
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)


def draw_colour_bar(figure: Figure, axes: Axes, scale: ColourScale, label: str) -> None:
    """The scale's colours with their values, in axes of their own."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mappable: Any = ScalarMappable(Normalize(scale.low, scale.high), scale.colours)
    bar: Colorbar = figure.colorbar(mappable, cax=axes)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=3)
    bar.locator = _few_ticks()
    bar.update_ticks()
    bar.set_label(label, labelpad=6)


def block_title(figure: Figure, left: float, bottom: float, name: str) -> None:
    """A set's name in its colour, above a block at (left, bottom) inches."""
    w, h = figure.get_size_inches()
    figure.text(left / w, (bottom + 0.1) / h, LABELS[name], color=COLOURS[name], fontsize=14, fontweight="bold")


def draw_curves(axes: Axes, fields: np.ndarray, grid: Grid, name: str) -> None:
    """The first few one-dimensional fields over each other, shape (n, cells)."""
    for i, field in enumerate(fields[:CURVES]):
        axes.plot(grid.coordinate(0), field, color=COLOURS[name], linewidth=1.3, alpha=1.0 if i == 0 else 0.4)
    axes.set_xlabel(with_unit(grid.dims[0], grid.units[0]))


def _curves_figure(findings: Findings, channel: int, unit: str) -> Figure:
    grid, sets = Grid(**findings.grid), findings.ensembles
    figure = Figure(figsize=(WIDE, 3.6), layout="constrained")
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, (name, fields) in zip(panels, sets.items(), strict=True):
        draw_curves(axes, fields[:, channel], grid, name)
        axes.set_title(LABELS[name], color=COLOURS[name], fontweight="bold", loc="left")
    panels[0].set_ylabel(unit)
    return figure


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def _share(figure: Figure, box: Box) -> Box:
    """A box in inches as shares of the figure's size."""
    w, h = figure.get_size_inches()
    return box[0] / w, box[1] / h, box[2] / w, box[3] / h
