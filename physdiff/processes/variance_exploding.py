r"""Variance exploding: noise is added, the data is left alone.

m = 1 and S = τ. Nothing decays, so noise must outgrow the data's strongest mode; the terminal law is the data's
reference under noise, not the noise alone. The geometric schedule σ(t) = σ_min (σ_max/σ_min)^t is
`ExponentialClock(duration=σ_max² − σ_min², onset=σ_min²)`: the variance received since t = 0 is σ² − σ_min².
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.process import AutonomousProcess
from physdiff.registry import register


@register
@dataclass(frozen=True)
class VarianceExploding(AutonomousProcess):
    r"""Variance exploding diffusion, dx = dW.

    Physical time is the noise variance, τ = σ².

    What to see: the field stays where it is and drowns in white noise.

    Source: Song et al. (2021), eq. 9.
    """

    refines: ClassVar[bool] = False

    def drift_symbol(self, time: Tensor) -> Tensor:
        return torch.zeros_like(time)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return torch.ones_like(time)
