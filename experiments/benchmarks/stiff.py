"""Stiff physics: the heat equation whose fastest mode decays 10 to 1,000 times as fast as its slowest.

Data is a mixture of three Gaussians, its means apart by about its spread, on a rod with walls; the flow back to t_min
is compared with DOP853 on the plain equation, in standard deviations, root mean square over modes and eight starts.
The order is the slope between the two finest of the steps.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from experiments.benchmarks._writing import curves, keep, table
from experiments.benchmarks.few_steps import exact_flow
from physdiff import Grid, SpectralBasis, fit_clock
from physdiff.denoisers import MixtureDenoiser
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.processes.heat import Heat
from physdiff.randomness import SampleNoise
from physdiff.solvers import ReverseDynamics, Solver, TimeGrid, solvers, time_grids

HERE = Path(__file__).parent
STIFFNESS = (10, 100, 1000)
STEPS = (8, 16, 32, 64, 128, 256)


def measure() -> str:
    """The report, in Markdown."""
    torch.set_num_threads(1)
    rows, numbers, lines = [], [], {}
    for stiffness in STIFFNESS:
        model, start, wanted = problem(stiffness)
        for solver in _rules():
            for grid in _grids():
                errors = {n: _error(solver, grid, model, start, wanted, n) for n in STEPS}
                last, one_before = errors[STEPS[-1]], errors[STEPS[-2]]
                slope = math.log2(one_before / last) if last > 0 else math.nan
                cells = [f"{errors[n]:.1e}" for n in STEPS]
                declared = str(solver.order)
                rows.append([str(stiffness), repr(solver), repr(grid), *cells, f"{slope:.2f}", declared])
                numbers.append({"stiffness": stiffness, "solver": repr(solver), "grid": repr(grid), "errors": errors,
                                "slope": slope, "order": solver.order})  # fmt: skip
                if stiffness == STIFFNESS[-1]:
                    lines[f"ours: {solver!r}, {grid!r}"] = {n * solver.evaluations: e for n, e in errors.items()}
    keep("stiff", {"rows": numbers})
    curves(HERE / "stiff.png", lines, "evaluations", "error at stiffness 1,000, standard deviations")
    head = ["stiffness", "solver", "times", *map(str, STEPS), "slope", "declared"]
    return "\n".join([
        "# Stiff physics\n", "`python -m experiments.benchmarks stiff` writes this page.\n",
        (__doc__ or "").split("\n", 1)[1].strip() + "\n", "Errors by the number of steps:\n", table(head, rows),
        "![Errors at stiffness 1,000](stiff.png)\n",
    ])  # fmt: skip


def problem(stiffness: int) -> tuple[MixtureDenoiser, Tensor, Tensor]:
    """A mixture under heat, starts at t = 1 in modes, and where their flow ends at t_min, whitened."""
    cells = round(math.sqrt(stiffness)) + 1  # with walls λ_j ≈ (πj)², j from 1
    basis = SpectralBasis(Grid(cells, 1.0, "neumann"))
    rates = basis.laplacian[basis.laplacian > 0]
    reference = smooth_reference(basis)
    process = fit_clock(Heat(basis, diffusivity=1.0 / float(rates.min()), noise_level=1.0), reference, 0.05)
    model = bimodal(process, reference)
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(8, 1, cells, generator=generator, dtype=torch.float64)
    return model, model.path.at(1.0).unwhiten(z), exact_flow(model, z)[0]


def _rules() -> list[Solver]:
    """Rules without noise that take the steps they are told to."""
    made = [rule for cls in solvers.classes().values() for rule in cls.examples()]
    return [rule for rule in made if not rule.stochastic and not rule.adaptive]


def _grids() -> list[TimeGrid]:
    known = time_grids.classes()
    return [known[name]() for name in ("LogSpaced", "Angle", "Uniform") if name in known]


def _error(solver: Solver, grid: TimeGrid, model: MixtureDenoiser, start: Tensor, wanted: Tensor, steps: int) -> float:
    dynamics, y = ReverseDynamics(model), start
    noise = SampleNoise(range(len(start)), "solver")
    for t, s in pairwise(grid.between(model.path, steps)):
        y = solver.step(dynamics, y, t, s, noise)
    return float((model.path.at(model.path.t_min).whiten(y) - wanted).square().mean().sqrt())
