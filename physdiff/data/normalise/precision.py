"""In which precision fields of a model are handed over in physical units.

A network's numbers of order 1 are at home in single precision; 1e5 Pa ± 0.01 Pa is not, where it has one number for all
of them, nor is what is below 1e-38 or above 3e38.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.data.normalise.normaliser import Normaliser

LOST = 1e-3  # of the standard deviation of a field, that its precision may take from values of a sample


def in_physical_units(normaliser: Normaliser, fields: Tensor, channel_axis: int = 1) -> Tensor:
    """Normalised fields in physical units: in their own precision where it holds what varies, else in double.

    Args:
        normaliser: Of the fields' channels.
        fields: Shape (n, channels, *grid), or any with the channels on `channel_axis`.
        channel_axis: Where the channels are.

    Returns:
        Shape as `fields`; its type, or float64 for all channels if one needs it.
    """
    found = normaliser.inverse(fields.double(), channel_axis)
    limits = torch.finfo(fields.dtype)
    channels = found.movedim(channel_axis, 0).flatten(1)
    largest, spread = channels.abs().amax(1), channels.std(1, correction=0)
    fits = (largest < limits.max) & (spread > limits.tiny) & (limits.eps * largest <= LOST * spread)
    return found.to(fields.dtype) if bool(fits.all()) else found
