"""Spheres: quadrature, heat kernels about any point, rigid rotation, isotropy, likelihoods, errors at the door."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from physdiff import laws
from physdiff.bases import Sphere, SphereBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser, GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.likelihood import log_likelihood
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers import sample

torch.set_num_threads(1)

SPHERES = [Sphere(12, 24, 2.0), Sphere(9, 17), Sphere(17, 18, 0.5, "equiangular"), Sphere(13, 10, 1.0, "equiangular")]
NOW = torch.tensor(1.0, dtype=torch.float64)


class Untrained(nn.Module):
    """A network as it is made: parameters, and an output of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.last * x


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def named(sphere: Sphere) -> str:
    return sphere.describe()


def resolved_law(basis: SphereBasis) -> GaussianField:
    full = smooth_reference(basis)
    return GaussianField(basis, full.mean * basis.resolved, full.spectrum * basis.resolved)


def harmonics(sphere: Sphere) -> Tensor:
    """Values of all resolved modes by scipy, in the order of `basis.resolved`, shape (cells, modes)."""
    theta, phi = (a.ravel() for a in np.meshgrid(sphere.colatitude, sphere.longitude, indexing="ij"))
    columns = []
    for degree, column in SphereBasis(sphere).resolved.nonzero().tolist():
        order = column if column <= sphere.nlon // 2 else column - sphere.nlon
        y = special.sph_harm_y(degree, abs(order), theta, phi)
        columns.append((y.real + np.sign(order) * y.imag) / sphere.radius)
    return torch.from_numpy(np.stack(columns, 1))


@pytest.mark.parametrize("sphere", SPHERES, ids=named)
def test_cells_cover_the_sphere(sphere: Sphere) -> None:
    area = 4 * np.pi * sphere.radius**2
    assert sphere.areas.sum() * sphere.nlon == pytest.approx(area, rel=1e-14)
    assert sphere.cell_volume * sphere.size == pytest.approx(area, rel=1e-14)
    f = normals(*sphere.shape)
    torch.testing.assert_close(sphere.unweigh(sphere.weigh(f)), f)
    # The mean of cos²θ over a sphere is 1/3.
    square = torch.from_numpy(np.cos(sphere.colatitude) ** 2).unsqueeze(1).expand(sphere.shape)
    assert float(sphere.weigh(square.sqrt()).square().mean()) == pytest.approx(1 / 3, rel=1e-14)
    latitudes = sphere.coordinates()["lat"]
    assert (np.diff(latitudes) < 0).all() and latitudes[0] == pytest.approx(-latitudes[-1])


@pytest.mark.parametrize("sphere", SPHERES, ids=named)
def test_band_limited_fields_are_exact(sphere: Sphere) -> None:
    basis, y = SphereBasis(sphere), harmonics(sphere)
    a = normals(3, y.shape[1])
    x = sphere.weigh((a @ y.T).reshape(3, *sphere.shape))
    modes = basis.forward(x) * sphere.cell_volume**0.5
    torch.testing.assert_close(modes[:, basis.resolved], a, atol=1e-12, rtol=0)
    assert modes[:, ~basis.resolved].numel() == 0 or float(modes[:, ~basis.resolved].abs().max()) < 1e-12
    torch.testing.assert_close(basis.limit(x), x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (1.1, 2.0)], ids=["at the pole", "anywhere"])
@pytest.mark.parametrize("sphere", SPHERES, ids=named)
def test_heat_spreads_as_the_heat_kernel(sphere: Sphere, centre: tuple[float, float]) -> None:
    basis = SphereBasis(sphere)
    theta, phi = np.meshgrid(sphere.colatitude, sphere.longitude, indexing="ij")
    here = np.cos(theta) * np.cos(centre[0]) + np.sin(theta) * np.sin(centre[0]) * np.cos(phi - centre[1])
    degrees = np.arange(sphere.degree + 1)
    point = (2 * degrees + 1) / (4 * np.pi * sphere.radius**2)
    decay = np.exp(-0.1 * degrees * (degrees + 1) * 0.6 / sphere.radius**2)
    start, wanted = (torch.from_numpy(np.polynomial.legendre.legval(here, s)) for s in (point, point * decay))
    kernel = Heat(basis, 0.1, 1.0, clock=LinearClock(0.6)).kernel(NOW)
    spread = sphere.unweigh(basis.inverse(basis.apply(kernel.gain, basis.forward(sphere.weigh(start)))))
    torch.testing.assert_close(spread, wanted, atol=1e-11, rtol=0)


