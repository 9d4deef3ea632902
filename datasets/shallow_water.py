r"""Rotating shallow water: vortices that merge, and the gravity waves that a surface out of balance radiates.

    ∂h/∂t + ∇·F = 0,                          F = h u
    ∂u/∂t + q k×F + ∇(g h + ½|u|²) = ν∇²u,    q = (∂v/∂x − ∂u/∂y + f)/h

on a periodic square; h is the depth, u the velocity, f the Coriolis parameter and q the potential vorticity.

In this form two sums over the solver's points are kept exactly, whatever the resolution: of h, and without viscosity
of the energy ½h|u|² + ½gh². For the derivative of the energy is the sum of F·(q k×F), which is zero at every point,
and of two terms in ∇(gh + ½|u|²) that cancel, as long as the same dealiased F stands in both equations (the argument of
Sadourny, 1975, with derivatives mode by mode). Only the time step, Runge-Kutta of order four, loses energy.

Each run starts from a random flow k×∇ψ over the surface fψ/g that balances it in a linear flow, with random bumps on
top. The bumps, and what a linear balance leaves out, become waves. Without rotation the start is out of balance
altogether.
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
from .periodic_box import PeriodicBox, resample
from .runs import runs_by_split
from .writing import run_generators, write_runs

NAME = "shallow_water"
SUMMARY = "rotating shallow water: depth and velocity with vortices and waves, periodic, 64 runs of 8 on 48 x 48 cells"

_EXTENT = 2.0e6  # m
_START_CELLS = 24  # the start's noise is drawn on so many cells, whatever the solver's
_SCALE = 3.0  # integer wavenumber at which the start's power has fallen by e^{-1/2}


class ShallowWater:
    """The truncated equations for many independent runs at once.

    A state holds the Fourier coefficients of h, u and v: shape (..., 3, n, n//2 + 1), complex128.

    Attributes:
        box: Solver's points.
        gravity: g > 0, m/s².
        coriolis: f, 1/s.
        viscosity: ν ≥ 0, m²/s.
    """

    def __init__(self, box: PeriodicBox, gravity: float, coriolis: float, viscosity: float) -> None:
        if box.ndim != 2 or not 0 < gravity < math.inf or not 0 <= viscosity < math.inf or not math.isfinite(coriolis):
            raise ValueError(
                f"shallow water needs two dimensions, gravity > 0, viscosity ≥ 0 and a finite Coriolis parameter; "
                f"got {box.ndim}, {gravity}, {viscosity} and {coriolis}."
            )
        self.box, self.gravity, self.coriolis, self.viscosity = box, gravity, coriolis, viscosity

    def tendency(self, state: Tensor) -> Tensor:
        """Time derivative of a state."""
        box = self.box
        u, v = state[..., 1, :, :], state[..., 2, :, :]
        spin = box.derivative(v, 0) - box.derivative(u, 1)
        h, u, v, spin = box.to_field(torch.cat([state, spin.unsqueeze(-3)], -3)).unbind(-3)
        flux = box.to_modes(torch.stack([h * u, h * v], -3))
        along_x, along_y = box.to_field(flux).unbind(-3)
        q = (spin + self.coriolis) / h
        head = self.gravity * h + 0.5 * (u**2 + v**2)
        head, to_x, to_y = box.to_modes(torch.stack([head, q * along_y, -q * along_x], -3)).unbind(-3)
        return torch.stack(
            [
                -box.derivative(flux[..., 0, :, :], 0) - box.derivative(flux[..., 1, :, :], 1),
                to_x - box.derivative(head, 0) - self.viscosity * box.squared * state[..., 1, :, :],
                to_y - box.derivative(head, 1) - self.viscosity * box.squared * state[..., 2, :, :],
            ],
            -3,
        )

    def energy(self, state: Tensor) -> Tensor:
        """Mean of ½h|u|² + ½gh² over the points, per run, m³/s²."""
        h, u, v = self.box.to_field(state).unbind(-3)
        return (0.5 * h * (u**2 + v**2) + 0.5 * self.gravity * h**2).mean((-2, -1))

    def evolve(self, state: Tensor, duration: float, steps: int) -> Tensor:
        """State after `duration`, in `steps` equal steps.

        Raises:
            ValueError: the steps are too long or the ground falls dry, and the numbers overflow.
        """
        step = duration / steps
        for _ in range(steps):
            k1 = self.tendency(state)
            k2 = self.tendency(state + (step / 2) * k1)
            k3 = self.tendency(state + (step / 2) * k2)
            k4 = self.tendency(state + step * k3)
            state = state + (step / 6) * (k1 + 2 * (k2 + k3) + k4)
        if not torch.view_as_real(state).isfinite().all():
            raise ValueError(
                f"the flow overflowed with {steps} steps of {step:.3g} s; take a lower `speed` or `roughness`, or more "
                "`viscosity`."
            )
        return state

    def stable_steps(self, fastest: float, duration: float) -> int:
        """Steps for signals up to a speed, m/s; the same for all runs, so that none depends on another."""
        k = self.box.largest_wavenumber
        rate = fastest * k + abs(self.coriolis) + self.viscosity * k**2
        # RK4 is stable up to 2√2 on the imaginary axis and 2.78 on the negative real one; half of that, for accuracy.
        return math.ceil(duration * rate / 1.25)


def initial_state(
    generators: Sequence[np.random.Generator], solver: ShallowWater, depth: float, speed: float, roughness: float
) -> Tensor:
    """A random vortical flow and a random surface, one run per generator, as coefficients.

    The flow is k×∇ψ, and ψ/g times the Coriolis parameter is the surface that balances it to first order; independent
    bumps are laid over that, which radiate waves. Both are Gaussian, and the same for any number of points.

    Args:
        generators: One per run.
        solver: Gives the points, gravity and the Coriolis parameter.
        depth: Mean depth H, m.
        speed: Expected standard deviation of each component of the flow, m/s; its power is as e^{−k²/18} of an integer
            wavenumber k.
        roughness: That of the bumps, of the mean depth, with the same spectrum.

    Raises:
        ValueError: the ground is dry somewhere.
    """
    box, coarse = solver.box, PeriodicBox(2, _START_CELLS, solver.box.extent)
    number2 = coarse.squared * (coarse.extent / (2 * math.pi)) ** 2
    power = torch.where((number2 > 0) & (4 * number2 < _START_CELLS**2), torch.exp(-0.5 * number2 / _SCALE**2), 0.0)
    # A mode of rfft2 stands for two, itself and its conjugate, where its last wavenumber is not 0.
    copies = torch.full_like(power, 2.0)
    copies[:, 0] = 1.0
    deviation = torch.sqrt(power / ((power * copies).sum() / _START_CELLS**2))
    noise = torch.from_numpy(np.stack([g.standard_normal((2, _START_CELLS, _START_CELLS)) for g in generators]))
    stream, bumps = (torch.fft.rfft2(noise) * deviation).unbind(1)
    # |∇ψ|² is shared by two components.
    stream = speed * math.sqrt(2) * stream / torch.sqrt(coarse.squared).clamp(min=coarse.wavenumbers[1][0, 1])
    surface = roughness * depth * bumps + solver.coriolis / solver.gravity * stream
    parts = [surface, -coarse.derivative(stream, 1), coarse.derivative(stream, 0)]
    fields = resample(coarse.to_field(torch.stack(parts, 1)), 2, box.points)
    fields[:, 0] += depth
    if (fields[:, 0] <= 0).any():
        raise ValueError(
            f"the ground starts dry at speed {speed} m/s and roughness {roughness} over {depth} m; take less of either."
        )
    return box.to_modes(fields.to(box.squared.device))


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 48,
    valid_runs: int = 8,
    test_runs: int = 8,
    cells: int = 48,
    frames: int = 8,
    frame_interval: float = 14400.0,
    duration: float = 14400.0,
    depth: float = 100.0,
    speed: float = 4.0,
    roughness: float = 0.02,
    gravity: float = 9.81,
    coriolis: float = 1e-4,
    viscosity: float = 2e4,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Simulate the runs and write `<folder>/data/{train,valid,test}/shallow_water.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, run by run.
        progress: Whether a progress bar is shown.
        train_runs: Independent runs to train on.
        valid_runs: Independent runs to validate on.
        test_runs: Independent runs to test on.
        cells: Stored cells along each axis, even, at least 24; the solver has 3/2 times as many points.
        frames: Snapshots stored per run; runs, not snapshots, are split.
        frame_interval: Time between them, s.
        duration: Time of the first, s.
        depth: Mean depth H, m; with g it sets the speed of long waves √(gH), 31 m/s.
        speed: Expected standard deviation of each component of the flow at the start, m/s.
        roughness: That of the bumps which are not in balance, of the mean depth.
        gravity: m/s².
        coriolis: f, 1/s; 1e-4 is that of middle latitudes, 0 is without rotation.
        viscosity: m²/s; 2e4 is resolved by 48 cells at the default speed.
        device: Where the runs are simulated: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration, frame_interval)
    if cells < _START_CELLS or cells % 2:
        raise ValueError(f"cells must be even and at least {_START_CELLS}, to hold the initial field; got {cells}.")
    if not (0 < depth < math.inf and 0 <= speed < math.inf and 0 <= roughness < 1 and speed + roughness > 0):
        raise ValueError(
            "needs a depth > 0, a speed ≥ 0 and a roughness from 0 to 1, not both 0; "
            f"got {depth}, {speed}, {roughness}."
        )
    device = device_of(device)
    solver = ShallowWater(PeriodicBox(2, 3 * cells // 2, _EXTENT, device), gravity, coriolis, viscosity)
    spans = [duration] + [frame_interval] * (frames - 1)
    # A wave on water that is deeper by two thirds, carried by five deviations of the flow.
    fastest = 1.3 * math.sqrt(gravity * depth) + 5 * speed

    def together(split: int, first: int, last: int) -> Tensor:
        """Snapshots of some runs, shape (last − first, frames, 3, cells, cells)."""
        state = initial_state(run_generators(seed, split, first, last), solver, depth, speed, roughness)
        snapshots = []
        for span in spans:
            state = solver.evolve(state, span, solver.stable_steps(fastest, span))
            snapshots.append(resample(solver.box.to_field(state), 2, cells))
        return torch.stack(snapshots, 1).float().cpu()

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        # On a CPU one by one: nothing is gained by more, and rounding cannot depend on the company.
        size = last - first if device != "cpu" else 1
        values = torch.cat([together(split, run, min(run + size, last)) for run in range(first, last, size)]).numpy()
        return {"depth": values[:, :, 0], "velocity": np.moveaxis(values[:, :, 1:], 2, -1)}

    return write_runs(
        folder,
        NAME,
        Grid((cells, cells), extent=_EXTENT, boundary="periodic", units="m"),
        {"depth": FieldSpec(units="m"), "velocity": FieldSpec(units="m/s", rank=1)},
        runs,
        np.cumsum(spans),
        simulate,
        at_once=64 if device != "cpu" else 4,
        seed=seed,
        parameters={"gravity": gravity, "coriolis": coriolis, "viscosity": viscosity, "mean_depth": depth},
        progress=progress,
        overwrite=overwrite,
    )
