"""Every prediction trains under every linear process: the same small network, the same few steps."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.condition import Given
from physdiff.denoisers import Denoiser, MixtureDenoiser
from physdiff.denoisers.prediction import PREDICTIONS, prediction_of
from physdiff.grid import Grid
from physdiff.laws.cases import process_cases
from physdiff.objectives import DenoisingLoss
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.registry import processes

torch.set_num_threads(1)
LINE = SpectralBasis(Grid(6, 2.0))
STEPS, ROWS, HELD_OUT = 30, 128, 500


class Small(nn.Module):
    """Dense layers over all cells with gates in time; says zero at the start."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(7, 64, generator=generator) / 6**0.5)
        self.outer = nn.Parameter(torch.zeros(64 + 18, 6))

    def forward(self, x: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        flat, t = x.flatten(1), time.unsqueeze(1)
        hidden = torch.tanh(torch.cat([flat, 2 * t - 1], 1) @ self.inner)
        return (torch.cat([hidden, flat, t * flat, t * t * flat], 1) @ self.outer).reshape(x.shape)


class Exact(nn.Module):
    """The exact answer to a prediction: its target with D in the place of the clean field."""

    def __init__(self, mixture: MixtureDenoiser, prediction: str) -> None:
        super().__init__()
        self.mixture, self.asked = mixture, prediction_of(prediction, mode_scaling=1.0)

    def forward(self, x: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        path = self.mixture.path
        point, on = path.at(time), path.reference.support
        u = path.basis.forward(x) * point.variance.mean(-1, keepdim=True).sqrt()
        d = point.wiener_gain * u + self.mixture.residual(point.restore(u), time)
        noise = (u - point.amplitude * d) / torch.where(on, point.noise_variance, 1.0).sqrt()
        return path.basis.inverse(self.asked.rows(point, time).target(d, noise))


@cache
def data(process: str) -> tuple[MixtureDenoiser, Tensor]:
    """Fields that are one of two, and a little noise, under a process with a clock of its own."""
    case = next(c for c in process_cases(processes.classes()[process], [LINE]) if c.is_default and not c.unfit)
    law = case.reference
    signs = torch.tensor([1.0, -1, 1, 1, -1, 1], dtype=torch.float64)
    away = 0.95 * law.spectrum.sqrt() * signs
    means, spectra = torch.stack([law.mean + away, law.mean - away]), 0.1 * law.spectrum.expand(2, 1, 6)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    reference = MixtureDenoiser.reference(LINE, weights, means, spectra)
    path = ReferencePath(fit_clock(case.process, reference), reference)
    mixture = MixtureDenoiser(path, weights, means, spectra)
    return mixture, LINE.inverse(mixture.sample_modes(4000, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("process", processes.classes(LinearProcess))
def test_a_prediction_trains_under_a_process(process: str, prediction: str) -> None:
    """On held-out fields: the way from the untrained network's loss to the exact denoiser's that is left."""
    mixture, fields = data(process)
    loss, generator = DenoisingLoss(), torch.Generator().manual_seed(2)
    network = Small()

    def missed(network: nn.Module) -> float:
        denoiser = Denoiser(network, mixture.path, 1.0, prediction=prediction)
        with torch.no_grad():
            return float(loss(denoiser, fields[-HELD_OUT:], torch.Generator().manual_seed(3)).mean())

    denoiser = Denoiser(network, mixture.path, 1.0, prediction=prediction)
    before, exact = missed(network), missed(Exact(mixture, prediction))
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(STEPS):
        x = fields[torch.randint(len(fields) - HELD_OUT, (ROWS,), generator=generator)]
        optimiser.zero_grad()
        loss(denoiser, x, generator).mean().backward()
        optimiser.step()
    after = missed(network)
    share = (after - exact) / (before - exact)
    print(f"{process:30} {prediction:10} {before:.3f} to {after:.3f}, exact {exact:.3f}: {share:.2f} of the way left")
    assert exact < 0.9 * before
    assert share < 0.75
