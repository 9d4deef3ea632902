"""The reference carried through the process: against dense Bayes, finite differences and sampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.path import PathPoint, ReferencePath, time_of_forgetting, time_of_onset
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving

BASIS = SpectralBasis(Grid((4, 3)))


def windy_path(dead: bool = False) -> ReferencePath:
    reference = GaussianField.power_law(BASIS, 1.5) if dead else smooth_reference(BASIS)
    return ReferencePath(fit_clock(AdvectionDiffusion(BASIS, 0.02, velocity=(0.4, -0.3)), reference), reference)


def dense(point: PathPoint) -> tuple[Tensor, Tensor, Tensor]:
    """Gain and noise covariance at a time, and the data's covariance, as matrices on the modes."""
    eye = torch.eye(12, dtype=torch.float64).reshape(12, 1, 4, 3)
    gain = BASIS.apply(point.log_gain.exp(), eye).flatten(1).T
    return gain, torch.diag(point.noise_variance.flatten()), torch.diag(point.path.reference.spectrum.flatten())


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", [0.2, 1.0])
def test_wiener_is_dense_bayes(t: float) -> None:
    path = windy_path()
    point, mean = path.at(t), path.reference.mean.flatten()
    gain, noise, clean = dense(point)
    total = gain @ clean @ gain.T + noise
    pull = clean @ gain.T @ torch.linalg.inv(total)
    y = normals(5, 1, 4, 3)
    expected = mean + (y.flatten(1) - gain @ mean) @ pull.T
    torch.testing.assert_close(point.wiener(y).flatten(1), expected)
    left = clean - pull @ gain @ clean
    torch.testing.assert_close(torch.diag(point.posterior_variance.flatten()), left, atol=1e-13, rtol=1e-9)
    torch.testing.assert_close(torch.diag(point.variance.flatten()), total, atol=1e-13, rtol=1e-9)
    torch.testing.assert_close(point.mean.flatten(), gain @ mean)


@pytest.mark.parametrize("dead", [False, True])
def test_whitening_whitens_and_comes_back(dead: bool) -> None:
    path = windy_path(dead)
    live = path.reference.support
    z = normals(3, 1, 4, 3) * live
    for t in (path.t_min, 0.6, 1.0):
        point = path.at(t)
        torch.testing.assert_close(point.whiten(point.unwhiten(z)), z)
        eye = torch.eye(12, dtype=torch.float64).reshape(12, 1, 4, 3) * live
        spread = (point.unwhiten(eye) - point.mean).flatten(1)
        gain, noise, clean = dense(point)
        torch.testing.assert_close(spread.T @ spread, gain @ clean @ gain.T + noise)


def test_noised_states_have_the_moments() -> None:
    path, n = windy_path(dead=True), 20_000
    point = path.at(0.5)
    clean = normals(1, 1, 4, 3, seed=1) * path.reference.support
    y = point.noised(clean.expand(n, 1, 4, 3), torch.Generator().manual_seed(2)).flatten(1)
    gain, noise, _ = dense(point)
    live = path.reference.support.flatten()
    error = (y.mean(0) - gain @ clean.flatten())[live] / (noise.diagonal()[live] / n).sqrt()
    spread = (y.var(0)[live] / noise.diagonal()[live] - 1) * math.sqrt(n / 2)
    print(f"largest |z|: mean {error.abs().max():.2f}, variance {spread.abs().max():.2f}")
    assert float(error.abs().max()) < 5 and float(spread.abs().max()) < 5
    assert float(y[:, ~live].abs().max()) == 0.0


def test_push_is_the_angle_and_its_rate_the_derivative() -> None:
    path = windy_path()
    a, b, c = (path.at(t) for t in (0.9, 0.5, 0.2))
    # dz/dφ / (D − W) = −√(V/(cS)), frozen at the start of the step.
    expected = -(b.angle - a.angle) * (a.variance / (path.reference.spectrum * a.noise_variance)).sqrt()
    torch.testing.assert_close(a.push(b), expected, rtol=1e-9, atol=1e-12)
    assert float((a.push(b) * a.push(c)).min()) > 0  # onwards in one direction
    h = 1e-5
    onwards, back = path.at_time(b.time * (1 + h)), path.at_time(b.time * (1 - h))
    derivative = (b.push(onwards) - b.push(back)) / (2 * h * b.time)
    # Central difference: error (h)²/6 of the third derivative, and 1e-16/h of rounding.
    torch.testing.assert_close(b.pull_rate, derivative, rtol=1e-7, atol=1e-9)


