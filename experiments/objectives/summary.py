"""The tables and the figure of results.json: `python -m experiments.objectives.summary`."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from physdiff.evaluation.figure_style import png, styled

HERE = Path(__file__).parent
ROWS = (("residual", 0.0), ("residual", 0.5), ("residual", 1.0), ("x0", 1.0), ("epsilon", 1.0), ("v", 1.0),
        ("mean", 1.0))  # fmt: skip
COLUMNS = ("simple", "relative", "edm", "min_snr", "mode_likelihood")
# Title, whether less is better, digits.
MEASURES = {
    "ratio": ("denoising error / Wiener filter's", True, 3),
    "slope_distance": ("samples: law of slopes", True, 3),
    "spectrum_error": ("samples: spectrum", True, 3),
    "gain": ("log-density over the reference's, nats / dimension", False, 3),
}
GREEN_TO_WHITE = "YlGn"


def named(row: tuple[str, float]) -> str:
    """Of a row."""
    prediction, scale = row
    return prediction if prediction != "residual" else f"residual, γ = {scale:g}"


def by_seed(found: dict[str, Any], row: tuple[str, float], weighting: str, measure: str) -> list[float | None]:
    """A measure of one cell, by seed; None where it was not finite."""
    return [
        run[measure] for run in found["runs"]
        if (run["prediction"], run["scale"]) == row and run["weighting"] == weighting
    ]  # fmt: skip


def short(value: float, digits: int) -> str:
    """A number with so many digits after the point, or a large one with two in all."""
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.1e}"


def cell(values: list[float | None], digits: int) -> str:
    """Mean, and half the distance of two seeds."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values) or not finite:
        return "not finite" if not finite else f"not finite in {len(values) - len(finite)} of {len(values)}"
    spread = 0.5 * (max(finite) - min(finite))
    return f"{short(mean(finite), digits)} ± {short(spread, digits)}"


def table(found: dict[str, Any], measure: str) -> str:
    """A row per prediction, a column per weighting."""
    lines = ["| prediction | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for row in ROWS:
        cells = [cell(by_seed(found, row, weighting, measure), MEASURES[measure][2]) for weighting in COLUMNS]
        lines.append(f"| {named(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_level(found: dict[str, Any], weighting: str = "simple") -> str:
    """Denoising error at each noise level, of one weighting."""
    levels = list(found["runs"][0]["ratios"])
    lines = ["| prediction | " + " | ".join(f"σ/m = {level}" for level in levels) + " |",
             "|---" * (1 + len(levels)) + "|"]  # fmt: skip
    for row in ROWS:
        ratios = by_seed(found, row, weighting, "ratios")
        cells = [f"{mean(one[level] for one in ratios if one is not None):.3f}" for level in levels]  # type: ignore[index]
        lines.append(f"| {named(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@styled
def figure(found: dict[str, Any]) -> Figure:
    """The four tables, shaded by rank: the darkest is the best."""
    drawn = Figure(figsize=(15, 9), layout="constrained")
    for axes, (measure, (title, less, digits)) in zip(drawn.subplots(2, 2).flat, MEASURES.items(), strict=True):
        values = np.full((len(ROWS), len(COLUMNS)), np.nan)
        for i, row in enumerate(ROWS):
            for j, weighting in enumerate(COLUMNS):
                each = by_seed(found, row, weighting, measure)
                if each and None not in each:
                    values[i, j] = mean(each)  # type: ignore[arg-type]
        finite = values[np.isfinite(values)]
        rank = np.searchsorted(np.sort(finite), values) / max(len(finite) - 1, 1)
        shade = np.where(np.isfinite(values), 1 - rank if less else rank, np.nan)
        axes.imshow(shade, cmap=GREEN_TO_WHITE, vmin=-0.05, vmax=1.4, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            text = short(value, digits) if np.isfinite(value) else "–"
            axes.text(j, i, text, ha="center", va="center", fontsize=11)
        axes.set_xticks(range(len(COLUMNS)), [name.replace("_", " ") for name in COLUMNS])
        axes.set_yticks(range(len(ROWS)), [named(row) for row in ROWS])
        axes.tick_params(length=0)
        axes.set_title(title)
        for side in axes.spines.values():
            side.set_visible(False)
    return drawn


def main() -> None:
    """Print the tables; write the figure."""
    found = json.loads((HERE / "results.json").read_text())
    for measure, (title, _, _) in MEASURES.items():
        print(f"{title}\n\n{table(found, measure)}\n")
    print(f"denoising error by level, simple\n\n{by_level(found)}\n")
    print("floors:", json.dumps(found["floors"], indent=1))
    failures = [run for run in found["runs"] if "samples_failed" in run]
    print(f"{len(failures)} of {len(found['runs'])} runs gave samples that are not finite")
    seconds = [run["training_cpu_seconds"] for run in found["runs"]]
    print(f"training: {min(seconds):.0f} to {max(seconds):.0f} s of CPU time")
    (HERE / "objectives.png").write_bytes(png(figure(found), dpi=110))


if __name__ == "__main__":
    main()
