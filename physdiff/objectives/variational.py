r"""The variational bound of a reverse chain as a loss, in nats per degree of freedom.

    L = (1/n) [ KL(q(y_1 | y_0) ‖ p(y_1)) + Σ_j KL(q(y_s | y_t, y_0) ‖ p(y_s | y_t)) − log p(y_0 | y_{t_min}) ]

with n the modes of the support: minus what `physdiff.elbo` gives per dimension. The decoder is a Gaussian of the
variance U that y_{t_min} leaves unknown, finite and continuous however little noise there is.

Both of the usual algorithms:

- `levels = "all"` sums every step of the chain for each field: as many evaluations of the network as there are steps,
  all kept for the gradient;
- `levels = "one"` takes one of the K steps for each field, and counts it K times: an unbiased estimate by one
  evaluation. The level follows t, in equal shares of [t_min, 1] from the last step to the first, so that any way of
  drawing t is one of drawing levels, those that adapt to the losses too (Nichol and Dhariwal, 2021, section 3.3). A
  model learns the noise levels of this chain and no others: many steps cost nothing here.

What is drawn is only the difference to the Wiener filter in the same state; the rest is exact (`chain_states`), and an
untrained model scores −log p_ref(x)/n for each field whatever is drawn.

Source: Ho, Jain and Abbeel (2020), eq. 5, 8 and 13; Sohl-Dickstein et al. (2015), eq. 14.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from physdiff.bounds.door import require_counts, require_linear, require_variance
from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.objectives.chain_states import ChainStates, cost_of_reference, deviation_of, times_of
from physdiff.objectives.objective import Evaluated, Objective, objectives, require_probability
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.path import ReferencePath
from physdiff.randomness import RowDraws
from physdiff.solvers.time_grid import TimeGrid, time_grids

WhichLevels = Literal["one", "all"]


@objectives.register
@dataclass(frozen=True)
class VariationalLoss(Objective):
    """Minus the variational bound of a chain, in nats per degree of freedom.

    Attributes:
        steps: K, steps of the chain, the last of them to the clean field.
        time_grid: Where they are: the name of a time grid, or one, such as `chain.time_grid()`.
        variance: Of the reverse kernels, as in `physdiff.elbo`: "reference", "learned", "posterior", "upper", or a
            number between the last two.
        levels: "one" drawn step for each field, or "all" of them.
        times: How t, and with it the level, is drawn.
        drop_condition: Probability with which a row in training is not told its condition.

    Raises:
        ValueError: a setting is outside its range.
    """

    steps: int = 1000
    time_grid: str | TimeGrid = "LogSpaced"
    variance: str | float = "reference"
    levels: WhichLevels = "one"
    times: TimeSampling = field(default_factory=Stratified)
    drop_condition: float = 0.0

    def __post_init__(self) -> None:
        require_counts(steps=self.steps)
        require_variance(self.variance, 1.0)
        require_probability(self, "drop_condition")
        if self.levels not in get_args(WhichLevels):
            raise ValueError(f"VariationalLoss: 'levels' is one or all; got {self.levels!r}.")
        _ = self.grid

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        kinds: tuple[tuple[int, WhichLevels], ...] = ((4, "one"), (2, "all"))
        return tuple(cls(steps=k, variance=v, levels=w) for v in ("reference", "learned") for k, w in kinds)

    @property
    def grid(self) -> TimeGrid:
        """Where the steps are."""
        return time_grids.find(self.time_grid)() if isinstance(self.time_grid, str) else self.time_grid

    @property
    def adapts(self) -> bool:
        return self.levels == "one" and self.times.adapts

    def at(
        self, model: PosteriorMean, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        deviation = deviation_of(model, x)
        level = self.level_at(model.path, t)
        return self.known(model.path, deviation) + self.drawn(model, deviation, level, draws, condition)

    def evaluate(
        self, model: PosteriorMean, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
    ) -> Evaluated:
        require_linear(model, type(self).__name__)
        draws = RowDraws.of(draws, len(x))
        deviation = deviation_of(model, x)
        known = self.known(model.path, deviation)
        if self.levels == "all":
            condition = self.told(model, condition, draws)
            every = [torch.full((len(x),), level) for level in range(self.steps)]
            losses = known + sum(self.drawn(model, deviation, one, draws, condition) for one in every) / self.steps
            return Evaluated(losses, None, losses.detach())
        times = self.times.draw(model.path, draws)
        condition = self.told(model, condition, draws)
        drawn = self.drawn(model, deviation, self.level_at(model.path, times.t), draws, condition)
        return Evaluated(known + drawn * times.weight.to(drawn), times.t, drawn.detach())

    def level_at(self, path: ReferencePath, t: Tensor) -> Tensor:
        """Which step a time stands for, shape (batch,): 0 is the first, from t = 1."""
        share = (t.cpu() - path.t_min) / (1 - path.t_min)
        return self.steps - 1 - (share * self.steps).long().clamp(0, self.steps - 1)

    def known(self, path: ReferencePath, deviation: Tensor) -> Tensor:
        """The part that needs no draw: what the Wiener filter's chain costs each field."""
        return cost_of_reference(path, self.grid, self.steps, self.variance, deviation) / path.reference.n_support

    def drawn(
        self, model: PosteriorMean, deviation: Tensor, level: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None,
    ) -> Tensor:  # fmt: skip
        """K times what the model's step at each row's level costs beyond the Wiener filter's."""
        states = self.states(model.path, deviation, level, RowDraws.of(draws, len(deviation)))
        learned = self.variance == "learned"
        said = states.said(model, condition, learned)
        return self.steps / model.path.reference.n_support * states.extra_cost(said)

    def states(self, path: ReferencePath, deviation: Tensor, level: Tensor, draws: RowDraws) -> ChainStates:
        """Fields noised to the starts of the given steps."""
        noise = draws.normal(*deviation.shape[1:])
        return ChainStates.at(path, times_of(path, self.grid, self.steps), level, deviation, noise, self.variance)
