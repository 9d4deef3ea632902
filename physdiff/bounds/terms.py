r"""The terms of a bound per mode, and what the Gaussian reference contributes to them.

All is real in the co-moving frame. With d = y_0 − μ, signal to noise SNR = |m|²/S, and e = y_0 − D what the denoiser
misses, the transition from t to s costs

    KL(q(y_s | y_t, y_0) ‖ N(mean at D, (1 + ρ) β̃)) = ½ [log(1 + ρ) − ρ/(1 + ρ) + Δ e²/(1 + ρ)]
    Δ = SNR_s − SNR_t = |m_s|²Σ/(S_s S_t)

as |B|²/β̃ = Δ, with β̃ and B as in `physdiff.bridge`. A reverse kernel that adds to β̃ the variance U that y_0 has given
y_t, β̃ + |B|²U, has ρ = ΔU. The last transition, to y_0 itself, costs ½ [log 2πU + e²/U].

Under the reference e = y_0 − W, and given y_0 its square has the mean

    E[e²] = (S/V)² (d² + c²SNR).

Source: Ho, Jain and Abbeel (2020), eq. 5 and 8, per mode; Kingma, Salimans, Poole and Ho (2021), eq. 13 and 14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.bridge import bridge
from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.path import PathPoint, ReferencePath

Variance = str | float | Tensor
MODEL_SPREADS = ("reference", "learned")
FRACTIONS = {"posterior": 0.0, "upper": 1.0}


@dataclass(frozen=True)
class Transition:
    """What one step of the reverse chain costs; to the clean field where `sharpening` is None.

    Attributes:
        support: Modes that count.
        sharpening: Δ, broadcasts against modes.
        excess: ρ where a rule gives it; None where it is ΔU.
    """

    support: Tensor
    sharpening: Tensor | None
    excess: Tensor | None

    def cost(self, unknown: Tensor, missed: Tensor) -> Tensor:
        """Nats, shape (n,), of U and e², which broadcast to (n, channels, *grid)."""
        if self.sharpening is None:
            per_mode = math.log(2 * math.pi) + torch.log(unknown) + missed / unknown
        else:
            excess = self.sharpening * unknown if self.excess is None else self.excess
            per_mode = torch.log1p(excess) + (self.sharpening * missed - excess) / (1 + excess)
        return 0.5 * torch.where(self.support, per_mode, 0.0).flatten(1).sum(1)


def transition(path: ReferencePath, here: PathPoint, there: PathPoint, variance: Variance) -> Transition:
    """The step from `here` back to `there`.

    Args:
        path: Process and reference.
        here: At t.
        there: At s < t; 0 is the clean field.
        variance: "reference" or "learned" for β̃ + |B|²U; "posterior" for β̃, "upper" for Σ, or how far between them in
            log variance, a number in [0, 1] or one per mode.
    """
    support = path.reference.support
    if there.time == 0:
        return Transition(support, None, None)
    back = bridge(path.process, there.time, here.time)
    before, after = (torch.where(support, point.noise_variance, 1.0) for point in (there, here))
    sharpening = there.amplitude.square() * back.upper_variance / (before * after)
    excess = None
    if variance not in MODEL_SPREADS:
        share = FRACTIONS[variance] if isinstance(variance, str) else torch.as_tensor(variance, dtype=torch.float64)
        excess = torch.expm1(share * torch.log(after / before))  # Σ/β̃ = S_t/S_s
    return Transition(support, sharpening, excess)


class Clean:
    """Clean fields whose density is bounded, as deviations d from the reference's mean.

    Args:
        path: Process and reference.
        deviation: d in modes, shape (n, channels, *grid), zero outside the support.
    """

    def __init__(self, path: ReferencePath, deviation: Tensor) -> None:
        self.path = path
        self.deviation = deviation
        self.support = path.reference.support
        self.spectrum = torch.where(self.support, path.reference.spectrum, 1.0)

    def _share(self, point: PathPoint) -> Tensor:
        """S/V, 1 outside the support."""
        return torch.where(self.support, point.noise_variance / torch.where(self.support, point.variance, 1.0), 1.0)

    def missed_by_reference(self, point: PathPoint) -> Tensor:
        """E[(y_0 − W)² | y_0], shape (n, channels, *grid)."""
        noise = point.wiener_gain.square() * point.noise_variance
        return (self._share(point) * self.deviation).square() + noise

    def prior(self) -> Tensor:
        """KL(q(y_1 | y_0) ‖ the reference at t = 1) in nats, shape (n,)."""
        end = self.path.at(1.0)
        remembered = end.amplitude.square() * self.deviation.square() / torch.where(self.support, end.variance, 1.0)
        share = self._share(end)
        per_mode = share - 1 - torch.log(share) + torch.where(self.support, remembered, 0.0)
        return 0.5 * per_mode.flatten(1).sum(1)

    def accumulated(self, point: PathPoint) -> Tensor:
        """½ ∫ E[(y_0 − W)²] dSNR from no signal to `point` in nats, shape (n,), up to a constant of each field.

        With S/V = 1/(1 + c SNR) the integral is ½ [−log(S/V) + (1 − d²/c) S/V].
        """
        share = self._share(point)
        per_mode = (1 - self.deviation.square() / self.spectrum) * share - torch.log(share)
        return 0.5 * torch.where(self.support, per_mode, 0.0).flatten(1).sum(1)


@dataclass(frozen=True)
class Missed:
    """What a denoiser misses of y_0 in some states.

    Attributes:
        by_model: (y_0 − D)², shape (batch, channels, *grid).
        by_reference: (y_0 − W)² in the same states.
        unknown: The model's Var[y_0 | y]; None where it was not asked for.
    """

    by_model: Tensor
    by_reference: Tensor
    unknown: Tensor | None


def missed_in_states(
    denoiser: PosteriorMean,
    point: PathPoint,
    t: Tensor,
    deviation: Tensor,
    noise: Tensor,
    condition: Given | None,
    with_variance: bool,
) -> Missed:
    """What is missed in the states y_t of given clean deviations and unit noise, shape (batch, channels, *grid)."""
    device = denoiser.device
    comoving = point.amplitude * deviation + point.noise_variance.sqrt() * noise
    y = point.restore(comoving).to(device)
    given = None if condition is None else condition.to(device)
    with torch.no_grad():
        residual = denoiser.residual(y, t, given).to("cpu", torch.float64)
        unknown = denoiser.posterior_variance(y, t, given).to("cpu", torch.float64) if with_variance else None
    by_reference = deviation - point.wiener_gain * comoving
    return Missed((by_reference - residual).square(), by_reference.square(), unknown)
