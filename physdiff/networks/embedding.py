"""Time as the network sees it: waves of many lengths, mixed by a small perceptron.

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
        exponent = torch.linspace(math.log(lowest), math.log(highest), frequencies, dtype=torch.float64)
        self.register_buffer("frequency", (2 * math.pi * exponent.exp()).to(torch.get_default_dtype()))
        self.perceptron = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        """Shape (batch,) to (batch, width)."""
        phase = time.to(self.frequency.dtype).unsqueeze(-1) * self.frequency
        return self.perceptron(torch.cat((phase.sin(), phase.cos()), dim=-1))
