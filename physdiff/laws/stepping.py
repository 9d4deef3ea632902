"""Linear maps of a step rule, exactly: by applying it to unit vectors instead of drawing samples."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from physdiff.denoisers import PosteriorMean
from physdiff.path import ReferencePath
from physdiff.solvers import ReverseDynamics, Solver


@dataclass(frozen=True)
class AffineStep:
    """y_s = shift + matrix·y_t + spread·ε, of steps that are affine in the state and in their noise.

    Attributes:
        shift: Shape (size,).
        matrix: Shape (size, size).
        spread: Shape (size, draws · size).
    """

    shift: Tensor
    matrix: Tensor
    spread: Tensor

    def carry(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance after the steps."""
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


def affine_map(solver: Solver, model: PosteriorMean, times: Tensor) -> AffineStep:
    """The affine map of all steps along `times` together, against a denoiser that is affine in its input."""
    shape = tuple(model.path.reference.spectrum.shape)
    size = model.path.reference.spectrum.numel()

    def end(start: Tensor, noise: _UnitNoise) -> Tensor:
        dynamics, y = ReverseDynamics(model), start.reshape(-1, *shape)
        for t, s in pairwise(times):
            y = solver.step(dynamics, y, t, s, noise)
        return y.flatten(1)

    counted = _UnitNoise(1, 1)
    end(torch.zeros(1, size, dtype=torch.float64), counted)
    batch = 1 + size + counted.calls * size
    states = torch.zeros(batch, size, dtype=torch.float64)
    states[1 : 1 + size] = torch.eye(size, dtype=torch.float64)
    ends = end(states, _UnitNoise(batch, 1 + size))
    columns = (ends[1:] - ends[0]).T
    return AffineStep(ends[0], columns[:, :size], columns[:, size:])


def carried(
    solver: Solver, model: PosteriorMean, times: Tensor, mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean, shape (size,), and covariance, shape (size, size), of modes after all steps."""
    if solver.multistep:  # a step alone is no map of the state
        return affine_map(solver, model, times).carry(mean, covariance)
    for step in pairwise(times):
        mean, covariance = affine_map(solver, model, torch.stack(step)).carry(mean, covariance)
    return mean, covariance


def dense_symbol(path: ReferencePath, symbol: Tensor) -> Tensor:
    """A symbol as a matrix on the modes of all channels, shape (size, size)."""
    shape = tuple(path.reference.spectrum.shape)
    eye = torch.eye(path.reference.spectrum.numel(), dtype=torch.float64)
    return path.basis.apply(symbol, eye.reshape(-1, *shape)).flatten(1).T
