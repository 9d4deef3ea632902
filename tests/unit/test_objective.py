"""The denoising loss: its minimiser is the exact posterior mean, and a Gaussian field scores 1."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser, MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.objectives import DenoisingLoss
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion

BASIS = SpectralBasis(Grid((3, 4)))


def scalar(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


class Silent(nn.Module):
    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


class Exact(nn.Module):
    """What a perfect network would answer at one time, found by undoing what the denoiser does to its input."""

    def __init__(self, mixture: MixtureDenoiser, denoiser_scaling: float, t: float, fault: float = 0.0) -> None:
        super().__init__()
        self.mixture, self.t, self.fault = mixture, t, fault
        self.frame = Denoiser(Silent(), mixture.path, denoiser_scaling)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        point = self.mixture.path.at(self.t)
        modes = point.restore(BASIS.forward(x) * point.variance.mean().sqrt())
        answer = self.mixture.residual(modes, scalar(self.t)) / self.frame.output_scale(point)
        return BASIS.inverse(answer) + self.fault * torch.tanh(x)


@pytest.mark.parametrize("mode_scaling", [0.0, 0.7])
@pytest.mark.parametrize("t", [0.15, 0.6])
def test_the_posterior_mean_minimises_the_loss(t: float, mode_scaling: float) -> None:
    process = fit_clock(AdvectionDiffusion(BASIS, 0.02, 0.4, (0.3, 0.2)), smooth_reference(BASIS))
    mixture, n = bimodal(process, smooth_reference(BASIS)), 20_000
    x = BASIS.inverse(mixture.sample_modes(n, torch.Generator().manual_seed(0)))

    def loss(fault: float) -> Tensor:
        denoiser = Denoiser(Exact(mixture, mode_scaling, t, fault), mixture.path, mode_scaling)
        times = torch.full((n,), t, dtype=torch.float64)
        return DenoisingLoss().at(denoiser, x, times, torch.Generator().manual_seed(1))

    exact, plus, minus = loss(0.0), loss(0.1), loss(-0.1)
    slope, bend = (plus - minus) / 0.2, (plus + minus - 2 * exact) / 0.01
    error = float(slope.std()) / math.sqrt(n)
    print(f"loss {exact.mean():.4f}, slope along a fault {slope.mean():.5f} ± {error:.5f}, bend {bend.mean():.3f}")
    assert abs(float(slope.mean())) < 4 * error
    assert float(bend.mean()) > 20 * error  # the slope would have been seen: a fault of 1 costs this much
    silent = DenoisingLoss().at(
        Denoiser(Silent(), mixture.path, mode_scaling), x, torch.full((n,), t), torch.Generator().manual_seed(1)
    )
    gain = silent - exact
    assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(n)


@pytest.mark.parametrize(
    "law",
    [
        pytest.param(smooth_reference(BASIS), id="full"),
        pytest.param(GaussianField.power_law(BASIS, 2.0), id="mean-free"),
    ],
)
@pytest.mark.parametrize("mode_scaling", [0.0, 0.5])
def test_a_gaussian_field_scores_one(law: GaussianField, mode_scaling: float) -> None:
    path = ReferencePath(fit_clock(AdvectionDiffusion(BASIS, 0.02), law), law)
    n = 10_000
    x = law.sample(n, torch.Generator().manual_seed(2))
    loss = DenoisingLoss()(Denoiser(Silent(), path, mode_scaling), x, torch.Generator().manual_seed(3))
    error = float(loss.std()) / math.sqrt(n)
    print(f"loss {loss.mean():.4f} ± {error:.4f}")
    assert abs(float(loss.mean()) - 1) < 4 * error


def test_times_are_stratified_and_in_range() -> None:
    law = smooth_reference(BASIS)
    path = ReferencePath(fit_clock(AdvectionDiffusion(BASIS), law), law)
    seen: list[Tensor] = []

    class Listening(Silent):
        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            seen.append(t)
            return torch.zeros_like(x)

    x = law.sample(64, torch.Generator().manual_seed(4))
    DenoisingLoss()(Denoiser(Listening(), path), x, torch.Generator().manual_seed(5))
    share = ((seen[0] - path.t_min) / (1 - path.t_min)).sort().values
    bins = torch.arange(64) / 64
    assert bool(((share >= bins) & (share < bins + 1 / 64)).all())
