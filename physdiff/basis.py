r"""Orthonormal real bases of a grid.

A field x and its modes y = Uᵀx have the same shape, the same norm, and each mode is one real degree of freedom:
log-determinants are plain sums over modes, and white noise stays white.

*Spectral basis.* Along walls the eigenvectors of the Laplacian are products: cos(π j x/L) (insulated, DCT-II) and
sin(π (j+1) x/L) (clamped, DST-II), both for cell-centred values. Along periodic axes a product of one-dimensional
bases would not do: a stationary covariance without reflection symmetry (oblique stripes) is diagonal only in the
*joint* plane waves. They are made real by the Hartley kernel cas(k·x) = cos(k·x) + sin(k·x), for which
Uᵀx = Re x̂ − Im x̂.

*Symbols.* A multiplier acts on modes by `apply`. A real symbol scales. A complex one, ρ(k) + iι(k) with ρ even and
ι odd in k, is a multiplier of the Fourier transform; it also rotates the pair (k, −k),

    (ρ + iι) ∘ y = ρ(k) y(k) − ι(k) y(−k),

and that is how derivatives and advection are written: ∂ₓ ↔ i kₓ, a shift by a ↔ exp(−i k·a).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from physdiff.grid import Domain, Grid

# Below this size a dense matrix product beats the FFT on a CPU (experiments/benchmarks/transforms.py).
MATRIX_LIMIT = 192


class Basis(ABC):
    """An orthonormal real transform of the fields on a grid, a graph or a sphere.

    Attributes:
        grid: Where the fields live.
        resolved: Modes that are functions of the space, shape (*grid), bool. Where these are fewer than the cells, the
            others complete them to an orthonormal basis. They hold what the cells can and the functions cannot, so that
            no energy is lost unseen, and share one eigenvalue λ, so that their choice does not matter.
    """

    grid: Any  # a Domain; each basis says which
    resolved: Tensor

    def __init__(self, grid: Domain, resolved: Tensor | None = None) -> None:
        self.grid = grid
        self.resolved = torch.ones(grid.shape, dtype=torch.bool) if resolved is None else resolved

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Modes Uᵀx of fields, shape (..., *grid) to (..., *grid)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Fields Uy of modes, shape (..., *grid) to (..., *grid)."""

    @abstractmethod
    def reflect(self, y: Tensor) -> Tensor:
        """Modes with k and −k exchanged; the identity where a mode has no partner."""

    @property
    @abstractmethod
    def laplacian(self) -> Tensor:
        """Eigenvalues λ ≥ 0 of −Δ, shape (*grid), float64, in units of length⁻²."""

    @abstractmethod
    def derivative(self, axis: int) -> Tensor:
        """Symbol i k of ∂/∂x along a periodic axis, shape (*grid), complex128; zero at Nyquist."""

    @property
    @abstractmethod
    def constant_along_periodic(self) -> Tensor:
        """Modes that do not vary along any periodic axis, shape (*grid), bool."""

    @abstractmethod
    def on(self, grid: Any) -> Basis:
        """The same kind of basis on another grid (graph, sphere)."""

    @property
    def axes(self) -> tuple[int, ...]:
        """The trailing axes of a field, as negative numbers."""
        return tuple(range(-self.grid.ndim, 0))

    def limit(self, x: Tensor) -> Tensor:
        """Fields without what the basis does not resolve, shape (..., *grid)."""
        return self.inverse(self.forward(x) * self.resolved.to(x.device))

    def apply(self, symbol: Tensor, y: Tensor) -> Tensor:
        """Act with a real or complex symbol (any shape that broadcasts) on modes, shape (..., *grid)."""
        if not symbol.is_complex():
            return symbol * y
        return symbol.real * y - symbol.imag * self.reflect(y)

    @cached_property
    def self_conjugate(self) -> Tensor:
        """Modes that are their own reflection, shape (*grid), bool."""
        index = torch.arange(self.grid.size, dtype=torch.float64).reshape(self.grid.shape)
        return self.reflect(index) == index

    def symmetrise(self, power: Tensor) -> Tensor:
        """Mean of a spectrum over each orbit {k, −k}, shape (..., *grid)."""
        return 0.5 * (power + self.reflect(power))

    def scramble(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Random phases, the power of every orbit kept: a surrogate without structure.

        A pair (k, −k) is turned by a uniform angle, a mode without partner gets a random sign.

        Args:
            y: Deviations from the mean in modes, shape (batch, channels, *grid). Channels share their phases, so
                that the cross-spectra stay as well.
        """
        shape = (y.shape[0], 1, *self.grid.shape)
        options = {"generator": generator, "dtype": torch.float64, "device": generator.device}
        phase = 2 * math.pi * torch.rand(shape, **options)
        sign = torch.where(torch.rand(shape, **options) < 0.5, -1.0, 1.0).to(torch.float64)
        turn = torch.polar(torch.ones_like(phase), phase - self.reflect(phase))
        turn = torch.where(self.self_conjugate.to(turn.device), sign.to(turn.dtype), turn)
        return self.apply(turn.to(y.device), y)

    def dense(self) -> Tensor:
        """U as a matrix, shape (size, size), float64: column k is mode k. For checks on small grids."""
        eye = torch.eye(self.grid.size, dtype=torch.float64).reshape(-1, *self.grid.shape)
        return self.inverse(eye).reshape(self.grid.size, -1).T


class SpectralBasis(Basis):
    """Eigenvectors of the Laplacian under the grid's own boundaries (see the module's text)."""

    grid: Grid

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._periodic = tuple(a for a, b in zip(self.axes, grid.boundary, strict=True) if b == "periodic")
        self._walls = tuple((a, b) for a, b in zip(self.axes, grid.boundary, strict=True) if b != "periodic")

    def on(self, grid: Grid) -> SpectralBasis:
        return SpectralBasis(grid)

    def forward(self, x: Tensor) -> Tensor:
        for axis, boundary in self._walls:
            x = _wall_transform(x, axis, boundary, inverse=False)
        return self._hartley(x)

    def inverse(self, y: Tensor) -> Tensor:
        y = self._hartley(y)  # its own inverse
        for axis, boundary in self._walls:
            y = _wall_transform(y, axis, boundary, inverse=True)
        return y

    def _hartley(self, x: Tensor) -> Tensor:
        if not self._periodic:
            return x
        spectrum = torch.fft.fftn(x, dim=self._periodic, norm="ortho")
        return spectrum.real - spectrum.imag

    def reflect(self, y: Tensor) -> Tensor:
        if not self._periodic:
            return y
        return torch.roll(torch.flip(y, self._periodic), [1] * len(self._periodic), self._periodic)

    def wavenumber(self, axis: int) -> Tensor:
        """Wavenumber along one axis, shape (n, 1, ...) ready to broadcast; signed where periodic, float64."""
        n, length, boundary = (getattr(self.grid, name)[axis] for name in ("shape", "extent", "boundary"))
        if boundary == "periodic":
            k = 2 * math.pi / length * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
        else:
            k = math.pi / length * torch.arange(n, dtype=torch.float64)
            k = k + math.pi / length if boundary == "dirichlet" else k
        return k.reshape(-1, *[1] * (self.grid.ndim - 1 - axis))

    @property
    def laplacian(self) -> Tensor:
        return self._laplacian

    @cached_property
    def _laplacian(self) -> Tensor:
        total = torch.zeros(self.grid.shape, dtype=torch.float64)
        for axis in range(self.grid.ndim):
            total = total + self.wavenumber(axis) ** 2
        return total

    @property
    def constant_along_periodic(self) -> Tensor:
        keep = torch.ones(self.grid.shape, dtype=torch.bool)
        for axis, boundary in enumerate(self.grid.boundary):
            if boundary == "periodic":
                keep = keep & (self.wavenumber(axis) == 0)
        return keep

    def derivative(self, axis: int) -> Tensor:
        if self.grid.boundary[axis] != "periodic":
            raise ValueError(
                f"a derivative is a symbol along periodic axes only; axis '{self.grid.dims[axis]}' has "
                f"'{self.grid.boundary[axis]}' walls."
            )
        k = self.wavenumber(axis).clone()
        n = self.grid.shape[axis]
        if n % 2 == 0:
            k[n // 2] = 0.0  # the sine at Nyquist vanishes on the grid: the derivative of its cosine is invisible
        return torch.complex(torch.zeros_like(k), k).expand(self.grid.shape)


class IdentityBasis(Basis):
    """The cells themselves. Isotropic noise is diagonal in it; the Laplacian is not."""

    def on(self, grid: Domain) -> IdentityBasis:
        return IdentityBasis(grid)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, y: Tensor) -> Tensor:
        return y

    def reflect(self, y: Tensor) -> Tensor:
        return y

    @property
    def laplacian(self) -> Tensor:
        raise ValueError("the identity basis does not diagonalise the Laplacian; this process needs SpectralBasis.")

    @property
    def constant_along_periodic(self) -> Tensor:
        raise ValueError("the identity basis has no waves, so homogeneous data cannot be described in it.")

    def derivative(self, axis: int) -> Tensor:
        raise ValueError("the identity basis does not diagonalise derivatives; this process needs SpectralBasis.")


_matrices: dict[tuple[int, str, torch.dtype, torch.device], Tensor] = {}


def _wall_matrix(n: int, boundary: str, like: Tensor) -> Tensor:
    """Rows are the modes of a wall axis, shape (n, n), in the dtype and on the device of `like`."""
    key = (n, boundary, like.dtype, like.device)
    if key not in _matrices:
        cell = torch.arange(n, dtype=torch.float64) + 0.5
        j = torch.arange(n, dtype=torch.float64).unsqueeze(-1)
        if boundary == "neumann":
            rows = torch.cos(math.pi / n * j * cell)
            special = 0
        else:
            rows = torch.sin(math.pi / n * (j + 1) * cell)
            special = n - 1
        rows = rows * math.sqrt(2 / n)
        rows[special] /= math.sqrt(2)  # the constant and the ±1 mode have twice the norm of the others
        _matrices[key] = rows.to(like)
    return _matrices[key]


def _wall_transform(x: Tensor, axis: int, boundary: str, inverse: bool) -> Tensor:
    """Orthonormal DCT-II (`neumann`) or DST-II (`dirichlet`) along one axis, or its inverse."""
    n = x.shape[axis]
    x = x.movedim(axis, -1)
    if n <= MATRIX_LIMIT:
        rows = _wall_matrix(n, boundary, x)
        y = x @ (rows if inverse else rows.T)
    elif boundary == "neumann":
        y = _cosine_by_fft(x, inverse)
    else:
        # DST-II of x is DCT-II of (−1)ⁱ xᵢ in reverse order.
        sign = 1 - 2 * (torch.arange(n, device=x.device) % 2).to(x)
        y = sign * _cosine_by_fft(x.flip(-1), True) if inverse else _cosine_by_fft(sign * x, False).flip(-1)
    return y.movedim(-1, axis)


def _cosine_by_fft(x: Tensor, inverse: bool) -> Tensor:
    """Orthonormal DCT-II along the last axis, or its inverse, by one FFT of the same length (Makhoul, 1980)."""
    n = x.shape[-1]
    j = torch.arange(n, device=x.device)
    order = torch.cat([j[::2], j[1::2].flip(0)])
    weight = torch.full((n,), math.sqrt(2 / n), dtype=x.dtype, device=x.device)
    weight[0] = math.sqrt(1 / n)
    twiddle = torch.polar(torch.ones_like(weight), -math.pi / (2 * n) * j.to(x))
    if not inverse:
        return weight * (twiddle * torch.fft.fft(x[..., order])).real
    y = x / weight
    partner = torch.cat([torch.zeros_like(y[..., :1]), y[..., 1:].flip(-1)], -1)
    v = torch.fft.ifft(twiddle.conj() * torch.complex(y, -partner)).real
    return v[..., torch.argsort(order)]
