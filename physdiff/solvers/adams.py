r"""Weights of Adams' rules on nodes that are spaced at will, and differently in every mode.

    ∫₀¹ f du ≈ Σ_j b_j f(u_j),     b_j = ∫₀¹ ℓ_j du,     ℓ_j the Lagrange polynomials of the nodes

u is in units of the step. Nodes at u ≤ 0 predict (Adams and Bashforth), a first node at u = 1 corrects (Moulton). A
mode that stood still before, and now moves, has nodes close beside the step: the polynomial through them would amplify
what other modes did meanwhile. So a mode uses as many nodes, the newest first, as keep Σ|b_j| within a factor of what
it is for equal steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Gauss and Legendre's points and weights on [0, 1]: exact to degree 5, for up to 6 nodes.
ROOT = 0.6**0.5
POINTS = ((0.5 - 0.5 * ROOT, 5 / 18), (0.5, 8 / 18), (0.5 + 0.5 * ROOT, 5 / 18))


def adams_weights(nodes: list[Tensor], usual: list[float], factor: float) -> list[Tensor]:
    """b_j of the nodes, 0 for those that a mode does not use.

    Args:
        nodes: u_j, of shapes that broadcast; the first is always used, the others in this order.
        usual: Where they are if all steps are equal.
        factor: Largest Σ|b_j|, relative to that for equal steps.
    """
    equal = [torch.tensor(u, dtype=torch.float64) for u in usual]
    chosen = [torch.ones_like(nodes[0]), *(torch.zeros_like(nodes[0]) for _ in nodes[1:])]
    usable = torch.ones_like(nodes[0], dtype=torch.bool)
    for count in range(2, len(nodes) + 1):
        weights, for_equal = _weights(nodes[:count]), _weights(equal[:count])
        usable = usable & (_size(weights) <= factor * _size(for_equal))  # false where nodes coincide
        chosen[:count] = [torch.where(usable, new, old) for new, old in zip(weights, chosen, strict=False)]
    return chosen


def _size(weights: list[Tensor]) -> Tensor:
    return torch.stack([b.abs() for b in weights]).sum(0)


def _weights(nodes: list[Tensor]) -> list[Tensor]:
    """∫₀¹ ℓ_j du of all nodes."""
    found: list[Tensor] = []
    for j, own in enumerate(nodes):
        others = [node for i, node in enumerate(nodes) if i != j]
        total = torch.zeros_like(own)
        for point, weight in POINTS:
            value = torch.full_like(own, weight)
            for node in others:
                value = value * (point - node) / (own - node)
            total = total + value
        found.append(total)
    return found
