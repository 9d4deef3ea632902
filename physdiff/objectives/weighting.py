r"""How much the error of each mode counts at each time: w_k(t) in Σ_k w_k |D − y_0|²_k.

The posterior mean minimises every such loss; what a weighting decides is where a network spends itself. All are
functions of the signal-to-noise ratio of a mode, SNR = m²/S, of the row of the prediction, and of

    −½ dSNR/dt = ½ G m²/S² · dτ/dt,        G = dS/dτ − 2 (d log m/dτ) S,

the rate at which the field's likelihood is lost (Kingma et al., 2021), which holds under every linear process.

*Which coincide.* `ModeLikelihood` is `Elbo` in the limit of many steps. `Likelihood` is both where noise is white in
the basis (VP, VE). `EDM` is `Simple` of the prediction v; `SNR` is `Simple` of ε; `MinSNR` is `SNR` up to a ceiling.
`Simple` of "residual" with γ = 0 is `Relative` but for the channels, each of which is in its own unit there.

Weights are logarithms, for modes in which m has underflown; where a mode has no noise they mean nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from physdiff.bridge import bridge
from physdiff.denoisers.prediction import Rows, log_gain, per_cell
from physdiff.path import PathPoint
from physdiff.registry import Registry, nearest
from physdiff.settings import is_whole, require_positive

weightings = Registry("weighting")

KernelVariance = Literal["posterior", "upper", "reference"]


class Weighting(ABC):
    """Weights of the squared error of the clean field, per mode and time.

    Attributes:
        per_time: Whether the Wiener filter scores 1 at every time already, and needs no constant for its mean.
    """

    per_time: bool = False

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Settings on which tests try it: all that differ in kind."""
        return (cls(),)

    @abstractmethod
    def log_weight(self, point: PathPoint, t: Tensor, rows: Rows) -> Tensor:
        """log w_k, which broadcasts against modes.

        Args:
            point: The Gaussian world.
            t: Where on the path it is, shape () or (batch,).
            rows: Of the prediction.
        """


@weightings.register
@dataclass(frozen=True)
class Simple(Weighting):
    """The plain mean square of what is predicted, w = 1/out².

    Source: Ho, Jain and Abbeel (2020), eq. 14, for ε.
    """

    def log_weight(self, point: PathPoint, t: Tensor, rows: Rows) -> Tensor:
        return -2 * rows.log_out


@weightings.register
@dataclass(frozen=True)
class Relative(Weighting):
    """The error of the field in units of what the Wiener filter leaves unknown at each time, whatever is predicted."""

    per_time = True

    def log_weight(self, point: PathPoint, t: Tensor, rows: Rows) -> Tensor:
        channel_and_axes = tuple(range(-1 - point.path.basis.grid.ndim, 0))
        return -point.posterior_variance.sum(channel_and_axes, keepdim=True).log()


@weightings.register
@dataclass(frozen=True)
class EDM(Weighting):
    """1/c_out² of EDM, 1/c̄ + SNR, with the data's mean variance c̄ as σ_data².

    Source: Karras et al. (2022), eq. 8: λ(σ) = (σ² + σ_data²)/(σ σ_data)². The density of σ that goes with it there is
    `LogNormal(emphasis=True)`.
    """

    def log_weight(self, point: PathPoint, t: Tensor, rows: Rows) -> Tensor:
        white = per_cell(point.path.basis, point.path.reference.spectrum)
        return torch.logaddexp(-torch.where(white > 0, white, 1.0).log(), log_snr(point))


@weightings.register
@dataclass(frozen=True)
class SNR(Weighting):
    """The signal-to-noise ratio m²/S: the error of the noise.

    Source: Salimans and Ho (2022), section 4.
    """

    def log_weight(self, point: PathPoint, t: Tensor, rows: Rows) -> Tensor:
        return log_snr(point)


@weightings.register
@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, γ) per mode: low noise does not count for more and more.

    Source: Hang et al. (2023), section 3.4.

    Attributes:
        gamma: γ > 0.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        require_positive(self, "gamma")

    def log_weight(self, point: PathPoint, t: Tensor, rows: Rows) -> Tensor:
        return log_snr(point).clamp(max=math.log(self.gamma))


