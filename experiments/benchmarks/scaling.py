"""How cost grows with the grid: seconds per cell, and evaluations to a fixed error.

1. One step of a solver and one evaluation of a log-density's velocity (no divergence), with a small U-Net (width 8)
   and without one, per cell, from 32² to 512² and from 16³ to 64³. What is without a network is the exact part alone.
2. The same physics and the same law of data on ever finer grids of one box: a mixture of three smooth fields with
   Matérn fluctuations, under the stochastic heat equation and the Matérn process. Evaluations until the flow's map
   back to t_min is within 1 % and 0.1 % of a fine solution (256 steps of the reference splitting), root mean square
   over cells relative to the field's; and evaluations that the adaptive solver takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from experiments.benchmarks._writing import keep, machine, table
from physdiff import Denoiser, GaussianField, Grid, LinearProcess, ReferencePath, SpectralBasis, fit_clock
from physdiff.denoisers import MixtureDenoiser, PosteriorMean
from physdiff.networks import UNet
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.randomness import SampleNoise
from physdiff.solvers import DDIM, AdaptiveODE, LogSpaced, ReferenceSplitting, ReverseDynamics, Solver, WhitenedAdams

PLANES, CUBES = (32, 64, 128, 256, 512), (16, 32, 64)
REFINED = (16, 32, 64, 128)


class Nothing(nn.Module):
    """A network of no cost."""

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


def measure() -> str:
    """The report, in Markdown."""
    torch.set_num_threads(1)
    costs, growth = list(_costs()), list(_growth())
    keep("scaling", {"costs": costs, "growth": growth})
    first = table(
        ["grid", "cells", "step, exact part, ns a cell", "step, U-Net, ns a cell", "exact part/U-Net",
         "velocity, U-Net, ns a cell"],
        [[c["grid"], str(c["cells"]), f"{c['exact']:.0f}", f"{c['network']:.0f}", f"{c['share']:.1%}",
          f"{c['velocity']:.0f}"] for c in costs],
    )  # fmt: skip
    second = table(
        ["process", "solver", *(f"{n}²" for n in REFINED)],
        [[g["process"], g["what"], *(str(e) if e > 0 else "over 400" for e in g["evaluations"])] for g in growth],
    )
    return "\n".join([
        "# Scaling\n", "`python -m experiments.benchmarks scaling` writes this page.\n", f"Machine: {machine()}.\n",
        (__doc__ or "").split("\n", 1)[1].strip() + "\n", "## Cost per cell\n", first,
        "## Evaluations to a fixed error\n", second,
    ])  # fmt: skip


# ---- cost


def _costs() -> list[dict[str, object]]:
    return [_cost((n, n)) for n in PLANES] + [_cost((n, n, n)) for n in CUBES]


def _cost(shape: tuple[int, ...]) -> dict[str, object]:
    basis = SpectralBasis(Grid(shape, 1.0, "periodic"))
    reference = GaussianField.matern(basis, 0.2)
    path = ReferencePath(fit_clock(Heat(basis), reference), reference)
    solver = DDIM()
    network = UNet(basis.grid, 1, width=8, multipliers=(1, 2, 2), blocks=1, seed=0)
    y = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    models = {"exact": Denoiser(Nothing(), path), "network": Denoiser(network, path)}

    @torch.no_grad()
    def step(model: PosteriorMean) -> None:
        path._recent.clear()  # a sample meets every time once
        t, s = (torch.tensor(x, dtype=torch.float64) for x in (0.5, 0.45))
        solver.step(ReverseDynamics(model), y, t, s, SampleNoise([0], "solver"))

    @torch.no_grad()
    def velocity() -> None:
        models["network"].velocity(y, path.at(0.5).time)

    calls: dict[str, Callable[[], None]] = {name: lambda m=m: step(m) for name, m in models.items()}
    seconds = medians({**calls, "velocity": velocity}, repeats=9 if math.prod(shape) < 1e5 else 5)
    cells = math.prod(shape)
    per_cell = {name: 1e9 * s / cells for name, s in seconds.items()}
    return {
        "grid": "x".join(map(str, shape)),
        "cells": cells,
        "share": seconds["exact"] / seconds["network"],
        **per_cell,
    }


def medians(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):  # in turn: what else the machine does falls on all alike
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - begin)
    return {name: sorted(times)[repeats // 2] for name, times in taken.items()}


# ---- evaluations


def _growth() -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for cls, settings in ((Heat, {"diffusivity": 0.05, "noise_level": 0.2}), (Matern, {"correlation_length": 0.2})):
        problems = [_problem(cls, settings, n) for n in REFINED]
        for solver in _rules():
            for tolerance in (1e-2, 1e-3):
                needed = [_needed(solver, *problem, tolerance) for problem in problems]
                what = f"{solver!r} to {tolerance:.1%}"
                found.append({"process": cls.__name__, "what": what, "evaluations": needed})
        found.append({
            "process": cls.__name__, "what": "AdaptiveODE at its default tolerances",
            "evaluations": [_adaptive(model, start) for model, start, _ in problems],
        })  # fmt: skip
    return found


def _rules() -> list[Solver]:
    return [DDIM(), ReferenceSplitting(), WhitenedAdams(3)]


def _problem(cls: type[LinearProcess], settings: dict[str, float], n: int) -> tuple[MixtureDenoiser, Tensor, Tensor]:
    """A mixture of fields on the unit box, which has the same low modes on every grid, and starts of its flow."""
    basis = SpectralBasis(Grid((n, n), (1.0, 1.0), "periodic"))
    x, y = torch.meshgrid(*[(torch.arange(n, dtype=torch.float64) + 0.5) / n] * 2, indexing="ij")
    waves = [torch.sin(2 * math.pi * (a * x + b * y) + c) for a, b, c in ((1, 0, 0.0), (1, 1, 1.0), (0, 2, 2.0))]
    means = basis.forward(torch.stack(waves)[:, None])
    fluctuation = GaussianField.matern(basis, 0.2).spectrum
    spectra = torch.stack([a * fluctuation for a in (0.3, 0.15, 0.5)])
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = MixtureDenoiser.reference(basis, weights, means, spectra)
    process = fit_clock(cls(basis, **settings), reference, 0.05)
    model = MixtureDenoiser.around_itself(process, weights, means, spectra, 0.02)
    # The same noise in the same modes on every grid: white noise on the coarsest, refined by independent small scales.
    z = _nested_noise(n)
    start = model.path.at(1.0).unwhiten(z)
    return model, start, _end(ReferenceSplitting(), model, start, 256)


def _nested_noise(n: int) -> Tensor:
    """Unit normal modes (4, 1, n, n); those of wavenumber below 8 are the same for every n."""
    low = torch.randn(4, 1, 15, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.randn(4, 1, n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    index = torch.cat([torch.arange(8), torch.arange(n - 7, n)])
    z[:, :, index[:, None], index] = low
    return z


def _end(solver: Solver, model: PosteriorMean, start: Tensor, steps: int) -> Tensor:
    dynamics, y = ReverseDynamics(model), start
    for t, s in pairwise(LogSpaced().between(model.path, steps)):
        y = solver.step(dynamics, y, t, s, SampleNoise(range(len(start)), "solver"))
    return y


def _needed(solver: Solver, model: PosteriorMean, start: Tensor, wanted: Tensor, tolerance: float) -> int:
    """Evaluations until the map is right to a tolerance, in steps that grow by a fourth."""
    scale = float((wanted - model.path.at(model.path.t_min).mean).square().mean().sqrt())
    steps = 4
    while steps < 400:
        error = float((_end(solver, model, start, steps) - wanted).square().mean().sqrt()) / scale
        if error <= tolerance:
            return steps * solver.evaluations + solver.start_evaluations
        steps = math.ceil(1.25 * steps)
    return -1


def _adaptive(model: PosteriorMean, start: Tensor) -> int:
    dynamics = ReverseDynamics(model)
    one, t_min = (torch.tensor(t, dtype=torch.float64) for t in (1.0, model.path.t_min))
    AdaptiveODE().step(dynamics, start, one, t_min, SampleNoise(range(len(start)), "solver"))
    return dynamics.evaluations
