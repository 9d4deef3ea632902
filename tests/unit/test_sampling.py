"""The sampling loop: an untrained model samples its reference in one step; a sample does not depend on its batch."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from physdiff.basis import SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser, EmpiricalDenoiser, MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import SampleNoise, keyed_generator
from physdiff.solvers import Ancestral, Heun, LogSpaced, ReferenceSplitting, ReverseDynamics, Solver, Uniform, sample

GRIDS = [
    Grid(9), Grid(8, 1.0, "neumann"), Grid(8, 1.0, "dirichlet"), Grid((4, 5), 1.0, ("periodic", "neumann")),
    Grid((3, 4), 1.0, ("dirichlet", "periodic")),
]  # fmt: skip
SAMPLES, FAMILY_LEVEL = 1000, 1e-3


class Untrained(nn.Module):
    """A network as it is made: parameters, and an output of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.last * x


@pytest.mark.parametrize("cls", [VariancePreserving, Heat, Matern], ids=lambda c: c.__name__)
@pytest.mark.parametrize("solver", [ReferenceSplitting(), Ancestral()], ids=lambda s: type(s).__name__)
def test_untrained_model_samples_the_reference_in_one_step(cls: type, solver: Solver) -> None:
    """Chi-square of each mode's power and a normal test of its mean: 1,000 samples a case, five boundary types,
    family-wise level 1e-3 over all modes of all grids, split equally (Bonferroni), two-sided."""
    tails: list[float] = []
    for grid in GRIDS:
        reference = smooth_reference(SpectralBasis(grid))
        path = ReferencePath(fit_clock(cls(reference.basis), reference), reference)
        x = sample(Denoiser(Untrained(), path), SAMPLES, steps=1, solver=solver, seed=7, chunk=SAMPLES)
        y = (reference.basis.forward(x) - reference.mean) / reference.spectrum.sqrt()
        power, mean = y.square().sum(0).flatten().numpy(), (y.mean(0) * math.sqrt(SAMPLES)).flatten().numpy()
        tails += list(2 * stats.chi2.cdf(power, SAMPLES).clip(max=0.5))
        tails += list(2 * stats.chi2.sf(power, SAMPLES).clip(max=0.5))
        tails += list(2 * stats.norm.sf(abs(mean)))
    tests = len(tails) * 2 // 3  # each mode has one chi-square, of two tails, and one mean
    print(f"{cls.__name__}: smallest of {tests} p-values {min(tails):.1e}, Bonferroni level {FAMILY_LEVEL / tests:.1e}")
    assert min(tails) > FAMILY_LEVEL / tests


def test_modes_of_one_step_samples_are_uncorrelated() -> None:
    reference = GaussianField.power_law(SpectralBasis(Grid((4, 4))), 2.0)
    path = ReferencePath(fit_clock(Heat(reference.basis), reference), reference)
    x = sample(Denoiser(Untrained(), path), 2000, steps=1, chunk=2000)
    assert float(reference.basis.forward(x)[:, ~reference.support].abs().max()) < 1e-14
    y = reference.basis.forward(x)[:, reference.support] / reference.spectrum[reference.support].sqrt()
    correlation = y.T @ y / 2000
    z = float((correlation - torch.diag(correlation.diagonal())).abs().max()) * math.sqrt(2000)
    print(f"largest |z| of {15 * 14 // 2} correlations: {z:.2f}")
    assert z < 4.7  # 1e-4 … 3e-4 family-wise


@pytest.fixture(scope="module")
def mixture() -> MixtureDenoiser:
    reference = smooth_reference(SpectralBasis(Grid((3, 4))))
    return bimodal(fit_clock(AdvectionDiffusion(reference.basis, 0.02, 0.4, (0.3, 0.2)), reference), reference, 0.05)


@pytest.mark.parametrize("time_grid", [LogSpaced(), Uniform()], ids=lambda g: type(g).__name__)
def test_many_steps_reach_the_mixtures_moments(mixture: MixtureDenoiser, time_grid: LogSpaced) -> None:
    n, reference = 4000, mixture.path.reference
    y = mixture.path.basis.forward(sample(mixture, n, steps=48, time_grid=time_grid, seed=5, chunk=n)) - reference.mean
    mean = y.mean(0) / (y.var(0) / n).sqrt()
    # The mixture's own variance: at k and −k it differs, while the reference's is tied.
    weights = mixture.log_weights.exp().reshape(-1, 1, 1, 1)
    truth = (weights * (mixture.spectra + (mixture.means - reference.mean).square())).sum(0)
    fourth = (y - y.mean(0)).pow(4).mean(0)
    spread = (y.var(0) - truth) / ((fourth - y.var(0).square()) / n).sqrt()
    print(f"largest |z| of {n} samples: mean {mean.abs().max():.2f}, variance {spread.abs().max():.2f}")
    # The start leaves out what the data remembers at t = 1, at most 2 % of a mode's variance.
    assert float(mean.abs().max()) < 5 and float(spread.abs().max()) < 5


