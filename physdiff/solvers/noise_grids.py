r"""Grids in terms of the noise level: equal steps of the log signal-to-noise ratio, and the grid of Karras et al.

The modes of a field have a signal-to-noise ratio |m_k|²c_k/S_k each. The field's is that of its modes weighted by
their variance,

    SNR = Σ c_k |m_k|²/S_k / Σ c_k,      σ = SNR^{−1/2}

which is m²/S for processes that treat all modes alike, and is strictly monotone for all: each term is, at the rate n/S.
A mean of logarithms over modes would be led by those that heat has buried long ago, whose ratio falls without an end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.path import PathPoint
from physdiff.solvers.equal_shares import along, equal_shares, log_range
from physdiff.solvers.time_grid import Path, TimeGrid, time_grids


@time_grids.register
@dataclass(frozen=True)
class LogSNR(TimeGrid):
    """Equal steps of the log signal-to-noise ratio of the field."""

    def between(self, path: Path, intervals: int) -> Tensor:
        return equal_shares(path, intervals, lambda x: along(path, x, log_noise_level))


@time_grids.register
@dataclass(frozen=True)
class Karras(TimeGrid):
    """Equal steps of σ^{1/ρ}, σ the ratio of noise to signal of the field.

    Source: Karras et al. (2022), eq. 5.

    Attributes:
        rho: ρ, at least 1; larger puts more of the steps at low noise, and ρ → ∞ is `LogSNR`.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rho) and self.rho >= 1):
            raise ValueError(f"Karras: 'rho' must be finite and at least 1; got {self.rho}.")

    def between(self, path: Path, intervals: int) -> Tensor:
        # In units of the largest: a noise level at which heat has ended may be beyond any float.
        largest = along(path, torch.tensor(log_range(path)[:1], dtype=torch.float64), log_noise_level)
        return equal_shares(
            path, intervals, lambda x: torch.exp((along(path, x, log_noise_level) - largest) / self.rho)
        )


def log_noise_level(point: PathPoint) -> Tensor:
    """log σ at many times, the point's coefficients having them in front, shape (times,)."""
    support, spectrum = point.path.reference.support, point.path.reference.spectrum
    log_spectrum = torch.where(support, spectrum, 1.0).log()
    noise = torch.where(support, point.noise_variance, 1.0)
    log_ratio = torch.where(support, log_spectrum + 2 * point.log_gain.real - noise.log(), -math.inf)
    whole = torch.where(support, log_spectrum, -math.inf).flatten().logsumexp(0)
    return 0.5 * (whole - log_ratio.flatten(1).logsumexp(1))
