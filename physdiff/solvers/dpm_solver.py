r"""DPM-Solver++: DDIM's step with the denoiser's answer carried ahead by a polynomial through its last answers.

Per mode, with λ = log(|m|/√S), h = λ_s − λ_t and h₁, h₂ the same of the steps before,

    y_s = R̄ √(S_s/S_t) y_t + m_s (1 − e^{−h}) D̂

    2M:  D̂ = D + ½ (h/h₁)(D − D₁)
    3M:  D̂ = D + w₁ D' + w₂ D'',    w₁ = 1/(1 − e^{−h}) − 1/h,   w₂ = ½ w₁ − (w₁ − ½)/h

where D' h⁻¹ and D'' h⁻² are the derivatives by λ of the parabola through D, D₁, D₂. The step is the bridge without
noise; the orders differ in D̂ alone. In it a mode falls back to the lower order where an earlier step was of no length,
of no finite length, or short beside this one: the polynomial would amplify what other modes did meanwhile. The step to
the clean field is the denoiser itself.

The published code of 3M (diffusers, k-diffusion) converges at order 2, for two reasons, both measured. Its second
derivative lacks the factor 2 of a parabola's. And its first step is DDIM's, whose error h² is as large as that of all
steps of 2M together. Here the second step, when it has the answer D₁ at the end of the first, repairs the first: y gets
what D̂ = D + w₁ (D₁ − D) would have added. That costs no evaluation, and makes the order 3.

Source: Lu et al. (2022b), algorithm 2 for 2M and eq. 3.4 for 3M, per mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from physdiff.bridge import bridge
from physdiff.path import PathPoint, ReferencePath
from physdiff.settings import is_whole
from physdiff.solvers.solver import Evaluation, Noise, ReverseDynamics, Solver, solvers

SHORT = 0.05  # length of a step below which series replace what cancels
LONG = 1e3  # length of a step beyond which nothing is left of y
FARTHEST = 16.0  # in lengths of the last step: how far ahead its answers are trusted


@solvers.register
@dataclass(frozen=True)
class DPMSolver(Solver):
    """Multistep DPM-Solver++ per mode.

    Attributes:
        order: 2 for 2M, 3 for 3M: answers of the denoiser that a step combines, and the order of convergence.
    """

    order: int = 2  # pyright: ignore[reportIncompatibleVariableOverride]  # here a matter of settings

    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    exact_on_gaussian: ClassVar[bool] = False
    multistep: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_whole(self.order, 2) or self.order > 3:
            raise ValueError(f"DPMSolver: 'order' must be 2 or 3; got {self.order}.")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(2), cls(3)

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        path = dynamics.path
        here, there = path.at(t), path.at(s)
        dynamics.remember(t, here.wiener(y) + dynamics.residual(y, t), self.order, log_snr_step(there, here))
        if self.order == 3 and len(dynamics.past) == 2:
            y = y + _start_correction(path, *dynamics.past)
        past = [(e.value, e.length) for e in reversed(dynamics.past) if e.length is not None]
        expected = _carried([answer for answer, _ in past], [length for _, length in past])
        return bridge(path.process, there.time, here.time, 0.0).mean(expected, y)


def _start_correction(path: ReferencePath, first: Evaluation, second: Evaluation) -> Tensor:
    """What the first step would have added to y, had it known the answer at its end."""
    assert first.length is not None
    weight, _ = _weights(first.length.clamp(max=LONG))
    back = bridge(path.process, path.at(second.t).time, path.at(first.t).time, 0.0)
    return path.basis.apply(back.on_clean.to(first.value.device), weight.to(first.value) * (second.value - first.value))


def log_snr_step(early: PathPoint, late: PathPoint) -> Tensor:
    """h = λ_early − λ_late ≥ 0; infinite where one end has no noise."""
    noisy = (late.noise_variance > 0) & (early.noise_variance > 0)
    ratio = torch.where(noisy, late.noise_variance, torch.inf) / torch.where(noisy, early.noise_variance, 1.0)
    return early.log_gain.real - late.log_gain.real + 0.5 * torch.log(ratio)


def _carried(answers: list[Tensor], lengths: list[Tensor]) -> Tensor:
    """D̂, from the last answers and the lengths of the steps between them; the newest and the present one first."""
    if len(answers) == 1:
        return answers[0]
    now, before = lengths[:2]
    slope, usable = change_ahead(answers[0] - answers[1], now, before)
    second = answers[0] + 0.5 * slope
    if len(answers) == 2:
        return second
    older = lengths[2]
    earlier, both = change_ahead(answers[1] - answers[2], now, older)
    both = both & usable
    step, last, first = (torch.where(both, length, 1.0).to(slope) for length in (now, before, older))
    bend = 2 * step * (slope - earlier) / (last + first)
    first_weight, second_weight = (weight.to(slope) for weight in _weights(step))
    third = answers[0] + first_weight * (slope + 0.5 * last / step * bend) + second_weight * bend
    return torch.where(both.to(slope.device), third, second)


def change_ahead(difference: Tensor, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """What a difference over the length `before` makes over the length `now`, and where that can be trusted."""
    usable = before.isfinite() & now.isfinite() & (now > 0) & (now <= FARTHEST * before)
    ratio = torch.where(usable, now, 0.0) / torch.where(usable, before, 1.0)
    return ratio.to(difference) * difference, usable


def _weights(length: Tensor) -> tuple[Tensor, Tensor]:
    """w₁ = ½ + h κ and w₂ = ½ w₁ − κ, κ = (½ coth ½h − 1/h)/h."""
    h = length.clamp(min=SHORT)
    square = length.square()
    series = 1 / 12 - square / 720 + square.square() / 30240
    kappa = torch.where(length < SHORT, series, (0.5 / torch.tanh(0.5 * h) - 1 / h) / h)
    first = 0.5 + length * kappa
    return first, 0.5 * first - kappa
