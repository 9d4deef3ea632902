"""Random shifts along periodic axes: for homogeneous data a shifted field is as likely as the field itself."""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.grid import Grid


def shift_at_random(x: Tensor, grid: Grid, generator: torch.Generator) -> Tensor:
    """Each field rolled by a uniform number of cells along every periodic axis, shape (batch, channels, *grid)."""
    axes = tuple(a for a, b in zip(range(-grid.ndim, 0), grid.boundary, strict=True) if b == "periodic")
    if not axes:
        return x
    shifts = torch.stack([torch.randint(x.shape[a], (len(x),), generator=generator) for a in axes], 1)
    return torch.stack([torch.roll(field, shift, axes) for field, shift in zip(x, shifts.tolist(), strict=True)])
