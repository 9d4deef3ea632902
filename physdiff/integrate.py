r"""Embedded Runge-Kutta rules in which every row of a batch has a time and a step of its own.

Solvers that hold one error norm over a batch give a field another result beside other fields, and make easy fields pay
for hard ones. Here a row's steps depend on the row alone: in

    k_i = f(s + c_i h, y + h Σ_j a_ij k_j),     y' = y + h Σ_i b_i k_i,     e = h Σ_i e_i k_i

s and h have the shape (rows,), a step is taken where the size of e is at most 1, and rows that have arrived leave the
batch. The first stage of a step is the last one of the step before. No stage looks beyond the two ends.

The rules are scipy's: RK45 (Dormand and Prince, 1980, order 5) and DOP853 (Hairer, Nørsett and Wanner, 1993, order 8,
whose error combines estimates of orders 5 and 3).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.integrate import DOP853, RK45
from torch import Tensor

SAFETY, SHORTEST, LONGEST = 0.9, 0.2, 8.0  # factors between one step and the next
FIRST = 1 / 16  # of the way: the first step, which the error then corrects
CLASSES = {"rk45": RK45, "dop853": DOP853}
Rate = Callable[[Tensor, Tensor, Tensor], Tensor]
Size = Callable[[Tensor, Tensor, Tensor], Tensor]


class EmbeddedRule:
    """An explicit Runge-Kutta rule with an error estimate.

    Args:
        name: "rk45" or "dop853".
    """

    def __init__(self, name: str) -> None:
        rule = CLASSES[name]
        self.name = name
        self.nodes = [float(c) for c in rule.C]
        self.coupling = [_nonzero(row) for row in np.asarray(rule.A)]
        self.weights = _nonzero(rule.B)
        self.exponent = 1 / (rule.error_estimator_order + 1)
        self.errors = [_nonzero(e) for e in ([rule.E] if name == "rk45" else [rule.E5, rule.E3])]

    def error(self, stages: list[Tensor], step: Tensor, size: Callable[[Tensor], Tensor]) -> Tensor:
        """Size of a step's error in units of the tolerance, shape (rows,)."""
        sizes = [size(step * _combination(weights, stages)) for weights in self.errors]
        if len(sizes) == 1:
            return sizes[0]
        fifth, third = sizes
        both = (fifth.square() + 0.01 * third.square()).sqrt()
        return torch.where(both > 0, fifth.square() / torch.where(both > 0, both, 1.0), both)


@cache
def embedded_rule(name: str) -> EmbeddedRule:
    """The rule "rk45" or "dop853"."""
    return EmbeddedRule(name)


def _nonzero(weights: np.ndarray) -> list[tuple[int, float]]:
    return [(i, float(w)) for i, w in enumerate(weights) if w != 0]


def _combination(weights: list[tuple[int, float]], stages: list[Tensor]) -> Tensor:
    """Σ w_i k_i."""
    total = torch.zeros_like(stages[0])
    for i, weight in weights:
        total = total + weight * stages[i]
    return total


def integrate(
    rate: Rate, start: float, end: float, state: Tensor, rule: EmbeddedRule, size: Size
) -> tuple[Tensor, Tensor]:
    """The states at `end` of dy/ds = f(s, y) from `start`.

    Args:
        rate: f(times, states, rows) of states of shape (m, values) at times of shape (m,), for the rows (their
            numbers, shape (m,)) that are still on their way.
        start: s at the beginning.
        end: s at the end, above or below.
        state: y at `start`, shape (rows, values).
        rule: The Runge-Kutta rule.
        size: size(e, y, y') of an error in units of the tolerance, all of shape (m, values) to (m,).

    Returns:
        y at `end`, shape (rows, values), differentiable where `rate` is; and the evaluations that each row took,
        shape (rows,).

    Raises:
        FloatingPointError: a step shrank to nothing.
    """
    least, most = min(start, end), max(start, end)
    shortest = 16 * torch.finfo(torch.float64).eps * max(abs(start), abs(end), most - least)
    rows = torch.arange(len(state), device=state.device)
    time = torch.full((len(state),), start, dtype=torch.float64)
    step = torch.full_like(time, (end - start) * FIRST)
    fresh = torch.ones_like(time, dtype=torch.bool)  # rows whose step was not just refused
    evaluations = torch.zeros(len(state), dtype=torch.int64)
    count = 1  # of the rows that are still on their way
    first = rate(time, state, rows)
    arrived: list[tuple[Tensor, Tensor]] = []
    while len(rows):
        remaining = end - time
        last = step.abs() >= remaining.abs() * (1 - 1e-12)
        step = torch.where(last, remaining, step)
        h = step.to(state).unsqueeze(1)
        stages = [first]
        for node, row in zip(rule.nodes[1:], rule.coupling[1:], strict=True):
            at = (time + node * step).clamp(least, most)  # its rounding may lie outside
            stages.append(rate(at, state + h * _combination(row, stages), rows))
        moved = state + h * _combination(rule.weights, stages)
        after = torch.where(last, torch.full_like(time, end), time + step)
        stages.append(rate(after, moved, rows))
        count += len(rule.nodes)
        with torch.no_grad():
            before, behind = state.detach(), moved.detach()

            def relative(error: Tensor, before: Tensor = before, behind: Tensor = behind) -> Tensor:
                return size(error, before, behind)

            error = rule.error([k.detach() for k in stages], h, relative).cpu()
            taken = error <= 1  # false where it is not a number
            factor = SAFETY * error.clamp(min=1e-12) ** -rule.exponent
            factor = torch.where(error.isfinite(), factor, SHORTEST)
            factor = factor.clamp(SHORTEST, LONGEST).minimum(torch.where(taken & fresh, LONGEST, 1.0))
        step = step * factor
        if bool(((step.abs() < shortest) & ~taken).any()):
            raise FloatingPointError(f"{rule.name}: a step shrank to nothing at {float(time[~taken][0]):.6g}.")
        fresh = taken
        accepted = taken.to(state.device).unsqueeze(1)
        state, first = torch.where(accepted, moved, state), torch.where(accepted, stages[-1], first)
        time = torch.where(taken, after, time)
        done = taken & last
        if bool(done.any()):
            there, on = done.to(state.device), ~done
            arrived.append((rows[there], state[there]))
            evaluations[rows[there].cpu()] = count
            rows, state, first = rows[~there], state[~there], first[~there]
            time, step, fresh = time[on], step[on], fresh[on]
    order = torch.cat([numbers for numbers, _ in arrived]).argsort()
    return torch.cat([states for _, states in arrived])[order], evaluations
