"""Deterministic step rules against diffusers, in float64, step by step, on answers that are given.

A denoiser is told what to answer at each level, so that formulas are compared and not trajectories. The third-order
rule agrees with diffusers' where the answers are linear in λ = log(m/√S); where they are parabolas, ours is exact and
theirs is not: its second derivative lacks a factor 2, and it converges at order 2. Tolerances are three times what was
measured.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.chain import Chain
from physdiff.clock import LinearClock
from physdiff.denoisers import MixtureDenoiser, PosteriorMean
from physdiff.grid import Grid
from physdiff.laws.cases import as_time, bimodal, smooth_reference
from physdiff.path import ReferencePath
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers import DDIM, DPMSolver, LogSNR, ReverseDynamics, Solver

pytestmark = pytest.mark.peers

BASIS = SpectralBasis(Grid((4, 5), (1.0, 2.0), ("periodic", "neumann")))
SHAPE = (2, 1, 4, 5)
LEVELS = (1000, 830, 640, 500, 320, 170, 60, 0)
EVEN = (1000, 800, 600, 400, 200, 0)


class Told(PosteriorMean):
    """Answers what it is told to, by time."""

    def __init__(self, path: ReferencePath, answers: dict[float, Tensor]) -> None:
        super().__init__(path)
        self.answers = answers

    def residual(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.answers[float(t)] - self.path.at(t).wiener(modes)


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def told(answers: list[Tensor], levels: tuple[int, ...] = LEVELS) -> tuple[Chain, Told]:
    """A chain, and a denoiser with an answer in modes for each of these levels but the last."""
    chain = Chain.ddpm(BASIS)
    times = [float(chain.t(level)) for level in levels]
    return chain, Told(chain.path(smooth_reference(BASIS)), dict(zip(times, answers, strict=False)))


def multistep(diffusers: Any, chain: Chain, order: int) -> Any:
    """diffusers' multistep DPM-Solver++ with levels and σ = √(1/ᾱ − 1) of the chain, in float64."""
    theirs = diffusers.DPMSolverMultistepScheduler(
        solver_order=order, algorithm_type="dpmsolver++", prediction_type="sample", lower_order_final=False
    )
    theirs.set_timesteps(len(LEVELS) - 1)
    alpha_bar = torch.stack([chain.alpha_bar(level).reshape(()) for level in LEVELS])
    theirs.sigmas = torch.sqrt((1 - alpha_bar) / alpha_bar)
    return theirs


def their_step(theirs: Any, answers: list[Tensor], number: int, y: Tensor, order: int) -> Tensor:
    """The update number `number`, from the answers up to now."""
    theirs._step_index = number
    kind = {1: "dpm_solver_first_order_update", 2: "multistep_dpm_solver_second_order_update"}
    update = getattr(theirs, kind.get(order, "multistep_dpm_solver_third_order_update"))
    return update(answers[number] if order == 1 else answers[: number + 1], sample=y)


def our_steps(
    model: Told, chain: Chain, solver: Solver, levels: tuple[int, ...] = LEVELS
) -> list[tuple[Tensor, Tensor]]:
    """State before and after every step."""
    dynamics, y, found = ReverseDynamics(model), normal(9), []
    for later, earlier in pairwise(levels):
        after = solver.step(dynamics, y, chain.t(later), chain.t(earlier), lambda shape: normal(8))
        found.append((y, after))
        y = after
    return found


def held(what: str, found: Tensor, expected: Tensor, limit: float) -> None:
    error = float((found - expected).abs().max())
    print(f"{what}: error {error:.1e}, limit {limit:.0e}")
    assert error <= limit


@pytest.mark.parametrize("stochasticity", [0.0, 0.3, 1.0])
def test_ddim(diffusers: Any, stochasticity: float) -> None:
    """The solver itself, its noise included; the last step goes to the clean field."""
    answers = [normal(seed) for seed in range(len(EVEN) - 1)]
    chain, model = told(answers, EVEN)
    theirs = diffusers.DDIMScheduler(clip_sample=False, prediction_type="sample", timestep_spacing="trailing")
    theirs.set_timesteps(len(answers))
    theirs.alphas_cumprod = torch.stack([chain.alpha_bar(level).reshape(()) for level in range(1, 1001)])
    theirs.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    steps = our_steps(model, chain, DDIM(stochasticity), EVEN)
    for answer, later, (before, after) in zip(answers, EVEN, steps, strict=False):
        drawn = normal(8) if stochasticity else None
        wanted = theirs.step(answer, later - 1, before, eta=stochasticity, variance_noise=drawn).prev_sample
        held(f"from level {later}", after, wanted, 1e-14)


