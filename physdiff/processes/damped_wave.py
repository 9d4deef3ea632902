r"""Damped wave equation in a heat bath: a field that rings, loses energy to friction and ends in thermal equilibrium.

Each mode is an oscillator of frequency ω² = c²λ + μ², kicked by space-time white noise in its velocity only. With
friction γ, modes of ω > γ/2 ring and all die out at the rate γ/2; slower ones creep at about ω²/γ. Noise and friction
balance in the Gibbs law of the free field: x ~ N(0, T/(ΔV ω²)), v ~ N(0, T/ΔV) per mode, cells of volume ΔV. The
velocity starts at the bath's temperature; the restoring force μ holds the mean mode, which for μ = 0 drifts away like a
Brownian particle and never settles.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.phase_space import PhaseSpaceProcess
from physdiff.registry import register
from physdiff.settings import require_positive
from physdiff.spectra import balanced_noise


@register
@dataclass(frozen=True)
class DampedWave(PhaseSpaceProcess):
    r"""Damped Klein-Gordon equation, dx = v dτ, dv = (c²∇²x − μ²x − γv) dτ + √(2γT) dW.

    Attributes:
        wave_speed: c, length per unit of time.
        restoring: μ ≥ 0, frequency of the mean mode, per unit of time. None: 2πc/L, a wave as long as the longest side.
        friction: γ > 0, per unit of time. None: 2μ, critical for the mean mode, so that others ring; 4πc/L if μ = 0.
        temperature: T, field units² · length^d / time². None: such that the equilibrium has unit variance per cell, a
            mode that nothing holds left out.

    What to see: x alone drowns early, under white noise that its hot velocity brings and then under long waves; the
    velocity still knows the data. At a temperature far below the default, and friction far below critical, waves run
    out of every edge in all directions and come back.

    Source: Da Prato and Zabczyk (2014) for stochastic wave equations; the block of each mode is that of
    Dockhorn, Vahdat and Kreis (2022) with a stiffness of its own.
    """

    wave_speed: float = 1.0
    restoring: float | None = None
    friction: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        require_positive(self, "wave_speed")
        longest = self.wave_speed * 2 * math.pi / max(self.basis.grid.extent)
        if self.restoring is None:
            object.__setattr__(self, "restoring", longest)
        if not 0 <= self.restoring < math.inf:  # type: ignore[operator]
            raise ValueError(f"DampedWave needs a finite 'restoring' ≥ 0; got {self.restoring}.")
        if self.friction is None:
            object.__setattr__(self, "friction", 2 * (self.restoring or longest))
        if self.temperature is None:
            object.__setattr__(self, "temperature", balanced_noise(self.basis, 0.5 * self.squared_frequency) ** 2)
        require_positive(self, "friction", "temperature")

    @property
    def squared_frequency(self) -> Tensor:
        """ω² = c²λ + μ² of each mode without friction, shape (*grid)."""
        assert self.restoring is not None
        return self.wave_speed**2 * self.basis.laplacian + self.restoring**2

    def drift_block(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        assert self.friction is not None
        one = torch.ones((), dtype=torch.float64)
        return (0 * one, one), (-self.squared_frequency, -self.friction * one)

    def noise_block(self) -> tuple[Tensor, Tensor]:
        assert self.friction is not None
        return torch.zeros((), dtype=torch.float64), 2 * self.friction * self.start_velocity_variance

    @property
    def start_velocity_variance(self) -> Tensor:
        """T/ΔV: the velocity is that of equilibrium from the start."""
        assert self.temperature is not None
        return torch.tensor(self.temperature / self.basis.grid.cell_volume, dtype=torch.float64)
