"""Statistics of the fields: how variance spreads over scales, and how the values of single cells are distributed."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from physdiff.evaluation.figure_style import (
    COLOURS,
    HALF,
    LABELS,
    MUTED,
    half_figure,
    length_unit,
    plain_decades,
    styled,
    with_unit,
)
from physdiff.evaluation.findings import Findings
from physdiff.evaluation.onepoint import OnePoint, common_edges, one_point
from physdiff.evaluation.spectrum import Spectrum, energy_spectrum

# Shells with less of the data's largest density than this are rounding: band-limited data has them.
VISIBLE = 1e-10


def field_spectra(findings: Findings) -> dict[str, Spectrum]:
    """Spectra of every set of fields about the reference's mean, by name."""
    basis, centre = findings.basis, findings.centre
    return {name: energy_spectrum(x, basis, mean=centre) for name, x in findings.ensembles.items()}


def field_one_points(findings: Findings, channel: int) -> dict[str, OnePoint]:
    """One-point statistics of every set of one channel, in common bins, by name."""
    sets = {name: x[:, channel] for name, x in findings.ensembles.items()}
    edges = common_edges(*sets.values())
    return {name: one_point(x, edges) for name, x in sets.items()}


@styled
def spectrum_figure(findings: Findings, channel: int = 0) -> Figure:
    """Variance density over wavenumber of each set, and below it their ratios to the data's."""
    spectra = field_spectra(findings)
    figure = Figure(figsize=(HALF, 4.9), layout="constrained")
    compare = "data" in spectra and len(spectra) > 1
    if not compare:
        draw_spectra(figure.add_subplot(), findings, spectra, channel)
        return figure
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    draw_spectra(top, findings, spectra, channel)
    bottom.set_xlabel(top.get_xlabel())
    top.set_xlabel("")
    seen = _visible(spectra, channel)
    data = spectra["data"]
    base = data.mean[channel].numpy()[seen]
    base_error = data.standard_error[channel].numpy()[seen] / base
    k = data.wavenumber.numpy()[seen]
    largest = 0.12
    for name, spectrum in spectra.items():
        ratio = spectrum.mean[channel].numpy()[seen] / base
        if name == "data":
            bottom.axhline(1.0, color=COLOURS[name], linewidth=1.4)
            continue
        # Written without dividing by the set's own mean, which may vanish where the data's does not.
        error = 2 * np.hypot(spectrum.standard_error[channel].numpy()[seen] / base, ratio * base_error)
        bottom.fill_between(k, ratio - error, ratio + error, color=COLOURS[name], alpha=0.18, linewidth=0)
        bottom.plot(k, ratio, color=COLOURS[name])
        largest = max(largest, float(np.nanmax(np.abs(ratio - 1))))
    reach = min(1.25 * largest, 1.0)
    bottom.set_ylim(1 - reach, 1 + reach)
    bottom.set_ylabel("ratio to data")
    figure.align_ylabels()
    return figure


def draw_spectra(axes: Axes, findings: Findings, spectra: dict[str, Spectrum], channel: int) -> None:
    """Mean variance density of each set on logarithmic axes, with the central 80 % of the data's fields."""
    seen = _visible(spectra, channel)
    first = next(iter(spectra.values()))
    k = first.wavenumber.numpy()[seen]
    if "data" in spectra and len(spectra["data"].density) > 1:
        low, high = (part[channel].numpy()[seen] for part in spectra["data"].band(0.8))
        axes.fill_between(k, low, high, color=COLOURS["data"], alpha=0.13, linewidth=0)
    dashes = {"data": "-", "samples": "-", "reference_samples": (0, (4, 1.6))}
    for name, spectrum in spectra.items():
        mean = spectrum.mean[channel].numpy()[seen]
        axes.plot(k, mean, color=COLOURS[name], linestyle=dashes[name], label=LABELS[name])
    axes.set_yscale("log")
    plain_decades(axes, float(k.min()), float(k.max()))
    length = length_unit(findings.grid["units"])
    axes.set_xlabel(f"wavenumber |k|  [rad/{length or 'length'}]")
    field = findings.units[channel]
    axes.set_ylabel(with_unit("variance density", f"{_squared(field)} {length}".strip()))
    axes.legend(loc="lower left")


@styled
def one_point_figure(findings: Findings, channel: int = 0) -> Figure:
    """Density of cell values of each set, with a Gaussian of the data's variance."""
    found = field_one_points(findings, channel)
    figure, axes = half_figure()
    figure.set_size_inches(HALF, 4.9)
    first = next(iter(found.values()))
    x = np.linspace(first.edges[0], first.edges[-1], 400)
    z = (x - first.mean) / first.standard_deviation
    gaussian = np.exp(-0.5 * z**2) / (first.standard_deviation * np.sqrt(2 * np.pi))
    axes.plot(x, gaussian, color=MUTED, linewidth=1.3, linestyle=(0, (1, 1.5)), label="Gaussian of equal variance")
    for name, part in found.items():
        axes.stairs(
            np.where(part.density > 0, part.density, np.nan), part.edges, baseline=None, color=COLOURS[name],
            linewidth=1.8, label=f"{LABELS[name]}: kurtosis {part.kurtosis:.2f}",
        )  # fmt: skip
    smallest = min(float(part.density[part.density > 0].min()) for part in found.values())
    largest = max(float(part.density.max()) for part in found.values())
    axes.set(yscale="log", ylim=(0.6 * smallest, largest * (largest / smallest) ** 0.42))
    axes.set_xlabel(with_unit(findings.names[channel], findings.units[channel]))
    unit = findings.units[channel]
    axes.set_ylabel(with_unit("probability density", f"per {unit}" if unit else ""))
    axes.legend(loc="upper left")
    return figure


def _squared(unit: str) -> str:
    if not unit:
        return ""
    return f"{unit}²" if unit.isalpha() else f"({unit})²"


def _visible(spectra: dict[str, Spectrum], channel: int) -> np.ndarray:
    """Shells to draw, shape (shells,), bool: not the constant, not rounding."""
    first = next(iter(spectra.values()))
    mean = first.mean[channel]
    return ((first.wavenumber > 0) & (mean > VISIBLE * mean.max())).numpy()
