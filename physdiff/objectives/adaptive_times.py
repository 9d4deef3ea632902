"""Times that follow the losses of earlier steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from physdiff.objectives.tabulated_times import Table
from physdiff.objectives.times import Times, TimeSampling, time_samplings
from physdiff.randomness import RowDraws
from physdiff.settings import is_whole


@time_samplings.register
@dataclass(frozen=True)
class LossSecondMoment(TimeSampling):
    r"""As often as the root mean square of the latest losses at that time, p(t) ∝ √E[L²], in equal bins of t.

    Uniform until every bin has been seen `history` times. What it knows is a state: the same in any number of
    processes, and part of a checkpoint.

    Source: Nichol and Dhariwal (2021), section 3.3, with bins in the place of 4,000 levels.

    Attributes:
        bins: Equal shares of [0, 1].
        history: Latest losses that a bin remembers.
        uniform_share: Share of draws that are uniform, in (0, 1).
    """

    bins: int = 32
    history: int = 10
    uniform_share: float = 0.001
    _state: dict[str, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("bins", "history"):
            if not is_whole(getattr(self, name), 1):
                raise ValueError(
                    f"LossSecondMoment: '{name}' must be a whole number of at least 1; got {getattr(self, name)!r}."
                )
        if not 0 < self.uniform_share < 1:
            raise ValueError(f"LossSecondMoment: 'uniform_share' must lie in (0, 1); got {self.uniform_share}.")
        state = {
            "losses": torch.zeros(self.bins, self.history, dtype=torch.float64),  # the oldest first
            "counts": torch.zeros(self.bins, dtype=torch.int64),
        }
        object.__setattr__(self, "_state", state)

    @property
    def adapts(self) -> bool:
        return True

    def table(self, path: Any) -> Table:
        """The distribution of t as it is now, on [t_min, 1]."""
        first = min(int(path.t_min * self.bins), self.bins - 1)
        edges = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64)[first:].clone()
        edges[0] = path.t_min
        state = self._state
        size = state["losses"][first:].square().mean(1).sqrt()
        learned = bool((state["counts"][first:] >= self.history).all()) and float(size.sum()) > 0
        mass = (size if learned else torch.ones_like(size)) * edges.diff()
        return Table.of(edges, torch.cat([mass.new_zeros(1), mass.cumsum(0)]), self.uniform_share)

    def draw(self, path: Any, draws: RowDraws) -> Times:
        return self.table(path).quantile(draws.stratified().cpu())

    def observe(self, times: Tensor, losses: Tensor) -> None:
        state = self._state
        which = (times.cpu().to(torch.float64) * self.bins).long().clamp(0, self.bins - 1)
        for one, loss in zip(which.tolist(), losses.detach().cpu().to(torch.float64), strict=True):
            state["losses"][one] = torch.cat([state["losses"][one, 1:], loss.reshape(1)])
            state["counts"][one] += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {name: x.clone() for name, x in self._state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        own = self._state
        shapes = {name: tuple(x.shape) for name, x in own.items()}
        found = {name: tuple(x.shape) for name, x in state.items()}
        if found != shapes:
            raise ValueError(
                f"the state of LossSecondMoment times is of other settings: expected {shapes}, got {found}."
            )
        for name, x in own.items():
            x.copy_(state[name])
