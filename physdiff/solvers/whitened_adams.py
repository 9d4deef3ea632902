r"""Adams' rules in whitened coordinates: high order at one evaluation per step, and Gaussian data exactly.

With z and x as in `whitened_coordinates`, dz/dx = f, and p = order − 1, a step at t_n is

    evaluate   f_n at the predicted z*_n
    correct    z_n = z_{n−1} + ∫ over the last step of the polynomial through f_n, ..., f_{n−p}       (Moulton)
    predict    z*_{n+1} = z_n + ∫ over this step of the polynomial through f_n, ..., f_{n−p+1}        (Bashforth)

The correction is what makes the order p + 1.
Each mode has its own x, hence its own polynomials (`adams`). Stiffness is in x, exactly; the step sees how fast the
non-Gaussian part turns.

*Start.* The first step has one f, and with the correction two: an error of h³, enough for order 3. For more, f_1 is
evaluated again at the corrected z_1, and the parabola through f_0, f_1, f_2 then corrects the first step once more: an
error of h⁴, for one evaluation. That is the start of order 5 too: the residual is next to nothing at t = 1, and where
errors are above rounding this one is not seen.

The last step to the clean field is first order: f frozen at t_min, after the correction.

Source: Hairer, Nørsett and Wanner (1993), section III.5 for variable steps, III.1 for predictors and correctors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Self

import torch
from torch import Tensor

from physdiff.settings import is_whole
from physdiff.solvers.adams import adams_weights
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, solvers
from physdiff.solvers.whitened_coordinates import coordinate_of

FACTOR = 2.0
"""Largest Σ|b| of a mode's weights, relative to that for equal steps. Without a limit 8 to 32 steps of stiff modes gave
errors of 10² to 10⁴; limits from 1.5 to 3 do about equally well."""

Node = tuple[Tensor, Tensor]
"""f at a time, and the length of the step from there."""


@solvers.register
@dataclass(frozen=True)
class WhitenedAdams(Solver):
    """Adams' predictor and corrector in whitened coordinates.

    Attributes:
        order: 2 to 5. Up to about 12 evaluations 3 is the safest, from 24 on 5 the most accurate
            (`experiments/benchmarks/few_steps.md`).
    """

    order: int = 4  # pyright: ignore[reportIncompatibleVariableOverride]  # here a matter of settings

    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    exact_on_gaussian: ClassVar[bool] = True
    any_process: ClassVar[bool] = True
    multistep: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_whole(self.order, 2) or self.order > 5:
            raise ValueError(f"WhitenedAdams: 'order' must be 2, 3, 4 or 5; got {self.order}.")

    @property
    def start_evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # as above
        """Evaluations beyond one per step that a trajectory needs to get started."""
        return int(self.order > 3)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(2), cls(3), cls(4)  # the start of order 5 is one of order 4

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        way = coordinate_of(dynamics)
        here, there = dynamics.gaussian.at(t), dynamics.gaussian.at(s)
        z, rate, length = here.whiten(y), way.rate(y, t), way.distance(t, s)
        past = [(e.value, e.length) for e in reversed(dynamics.past) if e.length is not None]
        if dynamics.past and dynamics.past[-1].moved is not None:
            z = z - dynamics.past[-1].moved + self._corrected(rate, past)
            if self.order > 3 and len(past) == 1 and s > 0:
                predicted, rate = rate, way.rate(here.unwhiten(z), t)
                z = z + self._corrected(rate, past) - self._corrected(predicted, past)
            if self.order > 3 and len(past) == 2:
                z = z + _first_step_again(rate, past)
        if s == 0:
            return there.unwhiten(z + length.to(z) * rate)
        moved = _integral([(rate, length), *past][: self.order - 1], length, 0.0)
        dynamics.remember(t, rate, self.order - 1, length, moved)
        return there.unwhiten(z + moved)

    def _corrected(self, rate: Tensor, past: list[Node]) -> Tensor:
        """What the last step adds if the polynomial goes through the rate at its end, too."""
        length = past[0][1]
        return _integral([(rate, torch.zeros_like(length)), *past][: self.order], length, 1.0)


def _integral(nodes: list[Node], length: Tensor, newest: float) -> Tensor:
    """∫ over a step of the polynomial through nodes, of which the newest is at 0 or 1 of the step."""
    unit = torch.where(length > 0, length, 1.0)
    back = accumulate((length / unit for _, length in nodes[1:]), initial=torch.zeros_like(length))
    usual = [newest - n for n in range(len(nodes))]
    return _weighted(adams_weights([newest - far for far in back], usual, FACTOR), nodes, length)


def _first_step_again(rate: Tensor, past: list[Node]) -> Tensor:
    """∫ over the first step of three of the parabola less the straight line."""
    (_, second), (_, first) = past
    start, end = torch.zeros_like(first), torch.ones_like(first)
    nodes = [*past, (rate, second)]
    parabola = adams_weights([end, start, 1 + second / first], [1.0, 0.0, 2.0], FACTOR)
    line = adams_weights([end, start], [1.0, 0.0], FACTOR)
    return _weighted(parabola, nodes, first) - _weighted(line, nodes, first)


def _weighted(weights: list[Tensor], nodes: list[Node], length: Tensor) -> Tensor:
    """length · Σ b f."""
    terms = [(length * weight).to(rate) * rate for weight, (rate, _) in zip(weights, nodes, strict=False)]
    return torch.stack(terms).sum(0)
