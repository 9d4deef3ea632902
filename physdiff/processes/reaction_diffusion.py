r"""Linear reaction-diffusion: any polynomial of the Laplacian.

Close to a uniform state every reaction-diffusion equation is linear, and each of its modes relaxes at the rate
p(λ_k) = a₀ + a₁λ_k + a₂λ_k² + …: friction, conduction, bending stiffness. Where p has a minimum at a finite λ
the wave of that length lives longest, as before a Turing instability. p must not be negative at any mode of the grid: a
mode that grows never forgets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.process import AutonomousProcess
from physdiff.registry import register
from physdiff.settings import require_positive
from physdiff.spectra import balanced_noise


@register
@dataclass(frozen=True)
class ReactionDiffusion(AutonomousProcess):
    r"""Linearised reaction-diffusion equation, dx = −(a₀ − a₁∇² + a₂∇⁴ − …) x dτ + σ dW.

    Attributes:
        coefficients: (a₀, a₁, a₂, …), length^{2j} per unit of time.
        noise_level: σ, field units · length^{d/2} / time^{1/2}. None: such that noise and relaxation balance at unit
            variance per cell, modes that do not relax left out.

    What to see: waves near the minimum of the polynomial outlive all others.

    Source: Cross and Hohenberg (1993), section II, for linear stability.
    """

    coefficients: tuple[float, ...] = (1.0, 1.0)
    noise_level: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", tuple(float(a) for a in self.coefficients))
        if not self.coefficients:
            raise ValueError("ReactionDiffusion needs at least one of its 'coefficients'.")
        rates = self._rates
        if not bool(torch.isfinite(rates).all()) or float(rates.min()) < 0:
            raise ValueError(
                f"ReactionDiffusion: 'coefficients' {self.coefficients} let a mode grow at the rate "
                f"{-float(rates.min()):.4g}; the polynomial must be ≥ 0 for all modes of the grid."
            )
        if self.noise_level is None:
            object.__setattr__(self, "noise_level", balanced_noise(self.basis, rates))
        require_positive(self, "noise_level")

    @property
    def _rates(self) -> Tensor:
        rates = torch.zeros_like(self.basis.laplacian)
        for coefficient in reversed(self.coefficients):  # Horner
            rates = rates * self.basis.laplacian + coefficient
        return rates

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -self._rates

    def noise_spectrum(self, time: Tensor) -> Tensor:
        assert self.noise_level is not None
        return torch.full_like(time, self.noise_level**2 / self.basis.grid.cell_volume)
