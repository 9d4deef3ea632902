r"""The trace of what a few directions span exactly, and of the rest by random signs.

With S of k random signs and Q an orthonormal basis of the span of JᵀS,

    tr J = tr(QᵀJQ) + tr((1 − QQᵀ)J(1 − QQᵀ)),

the first term by k products, the second by Hutchinson's estimate with other signs. Q follows the Jacobian along the
solve while the signs stay; QQᵀ is a smooth function of state and time as long as JᵀS keeps its rank, and where it does
not, the directions that are undetermined carry nothing.

It pays where few directions carry most of J: k products remove the k largest singular values from the variance. With a
flat spectrum of singular values two thirds of the products are spent for nothing, and Hutchinson is better.

Source: Meyer, Musco, Musco and Woodruff (2021), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.trace.estimator import Products, TraceEstimator, dot, signs


@dataclass(frozen=True)
class HutchPlusPlus(TraceEstimator):
    """A sketch of the Jacobian's range, and probes for the remainder.

    Attributes:
        products: Products with the Jacobian per evaluation, a third each for sketch, sketched part and remainder; at
            least 3, and 6 for an error bar. Fields need more modes than a third of it.
    """

    products: int = 12

    def __post_init__(self) -> None:
        if self.products < 3:
            raise ValueError(f"HutchPlusPlus needs at least 3 products; got {self.products}.")

    @property
    def probe_count(self) -> int:
        return self.products

    @property
    def sketched(self) -> int:
        """Directions of the sketch."""
        return self.products // 3

    @property
    def columns(self) -> int:
        return self.products - 2 * self.sketched

    def probes(self, seeds: Sequence[int], basis: Basis, support: Tensor, block: int = 0) -> Tensor:
        modes = int(support.sum())
        if modes <= self.sketched:
            raise ValueError(
                f"HutchPlusPlus({self.products}) sketches {self.sketched} directions; these fields have {modes} modes: "
                "take the exact trace."
            )
        return signs(seeds, self.sketched + self.columns, support.shape, block) * support

    def divergence(self, products: Products, probes: Tensor, support: Tensor) -> Tensor:
        vectors = probes.movedim(1, 0)
        sketch, rest = vectors[: self.sketched], vectors[self.sketched :]
        seen = _each(products, sketch).detach()  # gradients hold Q still: any Q gives tr J in the mean
        # Columns of (samples, modes, directions); QR of all zeros gives some basis, which does no harm.
        q, _ = torch.linalg.qr(seen.flatten(2).permute(1, 2, 0))
        directions = q.permute(2, 0, 1).reshape(seen.shape)
        exact = dot(_each(products, directions), directions).sum(0)
        flat = rest.flatten(2).permute(1, 2, 0)
        left = (flat - q @ (q.mT @ flat)).permute(2, 0, 1).reshape(rest.shape)
        return (exact + dot(_each(products, left), left)).T


def _each(products: Products, vectors: Tensor) -> Tensor:
    return torch.cat([products(e.unsqueeze(0)) for e in vectors])
