"""Laws of a basis: orthonormal, diagonal where it must be, and a faithful Fourier calculus along periodic axes.

On a graph the Laplacian is held to scipy's sparse one, on a sphere modes are held to scipy's spherical harmonics, and
stationary fields to covariances that depend on the angle alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from scipy import fft, special
from scipy.sparse import csgraph
from torch import Tensor

from physdiff.bases import GraphBasis, SphereBasis
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import BasisCase
from physdiff.laws.law import Measurement, law
from physdiff.spectra import matern_spectrum


def _spectral(case: BasisCase) -> bool:
    return case.is_spectral


def _periodic(case: BasisCase) -> bool:
    return case.is_spectral and "periodic" in case.basis.grid.boundary


def _oblique(case: BasisCase) -> bool:
    return case.is_spectral and case.basis.grid.boundary.count("periodic") >= 2


def _turning(case: BasisCase) -> bool:
    return case.has_laplacian and "periodic" in case.basis.grid.boundary


def _graph(case: BasisCase) -> bool:
    return isinstance(case.basis, GraphBasis)


def _sphere(case: BasisCase) -> bool:
    return isinstance(case.basis, SphereBasis)


def _fields(case: BasisCase, n: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, 2, *case.basis.grid.shape), generator=generator, dtype=torch.float64)


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


@law("basis")
def transform_is_orthonormal(case: BasisCase) -> Iterator[Measurement]:
    """UᵀU = 1, and forward is the transpose of inverse."""
    u, x = case.basis.dense(), _fields(case)
    yield Measurement("|UᵀU − 1|", _largest(u.T @ u - torch.eye(len(u), dtype=torch.float64)), 1e-12)
    yield Measurement("|forward − Uᵀ|", _largest(case.basis.forward(x).flatten(2) - x.flatten(2) @ u), 1e-12)


@law("basis")
def inverse_undoes_forward(case: BasisCase) -> Iterator[Measurement]:
    """Fields to modes and back is the identity, and so is modes to fields and back; norms are kept."""
    x, basis = _fields(case), case.basis
    yield Measurement("|U Uᵀ x − x|", _largest(basis.inverse(basis.forward(x)) - x), 1e-12)
    yield Measurement("|Uᵀ U y − y|", _largest(basis.forward(basis.inverse(x)) - x), 1e-12)
    norms = [z.square().flatten(2).sum(2) for z in (x, basis.forward(x))]
    yield Measurement("relative error of the norm", _largest(norms[1] / norms[0] - 1), 1e-12)


@law("basis")
def white_noise_stays_white(case: BasisCase) -> Iterator[Measurement]:
    """Modes of white noise are uncorrelated and of unit variance."""
    n = 4000
    y = case.basis.forward(_fields(case, n, seed=1))[:, 0].flatten(1)
    scatter = y.T @ y / n - torch.eye(y.shape[1], dtype=torch.float64)
    errors = math.sqrt(n) * scatter / (1 + torch.eye(y.shape[1], dtype=torch.float64)).sqrt()
    # 5.5 standard errors: below 1e-4 family-wise for the 2,000 pairs of the largest grid.
    yield Measurement(f"largest |z| of {n} samples' covariances", _largest(errors), 5.5)


@law("basis")
def scrambling_keeps_the_spectrum(case: BasisCase) -> Iterator[Measurement]:
    """Random phases leave the power of every orbit {k, −k}, and a symmetric Gaussian density, unchanged."""
    basis = case.basis
    x = _fields(case)
    power = basis.symmetrise(_fields(case, 1, seed=2)[0].square() + 0.1)
    y = basis.forward(x)
    scrambled = basis.scramble(y, torch.Generator().manual_seed(3))
    change = basis.symmetrise(scrambled.square()) - basis.symmetrise(y.square())
    yield Measurement("change of an orbit's power", _largest(change), 1e-12)
    law = GaussianField(basis, torch.zeros_like(power), power)
    densities = [law.log_prob_of_deviation(z) for z in (y, scrambled)]
    yield Measurement("change of the log-density", _largest(densities[0] - densities[1]), 1e-10)
    if basis.grid.size > 2:
        yield Measurement("distance moved", float((scrambled - y).square().mean().sqrt()), 0.1, at_least=True)


def _waves(grid: Grid, seed: int) -> Iterator[tuple[np.ndarray, list[np.ndarray], float]]:
    """Every resolved wave at random phase: its values at the cells, its derivative along each axis, and its λ."""
    rng = np.random.default_rng(seed)
    centres = np.meshgrid(*[grid.coordinate(axis) for axis in range(grid.ndim)], indexing="ij")
    ranges = [
        range(-((n - 1) // 2), (n - 1) // 2 + 1) if b == "periodic" else range(n) if b == "neumann" else range(1, n + 1)
        for n, b in zip(grid.shape, grid.boundary, strict=True)
    ]
    for wave in itertools.product(*ranges):
        phase, walls, eigenvalue = rng.uniform(0, 2 * np.pi), np.ones(grid.shape), 0.0
        k_periodic = np.zeros(grid.ndim)
        for axis, (q, length, boundary) in enumerate(zip(wave, grid.extent, grid.boundary, strict=True)):
            k = (2 * np.pi if boundary == "periodic" else np.pi) * q / length
            eigenvalue += k * k
            position = centres[axis] - grid.origin[axis]
            if boundary == "periodic":
                k_periodic[axis] = k
                phase = phase + k * position
            else:
                walls = walls * (np.cos(k * position) if boundary == "neumann" else np.sin(k * position))
        derivatives = [-k_periodic[axis] * np.sin(phase) * walls for axis in range(grid.ndim)]
        yield np.cos(phase) * walls, derivatives, eigenvalue


@law("basis", _spectral)
def laplacian_is_diagonal(case: BasisCase) -> Iterator[Measurement]:
    """Every resolved wave at the cell centres is an eigenvector of −Δ with its exact eigenvalue."""
    worst, basis = 0.0, case.basis
    scale = float(basis.laplacian.max()) or 1.0
    for wave, _, eigenvalue in _waves(basis.grid, seed=0):
        x = torch.from_numpy(wave)
        image = basis.inverse(basis.laplacian * basis.forward(x))
        worst = max(worst, _largest(image - eigenvalue * x) / scale)
    yield Measurement("|−Δw − λw|/λ_max", worst, 1e-12)


@law("basis", _spectral)
def finite_differences_are_diagonal(case: BasisCase) -> Iterator[Measurement]:
    """Second differences under the same walls have the same eigenvectors, with eigenvalues 4 sin²(kh/2)/h²."""
    grid = case.basis.grid
    total = np.zeros((grid.size, grid.size))
    expected = torch.zeros(grid.shape, dtype=torch.float64)
    for axis, (n, h, boundary) in enumerate(zip(grid.shape, grid.spacing, grid.boundary, strict=True)):
        second = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
        if boundary == "periodic":
            second[0, -1] -= 1
            second[-1, 0] -= 1
        else:  # the ghost cell beyond a wall holds the mirror image, of opposite sign where clamped
            ends = np.array([0, -1]) % n
            np.add.at(second, (ends, ends), -1 if boundary == "neumann" else 1)
        factors = [np.eye(m) for m in grid.shape]
        factors[axis] = second / h**2
        product = np.ones((1, 1))
        for factor in factors:
            product = np.kron(product, factor)
        total = total + product
        k = case.basis.on(Grid(n, grid.extent[axis], boundary)).laplacian.sqrt()
        shape = [1] * grid.ndim
        shape[axis] = n
        expected = expected + (4 / h**2 * torch.sin(k * h / 2).square()).reshape(shape)
    u = case.basis.dense()
    image = u.T @ torch.from_numpy(total) @ u
    difference = image - torch.diag(expected.flatten())
    yield Measurement("|UᵀLU − Λ|/Λ_max", _largest(difference) / max(_largest(image), 1e-300), 1e-12)


@law("basis", _periodic)
def derivative_is_exact(case: BasisCase) -> Iterator[Measurement]:
    """The derivative of every resolved wave is exact, and the operator is antisymmetric."""
    basis, worst, skew = case.basis, 0.0, 0.0
    for axis, boundary in enumerate(basis.grid.boundary):
        if boundary != "periodic":
            continue
        symbol = basis.derivative(axis)
        scale = max(_largest(symbol), 1e-300)
        for wave, derivatives, _ in _waves(basis.grid, seed=1):
            image = basis.inverse(basis.apply(symbol, basis.forward(torch.from_numpy(wave))))
            worst = max(worst, _largest(image - torch.from_numpy(derivatives[axis])) / scale)
        eye = torch.eye(basis.grid.size, dtype=torch.float64).reshape(-1, *basis.grid.shape)
        matrix = basis.inverse(basis.apply(symbol, basis.forward(eye))).reshape(basis.grid.size, -1)
        skew = max(skew, _largest(matrix + matrix.T) / scale)
    yield Measurement("|∂w − w'|/k_max", worst, 1e-12)
    yield Measurement("|D + Dᵀ|/k_max", skew, 1e-12)


@law("basis", _turning)
def reflection_reverses_derivatives(case: BasisCase) -> Iterator[Measurement]:
    """Exchanging k and −k twice does nothing; around a derivative it changes the sign."""
    basis, y = case.basis, _fields(case, seed=4)
    yield Measurement("|reflect² − 1|", _largest(basis.reflect(basis.reflect(y)) - y), 0.0)
    worst = 0.0
    for axis, boundary in enumerate(basis.grid.boundary):
        if boundary == "periodic":
            symbol = basis.derivative(axis)
            turned = basis.reflect(basis.apply(symbol, basis.reflect(y))) + basis.apply(symbol, y)
            worst = max(worst, _largest(turned) / max(_largest(symbol), 1e-300))
    yield Measurement("|reflect ∂ reflect + ∂|", worst, 1e-12)


def _random_symbol(case: BasisCase, seed: int) -> Tensor:
    """ρ even and ι odd in k."""
    a, b = _fields(case, 1, seed)[0]
    return torch.complex(a + case.basis.reflect(a), b - case.basis.reflect(b))


def _by_library(grid: Grid, symbol: Tensor, x: Tensor) -> Tensor:
    """A Fourier, cosine and sine multiplier through scipy's transforms."""
    axes = list(range(-grid.ndim, 0))
    values = x.numpy()
    walls = [(a, b) for a, b in zip(axes, grid.boundary, strict=True) if b != "periodic"]
    periodic = [a for a, b in zip(axes, grid.boundary, strict=True) if b == "periodic"]
    for axis, boundary in walls:
        values = (fft.dct if boundary == "neumann" else fft.dst)(values, type=2, norm="ortho", axis=axis)
    values = np.real(cast(np.ndarray, fft.ifftn(symbol.numpy() * fft.fftn(values, axes=periodic), axes=periodic)))
    for axis, boundary in walls:
        values = (fft.idct if boundary == "neumann" else fft.idst)(values, type=2, norm="ortho", axis=axis)
    return torch.from_numpy(np.ascontiguousarray(values))


