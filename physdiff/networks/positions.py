r"""Where a token is on its grid: how far from the others along every axis, and how far from the walls.

Rotary positions (Su et al., 2021) turn pairs of features of queries and keys by angles θ_f(i), so that their product
sees θ_f(i) − θ_f(j) alone. With token i of N along an axis and whole frequencies f,

    periodic    θ_f(i) = 2π f i/N    a function of (i − j) mod N: a shift of the field shifts the output, exactly
    walls       θ_f(i) = π f i/N     tells i − j apart from j − i ± N

Along walls a field is no longer the same everywhere. There each token is also told u = (i + ½)/N, its place between
the walls, by cos(πfu) and sin(πfu).

Angles are kept as whole numbers, fractions of a turn: no cast of the network to another precision, and back, can spoil
the symmetry.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from physdiff.grid import Boundary


class Rotary(nn.Module):
    """Turns features by angles that depend on the position.

    Args:
        tokens: Tokens along each axis.
        boundary: One word per axis.
        features: Of a head: even, at least 2 per axis.
    """

    turns: Tensor
    whole: Tensor

    def __init__(self, tokens: tuple[int, ...], boundary: tuple[Boundary, ...], features: int) -> None:
        super().__init__()
        turns, whole = [], []
        for axis, (n, word) in enumerate(zip(tokens, boundary, strict=True)):
            pairs = features // 2 // len(tokens) + (axis < features // 2 % len(tokens))
            turn = n if word == "periodic" else 2 * n
            frequency = torch.tensor(whole_frequencies(turn // 2, pairs))
            along = torch.outer(torch.arange(n), frequency) % turn
            shape = [n if a == axis else 1 for a in range(len(tokens))]
            turns.append(along.reshape(*shape, pairs).expand(*tokens, pairs).reshape(-1, pairs))
            whole.append(torch.full((pairs,), turn))
        self.register_buffer("turns", torch.cat(turns, 1), persistent=False)
        self.register_buffer("whole", torch.cat(whole), persistent=False)

    def angles(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each token's angles, shape (tokens, features / 2), in float32 at least."""
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        theta = 2 * math.pi * (self.turns.to(exact) / self.whole.to(exact))
        return theta.cos(), theta.sin()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys, shape (..., tokens, features) to the same."""
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


class FromWalls(nn.Module):
    """Tells each token where it lies between the walls.

    Args:
        tokens: Tokens along each axis.
        boundary: One word per axis, at least one of them a wall.
        width: Features of a token.
        waves: Frequencies along each axis, at most.
    """

    features: Tensor

    def __init__(self, tokens: tuple[int, ...], boundary: tuple[Boundary, ...], width: int, waves: int = 16) -> None:
        super().__init__()
        features = []
        for axis, (n, word) in enumerate(zip(tokens, boundary, strict=True)):
            if word == "periodic":
                continue
            frequency = torch.tensor(whole_frequencies(n, min(n, waves)), dtype=torch.float64)
            phase = math.pi * torch.outer((torch.arange(n) + 0.5) / n, frequency)
            along = torch.cat((phase.cos(), phase.sin()), 1)
            shape = [n if a == axis else 1 for a in range(len(tokens))]
            features.append(along.reshape(*shape, -1).expand(*tokens, -1).flatten(0, -2))
        table = torch.cat(features, 1)
        self.register_buffer("features", table.to(torch.get_default_dtype()), persistent=False)
        self.linear = nn.Linear(table.shape[1], width, bias=False)

    def forward(self) -> Tensor:
        """Shape (tokens, width)."""
        return self.linear(self.features)


def whole_frequencies(highest: int, count: int) -> list[int]:
    """Different whole numbers from 1 to `highest` in nearly geometric steps; zeros where there are not as many."""
    if count > highest:
        return [*range(1, highest + 1), *[0] * (count - highest)]
    chosen: list[int] = []
    for i in range(count):
        ideal = highest ** (i / (count - 1)) if count > 1 else 1.0
        chosen.append(max(round(ideal), chosen[-1] + 1 if chosen else 1))
    return chosen
