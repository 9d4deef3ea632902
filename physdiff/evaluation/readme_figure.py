"""The whole story in one row: data, samples, spectrum, likelihood."""

from __future__ import annotations

from matplotlib.figure import Figure

from physdiff.evaluation.field_figures import (
    block_title,
    channel_scale,
    draw_curves,
    draw_tiles,
    tile_aspect,
)
from physdiff.evaluation.figure_style import COLOURS, LABELS, styled
from physdiff.evaluation.findings import Findings
from physdiff.evaluation.model_figures import draw_likelihood
from physdiff.evaluation.statistics_figures import draw_spectra, field_spectra
from physdiff.grid import Grid


@styled
def summary_figure(findings: Findings, channel: int = 0) -> Figure:
    """One row for a README: data | samples | spectrum | likelihood, each where it is there.

    Args:
        findings: With at least one set of fields.
        channel: Index of the channel.
    """
    grid, sets = Grid(**findings.grid), findings.ensembles
    shown = [name for name in ("data", "samples") if name in sets]
    side, height, bottom, gap, label, panel = 2.75, 2.75, 0.7, 0.25, 1.0, 3.3
    panels = 1 + (findings.likelihood is not None)
    total = 0.1 + len(shown) * (side + gap) - gap + panels * (label + panel) + 0.1
    figure = Figure(figsize=(total, height + bottom + 0.5))

    def place(left: float, width: float) -> tuple[float, float, float, float]:
        w, h = figure.get_size_inches()
        return left / w, bottom / h, width / w, height / h

    def title(left: float, text: str) -> None:
        w, h = figure.get_size_inches()
        figure.text(left / w, (bottom + height + 0.1) / h, text, fontsize=14, fontweight="bold")

    left = 0.1
    scale = channel_scale(findings, channel)
    for name in shown:
        if grid.ndim == 1:
            axes = figure.add_axes(place(left + 0.4, side - 0.4), sharey=figure.axes[0] if figure.axes else None)
            draw_curves(axes, sets[name][:, channel], grid, name)
            block_title(figure, left + 0.4, bottom + height, name)
        else:
            tall = min(height, side * tile_aspect(grid))
            box = (left, bottom + height - tall, side, tall)
            draw_tiles(figure, box, sets[name][:, channel], grid, scale, 2, 2)
            block_title(figure, left, bottom + height, name)
        left += side + gap
    left -= gap
    axes = figure.add_axes(place(left + label, panel))
    draw_spectra(axes, findings, field_spectra(findings), channel)
    title(left + label, "spectrum")
    left += label + panel
    if findings.likelihood is not None:
        axes = figure.add_axes(place(left + label, panel))
        draw_likelihood(axes, findings.likelihood)
        axes.margins(y=0.2)
        for name, height_share in (("data", 0.93), ("surrogate", 0.025)):
            axes.text(0.02, height_share, LABELS[name], color=COLOURS[name], fontsize=11, transform=axes.transAxes)
        title(left + label, "likelihood")
    return figure
