r"""Noise schedules as tables on integer steps, and the clock that runs through a table.

A table of β is the variance preserving process looked at from time to time: with m = e^{−τ/2},

    q(x_j | x_{j−1}) = N(√(1 − β_j) x_{j−1}, β_j),    ᾱ_j = Π_{i≤j} (1 − β_i) = e^{−τ_j}

    τ_j = −Σ_{i≤j} log(1 − β_i),

so β_j says how much physical time passes in step j; β_K = 1 is an infinite time, after which no signal is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from physdiff.clock import Clock, CosineClock


def linear_betas(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """β_1 ... β_K in equal steps, shape (steps,), float64. Source: Ho, Jain and Abbeel (2020), section 4."""
    _require_steps(steps)
    return torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)


def cosine_betas(steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """β of ᾱ ∝ cos²(½π (j/K + s)/(1 + s)), none above `largest`, shape (steps,), float64.

    Source: Nichol and Dhariwal (2021), eq. 17.
    """
    _require_steps(steps)
    share = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    times = CosineClock(offset, last=(steps - 1) / steps).time(share)
    lost = -torch.expm1(-times.diff())
    return torch.cat([lost, torch.ones(1, dtype=torch.float64)]).clamp(max=largest)  # ᾱ_K = 0: the last β would be 1


def rescaled_zero_terminal_snr(betas: Tensor) -> Tensor:
    """A schedule stretched so that no signal is left at its end, β_K = 1; its first step is kept, shape (K,).

    Source: Lin, Liu, Li and Yang (2024), algorithm 1.
    """
    _require_steps(len(betas))
    amplitude = torch.exp(-0.5 * physical_times_of(betas)[1:])
    first, last = amplitude[0], amplitude[-1]
    amplitude = (amplitude - last) * first / (first - last)
    kept = torch.cat([amplitude[:1], amplitude[1:] / amplitude[:-1]])
    return 1 - kept.square()


def physical_times_of(betas: Tensor) -> Tensor:
    """τ_0 = 0, ..., τ_K of the variance preserving process, shape (K + 1,), float64; infinite after β = 1.

    Raises:
        ValueError: a β is not in (0, 1), or a β of 1 is not the last.
    """
    betas = betas.to(torch.float64)
    allowed = (betas > 0) & (betas < 1)
    allowed[-1:] |= betas[-1:] == 1
    if betas.ndim != 1 or not bool(allowed.all()):
        wrong = (
            ""
            if betas.ndim != 1
            else f", β = {float(betas[~allowed][0]):.6g} at step {int((~allowed).int().argmax()) + 1}"
        )
        raise ValueError(
            f"betas must lie in (0, 1), the last in (0, 1], shape (K,); got shape {tuple(betas.shape)}{wrong}."
        )
    return torch.cat([torch.zeros(1, dtype=torch.float64), -torch.log1p(-betas).cumsum(0)])


def _require_steps(steps: int) -> None:
    if steps < 2:
        raise ValueError(f"a schedule needs at least 2 steps; got {steps}.")


@dataclass(frozen=True)
class TableClock(Clock):
    """A clock through given physical times: τ(j/K) = τ_j, exactly; geometric between them, linear up to τ_1.

    Attributes:
        times: τ_0 = 0 < τ_1 < ... < τ_K < ∞.
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(float(time) for time in self.times))
        increasing = all(a < b for a, b in zip(self.times, self.times[1:], strict=False))
        if len(self.times) < 2 or self.times[0] != 0 or not increasing or not math.isfinite(self.times[-1]):
            raise ValueError(
                "TableClock needs at least two finite, increasing 'times', of which the first is 0; got "
                f"{len(self.times)} from {self.times[:1]} to {self.times[-1:]}."
            )

    @property
    def steps(self) -> int:
        """K."""
        return len(self.times) - 1

    @cached_property
    def _knots(self) -> Tensor:
        return torch.tensor(self.times, dtype=torch.float64)

    @cached_property
    def _growth(self) -> Tensor:
        """log(τ_{j+1}/τ_j), shape (K,); nothing of use for j = 0."""
        return torch.log(self._knots[1:] / self._knots[:-1].clamp(min=self.times[1]))

    def _interval(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """j and the share of the way from knot j to j + 1."""
        place = t.to(torch.float64) * self.steps
        knot = place.round()
        rounding = 4 * torch.finfo(torch.float64).eps * knot.abs()  # (j/K)·K may miss j
        place = torch.where((place - knot).abs() <= rounding, knot, place)
        before = place.floor().clamp(0, self.steps - 1)
        return before.long(), place - before

    def time(self, t: Tensor) -> Tensor:
        j, share = self._interval(t)
        knots, growth = self._knots.to(t.device), self._growth.to(t.device)
        between = torch.where(j == 0, share * knots[1], knots[j] * torch.exp(share * growth[j]))
        return torch.where(share == 1, knots[j + 1], between)

    def rate(self, t: Tensor) -> Tensor:
        j, _ = self._interval(t)
        slope = self._growth.to(t.device)[j] * self.time(t)
        return self.steps * torch.where(j == 0, self.times[1], slope)

    def inverse(self, time: Tensor) -> Tensor:
        knots, growth = self._knots.to(time.device), self._growth.to(time.device)
        j = (torch.searchsorted(knots, time.to(torch.float64), right=True) - 1).clamp(0, self.steps - 1)
        ratio = time / torch.where(j == 0, knots[1], knots[j])
        share = torch.where(j == 0, ratio, torch.log(ratio) / torch.where(j == 0, 1.0, growth[j]))
        return (j + share) / self.steps
