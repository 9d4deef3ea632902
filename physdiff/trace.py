r"""Divergence of a velocity field: exactly, or by random probes that are fixed for the whole solve.

Redrawing the probes at every evaluation would hand an adaptive solver a random right-hand side; averaging them inside
would hide their error. Here each probe is integrated on its own, and their spread is the error bar.

Source: Hutchinson (1990); Grathwohl et al. (2019) for fixed probes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.randomness import keyed_generator

Velocity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ExactTrace:
    """The trace by one vector-Jacobian product for each mode of the support; for small fields."""

    count: int = 0

    def probes(self, seeds: Sequence[int], support: Tensor, device: torch.device) -> Tensor:
        """No probes, shape (samples, 0, channels, *grid)."""
        return torch.zeros((len(seeds), 0, *support.shape), dtype=torch.float64, device=device)

    @staticmethod
    def of(velocity: Velocity, z: Tensor, support: Tensor, chunk: int = 64) -> tuple[Tensor, Tensor]:
        """Velocity, shape as z, and its divergence, shape (samples, 1)."""
        keep = torch.is_grad_enabled() and z.requires_grad
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            v = velocity(z)
            flat = support.flatten().nonzero().flatten().to(z.device)
            total = torch.zeros(len(z), dtype=z.dtype, device=z.device)
            for some in flat.split(chunk):
                units = torch.zeros(len(some), support.numel(), dtype=z.dtype, device=z.device)
                units[torch.arange(len(some), device=z.device), some] = 1.0
                units = units.reshape(len(some), 1, *support.shape).expand(-1, *z.shape)
                rows = _vector_jacobian(v, z, units, keep)
                total = total + (rows * units).flatten(2).sum((0, 2))
        return (v, total.unsqueeze(1)) if keep else (v.detach(), total.detach().unsqueeze(1))


@dataclass(frozen=True)
class Hutchinson:
    """The trace by Rademacher probes ε in mode space, E[εᵀJε] = tr J.

    Attributes:
        count: Number of probes, at least 1; an error bar needs 2.
    """

    count: int = 8

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Hutchinson needs at least 1 probe; got {self.count}.")

    def probes(self, seeds: Sequence[int], support: Tensor, device: torch.device) -> Tensor:
        """Probes on the support, ±1, shape (samples, probes, channels, *grid), float64."""
        shape = (self.count, *support.shape)
        draws = [
            torch.randint(0, 2, shape, generator=keyed_generator(seed, "probes"), dtype=torch.float64) for seed in seeds
        ]
        return ((2 * torch.stack(draws) - 1) * support).to(device)

    @staticmethod
    def of(velocity: Velocity, z: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity, shape as z, and the divergence seen by each probe, shape (samples, probes)."""
        keep = torch.is_grad_enabled() and z.requires_grad
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            v = velocity(z)
            vectors = probes.movedim(1, 0).to(z)
            # One backward pass a probe: batched passes through convolutions are slower on a CPU.
            rows = torch.stack([_vector_jacobian(v, z, e.unsqueeze(0), keep, batched=False)[0] for e in vectors])
            divergence = (rows * vectors).flatten(2).sum(2).T
        return (v, divergence) if keep else (v.detach(), divergence.detach())


def _vector_jacobian(v: Tensor, z: Tensor, vectors: Tensor, keep: bool, batched: bool = True) -> Tensor:
    """vᵀJ for stacked v, shape (stack, *z.shape); zero where the velocity does not depend on z."""
    if not v.requires_grad:
        return torch.zeros_like(vectors)
    outputs = vectors if batched else vectors[0]
    (rows,) = torch.autograd.grad(
        v, z, outputs, retain_graph=True, create_graph=keep, is_grads_batched=batched, allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip
    return rows if batched else rows.unsqueeze(0)
