"""Time samplings: the mean of the weighted loss is that over t, the density is the one that is claimed, and it pays."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.condition import Condition, Given
from physdiff.denoisers import Denoiser
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.objectives import ChainLevels, DenoisingLoss, TimeSampling, time_samplings
from physdiff.objectives.adaptive_times import LossSecondMoment
from physdiff.objectives.tabulated_times import LikelihoodImportance, LogNormal
from physdiff.objectives.times import Levels, Stratified, Uniform
from physdiff.objectives.weighting import ModeLikelihood
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import RowDraws
from physdiff.solvers.noise_grids import log_noise_level

PLANE = SpectralBasis(Grid((4, 3), (1.0, 1.5), ("periodic", "neumann")))
LAW = smooth_reference(PLANE)
PATH = ReferencePath(fit_clock(AdvectionDiffusion(PLANE, 0.02, 0.4, (0.3, 0.0)), LAW), LAW)
VP = ReferencePath(fit_clock(VariancePreserving(PLANE), LAW), LAW)
OWN = [cls for cls in time_samplings.classes().values() if cls not in (Levels, ChainLevels)]
CONTINUOUS = [one for cls in OWN for one in cls.examples()]
FAIR = [one for one in CONTINUOUS if not (isinstance(one, LogNormal) and one.emphasis)]


class Silent(nn.Module):
    def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        return torch.zeros_like(x)


def draws(seed: int, n: int) -> RowDraws:
    return RowDraws(torch.Generator().manual_seed(seed), n)


def seen(sampling: TimeSampling, path: ReferencePath = PATH, batches: int = 40, n: int = 250) -> tuple[Tensor, Tensor]:
    """Times and weights of many batches."""
    found = [sampling.draw(path, draws(seed, n)) for seed in range(batches)]
    return torch.cat([one.t for one in found]), torch.cat([one.weight for one in found])


def taught(sampling: TimeSampling) -> TimeSampling:
    """The same with losses observed, if it adapts: large at small times."""
    for seed in range(60):
        t = draws(seed, 32).stratified()
        sampling.observe(t, 0.05 + torch.exp(-8 * t))
    return sampling


def steep(t: Tensor) -> Tensor:
    """A loss that varies by two orders over t."""
    return torch.exp(-5 * t) + 0.2 * t.square()


def mean_of_steep(path: ReferencePath) -> float:
    a, b = path.t_min, 1.0
    exponential = (math.exp(-5 * a) - math.exp(-5 * b)) / 5
    return (exponential + 0.2 * (b**3 - a**3) / 3) / (b - a)


@pytest.mark.parametrize("sampling", FAIR, ids=str)
def test_the_mean_of_the_weighted_loss_is_that_over_t(sampling: TimeSampling) -> None:
    sampling = taught(replace(sampling))  # pyright: ignore[reportArgumentType]
    t, weight = seen(sampling)
    assert bool((t >= PATH.t_min).all()) and bool((t <= 1).all()) and bool((weight > 0).all())
    value = (weight * steep(t)).reshape(40, -1).mean(1)  # rows of a batch are not independent
    error = float(value.std()) / math.sqrt(len(value))
    print(f"{value.mean():.5f} ± {error:.5f}, exact {mean_of_steep(PATH):.5f}")
    assert abs(float(value.mean()) - mean_of_steep(PATH)) < 4 * error + 1e-9
    assert error < 0.01 * mean_of_steep(PATH)  # a missing weight would be seen


def test_levels_are_those_of_the_chain_equally_often() -> None:
    t, weight = seen(Levels(20), batches=10, n=200)
    levels, counts = (t * 20).round().unique(return_counts=True)
    first = math.ceil(PATH.t_min * 20)
    assert levels.tolist() == list(range(first, 21)) and float((t * 20 - (t * 20).round()).abs().max()) < 1e-12
    assert int(counts.max() - counts.min()) <= 2 * 10  # within one of its share at either end
    assert bool((weight == 1).all())


def distribution(sampling: TimeSampling, path: ReferencePath, t: Tensor) -> Tensor:
    """The distribution function that is claimed, from the path itself."""
    even = (t - path.t_min) / (1 - path.t_min)
    ends = torch.tensor([path.t_min, 1.0], dtype=torch.float64)

    def rising(at: Tensor) -> Tensor:
        point = path.at(at)
        if isinstance(sampling, LogNormal):
            return torch.from_numpy(stats.norm.cdf(log_noise_level(point), sampling.mean, sampling.std))
        return -0.5 * torch.log(point.variance / point.noise_variance).flatten(1).sum(1)

    if not isinstance(sampling, (LogNormal, LikelihoodImportance)):
        return even
    low, high = rising(ends)
    own = (rising(t) - low) / (high - low)
    return own * (1 - sampling.uniform_share) + sampling.uniform_share * even


@pytest.mark.parametrize("path", [PATH, VP], ids=["advection", "vp"])
@pytest.mark.parametrize("sampling", CONTINUOUS, ids=str)
def test_density_is_as_claimed(sampling: TimeSampling, path: ReferencePath) -> None:
    """Independent draws by one row a batch; Kolmogorov and Smirnov's statistic, and the weight against slopes."""
    found = [sampling.draw(path, draws(seed, 1)) for seed in range(2000)]
    t = torch.cat([one.t for one in found])
    ks = stats.kstest(distribution(sampling, path, t).clamp(0, 1).numpy(), "uniform")
    print(f"KS {ks.statistic:.4f}, p = {ks.pvalue:.3f}")
    assert ks.pvalue > 1e-4
    if isinstance(sampling, LogNormal) and sampling.emphasis:
        return
    weight, h = torch.cat([one.weight for one in found]), 1e-3
    inside = (t > path.t_min + h) & (t < 1 - h)
    slope = (distribution(sampling, path, t + h) - distribution(sampling, path, t - h))[inside] / (2 * h)
    product = weight[inside] * slope * (1 - path.t_min)
    assert float((product - 1).abs().mean()) < 0.01  # of a density that is constant in cells of 1/512


