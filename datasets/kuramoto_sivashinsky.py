r"""Snapshots of the Kuramoto-Sivashinsky equation: spatio-temporal chaos that sustains itself.

    ∂u/∂t + u ∂u/∂x + ∂²u/∂x² + ∂⁴u/∂x⁴ = 0,    x ∈ [0, L), periodic, everything dimensionless

Waves longer than 2π grow (the second derivative has the sign of a negative diffusivity), shorter ones decay, and
advection hands energy from the first to the second:

    d/dt ⟨u²⟩/2 = ⟨(∂u/∂x)²⟩ − ⟨(∂²u/∂x²)²⟩.

From about L = 22 on the flow is chaotic; the most unstable wave has the length 2π√2 ≈ 8.9. After a spin-up the runs are
samples of its stationary law. The mean of u is kept; it is zero.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.grid import Grid

from .devices import device_of
from .etdrk4 import evolve
from .periodic_box import PeriodicBox, resample
from .random_start import smooth_noise
from .runs import runs_by_split
from .writing import in_blocks, run_generators, write_runs

NAME = "kuramoto_sivashinsky"
SUMMARY = "Kuramoto-Sivashinsky equation: spatio-temporal chaos, 1-D, periodic, 384 runs of 8 frames on 128 cells"

_BLOCK = 32  # runs side by side
_LONGEST_STEP = 0.025  # the error of one unit of time is then 1e-6, which chaos makes 1e-4 of in a frame interval


class KuramotoSivashinsky:
    """The truncated equation on a line, for many independent runs at once.

    Attributes:
        box: Points and length L; see `PeriodicBox`.
        rates: k² − k⁴ of each mode.
    """

    def __init__(self, box: PeriodicBox) -> None:
        if box.ndim != 1:
            raise ValueError(f"the Kuramoto-Sivashinsky equation needs one dimension; got {box.ndim}.")
        self.box = box
        self.rates = box.squared - box.squared**2

    def advection(self, modes: Tensor) -> Tensor:
        """−u ∂u/∂x = −½ ∂(u²)/∂x of each run, as modes."""
        return -0.5 * self.box.derivative(self.box.to_modes(self.box.to_field(modes).square()), 0)

    def evolve(self, modes: Tensor, duration: float, steps: int) -> Tensor:
        """Modes, shape (..., n//2 + 1), after `duration`; see `etdrk4.evolve`."""
        return evolve(modes, self.rates, self.advection, duration, steps)

    def energy(self, modes: Tensor) -> Tensor:
        """⟨u²⟩/2 of each run."""
        return self.box.to_field(modes).square().mean(-1) / 2

    def energy_rate(self, modes: Tensor) -> Tensor:
        """⟨(∂u/∂x)²⟩ − ⟨(∂²u/∂x²)²⟩ of each run."""
        slope = self.box.derivative(modes, 0)
        curvature = self.box.derivative(slope, 0)
        return self.box.to_field(slope).square().mean(-1) - self.box.to_field(curvature).square().mean(-1)


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 256,
    valid_runs: int = 64,
    test_runs: int = 64,
    cells: int = 128,
    frames: int = 8,
    frame_interval: float = 4.0,
    duration: float = 150.0,
    extent: float = 64.0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Simulate the runs and write `<folder>/data/{train,valid,test}/kuramoto_sivashinsky.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, run by run.
        progress: Whether a progress bar is shown.
        train_runs: Independent runs to train on.
        valid_runs: Independent runs to validate on.
        test_runs: Independent runs to test on.
        cells: Stored cells, even, at least 32 and one per unit of length.
        frames: Snapshots stored per run; runs, not snapshots, are split.
        frame_interval: Time between them.
        duration: Time of the first; from 100 on the law is stationary.
        extent: Length L of the line.
        device: Where the runs are simulated: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration, frame_interval)
    if cells < 32 or cells % 2 or not 0 < extent <= cells:
        raise ValueError(
            f"cells must be even, at least 32 and at least one per unit of length; got {cells} on a length of {extent}."
        )
    device = device_of(device)
    # Modes below a third of these points are those that the stored cells hold below Nyquist.
    solver = KuramotoSivashinsky(PeriodicBox(1, 3 * cells // 2, extent, device))
    spans = [duration] + [frame_interval] * (frames - 1)

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        start = smooth_noise(run_generators(seed, split, first, last), 1, solver.box.points, scale=4.0)
        modes, snapshots = solver.box.to_modes(start.to(device)), []
        for span in spans:
            modes = solver.evolve(modes, span, math.ceil(span / _LONGEST_STEP))
            snapshots.append(resample(solver.box.to_field(modes), 1, cells))
        return {"u": torch.stack(snapshots, 1).float().cpu().numpy()}

    return write_runs(
        folder, NAME, Grid((cells,), extent, "periodic"), {"u": FieldSpec(pseudo=True)}, runs, np.cumsum(spans),
        in_blocks(simulate, _BLOCK), at_once=4 * _BLOCK, seed=seed, parameters={"extent": extent}, progress=progress,
        overwrite=overwrite,
    )  # fmt: skip
