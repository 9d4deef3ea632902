r"""Snapshots of the viscous Burgers equation: smooth random fields that steepened into shocks.

    ∂u/∂t + u ∂u/∂x = ν ∂²u/∂x²,    x ∈ [0, 2π) m, periodic

Each run starts from a Gaussian random velocity at large scales. Faster fluid catches up with slower, so that ramps
form between fronts of a width of 4ν over the jump: one-sided slopes, which no Gaussian field has, whatever its
spectrum.

The solver is pseudo-spectral with the 2/3 rule, and steps by the exponential Runge-Kutta rule of order four (ETDRK4:
viscosity exact, advection fourth order). It works on three times as many points as are stored, and so on twice as many
modes. The equation has an exact solution (Cole, 1951; Hopf, 1950), against which the test holds the stored fields.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.grid import Grid

from .devices import Numbers, beside, library_of, on_cpu, place_of, placed, runs_together
from .etdrk4 import ETDRK4
from .runs import runs_by_split
from .writing import run_generators, write_runs

NAME = "burgers"
SUMMARY = "viscous Burgers equation: velocity with shocks, 1-D, periodic, 1280 runs on 128 cells"

_RUNS_AT_ONCE = 64  # their arrays stay in a CPU's cache
_FASTEST = 6.0  # m/s, six standard deviations of the start; Burgers fields never grow
_LONGEST_TAIL = 0.05  # amplitude of the shortest waves over the strongest's: fronts as thin as that ring
_LARGEST_SCALE = 3.0  # 1/m, the wavenumber at which the start's power has fallen by e^{-1/2}


class Burgers:
    """The truncated equation on n points of [0, 2π), for many independent runs at once.

    Args:
        points: Points n along the line.
        viscosity: ν > 0, m²/s.
        device: Where fields and modes are tensors; None where they are arrays.

    Attributes:
        kept: Whether a mode is kept: those below n/3.
    """

    def __init__(self, points: int, viscosity: float, device: str | None = None) -> None:
        if points < 8 or not 0 < viscosity < math.inf:
            raise ValueError(f"needs at least 8 points and a viscosity > 0; got {points} and {viscosity}.")
        self.points, self.viscosity, self._device = points, viscosity, device
        k = np.arange(points // 2 + 1, dtype=np.float64)
        kept = 3 * k < points
        self._rates = -viscosity * k**2
        self.kept, self._slope = (placed(values, device) for values in (kept, -0.5j * k * kept))

    def to_modes(self, velocity: Numbers) -> Numbers:
        """Coefficients of the kept modes, shape (..., n//2 + 1), of fields of shape (..., n)."""
        return library_of(velocity).fft.rfft(velocity) * self.kept

    def to_field(self, modes: Numbers) -> Numbers:
        """Fields, shape (..., n)."""
        return library_of(modes).fft.irfft(modes, n=self.points)

    def advection(self, modes: Numbers) -> Numbers:
        """−u ∂u/∂x = −½ ∂(u²)/∂x of each run, as modes."""
        return self._slope * library_of(modes).fft.rfft(self.to_field(modes) ** 2)

    def evolve(self, modes: Numbers, duration: float, steps: int) -> Numbers:
        """Modes after `duration`, in `steps` equal steps.

        Raises:
            ValueError: the steps are too long for the flow's speed, and the numbers overflow.
        """
        step = duration / steps
        with np.errstate(over="ignore", invalid="ignore"):
            rule = ETDRK4(self._rates, step, self._device)
            for _ in range(steps):
                modes = rule.step(modes, self.advection)
        if not library_of(modes).isfinite(modes).all():
            raise ValueError(f"the flow overflowed with {steps} steps of {step:.3g}; take more steps.")
        return modes

    def tail(self, modes: Numbers) -> float:
        """Largest amplitude of any run in the last eighth of its kept modes, over that of its strongest."""
        size = on_cpu(library_of(modes).abs(modes))[..., : (self.points - 1) // 3 + 1]
        last = size[..., -(size.shape[-1] // 8) :]
        return float((last.max(-1) / size.max(-1)).max())

    def stable_steps(self, duration: float) -> int:
        """Steps with which the fastest wave that a run can hold turns by at most one radian a step."""
        return max(1, math.ceil(duration * _FASTEST * (self.points - 1) / 3))


def initial_velocity(generator: np.random.Generator, points: int) -> np.ndarray:
    """A Gaussian random velocity of mean 0 and expected variance 1 at cell centres, m/s, shape (points,), float64.

    The power of a wavenumber k ≥ 1 is proportional to exp(−k²/18); the draws are the same for any number of points.
    """
    k = np.arange(1, 17)
    power = np.exp(-0.5 * (k / _LARGEST_SCALE) ** 2)
    cosine, sine = np.sqrt(power / power.sum()) * generator.standard_normal((2, len(k)))
    phase = np.outer(2 * math.pi * (np.arange(points) + 0.5) / points, k)
    return np.cos(phase) @ cosine + np.sin(phase) @ sine


def coarsen(field: Numbers, cells: int) -> Numbers:
    """The same trigonometric polynomial at the centres of fewer cells, without modes at or above their Nyquist.

    Args:
        field: Values at cell centres, shape (..., n).
        cells: Even number of cells, ≤ n.
    """
    points = field.shape[-1]
    k = np.arange(cells // 2 + 1)
    # Cell centres start half a cell from the edge, and the cells differ: each mode turns by the difference.
    turn = np.exp(1j * k * (math.pi / cells - math.pi / points)) * (2 * k < cells)
    fft = library_of(field).fft
    return fft.irfft(fft.rfft(field)[..., : cells // 2 + 1] * beside(turn, field), n=cells) * (cells / points)


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 1024,
    valid_runs: int = 128,
    test_runs: int = 128,
    cells: int = 128,
    frames: int = 1,
    frame_interval: float = 0.5,
    duration: float = 1.0,
    viscosity: float = 0.05,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Simulate the runs and write `<folder>/data/{train,valid,test}/burgers.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, run by run.
        progress: Whether a progress bar is shown.
        train_runs: Independent runs to train on.
        valid_runs: Independent runs to validate on.
        test_runs: Independent runs to test on.
        cells: Stored cells, even, at least 32.
        frames: Snapshots stored per run; runs, not snapshots, are split.
        frame_interval: Time between them, s.
        duration: Time of the first, s; the first shocks form after about 0.3 s.
        viscosity: m²/s; 0.05 is resolved by 128 cells.
        device: Where the runs are simulated: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration, frame_interval)
    if cells < 32 or cells % 2:
        raise ValueError(f"cells must be even and at least 32, to hold the initial field; got {cells}.")
    grid = Grid((cells,), extent=2 * math.pi, boundary="periodic", units="m")
    place = place_of(device)
    solver = Burgers(3 * cells, viscosity, place)
    spans = [duration] + [frame_interval] * (frames - 1)

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        """Snapshots of some runs, shape (last − first, frames, cells)."""
        generators = run_generators(seed, split, first, last)
        start = np.stack([initial_velocity(g, solver.points) for g in generators])
        modes = solver.to_modes(placed(start, place))
        snapshots = []
        for span in spans:
            modes = solver.evolve(modes, span, solver.stable_steps(span))
            if (tail := solver.tail(modes)) > _LONGEST_TAIL:
                raise ValueError(
                    f"a viscosity of {viscosity} m²/s is not resolved by {cells} cells: the shortest waves of a run "
                    f"have {tail:.0%} of its strongest's amplitude, above {_LONGEST_TAIL:.0%}; take more of either."
                )
            snapshots.append(on_cpu(coarsen(solver.to_field(modes), cells)))
        return {"velocity": np.stack(snapshots, axis=1)}

    return write_runs(
        folder, NAME, grid, {"velocity": FieldSpec("m/s", pseudo=True)}, runs, np.cumsum(spans), simulate,
        at_once=runs_together(frames * cells, _RUNS_AT_ONCE if place is None else 1024), seed=seed,
        parameters={"viscosity": viscosity}, progress=progress, overwrite=overwrite,
    )  # fmt: skip
