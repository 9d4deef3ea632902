r"""Coordinates x along which a trajectory's whitened state is stepped, dz/dx = f; x grows from noise to data.

    under a linear process        x_k = −φ_k/√c_k,    f = √(V/S) (D − W),     each mode in its own angle
    under a simulated one         x = −log τ,         f = −dz/dlog τ

The angle is finite at both ends, and what the residual does to z is about the same at all angles. It is divided by √c
so that modes far weaker than the noise, φ → π/2, keep differences of x, and f, that are neither 0 nor infinite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from physdiff.path import PathPoint, ReferencePath
from physdiff.solvers.solver import ReverseDynamics


class WhitenedCoordinate(ABC):
    """One of the coordinates, for one trajectory."""

    def __init__(self, dynamics: ReverseDynamics) -> None:
        self.dynamics = dynamics

    @abstractmethod
    def rate(self, y: Tensor, t: Tensor) -> Tensor:
        """f = dz/dx at modes y, one evaluation of the model."""

    @abstractmethod
    def distance(self, t: Tensor, s: Tensor) -> Tensor:
        """x_s − x_t ≥ 0 for s < t, broadcasts against modes.

        log τ has no end: there s = 0 is at a distance of 1, that of τ itself with τ f frozen.
        """


class AngleCoordinate(WhitenedCoordinate):
    """The angle of each mode, under a linear process."""

    @property
    def _path(self) -> ReferencePath:
        return self.dynamics.path

    def rate(self, y: Tensor, t: Tensor) -> Tensor:
        return _stretch(self._path.at(t)).to(y) * self.dynamics.residual(y, t)

    def distance(self, t: Tensor, s: Tensor) -> Tensor:
        here = self._path.at(t)
        return here.push(self._path.at(s)) / _stretch(here)


class LogTimeCoordinate(WhitenedCoordinate):
    """−log τ, under any process."""

    def rate(self, y: Tensor, t: Tensor) -> Tensor:
        point = self.dynamics.gaussian.at(t)
        return -self.dynamics.velocity(point.whiten(y), point.time)

    def distance(self, t: Tensor, s: Tensor) -> Tensor:
        here, there = (self.dynamics.gaussian.at(u).time for u in (t, s))
        return here.log() - there.log() if there > 0 else torch.ones_like(here)


def coordinate_of(dynamics: ReverseDynamics) -> WhitenedCoordinate:
    """The coordinate that suits the process."""
    return (AngleCoordinate if isinstance(dynamics.gaussian, ReferencePath) else LogTimeCoordinate)(dynamics)


def _stretch(point: PathPoint) -> Tensor:
    """√(V/S); 1 outside the support."""
    noisy = point.noise_variance > 0
    return torch.where(noisy, point.variance / torch.where(noisy, point.noise_variance, 1.0), 1.0).sqrt()
