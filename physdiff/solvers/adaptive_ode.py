r"""Any method of torchdiffeq for the probability flow, in whitened coordinates and log τ.

    dz/dlog τ = velocity(z, τ)

is zero for Gaussian data, and its rates are bounded down to t_min, where the solve stops; no method looks beyond the
two ends. One solve gives the states at any number of times (dense output), and can end where a function of the state
changes sign (an event). The error norm is that of the worst sample of a batch: with an adaptive method a sample depends
on its batch-mates, to the tolerance (C).

Source: Chen (2018), torchdiffeq; Chen, Amos and Nickel (2021), section 3, for events.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torchdiffeq import odeint, odeint_event
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver
from torchdiffeq._impl.solvers import FixedGridODESolver

from physdiff.registry import nearest
from physdiff.settings import is_whole
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, solvers

FIRST = 1 / 32  # of the way: the first step. The method's own guess is as long as the state is slow.


@solvers.register
@dataclass(frozen=True)
class AdaptiveODE(Solver):
    """The probability flow to a tolerance, by torchdiffeq.

    Attributes:
        method: A method of torchdiffeq, by its name there; adaptive (dopri5, dopri8, bosh3, ...), or with steps of
            equal log τ (rk4, midpoint, ...).
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance, in standard deviations.
        steps: Steps of the others between t = 1 and t_min.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int = 32

    stochastic: ClassVar[bool] = False
    exact_on_gaussian: ClassVar[bool] = True
    any_process: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.method not in SOLVERS:
            raise ValueError(f"AdaptiveODE: unknown method '{self.method}'. {nearest(self.method, SOLVERS)}")
        for name in ("rtol", "atol"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"AdaptiveODE: '{name}' must be positive and finite; got {getattr(self, name)}.")
        if not is_whole(self.steps, 1):
            raise ValueError(f"AdaptiveODE: 'steps' must be a whole number, at least 1; got {self.steps!r}.")

    @property
    def order(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]  # here a matter of settings
        """Order of the method; None where it varies it."""
        return getattr(SOLVERS[self.method], "order", None)

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # here a matter of settings
        """Evaluations of one of its steps; 1 for methods that use earlier steps."""
        kind = SOLVERS[self.method]
        if issubclass(kind, RKAdaptiveStepsizeODESolver):
            return len(kind.tableau.alpha)  # the last one is the first one of the next step
        return kind.order if issubclass(kind, FixedGridODESolver) and "adams" not in self.method else 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls("rk4", steps=4)

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        return self.solve(dynamics, y, torch.stack([t, s]))[-1]

    def solve(self, dynamics: ReverseDynamics, y: Tensor, times: Tensor) -> Tensor:
        """States at all given times, from one solve.

        Args:
            dynamics: The reverse process.
            y: Modes at the first time, shape (batch, channels, *grid).
            times: Decreasing times in [t_min, 1], shape (n,); the last may be 0, the clean field.

        Returns:
            Modes at each time, shape (n, batch, channels, *grid).

        Raises:
            ValueError: times do not decrease, or lie outside the range.
            FloatingPointError: an adaptive method cannot meet its tolerances.
        """
        flow = _Flow(dynamics)
        times = flow.checked(times)
        ends = times if times[-1] > 0 else times[:-1]
        if times[-1] == 0 and ends[-1] > flow.t_min:
            ends = torch.cat([ends, torch.tensor([flow.t_min], dtype=torch.float64)])
        log_times = flow.log_times(ends)
        z = dynamics.gaussian.at(times[0]).whiten(y)
        found = self._solved(flow, z, log_times) if len(ends) > 1 else z.unsqueeze(0)
        states = [y, *(dynamics.gaussian.at(t).unwhiten(z) for t, z in zip(ends[1:], found[1:], strict=True))]
        if times[-1] == 0:
            clean = dynamics.gaussian.at(times[-1])
            last = clean.unwhiten(found[-1] + dynamics.move(states[-1], ends[-1], times[-1]))
            states = [*states[: len(times) - 1], last]
        return torch.stack(states)

    def until(
        self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, event: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The first time, on the way down, at which a function of time and state changes sign; t_min if it does not.

        Two changes within one step of the method are not seen (C).

        Args:
            dynamics: The reverse process.
            y: Modes at t, shape (batch, channels, *grid).
            t: Start, shape (), in (t_min, 1].
            event: `event(t, modes)`, of any shape; the first of its values to change sign counts.

        Returns:
            The time, shape (), to `atol` in log τ, and the modes there.

        Raises:
            ValueError: t is outside its range, or the method has no events.
            FloatingPointError: an adaptive method cannot meet its tolerances.
        """
        if self.method == "scipy_solver":
            raise ValueError("AdaptiveODE: torchdiffeq's 'scipy_solver' has no events; take dopri5.")
        flow = _Flow(dynamics)
        log_times = flow.log_times(flow.checked(torch.stack([t, torch.tensor(flow.t_min, dtype=torch.float64)])))
        since, end = log_times

        def both(log_time: Tensor, z: Tensor) -> Tensor:
            now, point = flow.at(log_time)
            values = torch.as_tensor(event(now, point.unwhiten(z))).to(z).reshape(-1)
            return torch.cat([values, (log_time - end).to(z).reshape(1)])

        z = dynamics.gaussian.at(t).whiten(y)
        options = self._options(log_times)
        if self._has_fixed_steps:
            options = {"step_size": self._length(flow), "interp": "cubic"}
        found, states = _or_floating_point_error(
            self, odeint_event, flow, z, since.to(z.device), event_fn=both, reverse_time=True, options=options
        )
        log_time = found.detach().to("cpu", torch.float64)
        if log_time - end <= 2 * self.atol:
            log_time = end
        now, point = flow.at(log_time)
        return now, point.unwhiten(states[-1])

    @property
    def _has_fixed_steps(self) -> bool:
        return issubclass(SOLVERS[self.method], FixedGridODESolver)

    def _length(self, flow: _Flow) -> float:
        """Δ log τ of a step."""
        return float(-flow.range.diff()) / self.steps

    def _options(self, log_times: Tensor) -> dict[str, Any]:
        ends = log_times[[0, -1]]
        if issubclass(SOLVERS[self.method], RKAdaptiveStepsizeODESolver):
            return {"norm": worst_sample, "step_t": ends, "first_step": float(-ends.diff()) * FIRST}
        return {}

    def _solved(self, flow: _Flow, z: Tensor, log_times: Tensor) -> Tensor:
        options = self._options(log_times)
        if self._has_fixed_steps:  # equal ones, as methods that use earlier steps need them
            between = log_times[1:-1].numel() > 0
            options = {"grid_constructor": self._equal_steps(flow), "interp": "cubic" if between else "linear"}
        return _or_floating_point_error(self, odeint, flow, z, log_times.to(z.device), options=options)

    def _equal_steps(self, flow: _Flow) -> Callable[[object, Tensor, Tensor], Tensor]:
        length = self._length(flow)

        def stops(_flow: object, _state: Tensor, times: Tensor) -> Tensor:
            count = max(1, math.ceil(float((times[-1] - times[0]).abs()) / length - 1e-9))
            share = torch.linspace(0, 1, count + 1, dtype=times.dtype, device=times.device)
            return torch.cat([times[:1], (times[0] + share * (times[-1] - times[0]))[1:-1], times[-1:]])

        return stops


class _Flow:
    """dz/dlog τ, never asked for outside [t_min, 1]."""

    def __init__(self, dynamics: ReverseDynamics) -> None:
        self.dynamics, self.gaussian = dynamics, dynamics.gaussian
        self.t_min = dynamics.gaussian.t_min
        self.range = self.log_times(torch.tensor([1.0, self.t_min], dtype=torch.float64))

    def checked(self, times: Tensor) -> Tensor:
        """Times that decrease from at most 1 to at least t_min, or then to 0."""
        times = times.to("cpu", torch.float64)
        outside = (times > 1) | (times < self.t_min) & (times != 0)
        if times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()) or bool(outside.any()):
            raise ValueError(
                f"AdaptiveODE: times must decrease within [t_min, 1] = [{self.t_min:.6g}, 1], the last may be 0; got "
                f"{times.tolist()}."
            )
        return times

    def log_times(self, times: Tensor) -> Tensor:
        """log τ of times of shape (n,)."""
        return torch.stack([self.gaussian.at(t).time.log() for t in times])

    def at(self, log_time: Tensor) -> tuple[Tensor, Any]:
        """t, and the Gaussian world there."""
        time = self._time(log_time)
        return self.gaussian.clock.inverse(time), self.gaussian.at_time(time)

    def _time(self, log_time: Tensor) -> Tensor:
        inside = log_time.detach().to("cpu", torch.float64).clamp(self.range[1], self.range[0])
        return inside.exp()

    def __call__(self, log_time: Tensor, z: Tensor) -> Tensor:
        return self.dynamics.velocity(z, self._time(log_time))


def _or_floating_point_error(solver: AdaptiveODE, solve: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """A solve by torchdiffeq, which says by an assertion that its step shrank to nothing."""
    try:
        return solve(*args, rtol=solver.rtol, atol=solver.atol, method=solver.method, **settings)
    except AssertionError as error:
        if "underflow in dt" not in str(error) and "non-finite values" not in str(error):
            raise
        raise FloatingPointError(
            f"{solver.method} cannot meet rtol = {solver.rtol:g} and atol = {solver.atol:g}: its step shrank to "
            "nothing, or states are not finite; raise the tolerances, or take a method with fixed steps such as rk4."
        ) from None


def worst_sample(state: Tensor) -> Tensor:
    """Largest root mean square of a sample."""
    return state.flatten(1).square().mean(1).sqrt().max() if state.ndim > 1 else state.abs().max()