@law("basis", lambda case: case.has_laplacian)
def symbols_compose(case: BasisCase) -> Iterator[Measurement]:
    """One complex symbol after another is their product, in either order."""
    basis, y = case.basis, _fields(case, seed=5)
    a, b = _random_symbol(case, 6), _random_symbol(case, 7)
    for first, then in ((b, a), (a, b)):
        composed = basis.apply(then, basis.apply(first, y)) - basis.apply(a * b, y)
        yield Measurement("|a(by) − (ab)y|", _largest(composed), 1e-11)


@law("basis", _spectral)
def symbols_are_multipliers(case: BasisCase) -> Iterator[Measurement]:
    """A complex symbol equals the multiplier of the Fourier transform of the field."""
    basis, x = case.basis, _fields(case, seed=5)
    y = basis.forward(x)
    a = _random_symbol(case, 6)
    difference = basis.inverse(basis.apply(a, y)) - _by_library(basis.grid, a, x)
    yield Measurement("|a∘x − scipy's|", _largest(difference), 1e-11)


@law("basis", _turning)
def one_cell_of_shift_rolls(case: BasisCase) -> Iterator[Measurement]:
    """exp(−i k·a) with a of one cell moves a resolved field by one cell."""
    basis, grid = case.basis, case.basis.grid
    worst = 0.0
    for axis, boundary in enumerate(grid.boundary):
        if boundary != "periodic":
            continue
        x, n = _fields(case, seed=8), grid.shape[axis]
        alternating = torch.tensor([(-1.0) ** i for i in range(n)], dtype=torch.float64)
        alternating = alternating.reshape(-1, *[1] * (grid.ndim - 1 - axis))
        if n % 2 == 0:  # the derivative, and so the shift, does not see the Nyquist wave
            x = x - alternating * (alternating * x).mean(axis - grid.ndim, keepdim=True)
        symbol = torch.exp(-grid.extent[axis] / n * basis.derivative(axis))
        moved = basis.inverse(basis.apply(symbol, basis.forward(x)))
        worst = max(worst, _largest(moved - torch.roll(x, 1, axis - grid.ndim)))
    yield Measurement("|shift − roll|", worst, 1e-12)


