r"""What samplers and likelihoods ask of any model: how the whitened state moves.

In whitened coordinates z = (y − μ)/√V the probability flow of the Gaussian world stands still, and what moves z is the
model's own: the residual of a denoiser under a linear process, the reaction and the score's correction under a
simulated one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from physdiff.condition import Given
from physdiff.path import ReferencePath
from physdiff.simulated_path import SimulatedPath


class ReverseModel(nn.Module, ABC):
    """A law of fields, seen through a noising process.

    Args:
        path: The process, the reference and the Gaussian world between them.
    """

    def __init__(self, path: ReferencePath | SimulatedPath) -> None:
        super().__init__()
        self.path = path

    @property
    def device(self) -> torch.device:
        """Where its parameters lie; the CPU if it has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @abstractmethod
    def velocity(self, z: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        """dz/dlog τ of the probability flow at physical time τ, shape () or (batch,); whitened modes to the same."""

    @abstractmethod
    def move(self, modes: Tensor, t: Tensor, s: Tensor, condition: Given | None = None) -> Tensor:
        """What z moves by between t and s, both of shape (), with what the model says at (modes, t) held still."""


def per_row(time: Tensor, modes: Tensor) -> Tensor:
    """A physical time of shape (batch,) ready to broadcast against modes; one of shape () as it is."""
    return time.reshape(-1, *[1] * (modes.ndim - 1)) if time.ndim else time
