"""Time grids against those of diffusers and k-diffusion, which are computed in float32 or in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from experiments.benchmarks._peers import k_diffusion
from physdiff.basis import SpectralBasis
from physdiff.clock import ExponentialClock
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.path import ReferencePath
from physdiff.processes.edm import EDM
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers import Karras, LogSNR

pytestmark = pytest.mark.peers

BASIS = SpectralBasis(Grid((4, 5), (1.0, 2.0), ("periodic", "neumann")))
ENDS = 80.0, 0.002
every_count = pytest.mark.parametrize("count", [2, 5, 18, 64])


def edm_path() -> ReferencePath:
    """Noise levels from 80 to 0.002."""
    clock = ExponentialClock(ENDS[0], 0.01)
    t_min = float(clock.inverse(torch.tensor(ENDS[1], dtype=torch.float64)))
    return ReferencePath(EDM(BASIS, clock=clock), smooth_reference(BASIS), t_min)


def levels(path: ReferencePath, times: torch.Tensor) -> np.ndarray:
    """σ of EDM at the times of a sample, the last being 0."""
    return path.clock.time(times).numpy()


@every_count
@pytest.mark.parametrize("rho", [7.0, 3.0])
def test_karras_is_that_of_k_diffusion(count: int, rho: float) -> None:
    """Theirs is in float32: a seventh root loses digits of its own, and is off by up to 5e-6."""
    path = edm_path()
    theirs = k_diffusion().get_sigmas_karras(count, ENDS[1], ENDS[0], rho).numpy()
    ours = levels(path, Karras(rho).times(path, count))
    print(f"largest relative difference {np.abs(ours[:-1] / theirs[:-1] - 1).max():.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=1.5e-5)


@every_count
def test_karras_is_that_of_diffusers(diffusers: Any, count: int) -> None:
    """EDM's own scheduler, in float32, and the one that others borrow, in NumPy's float64."""
    path = edm_path()
    ours = levels(path, Karras().times(path, count))
    edm = diffusers.EDMEulerScheduler(sigma_min=ENDS[1], sigma_max=ENDS[0], rho=7.0, sigma_schedule="karras")
    edm.set_timesteps(count)
    np.testing.assert_allclose(ours, edm.sigmas.numpy(), rtol=1.5e-5)
    borrowed = diffusers.EulerDiscreteScheduler()._convert_to_karras(torch.tensor(ENDS, dtype=torch.float64), count)
    np.testing.assert_allclose(ours[:-1], borrowed, rtol=1e-13)


@every_count
def test_log_snr_is_that_of_k_diffusion_and_diffusers(diffusers: Any, count: int) -> None:
    """ "Exponential" noise levels of variance exploding, and Lu et al.'s λ of variance preserving diffusion."""
    path = edm_path()
    ours = levels(path, LogSNR().times(path, count))
    np.testing.assert_allclose(ours, k_diffusion().get_sigmas_exponential(count, ENDS[1], ENDS[0]).numpy(), rtol=1.5e-5)
    preserving = ReferencePath(
        VariancePreserving(BASIS, clock=ExponentialClock(10.0, 1e-3)), smooth_reference(BASIS), 0.05
    )
    time = preserving.clock.time(LogSNR().times(preserving, count))[:-1]
    log_snr = -0.5 * torch.log(torch.expm1(time))
    theirs = diffusers.DPMSolverMultistepScheduler()._convert_to_lu(log_snr[[0, -1]], count)
    np.testing.assert_allclose(log_snr.numpy(), theirs, rtol=1e-12, atol=1e-12)