def test_sampling_the_data_set_returns_the_data(mixture: MixtureDenoiser) -> None:
    data = mixture.path.basis.inverse(mixture.sample_modes(5, torch.Generator().manual_seed(6)))
    x = sample(EmpiricalDenoiser(mixture.path, data), 20, steps=64, seed=1)
    distance = torch.cdist(x.flatten(1), data.flatten(1)).min(1).values
    spread = float(data.flatten(1).std())
    print(f"largest distance to the data {distance.max():.1e}, its spread {spread:.2f}")
    assert float(distance.max()) < 1e-3 * spread


def test_callback_sees_every_step_and_condition_its_chunk(mixture: MixtureDenoiser) -> None:
    seen: list[float] = []
    sample(mixture, 3, steps=4, chunk=3, callback=lambda t, y: seen.append(float(t)))
    assert len(seen) == 4 and seen[-1] == 0.0 and seen[-2] == mixture.path.t_min
    heard: list[Tensor] = []

    class Conditioned(nn.Module):
        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            assert condition is not None
            heard.append(condition)
            return torch.zeros_like(x)

    sample(Denoiser(Conditioned(), mixture.path), 5, steps=1, chunk=2, condition=torch.arange(5))
    assert [h.tolist() for h in heard] == [[0, 1], [2, 3], [4]]


def test_noise_is_keyed_by_what_it_is_for() -> None:
    streams = [keyed_generator(*key).initial_seed() for key in ((0,), (1,), (0, 1), (0, "1"), (0, "a", 1), (0, "a", 2))]
    assert len(set(streams)) == len(streams)
    both, first = SampleNoise([3, 4], "solver"), SampleNoise([3], "solver")
    for _ in range(2):
        assert torch.equal(both((2, 3))[:1], first((2, 3)))
    n = 20_000
    x = SampleNoise([1, 2], "start")((n,))
    assert abs(float(x[0] @ x[1])) / math.sqrt(n) < 4.5
    before = torch.random.get_rng_state()
    SampleNoise([0], "start")((4,))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_refused(mixture: MixtureDenoiser) -> None:
    for arguments, words in (
        ({"n": 0}, "n and chunk must be whole numbers, at least 1; got n = 0"),
        ({"n": 1, "chunk": 0}, "chunk = 0"),
        ({"n": 1, "steps": 0}, "a whole number of steps, at least 1; got 0"),
    ):
        with pytest.raises(ValueError) as error:
            sample(mixture, **arguments)
        assert words in str(error.value)
    with pytest.raises(ValueError, match=r"'uncertainty' must lie in \[0, 1\]; got 2"):
        Ancestral(uncertainty=2)


@pytest.mark.parametrize("solver", [ReferenceSplitting(), Heun()], ids=lambda s: type(s).__name__)
def test_last_step_follows_the_flow_of_the_data(solver: Solver) -> None:
    """A short step to the clean field finds the one field that data consists of, to second order.

    The flow of a point mass ends in the point. The residual's part of the step is first order in the noise amplitude,
    its error second order: a fourth of the noise variance is half the share that is missed.
    """
    basis = SpectralBasis(Grid(8, 1.0, "neumann"))
    reference = GaussianField.matern(basis, 0.3)
    generator = torch.Generator().manual_seed(0)
    point, noise = reference.sample(1, generator), torch.randn(4, 1, 8, generator=generator, dtype=torch.float64)
    path = ReferencePath(VariancePreserving(basis, clock=LinearClock(1.0)), reference, 1e-9)
    denoiser, zero, shares = EmpiricalDenoiser(path, point), torch.zeros((), dtype=torch.float64), []
    for t in (4e-6, 1e-6):
        here = path.at(t)
        y = here.amplitude * basis.forward(point) + here.noise_variance.sqrt() * noise
        stepped = solver.step(ReverseDynamics(denoiser), y, torch.tensor(t, dtype=torch.float64), zero, lambda _: noise)
        without = path.at(0.0).unwhiten(here.whiten(y))
        missed, all_of_it = (float((x - basis.forward(point)).abs().max()) for x in (stepped, without))
        shares.append(missed / all_of_it)
        print(f"t = {t:.0e}: missed {missed:.2e} of {all_of_it:.2e}")
        assert shares[-1] < 0.1
    assert shares[0] / shares[1] == pytest.approx(2, rel=0.1)
