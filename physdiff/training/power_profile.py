r"""Averages of weights over a training run by a power of time.

    θ̂_γ(t) = Σ_i w_i θ_i,   w_i = (i^{γ+1} − (i−1)^{γ+1})/t^{γ+1},   i = 1 … t

is the mean with density (γ+1) τ^γ/t^{γ+1} over the steps taken so far, θ_i being the weights after step i. Unlike an
average with one decay it forgets its start at the same relative rate for ever; and it is carried along by

    θ̂_γ(t) = β θ̂_γ(t−1) + (1 − β) θ_t,   β = (1 − 1/t)^{γ+1}.

Its relative width is the standard deviation of the density over t, σ_rel² = (γ+1)/((γ+2)²(γ+3)). A profile of another
width is a combination of stored ones, the one whose density is nearest in the mean square.

Source: Karras et al. (2024), section 3 and appendix C: eq. 2 and 3, algorithms 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BINS = 4096  # of a long run, at most: profiles are smooth, their widths are parts of the run


def exponent_of(width: float) -> float:
    """γ of a relative width, the largest root of (γ+2)²(γ+3) = (γ+1)/σ²."""
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def width_of(exponent: float) -> float:
    """σ_rel of an exponent γ > −1."""
    return ((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3))) ** 0.5


def kept(exponent: float, steps: int) -> float:
    """β of the update after a number of steps, at least 1: the part of the average that stays."""
    return (1 - 1 / steps) ** (exponent + 1)


def combination(stored: Sequence[tuple[int, float]], steps: int, width: float) -> Tensor:
    """Coefficients of stored averages that together are nearest to the average of another width.

    Args:
        stored: Steps taken and width of each stored average.
        steps: Steps taken at the end of the wanted one.
        width: Relative width of the wanted one.

    Returns:
        Shape (len(stored),), float64; they sum to 1.
    """
    densities, wanted = _profiles(stored, steps, width)
    # The last equation keeps the sum: it weighs as much as rounding allows, so that constant weights come out exactly.
    strong = 1e3 * float(densities.abs().max())
    system = torch.cat([densities, torch.full((1, len(stored)), strong, dtype=torch.float64)])
    target = torch.cat([wanted, torch.tensor([strong], dtype=torch.float64)])
    found = torch.linalg.lstsq(system, target.unsqueeze(1), rcond=1e-10, driver="gelsd").solution.squeeze(1)
    return found / found.sum()


def mismatch(stored: Sequence[tuple[int, float]], steps: int, width: float) -> float:
    """Distance of the best combination's profile from the wanted one, relative to it, in the mean square."""
    densities, wanted = _profiles(stored, steps, width)
    return float((densities @ combination(stored, steps, width) - wanted).norm() / wanted.norm())


def _profiles(stored: Sequence[tuple[int, float]], steps: int, width: float) -> tuple[Tensor, Tensor]:
    """Stored averages as columns, and the wanted one."""
    edges = np.linspace(0, steps, min(steps, BINS) + 1)
    densities = torch.tensor(np.array([_shares(edges, t, w) for t, w in stored])).T
    return densities, torch.tensor(_shares(edges, steps, width))


def _shares(edges: np.ndarray, steps: int, width: float) -> np.ndarray:
    """The share of an average that each part of the run has."""
    return np.diff(np.minimum(edges / steps, 1.0) ** (exponent_of(width) + 1))
