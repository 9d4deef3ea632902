"""Which levels of a chain a sample visits, as a time grid.

Of K levels a sample in S steps visits S, and goes from the last of them to the clean field. Counted from 1 to K,

    leading     1, 1 + ⌊K/S⌋, 1 + 2⌊K/S⌋, ...        never K
    linspace    K to 1 in equal steps, rounded
    trailing    K, K − K/S, K − 2K/S, ..., rounded

Source: Lin, Liu, Li and Yang (2024), table 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.registry import nearest
from physdiff.schedules import TableClock
from physdiff.solvers.time_grid import Path, TimeGrid

SPACINGS = ("leading", "linspace", "trailing")


@dataclass(frozen=True)
class Levels(TimeGrid):
    """Levels of a chain at times j/K, the last step going to the clean field.

    Attributes:
        clock: The chain's.
        spacing: "trailing" or "linspace".

    A sample starts from the law at level K, which "leading" never visits: it is refused, `Chain.levels` gives its
    numbers.
    """

    clock: TableClock
    spacing: str = "trailing"

    def __post_init__(self) -> None:
        _check_spacing(self.spacing)
        if self.spacing == "leading":
            raise ValueError(
                "a sample starts from the law at the last level, which 'leading' spacing never visits; use 'trailing' "
                "or 'linspace'."
            )

    def between(self, path: Path, intervals: int) -> Tensor:
        if path.clock != self.clock:
            raise ValueError("the path runs along another clock than this chain: make it with chain.path(reference).")
        levels = spaced_levels(self.clock.steps, intervals + 1, self.spacing)
        return levels.to(torch.float64) / self.clock.steps


def spaced_levels(count: int, steps: int, spacing: str) -> Tensor:
    """Levels out of 1 ... count, decreasing, shape (steps,), int64."""
    _check_spacing(spacing)
    if not 1 <= steps <= count:
        raise ValueError(f"a chain of {count} levels is visited in 1 to {count} steps; got {steps}.")
    number = torch.arange(steps, dtype=torch.float64)
    if spacing == "trailing":
        return (count - number * (count / steps)).round().long()
    if spacing == "leading":
        return (1 + number * (count // steps)).long().flip(0)
    if steps == 1:
        return torch.tensor([count])
    return 1 + (number * ((count - 1) / (steps - 1))).round().long().flip(0)


def _check_spacing(spacing: str) -> None:
    if spacing not in SPACINGS:
        raise ValueError(f"unknown spacing '{spacing}'. {nearest(spacing, SPACINGS)}")
