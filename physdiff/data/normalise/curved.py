r"""Physical units to a scale on which a skewed or heavy-tailed channel is nearer to normal: a curve and two scalings.

    z = (f(u) − mean)/std,    u = (x − centre)/scale,    log |dz/dx| = log f′(u) − log(scale·std)

The first scaling makes the curve independent of the unit of x, the second gives mean 0 and standard deviation 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physdiff.data.normalise.affine import IQR_OF_NORMAL, quartiles_apart, summaries_of
from physdiff.data.normalise.curves import CURVES, fit_exponent
from physdiff.data.normalise.normaliser import along, label, per_channel, require_spread
from physdiff.data.summary import Summary
from physdiff.registry import nearest

NUMBERS = ("exponent", "centre", "scale", "mean", "std")


@dataclass(frozen=True, eq=False)
class Curved:
    """A curve per channel between two scalings; `Log` and `Power` make it.

    Attributes:
        kind: The curve: "log", "box-cox", "yeo-johnson" or "asinh".
        exponent: λ of each channel, shape (channels,), float64; 1 where the curve has none.
        centre: Subtracted first, in the channel's unit.
        scale: Divided by then, in its unit, > 0.
        mean: Mean of f(u).
        std: Standard deviation of f(u), > 0.
        names: Name of each channel, for messages; empty for none.

    Raises:
        ValueError: there is no such curve, or a number does not fit.
    """

    kind: str
    exponent: Tensor
    centre: Tensor
    scale: Tensor
    mean: Tensor
    std: Tensor
    names: tuple[str, ...] = ()

    @property
    def is_linear(self) -> bool:
        """Whether its slope is the same everywhere."""
        return False

    def __post_init__(self) -> None:
        if self.kind not in CURVES:
            raise ValueError(f"there is no curve '{self.kind}'. {nearest(self.kind, CURVES)}")
        for name, x in per_channel(**{name: getattr(self, name) for name in NUMBERS}).items():
            object.__setattr__(self, name, x)
        object.__setattr__(self, "names", tuple(self.names) or ("",) * self.channels)
        if len(self.names) != self.channels:
            raise ValueError(f"names {self.names} are not one for each of {self.channels} channels.")
        if not ((self.scale > 0).all() and (self.std > 0).all()):
            raise ValueError(f"scale and std must be positive; got {self.scale.tolist()}, {self.std.tolist()}.")

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.exponent)

    def forward(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Fields in physical units, channels on `channel_axis`, to normalised ones; float64 inside.

        Raises:
            ValueError: a value is not positive where the curve needs it; the channel is named.
        """
        u, p = self._scaled(x, channel_axis)
        f = CURVES[self.kind].forward(u, p)
        return ((f - along(self.mean, f, channel_axis)) / along(self.std, f, channel_axis)).to(x.dtype)

    def inverse(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """Normalised fields, channels on `channel_axis`, back to physical units.

        Raises:
            ValueError: a value lies beyond the end of the curve's range (Box-Cox); the channel is named.
        """
        along(self.mean, x, channel_axis)
        z = x.double()
        f = z * along(self.std, z, channel_axis) + along(self.mean, z, channel_axis)
        u = CURVES[self.kind].inverse(f, along(self.exponent, z, channel_axis))
        lost = u.isnan() & ~z.isnan()
        if bool(lost.any()):
            c, value = self._first(lost, x, channel_axis)
            raise ValueError(
                f"channel {label(self.names[c], c)}: the normalised value {value:.6g} is beyond the range of "
                f"'{self.kind}' with the exponent {self.exponent[c]:.4g}, so no field has it; normalise with "
                "'yeo-johnson' or 'log', whose range is all numbers."
            )
        return (u * along(self.scale, u, channel_axis) + along(self.centre, u, channel_axis)).to(x.dtype)

    def log_slope(self, x: Tensor, channel_axis: int = 1) -> Tensor:
        """log |dz/dx| in each cell of fields in physical units, shape as x, float64."""
        u, p = self._scaled(x, channel_axis)
        scales = along((self.scale * self.std).log(), u, channel_axis)
        return CURVES[self.kind].log_slope(u, p) - scales

    def log_det(self, x: Tensor) -> Tensor:
        """Log-determinant of `forward` at fields of shape (n, channels, *grid), shape (n,), float64."""
        return self.log_slope(x).flatten(1).sum(1)

    @property
    def log_det_per_cell(self) -> Tensor:
        """There is none: the slope differs from cell to cell."""
        raise ValueError(
            f"the normaliser '{self.kind}' is not linear, so its determinant depends on the field; use log_det(fields)."
        )

    def standardised(self, mean: Sequence[float], std: Sequence[float]) -> Curved:
        """The same, whose present images have the given means and standard deviations, to mean 0 and deviation 1."""
        told = per_channel(mean=mean, std=std)
        return replace(self, mean=self.mean + self.std * told["mean"], std=self.std * told["std"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` makes this normaliser again, exactly."""
        return {
            "kind": self.kind,
            **{name: getattr(self, name).tolist() for name in NUMBERS},
            "names": list(self.names),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Curved:
        """The normaliser that `to_dict` described."""
        numbers = {name: torch.as_tensor(values[name], dtype=torch.float64) for name in NUMBERS}
        return cls(values["kind"], **numbers, names=tuple(values.get("names", ())))

    def _scaled(self, x: Tensor, channel_axis: int) -> tuple[Tensor, Tensor]:
        along(self.mean, x, channel_axis)
        x = x.double()
        u = (x - along(self.centre, x, channel_axis)) / along(self.scale, x, channel_axis)
        if CURVES[self.kind].is_positive and bool((u <= 0).any()):
            c, value = self._first(u <= 0, x, channel_axis)
            raise ValueError(
                f"channel {label(self.names[c], c)} holds {value:.6g}; '{self.kind}' takes values above "
                f"{self.centre[c]:.6g} only (give it a greater shift, or use 'yeo-johnson')."
            )
        return u, along(self.exponent, u, channel_axis)

    def _first(self, where: Tensor, x: Tensor, channel_axis: int) -> tuple[int, float]:
        index = tuple(int(i) for i in where.nonzero()[0])
        return index[channel_axis], float(x[index])


class Log:
    """z = log(x + shift), standardised: for positive fields that vary by factors, such as densities."""

    @staticmethod
    def fit(values: np.ndarray | Tensor, names: Sequence[str] | None = None, shift: float = 0.0) -> Curved:
        """Fitted to fields in physical units, shape (n, channels, *grid).

        Raises:
            ValueError: a value is not above −shift.
        """
        return _standardised(Log.draft(summaries_of(values, names), shift), values)

    @staticmethod
    def draft(summaries: Sequence[Summary], shift: float = 0.0) -> Curved:
        """The map before its images are standardised."""
        require_spread(summaries)
        ones = torch.ones(len(summaries), dtype=torch.float64)
        draft = Curved("log", ones, (0.0 - shift) * ones, ones, 0 * ones, ones, tuple(s.name for s in summaries))
        draft.forward(
            torch.tensor([[s.low for s in summaries]], dtype=torch.float64)
        )  # all above the shift, or refused
        return draft


class Power:
    """A power of the values that makes their law nearest to normal, standardised.

    "yeo-johnson" takes values of any sign, "box-cox" positive ones; λ is that of the greatest likelihood of up to 2¹⁷
    drawn values. "asinh" has no λ.
    """

    @staticmethod
    def fit(values: np.ndarray | Tensor, names: Sequence[str] | None = None, method: str = "yeo-johnson") -> Curved:
        """Fitted to fields in physical units, shape (n, channels, *grid).

        Raises:
            ValueError: a value is not positive and the method is "box-cox"; there is no such method.
        """
        return _standardised(Power.draft(summaries_of(values, names), method), values)

    @staticmethod
    def draft(summaries: Sequence[Summary], method: str = "yeo-johnson") -> Curved:
        """The map before its images are standardised."""
        methods = [name for name in CURVES if name != "log"]
        if method not in methods:
            raise ValueError(f"there is no power transform '{method}'. {nearest(method, methods)}")
        require_spread(summaries)
        curve, numbers = CURVES[method], []
        for c, s in enumerate(summaries):
            if curve.is_positive:
                if s.low <= 0:
                    raise ValueError(
                        f"channel {label(s.name, c)} holds {s.low:.6g}; '{method}' takes values above 0 only "
                        "(use 'yeo-johnson', or 'log' with a shift)."
                    )
                # By the geometric mean: λ does not depend on the unit, and powers do not overflow.
                centre, scale = 0.0, float(np.exp(np.log(s.drawn).mean()))
            else:
                # Where half of the values are one number, the quartiles give no scale.
                centre, scale = s.quantile(0.5), quartiles_apart(s) / IQR_OF_NORMAL or s.std
            numbers.append((fit_exponent(curve, (s.drawn - centre) / scale), centre, scale))
        exponent, centre, scale = torch.tensor(numbers, dtype=torch.float64).T
        mean, std = torch.zeros_like(scale), torch.ones_like(scale)
        return Curved(method, exponent, centre, scale, mean, std, tuple(s.name for s in summaries))


def _standardised(draft: Curved, values: np.ndarray | Tensor) -> Curved:
    images = summaries_of(draft.forward(torch.as_tensor(values).double()), None)
    return draft.standardised([s.mean for s in images], [s.std for s in images])
