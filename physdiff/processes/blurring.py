r"""Blurring diffusion: the cosine schedule's white noise, and a blur that grows with it.

Stated by its solution. With noise over signal as physical time, τ = σ/α (α² + σ² = 1, diffusion time (2/π) arctan τ),

    m = α d,   d = (1 − d_min) e^{−λb} + d_min,   b = ½ (w σ²)²,   S = σ² = τ²/(1 + τ²),

and the equation is what that solves: A = d log m/dτ and n = dS/dτ − 2AS, which is ≥ 0 since d falls. Where d falls fast
the noise rate of a mode is many times that of plain diffusion. d_min keeps every mode's signal above zero.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.process import LinearProcess
from physdiff.registry import register
from physdiff.settings import require_positive


@register
@dataclass(frozen=True)
class Blurring(LinearProcess):
    r"""Blurring diffusion, x_τ = α d(−∇²) x_0 + σ ε.

    Attributes:
        blur_width: w, standard deviation of the blur at the end, length. None: a quarter of the longest side.
        least_signal: d_min ∈ (0, 1], the share of a mode's amplitude that blurring never takes.

    Terminal law: white noise, N(0, 1) in every cell.

    What to see: the field goes out of focus while it drowns.

    Source: Hoogeboom and Salimans (2023), section 4 and appendix A (there w = 20 pixels of 64, d_min = 10⁻³).
    """

    refines: ClassVar[bool] = False
    amplitude_exponent: ClassVar[float] = 1.0

    blur_width: float | None = None
    least_signal: float = 1e-3

    def __post_init__(self) -> None:
        if self.blur_width is None:
            object.__setattr__(self, "blur_width", max(self.basis.grid.extent) / 4)
        require_positive(self, "blur_width", "least_signal")
        if self.least_signal > 1:
            raise ValueError(f"Blurring: 'least_signal' must lie in (0, 1]; got {self.least_signal}.")

    def _blur(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """λb and its derivative by τ."""
        assert self.blur_width is not None
        noise = _noise(time)
        rate = self.basis.laplacian * self.blur_width**2
        return 0.5 * rate * noise.square(), rate * noise * _noise_rate(time)

    def _log_signal(self, time: Tensor) -> Tensor:
        """log d."""
        blur, _ = self._blur(time)
        return torch.log1p(-(1 - self.least_signal) * -torch.expm1(-blur))

    def drift_symbol(self, time: Tensor) -> Tensor:
        blur, rate = self._blur(time)
        fall = (1 - self.least_signal) * torch.exp(-blur) * rate / torch.exp(self._log_signal(time))
        return -time / (1 + time.square()) - fall

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return _noise_rate(time) - 2 * self.drift_symbol(time) * _noise(time)

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        fade = -0.5 * (torch.log1p(time.square()) - torch.log1p(since.square()))
        return fade + self._log_signal(time) - self._log_signal(since)

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        # S_τ − |Φ|²S_s = (S_τ − S_s) + (1 − |Φ|²)S_s, two terms ≥ 0.
        later, earlier = time.square(), since.square()
        growth = (later - earlier) / ((1 + later) * (1 + earlier))
        return growth - torch.expm1(2 * self.log_gain(time, since)) * _noise(since)


def _noise(time: Tensor) -> Tensor:
    """σ² = τ²/(1 + τ²)."""
    return time.square() / (1 + time.square())


def _noise_rate(time: Tensor) -> Tensor:
    """dσ²/dτ."""
    return 2 * time / (1 + time.square()).square()
