r"""EDM: variance exploding with the noise level itself for a time, σ(τ) = τ.

m = 1 and S = τ². The probability flow of a point is then a straight line, dx/dτ = (x − D)/τ, which is why few steps of
Heun's rule go far. `KarrasClock(duration=80, onset=0.002, curvature=7)` with the `Uniform` time grid is the usual grid.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.process import LinearProcess
from physdiff.registry import register


@register
@dataclass(frozen=True)
class EDM(LinearProcess):
    r"""Variance exploding diffusion in the noise level, dx = √(2τ) dW.

    Physical time is the noise's standard deviation, τ = σ.

    What to see: as for VarianceExploding; the first noise comes later.

    Source: Karras et al. (2022), table 1.
    """

    refines: ClassVar[bool] = False
    amplitude_exponent: ClassVar[float] = 1.0

    def drift_symbol(self, time: Tensor) -> Tensor:
        return torch.zeros_like(time)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return 2 * time

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        return torch.zeros_like(time - since)

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        return (time - since) * (time + since)
