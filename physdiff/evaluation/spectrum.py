r"""Variance density over wavenumber: how much of a field's variance lives at which scale.

In an orthonormal basis the mean square of a deviation is (1/N) Σ_k y_k² over its N modes. Gathered in shells of
|k| = √λ, with λ the eigenvalues of −Δ and Δk the width of a shell,

    E(k) Δk = (1/N) Σ_{modes in shell} y²,          Σ_shells E Δk = mean square of the deviation (Parseval).

E has the field's unit squared times length per radian, and does not depend on how finely the grid resolves the same
field. Under periodic sides and walls alike |k| is 2π over the wavelength, in radians per length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.gaussian import check_fields


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Variance densities of a set of fields; shells without a mode are left out.

    Attributes:
        wavenumber: Mean |k| of each shell's modes, rad per length, shape (shells,).
        width: Width of each shell, rad per length, shape (shells,).
        modes: Number of modes in each shell, shape (shells,), int64.
        density: E of each field, field unit² · length / rad, ≥ 0, shape (n, channels, shells).
    """

    wavenumber: Tensor
    width: Tensor
    modes: Tensor
    density: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over fields, shape (channels, shells)."""
        return self.density.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of `mean`, shape (channels, shells); nan for a single field."""
        if len(self.density) < 2:
            return torch.full_like(self.density[0], math.nan)
        return self.density.std(0) / math.sqrt(len(self.density))

    def band(self, share: float = 0.8) -> tuple[Tensor, Tensor]:
        """Quantiles that hold the central `share` of the fields, each of shape (channels, shells)."""
        low, high = self.density.quantile(torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64), 0)
        return low, high

    @property
    def per_mode(self) -> Tensor:
        """Mean variance of a mode of each shell, field unit², shape (n, channels, shells); flat for white noise."""
        return self.density * self.width * int(self.modes.sum()) / self.modes


def energy_spectrum(
    fields: Tensor | np.ndarray,
    basis: Basis,
    bins: int | Sequence[float] | None = None,
    mean: Tensor | np.ndarray | None = None,
) -> Spectrum:
    """Variance density of each field over shells of wavenumber.

    Args:
        fields: Shape (n, channels, *grid), finite, n ≥ 1.
        basis: A basis with a Laplacian, under any boundaries and in any number of dimensions.
        bins: Number of shells of equal width up to the largest wavenumber, or the shells' edges in rad per length.
            None: shells as wide as the coarsest fundamental mode among the axes, 2π/L (periodic) or π/L (walls),
            centred on its multiples.
        mean: What deviations are taken from, in any shape that broadcasts to (channels, *grid). None: the mean over
            these fields, or zero if there is but one.

    Raises:
        ValueError: fields are not on the basis's grid or not finite, or the edges leave a mode out.
    """
    x = _tensor(fields)
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"a spectrum needs fields of shape (n, channels, *grid), n ≥ 1; got {tuple(x.shape)}.")
    check_fields(x, x.shape[1], basis)
    if mean is not None:
        centre = _tensor(mean)
    else:
        centre = x.mean(0) if len(x) > 1 else torch.zeros_like(x[0])
    power = basis.forward(x - centre).square().flatten(2)
    k = basis.laplacian.sqrt().flatten()
    edges = _edges(basis, k, bins)
    shell = torch.bucketize(k, edges, right=True) - 1
    modes = torch.bincount(shell, minlength=len(edges) - 1)
    filled = modes > 0
    total = torch.zeros(*power.shape[:2], len(modes), dtype=torch.float64).index_add_(2, shell, power)
    wavenumber = torch.zeros(len(modes), dtype=torch.float64).index_add_(0, shell, k)
    width = edges.diff()[filled]
    return Spectrum(
        wavenumber=wavenumber[filled] / modes[filled],
        width=width,
        modes=modes[filled],
        density=total[..., filled] / (basis.grid.size * width),
    )


def _tensor(values: Tensor | np.ndarray) -> Tensor:
    # torch takes no array with a negative stride, such as a reversed view.
    x = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    return x.to(torch.float64)


def _edges(basis: Basis, k: Tensor, bins: int | Sequence[float] | None) -> Tensor:
    """Edges of shells that hold every mode; the last lies above the largest wavenumber."""
    largest = float(k.max())
    if bins is None:
        grid = basis.grid
        turns = [2.0 if word == "periodic" else 1.0 for word in grid.boundary]
        step = max(math.pi * turn / length for turn, length in zip(turns, grid.extent, strict=True))
        # Half-integer edges keep the rounding of √λ away from the multiples of the fundamental.
        return step * (torch.arange(math.floor(largest / step + 0.5) + 2, dtype=torch.float64) - 0.5)
    if isinstance(bins, int):
        if bins < 1:
            raise ValueError(f"a spectrum needs at least 1 shell; got bins = {bins}.")
        top = largest * (1 + 1e-9) if largest > 0 else 1.0
        return torch.linspace(0.0, top, bins + 1, dtype=torch.float64)
    edges = torch.as_tensor(bins, dtype=torch.float64)
    if edges.ndim != 1 or len(edges) < 2 or not bool((edges.diff() > 0).all()):
        raise ValueError(f"edges of shells must be at least 2 increasing numbers; got {edges.tolist()}.")
    if float(edges[0]) > float(k.min()) or float(edges[-1]) <= largest:
        raise ValueError(
            f"edges from {float(edges[0]):.6g} to {float(edges[-1]):.6g} leave modes out; the basis has "
            f"wavenumbers from {float(k.min()):.6g} up to and including {largest:.6g}."
        )
    return edges
