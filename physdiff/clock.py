r"""Clocks: how the time t ∈ [0, 1] of the diffusion maps to the physical time τ ≥ 0 of the equation.

Most noising physics is one autonomous equation run along a clock; what papers call a noise schedule is only τ(t).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clock(ABC):
    """An increasing map τ(t) with τ(0) = 0."""

    @abstractmethod
    def time(self, t: Tensor) -> Tensor:
        """Physical time τ at t ∈ [0, 1], any shape."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """dτ/dt."""

    @abstractmethod
    def inverse(self, time: Tensor) -> Tensor:
        """t at which the physical time is τ."""

    @property
    def end(self) -> float:
        """Physical time at t = 1."""
        return float(self.time(torch.tensor(1.0, dtype=torch.float64)))


def _require_positive(clock: Clock, **settings: float) -> None:
    for name, value in settings.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{type(clock).__name__} needs a positive, finite '{name}'; got {value}.")


@dataclass(frozen=True)
class LinearClock(Clock):
    """τ = duration · t.

    Attributes:
        duration: Physical time at t = 1.
    """

    duration: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(self, duration=self.duration)

    def time(self, t: Tensor) -> Tensor:
        return self.duration * t

    def rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.duration)

    def inverse(self, time: Tensor) -> Tensor:
        return time / self.duration


@dataclass(frozen=True)
class ExponentialClock(Clock):
    """τ = onset · (e^{at} − 1), with a such that τ(1) = duration: linear up to the onset, logarithmic beyond.

    Equal steps of t are then equal steps of log τ, that is of the noise level, over as many decades as the data has.

    Attributes:
        duration: Physical time at t = 1.
        onset: Physical time from which the noise level grows geometrically; below `duration`.
    """

    duration: float = 1.0
    onset: float = 1e-4

    def __post_init__(self) -> None:
        _require_positive(self, duration=self.duration, onset=self.onset)

    @property
    def growth(self) -> float:
        """The exponent a."""
        return math.log1p(self.duration / self.onset)

    def time(self, t: Tensor) -> Tensor:
        return self.onset * torch.expm1(self.growth * t)

    def rate(self, t: Tensor) -> Tensor:
        return self.onset * self.growth * torch.exp(self.growth * t)

    def inverse(self, time: Tensor) -> Tensor:
        return torch.log1p(time / self.onset) / self.growth


@dataclass(frozen=True)
class LinearRateClock(Clock):
    """dτ/dt rises linearly: τ = β₀t + ½(β₁ − β₀)t², the "linear β" of the VP-SDE.

    Source: Song et al. (2021), eq. 32.

    Attributes:
        rate_start: β₀ = dτ/dt at t = 0.
        rate_end: β₁ = dτ/dt at t = 1.
    """

    rate_start: float = 0.1
    rate_end: float = 20.0

    def __post_init__(self) -> None:
        _require_positive(self, rate_start=self.rate_start, rate_end=self.rate_end)

    def time(self, t: Tensor) -> Tensor:
        return self.rate_start * t + 0.5 * (self.rate_end - self.rate_start) * t * t

    def rate(self, t: Tensor) -> Tensor:
        return self.rate_start + (self.rate_end - self.rate_start) * t

    def inverse(self, time: Tensor) -> Tensor:
        # The root in the form that does not subtract nearly equal numbers as τ → 0 or β₁ → β₀.
        root = torch.sqrt(self.rate_start**2 + 2 * (self.rate_end - self.rate_start) * time)
        return 2 * time / (self.rate_start + root)
