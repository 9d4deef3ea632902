"""Decaying two-dimensional turbulence: vorticity that started Gaussian and gathered into coherent vortices.

Each run starts from a Gaussian random vorticity in a narrow band of wavenumbers and decays freely.
Like-signed vortices roll up and merge, and the filaments between them are sheared away, so the field ends far
from Gaussian (kurtosis above 4) although its spectrum stays smooth: what a model has to learn beyond a
spectrum.

The solver works on 3/2 times as many points as are stored, so its 2/3 rule keeps exactly the modes that the
stored grid holds below Nyquist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.grid import Grid

from .devices import device_of
from .navier_stokes import NavierStokes, coarsen, wavenumbers
from .runs import runs_by_split
from .writing import in_blocks, one_thread_per_call, run_generators, write_runs

NAME = "turbulence"
SUMMARY = "decaying 2-D turbulence: vorticity with coherent vortices, periodic, 640 runs on 32 x 32 cells"

_BLOCK = 32  # runs side by side, in steps of their fastest flow; their arrays stay in a CPU's cache
_SEGMENT = 3.0  # s; after each the step is chosen anew from the flow's speed


def initial_vorticity(
    generators: Sequence[np.random.Generator], points: int, peak: float = 4.0, width: float = 1.5
) -> Tensor:
    """Gaussian random vorticity of mean 0 and deviation 1 in a band of wavenumbers, one run per generator.

    The power of a mode is proportional to exp(−(|k| − peak)²/width²)/|k|, which spreads it evenly around each
    ring. Returns shape (runs, points, points), float64.
    """
    kx, ky = wavenumbers(points)
    k = torch.sqrt(kx**2 + ky**2)
    power = torch.where(k > 0, torch.exp(-(((k - peak) / width) ** 2)) / k, 0.0)
    # A mode of rfft2 with 0 < k_y < n/2 stands for two, itself and its conjugate.
    copies = torch.where((ky > 0) & (2 * ky < points), 2.0, 1.0)
    variance = (power * copies).sum() / points**2
    white = torch.from_numpy(np.stack([rng.standard_normal((points, points)) for rng in generators]))
    return torch.fft.irfft2(torch.fft.rfft2(white) * torch.sqrt(power / variance), s=(points, points))


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 512,
    valid_runs: int = 64,
    test_runs: int = 64,
    cells: int = 32,
    frames: int = 1,
    frame_interval: float = 6.0,
    duration: float = 24.0,
    viscosity: float = 1e-3,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Simulate the runs and write `<folder>/data/{train,valid,test}/turbulence.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, run by run.
        progress: Whether a progress bar is shown.
        train_runs: Independent runs to train on.
        valid_runs: Independent runs to validate on.
        test_runs: Independent runs to test on.
        cells: Stored cells along each axis, even, at least 16.
        frames: Snapshots stored per run; runs, not snapshots, are split.
        frame_interval: Time between them, s.
        duration: Time of the first, s; the initial vorticity's standard deviation is 1/s.
        viscosity: m²/s; 1e-3 is resolved by 32 cells.
        device: Where the runs are simulated: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration, frame_interval)
    if cells < 16 or cells % 2:
        raise ValueError(f"cells must be even and at least 16, to hold the initial band; got {cells}.")
    grid = Grid((cells, cells), extent=2 * math.pi, boundary="periodic", units="m")
    device = device_of(device)
    solver = NavierStokes(3 * cells // 2, viscosity, device)
    spans = [duration] + [frame_interval] * (frames - 1)

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        """Snapshots of some runs, shape (last − first, frames, cells, cells)."""
        start = initial_vorticity(run_generators(seed, split, first, last), solver.points)
        modes, snapshots = solver.to_modes(start.to(device)), []
        for span in spans:
            segments = math.ceil(span / _SEGMENT)
            for _ in range(segments):
                modes = solver.evolve(modes, span / segments, solver.stable_steps(modes, span / segments))
            snapshots.append(coarsen(solver.to_field(modes), cells))
        return {"vorticity": torch.stack(snapshots, 1).float().cpu().numpy()}

    with one_thread_per_call() as workers:
        return write_runs(
            folder, NAME, grid, {"vorticity": FieldSpec("1/s", pseudo=True)}, runs, np.cumsum(spans),
            in_blocks(simulate, _BLOCK), at_once=_BLOCK, seed=seed, parameters={"viscosity": viscosity},
            progress=progress, overwrite=overwrite, workers=workers,
        )  # fmt: skip
