"""Normalisation of features, the same for every network here."""

from __future__ import annotations

import math

from torch import nn

CHANNELS_PER_GROUP = 4


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation over groups of at least four channels: even a level of one cell then has a variance."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // CHANNELS_PER_GROUP)), channels)
