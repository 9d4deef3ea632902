"""How benchmarks are kept: numbers as JSON, tables as Markdown, curves as figures."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from physdiff.evaluation.figure_style import MUTED, RULE, png, styled

HERE = Path(__file__).parent
INKS = (
    "#1f6fb5", "#e0861a", "#a83a6c", "#2a8c6e", "#6a51a3", "#b5651d", "#444b54", "#c23b22", "#11889b", "#8a8a00",
    "#d16ba5", "#5b7a3a",
)  # fmt: skip


def machine() -> str:
    """What numbers of cost depend on."""
    return (
        f"{platform.machine()}, {torch.get_num_threads()} thread(s), no accelerator; Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def keep(name: str, numbers: dict[str, Any]) -> None:
    """Write the numbers beside the page, for other pages to quote."""
    (HERE / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def kept(name: str) -> dict[str, Any]:
    """The numbers of the last run of a benchmark."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


@styled
def curves(
    path: Path, lines: dict[str, dict[int, float]], across: str, up: str, bold: str = "ours: ", floor: float = 1e-16
) -> None:
    """Curves on logarithmic axes: those whose name starts with `bold` in colour, the others in grey, PNG."""
    figure = Figure(figsize=(11, 6))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.7, top=0.97, bottom=0.12)  # names stand to the right of their curves
    ours = 0
    labels: list[tuple[float, float, str, str]] = []
    for name, values in lines.items():
        shown = {x: max(y, floor) for x, y in values.items() if y == y and y < 1e6}
        if not shown:
            continue
        mine = name.startswith(bold)
        ink = INKS[ours % len(INKS)] if mine else MUTED
        ours += mine
        axes.loglog(
            list(shown), list(shown.values()), "o-", color=ink, linewidth=2 if mine else 1,
            markersize=4 if mine else 2.5,
            zorder=3 if mine else 2,
        )  # fmt: skip
        labels.append((list(shown.values())[-1], list(shown)[-1], name.removeprefix("ours: "), ink))
    _label(axes, labels)
    axes.set(xlabel=across, ylabel=up)
    axes.grid(color=RULE, linewidth=0.6)
    path.write_bytes(png(figure, dpi=110))


def _label(axes: Any, labels: list[tuple[float, float, str, str]]) -> None:
    """Names at the ends of their curves, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    height = axes.transScale.transform
    top, bottom = height((1, high))[1], height((1, low))[1]
    room = (top - bottom) / 30
    last = float("-inf")
    for value, _, name, ink in sorted(labels):
        place = max((height((1, value))[1]), last + room)
        last = place
        axes.annotate(
            name, (1.0, (place - bottom) / (top - bottom)), xycoords="axes fraction", xytext=(6, 0),
            textcoords="offset points", va="center", color=ink, fontsize=9, annotation_clip=False,
        )  # fmt: skip
