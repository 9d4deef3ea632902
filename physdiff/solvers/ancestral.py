r"""Ancestral sampling: draw x_s from the posterior q(y_s | y_t, y_0) with the denoiser in place of y_0.

    mean = m_s D + Φ̄ (S_s/S_t) (y_t − m_t D),   Φ = m_t/m_s
    variance = S_s Σ/S_t + |B|² Var[y_0 | y_t],   B = m_s Σ/S_t,   Σ = Σ(t,s)

The second term is what the denoiser does not know of y_0. Four answers to it are in use:

- "reference": the Gaussian reference's cS/V, with which the variance is exact on Gaussian data in any number of steps;
- "learned": what the model itself says (`PosteriorMean.posterior`): of Var[y_0 | y_t], by a head that was trained or as
  calibrated, the best per mode on any data where that is right; or, by a head that interpolates, of the step's own
  variance between the two that follow;
- "posterior": nothing, DDPM's smaller variance, right for data that is one point: samples are too narrow in few steps;
- "upper": Σ instead of both, DDPM's larger variance, right where x_0 is white noise of the terminal variance. The step
  to the clean field draws nothing, as published.

Source: Ho, Jain and Abbeel (2020), eq. 7 and section 3.2, per mode; Bao et al. (2022), theorem 1, for the variance;
Nichol and Dhariwal (2021), eq. 15 and section 4, for variances of the very step that is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from physdiff.bridge import Bridge, bridge
from physdiff.denoisers.posterior_mean import Posterior
from physdiff.path import PathPoint
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
        said = self._said(dynamics, y, t, here)
        back = bridge(path.process, there.time, here.time)
        drawn = self._spread(back, path.reference.support, said, last=bool(s == 0)) * noise(tuple(y.shape[1:])).to(y)
        return back.mean(here.wiener(y) + said.residual, y) + there.rotate(drawn)

    def _said(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, here: PathPoint) -> Posterior:
        """The model's residual, and what the rule takes to be unknown of y_0."""
        if self.variance == "learned":
            return dynamics.posterior(y, t)
        unknown = here.posterior_variance if self.variance == "reference" else torch.zeros_like(here.posterior_variance)
        return Posterior(dynamics.residual(y, t), unknown.to(y))

    def _spread(self, back: Bridge, support: Tensor, said: Posterior, last: bool) -> Tensor:
        """Standard deviation of the noise in the co-moving frame, broadcasts against y; zero outside the support."""
        like = said.residual
        if self.variance == "upper":
            known = torch.zeros_like(back.variance) if last else back.upper_variance
            return (known * support).sqrt().to(like)
        known = torch.where(support, back.variance, 0.0).to(like)
        if said.share is not None and not last:
            room = torch.log(torch.where(support, back.upper_variance / back.variance, 1.0)).to(like)
            drawn = known * torch.exp(said.share * room)
            return (known + self.uncertainty * (drawn - known)).sqrt()
        weight = (self.uncertainty * back.on_clean.abs().square()).to(like)
        return (known + weight * said.unknown).sqrt()
