r"""Adams' predictor and corrector in equal steps, at one evaluation per step.

    evaluate   f_n at the predicted y*_n
    correct    y_n = y_{n−1} + h Σ_j a_j f_{n−j},   j = 0, ..., 3      (Moulton, order 4)
    predict    y*_{n+1} = y_n + h Σ_j b_j f_{n−j},  j = 0, ..., 2      (Bashforth, order 3)

Rules of lower order start it. Each row of a batch is by itself, and all rows take the same steps, so that a row's result
does not depend on the others. In few evaluations it is two to three times as good as an embedded Runge-Kutta rule.

Source: Hairer, Nørsett and Wanner (1993), section III.1, tables 1.1 and 1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12))
MOULTON = ((1 / 2, 1 / 2), (5 / 12, 8 / 12, -1 / 12), (9 / 24, 19 / 24, -5 / 24, 1 / 24))


def adams(
    rate: Callable[[Tensor, Tensor], Tensor], start: float, end: float, state: Tensor, steps: int
) -> tuple[Tensor, int]:
    """The states at `end` of dy/ds = f(s, y) from `start`.

    Args:
        rate: f(s, y) at s of shape (), of states of shape (rows, values).
        start: s at the beginning.
        end: s at the end, above or below.
        state: y at `start`, shape (rows, values).
        steps: Number of steps, at least 1.

    Returns:
        y at `end`, shape (rows, values), differentiable where `rate` is; and the evaluations, steps + 1.
    """
    places = torch.linspace(start, end, steps + 1, dtype=torch.float64)
    h = (end - start) / steps
    past: list[Tensor] = [rate(places[0], state)]
    for place in places[1:]:
        predicted = state + h * _sum(BASHFORTH[min(len(past), 3) - 1], past)
        now = rate(place, predicted)
        state = state + h * _sum(MOULTON[min(len(past), 3) - 1], [now, *past])
        past = [now, *past[:2]]
    return state, steps + 1


def _sum(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=False):
        total = total + weight * value
    return total
