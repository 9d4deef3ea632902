r"""Clocks: how the time t ∈ [0, 1] of the diffusion maps to the physical time τ ≥ 0 of the equation.

Most noising physics is one autonomous equation run along a clock; what papers call a noise schedule is only τ(t).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

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

    def describe(self) -> str:
        """`ExponentialClock(duration=1.732, onset=3.405e-06)`: its settings to four digits."""
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        words = (
            f"{len(value)} {name}" if isinstance(value, tuple) else f"{name}={value:.4g}"
            for name, value in settings.items()
        )
        return f"{type(self).__name__}({', '.join(words)})"


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


@dataclass(frozen=True)
class CosineClock(Clock):
    """τ = −log ᾱ with ᾱ(t) ∝ cos²(½π (t' + s)/(1 + s)), t' = last · t: the "cosine schedule", for unit rate processes.

    Source: Nichol and Dhariwal (2021), eq. 17; they clip β where ᾱ vanishes, here the last share of t' is left out.

    Attributes:
        offset: s > 0, keeps the first noise from being too small.
        last: t' at t = 1, below 1, where the signal would be gone.
    """

    offset: float = 0.008
    last: float = 0.998

    def __post_init__(self) -> None:
        _require_positive(self, offset=self.offset, last=self.last)
        if self.last >= 1:
            raise ValueError(f"CosineClock needs 'last' below 1, where no signal is left; got {self.last}.")

    def _phase(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * (self.last * t + self.offset) / (1 + self.offset)

    def time(self, t: Tensor) -> Tensor:
        # log(cos a / cos b) by the sum formula: no loss of digits as t → 0.
        start = self._phase(torch.zeros_like(t))
        shift = 0.5 * math.pi * self.last * t / (1 + self.offset)
        lost = 2 * torch.sin(0.5 * shift).square() + torch.tan(start) * torch.sin(shift)
        return -2 * torch.log1p(-lost)

    def rate(self, t: Tensor) -> Tensor:
        return math.pi * self.last / (1 + self.offset) * torch.tan(self._phase(t))

    def inverse(self, time: Tensor) -> Tensor:
        # The shift of the phase from its sine and cosine: arccos of the phase itself has no digits left as τ → 0.
        start = self._phase(torch.zeros_like(time))
        lost = -torch.expm1(-0.5 * time)
        cosine, sine = torch.cos(start), torch.sin(start)
        rise = cosine.square() * lost * (2 - lost)
        end_sine = torch.sqrt(sine.square() + rise)
        shift_sine = cosine * (rise / (end_sine + sine) + lost * sine)
        shift = torch.atan2(shift_sine, (1 - lost) * cosine.square() + end_sine * sine)
        return shift * 2 / math.pi * (1 + self.offset) / self.last


@dataclass(frozen=True)
class KarrasClock(Clock):
    """τ = (a + t(b − a))^ρ − a^ρ with a = onset^{1/ρ}, b = (duration + onset)^{1/ρ}: between linear and exponential.

    Source: Karras et al. (2022), eq. 5, for τ = σ.

    Attributes:
        duration: Physical time at t = 1: σ_max (less σ_min).
        onset: Physical time from which it grows: σ_min.
        curvature: ρ ≥ 1; larger puts more of t at small times.
    """

    duration: float = 80.0
    onset: float = 0.002
    curvature: float = 7.0

    def __post_init__(self) -> None:
        _require_positive(self, duration=self.duration, onset=self.onset, curvature=self.curvature)

    @property
    def _ends(self) -> tuple[float, float]:
        return self.onset ** (1 / self.curvature), (self.duration + self.onset) ** (1 / self.curvature)

    def time(self, t: Tensor) -> Tensor:
        a, b = self._ends
        # (a + x)^ρ − a^ρ without cancellation as t → 0.
        return self.onset * torch.expm1(self.curvature * torch.log1p(t * (b - a) / a))

    def rate(self, t: Tensor) -> Tensor:
        a, b = self._ends
        return self.curvature * (b - a) * (a + t * (b - a)) ** (self.curvature - 1)

    def inverse(self, time: Tensor) -> Tensor:
        a, b = self._ends
        return torch.expm1(torch.log1p(time / self.onset) / self.curvature) * a / (b - a)


@dataclass(frozen=True)
class InterpolantClock(Clock):
    """τ = u/(1 − u) with u = last · t: the time u of the straight line x_u = (1 − u)x_0 + uε as noise over signal.

    Attributes:
        last: u at t = 1, below 1, where the signal would be gone.
    """

    last: float = 0.999

    def __post_init__(self) -> None:
        _require_positive(self, last=self.last)
        if self.last >= 1:
            raise ValueError(f"InterpolantClock needs 'last' below 1, where no signal is left; got {self.last}.")

    def time(self, t: Tensor) -> Tensor:
        return self.last * t / (1 - self.last * t)

    def rate(self, t: Tensor) -> Tensor:
        return self.last / (1 - self.last * t).square()

    def inverse(self, time: Tensor) -> Tensor:
        return time / (1 + time) / self.last
