r"""Heat bath: conduction smooths the field while space-time white noise heats every mode.

Fine structure goes first: mode k decays at the rate κλ_k towards the variance n/(2κλ_k) that noise and conduction
hold in balance. The mean is never forgotten, it only diffuses (S₀ = nτ), so the end of the process is not white noise
and not even stationary: sample from the reference carried to t = 1.
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
class Heat(AutonomousProcess):
    r"""Stochastic heat equation, dx = κ ∇²x dτ + σ dW.

    Attributes:
        diffusivity: κ, length² per unit of time. It sets the unit of time: what matters is σ²/κ.
        noise_level: σ, field units · length^{d/2} / time^{1/2}: a cell of volume v receives the variance σ²/v per unit
            of time. None: such that noise and conduction balance at unit variance per cell, the mean left out.

    What to see: fine scales drown first and the field turns smooth *and* noisy. Large σ²/κ is nearly white noise,
    small σ²/κ nearly pure blurring.

    Source: Rissanen, Heinonen and Solin (2023) for blurring; Da Prato and Zabczyk (2014), ch. 5, for the equation.
    """

    diffusivity: float = 1.0
    noise_level: float | None = None

    def __post_init__(self) -> None:
        require_positive(self, "diffusivity")
        if self.noise_level is None:
            object.__setattr__(self, "noise_level", balanced_noise(self.basis, self.diffusivity * self.basis.laplacian))
        require_positive(self, "noise_level")

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -self.diffusivity * self.basis.laplacian

    def noise_spectrum(self, time: Tensor) -> Tensor:
        assert self.noise_level is not None
        return torch.full_like(time, self.noise_level**2 / self.basis.grid.cell_volume)
