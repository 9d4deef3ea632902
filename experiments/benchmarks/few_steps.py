"""How good are few steps: every solver here and three other libraries, on laws whose exact flow is known.

Noise is variance preserving with Song's β (0.1 to 20), from the noise-to-signal ratio that it ends at, σ_max = 152,
to one far below the weakest mode, and then to the clean field. Everybody starts from the same state and gets the same
exact denoiser; what is counted is its calls. Of each library each usual spacing of noise levels is tried.

1. A Gaussian field, 64², whose power falls over six decades. The map of a sampler without noise is a factor per mode,
   so its spectrum is known without drawing a sample; of one with noise, per mode and per draw.
2. Three mixtures of eight Gaussians, far from Gaussian. Error of the probability-flow map: distance to where the
   exact flow ends (DOP853 at 1e-10), in standard deviations, root mean square over modes and starts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from experiments.benchmarks._peers import Counted, peers
from experiments.benchmarks._writing import curves, keep, table
from physdiff import (
    GaussianDenoiser,
    GaussianField,
    Grid,
    IdentityBasis,
    LinearRateClock,
    MixtureDenoiser,
    SpectralBasis,
)
from physdiff.basis import Basis
from physdiff.denoisers import PosteriorMean
from physdiff.path import ReferencePath
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers import (
    Angle,
    Calibrated,
    LogSpaced,
    ReverseDynamics,
    Solver,
    TimeGrid,
    WhitenedAdams,
    solvers,
    time_grids,
)

HERE = Path(__file__).parent
BUDGETS = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256)
SHOWN = (1, 4, 8, 16, 32, 64, 128, 256)
STARTS = 64
CLOCK = LinearRateClock(0.1, 20.0)
PILOT_SEED, START_SEED, PILOTS = 1, 2, 16


@dataclass(frozen=True)
class Curve:
    """Errors of one sampler with one spacing, by evaluations.

    Attributes:
        name: The sampler.
        options: The spacing of its noise levels.
        ours: Whether it is of this package.
        errors: By the budget of evaluations; missing where not one step fits into it.
        used: Calls that were made of each budget.
        medians: Over starts, of the root mean square over modes; for mixtures.
    """

    name: str
    options: str
    ours: bool
    errors: dict[int, float]
    used: dict[int, int]
    medians: dict[int, float] = field(default_factory=dict)


def measure() -> str:
    """The report, in Markdown; figures and numbers are written beside it."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    found: dict[str, list[Curve]] = {"gaussian": list(gaussian())}
    for name in MIXTURES:
        found[name] = list(mixture(name))
    keep("few_steps", {k: [vars(c) for c in v] for k, v in found.items()})
    parts = ["# Few steps\n", "`python -m experiments.benchmarks few_steps` writes this page.\n", _explained()]
    parts += ["## A Gaussian field\n", _gaussian_words(found["gaussian"]), _table(found["gaussian"])]
    for name, words in MIXTURES.items():
        parts += [
            f"## Mixture: {name}\n",
            f"{words[0].upper()}{words[1:]}.\n",
            _verdict(found[name]),
            _table(found[name]),
        ]
        curves(
            HERE / f"few_steps_{name}.png", _lines(found[name]), "evaluations of the denoiser",
            "error of the flow's map, standard deviations",
        )  # fmt: skip
        parts.append(f"![{name}](few_steps_{name}.png)\n")
    return "\n".join(parts)


def _explained() -> str:
    return (__doc__ or "").split("\n\n", 1)[1]


# ---- the two kinds of worlds


def path_of(basis: Basis, reference: GaussianField) -> ReferencePath:
    """The reference under Song's process, from σ_max down to a hundredth of the weakest mode's deviation."""
    process = VariancePreserving(basis, clock=CLOCK)
    smallest = float(reference.spectrum[reference.support].min())
    time = math.log1p(1e-4 * smallest)
    return ReferencePath(process, reference, float(CLOCK.inverse(torch.tensor(time, dtype=torch.float64))))


def ratio(path: ReferencePath, t: float) -> float:
    """σ = √S/m at t."""
    return math.sqrt(math.expm1(float(path.clock.time(torch.tensor(t, dtype=torch.float64)))))


def denoise_of(model: PosteriorMean) -> Callable[[Tensor, float], Tensor]:
    """E[x | x + σε] in modes, about the mean, as a peer asks for it: noise-to-signal ratio and states of any scale."""
    path, shape = model.path, tuple(model.path.reference.spectrum.shape)

    def denoise(noisy: Tensor, sigma: float) -> Tensor:
        point = path.at_time(torch.tensor(math.log1p(sigma**2), dtype=torch.float64))
        t = path.clock.inverse(point.time)
        y = point.amplitude * noisy.reshape(-1, *shape)
        return (point.wiener(y) + model.residual(y, t)).reshape(noisy.shape)

    return denoise


