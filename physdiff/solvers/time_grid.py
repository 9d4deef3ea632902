r"""Time grids: the times t at which a solver stops, from 1 down to t_min and then, for a sample, to 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.path import ReferencePath
from physdiff.registry import Registry
from physdiff.settings import is_whole
from physdiff.simulated_path import SimulatedPath

Path = ReferencePath | SimulatedPath

time_grids = Registry("time grid")


@dataclass(frozen=True)
class TimeGrid(ABC):
    """A rule that places times between 1 and t_min."""

    @abstractmethod
    def between(self, path: Path, intervals: int) -> Tensor:
        """Decreasing times from 1 to t_min, shape (intervals + 1,), float64."""

    def times(self, path: Path, steps: int) -> Tensor:
        """Decreasing times of a sample, shape (steps + 1,): from 1 to t_min, and a last step to 0."""
        if not is_whole(steps, 1):
            raise ValueError(f"a sample needs a whole number of steps, at least 1; got {steps!r}.")
        end = torch.zeros(1, dtype=torch.float64)
        if steps == 1:
            return torch.cat([torch.ones(1, dtype=torch.float64), end])
        return torch.cat([self.between(path, steps - 1), end])


@time_grids.register
@dataclass(frozen=True)
class Uniform(TimeGrid):
    """Equal steps of t."""

    def between(self, path: Path, intervals: int) -> Tensor:
        return torch.linspace(1.0, path.t_min, intervals + 1, dtype=torch.float64)


@time_grids.register
@dataclass(frozen=True)
class LogSpaced(TimeGrid):
    """Equal steps of log τ: equal ratios of the noise level."""

    def between(self, path: Path, intervals: int) -> Tensor:
        first, last = (path.clock.time(torch.tensor(t, dtype=torch.float64)).log() for t in (1.0, path.t_min))
        share = torch.linspace(0, 1, intervals + 1, dtype=torch.float64)
        times = path.clock.inverse(torch.exp(first + share * (last - first)))
        times[0], times[-1] = 1.0, path.t_min
        return times
