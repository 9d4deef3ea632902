"""Physical units to and from a scale on which every channel has mean 0 and standard deviation 1.

    z = (x − mean) / std  per channel,    log |det ∂z/∂x| = −Σ_channels (number of cells)·log std

The determinant is what turns a log-density of z into one of x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Standardise:
    """A shift and a scale per channel.

    Attributes:
        mean: Mean of each channel over snapshots and cells, in its unit, shape (channels,), float64.
        std: Standard deviation of each channel, in its unit, > 0, shape (channels,), float64.

    Raises:
        ValueError: shapes differ, or a number is not finite, or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=torch.float64))
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape:
            raise ValueError(
                f"mean and std need one number per channel; got shapes {tuple(self.mean.shape)} "
                f"and {tuple(self.std.shape)}."
            )
        if not (self.mean.isfinite().all() and self.std.isfinite().all() and (self.std > 0).all()):
            raise ValueError(
                f"mean and std must be finite and std positive; got {self.mean.tolist()}, {self.std.tolist()}."
            )

    @classmethod
    def fit(cls, values: np.ndarray | Tensor, names: Sequence[str] | None = None) -> Standardise:
        """Mean and standard deviation of each channel over snapshots and cells.

        Args:
            values: Fields in physical units, shape (n, channels, *grid).
            names: Name of each channel, for error messages.

        Raises:
            ValueError: a channel is constant, or holds a value that is not finite.
        """
        x = torch.as_tensor(values)
        if x.ndim < 2 or x.numel() == 0:
            raise ValueError(f"a normaliser is fitted to fields of shape (n, channels, *grid); got {tuple(x.shape)}.")
        channels = x.transpose(0, 1).reshape(x.shape[1], -1).double()
        for c, channel in enumerate(channels):
            label = f"'{names[c]}'" if names is not None else str(c)
            if not channel.isfinite().all():
                raise ValueError(f"channel {label} holds a value that is not finite, so it has no scale.")
            # Not std == 0: the mean of equal numbers is rounded, which leaves a tiny one.
            if channel.min() == channel.max():
                raise ValueError(
                    f"channel {label} is constant ({channel[0]:.6g} everywhere), so it has no scale; leave it out."
                )
        return cls(channels.mean(dim=1), channels.std(dim=1, correction=0))

    def forward(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Fields in physical units, channels on `channel_axis`, to mean 0 and standard deviation 1."""
        return (x - self._along(self.mean, x, channel_axis)) / self._along(self.std, x, channel_axis)

    def inverse(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Fields of mean 0 and standard deviation 1, channels on `channel_axis`, back to physical units."""
        return x * self._along(self.std, x, channel_axis) + self._along(self.mean, x, channel_axis)

    @property
    def log_det_per_cell(self) -> Tensor:
        """Log-determinant of `forward` on one cell of each channel, shape (channels,), float64."""
        return -self.std.log()

    def to_dict(self) -> dict[str, list[float]]:
        """Plain values from which `from_dict` makes this normaliser again, exactly."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Standardise:
        """The normaliser that `to_dict` described."""
        return cls(*(torch.as_tensor(values[name], dtype=torch.float64) for name in ("mean", "std")))

    def _along(self, coefficient: Tensor, x: Tensor, channel_axis: int) -> Tensor:
        if not -x.ndim <= channel_axis < x.ndim or x.shape[channel_axis] != len(coefficient):
            raise ValueError(
                f"the normaliser has {len(coefficient)} channels; got fields of shape {tuple(x.shape)} "
                f"with channels on axis {channel_axis}."
            )
        if not x.is_floating_point():
            raise ValueError(f"the normaliser needs floating point fields; got {x.dtype}.")
        shape = [1] * x.ndim
        shape[channel_axis] = len(coefficient)
        return coefficient.to(x).reshape(shape)
