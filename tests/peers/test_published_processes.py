"""Song's processes against the constants of the paper and its code, and sub-VP against an integral of 30 digits."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from physdiff.basis import IdentityBasis
from physdiff.clock import ExponentialClock, LinearRateClock
from physdiff.grid import Grid
from physdiff.process import LinearProcess
from physdiff.processes.sub_variance_preserving import SubVariancePreserving
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.processes.variance_preserving import VariancePreserving

pytestmark = pytest.mark.peers

CELLS = IdentityBasis(Grid(4))
BETA = LinearRateClock(0.1, 20.0)  # β_min, β_max: Song et al. (2021), appendix C; VPSDE(beta_min=0.1, beta_max=20)
# σ_min = 0.01, σ_max = 50: Song et al. (2021), appendix C; VESDE(sigma_min=0.01, sigma_max=50)
SIGMA = ExponentialClock(duration=50.0**2 - 0.01**2, onset=0.01**2)


def at(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def rates(process: LinearProcess, t: float) -> tuple[float, float]:
    """Drift coefficient f/x and g², per unit of t."""
    clock = process.running_clock
    time, rate = clock.time(at(t)), clock.rate(at(t))
    return float(process.drift_symbol(time) * rate), float(process.noise_spectrum(time) * rate)


@pytest.mark.parametrize(("t", "beta"), [(0.0, 0.1), (0.25, 5.075), (0.5, 10.05), (1.0, 20.0)])
def test_vp_drift_and_noise(t: float, beta: float) -> None:
    """f = −½ β(t) x, g² = β(t), β(t) = β_min + t (β_max − β_min): eq. 11 and 32."""
    drift, noise = rates(VariancePreserving(CELLS, clock=BETA), t)
    assert drift == pytest.approx(-beta / 2, rel=1e-15, abs=0)
    assert noise == pytest.approx(beta, rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("t", "gain", "vp", "sub_vp", "sub_vp_noise"),
    [
        (0.25, 0.72365718508308643, 0.47632027847762359, 0.22688100768900088, 3.6832297125261999),
        (0.5, 0.28118288079675238, 0.92093618754683934, 0.84812346153330725, 9.987176581281733),
        (1.0, 0.006571586494929615, 0.99995681425093966, 0.99991363036688824, 19.999999962699822),
    ],
)
def test_vp_and_sub_vp_kernels(t: float, gain: float, vp: float, sub_vp: float, sub_vp_noise: float) -> None:
    """log m = −¼t²(β_max − β_min) − ½tβ_min; S = 1 − m², sub-VP (1 − m²)², g² = β(1 − m⁴): eq. 13, 29 in 17 digits."""
    for process, variance in (
        (VariancePreserving(CELLS, clock=BETA), vp),
        (SubVariancePreserving(CELLS, clock=BETA), sub_vp),
    ):
        kernel = process.kernel(at(t))
        assert float(kernel.gain) == pytest.approx(gain, rel=4e-15, abs=0)
        assert float(kernel.variance) == pytest.approx(variance, rel=1e-15, abs=0)
    assert rates(process, t)[1] == pytest.approx(sub_vp_noise, rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("t", "noise", "sigma_squared"),
    [
        (0.0, 1.7034386382832475e-3, 1e-4),
        (0.25, 0.12045130124652628, 0.0070710678118654752),
        (0.5, 8.5171931914162374, 0.5),
        (1.0, 42585.965957081187, 2500.0),
    ],
)
def test_ve_drift_and_noise(t: float, noise: float, sigma_squared: float) -> None:
    """f = 0, g = σ(t) √(2 log(σ_max/σ_min)), σ = σ_min (σ_max/σ_min)^t: appendix C; S = σ(t)² − σ_min²: eq. 29."""
    process = VarianceExploding(CELLS, clock=SIGMA)
    drift, found = rates(process, t)
    assert drift == 0
    assert found == pytest.approx(noise, rel=2e-14, abs=0)
    assert float(process.kernel(at(t)).variance) == pytest.approx(sigma_squared - 1e-4, rel=2e-14, abs=1e-30)


@pytest.mark.parametrize(("since", "time"), [(0.0, 1e-6), (0.0, 0.3), (0.2, 0.3), (1.0, 1.0001), (2.0, 30.0)])
def test_sub_vp_solves_its_equation(since: float, time: float) -> None:
    """S = ∫ e^{−(τ−u)} (1 − e^{−2u}) du by quadrature in 30 digits, and (1 − e^{−τ})² from the clean field."""
    with mpmath.workdps(30):
        start, end = mpmath.mpf(since), mpmath.mpf(time)
        integral = mpmath.quad(lambda u: mpmath.exp(u - end) * -mpmath.expm1(-2 * u), mpmath.linspace(start, end, 9))
        closed = mpmath.expm1(-end) ** 2
        if since == 0:
            assert abs(integral / closed - 1) < mpmath.mpf("1e-25")
    found = float(SubVariancePreserving(CELLS).variance(at(time), at(since)))
    print(f"relative deviation {abs(found / float(integral) - 1):.1e}")
    assert found == pytest.approx(float(integral), rel=1e-15, abs=0)
