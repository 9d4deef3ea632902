"""What an objective is: a loss of each field of a batch, whose random numbers are those of the rows alone.

A training loop needs no more than

    found = objective.evaluate(model, x, draws, condition)
    found.losses.mean().backward()
    if objective.adapts:                                   # with the rows of all processes, in their order
        objective.observe(found.times, found.unweighted)

and `state_dict`, `load_state_dict` around a checkpoint. `objective(model, x, draws, condition)` is short for the
losses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from physdiff.condition import Condition, Given
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.randomness import RowDraws
from physdiff.registry import Registry

objectives = Registry("objective")


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The losses of some rows.

    Attributes:
        losses: What is averaged and differentiated, shape (rows,).
        times: t of each row, shape (rows,), float64; None where an objective draws none.
        unweighted: The losses before the weight that makes up for the choice of times, detached, shape (rows,).
    """

    losses: Tensor
    times: Tensor | None
    unweighted: Tensor


class Objective(ABC):
    """What training minimises: a loss at a time, averaged over times that are drawn.

    A subclass states `at`. One that draws no times of its own kind (a simulated process has windows) states `evaluate`.

    Attributes:
        simulated: Whether it is for the score of a simulated process, and not for a denoiser under a linear one.
        times: How t is drawn; make it a setting to leave the choice to the user.
        drop_condition: Probability with which a row in training is not told its condition; likewise.
    """

    simulated: ClassVar[bool] = False
    times: TimeSampling = Stratified()
    drop_condition: float = 0.0

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Settings on which the laws try the objective: all that differ in kind."""
        return (cls(),)

    def prepared(self, path: Any, fields: Tensor, to_physical: Callable[[Tensor], Tensor]) -> Self:
        """The objective with what it takes from the training data; most take nothing.

        Args:
            path: Of the model.
            fields: Clean training fields in the model's units, shape (n, channels, *grid).
            to_physical: From the model's units to physical ones, fields to fields.
        """
        return self

    def on_known_law(self, exact: Any, fields: Tensor) -> Self:
        """The objective as the laws try it, on fields of a law whose `MixtureDenoiser` is known; most as they are."""
        return self.prepared(exact.path, fields, lambda x: x)

    @abstractmethod
    def at(
        self, model: Any, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
    ) -> Tensor:
        """The loss of each row at given times.

        Args:
            model: What is trained.
            x: Clean fields in the model's units, shape (rows, channels, *grid).
            t: Times in [t_min, 1], shape (rows,).
            draws: Where the noise comes from.
            condition: What the fields are conditioned on, if anything.

        Returns:
            Shape (rows,).
        """

    def evaluate(
        self, model: Any, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
    ) -> Evaluated:
        """The losses at random times.

        Args:
            model: What is trained; conditions are dropped only while it is in training mode.
            x: Clean fields in the model's units, shape (rows, channels, *grid).
            draws: Where all random numbers come from: rows of a batch that is split see the numbers of the whole.
            condition: What the fields are conditioned on, if anything.
        """
        draws = RowDraws.of(draws, len(x))
        drawn = self.times.draw(model.path, draws)
        found = self.at(model, x, drawn.t, draws, self.told(model, condition, draws))
        return Evaluated(found * drawn.weight.to(found), drawn.t, found.detach())

    def told(self, model: Any, condition: Given | None, draws: RowDraws) -> Given | None:
        """The condition, in training not told to a share `drop_condition` of the rows."""
        if condition is None or self.drop_condition == 0 or not model.training:
            return condition
        return Condition.of(condition).told(draws.uniform() >= self.drop_condition)

    def __call__(
        self, model: Any, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
    ) -> Tensor:
        """The loss of each row, shape (rows,); arguments as for `evaluate`."""
        return self.evaluate(model, x, draws, condition).losses

    # ---- what is remembered between steps: nothing, unless times adapt to the losses

    @property
    def adapts(self) -> bool:
        """Whether it learns from the losses of earlier steps, and so has a state."""
        return self.times.adapts

    def observe(self, times: Tensor, losses: Tensor) -> None:
        """Take note of a step: `Evaluated.times` and `unweighted` of the whole batch, in the order of its rows."""
        self.times.observe(times, losses)

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run must know; empty without a state."""
        return self.times.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: the state is of other settings.
        """
        self.times.load_state_dict(state)


def require_probability(owner: Any, name: str) -> None:
    """Raise unless a setting is a probability below 1."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{type(owner).__name__}: '{name}' must lie in [0, 1); got {value!r}.")


def _unfit(cls: type) -> str | None:
    """What a class lacks to be an objective, for a message."""
    if not issubclass(cls, Objective):
        return "is not a subclass of physdiff.objectives.Objective"
    if missing := sorted(cls.__abstractmethods__):
        return f"is abstract; it must define {' and '.join(missing)}"
    return None


objectives.unfit = _unfit
