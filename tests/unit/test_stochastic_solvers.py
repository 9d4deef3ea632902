"""Stochastic step rules: against exact moments and laws, textbook formulae, and a fixed Brownian path.

The laws hold every rule to its order and exactness on Gaussian data; here is what Gaussian data cannot show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torchsde
from torch import Tensor

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import GaussianDenoiser, MixtureDenoiser, PosteriorMean
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import as_time, bimodal, smooth_reference, tilted
from physdiff.laws.stepping import carried
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import SampleNoise
from physdiff.solvers import (
    Ancestral,
    AnnealedLangevin,
    ChurnedHeun,
    EulerMaruyama,
    Heun,
    LogSpaced,
    PredictorCorrector,
    ReferenceSplitting,
    ReverseDynamics,
    SDEDPMSolver,
    Solver,
    TorchSDE,
    sample,
)
from physdiff.solvers.annealed_langevin import size_that_keeps_noise
from physdiff.solvers.torch_sde import ReverseSDE

EVERY = [
    Ancestral(variance="learned"), AnnealedLangevin(3), ChurnedHeun(), EulerMaruyama(), PredictorCorrector(),
    SDEDPMSolver(), TorchSDE("euler", 2), TorchSDE(tolerance=0.3),
]  # fmt: skip
named = {"ids": lambda solver: repr(solver)}


class Draws:
    """Unit normal noise for a whole batch from one generator."""

    def __init__(self, batch: int, seed: int) -> None:
        self.batch, self.generator = batch, torch.Generator().manual_seed(seed)

    def __call__(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(self.batch, *shape, generator=self.generator, dtype=torch.float64)


def sampled(denoiser: PosteriorMean, solver: Solver, steps: int, n: int) -> Tensor:
    """Clean modes, shape (n, channels, *grid)."""
    noise, dynamics, path = Draws(n, 1), ReverseDynamics(denoiser), denoiser.path
    y = path.at(1.0).unwhiten(noise(path.reference.spectrum.shape))
    for t, s in pairwise(LogSpaced().times(path, steps)):
        y = solver.step(dynamics, y, t, s, noise)
    return y


@pytest.fixture(scope="module")
def peaks() -> MixtureDenoiser:
    """One cell whose law is three sharp peaks, under variance preserving noise."""
    cell = IdentityBasis(Grid(1))
    weights, at, widths = (torch.tensor(x, dtype=torch.float64) for x in ((5, 3, 2), (-1, 1, 2), (0.05, 0.1, 0.02)))
    means, spectra = at.reshape(3, 1, 1), widths.reshape(3, 1, 1)
    process = fit_clock(VariancePreserving(cell), MixtureDenoiser.reference(cell, weights, means, spectra))
    return MixtureDenoiser.around_itself(process, weights, means, spectra, t_min=0.03)


def distance(denoiser: MixtureDenoiser, y: Tensor) -> float:
    """Wasserstein distance of samples of one cell from the mixture, ∫ |F_n − F| dx."""
    x = torch.linspace(-4, 5, 9001, dtype=torch.float64)
    shares, means, widths = (p.flatten() for p in (denoiser.log_weights.exp(), denoiser.means, denoiser.spectra))
    truth = (shares * torch.special.ndtr((x.unsqueeze(1) - means) / widths.sqrt())).sum(1)
    found = torch.searchsorted(y.flatten().sort().values, x, right=True).double() / len(y)
    return float((found - truth).abs().sum() * (x[1] - x[0]))


def noised(denoiser: MixtureDenoiser, t: float) -> MixtureDenoiser:
    """The mixture's own law at t, as a law of clean fields."""
    point = denoiser.path.at(t)
    spectra = point.amplitude.square() * denoiser.spectra + point.noise_variance
    return MixtureDenoiser(denoiser.path, denoiser.log_weights.exp(), point.amplitude * denoiser.means, spectra)


