r"""Predictor-corrector sampling: a step of any rule, then Langevin steps at the time where it arrived.

The corrector (`langevin`) draws the state nearer to the law at s, wherever the predictor left it: errors of the
predictor's own step sizes shrink, errors of the score do not. Its own error, of the first order in the step size, stays
however many times are visited, and so the rule as a whole has no order; on Gaussian data the preconditioned corrector
has none.

Source: Song et al. (2021), algorithms 2 to 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from physdiff.settings import is_whole
from physdiff.solvers.ancestral import Ancestral
from physdiff.solvers.euler_maruyama import EulerMaruyama
from physdiff.solvers.langevin import langevin_step
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, solvers

ANCESTRAL = Ancestral()


@solvers.register
@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """A rule, and Langevin steps after each of its steps.

    Attributes:
        corrections: Langevin steps after each step, at least 1.
        step_size: ε ∈ (0, 1]; 2r² for the paper's signal-to-noise ratio r, 0.16 there.
        preconditioned: Whether Langevin steps are sized per mode, and exact on Gaussian data; if not, as published.
        predictor: The rule, without memory; the step to the clean field is its alone.
    """

    corrections: int = 1
    step_size: float = 2 * 0.16**2
    preconditioned: bool = True
    predictor: Solver = ANCESTRAL

    order: ClassVar[int | None] = None
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_langevin(self, self.corrections, self.step_size)
        if not isinstance(self.predictor, Solver) or self.predictor.multistep or self.predictor.adaptive:
            raise ValueError(
                f"PredictorCorrector: 'predictor' must be a rule of single steps, such as Ancestral(); got "
                f"{self.predictor!r}."
            )

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # a matter of settings
        """Those of the predictor, and one a correction."""
        return self.predictor.evaluations + self.corrections

    @property
    def exact_on_gaussian(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the law of its samples of Gaussian data is exact in any number of steps."""
        return self.predictor.exact_on_gaussian and self.preconditioned

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(2, 0.02, False, EulerMaruyama())

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        y = self.predictor.step(dynamics, y, t, s, noise)
        if s > 0:
            for _ in range(self.corrections):
                y = langevin_step(dynamics, y, s, self.step_size, self.preconditioned, noise)
        return y


def require_langevin(rule: Solver, corrections: int, step_size: float | None) -> None:
    """Raise unless there is a Langevin step, and its size is one at which it is stable."""
    name = type(rule).__name__
    if not is_whole(corrections, 1):
        raise ValueError(f"{name}: 'corrections' must be a whole number, at least 1; got {corrections!r}.")
    if step_size is not None and not (math.isfinite(step_size) and 0 < step_size <= 1):
        raise ValueError(f"{name}: 'step_size' must lie in (0, 1]; got {step_size}.")
