r"""Standard errors of functions of sums, by leaving out one block of samples at a time.

With T the sums over n blocks and T_b those of block b, f(T) has the standard error

    √( (n − 1)/n Σ_b (f(T − T_b) − mean)² ),

for means that of the textbook, for smooth functions of several means the same to first order. Blocks are whatever is
independent: samples, or chains of correlated ones.

Source: Miller (1974).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error.

    Attributes:
        value: The estimate.
        standard_error: Of it; infinite where one sample decides.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.5g} ± {self.standard_error:.2g}"


def mean_of(values: Tensor, blocks: Tensor | None = None) -> Estimate:
    """Plain mean of an observable, with the standard error that correlated blocks leave it."""
    return jackknife(with_count(values.to(torch.float64)), lambda s: s[..., 0] / s[..., 1], blocks)


def jackknife(terms: Tensor, of: Callable[[Tensor], Tensor], blocks: Tensor | None = None) -> Estimate:
    """A smooth function of sums over samples, with its standard error from leaving out one block at a time.

    Args:
        terms: What is summed, shape (n, sums).
        of: From sums, shape (..., sums), to the function, shape (...).
        blocks: Block of each sample, shape (n,), at least two different ones; each its own when not given.
    """
    groups, count = torch.arange(len(terms)), len(terms)
    if blocks is not None:
        check_per_sample("blocks", blocks, len(terms))
        found, groups = torch.unique(blocks, return_inverse=True)
        count = len(found)
    if count < 2:
        raise ValueError(f"a standard error needs at least 2 samples or blocks; got {count}.")
    total = terms.sum(0)
    parts = torch.zeros(count, terms.shape[1], dtype=terms.dtype).index_add(0, groups, terms)
    return Estimate(float(of(total)), spread(of(total - parts)))


def with_count(values: Tensor) -> Tensor:
    """What a mean is made of, shape (n,) to (n, 2): values and ones."""
    return torch.stack([values, torch.ones_like(values)], 1)


def log_mean(sums: Tensor) -> Tensor:
    """log of the mean, from the sums of `with_count`."""
    return torch.log(sums[..., 0] / sums[..., 1])


def spread(without: Tensor) -> float:
    """Standard error from the values without each block; infinite where one block decides."""
    if not bool(without.isfinite().all()):
        return math.inf
    return math.sqrt((len(without) - 1) * float(without.var(correction=0)))


def check_per_sample(name: str, x: Tensor, n: int) -> None:
    """Raise unless x has the shape (n,)."""
    if tuple(x.shape) != (n,):
        raise ValueError(f"{name} must have one number a sample, shape ({n},); got {tuple(x.shape)}.")