def test_push_is_finite_for_modes_far_below_the_noise() -> None:
    reference = GaussianField(BASIS, torch.zeros(1, 4, 3), torch.full((1, 4, 3), 1e-24))
    path = ReferencePath(VariancePreserving(BASIS, clock=LinearClock(10.0)), reference, t_min=0.01)
    push = path.at(1.0).push(path.at(0.5))
    exact = path.at(1.0)
    # c → 0: φ moves by √c (m/√S)|difference, so the push tends to −(m/√S at 0.5 − at 1)·√V·/√S.
    tangent = [p.amplitude / p.noise_variance.sqrt() for p in (path.at(0.5), exact)]
    limit = (tangent[1] - tangent[0]) * exact.variance.sqrt() / exact.noise_variance.sqrt()
    torch.testing.assert_close(push, -limit.expand_as(push), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "process", [VariancePreserving(BASIS), Heat(BASIS), Matern(BASIS)], ids=lambda p: type(p).__name__
)
def test_bias_at_t_min_is_the_mean_loss(process: Matern) -> None:
    reference = smooth_reference(BASIS)
    path = ReferencePath(fit_clock(process, reference), reference, t_min=0.3)
    n = 20_000
    deviation = reference.spectrum.sqrt() * normals(n, 1, 4, 3, seed=3)
    point, later = path.at(0.3), reference.at(path.process, 0.3)
    volume = float(point.log_gain.expand_as(reference.spectrum).sum())
    scored = later.log_prob_of_deviation(point.amplitude * deviation) + volume
    fall = reference.log_prob_of_deviation(deviation) - scored
    error = float(fall.std()) / math.sqrt(n)
    print(f"bias {path.bias_at_t_min:.4f} nats, sampled {fall.mean():.4f} ± {error:.4f}")
    assert abs(float(fall.mean()) - path.bias_at_t_min) < 4 * error


@pytest.mark.parametrize(
    "process",
    [VariancePreserving(BASIS), Heat(BASIS), Matern(BASIS), AdvectionDiffusion(BASIS)],
    ids=lambda p: type(p).__name__,
)
def test_terminal_mismatch_bounds_the_divergence(process: Matern) -> None:
    mixture = bimodal(fit_clock(process, smooth_reference(BASIS)), smooth_reference(BASIS))
    path, n = mixture.path, 4000
    generator = torch.Generator().manual_seed(4)
    y = path.at(1.0).noised(mixture.sample_modes(n, generator), generator)
    end = path.reference.at(path.process, 1.0)
    ratio = mixture.log_prob(y, 1.0) - end.log_prob_of_deviation(y - end.mean)
    error = float(ratio.std()) / math.sqrt(n)
    print(f"KL {ratio.mean():.2e} ± {error:.1e} nats, bound {path.terminal_mismatch:.2e}")
    assert -4 * error < float(ratio.mean()) < path.terminal_mismatch


def test_onset_and_forgetting_are_where_they_say() -> None:
    reference = smooth_reference(BASIS)
    for process in (VariancePreserving(BASIS), Heat(BASIS), Matern(BASIS)):
        kernels = []
        for time in (time_of_onset(process, reference), time_of_forgetting(process, reference)):
            kernels.append(process.with_clock(LinearClock(time)).kernel(torch.tensor(1.0, dtype=torch.float64)))
        ratio = kernels[0].variance / (kernels[0].gain.square() * reference.spectrum)
        assert float(ratio.max()) == pytest.approx(1e-3, rel=0.03)
        clean = kernels[1].gain.square() * reference.spectrum
        assert float((clean / (clean + kernels[1].variance)).max()) == pytest.approx(0.02, rel=0.03)


def test_onset_at_a_noise_level_of_the_field() -> None:
    reference = smooth_reference(BASIS)
    process = Matern(BASIS)
    clock = LinearClock(time_of_onset(process, reference, noise_level=0.05))
    kernel = process.with_clock(clock).kernel(torch.tensor(1.0, dtype=torch.float64))
    clean = (kernel.gain.square() * reference.spectrum).mean()
    assert float((kernel.variance.mean() / clean).sqrt()) == pytest.approx(0.05, rel=0.01)


def test_what_is_refused() -> None:
    reference = smooth_reference(BASIS)
    process = VariancePreserving(BASIS, clock=LinearClock(5.0))
    for t_min in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=r"t_min must lie inside \(0, 1\); got"):
            ReferencePath(process, reference, t_min)
    for basis in (SpectralBasis(Grid((3, 4))), IdentityBasis(Grid((4, 3)))):
        with pytest.raises(ValueError, match="process and reference must share one basis"):
            ReferencePath(VariancePreserving(basis, clock=LinearClock(5.0)), reference)
