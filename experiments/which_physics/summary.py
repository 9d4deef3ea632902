"""The tables and the figure of results.json: `python -m experiments.which_physics.summary`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from scipy import stats

from physdiff.evaluation.figure_style import INK, MUTED, WIDE, png, styled

HERE = Path(__file__).parent
NAMES = ("VariancePreserving", "EDM", "RectifiedFlow", "ColouredVariancePreserving", "Heat", "Matern", "DampedWave")
TITLES = {"ColouredVariancePreserving": "ColouredVP (data's spectrum)"}
COLOURS = dict(zip(NAMES, ("#1f6fb5", "#63a5dc", "#0d3b66", "#e0861a", "#a83a6c", "#2f8f5b", "#7b5bc4"), strict=True))
MARKERS = dict(zip(NAMES, "osXD^vP", strict=True))
STEPS = ("4 steps", "8 steps", "32 steps")
SHARES = ("0.02", "0.1", "0.3", "0.6")
LEVEL = 0.05

Run = dict[str, Any]
Measure = Callable[[Run], float]
DENOISING: dict[str, Measure] = {
    "loss, own clock": lambda run: run["loss"],
    **{f"ratio at {share}": lambda run, s=share: run["levels"][s]["ratio"] for share in SHARES},
}


def spectrum_error(steps: str, grid: str = "samples") -> Measure:
    """Of samples in so many steps, on the default time grid or on "even_noise"."""
    return lambda run: run[grid][steps]["spectrum_error"]


def kurtosis(steps: str) -> Measure:
    """Of samples in so many steps."""
    return lambda run: run["samples"][steps]["kurtosis"]


def gain(run: Run) -> float:
    """Log-density over the Gaussian reference's, nats per dimension."""
    return run["density"]["gain"]


def measures(found: dict[str, Any]) -> dict[str, Measure]:
    """All that is compared, by the name of its column."""
    took = {steps: found["runs"][0]["samples"][steps]["evaluations"] for steps in STEPS}
    return {
        **DENOISING,
        **{f"spectrum error, {took[s]} evaluations": spectrum_error(s) for s in STEPS},
        **{f"spectrum error, {took[s]} evaluations, even noise": spectrum_error(s, "even_noise") for s in STEPS[:2]},
        **{f"kurtosis, {took[s]} evaluations": kurtosis(s) for s in STEPS},
        "log-density": lambda run: run["density"]["per_dimension"],
        "gain": gain,
    }


def by_seed(found: dict[str, Any], name: str, measure: Measure) -> np.ndarray:
    """A measure of one process, shape (seeds,), the seeds in rising order."""
    runs = sorted((r for r in found["runs"] if r["process"] == name), key=lambda r: r["seed"])
    return np.array([measure(run) for run in runs])


