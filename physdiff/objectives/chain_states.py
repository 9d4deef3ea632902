r"""States of a chain at given levels, and what the step back from each costs.

The bound of a reverse chain is a sum over its K steps (`physdiff.bounds`). Step i goes from the i-th of its times to
the next, the last one to the clean field. What the Gaussian reference contributes is known for each field, with the
prior, and in the reference's own chain it is −log p_ref(x) whatever the steps are; what is left of a step is the
difference between the model and the Wiener filter *in the same state*: zero for an untrained model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from physdiff.bounds.terms import FRACTIONS, MODEL_SPREADS, Clean, Transition, transition
from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import Posterior, PosteriorMean
from physdiff.path import PathPoint, ReferencePath
from physdiff.solvers.time_grid import TimeGrid

Rule = str | float


@dataclass(frozen=True)
class ChainStates:
    """Noised fields, each before one step of the chain.

    Attributes:
        t: Time of each state, shape (batch,).
        here: The Gaussian world there.
        step: What the steps cost.
        deviation: Clean modes less the reference's mean, zero outside the support, shape (batch, channels, *grid).
        comoving: Of the states, in the frame that moves with the process.
    """

    t: Tensor
    here: PathPoint
    step: Transition
    deviation: Tensor
    comoving: Tensor

    @classmethod
    def at(
        cls, path: ReferencePath, times: Tensor, level: Tensor, deviation: Tensor, noise: Tensor, rule: Rule
    ) -> ChainStates:
        """Before the steps `level`, shape (batch,), from `times` of shape (steps + 1,), with given unit noise."""
        here, there = path.at(times[level]), path.at(times[level + 1])
        step = transition(path, here, there, rule).to(deviation.device)
        return cls.noised(here, times[level], step, deviation, noise)

    @classmethod
    def decoded(cls, path: ReferencePath, t: Tensor, deviation: Tensor, noise: Tensor) -> ChainStates:
        """Before a step from t, shape (batch,), straight to the clean field."""
        here = path.at(t)
        step = transition(path, here, path.at(0.0), "reference").to(deviation.device)
        return cls.noised(here, t, step, deviation, noise)

    @classmethod
    def noised(cls, here: PathPoint, t: Tensor, step: Transition, deviation: Tensor, noise: Tensor) -> ChainStates:
        """At given points of the path, with given unit noise."""
        amplitude, spread = (x.to(deviation) for x in (here.amplitude, here.noise_variance.sqrt()))
        return cls(t, here, step, deviation, amplitude * deviation + spread * noise.to(deviation))

    @property
    def modes(self) -> Tensor:
        """The states y."""
        return self.here.restore(self.comoving)

    @property
    def missed_by_reference(self) -> Tensor:
        """y_0 − W in the co-moving frame."""
        return self.deviation - self.here.wiener_gain.to(self.deviation) * self.comoving

    def said(self, model: PosteriorMean, condition: Given | None, learned: bool) -> Posterior:
        """What a model says in the states: its own variance too if that is learned, else the reference's."""
        if learned:
            return model.posterior(self.modes, self.t, condition)
        residual = model.residual(self.modes, self.t, condition)
        return Posterior(residual, self.here.posterior_variance.to(residual))

    def extra_cost(self, said: Posterior) -> Tensor:
        """Nats of each step beyond those of the Wiener filter in the same state, shape (batch,)."""
        missed, of_reference = self.missed_by_reference, self.here.posterior_variance.to(self.deviation)
        by_model = self.step.per_mode(said.unknown, (missed - said.residual).square(), said.share)
        return (by_model - self.step.per_mode(of_reference, missed.square())).flatten(1).sum(1)


def deviation_of(model: PosteriorMean, x: Tensor) -> Tensor:
    """Modes of fields less the reference's mean, zero outside the support, float64, where the model is."""
    path, x = model.path, x.to(model.device, torch.float64)
    modes = path.basis.forward(x)
    return torch.where(path.reference.support.to(x.device), modes - path.reference.mean.to(modes), 0.0)


@lru_cache(maxsize=8)
def times_of(path: ReferencePath, grid: TimeGrid, steps: int) -> Tensor:
    """Decreasing times from 1 to 0, shape (steps + 1,)."""
    return grid.times(path, steps)


def cost_of_reference(path: ReferencePath, grid: TimeGrid, steps: int, rule: Rule, deviation: Tensor) -> Tensor:
    """Nats that the Wiener filter's chain takes from the bound, shape (batch,), in the mean over its states."""
    if rule in MODEL_SPREADS:
        return -path.reference.log_prob_of_deviation(deviation)
    constant, slope = _quadratic(path, grid, steps, FRACTIONS[rule] if isinstance(rule, str) else rule)
    per_mode = slope.to(deviation) * deviation.square()
    return Clean(path, deviation.cpu()).prior().to(deviation) + constant + per_mode.flatten(1).sum(1)


@lru_cache(maxsize=8)
def _quadratic(path: ReferencePath, grid: TimeGrid, steps: int, share: float) -> tuple[float, Tensor]:
    """Cost of all steps as a constant and a slope in d² of each mode: a step's is linear in what is missed."""
    shape = path.reference.spectrum.shape
    still, unit = (Clean(path, torch.full((1, *shape), d, dtype=torch.float64)) for d in (0.0, 1.0))
    constant, slope = 0.0, torch.zeros(shape, dtype=torch.float64)
    for t, s in pairwise(times_of(path, grid, steps)):
        here = path.at(t)
        step = transition(path, here, path.at(s), share)
        low, high = (step.per_mode(here.posterior_variance, x.missed_by_reference(here)) for x in (still, unit))
        constant += float(low.sum())
        slope += (high - low).squeeze(0)
    return constant, slope
