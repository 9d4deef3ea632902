"""A normaliser of its own for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from physdiff.data.normalise.affine import Robust, Standardise
from physdiff.data.normalise.curved import Curved
from physdiff.data.normalise.normaliser import along

Single = Standardise | Robust | Curved
SINGLE: dict[str, type[Single]] = {
    "standard": Standardise, "robust": Robust, **dict.fromkeys(("log", "box-cox", "yeo-johnson", "asinh"), Curved),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PerVariable:
    """Normalisers of different kinds, one a channel.

    Attributes:
        parts: Each of one channel, in the order of the channels.

    Raises:
        ValueError: there is none, or one has several channels.
    """

    parts: tuple[Single, ...]

    @property
    def kind(self) -> str:
        """Its name in settings and files."""
        return "per-variable"

    def __post_init__(self) -> None:
        if not self.parts or any(part.channels != 1 for part in self.parts):
            raise ValueError(f"each part must have one channel; got {[part.channels for part in self.parts]}.")

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.parts)

    @property
    def is_linear(self) -> bool:
        """Whether all are."""
        return all(part.is_linear for part in self.parts)

    def forward(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Fields in physical units, channels on `channel_axis`, to normalised ones."""
        return self._each("forward", x, channel_axis)

    def inverse(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Normalised fields, channels on `channel_axis`, back to physical units."""
        return self._each("inverse", x, channel_axis)

    def log_slope(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """log |dz/dx| in each cell of fields in physical units, shape as x, float64."""
        return self._each("log_slope", x, channel_axis)

    def log_det(self, x: Tensor) -> Tensor:
        """Log-determinant of `forward` at fields of shape (n, channels, *grid), shape (n,), float64."""
        return self.log_slope(x).flatten(1).sum(1)

    @property
    def log_det_per_cell(self) -> Tensor:
        """Log-determinant of `forward` on one cell of each channel, shape (channels,), float64."""
        return torch.cat([part.log_det_per_cell for part in self.parts])

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` makes this normaliser again, exactly."""
        return {"kind": self.kind, "parts": [part.to_dict() for part in self.parts]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PerVariable:
        """The normaliser that `to_dict` described."""
        return cls(tuple(SINGLE[part["kind"]].from_dict(part) for part in values["parts"]))

    def _each(self, method: str, x: Tensor, axis: int) -> Tensor:
        along(torch.zeros(self.channels), x, axis)
        channels = x.split(1, dim=axis)
        return torch.cat(
            [getattr(part, method)(c, axis) for part, c in zip(self.parts, channels, strict=True)], dim=axis
        )
