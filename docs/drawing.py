"""Figures of the generated pages: one field noised by every process, and the error of every solver."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from physdiff import GaussianDenoiser, GaussianField, Grid, LogSpaced, ReferencePath, SpectralBasis, fit_clock
from physdiff.evaluation.figure_style import INK, MUTED, RULE, WIDE, half_figure, png, styled
from physdiff.laws.cases import smooth_reference
from physdiff.laws.stepping import carried
from physdiff.phase_space import PhaseSpaceProcess
from physdiff.process import ForwardProcess, LinearProcess
from physdiff.processes.heat import Heat
from physdiff.semilinear import SemilinearProcess
from physdiff.solvers import Solver, solvers

BOX = Grid((64, 64), 1.0, "periodic")
TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
NOISE_LEVEL = 0.01
CAPTION = (
    "*Above:* the same field (three bumps and a step, mean 0, standard deviation 1) carried to five times with the "
    "same random numbers; colours span ±2.5 standard deviations about the mean of each panel. *Below:* the factor |m| "
    "by which modes are multiplied and the variance S that they have received, against wavenumber; 0 is the mean mode, "
    "and the dotted line is the variance c of the data. The clock is the one `fit_clock` chooses for a Matérn "
    "reference of correlation length ¼ and smoothness ½, with noise that starts to matter at "
    f"{NOISE_LEVEL:g} of the data's standard deviation."
)
PHASE_SPACE_CAPTION = (
    "The pictures are x of the pair (x, v). Gain and variance are those of the "
    "[statistic](../../design.md#phase-space-one-number-per-mode-is-enough) y = m u, which is all that a denoiser is "
    "given: |m|²c/S is what x and v together know of the data; x alone may swing through zero while v has it."
)
CONVERGENCE_CAPTION = (
    "Whitened error of the samples' covariance (root mean square over its entries) against denoiser evaluations, for "
    "Gaussian data whose spectrum differs from the reference's by factors of ⅓ to 3, on six cells under Heat, with "
    "log-spaced times and the last step to the clean field left out. The covariance is carried through the steps "
    "exactly; nothing is sampled. The other solvers are drawn in grey, all with their default settings. This is a test "
    "problem: it shows orders, and says nothing about which rule is best for your data; "
    "[Which solver?](../../which-solver.md) does."
)


SIMULATED_CAPTION = (
    "*Above:* the same field (three bumps and a step, mean 0, standard deviation 1) run to five times with one noise; "
    "colours span ±2.5 standard deviations about the mean of each panel. *Below:* the variance V of the modes over 16 "
    "runs, against wavenumber, for the whole equation (lines) and for its linear part alone (dashes): what lies "
    "between them is the reaction's. The dotted line is the data's. The clock is the one `fit_clock` chooses for a "
    "Matérn reference of correlation length ¼ and smoothness ½."
)


def on_the_box(cls: type[ForwardProcess]) -> ForwardProcess:
    """A process with its default settings on the box."""
    return cls(SpectralBasis(BOX))


@cache
def field() -> Tensor:
    """Three bumps and a step, smooth but for the step, shape (1, 1, 64, 64)."""
    x, y = np.meshgrid(BOX.coordinate(0), BOX.coordinate(1), indexing="ij")
    bumps = ((0.25, 0.72, 0.10, 1.0), (0.42, 0.45, 0.05, 1.3), (0.20, 0.25, 0.07, -1.1))
    values = sum(h * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * w**2)) for a, b, w, h in bumps)
    values = values + 0.9 * ((np.abs(x - 0.76) < 0.14) & (np.abs(y - 0.5) < 0.33))
    values = (values - values.mean()) / values.std()
    return torch.from_numpy(values).reshape(1, 1, *BOX.shape)


def world_of(process: LinearProcess) -> ReferencePath:
    """The process with a clock fitted to a rough reference, and that reference."""
    clock_fitted = clocked(process)
    assert isinstance(clock_fitted, LinearProcess)
    return ReferencePath(clock_fitted, _rough(process))


def clocked(process: ForwardProcess) -> ForwardProcess:
    """The process with the clock that fits the rough reference."""
    return fit_clock(process, _rough(process), NOISE_LEVEL)


def _rough(process: ForwardProcess) -> GaussianField:
    """A Matérn law; without a mean mode for a process that gives it no noise."""
    law = GaussianField.matern(process.basis, 0.25, 0.5)
    if isinstance(process, SemilinearProcess):
        alive = process.noise_spectrum().expand(process.basis.grid.shape) > 0
        law = GaussianField(process.basis, law.mean, torch.where(alive, law.spectrum, 0.0))
    return law


def _kept(world: ReferencePath, t: float) -> Tensor:
    """Share of each mode's variance that is the data's, shape (cells,)."""
    kernel = world.process.kernel(torch.tensor(t))
    clean = kernel.gain.abs().square() * world.reference.spectrum[0]
    return (clean / (clean + kernel.variance)).flatten()


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share > 1e-5 else "below 0.001 %"


def facts(world: ReferencePath) -> list[tuple[str, str]]:
    """What the fitted clock does, in numbers."""
    clock, kept = world.process.running_clock, _kept(world, 1.0)
    forgotten = next((t for t in np.linspace(0, 1, 101) if float(_kept(world, t)[1:].max()) <= 0.0201), None)
    return [
        ("physical time τ at t = 1", f"{clock.end:.3g}"),
        ("physical time from which t is logarithmic", f"{getattr(clock, 'onset', 0.0):.3g}"),
        (
            "earliest t at which every mode but the mean keeps at most 2 % of its variance",
            "never" if forgotten is None else f"{forgotten:.2f}",
        ),
        ("variance that the mean mode keeps at t = 1", _percent(float(kept[0]))),
        ("largest that another mode keeps", _percent(float(kept[1:].max()))),
        ("bound on the terminal mismatch", f"{world.terminal_mismatch / BOX.size:.2g} nats per mode"),
    ]


@styled
def forward_run(world: ReferencePath) -> bytes:
    """The field at five times and the moments of its modes, PNG."""
    process, reference = world.process, world.reference
    figure = Figure(figsize=(WIDE, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.0, 1.25), hspace=0.03)
    _five_times(above, process)
    gain_axes, noise_axes = below.subplots(1, 2)
    shades = ("#9ecae1", "#5aa2cf", "#1f6fb5", "#08306b")
    for t, shade in zip(TIMES[1:], shades, strict=True):
        kernel = process.kernel(torch.tensor(t))
        _along_wavenumber(gain_axes, kernel.gain.abs(), shade, f"t = {t:g}")
        _along_wavenumber(noise_axes, kernel.variance, shade, f"t = {t:g}")
    _along_wavenumber(noise_axes, reference.spectrum[0], INK, "data, c", line=":")
    gain_axes.set(ylabel="gain |m|", ylim=(-0.03, 1.05))
    noise_axes.set(ylabel="variance S per mode", yscale="log")
    low = float(reference.spectrum.min())
    noise_axes.set_ylim(bottom=max(noise_axes.get_ylim()[0], 1e-3 * low))
    for axes in (gain_axes, noise_axes):
        first = 2 * np.pi
        axes.set(xscale="log", xlabel="wavenumber |k|")
        axes.set_xticks([first / 2, 10, 100], ["0", "10", "100"])
        axes.tick_params(axis="x", which="minor", bottom=False)
    noise_axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return png(figure, dpi=110)


def _five_times(figure: SubFigure, process: ForwardProcess) -> None:
    """The picture's field at the five times, with its spread below each."""
    for axes, t in zip(figure.subplots(1, len(TIMES)), TIMES, strict=True):
        spread = _panel(axes, process, t)
        axes.set_title(f"t = {t:g}", pad=4)
        axes.set_xlabel(f"std {spread:.2g}", fontsize=11, labelpad=4)


