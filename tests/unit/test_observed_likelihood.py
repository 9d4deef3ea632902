"""Densities of observed cells: exact for a Gaussian model, a bound that tightens for a mixture of fields."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

import physdiff as pd
from physdiff.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from physdiff.kriging import Kriging
from physdiff.observed_likelihood import law_of_fields, observed_log_likelihood
from physdiff.processes.heat import Heat
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import SampleNoise, keyed_generator
from physdiff.trace import Hutchinson

GRID = pd.Grid((10,), boundary="neumann")


def path_of(law: pd.GaussianField, physics: type = VariancePreserving, t_min: float = 0.05) -> pd.ReferencePath:
    return pd.ReferencePath(pd.fit_clock(physics(law.basis), law), law, t_min)


def law() -> pd.GaussianField:
    basis = pd.SpectralBasis(GRID)
    smooth = pd.GaussianField.matern(basis, 0.4, 1.0)
    return pd.GaussianField(basis, torch.full_like(smooth.mean, 0.3), smooth.spectrum + 0.01)


def masks(n: int) -> Tensor:
    observed = torch.ones(n, 1, *GRID.shape, dtype=torch.bool)
    observed[:, :, 2:5] = False
    observed[n // 2 :, :, 7:] = False
    return observed


def normal(mean: Tensor, covariance: Tensor, x: Tensor, mask: Tensor) -> float:
    """Log-density of the observed cells of one field."""
    o = mask.flatten()
    return float(multivariate_normal(mean[o].numpy(), covariance[o][:, o].numpy()).logpdf(x.flatten()[o].numpy()))


def covariance_of(law: pd.GaussianField) -> tuple[Tensor, Tensor]:
    u = law.basis.dense()
    return u @ law.mean[0].flatten(), u @ torch.diag(law.spectrum[0].flatten()) @ u.T


@pytest.mark.parametrize("noised", [False, True])
def test_a_gaussian_model_is_exact_in_one_draw(noised: bool) -> None:
    path = path_of(law(), t_min=0.6)
    x, observed = law().sample(4, keyed_generator(0, "fields")), masks(4)
    denoiser = GaussianDenoiser(path, law())
    found = observed_log_likelihood(
        path, torch.where(observed, x, math.nan), observed, partial(pd.log_likelihood, denoiser), draws=1, noised=noised
    )
    assert torch.equal(found.n_observed, torch.tensor([7, 7, 4, 4]))
    mean, covariance = covariance_of(law_of_fields(path))
    log_volume = torch.zeros(4, dtype=torch.float64)
    if noised:
        # The state is m·x with the noise of t_min: the density of x with √S/m of it, per unit of the state.
        point = path.at(path.t_min)
        log_m, variance = float(point.log_gain.real.flatten()[0]), float(point.noise_variance.flatten()[0])
        assert log_m < -0.02  # or its volume would not be seen
        seeds = [keyed_generator(0, "likelihood", i).initial_seed() for i in range(4)]
        x = x + math.sqrt(variance) * math.exp(-log_m) * SampleNoise(seeds, "t_min")(tuple(x.shape[1:]))
        log_volume = -log_m * found.n_observed
    for i in range(4):
        expected = normal(mean, covariance, x[i], observed[i]) + float(log_volume[i])
        assert float(found.log_prob[i]) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(found.log_prob, found.log_prob_reference, rtol=0, atol=1e-9)
    assert torch.equal(found.effective_draws, torch.ones(4))


def test_a_mixture_is_bounded_and_the_bound_tightens() -> None:
    """Two means: the exact density of the observed cells is a sum of two normals."""
    reference = law()
    basis = reference.basis
    shift = torch.zeros_like(reference.mean)
    shift[0, 0], shift[0, 1] = 1.5, -0.8
    components = [
        pd.GaussianField(basis, reference.mean + sign * shift, 0.5 * reference.spectrum) for sign in (1.0, -1.0)
    ]
    path = path_of(reference)
    denoiser = MixtureDenoiser(
        path,
        torch.tensor([0.3, 0.7]).double(),
        *(torch.stack([getattr(c, of) for c in components]) for of in ("mean", "spectrum")),
    )
    n = 6
    x = torch.cat([c.sample(n // 2, keyed_generator(1, "fields")) for c in components])
    observed = masks(n)
    point = path.at(path.t_min)
    m2 = torch.exp(2 * point.log_gain.real)
    exact = torch.zeros(n, dtype=torch.float64)
    for i in range(n):
        parts = []
        for weight, component in zip((0.3, 0.7), components, strict=True):
            own = pd.GaussianField(basis, component.mean, component.spectrum + point.noise_variance / m2)
            parts.append(math.log(weight) + normal(*covariance_of(own), x[i], observed[i]))
        exact[i] = torch.logsumexp(torch.tensor(parts, dtype=torch.float64), 0)
    # The true terminal law: what is left is the number of draws.
    terminal = {"terminal": lambda modes: denoiser.log_prob(modes, 1.0)}
    score = partial(pd.log_likelihood, denoiser, method="rk4", steps=10, **terminal)
    mean = {}
    for draws, times in ((1, 32), (4, 32), (32, 8)):
        # Each copy of a field has draws of its own.
        copies, seen = x.repeat(times, 1, 1), observed.repeat(times, 1, 1)
        off = observed_log_likelihood(path, copies, seen, score, draws=draws).log_prob.reshape(times, n) - exact
        mean[draws] = float(off.mean())
        print(draws, off.mean(0))
    assert mean[1] < mean[4] < mean[32] < 0.01 and mean[1] < -0.05 and abs(mean[32]) < 0.02


def test_errors_of_traces_do_not_raise_the_bound() -> None:
    """Of whole fields all draws are the same: so is their mean, as no draw has an error of its own."""
    reference = law()
    shift = torch.zeros_like(reference.mean)
    shift[0, 0], shift[0, 3] = 3.0, 0.5
    path = path_of(reference)
    means = torch.stack([reference.mean + shift, reference.mean - shift])
    denoiser = MixtureDenoiser(
        path, torch.tensor([0.3, 0.7]).double(), means, 0.2 * reference.spectrum.expand_as(means)
    )
    x = law().sample(3, keyed_generator(4, "fields"))
    settings = {"trace": Hutchinson(2), "method": "rk4", "steps": 6, "seed": 3}
    whole = pd.log_likelihood(denoiser, x, **settings)
    assert float(whole.standard_error.max()) > 0.3
    found = observed_log_likelihood(
        path, x, torch.ones_like(x, dtype=torch.bool), partial(pd.log_likelihood, denoiser, **settings), draws=5, seed=3
    )
    torch.testing.assert_close(found.log_prob, whole.log_prob, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.standard_error, whole.standard_error, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.effective_draws, torch.full((3,), 5.0).double(), rtol=1e-9, atol=0)


def test_an_estimated_determinant_is_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a mask is too large to factorise: once for all its fields, beside the errors of traces."""
    basis = pd.SpectralBasis(pd.Grid((14, 12), boundary="neumann"))
    smooth = pd.GaussianField.matern(basis, 0.4, 1.0)
    reference = pd.GaussianField(basis, smooth.mean, smooth.spectrum + 1e-3)
    path = path_of(reference)
    observed = torch.ones(4, 1, 14, 12, dtype=torch.bool)
    observed[:2, :, :7, :6] = False
    x = reference.sample(4, keyed_generator(5, "fields"))
    score = partial(pd.log_likelihood, GaussianDenoiser(path, reference))
    exact = observed_log_likelihood(path, x, observed, score, draws=1)
    monkeypatch.setattr("physdiff.observed_likelihood.Kriging", partial(Kriging, dense=0, factored=0))
    found = observed_log_likelihood(path, x, observed, score, draws=1)
    off = found.log_prob - exact.log_prob
    print(off, found.reference_error)
    assert float(found.reference_error[0]) == float(found.reference_error[1]) > 0
    assert torch.equal(found.reference_error[2:], torch.zeros(2).double())
    assert torch.equal(found.standard_error, found.reference_error) and torch.equal(
        exact.standard_error, torch.zeros(4).double()
    )
    assert float(off.abs().max()) < 4 * float(found.reference_error[0]) + 0.01
    torch.testing.assert_close(off[2:], torch.zeros(2).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.relative_to_reference, exact.relative_to_reference, rtol=0, atol=1e-6)


def test_what_is_refused() -> None:
    path = path_of(law())
    x, observed = law().sample(2, keyed_generator(0, "fields")), masks(2)
    score = partial(pd.log_likelihood, GaussianDenoiser(path, law()))
    with pytest.raises(ValueError, match="draws must be at least 1; got 0"):
        observed_log_likelihood(path, x, observed, score, draws=0)
    with pytest.raises(ValueError, match=r"shape of the fields, \(2, 1, 10\), bool; got \(1, 1, 10\)"):
        observed_log_likelihood(path, x, observed[:1], score)
    heat = path_of(law(), Heat)
    with pytest.raises(ValueError, match="under Heat the first noise differs between modes"):
        observed_log_likelihood(heat, x, observed, score, noised=True)