def with_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error over seeds."""
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def table(found: dict[str, Any], columns: dict[str, Measure], digits: int = 4) -> str:
    """Mean ± standard error over seeds, a row per process."""
    lines = ["| process | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name in NAMES:
        pairs = [with_error(by_seed(found, name, measure)) for measure in columns.values()]
        cells = [f"{mean:.{digits}f} ± {error:.{digits}f}" for mean, error in pairs]
        lines.append(f"| {TITLES.get(name, name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compare(found: dict[str, Any], measure: Measure, names: tuple[str, ...]) -> list[tuple[str, str, float, float]]:
    """Pairs (lower, higher, difference, p) by a paired t-test over seeds, the smallest p first."""
    pairs: list[tuple[str, str, float, float]] = []
    for one, other in combinations(names, 2):
        difference = by_seed(found, other, measure) - by_seed(found, one, measure)
        mean, error = with_error(difference)
        p = 2 * float(stats.t.sf(abs(mean) / error, len(difference) - 1)) if error > 0 else float(mean == 0)
        pairs.append((one, other, mean, p) if mean >= 0 else (other, one, -mean, p))
    pairs.sort(key=lambda pair: pair[3])
    return pairs


def holm(pairs: list[tuple[str, str, float, float]]) -> list[float]:
    """The p of `compare`, corrected for the number of pairs that were tried."""
    corrected: list[float] = []
    for rank, pair in enumerate(pairs):
        corrected.append(max([min(1.0, (len(pairs) - rank) * pair[3]), *corrected[-1:]]))
    return corrected


def over_fields(found: dict[str, Any], one: str, other: str) -> float:
    """t of the difference in gain over fields, each averaged over seeds."""
    each = [
        np.mean([r["density"]["gain_per_field"] for r in found["runs"] if r["process"] == name], 0)
        for name in (one, other)
    ]
    mean, error = with_error(each[1] - each[0])
    return mean / error


@styled
def figure(found: dict[str, Any]) -> Figure:
    """Density, denoising error and spectrum error of every process, with error bars over seeds."""
    drawn = Figure(figsize=(WIDE + 2.2, 4.4), layout="constrained")
    left, middle, right = drawn.subplots(1, 3, width_ratios=(1.05, 1.0, 1.0))
    draw_gain(left, found)
    took = [found["runs"][0]["samples"][steps]["evaluations"] for steps in STEPS]
    for index, name in enumerate(NAMES):
        shift = 1 + 0.035 * (index - 0.5 * (len(NAMES) - 1))
        style: dict[str, Any] = {
            "color": COLOURS[name], "marker": MARKERS[name], "markersize": 6, "elinewidth": 1.2, "capsize": 2.5,
            "linewidth": 1.2, "label": TITLES.get(name, name),
        }  # fmt: skip
        points = [with_error(by_seed(found, name, DENOISING[f"ratio at {share}"])) for share in SHARES]
        middle.errorbar([float(s) * shift for s in SHARES], *np.transpose(points), **style)
        points = [with_error(by_seed(found, name, spectrum_error(steps))) for steps in STEPS]
        right.errorbar([n * shift for n in took], *np.transpose(points), **style)
    log_ticks(middle, [float(s) for s in SHARES])
    middle.set(
        xlabel="variance that the Wiener filter leaves unknown", ylabel="squared error, model / Wiener",
        title="denoising",
    )  # fmt: skip
    log_ticks(right, took)
    floor = [group["spectrum_error"] for group in found["floors"]["training_fields"]]
    right.axhspan(min(floor), max(floor), color=MUTED, alpha=0.18, linewidth=0)
    middle_of_floor = 0.5 * (min(floor) + max(floor))
    right.text(took[0], middle_of_floor, "128 training fields", va="center", color=MUTED, fontsize=11)
    right.set_ylim(bottom=0)
    right.set(xlabel="network evaluations", ylabel="root mean square of log E/E(held out)", title="spectrum of samples")
    return drawn


def draw_gain(axes: Axes, found: dict[str, Any]) -> None:
    """Each seed's gain beside the mean and its standard error, a row per process."""
    for row, name in enumerate(NAMES):
        values = by_seed(found, name, gain)
        mean, error = with_error(values)
        axes.plot(values, [row + 0.22] * len(values), "|", color=COLOURS[name], markersize=9)
        axes.errorbar(
            mean, row, xerr=error, marker=MARKERS[name], color=COLOURS[name], markersize=7, elinewidth=1.4, capsize=3,
        )  # fmt: skip
    axes.set_yticks(range(len(NAMES)), [TITLES.get(name, name).replace(" (", "\n(") for name in NAMES])
    for label, name in zip(axes.get_yticklabels(), NAMES, strict=True):
        label.set_color(COLOURS[name])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set(xlabel="over the Gaussian reference\n[nats / dimension]", title="held-out log-density")
    axes.title.set_color(INK)


def log_ticks(axes: Axes, at: list[float]) -> None:
    """A logarithmic x-axis with ticks at some places only."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(at))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{x:g}" for x in at])


def main() -> None:
    """Print the tables and which pairs are separated; write the figure."""
    found = json.loads((HERE / "results.json").read_text())
    columns = measures(found)
    print(table(found, DENOISING), "\n")
    print(table(found, {k: m for k, m in columns.items() if k.startswith("spectrum")}), "\n")
    print(table(found, {k: m for k, m in columns.items() if k.startswith("kurtosis")}, digits=2), "\n")
    print(table(found, {k: m for k, m in columns.items() if k in ("log-density", "gain")}), "\n")
    distinct = tuple(name for name in NAMES if name != "RectifiedFlow")  # it is EDM, to rounding
    for column, measure in columns.items():
        pairs = compare(found, measure, distinct)
        corrected = holm(pairs)
        alone, together = (sum(p < LEVEL for p in ps) for ps in ([pair[3] for pair in pairs], corrected))
        print(f"{column}: of {len(pairs)} pairs {alone} differ each by itself, {together} after Holm's correction")
        for (low, high, difference, p), strict in zip(pairs, corrected, strict=True):
            if p < LEVEL:
                fields = f"; t over fields {over_fields(found, low, high):.1f}" if column == "gain" else ""
                print(f"  {low} < {high} by {difference:.4f}, p = {p:.4f}, corrected {strict:.4f}{fields}")
    for kind, groups in found["floors"].items():
        if isinstance(groups, list):
            values = {key: [round(group[key], 3) for group in groups] for key in ("spectrum_error", "kurtosis")}
            print(f"{kind}: {values}")
    print(f"held-out kurtosis: {found['floors']['held_out_kurtosis']:.2f}")
    seconds = [run["training_cpu_seconds"] for run in found["runs"]]
    print(f"\ntraining: {min(seconds):.0f} to {max(seconds):.0f} s of CPU time")
    (HERE / "which_physics.png").write_bytes(png(figure(found), dpi=150))


if __name__ == "__main__":
    main()
