r"""Stirred by itself: two-dimensional Euler flow of a vorticity field, with a bath that knows its equilibrium.

x is a vorticity, −∇²ψ = x its stream function and u = (∂_yψ, −∂_xψ) its velocity. The truncated, fully dealiased flow
dx/dτ = −s P ∇·(Pu Px) conserves energy ½Σ|x_k|²/k² and enstrophy ½Σ|x_k|², and volume in the space of modes, so that

    N(0, c_k),   c_k = k²/(a + b k²)       (velocity amplitudes 1/(a + b k²))

is stationary for every a, b: Kraichnan's equilibrium. The bath n_k = 2θ_k c_k with θ_k = θ + νk² leaves it as it is;
viscosity needs that noise of its own, or the fine scales would run dry. The mean vorticity is zero and stays so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.registry import register
from physdiff.semilinear import SemilinearProcess
from physdiff.settings import require_positive
from physdiff.spectra import below_a_third


@register
@dataclass(frozen=True)
class EulerVorticity(SemilinearProcess):
    r"""Truncated 2-D Euler flow with a bath, dx = (−s u·∇x − θx + ν∇²x) dτ + √(2(θ + νk²) c) dW, with c = k²/(a + bk²).

    Attributes:
        strength: s, the stirring velocity per unit of vorticity and time, dimensionless for a vorticity in physical
            units. None: a patch of unit vorticity turns by a quarter of a radian in the time 1/θ.
        friction: θ, per unit of time.
        viscosity: ν, length² per unit of time. None: such that the finest mode relaxes twice as fast as the longest.
        energy_weight: a, in units of wavenumber², ≥ 0. None: the square of four times the lowest wavenumber.
        enstrophy_weight: b > 0; 1/b is the variance per mode at fine scales, in units of the normalised field.

    What to see: vortices wind their surroundings up into filaments, which drown.

    Source: Kraichnan (1967), eq. 3.4; Kraichnan and Montgomery (1980), section 3.
    """

    strength: float | None = None
    friction: float = 1.0
    viscosity: float | None = None
    energy_weight: float | None = None
    enstrophy_weight: float = 1.0

    refines: ClassVar[bool] = False
    conserves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        grid = self.basis.grid
        if grid.ndim != 2 or set(grid.boundary) != {"periodic"}:
            raise ValueError(f"EulerVorticity needs a periodic plane; the grid is {grid.describe()}.")
        require_positive(self, "friction", "enstrophy_weight")
        if self.strength is None:
            object.__setattr__(self, "strength", 0.5 * self.friction)
        if self.viscosity is None:
            object.__setattr__(self, "viscosity", self.friction / max(float(self.basis.laplacian.max()), 1e-300))
        if self.energy_weight is None:
            object.__setattr__(self, "energy_weight", (8 * math.pi / max(grid.extent)) ** 2)
        require_positive(self, "strength", "viscosity")
        assert self.energy_weight is not None
        if not 0 <= self.energy_weight < math.inf:
            raise ValueError(f"EulerVorticity needs a finite 'energy_weight' ≥ 0; got {self.energy_weight}.")

    @property
    def stationary_spectrum(self) -> Tensor:
        """c_k, shape (*grid); 0 for the mean."""
        assert self.energy_weight is not None
        k2 = self.basis.laplacian
        return k2 / (self.energy_weight + self.enstrophy_weight * k2).clamp(min=1e-300)

    @cached_property
    def _symbols(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """P, P/k², and the two derivatives on the kept modes."""
        kept = below_a_third(self.basis).to(torch.float64)
        k2 = self.basis.laplacian
        inverse = torch.where(k2 > 0, kept / torch.where(k2 > 0, k2, 1.0), 0.0)
        return kept, inverse, self.basis.derivative(0) * kept, self.basis.derivative(1) * kept

    def drift_symbol(self) -> Tensor:
        assert self.viscosity is not None
        return -self.friction - self.viscosity * self.basis.laplacian

    def noise_spectrum(self) -> Tensor:
        return -2 * self.drift_symbol() * self.stationary_spectrum

    def reaction(self, x: Tensor, time: Tensor) -> Tensor:
        assert self.strength is not None
        basis = self.basis
        kept, inverse, along_x, along_y = (symbol.to(x.device) for symbol in self._symbols)
        modes = basis.forward(x)
        low, stream = basis.inverse(kept * modes), inverse * modes
        flux_x = basis.inverse(basis.apply(along_y, stream)) * low
        flux_y = -basis.inverse(basis.apply(along_x, stream)) * low
        divergence = basis.apply(along_x, basis.forward(flux_x)) + basis.apply(along_y, basis.forward(flux_y))
        return -self.strength * basis.inverse(divergence)
