"""What the model has learnt beyond the Gaussian field: its training, its likelihoods, its denoising errors."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from physdiff.evaluation.figure_style import COLOURS, LABELS, RULE, WIDE, half_figure, level, plain_decades, styled
from physdiff.evaluation.findings import Findings
from physdiff.evaluation.held_out import HeldOutLikelihood

REFERENCE = COLOURS["reference_samples"]


@styled
def training_figure(findings: Findings) -> Figure:
    """Loss and validation loss by step, in units of the Wiener filter's error."""
    figure, axes = half_figure()
    steps = np.array([r["step"] for r in findings.metrics])
    loss = np.array([r["loss"] for r in findings.metrics])
    axes.plot(steps, loss, color=COLOURS["samples"], linewidth=1.4, alpha=0.55, label="training")
    validated = [(r["step"], r["validation_loss"]) for r in findings.metrics if r.get("validation_loss") is not None]
    if validated:
        axes.plot(*zip(*validated, strict=True), color=COLOURS["data"], marker="o", markersize=5, label="validation")
    finite = np.concatenate([loss, [v for _, v in validated]])
    finite = finite[np.isfinite(finite)]
    low, high = min([*finite, 1.0]), max([*np.sort(finite)[: max(1, int(0.98 * len(finite)))], 1.0])
    axes.set_ylim(low - 0.08 * (high - low), high + 0.14 * (high - low))
    level(axes, 1.0, REFERENCE, "Gaussian field, Wiener filter")
    axes.set(xlabel="training step", ylabel="denoising loss / Wiener filter's")
    axes.legend(loc="lower left")
    return figure


@styled
def likelihood_figure(findings: Findings) -> Figure:
    """Each held-out field beside its surrogate, in nats per dimension above the Gaussian reference."""
    assert findings.likelihood is not None
    figure = Figure(figsize=(WIDE, 4.2), layout="constrained")
    axes = figure.add_subplot()
    draw_likelihood(axes, findings.likelihood)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=2.5)
    return figure


def draw_likelihood(axes: Axes, found: HeldOutLikelihood) -> None:
    """Fields and surrogates as joined pairs of dots, by rising density of the field."""
    order = np.argsort(found.gain)
    x = np.arange(1, len(found) + 1)
    field, surrogate = found.gain[order], found.surrogate_gain[order]
    size = float(np.clip(220 / len(found), 3.2, 7.0))
    axes.vlines(x, surrogate, field, color=RULE, linewidth=1.4, zorder=1)
    for name, y, error in (
        ("data", field, found.standard_error[order]),
        ("surrogate", surrogate, found.surrogate_standard_error[order]),
    ):
        axes.errorbar(
            x, y, error / found.n_support,
            fmt="o", markersize=size, color=COLOURS[name], elinewidth=1.1, capsize=0, label=LABELS[name], zorder=3,
        )  # fmt: skip
    level(axes, 0.0, REFERENCE, "Gaussian reference")
    axes.margins(x=0.02, y=0.09)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="held-out field, sorted", ylabel="log-density above the\nreference  [nats / dimension]")


@styled
def denoising_figure(findings: Findings) -> Figure:
    """Denoising error of the model over that of the Wiener filter, by noise level."""
    figure, axes = half_figure()
    noise = np.array([r["noise_to_signal"] for r in findings.denoising])
    wiener = np.array([r["wiener_error"] for r in findings.denoising])
    ratio = np.array([r["model_error"] for r in findings.denoising]) / wiener
    error = 2 * np.array([r["standard_error"] for r in findings.denoising]) / wiener
    order = np.argsort(noise)
    axes.errorbar(
        noise[order], ratio[order], error[order], color=COLOURS["samples"], marker="o", markersize=6,
        elinewidth=1.3, capsize=3,
    )  # fmt: skip
    low, high = float(np.min(ratio - error)), max(float(np.max(ratio + error)), 1.0)
    axes.set_ylim(max(0.0, low - 0.12 * (high - low)), high + 0.16 * (high - low))
    level(axes, 1.0, REFERENCE, "Wiener filter (Gaussian reference)", at=0.005)
    plain_decades(axes, float(noise.min()), float(noise.max()))
    axes.set(xlabel="noise-to-signal ratio σ/m", ylabel="squared error, model / Wiener")
    return figure
