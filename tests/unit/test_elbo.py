"""Variational bounds under exact scores of non-Gaussian data; error bars, seeds, networks, doors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff.basis import SpectralBasis
from physdiff.bounds import Bound, continuous_elbo, elbo
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser, EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser, PosteriorMean
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference, tilted
from physdiff.path import ReferencePath, time_of_forgetting
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.damped_wave import DampedWave
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.spectra import power_law_spectrum

torch.set_num_threads(1)
LINE, WALL = SpectralBasis(Grid(5)), SpectralBasis(Grid(4, 1.0, "dirichlet"))


def normals(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def path_of(process: LinearProcess, t_min: float | None = None) -> ReferencePath:
    law = smooth_reference(process.basis)
    return ReferencePath(fit_clock(process, law), law, t_min)


# ---- exact scores


def mixture_on(process: LinearProcess, t_min: float | None = None) -> MixtureDenoiser:
    return bimodal(process, smooth_reference(process.basis), t_min)


def two_humps(process: LinearProcess) -> MixtureDenoiser:
    """Most of the variance of every mode lies between two components: a wrong residual costs several nats."""
    law = smooth_reference(process.basis)
    sides = 0.9 * law.spectrum.sqrt() * torch.sign(normals(*law.mean.shape, seed=16))
    means, spectra = torch.stack([law.mean + sides, law.mean - sides]), 0.19 * law.spectrum.expand(2, *law.mean.shape)
    return MixtureDenoiser.around_itself(process, torch.tensor([0.6, 0.4]), means, spectra, 1e-4)


@pytest.mark.parametrize(
    "process", [VariancePreserving(LINE), AdvectionDiffusion(LINE, 0.02, 0.4, 0.3)], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("remembered", [0.95, 0.02])
def test_continuous_bound_lacks_the_terminal_law_only(process: LinearProcess, remembered: float) -> None:
    """For each field log p(x) + E[log p_ref(y_1)/p_1(y_1)], the second from draws of y_1; along a short clock a nat."""
    end = time_of_forgetting(process, smooth_reference(process.basis), remembered)
    mixture = two_humps(process.with_clock(LinearClock(end)))
    clean = mixture.sample_modes(24, torch.Generator().manual_seed(2))
    x, path, draws = mixture.path.basis.inverse(clean), mixture.path, 4000
    generator, end = torch.Generator().manual_seed(3), mixture.path.law(1.0)
    lost, lost_error = [], []
    for one in clean:
        y = path.at(1.0).noised(one.expand(draws, *one.shape), generator)
        ratio = mixture.log_prob(y, 1.0) - end.log_prob_of_deviation(y - end.mean)
        lost.append(ratio.mean())
        lost_error.append(ratio.std() / math.sqrt(draws))
    exact = mixture.log_prob(clean, 0.0) - torch.stack(lost)
    found = continuous_elbo(mixture, x, strata=24, draws=64, variance="learned", chunk=2000)
    error = torch.sqrt(found.standard_error.square() + torch.stack(lost_error).square())
    z = (found.bound - exact) / error
    pooled = float((found.bound - exact).sum() / error.square().sum().sqrt())
    print(
        f"lost {float(torch.stack(lost).mean()):.3f}, errors {float(error.mean()):.3f}, χ²/n {z.square().mean():.2f}, "
        f"pooled {pooled:+.2f}, gained {float(found.relative_to_reference.mean()):.2f}"
    )
    assert float(z.abs().max()) < 4.5
    assert float(z.square().mean()) < 1 + 4 * math.sqrt(2 / len(z))
    assert abs(pooled) < 4
    if remembered > 0.5:
        assert float(torch.stack(lost).mean()) > 0.3  # there was something to lose


@pytest.mark.parametrize("variance", ["reference", "learned", "posterior", "upper"])
def test_bound_rises_with_the_steps(variance: str) -> None:
    """In the mean over the data it is below the log-density, and rises by many standard errors to it."""
    mixture = mixture_on(fit_clock(Heat(LINE), smooth_reference(LINE)))
    clean = mixture.sample_modes(200, torch.Generator().manual_seed(4))
    x, exact = LINE.inverse(clean), mixture.log_prob(clean, 0.0)
    lacking = [exact - elbo(mixture, x, steps=n, variance=variance, chunk=1000).bound for n in (2, 8, 32)]
    means = [float(each.mean()) for each in lacking]
    errors = [float(each.std()) / math.sqrt(len(each)) for each in lacking]
    print(variance, [f"{m:.3f} ± {e:.3f}" for m, e in zip(means, errors, strict=True)])
    assert means[0] > 4 * errors[0]
    assert means[0] - means[1] > 4 * float((lacking[0] - lacking[1]).std()) / math.sqrt(200)
    assert means[1] > means[2] > -4 * errors[2]


def test_known_variance_is_worth_more_than_the_references() -> None:
    mixture = two_humps(fit_clock(Heat(LINE), smooth_reference(LINE)))
    x = LINE.inverse(mixture.sample_modes(400, torch.Generator().manual_seed(5)))
    gained = elbo(mixture, x, steps=4, variance="learned").bound - elbo(mixture, x, steps=4).bound
    error = float(gained.std()) / math.sqrt(400)
    print(f"{float(gained.mean()):.3f} ± {error:.3f} nats")
    assert float(gained.mean()) > 5 * error


def test_variance_per_mode_lies_between_ddpms_two() -> None:
    """Modes cost what they cost alone: a choice per mode and the opposite choice add up to the two rules."""
    mixture = mixture_on(fit_clock(AdvectionDiffusion(LINE, 0.02, 0.4, 0.3), smooth_reference(LINE)))
    x = LINE.inverse(mixture.sample_modes(3, torch.Generator().manual_seed(14)))
    chosen = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    rules: list[Any] = [chosen, 1 - chosen, "posterior", "upper", torch.full((5,), 0.3), 0.3]
    one, other, low, high, all_modes, middle = (elbo(mixture, x, steps=5, variance=rule).bound for rule in rules)
    torch.testing.assert_close(one + other, low + high, rtol=1e-11, atol=1e-9)
    torch.testing.assert_close(all_modes, middle)
    assert float((low - middle).abs().min()) > 1e-3
    assert float((high - middle).abs().min()) > 1e-3
    assert float((one - low).abs().min()) > 1e-3


def test_posterior_variance_is_the_slope_of_the_posterior_mean() -> None:
    """Var[y_0 | y] = (S/m) ∂E[y_0 | y]/∂y, by automatic differentiation."""
    mixture = mixture_on(fit_clock(Matern(WALL), smooth_reference(WALL)))
    law = tilted(mixture.path.reference)
    for model in (mixture, GaussianDenoiser(mixture.path, law), GaussianDenoiser(mixture.path)):
        for t in (0.3, 0.7):
            time, point = torch.tensor(t, dtype=torch.float64), mixture.path.at(t)
            for y in point.noised(mixture.sample_modes(3, torch.Generator().manual_seed(7)), torch.Generator()):

                def mean(y: Tensor, model: PosteriorMean = model, time: Tensor = time) -> Tensor:
                    return model.residual(y.unsqueeze(0), time)[0] + model.path.at(time).wiener(y)

                slope = torch.autograd.functional.jacobian(mean, y).reshape(4, 4).diagonal().reshape(1, 4)
                expected = point.noise_variance / point.amplitude * slope
                found = model.posterior_variance(y.unsqueeze(0), time)[0]
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


# ---- error bars, seeds, models


def test_error_bars_are_the_spread_of_repeats() -> None:
    """300 repeats of one field: the bound's and each term's spread against the stated errors."""
    mixture = mixture_on(fit_clock(Heat(LINE), smooth_reference(LINE)))
    x = LINE.inverse(mixture.sample_modes(1, torch.Generator().manual_seed(8))).expand(300, 1, 5)
    for found in (elbo(mixture, x, steps=6, draws=8), continuous_elbo(mixture, x, strata=6, draws=8)):
        ratio = found.bound.std() / found.standard_error.square().mean().sqrt()
        terms = (found.terms.std(0) / found.term_errors.square().mean(0).sqrt())[1:]
        print(f"spread / stated {ratio:.3f}, terms {terms.tolist()}")
        assert abs(float(ratio) - 1) < 4 / math.sqrt(600) * 1.5
        assert float((terms - 1).abs().max()) < 0.35  # some terms have heavy tails
        low, high = found.interval(0.9)
        inside = float(((low < found.bound.mean()) & (found.bound.mean() < high)).double().mean())
        assert abs(inside - 0.9) < 4 * math.sqrt(0.09 / 300)


@pytest.mark.parametrize("bound_of", [partial(elbo, steps=8), partial(continuous_elbo, strata=8)])
def test_a_field_does_not_know_its_batch_mates(bound_of: Callable[..., Bound]) -> None:
    mixture = mixture_on(fit_clock(DampedWave(LINE), smooth_reference(LINE)))
    x = LINE.inverse(mixture.sample_modes(5, torch.Generator().manual_seed(9)))
    state = torch.get_rng_state()
    whole, parts = bound_of(mixture, x, seed=3), bound_of(mixture, x, seed=3, chunk=1)
    first = bound_of(mixture, x[:2], seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(parts.terms, whole.terms, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(parts.term_errors, whole.term_errors, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(first.bound, whole.bound[:2], rtol=1e-11, atol=1e-11)
    assert float((bound_of(mixture, x, seed=4).bound - whole.bound).abs().min()) > 1e-6
    same = bound_of(mixture, x[:1].expand(2, 1, 5))
    assert float((same.bound[0] - same.bound[1]).abs()) > 1e-6  # each field has its own noise


@pytest.mark.parametrize("bound_of", [partial(elbo, steps=3), partial(continuous_elbo, strata=3)])
def test_numbers_of_fields_go_on_from_first(bound_of: Callable[..., Bound]) -> None:
    mixture = mixture_on(fit_clock(DampedWave(LINE), smooth_reference(LINE)))
    x = LINE.inverse(mixture.sample_modes(4, torch.Generator().manual_seed(9)))
    whole = bound_of(mixture, x[:4], seed=3, chunk=1)
    part = bound_of(mixture, x[2:4], seed=3, chunk=1, first=2)
    assert torch.equal(part.bound, whole.bound[2:]) and torch.equal(part.standard_error, whole.standard_error[2:])
    assert float((bound_of(mixture, x[2:4], seed=3).bound - part.bound).abs().min()) > 1e-6
    with pytest.raises(ValueError, match="first must be at least 0; got -1"):
        bound_of(mixture, x, first=-1)


def test_network_in_single_precision_with_a_condition() -> None:
    """Untrained it is the reference, whatever the condition; a shift by the condition reaches the right field."""

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            assert condition is not None
            assert x.dtype == torch.float32
            return self.size * condition.to(x).reshape(-1, 1, 1).expand_as(x)

    path = path_of(Heat(LINE))
    network = Shift()
    model = Denoiser(network, path)
    x = path.reference.sample(3, torch.Generator().manual_seed(10)).float()
    condition = torch.tensor([0.0, 1.0, 0.0])
    for bound_of in (elbo, continuous_elbo):
        untrained = bound_of(model, x, condition=condition)
        exact = path.reference.log_prob(x)
        torch.testing.assert_close(untrained.bound, exact, rtol=0, atol=1e-10)
        assert float(untrained.standard_error.max()) == 0
        torch.testing.assert_close(untrained.log_prob_reference, exact, rtol=0, atol=1e-12)
        with torch.no_grad():
            network.size.fill_(0.5)
        moved = bound_of(model, x, condition=condition, chunk=5).relative_to_reference
        assert float(moved[[0, 2]].abs().max()) < 1e-10
        assert float(moved[1]) < -0.1
        with torch.no_grad():
            network.size.fill_(0.0)


def test_modes_without_variance_do_not_count() -> None:
    basis = SpectralBasis(Grid((4, 5)))
    law = GaussianField.centred(basis, power_law_spectrum(basis, 3.0))
    path = ReferencePath(fit_clock(Heat(basis), law), law)
    x = law.sample(3, torch.Generator().manual_seed(11))
    for found in (elbo(GaussianDenoiser(path), x), continuous_elbo(GaussianDenoiser(path), x)):
        torch.testing.assert_close(found.bound, law.log_prob(x), rtol=0, atol=1e-10)
        assert found.n_support == law.n_support == 19
        torch.testing.assert_close(found.per_dimension, found.bound / 19)


def test_result_says_what_it_is_made_of() -> None:
    mixture = mixture_on(fit_clock(Heat(LINE), smooth_reference(LINE)), t_min=0.1)
    x = LINE.inverse(mixture.sample_modes(2, torch.Generator().manual_seed(12)))
    found = elbo(mixture, x, steps=5, draws=3)
    assert found.terms.shape == found.term_errors.shape == (2, 6)
    assert found.transitions.shape == (2, 4)
    assert torch.equal(torch.cat([found.prior[:, None], found.transitions, found.decoder[:, None]], 1), found.terms)
    assert torch.equal(found.bound, -found.terms.sum(1))
    assert found.evaluations == 15
    assert found.times[0] == 1
    assert found.times[-1] == 0
    assert float(found.prior.min()) > 0
    assert float(found.prior.max()) < 0.2  # each field's own; |m|²c/V is at most 0.02 per mode
    assert bool((found.term_errors[:, 0] == 0).all())
    limit = continuous_elbo(mixture, x, strata=4, draws=3)
    assert limit.terms.shape == (2, 6)
    assert limit.evaluations == 15
    assert limit.times[-2] == mixture.path.t_min
    torch.testing.assert_close(limit.prior, found.prior)
    one = elbo(mixture, x, steps=2, draws=1)
    assert bool(one.standard_error.isnan().all())
    with pytest.raises(ValueError, match="use draws=2 or more"):
        one.interval()


def test_what_is_refused() -> None:
    path = path_of(Heat(LINE))
    model, x = GaussianDenoiser(path), path.reference.sample(2, torch.Generator().manual_seed(13))
    points = EmpiricalDenoiser(path, x)
    shared: tuple[tuple[dict[str, Any], str], ...] = (
        ({"draws": 0}, "draws must be a whole number, at least 1; got 0"),
        ({"chunk": 1.5}, "chunk must be a whole number, at least 1; got 1.5"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"uncertainty": 0.0}, "uncertainty must be positive and finite"),
        ({"condition": torch.zeros(3, 1)}, "a condition must be given for each of 2 fields; got 3"),
    )
    for arguments, words in shared:
        for bound_of in (elbo, continuous_elbo):
            with pytest.raises(ValueError, match=words):
                bound_of(model, x, **arguments)
    discrete: tuple[tuple[dict[str, Any], str], ...] = (
        ({"steps": 0}, "steps must be a whole number, at least 1; got 0"),
        ({"variance": "postirior"}, "unknown variance 'postirior'. Did you mean 'posterior'?"),
        ({"variance": 1.5}, r"must lie in \[0, 1\]; got 1.5"),
        ({"variance": math.nan}, r"must lie in \[0, 1\]; got nan"),
    )
    for arguments, words in discrete:
        with pytest.raises(ValueError, match=words):
            elbo(model, x, **arguments)
    with pytest.raises(ValueError, match="is that of its decoder"):
        continuous_elbo(model, x, variance="upper")
    with pytest.raises(ValueError, match="at least 1 field"):
        elbo(model, x[:0])
    with pytest.raises(ValueError, match="must have the shape"):
        elbo(model, x[:, :, :3])
    with pytest.raises(ValueError, match="posterior_variance is 0 in a mode"):
        elbo(points, x, variance="learned")
    with pytest.raises(ValueError, match="needs a denoiser under a linear process"):
        elbo(nn.Identity(), x)  # pyright: ignore[reportArgumentType]
