"""What trainings beside each other come to: curves, steps to an error, and the page that tells them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median, stdev
from typing import Any

from experiments.benchmarks._writing import machine, table

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Found:
    """What was measured on one data set.

    Attributes:
        runs: By method, one per seed: errors of each σ after some steps, the Wiener filter's, rate and size.
        seconds: By method, of a step, in rounds that took turns.
        baseline: The method whose last error is the goal.
        sigmas: Noise levels of the errors.
    """

    runs: dict[str, list[dict[str, Any]]]
    seconds: dict[str, list[float]]
    baseline: str
    sigmas: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Of every training."""
        return self.runs[self.baseline][0]["curve"][-1][0]

    def curve(self, method: str, seed: int, level: int | None = None) -> Curve:
        """Error over the Wiener filter's along one training, at one σ or their mean."""
        one = self.runs[method][seed]
        return [(step, mean_ratio(errors, one["wiener"], level)) for step, errors in one["curve"]]

    def curves(self) -> dict[str, dict[int, float]]:
        """The mean over seeds, without step 0, which no logarithm shows."""
        found = {}
        for method in self.runs:
            each = [self.curve(method, seed) for seed in range(len(self.runs[method]))]
            found[method] = {points[0][0]: mean(y for _, y in points) for points in zip(*each, strict=True)}
            found[method].pop(0, None)
        return found

    def relative_time(self, method: str) -> float:
        """Of a step, beside the baseline's: the median of the rounds' ratios."""
        return median(a / b for a, b in zip(self.seconds[method], self.seconds[self.baseline], strict=True))

    def last(self, method: str, level: int | None = None) -> list[float]:
        """Last errors, by seed."""
        return [self.curve(method, seed, level)[-1][1] for seed in range(len(self.runs[method]))]

    def at_equal_time(self, method: str) -> list[float]:
        """Errors, by seed, after the time that the fastest method takes for all its steps."""
        least = min(self.relative_time(name) for name in self.runs)
        step = self.steps * least / self.relative_time(method)
        return [value_at(self.curve(method, seed), step) for seed in range(len(self.runs[method]))]

    def steps_to_baseline(self, method: str, level: int | None = None) -> list[float]:
        """Steps, by seed, to the baseline's last error of the same seed; infinite where it is not reached."""
        goals = self.last(self.baseline, level)
        return [first_below(self.curve(method, seed, level), goal) for seed, goal in enumerate(goals)]


def mean_ratio(errors: list[float], reference: list[float], level: int | None = None) -> float:
    """Errors relative to others: at one σ, or the mean over all."""
    ratios = [error / other for error, other in zip(errors, reference, strict=True)]
    return mean(ratios) if level is None else ratios[level]


def first_below(curve: Curve, goal: float) -> float:
    """Steps at which a curve first is at or below a goal, between points on a straight line."""
    if curve[0][1] <= goal:
        return float(curve[0][0])
    for (step, value), (later, lower) in pairwise(curve):
        if lower <= goal < value:
            return step + (later - step) * (value - goal) / (value - lower)
    return math.inf


def value_at(curve: Curve, step: float) -> float:
    """A curve between its points, on a straight line."""
    for (start, value), (end, other) in pairwise(curve):
        if start <= step <= end:
            return value + (other - value) * (step - start) / (end - start)
    return curve[-1][1]


# ---- words

NOT_SHOWN = """**Where and why not.** Under strong noise, σ ≥ 0.5: there the Wiener filter is nearly all that can be
known, the head start over EDM is small, and the likelihood's weights visit these levels seldom. EDM's
log-normal levels are centred there.

**What it does not show.** Training to the end: shares of steps belong to this number of steps. Samples
and densities, which a denoising error does not rank. Peers at their best: each has its own defaults beside a learning
rate that was chosen, widths that match our parameter count, and neither library's larger recipes; `UNet1DModel` cannot
be made as small as the others. Where convolutions are padded with zeros (diffusers everywhere, azula at walls) nothing
knows the boundary. One thread; no accelerator.
"""


