"""A U-Net for fields on a grid of one, two or three axes, of any size and with any boundary on each axis.

    x ─ lift ─ blocks ────────────────────────────────────────── join ─ blocks ─ norm ─ SiLU ─ last ─ out
                   └ pool ─ blocks ───────────────────── join ─ blocks ─ expand ┘
                                └ pool ─ blocks ─ block ─ expand ┘

Each level halves the grid by averaging pairs of cells, and comes back by repeating each cell twice. An axis
of odd size ends in a coarse cell that covers one fine cell only: it is averaged over that cell alone, and
repeated once. So every size works (an axis of one cell stays one cell), and on periodic axes whose size the
pyramid's stride 2^(levels − 1) divides, a shift by that stride commutes with the whole network, its attention
included.

The last convolution starts at exactly zero; hence an untrained network is exactly the zero function.

Source: Ronneberger et al. (2015); residual blocks of Dhariwal & Nichol (2021), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physdiff.condition import Given
from physdiff.grid import Grid
from physdiff.networks.attention import differentiated
from physdiff.networks.blocks import Blocks, ResidualBlock, coarsened, repeated
from physdiff.networks.conditioning import Conditioning
from physdiff.networks.embedding import TimeEmbedding
from physdiff.networks.normalisation import CHANNELS_PER_GROUP, group_norm
from physdiff.networks.padding import Convolution


class UNet(nn.Module):
    """Convolutional network from a field, a time and a condition to a field; exactly zero until trained.

    Args:
        grid: Where the fields live: 1 to 3 axes (C: torch's convolutions stop there), each with its boundary.
        channels: Channels of the field that comes out, and of what goes in if `input_channels` is not given.
        width: Features of the finest level, at least 4.
        multipliers: Features of each level, in units of `width`, finest first.
        blocks: Residual blocks of each level on the way down, and again on the way up.
        embedding: Length of the time embedding; 4·width when not given.
        dropout: Probability with which a feature inside a block is dropped in training, in [0, 1).
        condition_channels: Channels of the condition's fields, on the same grid; 0 for none.
        scalars: How many numbers a condition has; 0 for none.
        classes: How many classes a condition may name; 0 for none.
        attention: Levels, 0 the finest, whose blocks look at all cells of the level at once; the coarsest is the last.
        heads: Heads of each attention; divides the features of its level.
        input_channels: Channels that go in, where they are more than the field's: a whitened copy of it, say.
        extra_channels: Further channels that come out, after the field's: for a learned variance.
        checkpointing: In training, compute each block again on the way back rather than keep what is inside: less
            memory for about a third more time; outputs and gradients are the same. (C: under `torch.func` all is kept.)
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
        scalars: int = 0,
        classes: int = 0,
        attention: Sequence[int] = (),
        heads: int = 4,
        input_channels: int | None = None,
        extra_channels: int = 0,
        checkpointing: bool = False,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        input_channels = channels if input_channels is None else input_channels
        if grid.ndim > 3:
            raise ValueError(f"a U-Net works on grids of 1 to 3 axes; got {grid.ndim}: {grid.describe()}.")
        for name, value, least in (
            ("channels", channels, 1),
            ("width", width, CHANNELS_PER_GROUP),
            ("blocks", blocks, 1),
            ("embedding", 4 * width if embedding is None else embedding, 1),
            ("heads", heads, 1),
            ("input_channels", input_channels, 1),
            ("extra_channels", extra_channels, 0),
        ):
            if value < least:
                raise ValueError(f"a U-Net needs {name} of at least {least}; got {value}.")
        if not multipliers or min(multipliers) < 1:
            raise ValueError(f"a U-Net needs one multiplier of at least 1 per level; got {tuple(multipliers)}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1); got {dropout}.")
        for level in attention:
            if not 0 <= level < len(multipliers):
                raise ValueError(
                    f"attention names levels from 0, the finest, to {len(multipliers) - 1}; got {tuple(attention)}."
                )
            if (features := width * multipliers[level]) % heads:
                raise ValueError(f"heads must divide the {features} features of level {level}; got {heads}.")
        self.grid = grid
        self.channels = channels
        self.input_channels = input_channels
        self.extra_channels = extra_channels
        self.condition_channels = condition_channels
        embedding = embedding or 4 * width
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.conditioning = Conditioning(grid, embedding, condition_channels, scalars, classes)
            self._build([width * m for m in multipliers], blocks, embedding, dropout, attention, heads, checkpointing)

    def _build(
        self, widths: list[int], blocks: int, embedding: int, dropout: float, attention: Sequence[int], heads: int,
        checkpointing: bool,
    ) -> None:  # fmt: skip
        grid = self.grid

        def block(inputs: int, level: int) -> ResidualBlock:
            attends = heads if level in attention else None
            return ResidualBlock(grid, inputs, widths[level], embedding, dropout, attends, checkpointing)

        def stack(inputs: int, level: int) -> Blocks:
            return Blocks(block(widths[level] if i else inputs, level) for i in range(blocks))

        self.embedding = TimeEmbedding(embedding)
        self.lift = Convolution(grid, self.input_channels + self.condition_channels, widths[0])
        self.down, self.up, self.expand = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        features, coarsest = widths[0], len(widths) - 1
        for level in range(len(widths)):
            self.down.append(stack(features, level))
            features = widths[level]
        self.middle = block(features, coarsest)
        for level in reversed(range(coarsest)):
            # A pointwise map commutes with repeating cells, and is 2^ndim times cheaper before it.
            self.expand.append(Convolution(grid, features, widths[level], size=1))
            self.up.append(stack(2 * widths[level], level))
            features = widths[level]
        self.norm = group_norm(features)
        self.last = Convolution(grid, features, self.channels + self.extra_channels)
        nn.init.zeros_(self.last.convolution.weight)

    def forward(self, x: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        """Evaluate the network.

        Args:
            x: Fields, shape (batch, input_channels, *grid).
            time: Time in [0, 1], shape (batch,).
            condition: What is told; None, a missing part, or a row that is not `present` is nothing told. Its fields
                have the shape (batch, condition_channels, *grid), its scalars (batch, scalars).

        Returns:
            Shape (batch, channels + extra_channels, *grid).

        Raises:
            ValueError: a shape differs from the above.
        """
        batch = x.shape[0] if x.ndim else 0
        for name, value, expected in (
            ("x", x, (batch, self.input_channels, *self.grid.shape)),
            ("time", time, (batch,)),
        ):
            if tuple(value.shape) != expected:
                raise ValueError(f"this U-Net expected {name} of shape {expected}; got {tuple(value.shape)}.")
        exact = differentiated(x)
        fields, told = self.conditioning(x, condition)
        emb = self.embedding(time) if told is None else self.embedding(time) + told
        h = self.lift(x if fields is None else torch.cat((x, fields), dim=1))
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            if level > 0:
                skips.append(h)
                h = coarsened(h)
            h = blocks(h, emb, exact)
        h = self.middle(h, emb, exact)
        for expand, blocks in zip(self.expand, self.up, strict=True):
            skip = skips.pop()
            h = blocks(torch.cat((repeated(expand(h), skip.shape[2:]), skip), dim=1), emb, exact)
        return self.last(F.silu(self.norm(h)))
