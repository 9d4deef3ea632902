"""What a network is asked for, and a variance that it says, against diffusers' own formulas with ᾱ in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff import schedules
from physdiff.basis import IdentityBasis
from physdiff.chain import Chain
from physdiff.condition import Given
from physdiff.denoisers import Denoiser, LearnedVariance
from physdiff.denoisers.conversion import express, recover
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.solvers import Ancestral, ReverseDynamics

pytestmark = pytest.mark.peers

CELLS = IdentityBasis(Grid(6))
BETAS = {"linear": schedules.linear_betas(), "squaredcos_cap_v2": schedules.cosine_betas()}
NAMES = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
LEVELS = (2, 500, 990)


def scheduler(diffusers: Any, name: str, asked: str, variance: str = "fixed_small") -> Any:
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=1000, beta_schedule=name, beta_start=1e-4, beta_end=0.02, clip_sample=False,
        prediction_type=asked, variance_type=variance,
    )  # fmt: skip
    theirs.alphas_cumprod = torch.cumprod(1 - BETAS[name], 0)
    theirs.one = torch.ones((), dtype=torch.float64)
    return theirs


def normals(seed: int) -> Tensor:
    return torch.randn(3, 1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("asked", NAMES)
def test_conversions(diffusers: Any, name: str, asked: str) -> None:
    """From the clean field to the quantity, and back through their step's x_0 and ours."""
    theirs, path = scheduler(diffusers, name, asked), Chain.from_betas(CELLS, BETAS[name]).path(white())
    clean, noise = normals(0), normals(1)
    for level in LEVELS:
        t, which = torch.tensor(level / 1000, dtype=torch.float64), torch.full((3,), level - 1)
        x = theirs.add_noise(clean, noise, which)
        value = {"epsilon": noise, "v_prediction": theirs.get_velocity(clean, noise, which), "sample": clean}[asked]
        size = 1 / float(theirs.alphas_cumprod[level - 1].sqrt())  # what 1/m makes of rounding
        found = express(clean, NAMES[asked], path, x, t)
        torch.testing.assert_close(found, value, rtol=0, atol=1e-12 * size)
        of_theirs = theirs.step(value, level - 1, x, generator=torch.Generator()).pred_original_sample
        back = recover(value, NAMES[asked], path, x, t)
        torch.testing.assert_close(back, of_theirs, rtol=0, atol=1e-11 * size)


class Says(nn.Module):
    """ε, and how far between the variances: the same in every state."""

    def __init__(self, noise: Tensor, share: Tensor) -> None:
        super().__init__()
        self.said = torch.cat([noise, share], 1)

    def forward(self, x: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        return self.said


@pytest.mark.parametrize("name", BETAS)
def test_a_step_with_a_learned_range(diffusers: Any, name: str) -> None:
    """Predicted noise and interpolated variance together: their step and the ancestral solver's, draws included."""
    theirs = scheduler(diffusers, name, "epsilon", "learned_range")
    path, share = Chain.from_betas(CELLS, BETAS[name]).path(white()), torch.tanh(normals(3))
    denoiser = Denoiser(
        Says(normals(2), share), path, prediction="epsilon",
        learned_variance=LearnedVariance(1, "interpolated", per_cell=True),
    )  # fmt: skip
    x = normals(4)
    for level in LEVELS:
        stepped = theirs.step(
            torch.cat([normals(2), share], 1), level - 1, x, generator=torch.Generator().manual_seed(5)
        ).prev_sample
        t, s = (torch.tensor(n / 1000, dtype=torch.float64) for n in (level, level - 1))
        found = Ancestral(variance="learned").step(ReverseDynamics(denoiser), x, t, s, lambda shape: normals(5))
        size = 1 / float(theirs.alphas_cumprod[level - 1].sqrt())
        torch.testing.assert_close(found, stepped, rtol=0, atol=1e-10 * size)
        if level == 2:  # where the two variances differ
            narrow = Ancestral(variance="posterior").step(ReverseDynamics(denoiser), x, t, s, lambda shape: normals(5))
            assert float((narrow - stepped).abs().max()) > 1e-5


def white() -> GaussianField:
    return GaussianField.white(CELLS)
