"""How heavy the tail of some weights is: the shape of the generalised Pareto law that fits the largest of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def tail_shape(weights: Tensor) -> float:
    """Shape k of the generalised Pareto law of the largest weights, by its approximate posterior mean.

    The largest min(n/5, 3√n) are fitted by how much they exceed the next one. −inf if they are all equal.

    Source: Zhang and Stephens (2009), section 3; the number of them: Vehtari et al. (2024), section 3.
    """
    n = len(weights)
    tail = max(math.ceil(min(n / 5, 3 * math.sqrt(n))), 1)
    largest = weights.to(torch.float64).sort().values[-tail - 1 :]
    x = largest[1:] - largest[0]
    if tail < 5 or float(x[-1]) <= 1e-12 * float(largest[-1]):
        return -math.inf
    points = 30 + int(math.sqrt(tail))
    quartile = x[int(tail / 4 + 0.5) - 1]
    grid = 1 - torch.sqrt(points / (torch.arange(points, dtype=torch.float64) + 0.5))
    theta = 1 / x[-1] + grid / (3 * quartile.clamp(min=1e-12 * float(x[-1])))
    shape = torch.log1p(-theta.unsqueeze(1) * x).mean(1)
    log_profile = tail * (torch.log(-theta / shape) - shape - 1)
    centre = (torch.softmax(log_profile, 0) * theta).sum()
    return float(torch.log1p(-centre * x).mean())