def run(solver: Solver, grid: TimeGrid, model: PosteriorMean, start: Tensor, budget: int) -> tuple[Tensor, int] | None:
    """The clean modes that a solver without noise makes of a start, and its calls; None if no step fits."""
    steps = (budget - solver.start_evaluations) // solver.evaluations
    if solver.evaluations == 2:  # the step to the clean field takes one
        steps = (budget + 1) // 2
    while steps >= 1:
        dynamics, y = ReverseDynamics(model), start
        for t, s in pairwise(grid.times(model.path, steps)):
            y = solver.step(dynamics, y, t, s, _no_noise)
        if dynamics.evaluations <= budget:
            return y, dynamics.evaluations
        steps -= 1
    return None


def _no_noise(shape: tuple[int, ...]) -> Tensor:
    raise AssertionError("a rule without noise drew some")


def rules() -> Iterator[Solver]:
    """Every registered step rule that takes the steps it is told to, with the settings that the laws try."""
    for cls in solvers.classes().values():
        if not cls.adaptive:
            yield from cls.examples()
    yield WhitenedAdams(5)  # no example of the laws, as its start is of order 4


def grids() -> list[TimeGrid]:
    """Every registered time grid that needs no pilots."""
    return [cls() for cls in time_grids.classes().values()]


# ---- 1: Gaussian


def gaussian() -> Iterator[Curve]:
    """Spectrum errors of every sampler, with its best spacing of each budget left to the reader."""
    basis = SpectralBasis(Grid((64, 64), (1.0, 1.0), "periodic"))
    wavenumber = basis.laplacian.sqrt() / (2 * math.pi)
    spectrum = wavenumber.clamp(min=1.0) ** (-6 / math.log10(float(wavenumber.max())))
    reference = GaussianField(basis, torch.zeros(1, 64, 64, dtype=torch.float64), (spectrum / spectrum.mean())[None])
    path = path_of(basis, reference)
    model = GaussianDenoiser(path)
    for solver in rules():
        for grid in grids() if not solver.stochastic else [LogSpaced(), Angle()]:  # of those with noise a run a draw
            yield _curve(repr(solver), grid, lambda b, s=solver, g=grid: _spectrum_error(s, g, model, b))
    high, low = ratio(path, 1.0), ratio(path, path.t_min)
    c, denoise = reference.spectrum.reshape(1, -1), denoise_of(model)
    start = (c + high**2).sqrt()
    for peer in peers():
        errors, used = {}, {}
        for budget in BUDGETS:
            if (steps := peer.steps(budget)) >= 1:
                counted = Counted(denoise)
                end = peer.run(counted, start, high, low, steps)
                wanted = c if peer.ends_clean else c + low**2
                errors[budget], used[budget] = float((end.square() / wanted - 1).square().mean().sqrt()), counted.calls
        yield Curve(peer.name, peer.options, False, errors, used)


def _curve(name: str, grid: TimeGrid, error: Callable[[int], tuple[float, int, float] | None]) -> Curve:
    curve = Curve(name, label(grid), True, {}, {})
    for budget in BUDGETS:
        if (found := error(budget)) is not None:
            curve.errors[budget], curve.used[budget], curve.medians[budget] = found
    return curve


