"""The exponential Runge-Kutta rule against exact solutions, and smooth random starts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.etdrk4 import ETDRK4, evolve
from datasets.random_start import smooth_noise


def logistic(start: float, rate: float, time: float) -> float:
    """u(t) of du/dt = c u − u²."""
    if rate == 0:
        return start / (1 + start * time)
    grown = start * math.exp(rate * time)
    return grown / (1 + start * (math.exp(rate * time) - 1) / rate)


@pytest.mark.parametrize("rate", [-3.0, 0.0, 0.7, 3.0])
def test_order_four_on_decay_growth_and_neither(rate: float) -> None:
    steps, errors = (32, 64, 128), []
    for n in steps:
        rule, u = ETDRK4(np.array([rate]), 2.0 / n), np.array([1.3])
        for _ in range(n):
            u = rule.step(u, lambda x: -(x**2))
        errors.append(abs(float(u[0]) - logistic(1.3, rate, 2.0)))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    print(f"order {slope:.3f}, errors {errors}")
    assert errors[-1] > 1e-12 and slope == pytest.approx(4, abs=0.15)


@pytest.mark.parametrize("rate", [0.0, -1e-12, 1e-6, -0.3, 2.0, -30.0, -1e5])
def test_a_constant_is_integrated_exactly_at_any_rate(rate: float) -> None:
    """u(1) = e^c u + (e^c − 1)/c; where the difference cancels, expm1 does not."""
    rates = np.array([rate])
    end = ETDRK4(rates, 1.0).step(np.array([0.4]), lambda x: np.full_like(x, 1.7))
    factor = math.expm1(rate) / rate if rate else 1.0
    # Rounding of e^c and of a mean over 32 points; measured 1.5e-15, times 3.
    assert float(end[0]) == pytest.approx(math.exp(rate) * 0.4 + 1.7 * factor, rel=5e-15, abs=1e-18)
    tensor = ETDRK4(rates, 1.0, "cpu").step(torch.tensor([0.4], dtype=torch.float64), lambda x: torch.full_like(x, 1.7))
    assert float(tensor) == float(end[0])


def test_overflow_is_said() -> None:
    def square(x: Tensor) -> Tensor:
        return x * x

    with pytest.raises(ValueError, match=r"overflowed with 20 steps of 1; take more steps"):
        evolve(torch.full((2,), 3.0 + 0j, dtype=torch.complex128), torch.zeros(2).double(), square, 20.0, 20)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_smooth_noise_is_one_function_of_unit_variance(ndim: int) -> None:
    runs = {1: 2000, 2: 200, 3: 12}[ndim]
    fields = smooth_noise([np.random.default_rng([5, run]) for run in range(runs)], ndim, 32, 3.0)
    assert fields.shape == (runs, *[32] * ndim)
    axes = tuple(range(1, ndim + 1))
    variance = fields.square().mean(axes)
    error = float(variance.std()) / math.sqrt(runs)
    print(f"variance {variance.mean():.4f} ± {error:.4f}")
    assert float(variance.mean()) == pytest.approx(1, abs=4 * error)
    assert float(fields.mean(axes).abs().max()) < 1e-14
    # e^{−1/2} of the power at wavenumber 3 along one axis, relative to wavenumber 1 (e^{−1/18}).
    power = torch.fft.fftn(fields, dim=axes).abs().square().mean(0)
    one, three = (sum(float(power.movedim(axis, 0)[k].flatten()[0]) for axis in range(ndim)) for k in (1, 3))
    spread = math.sqrt(2 / (runs * ndim))
    assert three / one == pytest.approx(math.exp(-0.5 + 1 / 18), rel=4 * spread)
    # The same function at other points: every third centre of 96 points is a centre of 32.
    fine = smooth_noise([np.random.default_rng([5, 0])], ndim, 96, 3.0)[0]
    for _ in range(ndim):
        fine = fine.movedim(0, -1)[..., 1::3]
    torch.testing.assert_close(fine, fields[0], atol=1e-13, rtol=0)
