"""The Gaussian field against dense multivariate normals; fitting; what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from physdiff.basis import Basis, IdentityBasis, SpectralBasis
from physdiff.clock import LinearClock
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.processes.advection_diffusion import AdvectionDiffusion

GRIDS = [
    Grid(7, 2.0),
    Grid((4, 3), 1.0, ("dirichlet", "periodic")),
    Grid((2, 3, 2), 1.0, ("neumann", "periodic", "periodic")),
]


def dense(law: GaussianField) -> MultivariateNormal:
    """The law of one channel as a dense normal on the cells."""
    u = law.basis.dense()
    return MultivariateNormal(law.basis.inverse(law.mean)[0].flatten(), u @ torch.diag(law.spectrum[0].flatten()) @ u.T)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: str(g.shape))
def test_density_and_divergence_are_those_of_the_dense_normal(grid: Grid) -> None:
    law = smooth_reference(SpectralBasis(grid))
    other = GaussianField(law.basis, 0.2 - law.mean, law.basis.symmetrise(law.spectrum * (1 + 0.5 * law.spectrum)))
    x = law.basis.inverse(law.mean + normals(5, 1, *grid.shape))
    # Rounding of the dense Cholesky factor, measured 4e-13.
    torch.testing.assert_close(law.log_prob(x), dense(law).log_prob(x.flatten(1)), rtol=0, atol=1e-11)
    assert law.kl(other) == pytest.approx(float(kl_divergence(dense(law), dense(other))), abs=1e-10)


def test_samples_have_the_mean_and_the_covariance() -> None:
    n, law = 20_000, smooth_reference(SpectralBasis(GRIDS[1]))
    x = law.sample(n, torch.Generator().manual_seed(1)).flatten(1)
    truth = dense(law)
    covariance, scatter = truth.covariance_matrix, torch.cov(x.T)
    root = covariance.diagonal().sqrt()
    error = (covariance.square() + torch.outer(root, root).square()).div(n).sqrt()
    z = ((scatter - covariance) / error).abs().max(), ((x.mean(0) - truth.mean) / root * math.sqrt(n)).abs().max()
    print(f"largest |z| of {n} samples: covariance {z[0]:.2f}, mean {z[1]:.2f}")
    assert z[0] < 5 and z[1] < 5


def test_fit_recovers_mean_and_spectrum_tied_over_orbits() -> None:
    n, law = 4000, smooth_reference(SpectralBasis(Grid((4, 5))))
    fit = GaussianField.fit(law.sample(n, torch.Generator().manual_seed(2)), law.basis)
    assert torch.equal(fit.spectrum, law.basis.reflect(fit.spectrum))
    pairs = torch.where(law.basis.self_conjugate, 1, 2)
    z = (fit.spectrum / law.spectrum - 1) * (n * pairs / 2).sqrt()
    mean = (fit.mean - law.mean) / (law.spectrum / n).sqrt()
    print(f"largest |z|: spectrum {z.abs().max():.2f}, mean {mean.abs().max():.2f}")
    assert float(z.abs().max()) < 5 and float(mean.abs().max()) < 5


def test_homogeneous_fit_has_one_mean_along_periodic_axes() -> None:
    law = smooth_reference(SpectralBasis(Grid((4, 5), 1.0, ("periodic", "neumann"))))
    x = law.sample(200, torch.Generator().manual_seed(5))
    fit = GaussianField.fit(x, law.basis, homogeneous=True)
    over_all = x.mean((0, 1, 2))
    torch.testing.assert_close(law.basis.inverse(fit.mean)[0], over_all.expand(4, 5))
    # What the mean leaves is in the spectrum; a mean that is known to vanish costs no degree of freedom.
    modes = law.basis.forward(x - over_all).square().sum(0)
    alive_along_x = torch.zeros(4, 5, dtype=torch.bool)
    alive_along_x[1:] = True
    torch.testing.assert_close(fit.spectrum[0][alive_along_x].sum(), modes[0][alive_along_x].sum() / 200)
    torch.testing.assert_close(fit.spectrum[0][~alive_along_x].sum(), modes[0][~alive_along_x].sum() / 199)


def test_homogeneous_fit_needs_waves() -> None:
    with pytest.raises(ValueError, match="identity basis has no waves"):
        GaussianField.fit(torch.randn(4, 1, 4, generator=torch.Generator()), IdentityBasis(Grid(4)), homogeneous=True)


def test_carried_law_is_the_dense_one() -> None:
    law = smooth_reference(SpectralBasis(Grid((4, 3))))
    process = AdvectionDiffusion(law.basis, diffusivity=0.01, clock=LinearClock(0.7))
    kernel = process.kernel(torch.tensor(0.6, dtype=torch.float64))
    eye = torch.eye(12, dtype=torch.float64).reshape(12, 1, 4, 3)
    move = law.basis.inverse(law.basis.apply(kernel.gain, law.basis.forward(eye))).flatten(1).T
    u, before, after = law.basis.dense(), dense(law), dense(law.at(process, 0.6))
    noise = u @ torch.diag(kernel.variance.expand(4, 3).flatten()) @ u.T
    torch.testing.assert_close(after.mean, move @ before.mean)
    torch.testing.assert_close(after.covariance_matrix, move @ before.covariance_matrix @ move.T + noise)


def test_support_leaves_out_dead_modes() -> None:
    basis: Basis = SpectralBasis(Grid((6, 5)))
    law = GaussianField.power_law(basis, 2.0, standard_deviation=3.0)
    assert law.n_support == 29 and float(law.spectrum.sum()) == pytest.approx(9.0 * 30)
    x = law.sample(4, torch.Generator().manual_seed(0))
    fit = GaussianField.fit(law.sample(50, torch.Generator().manual_seed(1)).float(), basis)
    assert fit.n_support == 29
    live = law.spectrum.flatten() > 0
    coordinates = (basis.dense().T @ x.flatten(1).T).T[:, live]
    within = MultivariateNormal(torch.zeros(29, dtype=torch.float64), torch.diag(law.spectrum.flatten()[live]))
    torch.testing.assert_close(law.log_prob(x), within.log_prob(coordinates))
    assert law.kl(GaussianField.white(basis)) == math.inf
    with pytest.raises(ValueError, match="outside the support"):
        law.log_prob(x + 0.1)
    with pytest.raises(ValueError, match="outside the support"):
        law.log_prob(x + 1e-6)


def test_noise_level_is_a_floor() -> None:
    basis = SpectralBasis(Grid(8))
    law = smooth_reference(basis)
    x = law.sample(500, torch.Generator().manual_seed(3))
    level = float(law.spectrum.sqrt().median())
    fit = GaussianField.fit(x, basis, noise_level=level)
    assert torch.equal(fit.support, GaussianField.fit(x, basis).spectrum > level**2)
    assert 0 < fit.n_support < 8


def test_white_field_is_white() -> None:
    law = GaussianField.white(SpectralBasis(Grid(5)), channels=2, standard_deviation=2.0)
    x = normals(3, 2, 5)
    expected = torch.distributions.Normal(0.0, 2.0).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(law.log_prob(x), expected)


def test_what_is_refused() -> None:
    basis = SpectralBasis(Grid(6))
    ones = torch.ones(1, 6, dtype=torch.float64)
    lopsided = ones.clone()
    lopsided[0, 1] = 2.0
    for mean, spectrum, words in (
        (ones, torch.ones(1, 5), "must have the shape"),
        (ones, -ones, "finite and ≥ 0"),
        (ones, ones * math.nan, "finite and ≥ 0"),
        (ones, lopsided, "equal at k and −k"),
    ):
        with pytest.raises(ValueError, match=words):
            GaussianField(basis, mean, spectrum)
    with pytest.raises(ValueError, match="at least 2 fields; got 1"):
        GaussianField.fit(torch.ones(1, 1, 6), basis)
    with pytest.raises(ValueError, match=r"\(n, channels, 6\); got \(3, 6\)"):
        GaussianField.fit(torch.ones(3, 6), basis)
    with pytest.raises(ValueError, match="does not vary"):
        GaussianField.fit(torch.ones(3, 1, 6), basis)
    x = np.zeros((2, 1, 6))
    x[1, 0, 4] = np.nan
    with pytest.raises(ValueError, match=r"1 values that are not finite, the first at index \(1, 0, 4\)"):
        GaussianField(basis, ones, ones).log_prob(torch.from_numpy(x))


@pytest.mark.parametrize("homogeneous", [False, True])
def test_law_from_moments_is_that_of_the_fields(homogeneous: bool) -> None:
    """Moments of 40 fields by numpy, about a mean far from 0; the variance by hand in a mode of each sort."""
    law = smooth_reference(SpectralBasis(Grid((4, 5), 1.0, ("periodic", "neumann"))))
    x, basis = law.sample(40, torch.Generator().manual_seed(6)) + 3, law.basis
    modes = basis.forward(x).numpy()
    mean, power = torch.from_numpy(modes.mean(0)), torch.from_numpy(modes.var(0))
    found = GaussianField.from_moments(basis, mean, power, 40, 0.01, homogeneous, torch.tensor([1e-6]).double())
    fit = GaussianField.fit(x, basis, 0.01, homogeneous, torch.tensor([1e-6]).double())
    for name in ("mean", "spectrum", "floor"):
        torch.testing.assert_close(getattr(found, name), getattr(fit, name), rtol=1e-12, atol=1e-12)
    assert torch.equal(found.support, fit.support)
    # Mode (2, 1) is its own partner. Where its mean is known to be 0, the sum is about 0 and costs no freedom.
    own = modes[:, 0, 2, 1]
    by_hand = np.square(own).mean() if homogeneous else own.var(ddof=1)
    assert float(found.spectrum[0, 2, 1]) == pytest.approx(by_hand, rel=1e-12)
    with pytest.raises(ValueError, match="at least 2 fields; got 1"):
        GaussianField.from_moments(basis, mean, power, 1)
