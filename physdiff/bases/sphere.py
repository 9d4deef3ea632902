r"""A latitude-longitude grid on a sphere, and real spherical harmonics.

*Fields.* The cells of a row at colatitude θ_j have the area v_j = R² w_j 2π/n_lon, with w_j the weights of a quadrature
over cos θ: Gauss-Legendre, or Clenshaw-Curtis on equally spaced latitudes with both poles. They shrink towards the
poles. A field therefore is x = √(v/v̄)·f (`Sphere.weigh`), v̄ = 4πR²/N: then |x|²·v̄ = ∫f² dA, and independent cells are
white noise on the sphere, without a pole.

*Modes.* With Y_l^m the harmonics of degree l and order m (Condon-Shortley phase), mode (l, m) is

    Re Y_l^|m| + sign(m) Im Y_l^|m| = P̄_l^|m|(cos θ) cas(mφ)/√(2π),     −Δ ↔ l(l + 1)/R²,

real and orthonormal over the sphere; times √v it is a unit vector of cells. It has its place in row l and, in the order
of the FFT, column m of the modes. cas couples m and −m as on a periodic axis: ∂ along a parallel is R^{-1}∂_φ ↔ i m/R
(length along the equator), and a wind v turns the sphere rigidly, with the speed v at the equator.

*Cells outnumber harmonics.* Products of two harmonics are integrated exactly up to the degree
L = min(n_lat − 1, (n_lon − 1)/2) (Gauss) or L = min((n_lat − 1)/2, (n_lon − 1)/2) (equiangular), rounded down: with
all orders |m| ≤ l, a space that rotations map to itself. Its (L + 1)² harmonics are the `resolved` modes. For each
order their columns √w P̄_l^m are completed to an orthonormal basis of the rows (QR), and the completing modes fill the
places that have no harmonic. So U is square and orthonormal, nothing of a field is lost unseen, and a band-limited law
leaves those modes out of its support: a field with energy there is refused. −Δ acts on them as the first missing
degree, (L + 1)(L + 2)/R²; which vectors complete an order has no consequence as long as their variances are equal.

torch-harmonics computes the same transform of band-limited fields, but projects: what it drops cannot be seen again.

Source: Driscoll and Healy (1994); Press et al. (2007), sec. 6.7, for the recursion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from physdiff.basis import Basis

Latitudes = Literal["gauss", "equiangular"]


@dataclass(frozen=True)
class Sphere:
    """A latitude-longitude grid, rows from north to south, longitudes from 0 eastwards.

    Attributes:
        nlat: Rows.
        nlon: Cells along each parallel.
        radius: R, length.
        latitudes: `"gauss"`: Gauss-Legendre nodes; `"equiangular"`: equally spaced, both poles included.

    Raises:
        ValueError: counts or radius make no sphere.
    """

    nlat: int
    nlon: int
    radius: float = 1.0
    latitudes: Latitudes = "gauss"

    def __post_init__(self) -> None:
        if self.latitudes not in get_args(Latitudes):
            raise ValueError(f"latitudes of a sphere are {' or '.join(get_args(Latitudes))}; got '{self.latitudes}'.")
        least = 1 if self.latitudes == "gauss" else 2
        if self.nlat < least or self.nlon < 1:
            raise ValueError(
                f"a sphere of {self.latitudes} latitudes needs nlat ≥ {least} and nlon ≥ 1; got {self.nlat} and "
                f"{self.nlon}."
            )
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"the radius of a sphere must be positive and finite; got {self.radius}.")

    @property
    def shape(self) -> tuple[int, ...]:
        """(nlat, nlon)."""
        return (self.nlat, self.nlon)

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def size(self) -> int:
        """Number of cells."""
        return self.nlat * self.nlon

    @property
    def dimension(self) -> float:
        """2."""
        return 2

    @property
    def dims(self) -> tuple[str, ...]:
        """("lat", "lon")."""
        return ("lat", "lon")

    @property
    def boundary(self) -> tuple[str, ...]:
        """("poles", "periodic")."""
        return ("poles", "periodic")

    @property
    def extent(self) -> tuple[float, ...]:
        """Length of a meridian from pole to pole, and of the equator."""
        return (math.pi * self.radius, 2 * math.pi * self.radius)

    @property
    def cell_volume(self) -> float:
        """v̄ = 4πR²/N: mean area of a cell."""
        return 4 * math.pi * self.radius**2 / self.size

    @property
    def degree(self) -> int:
        """L: largest degree of which all harmonics are resolved."""
        return min(self.nlat - 1 if self.latitudes == "gauss" else (self.nlat - 1) // 2, (self.nlon - 1) // 2)

    @cached_property
    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes cos θ from north to south, and weights that sum to 2."""
        if self.latitudes == "gauss":
            nodes, weights = np.polynomial.legendre.leggauss(self.nlat)
            return nodes[::-1].copy(), weights[::-1].copy()
        n = self.nlat - 1
        theta = np.pi * np.arange(n + 1) / n
        k = np.arange(1, n // 2 + 1)
        share = np.where(2 * k == n, 1.0, 2.0) / (4 * k**2 - 1)
        weights = (1 - (share * np.cos(2 * np.outer(theta, k))).sum(1)) * 2 / n
        weights[[0, -1]] /= 2
        return np.cos(theta), weights

    @property
    def colatitude(self) -> np.ndarray:
        """θ of each row, radians from the north pole, shape (nlat,)."""
        return np.arccos(self._rule[0])

    @property
    def longitude(self) -> np.ndarray:
        """φ of each column, radians, shape (nlon,)."""
        return 2 * np.pi * np.arange(self.nlon) / self.nlon

    @property
    def areas(self) -> np.ndarray:
        """v of one cell of each row, shape (nlat,); they sum to 4πR² over all cells."""
        return 2 * np.pi * self.radius**2 / self.nlon * self._rule[1]

    def coordinates(self) -> dict[str, np.ndarray]:
        """Latitudes and longitudes in degrees, by dim name."""
        return {"lat": 90 - np.degrees(self.colatitude), "lon": np.degrees(self.longitude)}

    def weigh(self, values: Tensor) -> Tensor:
        """Fields x = √(v/v̄)·f of values at the cells, shape (..., nlat, nlon)."""
        return values * self._root_share.to(values)

    def unweigh(self, fields: Tensor) -> Tensor:
        """Values at the cells of fields, shape (..., nlat, nlon)."""
        return fields / self._root_share.to(fields)

    @cached_property
    def _root_share(self) -> Tensor:
        return torch.from_numpy(np.sqrt(self.areas / self.cell_volume)).unsqueeze(1)

    def refined(self, factor: int) -> Sphere:
        """The same sphere with `factor` times as many rows and columns; equal rows keep the coarse ones among them."""
        rows = self.nlat * factor if self.latitudes == "gauss" else (self.nlat - 1) * factor + 1
        return self.resized((rows, self.nlon * factor))

    def resized(self, shape: tuple[int, ...]) -> Sphere:
        """The same sphere cut into another number of cells."""
        return replace(self, nlat=shape[0], nlon=shape[1])

    def describe(self) -> str:
        """One line for people: `32 x 64 (lat, lon; gauss, degree ≤ 31, radius 1)`."""
        return (
            f"{self.nlat} x {self.nlon} (lat, lon; {self.latitudes}, degree ≤ {self.degree}, radius {self.radius:.6g})"
        )


class SphereBasis(Basis):
    """Real spherical harmonics, completed to an orthonormal basis of the cells (see the module's text)."""

    grid: Sphere

    def __init__(self, sphere: Sphere) -> None:
        order = torch.fft.fftfreq(sphere.nlon, 1 / sphere.nlon, dtype=torch.float64)
        degree = torch.arange(sphere.nlat, dtype=torch.float64).unsqueeze(1)
        super().__init__(sphere, (order.abs() <= degree) & (degree <= sphere.degree))
        first_missing = (sphere.degree + 1) * (sphere.degree + 2)
        self._laplacian = torch.where(self.resolved, degree * (degree + 1), first_missing) / sphere.radius**2
        self._order = order
        orders = range(sphere.nlon // 2 + 1)
        self._exact = torch.stack([_meridian_modes(sphere, m) for m in orders])
        self._matrices: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def on(self, grid: Sphere) -> SphereBasis:
        return SphereBasis(grid)

    def forward(self, x: Tensor) -> Tensor:
        return self._along_meridians("mtl,...tm->...lm", _hartley(x))

    def inverse(self, y: Tensor) -> Tensor:
        return _hartley(self._along_meridians("mtl,...lm->...tm", y))

    def _along_meridians(self, contraction: str, h: Tensor) -> Tensor:
        """Contract every column with the matrix of its |m|."""
        key = (h.dtype, h.device)
        if key not in self._matrices:
            self._matrices[key] = self._exact.to(h)
        matrices, n = self._matrices[key], h.shape[-1]
        positive = torch.einsum(contraction, matrices, h[..., : len(matrices)])
        paired = slice(1, n - len(matrices) + 1)  # orders m > 0 that have a partner −m in a column of its own
        negative = torch.einsum(contraction, matrices[paired], h[..., len(matrices) :].flip(-1))
        return torch.cat([positive, negative.flip(-1)], -1)

    def reflect(self, y: Tensor) -> Tensor:
        return torch.roll(torch.flip(y, [-1]), 1, -1)

    @property
    def laplacian(self) -> Tensor:
        return self._laplacian

    @property
    def constant_along_periodic(self) -> Tensor:
        return (self._order == 0).expand(self.grid.shape)

    def derivative(self, axis: int) -> Tensor:
        if axis % 2 == 0:
            raise ValueError("a derivative on a sphere is a symbol along 'lon' only; 'lat' runs from pole to pole.")
        k = self._order / self.grid.radius
        if self.grid.nlon % 2 == 0:
            k[self.grid.nlon // 2] = 0.0  # the sine at Nyquist vanishes on the grid
        return torch.complex(torch.zeros_like(k), k).expand(self.grid.shape)


def _hartley(x: Tensor) -> Tensor:
    """Along the last axis; its own inverse."""
    spectrum = torch.fft.fft(x, norm="ortho")
    return spectrum.real - spectrum.imag


def _meridian_modes(sphere: Sphere, m: int) -> Tensor:
    """Orthogonal matrix of one order: columns l = m..L are √w P̄_l^m, the others complete them, shape (nlat, nlat)."""
    nodes, weights = sphere._rule
    if m > sphere.degree:
        return torch.eye(sphere.nlat, dtype=torch.float64)
    columns = np.sqrt(weights)[:, None] * normalised_legendre(nodes, m, sphere.degree)
    complete, upper = np.linalg.qr(columns, mode="complete")
    k = columns.shape[1]
    complete[:, :k] *= np.sign(np.diagonal(upper))
    place = [*range(m, m + k), *range(m), *range(m + k, sphere.nlat)]
    return torch.from_numpy(complete[:, np.argsort(place)])


def normalised_legendre(x: np.ndarray, m: int, degree: int) -> np.ndarray:
    """P̄_l^m(x), l = m..degree, with ∫P̄² dx = 1 over (−1, 1) and the sign (−1)^m, shape (len(x), degree − m + 1)."""
    i = np.arange(1, m + 1)
    first = (-1) ** m * np.sqrt((m + 0.5) * np.prod((2 * i - 1) / (2 * i))) * (1 - x * x) ** (m / 2)
    found = [first, math.sqrt(2 * m + 3) * x * first]
    for l in range(m + 2, degree + 1):  # noqa: E741
        a = math.sqrt((4 * l * l - 1) / (l * l - m * m))
        b = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
        found.append(a * (x * found[-1] - b * found[-2]))
    return np.stack(found[: degree - m + 1], 1)
