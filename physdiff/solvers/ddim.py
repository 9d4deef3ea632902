r"""DDIM: from y_t to y_s with the denoiser's answer in place of the clean field, and a chosen amount of noise.

    y_s = m_s D + R̄ √((S_s − σ²)/S_t) (y_t − m_t D) + σ ε,     σ² = η² S_s Σ(t,s)/S_t

Without noise (η = 0) this is the probability flow, exactly, with the denoiser frozen. η = 1 is DDPM's step. The step to
the clean field is the denoiser itself, as published.

Source: Song, Meng and Ermon (2021), eq. 12 and 16, per mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from physdiff.bridge import bridge
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, solvers


@solvers.register
@dataclass(frozen=True)
class DDIM(Solver):
    """Denoising diffusion implicit models.

    Attributes:
        stochasticity: η ∈ [0, 1], the noise of a step in units of the posterior's standard deviation.
    """

    stochasticity: float = 0.0

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    exact_on_gaussian: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.stochasticity <= 1:
            raise ValueError(f"DDIM: 'stochasticity' must lie in [0, 1]; got {self.stochasticity}.")

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # here a matter of settings
        """Whether steps draw noise."""
        return self.stochasticity > 0

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(0.5), cls(1.0)

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        here, there = dynamics.path.at(t), dynamics.path.at(s)
        expected = here.wiener(y) + dynamics.residual(y, t)
        back = bridge(dynamics.path.process, there.time, here.time, self.stochasticity)
        mean = back.mean(expected, y)
        if not self.stochastic:
            return mean
        spread = (back.variance * dynamics.path.reference.support).sqrt()
        return mean + there.rotate(spread.to(y) * noise(tuple(y.shape[1:])).to(y))
