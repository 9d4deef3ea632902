"""Stochastic step rules against k-diffusion, in float64 and with the same noise, and diffusers, which steps in float32.

The denoiser is that of a mixture, exactly. Tolerances are three times the error measured, which every test prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.benchmarks._peers import k_diffusion
from physdiff.basis import IdentityBasis
from physdiff.chain import Chain
from physdiff.clock import LinearClock
from physdiff.denoisers import MixtureDenoiser, PosteriorMean
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.solvers import Ancestral, ChurnedHeun, Heun, ReverseDynamics, SDEDPMSolver, Solver

pytestmark = pytest.mark.peers
CELLS, BATCH = IdentityBasis(Grid((3, 2))), 4
SIGMAS = torch.logspace(math.log10(8), math.log10(0.05), 13, dtype=torch.float64)


@pytest.fixture(scope="module")
def sampling() -> Any:
    """`k_diffusion.sampling` alone: the package's own imports need torchvision."""
    return k_diffusion()


@pytest.fixture(scope="module")
def mixture() -> MixtureDenoiser:
    """Under variance exploding up to σ = 20, where τ = σ²."""
    return bimodal(VarianceExploding(CELLS, clock=LinearClock(400.0)), smooth_reference(CELLS), 1e-6)


def draws(n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((BATCH, 1, *CELLS.grid.shape), generator=generator, dtype=torch.float64) for _ in range(n)]


def from_list(given: list[Tensor]) -> Callable[..., Tensor]:
    """A source of noise that hands out what it was given."""
    left = iter(given)
    return lambda *_: next(left)


def as_theirs(denoiser: PosteriorMean) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser as a function of x and σ, shape (batch,)."""
    return lambda x, sigma: denoiser(x, denoiser.path.clock.inverse(sigma[0].square()))


def ours(denoiser: PosteriorMean, solver: Solver, x: Tensor, noise: list[Tensor]) -> Tensor:
    dynamics, source = ReverseDynamics(denoiser), from_list(noise)
    times = denoiser.path.clock.inverse(SIGMAS.square())
    for t, s in pairwise(times):
        x = solver.step(dynamics, x, t, s, source)
    return x


def held(what: str, found: Tensor, expected: Tensor, limit: float) -> None:
    error = float((found - expected).abs().max())
    print(f"{what}: error {error:.1e}, limit {limit:.0e}")
    assert error <= limit


def test_ancestral_is_k_diffusions(sampling: Any, mixture: MixtureDenoiser) -> None:
    noise = draws(len(SIGMAS))
    x = 8 * noise[0]
    theirs = sampling.sample_euler_ancestral(
        as_theirs(mixture), x, SIGMAS, noise_sampler=from_list(noise[1:]), disable=True
    )
    held("12 steps", ours(mixture, Ancestral(variance="posterior"), x, noise[1:]), theirs, 5e-15)


def test_sde_dpm_solver_is_k_diffusions(sampling: Any, mixture: MixtureDenoiser) -> None:
    noise = draws(len(SIGMAS))
    x = 8 * noise[0]
    theirs = sampling.sample_dpmpp_2m_sde(
        as_theirs(mixture), x, SIGMAS, noise_sampler=from_list(noise[1:]), disable=True
    )
    held("12 steps", ours(mixture, SDEDPMSolver(), x, noise[1:]), theirs, 5e-15)


@pytest.mark.parametrize(("s_churn", "s_noise", "s_tmin", "s_tmax"), [(2.0, 1.0, 0.0, 80.0), (99.0, 1.1, 0.1, 3.0)])
def test_churned_heun_is_edms(
    sampling: Any, mixture: MixtureDenoiser, monkeypatch: pytest.MonkeyPatch,
    s_churn: float, s_noise: float, s_tmin: float, s_tmax: float,
) -> None:  # fmt: skip
    """Without and with the cap of γ at √2 − 1, at all noise levels and at some."""
    noise = draws(len(SIGMAS))
    x = 8 * noise[0]
    monkeypatch.setattr(torch, "randn_like", from_list(noise[1:]))
    limits = {"s_churn": s_churn, "s_noise": s_noise, "s_tmin": s_tmin, "s_tmax": s_tmax}
    theirs = sampling.sample_heun(as_theirs(mixture), x, SIGMAS, disable=True, **limits)
    monkeypatch.undo()
    churn = math.log1p(s_churn / len(SIGMAS[1:])) / math.log(SIGMAS[0] / SIGMAS[1])
    earliest, latest = (min(1.0, sigma**2 / 400) for sigma in (s_tmin, s_tmax))
    churned = (SIGMAS[:-1] >= s_tmin) & (SIGMAS[:-1] <= s_tmax)  # they draw noise at every step
    given = [drawn for drawn, used in zip(noise[1:], churned, strict=True) if used]
    found = ours(mixture, ChurnedHeun(churn, s_noise, earliest, latest, Heun()), x, given)
    held("12 steps", found, theirs, 5e-15)
    assert float((found - ours(mixture, Heun(), x, [])).abs().max()) > 0.1


@pytest.mark.parametrize("steps", [5, 30])
def test_sde_dpm_solver_is_diffusers(diffusers: Any, steps: int) -> None:
    """Step by step from the same state, with the same noise and answers, to the clean field; theirs is in float32."""
    theirs = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, prediction_type="sample", solver_order=2,
        algorithm_type="sde-dpmsolver++", final_sigmas_type="zero", timestep_spacing="trailing",
        lower_order_final=False,
    )  # fmt: skip
    theirs.set_timesteps(steps)
    chain = Chain.ddpm(CELLS)
    denoiser = MixtureDenoiser.around_itself(chain.process, *_parts(), t_min=float(chain.t(1)))
    dynamics, x = ReverseDynamics(denoiser), draws(1)[0]
    levels = [int(t) + 1 for t in theirs.timesteps] + [0]
    for noise, (level, below) in zip(draws(steps, seed=1), pairwise(levels), strict=True):
        answer = denoiser(x, chain.t(level))
        stepped = theirs.step(answer, level - 1, x, variance_noise=noise).prev_sample
        found = SDEDPMSolver().step(dynamics, x, chain.t(level), chain.t(below), lambda _, given=noise: given)
        held(f"level {level} to {below}", found, stepped.to(torch.float64), 3e-6)
        x = found


def _parts() -> tuple[Tensor, Tensor, Tensor]:
    reference = smooth_reference(CELLS)
    mixture = bimodal(VarianceExploding(CELLS, clock=LinearClock(1.0)), reference, 0.1)
    return mixture.log_weights.exp(), mixture.means, mixture.spectra
