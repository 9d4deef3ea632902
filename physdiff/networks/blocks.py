"""What a level of the U-Net is made of, and the way from one level to the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physdiff.grid import Grid
from physdiff.networks.attention import Attention
from physdiff.networks.checkpointing import computed_again
from physdiff.networks.normalisation import group_norm
from physdiff.networks.padding import Convolution

POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SPREAD = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class ResidualBlock(nn.Module):
    """x + f(x, t): two normalised convolutions, the second norm scaled and shifted by the time.

    Args:
        grid: Gives the boundaries.
        inputs: Channels in.
        outputs: Channels out.
        embedding: Length of the time embedding.
        dropout: Probability with which a feature before the second convolution is dropped in training.
        heads: Heads of an attention over the level's cells that follows; None for no attention.
        checkpointing: In training, keep only what goes into the block, and compute the block again on the way back.
    """

    def __init__(
        self, grid: Grid, inputs: int, outputs: int, embedding: int, dropout: float, heads: int | None = None,
        checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.checkpointing = checkpointing
        self.norm_in, self.norm_out = group_norm(inputs), group_norm(outputs)
        self.convolution_in = Convolution(grid, inputs, outputs)
        self.convolution_out = Convolution(grid, outputs, outputs)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if inputs == outputs else Convolution(grid, inputs, outputs, size=1)
        self.attention = None if heads is None else Attention(outputs, heads)
        # Small, so that the block starts near the identity; not zero, so that all of it learns as soon as the
        # network's last layer has left zero.
        with torch.no_grad():
            self.convolution_out.convolution.weight.mul_(0.1)
            if self.attention is not None:
                self.attention.out.weight.mul_(0.1)

    def forward(self, x: Tensor, embedding: Tensor, exact: bool = False) -> Tensor:
        """Shapes (batch, inputs, *any) and (batch, embedding) to (batch, outputs, *any); `exact` as for `attend`."""
        if self.checkpointing and self.training:
            return computed_again(self._evaluate, x, embedding, exact)
        return self._evaluate(x, embedding, exact)

    def _evaluate(self, x: Tensor, embedding: Tensor, exact: bool) -> Tensor:
        h = self.norm_out(self.convolution_in(F.silu(self.norm_in(x))))
        modulation = self.modulation(F.silu(embedding))
        scale, shift = modulation.reshape(*modulation.shape, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, h, 1 + scale))
        h = self.shortcut(x) + self.convolution_out(self.dropout(h))
        return h if self.attention is None else self.attention(h, exact)


class Blocks(nn.Module):
    """Residual blocks one after the other, all modulated by the same time."""

    def __init__(self, blocks: Iterable[ResidualBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, embedding: Tensor, exact: bool = False) -> Tensor:
        """Shapes (batch, inputs, *any) and (batch, embedding) to (batch, outputs, *any)."""
        for block in self.blocks:
            x = block(x, embedding, exact)
        return x


def coarsened(x: Tensor) -> Tensor:
    """Average pairs of cells, shape (batch, channels, *n) to (batch, channels, *⌈n/2⌉)."""
    for axis in range(2, x.ndim):
        # The last cell of an odd number is averaged with itself. torch's own ceil_mode does the same, but its gradient
        # is wrong once compiled (torch 2.13, inductor: a test holds that).
        if x.shape[axis] % 2:
            x = torch.cat((x, x.narrow(axis, x.shape[axis] - 1, 1)), dim=axis)
    if x.ndim < 5 and _fast_by_convolution(x):
        return CONVOLVE[x.ndim - 2](x, _pairs(x, 0.5 ** (x.ndim - 2)), stride=2, groups=x.shape[1])
    return POOL[x.ndim - 2](x, 2)


def repeated(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat every cell twice along each axis, the last once where `shape` is odd: back to `shape`."""
    if _fast_by_convolution(x):
        x = SPREAD[x.ndim - 2](x, _pairs(x, 1.0), stride=2, groups=x.shape[1])
    else:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
    for axis, n in enumerate(shape, start=2):
        x = x.narrow(axis, 0, n)
    return x


def _pairs(x: Tensor, value: float) -> Tensor:
    """A kernel over two cells of each axis, for every channel alone."""
    return x.new_full((x.shape[1], 1, *(2,) * (x.ndim - 2)), value)


def _fast_by_convolution(x: Tensor) -> bool:
    """Whether torch repeats cells, and averages them but for volumes, faster as a convolution.

    It is two to five times as fast on a CPU in float32, and there alone.
    The values are the same to the bit. Compiled, the plain operations are as fast, and join their neighbours; autocast
    would round a convolution.
    """
    plain = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and x.dtype == torch.float32 and not plain