@law("basis", _oblique)
def oblique_stripes_are_diagonal(case: BasisCase) -> Iterator[Measurement]:
    """A stationary covariance without reflection symmetry is diagonal."""
    grid = case.basis.grid
    periodic = [axis for axis, b in enumerate(grid.boundary) if b == "periodic"]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1).reshape(grid.size, -1)
    lag = index[:, None] - index[None]
    turn = sum(2 * np.pi * lag[..., axis] / grid.shape[axis] for axis in periodic)
    last = 2 * np.pi * lag[..., periodic[-1]] / grid.shape[periodic[-1]]
    stationary = np.cos(turn) + 0.5 * np.cos(turn + last) + 0.3 * np.cos(2 * turn)
    for axis in range(grid.ndim):
        if axis not in periodic:
            stationary = stationary * (lag[..., axis] == 0)
    u = case.basis.dense()
    image = u.T @ torch.from_numpy(stationary) @ u
    off = image - torch.diag(image.diagonal())
    yield Measurement("off-diagonal covariance", _largest(off) / _largest(image), 1e-12)


@law("basis", lambda case: case.has_laplacian)
def unresolved_modes_are_completed(case: BasisCase) -> Iterator[Measurement]:
    """Eigenvalues are finite and ≥ 0, and all modes that the basis does not resolve share one, none of them zero."""
    basis = case.basis
    yield Measurement("−λ", max(0.0, -float(basis.laplacian.min())), 0.0)
    rest = basis.laplacian[~basis.resolved]
    if len(rest):
        yield Measurement("spread of λ where unresolved", float(rest.max() - rest.min()), 0.0)
        yield Measurement("least λ where unresolved", float(rest.min()), 1e-3, at_least=True)
        x = basis.limit(_fields(case, seed=9))
        yield Measurement("|limit² − limit|", _largest(basis.limit(x) - x), 1e-12)
        outside = basis.forward(x)[..., ~basis.resolved]
        yield Measurement("energy left outside", _largest(outside), 1e-12)
    symmetric = basis.reflect(basis.resolved.double()) - basis.resolved.double()
    yield Measurement("resolved modes without their partner", _largest(symmetric), 0.0)


