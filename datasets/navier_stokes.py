"""Incompressible Navier-Stokes on a periodic square, as one equation for the vorticity ω.

    ∂ω/∂t + u·∇ω = ν∇²ω,    ω = −∇²ψ,    u = ∂ψ/∂y,    v = −∂ψ/∂x

In Fourier space each mode decays at rate ν|k|² exactly (integrating factor) and only the advection is
stepped, by classical Runge-Kutta of order four (Lawson, 1967). The advection is taken as

    u·∇ω = (∂²/∂x² − ∂²/∂y²)(uv) + ∂²/∂x∂y (v² − u²)        (Basdevant, 1983)

which needs four transforms instead of five. Products of modes below n/3 alias only onto modes that are
dropped (the 2/3 rule), so the truncated equation is exact on its modes and, at ν = 0, keeps energy and
enstrophy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class NavierStokes:
    """The truncated equation on n x n points of [0, 2π)², for many independent runs at once.

    Attributes:
        points: Points n along each axis; modes with |k| < n/3 along both axes are kept.
        viscosity: ν ≥ 0, length²/time.
    """

    def __init__(self, points: int, viscosity: float, device: str = "cpu") -> None:
        if points < 4 or not 0 <= viscosity < math.inf:
            raise ValueError(f"needs at least 4 points and a viscosity ≥ 0; got {points} and {viscosity}.")
        self.points, self.viscosity = points, viscosity
        kx, ky = wavenumbers(points, device)
        kept = ((3 * kx.abs() < points) & (3 * ky.abs() < points)).double()
        self._k2 = kx**2 + ky**2
        # The mean vorticity of a periodic flow is zero and induces no velocity.
        inverse = torch.where(self._k2 > 0, 1 / self._k2, 0.0)
        self._velocity = torch.stack([1j * ky * inverse, -1j * kx * inverse]) * kept
        self._stress = torch.stack([kx**2 - ky**2, kx * ky]) * kept
        self.kept = kept.bool()

    def to_modes(self, vorticity: Tensor) -> Tensor:
        """Coefficients of the kept modes, shape (..., n, n//2 + 1), of fields of shape (..., n, n)."""
        return torch.fft.rfft2(vorticity) * self.kept

    def to_field(self, modes: Tensor) -> Tensor:
        """Fields, shape (..., n, n), of Fourier coefficients."""
        return torch.fft.irfft2(modes, s=(self.points, self.points))

    def velocity(self, modes: Tensor) -> Tensor:
        """Velocity (u, v), shape (..., 2, n, n)."""
        return self.to_field(self._velocity * modes.unsqueeze(-3))

    def advection(self, modes: Tensor) -> Tensor:
        """−u·∇ω of each run, as modes."""
        u, v = self.velocity(modes).unbind(-3)
        products = torch.fft.rfft2(torch.stack([u * v, (v - u) * (v + u)], dim=-3))
        # Second derivatives are −k²: the sign of the equation's own minus cancels theirs.
        return (self._stress * products).sum(-3)

    def energy(self, modes: Tensor) -> Tensor:
        """Mean of ½|u|² over the square, per run."""
        return (self.velocity(modes) ** 2).sum(-3).mean((-2, -1)) / 2

    def enstrophy(self, modes: Tensor) -> Tensor:
        """Mean of ½ω² over the square, per run."""
        return (self.to_field(modes) ** 2).mean((-2, -1)) / 2

    def stable_steps(self, modes: Tensor, duration: float) -> int:
        """Number of steps for which the fourth-order rule stays stable at the flow's present speed."""
        speed = self.velocity(modes).abs().sum(-3).max().item()
        fastest = (self.points - 1) // 3
        # RK4 is stable on the imaginary axis up to 2√2.
        return max(1, math.ceil(duration * speed * fastest / (2 * math.sqrt(2))))

    def evolve(self, modes: Tensor, duration: float, steps: int) -> Tensor:
        """Modes after `duration`, in `steps` equal steps.

        Args:
            modes: Fourier coefficients, shape (..., n, n//2 + 1), complex128.
            duration: Time to cover.
            steps: Number of steps.

        Raises:
            ValueError: the steps are too long for the flow's speed, and the numbers overflow.
        """
        step = duration / steps
        half = torch.exp(-self.viscosity * self._k2 * (step / 2))
        full = half**2
        for _ in range(steps):
            k1 = self.advection(modes)
            k2 = self.advection(half * (modes + (step / 2) * k1))
            carried = half * modes
            k3 = self.advection(carried + (step / 2) * k2)
            carried = full * modes
            k4 = self.advection(carried + step * (half * k3))
            modes = carried + (step / 6) * (full * k1 + 2 * half * (k2 + k3) + k4)
        if not torch.view_as_real(modes).isfinite().all():
            raise ValueError(f"the flow overflowed with {steps} steps of {step:.3g}; take more steps.")
        return modes


def wavenumbers(points: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Wavenumbers of `rfft2` on [0, 2π)², shapes (n, 1) and (1, n//2 + 1), float64."""
    kx = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64, device=device).unsqueeze(1)
    ky = torch.fft.rfftfreq(points, 1 / points, dtype=torch.float64, device=device).unsqueeze(0)
    return kx, ky


def coarsen(field: Tensor, cells: int) -> Tensor:
    """The same trigonometric polynomial on a coarser grid, without the modes at or above its Nyquist.

    Args:
        field: Values at cell centres, shape (..., n, n).
        cells: Even number of cells along each axis, ≤ n.
    """
    points = field.shape[-1]
    kx, ky = wavenumbers(cells, field.device)
    rows = torch.remainder(kx.squeeze(1).long(), points)
    modes = torch.fft.rfft2(field)[..., rows, : cells // 2 + 1]
    # Cell centres start half a cell from the edge, and the cells differ: each mode turns by the difference.
    shift = math.pi / cells - math.pi / points
    below_nyquist = (2 * kx.abs() < cells) & (2 * ky.abs() < cells)
    modes = modes * below_nyquist * torch.exp(1j * (kx + ky) * shift) * (cells / points) ** 2
    return torch.fft.irfft2(modes, s=(cells, cells))
