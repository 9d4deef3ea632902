"""Blocks against mpmath's matrix exponential in many digits, against scipy's, and against the paper's closed forms.

The exponential of Van Loan's matrix, which holds A, G and Aᵀ, gives Φ and Σ_n together; E and J/I follow by dense
algebra. In floating point that loses all digits of E both for small and for large times, hence the many digits.
Tolerances are three times the error measured, which every test prints.

Source: Van Loan (1978), theorem 1; Dockhorn, Vahdat and Kreis (2022), appendix B.1.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.block import Block
from physdiff.clock import LinearClock
from physdiff.grid import Grid
from physdiff.phase_space import PhaseSpaceProcess
from physdiff.processes.critically_damped_langevin import CriticallyDampedLangevin
from physdiff.processes.damped_wave import DampedWave

pytestmark = pytest.mark.peers

# (A, (G_xx, G_vv), V₀)
BLOCKS = {
    "critically damped Langevin": (((0, 4), (-1, -4)), (0, 2), 0.01),
    "nearly critical": (((0, 1), (-1, -2 - 1e-9)), (0, 2), 1),
    "ringing": (((0, 1), (-100, -1)), (0, 2), 1),
    "creeping": (((0, 1), (-1, -100)), (0, 6), 1),
    "creeping from rest": (((0, 1), (-1, -100)), (0, 6), 0),
    "hot start, hardly any noise": (((0, 1), (-1, -2.5)), (0, 1e-8), 1e4),
    "free": (((0, 1), (0, -1)), (0, 2), 1),
    "free without friction": (((0, 1), (0, 0)), (0, 2), 1),
    "noise on both": (((-1, 1), (-2, -3)), (0.3, 2), 0.5),
    "noise on x alone, from rest": (((-1, 1), (-2, -3)), (0.3, 0), 0),
    "driven by coloured noise": (((-5, 1), (0, -1)), (0, 2), 1),
    "driven, and negative": (((-1, -2), (0, -5)), (0, 2), 1),
}
TIMES = (1e-9, 1e-6, 1e-3, 0.03, 0.1, 0.5, 1.0, 3.0, 10.0, 30.0, 100.0)  # of the fastest rate


def at(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def van_loan(a: Any, g: Any, time: Any, digits: int) -> tuple[Any, Any]:
    """Φ and Σ_n in many digits."""
    with mpmath.workdps(digits):
        whole, drift = mpmath.zeros(4), mpmath.matrix(a)
        whole[0:2, 0:2], whole[2:4, 2:4] = -drift, drift.T
        whole[0, 2], whole[1, 3] = mpmath.mpf(g[0]), mpmath.mpf(g[1])
        power = mpmath.expm(whole * mpmath.mpf(time))
        flow = power[2:4, 2:4].T
        return flow, flow * power[0:2, 2:4]


def lost(a: Any, g: Any, start: float, time: float, digits: int) -> tuple[float, float]:
    """log E and J/I."""
    flow, covariance = van_loan(a, g, time, digits)
    with mpmath.workdps(digits):
        covariance = covariance + mpmath.mpf(start) * flow[:, 1] * flow[:, 1].T
        weights = mpmath.lu_solve(covariance, flow[:, 0])
        information = (flow[:, 0].T * weights)[0]
        rate = (g[0] * weights[0] ** 2 + g[1] * weights[1] ** 2) / information
        return float(-mpmath.log(information)), float(rate)


@pytest.mark.parametrize("name", BLOCKS)
def test_information_and_its_rate_to_rounding(name: str) -> None:
    a, g, start = BLOCKS[name]
    (xx, xv), (vx, vv) = ([at(float(entry)) for entry in row] for row in a)
    block = Block(((xx, xv), (vx, vv)), (at(float(g[0])), at(float(g[1]))), at(float(start)))
    fastest = float(abs(np.linalg.eigvals(np.array(a, float))).max()) or 1.0
    of_error, of_rate = 0.0, 0.0
    for turns in TIMES:
        time = turns / fastest
        norm = float(np.abs(a).sum()) * time
        log_error, rate = lost(a, g, start, time, digits=80 + int(2 * norm))
        memory = block.at(at(time))
        of_error = max(of_error, abs(float(memory.log_error) - log_error) / max(1.0, abs(log_error)))
        of_rate = max(of_rate, abs(float(memory.log_rate.exp()) / rate - 1))
    print(f"{name}: relative error of log E {of_error:.1e}, of J/I {of_rate:.1e}")
    assert of_error < 5e-15 and of_rate < 4e-14


def process_of(name: str) -> PhaseSpaceProcess:
    """Both processes, and settings that are not critical."""
    line, clock = SpectralBasis(Grid(6, 1.0, "neumann")), LinearClock(1.0)
    return {
        "Langevin": CriticallyDampedLangevin(IdentityBasis(Grid(3)), clock=clock),
        "Langevin with little friction": CriticallyDampedLangevin(IdentityBasis(Grid(3)), 0.3, 0.2, 0.5, clock=clock),
        "wave": DampedWave(line, clock=clock),
        "wave with much friction": DampedWave(line, 0.7, 1.1, 40.0, clock=clock),
    }[name]


@pytest.mark.parametrize("name", ["Langevin", "Langevin with little friction", "wave", "wave with much friction"])
def test_kernel_is_the_matrix_exponential(name: str) -> None:
    """scipy's exponential for Φ, and its Lyapunov solver for Σ_n = P − ΦPΦᵀ, at times where that has its digits."""
    process = process_of(name)
    shape = process.basis.grid.shape
    entries = [entry.expand(shape).numpy() for row in process.drift_block() for entry in row]
    noise = [entry.expand(shape).numpy() for entry in process.noise_block()]
    start = float(process.start_velocity_variance)
    worst = [0.0, 0.0]
    for t in (0.1, 0.3, 1.0):
        kernel = process.phase_kernel(at(t))
        for mode in range(shape[0]):
            a, g = np.array([e[mode] for e in entries]).reshape(2, 2), np.diag([e[mode] for e in noise])
            flow, end = linalg.expm(a * t), linalg.solve_continuous_lyapunov(a, -g)
            covariance = end - flow @ end @ flow.T + start * np.outer(flow[:, 1], flow[:, 1])
            columns = [[float(e.expand(shape)[mode]) for e in column] for column in (kernel.gain, kernel.start_gain)]
            xx, xv, vv = (float(e.expand(shape)[mode]) for e in kernel.covariance)
            width = np.sqrt(covariance.diagonal())
            off = np.abs(np.array([[xx, xv], [xv, vv]]) - covariance) / np.outer(width, width)
            unit = width / width[0]
            worst[0] = max(worst[0], float((np.abs(np.array(columns).T - flow) / np.outer(unit, 1 / unit)).max()))
            worst[1] = max(worst[1], float(off.max()))
    print(f"{name}: error of Φ {worst[0]:.1e}, of Σ in deviations {worst[1]:.1e}")
    assert worst[0] < 3e-14 and worst[1] < 2e-13


