r"""What a likelihood asks of a trace estimator.

Redrawing probes at every evaluation would hand an adaptive solver a random right-hand side; averaging them inside would
hide their error. Here probes are drawn once for the whole solve, each gives an estimate that is integrated on its own,
as a column of the divergence, and the spread of the columns is the error bar.

Products with the Jacobian J of the velocity are asked for in the form eᵀJ, one backward pass through the network each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.randomness import keyed_generator

Velocity = Callable[[Tensor], Tensor]
Products = Callable[[Tensor], Tensor]
"""eᵀJ of stacked vectors e, shape (stack, samples, channels, *grid) to the same."""


class TraceEstimator(ABC):
    """A way to find tr J."""

    @property
    @abstractmethod
    def probe_count(self) -> int:
        """Products with the Jacobian that each evaluation takes; 0 where all that there are."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """Estimates that are integrated on their own."""

    @property
    def degrees_of_freedom(self) -> int:
        """Of the standard error; 0 where there is none to estimate."""
        return 0 if self.probe_count == 0 else self.columns - 1

    @abstractmethod
    def probes(self, seeds: Sequence[int], basis: Basis, support: Tensor, block: int = 0) -> Tensor:
        """What is random, shape (samples, probes, channels, *grid), float64, zero outside the support.

        Args:
            seeds: One a sample.
            basis: Of the modes.
            support: Modes that vary, shape (channels, *grid).
            block: Further probes of the same samples, independent of those of other blocks.
        """

    @abstractmethod
    def divergence(self, products: Products, probes: Tensor, support: Tensor) -> Tensor:
        """Estimates of tr J, shape (samples, columns)."""

    def along(
        self,
        velocity: Velocity,
        z: Tensor,
        probes: Tensor,
        support: Tensor,
        scale: Tensor | None = None,
        graph: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """A velocity and its divergence, from one call of it.

        Args:
            velocity: v(z), shape (samples, channels, *grid) to the same.
            z: Where.
            probes: From `probes`, for the same samples.
            support: Modes over which the trace is taken, shape (channels, *grid).
            scale: D > 0, broadcasts against z: the trace is that of D J D⁻¹. 1 if None.
            graph: Whether the results are to be differentiated.

        Returns:
            v(z), and estimates of its divergence, shape (samples, columns).
        """
        d = z.new_ones(()) if scale is None else scale
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            v = velocity(z)

            def products(e: Tensor) -> Tensor:
                return torch.where(support.to(z.device), _vector_jacobian(v, z, d * e, graph) / d, 0.0)

            divergence = self.divergence(products, probes.to(z), support)
        return (v, divergence) if graph else (v.detach(), divergence.detach())


def signs(seeds: Sequence[int], count: int, shape: Sequence[int], block: int) -> Tensor:
    """Independent ±1, shape (samples, count, *shape), float64."""
    drawn = []
    for seed in seeds:
        generator = keyed_generator(seed, "probes", block) if block else keyed_generator(seed, "probes")
        drawn.append(torch.randint(0, 2, (count, *shape), generator=generator, dtype=torch.float64))
    return 2 * torch.stack(drawn) - 1


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products of stacked vectors, shape (stack, samples, ...) to (stack, samples)."""
    return (a * b).flatten(2).sum(2)


def _vector_jacobian(v: Tensor, z: Tensor, vectors: Tensor, keep: bool) -> Tensor:
    """eᵀJ for stacked e, shape (stack, *z.shape); zero where the velocity does not depend on z."""
    if not v.requires_grad:
        return torch.zeros_like(vectors)
    batched = len(vectors) > 1
    (rows,) = torch.autograd.grad(
        v, z, vectors if batched else vectors[0], retain_graph=True, create_graph=keep, is_grads_batched=batched,
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    return rows if batched else rows.unsqueeze(0)