@pytest.fixture(scope="module")
def mixture() -> MixtureDenoiser:
    """Twelve modes that rotate and decay, a mixture of three."""
    reference = smooth_reference(SpectralBasis(Grid((3, 4))))
    return bimodal(fit_clock(AdvectionDiffusion(reference.basis, 0.02, 0.4, (0.3, 0.2)), reference), reference, 0.05)


# ---- the variance of ancestral steps


def test_what_the_model_knows_of_its_error_makes_few_steps_better(peaks: MixtureDenoiser) -> None:
    """Variance and law at 4, 8 and 16 steps. Sampling error of a variance 1 %, of a distance 0.01 (20,000 samples)."""
    truth, n = float(peaks.path.reference.spectrum), 20_000
    kinds = ("posterior", "upper", "reference", "learned")
    rows: dict[int, dict[str, tuple[float, float]]] = {}
    for steps in (4, 8, 16):
        found = {kind: sampled(peaks, Ancestral(variance=kind), steps, n) for kind in kinds}
        rows[steps] = {kind: (float(y.var()) / truth, distance(peaks, y)) for kind, y in found.items()}
        print(
            steps,
            "steps:",
            {kind: f"{v:.3f} of the variance, distance {d:.3f}" for kind, (v, d) in rows[steps].items()},
        )
    assert rows[4]["posterior"][0] < 0.5  # DDPM's smaller variance: far too narrow
    for steps, row in rows.items():
        assert row["posterior"][1] > row["reference"][1] > row["learned"][1]
        assert row["learned"][1] < (0.7 if steps == 4 else 0.55) * row["reference"][1]
    assert rows[16]["learned"][0] > 0.97


def test_learned_variance_is_exact_on_gaussian_data_whatever_the_reference() -> None:
    """A Gaussian step with the model's exact mean and variance has the exact law, in any number of steps."""
    reference = smooth_reference(SpectralBasis(Grid((3, 4))))
    path = ReferencePath(fit_clock(Matern(reference.basis, correlation_length=0.5), reference), reference, 0.05)
    data = tilted(reference)
    truth = ReferencePath(path.process, data, 0.05).at(1.0)
    start, root = (truth.mean.flatten(), torch.diag(truth.variance.flatten())), data.spectrum.flatten().sqrt()
    for steps in (1, 4):
        times = LogSpaced().times(path, steps)
        for kind, limit in (("learned", 1e-9), ("reference", math.inf)):
            solver = Ancestral(variance=kind)  # type: ignore[arg-type]
            mean, covariance = carried(solver, GaussianDenoiser(path, data), times, *start)
            error = float((covariance / (root * root.unsqueeze(1)) - torch.eye(12, dtype=torch.float64)).abs().max())
            missed = float(((mean - data.mean.flatten()) / root).abs().max())
            print(f"{steps} steps, {kind}: covariance {error:.1e}, mean {missed:.1e}")
            assert max(error, missed) <= limit
            assert limit < math.inf or error > 0.1


# ---- one rule at a time


def test_explicit_euler_maruyama_is_the_textbook_step(peaks: MixtureDenoiser) -> None:
    """x + Δτ [−A x + ½(1 + η²) n ∇log p(x)] + η√(nΔτ) ε on fields, with the score from the mixture's log-density."""
    path, process = peaks.path, peaks.path.process
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(5, 1, 1)
    noise, (t, s) = Draws(5, 0)((1, 1)), (as_time(0.6), as_time(0.55))
    with torch.enable_grad():
        given = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(peaks.log_prob(given, 0.6).sum(), given)
    now, duration = path.at(t).time, path.at(t).time - path.at(s).time
    drift, rate = process.drift_symbol(now), process.noise_spectrum(now)
    for scale in (0.0, 0.7, 1.0):
        wanted = (
            x + duration * (0.5 * (1 + scale**2) * rate * score - drift * x) + scale * (duration * rate).sqrt() * noise
        )
        # The rule moves the mean exactly: the textbook's own error of it, second order, is taken out.
        missed = path.at(s).mean - (1 - duration * drift) * path.at(t).mean
        found = EulerMaruyama(scale, implicit=False).step(ReverseDynamics(peaks), x, t, s, lambda _: noise)
        torch.testing.assert_close(found, wanted + missed, rtol=0, atol=1e-12)


