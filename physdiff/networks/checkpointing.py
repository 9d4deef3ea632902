"""Blocks that are computed again on the way back: less memory for more time, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint


def computed_again(block: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
    """`block(x, *others)`, of which only what goes in is kept.

    Where a transform of `torch.func` or a forward derivative is at work, all of it is kept: torch (2.13) refuses the
    one, and under the other computes something else the second time.
    """
    transformed = torch._C._are_functorch_transforms_active() or forward_ad.unpack_dual(x).tangent is not None
    if transformed or not torch.is_grad_enabled():
        return block(x, *others)
    return checkpoint(block, x, *others, use_reentrant=False)