@law("basis", _graph)
def graph_laplacian_is_scipys(case: BasisCase) -> Iterator[Measurement]:
    """−Δf at each node is v⁻¹(D − W)f by scipy's sparse Laplacian, for the values f of resolved fields."""
    graph, basis = case.basis.grid, case.basis
    x = basis.limit(_fields(case, seed=10))
    image = graph.unweigh(basis.inverse(basis.laplacian * basis.forward(x)))
    f = graph.unweigh(x).flatten(0, 1).numpy()
    wanted = (csgraph.laplacian(graph.adjacency) @ f.T).T / graph.volumes
    yield Measurement("|−Δf − v⁻¹(D − W)f|", _largest(image.flatten(0, 1) - torch.from_numpy(wanted)), 1e-11)
    components, _ = csgraph.connected_components(graph.adjacency)
    still = int((basis.laplacian[basis.resolved] == 0).sum())
    expected = min(components, int(basis.resolved.sum()))
    yield Measurement("modes with λ = 0, off the number of components", abs(still - expected), 0)


@law("basis", _sphere)
def modes_are_scipys_harmonics(case: BasisCase) -> Iterator[Measurement]:
    """Mode (l, m) has the values Re Y + sign(m) Im Y of scipy's harmonic, and λ = l(l + 1)/R²."""
    sphere, basis = case.basis.grid, case.basis
    theta, phi = np.meshgrid(sphere.colatitude, sphere.longitude, indexing="ij")
    worst, of_values = 0.0, 0.0
    for degree in range(sphere.degree + 1):
        for order in range(-degree, degree + 1):
            unit = torch.zeros(sphere.shape, dtype=torch.float64)
            unit[degree, order] = sphere.cell_volume**-0.5  # orthonormal over the sphere rather than over the cells
            values = sphere.unweigh(basis.inverse(unit))
            y = special.sph_harm_y(degree, abs(order), theta, phi) / sphere.radius
            worst = max(worst, _largest(values - torch.from_numpy(y.real + np.sign(order) * y.imag)))
            eigenvalue = degree * (degree + 1) / sphere.radius**2
            of_values = max(of_values, abs(float(basis.laplacian[degree, order]) - eigenvalue))
    yield Measurement("|mode − harmonic|", worst, 1e-11)
    yield Measurement("|λ − l(l + 1)/R²|", of_values, 1e-12)
    yield Measurement("resolved modes off (L + 1)²", abs(int(basis.resolved.sum()) - (sphere.degree + 1) ** 2), 0)


