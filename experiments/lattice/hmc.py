r"""What Hybrid Monte Carlo says of the two theories: averages and the free energy.

    python -m experiments.lattice.hmc             # five minutes of one core; writes hmc.json
    python -m experiments.lattice.hmc 11 12       # the weak theory's averages again, with other seeds

−log Z comes from an exact free field: along S_s = (1 − s) S_0 + s S_1, which are φ⁴ actions too,
∂(−log Z)/∂s = ⟨S_1 − S_0⟩_s, integrated by Gauss-Legendre.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.hybrid_monte_carlo import HybridMonteCarlo, autocorrelation_time, probability
from experiments.lattice.theories import SITES, THEORIES
from physdiff.actions import Phi4Action, observables
from physdiff.jackknife import Estimate, mean_of
from physdiff.randomness import keyed_generator

FREE_HOPPING = 0.2
THERMALISATION = 300
CHAINS, TRAJECTORIES = 1024, 3000
CHAINS_OF_A_NODE, TRAJECTORIES_OF_A_NODE, NODES = 256, 1000, (6, 9)


def run(
    action: Phi4Action, chains: int, trajectories: int, seed: int, free: Phi4Action
) -> tuple[dict[str, Tensor], Tensor, float]:
    """Observables of each trajectory, shape (chains, trajectories), with S − S_0 of `free`; ΔH; the step."""
    generator = keyed_generator(seed, "hmc", f"{action}")
    start = torch.zeros(chains, 1, SITES, SITES, dtype=torch.float64)
    chain, x = HybridMonteCarlo(action).thermalised(start, THERMALISATION, generator)
    found: dict[str, list[Tensor]] = {}
    changes = []
    for _ in range(trajectories):
        x, change = chain.trajectory(x, generator)
        changes.append(change)
        values = observables(x, action)
        values["square_magnetisation"] = values["magnetisation"].square()
        values["excess"] = values["action"] - free(x)
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values, 1) for name, values in found.items()}, torch.stack(changes, 1), chain.step


def over_chains(values: Tensor) -> Estimate:
    """Mean and standard error: chains are independent."""
    return mean_of(values.mean(1))


def of_free_field(hopping: float) -> float:
    """−log Z at λ = 0: −½ Σ_k log(2π c_k)."""
    k = 2 * math.pi * torch.arange(SITES, dtype=torch.float64) / SITES
    spectrum = 0.5 / (1 - 2 * hopping * (torch.cos(k).unsqueeze(1) + torch.cos(k)))
    return -0.5 * float(torch.log(2 * math.pi * spectrum).sum())


def free_energy(action: Phi4Action, nodes: int, seed: int) -> Estimate:
    """−log Z, from the free field on."""
    free = Phi4Action(FREE_HOPPING, 0.0)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    total, variance = of_free_field(FREE_HOPPING), 0.0
    for s, weight in zip(0.5 * (points + 1), 0.5 * weights, strict=True):
        between = Phi4Action(FREE_HOPPING + s * (action.hopping - FREE_HOPPING), s * action.coupling)
        # S_s − S_0 = s (S_1 − S_0)
        excess = over_chains(run(between, CHAINS_OF_A_NODE, TRAJECTORIES_OF_A_NODE, seed, free)[0]["excess"] / s)
        total += weight * excess.value
        variance += (weight * excess.standard_error) ** 2
    return Estimate(total, math.sqrt(variance))


def of_theory(action: Phi4Action) -> dict[str, object]:
    """Estimates as [value, standard error], and what describes the chains."""
    found, changes, step = run(action, CHAINS, TRAJECTORIES, 0, Phi4Action(FREE_HOPPING, 0.0))
    del found["excess"]
    estimates = {name: over_chains(values) for name, values in found.items()}
    estimates["exp_minus_delta_h"] = over_chains(torch.exp(-changes))
    estimates |= {f"free_energy, {n} nodes": free_energy(action, n, seed=i + 1) for i, n in enumerate(NODES)}
    return {
        **{name: [e.value, e.standard_error] for name, e in estimates.items()},
        "acceptance": float(probability(changes).mean()),
        "leapfrog_step": step,
        "trajectories": CHAINS * TRAJECTORIES,
        **{f"autocorrelation_time_{name}": autocorrelation_time(values) for name, values in found.items()},
    }


def again(seeds: list[int]) -> None:
    """Print the weak theory's averages."""
    for seed in seeds:
        found = run(THEORIES["weak"], CHAINS, TRAJECTORIES, seed, Phi4Action(FREE_HOPPING, 0.0))[0]
        print(seed, {name: str(over_chains(values)) for name, values in found.items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:]:
        again([int(word) for word in sys.argv[1:]])
        sys.exit()
    results = {name: of_theory(action) for name, action in THEORIES.items()}
    (Path(__file__).parent / "hmc.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
