r"""Snapshots of the Allen-Cahn equation: two phases that separate, and whose curved interfaces shrink.

    ∂u/∂t = κ∇²u + r(u − u³),    on [0, L)², periodic; κ diffusivity, r rate

From small noise every point runs to +1 or −1 within a few 1/r; then interfaces of profile tanh(x/ℓ), ℓ = √(2κ/r), move
towards their centre of curvature with the speed κ times the curvature. The energy

    F = ⟨κ/2 |∇u|² + r/4 (1 − u²)²⟩

falls all the time. A front that invades the unstable state u = 0 is known exactly: u = ½(1 + tanh(s/2ℓ)) with
s = x + 3√(κr/2) t, against which the tests hold the solver.

The cube of a field of modes below n/4 aliases only onto modes that are dropped, so the truncated equation is exact on
its modes.
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
from .periodic_box import PeriodicBox, resample
from .random_start import smooth_noise
from .runs import runs_by_split
from .writing import in_blocks, run_generators, write_runs

NAME = "allen_cahn"
SUMMARY = "Allen-Cahn equation: two phases that coarsen, 2-D, periodic, 128 runs of 4 frames on 64 x 64 cells"

_STEP = 0.05  # of 1/r; the error of the time step is then 1e-6 after 10/r


class AllenCahn:
    """The truncated equation on a periodic box of any dimension, for many independent runs at once.

    Attributes:
        box: Points and length, of degree 3.
        diffusivity: κ > 0, m²/s.
        rate: r > 0, 1/s.
    """

    def __init__(self, box: PeriodicBox, diffusivity: float, rate: float) -> None:
        if not 0 < diffusivity < math.inf or not 0 < rate < math.inf:
            raise ValueError(f"needs a diffusivity > 0 and a rate > 0; got {diffusivity} and {rate}.")
        self.box, self.diffusivity, self.rate = box, diffusivity, rate
        self.rates = rate - diffusivity * box.squared

    def reaction(self, modes: Tensor) -> Tensor:
        """−r u³ of each run, as modes."""
        return -self.rate * self.box.to_modes(self.box.to_field(modes) ** 3)

    def evolve(self, modes: Tensor, duration: float, steps: int) -> Tensor:
        """Modes after `duration`; see `etdrk4.evolve`."""
        return evolve(modes, self.rates, self.reaction, duration, steps)

    def energy(self, modes: Tensor) -> Tensor:
        """F of each run, m²/s · 1/m²."""
        axes = tuple(range(-self.box.ndim, 0))
        u = self.box.to_field(modes)
        slopes = [self.box.to_field(self.box.derivative(modes, axis)).square() for axis in range(self.box.ndim)]
        return (self.diffusivity / 2 * sum(slopes) + self.rate / 4 * (1 - u**2) ** 2).mean(axes)


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 96,
    valid_runs: int = 16,
    test_runs: int = 16,
    cells: int = 64,
    frames: int = 4,
    frame_interval: float = 5.0,
    duration: float = 5.0,
    extent: float = 1.0,
    diffusivity: float = 1e-3,
    rate: float = 1.0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Simulate the runs and write `<folder>/data/{train,valid,test}/allen_cahn.hdf5`.

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
        duration: Time of the first, s.
        extent: Length of the square's side, m.
        diffusivity: κ, m²/s; interfaces are wide enough for the cells when √(2κ/r) is at least two of them.
        rate: r, 1/s.
        device: Where the runs are simulated: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration, frame_interval)
    if cells < 16 or cells % 2:
        raise ValueError(f"cells must be even and at least 16; got {cells}.")
    device = device_of(device)
    solver = AllenCahn(PeriodicBox(2, 2 * cells, extent, device, degree=3), diffusivity, rate)
    width = math.sqrt(2 * diffusivity / rate)
    if width * cells < 2 * extent:
        raise ValueError(
            f"an interface of {width:.3g} m, √(2·diffusivity/rate), needs cells of half of that; "
            f"got {extent / cells:.3g} m."
        )
    spans = [duration] + [frame_interval] * (frames - 1)

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        start = 0.1 * smooth_noise(run_generators(seed, split, first, last), 2, solver.box.points, scale=8.0)
        modes, snapshots = solver.box.to_modes(start.to(device)), []
        for span in spans:
            modes = solver.evolve(modes, span, math.ceil(span * rate / _STEP))
            snapshots.append(resample(solver.box.to_field(modes), 2, cells))
        return {"phase": torch.stack(snapshots, 1).float().cpu().numpy()}

    return write_runs(
        folder, NAME, Grid((cells, cells), extent, "periodic", units="m"), {"phase": FieldSpec()}, runs,
        np.cumsum(spans), in_blocks(simulate, block_on(device)), at_once=64, seed=seed,
        parameters={"diffusivity": diffusivity, "rate": rate}, progress=progress, overwrite=overwrite,
    )  # fmt: skip
