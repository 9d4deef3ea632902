r"""Spectra with a name: the variance per mode of white, Matérn and power-law fields, and of a heat bath.

A stationary field of spectral density 𝒮(k), with Var x = ∫ 𝒮 dk/(2π)^d, has the variance 𝒮(k)/(cell volume) in each
orthonormal mode. On a finer grid the mode's variance grows with the number of cells, the wave it stands for does not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physdiff.basis import Basis


def matern_spectrum(
    basis: Basis, correlation_length: float, smoothness: float, standard_deviation: float = 1.0
) -> Tensor:
    """Variance per mode of a Matérn field, shape (*grid), float64.

    Args:
        basis: A basis with a Laplacian.
        correlation_length: ℓ, length.
        smoothness: ν > 0.
        standard_deviation: Of a point of the field in an unbounded domain.

    Source: Rasmussen and Williams (2006), eq. 4.15.
    """
    d, nu = basis.grid.dimension, smoothness
    kappa_squared = 2 * nu / correlation_length**2
    log_density = (
        2 * math.log(standard_deviation)
        + d * math.log(2) + 0.5 * d * math.log(math.pi)
        + math.lgamma(nu + d / 2) - math.lgamma(nu)
        + nu * math.log(kappa_squared)
        - (nu + d / 2) * torch.log(kappa_squared + basis.laplacian)
    )  # fmt: skip
    return torch.exp(log_density) / basis.grid.cell_volume


def power_law_spectrum(basis: Basis, exponent: float, standard_deviation: float = 1.0) -> Tensor:
    """Variance per mode ∝ |k|^−exponent, none in the mean, scaled to a mean variance per cell, shape (*grid)."""
    k = basis.laplacian.sqrt()
    power = torch.where(k > 0, torch.where(k > 0, k, 1.0) ** -exponent, 0.0)
    return power * standard_deviation**2 / power.mean()


def balanced_noise(basis: Basis, rates: Tensor) -> float:
    """σ at which dx = −θx dτ + σ dW is stationary at unit variance per cell, modes with rate θ = 0 left out.

    Args:
        basis: Where the process lives.
        rates: θ ≥ 0 of each mode, shape (*grid).
    """
    response = (1 / (2 * rates[rates > 0])).sum() / (basis.grid.size * basis.grid.cell_volume)
    return 1.0 if response == 0 else float(response.rsqrt())


def below_a_third(basis: Basis) -> Tensor:
    """Modes with 3|k| < N along each periodic axis of N cells, shape (*grid), bool: among these a product of two waves
    is free of aliasing, and so is the energy that it hands to a third (Orszag, 1971)."""
    kept = torch.ones(basis.grid.shape, dtype=torch.bool)
    for axis, (n, boundary) in enumerate(zip(basis.grid.shape, basis.grid.boundary, strict=True)):
        if boundary == "periodic":
            index = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64).abs()
            kept = kept & (3 * index < n).reshape(-1, *[1] * (basis.grid.ndim - 1 - axis))
    return kept