@law("basis", _sphere)
def stationary_fields_know_the_angle_only(case: BasisCase) -> Iterator[Measurement]:
    """A resolved Matérn field has the covariance Σ (2l + 1)/(4πR²) 𝒮_l P_l(cos angle) between any two cells."""
    sphere, basis = case.basis.grid, case.basis
    c = matern_spectrum(basis, sphere.radius, 1.0) * basis.resolved
    u = basis.dense()
    covariance = u @ torch.diag(c.flatten()) @ u.T
    shape = (sphere.size, *sphere.shape)
    covariance = sphere.unweigh(sphere.unweigh(covariance.reshape(shape)).flatten(1).T.reshape(shape)).flatten(1)
    theta, phi = (a.ravel() for a in np.meshgrid(sphere.colatitude, sphere.longitude, indexing="ij"))
    points = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])
    density = c[:, 0].numpy() * sphere.cell_volume  # order 0 has all degrees
    degrees = np.arange(sphere.degree + 1)
    series = (2 * degrees + 1) / (4 * np.pi * sphere.radius**2) * density[: sphere.degree + 1]
    wanted = np.polynomial.legendre.legval(np.clip(points.T @ points, -1, 1), series)  # rounding beyond ±1
    yield Measurement("|covariance − Legendre series|", _largest(covariance - torch.from_numpy(wanted)), 1e-11)


@law("basis", _sphere)
def turning_the_sphere_turns_its_fields(case: BasisCase) -> Iterator[Measurement]:
    """∂ along a parallel of a resolved mode is (m/R) times that of order −m, and no turn leaves the resolved modes."""
    sphere, basis = case.basis.grid, case.basis
    symbol = basis.derivative(1)
    missed = 0.0
    for degree in range(sphere.degree + 1):
        for order in range(-degree, degree + 1):
            unit, wanted = (torch.zeros(sphere.shape, dtype=torch.float64) for _ in range(2))
            unit[degree, order] = 1.0
            wanted[degree, -order] += order / sphere.radius
            missed = max(missed, _largest(basis.apply(symbol, unit) - wanted))
    yield Measurement("|∂ mode − (m/R) mode(−m)|", missed, 1e-12)
    x = basis.limit(_fields(case, seed=11))
    turned = basis.forward(torch.roll(x, 1, -1))[..., ~basis.resolved]
    yield Measurement("energy that a turn brings outside", _largest(turned) if turned.numel() else 0.0, 1e-12)
