r"""Sub-variance preserving: as variance preserving, with less noise at first.

m = e^{−τ/2} and S = (1 − e^{−τ})²: below the variance 1 − e^{−τ} of the variance preserving process at every time, with
the same end. Noise starts as τ², so the clean field is left more gently.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.process import LinearProcess
from physdiff.registry import register


@register
@dataclass(frozen=True)
class SubVariancePreserving(LinearProcess):
    r"""Sub-variance preserving diffusion, dx = −½ x dτ + √(1 − e^{−2τ}) dW.

    Terminal law: white noise, N(0, 1) in every cell. `LinearRateClock(0.1, 20)` is the usual schedule.

    What to see: as for VariancePreserving, with a clearer picture halfway.

    Source: Song et al. (2021), eq. 13 and 29.
    """

    refines: ClassVar[bool] = False
    amplitude_exponent: ClassVar[float] = 1.0

    def drift_symbol(self, time: Tensor) -> Tensor:
        return torch.full_like(time, -0.5)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return -torch.expm1(-2 * time)

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        return -0.5 * (time - since)

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        # (1 − e^{−τ})² − e^{−(τ−s)}(1 − e^{−s})², factored so that nothing cancels.
        return torch.expm1(since - time) * torch.expm1(-time - since)
