"""Simulated processes against Beneš's equation, whose law under a nonlinear drift is known in closed form.

dX = tanh(X) dτ + dW has the transition density cosh(x)/cosh(x₀) e^{−τ/2} N(x; x₀, τ). Data of density ∝ cosh(x) g(x)
with g a Gaussian mixture is itself a mixture, and p_τ(x) ∝ cosh(x) e^{−τ/2} g_τ(x) with g_τ widened by τ.
"""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff.basis import IdentityBasis
from physdiff.clock import ExponentialClock, LinearClock
from physdiff.condition import Given
from physdiff.denoisers.score import GaussianScore, NetworkScore, ScoreModel
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.likelihood import log_likelihood
from physdiff.objectives.transition import TransitionLoss
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.randomness import RowDraws
from physdiff.semilinear import with_drift
from physdiff.simulated_path import Moments, SimulatedPath
from physdiff.solvers import LogSpaced, ReferenceSplitting, ReverseDynamics, sample

CELLS = 4
MEANS = torch.tensor([-1.0, 1.4], dtype=torch.float64)
WIDTHS = torch.tensor([0.15, 0.3], dtype=torch.float64)  # variances
WEIGHTS = torch.tensor([0.6, 0.4], dtype=torch.float64)


class Benes:
    """The law of Beneš's equation, every cell on its own."""

    log_z = math.log(float((WEIGHTS * torch.cosh(MEANS) * torch.exp(WIDTHS / 2)).sum()))

    @staticmethod
    def log_density(x: Tensor, time: float | Tensor) -> Tensor:
        """log p_τ of each cell, shape as x."""
        time = torch.as_tensor(time, dtype=torch.float64)
        variance = WIDTHS + time.unsqueeze(-1)
        g = torch.log(WEIGHTS) - 0.5 * ((x.unsqueeze(-1) - MEANS) ** 2 / variance + torch.log(2 * math.pi * variance))
        log_cosh = x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)
        return log_cosh - time / 2 - Benes.log_z + torch.logsumexp(g, -1)

    @staticmethod
    def sample(n: int, generator: torch.Generator) -> Tensor:
        """Clean data: cosh(x) N(μ, c) is a mixture of N(μ ± c, c) with weights e^{±μ}."""
        weight = WEIGHTS * torch.exp(WIDTHS / 2)
        both = torch.cat([weight * torch.exp(MEANS), weight * torch.exp(-MEANS)])
        centres = torch.cat([MEANS + WIDTHS, MEANS - WIDTHS])
        which = torch.multinomial(both, n * CELLS, replacement=True, generator=generator)
        noise = torch.randn(n * CELLS, generator=generator, dtype=torch.float64)
        return (centres[which] + WIDTHS.repeat(2)[which].sqrt() * noise).reshape(n, 1, CELLS)


class BenesScore(ScoreModel):
    """The exact score."""

    def correction(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        point = self.path.at(t)
        y = modes if modes.requires_grad else modes.detach().requires_grad_()
        with torch.enable_grad():
            (score,) = torch.autograd.grad(Benes.log_density(y, point.time).sum(), y, create_graph=True)
        h = point.variance.sqrt() * score + point.whiten(y)
        return h if modes.requires_grad else h.detach()


@pytest.fixture(scope="module")
def path() -> SimulatedPath:
    return benes_path(0.1)


def benes_path(tolerance: float) -> SimulatedPath:
    generator = torch.Generator().manual_seed(0)
    basis = IdentityBasis(Grid(CELLS))
    data = Benes.sample(2000, generator)
    reference = GaussianField.fit(data, basis)
    process = with_drift(VarianceExploding(basis, clock=ExponentialClock(1.0, 1e-3)), lambda x, time: torch.tanh(x))
    return SimulatedPath.measure(process, reference, data, 0.05, generator, tolerance)


def test_runs_have_the_exact_law(path: SimulatedPath) -> None:
    """Moments of simulated states at τ = 1 against quadrature, in standard errors."""
    generator = torch.Generator().manual_seed(1)
    end = path.run(Benes.sample(4000, generator), generator)[-1].flatten()
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = Benes.log_density(x, 1.0).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-9)
    for power in (1, 2, 4):
        exact = float(torch.trapezoid(density * x**power, x))
        found = end**power
        error = float(found.std()) / math.sqrt(len(found))
        assert abs(float(found.mean()) - exact) < 4 * error


