"""Traces of known Jacobians: exact, by signs, by a sketch; balanced products; as many probes as a target needs."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import MixtureDenoiser
from physdiff.estimate import Solved, estimated, student_interval, target_reached
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.likelihood import log_likelihood
from physdiff.path import ReferencePath
from physdiff.probability_flow import ProbabilityFlow
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.trace import ExactTrace, Hutchinson, HutchPlusPlus, TraceEstimator

torch.set_num_threads(1)
SHAPE = (2, 3, 4)
SUPPORT = torch.ones(SHAPE, dtype=torch.bool).index_fill(2, torch.tensor([3]), False)
BASIS = SpectralBasis(Grid((3, 4)))


def jacobian(rank: int | None, seed: int = 0, size: int = 24) -> Tensor:
    """A matrix of some rank, on the modes of the support."""
    g = torch.Generator().manual_seed(seed)
    j = torch.randn(size, size, generator=g, dtype=torch.float64)
    if rank is not None:
        j = sum(torch.outer(*torch.randn(2, size, generator=g, dtype=torch.float64)) for _ in range(rank))  # type: ignore[assignment]
    live = SUPPORT.flatten() if size == 24 else torch.ones(size, dtype=torch.bool)
    return j * live * live.unsqueeze(1)


def divergences(estimator: TraceEstimator, j: Tensor, samples: int, seed: int = 0) -> Tensor:
    """Estimates, shape (samples, columns), of the trace of z ↦ J z."""
    seeds = list(range(1000 * seed, 1000 * seed + samples))
    probes = estimator.probes(seeds, BASIS, SUPPORT)
    z = torch.zeros(samples, *SHAPE, dtype=torch.float64)
    v, found = estimator.along(lambda z: (z.flatten(1) @ j.T).unflatten(1, SHAPE), z, probes, SUPPORT)
    assert v.shape == z.shape and not found.requires_grad
    return found


@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_the_exact_trace_is_the_trace(chunk: int | None) -> None:
    j = jacobian(None)
    found = divergences(ExactTrace(chunk), j, 3)
    torch.testing.assert_close(found, j.trace().expand(3, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimator", [Hutchinson(6), Hutchinson(6, space="cells"), HutchPlusPlus(9)], ids=str)
def test_estimates_are_right_in_the_mean(estimator: TraceEstimator) -> None:
    j, n = jacobian(None) + 2 * torch.diag(SUPPORT.flatten().double()), 3000
    found = divergences(estimator, j, n).mean(1)
    error = float(found.std()) / math.sqrt(n)
    print(f"{float(found.mean() - j.trace()) / error:+.2f} standard errors of {error:.3f}")
    assert abs(float(found.mean() - j.trace())) < 4 * error


def test_the_variance_of_a_probe_is_that_of_the_pairs() -> None:
    """½ Σ_{i≠j} (J_ij + J_ji)², to 4 relative standard errors of a variance of n draws with its kurtosis."""
    j, n = jacobian(None), 4000
    found = divergences(Hutchinson(1), j, n)[:, 0]
    pairs = (j + j.T) - torch.diag(torch.diag(j + j.T))
    exact = 0.5 * float(pairs.square().sum())
    kurtosis = float(((found - found.mean()) / found.std()).pow(4).mean())
    assert abs(float(found.var()) / exact - 1) < 4 * math.sqrt((kurtosis - 1) / n)
    diagonal = torch.diag(torch.diag(j))
    assert float(divergences(Hutchinson(1), diagonal, 9).std()) < 1e-12
    assert float(divergences(Hutchinson(1, space="cells"), diagonal, 9).std()) > 0.1


def test_a_sketch_leaves_nothing_of_few_directions() -> None:
    j = jacobian(3)
    found = divergences(HutchPlusPlus(12), j, 5)
    assert found.shape == (5, 4)
    torch.testing.assert_close(found, j.trace().expand(5, 4), rtol=0, atol=1e-10)
    assert float(divergences(Hutchinson(12), j, 5).mean(1).std()) > 0.1


def test_when_a_sketch_pays() -> None:
    """With the same products: where singular values fall fast, and not where they are all alike."""
    q, _ = torch.linalg.qr(jacobian(None))
    live = SUPPORT.flatten().to(torch.float64)
    for decay, pays in ((0.5, True), (1.0, False)):
        j = q @ torch.diag(decay ** torch.arange(24, dtype=torch.float64)) @ q.T * live * live.unsqueeze(1)
        ours, theirs = (float(divergences(e, j, 800).mean(1).std()) for e in (HutchPlusPlus(12), Hutchinson(12)))
        print(f"decay {decay}: sketch {ours:.2g}, signs alone {theirs:.2g}")
        assert (ours < 0.7 * theirs) == pays


def steep(process: LinearProcess) -> tuple[MixtureDenoiser, Tensor]:
    """Eight Gaussians with a spectrum over three decades, and states of it."""
    basis = process.basis
    c = GaussianField.power_law(basis, 4.0, channels=1).spectrum + 1e-3
    g = torch.Generator().manual_seed(3)
    means = 0.8 * c.sqrt() * torch.randn(8, *c.shape, generator=g, dtype=torch.float64)
    weights, spectra = torch.ones(8, dtype=torch.float64), (0.3 * c).expand(means.shape)
    reference = MixtureDenoiser.reference(basis, weights, means, spectra)
    law = MixtureDenoiser(ReferencePath(fit_clock(process, reference), reference, 0.1), weights, means, spectra)
    return law, law.path.at(0.1).noised(law.sample_modes(4, g), g)


@pytest.mark.parametrize("cls", [VariancePreserving, Heat, AdvectionDiffusion])
def test_balanced_products_see_a_symmetric_jacobian(cls: type) -> None:
    """D J D⁻¹ of an exact posterior mean, from unit vectors: symmetric, with the trace of J, and smaller."""
    law, _ = steep(cls(SpectralBasis(Grid((4, 4)))))
    log_time = law.path.at(0.7).time.log()  # a state between the Gaussians, which couples modes
    z = 0.3 * torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    units = torch.eye(16, dtype=torch.float64).reshape(1, 16, 1, 4, 4)

    class Units(Hutchinson):
        def divergence(self, products: object, probes: Tensor, support: Tensor) -> Tensor:
            self.seen.append(torch.cat([products(e.unsqueeze(0)) for e in probes.movedim(1, 0)]))  # type: ignore[operator]
            return super().divergence(products, probes, support)  # type: ignore[arg-type]

    estimator = Units(16)
    object.__setattr__(estimator, "seen", [])
    ProbabilityFlow(law, None, estimator, units)(log_time.reshape(1), z)
    balanced = estimator.seen[0].flatten(1)  # type: ignore[attr-defined]
    plain = torch.func.jacrev(lambda z: law.velocity(z, log_time.exp()))(z).reshape(16, 16)
    asymmetry = float((balanced - balanced.T).norm() / balanced.norm())
    print(
        f"{cls.__name__}: asymmetry {asymmetry:.1e}; size {float(balanced.norm()):.3f}, plain {float(plain.norm()):.3f}"
    )
    assert asymmetry < 1e-12
    assert abs(float(balanced.trace() - plain.trace())) < 1e-12 * float(plain.norm())
    assert float(balanced.norm()) < 0.98 * float(plain.norm())


# ---- as many probes as a target needs


def probed(estimator: Hutchinson, j: Tensor, samples: int) -> dict[str, Tensor]:
    """The two stages on the trace of a known matrix."""

    def solve(rows: Tensor | None, block: int) -> Solved:
        seeds = list(range(samples)) if rows is None else rows.tolist()
        support = torch.ones(1, len(j), dtype=torch.bool)
        probes = estimator.probes(seeds, SpectralBasis(Grid(len(j))), support, block)
        z = torch.zeros(len(seeds), *support.shape, dtype=torch.float64)
        _, found = estimator.along(lambda z: z @ j.T, z, probes, support)
        return Solved(z, found, torch.ones(len(seeds), dtype=torch.int64))

    return estimated(estimator, solve)


@pytest.mark.parametrize("first", [4, 16])
def test_two_stages_reach_the_target_and_cover(first: int) -> None:
    """R = 600 estimates, each with its number of probes; the covered lie in the binomial's 99.9 % interval at 95 %."""
    j, repeats = jacobian(None, size=64), 600
    spread = math.sqrt(0.5 * float((j + j.T - torch.diag(torch.diag(j + j.T))).square().sum()))
    estimator = Hutchinson(first, target=spread / 8, most=10_000)
    found = probed(estimator, j, repeats)
    truth = float(j.trace())
    low, high = student_interval(found["log_prob"], found["standard_error"], first, estimator.degrees_of_freedom, 0.95)
    covered = int(((low <= truth) & (truth <= high)).sum())
    least, most = stats.binom.interval(0.999, repeats, 0.95)
    probes = found["probes"].double()
    print(
        f"K = {first}: {covered} of {repeats} covered ({least:.0f} to {most:.0f}); {float(probes.mean()):.0f} probes "
        f"({probes.min():.0f} to {probes.max():.0f}), 64 in the mean if the spread were known"
    )
    assert least <= covered <= most
    assert float(found["standard_error"].max()) <= spread / 8
    assert bool(target_reached(estimator, found["standard_error"]).all())  # type: ignore[union-attr]
    # n ∝ s², whose mean is the variance; rounded up to whole blocks.
    assert 60 < float(probes.mean()) < 70 + first and float(probes.min()) < 50 < 90 < float(probes.max())
    assert torch.equal(found["evaluations"], found["probes"] // first)


def test_a_target_that_is_not_reached_is_marked() -> None:
    law, y = steep(VariancePreserving(SpectralBasis(Grid((4, 4)))))
    x = law.path.basis.inverse(y)
    settings = {"scored": "state", "method": "rk4", "steps": 4}
    plain = log_likelihood(law, x, trace=Hutchinson(4), **settings)  # type: ignore[arg-type]
    middle = float(plain.standard_error.sort().values[1:3].mean()) / 2
    found = log_likelihood(law, x, trace=Hutchinson(4, target=middle, most=16), **settings)  # type: ignore[arg-type]
    assert found.target_reached is not None
    expected = torch.ceil((plain.standard_error / middle).square()).clamp(max=4)
    assert torch.equal(found.probes_per_field, (4 * expected).long()) and found.probes == 16
    assert torch.equal(found.target_reached, found.standard_error <= middle)
    assert found.target_reached.any() and not found.target_reached.all()
    assert plain.target_reached is None
    alone = log_likelihood(law, x[2:], first=2, trace=Hutchinson(4, target=middle, most=16), **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(alone.log_prob, found.log_prob[2:], rtol=0, atol=1e-11)
    enough = plain.standard_error <= middle  # they took the first stage alone
    torch.testing.assert_close(found.log_prob[enough], plain.log_prob[enough], rtol=0, atol=1e-12)


def test_what_is_refused() -> None:
    for make, words in (
        (lambda: Hutchinson(0), "at least 1 probe; got 0"),
        (lambda: Hutchinson(4, space="pixels"), "'modes' or 'cells'; got space = 'pixels'"),  # type: ignore[arg-type]
        (lambda: Hutchinson(4, target=0.0), "target above 0 nats, and finite; got 0.0"),
        (lambda: Hutchinson(1, target=0.1), "at least 2 probes to reach a target"),
        (lambda: Hutchinson(8, target=0.1, most=4), "most >= count = 8; got most = 4"),
        (lambda: HutchPlusPlus(2), "at least 3 products; got 2"),
        (lambda: ExactTrace(0), "at least 1 mode; got 0"),
        (lambda: HutchPlusPlus(60).probes([0], BASIS, SUPPORT), "sketches 20 directions; these fields have 18 modes"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
