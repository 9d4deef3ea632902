"""Variational bounds as losses: the values of `elbo`, unbiased draws of levels, and minimisers that are exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.bounds import continuous_elbo, elbo
from physdiff.chain import Chain
from physdiff.clock_fit import fit_clock
from physdiff.condition import Given
from physdiff.denoisers import GaussianDenoiser, MixtureDenoiser, PosteriorMean
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.objectives.adaptive_times import LossSecondMoment
from physdiff.objectives.continuous import ContinuousVariationalLoss
from physdiff.objectives.denoising import DenoisingLoss
from physdiff.objectives.hybrid import HybridLoss
from physdiff.objectives.tabulated_times import LikelihoodImportance, LogNormal
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.objectives.variational import VariationalLoss
from physdiff.objectives.weighting import ModeLikelihood
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import RowDraws, keyed_generator
from physdiff.spectra import power_law_spectrum

torch.set_num_threads(1)
LINE = SpectralBasis(Grid(5))
RULES: tuple[str | float, ...] = ("reference", "learned", "posterior", "upper", 0.3)


def mixture_on(process: LinearProcess, t_min: float | None = None) -> MixtureDenoiser:
    law = smooth_reference(process.basis)
    return bimodal(fit_clock(process, law), law, t_min)


def fields_of(mixture: MixtureDenoiser, n: int, seed: int = 1) -> Tensor:
    return mixture.path.basis.inverse(mixture.sample_modes(n, torch.Generator().manual_seed(seed)))


# ---- values


@pytest.mark.parametrize("variance", RULES, ids=str)
@pytest.mark.parametrize("process", [Heat(LINE), AdvectionDiffusion(LINE, 0.02, 0.4, 0.3)], ids=["Heat", "turning"])
def test_all_levels_are_the_bound(process: LinearProcess, variance: str | float) -> None:
    """On the same states, field by field; and each level, counted K times, in its turn: their mean is the sum."""
    mixture = mixture_on(process)
    x, path, steps = fields_of(mixture, 3), mixture.path, 6
    bound = -elbo(mixture, x, steps=steps, variance=variance, draws=1).per_dimension
    every = VariationalLoss(steps=steps, variance=variance, levels="all")
    single = VariationalLoss(steps=steps, variance=variance)
    for i in range(3):
        found = every(mixture, x[i : i + 1], keyed_generator(0, "elbo", i))
        torch.testing.assert_close(found, bound[i : i + 1], rtol=1e-11, atol=1e-11)
        generator = keyed_generator(0, "elbo", i)
        shares = (torch.arange(steps).flip(0) + 0.5) / steps
        ts = path.t_min + (1 - path.t_min) * shares
        parts = torch.stack([single.at(mixture, x[i : i + 1], t.reshape(1), generator) for t in ts])
        assert float(parts.std()) > 0.01
        torch.testing.assert_close(parts.mean(0), bound[i : i + 1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "times", [Stratified(), LikelihoodImportance(), LogNormal(-0.5, 1.5)], ids=lambda t: type(t).__name__
)
@pytest.mark.parametrize("variance", ["learned", "upper"])
def test_one_level_is_unbiased(variance: str, times: TimeSampling) -> None:
    mixture = mixture_on(Heat(LINE))
    x, repeats = fields_of(mixture, 50), 100
    bound = elbo(mixture, x, steps=6, variance=variance, draws=40, chunk=2000)
    loss = VariationalLoss(steps=6, variance=variance, times=times)
    drawn = loss(mixture, x.repeat(repeats, 1, 1), torch.Generator().manual_seed(2)).reshape(repeats, 50).mean(1)
    error = math.sqrt(float(drawn.var()) / repeats + float((bound.standard_error / 250).square().sum()))
    z = (float(drawn.mean()) + float(bound.per_dimension.mean())) / error
    print(f"{type(times).__name__}, {variance}: {float(drawn.mean()):.4f} ± {error:.4f}, z = {z:+.2f}")
    assert error < 0.02
    assert abs(z) < 4


@pytest.mark.parametrize("decoder", ["reference", "learned"])
def test_continuous_loss_is_the_continuous_bound(decoder: Any) -> None:
    mixture = mixture_on(AdvectionDiffusion(LINE, 0.02, 0.4, 0.3), 0.6)  # much is left to the decoder
    x, repeats = fields_of(mixture, 50), 200
    bound = continuous_elbo(mixture, x, strata=12, variance=decoder, draws=40, chunk=2000)
    loss = ContinuousVariationalLoss(decoder=decoder, decoder_share=0.3)
    drawn = loss(mixture, x.repeat(repeats, 1, 1), torch.Generator().manual_seed(3)).reshape(repeats, 50).mean(1)
    error = math.sqrt(float(drawn.var()) / repeats + float((bound.standard_error / 250).square().sum()))
    z = (float(drawn.mean()) + float(bound.per_dimension.mean())) / error
    print(f"{decoder}: {float(drawn.mean()):.4f} ± {error:.4f}, z = {z:+.2f}")
    assert error < 0.02
    assert abs(z) < 4


@pytest.mark.parametrize("t_min", [None, 0.4, 1e-8], ids=str)
def test_gaussian_field_scores_its_log_density(t_min: float | None) -> None:
    """Whatever is drawn, in any number of steps, with hardly any noise at the decoder too."""
    full = smooth_reference(LINE)
    free = GaussianField.centred(LINE, power_law_spectrum(LINE, 3.0))
    chain = Chain.ddpm(LINE, 20)
    cases = [
        ReferencePath(fit_clock(Heat(LINE), full), full, t_min),
        ReferencePath(fit_clock(AdvectionDiffusion(LINE, 0.02, 0.4, 0.3), free), free, t_min),
    ]
    grids: list[tuple[int, Any]] = [(1, "LogSpaced"), (7, "Angle")]
    losses: list[Any] = [VariationalLoss(n, grid, v) for n, grid in grids for v in ("reference", "learned")]
    losses += [VariationalLoss(3, levels="all"), ContinuousVariationalLoss()]
    tasks = [(path, loss) for path in cases for loss in losses]
    tasks.append((chain.path(full), VariationalLoss(chain.steps, chain.time_grid())))
    for path, loss in tasks:
        x = path.reference.sample(4, torch.Generator().manual_seed(4))
        exact = -path.reference.log_prob(x) / path.reference.n_support
        found = loss(GaussianDenoiser(path), x, torch.Generator().manual_seed(5))
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("process", [Heat(LINE), AdvectionDiffusion(LINE, 0.02, 0.4, 0.3)], ids=["Heat", "turning"])
def test_continuous_loss_is_denoising_weighted_by_likelihood(process: LinearProcess) -> None:
    """Row by row, at the same times and noise: n/(1 − t_min) times it, less what the Wiener filter scores, in nats."""
    mixture = mixture_on(process)
    x, path = fields_of(mixture, 40), mixture.path
    t = path.t_min + (1 - path.t_min) * torch.arange(1, 41, dtype=torch.float64) / 40

    def both(model: PosteriorMean) -> list[Tensor]:
        losses: list[Any] = [ContinuousVariationalLoss(), DenoisingLoss(ModeLikelihood(), normalised=False)]
        return [loss.at(model, x, t, torch.Generator().manual_seed(11)) for loss in losses]

    exact, wiener = both(mixture), both(GaussianDenoiser(path))
    torch.testing.assert_close(wiener[0], -path.reference.log_prob(x) / 5, rtol=0, atol=1e-12)
    gained = [one - other for one, other in zip(exact, wiener, strict=True)]
    assert float(gained[0].abs().median()) > 0.01
    torch.testing.assert_close(gained[0] * 5 / (1 - path.t_min), gained[1], rtol=1e-9, atol=1e-9)


# ---- minimisers


class Faulty(PosteriorMean):
    """An exact denoiser with a fault in its mean and one in its log variance, both functions of the state."""

    def __init__(self, exact: MixtureDenoiser, mean: float = 0.0, variance: float = 0.0) -> None:
        super().__init__(exact.path)
        self.exact, self.of_mean, self.of_variance = exact, mean, variance

    def residual(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        point = self.path.at(t)
        fault = point.posterior_variance.sqrt() * torch.tanh(point.whiten(modes) + 0.5)
        return self.exact.residual(modes, t) + self.of_mean * fault

    def posterior_variance(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        fault = self.of_variance * torch.sigmoid(self.path.at(t).whiten(modes))
        return self.exact.posterior_variance(modes, t) * torch.exp(fault)


LEARNED: dict[str, Any] = {
    "chain": VariationalLoss(4, variance="learned"),
    "continuous": ContinuousVariationalLoss(decoder="learned", decoder_share=0.5),
    "hybrid": HybridLoss(),
    "hybrid of a chain": HybridLoss(steps=4),
}
MINIMISED = [
    pytest.param(VariationalLoss(4), "mean", id="chain, reference"),
    pytest.param(VariationalLoss(4, variance="upper"), "mean", id="chain, upper"),
    *(
        pytest.param(loss, kind, id=f"{name}, {kind}")
        for name, loss in LEARNED.items()
        for kind in ("mean", "variance")
    ),
]


@pytest.mark.parametrize("loss, kind", MINIMISED)
def test_exact_mean_and_variance_minimise(loss: Any, kind: str) -> None:
    """Along a fault of the mean, or one of the variance where it is learned, the slope is 0 and the bend is not."""
    mixture, n = mixture_on(VariancePreserving(LINE)), 20_000
    x = fields_of(mixture, n, seed=6)

    def value(**fault: float) -> Tensor:
        return loss(Faulty(mixture, **fault), x, torch.Generator().manual_seed(7))

    if "Hybrid" in type(loss).__name__ and kind == "mean":
        loss = replace(loss, vlb_weight=1e-9)  # its value does move with the mean; its gradient is tested elsewhere
    exact, plus, minus = value(), value(**{kind: 0.1}), value(**{kind: -0.1})
    slope, bend = (plus - minus) / 0.2, (plus + minus - 2 * exact) / 0.01
    error, curve = float(slope.std()) / math.sqrt(n), float(bend.std()) / math.sqrt(n)
    third = 0.005 * float(bend.mean())  # what the third order of a difference over ±0.1 can hold
    print(f"{kind}: slope {float(slope.mean()):.5f} ± {error:.5f}, bend {float(bend.mean()):.4f} ± {curve:.4f}")
    assert abs(float(slope.mean())) < 4 * error + third
    assert float(bend.mean()) > max(4 * curve, 5 * error)


# ---- draws, settings


@pytest.mark.parametrize("loss", [VariationalLoss(5), VariationalLoss(3, levels="all"), ContinuousVariationalLoss()])
def test_a_batch_may_be_split(loss: Any) -> None:
    mixture = mixture_on(Heat(LINE))
    x = fields_of(mixture, 6)
    whole = loss(mixture, x, torch.Generator().manual_seed(8))
    for rows in (slice(0, 2), slice(2, 6)):
        part = loss(mixture, x[rows], RowDraws(torch.Generator().manual_seed(8), 6, rows))
        torch.testing.assert_close(part, whole[rows], rtol=1e-12, atol=1e-12)
    assert float((loss(mixture, x, torch.Generator().manual_seed(9)) - whole).abs().min()) > 1e-9


def test_times_that_adapt_see_what_is_drawn() -> None:
    """The part that is known of a field, which no choice of levels changes, is not what levels are chosen by."""
    mixture = mixture_on(Heat(LINE))
    x = fields_of(mixture, 64)
    loss = VariationalLoss(8, times=LossSecondMoment(bins=8, history=2))
    assert loss.adapts
    found = loss.evaluate(mixture, x, torch.Generator().manual_seed(10))
    assert found.times is not None
    known = -mixture.path.reference.log_prob(x) / 5
    torch.testing.assert_close(found.losses - known, found.unweighted, rtol=1e-9, atol=1e-9)  # uniform so far
    for _ in range(4):
        loss.observe(found.times, found.unweighted)
    later = loss.evaluate(mixture, x, torch.Generator().manual_seed(10))
    weight = (later.losses - known) / later.unweighted
    assert float(weight.max() / weight.min()) > 2
    assert not VariationalLoss(8, levels="all", times=LossSecondMoment()).adapts
    assert VariationalLoss(8, levels="all").evaluate(mixture, x, torch.Generator()).times is None


def test_levels_follow_the_time() -> None:
    """Levels that t = j/K draws on a chain are the chain's own, each once."""
    chain = Chain.ddpm(LINE, 12)
    path = chain.path(smooth_reference(LINE))
    t = torch.arange(1, 13, dtype=torch.float64) / 12
    assert VariationalLoss(12, chain.time_grid()).level_at(path, t).tolist() == list(range(11, -1, -1))


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: VariationalLoss(0), "steps must be a whole number, at least 1; got 0"),
    (lambda: VariationalLoss(4, variance="uper"), "unknown variance 'uper'. Did you mean 'upper'?"),
    (lambda: VariationalLoss(4, variance=1.5), "must lie in"),
    (lambda: VariationalLoss(4, levels="two"), "'levels' is one or all; got 'two'"),  # type: ignore[arg-type]
    (lambda: VariationalLoss(4, "LogSpace"), "unknown time grid 'LogSpace'. Did you mean 'LogSpaced'?"),
    (lambda: VariationalLoss(4, drop_condition=1.0), "'drop_condition' must lie in"),
    (lambda: ContinuousVariationalLoss(decoder="upper"), "'decoder' is one of reference, learned; got 'upper'"),  # type: ignore[arg-type]
    (lambda: ContinuousVariationalLoss(decoder_share=0.0), "'decoder_share' must lie in"),
    (lambda: VariationalLoss()(torch.nn.Identity(), torch.zeros(2, 1, 5), torch.Generator()), "needs a denoiser"),
]


@pytest.mark.parametrize("ask, words", REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_refused(ask: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        ask()
