r"""A learned variance: extra outputs of a network that say how much of the clean field a state leaves unknown.

The reverse step of a chain is a Gaussian per mode, so that its variance has one number a mode, and the network gives
fields. Each channel therefore has J extra outputs, of which only the means over the cells count,

    f_k(y, t) = Σ_j a_j(y, t) cos(π j u_k),        a_j = mean over the cells of output j,

with u_k ∈ [0, 1] the place of mode k among all when they are ordered by falling variance. The place is known in every
basis, is the same for k and −k, and moves with the noise: where c_k crosses S is one place at each t. Shifts of a
periodic field leave a_j alone, as they should. In the identity basis, whose modes are the cells, `per_cell` takes one
output a cell instead.

Two readings of f:

- "ratio": what the clean field's law leaves unknown, relative to the reference,

      Var[y_0 | y_t] = U = (cS/V) e^f,        step to s:  β̃ + |B|²U.

  It knows nothing of the step, so that it serves every chain alike, never falls below β̃, which no step can (Bao et al.,
  2022, theorem 1), is finite down to the clean field, and at f = 0 is the reference: an untrained model stays exact on
  Gaussian data.
- "interpolated": as published, between DDPM's two variances of that very step,

      variance = exp(v log Σ + (1 − v) log β̃),        v = (1 + f)/2,

  not confined to [0, 1]. The step to the clean field has β̃ = 0 and no logarithm of it; there U = (cS/V) e^f as above.

Source: Nichol and Dhariwal (2021), eq. 15, and v = (1 + f)/2 as in their code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from physdiff.basis import IdentityBasis
from physdiff.denoisers.posterior_mean import Posterior
from physdiff.gaussian import GaussianField
from physdiff.path import PathPoint
from physdiff.settings import is_whole

Form = Literal["ratio", "interpolated"]


@dataclass(frozen=True)
class LearnedVariance:
    """How extra outputs of a network are read as a variance.

    Attributes:
        waves: J, cosines over the modes of each channel, at least 1.
        form: What f is: "ratio" or "interpolated".
        per_cell: Whether each cell has an output of its own, in the identity basis; `waves` is then 1.

    Raises:
        ValueError: a setting is outside its range.
    """

    waves: int = 4
    form: Form = "ratio"
    per_cell: bool = False

    def __post_init__(self) -> None:
        if not is_whole(self.waves, 1):
            raise ValueError(f"a learned variance needs 'waves', a whole number of at least 1; got {self.waves!r}.")
        if self.form not in get_args(Form):
            raise ValueError(
                f"the 'form' of a learned variance is one of {', '.join(get_args(Form))}; got {self.form!r}."
            )
        if self.per_cell and self.waves != 1:
            raise ValueError(f"with per_cell a learned variance has no waves over modes: waves = 1; got {self.waves}.")

    def extra_channels(self, channels: int) -> int:
        """Outputs that the network of a field with so many channels needs beside the field's own."""
        return self.waves * channels


class VarianceHead:
    """A learned variance on one reference.

    Args:
        settings: How outputs are read.
        reference: Whose order of modes, and whose Wiener filter.

    Raises:
        ValueError: `per_cell` in a basis whose modes are not the cells.
    """

    def __init__(self, settings: LearnedVariance, reference: GaussianField) -> None:
        if settings.per_cell and not isinstance(reference.basis, IdentityBasis):
            raise ValueError(
                "a learned variance 'per_cell' is one of the identity basis, whose modes are the cells; this model "
                f"lives in {type(reference.basis).__name__}: leave per_cell = false."
            )
        self.settings = settings
        self.reference = reference
        number = torch.arange(settings.waves, dtype=torch.float64).reshape(-1, *[1] * reference.basis.grid.ndim)
        self._waves = torch.cos(math.pi * number * places(reference).unsqueeze(1))

    def exponent(self, outputs: Tensor) -> Tensor:
        """f in modes, shape (batch, channels, *grid), of the extra outputs, fields (batch, waves · channels, *grid)."""
        channels, grid = self.reference.channels, self.reference.basis.grid.shape
        wanted = self.settings.extra_channels(channels)
        if outputs.shape[1] != wanted:
            raise ValueError(
                f"this learned variance needs a network with {wanted} outputs beyond the {channels} of the field; got "
                f"{outputs.shape[1]}: build it with extra_channels = {wanted}."
            )
        given = outputs.reshape(len(outputs), channels, self.settings.waves, *grid)
        if self.settings.per_cell:
            return given.squeeze(2)
        if self._waves.device != outputs.device or self._waves.dtype != outputs.dtype:
            with torch.inference_mode(False):  # kept for training, if a sample comes first
                self._waves = self._waves.to(outputs.device, outputs.dtype)
        weights = given.flatten(3).mean(3)
        return torch.einsum("bcj,cj...->bc...", weights, self._waves)

    def posterior(self, residual: Tensor, outputs: Tensor, point: PathPoint) -> Posterior:
        """What the model says, of its residual in modes and its extra outputs as fields, at a point of the path."""
        exponent = self.exponent(outputs.to(residual.dtype))
        unknown = point.posterior_variance.to(residual) * torch.exp(exponent)
        return Posterior(residual, unknown, 0.5 * (1 + exponent) if self.settings.form == "interpolated" else None)


def places(reference: GaussianField) -> Tensor:
    """u ∈ [0, 1], the place of each mode in the order of falling variance; shape (channels, *grid), float64.

    Modes of equal variance share the middle of their places; outside the support it is 1.
    """
    found = torch.ones_like(reference.spectrum)
    for channel, (spectrum, support) in enumerate(zip(reference.spectrum, reference.support, strict=True)):
        _, which, counts = torch.unique(-spectrum[support], return_inverse=True, return_counts=True)
        middle = counts.cumsum(0) - 0.5 * (counts + 1).to(torch.float64)
        found[channel][support] = (middle / max(1, len(which) - 1))[which]
    return reference.basis.symmetrise(found)
