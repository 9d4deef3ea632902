"""What to look at in each figure, in plain words, with the numbers in it."""

from __future__ import annotations

import math

import numpy as np

from physdiff.evaluation.field_figures import channel_scale
from physdiff.evaluation.findings import Findings
from physdiff.evaluation.held_out import HeldOutLikelihood
from physdiff.evaluation.pane import Pane
from physdiff.evaluation.statistics_figures import field_one_points, field_spectra
from physdiff.evaluation.wording import duration, number, percent, signed, with_error
from physdiff.grid import Grid

NAMES = {"data": "held-out data", "samples": "trained model", "reference_samples": "Gaussian reference"}


def summary(findings: Findings) -> str:
    """The report's one sentence."""
    found = findings.likelihood
    if found is None:
        return "Likelihoods of held-out fields have not been computed yet."
    side = "above" if found.mean_gain >= 0 else "below"
    gain = with_error(abs(found.mean_gain), found.mean_gain_error)
    every = "every one" if found.wins == len(found) else str(found.wins)
    return (
        f"The trained model's log-density of held-out fields is {gain} nats per dimension {side} that of the "
        f"Gaussian reference, and it finds {every} of {len(found)} fields more probable than a phase-scrambled "
        f"surrogate that has the same power in every mode{_gap_in_errors(found)}.{_told(findings)}"
    )


def _told(findings: Findings) -> str:
    """That the comparison with the reference contains what the condition tells."""
    if not findings.conditions:
        return ""
    return (
        f" The model is told {', '.join(findings.conditions)}; the reference is not, and a surrogate does not fit what "
        "is told: both differences hold what the condition tells."
    )


def fields_caption(findings: Findings, channel: int) -> str:
    """Of `fields_figure`."""
    grid, scale, unit = Grid(**findings.grid), channel_scale(findings, channel), findings.units[channel]
    parts = [f"Fields of {findings.names[channel]}"]
    if grid.ndim > 2:
        parts.append(f" (slices through the middle of {' and '.join(dim for dim, _ in Pane.of(grid).cuts)})")
    if grid.ndim > 1:
        low = 0.0 if abs(scale.low) < 1e-3 * (scale.high - scale.low) else scale.low
        ends = f"±{number(scale.high)}" if scale.signed else f"{number(low)} to {number(scale.high)}"
        parts.append(f" on one colour scale, {ends}{' ' + unit if unit else ''}.")
    else:
        parts.append(", a few fields of each kind over each other.")
    if "reference_samples" in findings.ensembles:
        law = "the Gaussian field with the data's mean and spectrum: it has the right power at every scale"
        if curve := findings.curve:
            law = f"Gaussian in the units of the normaliser '{curve}', with the data's mean and spectrum there"
        parts.append(
            f" The untrained model is {law}. Look for what it lacks (fronts, vortices, plumes) and whether the trained "
            "model has it."
        )
    return "".join(parts)


def spectrum_caption(findings: Findings, channel: int) -> str:
    """Of `spectrum_figure`."""
    spectra = field_spectra(findings)
    text = "Variance density over wavenumber"
    if "data" in spectra:
        text += "; the band holds the central 80\u00a0% of held-out fields. Curves should coincide"
    if "reference_samples" in spectra:
        of = f" in units of '{findings.curve}'" if findings.curve else ""
        text += f" (the Gaussian reference is fitted to do so{of})"
    text += "."
    if "data" not in spectra or len(spectra) == 1:
        return text
    text += " Below, mean over the data's mean, ±2 standard errors of both."
    data = spectra["data"]
    weight = data.mean[channel] * data.width
    for name in ("samples", "reference_samples"):
        if name in spectra:
            mean = spectra[name].mean[channel] * data.width
            off = float((mean - weight).abs().sum() / weight.sum())
            total = float(mean.sum() / weight.sum())
            text += (
                f" {NAMES[name].capitalize()}: total variance {number(total)} of the data's, "
                f"absolute differences over shells add up to {percent(off)}."
            )
    return text


