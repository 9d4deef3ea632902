r"""Taylor-Green vortices that break down in three dimensions: incompressible flow in a periodic cube.

    ∂u/∂t = u × ω − ∇(p + ½|u|²) + ν∇²u,    ∇·u = 0,    ω = ∇ × u

Each run starts from the vortices of Taylor and Green (1937) at a random place, and a random flow of large scales:

    u = U (sin x cos y cos z, −cos x sin y cos z, 0) + u'

Vortices are stretched and folded into ever smaller ones, until viscosity ends them.

In Fourier space the pressure only removes what has a divergence: N̂ − k (k·N̂)/|k|² for N = u × ω. Each mode decays
at rate ν|k|² exactly (integrating factor), and N is stepped by classical Runge-Kutta of order four (Lawson, 1967). With
the 2/3 rule the truncated equations keep energy and helicity where ν = 0.
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

from .devices import device_of, runs_together
from .periodic_box import PeriodicBox, resample
from .runs import runs_by_split
from .writing import run_generators, write_runs

NAME = "taylor_green"
SUMMARY = "3-D Taylor-Green vortices that break down: velocity, periodic, 40 runs of 5 on 24 x 24 x 24 cells"

_START_CELLS = 12  # the start's noise is drawn on so many cells along each axis, whatever the solver's
_SCALE = 2.0  # 1/m, the wavenumber at which the perturbation's power has fallen by e^{-1/2}


class Incompressible:
    """The truncated equations in a cube, for many independent runs at once.

    A state holds the Fourier coefficients of the velocity: shape (..., 3, n, n, n//2 + 1), complex128.

    Attributes:
        box: Solver's points.
        viscosity: ν ≥ 0, m²/s.
    """

    def __init__(self, box: PeriodicBox, viscosity: float) -> None:
        if box.ndim != 3 or not 0 <= viscosity < math.inf:
            raise ValueError(f"needs three dimensions and a viscosity ≥ 0; got {box.ndim} and {viscosity}.")
        self.box, self.viscosity = box, viscosity
        self._inverse = torch.where(box.squared > 0, 1 / box.squared, 0.0)

    def project(self, state: Tensor) -> Tensor:
        """The part of a vector field without divergence; of the mean flow, all."""
        along = sum(k * state[..., i, :, :, :] for i, k in enumerate(self.box.wavenumbers)) * self._inverse
        return state - torch.stack([k * along for k in self.box.wavenumbers], -4)

    def curl(self, state: Tensor) -> Tensor:
        """∇ × of a vector field, as modes."""
        d, (u, v, w) = self.box.derivative, state.unbind(-4)
        return torch.stack([d(w, 1) - d(v, 2), d(u, 2) - d(w, 0), d(v, 0) - d(u, 1)], -4)

    def advection(self, state: Tensor) -> Tensor:
        """u × ω without its divergence, as modes."""
        velocity, vorticity = self.box.to_field(state), self.box.to_field(self.curl(state))
        return self.project(self.box.to_modes(torch.linalg.cross(velocity, vorticity, dim=-4)))

    def energy(self, state: Tensor) -> Tensor:
        """Mean of ½|u|², per run."""
        return (self.box.to_field(state) ** 2).sum(-4).mean((-3, -2, -1)) / 2

    def enstrophy(self, state: Tensor) -> Tensor:
        """Mean of ½|ω|², per run; energy is lost at the rate 2ν times this."""
        return self.energy(self.curl(state))

    def evolve(self, state: Tensor, duration: float, steps: int) -> Tensor:
        """State after `duration`, in `steps` equal steps.

        Raises:
            ValueError: the steps are too long for the flow's speed, and the numbers overflow.
        """
        step = duration / steps
        half = torch.exp(-self.viscosity * self.box.squared * (step / 2))
        for _ in range(steps):
            k1 = self.advection(state)
            carried = half * state
            k2 = self.advection(carried + (step / 2) * (half * k1))
            k3 = self.advection(carried + (step / 2) * k2)
            k4 = self.advection(half * (carried + step * k3))
            state = half * (carried + (step / 6) * (half * k1 + 2 * (k2 + k3))) + (step / 6) * k4
        if not torch.view_as_real(state).isfinite().all():
            raise ValueError(f"the flow overflowed with {steps} steps of {step:.3g} s; take more steps.")
        return state

    def stable_steps(self, speed: float, duration: float) -> int:
        """Steps for flows with |u| + |v| + |w| up to a speed; the same for all runs, so none depends on another."""
        fastest = (self.box.points - 1) // 3 * 2 * math.pi / self.box.extent
        # RK4 is stable on the imaginary axis up to 2√2; two thirds of that, for accuracy.
        return math.ceil(duration * speed * fastest * 1.5 / (2 * math.sqrt(2)))


def initial_velocity(
    generators: Sequence[np.random.Generator], solver: Incompressible, amplitude: float, perturbation: float
) -> Tensor:
    """Taylor-Green vortices at a random place and a random flow, one run per generator, as coefficients.

    The random flow is Gaussian, without divergence and mean; each component has variance `perturbation`², and the
    power of a wavenumber k is proportional to |k|² exp(−|k|²/8). The draws are the same for any number of points.
    """
    coarse = PeriodicBox(3, _START_CELLS)
    k2 = coarse.squared
    power = torch.where(4 * k2 < _START_CELLS**2, k2 * torch.exp(-0.5 * k2 / _SCALE**2), 0.0)
    # A mode of rfftn stands for two, itself and its conjugate, where its last wavenumber is not 0.
    copies = torch.full_like(power, 2.0)
    copies[..., 0] = 1.0
    # Of the three components of white noise the projection leaves two thirds.
    scale = torch.sqrt(power / ((power * copies).sum() / _START_CELLS**3 * (2 / 3)))
    box, flows = solver.box, []
    x = (torch.arange(box.points, dtype=torch.float64) + 0.5) * (2 * math.pi / box.points)
    for generator in generators:
        shift = generator.uniform(0, 2 * math.pi, 3)
        sine = [torch.sin(x - s) for s in shift]
        cosine = [torch.cos(x - s) for s in shift]
        flow = torch.stack(
            [
                torch.einsum("i,j,k->ijk", sine[0], cosine[1], cosine[2]),
                -torch.einsum("i,j,k->ijk", cosine[0], sine[1], cosine[2]),
                torch.zeros((box.points,) * 3, dtype=torch.float64),
            ]
        )
        white = torch.from_numpy(generator.standard_normal((3, *(_START_CELLS,) * 3)))
        noise = torch.fft.irfftn(torch.fft.rfftn(white, dim=(1, 2, 3)) * scale, s=(_START_CELLS,) * 3, dim=(1, 2, 3))
        flows.append(amplitude * flow + perturbation * resample(noise, 3, box.points))
    return solver.project(box.to_modes(torch.stack(flows).to(box.squared.device)))


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 32,
    valid_runs: int = 4,
    test_runs: int = 4,
    cells: int = 24,
    frames: int = 5,
    frame_interval: float = 1.0,
    duration: float = 2.0,
    viscosity: float = 0.02,
    amplitude: float = 1.0,
    perturbation: float = 0.2,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Simulate the runs and write `<folder>/data/{train,valid,test}/taylor_green.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, run by run.
        progress: Whether a progress bar is shown.
        train_runs: Independent runs to train on.
        valid_runs: Independent runs to validate on.
        test_runs: Independent runs to test on.
        cells: Stored cells along each axis, even, at least 16; the solver has 3/2 times as many points.
        frames: Snapshots stored per run; runs, not snapshots, are split.
        frame_interval: Time between them, s.
        duration: Time of the first, s.
        viscosity: m²/s; 0.02 is resolved by 24 cells.
        amplitude: U, the largest speed of the vortices at the start, m/s.
        perturbation: Standard deviation of each component of the random flow at the start, m/s.
        device: Where the runs are simulated: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration, frame_interval)
    if cells < 16 or cells % 2:
        raise ValueError(f"cells must be even and at least 16, to hold the initial flow; got {cells}.")
    if not 0 <= amplitude < math.inf or not 0 <= perturbation < math.inf or amplitude + perturbation == 0:
        raise ValueError(f"amplitude and perturbation must be ≥ 0, one of them > 0; got {amplitude}, {perturbation}.")
    device = device_of(device)
    solver = Incompressible(PeriodicBox(3, 3 * cells // 2, device=device), viscosity)
    spans = [duration] + [frame_interval] * (frames - 1)
    # On a CPU one by one: nothing is gained by more, and rounding cannot depend on the company. A step holds some 20
    # scalar fields.
    at_once = 1 if device == "cpu" else runs_together(20 * solver.box.points**3, 32)
    # |u| + |v| + |w| is U at most in the vortices at the start, and of the random flow 6 deviations in few places.
    speed = 2 * amplitude + 6 * perturbation

    def together(split: int, first: int, last: int) -> Tensor:
        """Snapshots of some runs, shape (last − first, frames, 3, cells, cells, cells)."""
        state = initial_velocity(run_generators(seed, split, first, last), solver, amplitude, perturbation)
        snapshots = []
        for span in spans:
            state = solver.evolve(state, span, solver.stable_steps(speed, span))
            snapshots.append(resample(solver.box.to_field(state), 3, cells))
        return torch.stack(snapshots, 1).float().cpu()

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        values = torch.cat([together(split, run, min(run + at_once, last)) for run in range(first, last, at_once)])
        return {"velocity": values.movedim(2, -1).numpy()}

    return write_runs(
        folder,
        NAME,
        Grid((cells,) * 3, extent=2 * math.pi, boundary="periodic", units="m"),
        {"velocity": FieldSpec(units="m/s", rank=1)},
        runs,
        np.cumsum(spans),
        simulate,
        at_once=at_once,
        seed=seed,
        parameters={"viscosity": viscosity, "amplitude": amplitude, "perturbation": perturbation},
        progress=progress,
        overwrite=overwrite,
    )
