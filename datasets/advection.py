r"""Snapshots of linear advection in one dimension: waves that travel without changing.

    ∂u/∂t + c ∂u/∂x = 0,    x ∈ [0, L), periodic;    u(x, t) = u₀(x − c t)

A start is a sum of a few sines of random amplitude, phase and wavenumber, as in PDEBench, and each run has a speed of
its own, which is stored with it. Nothing is discretised: the solution is evaluated at the cell centres, so the error is
rounding.

Source: Takamoto et al. (2022), PDEBench, appendix D.1, for the start.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.grid import Grid

from .devices import Numbers, beside, library_of, on_cpu, place_of, placed, runs_together
from .runs import check_angle, runs_by_split
from .writing import run_generators, write_runs

NAME = "advection"
SUMMARY = "linear advection: travelling waves, solved exactly, 1-D, periodic, 1280 runs of 8 frames on 128 cells"

_LARGEST = 8  # wavenumber of a start, as in PDEBench


class Waves:
    """A sum of sines that travels, u = Σ a sin(2πk(x − ct)/L + φ).

    Args:
        generator: Draws the speed, uniform in `speeds`, then for each wave an amplitude in [0, 1), a wavenumber in
            {1, ..., 8} and a phase in [0, 2π).
        waves: Number of sines.
        speeds: Least and greatest speed c, m/s.
        extent: L, m.

    Attributes:
        speed: c, m/s.
    """

    def __init__(self, generator: np.random.Generator, waves: int, speeds: tuple[float, float], extent: float) -> None:
        self.speed = float(generator.uniform(*speeds))
        self._amplitude = generator.random(waves)
        self._k = 2 * math.pi / extent * generator.integers(1, _LARGEST + 1, waves)
        self._phase = generator.uniform(0, 2 * math.pi, waves)

    def at(self, time: float | Numbers, x: Numbers) -> Numbers:
        """u at some places and times that broadcast, an array or a tensor as x is, of their common shape."""
        amplitude, k, phase = (beside(values, x) for values in (self._amplitude, self._k, self._phase))
        angle = k * (x - self.speed * time)[..., None] + phase
        # A product of matrices may sum in another order for other sizes; a sum over the last axis does not.
        return (amplitude * library_of(x).sin(angle)).sum(-1)


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 1024,
    valid_runs: int = 128,
    test_runs: int = 128,
    cells: int = 128,
    frames: int = 8,
    frame_interval: float = 0.125,
    duration: float = 0.125,
    waves: int = 2,
    slowest: float = 0.2,
    fastest: float = 1.0,
    extent: float = 1.0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Evaluate the runs and write `<folder>/data/{train,valid,test}/advection.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, run by run.
        progress: Whether a progress bar is shown.
        train_runs: Independent runs to train on.
        valid_runs: Independent runs to validate on.
        test_runs: Independent runs to test on.
        cells: Stored cells, at least 17, to hold the shortest wave.
        frames: Snapshots stored per run; runs, not snapshots, are split.
        frame_interval: Time between them, s.
        duration: Time of the first, s.
        waves: Sines of a start.
        slowest: Least speed of a run, m/s; negative speeds run to the left.
        fastest: Greatest speed of a run, m/s.
        extent: Length L of the line, m.
        device: Where the runs are evaluated: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration, frame_interval)
    if cells <= 2 * _LARGEST or waves < 1:
        raise ValueError(f"needs more than {2 * _LARGEST} cells and at least one wave; got {cells} and {waves}.")
    if not -math.inf < slowest <= fastest < math.inf:
        raise ValueError(f"slowest must be finite and at most fastest; got {slowest} and {fastest} m/s.")
    grid = Grid((cells,), extent, "periodic", units="m")
    check_angle(2 * math.pi * _LARGEST / extent * max(abs(slowest), abs(fastest)), duration + frame_interval * frames)
    times, place = duration + frame_interval * np.arange(frames), place_of(device)
    x, t = placed(grid.coordinate(0), place), placed(times[:, None], place)

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        made = [Waves(g, waves, (slowest, fastest), extent) for g in run_generators(seed, split, first, last)]
        values = np.stack([on_cpu(run.at(t, x)) for run in made])
        return {"u": values, "speed": np.array([run.speed for run in made])}

    return write_runs(
        folder, NAME, grid, {"u": FieldSpec()}, runs, times, simulate,
        at_once=runs_together(frames * cells * waves, 256), seed=seed, per_run=("speed",),
        attrs={"waves": waves}, progress=progress, overwrite=overwrite,
    )  # fmt: skip
