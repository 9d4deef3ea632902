"""A trained network's density is one: it integrates to 1."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.likelihood import log_likelihood
from physdiff.objectives import DenoisingLoss
from physdiff.objectives.times import Stratified
from physdiff.objectives.weighting import Simple
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.matern import Matern

torch.set_num_threads(1)


class Network(nn.Module):
    def __init__(self, cells: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sizes = [cells + 2, 48, 48, cells]
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layer = nn.Linear(a, b, dtype=torch.float64)
            scale = 0.0 if b == cells else a**-0.5
            layer.weight.data = scale * torch.randn(b, a, generator=generator, dtype=torch.float64)
            layer.bias.data.zero_()
            layers += [layer, nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        time = torch.stack([t, torch.cos(math.pi * t)], 1)
        return self.layers(torch.cat([x.flatten(1), time], 1)).reshape(x.shape)


def two_humps(n: int, grid: Grid, generator: torch.Generator) -> Tensor:
    """Fields near +1 or near −1, one sign a field, with a ripple."""
    sign = 2.0 * torch.randint(0, 2, (n, 1, 1), generator=generator, dtype=torch.float64) - 1
    return sign + 0.35 * torch.randn((n, 1, *grid.shape), generator=generator, dtype=torch.float64)


LINE = SpectralBasis(Grid(4))
WALL = SpectralBasis(Grid(3, 1.0, "neumann"))


@pytest.mark.parametrize(
    "process", [AdvectionDiffusion(LINE, 0.02, 0.5, 0.3), Matern(WALL)], ids=lambda p: type(p).__name__
)
def test_trained_density_integrates_to_one(process: LinearProcess) -> None:
    grid, generator = process.basis.grid, torch.Generator().manual_seed(1)
    data = two_humps(4000, grid, generator)
    reference = GaussianField.fit(data, process.basis)
    path = ReferencePath(fit_clock(process, reference, noise_level=0.1), reference, t_min=0.1)
    denoiser = Denoiser(Network(grid.size), path)
    optimiser = torch.optim.Adam(denoiser.parameters(), 3e-3)
    for _ in range(400):
        batch = data[torch.randint(0, len(data), (256,), generator=generator)]
        optimiser.zero_grad()
        DenoisingLoss(Simple(), Stratified())(denoiser, batch, generator).mean().backward()
        optimiser.step()
    held_out = log_likelihood(denoiser, two_humps(200, grid, generator), method="rk4", steps=32, chunk=200)
    gain = held_out.relative_to_reference
    learned = float(gain.mean()), float(gain.std()) / math.sqrt(200)
    # An unrelated proposal: neither the data's mean nor its covariance, wide enough for both humps.
    centre = 0.2 * torch.randn(grid.size, generator=generator, dtype=torch.float64)
    root = 0.6 * torch.eye(grid.size, dtype=torch.float64) + 1.0 / grid.size
    proposal = MultivariateNormal(centre, root @ root.T)
    n = 3000
    x = centre + torch.randn(n, grid.size, generator=generator, dtype=torch.float64) @ root.T
    scored = log_likelihood(
        denoiser, x.reshape(n, 1, *grid.shape), scored="state", method="rk4", steps=32, chunk=n
    )  # fmt: skip
    weight = torch.exp(scored.log_prob - proposal.log_prob(x))
    integral, error = float(weight.mean()), float(weight.std()) / math.sqrt(n)
    print(f"∫p = {integral:.3f} ± {error:.3f}; {learned[0]:.2f} ± {learned[1]:.2f} nats above the reference")
    assert learned[0] > 5 * learned[1] and learned[0] > 0.3
    assert error < 0.05
    assert abs(integral - 1) < 3 * error
