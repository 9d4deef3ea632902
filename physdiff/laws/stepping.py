"""Linear maps of a step rule, exactly: by applying it to unit vectors instead of drawing samples."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from physdiff.solvers import ReverseDynamics, Solver


@dataclass(frozen=True)
class AffineStep:
    """y_s = shift + matrix·y_t + spread·ε, of a step that is affine in the state and in its noise.

    Attributes:
        shift: Shape (size,).
        matrix: Shape (size, size).
        spread: Shape (size, draws · size).
    """

    shift: Tensor
    matrix: Tensor
    spread: Tensor

    def carry(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance after the step."""
        noise = self.spread @ self.spread.T
        return self.shift + self.matrix @ mean, self.matrix @ covariance @ self.matrix.T + noise


class _UnitNoise:
    """Noise that is a unit vector in one row of the batch each, zero in the first rows."""

    def __init__(self, batch: int, quiet: int) -> None:
        self.batch, self.quiet, self.calls = batch, quiet, 0

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        size = int(torch.tensor(shape).prod())
        noise = torch.zeros(self.batch, size, dtype=torch.float64)
        first = self.quiet + self.calls * size
        rows = range(first, min(first + size, self.batch))
        noise[list(rows), range(len(rows))] = 1.0
        self.calls += 1
        return noise.reshape(self.batch, *shape)


def affine_step(solver: Solver, dynamics: ReverseDynamics, t: Tensor, s: Tensor) -> AffineStep:
    """The affine map of one step against a denoiser that is affine in its input."""
    shape = tuple(dynamics.path.reference.spectrum.shape)
    size = dynamics.path.reference.spectrum.numel()
    counted = _UnitNoise(1, 1)
    solver.step(dynamics, torch.zeros(1, *shape, dtype=torch.float64), t, s, counted)
    batch = 1 + size + counted.calls * size
    states = torch.zeros(batch, size, dtype=torch.float64)
    states[1 : 1 + size] = torch.eye(size, dtype=torch.float64)
    ends = solver.step(dynamics, states.reshape(batch, *shape), t, s, _UnitNoise(batch, 1 + size)).flatten(1)
    columns = (ends[1:] - ends[0]).T
    return AffineStep(ends[0], columns[:, :size], columns[:, size:])


def carried(
    solver: Solver, dynamics: ReverseDynamics, times: Tensor, mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean, shape (size,), and covariance, shape (size, size), of modes after all steps."""
    for t, s in pairwise(times):
        mean, covariance = affine_step(solver, dynamics, t, s).carry(mean, covariance)
    return mean, covariance


def dense_symbol(dynamics: ReverseDynamics, symbol: Tensor) -> Tensor:
    """A symbol as a matrix on the modes of all channels, shape (size, size)."""
    shape = tuple(dynamics.path.reference.spectrum.shape)
    eye = torch.eye(dynamics.path.reference.spectrum.numel(), dtype=torch.float64)
    return dynamics.path.basis.apply(symbol, eye.reshape(-1, *shape)).flatten(1).T