@pytest.mark.parametrize("sphere", SPHERES, ids=named)
def test_wind_turns_the_sphere_rigidly(sphere: Sphere) -> None:
    basis = SphereBasis(sphere)
    theta, phi = np.meshgrid(sphere.colatitude, sphere.longitude, indexing="ij")

    def values(turn: float) -> Tensor:
        y = special.sph_harm_y(4, 3, theta, phi - turn) + special.sph_harm_y(3, 1, theta, phi - turn + 0.4)
        return torch.from_numpy(y.real)

    wind = AdvectionDiffusion(basis, 1e-12, 1.0, 0.7, clock=LinearClock(2.0))
    assert wind.velocity == (0.0, 0.7)
    moved = basis.apply(wind.kernel(NOW).gain, basis.forward(sphere.weigh(values(0.0))))
    # The equator is carried by v·τ, the angle is that over R; 1e-12 of conduction is below the tolerance.
    torch.testing.assert_close(sphere.unweigh(basis.inverse(moved)), values(1.4 / sphere.radius), atol=1e-9, rtol=0)


@pytest.mark.parametrize("sphere", SPHERES, ids=named)
def test_finer_grids_leave_the_resolved_harmonics_alone(sphere: Sphere) -> None:
    index = [(degree, order) for degree in range(sphere.degree + 1) for order in range(-degree, degree + 1)]
    rows, columns = (torch.tensor(i) for i in zip(*index, strict=True))
    for make in (lambda b: Heat(b, 0.2, 0.3, clock=LinearClock(1.0)), lambda b: Matern(b, clock=LinearClock(1.0))):
        moments = []
        for s in (sphere, sphere.refined(2)):
            kernel = make(SphereBasis(s)).kernel(NOW)
            pair = kernel.gain, kernel.variance * s.cell_volume
            moments.append(torch.stack([p.expand(s.shape)[rows, columns % s.nlon] for p in pair]))
        torch.testing.assert_close(*moments, rtol=1e-12, atol=0)


def test_samples_are_isotropic() -> None:
    sphere = Sphere(6, 12)
    basis = SphereBasis(sphere)
    law = GaussianField.centred(basis, basis.resolved / (1 + basis.laplacian))
    path = ReferencePath(fit_clock(Heat(basis), law), law)
    n = 3000
    x = sample(GaussianDenoiser(path), n, steps=1, chunk=n)
    assert float(basis.forward(x)[..., ~basis.resolved].abs().max()) < 1e-12
    variance = sphere.unweigh(x)[:, 0].square().mean(0)
    wanted = float((law.spectrum[0] * basis.resolved).sum()) / sphere.size
    z = (variance / wanted - 1) / np.sqrt(2 / n)
    print(f"largest |z| of the variance at {sphere.size} cells: {float(z.abs().max()):.2f}")
    assert float(z.abs().max()) < 5


@pytest.mark.parametrize("cls", [VariancePreserving, Heat, Matern, AdvectionDiffusion], ids=lambda c: c.__name__)
def test_check_examines_a_process_on_a_sphere(cls: type) -> None:
    report = laws.check(cls(SphereBasis(Sphere(4, 7))))
    print(report)
    assert report.passed and all("SphereBasis" in f.case for f in report.findings)


# ---- likelihoods, on the resolved modes


@pytest.mark.parametrize("cls", [VariancePreserving, Heat, Matern, AdvectionDiffusion], ids=lambda c: c.__name__)
@pytest.mark.parametrize("sphere", SPHERES[1:], ids=named)
def test_untrained_likelihood_is_the_normal_of_the_coefficients(sphere: Sphere, cls: type) -> None:
    basis = SphereBasis(sphere)
    law = resolved_law(basis)
    path = ReferencePath(fit_clock(cls(basis), law), law, t_min=0.2)
    x = law.sample(3, torch.Generator().manual_seed(0))
    result = log_likelihood(Denoiser(Untrained(), path), x, scored="field")
    # Coefficients by least squares against scipy's harmonics; a mode is a coefficient over √v̄.
    on, scale = basis.resolved, sphere.cell_volume**0.5
    values = sphere.unweigh(x).flatten(1)
    a = torch.linalg.lstsq(harmonics(sphere), values.T).solution.T / scale
    point = path.at(0.2)
    gain = point.amplitude.expand(law.spectrum.shape)[0][on]
    variance = gain**2 * law.spectrum[0][on] + point.noise_variance[0][on]
    dense = MultivariateNormal(gain * law.mean[0][on], torch.diag(variance))
    error = float((result.log_prob - dense.log_prob(gain * a) - gain.log().sum()).abs().max()) / law.n_support
    print(f"largest error {error:.1e} nats per dimension")
    assert result.n_support == (sphere.degree + 1) ** 2 and error < 1e-8


