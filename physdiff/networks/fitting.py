"""Fields on a number of cells that a network can divide, and back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from physdiff.grid import Boundary
from physdiff.networks.padding import pad


def fitted(x: Tensor, boundary: Sequence[Boundary], multiples: Sequence[int]) -> Tensor:
    """Fields with as many cells added along each axis as make it a multiple, half of them on either side.

    Args:
        x: Shape (batch, channels, *grid).
        boundary: One word per axis, which says what the added cells hold.
        multiples: One number per axis.

    Returns:
        Shape (batch, channels, *n), the smallest multiples that hold the grid.
    """
    for axis, (word, multiple) in enumerate(zip(boundary, multiples, strict=True), 2):
        if missing := -x.shape[axis] % multiple:
            both = pad(x.movedim(axis, -1), (word,), missing).movedim(-1, axis)
            x = both.narrow(axis, missing - missing // 2, x.shape[axis] + missing)
    return x


def cropped(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The cells that were there before `fitted`: shape (batch, channels, *n) to (batch, channels, *shape)."""
    for axis, n in enumerate(shape, 2):
        x = x.narrow(axis, (x.shape[axis] - n) // 2, n)
    return x
