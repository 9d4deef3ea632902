"""Configurations of a φ⁴ theory on a periodic lattice, by Hybrid Monte Carlo.

    S(φ) = Σ_x [ −2κ Σ_μ φ_x φ_{x+μ} + (1 − 2λ) φ_x² + λ φ_x⁴ ],        law e^{−S}/Z.

Each split has chains of its own, so no configuration of one descends from another's. Configurations of a chain are kept
twice the longest measured autocorrelation time apart.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.actions import Phi4Action, observables
from physdiff.atomic import replacing_folder
from physdiff.data.fields import SPLITS
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile, write_stats
from physdiff.grid import Grid
from physdiff.randomness import keyed_generator

from .devices import device_of
from .hybrid_monte_carlo import HybridMonteCarlo, autocorrelation_time, probability

NAME = "lattice_phi4"
SUMMARY = "lattice φ⁴ theory near its transition: 8 x 8 periodic sites, 352 chains of Hybrid Monte Carlo"

_MEASURED = 256  # trajectories on which the autocorrelation time is measured
_LEAST_ACCEPTED = 0.2  # far below what the step is tuned to, chains hardly move
_AT_ONCE = 1 << 25  # bytes of chains that are written in one piece


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_chains: int = 256,
    valid_chains: int = 32,
    test_chains: int = 64,
    configurations: int = 64,
    sites: int = 8,
    hopping: float = 0.21,
    coupling: float = 0.022,
    thermalisation: int = 400,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Run the chains and write `<folder>/data/{train,valid,test}/lattice_phi4.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers.
        progress: Whether a progress bar is shown.
        train_chains: Independent chains to train on.
        valid_chains: Independent chains to validate on.
        test_chains: Independent chains to test on.
        configurations: Kept of each chain.
        sites: Along each of two axes.
        hopping: κ > 0.
        coupling: λ ≥ 0; without it κ must be below 1/4.
        thermalisation: Trajectories before the first configuration, at least 2; the step is tuned in half of them.
        device: Where the chains run: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    chains = dict(zip(SPLITS, (train_chains, valid_chains, test_chains), strict=True))
    if min(*chains.values(), configurations, sites) < 1 or thermalisation < 2:
        raise ValueError(
            f"chains, configurations and sites must be positive and thermalisation at least 2; got {chains} chains, "
            f"{configurations} configurations, {sites} sites, {thermalisation} trajectories."
        )
    device = device_of(device)
    action = Phi4Action(hopping, coupling)
    action.check_finite(2)
    grid = Grid((sites, sites), float(sites), "periodic")
    count = sum(chains.values())
    generator = keyed_generator(seed, NAME)
    with replacing_folder(folder, overwrite) as partial:
        start = torch.zeros(count, 1, sites, sites, dtype=torch.float64, device=device)
        chain, x = HybridMonteCarlo(action).thermalised(start, thermalisation, generator)
        times, x = _autocorrelation(chain, x, action, generator)
        interval = max(math.ceil(2 * max(times.values())), 1)
        # Chains advance together and are stored one after the other: on disk in between, so that it bounds the size.
        parked = partial / "chains.npy"
        shape = (count, configurations, sites, sites)
        values = np.lib.format.open_memmap(parked, mode="w+", dtype=np.float32, shape=shape)
        changes = []
        for i in tqdm(range(configurations), desc=NAME, unit="configuration", disable=not progress):
            for _ in range(interval):
                x, change = chain.trajectory(x, generator)
                changes.append(change)
            values[:, i] = x[:, 0].cpu().numpy()
        measured = _measured(torch.stack(changes), times, chain, interval)
        if progress:
            print("  ".join(f"{name} {value:.4g}" for name, value in measured.items()))
        first, at_once = 0, max(1, _AT_ONCE // values[0].nbytes)
        for split, n in chains.items():
            with WellFile(
                partial / "data" / split / f"{NAME}.hdf5", {"phi": FieldSpec()}, grid, n,
                interval * np.arange(1, configurations + 1),
                parameters={"hopping": hopping, "coupling": coupling},
                attrs={"dataset_name": NAME, "seed": seed, "thermalisation": thermalisation, **measured},
            ) as file:  # fmt: skip
                for start in range(0, n, at_once):
                    last = min(start + at_once, n)
                    file.write(start, {"phi": values[first + start : first + last]})
            first += n
        del values
        parked.unlink()
        write_stats(partial)
        shutil.copyfile(Path(__file__).parent / "cards" / f"{NAME}.md", partial / "card.md")
    return Path(folder)


def _autocorrelation(
    chain: HybridMonteCarlo, x: Tensor, action: Phi4Action, generator: torch.Generator
) -> tuple[dict[str, float], Tensor]:
    """Of each observable, in trajectories, and the states after the measurement."""
    series: list[dict[str, Tensor]] = []
    accepted = 0.0
    for _ in range(_MEASURED):
        x, change = chain.trajectory(x, generator)
        accepted += float(probability(change).mean()) / _MEASURED
        series.append(observables(x, action))
    if not accepted >= _LEAST_ACCEPTED:
        raise ValueError(
            f"the sampler accepts {accepted:.3%} of its trajectories, less than {_LEAST_ACCEPTED:.0%}: its step of "
            f"{chain.step:.3g} is too long for this law; take a longer thermalisation, or a smaller hopping or "
            "coupling."
        )
    return {name: autocorrelation_time(torch.stack([o[name] for o in series], 1)) for name in series[0]}, x


def _measured(changes: Tensor, times: dict[str, float], chain: HybridMonteCarlo, interval: int) -> dict[str, float]:
    """What is stored about the chains, from ΔH of shape (trajectories, chains)."""
    balance = torch.exp(-changes).mean(0)  # 1 in the mean for each chain
    return {
        "acceptance": float(probability(changes).mean()),
        "exp_minus_delta_h": float(balance.mean()),
        "exp_minus_delta_h_error": float(balance.std()) / math.sqrt(len(balance)) if len(balance) > 1 else math.inf,
        "leapfrog_step": chain.step,
        "trajectory_length": chain.length,
        "trajectories_apart": float(interval),
        **{f"autocorrelation_time_{name}": value for name, value in times.items()},
    }