def test_mixture_likelihood_is_the_truth() -> None:
    basis = SphereBasis(Sphere(4, 7))
    law = resolved_law(basis)
    mixture = bimodal(fit_clock(AdvectionDiffusion(basis, 0.05, 0.5), law), law, 0.1)
    y = mixture.path.at(0.1).noised(mixture.sample_modes(4, torch.Generator().manual_seed(1)), torch.Generator())
    result = log_likelihood(
        mixture, basis.inverse(y), scored="state", rtol=1e-8, atol=1e-8, terminal=lambda z: mixture.log_prob(z, 1.0)
    )
    error = float((result.log_prob - mixture.log_prob(y, 0.1)).abs().max()) / law.n_support
    print(f"error {error:.1e} nats per dimension")
    assert error < 1e-6


def test_energy_outside_is_refused_until_it_is_removed() -> None:
    basis = SphereBasis(Sphere(8, 12))
    law, x = resolved_law(basis), normals(2, 1, 8, 12)
    with pytest.raises(ValueError, match="energy outside the support"):
        law.log_prob(x)
    assert torch.isfinite(law.log_prob(basis.limit(x))).all()


def test_a_fit_finds_the_resolved_modes() -> None:
    basis = SphereBasis(Sphere(8, 16))
    x = resolved_law(basis).sample(40, torch.Generator().manual_seed(0)).float()
    fitted = GaussianField.fit(x, basis, noise_level=1e-4)
    assert torch.equal(fitted.support[0], basis.resolved)
    zonal = GaussianField.fit(x, basis, noise_level=1e-4, homogeneous=True)
    assert float(zonal.mean[0, :, 1:].abs().max()) == 0 < float(zonal.mean[0, :, 0].abs().min())


# ---- the door


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sphere(0, 4), "gauss latitudes needs nlat ≥ 1 and nlon ≥ 1; got 0 and 4"),
        (lambda: Sphere(1, 4, 1.0, "equiangular"), "equiangular latitudes needs nlat ≥ 2"),
        (lambda: Sphere(4, 8, -1.0), "positive and finite; got -1.0"),
        (lambda: Sphere(4, 8, 1.0, "healpix"), "gauss or equiangular; got 'healpix'"),  # type: ignore[arg-type]
        (lambda: SphereBasis(Sphere(4, 8)).derivative(0), "along 'lon' only"),
        (lambda: AdvectionDiffusion(SphereBasis(Sphere(4, 8)), 1.0, 1.0, (1.0, 0.0)), "must be 0 along 'lat'"),
    ],
)
def test_what_is_no_sphere_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 2), (6, 5), (5, 12)])
def test_any_shape_is_orthonormal(shape: tuple[int, int]) -> None:
    u = SphereBasis(Sphere(*shape)).dense()
    torch.testing.assert_close(u.T @ u, torch.eye(len(u), dtype=torch.float64), atol=1e-13, rtol=0)


def test_degree_500_is_orthonormal() -> None:
    from physdiff.bases.sphere import normalised_legendre

    nodes, weights = np.polynomial.legendre.leggauss(501)
    for order in (0, 1, 250, 499):
        p = normalised_legendre(nodes, order, 500)
        defect = np.abs(p.T @ (weights[:, None] * p) - np.eye(p.shape[1])).max()
        print(f"order {order}: {defect:.1e}")
        assert defect < 1e-11


def test_float32_and_refinement_keep_shape() -> None:
    sphere = Sphere(5, 8, 1.0, "equiangular")
    x = normals(2, *sphere.shape).float()
    y = SphereBasis(sphere).forward(x)
    assert y.dtype == torch.float32 and y.shape == x.shape
    fine = sphere.refined(2)
    np.testing.assert_allclose(fine.colatitude[::2], sphere.colatitude, atol=1e-15)
