r"""Euler-Maruyama for the reverse stochastic equation, with a free noise level.

    dy = [A (y − mμ) + dmμ/dτ − ½(1 + η²) n · score] dτ + η √n dW,    score = |m| r/S − (y − mμ)/V    (co-moving)

run backwards in τ. Every η has the same marginal laws: η = 1 is Anderson's reversal of the noising equation, η = 0 the
probability flow. The rotation is exact, drift and noise rate are those at the step's start, and the step to the clean
field follows the reference's flow.

With ℓ = Re A + ½(1 + η²) n/V the equation runs backwards as −ℓ (y − mμ): where a mode is in equilibrium ℓ is its rate
of decay, and the textbook factor 1 − hℓ explodes where steps are long beside the fastest mode. ℓ is diagonal, so that
the implicit factor 1/(1 + hℓ) costs nothing: it is taken where hℓ > 1.

Source: Song et al. (2021), eq. 6; Zhang and Chen (2023), eq. 6, for η.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from physdiff.path import PathPoint
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, last_step, solvers


@solvers.register
@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler-Maruyama in the rotating frame: the plainest stochastic rule, a baseline.

    Attributes:
        noise_scale: η ≥ 0, the noise in units of what the noising adds; the drift follows it.
        implicit: Whether modes that decay within a step are stepped implicitly; if not, this is the textbook rule,
            which explodes under stiff physics.
    """

    noise_scale: float = 1.0
    implicit: bool = True

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    exact_on_gaussian: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_scale) and self.noise_scale >= 0):
            raise ValueError(f"EulerMaruyama: 'noise_scale' must be finite and ≥ 0; got {self.noise_scale}.")

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # here a matter of settings
        """Whether steps draw noise."""
        return self.noise_scale > 0

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(0.5), cls(implicit=False)

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        here, there = dynamics.path.at(t), dynamics.path.at(s)
        residual = dynamics.residual(y, t)
        if s == 0:
            return last_step(y, residual, here, there)
        linear, pull = _rates(here, self.noise_scale)
        start, duration = here.deviation(y), here.time - there.time
        stiff = (duration * linear > 1) & self.implicit
        kept = torch.where(stiff, 1.0, 1 - duration * linear)
        damping = torch.where(stiff, 1 / (1 + duration * linear), 1.0)
        moved = kept.to(y) * start + (duration * pull).to(y) * residual
        if self.stochastic:
            rate = here.path.process.noise_spectrum(here.time) * here.path.reference.support
            moved = moved + self.noise_scale * (duration * rate).sqrt().to(y) * noise(tuple(y.shape[1:])).to(y)
        return there.restore(damping.to(y) * moved)


def _rates(point: PathPoint, noise_scale: float) -> tuple[Tensor, Tensor]:
    """Of the drift: what multiplies y − mμ, and −r, per unit of physical time."""
    process, support = point.path.process, point.path.reference.support
    pushed = 0.5 * (1 + noise_scale**2) * process.noise_spectrum(point.time)
    linear = process.drift_symbol(point.time).real + pushed / torch.where(support, point.variance, 1.0)
    pull = pushed * point.amplitude / torch.where(support, point.noise_variance, 1.0)
    return torch.where(support, linear, 0.0), torch.where(support, pull, 0.0)
