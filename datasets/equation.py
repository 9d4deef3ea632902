"""Runs of any equation that py-pde solves, typed in its own words.

    ∂c/∂t = laplace(c**3 - c - laplace(c))

unless told otherwise: Cahn and Hilliard's equation, a mixture that separates into two phases, c near +1 and −1, whose
amounts stay what they are. Each variable is a scalar field; its right hand side may hold all variables, constants,
coordinates, the time t and py-pde's operators. A constant that is a range is drawn for each run and stored with it, so
that a model can be conditioned on it. Runs start from a mean, which may be an expression, and a Gaussian random field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physdiff.data.fields import SPLITS
from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.grid import Grid

from .by_variable import by_name, constants_of, positive
from .equation_start import Start
from .expressions import FUNCTIONS, check_names, checked, operators
from .py_pde_solver import Equation
from .runs import runs_by_split
from .writing import run_generators, write_runs

NAME = "equation"
SUMMARY = "Any equation in py-pde's words (Cahn-Hilliard if not told): box, sides and constants by settings, 32 runs"

_RHS: Mapping[str, str] = {"c": "laplace(c**3 - c - laplace(c))"}
_NONE: Mapping[str, Any] = {}


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 24,
    valid_runs: int = 4,
    test_runs: int = 4,
    rhs: Mapping[str, str] = _RHS,
    constants: Mapping[str, float | Sequence[float]] = _NONE,
    cells: Sequence[int] = (48, 48),
    extent: float | Sequence[float] = 48.0,
    boundary: str | Sequence[str] = "periodic",
    mean: float | str | Mapping[str, float | str] = 0.0,
    amplitude: float | Mapping[str, float] = 0.1,
    length: float | Mapping[str, float] = 1.0,
    noise: float | Mapping[str, float] = 0.0,
    frames: int = 4,
    frame_interval: float = 10.0,
    duration: float = 10.0,
    tolerance: float = 1e-5,
    time_step: float = 0.0,
    overwrite: bool = False,
) -> Path:
    """Simulate the runs and write `<folder>/data/{train,valid,test}/equation.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, run by run.
        progress: Whether a progress bar is shown.
        train_runs: Independent runs to train on.
        valid_runs: Independent runs to validate on.
        test_runs: Independent runs to test on.
        rhs: Right hand side of each variable, as in '{u: "k*laplace(u) - u*v", v: "u*v - v"}'.
        constants: Numbers by name; '{k: [0.5, 2]}' draws one for each run, evenly, and stores it with the run.
        cells: Cells along each axis, 1 to 3 of them; their names are x, y, z.
        extent: Length of the box, or one for each axis, in the equation's units.
        boundary: "periodic", "neumann" (insulated) or "dirichlet" (clamped at 0), or one for each axis.
        mean: Of the field that a run starts from: a number or an expression in coordinates and constants, or one for
            each variable by name.
        amplitude: Standard deviation of the random part of the start, or one for each variable by name.
        length: Its correlation length, or one for each variable by name.
        noise: Variance of white noise, per unit of time and volume, or one for each variable by name; it asks for a
            time_step.
        frames: Snapshots stored per run; runs, not snapshots, are split.
        frame_interval: Time between them.
        duration: Time of the first; 0 stores the start.
        tolerance: Of the error of an adaptive step.
        time_step: Of equal steps, shortened so that frames are a whole number of them apart; 0 for adaptive ones.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, py-pde is not installed, an expression cannot be read, a setting is out of
            range, or fields of a run grow without bound.
    """
    # Here the first frame may be the start.
    runs = runs_by_split(train_runs, valid_runs, test_runs, frames, duration or frame_interval, frame_interval)
    grid = _grid(cells, extent, boundary)
    if not isinstance(rhs, Mapping) or not rhs or not isinstance(constants, Mapping):
        raise ValueError(
            f"rhs and constants go by name, as in '{{c: laplace(c)}}' and '{{k: 1}}'; got {rhs} and {constants}."
        )
    check_names(rhs, constants, grid.dims)
    fixed, drawn = constants_of(constants)
    here = {"variables": tuple(rhs), "constants": tuple(constants), "coordinates": grid.dims}
    words = (*operators(grid.dims), *FUNCTIONS)
    equations = {name: checked(f"rhs of '{name}'", text, here | {"time": ("t",)}, words) for name, text in rhs.items()}
    of_start = {kind: names for kind, names in here.items() if kind != "variables"}
    start = Start.of(grid, rhs, of_start, mean, amplitude, length)
    noises = positive("noise", by_name("noise", noise, rhs, 0.0), may_be_zero=True)
    if not 0 < tolerance < math.inf or not 0 <= time_step < math.inf or (any(noises.values()) and not time_step):
        raise ValueError(
            f"needs a tolerance > 0 and a time_step of at least 0, above 0 with noise; got {tolerance} and {time_step}."
        )
    equation = Equation(grid, equations, noises if any(noises.values()) else {}, tolerance, time_step)

    def one(split: int, run: int, generator: np.random.Generator) -> tuple[np.ndarray, dict[str, float]]:
        numbers = fixed | {name: float(generator.uniform(*ends)) for name, ends in drawn.items()}
        fields = start.draw(equation, numbers, generator)
        if (split, run) == (0, 0):
            equation.check(fields, numbers)
        try:
            return equation.evolve(fields, times, numbers, generator), numbers
        except FloatingPointError as error:
            made_with = ", ".join(f"{name} = {value:.4g}" for name, value in numbers.items())
            raise ValueError(
                f"run {run} of {SPLITS[split]}{f' ({made_with})' if made_with else ''}: fields grow without bound "
                f"{error}; look at the signs in rhs, or make amplitude, constants, duration or "
                f"{'time_step' if time_step else 'tolerance'} smaller."
            ) from None

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        made = [one(split, first + i, g) for i, g in enumerate(run_generators(seed, split, first, last))]
        fields = {name: np.stack([values[place] for values, _ in made]) for place, name in enumerate(rhs)}
        return fields | {name: np.array([numbers[name] for _, numbers in made]) for name in drawn}

    times = duration + frame_interval * np.arange(frames)
    stated = [f"∂{name}/∂t = {text}" for name, text in equations.items()]
    stated = [line + (f", and white noise of variance {noises[name]:g}" if noises[name] else "")
              for line, name in zip(stated, rhs, strict=True)]  # fmt: skip
    return write_runs(
        folder, NAME, grid, dict.fromkeys(rhs, FieldSpec()), runs, times, simulate, at_once=1, seed=seed,
        parameters=fixed, per_run=tuple(drawn), attrs={"equation": "; ".join(stated), "solver": equation.solver()},
        progress=progress, overwrite=overwrite,
        told=_told(stated, fixed, drawn, grid, start, times, equation.solver()),
    )  # fmt: skip


def _grid(cells: Sequence[int], extent: float | Sequence[float], boundary: str | Sequence[str]) -> Grid:
    if not isinstance(cells, list | tuple) or not 1 <= len(cells) <= 3 or not all(type(n) is int for n in cells):
        raise ValueError(f"cells is a list, a number for each of 1 to 3 axes, as in '[64, 64]'; got {cells!r}.")
    if min(cells) < 4:
        raise ValueError(f"needs at least 4 cells along each axis; got {list(cells)}.")
    return Grid(tuple(cells), extent, boundary)


def _told(
    stated: Sequence[str], fixed: Mapping[str, float], drawn: Mapping[str, tuple[float, float]], grid: Grid,
    start: Start, times: np.ndarray, solver: str,
) -> str:  # fmt: skip
    """What the card says of the equation that these data were made by."""
    numbers = [f"{name} = {value:g}" for name, value in fixed.items()]
    numbers += [f"{name} from {low:g} to {high:g}, stored with each run" for name, (low, high) in drawn.items()]
    lines = [
        *(f"    {line}\n" for line in stated),
        f"- constants: {'; '.join(numbers) or 'none'}",
        f"- on {grid.describe()}",
        f"- start: {start}",
        f"- frames at t = {', '.join(f'{t:g}' for t in times[:8])}{', ...' if len(times) > 8 else ''}",
        f"- solver: {solver}",
    ]
    return "\n## The equation of this data set\n\n" + "\n".join(lines) + "\n"
