"""A U-Net for fields on a grid of one, two or three axes, of any size and with any boundary on each axis.

    x ─ lift ─ blocks ────────────────────────────────────────── join ─ blocks ─ norm ─ SiLU ─ last ─ out
                   └ pool ─ blocks ───────────────────── join ─ blocks ─ expand ┘
                                └ pool ─ blocks ─ block ─ expand ┘

Each level halves the grid by averaging pairs of cells, and comes back by repeating each cell twice. An axis
of odd size ends in a coarse cell that covers one fine cell only: it is averaged over that cell alone, and
repeated once. So every size works (an axis of one cell stays one cell), and on periodic axes whose size the
pyramid's stride 2^(levels − 1) divides, a shift by that stride commutes with the whole network.

The last convolution starts at exactly zero; hence an untrained network is exactly the zero function.

Source: Ronneberger et al. (2015); residual blocks of Dhariwal & Nichol (2021), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physdiff.condition import Condition, Given
from physdiff.grid import Grid
from physdiff.networks.embedding import TimeEmbedding
from physdiff.networks.padding import Convolution

POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
CHANNELS_PER_GROUP = 4


class UNet(nn.Module):
    """Convolutional network from a field and a time to a field of the same shape; exactly zero until trained.

    Args:
        grid: Where the fields live: 1 to 3 axes (C: torch's convolutions stop there), each with its boundary.
        channels: Channels of the field, in and out.
        width: Features of the finest level, at least 4.
        multipliers: Features of each level, in units of `width`, finest first.
        blocks: Residual blocks of each level on the way down, and again on the way up.
        embedding: Length of the time embedding; 4·width when not given.
        dropout: Probability with which a feature inside a block is dropped in training, in [0, 1).
        condition_channels: Channels of a further field on the same grid that `forward` is given.
        seed: Draws the initial weights; torch's global random state is neither used nor changed.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        grid: Grid,
        channels: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        embedding: int | None = None,
        dropout: float = 0.0,
        condition_channels: int = 0,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if grid.ndim > 3:
            raise ValueError(f"a U-Net works on grids of 1 to 3 axes; got {grid.ndim}: {grid.describe()}.")
        for name, value, least in (
            ("channels", channels, 1),
            ("width", width, CHANNELS_PER_GROUP),
            ("blocks", blocks, 1),
            ("embedding", 4 * width if embedding is None else embedding, 1),
            ("condition_channels", condition_channels, 0),
        ):
            if value < least:
                raise ValueError(f"a U-Net needs {name} of at least {least}; got {value}.")
        if not multipliers or min(multipliers) < 1:
            raise ValueError(f"a U-Net needs one multiplier of at least 1 per level; got {tuple(multipliers)}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1); got {dropout}.")
        self.grid = grid
        self.channels = channels
        self.condition_channels = condition_channels
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._build([width * m for m in multipliers], blocks, embedding or 4 * width, dropout)

    def _build(self, widths: list[int], blocks: int, embedding: int, dropout: float) -> None:
        grid = self.grid

        def block(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(grid, inputs, outputs, embedding, dropout)

        self.embedding = TimeEmbedding(embedding)
        self.lift = Convolution(grid, self.channels + self.condition_channels, widths[0])
        self.down, self.up, self.expand = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        features = widths[0]
        for level in widths:
            self.down.append(Blocks(block(features if i == 0 else level, level) for i in range(blocks)))
            features = level
        self.middle = block(features, features)
        for level in reversed(widths[:-1]):
            # A pointwise map commutes with repeating cells, and is 2^ndim times cheaper before it.
            self.expand.append(Convolution(grid, features, level, size=1))
            self.up.append(Blocks(block(2 * level if i == 0 else level, level) for i in range(blocks)))
            features = level
        self.norm = group_norm(features)
        self.last = Convolution(grid, features, self.channels)
        nn.init.zeros_(self.last.convolution.weight)

    def forward(self, x: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        """Evaluate the network.

        Args:
            x: Fields, shape (batch, channels, *grid).
            time: Time in [0, 1], shape (batch,).
            condition: Fields, shape (batch, condition_channels, *grid); None without such channels.

        Returns:
            Shape (batch, channels, *grid).

        Raises:
            ValueError: a shape differs from the above.
        """
        fields = None if condition is None else Condition.of(condition).fields
        self._check(x, time, fields)
        emb = self.embedding(time)
        h = self.lift(x if fields is None else torch.cat((x, fields), dim=1))
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            if level > 0:
                skips.append(h)
                h = coarsened(h)
            h = blocks(h, emb)
        h = self.middle(h, emb)
        for expand, blocks in zip(self.expand, self.up, strict=True):
            skip = skips.pop()
            h = blocks(torch.cat((repeated(expand(h), skip.shape[2:]), skip), dim=1), emb)
        return self.last(F.silu(self.norm(h)))

    def _check(self, x: Tensor, time: Tensor, condition: Tensor | None) -> None:
        batch = x.shape[0] if x.ndim else 0
        for name, value, expected in (
            ("x", x, (batch, self.channels, *self.grid.shape)),
            ("time", time, (batch,)),
            ("condition", condition, (batch, self.condition_channels, *self.grid.shape)),
        ):
            if name == "condition" and self.condition_channels == 0:
                if value is not None:
                    raise ValueError("this U-Net was built without condition_channels, but was given a condition.")
            elif value is None:
                raise ValueError(f"this U-Net needs a condition of shape {expected}; got none.")
            elif tuple(value.shape) != expected:
                raise ValueError(f"this U-Net expected {name} of shape {expected}; got {tuple(value.shape)}.")


class ResidualBlock(nn.Module):
    """x + f(x, t): two normalised convolutions, the second norm scaled and shifted by the time.

    Args:
        grid: Gives the boundaries.
        inputs: Channels in.
        outputs: Channels out.
        embedding: Length of the time embedding.
        dropout: Probability with which a feature before the second convolution is dropped in training.
    """

    def __init__(self, grid: Grid, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_in, self.norm_out = group_norm(inputs), group_norm(outputs)
        self.convolution_in = Convolution(grid, inputs, outputs)
        self.convolution_out = Convolution(grid, outputs, outputs)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if inputs == outputs else Convolution(grid, inputs, outputs, size=1)
        # Small, so that the block starts near the identity; not zero, so that all of it learns as soon as the
        # network's last layer has left zero.
        with torch.no_grad():
            self.convolution_out.convolution.weight.mul_(0.1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Shapes (batch, inputs, *any) and (batch, embedding) to (batch, outputs, *any)."""
        h = self.norm_out(self.convolution_in(F.silu(self.norm_in(x))))
        modulation = self.modulation(F.silu(embedding))
        scale, shift = modulation.reshape(*modulation.shape, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
        h = F.silu(h * (1 + scale) + shift)
        return self.shortcut(x) + self.convolution_out(self.dropout(h))


class Blocks(nn.Module):
    """Residual blocks one after the other, all modulated by the same time."""

    def __init__(self, blocks: Iterable[ResidualBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Shapes (batch, inputs, *any) and (batch, embedding) to (batch, outputs, *any)."""
        for block in self.blocks:
            x = block(x, embedding)
        return x


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation over groups of at least four channels: even a level of one cell then has a variance."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // CHANNELS_PER_GROUP)), channels)


def coarsened(x: Tensor) -> Tensor:
    """Average pairs of cells, shape (batch, channels, *n) to (batch, channels, *⌈n/2⌉)."""
    pair = tuple(min(2, n) for n in x.shape[2:])
    return POOL[x.ndim - 2](x, kernel_size=pair, stride=pair, ceil_mode=True)


def repeated(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat every cell twice along each axis, the last once where `shape` is odd: back to `shape`."""
    x = F.interpolate(x, scale_factor=2, mode="nearest")
    for axis, n in enumerate(shape, start=2):
        x = x.narrow(axis, 0, n)
    return x
