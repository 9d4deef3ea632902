"""The exact trace, by one product with the Jacobian for each degree of freedom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.trace.estimator import Products, TraceEstimator, Velocity, dot

VALUES = {"cpu": 2**16, "cuda": 2**22}  # of the vectors that go through the network together: what caches, memory hold


@dataclass(frozen=True)
class ExactTrace(TraceEstimator):
    """Σ_k e_kᵀ J e_k over the modes of the support; for small fields, in any number of dimensions.

    Attributes:
        chunk: Modes that go backwards through the network together; None for as many as have 2¹⁶ values in all
            (2²² on a GPU). Memory grows with it.
    """

    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"ExactTrace needs a chunk of at least 1 mode; got {self.chunk}.")

    @property
    def probe_count(self) -> int:
        return 0

    @property
    def columns(self) -> int:
        return 1

    def probes(self, seeds: Sequence[int], basis: Basis, support: Tensor, block: int = 0) -> Tensor:
        return torch.zeros((len(seeds), 0, *support.shape), dtype=torch.float64)

    def divergence(self, products: Products, probes: Tensor, support: Tensor) -> Tensor:
        samples, most = len(probes), VALUES.get(probes.device.type, VALUES["cpu"])
        live = support.flatten().nonzero().flatten()
        total = torch.zeros(samples, dtype=probes.dtype, device=probes.device)
        for some in live.split(self.chunk or max(1, most // (samples * support.numel()))):
            units = torch.zeros(len(some), support.numel(), dtype=probes.dtype, device=probes.device)
            units[torch.arange(len(some)), some.to(units.device)] = 1.0
            units = units.reshape(len(some), 1, *support.shape).expand(-1, samples, *support.shape)
            total = total + dot(products(units), units).sum(0)
        return total.unsqueeze(1)

    @staticmethod
    def of(velocity: Velocity, z: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """v(z), shape (samples, channels, *grid), and its divergence over the support, shape (samples, 1)."""
        return ExactTrace().along(velocity, z, z.new_zeros((len(z), 0, *support.shape)), support)
