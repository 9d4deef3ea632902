r"""Fields on fewer cells of the same box: the mean of blocks of cells, or the modes that the coarse grid holds.

*Mean.* A coarse cell is the mean of the cells in it; under a mask the mean of those that are observed, and it is
observed where any of them is.

*Spectral.* The field is the sum of the modes of its grid (`SpectralBasis`), and that sum is evaluated at the centres of
the coarse cells without the modes that the coarse grid cannot tell from others: along walls the cosines of n and more
half waves and the sines of more than n, along a periodic axis n/2 waves and more. There the wave of exactly n/2 goes
too, as the centres of the cells see its sine and not its cosine. Centres of coarse cells lie between those of fine
ones, by half the difference of their widths; along a periodic axis that is the shift exp(i k·(H − h)/2). All this is
linear and acts along one axis at a time, so it is a matrix per axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from physdiff.basis import SpectralBasis
from physdiff.grid import Boundary, Grid


def coarse_shape(shape: Sequence[int], factors: Sequence[int], dims: Sequence[str]) -> tuple[int, ...]:
    """Cells along each axis when so many become one.

    Raises:
        ValueError: an axis is no multiple of its factor; the next smaller one that is, is told.
    """
    for n, factor, dim in zip(shape, factors, dims, strict=True):
        if n % factor:
            less = n - n % factor
            raise ValueError(
                f"data.coarsen makes one cell of {factor} along '{dim}', which has {n}; crop it to {less or factor}, "
                "or choose a divisor."
            )
    return tuple(n // factor for n, factor in zip(shape, factors, strict=True))


def block_mean(values: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Mean of blocks of cells, without those that are NaN; NaN where all are.

    Args:
        values: Shape (..., *grid), floating point.
        factors: Cells along each axis of the grid that become one; each divides its axis.

    Returns:
        Shape (..., *coarse), of the same type; the mean is taken in float64.
    """
    lead = values.ndim - len(factors)
    split = [m for n, f in zip(values.shape[lead:], factors, strict=True) for m in (n // f, f)]
    blocks = values.reshape(*values.shape[:lead], *split)
    axes = tuple(range(lead + 1, blocks.ndim, 2))
    mean = blocks.mean(axes, dtype=np.float64)
    if np.isnan(mean).any():
        seen = ~np.isnan(blocks)
        count = seen.sum(axes)
        total = blocks.sum(axes, dtype=np.float64, where=seen)
        mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean.astype(values.dtype)


def spectral(values: np.ndarray, boundary: Sequence[Boundary], factors: Sequence[int]) -> np.ndarray:
    """Fields at the centres of the coarse cells, without the modes that the coarse grid does not hold.

    Args:
        values: Shape (..., *grid), floating point and finite.
        boundary: Boundary of each axis of the grid.
        factors: Cells along each axis that become one; each divides its axis.

    Returns:
        Shape (..., *coarse), of the same type; exact to rounding for sums of modes that the coarse grid holds.
    """
    lead = values.ndim - len(factors)
    found = values.astype(np.float64, copy=False)
    for axis, (word, factor) in enumerate(zip(boundary, factors, strict=True), lead):
        if factor > 1:
            matrix = _coarse_rows(values.shape[axis], factor, word)
            found = np.moveaxis(np.moveaxis(found, axis, -1) @ matrix.T, -1, axis)
    return np.ascontiguousarray(found).astype(values.dtype, copy=False)


@lru_cache(maxsize=16)
def _coarse_rows(n: int, factor: int, boundary: Boundary) -> np.ndarray:
    """The matrix of one axis, shape (n / factor, n), float64."""
    fine, coarse = (SpectralBasis(Grid((m,), 1.0, boundary)) for m in (n, n // factor))
    m = n // factor
    modes = fine.forward(torch.eye(n, dtype=torch.float64))
    # An orthonormal mode of fewer cells is larger on each of them.
    scale = torch.full((m,), math.sqrt(m / n), dtype=torch.float64)
    if boundary == "periodic":
        shift = (1 / m - 1 / n) / 2
        modes = fine.apply(torch.exp(fine.derivative(0) * shift), modes)
        waves = (m - 1) // 2
        held = torch.zeros(len(modes), m, dtype=torch.float64)
        held[:, : waves + 1] = modes[:, : waves + 1]
        if waves:
            held[:, -waves:] = modes[:, -waves:]
        modes = held
    else:
        modes = modes[:, :m]
        if boundary == "dirichlet":
            scale[-1] *= math.sqrt(2)  # of the ±1 mode every cell has the full height, of the others half the power
    return coarse.inverse(modes * scale).T.contiguous().numpy()