@pytest.mark.parametrize("mass", [0.25, 1.0])
@pytest.mark.parametrize("time", [1e-6, 1e-3, 0.1, 1.0, 10.0])
def test_langevin_has_the_papers_moments(mass: float, time: float) -> None:
    """Mean and covariance of appendix B.1 for Σ₀ = diag(0, γM), Γ² = 4M, evaluated in 60 digits: in float64 its sums
    cancel for small B = ∫β, as the authors' code notes by a small constant that it adds."""
    process = CriticallyDampedLangevin(IdentityBasis(Grid(3)), mass=mass, clock=LinearClock(time))
    with mpmath.workdps(60):
        b, gamma = mpmath.mpf(time), 2 * mpmath.sqrt(mpmath.mpf(mass))
        start = mpmath.mpf(process.start_velocity) * mpmath.mpf(mass)
        decay = mpmath.exp(-2 * b / gamma)
        flow = ((1 + 2 * b / gamma, 4 * b / gamma**2), (-b, 1 - 2 * b / gamma))
        grown = mpmath.expm1(4 * b / gamma)
        xx = grown - 4 * b / gamma - 8 * b**2 / gamma**2 + 16 * b**2 * start / gamma**4
        xv = 4 * b * start / gamma**2 + 4 * b**2 / gamma - 8 * b**2 * start / gamma**3
        vv = gamma**2 / 4 * grown + b * gamma + start * (1 - 2 * b / gamma) ** 2 - 2 * b**2
        expected = [decay * entry for row in flow for entry in row] + [decay**2 * entry for entry in (xx, xv, vv)]
        expected = [float(entry) for entry in expected]
    kernel = process.phase_kernel(at(1.0))
    (a_x, a_v), (b_x, b_v) = kernel.gain, kernel.start_gain
    found = [float(entry) for entry in (a_x, b_x, a_v, b_v, *kernel.covariance)]
    # Off-diagonal entries pass through zero: deviations are in units of the diagonal ones.
    xx, vv = expected[4] ** 0.5, expected[6] ** 0.5
    units = [float(decay), float(decay) / mass, float(decay) * mass, float(decay), xx * xx, xx * vv, vv * vv]
    error = max(abs(x - y) / unit for x, y, unit in zip(found, expected, units, strict=True))
    print(f"largest deviation {error:.1e}")
    assert error < 1e-14
