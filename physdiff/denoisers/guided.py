r"""Classifier-free guidance: towards what a condition changes, and beyond it.

    r = r_∅ + w (r_c − r_∅)

with r_c the residual that is told the condition, r_∅ the one that is not; under a simulated process r is the score's
correction. The score of p_t is linear in it, so that the guided one is the score of

    p_t(x | c)^w p_t(x)^{1−w} / Z_t

at every noise level t. At w = 1 this is the conditional law, at 0 that of all fields, above 1 it is drawn towards what
tells the class from the others, at the price of diversity. Unless w is 0 or 1, these are not the noised versions of one
law: samples follow what the solver makes of the scores, a likelihood is that of the probability flow's own law, and a
bound is that of the chain's.

Source: Ho & Salimans (2022), eq. 6, with w = 1 + their guidance strength.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from physdiff.condition import Condition, Given
from physdiff.denoisers.posterior_mean import Posterior, PosteriorMean
from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.denoisers.score import ScoreModel


def guided(model: ReverseModel, scale: float) -> Guided | GuidedScore:
    """A conditional model of either kind, guided.

    Raises:
        ValueError: the scale is not finite; the model is no denoiser and no score.
    """
    if isinstance(model, PosteriorMean):
        return Guided(model, scale)
    if isinstance(model, ScoreModel):
        return GuidedScore(model, scale)
    raise ValueError(f"guidance needs a denoiser or a score; got {type(model).__name__}.")


class Guided(PosteriorMean):
    """A conditional denoiser, guided; each evaluation is one of the denoiser on twice as many fields.

    Rows whose condition is not `present` are answered unconditionally, as without guidance.

    Args:
        denoiser: One that was trained with and without its condition.
        scale: w; 1 is the conditional law.

    Raises:
        ValueError: the scale is not finite.
    """

    def __init__(self, denoiser: PosteriorMean, scale: float) -> None:
        super().__init__(denoiser.path)
        self.denoiser = denoiser
        self.scale = _finite(scale)

    def residual(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        if condition is None:
            return self.denoiser.residual(modes, t, None)
        return _tilted(self.denoiser.residual(*_doubled(modes, t, condition)), self.scale)

    def posterior_variance(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        """That of the denoiser where it is told: a guided law is no posterior, and has none of its own."""
        return self.denoiser.posterior_variance(modes, t, condition)

    def posterior(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Posterior:
        if condition is None:
            return self.denoiser.posterior(modes, t, None)
        both = self.denoiser.posterior(*_doubled(modes, t, condition))
        share = None if both.share is None else both.share.chunk(2)[0]
        residual = _tilted(both.residual, self.scale)
        return replace(both, residual=residual, unknown=both.unknown.chunk(2)[0], share=share)


class GuidedScore(ScoreModel):
    """The score of a simulated process, guided; arguments as for `Guided`."""

    def __init__(self, model: ScoreModel, scale: float) -> None:
        super().__init__(model.path)
        self.model = model
        self.scale = _finite(scale)

    def correction(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        if condition is None:
            return self.model.correction(modes, t, None)
        return _tilted(self.model.correction(*_doubled(modes, t, condition)), self.scale)


def _finite(scale: float) -> float:
    if not math.isfinite(scale):
        raise ValueError(f"the scale of a guidance is a finite number; got {scale}.")
    return scale


def _tilted(both: Tensor, scale: float) -> Tensor:
    told, absent = both.chunk(2)
    return absent + scale * (told - absent)


def _doubled(modes: Tensor, t: Tensor, condition: Given) -> tuple[Tensor, Tensor, Condition]:
    """The arguments of one evaluation that tells the first half of its rows their condition, and the second nothing."""
    n = len(modes)
    given = Condition.of(condition).expand(n)
    rows = torch.arange(n, device=given.device).repeat(2)
    half = torch.arange(2 * n, device=given.device) < n
    return torch.cat((modes, modes)), t.repeat(2) if t.ndim else t, given[rows].told(half)