def test_stratified_rows_are_one_in_each_share_of_their_own_distribution() -> None:
    n = 64
    for sampling in (Stratified(), LogNormal(), LikelihoodImportance(0.2)):
        t = sampling.draw(PATH, draws(3, n)).t
        share = distribution(sampling, PATH, t).sort().values
        place = torch.arange(n) / n
        assert bool(((share > place - 2e-3) & (share < place + 1 / n + 2e-3)).all()), sampling  # cells of the table
    assert len(Uniform().draw(PATH, draws(3, n)).t.unique()) == n


@pytest.mark.parametrize("sampling", [Uniform(), LogNormal(), Levels(50), LossSecondMoment(8, 2)], ids=str)
def test_rows_of_a_split_batch_see_the_numbers_of_the_whole(sampling: TimeSampling) -> None:
    whole = taught(sampling).draw(PATH, draws(5, 12))
    parts = [sampling.draw(PATH, RowDraws(torch.Generator().manual_seed(5), 12, rows)) for rows in
             (slice(0, 5), slice(5, 6), slice(6, 12))]  # fmt: skip
    assert torch.equal(torch.cat([p.t for p in parts]), whole.t)
    assert torch.equal(torch.cat([p.weight for p in parts]), whole.weight)


# ---- adaptive


def test_second_moments_decide_the_density_once_every_bin_is_known() -> None:
    sampling = LossSecondMoment(bins=4, history=3, uniform_share=0.01)
    even = torch.linspace(0, 1, 9)[1::2].to(torch.float64)  # the middle of each bin
    for step in range(2):
        sampling.observe(even, torch.full((4,), float(step + 1)))
    torch.testing.assert_close(sampling.draw(VP, draws(0, 8)).weight, torch.ones(8, dtype=torch.float64))
    before = sampling.table(VP)
    torch.testing.assert_close(before.cumulative, (before.nodes - VP.t_min) / (1 - VP.t_min))
    history = torch.tensor([[9.0, 9, 9, 9], [4, 1, 0, 2], [4, 1, 3, 2], [4, 1, 0, 2]], dtype=torch.float64)
    for losses in history:  # the first is forgotten again
        sampling.observe(even, losses)
    size = history[1:].square().mean(0).sqrt() * before.nodes.diff()
    own = torch.cat([torch.zeros(1), size.cumsum(0) / size.sum()])
    uniform = (before.nodes - VP.t_min) / (1 - VP.t_min)
    torch.testing.assert_close(sampling.table(VP).cumulative, 0.99 * own + 0.01 * uniform, rtol=1e-12, atol=0)