def test_implicit_steps_are_stable_where_textbook_steps_explode() -> None:
    """White noise on stiff physics, rates of 20 to 10⁴ per step: the variance stays bounded, or does not."""
    basis = SpectralBasis(Grid(8, 1.0, "neumann"))
    reference = GaussianField.matern(basis, 0.3)
    process = Matern(basis, correlation_length=10.0, clock=LinearClock(2000.0))
    path = ReferencePath(process, reference, 1e-6)
    start = path.at(1.0)
    moments = start.mean.flatten(), torch.diag(start.variance.flatten())
    for implicit in (True, False):
        times = torch.linspace(1, 0.5, 21, dtype=torch.float64)
        _, covariance = carried(EulerMaruyama(1.0, implicit), GaussianDenoiser(path), times, *moments)
        widest = float((covariance.diagonal() / path.at(0.5).variance.flatten()).max())
        print(f"implicit {implicit}: {widest:.1e} of the variance")
        assert widest < 1.1 if implicit else widest > 1e6


def test_churn_forgets_errors() -> None:
    """A start of twice the right variance: the more is noised again, the less of the error is left in the end."""
    reference = smooth_reference(SpectralBasis(Grid(5)))
    path = ReferencePath(fit_clock(VariancePreserving(reference.basis), reference), reference, 0.05)
    start = path.at(0.4)
    times = torch.linspace(0.4, 0.05, 17, dtype=torch.float64)
    left = []
    for churn in (0.0, 0.5, 1.0, 2.0):
        moments = start.mean.flatten(), 2 * torch.diag(start.variance.flatten())
        _, covariance = carried(ChurnedHeun(churn), GaussianDenoiser(path), times, *moments)
        left.append(float((covariance.diagonal() / path.at(0.05).variance.flatten() - 1).min()))
    print("least excess of the variance:", [f"{x:.4f}" for x in left])
    assert left[0] == pytest.approx(1.0, abs=1e-9)
    assert all(after < 0.9 * before for before, after in pairwise(left))


def test_second_order_rules_beat_the_ancestral_one(peaks: MixtureDenoiser) -> None:
    """Distance from the law in 16 steps; sampling alone gives about 0.005 (100,000 samples)."""
    solvers = (Ancestral(), SDEDPMSolver(), SDEDPMSolver(0.3), SDEDPMSolver(1.0))
    found = {repr(solver): distance(peaks, sampled(peaks, solver, 16, 100_000)) for solver in solvers}
    print({name: f"{d:.4f}" for name, d in found.items()})
    first, *second = found.values()
    assert max(second) < 0.5 * first and second[0] < 0.2 * first


def test_the_size_that_keeps_noise_is_the_best_by_recursion() -> None:
    """v ← (1 − ε)²v + 2ε from v = γ²: no ε on a grid ends nearer to 1 (Song and Ermon, 2020, technique 4)."""
    for excess, corrections in ((1.5, 1), (1.05, 5), (4.0, 20)):
        size = size_that_keeps_noise(excess, corrections)

        def missed(size: Tensor, excess: float = excess, corrections: int = corrections) -> Tensor:
            variance = torch.full_like(size, excess)
            for _ in range(corrections):
                variance = (1 - size).square() * variance + 2 * size
            return (variance - 1).abs()

        least = float(missed(torch.linspace(1e-4, 1, 20_001, dtype=torch.float64)).min())
        own = float(missed(torch.tensor(size, dtype=torch.float64)))
        print(f"γ² = {excess}, T = {corrections}: ε = {size:.4f}, off by {own:.4f}, the least {least:.4f}")
        assert own <= least + 1e-4 and 0 < size < 1


