"""Each physics against what is known of it from elsewhere: libraries, finite differences, closed forms, papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import fft, special
from torch import Tensor

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.clock import ExponentialClock, LinearClock, LinearRateClock
from physdiff.clock_fit import fit_clock
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving


def scalar(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def moved(process: LinearProcess, x: np.ndarray, t: float) -> np.ndarray:
    basis = process.basis
    return basis.inverse(basis.apply(process.kernel(scalar(t)).gain, basis.forward(torch.from_numpy(x)))).numpy()


# ---- heat


def test_heat_blurs_like_the_cosine_transform_kernel() -> None:
    grid, kappa, tau = Grid((9, 6), (2.0, 1.0), "neumann"), 0.3, 0.05
    x = np.random.default_rng(0).standard_normal(grid.shape)
    j, k = np.meshgrid(np.arange(9), np.arange(6), indexing="ij")
    decay = np.exp(-kappa * tau * ((np.pi * j / 2.0) ** 2 + (np.pi * k / 1.0) ** 2))
    expected = fft.idctn(decay * fft.dctn(x, norm="ortho"), norm="ortho")
    process = Heat(SpectralBasis(grid), diffusivity=kappa, clock=LinearClock(tau))
    np.testing.assert_allclose(moved(process, x, 1.0), expected, atol=1e-13)


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
def test_heat_is_the_limit_of_finite_differences(boundary: str) -> None:
    kappa, tau, errors = 0.5, 0.02, {}
    for n in (20, 40):
        grid = Grid(n, 1.0, boundary)
        s = grid.coordinate(0)
        x = start = {
            "periodic": np.exp(np.sin(2 * np.pi * s)),
            "neumann": np.exp(np.cos(np.pi * s)),
            "dirichlet": np.sin(np.pi * s) * np.exp(np.cos(np.pi * s)),
        }[boundary]
        steps = math.ceil(tau * kappa * n**2 / 0.1)
        for _ in range(steps):
            ghosts = {"periodic": (x[-1], x[0]), "neumann": (x[0], x[-1]), "dirichlet": (-x[0], -x[-1])}[boundary]
            wide = np.concatenate([[ghosts[0]], x, [ghosts[1]]])
            x = x + tau / steps * kappa * (wide[2:] - 2 * wide[1:-1] + wide[:-2]) * n**2
        process = Heat(SpectralBasis(grid), diffusivity=kappa, clock=LinearClock(tau))
        errors[n] = float(np.abs(moved(process, start, 1.0) - x).max())
    slope = math.log2(errors[20] / errors[40])
    print(f"{boundary}: errors {errors}, slope {slope:.3f}")
    assert abs(slope - 2) < 0.15 and errors[40] < 2e-3


def test_heat_reaches_its_balance_and_its_mean_never_does() -> None:
    length, kappa, sigma, n = 3.0, 0.4, 0.7, 512
    grid = Grid(n, length)
    process = Heat(SpectralBasis(grid), kappa, sigma, clock=LinearClock(50.0))
    variance = process.kernel(scalar(1.0)).variance
    # Σ over waves of the stationary variance is σ²L/(24κ) in the continuum; the grid lacks waves beyond n/2.
    lacking = sigma**2 * length / (2 * kappa * 4 * math.pi**2) * 2 * float(special.zeta(2, n // 2))
    point = float(variance[1:].sum()) / n
    print(f"variance of a point {point:.6f}, continuum {sigma**2 * length / (24 * kappa):.6f}, lacking {lacking:.1e}")
    assert point == pytest.approx(sigma**2 * length / (24 * kappa) - lacking, abs=0.01 * lacking)
    # The mean over the box does a random walk: variance σ²τ/L of the box's mean.
    assert float(variance[0]) / n == pytest.approx(sigma**2 * 50.0 / length)


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
def test_default_heat_noise_balances_at_unit_variance(boundary: str) -> None:
    grid = Grid((6, 5), (2.0, 1.0), boundary)
    process = Heat(SpectralBasis(grid), diffusivity=0.2, clock=LinearClock(200.0))
    variance = process.kernel(scalar(1.0)).variance
    waves = process.basis.laplacian > 0
    assert float(variance[waves].sum()) / grid.size == pytest.approx(1.0, rel=1e-9)


# ---- variance preserving


def test_variance_preserving_has_the_published_constants() -> None:
    process = VariancePreserving(IdentityBasis(Grid(4)), clock=LinearRateClock(0.1, 20.0))
    kernel = process.kernel(scalar(1.0))
    # Song et al. (2021), eq. 33: mean exp(−¼t²(β₁ − β₀) − ½tβ₀), variance 1 − exp(−½t²(β₁ − β₀) − tβ₀).
    assert float(kernel.gain.max()) == pytest.approx(math.exp(-5.025), rel=1e-12)
    assert float(kernel.variance.min()) == pytest.approx(1 - math.exp(-10.05), rel=1e-12)
    for t in (0.1, 0.5):
        kernel = process.kernel(scalar(t))
        assert float(kernel.gain.max()) == pytest.approx(math.exp(-0.25 * t**2 * 19.9 - 0.05 * t), rel=1e-12)
        assert float((kernel.gain**2 + kernel.variance).max()) == pytest.approx(1.0, rel=1e-12)


# ---- Matérn


@pytest.mark.parametrize(("nu", "shape"), [(0.5, (2048,)), (1.5, (256,)), (1.0, (96, 96))])
def test_matern_ends_in_the_bessel_covariance(nu: float, shape: tuple[int, ...]) -> None:
    ell, sigma, extent = 1.0, 1.3, 16.0
    grid = Grid(shape, extent)
    process = Matern(SpectralBasis(grid), ell, nu, sigma, clock=LinearClock(30.0))
    variance = process.kernel(scalar(1.0)).variance
    spike = torch.zeros(shape, dtype=torch.float64)
    spike[(0,) * len(shape)] = 1.0
    covariance = process.basis.inverse(variance * process.basis.forward(spike)).numpy()
    row = covariance.reshape(shape[0], -1)[:, 0][: shape[0] // 4]
    r = np.sqrt(2 * nu) * np.maximum(np.arange(len(row)) * grid.spacing[0], 1e-12) / ell
    expected = sigma**2 * 2 ** (1 - nu) / special.gamma(nu) * r**nu * special.kv(nu, r)
    error = float(np.abs(row - expected).max())
    # What is missing are the waves beyond the grid's: of the variance, about (π n ℓ/(L√(2ν)))^{−2ν}.
    cut = math.pi * shape[0] / extent / math.sqrt(2 * nu)
    print(f"ν = {nu}: error {error:.1e}, share of waves beyond the grid {cut ** (-2 * nu):.1e}")
    assert error < sigma**2 * 1.5 * cut ** (-2 * nu)


def test_matern_rates_leave_the_end_alone() -> None:
    basis = SpectralBasis(Grid(12, 2.0, "neumann"))
    ends = [
        Matern(basis, 0.3, roughness_rate=p, clock=LinearClock(60.0)).kernel(scalar(1.0)).variance
        for p in (0.0, 0.5, 2.0)
    ]
    torch.testing.assert_close(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2])
    first = Matern(basis, 0.3, smoothness=2.0, roughness_rate=0.0).drift_symbol(scalar(0.0))
    torch.testing.assert_close(first, -torch.ones_like(first))  # p = 0 relaxes all modes alike, at rate one


# ---- advection-diffusion


def test_wind_carries_a_bump_with_its_speed_and_direction() -> None:
    grid, kappa, tau, wind = Grid((48, 64), (6.0, 8.0)), 0.02, 1.5, (0.8, -0.6)
    x, y = np.meshgrid(grid.coordinate(0), grid.coordinate(1), indexing="ij")

    def bump(cx: float, cy: float, square: float) -> np.ndarray:
        return 0.16 / square * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * square))

    process = AdvectionDiffusion(SpectralBasis(grid), kappa, 0.1, wind, clock=LinearClock(tau))
    after = moved(process, bump(2.4, 4.4, 0.16), 1.0)
    expected = bump(2.4 + 0.8 * tau, 4.4 - 0.6 * tau, 0.16 + 2 * kappa * tau)
    error = float(np.abs(after - expected).max())
    # The bump's image beyond the box, 2.4 away: 0.73·exp(−2.4²/0.44) = 1.5e-6; measured 7.5e-7.
    print(f"error of the moved bump {error:.1e}")
    assert error < 2.2e-6


def test_wind_leaves_amplitudes_to_heat() -> None:
    basis = SpectralBasis(Grid((4, 5), 1.0, ("periodic", "neumann")))
    windy, still = AdvectionDiffusion(basis, 0.3, 0.2, 2.0), Heat(basis, 0.3, 0.2)
    assert windy.velocity == (2.0, 0.0)
    tau, zero = scalar(0.1), scalar(0.0)
    torch.testing.assert_close(windy.log_gain(tau, zero).real, still.log_gain(tau, zero))
    torch.testing.assert_close(windy.variance(tau, zero), still.variance(tau, zero))


# ---- clocks and doors


@pytest.mark.parametrize(
    "clock", [LinearClock(3.0), ExponentialClock(5.0, 1e-6), LinearRateClock(0.1, 20.0), LinearRateClock(2.0, 2.0)]
)
def test_clocks_invert_and_know_their_rate(clock: LinearClock) -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64).requires_grad_()
    (rate,) = torch.autograd.grad(clock.time(t).sum(), t)
    torch.testing.assert_close(clock.rate(t.detach()), rate)
    torch.testing.assert_close(clock.inverse(clock.time(t.detach())), t.detach(), rtol=1e-9, atol=1e-12)
    assert float(clock.time(scalar(0.0))) == 0.0


def test_fitted_clock_forgets_what_it_says() -> None:
    reference = smooth_reference(SpectralBasis(Grid((4, 5))))
    for cls in (VariancePreserving, Heat, Matern, AdvectionDiffusion):
        process = fit_clock(cls(reference.basis), reference)
        kernel = process.kernel(scalar(1.0))
        clean = kernel.gain.abs().square() * reference.spectrum
        remembered = float((clean / (clean + kernel.variance)).max())
        assert 0.019 < remembered <= 0.02, cls


def test_settings_are_refused_at_the_door() -> None:
    basis = SpectralBasis(Grid((4, 4), 1.0, ("periodic", "neumann")))
    for make, words in (
        (lambda: Heat(basis, diffusivity=-1.0), "Heat needs a positive, finite 'diffusivity'; got -1.0"),
        (lambda: Heat(basis, noise_level=0.0), "'noise_level'; got 0.0"),
        (lambda: Matern(basis, smoothness=math.inf), "'smoothness'; got inf"),
        (lambda: Matern(basis, roughness_rate=-0.5), "'roughness_rate' ≥ 0; got -0.5"),
        (lambda: AdvectionDiffusion(basis, velocity=(1.0, 1.0)), "'velocity' must be 0 along 'y'"),
        (lambda: AdvectionDiffusion(basis, velocity=(1.0,)), "needs 2 values of 'velocity'"),
        (lambda: LinearClock(0.0), "'duration'; got 0.0"),
        (lambda: VariancePreserving(basis).kernel(scalar(0.5)), "VariancePreserving has no clock yet"),
        (lambda: Heat(IdentityBasis(Grid(4))), "needs SpectralBasis"),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert words in str(error.value)


def test_noise_that_never_comes_has_no_clock() -> None:
    basis = SpectralBasis(Grid(4))
    process = Heat(basis, noise_level=1e-20)
    with pytest.raises(ValueError, match="Heat never forgets the data: no clock can be chosen"):
        fit_clock(process, GaussianField.white(basis))
