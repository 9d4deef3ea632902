"""Numbers as the network sees them: waves of many lengths, mixed by a small perceptron.

A single number is a poor input: a network must resolve t = 0.01 from 0.02 near the clean end and yet vary
smoothly over [0, 1]. Sines and cosines at geometric frequencies, half a cycle to 64 cycles over the whole
time, offer both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Fourier features of a time in [0, 1] and a two-layer perceptron.

    Args:
        width: Length of the embedding.
        frequencies: Number of frequencies; each gives a sine and a cosine.
        lowest: Lowest frequency, in cycles over the whole time.
        highest: Highest frequency, in cycles over the whole time.

    Source: Tancik et al. (2020), with fixed, geometric frequencies.
    """

    frequency: Tensor

    def __init__(self, width: int, frequencies: int = 16, lowest: float = 0.5, highest: float = 64.0) -> None:
        super().__init__()
        self.register_buffer("frequency", geometric(frequencies, lowest, highest))
        self.perceptron = perceptron(2 * frequencies, width)

    def forward(self, time: Tensor) -> Tensor:
        """Shape (batch,) to (batch, width)."""
        return self.perceptron(waves(time, self.frequency))


class ScalarEmbedding(nn.Module):
    """Several numbers in units of about 1: their values, Fourier features of each, and a two-layer perceptron.

    The values themselves go in as well, so that numbers outside the range of training are at least told apart.

    Args:
        width: Length of the embedding.
        scalars: How many numbers.
        frequencies: Number of frequencies; each gives a sine and a cosine of every number.
        lowest: Lowest frequency, in cycles per unit.
        highest: Highest frequency, in cycles per unit.
    """

    frequency: Tensor

    def __init__(
        self, width: int, scalars: int, frequencies: int = 6, lowest: float = 1 / 16, highest: float = 2.0
    ) -> None:
        super().__init__()
        self.register_buffer("frequency", geometric(frequencies, lowest, highest))
        self.perceptron = perceptron(scalars * (1 + 2 * frequencies), width)

    def forward(self, scalars: Tensor) -> Tensor:
        """Shape (batch, scalars) to (batch, width)."""
        return self.perceptron(torch.cat((scalars, waves(scalars, self.frequency).flatten(1)), dim=1))


def geometric(count: int, lowest: float, highest: float) -> Tensor:
    """Frequencies from the lowest to the highest in equal ratios, as angles per unit, shape (count,)."""
    exponent = torch.linspace(math.log(lowest), math.log(highest), count, dtype=torch.float64)
    return (2 * math.pi * exponent.exp()).to(torch.get_default_dtype())


def waves(values: Tensor, frequency: Tensor) -> Tensor:
    """Sines, then cosines, of every value, shape (...) to (..., 2·frequencies)."""
    phase = values.to(frequency.dtype).unsqueeze(-1) * frequency
    return torch.cat((phase.sin(), phase.cos()), dim=-1)


def perceptron(inputs: int, width: int) -> nn.Sequential:
    """Two linear layers of a width with a SiLU between them."""
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))
