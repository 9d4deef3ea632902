"""Convolutions that see what lies beyond the edge of a grid.

A convolution at the edge needs cells outside the box, and the boundary says what they hold. With cells
i = 0..n−1 and walls on the outer cell faces (at i = −½ and n − ½),

    periodic    x[−1−i] = x[n−1−i]    the other side of the box
    neumann     x[−1−i] = x[i]        even mirror: no normal derivative at the wall
    dirichlet   x[−1−i] = −x[i]       odd mirror: zero at the wall

and likewise at the far end. The same rule is used for the features inside a network. They are no physical
field, so the odd mirror is not a condition that they must meet there (biases and norms break it at once):
it is the extension under which an even linear convolution of a clamped field stays clamped, and it tells
the network where a wall is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from physdiff.grid import Boundary, Grid

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def pad(x: Tensor, boundary: Sequence[Boundary], width: int) -> Tensor:
    """Extend fields by ghost cells on both sides of every axis, as the boundary of each axis demands.

    Args:
        x: Fields, shape (..., *grid); the last `len(boundary)` axes are the grid's.
        boundary: One word per grid axis.
        width: Ghost cells on each side, at least 0; may exceed the number of cells.

    Returns:
        Shape (..., *(n + 2·width)).
    """
    for axis, word in enumerate(boundary, start=-len(boundary)):
        missing = width
        while missing > 0:
            # Every extension is (anti)symmetric about all its walls, or periodic, so extending an already
            # extended axis continues the same function, and no copy ever needs more cells than there are.
            step = min(missing, x.shape[axis])
            x = _pad_axis(x, axis, word, step)
            missing -= step
    return x


def _pad_axis(x: Tensor, axis: int, word: Boundary, width: int) -> Tensor:
    first, last = x.narrow(axis, 0, width), x.narrow(axis, x.shape[axis] - width, width)
    if word == "periodic":
        return torch.cat((last, x, first), dim=axis)
    if width > 1:
        first, last = first.flip(axis), last.flip(axis)
    if word == "dirichlet":
        first, last = -first, -last
    return torch.cat((first, x, last), dim=axis)


class Convolution(nn.Module):
    """A convolution of odd kernel size whose output has its input's shape, under the grid's boundaries.

    Args:
        grid: Gives the number of axes, 1 to 3, and the boundary of each; the number of cells is free.
        inputs: Channels in.
        outputs: Channels out.
        size: Cells of the kernel along each axis, odd.
    """

    def __init__(self, grid: Grid, inputs: int, outputs: int, size: int = 3) -> None:
        super().__init__()
        self.boundary = grid.boundary
        self.size = size
        self.convolution = CONVOLUTION[grid.ndim](inputs, outputs, size)
        nn.init.zeros_(self.convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, inputs, *any) to (batch, outputs, *any)."""
        return self.convolution(pad(x, self.boundary, self.size // 2))
