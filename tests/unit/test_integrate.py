"""Embedded rules per row: order of a step, the exact solution, independence of batch-mates, the two ends, giving up."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from physdiff import integrate as module
from physdiff.integrate import embedded_rule, integrate

RATES = torch.tensor([0.3, 1.0, 4.0, 11.0], dtype=torch.float64)


def relative(tolerance: float) -> object:
    return lambda e, before, after: (e / (tolerance * (1 + before.abs().maximum(after.abs())))).square().mean(1).sqrt()


def wave(rates: Tensor) -> object:
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


@pytest.mark.parametrize("name", ["rk45", "dop853"])
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

    y, evaluations = integrate(counted, *ends, start(4), embedded_rule(name), relative(1e-8))
    exact = torch.exp(torch.sin(RATES * ends[1]) - torch.sin(RATES * ends[0]))
    error = float((y[:, 0] / exact - 1).abs().max())
    print(f"{name}: error {error:.1e}, evaluations {evaluations.tolist()}")
    assert error < 6e-7  # measured 2e-7 at a tolerance of 1e-8 a step
    assert bool((evaluations.diff() >= 0).all()) and int(evaluations[-1]) > 3 * int(evaluations[0])
    assert sum(asked) == int(evaluations.sum())  # rows that have arrived are not asked for again
    assert 0.0 <= float(torch.cat(times).min()) and float(torch.cat(times).max()) <= 2.0


@pytest.mark.parametrize("name", ["rk45", "dop853"])
def test_a_row_is_the_same_in_any_company(name: str) -> None:
    settings = (embedded_rule(name), relative(1e-6))
    together, counts = integrate(wave(RATES), 0.0, 2.0, start(4), *settings)
    for i in range(4):
        alone, count = integrate(wave(RATES[i : i + 1]), 0.0, 2.0, start(1), *settings)
        assert torch.equal(alone[0], together[i]) and int(count) == int(counts[i])
    backwards, _ = integrate(wave(RATES.flip(0)), 0.0, 2.0, start(4), *settings)
    assert torch.equal(backwards.flip(0), together)


def test_as_many_evaluations_as_scipy() -> None:
    """Same tableau, same controller: scipy's own integration of one row needs about as many."""

    def rate(s: float, y: list[float]) -> list[float]:
        return [11 * math.cos(11 * s) * y[0], y[0]]

    for name, method in (("rk45", "RK45"), ("dop853", "DOP853")):
        theirs = solve_ivp(rate, (0, 2), [1.0, 0.0], method=method, rtol=1e-6, atol=1e-6)
        _, ours = integrate(wave(RATES[3:]), 0.0, 2.0, start(1), embedded_rule(name), relative(1e-6))
        print(f"{name}: {int(ours)} evaluations, scipy {theirs.nfev}")
        assert 0.8 < int(ours) / theirs.nfev < 1.2


def test_gives_up_where_there_is_no_solution() -> None:
    """y' = y² from 1 is infinite at s = 1."""
    with pytest.raises(FloatingPointError, match=r"rk45: a step shrank to nothing at (0\.99|1\.0|1)"):
        integrate(
            lambda s, y, rows: y.square(), 0.0, 2.0, torch.ones(1, 1, dtype=torch.float64), embedded_rule("rk45"),
            relative(1e-6),
        )  # fmt: skip
