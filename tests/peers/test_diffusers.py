"""DDPM and DDIM against diffusers: tables, posterior variances, single steps, and the law of 1,000 of them.

diffusers counts levels from 0 and holds its tables in float32. They are compared at that precision; then ᾱ is put in
again in float64, as a product of 1 − β, so that its formulas for steps and variances are compared to rounding.
Tolerances are three times the error measured, which every test prints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from physdiff import schedules
from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.chain import Chain
from physdiff.denoisers import EmpiricalDenoiser, GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.laws.stepping import carried
from physdiff.solvers import Ancestral, ReverseDynamics

pytestmark = pytest.mark.peers

BASIS, CELLS = SpectralBasis(Grid((4, 5), (1.0, 2.0), ("periodic", "neumann"))), IdentityBasis(Grid(4))
BETAS = {
    "linear": schedules.linear_betas(),
    "squaredcos_cap_v2": schedules.cosine_betas(),
    "zero terminal SNR": schedules.rescaled_zero_terminal_snr(schedules.linear_betas()),
}
every_schedule = pytest.mark.parametrize("name", list(BETAS))


def scheduler(diffusers: Any, name: str, kind: str = "DDPMScheduler", **settings: Any) -> Any:
    """A scheduler of diffusers that predicts x_0, as it comes."""
    zero = name == "zero terminal SNR"
    return getattr(diffusers, kind)(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear" if zero else name,
        rescale_betas_zero_snr=zero, clip_sample=False, prediction_type="sample", **settings,
    )  # fmt: skip


def in_float64(peer: Any, name: str) -> Any:
    """The scheduler with ᾱ as a product of 1 − β in float64: its formulas, without the rounding of its tables."""
    peer.alphas_cumprod = torch.cumprod(1 - BETAS[name], 0)
    peer.one = torch.ones((), dtype=torch.float64)
    peer.final_alpha_cumprod = peer.one
    return peer


def held(what: str, found: Tensor, expected: Tensor, limit: float) -> None:
    """Absolute errors, printed and held to a limit."""
    error = float((found.to(torch.float64) - expected.to(torch.float64)).abs().max())
    print(f"{what}: error {error:.1e}, limit {limit:.0e}")
    assert error <= limit


def over_levels(chain: Chain, coefficient: str) -> Tensor:
    return torch.stack([getattr(chain, coefficient)(level).reshape(()) for level in range(1, chain.steps + 1)])


def fields(n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((3, 1, *BASIS.grid.shape), generator=generator, dtype=torch.float64) for _ in range(n)]


@every_schedule
def test_tables(diffusers: Any, name: str) -> None:
    """Rescaling in float32 costs digits of theirs, by 1 − α; in float64 it is held to rounding below."""
    theirs, chain = scheduler(diffusers, name), Chain.from_betas(CELLS, BETAS[name])
    held("β", over_levels(chain, "beta"), theirs.betas, 6e-6 if name == "zero terminal SNR" else 7e-8)
    held("ᾱ", over_levels(chain, "alpha_bar"), theirs.alphas_cumprod, 1e-6)


def test_rescaling_in_float64(diffusers: Any) -> None:
    rescale = diffusers.schedulers.scheduling_ddpm.rescale_zero_terminal_snr
    for name in ("linear", "squaredcos_cap_v2"):
        held(name, schedules.rescaled_zero_terminal_snr(BETAS[name]), rescale(BETAS[name].clone()), 5e-14)


@every_schedule
@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_posterior_variances(diffusers: Any, name: str, kind: str) -> None:
    theirs = in_float64(scheduler(diffusers, name, variance_type=kind), name)
    chain = Chain.from_betas(CELLS, BETAS[name])
    expected = torch.stack([theirs._get_variance(level - 1) for level in range(2, 1001)])
    bridges = [chain.posterior(level - 1, level) for level in range(2, 1001)]
    found = [b.variance if kind == "fixed_small" else b.upper_variance for b in bridges]
    held(kind, torch.stack(found) / expected, torch.ones(999), 5e-12)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_spacings(diffusers: Any, spacing: str) -> None:
    theirs, chain = scheduler(diffusers, "linear", timestep_spacing=spacing), Chain.ddpm(CELLS)
    for steps in (2, 3, 7, 10, 30, 50, 333, 999, 1000):
        theirs.set_timesteps(steps)
        assert chain.levels(steps, spacing).tolist() == [int(t) + 1 for t in theirs.timesteps]


@every_schedule
def test_noising(diffusers: Any, name: str) -> None:
    theirs, chain = in_float64(scheduler(diffusers, name), name), Chain.from_betas(BASIS, BETAS[name])
    clean, noise = fields(2)
    for level in (1, 2, 500, 999, 1000):
        kernel = chain.kernel(level)
        modes = BASIS.apply(kernel.gain, BASIS.forward(clean)) + kernel.variance.sqrt() * BASIS.forward(noise)
        expected = theirs.add_noise(clean, noise, torch.full((3,), level - 1))
        held(f"level {level}", BASIS.inverse(modes), expected, 1.5e-14)


@every_schedule
@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_ddpm_step(diffusers: Any, name: str, kind: str) -> None:
    """One step with x_0 and noise given, between neighbours and across 20 levels."""
    clean, noisy = fields(2)
    chain = Chain.from_betas(BASIS, BETAS[name])
    theirs = in_float64(scheduler(diffusers, name, variance_type=kind, timestep_spacing="trailing"), name)
    for steps in (1000, 50):
        theirs.set_timesteps(steps)
        for later in (1000 // steps * 2, 500, 1000):
            drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            stepped = theirs.step(clean, later - 1, noisy, generator=torch.Generator().manual_seed(1)).prev_sample
            bridge = chain.posterior(later - 1000 // steps, later)
            variance = bridge.variance if kind == "fixed_small" else bridge.upper_variance
            mean = BASIS.inverse(bridge.mean(BASIS.forward(clean), BASIS.forward(noisy)))
            held(f"level {later}", mean + variance.sqrt() * drawn, stepped, 4e-12)


@every_schedule
@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0])
def test_ddim_step(diffusers: Any, name: str, stochasticity: float) -> None:
    """One step across 20 levels with x_0 and noise given, for three η; the last goes to the clean field."""
    clean, noisy = fields(2)
    (drawn,) = fields(1, seed=1)
    theirs = in_float64(scheduler(diffusers, name, "DDIMScheduler", timestep_spacing="trailing"), name)
    theirs.set_timesteps(50)
    chain = Chain.from_betas(BASIS, BETAS[name])
    for later in (20, 40, 500, 1000):
        given = drawn if stochasticity else None
        stepped = theirs.step(clean, later - 1, noisy, eta=stochasticity, variance_noise=given).prev_sample
        bridge = chain.posterior(later - 20, later, stochasticity)
        mean = BASIS.inverse(bridge.mean(BASIS.forward(clean), BASIS.forward(noisy)))
        held(f"level {later}", mean + bridge.variance.sqrt() * drawn, stepped, 3e-13)


@every_schedule
def test_ancestral_step_is_ddpm(diffusers: Any, name: str) -> None:
    """The solver itself, its denoiser knowing x_0, against the mean of diffusers' step."""
    clean, noisy = fields(2)
    theirs = in_float64(scheduler(diffusers, name, timestep_spacing="trailing"), name)
    theirs.set_timesteps(1000)
    chain = Chain.from_betas(BASIS, BETAS[name])
    known = EmpiricalDenoiser(chain.path(smooth_reference(BASIS)), clean[:1])

    def silence(shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(3, *shape, dtype=torch.float64)

    for later in (1, 2, 500, 1000):
        generator = torch.Generator().manual_seed(1)
        stepped = theirs.step(clean[:1].expand(3, -1, -1, -1), later - 1, noisy, generator=generator).prev_sample
        drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        scale = theirs._get_variance(later - 1).sqrt() if later > 1 else 0.0
        y = BASIS.forward(noisy)
        found = Ancestral(0.0).step(ReverseDynamics(known), y, chain.t(later), chain.t(later - 1), silence)
        held(f"level {later}", BASIS.inverse(found), stepped - scale * drawn, 4e-12)


def test_a_thousand_steps_have_the_law_of_ours(diffusers: Any) -> None:
    """Variance of DDPM's samples of Gaussian data, by the slope and the noise of each of diffusers' steps.

    Data of standard deviation 0.3 comes out at 0.9875 of it with β̃; with β, white data of unit variance is exact.
    """
    spread = torch.tensor([0.3, 0.7, 1.0, 2.0], dtype=torch.float64)
    reference, chain = GaussianField.centred(CELLS, spread.square()), Chain.ddpm(CELLS)
    path = chain.path(reference)
    end = path.at(1.0)
    start, times = (end.mean.flatten(), torch.diag(end.variance.flatten())), chain.time_grid().times(path, 1000)
    _, ours = carried(Ancestral(0.0), GaussianDenoiser(path), times, *start)
    widths = {}
    for kind in ("fixed_small", "fixed_large"):
        theirs = in_float64(scheduler(diffusers, "linear", variance_type=kind), "linear")
        alpha_bar, variance = theirs.alphas_cumprod, end.variance.flatten()
        for level in range(999, -1, -1):
            kept = alpha_bar[level]
            wiener = kept.sqrt() * spread.square() / (kept * spread.square() + 1 - kept)
            one, nothing = torch.ones(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
            ends = [
                theirs.step(wiener * x, level, x, generator=torch.Generator().manual_seed(0)).prev_sample
                for x in (one, nothing)
            ]
            added = theirs._get_variance(level) if level else 0.0
            variance = (ends[0] - ends[1]).square().flatten() * variance + added
        widths[kind] = (variance.sqrt() / spread).numpy()
    print({kind: width.tolist() for kind, width in widths.items()})
    np.testing.assert_allclose(ours.diagonal().sqrt().numpy() / spread.numpy(), widths["fixed_small"], rtol=1e-9)
    assert widths["fixed_small"][0] == pytest.approx(0.98751, abs=1e-5)
    assert widths["fixed_large"][2] == pytest.approx(1.0, abs=1e-4)
