r"""SDE-DPM-Solver++(2M): the ancestral step with the denoiser's answer carried forward by a line through its last two.

Per mode, with λ = log(|m|/√S), h = λ_s − λ_t and h₁ the length of the step before,

    y_s = m_s (1 − e^{−2h}) D̂ + Φ̄ (S_s/S_t) y_t + √(S_s (1 − e^{−2h})) ε,     D̂ = D + ½ (h/h₁)(D − D₁)

This is the bridge with D̂ in place of y_0. D is a martingale on the way back: what D̂ carries forward is not its mean,
which stands still, but its correlation with the noise, and that makes the rule one of second weak order.

The same holds for any prior of y_0. If y_0 ~ N(μ, c') per mode, W' and v' = c'S/(|m|²c' + S) its posterior mean and
variance, and data has the density N(μ, c')·L, then by parts

    (D − W')/v' = E[∇ log L(y_0) | y_t],

a martingale again, and zero where data is the prior's. With that carried forward, and the variance |B|²v' of what is
unknown of y_0 added as by the ancestral rule, the step is second order for every c': c' = 0 is the published rule,
c' = c the reference, with which Gaussian data is exact in any number of steps, and c' → ∞ is noise prediction.

Source: Lu et al. (2022b), SDE-DPM-Solver++(2M), per mode. The prior is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from physdiff.bridge import bridge
from physdiff.path import PathPoint
from physdiff.solvers.dpm_solver import change_ahead, log_snr_step
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, solvers


@solvers.register
@dataclass(frozen=True)
class SDEDPMSolver(Solver):
    """Second-order multistep sampling with noise, at one evaluation per step.

    Attributes:
        uncertainty: c'/c ∈ [0, 1]: share of the reference's variance in the prior. 0 is SDE-DPM-Solver++(2M) as
            published, and the better one for data of sharp peaks; 1 is exact for Gaussian data.
    """

    uncertainty: float = 0.0

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    multistep: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.uncertainty <= 1:
            raise ValueError(f"SDEDPMSolver: 'uncertainty' must lie in [0, 1]; got {self.uncertainty}.")

    @property
    def exact_on_gaussian(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # a matter of settings
        """Whether the law of its samples of Gaussian data is exact in any number of steps."""
        return self.uncertainty == 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(0.3), cls(1.0)

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        path = dynamics.path
        here, there = path.at(t), path.at(s)
        total, prior_gain = self._prior(here)
        prior_mean = path.reference.mean.to(y) + prior_gain.to(y) * here.deviation(y)
        excess = here.wiener(y) + dynamics.residual(y, t) - prior_mean
        dynamics.remember(t, excess, 2)
        if len(dynamics.past) == 2:
            before = path.at(dynamics.past[0].t)
            total_before, _ = self._prior(before)
            fresh = here.noise_variance * total_before
            ratio = torch.where(path.reference.support, fresh / (before.noise_variance * total), 0.0)
            change = excess - ratio.to(y) * dynamics.past[0].value
            slope, _ = change_ahead(change, log_snr_step(there, here), log_snr_step(here, before))
            excess = excess + 0.5 * slope
        back = bridge(path.process, there.time, here.time)
        unknown = self.uncertainty * path.reference.spectrum * here.noise_variance / total
        variance = back.variance + back.on_clean.abs().square() * unknown
        spread = torch.where(path.reference.support, variance, 0.0).sqrt()
        return back.mean(prior_mean + excess, y) + there.rotate(spread.to(y) * noise(tuple(y.shape[1:])).to(y))

    def _prior(self, point: PathPoint) -> tuple[Tensor, Tensor]:
        """|m|²c' + S, 1 outside the support, and the gain of W' there."""
        variance = self.uncertainty * point.path.reference.spectrum
        total = point.amplitude.square() * variance + point.noise_variance
        total = torch.where(point.path.reference.support, total, 1.0)
        return total, point.amplitude * variance / total
