"""Linear physics against solutions that their files do not contain: scipy's transforms, dense matrices, the papers."""

import math

import numpy as np
import pytest
import scipy.fft
import torch

from physdiff.basis import SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.path import ReferencePath
from physdiff.processes.blurring import Blurring
from physdiff.processes.fractional_heat import FractionalHeat
from physdiff.processes.heat import Heat
from physdiff.processes.heat_dissipation import HeatDissipation
from physdiff.processes.reaction_diffusion import ReactionDiffusion
from physdiff.solvers import Ancestral, Heun, ReferenceSplitting, sample

WALLS = SpectralBasis(Grid((6, 5), (3.0, 2.5), "neumann"))  # cells of side ½
ONE = torch.tensor(1.0, dtype=torch.float64)


def field() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 5))


def blurred(x: np.ndarray, width: float) -> np.ndarray:
    """Gaussian blur of standard deviation `width` (length) between insulated walls, by scipy."""
    frequency = np.pi * (np.arange(6)[:, None] ** 2 / 3.0**2 + np.arange(5) ** 2 / 2.5**2) ** 0.5
    return scipy.fft.idctn(np.exp(-0.5 * (width * frequency) ** 2) * scipy.fft.dctn(x, norm="ortho"), norm="ortho")


def moved(process: object, x: np.ndarray) -> np.ndarray:
    """The mean of x_t at t = 1."""
    kernel = process.kernel(ONE)  # type: ignore[attr-defined]
    return WALLS.inverse(WALLS.apply(kernel.gain, WALLS.forward(torch.from_numpy(x)))).numpy()


def test_heat_dissipation_blurs_by_the_root_of_its_time_and_keeps_its_noise() -> None:
    process = HeatDissipation(WALLS, noise_level=0.02, clock=LinearClock(0.7**2))
    np.testing.assert_allclose(moved(process, field()), blurred(field(), 0.7), atol=1e-13)
    for t in (1e-9, 0.3, 1.0):
        variance = process.kernel(torch.tensor(t, dtype=torch.float64)).variance
        torch.testing.assert_close(variance, torch.full((6, 5), 0.02**2, dtype=torch.float64))
    assert float(process.noise_variance(torch.zeros(()).double()).max()) == 0  # τ = 0 is the clean field


def test_heat_dissipation_states_what_its_end_remembers() -> None:
    """The mean mode keeps its signal: ½ log(1 + c₀/σ²) nats, and nearly nothing else is left."""
    reference = GaussianField.matern(WALLS, 0.8)
    path = ReferencePath(fit_clock(HeatDissipation(WALLS), reference), reference)
    mean_alone = 0.5 * math.log1p(float(reference.spectrum[0, 0, 0]) / 0.05**2)
    assert mean_alone < path.terminal_mismatch
    left = path.at(1.0).clean_variance[0] / reference.spectrum[0]
    assert float(left.flatten()[1:].max()) < 0.021 and float(left[0, 0]) == 1.0


@pytest.mark.parametrize("solver", [ReferenceSplitting(), Heun(), Ancestral()], ids=lambda s: type(s).__name__)
def test_samples_of_heat_dissipation_are_clean(solver: object) -> None:
    """Its states always carry noise σ; samples do not: their spectrum is the data's, to 5 standard errors."""
    reference = GaussianField.matern(WALLS, 0.8)
    process = fit_clock(HeatDissipation(WALLS, noise_level=0.3), reference)
    path = ReferencePath(process, reference)
    n = 2000
    drawn = sample(GaussianDenoiser(path), n, solver=solver, steps=64, chunk=n)  # type: ignore[arg-type]
    z = (GaussianField.fit(drawn, WALLS).spectrum / reference.spectrum - 1) * math.sqrt(n / 2)
    # Heun's own error at 64 steps is up to 1 % of a variance, 0.3 standard errors.
    print(f"largest |z| {float(z.abs().max()):.2f}")
    assert float(z.abs().max()) < 5


def test_blurring_has_the_papers_marginals() -> None:
    """α = cos(πt/2), σ = sin(πt/2), d = (1 − d_min) exp(−λ σ_B²/2) + d_min, σ_B = w sin²(πt/2)."""
    t, width, least = 0.4, 0.9, 1e-3
    alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    process = Blurring(WALLS, blur_width=width, least_signal=least, clock=LinearClock(sigma / alpha))
    x = field()
    expected = alpha * ((1 - least) * blurred(x, width * sigma**2) + least * x)
    np.testing.assert_allclose(moved(process, x), expected, atol=1e-13)
    torch.testing.assert_close(process.kernel(ONE).variance.max(), torch.tensor(sigma**2, dtype=torch.float64))


def test_fractional_heat_is_the_matrix_power() -> None:
    process = FractionalHeat(WALLS, diffusivity=0.3, power=1.5, noise_level=0.4, clock=LinearClock(0.2))
    u = WALLS.dense().numpy()
    laplacian = u @ np.diag(WALLS.laplacian.flatten().numpy()) @ u.T
    values, vectors = np.linalg.eigh(laplacian)
    propagator = vectors @ np.diag(np.exp(-0.3 * 0.2 * np.maximum(values, 0) ** 1.5)) @ vectors.T
    np.testing.assert_allclose(moved(process, field()).ravel(), propagator @ field().ravel(), atol=1e-12)


def test_fractional_heat_of_power_one_is_heat() -> None:
    heat, fractional = (
        cls(WALLS, diffusivity=0.3, clock=LinearClock(0.2), **extra)
        for cls, extra in ((Heat, {}), (FractionalHeat, {"power": 1.0}))
    )
    for name in ("gain", "variance"):
        torch.testing.assert_close(getattr(heat.kernel(ONE), name), getattr(fractional.kernel(ONE), name))


def test_reaction_diffusion_relaxes_waves_at_the_polynomial() -> None:
    """The wave cos(πx/3) cos(2πy/2.5) decays at p(λ), λ = (π/3)² + (2π/2.5)²."""
    process = ReactionDiffusion(WALLS, (0.5, -0.1, 0.02), clock=LinearClock(0.3))
    wave = np.cos(math.pi * (np.arange(6) + 0.5) / 6)[:, None] * np.cos(2 * math.pi * (np.arange(5) + 0.5) / 5)
    eigenvalue = (math.pi / 3) ** 2 + (2 * math.pi / 2.5) ** 2
    rate = 0.5 - 0.1 * eigenvalue + 0.02 * eigenvalue**2
    np.testing.assert_allclose(moved(process, wave), math.exp(-0.3 * rate) * wave, atol=1e-13)


def test_reaction_diffusion_refuses_growth() -> None:
    with pytest.raises(ValueError, match="let a mode grow at the rate"):
        ReactionDiffusion(WALLS, (0.5, -1.0))
