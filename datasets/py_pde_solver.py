"""Any equation on a box, by py-pde: stencils of second order in space, Runge and Kutta's or Euler's steps in time.

A wall acts on what stands under an operator: 0 at a clamped wall (dirichlet), slope 0 at an insulated one (neumann).
What stands under `divergence` is a flux, which is turned the other way: at an insulated wall nothing flows through, and
at a clamped one the flux has no slope. The mirror images that this makes are those of the grid's own sines and cosines.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from physdiff.grid import Grid

# py-pde 0.59 keeps compiled stencils of a process by the numbers of their conditions, not by their kinds: value 0 and
# slope 0 are one to it, and whichever comes first serves both. These two are 0 beside any field, and differ.
_VALUE, _SLOPE = 1e-320, 2e-320
_CONDITIONS = {"periodic": "periodic", "neumann": {"derivative": _SLOPE}, "dirichlet": {"value": _VALUE}}
_OF_FLUXES = {**_CONDITIONS, "neumann": {"normal_value": _VALUE}, "dirichlet": {"normal_derivative": _SLOPE}}


def library() -> Any:
    """py-pde.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("pde")
    except ImportError as error:
        raise ValueError(
            f"the recipe 'equation' needs py-pde, which cannot be imported ({error}): pip install 'physdiff[py-pde]'."
        ) from None


@lru_cache(8)
def their_grid(shape: tuple[int, ...], extent: tuple[float, ...], periodic: tuple[bool, ...]) -> Any:
    """py-pde's grid, the same object for the same box: its stencils are compiled once for each."""
    return library().CartesianGrid([(0, length) for length in extent], shape, periodic=list(periodic))


class Equation:
    """∂u/∂t of each variable, as py-pde solves it.

    Attributes:
        grid: Cells, at the origin.
        rhs: Expression of each variable.
        noise: Variance of white noise in each variable, per unit of time and volume; none if empty.
        tolerance: Of the error of a step where steps are adaptive.
        time_step: Of equal steps, or a little more than they are where a frame is no whole number of them away; 0 for
            adaptive ones.
    """

    def __init__(
        self, grid: Grid, rhs: Mapping[str, str], noise: Mapping[str, float], tolerance: float, time_step: float
    ) -> None:
        self.grid, self.rhs, self.noise, self.tolerance, self.time_step = grid, rhs, noise, tolerance, time_step
        self._pde = library()
        self._grid = their_grid(grid.shape, grid.extent, tuple(b == "periodic" for b in grid.boundary))

    def solver(self) -> str:
        """How it is solved, in words."""
        if self.noise:
            steps = f"Euler and Maruyama's steps of {self.time_step:g} or less"
        elif self.time_step:
            steps = f"Runge and Kutta's steps of {self.time_step:g} or less"
        else:
            steps = f"Runge, Kutta and Fehlberg's adaptive steps, tolerance {self.tolerance:g}"
        return f"py-pde {self._pde.__version__}, stencils of second order, {steps}"

    def field(self, expression: str, constants: Mapping[str, float]) -> np.ndarray:
        """Values of an expression in coordinates and constants, shape of the grid."""
        made = self._pde.ScalarField.from_expression(self._grid, expression, consts=dict(constants))
        return np.asarray(made.data)

    def check(self, fields: np.ndarray, constants: Mapping[str, float]) -> None:
        """Raise where the right hand sides cannot be evaluated at time 0 of fields of shape (variables, *grid).

        Raises:
            ValueError: py-pde cannot, or a field or its rate of change is complex or not finite.
        """
        try:
            equation = self._equation(constants, np.random.default_rng(0))
            if equation.complex_valued:
                raise ValueError("it is complex")
            with np.errstate(all="ignore"):
                rates = equation.make_evolution_rate(self._state(fields), "numpy")(fields.copy(), 0.0)
        except Exception as error:  # what py-pde, sympy and numba raise has no common kind
            reason = str(error.args[0] if error.args else error).strip().split("\n")[0].rstrip(".")
            said = "; ".join(f"{name}: {text}" for name, text in self.rhs.items())
            raise ValueError(f"rhs cannot be evaluated, {reason}; each must be a scalar field; got {said}.") from None
        for what, values in (("the start", fields), ("rhs", rates)):
            for name, array in zip(self.rhs, values, strict=True):
                if not np.isfinite(array).all():
                    cell = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                    raise ValueError(f"{what} of '{name}' is {array[cell]} at time 0 in cell {cell} of the first run.")

    def evolve(
        self, fields: np.ndarray, times: np.ndarray, constants: Mapping[str, float], generator: np.random.Generator
    ) -> np.ndarray:
        """Fields at each time, shape (variables, times, *grid), from those at time 0, shape (variables, *grid).

        Raises:
            FloatingPointError: a field grew without bound; when is told.
        """
        equation, state = self._equation(constants, generator), self._state(fields)
        frames, now, step = [], 0.0, None
        for time in (float(t) for t in times):
            if time > now:
                if self.time_step:
                    # py-pde takes whole steps and ends where they end: shorter ones, so that they end at the frame.
                    step = (time - now) / max(1, math.ceil((time - now) / self.time_step - 1e-6))
                try:
                    with np.errstate(all="ignore"):
                        state, told = equation.solve(
                            state, (now, time), dt=step, tracker=None, backend="numpy", ret_info=True, **self._steps()
                        )
                except (RuntimeError, FloatingPointError, OverflowError) as error:
                    raise FloatingPointError(f"between t = {now:g} and {time:g} ({error})") from None
                if not np.isfinite(state.data).all():
                    raise FloatingPointError(f"between t = {now:g} and {time:g}")
                step = step if self.time_step else float(told["solver"]["dt"])
            frames.append(state.data.copy())
            now = time
        return np.stack(frames, 1)

    def _steps(self) -> dict[str, Any]:
        if self.time_step:
            return {"solver": "euler" if self.noise else "runge-kutta"}
        return {"solver": "runge-kutta", "adaptive": True, "tolerance": self.tolerance}

    def _state(self, fields: np.ndarray) -> Any:
        parts = [self._pde.ScalarField(self._grid, values) for values in fields]
        return self._pde.FieldCollection(parts, labels=list(self.rhs))

    def _equation(self, constants: Mapping[str, float], generator: np.random.Generator) -> Any:
        walls = list(zip(self.grid.dims, self.grid.boundary, strict=True))
        of_fluxes = {"*:divergence": {dim: _OF_FLUXES[side] for dim, side in walls}}
        return self._pde.PDE(
            dict(self.rhs), bc={dim: _CONDITIONS[side] for dim, side in walls},
            # py-pde warns of conditions that nothing uses.
            bc_ops=of_fluxes if any("divergence" in text for text in self.rhs.values()) else None,
            consts=dict(constants), noise={name: self.noise.get(name, 0.0) for name in self.rhs} if self.noise else 0,
            rng=generator,
        )  # fmt: skip