def test_langevin_corrections_pull_a_wrong_state_to_the_law(peaks: MixtureDenoiser) -> None:
    """At one time, from a point in the middle: many corrections draw the mixture's own law at that time."""
    n, t = 20_000, as_time(0.75)
    point, law = peaks.path.at(t), noised(peaks, 0.75)
    for solver in (PredictorCorrector(100, 0.05), AnnealedLangevin(100, 0.1), AnnealedLangevin(100, 0.05, False)):
        y = solver.step(ReverseDynamics(peaks), point.mean.expand(n, 1, 1), t, t, Draws(n, 2))
        found = distance(law, y)
        print(f"{solver}: distance {found:.3f}, of the start {distance(law, point.mean.expand(n, 1, 1)):.3f}")
        assert found < 0.04


@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        (ChurnedHeun(), 32), (ChurnedHeun(1.0, rule=Heun()), 48), (SDEDPMSolver(), 48), (SDEDPMSolver(1.0), 48),
        (Ancestral(variance="learned"), 48), (PredictorCorrector(), 64), (TorchSDE(), 24),
    ],
    **named,
)  # fmt: skip
def test_many_steps_reach_the_mixtures_moments(mixture: MixtureDenoiser, solver: Solver, steps: int) -> None:
    n, reference = 500 if isinstance(solver, TorchSDE) else 4000, mixture.path.reference
    y = sampled(mixture, solver, steps, n) - reference.mean
    mean = y.mean(0) / (y.var(0) / n).sqrt()
    weights = mixture.log_weights.exp().reshape(-1, 1, 1, 1)
    truth = (weights * (mixture.spectra + (mixture.means - reference.mean).square())).sum(0)
    fourth = (y - y.mean(0)).pow(4).mean(0)
    spread = (y.var(0) - truth) / ((fourth - y.var(0).square()) / n).sqrt()
    print(f"largest |z| of {n} samples: mean {mean.abs().max():.2f}, variance {spread.abs().max():.2f}")
    assert float(mean.abs().max()) < 5 and float(spread.abs().max()) < 5  # 24 numbers; and 2 % are remembered at t = 1


@pytest.mark.parametrize("solver", EVERY, **named)
def test_a_sample_is_the_same_in_any_batch(mixture: MixtureDenoiser, solver: Solver) -> None:
    whole = sample(mixture, 4, steps=4, solver=solver, seed=3, chunk=4)
    parts = sample(mixture, 4, steps=4, solver=solver, seed=3, chunk=3)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    assert float((sample(mixture, 4, steps=4, solver=solver, seed=4) - whole).abs().min()) > 1e-6


# ---- torchsde