@styled
def simulated_run(process: SemilinearProcess) -> bytes:
    """One field at five times, and the variance of the modes of many, with the reaction and without, PNG."""
    figure = Figure(figsize=(WIDE, 6.0), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.0, 1.05), hspace=0.03)
    _five_times(above, process)
    axes = below.subplots(1, 1)
    reference = _rough(process)
    fields = reference.sample(16, torch.Generator().manual_seed(1))
    states = _states(process, fields)
    zero = torch.zeros((), dtype=torch.float64)
    for t, shade in zip(TIMES[1:], ("#9ecae1", "#5aa2cf", "#1f6fb5", "#08306b"), strict=True):
        modes = process.basis.forward(states[t])[:, 0]
        time = process.physical_time(torch.tensor(t))
        carried = torch.exp(2 * process.linear.log_gain(time, zero).real) * reference.spectrum[0]
        _along_wavenumber(axes, process.basis.symmetrise(modes.square().mean(0)), shade, f"t = {t:g}", band=False)
        _along_wavenumber(axes, carried + process.linear.variance(time, zero), shade, "", line="--", band=False)
    _along_wavenumber(axes, reference.spectrum[0], INK, "data, c", line=":")
    axes.set(ylabel="variance V per mode", yscale="log", xscale="log", xlabel="wavenumber |k|")
    axes.set_ylim(bottom=0.3 * float(reference.spectrum[reference.support].min()))
    axes.set_xticks([np.pi, 10, 100], ["0", "10", "100"])
    axes.tick_params(axis="x", which="minor", bottom=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return png(figure, dpi=110)


@cache
def _one_run(process: SemilinearProcess) -> dict[float, Tensor]:
    """The picture's field at the five times."""
    return _states(process, field())


def _states(process: SemilinearProcess, fields: Tensor) -> dict[float, Tensor]:
    """Fields at the five times of one noisy run each."""
    start = float(process.physical_time(torch.tensor(0.02)))
    grid = [process.physical_time(torch.tensor(t)) for t in np.linspace(0, 1, 49)]
    times = torch.cat([torch.zeros(1), torch.tensor([start]), torch.stack(grid[1:])]).to(torch.float64)
    states = process.simulate(fields, times.unique(), torch.Generator().manual_seed(0), substeps=4)
    wanted = [process.physical_time(torch.tensor(t)) for t in TIMES]
    return {t: states[int((times.unique() - w).abs().argmin())] for t, w in zip(TIMES, wanted, strict=True)}


def gallery(classes: dict[str, type[ForwardProcess]], columns: int = 2) -> bytes:
    """Every process noising the same field with the same random numbers, PNG: one row of five times each."""
    rows = -(-len(classes) // columns)
    figure = Figure(figsize=(WIDE, 0.92 * rows), layout="constrained")
    blocks = figure.subfigures(1, columns, wspace=0.04)
    names = iter(classes.items())
    for block in blocks:
        grid = block.subplots(rows, len(TIMES))
        for line in grid:
            name, cls = next(names, ("", None))
            for axes, t in zip(line, TIMES, strict=True):
                if cls is None:
                    axes.set_axis_off()
                    continue
                _panel(axes, clocked(on_the_box(cls)), t)
            words = "\n".join(re.findall(r"[A-Z]+[a-z]*\d*", name))
            line[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8.5, labelpad=6)
        for axes, t in zip(grid[0], TIMES, strict=True):
            axes.set_title(f"t = {t:g}", fontsize=9, pad=3)
    return png(figure, dpi=75)


def _panel(axes: Axes, process: ForwardProcess, t: float) -> float:
    """The field noised to t, about its mean, on a scale of its own deviation, which is returned."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(process, SemilinearProcess):
        noised = _one_run(process)[t]
    elif isinstance(process, PhaseSpaceProcess):  # the field itself, not what a denoiser is given of field and velocity
        noised, _ = process.phase_kernel(torch.tensor(t)).sample(field(), generator)
    else:
        assert isinstance(process, LinearProcess)
        noised, _ = process.perturb(field(), torch.tensor(t), generator)
    values = noised[0, 0].numpy()
    spread = float(values.std())
    axes.imshow((values - values.mean()).T, origin="lower", cmap="RdBu_r", vmin=-2.5 * spread, vmax=2.5 * spread)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(RULE)
    return spread


def _along_wavenumber(axes: Axes, symbol: Tensor, colour: str, label: str, line: str = "-", band: bool = True) -> None:
    """A symbol against |k|: a line through the mean of each shell, its range shaded, the mean mode as a dot."""
    values = symbol.expand(BOX.shape).flatten().numpy()
    k = SpectralBasis(BOX).laplacian.sqrt().flatten().numpy()
    shells, index = np.unique(k.round(6), return_inverse=True)
    middle = np.bincount(index, values) / np.bincount(index)
    low, high = np.full(len(shells), np.inf), np.full(len(shells), -np.inf)
    np.minimum.at(low, index, values)
    np.maximum.at(high, index, values)
    axes.plot(shells[1:], middle[1:], color=colour, label=label, linestyle=line)
    if band:
        axes.fill_between(shells[1:], low[1:], high[1:], color=colour, alpha=0.25, linewidth=0)
    axes.plot(np.pi, middle[0], "o", color=colour, markersize=5, markerfacecolor=colour if line == "-" else "white")


# ---- solvers


@cache
def _errors(name: str) -> tuple[list[int], list[float]]:
    """Evaluations and whitened covariance error, for doubling numbers of steps."""
    solver = solvers.classes()[name]()
    basis = SpectralBasis(Grid(6))
    reference = smooth_reference(basis)
    tilt = 3.0 ** torch.cos(basis.laplacian.sqrt() / 2)
    law = GaussianField(basis, reference.mean, reference.spectrum * tilt)
    process = fit_clock(Heat(basis), reference)
    path = ReferencePath(process, reference, 0.05)
    truth = ReferencePath(process, law, 0.05)
    denoiser = GaussianDenoiser(path, law)
    start, goal = truth.at(1.0), truth.at(0.05)
    root = goal.variance.flatten().sqrt()
    evaluations, errors = [], []
    for steps in (2, 4, 8, 16, 32, 64, 128):
        times = LogSpaced().between(path, steps)
        _, covariance = carried(solver, denoiser, times, start.mean.flatten(), torch.diag(start.variance.flatten()))
        whitened = covariance / (root * root.unsqueeze(1)) - torch.eye(len(root), dtype=torch.float64)
        evaluations.append(steps * solver.evaluations + solver.start_evaluations)
        errors.append(float(whitened.square().mean().sqrt()))
    return evaluations, errors


@styled
def convergence(cls: type[Solver]) -> bytes:
    """Error against evaluations, the other solvers in grey, PNG."""
    figure, axes = half_figure()
    for name, other in solvers.classes().items():
        if other.adaptive:
            continue
        evaluations, errors = _errors(name)
        mine = name == cls.__name__
        axes.loglog(
            evaluations, errors, "o-", color="#1f6fb5" if mine else MUTED, markersize=5 if mine else 2,
            linewidth=2 if mine else 0.8, alpha=1.0 if mine else 0.5, zorder=3 if mine else 2,
        )  # fmt: skip
        if mine:
            axes.annotate(
                name, (evaluations[-1], errors[-1]), xytext=(6, 0), textcoords="offset points", va="center",
                color="#1f6fb5", fontsize=10, annotation_clip=False,
            )  # fmt: skip
    axes.set(xlabel="denoiser evaluations", ylabel="whitened covariance error")
    axes.grid(color=RULE, linewidth=0.6)
    return png(figure, dpi=110)
