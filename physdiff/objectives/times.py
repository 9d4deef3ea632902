r"""How the times of training are drawn.

Each way returns t and the weight 1/p(t), p being its density relative to the uniform law on [t_min, 1], so that

    E[weight · loss(t)] = mean of the loss over t ∈ [t_min, 1]

whatever the way: it decides the variance of the gradient, and how often a network sees which noise, but not what is
minimised. Here are the ways without a density of their own; `tabulated_times` has those that follow from the path,
`adaptive_times` those that follow the losses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from physdiff.randomness import RowDraws
from physdiff.registry import Registry
from physdiff.settings import is_whole

time_samplings = Registry("time sampling")


@dataclass(frozen=True, eq=False)
class Times:
    """Times of some rows.

    Attributes:
        t: In [t_min, 1], shape (rows,), float64, on the CPU.
        weight: By which the losses count, shape (rows,), float64.
    """

    t: Tensor
    weight: Tensor


class TimeSampling(ABC):
    """A way of drawing t."""

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Settings on which tests try it: all that differ in kind."""
        return (cls(),)

    @abstractmethod
    def draw(self, path: Any, draws: RowDraws) -> Times:
        """Times of the rows.

        Args:
            path: Of the model; some ways need its signal-to-noise ratio.
            draws: Where the random numbers come from.
        """

    @property
    def adapts(self) -> bool:
        """Whether it learns from the losses of earlier steps."""
        return False

    def observe(self, times: Tensor, losses: Tensor) -> None:  # noqa: B027  most learn nothing
        """Take note of the losses of a whole batch, both of shape (batch,), in the order of its rows."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run must know; empty for a way that does not adapt."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: the state is of other settings.
        """
        if state:
            raise ValueError(f"{type(self).__name__} times have no state; got {', '.join(state)}.")


@time_samplings.register
@dataclass(frozen=True)
class Uniform(TimeSampling):
    """Independent and uniform on [t_min, 1]."""

    def draw(self, path: Any, draws: RowDraws) -> Times:
        return as_drawn(path.t_min + (1 - path.t_min) * draws.uniform().cpu())


@time_samplings.register
@dataclass(frozen=True)
class Stratified(TimeSampling):
    """Uniform on [t_min, 1], one row of the batch in each of its equal shares.

    Source: Kingma, Salimans, Poole and Ho (2021), appendix I.1, with independent places.
    """

    def draw(self, path: Any, draws: RowDraws) -> Times:
        return as_drawn(path.t_min + (1 - path.t_min) * draws.stratified().cpu())


@time_samplings.register
@dataclass(frozen=True)
class Levels(TimeSampling):
    """The levels t = j/K of a chain, all equally often, as far as t ≥ t_min; stratified over the batch.

    The mean is that over the levels, not the integral over t.

    Attributes:
        steps: K, at least 1.
    """

    steps: int = 1000

    def __post_init__(self) -> None:
        if not is_whole(self.steps, 1):
            raise ValueError(f"Levels: 'steps' must be a whole number of at least 1; got {self.steps!r}.")

    def draw(self, path: Any, draws: RowDraws) -> Times:
        first = max(1, math.ceil(path.t_min * self.steps * (1 - 1e-12)))
        count = self.steps - first + 1
        level = first + (draws.stratified().cpu() * count).long().clamp(max=count - 1)
        return as_drawn(level.to(torch.float64) / self.steps)


def as_drawn(t: Tensor) -> Times:
    """Times that count alike."""
    return Times(t, torch.ones_like(t))
