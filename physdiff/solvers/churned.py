r"""Churn: a little of the noising, undone with the rest of the step by any rule for the probability flow.

    y_t̂ = m(t̂,t) y_t + √Σ(t̂,t) ε,   then the rule from t̂ to s;    log τ_t̂ − log τ_t = churn · (log τ_t − log τ_s)

The noising is the process's own kernel, exactly, and takes the law at t to the law at t̂; the flow takes it to the law
at s. All that is wrong is the rule's error on an interval (1 + churn) times as long, so that the order is the rule's.
What is gained is that errors of earlier steps, of the network too, are forgotten.

EDM's churn raises σ by 1 + γ, γ = min(S_churn/N, √2 − 1), at each of N steps. On steps of equal ratio under
`VarianceExploding`, where τ = σ², that is here

    churn = log(1 + γ) / log(σ_t/σ_s) ≈ S_churn / log(σ_max/σ_min)

whatever N is; the cap is kept: σ² at most doubles. As a step sees no N, its own length takes the place of 1/N. t̂ stops
at t = 1, beyond which no model is trained, and the step to the clean field, infinitely long in log τ, is not churned.

Source: Karras et al. (2022), algorithm 2, with `rule=Heun()`; the reference splitting is exact on Gaussian data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from physdiff.path import PathPoint
from physdiff.solvers.heun import Heun
from physdiff.solvers.reference_splitting import ReferenceSplitting
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, solvers

MOST = math.log(2.0)  # that log τ is raised by in one step
SPLITTING = ReferenceSplitting()


@solvers.register
@dataclass(frozen=True)
class ChurnedHeun(Solver):
    """EDM's stochastic sampler, around any second-order rule for the probability flow.

    Attributes:
        churn: Noise that is added and removed again, ≥ 0, in units of what the step removes anyway (in log τ).
        noise_scale: EDM's S_noise, the added noise's standard deviation in units of the kernel's. Above 1 it makes up
            for networks that remove too much, and is an error that more steps do not take away.
        earliest: EDM's S_tmin, as t: no churn before it.
        latest: EDM's S_tmax, as t: no churn after it.
        rule: The rule for the flow, without noise and memory: `ReferenceSplitting()`, or `Heun()` as published.
    """

    churn: float = 0.5
    noise_scale: float = 1.0
    earliest: float = 0.0
    latest: float = 1.0
    rule: Solver = SPLITTING

    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("churn", "noise_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"ChurnedHeun: '{name}' must be finite and ≥ 0; got {value}.")
        if not 0 <= self.earliest <= self.latest <= 1:
            raise ValueError(
                f"ChurnedHeun: 0 ≤ earliest ≤ latest ≤ 1 must hold; got earliest = {self.earliest}, "
                f"latest = {self.latest}."
            )
        flow = isinstance(self.rule, Solver) and not self.rule.stochastic
        if not flow or self.rule.multistep or self.rule.adaptive:
            raise ValueError(
                f"ChurnedHeun: 'rule' must be a single step of the probability flow, such as ReferenceSplitting(); got "
                f"{self.rule!r}."
            )

    @property
    def order(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]  # a matter of settings
        """That of the rule."""
        return self.rule.order if self.noise_scale == 1 else None

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the rule."""
        return self.rule.evaluations

    @property
    def exact_on_gaussian(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the law of its samples of Gaussian data is exact in any number of steps."""
        return self.rule.exact_on_gaussian and self.noise_scale == 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(rule=Heun()), cls(1.5, earliest=0.2, latest=0.9)

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        path = dynamics.path
        if s == 0 or not self.earliest <= t <= self.latest:
            return self.rule.step(dynamics, y, t, s, noise)
        here, there = path.at(t), path.at(s)
        raised = (self.churn * (here.time.log() - there.time.log())).clamp(max=MOST)
        back = path.clock.inverse(here.time * raised.exp()).clamp(max=1.0)
        if back > t:
            y, t = noised(here, path.at(back), y, self.noise_scale * noise(tuple(y.shape[1:])).to(y)), back
        return self.rule.step(dynamics, y, t, s, noise)


def noised(here: PathPoint, there: PathPoint, y: Tensor, noise: Tensor) -> Tensor:
    """Modes at a later time by the process's own kernel, m y + √Σ ε on the support, shapes as y."""
    process, support = here.path.process, here.path.reference.support
    gain = torch.exp(there.log_gain.real - here.log_gain.real)
    received = torch.where(support, process.variance(there.time, here.time), 0.0)
    return there.restore(gain.to(y) * here.deviation(y) + received.sqrt().to(y) * noise)
