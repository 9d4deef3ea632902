"""Isotropic and coloured processes against formulas that their files do not contain."""

import math

import pytest
import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.clock import ExponentialClock, InterpolantClock, LinearClock, LinearRateClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.likelihood import log_likelihood
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.coloured_variance_preserving import ColouredVariancePreserving
from physdiff.processes.edm import EDM
from physdiff.processes.rectified_flow import RectifiedFlow
from physdiff.processes.sub_variance_preserving import SubVariancePreserving
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.processes.variance_preserving import VariancePreserving

BASIS = SpectralBasis(Grid(6))
T = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)


def moments(process: LinearProcess) -> tuple[Tensor, Tensor]:
    """m and S at T, shape (3,)."""
    kernel = process.kernel(T)
    return (x.expand(3, 1, 6)[:, 0, 0] for x in (kernel.gain, kernel.variance))  # type: ignore[return-value]


def test_sub_variance_preserving_has_songs_marginals() -> None:
    gain, variance = moments(SubVariancePreserving(BASIS, clock=LinearRateClock(0.1, 20.0)))
    beta = [0.1 * t + 9.95 * t * t for t in T.tolist()]
    torch.testing.assert_close(gain, torch.tensor([math.exp(-b / 2) for b in beta], dtype=torch.float64))
    expected = [(1 - math.exp(-b)) ** 2 for b in beta]
    torch.testing.assert_close(variance, torch.tensor(expected, dtype=torch.float64))


def test_variance_exploding_has_the_variance_since_the_start() -> None:
    gain, variance = moments(VarianceExploding(BASIS, clock=ExponentialClock(2500 - 1e-4, 1e-4)))
    torch.testing.assert_close(gain, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(variance, (0.01 * 5000**T) ** 2 - 1e-4)


def test_edm_has_the_noise_level_for_a_time() -> None:
    gain, variance = moments(EDM(BASIS, clock=LinearClock(80.0)))
    torch.testing.assert_close(gain, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(variance.sqrt(), 80 * T)


def test_rectified_flow_is_the_straight_line() -> None:
    gain, variance = moments(RectifiedFlow(BASIS, clock=InterpolantClock(0.9)))
    torch.testing.assert_close(gain, 1 - 0.9 * T)
    torch.testing.assert_close(variance.sqrt(), 0.9 * T)


def test_data_spectrum_gives_every_mode_the_same_signal_to_noise() -> None:
    reference = GaussianField.matern(BASIS, 0.2)
    process = fit_clock(ColouredVariancePreserving(BASIS, spectrum="data"), reference)
    point = ReferencePath(process, reference).at(0.4)
    ratio = point.noise_variance / point.clean_variance
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-12, atol=0)
    # |m|²c/V = 2 % at t = 1 in all modes: e^{−τ} = 0.02.
    assert process.running_clock.end == pytest.approx(-math.log(0.02), rel=0.02)


@pytest.mark.parametrize("spectrum", ["matern", "power_law"])
def test_coloured_noise_is_trace_class(spectrum: str) -> None:
    """Variance per point converges as the grid is refined; each cell of white noise keeps its own."""

    def end(cells: int) -> float:
        basis = SpectralBasis(Grid((cells, cells)))
        process = ColouredVariancePreserving(basis, spectrum=spectrum, smoothness=1.0, exponent=4.0)
        return float(process.terminal_spectrum.mean())

    # Tails beyond the grid are N^{-2}: each refinement changes the variance four times less than the one before.
    steps = [end(16), end(32), end(64)]
    assert abs(steps[2] - steps[1]) < 0.35 * abs(steps[1] - steps[0]) + 1e-12


def test_spectra_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'matern'"):
        ColouredVariancePreserving(BASIS, spectrum="matrn")
    with pytest.raises(ValueError, match=r"must end in the grid's shape \(6,\)"):
        ColouredVariancePreserving(BASIS, spectrum=torch.ones(5))
    with pytest.raises(ValueError, match=r"needs the data: use physdiff.fit_clock"):
        ColouredVariancePreserving(BASIS, spectrum="data").noise_spectrum(torch.tensor(0.0))


@pytest.mark.parametrize("pair", [(EDM, RectifiedFlow), (VarianceExploding, VariancePreserving)])
def test_equal_noise_over_signal_is_the_same_diffusion(pair: tuple[type, type]) -> None:
    """Processes that differ by a scale and a clock give a field the same log-density at equal σ/m.

    The density of y at t_min scales by m; the field's own, `scored="field"`, does not.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1, 6)
    means, spectra = (torch.randn(shape, generator=generator, dtype=torch.float64), torch.full(shape, 0.2))
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    found = []
    for cls in pair:
        long = cls(BASIS, clock=ExponentialClock(1e4 if cls in (EDM, RectifiedFlow, VarianceExploding) else 12.0, 1e-3))
        start = {EDM: 0.1, RectifiedFlow: 0.1, VarianceExploding: 0.01, VariancePreserving: math.log1p(0.01)}[cls]
        t_min = float(long.running_clock.inverse(torch.tensor(start, dtype=torch.float64)))
        law = MixtureDenoiser.around_itself(long, weights, means, spectra.double(), t_min)
        x = BASIS.inverse(law.means[:2])
        found.append(log_likelihood(law, x, rtol=1e-8, atol=1e-8, terminal=lambda y, law=law: law.log_prob(y, 1.0)))
    torch.testing.assert_close(found[0].log_prob, found[1].log_prob, rtol=0, atol=1e-5)
