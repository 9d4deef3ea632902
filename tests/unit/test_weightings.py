"""Weightings against the published formulas, against each other, and against the bound that some of them are."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.bounds.terms import transition
from physdiff.clock import KarrasClock, LinearRateClock
from physdiff.clock_fit import fit_clock
from physdiff.condition import Given
from physdiff.denoisers import Denoiser
from physdiff.denoisers.prediction import PREDICTIONS, Epsilon, Prediction, Residual, Velocity
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import process_cases, smooth_reference
from physdiff.objectives import DenoisingLoss, Weighting, weightings
from physdiff.objectives.denoising import expected_by_wiener
from physdiff.objectives.weighting import EDM, SNR, Elbo, Likelihood, MinSNR, ModeLikelihood, Simple
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes import edm
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.coloured_variance_preserving import ColouredVariancePreserving
from physdiff.processes.heat import Heat
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.registry import processes

CELLS = IdentityBasis(Grid(6))
PLANE = SpectralBasis(Grid((4, 3), (1.0, 1.5), ("periodic", "neumann")))
EVERY: list[Weighting] = [one for cls in weightings.classes().values() for one in cls.examples()]


class Silent(nn.Module):
    def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        return torch.zeros_like(x)


def times(*t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def weight(weighting: Weighting, path: ReferencePath, t: Tensor, asked: Prediction | None = None) -> Tensor:
    """w_k at given times, shape (times, channels, *grid)."""
    point = path.at(t)
    log = weighting.log_weight(point, t, (asked or Residual(1.0)).rows(point, t))
    return log.exp().expand(len(t), *path.reference.spectrum.shape)


def preserving() -> ReferencePath:
    return ReferencePath(VariancePreserving(CELLS, clock=LinearRateClock()), GaussianField.white(CELLS), 1e-3)


def carried(process: LinearProcess) -> ReferencePath:
    reference = smooth_reference(process.basis)
    return ReferencePath(fit_clock(process, reference), reference)


def test_published_formulas_of_variance_preserving() -> None:
    path, t = preserving(), times(0.05, 0.4, 0.95)
    beta = (0.1 + 19.9 * t).reshape(3, 1, 1)
    bar = torch.exp(-(0.1 * t + 0.5 * 19.9 * t * t)).reshape(3, 1, 1)
    snr = bar / (1 - bar)
    wanted = {
        SNR(): snr,
        MinSNR(): snr.clamp(max=5.0),
        MinSNR(0.1): snr.clamp(max=0.1),
        EDM(): 1 + snr,
        Likelihood(): 0.5 * beta * bar / (1 - bar) ** 2,  # g² = β, |error of the score|² = m²/S² |D − x0|²
    }
    for weighting, expected in wanted.items():
        found = weight(weighting, path, t)
        torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-11, atol=0)
    assert float(snr[0]) > 5 > float(snr[1]) > 0.1 > float(snr[2])  # both sides of the ceilings


def test_published_formula_of_edm() -> None:
    sigma_data = 0.5
    law = GaussianField.white(CELLS, standard_deviation=sigma_data)
    path = ReferencePath(edm.EDM(CELLS, clock=KarrasClock()), law, 1e-3)
    t = times(0.1, 0.5, 1.0)
    sigma = path.process.physical_time(t)
    expected = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2  # Karras et al. (2022), section 5
    found = weight(EDM(), path, t)
    torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-12, atol=0)


def test_mode_likelihood_is_the_rate_at_which_signal_to_noise_falls_under_every_process() -> None:
    """w = −½ dSNR/dt, by central differences of log SNR: G = dS/dτ − 2FS has no other statement in the weighting."""
    worst = 0.0
    for cls in processes.classes(LinearProcess).values():
        cases = process_cases(cls, [SpectralBasis(Grid(6, 2.0)), SpectralBasis(Grid((3, 4), 1.0))])
        for case in (case for case in cases if not case.unfit):
            path = case.path
            t = times(1.01 * path.t_min, 0.3, 0.6, 0.99)
            h = 1e-5 * t  # log SNR falls as log t at first
            ahead, here, behind = (path.at(at) for at in (t + h, t, t - h))
            logs = [2 * p.log_gain.real - p.noise_variance.log() for p in (ahead, here, behind)]
            slope = (logs[0] - logs[2]) / (2 * h).reshape(-1, *[1] * path.reference.spectrum.ndim)
            found = torch.exp(ModeLikelihood().log_weight(here, t, Residual().rows(here, t)) - logs[1])
            wanted = -0.5 * slope  # per unit of SNR; 0 in a mode that never forgets
            known = here.log_gain.real > -299  # what is weaker counts as if it were not
            error = float(torch.where(known, (found - wanted).abs() / (found + 1e-6), 0.0).max())
            worst = max(worst, error)
            assert error < 3e-6, f"{case}: {error}"


def test_which_weightings_coincide() -> None:
    t = times(0.1, 0.4, 0.9)
    white = preserving()
    torch.testing.assert_close(weight(Likelihood(), white, t), weight(ModeLikelihood(), white, t), rtol=1e-12, atol=0)
    heat = carried(AdvectionDiffusion(PLANE, 0.02, 0.4, (0.3, 0.0)))
    torch.testing.assert_close(weight(Elbo(), heat, t), weight(ModeLikelihood(), heat, t), rtol=0, atol=0)
    torch.testing.assert_close(weight(Simple(), heat, t, Velocity()), weight(EDM(), heat, t), rtol=1e-11, atol=0)
    torch.testing.assert_close(weight(Simple(), heat, t, Epsilon()), weight(SNR(), heat, t), rtol=1e-11, atol=0)
    torch.testing.assert_close(weight(MinSNR(1e30), heat, t), weight(SNR(), heat, t), rtol=0, atol=0)
    coloured = carried(ColouredVariancePreserving(PLANE))
    ratio = weight(Likelihood(), coloured, t) / weight(ModeLikelihood(), coloured, t)
    rate = coloured.process.noise_spectrum(t[0])
    torch.testing.assert_close(ratio, (rate.mean() / rate).expand_as(ratio), rtol=1e-11, atol=0)
    assert float(ratio.max() / ratio.min()) > 3


@pytest.mark.parametrize("variance", ["posterior", "upper", "reference"])
def test_elbo_of_a_chain_is_what_an_error_costs_its_bound(variance: str) -> None:
    """∂KL/∂e² of `physdiff.bounds`, times K."""
    steps = 8
    path = carried(AdvectionDiffusion(PLANE, 0.02, 0.4, (0.3, 0.0)))
    for j in (1, 2, 5, 8):
        t = times(j / steps)
        here, there = path.at(t), path.at(t - 1 / steps if j > 1 else times(0.0))
        missed = torch.ones(1, *path.reference.spectrum.shape, dtype=torch.float64, requires_grad=True)
        unknown = here.posterior_variance
        transition(path, here, there, variance).cost(unknown, missed).sum().backward()
        assert missed.grad is not None
        found = weight(Elbo(steps, variance), path, t)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(found, steps * missed.grad, rtol=1e-10, atol=0)


def test_elbo_of_many_steps_is_the_limit() -> None:
    path = carried(Heat(PLANE))
    t = times(0.3, 0.6, 0.9)
    limit = weight(Elbo(), path, t).log()
    errors = [float((weight(Elbo(k, "posterior"), path, t).log() - limit).abs().max()) for k in (4000, 8000, 16000)]
    print(errors)
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(slope - 1) < 0.05 for slope in slopes) and errors[-1] < 0.05


@pytest.mark.parametrize("weighting", EVERY, ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_wiener_filter_scores_one_on_average(weighting: Weighting, prediction: str) -> None:
    """Gaussian data; the network says what the Wiener filter's D is in each prediction's terms."""
    path, n = carried(AdvectionDiffusion(PLANE, 0.02, 0.4, (0.3, 0.0))), 4000
    asked = Denoiser(Silent(), path, prediction=prediction).prediction

    class Wiener(nn.Module):
        def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
            point = path.at(t)
            u = PLANE.forward(x) * point.variance.mean((-2, -1), keepdim=True).sqrt()
            d = point.wiener_gain * u
            noise = (u - point.amplitude * d) / point.noise_variance.sqrt()
            return PLANE.inverse(asked.rows(point, t).target(d, noise))

    x = path.reference.sample(n, torch.Generator().manual_seed(0))
    loss = DenoisingLoss(weighting)(Denoiser(Wiener(), path, prediction=asked), x, torch.Generator().manual_seed(1))
    error = float(loss.std()) / math.sqrt(n)
    print(f"{loss.mean():.4f} ± {error:.4f}")
    # Z is by 64 nodes: 1e-2 for weights that grow with 1/S towards the first noise.
    assert abs(float(loss.mean()) - 1) < 4 * error + 1e-2
    assert error < 0.3


def test_unnormalised_likelihood_is_nats() -> None:
    """The Wiener filter's ∫ Σ ½ (−dSNR/dt) cS/V dt = ½ Σ log(V/S) from t_min to 1, by 2,000 midpoints."""
    path, n = carried(Heat(PLANE)), 2000
    t = path.t_min + (1 - path.t_min) * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    point = path.at(t)
    found = (weight(ModeLikelihood(), path, t) * point.posterior_variance).flatten(1).sum(1).mean() * (1 - path.t_min)
    ends = [0.5 * torch.log(p.variance / p.noise_variance).sum() for p in (path.at(path.t_min), path.at(1.0))]
    torch.testing.assert_close(found, ends[0] - ends[1], rtol=1e-5, atol=0)


def test_weights_are_finite_however_much_is_forgotten() -> None:
    path = carried(Heat(PLANE))
    clock = path.clock
    path = ReferencePath(path.process.with_clock(type(clock)(**{**vars(clock), "duration": 40 * clock.end})),
                         path.reference)  # fmt: skip
    x = path.reference.sample(8, torch.Generator().manual_seed(2))
    assert float(path.at(1.0).log_gain.real.min()) < -700
    for weighting in EVERY:
        for prediction in PREDICTIONS:
            denoiser = Denoiser(Silent(), path, prediction=prediction)
            loss = DenoisingLoss(weighting, normalised=False)(denoiser, x, torch.Generator().manual_seed(3))
            assert bool(loss.isfinite().all()), f"{weighting}, {prediction}"
            assert 0 < expected_by_wiener(path, weighting, denoiser.prediction) < math.inf


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="MinSNR needs a positive, finite 'gamma'; got -1"):
        MinSNR(-1)
    with pytest.raises(ValueError, match=r"unknown variance 'uper'. Did you mean 'upper'\?"):
        Elbo(10, "uper")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Elbo: 'steps' must be a whole number"):
        Elbo(0)
