r"""Implicit score matching: the score of noised fields without a target, by integrating the unknown score by parts.

For a score model s and the law p_t of the noised fields, up to a number that no parameter changes,

    ½ E|s − ∇log p_t|² = E[ ½|s|² + ∇·s ].                                                       (Hyvärinen 2005, eq. 4)

In units of the noise (`NoiseUnits`) s = −b + g. Of what the reference contributes, ½|b|² is ½ Σ S/V in the mean and the
divergence of −b is −Σ S/V: no parameter is in them, and they are put in by their means. What is left to be estimated is
the remainder's,

    L = 1 + (2/n) Σ_k [ ½ g² − b g + ∂g/∂w ]_k,        n modes of the support,

zero for an untrained model whatever the fields, and one product with the network's Jacobian for each probe, which
training differentiates once more. An untrained model scores exactly 1, less is structure. In the mean L is the error of
the predicted noise plus the mean of S/V (`NoiseLevelsLoss`).

That is the variance of the *value*; the gradient never had noise from the reference's part. Both −b·g and ∂g/∂w have
their own: given the clean field E[∂g/∂w] = E[ε·g], and with ε·g in the place of the trace this is denoising, which
needs no second derivative. Implicit matching is for comparison, and for fields whose noise is not known.

Source: Hyvärinen (2005); Hutchinson (1990) for the trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.objectives.noise_units import NoiseUnits
from physdiff.objectives.objective import Objective, objectives, require_probability
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.randomness import RowDraws
from physdiff.registry import nearest
from physdiff.settings import is_whole
from physdiff.trace import ExactTrace, Hutchinson, TraceEstimator

Trace = Literal["exact", "hutchinson"]


@objectives.register
@dataclass(frozen=True)
class ImplicitScoreLoss(Objective):
    """Implicit score matching of noised fields over random times.

    Attributes:
        trace: "exact", one product with the Jacobian for each mode of the support; or "hutchinson".
        probes: Random signs for each field, of "hutchinson".
        times: How t is drawn.
        drop_condition: Probability with which a row in training is not told its condition.
    """

    trace: Trace = "hutchinson"
    probes: int = 1
    times: TimeSampling = field(default_factory=Stratified)
    drop_condition: float = 0.0

    def __post_init__(self) -> None:
        if self.trace not in get_args(Trace):
            raise ValueError(f"ImplicitScoreLoss: unknown trace '{self.trace}'. {nearest(self.trace, get_args(Trace))}")
        require_count("ImplicitScoreLoss", "probes", self.probes)
        require_probability(self, "drop_condition")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls("exact"), cls("hutchinson", 2))

    def at(
        self, model: PosteriorMean, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        draws = RowDraws.of(draws, len(x))
        noised = Noised.draw(model, x, t, draws, condition)
        shape = x.shape[1:]
        if self.trace == "exact":
            estimator, probes = ExactTrace(), x.new_zeros((len(x), 0, *shape))
        else:
            estimator, probes = Hutchinson(self.probes), draws.signs(self.probes, *shape)
        g, divergence = noised.remainder(estimator, probes)
        return noised.loss(0.5 * g.square() - noised.reference * g, divergence.mean(1))


@dataclass(frozen=True, eq=False)
class Noised:
    """Noised fields in units of the noise, and the remainder of a model's score at them.

    Attributes:
        model: Whose score.
        t: Times, shape (batch,).
        units: The Gaussian world there.
        w: The fields, shape (batch, channels, *grid).
        condition: Passed on to the model.
    """

    model: PosteriorMean
    t: Tensor
    units: NoiseUnits
    w: Tensor
    condition: Given | None

    @classmethod
    def draw(cls, model: PosteriorMean, x: Tensor, t: Tensor, draws: RowDraws, condition: Given | None) -> Noised:
        """Clean fields x, noised to t."""
        units = NoiseUnits(model.path.at(t))
        clean = model.path.basis.forward(x.to(torch.float64))
        noisy = units.point.with_noise(clean, draws.normal(*x.shape[1:]).to(clean))
        return cls(model, t, units, units.of(noisy), condition)

    @property
    def reference(self) -> Tensor:
        """b."""
        return self.units.noise_share.to(self.w) * self.w

    def remainder(self, estimator: TraceEstimator, probes: Tensor) -> tuple[Tensor, Tensor]:
        """g, shape as w, and estimates of its divergence, shape (batch, columns); to be differentiated where asked."""

        def score(w: Tensor) -> Tensor:
            # Fused attention has no second derivative.
            with sdpa_kernel(SDPBackend.MATH):
                return self.units.remainder(self.model.residual(self.units.modes(w), self.t, self.condition))

        support = self.model.path.reference.support.to(self.w.device)
        return estimator.along(score, self.w, probes.to(self.w) * support, support, graph=torch.is_grad_enabled())

    def loss(self, per_mode: Tensor, rest: Tensor) -> Tensor:
        """1 + (2/n)(Σ_k per_mode + rest), shape (batch,)."""
        return 1 + 2 / self.model.path.reference.n_support * (per_mode.flatten(1).sum(1) + rest)


def require_count(objective: str, name: str, value: int) -> None:
    """Raise unless a number of draws is at least 1."""
    if not is_whole(value, 1):
        raise ValueError(f"{objective} needs '{name}' of at least 1; got {value}.")
