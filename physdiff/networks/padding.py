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
from typing import Any

import torch
from torch import Tensor, nn

from physdiff.grid import Boundary, Grid

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
# Cells on a CPU from which writing into one array is faster than joining three (measured; on an accelerator always).
LARGE = 2**18


def pad(x: Tensor, boundary: Sequence[Boundary], width: int) -> Tensor:
    """Extend fields by ghost cells on both sides of every axis, as the boundary of each axis demands.

    Args:
        x: Fields, shape (..., *grid); the last `len(boundary)` axes are the grid's.
        boundary: One word per grid axis.
        width: Ghost cells on each side, at least 0; may exceed the number of cells.

    Returns:
        Shape (..., *(n + 2·width)).
    """
    if width == 0:
        return x
    large = x.device.type != "cpu" or x.numel() >= LARGE
    if large and width <= min(x.shape[-len(boundary) :]) and not torch.compiler.is_compiling():
        return Extend.apply(x, tuple(boundary), width)
    for axis, word in enumerate(boundary, start=-len(boundary)):
        missing = width
        while missing > 0:
            # Every extension is (anti)symmetric about all its walls, or periodic, so extending an already
            # extended axis continues the same function, and no copy ever needs more cells than there are.
            n = x.shape[axis]
            step = min(missing, n)
            before, after = _across(x.narrow(axis, 0, step), x.narrow(axis, n - step, step), axis, word)
            x = torch.cat((before, x, after), dim=axis)
            missing -= step
    return x


def _across(first: Tensor, last: Tensor, axis: int, word: Boundary) -> tuple[Tensor, Tensor]:
    """Ghost cells before and after an axis, from as many cells at its two ends. The map is its own transpose."""
    if word == "periodic":
        return last, first
    if first.shape[axis] > 1:
        first, last = first.flip(axis), last.flip(axis)
    return (-first, -last) if word == "dirichlet" else (first, last)


class Extend(torch.autograd.Function):
    """`pad` written into one new array, with its transpose as the derivative: fewer passes over large fields.

    Joining copies the field once per axis, and differentiates by adding up as many arrays of zeros; this is the same
    map, with derivatives of all kinds.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, boundary: tuple[Boundary, ...], width: int) -> Tensor:
        """Axis after axis: the ghost cells of one hold copies of those before it, so that corners are right."""
        shape = (*x.shape[: -len(boundary)], *(n + 2 * width for n in x.shape[-len(boundary) :]))
        if x.ndim > 3 and x.stride(1) == 1 < x.shape[1]:
            y = x.new_empty((shape[0], *shape[2:], shape[1])).movedim(-1, 1)  # channels last, as x is
        else:
            y = x.new_empty(shape)
        part, inner = y, [y]
        for axis in reversed(range(-len(boundary), 0)):
            part = part.narrow(axis, width, x.shape[axis])
            inner.append(part)
        part.copy_(x)
        for (axis, word), part in zip(enumerate(boundary, start=-len(boundary)), inner[-2::-1], strict=True):
            n = x.shape[axis]
            before, after = _across(part.narrow(axis, width, width), part.narrow(axis, n, width), axis, word)
            part.narrow(axis, 0, width).copy_(before)
            part.narrow(axis, n + width, width).copy_(after)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.settings = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return Fold.apply(gradients[0], *ctx.settings), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return Extend.apply(tangents[0], *ctx.settings)


class Fold(torch.autograd.Function):
    """The transpose of `Extend`: ghost cells are added to the cells that they are copies of."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, boundary: tuple[Boundary, ...], width: int) -> Tensor:
        part = y.clone()
        for axis, word in reversed(list(enumerate(boundary, start=-len(boundary)))):
            n = part.shape[axis] - 2 * width
            first, last = part.narrow(axis, width, width), part.narrow(axis, n, width)
            before, after = _across(part.narrow(axis, 0, width), part.narrow(axis, n + width, width), axis, word)
            first.add_(before)
            last.add_(after)
            part = part.narrow(axis, width, n)
        return part.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.settings = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return Extend.apply(gradients[0], *ctx.settings), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return Fold.apply(tangents[0], *ctx.settings)


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
