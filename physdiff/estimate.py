r"""Integrals of a divergence put together from probes, in one stage or in two, with their error bars.

In two stages (Stein, 1945) the variance s² over the first block of k probes says how many are needed, n; the mean over
all n has the standard error s/√n with k − 1 degrees of freedom, whatever n is, because for normal estimates s² and the
mean of the first block are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from physdiff.trace import Hutchinson, TraceEstimator


@dataclass(frozen=True)
class Solved:
    """Some fields at the other end of the flow.

    Attributes:
        state: Whitened, shape (m, channels, *grid).
        log_prob: From each column of the divergence, shape (m, columns).
        evaluations: Shape (m,).
    """

    state: Tensor
    log_prob: Tensor
    evaluations: Tensor


def estimated(estimator: TraceEstimator, solve: Callable[[Tensor | None, int], Solved]) -> dict[str, Tensor]:
    """Log-densities, their standard errors, evaluations and products with the Jacobian, each of shape (n,), and states.

    Args:
        estimator: Of the divergence.
        solve: solve(rows, block) of some of the fields (all, if None) with a block of the estimator's probes.
    """
    first = solve(None, 0)
    log_prob, evaluations = first.log_prob.mean(1), first.evaluations
    error = standard_error(first.log_prob.detach(), estimator)
    blocks = torch.ones(len(log_prob), dtype=torch.int64)
    if isinstance(estimator, Hutchinson) and estimator.target is not None:
        blocks = estimator.blocks_needed(error)
        for block in range(1, int(blocks.max())):
            rows = (blocks > block).nonzero().flatten()
            more = solve(rows, block)
            log_prob = log_prob.index_add(0, rows, more.log_prob.mean(1))
            evaluations = evaluations.index_add(0, rows, more.evaluations)
        log_prob, error = log_prob / blocks, error / blocks.sqrt()
    return {
        "log_prob": log_prob, "standard_error": error, "evaluations": evaluations, "state": first.state,
        "probes": blocks * estimator.probe_count,
    }  # fmt: skip


def standard_error(columns: Tensor, estimator: TraceEstimator) -> Tensor:
    """Of the mean over columns, shape (n, columns) to (n,); 0 for the exact trace, nan for one probe."""
    if estimator.probe_count == 0:
        return torch.zeros(len(columns), dtype=columns.dtype)
    if estimator.degrees_of_freedom < 1:
        return torch.full((len(columns),), math.nan, dtype=columns.dtype)
    return columns.std(1) / math.sqrt(columns.shape[1])


def student_interval(
    value: Tensor, error: Tensor, probes: int, degrees_of_freedom: int, level: float
) -> tuple[Tensor, Tensor]:
    """Confidence interval of estimates; the values themselves where no probes were drawn.

    Raises:
        ValueError: a single probe has no error bar.
    """
    if probes == 0:
        return value, value
    if degrees_of_freedom < 1:
        raise ValueError("a single probe has no error bar; use Hutchinson(2) or more.")
    factor = float(stats.t.ppf(0.5 + level / 2, degrees_of_freedom))
    return value - factor * error, value + factor * error


def target_reached(estimator: TraceEstimator, error: Tensor) -> Tensor | None:
    """Whether standard errors are at most the one that was asked for, shape (n,); None if none was."""
    target = estimator.target if isinstance(estimator, Hutchinson) else None
    return None if target is None else error <= target