def test_state_of_a_resumed_run_is_the_same_to_the_bit() -> None:
    straight, first, second = (LossSecondMoment(8, 4) for _ in range(3))
    for step in range(30):
        t = draws(step, 16).stratified()
        straight.observe(t, steep(t))
        (first if step < 17 else second).observe(t, steep(t))
        if step == 16:
            second.load_state_dict({name: x.clone() for name, x in first.state_dict().items()})
    assert all(torch.equal(x, second.state_dict()[name]) for name, x in straight.state_dict().items())
    a, b = (one.draw(PATH, draws(9, 32)) for one in (straight, second))
    assert torch.equal(a.t, b.t) and torch.equal(a.weight, b.weight)
    assert not torch.equal(a.t, first.draw(PATH, draws(9, 32)).t)
    with pytest.raises(ValueError, match="the state of LossSecondMoment times is of other settings"):
        LossSecondMoment(4, 4).load_state_dict(straight.state_dict())
    with pytest.raises(ValueError, match="Uniform times have no state; got losses, counts"):
        Uniform().load_state_dict(straight.state_dict())


def test_an_objective_hands_its_state_on() -> None:
    objective = DenoisingLoss(times=LossSecondMoment(4, 1))
    assert objective.adapts and not DenoisingLoss().adapts and DenoisingLoss().state_dict() == {}
    denoiser = Denoiser(Silent(), PATH)
    x = LAW.sample(24, torch.Generator().manual_seed(0))
    found = objective.evaluate(denoiser, x, torch.Generator().manual_seed(1))
    assert found.times is not None
    objective.observe(found.times, found.unweighted)
    other = DenoisingLoss(times=LossSecondMoment(4, 1))
    other.load_state_dict(objective.state_dict())
    again = [one.evaluate(denoiser, x, torch.Generator().manual_seed(2)) for one in (objective, other)]
    assert torch.equal(again[0].losses, again[1].losses)
    assert not torch.equal(again[0].losses, again[0].unweighted)
    assert int(objective.state_dict()["counts"].sum()) == 24


# ---- what it is for


def test_importance_sampling_lowers_the_variance_of_likelihood_weighting() -> None:
    """Losses of the Wiener filter on Gaussian data: with p ∝ their mean only χ² noise is left."""
    x = LAW.sample(4000, torch.Generator().manual_seed(0))
    denoiser = Denoiser(Silent(), PATH, 1.0)
    spread = {}
    for sampling in (Uniform(), LikelihoodImportance(0.0), taught(LossSecondMoment(16, 4))):
        loss = DenoisingLoss(ModeLikelihood(), sampling)(denoiser, x, torch.Generator().manual_seed(1))
        spread[type(sampling).__name__] = float(loss.var())
        assert abs(float(loss.mean()) - 1) < 4 * float(loss.std()) / math.sqrt(len(x))
        print(f"{sampling}: mean {loss.mean():.3f}, variance {loss.var():.3f}")
    assert spread["LikelihoodImportance"] < 0.5 * spread["Uniform"]


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_conditions_are_dropped_in_training_alone(rate: float) -> None:
    told: list[Condition] = []

    class Listening(Silent):
        def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
            assert isinstance(condition, Condition)
            told.append(condition)
            return torch.zeros_like(x)

    n = 2000
    x, condition = LAW.sample(n, torch.Generator().manual_seed(0)), Condition(scalars=torch.zeros(n, 1))
    denoiser = Denoiser(Listening(), PATH)
    loss = DenoisingLoss(drop_condition=rate)
    loss(denoiser, x, torch.Generator().manual_seed(1), condition)
    loss(denoiser.eval(), x, torch.Generator().manual_seed(1), condition)
    assert told[1].present is None
    if rate == 0:
        assert told[0].present is None
        return
    assert told[0].present is not None
    dropped = 1 - float(told[0].present.double().mean())
    assert abs(dropped - rate) < 4 * math.sqrt(rate * (1 - rate) / n)


def test_settings_are_checked() -> None:
    for make, message in (
        (lambda: LogNormal(std=0.0), "LogNormal needs a finite 'mean' and a positive, finite 'std'"),
        (lambda: LogNormal(uniform_share=1.0), r"LogNormal: 'uniform_share' must lie in \[0, 1\); got 1.0"),
        (lambda: Levels(0), "'steps' must be a whole number of at least 1; got 0"),
        (lambda: LossSecondMoment(bins=0), "LossSecondMoment: 'bins' must be a whole number of at least 1; got 0"),
        (lambda: DenoisingLoss(drop_condition=1.0), r"DenoisingLoss: 'drop_condition' must lie in \[0, 1\); got 1.0"),
        (lambda: DenoisingLoss("snr"), "DenoisingLoss: 'weighting' must be a physdiff.objectives.Weighting; got 'snr'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
