r"""What a normaliser is: an invertible map of each channel's values, cell by cell, with its slope.

    z = f_c(x),    log |det ∂z/∂x| = Σ_cells log |f_c′(x)|

The determinant is what turns a log-density of z into one of x. It is a constant where every f_c is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from physdiff.data.summary import Summary


class Normaliser(Protocol):
    """An invertible map of fields in physical units to numbers of order 1, each channel by itself."""

    @property
    def kind(self) -> str:
        """Its name in settings and files."""
        ...

    @property
    def channels(self) -> int:
        """Number of channels."""
        ...

    @property
    def is_linear(self) -> bool:
        """Whether its slope is the same everywhere."""
        ...

    def forward(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Fields in physical units, channels on `channel_axis`, to normalised ones, shape and type as x."""
        ...

    def inverse(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Normalised fields, channels on `channel_axis`, back to physical units."""
        ...

    def log_slope(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """log |dz/dx| in each cell of fields in physical units, shape as x, float64."""
        ...

    def log_det(self, x: Tensor) -> Tensor:
        """Log-determinant of `forward` at fields of shape (n, channels, *grid): sums of `log_slope`, shape (n,)."""
        ...

    @property
    def log_det_per_cell(self) -> Tensor:
        """log |dz/dx| of each channel, shape (channels,), float64.

        Raises:
            ValueError: it is not the same everywhere.
        """
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `normaliser_from_dict` makes this normaliser again, exactly."""
        ...


def log_det(normaliser: Normaliser, support: Tensor, fields: Tensor) -> Tensor:
    """What a log-density of normalised fields gains to be one of fields in physical units.

    Args:
        normaliser: How the fields were normalised.
        support: Modes that vary, shape (channels, *grid), bool: those in which the density is one.
        fields: Fields in physical units, shape (n, channels, *grid).

    Returns:
        In nats, shape (n,), float64.

    Raises:
        ValueError: the normaliser is not linear and there are modes that do not vary. The curved surface on which such
            fields lie has no density per unit of their own unless its area is reckoned too.
    """
    if normaliser.is_linear:
        modes = support.flatten(1).sum(1)
        total = (modes * normaliser.log_det_per_cell.to(modes.device)).sum()
        return total.to(fields.device).expand(len(fields))
    if not bool(support.all()):
        raise ValueError(
            f"a density in physical units under the normaliser '{normaliser.kind}', which is not linear, needs a law "
            f"of all {support.numel()} modes; {int((~support).sum())} of them do not vary. Normalise with 'standard' "
            "or 'robust', or set a noise level."
        )
    return normaliser.log_slope(fields).flatten(1).sum(1)


def along(coefficient: Tensor, x: Tensor, channel_axis: int) -> Tensor:
    """One number per channel, ready to broadcast over fields, type and device as x.

    Raises:
        ValueError: x has another number of channels, or is not of floating point numbers.
    """
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


def per_channel(**numbers: Any) -> dict[str, Tensor]:
    """Numbers of each channel as tensors of shape (channels,), float64, by name.

    Raises:
        ValueError: shapes differ, or a number is not finite.
    """
    found = {name: torch.as_tensor(x, dtype=torch.float64) for name, x in numbers.items()}
    words = " and ".join(found)
    first = next(iter(found.values()))
    if first.ndim != 1 or any(x.shape != first.shape for x in found.values()):
        shapes = " and ".join(str(tuple(x.shape)) for x in found.values())
        raise ValueError(f"{words} need one number per channel; got shapes {shapes}.")
    if not all(bool(x.isfinite().all()) for x in found.values()):
        raise ValueError(f"{words} must be finite; got {', '.join(str(x.tolist()) for x in found.values())}.")
    return found


def require_spread(summaries: Sequence[Summary]) -> None:
    """Raise unless every channel has values, all of them finite and not all the same."""
    for c, summary in enumerate(summaries):
        if summary.missing and not summary.count:
            raise ValueError(f"channel {label(summary.name, c)} is observed nowhere, so it has no scale; leave it out.")
        if summary.not_finite or not summary.count:
            raise ValueError(f"channel {label(summary.name, c)} holds a value that is not finite, so it has no scale.")
        if summary.is_constant:
            raise ValueError(
                f"channel {label(summary.name, c)} is constant ({summary.low:.6g} everywhere), so it has no scale; "
                "leave it out."
            )


def label(name: str, channel: int) -> str:
    """What messages call a channel: its name, or its number if it has none."""
    return f"'{name}'" if name else str(channel)


def relative_changes(normaliser: Normaliser, x: Tensor) -> Tensor:
    """x·|dz/dx|: what a relative change of each value does to its normalised one, shape as x, float64.

    A stored value is rounded relative to its size, so this times the machine's precision is the rounding of z.
    """
    return x * normaliser.log_slope(x).exp()
