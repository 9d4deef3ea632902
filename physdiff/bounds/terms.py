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
    """What steps of the reverse chain cost, one or one for each row.

    Attributes:
        support: Modes that count.
        decodes: Whether the step is the one to the clean field, bool, shape () or (batch, 1, ..., 1).
        sharpening: Δ, broadcasts against modes; 0 where the step decodes.
        room: log Σ/β̃ = log S_t/S_s; 0 where it decodes.
        share: How far between β̃ and Σ in log variance a rule sets the step's variance; None where it is β̃ + |B|²U.
    """

    support: Tensor
    decodes: Tensor
    sharpening: Tensor
    room: Tensor
    share: Tensor | None

    def to(self, device: torch.device) -> Transition:
        """On another device."""
        moved = {name: None if x is None else x.to(device) for name, x in vars(self).items()}
        return Transition(**moved)  # pyright: ignore[reportArgumentType]  # only `share` may be None, and stays so

    def per_mode(self, unknown: Tensor, missed: Tensor, share: Tensor | None = None) -> Tensor:
        """Nats of each mode, of U, e² and the model's own share, if it has one; zero outside the support."""
        share = self.share if share is None else share
        excess = self.sharpening * unknown if share is None else torch.expm1(share * self.room)
        between = torch.log1p(excess) + (self.sharpening * missed - excess) / (1 + excess)
        # One everywhere else, so that no gradient passes through the logarithm of a variance that is not there.
        left = torch.where(self.support & self.decodes, unknown, 1.0)
        decoding = math.log(2 * math.pi) + torch.log(left) + missed / left
        return 0.5 * torch.where(self.support, torch.where(self.decodes, decoding, between), 0.0)

    def cost(self, unknown: Tensor, missed: Tensor, share: Tensor | None = None) -> Tensor:
        """Nats, shape (n,), of what broadcasts to (n, channels, *grid); see `per_mode`."""
        return self.per_mode(unknown, missed, share).flatten(1).sum(1)


def transition(path: ReferencePath, here: PathPoint, there: PathPoint, variance: Variance) -> Transition:
    """The step from `here` back to `there`.

    Args:
        path: Process and reference.
        here: At t, one time or one for each row.
        there: At s < t; 0 is the clean field.
        variance: "reference" or "learned" for β̃ + |B|²U; "posterior" for β̃, "upper" for Σ, or how far between them in
            log variance, a number in [0, 1] or one per mode.
    """
    support, decodes = path.reference.support, there.time == 0
    back = bridge(path.process, there.time, here.time)
    after = torch.where(support, here.noise_variance, 1.0)
    before = torch.where(support & ~decodes, there.noise_variance, after)
    sharpening = torch.where(decodes, 0.0, there.amplitude.square() * back.upper_variance / (before * after))
    share = None
    if variance not in MODEL_SPREADS:
        share = torch.as_tensor(FRACTIONS[variance] if isinstance(variance, str) else variance, dtype=torch.float64)
    return Transition(support, decodes, sharpening, torch.log(after / before), share)


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
        share: How far between β̃ and Σ the model sets the variance of a step, if it does.
    """

    by_model: Tensor
    by_reference: Tensor
    unknown: Tensor | None = None
    share: Tensor | None = None


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
    by_reference = deviation - point.wiener_gain * comoving
    with torch.no_grad():
        if not with_variance:
            residual = denoiser.residual(y, t, given).to("cpu", torch.float64)
            return Missed((by_reference - residual).square(), by_reference.square())
        said = denoiser.posterior(y, t, given)
    residual, unknown = (x.to("cpu", torch.float64) for x in (said.residual, said.unknown))
    share = None if said.share is None else said.share.to("cpu", torch.float64)
    return Missed((by_reference - residual).square(), by_reference.square(), unknown, share)