def test_moments_are_those_of_the_runs(path: SimulatedPath) -> None:
    """Mean and variance at τ = 1 against fresh runs, each within the errors of both."""
    generator = torch.Generator().manual_seed(2)
    end = path.run(Benes.sample(4000, generator), generator)[-1][:, 0]
    law, pilot = path.law(1.0), 512
    error = (end.var(0) * (1 / len(end) + 1 / pilot)).sqrt()
    assert float(((end.mean(0) - law.mean[0]) / error).abs().max()) < 4
    ratio = law.spectrum[0] / end.var(0)
    spread = math.sqrt(2 / len(end) + 2 / pilot)  # at most: these laws are flatter than a Gaussian
    assert float((ratio - 1).abs().max()) < 4 * spread


def test_moments_hold_the_windows_noise() -> None:
    """Without a drift, V = c + τ at every node, where c is next to nothing."""
    basis, generator = IdentityBasis(Grid(6)), torch.Generator().manual_seed(3)
    process = with_drift(VarianceExploding(basis, clock=LinearClock(1.0)), lambda x, time: torch.zeros_like(x))
    data = 0.01 * torch.randn((600, 1, 6), generator=generator, dtype=torch.float64)
    path = SimulatedPath.measure(process, GaussianField.fit(data, basis), data, 0.05, generator)
    ratio = path.moments.variances[:, 0] / (path.moments.times.unsqueeze(1) + 1e-4)
    assert float((ratio - 1).abs().max()) < 4.5 * math.sqrt(2 / 512)


def test_flow_knows_that_the_reaction_fades() -> None:
    """dz/dlog τ at τ by hand: 1/√V of τ(Ay + N(y, τ)) with N at that τ, and the Gaussian terms."""
    basis = IdentityBasis(Grid(2))
    process = with_drift(VarianceExploding(basis, clock=LinearClock(2.0)), lambda x, time: x**3, fading_time=0.5)
    law, shape = GaussianField.white(basis), torch.zeros((2, 1, 2), dtype=torch.float64)
    times = torch.tensor([0.0, 0.2, 2.0], dtype=torch.float64)
    path = SimulatedPath(process, law, Moments(times, times[1:], shape, shape + 4.0), 0.1)
    z = torch.tensor([[[0.5, -1.0]]], dtype=torch.float64)
    found = GaussianScore(path).velocity(z, torch.tensor(1.5, dtype=torch.float64))
    expected = 1.5 * (math.exp(-3.0) * (2 * z) ** 3 / 2 + 0.5 / 4 * z)
    assert float((found - expected).abs().max()) < 1e-12


def test_likelihood_is_exact(path: SimulatedPath) -> None:
    """With the exact score and terminal law, log p_{t_min} comes out to the tolerance of the ODE solver."""
    model = BenesScore(path)
    start = float(path.process.physical_time(torch.tensor(path.t_min)))
    states = torch.linspace(-2.5, 2.5, 6 * CELLS, dtype=torch.float64).reshape(6, 1, CELLS)
    found = log_likelihood(
        model, states, scored="state", rtol=1e-8, atol=1e-9,
        terminal=lambda y: Benes.log_density(y, 1.0).flatten(1).sum(1),
    )  # fmt: skip
    exact = Benes.log_density(states, start).flatten(1).sum(1)
    assert float((found.log_prob - exact).abs().max()) / CELLS < 1e-5
    assert found.n_support == CELLS
    assert found.terminal_mismatch == 0.0  # the terminal law is given


