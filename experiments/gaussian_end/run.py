"""Do the conserving flows end in the exact Gaussian law, and sooner than their linear part alone?

Data that is as far from Gaussian as one profile in random places: each busy mode is a sinusoid of random phase, with an
excess kurtosis of −1.5. Runs under the whole equation and under its linear part alone; variance over c∞ and excess
kurtosis of every mode, and how far both are from the Gaussian's in standard errors of so many runs.

    python -m experiments.gaussian_end.run
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.grid import Grid
from physdiff.processes.euler_vorticity import EulerVorticity
from physdiff.processes.stochastic_burgers import StochasticBurgers
from physdiff.semilinear import SemilinearProcess

HERE = Path(__file__).parent
RUNS = 8000
TIMES = (0.0, 0.5, 1.0, 2.0, 3.0)
STEPS = 40  # per unit of time


def burgers() -> tuple[SemilinearProcess, Tensor]:
    """24 cells on a line; a sine and its harmonic."""
    basis, generator = SpectralBasis(Grid(24)), torch.Generator().manual_seed(0)
    place = torch.arange(24, dtype=torch.float64) / 24 - torch.rand((RUNS, 1, 1), generator=generator).double()
    profile = 2 * torch.sin(2 * math.pi * place) + torch.cos(4 * math.pi * place)
    return StochasticBurgers(basis, strength=0.3), profile


def euler() -> tuple[SemilinearProcess, Tensor]:
    """9 x 9 cells on a torus; three waves that feed one another."""
    basis, generator = SpectralBasis(Grid((9, 9), 1.0, "periodic")), torch.Generator().manual_seed(1)
    place = [torch.arange(9, dtype=torch.float64) / 9 - torch.rand((RUNS, 1, 1), generator=generator) for _ in range(2)]
    x, y = place[0].unsqueeze(-1), place[1].unsqueeze(-2)
    waves = torch.cos(2 * math.pi * (x + 2 * y)) + torch.sin(2 * math.pi * (2 * x - y)) + torch.cos(2 * math.pi * x)
    return EulerVorticity(basis, strength=4.0), waves.double()


def moments(y: Tensor, c: Tensor) -> dict[str, float]:
    """Extremes over modes, and their distance from N(0, c) in standard errors."""
    ratio = y.square().mean(0) / c
    kurtosis = (y**4).mean(0) / y.square().mean(0) ** 2 - 3
    return {
        "variance_low": float(ratio.min()), "variance_high": float(ratio.max()),
        "kurtosis_low": float(kurtosis.min()), "kurtosis_high": float(kurtosis.max()),
        "variance_z": float((ratio - 1).abs().max()) / math.sqrt(2 / RUNS),
        "kurtosis_z": float(kurtosis.abs().max()) / math.sqrt(24 / RUNS),
    }  # fmt: skip


def run(name: str, process: SemilinearProcess, fields: Tensor) -> dict[str, Any]:
    """Moments at all times with the reaction and without; the energy defect of the reaction."""
    basis = process.basis
    rate = process.reaction(fields, torch.zeros((), dtype=torch.float64))
    defect = float((fields * rate).flatten(1).sum(1).abs().max() / (fields[0].norm() * rate[0].norm()))
    c = (process.noise_spectrum() / (-2 * process.drift_symbol())).expand(basis.grid.shape)
    alive = c > 0
    found: dict[str, Any] = {"energy_defect": defect, "modes": int(alive.sum()), "runs": RUNS, "times": {}}
    generator = torch.Generator().manual_seed(2)
    whole = linear = basis.forward(fields)
    for since, until in zip(TIMES, (*TIMES[1:], None), strict=True):
        pair = {"whole": whole, "linear": linear}
        found["times"][str(since)] = {way: moments(y[:, 0][:, alive], c[alive]) for way, y in pair.items()}
        if until is None:
            break
        edges = torch.linspace(since, until, round(STEPS * (until - since)) + 1, dtype=torch.float64)
        for a, b in pairwise(edges):
            whole = process.step(whole, a, b, torch.randn(whole.shape, generator=generator, dtype=torch.float64))
            noise = torch.randn(linear.shape, generator=generator, dtype=torch.float64)
            kernel = process.transition(a, b)
            linear = kernel.gain * linear + kernel.variance.sqrt() * noise
    print(name, json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    torch.set_num_threads(2)
    results = {"StochasticBurgers": run("Burgers", *burgers()), "EulerVorticity": run("Euler", *euler())}
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