@weightings.register
@dataclass(frozen=True)
class Likelihood(Weighting):
    """½ ḡ² |error of the score|² dτ/dt, with ḡ² the mean of G over the modes of a channel.

    Source: Song, Durkan, Murray and Ermon (2021), eq. 7 and theorem 1, λ(t) = g(t)², for white noise.
    """

    def log_weight(self, point: PathPoint, t: Tensor, rows: Rows) -> Tensor:
        support = point.path.reference.support
        rate = torch.where(support, point.path.process.noise_spectrum(point.time), 0.0)
        mean, share = (per_cell(point.path.basis, x) for x in (rate, support.to(torch.float64)))
        return _of_score(point, t, mean / torch.where(share > 0, share, 1.0))


@weightings.register
@dataclass(frozen=True)
class ModeLikelihood(Weighting):
    """½ G m²/S² dτ/dt = −½ dSNR/dt of each mode: the loss is then likelihood, in nats.

    Source: Kingma, Salimans, Poole and Ho (2021), eq. 15; per mode as in `physdiff.continuous_elbo`.
    """

    def log_weight(self, point: PathPoint, t: Tensor, rows: Rows) -> Tensor:
        return _of_score(point, t, point.path.process.noise_spectrum(point.time))


@weightings.register
@dataclass(frozen=True)
class Elbo(Weighting):
    """What an error costs a chain of K equal steps of t, ½ K (SNR_s − SNR_t)/(1 + ρ), s = t − 1/K at its levels.

    (1 + ρ) β̃ is the variance of the reverse kernel. The step to the clean field costs ½ K/U with U = cS/V. Between
    levels (which `Levels` never asks for) the weight is that of the step in which t lies.

    Source: Ho, Jain and Abbeel (2020), eq. 8; Kingma, Salimans, Poole and Ho (2021), eq. 13.

    Attributes:
        steps: K; None for the limit of infinitely many, −½ dSNR/dt.
        variance: Of the reverse kernel: "posterior" for β̃, "upper" for Σ, "reference" for β̃ + |B|²cS/V.
    """

    steps: int | None = None
    variance: KernelVariance = "posterior"

    def __post_init__(self) -> None:
        if self.steps is not None and not is_whole(self.steps, 1):
            raise ValueError(f"Elbo: 'steps' must be a whole number of at least 1, or None; got {self.steps!r}.")
        if self.variance not in get_args(KernelVariance):
            raise ValueError(
                f"Elbo: unknown variance '{self.variance}'. {nearest(str(self.variance), get_args(KernelVariance))}"
            )

    @classmethod
    def examples(cls) -> tuple[Elbo, ...]:
        return cls(), *(cls(20, variance) for variance in get_args(KernelVariance))

    def log_weight(self, point: PathPoint, t: Tensor, rows: Rows) -> Tensor:
        if self.steps is None:
            return _of_score(point, t, point.path.process.noise_spectrum(point.time))
        path, support = point.path, point.path.reference.support
        level = torch.ceil(torch.as_tensor(t, dtype=torch.float64) * self.steps - 1e-9).clamp(min=1)
        before, point = (path.at(one / self.steps) for one in (level - 1, level))
        clean = before.time == 0
        received = bridge(path.process, before.time, point.time).upper_variance
        after = torch.where(support, point.noise_variance, 1.0)
        earlier = torch.where(support & ~clean, before.noise_variance, after)
        log_gained = 2 * log_gain(before) + _log(received) - _log(after) - _log(earlier)
        if self.variance == "posterior":
            widened = torch.zeros_like(log_gained)
        elif self.variance == "upper":
            widened = (after / earlier).log()
        else:
            widened = torch.log1p(log_gained.exp() * point.posterior_variance)
        step = log_gained - widened
        decoder = -_log(torch.where(support, point.posterior_variance, 1.0))
        return math.log(0.5 * self.steps) + torch.where(clean, decoder, step)


def log_snr(point: PathPoint) -> Tensor:
    """log m²/S per mode; 2 log m where there is no noise."""
    return 2 * log_gain(point) - _log(point.noise_variance)


def _of_score(point: PathPoint, t: Tensor, rate: Tensor) -> Tensor:
    """log of ½ rate m²/S² dτ/dt."""
    t = torch.as_tensor(t, dtype=torch.float64)
    speed = point.path.clock.rate(t)
    speed = speed.reshape(*t.shape, *[1] * (1 + point.path.basis.grid.ndim)) if t.ndim else speed
    return math.log(0.5) + torch.log(rate * speed) + log_snr(point) - _log(point.noise_variance)


def _log(x: Tensor) -> Tensor:
    """log x, 0 where x is 0."""
    return torch.where(x > 0, x, 1.0).log()
