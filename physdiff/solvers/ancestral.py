r"""Ancestral sampling: draw x_s from the posterior q(y_s | y_t, y_0) with the denoiser in place of y_0.

    mean = m_s D + Φ̄ (S_s/S_t) (y_t − m_t D),   Φ = m_t/m_s
    variance = S_s Σ/S_t + |B|² Var[y_0 | y_t],   B = m_s Σ/S_t,   Σ = Σ(t,s)

The second term is what the denoiser does not know of y_0. Four answers to it are in use:

- "reference": the Gaussian reference's cS/V, with which the variance is exact on Gaussian data in any number of steps;
- "learned": what the model itself says of Var[y_0 | y_t] (`PosteriorMean.posterior_variance`), the best per mode on any
  data where that is right;
- "posterior": nothing, DDPM's smaller variance, right for data that is one point: samples are too narrow in few steps;
- "upper": Σ instead of both, DDPM's larger variance, right where x_0 is white noise of the terminal variance. The step
  to the clean field draws nothing, as published.

Source: Ho, Jain and Abbeel (2020), eq. 7 and section 3.2, per mode; Bao et al. (2022), theorem 1, for the variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from physdiff.bridge import Bridge, bridge
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, solvers

Variance = Literal["reference", "learned", "posterior", "upper"]


@solvers.register
@dataclass(frozen=True)
class Ancestral(Solver):
    """Ancestral sampling with a chosen variance, by default the one that is optimal for the reference.

    Attributes:
        uncertainty: Fraction in [0, 1] of Var[y_0 | y_t] that is added: 1 is right where that is known, 0 is
            "posterior" under another name.
        variance: What Var[y_0 | y_t] is taken to be: "reference", "learned", "posterior" or "upper".
    """

    uncertainty: float = 1.0
    variance: Variance = "reference"

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.variance not in get_args(Variance):
            known = ", ".join(get_args(Variance))
            raise ValueError(f"Ancestral: 'variance' must be one of {known}; got {self.variance!r}.")
        if not 0 <= self.uncertainty <= 1:
            raise ValueError(f"Ancestral: 'uncertainty' must lie in [0, 1]; got {self.uncertainty}.")
        if self.uncertainty != 1 and self.variance in ("posterior", "upper"):
            raise ValueError(
                f"Ancestral: 'uncertainty' scales Var[y_0 | y_t], of which variance='{self.variance}' has none; got "
                f"{self.uncertainty}. Leave it at 1."
            )

    @property
    def exact_on_gaussian(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # a matter of settings
        """Whether the law of its samples of Gaussian data is exact in any number of steps."""
        return self.variance in ("reference", "learned") and self.uncertainty == 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return tuple(cls(variance=name) for name in get_args(Variance))

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        path = dynamics.path
        here, there = path.at(t), path.at(s)
        expected = here.wiener(y) + dynamics.residual(y, t)
        back = bridge(path.process, there.time, here.time)
        drawn = self._spread(back, dynamics, y, t, s) * noise(tuple(y.shape[1:])).to(y)
        return back.mean(expected, y) + there.rotate(drawn)

    def _spread(self, back: Bridge, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Standard deviation of the noise in the co-moving frame, broadcasts against y; zero outside the support."""
        support = dynamics.path.reference.support
        if self.variance == "upper":
            known = back.upper_variance if s > 0 else torch.zeros_like(back.variance)
            return (known * support).sqrt().to(y)
        known = (back.variance * support).to(y)
        weight = (self.uncertainty * back.on_clean.abs().square()).to(y)
        if self.variance == "reference":
            known = known + weight * dynamics.path.at(t).posterior_variance.to(y)
        elif self.variance == "learned":
            known = known + weight * dynamics.posterior_variance(y, t)
        return known.sqrt()
