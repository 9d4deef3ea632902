r"""The trace by random signs, E[εᵀJε] = tr J for E[εεᵀ] = 1.

The variance of one probe is ½ Σ_{i≠j} (J_ij + J_ji)²: only what couples two modes is estimated, the diagonal is exact.

Drawn in cells, the same ±1 couple any two modes that share a cell, and the diagonal counts as well. That is offered
for comparison.

Source: Hutchinson (1990); Grathwohl et al. (2019) for probes that are fixed; Stein (1945) for as many as are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.trace.estimator import Products, TraceEstimator, dot, signs

Space = Literal["modes", "cells"]


@dataclass(frozen=True)
class Hutchinson(TraceEstimator):
    """Rademacher probes.

    With a target the number of probes is found for each field, in two stages (Stein, 1945): the variance s² over the
    first `count` probes says that n = s²/target² are needed, and as many more are drawn. The standard error is s/√n,
    with `count` − 1 degrees of freedom: its intervals cover at their rate, because s does not see the further probes.

    Attributes:
        count: Number of probes, at least 1; an error bar needs 2. With a target, of the first stage and of each block
            of further ones: 8 is few, 16 costs little more in the end.
        space: Where they are drawn: in the whitened modes, or in cells.
        target: Standard error in nats that each field is to have; None for `count` probes and whatever error they have.
        most: Probes per field with a target, at most; fields that would need more are marked in the result.
    """

    count: int = 8
    space: Space = "modes"
    target: float | None = None
    most: int = 512

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Hutchinson needs at least 1 probe; got {self.count}.")
        if self.space not in get_args(Space):
            raise ValueError(f"Hutchinson draws its probes in 'modes' or 'cells'; got space = '{self.space}'.")
        if self.target is not None:
            if not 0 < self.target < math.inf:
                raise ValueError(f"Hutchinson needs a target above 0 nats, and finite; got {self.target}.")
            if self.count < 2:
                raise ValueError("Hutchinson needs a first stage of at least 2 probes to reach a target; got 1.")
            if self.most < self.count:
                raise ValueError(f"Hutchinson needs most >= count = {self.count}; got most = {self.most}.")

    @property
    def probe_count(self) -> int:
        return self.count

    @property
    def columns(self) -> int:
        return self.count

    def probes(self, seeds: Sequence[int], basis: Basis, support: Tensor, block: int = 0) -> Tensor:
        drawn = signs(seeds, self.count, support.shape, block)
        return (drawn if self.space == "modes" else basis.forward(drawn)) * support

    def divergence(self, products: Products, probes: Tensor, support: Tensor) -> Tensor:
        vectors = probes.movedim(1, 0)
        # One backward pass a probe: batched passes through convolutions are slower on a CPU.
        return torch.cat([dot(products(e.unsqueeze(0)), e.unsqueeze(0)) for e in vectors]).T

    def blocks_needed(self, standard_error: Tensor) -> Tensor:
        """Blocks of `count` probes that each field needs, shape (n,), from the standard errors of the first."""
        if self.target is None:
            return torch.ones(len(standard_error), dtype=torch.int64)
        needed = torch.ceil((standard_error / self.target).square()).clamp(min=1)
        return needed.clamp(max=self.most // self.count).to(torch.int64)
