r"""Fractional heat bath: conduction by a power of the Laplacian, between friction and hyperviscosity.

Mode k decays at the rate κλ_k^s: s = 1 is heat, s = 2 biharmonic smoothing (a plate, a thin film), s < 1 the long jumps
of a Lévy flight, s → 0 friction that all modes feel alike. The mean is never forgotten, as under heat.
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
class FractionalHeat(AutonomousProcess):
    r"""Stochastic fractional heat equation, dx = −κ (−∇²)^s x dτ + σ dW.

    Attributes:
        diffusivity: κ, length^{2s} per unit of time.
        power: s > 0. 1 is heat, 2 biharmonic.
        noise_level: σ, field units · length^{d/2} / time^{1/2}. None: such that noise and conduction balance at unit
            variance per cell, the mean left out.

    What to see: for s > 1 fine scales vanish before coarse ones have changed at all; for s < 1 all fade together.

    Source: Bogdan and Byczkowski (1999) for the operator; Da Prato and Zabczyk (2014), ch. 5, for the equation.
    """

    diffusivity: float = 1.0
    power: float = 2.0
    noise_level: float | None = None

    def __post_init__(self) -> None:
        require_positive(self, "diffusivity", "power")
        if self.noise_level is None:
            object.__setattr__(self, "noise_level", balanced_noise(self.basis, self._rates))
        require_positive(self, "noise_level")

    @property
    def _rates(self) -> Tensor:
        return self.diffusivity * self.basis.laplacian**self.power

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -self._rates

    def noise_spectrum(self, time: Tensor) -> Tensor:
        assert self.noise_level is not None
        return torch.full_like(time, self.noise_level**2 / self.basis.grid.cell_volume)
