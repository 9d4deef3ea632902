r"""Critically damped Langevin diffusion: noise enters through a velocity, and the path of every cell is smooth.

Each cell is a particle of mass M in a harmonic trap, in a bath of unit temperature. The bath kicks the velocity alone,
so x moves by ∫v and its noise grows as τ³ at first; friction Γ = 2√M is the least at which nothing overshoots, and
forgets fastest. The trap's equilibrium is x ~ N(0, 1), v ~ N(0, M) per cell. In the paper's time, dτ = β dt.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.phase_space import PhaseSpaceProcess
from physdiff.registry import register
from physdiff.settings import require_positive


@register
@dataclass(frozen=True)
class CriticallyDampedLangevin(PhaseSpaceProcess):
    r"""Underdamped Langevin dynamics in each cell, dx = v/M dτ, dv = −(x + Γ v/M) dτ + √(2Γ) dW.

    Attributes:
        mass: M > 0, the variance of v in equilibrium; its scale is the unit of momentum, √M that of time.
        friction: Γ > 0. None: critical, 2√M. Less oscillates, more creeps.
        start_velocity: γ ≥ 0, variance of the velocity at the start over that in equilibrium. The denoiser needs
            no velocity, so that 0, at which none is drawn, is as good as any.

    x and v together know as much of the clean field as x does under `VariancePreserving` noise at another time,
    m² + S = 1: to a denoiser the two processes are one, along two clocks.

    What to see: all scales drown alike, slowly at first; x alone looks noisier than the pair is.

    Source: Dockhorn, Vahdat and Kreis (2022), eq. 5 and section 3.2, γ = 0.04; their v is a momentum.
    """

    mass: float = 0.25
    friction: float | None = None
    start_velocity: float = 0.04

    refines: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive(self, "mass")
        if self.friction is None:
            object.__setattr__(self, "friction", 2 * math.sqrt(self.mass))
        require_positive(self, "friction")
        if not 0 <= self.start_velocity < math.inf:
            raise ValueError(
                f"CriticallyDampedLangevin needs a finite 'start_velocity' ≥ 0; got {self.start_velocity}."
            )

    def drift_block(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        assert self.friction is not None
        return (
            (_number(0.0), _number(1 / self.mass)),
            (_number(-1.0), _number(-self.friction / self.mass)),
        )

    def noise_block(self) -> tuple[Tensor, Tensor]:
        assert self.friction is not None
        return _number(0.0), _number(2 * self.friction)

    @property
    def start_velocity_variance(self) -> Tensor:
        return _number(self.start_velocity * self.mass)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
