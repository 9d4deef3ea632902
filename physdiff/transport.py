r"""Whitened states carried between t_min and t = 1, with the integral of the divergence.

Methods of physdiff give each field its own steps (`physdiff.multistep`, `physdiff.integrate`), in the angle of the
reference. For the density of a mixture on 64 modes to 10⁻³ nats, adams takes 45 evaluations, rk45 75 and dop853 105.
Those of torchdiffeq run in log τ, with one step for all fields that are computed together: the adaptive ones under the
error of the worst of them, the others in steps of equal log τ.

Errors are measured per field: those of the state as the root mean square over the modes that vary, those of the
divergence as the root mean square over its columns, in nats over the square root of their number: that is how much
log-densities of fields differ among themselves.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchdiffeq import odeint

from physdiff.integrate import CLASSES, embedded_rule, integrate
from physdiff.multistep import integrate_multistep
from physdiff.path import ReferencePath
from physdiff.probability_flow import ProbabilityFlow
from physdiff.reference_angle import ReferenceAngle
from physdiff.registry import nearest
from physdiff.simulated_path import SimulatedPath
from physdiff.solvers.adaptive_ode import worst_sample

PER_FIELD = ("adams", *CLASSES)
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = ("midpoint", "heun3", "rk4", "euler", "explicit_adams", "implicit_adams")
METHODS = PER_FIELD + ADAPTIVE + FIXED
DEFAULT_METHOD = "adams"


def check_integration(method: str, rtol: float, atol: float, steps: int) -> None:
    """Raise unless the method is known and its settings are in their range."""
    if method not in METHODS:
        raise ValueError(f"unknown method '{method}'. {nearest(method, METHODS)}")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {value}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}.")


class Transport:
    """The integration between the two ends.

    Args:
        path: Of the model.
        method: One of METHODS.
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance, in whitened units and in nats per square root of the degrees of freedom.
        steps: Steps of a method with fixed ones.

    Raises:
        ValueError: an unknown method, or a setting is outside its range.
    """

    def __init__(self, path: ReferencePath | SimulatedPath, method: str, rtol: float, atol: float, steps: int) -> None:
        check_integration(method, rtol, atol, steps)
        self.method, self.rtol, self.atol, self.steps = method, rtol, atol, steps
        self.n_support = path.reference.n_support
        self.log_times = torch.stack([path.at(t).time.log() for t in (path.t_min, 1.0)])
        self.angle = ReferenceAngle(path) if method in PER_FIELD else None

    def __call__(self, flow: ProbabilityFlow, z: Tensor, backwards: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """From t_min to t = 1, or back.

        Args:
            flow: Of these fields.
            z: Whitened states at the start, shape (n, channels, *grid), float64.
            backwards: Whether to start at t = 1.

        Returns:
            Whitened states at the end, shape as z; the integral of the divergence on the way, shape (n, columns); and
            the evaluations of each field, shape (n,).

        Raises:
            FloatingPointError: an adaptive method cannot meet its tolerances.
        """
        try:
            return self._per_field(flow, z, backwards) if self.angle else self._together(flow, z, backwards)
        except (AssertionError, FloatingPointError) as error:
            if isinstance(error, AssertionError) and "underflow in dt" not in str(error):
                raise
            raise FloatingPointError(
                f"{self.method} cannot meet rtol = {self.rtol:g} and atol = {self.atol:g}: its step shrank to nothing; "
                "raise the tolerances, or take a fixed-step method such as rk4."
            ) from None

    def _per_field(self, flow: ProbabilityFlow, z: Tensor, backwards: bool) -> tuple[Tensor, Tensor, Tensor]:
        assert self.angle is not None
        angle, shape, values = self.angle, z.shape[1:], z[0].numel()

        def rate(s: Tensor, state: Tensor, rows: Tensor) -> Tensor:
            log_time, speed = angle.at(s)
            v, divergence = flow(log_time, state[:, :values].unflatten(1, shape), rows)
            return speed.to(state).unsqueeze(1) * torch.cat([v.flatten(1), divergence], 1)

        def size(error: Tensor, before: Tensor, after: Tensor) -> Tensor:
            largest = before.abs().maximum(after.abs())
            modes = self.n_support
            moved = _root_mean_square(error[:, :values], modes)
            moved = moved / (self.atol + self.rtol * _root_mean_square(largest[:, :values], modes))
            if not flow.columns:
                return moved
            gained = error[:, values:].abs() / (self.atol * modes**0.5 + self.rtol * largest[:, values:])
            return moved.maximum(_root_mean_square(gained, flow.columns))

        ends = (angle.end, angle.start) if backwards else (angle.start, angle.end)
        start = torch.cat([z.flatten(1), z.new_zeros((len(z), flow.columns))], 1)
        if self.method == "adams":
            found, evaluations = integrate_multistep(rate, *ends, start, size)
        else:
            found, evaluations = integrate(rate, *ends, start, embedded_rule(self.method), size)
        return found[:, :values].unflatten(1, shape), found[:, values:], evaluations

    def _together(self, flow: ProbabilityFlow, z: Tensor, backwards: bool) -> tuple[Tensor, Tensor, Tensor]:
        times = self.log_times.flip(0) if backwards else self.log_times
        span = float(self.log_times.diff())
        # No step looks beyond the ends: a network knows nothing there, and τ grows exponentially. The first one is
        # given, since the solver's own guess is as long as the state is slow.
        options: dict[str, Any] = {"norm": _worst_field, "step_t": self.log_times, "first_step": span / 32}
        if self.method in FIXED:
            options = {"step_size": span / self.steps}
        count = 0

        def rate(log_time: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            nonlocal count
            count += 1
            return flow(log_time, state[0])

        state = (z, z.new_zeros((len(z), flow.columns)))
        found = odeint(
            rate, state, times.to(z.device), rtol=self.rtol, atol=self.atol, method=self.method, options=options
        )
        return found[0][-1], found[1][-1], torch.full((len(z),), count)


def _root_mean_square(x: Tensor, count: int) -> Tensor:
    """Per field, shape (n, ...) to (n,), over so many values."""
    return (x.flatten(1).square().sum(1) / count).sqrt()


def _worst_field(state: tuple[Tensor, ...] | Tensor) -> Tensor:
    """Largest root mean square over fields, of all parts of the state."""
    parts = state if isinstance(state, tuple) else (state,)
    return torch.stack([worst_sample(part) for part in parts if part.numel() > 0 and part.ndim > 0]).max()