def test_strong_order_on_a_fixed_brownian_path(peaks: MixtureDenoiser) -> None:
    """Error of 128 paths from t = 1 to 0.5, where the law has begun to split, against 512 steps on the same paths.

    SRK is seen at 1.5 or more: its second-order part is the larger one until steps are very short.
    """
    brownian = torchsde.BrownianInterval(
        0.0, 1.0, size=(128, 1), dtype=torch.float64, entropy=7, levy_area_approximation="space-time", cache_size=None
    )
    z = torch.randn(128, 1, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def solved(method: str, steps: int) -> Tensor:
        equation = ReverseSDE(ReverseDynamics(peaks), as_time(1.0), as_time(0.5), (1, 1), 4.0)
        ends: Any = torchsde.sdeint(equation, z, times, bm=brownian, method=method, dt=1 / steps)
        return ends[-1]

    with torch.random.fork_rng([]):
        fine, found = solved("srk", 512), {}
        for method in ("srk", "euler"):
            errors = [float((solved(method, n) - fine).square().mean().sqrt()) for n in (16, 32, 64, 128)]
            found[method] = math.log2(errors[0] / errors[-1]) / 3, errors[-1]
            print(f"{method}: errors {[f'{e:.1e}' for e in errors]}, slope {found[method][0]:.2f}")
    assert found["srk"][0] > 1.4 and abs(found["euler"][0] - 1) < 0.25
    assert found["srk"][1] < 0.1 * found["euler"][1]


@pytest.mark.parametrize("fastest", [0.2, 4.0, math.inf])
def test_the_law_is_the_same_however_fast_modes_are_stirred(peaks: MixtureDenoiser, fastest: float) -> None:
    """Distance from the law at t = 0.2; sampling alone gives about 0.01 (8,000 samples)."""
    brownian = torchsde.BrownianInterval(0.0, 1.0, size=(8000, 1), dtype=torch.float64, entropy=3)
    z, times = Draws(8000, 4)((1,)), torch.tensor([0.0, 1.0], dtype=torch.float64)
    equation = ReverseSDE(ReverseDynamics(peaks), as_time(1.0), as_time(0.2), (1, 1), fastest)
    with torch.random.fork_rng([]):
        ends: Any = torchsde.sdeint(equation, z, times, bm=brownian, method="euler", dt=1 / 128)
    found = distance(noised(peaks, 0.2), peaks.path.at(0.2).unwhiten(ends[-1].unsqueeze(1)))
    print(f"{fastest}: distance {found:.3f}")
    assert found < 0.025


def test_torchsde_stays_in_range_and_leaves_the_global_state_alone(mixture: MixtureDenoiser) -> None:
    seen: list[float] = []

    class Watched(PosteriorMean):
        def residual(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            seen.append(float(t))
            assert condition is None or len(condition) == len(modes)
            return mixture.residual(modes, t)

    state = torch.random.get_rng_state()
    watched = Watched(mixture.path)
    for solver in (TorchSDE("srk", 3), TorchSDE("heun"), TorchSDE("midpoint"), TorchSDE(tolerance=0.1)):
        y = sample(watched, 3, steps=5, solver=solver, condition=torch.zeros(3, 1))
        assert bool(y.isfinite().all())
        assert float(sample(watched, 1, steps=1, solver=replace(solver, substeps=32)).abs().max()) < 10
    assert torch.equal(torch.random.get_rng_state(), state)
    assert min(seen) == mixture.path.t_min and max(seen) == 1.0


@pytest.mark.parametrize("solver", [TorchSDE(), TorchSDE("euler", 2)], **named)
def test_a_brownian_path_is_the_same_in_float32(solver: Solver) -> None:
    """Of 20 modes: torch draws 16 and more numbers by another algorithm, that of float32 from other bits."""
    reference = smooth_reference(SpectralBasis(Grid((4, 5))))
    path = ReferencePath(fit_clock(VariancePreserving(reference.basis), reference), reference, 0.05)
    y = path.at(1.0).unwhiten(Draws(2, 0)((1, 4, 5)))
    fine, coarse = (
        solver.step(
            ReverseDynamics(GaussianDenoiser(path)), state, as_time(1.0), as_time(0.4), SampleNoise([0, 1], "solver")
        )
        for state in (y, y.float())
    )
    off = float((fine - coarse).abs().max()) / float(fine.std())
    print(f"{solver}: off by {off:.1e} standard deviations")
    assert fine.dtype == torch.float64 and coarse.dtype == torch.float32
    assert 0 < off < 3e-6


def test_evaluations_of_torchsde(mixture: MixtureDenoiser) -> None:
    """As many as the method has stages: what torchsde asks for twice is answered from memory."""
    y, noise = mixture.path.at(1.0).unwhiten(Draws(2, 0)((1, 3, 4))), SampleNoise([0, 1], "solver")
    counts = {}
    for solver in (TorchSDE("euler", 4), TorchSDE("srk", 4), TorchSDE("heun", 4), TorchSDE("midpoint", 4)):
        dynamics = ReverseDynamics(mixture)
        solver.step(dynamics, y, as_time(1.0), as_time(0.9), noise)
        counts[solver.method] = dynamics.evaluations
        assert dynamics.evaluations <= 4 * solver.evaluations
    print(counts)
    spent = []
    for tolerance in (1e-1, 2e-2):
        dynamics = ReverseDynamics(mixture)
        TorchSDE(tolerance=tolerance).step(dynamics, y, as_time(1.0), as_time(0.8), noise)
        spent.append(dynamics.evaluations)
    assert spent[1] > 1.5 * spent[0]


def test_modes_without_noise_stay_at_the_mean() -> None:
    """Outside the support of the reference nothing is drawn, by any rule."""
    basis = SpectralBasis(Grid(6))
    spectrum = 1 / (1 + basis.laplacian)
    reference = GaussianField.centred(basis, torch.where(spectrum > spectrum.median(), spectrum, 0.0))
    path = ReferencePath(fit_clock(VariancePreserving(basis), reference), reference)
    outside = ~reference.support
    assert 0 < int(outside.sum()) < 6
    for solver in (*EVERY, ReferenceSplitting()):
        y = basis.forward(sample(GaussianDenoiser(path), 3, steps=4, solver=solver))
        assert float(y[:, outside].abs().max()) < 1e-14 and bool(y.isfinite().all())
        assert float(y[:, ~outside].abs().min()) > 1e-6


def test_what_is_refused() -> None:
    for cls, arguments, words in (
        (Ancestral, {"uncertainty": 2}, r"'uncertainty' must lie in \[0, 1\]; got 2"),
        (
            Ancestral,
            {"variance": "small"},
            "'variance' must be one of reference, learned, posterior, upper; got 'small'",
        ),
        (Ancestral, {"uncertainty": 0.5, "variance": "upper"}, "variance='upper' has none; got 0.5"),
        (EulerMaruyama, {"noise_scale": -1}, "'noise_scale' must be finite and ≥ 0; got -1"),
        (SDEDPMSolver, {"uncertainty": -0.1}, r"'uncertainty' must lie in \[0, 1\]; got -0.1"),
        (ChurnedHeun, {"churn": math.inf}, "'churn' must be finite and ≥ 0; got inf"),
        (ChurnedHeun, {"earliest": 0.5, "latest": 0.2}, "earliest = 0.5, latest = 0.2"),
        (ChurnedHeun, {"rule": Ancestral()}, "'rule' must be a single step of the probability flow"),
        (PredictorCorrector, {"corrections": 0}, "'corrections' must be a whole number, at least 1; got 0"),
        (ChurnedHeun, {"rule": "Heun"}, "'rule' must be a single step of the probability flow.*got 'Heun'"),
        (PredictorCorrector, {"predictor": "x"}, "'predictor' must be a rule of single steps.*got 'x'"),
        (PredictorCorrector, {"corrections": 1.5}, "'corrections' must be a whole number, at least 1; got 1.5"),
        (AnnealedLangevin, {"corrections": 2.5}, "'corrections' must be a whole number, at least 1; got 2.5"),
        (TorchSDE, {"substeps": 2.5}, "'substeps' must be a whole number, at least 1; got 2.5"),
        (PredictorCorrector, {"step_size": 1.5}, r"'step_size' must lie in \(0, 1\]; got 1.5"),
        (PredictorCorrector, {"predictor": SDEDPMSolver()}, "'predictor' must be a rule of single steps"),
        (AnnealedLangevin, {"step_size": 0.0}, r"'step_size' must lie in \(0, 1\]; got 0.0"),
        (TorchSDE, {"method": "rk4"}, "'method' must be one of euler, srk, heun, midpoint; got 'rk4'"),
        (TorchSDE, {"substeps": 0}, "'substeps' must be a whole number, at least 1; got 0"),
        (TorchSDE, {"tolerance": -1.0}, "'tolerance' must be positive; got -1.0"),
        (TorchSDE, {"fastest": 0.0}, "'fastest' must be positive; got 0.0"),
    ):
        with pytest.raises(ValueError, match=words):
            cls(**arguments)
