r"""Attention over the cells of a level: every cell sees every other, near or far.

    x ← x + P softmax(QKᵀ/√d) V,     Q, K, V linear in the normalised features of each cell

Cells carry no positional code. The map therefore commutes with every permutation of the cells: a shift of a periodic
field, or the mirror image at a wall, goes through it as exactly as through the convolutions, which alone know who is
next to whom.

The fused kernels of torch never hold the matrix of all pairs, but have one derivative, backward. Training needs no
more. Where a caller differentiates a network by its input (likelihoods, implicit score matching), the same maths is
written out, and has derivatives of any kind and order, unless the matrix is too large.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from physdiff.networks.normalisation import group_norm

WRITTEN_OUT = 2048  # cells at most; 16 MB a head and field in float32


class Attention(nn.Module):
    """Self-attention of the cells of a grid with several heads, added to its input.

    Args:
        features: Channels in and out.
        heads: Number of heads; divides `features`.

    Source: Vaswani et al. (2017), section 3.2; in a U-Net: Ho, Jain & Abbeel (2020), appendix B.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(features)
        self.query_key_value = nn.Linear(features, 3 * features)
        self.out = nn.Linear(features, features)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, exact: bool = False) -> Tensor:
        """Shape (batch, features, *any) to the same; `exact` as for `attend`."""
        cells = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.query_key_value(cells).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        seen = attend(query, key, value, exact).transpose(1, 2).flatten(2)
        return x + self.out(seen).transpose(1, 2).reshape(x.shape)


def attend(query: Tensor, key: Tensor, value: Tensor, exact: bool = False) -> Tensor:
    """softmax(QKᵀ/√d) V.

    Args:
        query: Shape (batch, heads, cells, d).
        key: As `query`.
        value: As `query`.
        exact: Whether all derivatives are to be had, if there are at most 2,048 cells; see `differentiated`.

    Returns:
        Shape (batch, heads, cells, d).
    """
    if not exact or query.shape[-2] > WRITTEN_OUT:
        return F.scaled_dot_product_attention(query, key, value)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return scores.softmax(-1) @ value


def differentiated(x: Tensor) -> bool:
    """Whether a derivative by x is being taken, backward or forward."""
    return (x.requires_grad and torch.is_grad_enabled()) or forward_ad.unpack_dual(x).tangent is not None
