"""Clocks: increasing maps from 0, with their rates and inverses, and the published schedules they stand for."""

import math

import pytest
import torch

from physdiff.clock import (
    Clock,
    CosineClock,
    ExponentialClock,
    InterpolantClock,
    KarrasClock,
    LinearClock,
    LinearRateClock,
)

CLOCKS = [
    LinearClock(3.0), ExponentialClock(20.0, 1e-6), LinearRateClock(0.1, 20.0), LinearRateClock(2.0, 2.0),
    CosineClock(), KarrasClock(80.0, 0.002, 7.0), KarrasClock(5.0, 0.1, 1.0), InterpolantClock(),
]  # fmt: skip


@pytest.mark.parametrize("clock", CLOCKS, ids=str)
def test_rate_is_the_derivative_and_inverse_the_inverse(clock: Clock) -> None:
    t = torch.tensor([0.0, 1e-9, 1e-3, 0.2, 0.7, 1.0], dtype=torch.float64, requires_grad=True)
    time = clock.time(t)
    (slope,) = torch.autograd.grad(time.sum(), t)
    torch.testing.assert_close(clock.rate(t), slope, rtol=1e-10, atol=0)
    assert float(time[0].detach()) == 0 and bool((time.detach().diff() > 0).all())
    # Relative to t itself: times are looked up down to the first noise.
    torch.testing.assert_close(clock.inverse(time)[1:], t[1:], rtol=2e-7, atol=0)
    assert clock.end == pytest.approx(float(time[-1].detach()), rel=1e-15)


def test_cosine_clock_has_the_published_signal() -> None:
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    alpha_bar = torch.exp(-CosineClock(0.008, 0.99).time(t))
    f = [math.cos((0.99 * float(u) + 0.008) / 1.008 * math.pi / 2) ** 2 for u in t]
    torch.testing.assert_close(alpha_bar, torch.tensor(f, dtype=torch.float64) / f[0], rtol=1e-12, atol=0)


def test_karras_clock_has_the_published_levels() -> None:
    sigma_min, sigma_max, rho, n = 0.002, 80.0, 7.0, 18
    i = torch.arange(n, dtype=torch.float64)
    published = (sigma_max ** (1 / rho) + i / (n - 1) * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    clock = KarrasClock(sigma_max - sigma_min, sigma_min, rho)
    torch.testing.assert_close(clock.time(1 - i / (n - 1)) + sigma_min, published, rtol=1e-12, atol=0)


def test_exponential_clock_is_the_geometric_noise_schedule() -> None:
    """σ(t)² − σ_min² with σ(t) = σ_min (σ_max/σ_min)^t."""
    low, high = 0.01, 50.0
    t = torch.linspace(0.1, 1, 5, dtype=torch.float64)
    sigma = low * (high / low) ** t
    clock = ExponentialClock(high**2 - low**2, low**2)
    torch.testing.assert_close(clock.time(t), sigma**2 - low**2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [lambda: LinearClock(0.0), lambda: ExponentialClock(1.0, math.inf),
                                  lambda: CosineClock(last=1.0), lambda: InterpolantClock(2.0)])  # fmt: skip
def test_clocks_that_are_none_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"positive, finite|below 1"):
        make()  # type: ignore[operator]
