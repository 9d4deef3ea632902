r"""A diffusion transformer: the field in patches, each patch a token that looks at all others.

    x ─ pad ─ patches ─ lift ─ (+ places between walls) ─ block ─ ... ─ block ─ norm ─ expand ─ patches ─ crop ─ out
                                     time, scalars, class ┴───────────────┘

A block changes its tokens h, under the vector e of time and conditions, by

    h ← h + g₁(e) · attention(s₁(e) · norm(h) + b₁(e))
    h ← h + g₂(e) · perceptron(s₂(e) · norm(h) + b₂(e))

with gates g and the last layer that start at zero (adaLN-Zero): the untrained network is exactly the zero function.
Attention is between all tokens, so its cost per cell grows with the field; patches of p cells along d axes leave
1/p^d of the tokens.

A grid that the patch does not divide is extended by its boundary's rule. On a periodic axis that the patch divides, a
shift by whole patches commutes with the network to rounding; walls are felt (`physdiff.networks.positions`).

Source: Peebles and Xie (2023), with rotary positions in place of absolute ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physdiff.condition import Given
from physdiff.grid import Grid
from physdiff.networks.attention import attend, differentiated
from physdiff.networks.checkpointing import computed_again
from physdiff.networks.conditioning import Conditioning
from physdiff.networks.embedding import TimeEmbedding
from physdiff.networks.fitting import cropped, fitted
from physdiff.networks.positions import FromWalls, Rotary


class DiffusionTransformer(nn.Module):
    """Transformer from a field and a time to a field of the same shape; exactly zero until trained.

    Args:
        grid: Where the fields live: 1 to 3 axes (C), each with its boundary.
        channels: Channels of the field.
        patch: Cells of a patch along each axis. One number stands for all axes, and on an axis of fewer cells for all
            of them; at least one axis must hold it.
        width: Features of a token; a multiple of 2 · heads, with at least 2 for each head and axis.
        depth: Blocks.
        heads: Attention heads.
        ratio: Features inside a block's perceptron, in units of `width`.
        dropout: Probability with which a feature that a block adds is dropped in training, in [0, 1).
        condition_channels: Channels of further fields on the same grid that `forward` is given.
        scalars: Numbers that `forward` is given for each field.
        classes: Number of classes of which `forward` is given one for each field; 0 for none.
        extra_channels: Channels of the output beyond those of the field.
        input_channels: Channels of the input, the field ahead; those of the field when not given.
        checkpointing: Whether training keeps only what enters each block and computes it again: less memory for a
            third more time.
        seed: Draws the initial weights; torch's global random state is neither used nor changed.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        grid: Grid,
        channels: int,
        patch: int | Sequence[int] = 4,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        ratio: int = 4,
        dropout: float = 0.0,
        condition_channels: int = 0,
        scalars: int = 0,
        classes: int = 0,
        extra_channels: int = 0,
        input_channels: int | None = None,
        checkpointing: bool = False,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if grid.ndim > 3:
            raise ValueError(f"a transformer works on grids of 1 to 3 axes; got {grid.ndim}: {grid.describe()}.")
        inputs = channels if input_channels is None else input_channels
        for name, value, least in (
            ("channels", channels, 1), ("depth", depth, 1), ("heads", heads, 1), ("ratio", ratio, 1),
            ("condition_channels", condition_channels, 0), ("scalars", scalars, 0), ("classes", classes, 0),
            ("extra_channels", extra_channels, 0), ("input_channels", inputs, channels),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"a transformer needs {name} of at least {least}; got {value}.")
        if width < 1 or width % (2 * heads) or width // heads < 2 * grid.ndim:
            raise ValueError(
                f"a transformer of {heads} heads on {grid.ndim} axes needs a width that is a multiple of {2 * heads} "
                f"and at least {2 * heads * grid.ndim}; got {width}."
            )
        sizes = tuple(patch) if not isinstance(patch, int) else (patch,) * grid.ndim
        if isinstance(patch, int) and patch <= max(grid.shape):
            sizes = tuple(min(patch, n) for n in grid.shape)
        if len(sizes) != grid.ndim or any(not 1 <= p <= n for p, n in zip(sizes, grid.shape, strict=False)):
            raise ValueError(
                f"a patch has one size per axis, from 1 to the cells of the axis, here {grid.shape}; got {patch}."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1); got {dropout}.")
        self.grid = grid
        self.patch = sizes
        self.input_channels = inputs
        self.output_channels = channels + extra_channels
        self.checkpointing = checkpointing
        self.tokens = tuple(-(-n // p) for n, p in zip(grid.shape, sizes, strict=True))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.embedding = TimeEmbedding(width)
            self.conditioning = Conditioning(grid, width, condition_channels, scalars, classes)
            self.rotary = Rotary(self.tokens, grid.boundary, width // heads)
            walls = any(word != "periodic" for word in grid.boundary)
            self.walls = FromWalls(self.tokens, grid.boundary, width) if walls else None
            cells = math.prod(sizes)
            self.lift = linear((inputs + condition_channels) * cells, width)
            self.blocks = nn.ModuleList(TransformerBlock(width, heads, ratio, dropout) for _ in range(depth))
            self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
            self.modulation = linear(width, 2 * width, zero=True)
            self.expand = linear(width, self.output_channels * cells, zero=True)

    def forward(self, x: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        """Evaluate the network.

        Args:
            x: Fields, shape (batch, input_channels, *grid).
            time: Time in [0, 1], shape (batch,).
            condition: What the network was built for; None, or a row that is not `present`: the law of all fields.

        Returns:
            Shape (batch, channels + extra_channels, *grid).

        Raises:
            ValueError: a shape differs from the above.
        """
        batch = x.shape[0] if x.ndim else 0
        for name, value, expected in (
            ("x", x, (batch, self.input_channels, *self.grid.shape)), ("time", time, (batch,)),
        ):  # fmt: skip
            if tuple(value.shape) != expected:
                raise ValueError(f"this transformer expected {name} of shape {expected}; got {tuple(value.shape)}.")
        exact = differentiated(x)
        fields, told = self.conditioning(x, condition)
        emb = self.embedding(time)
        emb = F.silu(emb if told is None else emb + told)
        # Under mixed precision the sum over blocks stays in the type of the field: only what they add is rounded.
        h = self.lift(self._patches(x if fields is None else torch.cat((x, fields), dim=1))).to(x.dtype)
        if self.walls is not None:
            h = h + self.walls()
        cos, sin = self.rotary.angles(h.dtype)
        for block in self.blocks:
            if self.checkpointing and self.training:
                h = computed_again(block, h, emb, self.rotary, cos, sin, exact)
            else:
                h = block(h, emb, self.rotary, cos, sin, exact)
        scale, shift = self.modulation(emb).unsqueeze(1).chunk(2, dim=-1)
        return self._fields(self.expand(self.norm(h) * (1 + scale) + shift))

    def _patches(self, x: Tensor) -> Tensor:
        """Shape (batch, channels, *grid) to (batch, tokens, channels · cells of a patch)."""
        x = fitted(x, self.grid.boundary, self.patch)
        for axis, (count, p) in reversed(list(enumerate(zip(self.tokens, self.patch, strict=True), 2))):
            x = x.unflatten(axis, (count, p))
        d = self.grid.ndim
        order = (0, *range(2, 2 + 2 * d, 2), 1, *range(3, 3 + 2 * d, 2))
        return x.permute(order).flatten(1 + d).flatten(1, d)

    def _fields(self, h: Tensor) -> Tensor:
        """The inverse of `_patches`, cropped to the grid."""
        d = self.grid.ndim
        x = h.unflatten(1, self.tokens).unflatten(-1, (self.output_channels, *self.patch))
        order = (0, 1 + d, *(axis for a in range(d) for axis in (1 + a, 2 + d + a)))
        x = x.permute(order)
        for axis in range(2, 2 + d):
            x = x.flatten(axis, axis + 1)
        return cropped(x, self.grid.shape)


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each added through a gate that starts at zero.

    Args:
        width: Features of a token.
        heads: Attention heads.
        ratio: Features inside the perceptron, in units of `width`.
        dropout: Probability with which a feature that is added is dropped in training.
    """

    def __init__(self, width: int, heads: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.look = linear(width, 3 * width)
        self.gather = linear(width, width)
        self.perceptron = nn.Sequential(
            linear(width, ratio * width), nn.GELU(approximate="tanh"), linear(ratio * width, width)
        )
        self.modulation = linear(width, 6 * width, zero=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, emb: Tensor, rotary: Rotary, cos: Tensor, sin: Tensor, exact: bool) -> Tensor:
        """Shapes (batch, tokens, width) and (batch, width) to (batch, tokens, width)."""
        s1, b1, g1, s2, b2, g2 = self.modulation(emb).unsqueeze(1).chunk(6, dim=-1)
        looked = self.look(self.norm(h) * (1 + s1) + b1)
        q, k, v = looked.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = attend(rotary(q, cos, sin), rotary(k, cos, sin), v, exact)
        h = h + g1 * self.dropout(self.gather(found.transpose(1, 2).flatten(2)))
        return h + g2 * self.dropout(self.perceptron(self.norm(h) * (1 + s2) + b2))


def linear(inputs: int, outputs: int, zero: bool = False) -> nn.Linear:
    """A linear map without offset at first: of variance 2/(inputs + outputs), or zero."""
    layer = nn.Linear(inputs, outputs)
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
