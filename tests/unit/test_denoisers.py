"""Exact denoisers against dense Bayes on the cells, and the network's denoiser around the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser, EmpiricalDenoiser, GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.variance_preserving import VariancePreserving

PLANE = SpectralBasis(Grid((4, 3), (1.0, 1.5), ("periodic", "neumann")))
PROCESSES = [
    VariancePreserving(IdentityBasis(Grid((4, 3)))),
    Heat(PLANE),
    AdvectionDiffusion(PLANE, 0.02, 0.4, (0.3, 0.0)),
]


def scalar(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def on_cells(process: LinearProcess, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gain and noise covariance as matrices on the cells, and U."""
    basis, kernel, u = process.basis, process.kernel(scalar(t)), process.basis.dense()
    eye = torch.eye(12, dtype=torch.float64).reshape(12, *basis.grid.shape)
    gain = u @ basis.apply(kernel.gain, eye).flatten(1).T @ u.T
    return gain, u @ torch.diag(kernel.variance.expand(basis.grid.shape).flatten()) @ u.T, u


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_mixture_is_dense_bayes(process: LinearProcess, t: float) -> None:
    process = fit_clock(process, smooth_reference(process.basis))
    mixture = bimodal(process, smooth_reference(process.basis))
    gain, noise, u = on_cells(process, t)
    x = 2 * normals(6, 1, 4, 3)
    flat, log_weights, expected = x.flatten(1), [], []
    for log_w, mean, spectrum in zip(mixture.log_weights, mixture.means, mixture.spectra, strict=True):
        mu, clean = u @ mean.flatten(), u @ torch.diag(spectrum.flatten()) @ u.T
        total = gain @ clean @ gain.T + noise
        log_weights.append(log_w + MultivariateNormal(gain @ mu, total).log_prob(flat))
        expected.append(mu + (flat - gain @ mu) @ (clean @ gain.T @ torch.linalg.inv(total)).T)
    joint = torch.stack(log_weights, 1)
    wanted = (torch.softmax(joint, 1).unsqueeze(2) * torch.stack(expected, 1)).sum(1)
    torch.testing.assert_close(mixture(x, scalar(t)).flatten(1), wanted, rtol=1e-8, atol=1e-10)
    density = mixture.log_prob(process.basis.forward(x), t)
    torch.testing.assert_close(density, torch.logsumexp(joint, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_empirical_is_an_explicit_softmax(process: LinearProcess) -> None:
    reference = smooth_reference(process.basis)
    path = ReferencePath(fit_clock(process, reference), reference)
    data, x = normals(5, 1, 4, 3, seed=1), normals(3, 1, 4, 3, seed=2)
    gain, noise, _ = on_cells(path.process, 0.4)
    distance = x.flatten(1).unsqueeze(1) - (data.flatten(1) @ gain.T).unsqueeze(0)
    exponent = -0.5 * torch.einsum("nki,ij,nkj->nk", distance, torch.linalg.inv(noise), distance)
    wanted = torch.softmax(exponent, 1) @ data.flatten(1)
    found = EmpiricalDenoiser(path, data)(x, scalar(0.4)).flatten(1)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_gaussian_denoiser_of_another_law_is_that_laws_wiener_filter() -> None:
    process = fit_clock(PROCESSES[2], smooth_reference(PLANE))
    path = ReferencePath(process, smooth_reference(PLANE))
    law = GaussianField(PLANE, 1 + path.reference.mean, 2.5 * path.reference.spectrum)
    gain, noise, u = on_cells(process, 0.5)
    mu, clean = u @ law.mean.flatten(), u @ torch.diag(law.spectrum.flatten()) @ u.T
    x = normals(4, 1, 4, 3)
    pull = clean @ gain.T @ torch.linalg.inv(gain @ clean @ gain.T + noise)
    wanted = mu + (x.flatten(1) - gain @ mu) @ pull.T
    torch.testing.assert_close(GaussianDenoiser(path, law)(x, scalar(0.5)).flatten(1), wanted)


def test_batched_times_are_single_times() -> None:
    mixture = bimodal(fit_clock(PROCESSES[2], smooth_reference(PLANE)), smooth_reference(PLANE))
    x, t = normals(3, 1, 4, 3), torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    for ask in (mixture, mixture.score, mixture.epsilon):
        together = ask(x, t)
        alone = torch.cat([ask(x[i : i + 1], t[i]) for i in range(3)])
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


# ---- around a network


class Network(nn.Module):
    """Dense layers over all cells, for tests: not zero at the start."""

    def __init__(self, cells: int, last: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.inner = nn.Parameter(torch.randn(cells, cells, generator=generator, dtype=torch.float64) / cells**0.5)
        self.outer = nn.Parameter(last * torch.randn(cells, cells, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self.seen = x.detach()
        hidden = torch.tanh(x.flatten(1) @ self.inner + t.unsqueeze(1))
        return (hidden @ self.outer).reshape(x.shape)


def networked(last: float = 1.0, mode_scaling: float = 0.0, dead: bool = False) -> Denoiser:
    reference = GaussianField.power_law(PLANE, 1.5) if dead else smooth_reference(PLANE)
    path = ReferencePath(fit_clock(PROCESSES[2], reference), reference)
    return Denoiser(Network(12, last), path, mode_scaling)


def test_silent_network_is_the_gaussian_field() -> None:
    denoiser = networked(last=0.0)
    x = normals(3, 1, 4, 3)
    for ask in ("forward", "score", "epsilon"):
        found = getattr(denoiser, ask)(x, scalar(0.5))
        torch.testing.assert_close(found, getattr(GaussianDenoiser(denoiser.path), ask)(x, scalar(0.5)), rtol=0, atol=0)


@pytest.mark.parametrize("mode_scaling", [0.0, 0.5, 1.0])
def test_network_stays_on_the_support(mode_scaling: float) -> None:
    denoiser = networked(dead=True, mode_scaling=mode_scaling)
    live = denoiser.path.reference.support
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    residual = denoiser.residual(normals(3, 1, 4, 3), t).detach()
    assert torch.isfinite(residual).all() and float(residual[:, ~live].abs().max()) == 0.0
    score = PLANE.forward(denoiser.score(normals(3, 1, 4, 3), t).detach())
    # Rounding of two transforms of a score of size 60: measured 3e-14.
    assert float(score[:, ~live].abs().max()) < 1e-13


@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_network_sees_unit_variance_in_the_moving_frame(t: float) -> None:
    denoiser, n = networked(), 4000
    path = denoiser.path
    y = path.at(t).unwhiten(normals(n, 1, 4, 3, seed=6))
    denoiser.residual(y, scalar(t))
    seen = denoiser.network.seen
    power = seen.square().flatten(1).mean(1)
    error = float(power.std()) / n**0.5
    print(f"power {power.mean():.4f} ± {error:.4f}")
    assert abs(float(power.mean()) - 1) < 4 * error
    # The mean is taken off, and the rotation undone: a field carried by the wind looks the same as at the start.
    carried = path.process.kernel(scalar(t))
    start = path.reference.mean + normals(1, 1, 4, 3, seed=7)
    denoiser.residual(PLANE.apply(carried.gain, start), scalar(t))
    amplitude = carried.gain.abs() / path.at(t).variance.mean().sqrt()
    expected = PLANE.inverse(amplitude * (start - path.reference.mean))
    torch.testing.assert_close(denoiser.network.seen, expected)


def test_output_scale_is_what_the_wiener_filter_leaves() -> None:
    for gamma in (0.0, 0.5, 1.0):
        denoiser = networked(mode_scaling=gamma)
        point = denoiser.path.at(0.5)
        gain, noise, clean = point.amplitude, point.noise_variance, denoiser.path.reference.spectrum
        left = clean - clean**2 * gain**2 / (gain**2 * clean + noise)
        kappa = left.mean().sqrt()
        wanted = kappa ** (1 - gamma) * left.sqrt() ** gamma
        torch.testing.assert_close(denoiser.output_scale(point), wanted, rtol=1e-9, atol=0)


def test_float32_network_in_a_float64_model() -> None:
    denoiser = networked()
    single = Denoiser(Network(12).float(), denoiser.path)
    x = normals(2, 1, 4, 3)
    assert single(x, scalar(0.3)).dtype == torch.float64
    torch.testing.assert_close(single(x, scalar(0.3)), denoiser(x, scalar(0.3)), rtol=1e-4, atol=1e-5)


def test_mode_scaling_is_refused_outside_0_to_1() -> None:
    with pytest.raises(ValueError, match=r"mode_scaling must lie in \[0, 1\]; got 1.5"):
        networked(mode_scaling=1.5)
