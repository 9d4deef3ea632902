r"""Coloured variance preserving: all modes relax alike, into noise of a chosen spectrum.

m = e^{−τ/2} and S = c∞(1 − e^{−τ}). With a trace-class c∞ (Matérn, or |k|^−p with p > d) the noise is a random *field*,
and the process has a limit on ever finer grids: diffusion in function space. With the data's own spectrum every mode
has the same signal-to-noise ratio at every time ("equal SNR").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from physdiff.process import AutonomousProcess
from physdiff.registry import nearest, register
from physdiff.settings import require_positive
from physdiff.spectra import matern_spectrum, power_law_spectrum

if TYPE_CHECKING:
    from physdiff.gaussian import GaussianField

SPECTRA = ("matern", "power_law", "data")


@register
@dataclass(frozen=True, eq=False)
class ColouredVariancePreserving(AutonomousProcess):
    r"""Variance preserving diffusion with coloured noise, dx = −½ x dτ + √c∞ dW.

    Attributes:
        spectrum: Terminal spectrum c∞: "matern", "power_law", "data" (that of the reference), or variances per mode, a
            tensor of shape (*grid) or (channels, *grid).
        correlation_length: ℓ of a Matérn spectrum, length. None: an eighth of the longest side of the box.
        smoothness: ν > 0 of a Matérn spectrum.
        exponent: p of a power law |k|^−p, which has none in the mean but its smallest wave's.
        standard_deviation: Of the terminal field, field units; not used with the data's spectrum or given variances.

    What to see: the field dissolves into a random field of the same texture at every scale, not into snow.

    Source: Lim et al. (2023); Kerrigan, Ley and Smyth (2023); Falck et al. (2025) for the data's spectrum.
    """

    spectrum: str | Tensor = "matern"
    correlation_length: float | None = None
    smoothness: float = 1.0
    exponent: float = 3.0
    standard_deviation: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.spectrum, str) and self.spectrum not in SPECTRA:
            raise ValueError(f"ColouredVariancePreserving: unknown spectrum. {nearest(self.spectrum, SPECTRA)}")
        if self.correlation_length is None:
            object.__setattr__(self, "correlation_length", max(self.basis.grid.extent) / 8)
        require_positive(self, "correlation_length", "smoothness", "exponent", "standard_deviation")
        if isinstance(self.spectrum, Tensor) and tuple(self.spectrum.shape[-self.basis.grid.ndim :]) != (
            self.basis.grid.shape
        ):
            raise ValueError(
                f"ColouredVariancePreserving: 'spectrum' must end in the grid's shape {self.basis.grid.shape}; got "
                f"{tuple(self.spectrum.shape)}."
            )

    def with_reference(self, reference: GaussianField) -> Self:
        """With the data's spectrum filled in, if that is what was asked for."""
        if isinstance(self.spectrum, str) and self.spectrum == "data":
            return replace(self, spectrum=reference.spectrum)
        return self

    @property
    def terminal_spectrum(self) -> Tensor:
        """c∞, shape (*grid) or (channels, *grid)."""
        if isinstance(self.spectrum, Tensor):
            return self.spectrum
        if self.spectrum == "matern":
            assert self.correlation_length is not None
            return matern_spectrum(self.basis, self.correlation_length, self.smoothness, self.standard_deviation)
        if self.spectrum == "power_law":
            power = power_law_spectrum(self.basis, self.exponent, self.standard_deviation)
            # A mean that is never noised would never be forgotten; it is given the strongest wave's variance.
            return torch.where(power > 0, power, power.max())
        raise ValueError("ColouredVariancePreserving with the data's spectrum needs the data: use physdiff.fit_clock.")

    def drift_symbol(self, time: Tensor) -> Tensor:
        return torch.full_like(time, -0.5)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return self.terminal_spectrum
