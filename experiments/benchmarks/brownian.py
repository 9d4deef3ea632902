"""What torchsde costs over a plain loop, and where it goes.

Fifty steps of the reverse equation with an exact denoiser of Gaussian data: `EulerMaruyama` in a plain loop, `TorchSDE`
by the same rule, told the same stops and in one solve. Each sample has a Brownian interval of its own there, so that it
is the same in any batch. Medians of calls that alternate; the share is of the profiled time of one solve.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from experiments.benchmarks._writing import keep, machine, table
from experiments.benchmarks.scaling import medians
from physdiff import (
    Angle,
    EulerMaruyama,
    GaussianDenoiser,
    GaussianField,
    Grid,
    ReferencePath,
    SpectralBasis,
    fit_clock,
)
from physdiff.processes.matern import Matern
from physdiff.randomness import SampleNoise
from physdiff.solvers import ReverseDynamics, Solver, TorchSDE

STEPS = 50
SETTINGS = ((32, (16, 16)), (32, (64, 64)), (1024, (4,)))


def measure() -> str:
    """The report, in Markdown."""
    torch.set_num_threads(1)
    rows, numbers = [], []
    for batch, shape in SETTINGS:
        calls = _calls(batch, shape)
        seconds = medians(calls, repeats=3)
        share = _share_of_intervals(calls["one solve"])
        plain = seconds["plain loop"]
        cells = [f"{s:.2f} s ({s / plain:.1f})" for s in seconds.values()]
        rows.append([f"{batch} of {'x'.join(map(str, shape))}", *cells, f"{share:.0%}"])
        numbers.append({"batch": batch, "shape": shape, "seconds": seconds, "share_of_intervals": share})
    keep("brownian", {"rows": numbers})
    head = ["samples", "plain loop", f"torchsde, {STEPS} stops", "torchsde, one solve", "of which Brownian intervals"]
    return "\n".join([
        "# torchsde\n", "`python -m experiments.benchmarks brownian` writes this page.\n", f"Machine: {machine()}.\n",
        (__doc__ or "").split("\n", 1)[1].strip() + "\n", table(head, rows),
    ])  # fmt: skip


def _calls(batch: int, shape: tuple[int, ...]) -> dict[str, Callable[[], None]]:
    basis = SpectralBasis(Grid(shape, 1.0, "periodic"))
    reference = GaussianField.matern(basis, 0.2)
    path = ReferencePath(fit_clock(Matern(basis), reference), reference, 0.05)
    model = GaussianDenoiser(path)
    start = path.at(1.0).unwhiten(SampleNoise(range(batch), "start")((1, *shape)))

    def run(solver: Solver, times: Tensor) -> None:
        dynamics, noise, y = ReverseDynamics(model), SampleNoise(range(batch), "solver"), start
        for t, s in pairwise(times):
            y = solver.step(dynamics, y, t, s, noise)

    stops, ends = Angle().between(path, STEPS), Angle().between(path, 1)
    return {
        "plain loop": lambda: run(EulerMaruyama(), stops),
        "stops": lambda: run(TorchSDE("euler"), stops),
        "one solve": lambda: run(TorchSDE("euler", substeps=STEPS), ends),
    }


def _share_of_intervals(call: Callable[[], None]) -> float:
    """Of the time of a call, that within torchsde's Brownian intervals."""
    profile = cProfile.Profile()
    profile.runcall(call)
    stats = pstats.Stats(profile)
    inside = max(
        (entry[3] for (file, _, name), entry in stats.stats.items()  # pyright: ignore[reportAttributeAccessIssue]
         if file.endswith("brownian_interval.py") and name == "__call__"), default=0.0,
    )  # fmt: skip
    return inside / stats.total_tt  # pyright: ignore[reportAttributeAccessIssue]