def test_sampling_is_second_order(path: SimulatedPath) -> None:
    """States carried back to t_min converge to the flow's at order 2, and none is far off in 64 steps."""
    model, errors = BenesScore(path), {}
    y = path.at(1.0).unwhiten(torch.linspace(-2, 2, 5 * CELLS, dtype=torch.float64).reshape(5, 1, CELLS))

    def carried(steps: int) -> Tensor:
        state, dynamics = y, ReverseDynamics(model)
        times = LogSpaced().between(path, steps)
        for t, s in pairwise(times):
            state = ReferenceSplitting().step(dynamics, state, t, s, lambda shape: torch.zeros(shape))
        assert dynamics.evaluations == 2 * steps
        return path.at(path.t_min).whiten(state)

    fine = carried(1024)
    for steps in (32, 256):
        errors[steps] = float((carried(steps) - fine).square().mean().sqrt())
    # Over a factor of 8, because the slope wavers by 0.3 where steps are as long as the pieces of the path's spline.
    assert math.log2(errors[32] / errors[256]) / 3 == pytest.approx(2, abs=0.15)
    assert errors[32] < 0.01


def test_samples_have_the_law_of_the_data(path: SimulatedPath) -> None:
    """Samples from the exact score against quadrature: mean, variance and the share above 0, in standard errors."""
    found = sample(BenesScore(path), 800, steps=48, seed=3).flatten()
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = Benes.log_density(x, 0.0).exp()
    for f in (lambda v: v, lambda v: v**2, lambda v: (v > 0).double()):
        exact, values = float(torch.trapezoid(density * f(x), x)), f(found)
        # The Gaussian terminal law is not exact: at τ = 1 this data still is bimodal, which costs under 0.06.
        assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(len(values)) + 0.06


