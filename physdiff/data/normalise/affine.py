r"""Physical units to and from a scale on which every channel has location 0 and spread 1.

z = (x − location) / spread  per channel,    log |det ∂z/∂x| = −Σ_channels (number of cells)·log spread
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physdiff.data.normalise.normaliser import along, label, per_channel, require_spread
from physdiff.data.summary import Summary, summarise

IQR_OF_NORMAL = 1.3489795003921634  # 2 Φ⁻¹(3/4): quartiles of a unit normal lie so far apart


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

    @property
    def kind(self) -> str:
        """Its name in settings and files."""
        return "standard"

    @property
    def is_linear(self) -> bool:
        """Whether its slope is the same everywhere."""
        return True

    def __post_init__(self) -> None:
        for name, x in per_channel(mean=self.mean, std=self.std).items():
            object.__setattr__(self, name, x)
        if not (self.std > 0).all():
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
        return cls.of(summaries_of(values, names))

    @classmethod
    def of(cls, summaries: Sequence[Summary]) -> Standardise:
        """The same from summaries of the channels."""
        require_spread(summaries)
        for c, s in enumerate(summaries):
            if not (0 < s.std < math.inf and math.isfinite(s.mean)):
                raise ValueError(
                    f"channel {label(s.name, c)} holds values from {s.low:.6g} to {s.high:.6g}, whose mean or standard "
                    "deviation is no number of double precision; give the field in another unit."
                )
        mean, std = ([getattr(s, name) for s in summaries] for name in ("mean", "std"))
        return cls(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.mean)

    def forward(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Fields in physical units, channels on `channel_axis`, to mean 0 and standard deviation 1."""
        return (x - along(self.mean, x, channel_axis)) / along(self.std, x, channel_axis)

    def inverse(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Fields of mean 0 and standard deviation 1, channels on `channel_axis`, back to physical units."""
        return x * along(self.std, x, channel_axis) + along(self.mean, x, channel_axis)

    def log_slope(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """log |dz/dx| in each cell, shape as x, float64."""
        return along(self.log_det_per_cell, x.double(), channel_axis).expand(x.shape)

    def log_det(self, x: Tensor) -> Tensor:
        """Log-determinant of `forward` at fields of shape (n, channels, *grid), shape (n,), float64."""
        return self.log_slope(x).flatten(1).sum(1)

    @property
    def log_det_per_cell(self) -> Tensor:
        """Log-determinant of `forward` on one cell of each channel, shape (channels,), float64."""
        return -self.std.log()

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` makes this normaliser again, exactly."""
        return {"kind": self.kind, "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Standardise:
        """The normaliser that `to_dict` described."""
        return cls(*(torch.as_tensor(values[name], dtype=torch.float64) for name in ("mean", "std")))


@dataclass(frozen=True, eq=False)
class Robust:
    """A shift by the median and a scale by the quartiles, which a few wild values do not move.

    A normal law is standardised by it as by its mean and standard deviation.

    Attributes:
        median: Median of each channel, in its unit, shape (channels,), float64.
        spread: Distance of the quartiles / 1.349, in its unit, > 0, shape (channels,), float64.
    """

    median: Tensor
    spread: Tensor

    @property
    def kind(self) -> str:
        """Its name in settings and files."""
        return "robust"

    @property
    def is_linear(self) -> bool:
        """Whether its slope is the same everywhere."""
        return True

    def __post_init__(self) -> None:
        for name, x in per_channel(median=self.median, spread=self.spread).items():
            object.__setattr__(self, name, x)
        if not (self.spread > 0).all():
            raise ValueError(f"spread must be positive; got {self.spread.tolist()}.")
        object.__setattr__(self, "_map", Standardise(self.median, self.spread))

    @classmethod
    def fit(cls, values: np.ndarray | Tensor, names: Sequence[str] | None = None) -> Robust:
        """Median and quartiles of each channel of fields in physical units, shape (n, channels, *grid)."""
        return cls.of(summaries_of(values, names))

    @classmethod
    def of(cls, summaries: Sequence[Summary]) -> Robust:
        """The same from summaries of the channels.

        Raises:
            ValueError: half of a channel's values are one number, so that its quartiles coincide.
        """
        require_spread(summaries)
        spread = [quartiles_apart(s) / IQR_OF_NORMAL for s in summaries]
        for c, (s, width) in enumerate(zip(summaries, spread, strict=True)):
            if not width > 0:
                raise ValueError(
                    f"channel {label(s.name, c)} has half of its values at {s.quantile(0.5):.6g}, so its quartiles "
                    "give no scale; normalise it with 'standard'."
                )
        median = torch.tensor([s.quantile(0.5) for s in summaries], dtype=torch.float64)
        return cls(median, torch.tensor(spread, dtype=torch.float64))

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.median)

    @property
    def as_standardise(self) -> Standardise:
        """The same map as a mean and a standard deviation."""
        return self._map  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Fields in physical units, channels on `channel_axis`, to median 0 and spread 1."""
        return self.as_standardise.forward(x, channel_axis)

    def inverse(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Fields of median 0 and spread 1, channels on `channel_axis`, back to physical units."""
        return self.as_standardise.inverse(x, channel_axis)

    def log_slope(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """log |dz/dx| in each cell, shape as x, float64."""
        return self.as_standardise.log_slope(x, channel_axis)

    def log_det(self, x: Tensor) -> Tensor:
        """Log-determinant of `forward` at fields of shape (n, channels, *grid), shape (n,), float64."""
        return self.as_standardise.log_det(x)

    @property
    def log_det_per_cell(self) -> Tensor:
        """Log-determinant of `forward` on one cell of each channel, shape (channels,), float64."""
        return -self.spread.log()

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` makes this normaliser again, exactly."""
        return {"kind": self.kind, "median": self.median.tolist(), "spread": self.spread.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Robust:
        """The normaliser that `to_dict` described."""
        return cls(values["median"], values["spread"])


def quartiles_apart(summary: Summary) -> float:
    """Distance of the quartiles of a channel."""
    return summary.quantile(0.75) - summary.quantile(0.25)


def summaries_of(values: np.ndarray | Tensor, names: Sequence[str] | None) -> tuple[Summary, ...]:
    """Summaries of fields in physical units, shape (n, channels, *grid); names are empty when not given."""
    x = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"a normaliser is fitted to fields of shape (n, channels, *grid); got {x.shape}.")
    return summarise(x, [""] * x.shape[1] if names is None else list(names))
