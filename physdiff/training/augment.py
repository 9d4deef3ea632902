"""Random shifts along periodic axes: for homogeneous data a shifted field is as likely as the field itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from physdiff.condition import Condition, Given
from physdiff.grid import Grid
from physdiff.randomness import RowDraws

Augment = Callable[[Tensor, RowDraws, Given | None], tuple[Tensor, Given | None]]


def shift_at_random(
    grid: Grid, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
) -> tuple[Tensor, Given | None]:
    """Each field rolled by a uniform number of cells along every periodic axis, and the fields of its condition alike.

    Args:
        grid: Where the fields live.
        x: Fields, shape (batch, channels, *grid).
        draws: The numbers of cells.
        condition: Of the same rows; its fields, if any, lie on the same grid.

    Returns:
        Fields and condition, shapes as they were.
    """
    axes = tuple(a for a, b in zip(range(-grid.ndim, 0), grid.boundary, strict=True) if b == "periodic")
    if not axes:
        return x, condition
    draws = RowDraws.of(draws, len(x))
    shifts = torch.stack([draws.below(x.shape[a]) for a in axes], 1).tolist()

    def rolled(fields: Tensor) -> Tensor:
        return torch.stack([torch.roll(field, shift, axes) for field, shift in zip(fields, shifts, strict=True)])

    if condition is None:
        return rolled(x), None
    if isinstance(condition, Condition):
        fields = condition.fields
        return rolled(x), condition if fields is None else replace(condition, fields=rolled(fields))
    return rolled(x), rolled(condition)
