r"""Times with a density that follows from the path: from noise levels that matter, or from the likelihood.

A density that has nothing to do with the loss would give weights without a bound. It therefore shares its draws with
the uniform law (`uniform_share`), which bounds them by its inverse (Hesterberg, 1995).

A density is given by its distribution function on 512 equal cells of t and is constant in each of them. The weight is
that of this table, so that no interpolation biases the mean.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from physdiff.objectives.times import Times, TimeSampling, as_drawn, time_samplings
from physdiff.path import PathPoint, ReferencePath
from physdiff.randomness import RowDraws
from physdiff.solvers.noise_grids import log_noise_level

CELLS = 512  # of a table
AT_ONCE = 2**22  # values of a coefficient that are computed together


@dataclass(frozen=True, eq=False)
class Table:
    """A distribution of t, with a constant density in each cell.

    Attributes:
        nodes: Ends of the cells, increasing, shape (cells + 1,), float64.
        cumulative: Distribution function there, from 0 to 1, shape (cells + 1,).
    """

    nodes: Tensor
    cumulative: Tensor

    def quantile(self, share: Tensor) -> Times:
        """t with a given share of the distribution below it, in [0, 1), any shape, and 1/p there."""
        cell = torch.searchsorted(self.cumulative, share.contiguous(), right=True).clamp(1, len(self.nodes) - 1)
        low, mass = self.cumulative[cell - 1], self.cumulative[cell] - self.cumulative[cell - 1]
        width = self.nodes[cell] - self.nodes[cell - 1]
        t = self.nodes[cell - 1] + width * ((share - low) / mass).clamp(0, 1)
        return Times(t, width / (mass * (self.nodes[-1] - self.nodes[0])))

    @classmethod
    def of(cls, nodes: Tensor, rising: Tensor, uniform_share: float) -> Table:
        """From any increasing function at the nodes, a share of the draws being uniform."""
        own = (rising - rising[0]) / (rising[-1] - rising[0])
        even = (nodes - nodes[0]) / (nodes[-1] - nodes[0])
        return cls(nodes, own + uniform_share * (even - own))


class TabulatedTimes(TimeSampling):
    """Times with a density that follows from the path.

    Attributes:
        uniform_share: Share of draws that are uniform, in [0, 1): weights are at most its inverse.
    """

    uniform_share: float

    def __post_init__(self) -> None:
        if not 0 <= self.uniform_share < 1:
            raise ValueError(f"{type(self).__name__}: 'uniform_share' must lie in [0, 1); got {self.uniform_share}.")

    @abstractmethod
    def distribution(self, points: PathPoint) -> Tensor:
        """The distribution function of t up to its range, at points with many times in front; shape (times,)."""

    def table(self, path: ReferencePath) -> Table:
        """The distribution of t on a path."""
        if not isinstance(path, ReferencePath):
            raise ValueError(
                f"{type(self).__name__} times need a linear process, whose signal-to-noise ratio is known; "
                f"{type(path.process).__name__} is simulated: take Uniform or Stratified."
            )
        known = _tables.setdefault(path, {})
        if self not in known:
            nodes = torch.linspace(path.t_min, 1, CELLS + 1, dtype=torch.float64)
            parts = nodes.split(max(1, AT_ONCE // path.reference.spectrum.numel()))
            rising = torch.cat([self.distribution(path.at(part)) for part in parts])
            known[self] = Table.of(nodes, rising, self.uniform_share)
        return known[self]

    def draw(self, path: Any, draws: RowDraws) -> Times:
        return self.table(path).quantile(draws.stratified().cpu())


_tables: WeakKeyDictionary[ReferencePath, dict[TabulatedTimes, Table]] = WeakKeyDictionary()


@time_samplings.register
@dataclass(frozen=True)
class LogNormal(TabulatedTimes):
    r"""log σ normal between its ends on the path, σ being the ratio of noise to signal of the field
    (`physdiff.LogSNR`).

    Source: Karras et al. (2022), table 1, whose −1.2 is of data with the deviation ½: −0.5 for data of unit variance.

    Attributes:
        mean: Of log σ.
        std: Standard deviation of log σ.
        uniform_share: Share of draws that are uniform in t, in [0, 1).
        emphasis: Whether the density counts as part of the weighting, as it does in EDM, and is not made up for.
    """

    mean: float = -0.5
    std: float = 1.2
    uniform_share: float = 0.1
    emphasis: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"LogNormal needs a finite 'mean' and a positive, finite 'std'; got {self.mean} and {self.std}."
            )

    @classmethod
    def examples(cls) -> tuple[LogNormal, ...]:
        return cls(), cls(mean=-1.0, std=1.0, uniform_share=0.0, emphasis=True)

    def distribution(self, points: PathPoint) -> Tensor:
        return torch.special.ndtr((log_noise_level(points) - self.mean) / self.std)

    def draw(self, path: Any, draws: RowDraws) -> Times:
        found = super().draw(path, draws)
        return as_drawn(found.t) if self.emphasis else found


@time_samplings.register
@dataclass(frozen=True)
class LikelihoodImportance(TabulatedTimes):
    r"""As often as the reference misses likelihood: p(t) ∝ Σ_k ½ G m²/S² · cS/V · dτ/dt.

    As ½ G m²/S² dτ/dt = −½ dSNR/dt, the sum is −d/dt of ½ Σ_k log(V/S), and the distribution function is known. Under
    likelihood weighting every draw of a Gaussian field then has the same mean loss.

    Source: Song, Durkan, Murray and Ermon (2021), section 5.1, with what is left of the loss by the reference.

    Attributes:
        uniform_share: Share of draws that are uniform in t, in [0, 1).
    """

    uniform_share: float = 0.1

    def distribution(self, points: PathPoint) -> Tensor:
        support = points.path.reference.support
        ratio = points.clean_variance / torch.where(support, points.noise_variance, 1.0)
        return -torch.log1p(ratio).flatten(1).sum(1)
