r"""Trigonometric polynomials on a periodic box of any number of dimensions, as pseudo-spectral solvers use them.

A field on n points along each axis of [0, L)^d, at cell centres, is known by its Fourier coefficients. Products are
taken point by point and differentiated mode by mode. Products of two fields of modes below n/3 alias only onto modes
that are dropped (the 2/3 rule), so that they are exact on the modes that are kept; products of three need n/4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class PeriodicBox:
    """Transforms and derivatives of many fields at once; everything is float64.

    Attributes:
        ndim: Dimension d.
        points: Points n along each axis; modes below n/(degree + 1) along every axis are kept, for products of `degree`
            fields.
        extent: Length L of each side.
        wavenumbers: 2π/L times integers, one tensor per axis that broadcasts over the coefficients.
        squared: |k|², shape of the coefficients.
        kept: Whether a mode is kept, same shape, bool.
    """

    def __init__(
        self, ndim: int, points: int, extent: float = 2 * math.pi, device: str = "cpu", degree: int = 2
    ) -> None:
        if points < 4 or not 0 < extent < math.inf:
            raise ValueError(f"a periodic box needs at least 4 points and an extent > 0; got {points} and {extent}.")
        self.ndim, self.points, self.extent = ndim, points, extent
        integers = _integers(ndim, points, device)
        self.wavenumbers = tuple(2 * math.pi / extent * k for k in integers)
        self.squared = sum((k**2 for k in self.wavenumbers), torch.zeros((), dtype=torch.float64, device=device))
        kept = torch.ones_like(self.squared, dtype=torch.bool)
        for k in integers:
            kept &= (degree + 1) * k.abs() < points
        self.kept = kept
        self._axes = tuple(range(-ndim, 0))

    @property
    def largest_wavenumber(self) -> float:
        """The largest kept |k| of any direction."""
        return math.sqrt((self.squared * self.kept).max().item())

    def to_modes(self, field: Tensor) -> Tensor:
        """Coefficients of the kept modes, shape (..., n, n//2 + 1), of fields of shape (..., n, n), for d = 2."""
        return torch.fft.rfftn(field, dim=self._axes) * self.kept

    def to_field(self, modes: Tensor) -> Tensor:
        """Fields of Fourier coefficients."""
        return torch.fft.irfftn(modes, s=(self.points,) * self.ndim, dim=self._axes)

    def derivative(self, modes: Tensor, axis: int) -> Tensor:
        """∂/∂x along one axis, counted from the first of the box."""
        return 1j * self.wavenumbers[axis] * modes


def resample(field: Tensor, ndim: int, cells: int) -> Tensor:
    """The same trigonometric polynomial at the centres of another number of cells.

    Modes at or above the Nyquist of the coarser of the two are left out.

    Args:
        field: Values at cell centres, as many along each of the last `ndim` axes.
        ndim: Dimension of the box.
        cells: Number of cells along each axis.
    """
    points = field.shape[-1]
    axes = tuple(range(-ndim, 0))
    below = (min(points, cells) - 1) // 2
    modes = torch.fft.rfftn(field, dim=axes)
    for axis in axes:
        first = 0 if axis == -1 else -below
        k = torch.arange(first, below + 1, device=field.device)
        # Cell centres start half a cell from the edge, and the cells differ: each mode turns by the difference.
        angle = k.double() * (math.pi / cells - math.pi / points)
        turn = torch.polar(torch.full_like(angle, cells / points), angle)
        part = modes.movedim(axis, -1).index_select(-1, k % points) * turn
        whole = part.new_zeros((*part.shape[:-1], cells // 2 + 1 if axis == -1 else cells))
        modes = whole.index_copy(-1, k % cells, part).movedim(-1, axis)
    return torch.fft.irfftn(modes, s=(cells,) * ndim, dim=axes)


def _integers(ndim: int, points: int, device: str) -> list[Tensor]:
    """Integer wavenumbers of `rfftn` along each axis, ready to broadcast, float64."""
    full = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64, device=device)
    half = torch.fft.rfftfreq(points, 1 / points, dtype=torch.float64, device=device)
    shapes = [[-1 if i == axis else 1 for i in range(ndim)] for axis in range(ndim)]
    return [(half if axis == ndim - 1 else full).reshape(shape) for axis, shape in enumerate(shapes)]
