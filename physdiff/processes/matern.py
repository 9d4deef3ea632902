r"""Matérn bath: an Ornstein-Uhlenbeck stochastic PDE that ends in a random field of chosen smoothness.

The stationary law is the Gaussian field with spectrum c∞ ∝ (κ² + λ)^{−α}, κ = √(2ν)/ℓ, α = ν + d/2 (Whittle 1954): ℓ is
how far it is correlated, ν how smooth it is. Each mode relaxes at the rate θ = (1 + λ/κ²)^p, fine scales first for
p > 0, and the balance n = 2θc∞ holds the stationary law whatever the rates are. α > d/2 makes it a random *field*, with
finite variance however fine the grid; white noise (α = 0) is not one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.process import AutonomousProcess
from physdiff.registry import register
from physdiff.settings import require_positive
from physdiff.spectra import matern_spectrum


@register
@dataclass(frozen=True)
class Matern(AutonomousProcess):
    r"""Ornstein-Uhlenbeck stochastic PDE, dx = −(1 − ∇²/κ²)^p x dτ + √(2θ c∞) dW, with a Matérn terminal law.

    Attributes:
        correlation_length: ℓ, length. None: an eighth of the longest side of the box.
        smoothness: ν > 0; ν = ½ is as rough as Brownian motion in one dimension, larger is smoother.
        standard_deviation: Of a point of the terminal field in an unbounded domain, field units.
        roughness_rate: p ≥ 0. 0 relaxes all modes alike; 1 is the parabolic equation, fine scales first.

    What to see: structure finer than ℓ gives way to noise of the same fineness, then coarse structure to coarse noise.

    Source: Lindgren, Rue and Lindström (2011), eq. 2; Lim et al. (2023) for diffusion models.
    """

    correlation_length: float | None = None
    smoothness: float = 1.0
    standard_deviation: float = 1.0
    roughness_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.correlation_length is None:
            object.__setattr__(self, "correlation_length", max(self.basis.grid.extent) / 8)
        require_positive(self, "correlation_length", "smoothness", "standard_deviation")
        if not 0 <= self.roughness_rate < math.inf:
            raise ValueError(f"Matern needs a finite 'roughness_rate' ≥ 0; got {self.roughness_rate}.")

    @property
    def terminal_spectrum(self) -> Tensor:
        """c∞, shape (*grid)."""
        assert self.correlation_length is not None
        return matern_spectrum(self.basis, self.correlation_length, self.smoothness, self.standard_deviation)

    def drift_symbol(self, time: Tensor) -> Tensor:
        assert self.correlation_length is not None
        kappa_squared = 2 * self.smoothness / self.correlation_length**2
        return -torch.pow(1 + self.basis.laplacian / kappa_squared, self.roughness_rate)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return -2 * self.drift_symbol(time) * self.terminal_spectrum