def test_second_order_step_by_step(diffusers: Any) -> None:
    answers = [normal(seed) for seed in range(len(LEVELS) - 1)]
    chain, model = told(answers)
    theirs = multistep(diffusers, chain, 2)
    *steps, (_, last) = our_steps(model, chain, DPMSolver(2))
    for number, (before, after) in enumerate(steps):
        wanted = their_step(theirs, answers, number, before, min(number + 1, 2))
        held(f"step {number}", after, wanted, 1e-14)
    held("the last step is the denoiser", last, answers[-1], 1e-14)


def log_ratios(chain: Chain) -> list[float]:
    """λ at all levels but 0."""
    return [float(0.5 * (a.log() - (1 - a).log())) for a in (chain.alpha_bar(n).reshape(()) for n in LEVELS[:-1])]


def test_third_order_step_by_step(diffusers: Any) -> None:
    """From the third step on, as the second one repairs the first; on answers that are linear in λ."""
    chain = Chain.ddpm(BASIS)
    answers = [normal(1) + x * normal(2) for x in log_ratios(chain)]
    chain, model = told(answers)
    theirs = multistep(diffusers, chain, 3)
    for number, (before, after) in list(enumerate(our_steps(model, chain, DPMSolver(3))))[2:-1]:
        held(f"step {number}", after, their_step(theirs, answers, number, before, 3), 1e-14)


def test_third_order_of_parabolas(diffusers: Any) -> None:
    """y_s/√S_s = y_t/√S_t + ∫ e^λ D dλ in closed form: ours to rounding, theirs not."""
    chain = Chain.ddpm(BASIS)
    ratios = log_ratios(chain)
    a, b, c = (normal(seed) for seed in (1, 2, 3))
    answers = [a + b * x + c * x**2 for x in ratios]
    chain, model = told(answers)
    theirs = multistep(diffusers, chain, 3)

    def primitive(x: float) -> Tensor:
        return math.exp(x) * (a + b * (x - 1) + c * (x**2 - 2 * x + 2))

    for number, (before, after) in list(enumerate(our_steps(model, chain, DPMSolver(3))))[2:-1]:
        x, x_next = ratios[number], ratios[number + 1]
        root, root_next = (math.sqrt(1 / (1 + math.exp(2 * v))) for v in (x, x_next))
        exact = root_next * (before / root + primitive(x_next) - primitive(x))
        held(f"step {number}", after, exact, 1e-14)
        off = float((their_step(theirs, answers, number, before, 3) - exact).abs().max())
        print(f"step {number}: diffusers off by {off:.1e}")
        assert off > 1e-3


def test_order_of_the_published_third_order(diffusers: Any) -> None:
    """On a mixture, along equal steps of λ: diffusers' solver_order=3 converges at order 2, ours at 3."""
    basis = IdentityBasis(Grid(6))
    mixture = bimodal(VariancePreserving(basis, clock=LinearClock(8.0)), smooth_reference(basis), 0.01)
    path = mixture.path
    start = path.at(1.0).unwhiten(torch.randn((4, 1, 6), generator=torch.Generator().manual_seed(1)).double())

    def trajectory(solver: Solver, steps: int) -> Tensor:
        dynamics, y = ReverseDynamics(mixture), start
        for t, s in pairwise(LogSNR().between(path, steps)):
            y = solver.step(dynamics, y, t, s, lambda shape: torch.zeros(4, *shape))
        return y

    fine = trajectory(DPMSolver(3), 4096)
    slopes = {}
    for name in ("diffusers", "physdiff"):
        errors = [
            float((end - fine).square().mean().sqrt())
            for end in (
                their_trajectory(diffusers, mixture, start, n) if name == "diffusers" else trajectory(DPMSolver(3), n)
                for n in (128, 256)
            )
        ]
        slopes[name] = math.log2(errors[0] / errors[1])
        print(f"{name}: errors {errors[0]:.1e}, {errors[1]:.1e}, slope {slopes[name]:.2f}")
    assert abs(slopes["diffusers"] - 2) < 0.25 and abs(slopes["physdiff"] - 3) < 0.15


def their_trajectory(diffusers: Any, mixture: MixtureDenoiser, start: Tensor, steps: int) -> Tensor:
    path = mixture.path
    times = LogSNR().between(path, steps)
    theirs = diffusers.DPMSolverMultistepScheduler(
        solver_order=3, algorithm_type="dpmsolver++", prediction_type="sample", lower_order_final=False
    )
    theirs.set_timesteps(10)
    points = [path.at(t) for t in times]
    theirs.sigmas = torch.stack([(p.noise_variance.sqrt() / p.amplitude).flatten()[0] for p in points])
    y, answers = start, []
    for number, point in enumerate(points[:-1]):
        answers.append(point.wiener(y) + mixture.residual(y, as_time(float(times[number]))))
        y = their_step(theirs, answers, number, y, min(number + 1, 3))
    return y
