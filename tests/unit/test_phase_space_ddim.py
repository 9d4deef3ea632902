"""DDIM of the pair (x, v) against the probability flow in phase space, by DOP853 with the score of the pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import EmpiricalDenoiser, GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import as_time, bimodal, smooth_reference
from physdiff.laws.stepping import affine_map
from physdiff.path import ReferencePath
from physdiff.phase_space import PhaseSpaceProcess
from physdiff.processes.critically_damped_langevin import CriticallyDampedLangevin
from physdiff.processes.damped_wave import DampedWave
from physdiff.processes.heat import Heat
from physdiff.solvers import DDIM, LogSpaced, ReverseDynamics, Solver
from physdiff.solvers.phase_space_ddim import PhaseSpaceDDIM, carried_pair, pair_given_statistic

torch.set_num_threads(1)

BOX = SpectralBasis(Grid((3, 4), (1.0, 2.0), ("periodic", "neumann")))
SHAPE = (2, 1, 3, 4)
RTOL = 1e-8
Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Both(CriticallyDampedLangevin):
    """Noise on the field, too."""

    amplitude_exponent = 0.5

    def noise_block(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(0.3, dtype=torch.float64), super().noise_block()[1]


EACH = pytest.mark.parametrize("cls", [CriticallyDampedLangevin, DampedWave, Both], ids=lambda c: c.__name__)


def path_of(cls: type[PhaseSpaceProcess]) -> ReferencePath:
    reference = smooth_reference(BOX)
    return ReferencePath(fit_clock(cls(BOX), reference, 0.1), reference, 0.05)


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow(process: PhaseSpaceProcess, denoise: Denoise, t: float, s: float, pair: tuple[Tensor, Tensor]) -> Tensor:
    """dy/dτ = A y − ½ G ∇log p, modes of x and v stacked."""
    (a_xx, a_xv), (a_vx, a_vv) = process.drift_block()
    g_x, g_v = process.noise_block()

    def rate(log_time: float, state: np.ndarray) -> np.ndarray:
        time = as_time(log_time).exp()
        now = process.running_clock.inverse(time)
        x, v = torch.from_numpy(state).reshape(2, *SHAPE)
        fields = BOX.inverse(x), BOX.inverse(v)
        score = process.phase_kernel(now).score(*fields, denoise(*fields, now))
        of_x, of_v = (BOX.forward(part) for part in score)
        rates = a_xx * x + a_xv * v - 0.5 * g_x * of_x, a_vx * x + a_vv * v - 0.5 * g_v * of_v
        return (time * torch.stack(rates)).flatten().numpy()

    span = [float(process.physical_time(as_time(u)).log()) for u in (t, s)]
    start = torch.stack(pair).flatten().numpy()
    found = integrate.solve_ivp(rate, span, start, method="DOP853", rtol=RTOL, atol=1e-10)
    return torch.from_numpy(found.y[:, -1]).reshape(2, *SHAPE)


@EACH
def test_data_in_one_point_is_exact_in_one_step(cls: type[PhaseSpaceProcess]) -> None:
    process, clean, pair = path_of(cls).process, normal(0), (normal(1), normal(2))
    assert isinstance(process, PhaseSpaceProcess)
    for t, s in ((1.0, 0.5), (1.0, 0.05), (0.2, 0.02)):
        wanted = flow(process, lambda x, v, now: BOX.inverse(clean), t, s, pair)
        found = torch.stack(carried_pair(process, pair, clean, as_time(t), as_time(s)))
        error = float((found - wanted).abs().max() / wanted.abs().max())
        print(f"{cls.__name__} from {t} to {s}: relative error {error:.1e}")
        assert error < 1e-8  # of the oracle: at most 3e-9
    x, v = carried_pair(process, pair, clean, as_time(0.2), as_time(0.0))
    assert torch.equal(x, clean) and bool(v.isfinite().all())


@EACH
def test_the_pair_is_drawn_from_its_law_given_the_statistic(cls: type[PhaseSpaceProcess]) -> None:
    """y = a u + d ξ: the statistic comes back, and with u ~ N(x_0, E) the pair has the covariance Σ, entry by entry."""
    process, t = path_of(cls).process, as_time(0.6)
    assert isinstance(process, PhaseSpaceProcess)
    zero = torch.zeros(SHAPE, dtype=torch.float64)
    x, v = pair_given_statistic(process, normal(0), t, normal(1))
    back = BOX.forward(process.statistic(BOX.inverse(x), BOX.inverse(v), t))
    torch.testing.assert_close(back, normal(0), rtol=0, atol=1e-11)
    by_noise = pair_given_statistic(process, zero, t, zero + 1)
    by_statistic = pair_given_statistic(process, zero + process.kernel(t).variance.sqrt(), t, zero)
    for (i, j), entry in zip(((0, 0), (0, 1), (1, 1)), process.phase_kernel(t).covariance, strict=True):
        found = by_noise[i] * by_noise[j] + by_statistic[i] * by_statistic[j]
        torch.testing.assert_close(found, entry.expand(SHAPE), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cls", [CriticallyDampedLangevin, Both], ids=lambda c: c.__name__)
def test_it_is_first_order_on_a_mixture(cls: type[PhaseSpaceProcess]) -> None:
    path = path_of(cls)
    mixture = bimodal(path.process, path.reference, 0.05)
    process, end = mixture.path.process, mixture.path.at(0.05)
    assert isinstance(process, PhaseSpaceProcess)
    y, drawn = mixture.path.at(1.0).unwhiten(normal(3)), normal(4)
    pair = pair_given_statistic(process, y, as_time(1.0), drawn)
    x, v = flow(process, lambda x, v, now: mixture(process.statistic(x, v, now), now), 1.0, 0.05, pair)
    wanted = BOX.forward(process.statistic(BOX.inverse(x), BOX.inverse(v), as_time(0.05)))

    def error(steps: int) -> float:
        dynamics, state = ReverseDynamics(mixture), y
        for t, s in pairwise(LogSpaced().between(mixture.path, steps)):
            state = PhaseSpaceDDIM().step(dynamics, state, t, s, lambda shape: drawn)
        assert dynamics.evaluations == steps
        return float((end.whiten(state) - end.whiten(wanted)).square().mean().sqrt())

    slope = math.log2(error(48) / error(96))
    print(f"{cls.__name__}: slope {slope:.3f}, error in 96 steps {error(96):.1e}")
    assert abs(slope - 1) < 0.15


@EACH
def test_samples_of_gaussian_data_tend_to_its_law(cls: type[PhaseSpaceProcess]) -> None:
    """Mean and covariance by the affine map of all steps; DDIM of the statistic alone is the more accurate one."""
    path = path_of(cls)
    start = path.at(1.0)

    def errors(solver: Solver, steps: int) -> float:
        whole = affine_map(solver, GaussianDenoiser(path), LogSpaced().between(path, steps))
        mean, covariance = whole.carry(start.mean.flatten(), torch.diag(start.variance.flatten()))
        root = path.at(0.05).variance.flatten().sqrt()
        whitened = covariance / (root * root.unsqueeze(1)) - torch.eye(len(root), dtype=torch.float64)
        missed = (mean - path.at(0.05).mean.flatten()) / root
        return float(whitened.abs().max() + missed.abs().max())

    few, many = errors(PhaseSpaceDDIM(), 32), errors(PhaseSpaceDDIM(), 64)
    alone = errors(DDIM(), 64)
    print(f"{cls.__name__}: errors {few:.1e}, {many:.1e}; of the statistic alone {alone:.1e}")
    assert 1.6 < few / many < 2.1 and many < 0.3 and alone < 0.8 * many


def test_modes_outside_the_support_stay_at_the_mean() -> None:
    """And a point of data is reached in the last step."""
    reference = smooth_reference(BOX)
    spectrum = reference.spectrum.clone()
    spectrum[0, 0, 0] = 0.0
    reference = GaussianField(BOX, reference.mean, spectrum)
    path = ReferencePath(fit_clock(CriticallyDampedLangevin(BOX), reference, 0.1), reference, 0.05)
    data = torch.where(reference.support, normal(5)[:1], reference.mean)
    model, drawn = EmpiricalDenoiser(path, BOX.inverse(data)), normal(4)
    dynamics, y = ReverseDynamics(model), path.at(1.0).unwhiten(torch.where(reference.support, normal(3), 0.0))
    for t, s in pairwise(LogSpaced().times(path, 4)):
        y = PhaseSpaceDDIM().step(dynamics, y, t, s, lambda shape: drawn)
        torch.testing.assert_close(y[..., 0, 0], path.at(s).mean[..., 0, 0].expand(2, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(y, data.expand(SHAPE), rtol=0, atol=1e-12)


def test_it_is_for_phase_space_alone() -> None:
    reference = smooth_reference(BOX)
    path = ReferencePath(fit_clock(Heat(BOX), reference), reference)
    assert PhaseSpaceDDIM.allows(path_of(DampedWave).process) and not PhaseSpaceDDIM.allows(path.process)
    with pytest.raises(ValueError, match="PhaseSpaceDDIM needs a phase-space process; Heat has no velocity"):
        PhaseSpaceDDIM().step(
            ReverseDynamics(GaussianDenoiser(path)), normal(0), as_time(1.0), as_time(0.5), lambda shape: normal(1)
        )
