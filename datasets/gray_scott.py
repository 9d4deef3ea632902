r"""Snapshots of the Gray-Scott reaction and diffusion of two substances: spots that divide, worms and mazes.

    ∂u/∂t = κ_u ∇²u − u v² + F(1 − u)
    ∂v/∂t = κ_v ∇²v + u v² − (F + K) v            on [0, L)², periodic

The substrate u is fed at the rate F; v consumes it, makes more of itself, and is removed at the rate F + K. Time is
that of the reaction, in seconds by name. (u, v) = (1, 0) is always stable, so runs start with patches of v.

Products of three fields of modes below n/4 alias only onto modes that are dropped, so the truncated equation is exact
on its modes. Diffusion, feed and removal are linear and exact (ETDRK4); u v² is of fourth order.

Source: Pearson (1993), Complex patterns in a simple system, eqs. 1 and 2.
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

from .devices import block_on, device_of
from .etdrk4 import evolve
from .periodic_box import PeriodicBox, resample
from .random_start import smooth_noise
from .runs import runs_by_split
from .writing import in_blocks, run_generators, write_runs

NAME = "gray_scott"
SUMMARY = "Gray-Scott reaction and diffusion: patches become mazes, 2-D, periodic, 48 runs of 4 frames on 48 x 48 cells"

_STEP = 1.0  # s; the error of the time step is then 1e-5 after 250 s


class GrayScott:
    """The truncated equations on a periodic box of any dimension, for many independent runs at once.

    A state holds the coefficients of u and v: shape (..., 2, n, n//2 + 1) for two dimensions, complex128.

    Attributes:
        box: Points and length, of degree 3.
        feed: F ≥ 0, 1/s.
        kill: K ≥ 0, 1/s.
        rates: Of the linear part, shape (2, n, n//2 + 1).
    """

    def __init__(
        self, box: PeriodicBox, feed: float, kill: float, diffusivities: tuple[float, float] = (2e-5, 1e-5)
    ) -> None:
        if not 0 <= min(feed, kill, *diffusivities) <= max(feed, kill, *diffusivities) < math.inf:
            raise ValueError(f"rates and diffusivities must be ≥ 0; got {feed}, {kill} and {diffusivities}.")
        self.box, self.feed, self.kill = box, feed, kill
        self.rates = torch.stack(
            [-diffusivities[0] * box.squared - feed, -diffusivities[1] * box.squared - feed - kill]
        )
        # The feed F·1 is the mean mode of u; a transform of ones has the number of points there.
        self._feed = torch.zeros_like(self.rates)
        self._feed[0].view(-1)[0] = feed * box.points**box.ndim

    def reaction(self, state: Tensor) -> Tensor:
        """−u v² + F and u v² of each run, as modes."""
        u, v = self.box.to_field(state).unbind(-self.box.ndim - 1)
        consumed = self.box.to_modes(u * v * v)
        return torch.stack([-consumed, consumed], -self.box.ndim - 1) + self._feed

    def evolve(self, state: Tensor, duration: float, steps: int) -> Tensor:
        """State after `duration`; see `etdrk4.evolve`."""
        return evolve(state, self.rates, self.reaction, duration, steps)


def initial_state(generators: Sequence[np.random.Generator], points: int) -> Tensor:
    """The state (1, 0) with patches at (½, ¼), as Pearson's square was, where a smooth random field is above 1.

    Returns shape (runs, 2, points, points); the edge of a patch is smooth, a tenth of the field's deviation wide.
    """
    inside = torch.sigmoid(10 * (smooth_noise(generators, 2, points, scale=3.0) - 1.0))
    return torch.stack([1 - 0.5 * inside, 0.25 * inside], 1)


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 32,
    valid_runs: int = 8,
    test_runs: int = 8,
    cells: int = 48,
    frames: int = 4,
    frame_interval: float = 250.0,
    duration: float = 250.0,
    extent: float = 0.48,
    feed: float = 0.037,
    kill: float = 0.06,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Simulate the runs and write `<folder>/data/{train,valid,test}/gray_scott.hdf5`.

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
        extent: Length of the square's side, m; cells must be at most 0.02 m wide.
        feed: F, 1/s.
        kill: K, 1/s; (0.037, 0.06) makes mazes, (0.03, 0.062) spots that divide, (0.055, 0.062) long worms.
        device: Where the runs are simulated: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration, frame_interval)
    if cells < 16 or cells % 2 or not 0 < extent <= 0.02 * cells:
        raise ValueError(f"cells must be even, at least 16 and at most 0.02 m wide; got {cells} on {extent} m.")
    device = device_of(device)
    solver = GrayScott(PeriodicBox(2, 2 * cells, extent, device, degree=3), feed, kill)
    spans = [duration] + [frame_interval] * (frames - 1)

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        start = initial_state(run_generators(seed, split, first, last), solver.box.points)
        state, snapshots = solver.box.to_modes(start.to(device)), []
        for span in spans:
            state = solver.evolve(state, span, math.ceil(span / _STEP))
            snapshots.append(resample(solver.box.to_field(state), 2, cells))
        values = torch.stack(snapshots, 1).float().cpu().numpy()
        return {"u": values[:, :, 0], "v": values[:, :, 1]}

    return write_runs(
        folder, NAME, Grid((cells, cells), extent, "periodic", units="m"), {"u": FieldSpec(), "v": FieldSpec()}, runs,
        np.cumsum(spans), in_blocks(simulate, block_on(device)), at_once=64, seed=seed,
        parameters={"feed": feed, "kill": kill}, progress=progress, overwrite=overwrite,
    )  # fmt: skip