def one_point_caption(findings: Findings, channel: int) -> str:
    """Of `one_point_figure`."""
    found = field_one_points(findings, channel)
    kurtosis = ", ".join(f"{NAMES[name]} {with_error(p.kurtosis, p.kurtosis_error)}" for name, p in found.items())
    skewness = ", ".join(f"{NAMES[name]} {with_error(p.skewness, p.skewness_error)}" for name, p in found.items())
    return (
        "Distribution of single cell values, logarithmic: look at the tails, where a Gaussian field has too little. "
        f"Kurtosis (a Gaussian has 3): {kurtosis}. Skewness: {skewness}. Errors: jackknife over fields."
    )


def likelihood_caption(findings: Findings) -> str:
    """Of `likelihood_figure`."""
    found = findings.likelihood
    assert found is not None
    trace = "an exact trace" if found.probes == 0 else f"{found.probes} Hutchinson probes"
    gap = (found.log_prob - found.surrogate_log_prob) / found.n_support
    gain = with_error(found.mean_gain, found.mean_gain_error, plus=True)
    return (
        "Each column is one held-out field and its surrogate, whose phases are scrambled and whose power in every mode "
        "is kept. The Gaussian reference gives both the same density (the zero line), so the distance between the two "
        f"dots is structure that training has found. Field above reference: {gain} nats per dimension on average "
        f"(standard error over {len(found)} fields), {signed(found.mean_gain * found.n_support)} nats per field of "
        f"{number(found.n_support)} dimensions. Field above surrogate in {found.wins} of {len(found)}: "
        f"{signed(float(gap.mean()))} nats per dimension on average, {signed(float(gap.min()))} at "
        f"least{_gap_in_errors(found)}. Error bars: one standard error of the trace estimate. Computed with {trace} "
        f"and {number(found.evaluations)} network evaluations per field; scored: {found.scored}, at "
        f"t = {number(found.t_min, 2)}; Gaussian bias {number(found.gaussian_bias, 2)} nats; "
        + (
            "no bound on the terminal mismatch is known."
            if math.isnan(found.terminal_mismatch)
            else f"terminal mismatch at most {number(found.terminal_mismatch, 2)} nats."
        )
    )


def denoising_caption(findings: Findings) -> str:
    """Of `denoising_figure`."""
    levels = findings.denoising
    best = min(levels, key=lambda r: r["model_error"] / r["wiener_error"])
    worst = max(levels, key=lambda r: r["model_error"] / r["wiener_error"])
    below = sum(r["difference"] < -3 * r["standard_error"] for r in levels)
    return (
        "Squared error of removing noise in one step, on the same noise as the Wiener filter, which is the best "
        f"linear filter and exact for the Gaussian field. Below 1 at {below} of {len(levels)} noise levels by more "
        f"than 3 standard errors; lowest {number(best['model_error'] / best['wiener_error'])} at "
        f"σ/m = {number(best['noise_to_signal'], 2)}, highest {number(worst['model_error'] / worst['wiener_error'])} "
        f"at {number(worst['noise_to_signal'], 2)}. Error bars: 2 standard errors of the paired difference."
    )


def training_caption(findings: Findings) -> str:
    """Of `training_figure`."""
    last = findings.metrics[-1]
    text = (
        "Denoising loss in units of what the Wiener filter leaves unknown: an untrained model starts at 1, and on "
        f"Gaussian data no model gets below. After {number(int(last['step']))} steps {number(last['loss'])}"
    )
    validation = [r["validation_loss"] for r in findings.metrics if r.get("validation_loss") is not None]
    if validation:
        text += f" in training, {number(validation[-1])} in validation"
    if last.get("seconds") is not None:
        text += f", in {duration(last['seconds'])}"
    return text + "."


def smallest_gap(found: HeldOutLikelihood) -> str:
    """Smallest distance of a field to its surrogate in standard errors, in words."""
    smallest = float(np.min(found.gap_in_errors))
    if np.isnan(smallest):
        return "no error bar"
    return "exact" if np.isposinf(smallest) else number(smallest)


def _gap_in_errors(found: HeldOutLikelihood) -> str:
    smallest = float(np.min(found.gap_in_errors))
    if not np.isfinite(smallest):
        return ""
    return f" (smallest gap {number(smallest)} standard errors of the trace estimate)"