@pytest.mark.parametrize(("target", "n"), [("euler", 16_000), ("linearised", 3200), ("backward", 16_000)])
def test_exact_score_minimises_the_loss(target: str, n: int) -> None:
    """The gradient of the loss at the exact score vanishes along test directions, and not at a wrong score."""
    path = benes_path(0.02)
    generator = torch.Generator().manual_seed(4)
    loss = TransitionLoss(target, windows_per_run=8, substeps=2)
    clean = Benes.sample(n, generator)

    class Shifted(ScoreModel):
        """A score and errors along three directions, by an amount of its own for each row."""

        def __init__(self, base: ScoreModel) -> None:
            super().__init__(path)
            self.base = base
            self.amounts = torch.zeros(3, len(clean), 1, 1, dtype=torch.float64, requires_grad=True)

        def correction(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            along = torch.stack([torch.tanh(modes), torch.cos(2 * modes), torch.ones_like(modes)])
            return self.base.correction(modes, t).detach() + (self.amounts * along).sum(0)

    def z_scores(base: ScoreModel) -> Tensor:
        model = Shifted(base)
        found = loss(model, clean, torch.Generator().manual_seed(5)).sum()
        (slopes,) = torch.autograd.grad(found, model.amounts)
        runs = slopes.reshape(3, -1, 8).mean(2)  # rows of one run are dependent
        return runs.mean(1) / (runs.std(1) / math.sqrt(runs.shape[1]))

    of_exact, of_gaussian = z_scores(BenesScore(path)), z_scores(GaussianScore(path))
    print(of_exact.tolist(), of_gaussian.tolist())
    assert float(of_exact.abs().max()) < 4
    assert float(of_gaussian.abs().max()) > 6


@pytest.mark.parametrize("target", ["euler", "linearised", "backward"])
def test_a_batch_that_is_split_between_runs_has_the_losses_of_the_whole(path: SimulatedPath, target: str) -> None:
    loss, model, n = TransitionLoss(target, windows_per_run=3, substeps=2), GaussianScore(path), 11
    x, condition = Benes.sample(n, torch.Generator().manual_seed(8)), torch.arange(n)[:, None, None]
    told: list[Tensor] = []

    class Listening(GaussianScore):
        def correction(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
            assert isinstance(condition, Tensor)
            told.append(condition.flatten())
            return super().correction(modes, t)

    def losses(*parts: slice) -> Tensor:
        given = [RowDraws(torch.Generator().manual_seed(9), n, rows) for rows in parts]
        pairs = zip(given, parts, strict=True)
        return torch.cat([loss(Listening(path), x[rows], draws, condition[rows]) for draws, rows in pairs])

    whole = losses(slice(0, n))
    torch.testing.assert_close(whole, loss(model, x, torch.Generator().manual_seed(9)), rtol=0, atol=0)
    torch.testing.assert_close(losses(slice(0, 6), slice(6, 9), slice(9, n)), whole, rtol=1e-12, atol=0)
    assert told[0].tolist() == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9]
    cut = losses(slice(0, 4), slice(4, n))  # rows 4 and 5 start from another field
    assert bool(cut.isfinite().all()) and ((cut - whole).abs() > 1e-9).nonzero().flatten().tolist() == [4, 5]
    assert told[-1].tolist() == [4, 4, 6, 6, 6, 9, 9]


class CellNetwork(nn.Module):
    """A network that treats every cell alone, as the data is; its output starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(3, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1)
        )  # fmt: skip
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        time = t.reshape(-1, 1, 1).expand(x.shape)
        return self.layers(torch.stack([x, time, (4 * math.pi * time).sin()], -1)).squeeze(-1)


@pytest.mark.parametrize("target", ["euler", "backward"])
def test_training_learns_the_score(path: SimulatedPath, target: str) -> None:
    """In 200 steps a small network covers most of the way from the Gaussian's score to the exact one."""
    generator = torch.Generator().manual_seed(6)
    model, exact = NetworkScore(CellNetwork(), path, whitened_input=False), BenesScore(path)
    loss = TransitionLoss(target, windows_per_run=8)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 200)
    for _ in range(200):
        optimiser.zero_grad()
        loss(model, Benes.sample(512, generator), generator).mean().backward()
        optimiser.step()
        schedule.step()
    clean = Benes.sample(500, generator)
    states = path.run(clean, generator)
    for window in (10, 14, 18):
        t = path.clock.inverse(path.moments.windows[window])
        truth = exact.correction(states[window], t)
        with torch.no_grad():
            missed = (model.correction(states[window], t) - truth).square().mean() / truth.square().mean()
        assert float(missed) < 0.4, (window, float(missed))
    start = states[1][:32]
    scored = {"scored": "state", "method": "rk4", "steps": 24}
    found = log_likelihood(model, start, **scored).log_prob
    untrained = log_likelihood(GaussianScore(path), start, **scored).log_prob
    right = Benes.log_density(start, path.moments.windows[1]).flatten(1).sum(1)
    # What is left is the network's error, and that of the Gaussian terminal law.
    assert float((found - right).mean().abs()) < 0.5 * float((untrained - right).mean().abs())


@pytest.mark.parametrize("n", [1, 3, 4, 12, 20])
def test_every_window_is_learned_by_batches_of_any_size(path: SimulatedPath, n: int) -> None:
    """Rows are spread over all windows: none is visited less than half as often as it should be."""
    seen: list[int] = []

    class Watched(TransitionLoss):
        def _on_runs(self, model: Any, x: Tensor, chosen: Tensor, draws: Any, condition: Any) -> Tensor:
            seen.extend(chosen.tolist())
            return torch.zeros(len(x))

    generator, windows = torch.Generator().manual_seed(7), len(path.moments.windows) - 1
    while len(seen) < 100 * windows:
        Watched()(GaussianScore(path), torch.zeros(n, 1, CELLS), generator)
    counts = torch.bincount(torch.tensor(seen), minlength=windows) / (len(seen) / windows)
    assert 0.5 < float(counts.min())
    assert float(counts.max()) < 1.5


def test_velocity_lives_where_the_state_is(path: SimulatedPath) -> None:
    model, time = GaussianScore(path), torch.tensor(0.3, dtype=torch.float64)
    z = torch.zeros((2, 1, CELLS), dtype=torch.float64, device="meta")
    assert model.velocity(z, time).device.type == "meta"
    assert model.move(z, torch.tensor(0.9), torch.tensor(0.5)).device.type == "meta"
