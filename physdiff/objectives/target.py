r"""Target score matching: what is known of the clean law's score, in the place of noise.

The score of the noised law is the mean of the clean one's, m ∇log p_t(y_t) = E[∇log p_0(y_0) | y_t] per mode. With
g_0 = ∇log p_0(y_0) and Tweedie's formula a residual r = D − W has two unbiased targets,

    denoising       y_0 − W
    target score    (y_t − mμ)/m + (S/m²) g_0 + μ − W

The first is noisy where there is little noise, the second where there is much: it has no limit as m → 0. In the mixture
with a share S/V of denoising and m²c/V of the target score the noise cancels, and what is left is

    matched         (cS/V) (g_0 + (y_0 − μ)/c):

a Gaussian's g_0 is −(y_0 − μ)/c, and its target is exactly zero. Everything in it is finite as m → 0 and as S → 0,
where its noise falls as S and not as √S. All unbiased mixtures are

    target = (1 − ρ) (y_0 − W) + ρ · matched,       ρ = (1 − a) V/(m²c) for a share a of denoising.

*The least variance.* With Fisher's information of a mode, I = E[g_0²], and E[g_0 (y_0 − μ)] = −1 (Stein), the mean
square of the target is least at

    ρ = V/(m²c + S cI),     where it is (1 − ρ) cS/V, for every law of the data,

and that of denoising is cS/V: never worse than denoising at any noise level, and exact for a Gaussian, whose cI is 1.
"fitted" measures I on the training fields. The matched mixture is as good where there is little noise, and worse than
denoising under much noise in modes with cI > 2.

Source: De Bortoli, Hutchinson, Wirnsberger and Doucet (2024); Phillips et al. (2024) for mixtures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from physdiff.actions import Action, find_action
from physdiff.condition import Given
from physdiff.denoisers.exact import MixtureDenoiser
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.objectives.denoising import DenoisingLoss
from physdiff.objectives.objective import Objective, objectives, require_probability
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.objectives.weighting import Simple, Weighting
from physdiff.path import PathPoint, ReferencePath
from physdiff.randomness import RowDraws
from physdiff.registry import nearest

MIXTURES = ("fitted", "matched", "target", "denoising")
AT_ONCE = 256  # fields whose scores are computed together
MOST = 2.0  # of ρ: there a Gaussian's target is as noisy as with denoising alone


@objectives.register
@dataclass(frozen=True, eq=False)
class TargetScoreLoss(Objective):
    """Denoising with what is known of the clean law e^{−S}/Z.

    Attributes:
        action: S of physical fields: a built-in word, `module.function` or `path/to/file.py:function`, as for
            `physdiff evaluate --action`; or any function from fields (n, channels, *grid) to (n,), made of torch's.
        action_settings: What it is given beside the fields.
        mixture: "fitted", "matched", "target" (the target score alone), "denoising", or a in [0, 1], the share of
            denoising. Under "target" and a number ρ is held at 2 (C), where modes have more noise than signal.
        to_physical: From the model's units to those of the action; the same units if None. Training sets it.
        information: cI ≥ 1 of each mode, shape (channels, *grid), which "fitted" needs. Training sets it.
        weighting: How much each mode counts at each time, as for `DenoisingLoss`.
        times: How t is drawn.
        drop_condition: Probability with which a row in training is not told its condition.

    Raises:
        ValueError: a setting is outside its range; the action fails, or has no derivative.
    """

    action: str | Callable[..., Tensor] = "LatticePhi4"
    action_settings: Mapping | None = None
    mixture: str | float = "fitted"
    to_physical: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    information: Tensor | None = field(default=None, repr=False)
    weighting: Weighting = field(default_factory=Simple)
    times: TimeSampling = field(default_factory=Stratified)
    drop_condition: float = 0.0

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (*(cls(mixture=mixture) for mixture in MIXTURES), cls(mixture=0.5))

    def __post_init__(self) -> None:
        if isinstance(self.mixture, str):
            if self.mixture not in MIXTURES:
                hint = nearest(self.mixture, MIXTURES)
                raise ValueError(f"TargetScoreLoss: unknown mixture '{self.mixture}'. {hint}")
        elif not 0 <= self.mixture <= 1:
            raise ValueError(f"TargetScoreLoss: the share of denoising lies in [0, 1]; got mixture = {self.mixture}.")
        require_probability(self, "drop_condition")
        self._law()  # refuses what it cannot use

    def prepared(self, path: ReferencePath, fields: Tensor, to_physical: Callable[[Tensor], Tensor]) -> Self:
        """With the units of the model, and Fisher's information of its training fields (n, channels, *grid)."""
        found, basis, spectrum = replace(self, to_physical=to_physical), path.basis, path.reference.spectrum
        total = torch.zeros_like(spectrum)
        for some in fields.cpu().split(AT_ONCE):
            total += basis.forward(found.clean_score(some)).square().sum(0)
        # cI ≥ 1 for every law (Cramér and Rao); an estimate may fall below.
        information = (spectrum * basis.symmetrise(total / len(fields))).clamp(min=1.0)
        return replace(found, information=information)

    def on_known_law(self, exact: MixtureDenoiser, fields: Tensor) -> Self:
        """With the action of a mixture whose density is known, on which the laws of objectives try it."""
        found = replace(self, action=lambda x: -exact.log_prob(exact.path.basis.forward(x), 0.0))
        return found.prepared(exact.path, fields, lambda x: x)

    def clean_score(self, x: Tensor) -> Tensor:
        """∇log p_0 of clean fields in the model's units, −∂S/∂x, shape (n, channels, *grid), float64."""
        with torch.enable_grad():
            fields = x.detach().to(torch.float64).requires_grad_()
            total = self._law()(fields if self.to_physical is None else self.to_physical(fields)).sum()
            if not total.requires_grad:
                raise ValueError("the action has no derivative by the fields: it must be made of torch operations.")
            (slope,) = torch.autograd.grad(total, fields)
        return -slope

    def target(self, clean: Tensor, score: Tensor, noisy: Tensor, point: PathPoint) -> Tensor:
        """An unbiased target of r = E[y₀ | y] − W, zero outside the support; modes, (batch, channels, *grid).

        Args:
            clean: y_0.
            score: g_0.
            noisy: y_t.
            point: The Gaussian world at t.
        """
        reference = point.path.reference
        on = reference.support.to(clean.device)
        denoising = torch.where(on, clean - point.wiener(noisy), 0.0)
        deviation = torch.where(on, clean - reference.mean.to(clean), 0.0)
        noise_share = point.noise_variance / torch.where(reference.support, point.variance, 1.0)
        matched = point.posterior_variance.to(clean) * score + noise_share.to(clean) * deviation
        return denoising + self.share(point).to(clean) * (matched - denoising)

    def share(self, point: PathPoint) -> Tensor:
        """ρ; broadcasts against modes."""
        if self.mixture in ("denoising", "matched"):
            return torch.tensor(float(self.mixture == "matched"), dtype=torch.float64)
        if self.mixture == "fitted":
            if self.information is None:
                raise ValueError(
                    "mixture 'fitted' needs the training fields: call prepared(path, fields, to_physical) first, or "
                    "take 'matched'."
                )
            whole = point.clean_variance + point.noise_variance * self.information
            return torch.where(point.path.reference.support, point.variance / torch.where(whole > 0, whole, 1.0), 0.0)
        part = 1.0 if self.mixture == "target" else 1.0 - float(self.mixture)
        # V/(m²c) is infinite where nothing is left of the signal; without a part of it, ρ is 0 there too.
        limit = part * point.variance / torch.clamp(point.clean_variance, min=math.ulp(0.0))
        return torch.where(point.path.reference.support, limit, 0.0).clamp(max=MOST)

    def at(
        self, model: PosteriorMean, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        path, on = model.path, model.path.reference.support.to(x.device)
        point = path.at(t)
        clean = torch.where(on, path.basis.forward(x.to(torch.float64)), path.reference.mean.to(x.device))
        noisy = point.with_noise(clean, RowDraws.of(draws, len(x)).normal(*x.shape[1:]).to(clean))
        score = torch.where(on, path.basis.forward(self.clean_score(path.basis.inverse(clean))), 0.0)
        target = self.target(clean, score, noisy, point)
        error = torch.where(on, target - model.residual(noisy, t, condition), 0.0)
        return DenoisingLoss(self.weighting).of_error(model, point, t, error)

    def _law(self) -> Action:
        if isinstance(self.action, str):
            return find_action(self.action, self.action_settings)
        action, settings = self.action, dict(self.action_settings or {})
        return (lambda fields: action(fields, **settings)) if settings else action
