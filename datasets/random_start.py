"""Smooth Gaussian random fields to start runs from: the same function whatever the solver's points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .periodic_box import resample

_CELLS = 32  # the noise is drawn on so many cells along each axis, whatever the solver's points


def smooth_noise(generators: Sequence[np.random.Generator], ndim: int, points: int, scale: float) -> Tensor:
    """Gaussian fields of mean 0 and expected variance 1 at cell centres of a periodic box.

    The power of an integer wavenumber k ≠ 0 below 16 along each axis is proportional to exp(−|k|²/2 scale²).

    Args:
        generators: One per run.
        ndim: Dimension d of the box.
        points: Points along each axis, at least 32.
        scale: Wavenumber at which the power has fallen by e^{-1/2}.

    Returns:
        Shape (runs, points, ..., points), float64, on the CPU.
    """
    integers = torch.fft.fftfreq(_CELLS, 1 / _CELLS, dtype=torch.float64)
    squared = torch.zeros((), dtype=torch.float64)
    for axis in range(ndim):
        squared = squared + integers.square().reshape(-1, *[1] * (ndim - 1 - axis))
    power = torch.exp(-squared / (2 * scale**2))
    power.view(-1)[0] = 0
    for axis in range(ndim):
        power.select(axis, _CELLS // 2).zero_()  # Nyquist, which a resampled field does not keep
    amplitude = torch.sqrt(power / power.mean())[..., : _CELLS // 2 + 1]
    noise = torch.from_numpy(np.stack([g.standard_normal((_CELLS,) * ndim) for g in generators]))
    axes = tuple(range(-ndim, 0))
    # One by one, so that a run's bits do not depend on how many there are.
    fields = [torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * amplitude, s=x.shape, dim=axes) for x in noise]
    return torch.stack([resample(field, ndim, points) for field in fields])
