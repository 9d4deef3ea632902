r"""Heat dissipation: blurring, with a fixed whisper of noise.

The data is given noise of standard deviation σ per cell, then it conducts, and just as much noise is fed in as
conduction takes out, n = 2κλσ²: m = e^{−κλτ} and S = σ² at all times τ > 0. Two things are often left unsaid:

- It does not start clean. The least noise is σ², so densities are those of fields with that noise.
- It does not end in noise. The mean keeps its signal, and slow modes too if the clock stops early. The terminal law is
  the data's own, blurred: here the Gaussian reference carried there, and `terminal_mismatch` bounds what that misses.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.process import AutonomousProcess
from physdiff.registry import register
from physdiff.settings import require_positive


@register
@dataclass(frozen=True)
class HeatDissipation(AutonomousProcess):
    r"""Inverse heat dissipation, dx = κ ∇²x dτ + σ (−2κ∇²)^{1/2} dW, from the data with noise σ.

    With κ = ½ physical time is the square of the blur's width, τ = σ_B².

    Attributes:
        noise_level: σ, standard deviation of a cell's noise at all times, field units.
        diffusivity: κ, length² per unit of time.

    What to see: the field melts from fine to coarse until only its mean is left. Hardly any noise.

    Source: Rissanen, Heinonen and Solin (2023), eq. 3 and 4 (there σ = 0.01 for images in [0, 1]); Hoogeboom and
    Salimans (2023), section 3, for the stochastic differential equation.
    """

    refines: ClassVar[bool] = False
    starts_clean: ClassVar[bool] = False
    forgets: ClassVar[bool] = False

    noise_level: float = 0.05
    diffusivity: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "noise_level", "diffusivity")

    @property
    def start_variance(self) -> Tensor:
        return torch.full_like(self.basis.laplacian, self.noise_level**2)

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -self.diffusivity * self.basis.laplacian

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return 2 * self.diffusivity * self.basis.laplacian * self.noise_level**2
