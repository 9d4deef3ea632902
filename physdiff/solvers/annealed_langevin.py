r"""Annealed Langevin dynamics: Langevin steps at one noise level after another, and nothing else.

A step from t to s is `corrections` Langevin steps at s (`langevin`), which need not know of t at all. Published, the
state goes from one level to the next as it is; here that is its deviation from the mean in the co-moving frame. The
preconditioned steps take over the whitened state instead, and so start each level from the right law of Gaussian data.
No number of levels takes away the error of Langevin steps of a given size, first order in it, nor a level's memory of
the one before. The step to the clean field, where there is no noise left, follows the reference's flow.

The step size can be left to the rule of Song and Ermon (2020). If y is noise alone, of γ² = V̄_t/V̄_s times the variance
that level s wants, T steps of size ε leave it with

    f(ε) = (1 − ε)^{2T} (γ² − f_∞) + f_∞,    f_∞ = 1/(1 − ε/2)

times that variance, and the ε is taken for which f is nearest to 1.

Source: Song and Ermon (2019), algorithm 1, where 2ε = α_i/σ_i² is 0.2; (2020), technique 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from physdiff.solvers.langevin import langevin_step, typical_variance
from physdiff.solvers.predictor_corrector import require_langevin
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, last_step, solvers


@solvers.register
@dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Langevin dynamics under falling noise.

    Attributes:
        corrections: T ≥ 1, Langevin steps at each level.
        step_size: ε ∈ (0, 1]; None for the one that keeps pure noise at the level's variance.
        preconditioned: Whether Langevin steps are sized per mode, and exact on Gaussian data; if not, as published.
    """

    corrections: int = 5
    step_size: float | None = 0.1
    preconditioned: bool = True

    order: ClassVar[int | None] = None
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_langevin(self, self.corrections, self.step_size)

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # a matter of settings
        """One a Langevin step."""
        return self.corrections

    @property
    def exact_on_gaussian(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the law of its samples of Gaussian data is exact in any number of steps."""
        return self.preconditioned

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(3, None, False)

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        here, there = dynamics.path.at(t), dynamics.path.at(s)
        if s == 0:
            return last_step(y, dynamics.residual(y, t), here, there)
        size = self.step_size
        if size is None:
            size = size_that_keeps_noise(float(typical_variance(here) / typical_variance(there)), self.corrections)
        y = there.unwhiten(here.whiten(y)) if self.preconditioned else there.restore(here.deviation(y))
        for _ in range(self.corrections):
            y = langevin_step(dynamics, y, s, size, self.preconditioned, noise)
        return y


def size_that_keeps_noise(excess: float, corrections: int) -> float:
    """The ε for which T Langevin steps bring noise of γ² times the wanted variance nearest to it."""
    sizes = torch.logspace(-5, 0, 1001, dtype=torch.float64)
    end = 1 / (1 - 0.5 * sizes)
    left = (1 - sizes) ** (2 * corrections) * (excess - end) + end
    return float(sizes[(left - 1).abs().argmin()])
