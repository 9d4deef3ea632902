"""One look for every figure: few colours, each with one meaning, and letters that carry to the back of a room.

Figures are made through matplotlib's objects, never pyplot, so that drawing leaves nothing behind.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

INK = "#1b1b1f"
MUTED = "#73777f"
RULE = "#d9dce1"
COLOURS = {"data": INK, "samples": "#1f6fb5", "reference_samples": "#e0861a", "surrogate": "#a83a6c"}
LABELS = {
    "data": "held-out data",
    "samples": "trained model",
    "reference_samples": "Gaussian reference",
    "surrogate": "phase-scrambled surrogate",
}
WIDE = 11.0
HALF = 6.2
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 13,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """The function with the project's style in force while it runs, and only then."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with rc_context(STYLE):
            return function(*args, **kwargs)

    return inside


@styled
def png(figure: Figure, dpi: int = 200) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def half_figure() -> tuple[Figure, Axes]:
    """A figure of half the page's width with one pair of axes."""
    figure = Figure(figsize=(HALF, 4.3), layout="constrained")
    return figure, figure.add_subplot()


def level(axes: Axes, y: float, colour: str, text: str = "", at: float = 0.995) -> None:
    """A horizontal line with its name above it, `at` a share of the axes' width."""
    axes.axhline(y, color=colour, linewidth=1.4, zorder=1.5)
    if text:
        axes.annotate(
            text, (at, y), xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points",
            ha="right" if at > 0.5 else "left", va="bottom", color=colour, fontsize=11,
        )  # fmt: skip


def plain_decades(axes: Axes, low: float, high: float) -> None:
    """A logarithmic x-axis around low to high > 0, its ticks (1, 2, 5 or decades alone) written as plain numbers."""
    axes.set_xscale("log")
    axes.set_xlim(low / 1.15, high * 1.15)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if math.log10(high / low) <= 2 else (1,)
    axes.xaxis.set_major_locator(FixedLocator([m * 10.0**p for p in range(first, last + 1) for m in steps]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def with_unit(quantity: str, unit: str) -> str:
    """A label: the quantity and, if it has one, its unit."""
    return f"{quantity}  [{unit}]" if unit else quantity


def length_unit(units: list[str] | tuple[str, ...]) -> str:
    """The unit of length that all axes share; "" if there is none."""
    return units[0] if len(set(units)) == 1 else ""
