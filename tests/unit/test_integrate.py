"""Embedded rules per row: order of a step, the exact solution, independence of batch-mates, the two ends, giving up."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from physdiff import integrate as module
from physdiff.integrate import Rate, Size, embedded_rule, integrate
from physdiff.multistep import integrate_multistep

RATES = torch.tensor([0.3, 1.0, 4.0, 11.0], dtype=torch.float64)


def relative(tolerance: float) -> Size:
    return lambda e, before, after: (e / (tolerance * (1 + before.abs().maximum(after.abs())))).square().mean(1).sqrt()


def wave(rates: Tensor) -> Rate:
    """y' = r cos(r s) y, so that y = exp(sin(r s)), and a second value y₂' = y₁."""

    def rate(s: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        r = rates[rows]
        return torch.stack([r * torch.cos(r * s) * y[:, 0], y[:, 0]], 1)

    return rate


def start(n: int) -> Tensor:
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(n, 1)


@pytest.mark.parametrize(("name", "order"), [("rk45", 5), ("dop853", 8)])
def test_one_step_has_the_rules_order(monkeypatch: pytest.MonkeyPatch, name: str, order: int) -> None:
    """The error of one step falls as h^(p+1), the estimate of it as h^p."""
    monkeypatch.setattr(module, "FIRST", 1.0)
    errors, estimates = [], []
    for h in (0.4, 0.2):
        seen: list[Tensor] = []

        def accept(e: Tensor, before: Tensor, after: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(e)
            return torch.zeros(len(e), dtype=e.dtype)

        y, count = integrate(wave(RATES[1:2]), 0.3, 0.3 + h, start(1), embedded_rule(name), accept)
        exact = math.exp(math.sin(0.3 + h) - math.sin(0.3))
        errors.append(abs(float(y[0, 0]) - exact))
        estimates.append(float(seen[0][0, 0].abs()))
        assert int(count) == len(embedded_rule(name).nodes) + 1
    slope, estimate = (math.log2(x[0] / x[1]) for x in (errors, estimates))
    print(f"{name}: error slope {slope:.2f}, estimate slope {estimate:.2f}")
    assert abs(slope - (order + 1)) < 0.5  # measured 6.1 and 8.6: shorter steps end in rounding
    assert estimate > (4.5 if name == "rk45" else 5.5)  # of order 4, and a mixture of orders 5 and 3


def solve(name: str, rate: Rate, first: float, last: float, y: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    size = relative(tolerance)
    if name == "adams":
        return integrate_multistep(rate, first, last, y, size)
    return integrate(rate, first, last, y, embedded_rule(name), size)


NAMES = ["adams", "rk45", "dop853"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backwards", [False, True])
def test_rows_follow_the_exact_solution_each_at_its_own_pace(name: str, backwards: bool) -> None:
    ends = (2.0, 0.0) if backwards else (0.0, 2.0)
    asked: list[int] = []
    times: list[Tensor] = []
    rate = wave(RATES)

    def counted(s: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        asked.append(len(rows))
        times.append(s)
        return rate(s, y, rows)

    y, evaluations = solve(name, counted, *ends, start(4), 1e-8)
    exact = torch.exp(torch.sin(RATES * ends[1]) - torch.sin(RATES * ends[0]))
    error = float((y[:, 0] / exact - 1).abs().max())
    print(f"{name}: error {error:.1e}, evaluations {evaluations.tolist()}")
    assert error < 2e-6  # measured up to 6e-7 at a tolerance of 1e-8 a step
    assert bool((evaluations.diff() >= 0).all()) and int(evaluations[-1]) > 3 * int(evaluations[0])
    assert sum(asked) == int(evaluations.sum())  # rows that have arrived are not asked for again
    assert 0.0 <= float(torch.cat(times).min()) and float(torch.cat(times).max()) <= 2.0


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_the_same_in_any_company(name: str) -> None:
    together, counts = solve(name, wave(RATES), 0.0, 2.0, start(4), 1e-6)
    for i in range(4):
        alone, count = solve(name, wave(RATES[i : i + 1]), 0.0, 2.0, start(1), 1e-6)
        assert torch.equal(alone[0], together[i]) and int(count) == int(counts[i])
    backwards, _ = solve(name, wave(RATES.flip(0)), 0.0, 2.0, start(4), 1e-6)
    assert torch.equal(backwards.flip(0), together)


def test_as_many_evaluations_as_scipy() -> None:
    """Same tableau, same controller: scipy's own integration of one row needs about as many; its Adams more."""

    def rate(s: float, y: list[float]) -> list[float]:
        return [11 * math.cos(11 * s) * y[0], y[0]]

    for name, method, least, most in (
        ("rk45", "RK45", 0.8, 1.2), ("dop853", "DOP853", 0.8, 1.2), ("adams", "LSODA", 0.3, 1.0),
    ):  # fmt: skip
        theirs = solve_ivp(rate, (0, 2), [1.0, 0.0], method=method, rtol=1e-7, atol=1e-7)
        y, ours = solve(name, wave(RATES[3:]), 0.0, 2.0, start(1), 1e-7)
        exact = math.exp(math.sin(22))
        errors = [abs(float(value) / exact - 1) for value in (y[0, 0], theirs.y[0, -1])]
        print(f"{name}: {int(ours)} evaluations, error {errors[0]:.1e}; scipy {theirs.nfev}, {errors[1]:.1e}")
        assert least < int(ours) / theirs.nfev < most
        assert errors[0] < 10 * errors[1]


def test_adams_is_exact_where_f_is_a_polynomial_of_its_order() -> None:
    """f = s⁵, which no formula below order 6 integrates: once orders have risen no error is left, nor any refusal."""
    sixth: list[float] = []

    def rate(s: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return 6 * s.unsqueeze(1) ** 5

    def size(e: Tensor, before: Tensor, after: Tensor) -> Tensor:
        sixth.append(float(e))  # of orders 1 to 6 in turn
        return e.abs().amax(1) / 1e-9

    y, count = integrate_multistep(rate, 0.0, 2.0, torch.zeros(1, 1, dtype=torch.float64), size)
    print(f"error {float(y) - 64:.1e}, {int(count)} evaluations")
    assert abs(float(y) - 64) < 3e-9 and int(count) < 30  # measured 8e-10 and 16: the first steps are of low order
    assert max(abs(e) for e in sixth[5 + 6 * 9 :: 6]) < 1e-12 < abs(sixth[-3])


@pytest.mark.parametrize("name", NAMES)
def test_gives_up_where_there_is_no_solution(name: str) -> None:
    """y' = y² from 1 is infinite at s = 1."""
    with pytest.raises(FloatingPointError, match=rf"{name}: a step shrank to nothing at (0\.99|1)"):
        solve(name, lambda s, y, rows: y.square(), 0.0, 2.0, torch.ones(1, 1, dtype=torch.float64), 1e-6)