def page(about: str, found: dict[str, Found], pictures: dict[str, str]) -> str:
    """Tables and figures of every data set, in Markdown."""
    parts = [
        "# Training beside other libraries\n",
        "`python -m experiments.benchmarks training_peers` writes this page.\n",
        f"Machine: {machine()}.\n",
        about.split("\n", 1)[1].strip() + "\n",
    ]
    for name, each in found.items():
        seeds = len(each.runs[each.baseline])
        parts += [
            f"## {name}\n",
            f"{each.steps} steps, {seeds} seeds; ± is the standard error over seeds. *Equal time* is that of all steps "
            "of the fastest method. *Steps to EDM's* last mean error are counted seed by seed.\n",
            _methods(each),
            "Error over the Wiener filter's at each σ, after all steps:\n",
            _levels(each),
            "Steps of *physdiff* to EDM's last error at each σ, as a share of EDM's:\n",
            _shares(each),
            f"![Error against steps](training_peers_{pictures[name]}.png)\n",
        ]
    return "\n".join([*parts, _found(found), NOT_SHOWN])


def _found(found: dict[str, Found]) -> str:
    """Where the goal of a third of the baseline's steps is met: on average over σ, and at which σ not."""
    lines = ["**Found.** *A third of EDM's steps to its last error*, by every seed:\n"]
    for name, each in found.items():
        for method in each.runs:
            if not method.startswith("physdiff"):
                continue
            whole = each.steps_to_baseline(method)
            late = [
                f"{sigma:g}" for level, sigma in enumerate(each.sigmas)
                if max(each.steps_to_baseline(method, level)) > each.steps / 3
            ]  # fmt: skip
            verdict = "met" if max(whole) <= each.steps / 3 else "not met"
            where = f"not at σ = {', '.join(late)}" if late else "at every σ"
            better = mean(each.last(method)) < mean(each.last(each.baseline))
            after = f"after all steps the mean error is {'lower' if better else 'higher'} than EDM's"
            lines.append(f"- {name}, {method}: {verdict} on the mean ({_share(whole, each.steps)}); {where}; {after}.")
    return "\n".join(lines) + "\n"


def _methods(found: Found) -> str:
    rows = []
    for method, runs in found.runs.items():
        needed = found.steps_to_baseline(method)
        time = found.relative_time(method)
        own = method == found.baseline
        rows.append([
            method, f"{runs[0]['parameters']:,}", f"{runs[0]['rate']:g}", f"{time:.2f}", with_error(found.last(method)),
            with_error(found.at_equal_time(method)), "" if own else _steps(needed),
            "" if own else _share(needed, found.steps), "" if own else _share([n * time for n in needed], found.steps),
        ])  # fmt: skip
    head = ["method", "parameters", "rate", "time of a step", "mean, equal steps", "mean, equal time",
            "steps to EDM's", "share of its steps", "share of its time"]  # fmt: skip
    return table(head, rows)


def _levels(found: Found) -> str:
    rows = [
        [method, *(with_error(found.last(method, level), 3) for level in range(len(found.sigmas)))]
        for method in found.runs
    ]
    return table(["method", *(f"σ = {sigma:g}" for sigma in found.sigmas)], rows)


def _shares(found: Found) -> str:
    rows = [
        [method, *(
            _share(found.steps_to_baseline(method, level), found.steps) for level in range(len(found.sigmas))
        )] for method in found.runs if method.startswith("physdiff")
    ]  # fmt: skip
    return table(["method", *(f"σ = {sigma:g}" for sigma in found.sigmas)], rows)


def with_error(values: list[float], digits: int = 4) -> str:
    """Mean ± standard error."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values) / math.sqrt(len(values)):.{digits}f}"


def _steps(values: list[float]) -> str:
    reached = [value for value in values if math.isfinite(value)]
    if not reached:
        return "not reached"
    low, high = f"{min(reached):.0f}", f"{max(reached):.0f}"
    some = "" if len(reached) == len(values) else f" ({len(reached)} of {len(values)} seeds)"
    return (low if low == high else f"{low} to {high}") + some


def _share(values: list[float], whole: float) -> str:
    reached = [value / whole for value in values if math.isfinite(value)]
    if len(reached) < len(values):
        return "not reached" if not reached else f"over 1 in {len(values) - len(reached)} of {len(values)}"
    low, high = f"{min(reached):.2f}", f"{max(reached):.2f}"
    return low if low == high else f"{low} to {high}"
