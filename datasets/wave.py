r"""Pulses on a square membrane clamped at its rim: the wave equation with walls.

    ∂²u/∂t² = c² Δu on [0, 1]² m,    u = 0 on the boundary

Each run starts at rest from a few Gaussian pulses. They spread into rings, which the walls throw back with the opposite
sign.

On cell centres the modes of the clamped Laplacian are sines, and each swings by itself, at ω = c√λ:

    y(t) = y(0) cos ωt + ẏ(0) sin(ωt)/ω,    ẏ(t) = ẏ(0) cos ωt − ω y(0) sin ωt.

So there are no time steps and no error in time. A start that is continued antisymmetrically past every wall and is
smooth is a sum of few sines, and the stored fields are the solution to the rounding of single precision.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.grid import Grid

from .devices import device_of, runs_together
from .runs import check_angle, runs_by_split
from .writing import run_generators, write_runs

NAME = "wave"
SUMMARY = "wave equation between clamped walls: displacement and rate of pulses, 160 runs of 16 on 64 x 64 cells"

_NARROWEST, _WIDEST = 0.04, 0.08  # m, standard deviation of a pulse; 0.04 is 2.56 cells of the default grid
_MOST_PULSES = 3


class ClampedWave:
    """The equation on a grid with clamped walls, in modes that are tensors on a device.

    Attributes:
        basis: The grid's sines.
        frequency: ω = c√λ of each mode, 1/s, shape (*grid).
    """

    def __init__(self, grid: Grid, speed: float, device: str = "cpu") -> None:
        if set(grid.boundary) != {"dirichlet"} or not 0 < speed < math.inf:
            raise ValueError(f"needs clamped walls on every side and a speed > 0; got {grid.boundary} and {speed}.")
        self.basis = SpectralBasis(grid)
        self.frequency = (speed * torch.sqrt(self.basis.laplacian)).to(device)

    def evolve(self, displacement: Tensor, rate: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """Displacement and rate after some time, each as modes of shape (..., *grid)."""
        cosine, sine = torch.cos(self.frequency * time), torch.sin(self.frequency * time)
        return (
            displacement * cosine + rate * sine / self.frequency,
            rate * cosine - displacement * self.frequency * sine,
        )

    def energy(self, displacement: Tensor, rate: Tensor) -> Tensor:
        """½∫ (∂u/∂t)² + c²|∇u|² over the box, of modes."""
        density = rate**2 + (self.frequency * displacement) ** 2
        return 0.5 * self.basis.grid.cell_volume * density.sum(self.basis.axes)


def pulse(grid: Grid, centre: np.ndarray, width: float) -> np.ndarray:
    """A Gaussian pulse of height 1 at cell centres, shape (*grid), continued antisymmetrically past every wall.

    Args:
        grid: A box whose lower corner is the origin.
        centre: Place of the pulse, shape (ndim,).
        width: Standard deviation, below a quarter of the box: of each wall, the nearest image is subtracted.
    """
    product = np.ones(grid.shape)
    for axis, length in enumerate(grid.extent):
        x = grid.coordinate(axis)
        shape = np.zeros_like(x)
        for wall in (-2, 0, 2):
            shape += np.exp(-0.5 * ((x - centre[axis] - wall * length) / width) ** 2)
            shape -= np.exp(-0.5 * ((x + centre[axis] - wall * length) / width) ** 2)
        product *= np.expand_dims(shape, tuple(i for i in range(grid.ndim) if i != axis))
    return product


def initial_displacement(generator: np.random.Generator, grid: Grid) -> np.ndarray:
    """One to three pulses of random place, width, height and sign, m, shape (*grid); the same on any grid."""
    number = int(generator.integers(1, _MOST_PULSES + 1))
    centres = generator.uniform(0.15, 0.85, (number, grid.ndim)) * np.array(grid.extent)
    widths = generator.uniform(_NARROWEST, _WIDEST, number)
    heights = generator.uniform(0.5, 1.0, number) * generator.choice([-1.0, 1.0], number)
    return sum(
        (height * pulse(grid, centre, width) for height, centre, width in zip(heights, centres, widths, strict=True)),
        np.zeros(grid.shape),
    )


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 128,
    valid_runs: int = 16,
    test_runs: int = 16,
    cells: int = 64,
    frames: int = 16,
    frame_interval: float = 0.1,
    duration: float = 0.1,
    speed: float = 1.0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Solve the runs and write `<folder>/data/{train,valid,test}/wave.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, run by run.
        progress: Whether a progress bar is shown.
        train_runs: Independent runs to train on.
        valid_runs: Independent runs to validate on.
        test_runs: Independent runs to test on.
        cells: Along each axis, at least 48, to hold the narrowest pulse.
        frames: Snapshots stored per run; runs, not snapshots, are split.
        frame_interval: Time between them, s.
        duration: Time of the first, s.
        speed: c, m/s; a wave crosses the square in 1/c s.
        device: Where the runs are simulated: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration, frame_interval)
    if cells < 48:
        raise ValueError(f"cells must be at least 48, to hold the narrowest pulse; got {cells}.")
    grid = Grid((cells, cells), extent=1.0, boundary="dirichlet", units="m")
    device = device_of(device)
    wave = ClampedWave(grid, speed, device)
    check_angle(math.sqrt(2) * math.pi * cells * speed, duration + frame_interval * frames)
    times = duration + frame_interval * np.arange(frames)

    def one(generator: np.random.Generator) -> Tensor:
        """Displacement and rate of a run, shape (2, frames, cells, cells)."""
        start = wave.basis.forward(torch.from_numpy(initial_displacement(generator, grid)).to(device))
        frames = [torch.stack(wave.evolve(start, torch.zeros_like(start), time)) for time in times.tolist()]
        return wave.basis.inverse(torch.stack(frames, 1)).cpu()

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        """Some runs, each field of shape (last − first, frames, cells, cells)."""
        found = torch.stack([one(generator) for generator in run_generators(seed, split, first, last)]).numpy()
        return {"displacement": found[:, 0], "rate": found[:, 1]}

    return write_runs(
        folder,
        NAME,
        grid,
        {"displacement": FieldSpec(units="m"), "rate": FieldSpec(units="m/s")},
        runs,
        times,
        simulate,
        at_once=runs_together(2 * frames * cells**2, 16),
        seed=seed,
        parameters={"speed": speed},
        progress=progress,
        overwrite=overwrite,
    )
