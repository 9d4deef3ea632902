r"""Variance preserving: every mode relaxes alike into white noise of unit variance per cell.

With m = e^{−τ/2} and S = 1 − e^{−τ} the variance of unit-variance data stays one. It is diagonal in every basis and
takes the one of the data's reference. Its noise belongs to the cells, not to space: on a finer grid the same physical
wave meets a larger share of it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.process import AutonomousProcess
from physdiff.registry import register


@register
@dataclass(frozen=True)
class VariancePreserving(AutonomousProcess):
    r"""Variance preserving diffusion, dx = −½ x dτ + dW.

    Terminal law: white noise, N(0, 1) in every cell. `LinearRateClock(0.1, 20)` is the usual "linear β" schedule.

    Source: Song et al. (2021), eq. 11; Ho, Jain and Abbeel (2020).
    """

    refines: ClassVar[bool] = False

    def drift_symbol(self, time: Tensor) -> Tensor:
        return torch.full_like(time, -0.5)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return torch.ones_like(time)
