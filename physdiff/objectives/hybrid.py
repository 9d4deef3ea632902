r"""A learned variance beside a learned mean: the denoising loss, and a little of a bound.

    L = L_simple + λ L_vlb,        the mean held still in L_vlb

A bound alone trains a mean poorly, since its few lowest noise levels outweigh all others; the denoising loss says
nothing of the variance. So the mean learns from the first and the variance from the second, whose minimum, given the
mean, is in every state

    U = E[|y_0 − D|² | y_t]

per mode: the posterior variance, and the mean's own error. Both are of the same states, by one evaluation of the
network.

*Which bound.* As published, L_vlb is that of a chain of many steps. But there the variance hardly matters: a step has
ρ = ΔU of the order of 1/K, a wrong U costs it ρ², and all K together tell 1/K of what there is to know. The minimum is
the same for a chain of any length, so the one that tells most is taken by default: from each t straight to the clean
field,

    L_vlb = (1/2n) Σ_k [ log U + |y_0 − D|²/U ]_k        at any t.

With `steps` it is the published one, which a head that interpolates between the variances of a step needs.

Source: Nichol and Dhariwal (2021), eq. 16.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from physdiff.bounds.door import require_counts, require_linear
from physdiff.condition import Given
from physdiff.denoisers.denoiser import Denoiser
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.objectives.chain_states import ChainStates, deviation_of
from physdiff.objectives.denoising import DenoisingLoss
from physdiff.objectives.objective import Evaluated, Objective, objectives, require_probability
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.objectives.variational import VariationalLoss
from physdiff.objectives.weighting import Simple, Weighting
from physdiff.randomness import RowDraws
from physdiff.settings import require_positive
from physdiff.solvers.time_grid import TimeGrid


@objectives.register
@dataclass(frozen=True)
class HybridLoss(Objective):
    """Denoising loss for the mean and a variational bound for the learned variance.

    Attributes:
        vlb_weight: λ > 0, of the bound in nats per degree of freedom; 0.001 as published.
        steps: Steps of the chain whose bound it is, and from whose states both losses are computed; 4000 as published.
            None: of one step, from any t to the clean field.
        time_grid: Where the steps are, as in `VariationalLoss`.
        weighting: How much each mode counts in the denoising loss.
        times: How t, and with it the level, is drawn.
        drop_condition: Probability with which a row in training is not told its condition.

    Raises:
        ValueError: a setting is outside its range.
    """

    vlb_weight: float = 0.1
    steps: int | None = None
    time_grid: str | TimeGrid = "LogSpaced"
    weighting: Weighting = field(default_factory=Simple)
    times: TimeSampling = field(default_factory=Stratified)
    drop_condition: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "vlb_weight")
        require_probability(self, "drop_condition")
        if self.steps is not None:
            require_counts(steps=self.steps)
        _ = self.chain.grid

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(vlb_weight=1.0, steps=8)

    @property
    def chain(self) -> VariationalLoss:
        """The bound of a chain, or of the single step from t = 1."""
        return VariationalLoss(self.steps or 1, self.time_grid, "learned")

    def at(
        self, model: PosteriorMean, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        if isinstance(model, Denoiser):
            self._require_head(model)
        deviation = deviation_of(model, x)
        drawn = self._drawn(model, deviation, t, RowDraws.of(draws, len(x)), condition)
        return drawn + self._known(model, deviation)

    def evaluate(
        self, model: PosteriorMean, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
    ) -> Evaluated:
        require_linear(model, "HybridLoss")
        if isinstance(model, Denoiser):
            self._require_head(model)
        draws = RowDraws.of(draws, len(x))
        deviation = deviation_of(model, x)
        times = self.times.draw(model.path, draws)
        drawn = self._drawn(model, deviation, times.t, draws, self.told(model, condition, draws))
        return Evaluated(self._known(model, deviation) + drawn * times.weight.to(drawn), times.t, drawn.detach())

    def _require_head(self, model: Denoiser) -> None:
        if model.learned_variance is None:
            raise ValueError(
                "HybridLoss trains a variance, of which this model's network has no outputs: set "
                "denoiser.learned_variance, or take another objective."
            )
        if self.steps is None and model.learned_variance.form == "interpolated":
            raise ValueError(
                "a learned variance that is interpolated is one of the steps of a chain: give HybridLoss steps, such "
                "as 1000, or the variance the form 'ratio'."
            )

    def _known(self, model: PosteriorMean, deviation: Tensor) -> Tensor | float:
        """What is known of a chain's bound."""
        return 0.0 if self.steps is None else self.vlb_weight * self.chain.known(model.path, deviation)

    def _drawn(
        self, model: PosteriorMean, deviation: Tensor, t: Tensor, draws: RowDraws, condition: Given | None
    ) -> Tensor:
        """Both losses, the bound's beyond what the reference costs."""
        path, chain = model.path, self.chain
        if self.steps is None:
            states = ChainStates.decoded(path, t, deviation, draws.normal(*deviation.shape[1:]))
        else:
            states = chain.states(path, deviation, chain.level_at(path, t), draws)
        said = states.said(model, condition, learned=True)
        missed = states.missed_by_reference - said.residual
        simple = DenoisingLoss(self.weighting).of_error(model, states.here, states.t, missed)
        still = replace(said, residual=said.residual.detach())
        return simple + self.vlb_weight * chain.steps / path.reference.n_support * states.extra_cost(still)
