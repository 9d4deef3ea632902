r"""Two-dimensional turbulence in a steady state: the Kolmogorov flow, forced by a wave and damped by drag.

    ∂ω/∂t + u·∇ω = ν∇²ω − μω + A n cos(n x),    on [0, 2π)², periodic

The force on the fluid is (0, A sin n x): bands that push up and down in turn. Without fluctuations the flow is laminar,
ω = A n cos(n x)/(μ + νn²); above a small A it is unstable and becomes turbulent. Energy enters at the scale of the
force, moves to larger scales, and leaves by drag (and by viscosity at small ones):

    d/dt ⟨|u|²⟩/2 = ⟨A sin(n x) v⟩ − μ⟨|u|²⟩ − ν⟨ω²⟩.

After the spin-up the runs are samples of the stationary law. Viscosity, drag and force are exact in the rule of time
stepping (ETDRK4), so that the laminar flow is a fixed point of it; the advection is that of `navier_stokes`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.grid import Grid

from .devices import block_on, device_of
from .etdrk4 import evolve
from .navier_stokes import NavierStokes, coarsen, wavenumbers
from .runs import runs_by_split
from .turbulence import initial_vorticity
from .writing import in_blocks, one_thread_per_call, run_generators, write_runs

NAME = "forced_turbulence"
SUMMARY = "Kolmogorov flow, forced 2-D turbulence: vorticity, periodic, 24 runs of 16 frames on 32 x 32 cells"

_SEGMENT = 2.0  # s; after each the step is chosen anew from the flow's speed


class KolmogorovFlow:
    """The truncated equation on n x n points of [0, 2π)².

    Attributes:
        flow: Advection, transforms, energy; see `NavierStokes`.
        viscosity: ν ≥ 0, m²/s.
        drag: μ ≥ 0, 1/s.
        amplitude: A, m/s².
        wavenumber: n ≥ 1.
    """

    def __init__(
        self,
        points: int,
        viscosity: float,
        drag: float,
        amplitude: float = 1.0,
        wavenumber: int = 4,
        device: str = "cpu",
    ) -> None:
        if not 0 <= drag < math.inf or not 1 <= 3 * wavenumber < points:
            raise ValueError(
                f"needs a drag ≥ 0 and a wavenumber of the force from 1 to below a third of {points} points; got "
                f"{drag} and {wavenumber}."
            )
        self.flow = NavierStokes(points, viscosity, device)
        self.viscosity, self.drag, self.amplitude, self.wavenumber = viscosity, drag, amplitude, wavenumber
        kx, ky = wavenumbers(points, device)
        self.rates = -viscosity * (kx**2 + ky**2) - drag
        x = (torch.arange(points, dtype=torch.float64, device=device) + 0.5) * (2 * math.pi / points)
        self._push = (amplitude * torch.sin(wavenumber * x)).unsqueeze(1).expand(points, points)
        curl = (amplitude * wavenumber * torch.cos(wavenumber * x)).unsqueeze(1).expand(points, points)
        self._force = self.flow.to_modes(curl)

    def tendency(self, modes: Tensor) -> Tensor:
        """−u·∇ω and the force, as modes: all that is not damped mode by mode."""
        return self.flow.advection(modes) + self._force

    def evolve(self, modes: Tensor, duration: float, steps: int) -> Tensor:
        """Modes of ω, shape (..., n, n//2 + 1), after `duration`; see `etdrk4.evolve`."""
        return evolve(modes, self.rates, self.tendency, duration, steps)

    def laminar(self) -> Tensor:
        """Modes of the flow that balances force, drag and viscosity without advection."""
        return self._force / (self.drag + self.viscosity * self.wavenumber**2)

    def energy_budget(self, modes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Power per mass that the force puts in, and that drag and viscosity take out, of each run, m²/s³."""
        v = self.flow.velocity(modes)[..., 1, :, :]
        return (
            (self._push * v).mean((-2, -1)),
            2 * self.drag * self.flow.energy(modes),
            2 * self.viscosity * self.flow.enstrophy(modes),
        )


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 16,
    valid_runs: int = 4,
    test_runs: int = 4,
    cells: int = 32,
    frames: int = 16,
    frame_interval: float = 2.0,
    duration: float = 60.0,
    viscosity: float = 1e-2,
    drag: float = 0.05,
    amplitude: float = 1.0,
    wavenumber: int = 3,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Simulate the runs and write `<folder>/data/{train,valid,test}/forced_turbulence.hdf5`.

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
        duration: Time of the first, s; a few times 1/drag reach the steady state.
        viscosity: m²/s; 1e-2 is resolved by 32 cells.
        drag: μ, 1/s.
        amplitude: A, m/s².
        wavenumber: n of the force, below half the cells.
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
    device = device_of(device)
    solver = KolmogorovFlow(3 * cells // 2, viscosity, drag, amplitude, wavenumber, device)
    spans = [duration] + [frame_interval] * (frames - 1)
    block = block_on(device)

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        start = initial_vorticity(run_generators(seed, split, first, last), solver.flow.points)
        modes, snapshots = solver.flow.to_modes(start.to(device)), []
        for span in spans:
            segments = math.ceil(span / _SEGMENT)
            for _ in range(segments):
                # A quarter of the longest stable step: the error of two seconds is then 1e-5 of the vorticity.
                steps = 4 * solver.flow.stable_steps(modes, span / segments)
                modes = solver.evolve(modes, span / segments, steps)
            snapshots.append(coarsen(solver.flow.to_field(modes), cells))
        return {"vorticity": torch.stack(snapshots, 1).float().cpu().numpy()}

    with one_thread_per_call() as workers:
        return write_runs(
            folder, NAME, Grid((cells, cells), 2 * math.pi, "periodic", units="m"),
            {"vorticity": FieldSpec("1/s", pseudo=True)}, runs, np.cumsum(spans),
            in_blocks(simulate, block), at_once=block, seed=seed,
            parameters={"viscosity": viscosity, "drag": drag, "amplitude": amplitude, "wavenumber": wavenumber},
            progress=progress, overwrite=overwrite, workers=workers,
        )  # fmt: skip
