r"""How the times of training are drawn.

Each way returns t and the weight 1/p(t), p being its density relative to the uniform law on [t_min, 1], so that

    E[weight · loss(t)] = mean of the loss over t ∈ [t_min, 1]

whatever the way: it decides the variance of the gradient, and how often a network sees which noise, but not what is
minimised. A density that has nothing to do with the loss would give weights without a bound; those that could share
their draws with the uniform law (`uniform_share`), which bounds them by its inverse (Hesterberg, 1995).

*Tables.* A density is given by its distribution function on 512 equal cells of t and is constant in each of them. The
weight is that of this table, so that no interpolation biases the mean.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from physdiff.path import PathPoint, ReferencePath
from physdiff.randomness import RowDraws
from physdiff.registry import Registry
from physdiff.settings import is_whole
from physdiff.solvers.noise_grids import log_noise_level

time_samplings = Registry("time sampling")

CELLS = 512  # of a table
AT_ONCE = 2**22  # values of a coefficient that are computed together


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
        return _plain(path.t_min + (1 - path.t_min) * draws.uniform().cpu())


@time_samplings.register
@dataclass(frozen=True)
class Stratified(TimeSampling):
    """Uniform on [t_min, 1], one row of the batch in each of its equal shares.

    Source: Kingma, Salimans, Poole and Ho (2021), appendix I.1, with independent places.
    """

    def draw(self, path: Any, draws: RowDraws) -> Times:
        return _plain(path.t_min + (1 - path.t_min) * draws.stratified().cpu())


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
        return _plain(level.to(torch.float64) / self.steps)


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

    Source: Karras et al. (2022), table 1. There σ is in units in which the data has the deviation ½: their defaults
    are mean = −0.5 for data of unit variance.

    Attributes:
        mean: Of log σ.
        std: Standard deviation of log σ.
        uniform_share: Share of draws that are uniform in t, in [0, 1).
        emphasis: Whether the density counts as part of the weighting, as it does in EDM, and is not made up for.
    """

    mean: float = -1.2
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
        return cls(), cls(mean=-0.5, std=1.0, uniform_share=0.0, emphasis=True)

    def distribution(self, points: PathPoint) -> Tensor:
        return torch.special.ndtr((log_noise_level(points) - self.mean) / self.std)

    def draw(self, path: Any, draws: RowDraws) -> Times:
        found = super().draw(path, draws)
        return _plain(found.t) if self.emphasis else found


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
        state: dict[str, Tensor] = getattr(self, "_state")  # noqa: B009  it is no field
        size = state["losses"][first:].square().mean(1).sqrt()
        learned = bool((state["counts"][first:] >= self.history).all()) and float(size.sum()) > 0
        mass = (size if learned else torch.ones_like(size)) * edges.diff()
        return Table.of(edges, torch.cat([mass.new_zeros(1), mass.cumsum(0)]), self.uniform_share)

    def draw(self, path: Any, draws: RowDraws) -> Times:
        return self.table(path).quantile(draws.stratified().cpu())

    def observe(self, times: Tensor, losses: Tensor) -> None:
        state: dict[str, Tensor] = getattr(self, "_state")  # noqa: B009
        which = (times.cpu().to(torch.float64) * self.bins).long().clamp(0, self.bins - 1)
        for one, loss in zip(which.tolist(), losses.detach().cpu().to(torch.float64), strict=True):
            state["losses"][one] = torch.cat([state["losses"][one, 1:], loss.reshape(1)])
            state["counts"][one] += 1

    def state_dict(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = getattr(self, "_state")  # noqa: B009
        return {name: x.clone() for name, x in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        own: dict[str, Tensor] = getattr(self, "_state")  # noqa: B009
        shapes = {name: tuple(x.shape) for name, x in own.items()}
        found = {name: tuple(x.shape) for name, x in state.items()}
        if found != shapes:
            raise ValueError(
                f"the state of LossSecondMoment times is of other settings: expected {shapes}, got {found}."
            )
        for name, x in own.items():
            x.copy_(state[name])


def _plain(t: Tensor) -> Times:
    return Times(t, torch.ones_like(t))