def _spectrum_error(
    solver: Solver, grid: TimeGrid, model: PosteriorMean, budget: int
) -> tuple[float, int, float] | None:
    """Relative error of the spectrum of samples, root mean square over modes: exact, by unit noise in all modes.

    Everything here is diagonal: the answer to noise in all modes is the answer to noise in each.
    """
    reference = model.path.reference
    shape = tuple(reference.spectrum.shape)
    steps = max(1, (budget - solver.start_evaluations) // solver.evaluations)

    def through(start: Tensor, noise: Callable[[tuple[int, ...]], Tensor]) -> tuple[Tensor, int]:
        dynamics, y = ReverseDynamics(model), start
        for t, s in pairwise(grid.times(model.path, steps)):
            y = solver.step(dynamics, y, t, s, noise)
        return y, dynamics.evaluations

    draws = 0

    def counted(_: tuple[int, ...]) -> Tensor:
        nonlocal draws
        draws += 1
        return torch.zeros(1, *shape, dtype=torch.float64)

    one = model.path.at(1.0).unwhiten(torch.ones(1, *shape, dtype=torch.float64))
    end, evaluations = through(one, counted)
    if evaluations > budget:
        return None
    power = end[0].square()
    for first in range(0, draws, 64):  # so many draws at a time
        rows, call = range(first, min(first + 64, draws)), 0

        def unit(_: tuple[int, ...], rows: range = rows) -> Tensor:
            nonlocal call
            noise = torch.zeros(len(rows), *shape, dtype=torch.float64)
            if call in rows:
                noise[call - rows.start] = 1.0
            call += 1
            return noise

        power = power + through(torch.zeros(len(rows), *shape, dtype=torch.float64), unit)[0].square().sum(0)
    support = reference.support
    relative = (power / reference.spectrum - 1)[support].abs()
    return float(relative.square().mean().sqrt()), evaluations, float(relative.median())


# ---- 2: mixtures

MIXTURES = {
    "flat": "64 modes of about equal power, means 0.8 and deviations 0.6 of the spread apart, in all modes",
    "steep": "8 x 8 modes whose power falls as k⁻³, means and deviations as in the first",
    "few": "64 modes, means far apart in four of them and none in the others",
}


def mixture_model(name: str) -> MixtureDenoiser:
    """A mixture of eight Gaussians around its own moments."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    weights = torch.rand(8, generator=g, dtype=torch.float64) + 0.5
    basis: Basis = IdentityBasis(Grid(64))
    shape: tuple[int, ...] = (1, 64)
    power = torch.ones(64, dtype=torch.float64)
    if name == "steep":
        basis, shape = IdentityBasis(Grid((8, 8))), (1, 8, 8)
        line = torch.fft.fftfreq(8, 1 / 8, dtype=torch.float64)
        wavenumber = (line[:, None] ** 2 + line**2).sqrt().flatten()
        wavenumber[0] = 0.7
        power = wavenumber**-3 / (wavenumber**-3).mean()
    if name == "few":
        means = torch.zeros(8, 64, dtype=torch.float64)
        means[:, :4] = 2 * normal(8, 4)
        spectra = 0.3 * torch.exp(0.5 * normal(8, 64))
    else:
        means = 0.8 * normal(8, 64) * power.sqrt()
        spectra = 0.36 * power * torch.exp(0.7 * normal(8, 64))
    means, spectra = means.reshape(8, *shape), spectra.reshape(8, *shape)
    reference = MixtureDenoiser.reference(basis, weights, means, spectra)
    return MixtureDenoiser(path_of(basis, reference), weights, means, spectra)


def starts(model: PosteriorMean, seed: int, n: int = STARTS) -> Tensor:
    """Whitened states at t = 1."""
    shape = tuple(model.path.reference.spectrum.shape)
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_flow(model: PosteriorMean, z: Tensor) -> tuple[Tensor, Tensor]:
    """Whitened states at t_min and at t = 0 where the exact probability flow ends, from z at t = 1.

    From t_min on, with noise a hundredth of the weakest mode, one long step of the flow's own integral is exact to the
    last digits that matter here: it is integrated down to a millionth of the noise variance of t_min.
    """
    path, shape = model.path, z.shape

    def slope(log_time: float, state: np.ndarray) -> np.ndarray:
        time = torch.tensor(log_time, dtype=torch.float64).exp()
        return model.velocity(torch.from_numpy(state).reshape(shape), time).flatten().numpy()

    logs = [float(path.at(t).time.log()) for t in (1.0, path.t_min)]
    ends = (logs[1], logs[1] - math.log(1e6))
    solution = solve_ivp(
        slope, (logs[0], ends[1]), z.flatten().numpy(), method="DOP853", rtol=1e-10, atol=1e-12, t_eval=ends
    )
    found = torch.from_numpy(solution.y.T).reshape(2, *shape)
    return found[0], found[1]


def mixture(name: str) -> Iterator[Curve]:
    """Map errors of every sampler without noise."""
    model = mixture_model(name)
    path = model.path
    z = starts(model, START_SEED)
    start, (at_end, clean) = path.at(1.0).unwhiten(z), exact_flow(model, z)
    root = path.reference.spectrum.sqrt()
    own = Calibrated.measure(model, pilots=PILOTS, seed=PILOT_SEED)  # from other starts than are measured

    def missed(end: Tensor) -> Tensor:
        return ((end - path.reference.mean) / root - clean).flatten(1).square().mean(1).sqrt()

    def both(distances: Tensor) -> tuple[float, float]:
        return float(distances.square().mean().sqrt()), float(distances.median())

    for solver in rules():
        if solver.stochastic:
            continue
        for grid in [*grids(), own]:

            def error(budget: int, solver: Solver = solver, grid: TimeGrid = grid) -> tuple[float, int, float] | None:
                found = run(solver, grid, model, start, budget)
                if found is None:
                    return None
                whole, middle = both(missed(found[0]))
                return whole, found[1], middle

            yield _curve(repr(solver), grid, error)
    high, low = ratio(path, 1.0), ratio(path, path.t_min)
    gain, denoise, bottom = path.at(1.0).amplitude, denoise_of(model), path.at(path.t_min)
    for peer in peers():
        curve = Curve(peer.name, peer.options, False, {}, {})
        for budget in BUDGETS:
            if (steps := peer.steps(budget)) < 1:
                continue
            counted = Counted(denoise)
            end = peer.run(counted, (start / gain).flatten(1), high, low, steps).reshape(start.shape)
            if peer.ends_clean:
                distances = missed(end)
            else:
                distances = (bottom.whiten(end * bottom.amplitude) - at_end).flatten(1).square().mean(1).sqrt()
            curve.errors[budget], curve.medians[budget] = both(distances)
            curve.used[budget] = counted.calls
        yield curve


def label(grid: TimeGrid) -> str:
    """A grid's name with its settings."""
    return f"calibrated on {PILOTS} pilots" if isinstance(grid, Calibrated) else repr(grid)


# ---- words and figures


def best_spacing(found: list[Curve]) -> list[Curve]:
    """Each sampler with the noise levels that suit it best, by its error at 32 evaluations; ours first, best first."""
    chosen: dict[str, Curve] = {}
    for c in found:
        if c.name not in chosen or _at(c, 32) < _at(chosen[c.name], 32):
            chosen[c.name] = c
    return sorted(chosen.values(), key=lambda c: (not c.ours, _at(c, 32)))


def _at(curve: Curve, budget: int) -> float:
    return curve.errors.get(budget, math.inf)


def _table(found: list[Curve]) -> str:
    rows = []
    for c in best_spacing(found):
        rows.append([c.name, c.options, *(f"{c.errors[b]:.1e}" if b in c.errors else "" for b in SHOWN)])
    return table(["sampler", "its best noise levels", *map(str, SHOWN)], rows)


def best(found: list[Curve], ours: bool, budget: int) -> Curve:
    """Who is best with so many calls."""
    return min((c for c in found if c.ours is ours), key=lambda c: _at(c, budget))


def _gaussian_words(found: list[Curve]) -> str:
    exact = sorted({c.name for c in found if c.ours and max(c.errors.values()) < 1e-9})
    one = best(found, False, 1)
    other = best(found, False, 256)
    worst = max(max(c.errors.values()) for c in found if c.name in exact)
    return (
        f"Relative error of the spectrum, root mean square over modes. Right in any number of evaluations, one "
        f"included, to {worst:.0e}: {', '.join(exact)}. With one the best of the others is off by "
        f"{one.errors[1]:.0%}, with 256 by {other.errors[256]:.1e} ({other.name}, {other.options}).\n"
    )


def _verdict(found: list[Curve]) -> str:
    goal = best(found, False, 64)
    target = goal.errors[64]
    enough = [
        (min(b for b in c.errors if c.errors[b] <= target), c)
        for c in found if c.ours and min(c.errors.values()) <= target
    ]  # fmt: skip
    needed, winner = min(enough, key=lambda pair: (pair[0], pair[1].errors[pair[0]]))
    ours, few, theirs = best(found, True, 64), best(found, True, 16), best(found, False, 16)
    return (
        f"The best of the others at 64 evaluations is {goal.name} ({goal.options}): {target:.1e}, median over starts "
        f"{goal.medians[64]:.1e}. Ours is as good with {needed}: {winner.name}, {winner.options}, "
        f"{winner.errors[needed]:.1e}. With 16 the best of ours has {few.errors[16]:.1e}, median {few.medians[16]:.1e} "
        f"({few.name}, {few.options}), of theirs {theirs.errors[16]:.1e}, median {theirs.medians[16]:.1e}; with 64 "
        f"ours has {ours.errors[64]:.1e}.\n"
    )


def _lines(found: list[Curve]) -> dict[str, dict[int, float]]:
    """The curves of a figure."""
    return {f"{'ours: ' if c.ours else ''}{c.name}": c.errors for c in best_spacing(found)}
