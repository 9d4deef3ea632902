r"""Scores in units of the noise, in which every score matching objective of the literature has its weight λ = σ².

    w = R̄(y − mμ)/√S,      ∇_w log p = √S R̄ ∇_y log p = −b + g,      b = √(S/V) z = (S/V) w,     g = (|m|/√S) r

b is the reference's part, g the remainder: what the residual r = D − W of a denoiser says of the score (Tweedie). Both
are finite at either end: g is 0 where m is, and r is at most of the size √S where S is small.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from physdiff.path import PathPoint


class NoiseUnits:
    """The Gaussian world at one time, or at one for each row, with the noise as the unit.

    Args:
        point: Where.
    """

    def __init__(self, point: PathPoint) -> None:
        self.point = point
        self._support = point.path.reference.support
        self._root = torch.where(self._support, point.noise_variance, 1.0).sqrt()

    @cached_property
    def noise_share(self) -> Tensor:
        """S/V, zero outside the support; broadcasts against modes."""
        variance = torch.where(self._support, self.point.variance, 1.0)
        return self.point.noise_variance / variance

    @cached_property
    def gain(self) -> Tensor:
        """|m|/√S, by which a residual becomes a score; zero outside the support."""
        return torch.where(self._support, self.point.amplitude / self._root, 0.0)

    def of(self, modes: Tensor) -> Tensor:
        """w of modes y, zero outside the support."""
        return self.point.deviation(modes) / self._root.to(modes)

    def modes(self, w: Tensor) -> Tensor:
        """y of w."""
        return self.point.restore(self._root.to(w) * torch.where(self._support.to(w.device), w, 0.0))

    def remainder(self, residual: Tensor) -> Tensor:
        """g of a residual."""
        return self.gain.to(residual) * residual
