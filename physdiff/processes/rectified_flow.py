r"""Rectified flow: the straight line from the data to white noise, x_u = (1 − u) x_0 + u ε.

Its own time u ends where the signal is gone and the drift is infinite. Here physical time is noise over signal,
τ = u/(1 − u) ∈ [0, ∞), in which the equation has no singularity:

    m = 1/(1 + τ),   S = τ²/(1 + τ)²,   A = d log m/dτ = −1/(1 + τ),   n = dS/dτ − 2AS = 2τ/(1 + τ)².

`InterpolantClock` runs it along t = u.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.process import LinearProcess
from physdiff.registry import register


@register
@dataclass(frozen=True)
class RectifiedFlow(LinearProcess):
    r"""Linear interpolant as a diffusion, dx = −x/(1 + τ) dτ + √(2τ)/(1 + τ) dW.

    Terminal law: white noise, N(0, 1) in every cell.

    What to see: the field fades evenly while noise fades in.

    Source: Liu, Gong and Liu (2023), eq. 1; Albergo and Vanden-Eijnden (2023).
    """

    refines: ClassVar[bool] = False
    amplitude_exponent: ClassVar[float] = 1.0

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -1 / (1 + time)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return 2 * time / (1 + time).square()

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        return torch.log1p(since) - torch.log1p(time)

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        return (time - since) * (time + since) / (1 + time).square()
